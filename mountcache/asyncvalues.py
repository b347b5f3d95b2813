"""What `mountcache.asynchronous` gives out: values, and streams of their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from mountcache.abc import Facts, Source, Value
from mountcache.offloop import Calls
from mountcache.streams import Writer, chunks

__all__ = ["AsyncStream", "AsyncValue", "AsyncWriter"]

_MIB = 1048576
_R = TypeVar("_R")


class AsyncStream:
    """A readable stream of bytes, for one task at a time.

    A read that is cancelled closes it, and so ends its download. Use it in ``async with``, or
    close it with `aclose`.

    Parameters
    ----------
    calls
        Where its reads run.
    stream
        The blocking stream.
    """

    def __init__(self, calls: Calls, stream: io.BufferedIOBase) -> None:
        self.blocking = stream
        self._calls = calls
        self._busy = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed, also by a read that was cancelled."""
        return self._closed

    async def read(self, size: int | None = -1) -> bytes:
        """Return at most `size` bytes, all that is left if it is negative; b"" at the end."""
        if size is None or size < 0:
            return await self._call(lambda: b"".join(chunks(self.blocking)))
        return await self._call(lambda: self.blocking.read(size))

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place, as `io.IOBase.seek` does; return where that is."""
        return await self._call(lambda: self.blocking.seek(offset, whence))

    async def tell(self) -> int:
        """Return where the next read begins."""
        return await self._call(self.blocking.tell)

    async def iterdata(self, buffer_size: int = _MIB) -> AsyncGenerator[bytes, None]:
        """Iterate over what is left in pieces of at most `buffer_size` bytes, then close it."""
        async with self:
            while piece := await self.read(buffer_size):
                yield piece

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self.iterdata()

    async def aclose(self) -> None:
        """Close it. What a cancelled read of it still brings goes without anybody's waiting."""
        if not self._closed:
            self._closed = True
            await self._calls.read(self.blocking.close, apart=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _call(self, call: Callable[[], _R]) -> _R:
        if self._closed:
            raise ValueError("this stream was closed")
        if self._busy:
            raise RuntimeError("another task is reading this stream")
        self._busy = True
        try:
            return await self._calls.read(call, lambda _: self.blocking.close(), apart=True)
        except asyncio.CancelledError:
            # The thread may still be in it, and closes it then.
            self._closed = True
            raise
        finally:
            self._busy = False


class AsyncWriter:
    """Collects what is written, and stages it when it is closed in good order.

    An exception that leaves its ``async with`` block, a cancel among them, stages nothing.

    Parameters
    ----------
    calls
        Where its calls run.
    writer
        The blocking file.
    """

    def __init__(self, calls: Calls, writer: Writer) -> None:
        self.blocking = writer
        self._calls = calls
        self._buffer = bytearray()
        self._handled = sys.exception()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.blocking.closed

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write bytes; return how many."""
        if self.closed:
            raise ValueError("this file was closed")
        self._buffer += data
        if len(self._buffer) >= _MIB:
            await self._flush()
        return len(data)

    async def _flush(self) -> None:
        full, self._buffer = self._buffer, bytearray()
        if full:
            await self._calls.change(lambda: self.blocking.write(full))

    async def aclose(self) -> None:
        """Stage what was written, unless an exception brings the close about."""
        now = sys.exception()
        await self._end(None if now is self._handled else now)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(exc)

    async def _end(self, error: BaseException | None) -> None:
        if self.closed:
            return
        if error is not None:
            self.blocking.__exit__(type(error), error, None)
            return
        try:
            await self._flush()
            await self._calls.change(lambda: self.blocking.__exit__(None, None, None))
        except BaseException as failed:
            # Closed all the same, and what it staged it staged; if it didn't begin, nothing.
            self.blocking.__exit__(type(failed), failed, None)
            raise


class AsyncValue:
    """Data and metadata of one key at one moment, see `mountcache.Value`.

    As an async context manager it gives its data and closes it at the end.

    Parameters
    ----------
    calls
        Where its calls run.
    value
        The blocking value. Its metadata are taken in the thread that makes this one: to have
        them may be a request.
    """

    def __init__(self, calls: Calls, value: Value) -> None:
        self.blocking = value
        self._calls = calls
        self._metadata = value.metadata

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata."""
        return self._metadata

    @property
    def size(self) -> int | None:
        """Length of the data in bytes, or None if it isn't known before it is read."""
        return self.blocking.size

    @property
    def mimetype(self) -> str:
        """The media type of the data."""
        return self.blocking.mimetype

    @property
    def created(self) -> float | None:
        """When the key was made, in seconds since 1970, or None if that isn't known."""
        return self.blocking.created

    @property
    def modified(self) -> float | None:
        """When data or metadata last changed, in seconds since 1970, or None."""
        return self.blocking.modified

    @property
    def version(self) -> str | None:
        """What ``base=`` of the setters takes; None if the store has no versions."""
        return self.blocking.version

    @property
    def source(self) -> Source:
        """Where the data comes from."""
        return self.blocking.source

    @property
    def age(self) -> float:
        """Seconds since upstream last confirmed the value; 0 for a staged one."""
        return self.blocking.age

    @property
    def stale(self) -> bool:
        """True if upstream may have moved on and couldn't be asked."""
        return self.blocking.stale

    @property
    def facts(self) -> Facts:
        """What upstream said of it; of its data as well once `data` was asked for."""
        return self.blocking.facts

    async def permissions(self) -> dict[str, Any]:
        """Return the permissions, where the store keeps them and the user owns the key."""
        return await self._calls.read(lambda: self.blocking.permissions)

    async def data(self) -> AsyncStream:
        """Return a stream of the data, at its beginning."""
        return await opened(self._calls, lambda: self.blocking.data)

    async def range(self, start: int | None = None, end: int | None = None) -> AsyncStream:
        """Return a stream of the bytes from `start` up to but not with `end`."""
        return await opened(self._calls, lambda: self.blocking.range(start, end))

    async def iterdata(
        self, buffer_size: int = _MIB, progress: Callable[..., object] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Iterate over the data in pieces of at most `buffer_size` bytes.

        Parameters
        ----------
        buffer_size
            Bytes in a piece.
        progress
            Called with ``step=`` the count of bytes so far after each piece.
        """
        done = 0
        async with contextlib.aclosing((await self.data()).iterdata(buffer_size)) as pieces:
            async for piece in pieces:
                done += len(piece)
                if progress is not None:
                    progress(step=done)
                yield piece

    async def __aenter__(self) -> AsyncStream:
        self._entered = await self.data()
        return self._entered

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entered.aclose()


async def opened(calls: Calls, call: Callable[[], io.BufferedIOBase]) -> AsyncStream:
    """Return the stream that a call opens; nobody's if the task is cancelled, so it is closed."""

    def let_go(stream: io.BufferedIOBase | None) -> None:
        if stream is not None:
            stream.close()

    return AsyncStream(calls, await calls.read(call, let_go))
