"""The transport of ``file:`` roots: files of this machine answer as a web server's would."""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from requests.structures import CaseInsensitiveDict

from mountcache.backing.http import Answer, Payload
from mountcache.backing.pace import Pace
from mountcache.errors import (
    AuthorizationError,
    IntegrityError,
    ReadOnlyStoreError,
    StoreUnavailableError,
    UpstreamError,
)

__all__ = ["FileTransport"]

_RANGE = re.compile(r"bytes=(\d+)-")


class FileTransport:
    """Answers to requests, out of files. A version is a file's inode, time and size."""

    user_tag: str | None = None
    named: str | None = None
    clock_ahead: float | None = None
    software: str | None = None

    def __init__(self) -> None:
        self.pace = Pace()

    def open(self, credentials: object) -> None:
        """Do nothing: files need no login."""

    def close(self) -> None:
        """Do nothing."""

    def request(
        self,
        method: str,
        url: str,
        what: str,
        *,
        accept: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        payload: Payload | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Return what a web server would answer (see `http.Transport.request`)."""
        if method not in ("GET", "HEAD"):
            raise ReadOnlyStoreError(f"{what}: a file: store can only be read")
        answer = _answer(method, url2pathname(urlsplit(url).path), what, headers or {})
        if answer.status in accept:
            return answer
        answer.body.close()
        raise UpstreamError(f"{what}: there is no such file", status=answer.status)


def _answer(method: str, path: str, what: str, asked: Mapping[str, str]) -> Answer:
    try:
        file = open(path, "rb", opener=_open)  # noqa: SIM115 - the answer's body closes it
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Answer(404, {}, io.BytesIO())
    except PermissionError:
        raise AuthorizationError(f"{what}: {path} may not be read", status=403) from None
    except ValueError:
        return Answer(404, {}, io.BytesIO())
    except OSError as error:
        if error.errno == 36:  # ENAMETOOLONG: no file can be called so
            return Answer(404, {}, io.BytesIO())
        raise StoreUnavailableError(f"{what}: {path} can't be read: {error.strerror}") from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        file.close()
        return Answer(404, {}, io.BytesIO())
    etag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers = CaseInsensitiveDict(
        {
            "ETag": etag,
            "Last-Modified": _date(found.st_mtime),
            "Date": _date(time.time()),
            "Accept-Ranges": "bytes",
        }
    )
    if asked.get("If-None-Match") == etag:
        file.close()
        return Answer(304, headers, io.BytesIO())
    start = 0
    span = _RANGE.fullmatch(asked.get("Range", ""))
    if span is not None and asked.get("If-Range", etag) == etag:
        start = int(span.group(1))
        if start >= found.st_size:
            file.close()
            return Answer(416, headers, io.BytesIO())
        headers["Content-Range"] = f"bytes {start}-{found.st_size - 1}/{found.st_size}"
    headers["Content-Length"] = str(found.st_size - start)
    status = 200 if "Content-Range" not in headers else 206
    if method == "HEAD":
        file.close()
        return Answer(status, headers, io.BytesIO())
    file.seek(start)
    return Answer(status, headers, io.BufferedReader(_FileBody(file, what, found.st_size)))


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK a pipe is waited for, in vain.
    return os.open(path, flags | os.O_NONBLOCK)


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


class _FileBody(io.RawIOBase):
    """An open file that notices when it was cut off or written on while it is read."""

    def __init__(self, file: BinaryIO, what: str, size: int) -> None:
        self._file = file
        self._what = what
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._size - self._file.tell()
        piece = self._file.read(min(len(buffer), left))
        if left and not piece:
            raise IntegrityError(
                f"{self._what} ended after {self._file.tell():,} of {self._size:,} bytes; nothing "
                "of it was kept: try again"
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()
