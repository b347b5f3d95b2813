"""Connections that read past interim answers, and bodies that end as promised or say so.

Next door: `http` (who asks), `files` (the same for ``file:``).
"""

from __future__ import annotations

import io
import time
from http.client import BadStatusLine, HTTPException, HTTPResponse
from typing import Any, Final, Protocol

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError, IncompleteRead, ReadTimeoutError
from urllib3.response import HTTPResponse as Response

from mountcache.errors import IntegrityError, StoreUnavailableError

__all__ = ["Adapter", "Body", "HTTPBody", "decodable"]

_INTERIM: Final = 20
"""How many interim answers are read past."""
_LINE: Final = 65536
_LINES: Final = 200
_CONNECTIONS: Final = 64
_BLOCK: Final = 131072


class _FinalResponse(HTTPResponse):
    """An answer that is the final one.

    The base class reads past 100 only: it takes 102 and 103 for the answer, and the next request
    on the connection then gets the body of this one.
    """

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


def decodable(coding: str) -> bool:
    """Return whether a Content-Encoding can be undone here."""
    names = [name.strip().lower() for name in coding.split(",")]
    return all(name in Response.CONTENT_DECODERS for name in names)


class Body(Protocol):
    """The body of an answer: a stream that can be let go of before its end."""

    def read(self, size: int | None = -1, /) -> bytes: ...
    def close(self) -> None: ...


class HTTPBody(io.BufferedIOBase):
    """The body of an HTTP answer.

    Its connection is used again once it was read to its end; one that is closed before takes
    the connection with it.

    Parameters
    ----------
    response
        The answer, nothing of it read yet.
    what
        What it is, for messages.
    decode
        Whether to undo its Content-Encoding.
    deadline
        When it has to be here, on the monotonic clock; None: whenever it comes.

    Raises
    ------
    IntegrityError
        By a read, if it ends before its promised length.
    StoreUnavailableError
        By a read, if the connection breaks or nothing comes for too long.
    """

    def __init__(
        self, response: Response, what: str, *, decode: bool, deadline: float | None
    ) -> None:
        self._response = response
        self._what = what
        self._decode = decode
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size == 0:
            return b""
        if size is not None and size > 0:
            return self._taken(self._response.read, size)
        return b"".join(iter(lambda: self._taken(self._response.read, 1048576), b""))

    def read1(self, size: int = -1, /) -> bytes:
        return self._taken(self._response.read1, size if size > 0 else _BLOCK) if size else b""

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

    def _taken(self, read: Any, size: int) -> bytes:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.close()
            raise StoreUnavailableError(f"{self._what} didn't come before the deadline of the call")
        try:
            piece: bytes = read(size, decode_content=self._decode)
        except (HTTPError, HTTPException, OSError) as error:
            self.close()
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
        if isinstance(error, DecodeError):
            return IntegrityError(f"{self._what} came in a Content-Encoding that can't be undone")
        if isinstance(error, (ReadTimeoutError, TimeoutError)):
            return StoreUnavailableError(f"{self._what} stopped coming; try again")
        return StoreUnavailableError(
            f"{self._what} didn't come to its end: its connection broke; try again"
        )

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()
