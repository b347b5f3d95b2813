"""Content: byte strings under ids, and the database that names them.

What the catalog needs of a place for bytes, and what its implementations share. Next door:
`diskcontent` (a directory), `memory` (nothing that outlives the process).
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, Self, TypeVar

from mountcache.errors import (
    DirectoryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
)
from mountcache.local.beside import HashBeside
from mountcache.local.connection import GuardedConnection, failed_to_sync, store_error
from mountcache.local.grouping import GroupCommit
from mountcache.local.planted import value_opener

if TYPE_CHECKING:
    from mountcache.local.uploads import Uploads

__all__ = [
    "MIN_FILE_SIZE",
    "Content",
    "ContentLock",
    "DatabaseContent",
    "Files",
    "Shelf",
    "Spool",
    "Stored",
    "full",
]

MIN_FILE_SIZE: Final = 32768
"""From this many bytes on, a byte string is a file of its own."""

_HASHED_BESIDE: Final = 16 * 1048576
"""From this many bytes on, the rest of a byte string is hashed in a thread of its own."""

RAW: Final = 1
"""diskcache's mode of bytes that lie in the row."""

BINARY: Final = 2
"""diskcache's mode of bytes that lie in a file."""

_T = TypeVar("_T")
_logger = logging.getLogger("mountcache")

Stored = tuple[int, str | None, bytes | None, int, float]
"""The columns (mode, filename, value, size, store_time) of a row of ``Cache``."""
_TICK: Final = 2.0
"""Seconds by which the time of a file may differ from that of the clock when it was written."""


class AlteredError(FileNotFoundError):
    """A file of bytes was written again since they were stored: perhaps they are others now."""


WAIT: Final = 5.0
"""Seconds for which a writer waits for another one."""


class ContentLock(Protocol):
    """A lock of a store: one holder at a time, in whatever thread or process. Not re-entrant.

    The holder's death frees it.
    """

    def acquire(self, timeout: float) -> bool:
        """Take it within `timeout` seconds; False if somebody else holds it for longer."""

    def release(self) -> None:
        """Give it back; any thread may."""

    def holder(self) -> str:
        """Return who holds it, such as "pid 123 on HOST"; "" if nobody does."""


class Files(Protocol):
    """Where the large byte strings of a spool go."""

    @property
    def token(self) -> str:
        """Names this process; another one has another."""

    def create(self, content_id: str) -> tuple[BinaryIO, Path]:
        """Open a new temporary file."""

    def claim(self, path: Path, content_id: str) -> tuple[BinaryIO, Path]:
        """Make a file of the same file system a temporary one; open it."""

    def place(self, temporary: Path, content_id: str) -> str:
        """Move a finished file to where it stays; return its name."""

    def path(self, filename: str) -> Path:
        """Return where a file is."""

    def sync_directory(self, filename: str) -> None:
        """Make the name of a file survive a power cut."""

    def remove(self, filename: str) -> None:
        """Remove a file."""

    def room(self) -> str:
        """Return a clause that says how much room there is, for errors."""


