"""The value of a key as it was when it was asked for, its bytes in hand."""

from __future__ import annotations

import io
import mimetypes
import os
from collections.abc import Callable
from typing import Any

from mountcache.abc import Facts, Source, Value
from mountcache.jsonform import parse

__all__ = ["Snapshot"]


class Snapshot(Value):
    """A value whose bytes are here, or are fetched when they are asked for.

    It holds small bytes, and an open file otherwise, so that eviction or a later set never
    changes what it gives.

    Parameters
    ----------
    key
        The key, for the media type.
    meta
        Metadata as JSON text.
    stream
        The bytes, if they are here.
    fetch
        Brings a stream of the bytes otherwise.
    """

    def __init__(
        self,
        key: str,
        meta: str,
        *,
        stream: io.BufferedIOBase | None = None,
        fetch: Callable[[], io.BufferedIOBase] | None = None,
        fetch_range: Callable[[int, int | None], io.BufferedIOBase] | None = None,
        source: Source = "staged",
        version: str | None = None,
        size: int | None = None,
        sha256: str | None = None,
        modified: float | None = None,
        age: float = 0.0,
        stale: bool = False,
    ) -> None:
        self._key = key
        self._meta = meta
        self._stream = stream
        self._fetch = fetch
        self._fetch_range = fetch_range
        self._source: Source = source
        self._version = version
        self._size = size
        self._sha256 = sha256
        self._modified = modified
        self._age = age
        self._stale = stale

    @property
    def data(self) -> io.BufferedIOBase:
        stream = self._stream
        if stream is None:
            if self._fetch is None:
                raise ValueError(f"the value of {self._key!r} has no data")
            return self._fetch()
        if isinstance(stream, io.BytesIO):
            return io.BytesIO(stream.getvalue())
        return io.BufferedReader(_FileView(stream))

    @property
    def path(self) -> str | None:
        """Where the file of the bytes is, or was; None if they are in memory, or not here."""
        name: str | None = getattr(self._stream, "name", None)
        return name

    @property
    def metadata(self) -> dict[str, Any]:
        return parse(self._meta)

    @property
    def size(self) -> int | None:
        return self._size

    @property
    def mimetype(self) -> str:
        return mimetypes.guess_type(self._key)[0] or "application/octet-stream"

    @property
    def modified(self) -> float | None:
        return self._modified

    @property
    def created(self) -> float | None:
        return self._modified

    @property
    def version(self) -> str | None:
        return self._version

    @property
    def source(self) -> Source:
        return self._source

    @property
    def age(self) -> float:
        return self._age

    @property
    def stale(self) -> bool:
        return self._stale

    @property
    def facts(self) -> Facts:
        return Facts(
            version=self._version,
            validators=self._version,
            size=self._size,
            sha256=self._sha256,
            modified=self._modified,
            mimetype=self.mimetype,
        )

    def range(self, start: int | None = None, end: int | None = None) -> io.BufferedIOBase:
        start = 0 if start is None else start
        if self._fetch_range is not None and start >= 0 and (end is None or end >= start):
            return self._fetch_range(start, end)
        return super().range(start, end)


class _FileView(io.RawIOBase):
    """A reader of an open file with a position of its own.

    The file stays open as long as a view of it is in use, even when its name has gone.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._fd = file.fileno()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._fd, [buffer], self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._at,
            io.SEEK_END: os.fstat(self._fd).st_size if whence == io.SEEK_END else 0,
        }[whence]
        if start + offset < 0:
            raise ValueError(f"can't seek to {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at
