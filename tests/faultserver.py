"""A server that does exactly what a test says, wrong or right, byte for byte."""

from __future__ import annotations

import contextlib
import enum
import http
import io
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

__all__ = [
    "CLOSE",
    "PATIENCE",
    "RESET",
    "ByRequest",
    "Fault",
    "FaultServer",
    "Reply",
    "Request",
    "Resource",
    "Script",
    "ScriptedServer",
    "Step",
    "chunked",
    "cut",
    "listening",
    "scripted",
    "self_signed",
]

PATIENCE = 20.0
"""Seconds after which a server gives up on a client, so that a broken test ends."""


def listening(port: int = 0) -> socket.socket:
    """Return a socket that listens on loopback, at a free port unless one is named."""
    return socket.create_server(("127.0.0.1", port), backlog=128)


class Ending(enum.Enum):
    """How a connection ends."""

    CLOSE = "close"
    RESET = "reset"


CLOSE = Ending.CLOSE
"""A step: close the connection, as at the end of a server's patience."""
RESET = Ending.RESET
"""A step: break the connection off."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    """The target of the request line, as it came."""
    headers: Mapping[str, str]
    """Names are in lower case."""
    body: bytes
    connection: int
    """Which connection it came on, counted from 1."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An ordinary answer, its Content-Length as it should be. HEAD gets no body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def render(self, method: str) -> bytes:
        """Return the bytes of the answer."""
        fields = {"Content-Length": str(len(self.body)), **self.headers}
        if self.status in (204, 304):
            del fields["Content-Length"]
        body = b"" if method == "HEAD" or self.status in (204, 304) else self.body
        return _head(self.status, fields) + body


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {text}" for name, text in fields.items()]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


def chunked(*pieces: bytes, end: bool = True, status: int = 200, **fields: str) -> bytes:
    """Return an answer in chunks, its last one left out on demand."""
    named = {name.replace("_", "-"): text for name, text in fields.items()}
    head = _head(status, {"Transfer-Encoding": "chunked", **named})
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


Step = bytes | Reply | Ending | threading.Event | Callable[[], object]
"""Bytes to send as they are; an answer; the end of the connection; an event to wait for; what to
call."""
Steps = Step | Sequence[Step] | Iterator[Step]
"""One step, or several; an iterator may have no end, and then the client has to hang up."""


class ByRequest:
    """A script that is made when the request is known."""

    def __init__(self, make: Callable[[Request], Steps]) -> None:
        self.make = make


Script = Step | Sequence[Step] | ByRequest


class ScriptedServer:
    """An HTTP/1.1 server that answers each request with exactly what the test says.

    Connections stay open until a script, or a header field of a `Reply`, closes them.

    Parameters
    ----------
    tls
        Speaks TLS with this.

    Attributes
    ----------
    requests
        What was asked so far.
    connections
        How many connections were made.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._lock = threading.Lock()
        self._listening = listening()
        self.port: int = self._listening.getsockname()[1]
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopped = False
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def wait_until_closed(self) -> None:
        """Wait until no connection is open any more: the client can see that by then."""
        for thread in list(self._open.values()):
            thread.join()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The root, ending in "/"."""
        return f"{self.origin}/"

    def on(self, method: str, path: str, *scripts: Script) -> Self:
        """Answer requests for `path`: each with the next of `scripts`, then always the last."""
        with self._lock:
            self._scripts[method, path] = list(scripts)
        return self

    def asked(self, method: str, path: str | None = None) -> list[Request]:
        """Return the requests of one kind so far."""
        with self._lock:
            return [
                each
                for each in self.requests
                if each.method == method and path in (None, each.path)
            ]

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all connections; further ones are refused."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            open_now = dict(self._open)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        for wire in open_now:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                wire, _ = self._listening.accept()
            except OSError:
                return
            wire.settimeout(PATIENCE)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                number = self.connections
                thread = threading.Thread(target=self._serve, args=(wire, number), daemon=True)
                self._open[wire] = thread
            thread.start()

    def _serve(self, wire: socket.socket, number: int) -> None:
        plain = wire
        try:
            if self._tls is not None:
                wire = self._tls.wrap_socket(wire, server_side=True)
            with wire.makefile("rb") as reading:
                while (request := _read_request(reading, number)) is not None:
                    if not self._answer(wire, request):
                        return
        except OSError:
            pass  # the client went away, or the server was stopped
        finally:
            # A file made of a socket keeps its descriptor: only this says goodbye at once.
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()
            with self._lock:
                self._open.pop(plain, None)

    def script_for(self, request: Request) -> Script:
        """Return what to do with a request; nothing was asked for: 404."""
        with self._lock:
            scripts = self._scripts.get((request.method, request.path), [])
            if not scripts and request.method == "HEAD":
                scripts = self._scripts.get(("GET", request.path), [])
            if not scripts:
                return Reply(404)
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    def _answer(self, wire: socket.socket, request: Request) -> bool:
        """Carry out the script for a request; return whether the connection goes on."""
        with self._lock:
            self.requests.append(request)
        script: Any = self.script_for(request)
        if isinstance(script, ByRequest):
            script = script.make(request)
        several = isinstance(script, (list, tuple, Iterator))
        for step in script if several else [script]:
            match step:
                case bytes():
                    wire.sendall(step)
                case Reply():
                    wire.sendall(step.render(request.method))
                    if step.headers.get("Connection") == "close":
                        return False
                case threading.Event():
                    assert step.wait(PATIENCE), "the test never let the server go on"
                case Ending.CLOSE:
                    return False
                case Ending.RESET:
                    # With no time to linger, close() sends RST.
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(wire.detach())
                    return False
                case _:
                    step()
        return True


