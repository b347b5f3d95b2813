"""Many at once: a folder's files as keys, and keys as a folder's files.

What is in the folder, and how nothing is written outside of it, is next door in `folders`.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from mountcache.abc import Readable, Value, chunks, facts_of, read_again
from mountcache.errors import (
    InvalidKeyError,
    ReadOnlyKeyError,
    StoreError,
    StoreUnavailableError,
)
from mountcache.jsonform import parse, spelling
from mountcache.keys import check_key
from mountcache.local.decide import merged_meta
from mountcache.local.records import Row
from mountcache.stopping import check_stopped, stopped_by, stopper
from mountcache.sync.folders import Beneath, look, open_file, parts
from mountcache.sync.mount import Mount, Mounted

__all__ = [
    "ExportReport",
    "ImportReport",
    "Link",
    "Trees",
    "export_tree",
    "import_tree",
    "poured_file",
]

Link = Literal["auto", "copy"]
Metadata = Mapping[str, Any] | Callable[[str, Path], Mapping[str, Any]]
Progress = Callable[[int, int, str], object]

_EVERY: Final = 0.1
_AHEAD: Final = 8
_SHOWN: Final = 3
_FICLONE: Final = 0x40049409
"""Linux's ioctl that gives a file the bytes of another, each to be copied when one is changed."""


class Trees(Mounted, Protocol):
    """A mounted store, as far as many of its keys are read and written at once."""

    def get(self, key: str) -> Value: ...

    def set(self, key: str, value: tuple[Readable, Mapping[str, Any]]) -> None: ...

    def set_data(self, key: str, data: Readable) -> None: ...

    def update_metadata(self, key: str, metadata: Mapping[str, Any]) -> None: ...

    def transaction(self, notes: str) -> AbstractContextManager[object]: ...


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a folder's files."""

    staged: int
    """Files whose keys are staged now."""
    unchanged: int
    """Files whose keys had their bytes and metadata already."""
    bytes: int
    """Length of what was staged."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Files and folders that were left out without having been excluded, and why."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What became of the keys that were to be files."""

    written: int
    """Files that were written."""
    already: int
    """Files that were there with the same bytes."""
    bytes: int
    """Length of what was written."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Keys that are no files now, and why."""


def import_tree(
    store: Trees,
    directory: str | os.PathLike[str],
    prefix: str = "",
    metadata: Metadata | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
    progress: Progress | None = None,
    left_out: Callable[[str, str], object] | None = None,
) -> ImportReport:
    """Stage the files of a folder, and of those in it, in one transaction.

    All of them are staged or, on any error, none. Files whose keys have these bytes already
    aren't staged again. Memory doesn't grow with the bytes, only by some 2 kB a file.
    The commit at the end takes about a third of a millisecond a file, and other writers of the
    store wait 5 s at most: go folder by folder with more than some 10,000 files.

    Parameters
    ----------
    store
        A mounted store.
    directory
        The folder. No link is followed out of it, and none to a folder.
    prefix
        What comes before a file's path below the folder in its key; a "/" is put between the
        two unless it ends in one.
    metadata
        Names to set beside those there are; or what returns them, called as ``metadata(key,
        path)``.
    include
        Shell patterns, of which a file's path below the folder, or that of a folder it lies
        in, has to match one; "*" crosses "/". None given: all.
    exclude
        Shell patterns of which none may.
    hidden
        Whether files and folders whose names begin with "." are taken too.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.
    left_out
        Called as ``left_out(path, why)`` for all that is left out without having been
        excluded, before anything is written.

    Raises
    ------
    InvalidKeyError
        Before anything is written, if a file's path can't be a key.
    ReadOnlyKeyError
        Before anything is written, if the keys lie outside the mount point.
    ConflictError
        If one of the keys was changed here meanwhile; nothing is staged.
    OSError
        If a file can't be read; nothing is staged.
    """
    mount = store.mount
    root = Path(directory)
    folder = look(
        root, include=include, exclude=exclude, hidden=hidden,
        avoid=getattr(mount.catalog.content, "directory", None),
    )  # fmt: skip
    before = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
    _check_keys(mount, [before + path for path in folder.files], root)
    if isinstance(metadata, Mapping):
        spelling(metadata)
    for path, why in folder.left_out.items():
        if left_out is not None:
            left_out(path, why)
    if folder.files:
        # All keys begin with both.
        _learn(store, max(before, mount.prefix, key=len))
    paced = _Paced(progress, len(folder.files))
    staged = size = 0
    with store.transaction(f"put -r {root}"):
        for path, file in folder.files.items():
            key = before + path
            names = metadata(key, file) if callable(metadata) else metadata or {}
            added = _stage(store, key, file, names)
            if added is not None:
                staged, size = staged + 1, size + added
            paced.step(key)
    return ImportReport(staged, len(folder.files) - staged, size, folder.left_out)


