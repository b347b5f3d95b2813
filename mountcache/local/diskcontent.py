"""DiskContent: byte strings in a directory that many threads and processes share.

One diskcache Cache, with the catalog's tables in its database: one log, one flush, one commit
for bytes and row. Small byte strings lie in their rows, large ones are files. The order that a
power cut can't break: the file is written, moved to its place and synced, its directory is
synced, then the row that names it is committed; and it is removed once a commit without that row
is on disk.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, Literal

from mountcache.errors import DirectoryError, IntegrityError, ReadOnlyStoreError, StoreError
from mountcache.local import directory as places
from mountcache.local import rights
from mountcache.local.cache import (
    DATABASE,
    SETTINGS,
    StoreCache,
    checked_filename,
    filename_of,
    write_settings,
)
from mountcache.local.connection import GuardedConnection
from mountcache.local.content import (
    BINARY,
    MIN_FILE_SIZE,
    RAW,
    WAIT,
    DatabaseContent,
    Shelf,
    Spool,
)
from mountcache.local.forking import no_fork, watch
from mountcache.local.liveness import FileLock, Liveness, ReadOnlyLock, collect
from mountcache.local.migrating import migrate
from mountcache.local.planted import open_own, value_opener
from mountcache.local.schema import APPLICATION_ID, FORMAT
from mountcache.local.uploads import Uploads

__all__ = ["DiskContent", "Durability", "Shared"]

Durability = Literal["full", "normal"]

Shared = Literal["group"]
"""Who besides its owner may use a directory."""

_INSERT = """
INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename, value)
VALUES (?, 1, ?, ?, ?, ?, ?, ?)
"""

_logger = logging.getLogger("mountcache")

_DEFAULT_LIMIT = 10 * 2**30
LOG_PAGES: Final = 256
"""Pages of 4 KiB after which the database's log is read in. That takes three flushes, and a set
writes some 16 pages: with 64 of them it took as long as a fifth of each."""
_LOG_LIMIT: Final = LOG_PAGES * 4096
"""Bytes that the log keeps once it was read in."""
_ROOMS = [f"{number:02x}" for number in range(256)]


class DiskContent(DatabaseContent):
    """The bytes of a store, in a directory.

    Parameters
    ----------
    directory
        Made if it isn't there; ``~`` is the user's home.
    durability
        "full": what is committed survives a power cut; "normal": it may lose the last moments,
        and tears nothing.
    shared
        "group": a new directory is for the group that it belongs to; None: for its owner alone. One
        that is there stays as it was made.
    file_system
        Tells the type of the file system that a path is on.

    Raises
    ------
    DirectoryError
        If it is not ours, not usable, damaged, or of a newer format.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        shared: Shared | None = None,
        file_system: places.FileSystem = places.file_system_of,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability is 'full' or 'normal', not {durability!r}")
        self.directory = Path(os.path.abspath(os.path.expanduser(directory)))
        super().__init__(str(self.directory))
        if shared not in (None, "group"):
            raise ValueError(f'shared is None or "group", not {shared!r}')
        self._durable = durability == "full"
        self._shared = shared == "group"
        self.boot = _boot()
        self.incarnation, self.named = "", 0.0
        self._local = threading.local()
        self._opening = threading.RLock()
        self._connections: weakref.WeakSet[GuardedConnection] = weakref.WeakSet()
        self._at_rest: list[GuardedConnection] = []
        self._locks: dict[str, FileLock] = {}
        self._liveness: Liveness | None = None
        self._closed = ""
        self._mode: places.Mode = "mode=rw"
        self._cache: StoreCache | None = None
        self.readonly = not places.claim(self.directory, file_system)
        if not self.readonly:
            self.uploads = Uploads(self.directory / "uploads", self.free_bytes)
        with places.translated(self.directory), no_fork():
            self._open()
            watch(self)

    # -- opening -------------------------------------------------------------------------

    def _open(self) -> None:
        path = self.directory
        if self.readonly:
            self._open_readonly()
            return
        found = places.look(path, self._mode)
        if found.outdated:
            found = self._bring_up(found)
        if found.exists:
            self._check_shared(whole=found.whole)
        lock = FileLock(path / "open.lock")
        settled = found.exists and found.whole and found.settled and not found.moved
        if not (settled and self._joins(lock)):
            if not found.whole:
                # First of all: what is made in it takes its rights from it.
                rights.set_rights(path, rights.GROUP if self._shared else rights.OWNER)
            if not lock.acquire(WAIT):
                raise DirectoryError(
                    f"{path} is being made or repaired by {lock.holder()}; try again"
                )
            try:
                found = self._mend(places.look(path, self._mode))
                self._begin_life()
            finally:
                lock.release()
        self.incarnation, self.named = found.incarnation, found.named
        self._collect(anyway=False)
        if self.uploads is not None:
            self.uploads.collect()

    def _bring_up(self, found: places.Found) -> places.Found:
        """Bring the tables of an earlier version to the newest format.

        A store that a group shares isn't, unasked: others may have that version.
        """
        if rights.is_shared(self.directory):
            raise DirectoryError(
                f"the store in {self.directory}, which a group shares, is of format "
                f"{found.format}: `mountcache migrate` brings it to format {FORMAT}, which earlier "
                "versions can't read"
            )
        migrate(self.directory)
        return places.look(self.directory, self._mode)

    def _joins(self, lock: FileLock) -> bool:
        """Join those who have the directory open, unless it is being made or repaired.

        A repair takes the lock and then looks for who is alive, and who opens does both the other
        way round: so they can't miss each other.
        """
        self._begin_life()
        assert self._liveness is not None
        if lock.is_held():
            self._liveness.end()
            return False
        return True

    def _check_shared(self, *, whole: bool) -> None:
        """Let a directory stay whose it is."""
        shared = rights.is_shared(self.directory)
        if whole and self._shared and not shared:
            raise DirectoryError(
                f"the store in {self.directory} was made for its owner alone; choose an empty "
                "directory for one that a group shares"
            )
        self._shared = self._shared or shared

    def _mend(self, found: places.Found) -> places.Found:
        """Bring a directory that isn't finished, or isn't where it was, into its proper state."""
        path = self.directory
        incarnation, named = found.incarnation, found.named
        if not found.exists:
            places.make(path)
        con = self.connection()
        if not found.exists or not found.settled or found.moved:
            # Made durably by all; diskcache would set it too, and can't inside a transaction.
            self._sync(con, 2)
            con.execute("BEGIN IMMEDIATE")
            con.writer = threading.get_ident()
            try:
                if not found.exists:
                    con.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    StoreCache(self.where, lambda: con, self.new_id, create=True)
                write_settings(con)
                if not found.exists or found.moved:
                    incarnation, named = places.name_again(con, path), time.time()
                con.execute("COMMIT")
            except BaseException:
                if con.in_transaction:
                    con.execute("ROLLBACK")
                raise
            finally:
                con.writer = None
        if not found.whole:
            places.fill(path)
        return places.Found(True, True, True, incarnation, named=named)

    def _open_readonly(self) -> None:
        path = self.directory
        if not (path / DATABASE).exists():
            raise DirectoryError(
                f"{path} can't be written, so no store can be made in it; choose another directory"
            )
        self._mode = places.reading_mode(path)
        found = places.look(path, self._mode)
        if not found.exists:
            raise DirectoryError(f"the store in {path} isn't finished, and can't be written here")
        if found.outdated:
            raise DirectoryError(
                f"the store in {path} is of format {found.format}, and can't be written here: who "
                f"can write it brings it to format {FORMAT} with `mountcache migrate`"
            )
        self.incarnation, self.named = found.incarnation, found.named
        if found.moved:
            self.incarnation = secrets.token_hex(16)
        self._begin_life()

    def _begin_life(self) -> None:
        if self.readonly:
            self._token = secrets.token_hex(16)
        else:
            self._liveness = Liveness(self.directory / "live")
            self._token = self._liveness.token
        self._counter = count(secrets.randbelow(256))

    @property
    def token(self) -> str:
        return self._token

    @property
    def cache(self) -> StoreCache:
        """The diskcache Cache, for looking at: its setters know nothing of the catalog."""
        if self._cache is None:
            self._cache = StoreCache(self.where, self.connection, self.new_id)
        return self._cache

    def new_id(self) -> str:
        """Return the id of a new byte string."""
        return f"{self._token}-{next(self._counter):x}"

    # -- connections ---------------------------------------------------------------------

    def connection(self) -> GuardedConnection:
        if self.readonly:
            return self._connection_of_a_reader()
        try:
            con: GuardedConnection = self._local.connection
        except AttributeError:
            return self._connect()
        return con

    def _connection_of_a_reader(self) -> GuardedConnection:
        if self._mode == "immutable=1" and places.has_log(self.directory):
            self._mode = "mode=ro"  # somebody else has come who can write
        lease: _Lease | None = getattr(self._local, "lease", None)
        if lease is None or lease.mode != self._mode:
            return self._connect()
        return lease.con

    def _connect(self) -> GuardedConnection:
        with self._opening:
            if self._closed:
                raise StoreError(self._closed)
            con = sqlite3.connect(
                places.database_uri(self.directory, self._mode),
                timeout=WAIT,
                isolation_level=None,
                # Closed from another thread, under its guard: at a close, and after a fork.
                check_same_thread=False,
                factory=GuardedConnection,
                uri=True,
            )
            con.where = self.where
            self._connections.add(con)
        con.execute("PRAGMA trusted_schema = OFF")
        con.execute(f"PRAGMA cache_size = {SETTINGS['sqlite_cache_size']}")
        con.execute(f"PRAGMA mmap_size = {SETTINGS['sqlite_mmap_size']}")
        if not self.readonly:
            (journal,) = con.execute("PRAGMA journal_mode = wal").fetchone()
            if journal != "wal":
                raise DirectoryError(
                    f"the file system of {self.directory} can't share memory between processes, "
                    "which the database of a store needs; choose a directory on a local disk"
                )
            con.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            con.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
        self._local.lease = _Lease(con, self._mode)
        self._local.connection = con
        return con

    @staticmethod
    def _sync(con: GuardedConnection, level: int) -> None:
        if con.synchronous != level:
            con.execute(f"PRAGMA synchronous = {level}")
            con.synchronous = level

    def _begin_immediate(self, con: GuardedConnection, wait: float, *, synced: bool) -> None:
        self._sync(con, 2 if synced else 1)
        hurried = wait < WAIT - 0.1 or wait > WAIT
        if hurried:
            con.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        try:
            con.execute("BEGIN IMMEDIATE")
        finally:
            if hurried:
                con.execute(f"PRAGMA busy_timeout = {int(WAIT * 1000)}")

    def close(self) -> None:
        with self._turn, self._opening:
            if self._closed:
                return
            self._closed = f"the store in {self.directory} is closed; connect() opens it again"
            self._local = threading.local()
            self._cache = None
            for con in list(self._connections):
                con.close()
            if self._liveness is not None:
                self._liveness.end()

    def _remove(self, released: Iterable[Path], *, synced: bool) -> None:
        if synced or self._flush():
            super()._remove(released, synced=True)

    def _flush(self) -> bool:
        """Make durable what is committed, whatever the durability; tell if that could be done.

        Bytes mustn't go before the commit that lets go of them is on disk: a power cut would
        bring back a row that names them.
        """
        try:
            with self._write(WAIT, synced=True) as con:
                # A commit that changes nothing isn't synced: this counts for diskcache alone.
                con.execute("UPDATE Settings SET value = value + 1 WHERE key = 'hits'")
        except StoreError as error:
            _logger.info("files that no row names stay in %s for now: %s", self.where, error)
            return False
        return True

    # -- byte strings --------------------------------------------------------------------

    def spool(self) -> Spool:
        return Spool(self.new_id(), self._token, self)

    def shelf(self) -> Shelf:
        return Shelf(self, self.new_id())

    def create(self, content_id: str) -> tuple[BinaryIO, Path]:
        """Open a new temporary file, as `Files` asks."""
        if self.readonly:
            raise ReadOnlyStoreError(f"{self.directory} can only be read here")
        path = self.directory / "tmp" / content_id
        return open(rights.create(path), "w+b"), path

    def claim(self, path: Path, content_id: str) -> tuple[BinaryIO, Path]:
        """Make a file a temporary one, as `Files` asks."""
        temporary = self.directory / "tmp" / content_id
        os.rename(path, temporary)
        return open(open_own(temporary, os.O_RDWR), "r+b"), temporary

    def place(self, temporary: Path, content_id: str) -> str:
        """Move a finished file to where it stays, as `Files` asks."""
        filename = filename_of(content_id)
        there = self.directory / filename
        try:
            os.rename(temporary, there)
        except FileNotFoundError:
            # A stranger's clear() removes directories that are empty.
            rights.make_folder(there.parent)
            places.sync(self.directory)
            os.rename(temporary, there)
        return filename

    def path(self, filename: str) -> Path:
        return self.directory / checked_filename(filename, self.directory)

    def sync_directory(self, filename: str) -> None:
        """Make the name of a file survive a power cut, as `Files` asks."""
        places.sync((self.directory / filename).parent)

    def remove(self, filename: str) -> None:
        """Remove a file, as `Files` asks."""
        self.path(filename).unlink(missing_ok=True)

    def room(self) -> str:
        """Return how much room there is, as `Files` asks."""
        return f"{self.free_bytes()} bytes are free on the disk of {self.directory}"

    def adopt_file(self, con: sqlite3.Connection, path: Path, size: int) -> str:
        commit = self._open_commit(con)
        content_id = self.new_id()
        if (found := path.lstat().st_size) != size:
            raise IntegrityError(f"{path} has {found} bytes where {size} were expected")
        if size < MIN_FILE_SIZE:
            self._insert(con, content_id, None, path.read_bytes(), size)
            commit.released.append(path)
            return content_id
        filename = self.place(path, content_id)
        commit.taken.append((self.directory / filename, path))
        self._insert(con, content_id, filename, b"", size)
        return content_id

    def _insert(
        self,
        con: sqlite3.Connection,
        content_id: str,
        filename: str | None,
        value: bytes,
        size: int,
    ) -> None:
        now = time.time()
        stored = (0, RAW, None, value) if filename is None else (size, BINARY, filename, None)
        con.execute(_INSERT, (content_id, now, now, *stored))

    def sync_file(self, content_id: str) -> None:
        row = (
            self.connection()
            .execute("SELECT filename FROM Cache WHERE key = ? AND raw = 1", (content_id,))
            .fetchone()
        )
        if row is None:
            raise FileNotFoundError(content_id)
        if row[0] is not None:
            with open(self.path(row[0]), "rb", opener=value_opener) as file:
                os.fsync(file.fileno())
            self.sync_directory(row[0])

    def free_bytes(self) -> int:
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def default_limit(self) -> int:
        return min(self.free_bytes() // 10, _DEFAULT_LIMIT)

    # -- other processes -----------------------------------------------------------------

    def lock(self, name: str) -> FileLock | ReadOnlyLock:
        path = self.directory / f"{name}.lock"
        if self.readonly:
            return ReadOnlyLock(path)
        return self._locks.setdefault(name, FileLock(path))

    def gc(self) -> int:
        return self.sweep()[0]

    def sweep(self) -> tuple[int, int]:
        if self.readonly:
            raise ReadOnlyStoreError(f"{self.directory} can only be read here")
        return self._collect(anyway=True)

    def _collect(self, *, anyway: bool) -> tuple[int, int]:
        rooms = ["tmp", "partial", *_ROOMS]
        return collect(self.directory, self._token, rooms, self._named, anyway=anyway)

    def _named(self, filenames: set[str]) -> set[str] | None:
        """Pick the files that a row names; by id where that is quick, else by looking at all.

        Those that none names may go at once: whoever let go of them may have done so in a commit
        that wasn't synced, and be dead.
        """
        con = self.connection()
        named = {
            filename
            for filename in filenames
            if con.execute(
                "SELECT 1 FROM Cache WHERE key = ? AND raw = 1 AND filename = ?",
                (Path(filename).stem, filename),
            ).fetchone()
        }
        if con.execute("SELECT 1 FROM sqlite_master WHERE name = 'partial'").fetchone():
            named |= {
                f"partial/{name}"
                for (name,) in con.execute("SELECT name FROM partial")
                if f"partial/{name}" in filenames
            }
        if filenames - named:
            rows = con.execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")
            named |= filenames & {filename for (filename,) in rows}
        return named if not filenames - named or self._flush() else None

    def before_fork(self) -> None:
        self._turn.acquire()
        self._opening.acquire()
        # Held on to: else those of other threads would be closed half-way in the child.
        self._at_rest = list(self._connections)
        for con in self._at_rest:
            con.guard.acquire()

    def after_fork_in_parent(self) -> None:
        for con in self._at_rest:
            con.guard.release()
        self._at_rest = []
        self._opening.release()
        self._turn.release()

    def after_fork_in_child(self) -> None:
        self._generation += 1
        self._group.forget()
        connections, self._at_rest = self._at_rest, []
        self._turn = threading.RLock()
        self._opening = threading.RLock()
        self._local = threading.local()
        self._connections = weakref.WeakSet()
        self._cache = None
        if self._writer is not None:
            # Its own thread forked inside a commit: to close that would undo, in memory that
            # is shared, what the parent is writing. It stays open, and nothing works here.
            self._closed = (
                f"this process was forked inside a commit to {self.directory}, so it can't use "
                "the store; fork outside of it"
            )
            _left_alone.extend(connections)
            self._writer = self._commit = None
            return
        for con in connections:
            con.close()
        for lock in self._locks.values():
            lock.forget()
        if self._closed:
            return
        if self._liveness is not None:
            self._liveness.forget()
        self._begin_life()


class _Lease:
    """A thread's hold on its connection, which ends with the thread."""

    def __init__(self, con: GuardedConnection, mode: str) -> None:
        self.con = con
        self.mode = mode

    def __del__(self) -> None:
        self.con.close()


_left_alone: list[GuardedConnection] = []


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
