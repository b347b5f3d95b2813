"""Values to give to a store: of bytes in memory, and of a file."""

from __future__ import annotations

import io
import mimetypes
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mountcache.abc import Value
from mountcache.errors import InvalidValueError
from mountcache.jsonform import parse, spelling

__all__ = ["FileValue", "StringValue", "mimetype_of"]


def mimetype_of(name: str) -> str:
    """Return the media type that the suffix of a key or file name stands for.

    That of compressed data is what it is compressed with: ``table.csv.gz`` isn't text.
    """
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        kind = {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}.get(encoding)
    return kind or "application/octet-stream"


class StringValue(Value):
    """A value of bytes in memory.

    Parameters
    ----------
    data
        The bytes.
    metadata
        The metadata; empty if None.
    created, modified
        Seconds since 1970; now if None.
    mimetype
        The media type of the data.

    Raises
    ------
    InvalidValueError
        If the data isn't bytes.
    InvalidMetadataError
        If the metadata isn't a dict of JSON values.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview = b"",
        metadata: Mapping[str, Any] | None = None,
        created: float | None = None,
        modified: float | None = None,
        *,
        mimetype: str = "application/octet-stream",
    ) -> None:
        if isinstance(data, str):
            raise InvalidValueError("StringValue takes bytes, not str; encode the text first")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidValueError(
                f"StringValue takes bytes, not {type(data).__name__}; "
                "a stream goes into a pair: (stream, metadata)"
            )
        now = time.time()
        self._data = bytes(data)
        self._meta = spelling({} if metadata is None else metadata)
        self._created = now if created is None else created
        self._modified = now if modified is None else modified
        self._mimetype = mimetype

    def __repr__(self) -> str:
        return f"<StringValue of {len(self._data):,} bytes, metadata {self._meta}>"

    @property
    def data(self) -> io.BytesIO:
        return io.BytesIO(self._data)

    @property
    def metadata(self) -> dict[str, Any]:
        return parse(self._meta)

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def mimetype(self) -> str:
        return self._mimetype

    @property
    def created(self) -> float:
        return self._created

    @property
    def modified(self) -> float:
        return self._modified


class FileValue(Value):
    """A value whose data is what a file holds when it is read.

    Parameters
    ----------
    path
        The file.
    metadata
        The metadata; empty if None.

    Raises
    ------
    OSError
        If there is no such file, or it can't be read.
    InvalidMetadataError
        If the metadata isn't a dict of JSON values.
    """

    def __init__(
        self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
    ) -> None:
        self._path = Path(path)
        self._meta = spelling({} if metadata is None else metadata)
        # Opened once here so that a file that can't be read is told of where it is named.
        with self._path.open("rb"):
            pass

    def __repr__(self) -> str:
        return f"<FileValue of {self._path}, metadata {self._meta}>"

    @property
    def data(self) -> io.BufferedReader:
        return self._path.open("rb")

    @property
    def metadata(self) -> dict[str, Any]:
        return parse(self._meta)

    @property
    def size(self) -> int:
        return self._path.stat().st_size

    @property
    def mimetype(self) -> str:
        return mimetype_of(self._path.name)

    @property
    def modified(self) -> float:
        return self._path.stat().st_mtime
