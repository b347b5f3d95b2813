"""Connections that read past interim answers, and bodies that end as promised or say so.

Next door: `http` (who asks), `files` (the same for ``file:``).
"""

from __future__ import annotations

import io
import time
import zlib
from http.client import BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any, Final, Protocol

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, IncompleteRead, ReadTimeoutError
from urllib3.response import HTTPResponse as Response

from mountcache.errors import IntegrityError, StoreUnavailableError

__all__ = ["DECODABLE", "Adapter", "Body", "DecodedBody", "HTTPBody"]

_INTERIM: Final = 20
"""How many interim answers are read past."""
_LINE: Final = 65536
_LINES: Final = 200
_CONNECTIONS: Final = 64
_BLOCK: Final = 131072
_HARDLY: Final = 4096
_EITHER: Final = zlib.MAX_WBITS | 32


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

    def begin(self) -> None:
        stream = self.fp
        lines: Any = _Lines(stream)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = stream
        if lines.last not in (b"\r\n", b"\n"):
            raise RemoteDisconnected("the connection ended in the head of the answer")

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
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


class _Connection(HTTPConnection):
    response_class = _FinalResponse


class _SecureConnection(HTTPSConnection):
    response_class = _FinalResponse


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


class _Piecewise(io.BufferedIOBase):
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


class HTTPBody(_Piecewise):
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

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or self._deadline is not None:
            return super().read(size)
        return self._taken(self._response.read, size) if size else b""

    def read1(self, size: int = -1, /) -> bytes:
        return self._taken(self._response.read1, size if size > 0 else _BLOCK) if size else b""

    def _taken(self, read: Any, size: int) -> bytes:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._response.close()
            raise StoreUnavailableError(f"{self._what} didn't come before the deadline of the call")
        try:
            piece: bytes = read(size, decode_content=False)
        except (HTTPError, HTTPException, OSError) as error:
            self._response.close()
            raise self._broken(error) from error
        return piece

    def _broken(self, error: Exception) -> Exception:
        short = next((each for each in error.args if isinstance(each, IncompleteRead)), None)
        if short is not None:
            promised = short.partial + short.expected
            return IntegrityError(
                f"{self._what} ended after {short.partial:,} of {promised:,} bytes; nothing of it "
                "was kept: try again"
            )
        if isinstance(error, (ReadTimeoutError, TimeoutError)):
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


class DecodedBody(_Piecewise):
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