class Shelf:
    """One file for the small byte strings of a long transaction, so that memory stays flat.

    It has no name, and so goes with the process in any case.
    """

    def __init__(self, files: Files, name: str) -> None:
        self._file, path = files.create(name)
        path.unlink()
        self._end = 0

    def append(self, data: bytes | bytearray) -> int:
        """Add bytes; return where they begin."""
        begin = self._end
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, self._end)
            self._end += written
            view = view[written:]
        return begin

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on."""
        found = os.pread(self._file.fileno(), size, offset)
        if len(found) != size:
            raise OSError(errno.EIO, f"{len(found)} of {size} bytes came back")
        return found

    def close(self) -> None:
        """Let go of all bytes."""
        self._file.close()


class Spool:
    """A new byte string on its way in.

    Small ones stay in memory; larger ones go to a temporary file, and by rename to where they
    stay. As a context manager it is discarded at the end unless it was adopted.

    Parameters
    ----------
    content_id
        Its id, once it is adopted.
    owner
        The token of the process that makes it; another one can't adopt or discard it.
    files
        Where large ones go; None keeps all of them in memory.
    """

    def __init__(self, content_id: str, owner: str, files: Files | None) -> None:
        self.content_id = content_id
        self.owner = owner
        self.size = 0
        self.durable = False
        """Whether a file of it was synced."""
        self.adopted = False
        """Whether a row that is committed names it."""
        self.filename: str | None = None
        """Its file, once it is finished; None if its bytes are in memory."""
        self._files = files
        self._digest = hashlib.sha256()
        self._beside: HashBeside | None = None
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._temporary: Path | None = None
        self._shelved: tuple[Shelf, int] | None = None
        self._finished = False
        self._taken: tuple[Path, str] | None = None
        """Where its file was before, and its digest."""

    def take(self, path: Path, size: int, sha256: str) -> None:
        """Have a file for all of the bytes; it goes back there unless the spool is adopted.

        Parameters
        ----------
        path
            A file on the file system of the store, which nobody writes any more.
        size, sha256
            Its length and digest.

        Raises
        ------
        FileNotFoundError
            If it isn't there.
        """
        assert self._files is not None and not self.size
        self._file, self._temporary = self._files.claim(path, self.content_id)
        self._taken, self.size = (path, sha256), size

    def write(self, data: bytes) -> None:
        """Append `data`.

        Raises
        ------
        StoreFullError
            If the disk has no room for it.
        """
        if self._finished:
            raise ValueError("a finished spool can't be written")
        self._hash(data)
        self.size += len(data)
        if self._file is None:
            if self.size < MIN_FILE_SIZE or self._files is None:
                self._buffer += data
                return
            with self._room_needed():
                self._file, self._temporary = self._files.create(self.content_id)
                self._file.write(self._buffer)
            self._buffer = bytearray()
        with self._room_needed():
            self._file.write(data)

    def _hash(self, data: bytes) -> None:
        if self.size >= _HASHED_BESIDE and self._beside is None:
            self._beside = HashBeside(self._digest)
        if self._beside is None:
            self._digest.update(data)
        else:
            self._beside.update(bytes(data))

    def _end_hash(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.end()

    def finish(self, durable: bool) -> None:
        """End the byte string; if `durable`, so that a file of it survives a power cut.

        Raises
        ------
        StoreFullError
            If the disk has no room for it.
        """
        if self._finished:
            return
        self._finished = True
        if self._file is None:
            return
        assert self._files is not None and self._temporary is not None
        with self._room_needed(), self._file as file:
            file.flush()
            self.filename = self._files.place(self._temporary, self.content_id)
            # One flush of the file system's journal takes the new name along.
            if durable:
                os.fsync(file.fileno())
                self._files.sync_directory(self.filename)
                self.durable = True

    @property
    def sha256(self) -> str:
        """The digest of the bytes so far, 64 hex digits."""
        if self._taken is not None:
            return self._taken[1]
        self._end_hash()
        return self._digest.hexdigest()

    @property
    def value(self) -> bytes:
        """The bytes of a finished spool that has no file of its own."""
        if self._shelved is not None:
            shelf, offset = self._shelved
            return shelf.read(offset, self.size)
        return bytes(self._buffer)

    @property
    def in_memory(self) -> int:
        """How many bytes of it are in memory."""
        return len(self._buffer)

    def shelve(self, shelf: Shelf) -> None:
        """Move the bytes of a finished spool out of memory."""
        if self._buffer:
            with self._room_needed():
                self._shelved = (shelf, shelf.append(self._buffer))
            self._buffer = bytearray()

    def open(self) -> io.BufferedIOBase:
        """Return a seekable stream of the finished bytes."""
        if not self._finished:
            raise ValueError("a spool is read once it is finished")
        if self.filename is None:
            return io.BytesIO(self.value)
        assert self._files is not None
        return open(self._files.path(self.filename), "rb")

    def discard(self) -> None:
        """Let go of the bytes unless they were adopted. Harmless when repeated."""
        self._finished = True
        if self._files is None or self._files.token == self.owner:
            self._end_hash()
        if self._file is not None:
            with suppress(OSError):  # on a full disk not even what is in the buffer goes out
                self._file.close()
        if self.adopted or self._files is None or self._files.token != self.owner:
            return
        filename, self.filename = self.filename, None
        if self._taken is not None:
            self._give_back(filename)
        elif filename is not None:
            self._files.remove(filename)
        elif self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def _give_back(self, filename: str | None) -> None:
        assert self._taken is not None and self._files is not None
        there = self._temporary if filename is None else self._files.path(filename)
        assert there is not None
        if self._taken[0].exists():
            there.unlink(missing_ok=True)
        else:
            there.rename(self._taken[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    @contextmanager
    def _room_needed(self) -> Iterator[None]:
        assert self._files is not None
        try:
            yield
        except OSError as error:
            if full(error):
                raise StoreFullError(
                    f"no room for a value of {self.size} bytes or more: {self._files.room()}"
                ) from error
            raise DirectoryError(
                f"a value of {self.size} bytes or more can't be written to the store's directory: "
                f"{error.strerror}"
            ) from error


def full(error: OSError) -> bool:
    """Return whether an error says that there is no room, or none for a file so large."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Content(Protocol):
    """Byte strings under ids, and the database in which rows name them."""

    @property
    def readonly(self) -> bool:
        """Whether nothing can be written."""

    @property
    def boot(self) -> str:
        """Names the run of this machine since it was started; "" if it can't be told."""

    @property
    def token(self) -> str:
        """Names this process among those that use the store; ids begin with it."""

    @property
    def incarnation(self) -> str:
        """Names the store, and never its copy or a restored backup."""

    @property
    def uploads(self) -> Uploads | None:
        """What others are still sending; None if it has no place for that."""

    def connection(self) -> GuardedConnection:
        """Return this thread's connection, in autocommit; ask again after a fork."""

    def write(
        self, wait: float = WAIT, *, durable: bool = True
    ) -> AbstractContextManager[sqlite3.Connection]:
        """Return a context manager that is one commit, and takes all back on an exception.

        Not re-entrant.

        Parameters
        ----------
        wait
            For how many seconds at most it waits for another writer.
        durable
            False for what upstream can tell again: a power cut may take it, and all that comes
            after it, as long as no durable commit does.

        Raises
        ------
        StoreBusyError, StoreFullError, ReadOnlyStoreError, DirectoryError
            As their names say; nothing is changed then.
        """

    def together(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do work in one commit, which other threads may share; return what it returns.

        It may be done twice, the first time in vain, and in another thread; what it raises takes
        it back, and nothing else. The errors are those of `write`.
        """

    def spool(self) -> Spool:
        """Return a new byte string, to be written."""

    def shelf(self) -> Shelf | None:
        """Return a place for small byte strings outside of memory; None if there is none."""

    def adopt(self, con: sqlite3.Connection, spool: Spool) -> str:
        """Name a finished spool inside a commit; return its id."""

    def adopt_file(self, con: sqlite3.Connection, path: Path, size: int) -> str:
        """Take over a finished file of the same file system inside a commit; return its id.

        It isn't synced.
        """

    def release(self, con: sqlite3.Connection, content_ids: Iterable[str]) -> None:
        """Let go of byte strings inside a commit, unless a row of the catalog names them.

        Their files go after the commit, never before.
        """

    def open(self, stored: Stored, *, altered: bool = False) -> io.BufferedIOBase:
        """Return a seekable snapshot of a byte string.

        Parameters
        ----------
        altered
            Also of a file that was written again: the caller compares it with its digest.

        Raises
        ------
        AlteredError
            If its file was written again since it was stored.
        FileNotFoundError
            If it has gone, or isn't as long as it was.
        """

    def path(self, filename: str) -> Path:
        """Return where the file of a byte string is."""

    def sync_file(self, content_id: str) -> None:
        """Make a byte string that was adopted without syncing survive a power cut."""

    def lock(self, name: str) -> ContentLock:
        """Return the lock of that name."""

    def gc(self) -> int:
        """Remove what dead processes left and no row names; return how many files."""

    def sweep(self) -> tuple[int, int]:
        """Do as `gc` does; return how many files, and how many bytes they took."""

    def free_bytes(self) -> int:
        """Return how many bytes could be added."""

    def default_limit(self) -> int | None:
        """Return how many bytes the copies in a new store may take; None: no limit."""

    def close(self) -> None:
        """Close the database, for all threads."""


@dataclass(slots=True)
class _Commit:
    """What has to happen to files once a commit is done, or isn't."""

    con: GuardedConnection
    generation: int
    synced: bool
    adopted: set[Spool] = field(default_factory=set)
    taken: list[tuple[Path, Path]] = field(default_factory=list)
    """Files that were moved: to where, from where."""
    released: list[Path] = field(default_factory=list)


class DatabaseContent(ABC):
    """What the implementations of `Content` share: commits, and rows for byte strings.

    Parameters
    ----------
    where
        What the store is called in errors.
    """

    readonly = False
    _durable = True
    uploads: Uploads | None = None

    def __init__(self, where: str) -> None:
        self.where = where
        self._turn = threading.RLock()
        self.named = 0.0
        """When the directory was named: files written before that are those of a copy of it."""
        self._writer: int | None = None
        self._commit: _Commit | None = None
        self._generation = 0
        self._group = GroupCommit(WAIT)

    @abstractmethod
    def connection(self) -> GuardedConnection:
        """Return this thread's connection."""

    # -- commits -------------------------------------------------------------------------

    def write(
        self, wait: float = WAIT, *, durable: bool = True
    ) -> AbstractContextManager[sqlite3.Connection]:
        return self._write(wait, synced=durable and self._durable)

    @contextmanager
    def _write(self, wait: float, *, synced: bool) -> Iterator[sqlite3.Connection]:
        """Make one commit, which is on disk once it is done if it is `synced`."""
        if self.readonly:
            raise ReadOnlyStoreError(f"{self.where} can only be read here")
        if self._writer == threading.get_ident():
            raise RuntimeError("a commit of this thread is open already")
        commit = self._begin(wait, synced=synced)
        try:
            yield commit.con
        except BaseException as error:
            self._take_back(commit)
            if isinstance(error, sqlite3.Error) and (meant := store_error(error, self.where)):
                raise meant from error
            raise
        self._finish(commit)

    def together(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._writer == threading.get_ident():
            raise RuntimeError("a commit of this thread is open already")
        return self._group.run(self.write, work)

    def _begin(self, wait: float, *, synced: bool) -> _Commit:
        until = time.monotonic() + wait
        if not self._turn.acquire(timeout=wait):
            raise StoreBusyError(
                f"another thread has been writing to {self.where} for longer than {wait:g} s"
            )
        self._writer = threading.get_ident()
        try:
            con = self.connection()
            try:
                self._begin_immediate(con, max(0.0, until - time.monotonic()), synced=synced)
            except BaseException:
                if con.in_transaction:
                    con.rollback()  # it began, and the store is of a newer format by now
                raise
        except StoreBusyError as error:
            self._end_turn()
            raise StoreBusyError(
                f"another process has been writing to {self.where} for longer than {wait:g} s; "
                "try again"
            ) from error
        except BaseException:
            self._end_turn()
            raise
        con.writer = self._writer
        self._commit = _Commit(con, self._generation, synced)
        return self._commit

    def _begin_immediate(self, con: GuardedConnection, wait: float, *, synced: bool) -> None:
        con.execute("BEGIN IMMEDIATE")

    def _end_turn(self) -> None:
        if self._commit is not None:
            self._commit.con.kept.clear()
            self._commit.con.writer = None
        self._commit = None
        self._writer = None
        self._turn.release()

    def _finish(self, commit: _Commit) -> None:
        if commit.generation != self._generation:
            raise RuntimeError(
                f"this process was forked inside a commit to {self.where}; the commit is its "
                "parent's"
            )
        try:
            commit.con.execute("COMMIT")
        except BaseException as error:
            # An interrupt may come when the commit is done already.
            if isinstance(error, sqlite3.Error) or commit.con.in_transaction:
                self._take_back(commit)
                if isinstance(error, sqlite3.Error) and failed_to_sync(error):
                    # All of it is in the log, and whoever reads that in after a crash takes it
                    # for done: then its rows need their files. Until then gc leaves them.
                    for spool in commit.adopted:
                        spool.adopted = True
            else:
                self._settle(commit)
            if isinstance(error, sqlite3.Error) and (meant := store_error(error, self.where)):
                raise meant from error
            raise
        self._settle(commit)

    def _settle(self, commit: _Commit) -> None:
        for spool in commit.adopted:
            spool.adopted = True
        self._end_turn()
        if commit.released:
            self._remove(commit.released, synced=commit.synced)

    def _remove(self, released: Iterable[Path], *, synced: bool) -> None:
        """Remove files that no row names any more, after a commit that was synced or not.

        One that can't be removed fails nobody: all is committed, and it is collected once
        this process has ended.
        """
        for path in released:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _logger.info("%s stays for now, though no row names it: %s", path, error)

    def _take_back(self, commit: _Commit) -> None:
        if commit.generation != self._generation:
            return
        try:
            # SQLite has taken it back already where the disk was full.
            if commit.con.in_transaction:
                commit.con.execute("ROLLBACK")
            for there, here in commit.taken:
                os.rename(there, here)
        finally:
            self._end_turn()

    # -- byte strings --------------------------------------------------------------------

    def adopt(self, con: sqlite3.Connection, spool: Spool) -> str:
        commit = self._open_commit(con)
        if spool.owner != self.token:
            raise ValueError("a spool is adopted by the process that made it")
        if spool.adopted or spool in commit.adopted:
            # Two keys may share the bytes, as long as one of them still does.
            named = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
            if con.execute(named, (spool.content_id,)).fetchone() is None:
                raise ValueError("the bytes of this spool were adopted, and released since")
            return spool.content_id
        self._insert(con, spool.content_id, spool.filename, spool.value, spool.size)
        commit.adopted.add(spool)
        return spool.content_id

    @property
    @abstractmethod
    def token(self) -> str:
        """Names this process; ids begin with it."""

    @abstractmethod
    def _insert(
        self,
        con: sqlite3.Connection,
        content_id: str,
        filename: str | None,
        value: bytes,
        size: int,
    ) -> None:
        """Write the row of a byte string."""

    def release(self, con: sqlite3.Connection, content_ids: Iterable[str]) -> None:
        commit = self._open_commit(con)
        for content_id in content_ids:
            for (filename,) in con.execute(_RELEASE, (content_id,)).fetchall():
                if filename is not None:
                    commit.released.append(self.path(filename))

    @abstractmethod
    def path(self, filename: str) -> Path:
        """Return where a file is."""

    def open(self, stored: Stored, *, altered: bool = False) -> io.BufferedIOBase:
        mode, filename, value, size, at = stored
        if mode == RAW and type(value) is bytes:
            return io.BytesIO(value)
        if mode == BINARY and filename is not None:
            try:
                stream = open(self.path(filename), "rb", opener=value_opener)  # noqa: SIM115
            except FileNotFoundError:
                raise
            except OSError as error:
                raise DirectoryError(
                    f"{filename} in {self.where} can't be read: {error.strerror}"
                ) from error
            found = os.fstat(stream.fileno())
            if found.st_size == size and (altered or found.st_mtime <= max(at, self.named) + _TICK):
                return stream
            stream.close()
            if found.st_size == size:
                raise AlteredError(f"{filename} was written again since it was stored")
            raise FileNotFoundError(
                f"{filename} has {found.st_size} bytes, and not the {size} it had"
            )
        raise DirectoryError(
            f"{self.where} holds bytes of a kind that mountcache doesn't write (mode {mode}), so "
            "another program wrote into it; they aren't read"
        )

    def _open_commit(self, con: sqlite3.Connection) -> _Commit:
        commit = self._commit
        if commit is None or commit.con is not con:
            raise RuntimeError("byte strings are adopted and released inside a commit")
        return commit


_NAMED = " ".join(
    f"AND NOT EXISTS (SELECT 1 FROM {table} WHERE content = ?1)"
    for table in ("edit", "copy", "op", "undo")
)
_RELEASE = f"DELETE FROM Cache WHERE key = ?1 AND raw = 1 {_NAMED} RETURNING filename"
