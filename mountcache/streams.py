"""Streams of bytes, as stores take and give them."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Protocol

from mountcache.errors import InvalidValueError
from mountcache.stopping import check_stopped

__all__ = ["Readable", "Writer", "check_mode", "check_stream", "chunks", "first_bytes"]

_MIB: Final = 1048576

_logger = logging.getLogger("mountcache")


class Readable(Protocol):
    """What can be given as data: anything whose ``read(n)`` gives bytes, empty at the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class _Limited(io.RawIOBase):
    """The next `length` bytes of a stream."""

    def __init__(self, stream: io.BufferedIOBase, length: int) -> None:
        self._stream = stream
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def first_bytes(stream: io.BufferedIOBase, length: int) -> io.BufferedIOBase:
    """Return a stream of the next `length` bytes of `stream`, which it closes with itself."""
    return io.BufferedReader(_Limited(stream, length))


def check_stream(data: Readable) -> Readable:
    """Return `data` if it can be read.

    Raises
    ------
    InvalidValueError
        If it isn't a stream.
    """
    if not hasattr(data, "read"):
        raise InvalidValueError(
            f"data is a stream with read(), not {type(data).__name__}; "
            "for bytes use from_bytes, or io.BytesIO(data)"
        )
    return data


def chunks(data: Readable, buffer_size: int = _MIB) -> Iterator[bytes]:
    """Iterate over what is left of a stream in pieces of at most `buffer_size` bytes.

    Raises
    ------
    InvalidValueError
        If it isn't a stream, or not one of bytes.
    CallStopped
        If the call is asked to end early, see `mountcache.stopping`.
    """
    read = check_stream(data).read
    if buffer_size < 1:
        raise ValueError(f"buffer_size is at least 1 byte, not {buffer_size}")
    while True:
        check_stopped()
        piece: object = read(buffer_size)
        if isinstance(piece, str):
            raise InvalidValueError("data is a text stream; open the file in binary mode")
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise InvalidValueError(
                f"read() of the data gave {type(piece).__name__} where bytes were expected"
            )
        if not piece:
            return
        yield bytes(piece)


def check_mode(mode: str) -> str:
    """Return `mode` if a key can be opened with it; ValueError otherwise."""
    if mode in ("rb", "wb"):
        return mode
    if set(mode) <= set("rwt"):
        raise ValueError(
            f"a key is a file of bytes, opened with 'rb' or 'wb', not {mode!r}; for text put "
            "io.TextIOWrapper(file, encoding='utf-8') around it"
        )
    raise ValueError(
        f"a key is opened with 'rb' or 'wb', which replaces all of its data, not with {mode!r}"
    )


class Writer(io.BufferedIOBase):
    """Collects what is written in a temporary file, and commits it when it is closed.

    Only a close in good order commits: one that an exception brings about, also through a
    wrapper such as io.TextIOWrapper, or that the garbage collector makes, discards what was
    written. It can be read and sought too, since some libraries look again at what they wrote.

    Parameters
    ----------
    commit
        Takes the bytes, as a stream at its beginning.
    name
        The key.
    """

    mode = "wb"

    def __init__(self, commit: Callable[[Readable], object], name: str) -> None:
        self.name = name
        self._commit = commit
        self._file = tempfile.SpooledTemporaryFile(_MIB)  # noqa: SIM115 - closed by `close`
        self._handled = sys.exception()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        self._file.truncate(self._file.tell() if size is None else size)
        return self.tell() if size is None else size

    def close(self) -> None:
        now = sys.exception()
        if now is None or now is self._handled:
            self._end()
        else:
            self._discard("an exception came before it was closed")

    def _end(self) -> None:
        if not self.closed:
            with self._file as file:
                super().close()
                file.seek(0)
                self._commit(file)

    def _discard(self, why: str) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            _logger.warning("what was written to %r is discarded: %s", self.name, why)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self._end()
        else:
            self._discard("an exception came before it was closed")

    def __del__(self) -> None:
        self._discard("nobody closed it")
