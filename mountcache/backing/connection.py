"""Connections that read past interim answers, and bodies that end as promised or say so.

Next door: `http` (who asks), `files` (the same for ``file:``).
"""

from __future__ import annotations

import io
import math
import re
import socket
import time
import zlib
from contextlib import suppress
from contextvars import ContextVar
from http.client import BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any, Final, Protocol

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, IncompleteRead, ReadTimeoutError
from urllib3.response import HTTPResponse as Response

from mountcache.deadline import end_of_call, within
from mountcache.errors import IntegrityError, StoreError, StoreUnavailableError

__all__ = [
    "DECODABLE", "Adapter", "Body", "ConnectionDroppedError", "DecodedBody", "HTTPBody",
    "Piecewise", "Waits", "waits",
]  # fmt: skip

_INTERIM: Final = 20
"""How many interim answers are read past."""
_LINE: Final = 65536
_LINES: Final = 200
_CONNECTIONS: Final = 64
_BLOCK: Final = 131072
_HARDLY: Final = 4096
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\r?\n", re.DOTALL)
_EITHER: Final = zlib.MAX_WBITS | 32


class Waits:
    """The answers that a store waits for, so that closing it can end the waiting."""

    def __init__(self) -> None:
        self._answers: set[_Timed] = set()
        self._over = False

    def begin(self, answer: _Timed) -> None:
        """Wait for the head of an answer."""
        self._answers.add(answer)
        if self._over:
            answer.give_up()

    def end(self, answer: _Timed) -> None:
        """Wait for it no longer."""
        self._answers.discard(answer)

    def give_up(self) -> None:
        """End the waits of other threads, those about to begin too."""
        self._over = True
        for answer in list(self._answers):
            answer.give_up()


waits: ContextVar[Waits | None] = ContextVar("mountcache_waits", default=None)
"""Where the answers to this thread's requests are waited for."""


class _Timed(io.RawIOBase):
    """What comes over a connection, as long as there is time left.

    The time-out of a socket begins anew with each byte: a server that sends one now and then
    would keep its client for ever.

    Parameters
    ----------
    raw
        The stream of the socket.
    sock
        The socket; its time-out is the longest wait for the next bytes.
    """

    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        self._patience: float | None = sock.gettimeout()
        self._shortened = False
        self._until: float | None = None

    def begin(self) -> None:
        """Let the head of an answer come in the time that its first byte may take."""
        self._until = None if self._patience is None else time.monotonic() + self._patience

    def go_on(self) -> None:
        """Let the body take its time."""
        self._until = None

    def give_up(self) -> None:
        """End the wait of another thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        ends = [end for end in (self._until, end_of_call()) if end is not None]
        if ends:
            left = min(ends) - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left if self._patience is None else min(left, self._patience))
            self._shortened = True
        elif self._shortened:
            self._sock.settimeout(self._patience)
            self._shortened = False
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Frames(io.BufferedReader):
    """The stream of an answer, which takes nothing for the frame of a chunk that is none.

    urllib3 reads sizes as Python's int() does, negative ones and "0x" too, and passes over the two
    bytes after a chunk whatever they are.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.chunked = False
        """Whether the head is over, and the body comes in chunks."""
        self._left = 0
        """What is to come of a chunk, with the end of its line."""

    def readline(self, limit: int | None = -1) -> bytes:
        line = super().readline(limit)
        if self.chunked and line:
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise BadStatusLine(f"the chunk {line[:40]!r}")
            size = int(found.group(1), 16)
            self._left = size + 2
            self.chunked = size > 0  # after the last chunk come fields
        return line

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self._left:
            self._left -= len(data)
            if self._left == 0 and not data.endswith(b"\r\n"):
                raise BadStatusLine("a chunk that is longer than its size")
        return data


