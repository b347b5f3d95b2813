"""Bytes that others are still sending to a store: large values on their way in, piece by piece.

A store that is served keeps them in ``uploads/``, each named by its digest and length, until all
of it has come and a write names it. So one that breaks off goes on where it was, after a restart
too. They are no part of the store: no row names them, and nobody reads them. Pieces are only
ever added at the end, so that several may send the same bytes at once, and what somebody else
has sent already is passed over. What has come is compared with the digest before it counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mountcache.errors import IntegrityError, StoreError, StoreFullError
from mountcache.local import rights
from mountcache.local.content import MIN_FILE_SIZE, Spool, full
from mountcache.local.planted import open_own
from mountcache.streams import Readable

__all__ = ["Arrived", "Upload", "UploadOffsetError", "Uploads"]

AGE: Final = 86400.0
"""Seconds for which one that nobody goes on with is kept."""

MOST: Final = 256
"""How many there are at once."""

LIMIT: Final = 64 * 1024**3
"""Bytes that all of them may have together."""

FREE: Final = 1024**3
"""Bytes of the disk that they leave free."""

_NAME: Final = re.compile(r"([0-9a-f]{64})\.(\d{1,18})", re.ASCII)
_PIECE: Final = 1048576
_SYNC: Final = 64 * 1048576


class UploadOffsetError(StoreError):
    """What was sent doesn't begin where the upload ends.

    Parameters
    ----------
    offset
        Where it ends: what is to come next begins there.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload as it stands."""

    sha256: str
    length: int
    """Bytes of the whole."""
    offset: int
    """Bytes that have come."""


class Uploads:
    """The uploads to one store.

    Parameters
    ----------
    directory
        Where they are; made when the first one comes.
    free_bytes
        Tells how much room there is.
    clock
        Seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        free_bytes: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._free_bytes = free_bytes
        self._clock = clock
        self._hashes: dict[Path, _Hashed] = {}
        """Of what has come so far, where all of it came through this process."""

    # -- what there is -------------------------------------------------------------------

    def find(self, sha256: str) -> Upload | None:
        """Return the upload of these bytes; None if nothing of them has come."""
        return next((each for each in self._all() if each.sha256 == sha256), None)

    def _all(self) -> list[Upload]:
        """Return all uploads; those that nobody went on with for a day go."""
        found = []
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        for named in filter(None, map(_NAME.fullmatch, names)):
            path = self._directory / named[0]
            with suppress(FileNotFoundError):
                seen = path.lstat()
                if not stat.S_ISREG(seen.st_mode):
                    continue
                if self._clock() - seen.st_mtime > AGE:
                    self._forget(path)
                else:
                    found.append(Upload(named[1], int(named[2]), seen.st_size))
        there = {self._path(each) for each in found}
        for path in [each for each in tuple(self._hashes) if each not in there]:
            self._hashes.pop(path, None)  # a store has taken it over
        return found

    def collect(self) -> None:
        """Let go of those that nobody went on with for a day."""
        self._all()

    def _path(self, upload: Upload) -> Path:
        return self._directory / f"{upload.sha256}.{upload.length}"

    def _forget(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._hashes.pop(path, None)

    def remove(self, sha256: str) -> bool:
        """Let go of an upload; tell whether there was one."""
        found = self.find(sha256)
        if found is not None:
            self._forget(self._path(found))
        return found is not None

    # -- what comes ----------------------------------------------------------------------

    def append(self, sha256: str, length: int, offset: int, stream: Readable) -> Upload:
        """Add what a stream gives to an upload, which is made if there is none.

        What has come stays if the stream raises.

        Parameters
        ----------
        sha256
            Digest of the whole, 64 hex digits.
        length
            Bytes of the whole.
        offset
            Where in the whole the stream begins.
        stream
            The bytes.

        Raises
        ------
        UploadOffsetError
            If it doesn't begin where the upload ends. Nothing was read from it.
        IntegrityError
            If more comes than the whole has, or the upload has another length. If all has come,
            and isn't what the digest says, nothing of it stays.
        StoreFullError
            If there is no room.
        """
        found = self._one_of(Upload(sha256, length, 0))
        if found.offset != offset:
            raise UploadOffsetError(
                f"the upload is to go on at {found.offset:,}, not at {offset:,}", found.offset
            )
        self._check_room(found)
        path = self._path(found)
        with _opened(path) as descriptor:
            while piece := stream.read(_PIECE):
                if offset + len(piece) > length:
                    raise IntegrityError(f"more came than the {length:,} bytes of the upload")
                self._add(descriptor, path, offset, piece)
                if (offset + len(piece)) // _SYNC > offset // _SYNC:
                    # Else the write that names it would have to wait for all of them.
                    os.fdatasync(descriptor)
                offset += len(piece)
            size = os.fstat(descriptor).st_size
            if size == length and self._digest_so_far(descriptor, path) not in (None, sha256):
                self._forget(path)
                raise IntegrityError(_other(sha256))
        return Upload(sha256, length, size)

    def _one_of(self, asked: Upload) -> Upload:
        """Return the upload that is there, or a new one."""
        found = self._all()
        for each in found:
            if each.sha256 == asked.sha256:
                if each.length != asked.length:
                    raise IntegrityError(
                        f"the upload has {each.length:,} bytes in all, not {asked.length:,}"
                    )
                return each
        if len(found) >= MOST:
            raise StoreFullError(f"there are {MOST:,} uploads already; try again later")
        return asked

    def _check_room(self, upload: Upload) -> None:
        missing = upload.length - upload.offset
        held = sum(each.offset for each in self._all())
        if held + missing > LIMIT:
            raise StoreFullError(
                f"uploads may take {LIMIT:,} bytes in all, and have {held:,}: {missing:,} are too "
                "many"
            )
        if (room := self._free_bytes()) < missing + FREE:
            raise StoreFullError(
                f"{missing:,} bytes are to come, and uploads leave {FREE:,} free: {room:,} are"
            )

    def _add(self, descriptor: int, path: Path, at: int, piece: bytes) -> None:
        """Write what of a piece isn't there yet; no other writer of the file gets in between."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            found = os.fstat(descriptor)
            if not found.st_nlink or found.st_size < at:
                raise UploadOffsetError("the upload was taken away; begin it anew", 0)
            size = found.st_size
            new = memoryview(piece)[size - at :]
            while new:
                written = os.pwrite(descriptor, new, size)
                self._hash(descriptor, path, size, new[:written])
                size += written
                new = new[written:]
        except OSError as error:
            if full(error):
                raise StoreFullError(f"no room for more of the upload: {error.strerror}") from None
            raise
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _hash(self, descriptor: int, path: Path, at: int, data: memoryview) -> None:
        hashed = self._hashes.get(path)
        if at == 0:
            hashed = self._hashes[path] = _Hashed(hashlib.sha256())
        elif hashed is None or hashed.upto != at:
            # It came before a restart, or through another process.
            self._hashes.pop(path, None)
            return
        hashed.digest.update(data)
        hashed.upto = at + len(data)
        hashed.seen = _state(os.fstat(descriptor))

    def _digest_so_far(self, descriptor: int, path: Path) -> str | None:
        """Return the digest of what has come; None if not all of it came here."""
        hashed = self._hashes.get(path)
        if hashed is None or hashed.seen != _state(os.fstat(descriptor)):
            return None
        digest: str = hashed.digest.hexdigest()
        return digest

    # -- what has come -------------------------------------------------------------------

    def open(self, sha256: str) -> Arrived:
        """Return an upload that has come whole, as data for a write.

        Raises
        ------
        UploadOffsetError
            If it hasn't.
        IntegrityError
            If it isn't what the digest says. Nothing of it stays.
        """
        found = self.find(sha256)
        if found is None:
            raise UploadOffsetError("there is no such upload; begin it", 0)
        if found.offset != found.length:
            raise UploadOffsetError(
                f"{found.offset:,} of {found.length:,} bytes have come", found.offset
            )
        path = self._path(found)
        try:
            stream = open(open_own(path, os.O_RDONLY), "rb")  # noqa: SIM115 - it is given out
        except FileNotFoundError:
            raise UploadOffsetError("the upload was taken away; begin it anew", 0) from None
        digest = self._digest_so_far(stream.fileno(), path)
        if digest is None:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
        if digest != sha256:
            stream.close()
            self._forget(path)
            raise IntegrityError(_other(sha256))
        return Arrived(path, stream, found)


@dataclass(slots=True)
class _Hashed:
    """What is known of bytes that came through this process."""

    digest: Any
    upto: int = 0
    seen: tuple[int, ...] = ()
    """What the file was like then: another process may have put one of its own there since."""


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns


class Arrived:
    """An upload that has come whole: a stream, which a store can take over instead.

    As a context manager it is closed at the end.
    """

    def __init__(self, path: Path, stream: io.BufferedReader, upload: Upload) -> None:
        self._path = path
        self._stream = stream
        self.sha256 = upload.sha256
        self.size = upload.length

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        return self._stream.read(size)

    def take(self, spool: Spool) -> None:
        """Let a new spool have the file, which comes back unless the spool is adopted.

        Raises
        ------
        UploadOffsetError
            If somebody else was quicker.
        """
        try:
            spool.take(self._path, self.size, self.sha256)
        except FileNotFoundError:
            raise UploadOffsetError("the upload was taken away; begin it anew", 0) from None

    @property
    def is_large(self) -> bool:
        """Whether it is large enough to be a file of its own in a store."""
        return self.size >= MIN_FILE_SIZE

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def __enter__(self) -> Arrived:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open the file of an upload, made if it isn't there."""
    rights.make_folder(path.parent)
    try:
        descriptor = open_own(path, os.O_RDWR)
    except FileNotFoundError:
        try:
            descriptor = rights.create(path)
        except FileExistsError:
            descriptor = open_own(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _other(sha256: str) -> str:
    return f"what came isn't what has the sha256 {sha256}; nothing of it was kept: send it again"