def _read_request(reading: io.BufferedReader, number: int) -> Request | None:
    line = reading.readline()
    if not line.strip():
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := reading.readline()).strip():
        name, _, text = line.decode("latin-1").partition(":")
        headers[name.lower()] = text.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reading.readline(), 16):
            body += reading.read(size)
            reading.readline()
        reading.readline()
    else:
        body = reading.read(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body, number)


# -- a resource, and what can go wrong with it ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Resource:
    """What a server holds at one path, and how an honest server gives it (RFC 9110)."""

    body: bytes
    etag: str = "1"
    kind: str = "application/octet-stream"

    def reply(self, request: Request, **fields: str) -> Reply:
        """Return the honest answer: whole, in part, or unchanged; `fields` come last."""
        quoted = f'"{self.etag}"'
        named = {name.replace("_", "-"): text for name, text in fields.items()}
        headers = {"ETag": quoted, "Content-Type": self.kind, "Accept-Ranges": "bytes"}
        if request.headers.get("if-none-match") == quoted:
            return Reply(304, b"", {"ETag": quoted, **named})
        start = self.start(request)
        if start is None or request.headers.get("if-range", quoted) != quoted:
            return Reply(200, self.body, {**headers, **named})
        last = len(self.body) - 1
        headers["Content-Range"] = f"bytes {start}-{last}/{len(self.body)}"
        return Reply(206, self.body[start:], {**headers, **named})

    def start(self, request: Request) -> int | None:
        """Return where the part that was asked for begins; None if all of it was."""
        found = re.fullmatch(r"bytes=(\d+)-\d*", request.headers.get("range", ""))
        return None if found is None else int(found.group(1))


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a server answers a GET wrongly."""

    name: str
    answer: Callable[[Resource, Request], Steps]
    """What it sends for a resource."""
    ends: str = "error"
    """What comes of a read that meets it each time: "error", "right" bytes, or "either"."""
    part: str = ""
    """The same for a read of a part, if that is something else."""
    heads: bool = False
    """Whether HEAD meets it too."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """What the store has to be made with, so that it ends soon."""


def cut(
    at: Callable[[bytes, bytes], int], *then: Step, chunks: int = 0
) -> Callable[[Resource, Request], Steps]:
    """Return an answer that is honest up to a byte.

    Parameters
    ----------
    at
        Gives the byte, from the head and the body of the answer.
    then
        What comes instead of the rest; the connection closes if there is nothing.
    chunks
        How many chunks the body comes in; 0: it comes with its length.
    """

    def answer(resource: Resource, request: Request) -> Steps:
        reply = resource.reply(request)
        if chunks:
            size = -(-len(reply.body) // chunks)
            pieces = [reply.body[at : at + size] for at in range(0, len(reply.body), size)]
            whole = chunked(*pieces, status=reply.status, **reply.headers)
        else:
            whole = reply.render("GET")
        head, _, body = whole.partition(b"\r\n\r\n")
        return [whole[: at(head + b"\r\n\r\n", body)], *(then or (CLOSE,))]

    return answer


class FaultServer(ScriptedServer):
    """A server of resources that meets one fault until it is healed.

    Attributes
    ----------
    resources
        What there is, by path.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resources: dict[str, Resource] = {}
        self._faults: dict[str, tuple[Fault, list[None]]] = {}

    def break_down(self, path: str, fault: Fault, *, times: int = 1_000_000) -> None:
        """Meet `fault` at `path`, the next `times` times."""
        self._faults[path] = fault, [None] * times

    def heal(self) -> None:
        """Be honest from now on."""
        self._faults.clear()

    def script_for(self, request: Request) -> Script:
        resource = self.resources.get(request.path)
        if resource is None:
            return super().script_for(request)
        fault, left = self._faults.get(request.path, (None, []))
        if fault is not None and left and (request.method == "GET" or fault.heads):
            left.pop()
            steps = fault.answer(resource, request)
            return steps if isinstance(steps, (list, tuple)) else ByRequest(lambda _: steps)
        return resource.reply(request)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """Give a scripted server that runs."""
    with ScriptedServer() as server:
        yield server


def self_signed(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Return what a server needs to speak TLS, and the certificate that nobody vouches for."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    called = ",".join(names or ("IP:127.0.0.1", "DNS:localhost"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=a test", "-addext", f"subjectAltName={called}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