def _check_keys(mount: Mount, keys: Sequence[str], root: Path) -> None:
    """Refuse all of them if one of them can't be."""
    check: Callable[[str], str] = getattr(mount.backing, "check_key", check_key)
    wrong: list[InvalidKeyError] = []
    for key in keys:
        if not key.startswith(mount.prefix) or key == mount.prefix:
            raise ReadOnlyKeyError(
                f"{key!r} lies outside the mount point {mount.prefix!r}, where nothing can be "
                f"written, so nothing was staged; give a prefix that begins with {mount.prefix!r}"
            )
        try:
            check(key)
        except InvalidKeyError as error:
            wrong.append(error)
    if wrong:
        shown = "; ".join(map(str, wrong[:_SHOWN])) + ("; ..." if len(wrong) > _SHOWN else "")
        raise InvalidKeyError(
            f"{len(wrong):,} of the {len(keys):,} files in {root} can't be keys, so nothing was "
            f"staged: {shown}; rename or exclude them"
        )


def _learn(store: Trees, before: str) -> None:
    """Take upstream's listing in, so that no file costs a question of its own."""
    try:
        for _ in store.glob(glob.escape(before) + "*"):
            break
    except StoreError:
        pass  # what isn't known by this is asked for, or only created


def _stage(store: Trees, key: str, file: Path, names: Mapping[str, Any]) -> int | None:
    """Stage one file; return its length, None if the key is as it should be already."""
    mount = store.mount
    row = mount.staging.row(key[len(mount.prefix) :], mounted=True)
    there = merged_meta(row)
    with open_file(file) as data:
        size = os.fstat(data.fileno()).st_size
        if there is not None and _has(row, data, size):
            merged = {**parse(there), **names}
            if spelling(merged) == spelling(parse(there)):
                return None
        if there is None and row.complete and row.edit is None:
            store.set(key, (data, names))
        else:
            _set_beside(store, key, data, names)
        return data.tell()


def _set_beside(store: Trees, key: str, data: BinaryIO, names: Mapping[str, Any]) -> None:
    """Set data, and names beside the metadata that may be there."""
    try:
        store.set_data(key, data)
        if names:
            store.update_metadata(key, names)
    except StoreUnavailableError:
        # Whether the key is upstream, and with what metadata, can't be known now. The edit
        # only creates: if the key is there after all, push says conflict.
        if data.tell():
            raise
        store.set(key, (data, names))


def _has(row: Row, data: io.BufferedReader, size: int) -> bool:
    """Whether a key has the bytes of a file; leaves the file at its beginning."""
    sha, length = _bytes_of(row)
    if sha is None or length not in (None, size):
        return False
    same = hashlib.file_digest(data, "sha256").hexdigest() == sha
    data.seek(0)
    return same


def _bytes_of(row: Row) -> tuple[str | None, int | None]:
    """Return digest and length of a key's bytes, as far as they are known here."""
    edit, copy, entry = row.edit, row.copy, row.entry
    if edit is not None:
        return (edit.base.sha256, None) if edit.kind == "meta" else (edit.sha256, edit.size)
    if entry is not None and entry.sha256 is not None:
        return entry.sha256, entry.size
    if copy is not None and (entry is None or copy.entry == entry.entry):
        return copy.sha256, copy.size
    return None, None


