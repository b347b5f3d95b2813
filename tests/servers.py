"""Servers for tests: nginx, Apache, one that sends exactly what it is told, a foreign one."""

from __future__ import annotations

import contextlib
import enum
import http
import io
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

__all__ = [
    "CLOSE",
    "RESET",
    "Apache",
    "ByRequest",
    "ForeignServer",
    "Nginx",
    "Reply",
    "Request",
    "Script",
    "ScriptedServer",
    "Step",
    "apache",
    "chunked",
    "nginx",
    "scripted",
    "self_signed",
]

_PATIENCE = 20.0
"""Seconds after which a server gives up on a client, so that a broken test ends."""


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


class Nginx:
    """A real nginx that gives the files of a folder, at a free port of this machine.

    Started again, it is at the same port. It runs as the user of the
    tests: so it may read what they write.

    Parameters
    ----------
    root
        The folder.
    dav
        Whether it takes PUT and DELETE.
    config
        Directives for the location "/".
    """

    def __init__(self, root: Path, *, dav: bool = False, config: str = "") -> None:
        self.root = root
        self.port = 0
        self._dav = "dav_methods PUT DELETE; create_full_put_path on;" if dav else ""
        self._config = config
        self._prefix: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The root, ending in "/"."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def requests(self) -> list[str]:
        """What was asked so far: method, target, status."""
        assert self._prefix is not None
        # A line is written after its answer was sent: one more request tells that all are there.
        mark = f"/mark-{uuid.uuid4().hex}"
        with socket.create_connection(("127.0.0.1", self.port)) as asking:
            asking.sendall(f"GET {mark} HTTP/1.0\r\n\r\n".encode())
            while asking.recv(65536):
                continue
        lines: list[str] = []
        while not any(mark in line for line in lines):
            lines = (self._prefix / "access.log").read_text().splitlines()
        return [line for line in lines if "/mark-" not in line]

    def start(self) -> Self:
        """Start nginx; connections are taken when this returns."""
        assert self._process is None, "nginx is running"
        # nginx inherits a socket that listens already: no other process can have taken the
        # port in between, and connections wait until it has come up.
        with _listening(self.port) as listening:
            self.port = listening.getsockname()[1]
            if self._prefix is None:
                self._prefix = Path(tempfile.mkdtemp(prefix="nginx-"))
            (self._prefix / "nginx.conf").write_text(self._written())
            program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
            assert program is not None, "nginx isn't installed"
            command = [program, "-p", str(self._prefix), "-c", str(self._prefix / "nginx.conf")]
            with (self._prefix / "error.log").open("ab") as said:
                self._process = subprocess.Popen(
                    [*command, "-e", str(self._prefix / "error.log")],
                    env={**os.environ, "NGINX": f"{listening.fileno()};"},
                    pass_fds=(listening.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stderr=said,
                )
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE) as wire:
                wire.sendall(b"GET /-up HTTP/1.0\r\n\r\n")
                assert wire.recv(1)
        except (OSError, AssertionError):
            log = (self._prefix / "error.log").read_text()
            self.close()
            raise AssertionError(f"nginx didn't start: {log}") from None
        return self

    def stop(self) -> None:
        """End nginx; from then on connections are refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End nginx, and remove its logs."""
        self.stop()
        if self._prefix is not None:
            shutil.rmtree(self._prefix)
            self._prefix = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _written(self) -> str:
        temporary = "\n".join(
            f"{name}_temp_path {self._prefix}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # As root it would give up its rights, and with them the tests' files.
        user = "user root;" if os.geteuid() == 0 else ""
        return f"""
            daemon off;
            {user}
            worker_processes 1;
            pid {self._prefix}/nginx.pid;
            events {{ worker_connections 512; }}
            http {{
                {temporary}
                types {{ text/html html; application/json json; text/csv csv; text/plain txt; }}
                default_type application/octet-stream;
                log_format short '$request_method $request_uri $status';
                access_log {self._prefix}/access.log short if=$logged;
                map $request_uri $logged {{ "/-up" 0; default 1; }}
                server {{
                    listen 127.0.0.1:{self.port};
                    server_name localhost;
                    client_max_body_size 0;
                    root "{self.root}";
                    location / {{ {self._dav} {self._config} }}
                    location = /-up {{ return 204; }}
                }}
            }}
        """


@pytest.fixture
def nginx() -> Iterator[Callable[..., Nginx]]:
    """Give a function that starts nginx on a folder; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda root, **others: running.enter_context(Nginx(root, **others))


class Apache:
    """A real Apache that lists and gives the files of a folder, at a free port of this machine.

    Parameters
    ----------
    root
        The folder.
    dav
        Whether it takes PUT, DELETE and MKCOL, as mod_dav does.
    config
        Directives for the folder.
    """

    def __init__(self, root: Path, *, dav: bool = False, config: str = "") -> None:
        self.root = root
        self.port = 0
        self._config = ("Dav On\n" if dav else "") + config
        self._prefix: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The root, ending in "/"."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> Self:
        """Start Apache; connections are taken when this returns."""
        assert self._process is None, "Apache is running"
        self._prefix = self._prefix or Path(tempfile.mkdtemp(prefix="apache-"))
        self._prefix.chmod(0o755)
        # It takes no socket that listens already: another process may be faster at the port.
        for _ in range(5):
            if self._runs(self._prefix):
                return self
            self.port = 0
        log = (self._prefix / "error.log").read_text()
        self.close()
        raise AssertionError(f"Apache didn't start: {log}")

    def _runs(self, prefix: Path) -> bool:
        with _listening(self.port) as free:
            self.port = free.getsockname()[1]
        (prefix / "apache.conf").write_text(self._written(prefix))
        program = shutil.which("apache2", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "apache2 isn't installed"
        command = [program, "-d", str(prefix), "-f", str(prefix / "apache.conf"), "-DFOREGROUND"]
        if os.geteuid() == 0:
            # It refuses to be root. As nobody with this right it may read what the tests write.
            right = "+dac_override"
            command = [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *(f"--inh-caps={right}", f"--ambient-caps={right}", *command),
            ]
        with (prefix / "error.log").open("ab") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        ends = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self.stop()
        return False

    def stop(self) -> None:
        """End Apache; from then on connections are refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End Apache, and remove its logs."""
        self.stop()
        if self._prefix is not None:
            shutil.rmtree(self._prefix)
            self._prefix = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _written(self, prefix: Path) -> str:
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in ("mpm_event", "authz_core", "dir", "autoindex", "mime", "dav", "dav_fs")
        )
        return f"""
            ServerName localhost
            Listen 127.0.0.1:{self.port}
            PidFile {prefix}/apache.pid
            DefaultRuntimeDir {prefix}
            ErrorLog {prefix}/error.log
            {modules}
            ServerLimit 1
            StartServers 1
            ThreadsPerChild 32
            MaxRequestWorkers 32
            Timeout {_PATIENCE:.0f}
            TypesConfig /dev/null
            AddType text/html .html
            AddType text/csv .csv
            DavLockDB {prefix}/locks
            DocumentRoot "{self.root}"
            <Directory "{self.root}">
                Require all granted
                Options Indexes FollowSymLinks
                {self._config}
            </Directory>
        """


@pytest.fixture
def apache() -> Iterator[Callable[..., Apache]]:
    """Give a function that starts Apache on a folder; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda root, **others: running.enter_context(Apache(root, **others))


# -- exactly these bytes -------------------------------------------------------------------


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


def chunked(*pieces: bytes, end: bool = True, **fields: str) -> bytes:
    """Return an answer in chunks, its last one left out on demand."""
    named = {name.replace("_", "-"): text for name, text in fields.items()}
    head = _head(200, {"Transfer-Encoding": "chunked", **named})
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


Step = bytes | Reply | Ending | threading.Event | Callable[[], object]
"""Bytes to send as they are; an answer; the end of the connection; an event to wait for; what to
call."""


class ByRequest:
    """A script that is made when the request is known."""

    def __init__(self, make: Callable[[Request], Step | Sequence[Step]]) -> None:
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
        self._listening = _listening(0)
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
            thread.join(_PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                wire, _ = self._listening.accept()
            except OSError:
                return
            wire.settimeout(_PATIENCE)
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
            with self._lock:
                self._open.pop(plain, None)
            # A file made of a socket keeps its descriptor: only this says goodbye at once.
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _answer(self, wire: socket.socket, request: Request) -> bool:
        """Carry out the script for a request; return whether the connection goes on."""
        with self._lock:
            self.requests.append(request)
            scripts = self._scripts.get((request.method, request.path), [])
            if not scripts and request.method == "HEAD":
                scripts = self._scripts.get(("GET", request.path), [])
            script: Any = Reply(404)
            if scripts:
                script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        if isinstance(script, ByRequest):
            script = script.make(request)
        steps = list(script) if isinstance(script, (list, tuple)) else [script]
        for step in steps:
            match step:
                case bytes():
                    wire.sendall(step)
                case Reply():
                    wire.sendall(step.render(request.method))
                    if step.headers.get("Connection") == "close":
                        return False
                case threading.Event():
                    assert step.wait(_PATIENCE), "the test never let the server go on"
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


# -- somebody else's server ----------------------------------------------------------------


class Asked(NamedTuple):
    """One request to the foreign server."""

    method: str
    key: str
    part: str
    """What of the key: data, metadata, auth, or "" for the key itself and for the query."""
    headers: Mapping[str, str]
    status: int


class ForeignServer:
    """A server of the dynamic layout that isn't ours.

    Data, metadata and permissions are plain resources, each with a strong entity tag of its
    own. Two resources are never changed as one.

    Parameters
    ----------
    etags
        Whether it names what it gives.
    ndjson
        Whether it can list keys with their metadata.
    conditions
        Whether it obeys If-Match and If-None-Match of writes, rather than ignoring them.

    Attributes
    ----------
    keys
        The parts of each key.
    asked
        The requests so far.
    before
        Called with method, key and part before each request is looked at: the place to change
        something between two requests of one client.
    lost
        (method, part) of requests that are carried out, and answered by hanging up.
    refused
        The status by which requests of a (method, part) are refused.
    """

    def __init__(self, *, etags: bool = True, ndjson: bool = True, conditions: bool = True) -> None:
        self.etags = etags
        self.ndjson = ndjson
        self.conditions = conditions
        self.keys: dict[str, dict[str, bytes]] = {}
        self.asked: list[Asked] = []
        self.before: Callable[[str, str, str], None] = lambda method, key, part: None
        self.lost: set[tuple[str, str]] = set()
        self.refused: dict[tuple[str, str], int] = {}
        self._made = 0
        self._tags: dict[tuple[str, str], str] = {}
        outer = self

        class Handler(_ForeignHandler):
            server_of = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    @property
    def urls(self) -> tuple[str, str]:
        """What a DynamicURLStore is made of."""
        return f"{self.url}keys", f"{self.url}query"

    def put(
        self, key: str, data: bytes | None = None, metadata: Any = None, auth: Any = None
    ) -> None:
        """Change parts of a key; what is None stays."""
        if data is not None:
            self.change(key, "data", data)
        if metadata is not None:
            self.change(key, "metadata", json.dumps(metadata).encode())
        if auth is not None:
            self.change(key, "auth", json.dumps(auth).encode())

    def change(self, key: str, part: str, body: bytes) -> None:
        """Change one part of a key; it gets another tag, even if the bytes are the same."""
        self.keys.setdefault(key, {})[part] = body
        self._made += 1
        self._tags[key, part] = f"{part}-{self._made}"

    def remove(self, key: str) -> None:
        """Delete a key."""
        del self.keys[key]

    def tag(self, key: str, part: str) -> str:
        """Return the entity tag of a part, without its quotes."""
        return self._tags[key, part]

    def version(self, key: str) -> str:
        """Return both tags, as one version."""
        return f"{self.tag(key, 'data')} {self.tag(key, 'metadata')}"

    def metadata(self, key: str) -> Any:
        """Return the metadata of a key."""
        return json.loads(self.keys[key]["metadata"])

    def order(self) -> list[tuple[str, str]]:
        """Return method and part of the requests so far."""
        return [(each.method, each.part) for each in self.asked]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Answered(NamedTuple):
    status: int
    body: bytes = b""
    kind: str = "application/octet-stream"
    tag: str | None = None


class _ForeignHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # With no buffer each header line would be a packet of its own.
    wbufsize = -1
    timeout = _PATIENCE
    server_of: ForeignServer

    def log_message(self, *said: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the base class calls them so

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        url = urlsplit(self.path)
        key, part = "", ""
        if url.path.startswith("/keys/"):
            key = unquote(url.path.removeprefix("/keys/"))
            head, _, tail = key.rpartition("/")
            # What is deleted is always a key, "x/data" too.
            if tail in ("data", "metadata", "auth") and head and self.command != "DELETE":
                key, part = head, tail
        outer = self.server_of
        outer.before(self.command, key, part)
        if (self.command, part) in outer.refused:
            answered = _Answered(outer.refused[self.command, part])
        elif url.path == "/query":
            answered = self._query(url.query)
        elif self.command in ("GET", "HEAD"):
            answered = self._read(key, part)
        else:
            answered = self._write(key, part, body)
        headers = {name.lower(): text for name, text in self.headers.items()}
        outer.asked.append(Asked(self.command, key, part, headers, answered.status))
        if (self.command, part) in outer.lost:
            self.close_connection = True
            return
        self.send_response(answered.status)
        if answered.tag is not None and outer.etags:
            self.send_header("ETag", f'"{answered.tag}"')
        if answered.status not in (204, 304):
            self.send_header("Content-Type", answered.kind)
            self.send_header("Content-Length", str(len(answered.body)))
        self.end_headers()
        if self.command != "HEAD" and answered.status not in (204, 304):
            self.wfile.write(answered.body)

    def _read(self, key: str, part: str) -> _Answered:
        outer = self.server_of
        found = outer.keys.get(key, {}).get(part)
        if found is None:
            return _Answered(404)
        tag = outer.tag(key, part)
        if outer.etags and self.headers.get("If-None-Match") == f'"{tag}"':
            return _Answered(304, tag=tag)
        kind = "application/octet-stream" if part == "data" else "application/json"
        return _Answered(200, found, kind, tag)

    def _write(self, key: str, part: str, body: bytes) -> _Answered:
        outer = self.server_of
        there = part in outer.keys.get(key, {}) if part else key in outer.keys
        if outer.conditions:
            wanted = self.headers.get("If-Match")
            if wanted is not None:
                named = part or "data"
                if not there or wanted not in ("*", f'"{outer.tag(key, named)}"'):
                    return _Answered(412)
            if self.headers.get("If-None-Match") == "*" and there:
                return _Answered(412)
        if self.command == "DELETE":
            if not there:
                return _Answered(404)
            outer.remove(key)
            return _Answered(204)
        if self.command == "POST":
            if not there:
                return _Answered(404)
            merged = {**json.loads(outer.keys[key][part]), **json.loads(body)}
            body = json.dumps(merged).encode()
        outer.change(key, part, body)
        return _Answered(204 if there else 201, tag=outer.tag(key, part))

    def _query(self, query: str) -> _Answered:
        outer = self.server_of
        where = {name: json.loads(text) for name, text in parse_qsl(query)}
        found: dict[str, Any] = {}
        for key, parts in outer.keys.items():
            metadata = json.loads(parts.get("metadata", b"{}"))
            if all(name in metadata and metadata[name] == where[name] for name in where):
                found[key] = metadata
        if outer.ndjson and "application/x-ndjson" in self.headers.get("Accept", ""):
            records = [{"key": key, "metadata": metadata} for key, metadata in found.items()]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            return _Answered(200, lines.encode(), "application/x-ndjson")
        lines = "".join(f"{key}\n" for key in found)
        return _Answered(200, lines.encode(), "text/plain; charset=utf-8")