class _Lines:
    """The stream of an answer, which remembers the last line that was read of it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def readline(self, limit: int) -> bytes:
        self.last = self._stream.readline(limit)
        return self.last

    def close(self) -> None:
        self._stream.close()


class _FinalResponse(HTTPResponse):
    """An answer that is the final one, and whole as far as its body.

    The base class reads past 100 only: it takes 102 and 103 for the answer, and the next request
    on the connection then gets the body of this one. It also takes a head that is cut off for
    one that has ended, and an empty body for the rest.
    """

    def __init__(self, sock: Any, *args: Any, **others: Any) -> None:
        super().__init__(sock, *args, **others)
        self._timed = _Timed(self.fp.detach(), sock)
        self._frames = _Frames(self._timed)
        self.fp = self._frames

    def begin(self) -> None:
        stream = self.fp
        lines: Any = _Lines(stream)
        self.fp = lines
        waiting = waits.get() or Waits()
        waiting.begin(self._timed)
        try:
            super().begin()
        finally:
            waiting.end(self._timed)
            if self.fp is lines:
                self.fp = stream
            self._timed.go_on()
        if lines.last not in (b"\r\n", b"\n"):
            raise RemoteDisconnected("the connection ended in the head of the answer")
        if self.chunked:
            self._frames.chunked = True
        self._check_framing()

    def _check_framing(self) -> None:
        """Refuse a body of which nobody can tell where it ends (RFC 9112 6.3)."""
        coding = self.headers.get("Transfer-Encoding", "chunked").strip().lower()
        if coding != "chunked":
            raise BadStatusLine(f"the transfer coding {coding!r}, unasked")
        said = self.headers.get_all("Content-Length")
        if said is None or self.chunked:
            return
        length = said[0].strip()
        if not _LENGTH.fullmatch(length) or {each.strip() for each in said} != {length}:
            raise BadStatusLine(f"the length {', '.join(said)[:40]!r}")
        del self.headers["Content-Length"]
        self.headers["Content-Length"] = length

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            self._timed.begin()
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                raise BadStatusLine("101 to a request that asked for no other protocol")
            self._skip_fields()
        raise BadStatusLine(f"more than {_INTERIM} interim answers")

    def _skip_fields(self) -> None:
        for _ in range(_LINES):
            line = self.fp.readline(_LINE + 1)
            if len(line) > _LINE:
                raise BadStatusLine("an interim answer with a line that doesn't end")
            if line in (b"\r\n", b"\n", b""):
                return
        raise BadStatusLine("an interim answer with too many lines")


class ConnectionDroppedError(ConnectionError):
    """A connection that had answered before was closed instead of answering again.

    The server may have done so before the request reached it, as it may at any time.
    """


class _Connection(HTTPConnection):
    """A connection that tells whether it was one kept from an earlier request that broke."""

    response_class = _FinalResponse
    _has_answered = False

    def connect(self) -> None:
        self._has_answered = False
        super().connect()

    def getresponse(self) -> Response:  # type: ignore[override] # as in the base class
        try:
            answer = super().getresponse()
        except ConnectionError as error:
            if self._has_answered:
                raise ConnectionDroppedError(str(error)) from error
            raise
        self._has_answered = True
        return answer


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class Adapter(HTTPAdapter):
    """The adapter of requests, on connections that read past interim answers."""

    def __init__(self) -> None:
        super().__init__(pool_connections=10, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=_BLOCK, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = _POOLS
        return manager


DECODABLE: Final = ("gzip", "x-gzip", "deflate")
"""The Content-Encodings that can be undone."""


class Body(Protocol):
    """The body of an answer: a stream that can be let go of before its end."""

    def read(self, size: int | None = -1, /) -> bytes: ...
    def close(self) -> None: ...


class Piecewise(io.BufferedIOBase):
    """What reads come to for a stream that gives some bytes at a time."""

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        raise NotImplementedError

    def read(self, size: int | None = -1, /) -> bytes:
        pieces = []
        left = -1 if size is None or size < 0 else size
        while left and (piece := self.read1(_BLOCK if left < 0 else left)):
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def readinto1(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read1(len(view))
        view[: len(piece)] = piece
        return len(piece)


class HTTPBody(Piecewise):
    """The body of an HTTP answer.

    Its connection is used again once it was read to its end; one that is closed before takes
    the connection with it, unless hardly anything was left.

    Parameters
    ----------
    response
        The answer, nothing of it read yet.
    what
        What it is, for messages.
    deadline
        When it has to be here, on the monotonic clock; None: whenever it comes.

    Raises
    ------
    IntegrityError
        By a read, if it ends before its promised length.
    StoreUnavailableError
        By a read, if the connection breaks or nothing comes for too long.
    """

    def __init__(self, response: Response, what: str, deadline: float | None) -> None:
        self._response = response
        self._what = what
        self._deadline = deadline
        self._failure: StoreError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read(size)
        return self._taken(self._response.read, size) if size else b""

    def read1(self, size: int = -1, /) -> bytes:
        return self._taken(self._response.read1, size if size > 0 else _BLOCK) if size else b""

    def _taken(self, read: Any, size: int) -> bytes:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._failure is not None:
            # A response that was closed gives b"", which would be a good end.
            raise self._failure.with_traceback(None)
        left = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            with within(left):
                piece: bytes = read(size, decode_content=False)
        except (HTTPError, HTTPException, OSError) as error:
            self._response.close()
            self._failure = self._broken(error)
            raise self._failure from error
        return piece

    def _broken(self, error: Exception) -> StoreError:
        short = next((each for each in error.args if isinstance(each, IncompleteRead)), None)
        if short is not None:
            promised = short.partial + short.expected
            return IntegrityError(
                f"{self._what} ended after {short.partial:,} of {promised:,} bytes; nothing of it "
                "was kept: try again"
            )
        if isinstance(error, (ReadTimeoutError, TimeoutError)):
            end = min(end_of_call() or math.inf, self._deadline or math.inf)
            if time.monotonic() >= end:
                return StoreUnavailableError(
                    f"{self._what} didn't come before the deadline of the call"
                )
            return StoreUnavailableError(f"{self._what} stopped coming; try again")
        return StoreUnavailableError(
            f"{self._what} didn't come to its end: its connection broke; try again"
        )

    def close(self) -> None:
        if not self.closed:
            left = self._response.length_remaining
            if left is not None and left <= _HARDLY and not self._response.closed:
                self._response.drain_conn()
            self._response.close()
        super().close()


class DecodedBody(Piecewise):
    """A body whose Content-Encoding is undone: gzip, or deflate.

    Parameters
    ----------
    body
        The body as it comes.
    what
        What it is, for messages.

    Raises
    ------
    IntegrityError
        By a read, if it isn't encoded so, or ends too early.
    """

    def __init__(self, body: Body, what: str) -> None:
        self._body = body
        self._what = what
        self._decoder = zlib.decompressobj(_EITHER)
        self._begun = False

    def read1(self, size: int = -1, /) -> bytes:
        size = size if size > 0 else _BLOCK
        try:
            while True:
                piece = self._decoder.decompress(self._decoder.unconsumed_tail, size)
                if piece:
                    return piece
                data = self._decoder.unused_data or self._body.read(_BLOCK)
                if not data:
                    break
                if self._decoder.eof:
                    # gzip files may follow one another.
                    self._decoder = zlib.decompressobj(_EITHER)
                self._begun = True
                piece = self._decoder.decompress(self._decoder.unconsumed_tail + data, size)
                if piece:
                    return piece
        except zlib.error:
            self.close()
            raise IntegrityError(
                f"{self._what} came in a Content-Encoding that it doesn't have; try again"
            ) from None
        if self._begun and not self._decoder.eof:
            self.close()
            raise IntegrityError(
                f"{self._what} ended before its compressed data did; nothing of it was kept: try "
                "again"
            )
        return b""

    def close(self) -> None:
        self._body.close()
        super().close()