def export_tree(
    store: Trees,
    pattern: str,
    directory: str | os.PathLike[str],
    link: Link = "auto",
    *,
    force: bool = False,
    workers: int = 8,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the keys that match a pattern as files: key ``a/b`` as ``directory/a/b``.

    Each is written aside and renamed. Nothing is ever written outside of the directory,
    whatever the keys are, and no link below it is followed: a key that can't be a file there
    is among those that failed.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    directory
        Made if it isn't there.
    link
        "auto": where the file system can share the blocks of two files until one of them is
        changed (Btrfs, XFS), a value that is here takes no room and no time; elsewhere, and with
        "copy", bytes are copied. Hard links are never made: to change such a file would change
        the cache.
    force
        Whether a file that is there with other bytes is replaced.
    workers
        How many values are on their way at once.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.

    Raises
    ------
    StoreUnavailableError
        If upstream is out of reach for every key; or, once what is known was written, if it
        may hold more.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("export_tree")
    if link not in ("auto", "copy"):
        raise ValueError(f'link is "auto" or "copy", not {link!r}')
    if workers < 1:
        raise ValueError(f"an export has at least 1 worker, not {workers}")
    keys, missing = _matching(store, pattern)
    failed = _no_files(keys)
    todo = [key for key in keys if key not in failed]
    paced = _Paced(progress, len(todo))
    written = size = unavailable = 0
    with Beneath(Path(directory)) as folder:
        for key, came in _all(
            todo, lambda key: _write(store, folder, key, link, force=force), workers
        ):
            match came:
                case int():
                    written, size = written + 1, size + came
                case Exception():
                    failed[key] = _why(came)
                    unavailable += isinstance(came, StoreUnavailableError)
            paced.step(key)
    if todo and unavailable == len(todo):
        raise StoreUnavailableError(failed[todo[0]])
    already = len(keys) - len(failed) - written
    if missing is not None:
        raise StoreUnavailableError(
            f"{written:,} files were written, {already:,} were there, {len(failed):,} failed; "
            f"{missing}"
        )
    return ExportReport(written, already, size, failed)


def _matching(store: Trees, pattern: str) -> tuple[list[str], StoreUnavailableError | None]:
    keys: list[str] = []
    try:
        keys.extend(store.glob(pattern))
    except StoreUnavailableError as error:
        if not keys:
            raise
        return keys, error
    return keys, None


def _no_files(keys: Sequence[str]) -> dict[str, str]:
    """Return which keys can't be files beneath a folder, and why."""
    failed = {}
    there = set(keys)
    for key in keys:
        try:
            steps = parts(key)
        except ValueError as error:
            failed[key] = str(error)
            continue
        above = ("/".join(steps[:count]) for count in range(1, len(steps)))
        if clash := next((each for each in above if each in there), None):
            failed[key] = f"{clash!r} is a key too, and one name can't be a file and a folder"
    return failed


def _all(
    keys: Sequence[str], write: Callable[[str], int | None], workers: int
) -> Iterator[tuple[str, int | Exception | None]]:
    """Iterate over what became of the keys, in the order in which they are done."""

    stop = stopper()

    def one(key: str) -> tuple[str, int | Exception | None]:
        try:
            with stopped_by(stop):
                return key, write(key)
        except (StoreError, KeyError, OSError) as error:
            return key, error

    todo = iter(keys)
    coming: set[Future[tuple[str, int | Exception | None]]] = set()
    with ThreadPoolExecutor(workers, "mountcache-export") as pool:
        try:
            while True:
                check_stopped()
                room = workers * _AHEAD - len(coming)
                coming |= {pool.submit(one, key) for key in islice(todo, room)}
                if not coming:
                    return
                here, coming = wait(coming, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in here)
        finally:
            for future in coming:
                future.cancel()


def _write(store: Trees, folder: Beneath, key: str, link: Link, *, force: bool) -> int | None:
    """Write one key; return its length, None if the file is there as it should be."""

    def attempt() -> int | None:
        value = store.get(key)
        if _is_there(folder, key, value, force=force):
            return None
        size = 0

        def fill(file: BinaryIO) -> None:
            nonlocal size
            size = _poured(value, file, link)

        folder.write(key, fill, replace=force)
        return size

    return read_again(attempt)


def _is_there(folder: Beneath, key: str, value: Value, *, force: bool) -> bool:
    """Whether a file has the bytes of a value; FileExistsError if others, not to be lost."""
    file = folder.read(key)
    if file is None:
        return False
    with file:
        length = os.fstat(file.fileno()).st_size
        if value.size in (None, length) and _same(file, value):
            return True
    if not force:
        raise FileExistsError(errno.EEXIST, "is there already, with other bytes", key)
    return False


def _same(file: io.BufferedReader, value: Value) -> bool:
    sha = facts_of(value).sha256
    if sha is not None:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha
    with value.data as data:
        return all(file.read(len(piece)) == piece for piece in chunks(data)) and not file.read(1)


def _poured(value: Value, file: BinaryIO, link: Link) -> int:
    """Write the data of a value to a new file; return its length."""
    path = getattr(value, "path", None) if link == "auto" else None
    if path is not None and _shared(path, file):
        return os.fstat(file.fileno()).st_size
    size = 0
    with value.data as data:
        for piece in chunks(data):
            file.write(piece)
            size += len(piece)
    return size


def poured_file(path: Path, file: BinaryIO) -> None:
    """Write the bytes of a file to a new one, sharing blocks where that can be."""
    if not _shared(path, file):
        with path.open("rb") as data:
            shutil.copyfileobj(data, file, 1048576)


def _shared(path: str | Path, file: BinaryIO) -> bool:
    """Give a new file the blocks of another; False where that can't be, or the other has gone."""
    try:
        with open(path, "rb") as other:
            fcntl.ioctl(file.fileno(), _FICLONE, other.fileno())
    except OSError:
        return False
    return True


def _why(error: Exception) -> str:
    match error:
        case KeyError() if not isinstance(error, StoreError):
            return "it has gone meanwhile"
        case OSError() if error.strerror:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


class _Paced:
    """Progress, told at most ten times a second and at the end."""

    def __init__(self, tell: Progress | None, total: int) -> None:
        self._tell = tell
        self._total = total
        self._done = 0
        self._told = 0.0

    def step(self, key: str) -> None:
        self._done += 1
        if self._tell is None:
            return
        if time.monotonic() - self._told >= _EVERY or self._done == self._total:
            self._told = time.monotonic()
            self._tell(self._done, self._total, key)
