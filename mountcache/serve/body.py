"""Request bodies: from the event loop into a worker thread, checked as they pass.

A store takes data as a blocking stream. The thread that feeds the store pulls each piece out
of the event loop, so that a body larger than memory never piles up, and a stream that ends
otherwise than promised raises before the store has committed anything.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from email.message import Message
from typing import Any

from mountcache.abc import Readable
from mountcache.serve.wire import Problem, bad, digest_claims

__all__ = ["Body", "Hashed", "MultipartReader", "Part", "media_type"]

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_PIECE = 1048576
_SMALL = 65536
"""Bytes of a body that is taken in before a thread works on it."""
_SLOWEST = 1024
"""Bytes a second of a body that is still waited for."""


class Body:
    """The body of one request, read in a worker thread.

    Parameters
    ----------
    receive
        ASGI's receive.
    headers
        The headers of the request, names in lower case.
    patience
        Seconds to wait for the next byte.
    """

    def __init__(
        self,
        receive: _Receive,
        headers: Mapping[str, str],
        *,
        patience: float = 60.0,
    ) -> None:
        self._receive = receive
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Task[Any] | None = None
        self._buffer = memoryview(b"")
        self._early: deque[bytes] = deque()
        self._waited = 0.0
        self._aborted = False
        self._begun = False
        self._failure: Problem | None = None
        self.limit: int | None = None
        """Length in bytes beyond which the request is refused; None: no limit."""
        self.ended = False
        """Whether the body was read to its end, or broke off."""
        self.size = 0
        """Bytes that have come."""
        self.started = False
        """Whether the client was asked for any."""
        self._headers = headers
        self._promised = int(headers.get("content-length", -1))
        self._claims: dict[str, bytes] = {}
        self._hashes: dict[str, Any] = {}

    def read(self, size: int = _PIECE, /) -> bytes:
        """Return the next bytes, at most `size`; b"" at the end, where all has been checked.

        Raises
        ------
        Problem
            If the body is shorter than promised, has another digest, or doesn't move on.
        """
        if self._failure is not None:
            raise self._failure
        if not self._buffer and (self._early or not self.ended):
            try:
                self._buffer = memoryview(self._next())
            except Problem as problem:
                # What broke off never comes to a good end, however often it is asked.
                self._failure = problem
                raise
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(piece)

    async def come(self) -> None:
        """Take a small body in, in the event loop, which is to be read in one piece soon."""
        if 0 < self._promised <= _SMALL and "expect" not in self._headers:
            while not self.ended:
                self._early.append(await self._receive_piece())

    def abort(self) -> None:
        """Make reads fail from now on. Call it in the event loop."""
        self._aborted = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def drain(self, limit: int) -> None:
        """Take in up to `limit` bytes that nobody wants, so that the client hears the answer."""
        while not self.ended and limit > 0:
            limit -= len(await self._receive_piece())

    def _next(self) -> bytes:
        if not self._begun:
            self._begin()
        if self._early:
            piece = self._early.popleft()
        else:
            coming = asyncio.run_coroutine_threadsafe(self._receive_piece(), self._loop)
            try:
                piece = coming.result()
            except concurrent.futures.CancelledError:
                self.ended = True
                raise _broken("the server is stopping") from None
        self.size += len(piece)
        for digest in self._hashes.values():
            digest.update(piece)
        if self.limit is not None and self.size > self.limit:
            raise _too_large(self.limit)
        if self.ended and not self._early:
            self._check()
        return piece

    def _begin(self) -> None:
        self._begun = True
        if self.limit is not None and self._promised > self.limit:
            raise _too_large(self.limit)
        self._claims = digest_claims(self._headers.get("content-digest"), "Content-Digest")
        self._hashes = {name: hashlib.new(name) for name in self._claims}

    async def _receive_piece(self) -> bytes:
        """Return the next piece that isn't empty, or the end."""
        self.started = True
        if self._aborted:
            raise _broken("the server is stopping")
        while True:
            self._waiting = asyncio.current_task()
            begun = self._loop.time()
            # A byte now and then would keep a thread, and the room on the disk, for ever.
            left = self._patience + self.size / _SLOWEST - self._waited
            try:
                async with asyncio.timeout(min(left, self._patience)):
                    message = await self._receive()
            except TimeoutError:
                self.ended = True
                raise Problem(
                    408,
                    "too-slow",
                    "The body came too slowly",
                    f"no byte came for {self._patience:g} seconds, or fewer than {_SLOWEST} a "
                    "second; nothing was stored",
                ) from None
            finally:
                self._waited += self._loop.time() - begun
                self._waiting = None
            if message["type"] != "http.request":
                self.ended = True
                raise _broken("the client broke off")
            self.ended = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if piece or self.ended:
                return piece

    def _check(self) -> None:
        if self._promised >= 0 and self.size != self._promised:
            raise _broken(f"{self.size:,} of {self._promised:,} bytes came")
        _compare(self._claims, self._hashes, "Content-Digest")


