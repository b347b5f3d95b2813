"""Streams of bytes, as stores take and give them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Protocol

from mountcache.errors import InvalidValueError

__all__ = ["Readable", "check_stream", "chunks", "first_bytes"]

_MIB = 1048576


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
    """
    read = check_stream(data).read
    if buffer_size < 1:
        raise ValueError(f"buffer_size is at least 1 byte, not {buffer_size}")
    while True:
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