class Hashed:
    """A stream that is hashed as it passes, and checked against a Repr-Digest at its end.

    Parameters
    ----------
    stream
        The data.
    claims
        Digests that it must have, by the names of hashlib.
    at_end
        Called once at the end, before the end is given out; may raise.
    """

    def __init__(
        self,
        stream: Readable,
        claims: Mapping[str, bytes],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._claims = claims
        self._hashes = {name: hashlib.new(name) for name in {"sha256", *claims}}
        self._at_end = at_end
        self._done = False

    @property
    def sha256(self) -> str:
        """Digest in hex of what has passed."""
        return self._hashes["sha256"].hexdigest()

    def read(self, size: int = _PIECE, /) -> bytes:
        """Return the next bytes, at most `size`; b"" at the end."""
        if self._done:
            return b""
        piece = self._stream.read(size)
        for digest in self._hashes.values():
            digest.update(piece)
        if not piece:
            self._done = True
            _compare(self._claims, self._hashes, "Repr-Digest")
            self._at_end()
        return piece


def _compare(claims: Mapping[str, bytes], hashes: Mapping[str, Any], name: str) -> None:
    for algorithm, claimed in claims.items():
        found = hashes[algorithm].digest()
        if found != claimed:
            raise Problem(
                400,
                "wrong-digest",
                "The data isn't what its digest says",
                f"{name} promised {algorithm} {claimed.hex()}, but what came has {found.hex()}; "
                "nothing was stored: send it again",
            )


def _broken(why: str) -> Problem:
    return Problem(
        400, "broken-off", "The body broke off", f"the body broke off: {why}; nothing was stored"
    )


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too-large",
        "The body is too large",
        f"this body may have {limit:,} bytes; send what is larger in requests of its own",
    )


# -- multipart/related (RFC 2046, 2387) --------------------------------------------------


def media_type(content_type: str | None) -> tuple[str, str | None]:
    """Return the media type of a Content-Type in lower case, and its boundary if it has one."""
    if not content_type:
        return "", None
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    return message.get_content_type(), boundary if isinstance(boundary, str) else None


class Part:
    """One part of a multipart body: its headers, and its bytes as a stream."""

    def __init__(self, reader: MultipartReader, headers: dict[str, str]) -> None:
        self._reader = reader
        self.headers = headers
        self.ended = False

    def read(self, size: int = _PIECE, /) -> bytes:
        """Return the next bytes, at most `size`; b"" at the end of the part."""
        if self.ended:
            return b""
        piece = self._reader.take(size)
        self.ended = not piece
        return piece

    def whole(self, limit: int) -> bytes:
        """Return what is left of the part; it may have `limit` bytes."""
        pieces = bytearray()
        while piece := self.read():
            pieces += piece
            if len(pieces) > limit:
                raise _too_large(limit)
        return bytes(pieces)


class MultipartReader:
    """The parts of a multipart body, one after the other, none held in memory.

    Parameters
    ----------
    stream
        The body.
    boundary
        What stands between its parts.
    """

    _HEADER_LIMIT = 16384

    def __init__(self, stream: Readable, boundary: str | None) -> None:
        if not boundary or len(boundary) > 70 or not boundary.isascii():
            raise bad("a multipart body needs a boundary of 1 to 70 characters in Content-Type")
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode()
        # The first delimiter may open the body, without the CRLF that ends a part.
        self._buffer = bytearray(b"\r\n")
        self._part: Part | None = None
        self._begun = False
        self._over = False

    def next_part(self) -> Part | None:
        """Return the next part, the rest of the one before skipped; None after the last."""
        if self._part is not None:
            while self._part.read():
                pass
        elif not self._begun:
            self._begun = True
            while self.take(_PIECE):
                pass
        if self._over:
            self._skip_epilogue()
            return None
        self._part = Part(self, self._headers())
        return self._part

    def take(self, size: int) -> bytes:
        """Return bytes up to the next delimiter; b"" once it was reached and passed."""
        while True:
            found = self._buffer.find(self._delimiter)
            if found == 0:
                self._pass_delimiter()
                return b""
            # What could be the beginning of a delimiter stays.
            ready = found if found > 0 else len(self._buffer) - len(self._delimiter) + 1
            if ready > 0:
                count = min(ready, size)
                piece = bytes(self._buffer[:count])
                del self._buffer[:count]
                return piece
            self._fill()

    def _pass_delimiter(self) -> None:
        del self._buffer[: len(self._delimiter)]
        while len(self._buffer) < 2:
            self._fill()
        if self._buffer[:2] == b"--":
            self._over = True
            return
        line = self._until(b"\r\n", 1024)
        if line.strip(b" \t"):
            raise bad("the multipart body has a line that begins like its boundary, but isn't it")

    def _headers(self) -> dict[str, str]:
        # The CRLF before makes a part without headers end in the same four bytes.
        self._buffer[:0] = b"\r\n"
        block = self._until(b"\r\n\r\n", self._HEADER_LIMIT)
        headers = {}
        for line in block.decode("latin-1").split("\r\n"):
            name, colon, text = line.partition(":")
            if line and not colon:
                raise bad("a part of the multipart body has a header line without a colon")
            if line:
                headers[name.strip().lower()] = text.strip()
        return headers

    def _until(self, mark: bytes, limit: int) -> bytes:
        while (found := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                raise bad("a part of the multipart body has headers that are too long")
            self._fill()
        piece = bytes(self._buffer[:found])
        del self._buffer[: found + len(mark)]
        return piece

    def _skip_epilogue(self) -> None:
        self._buffer.clear()
        while self._stream.read(_PIECE):
            pass

    def _fill(self) -> None:
        piece = self._stream.read(_PIECE)
        if not piece:
            raise bad("the multipart body ends before its last boundary; nothing was stored")
        self._buffer += piece
