"""MemoryStore: a store that ends with its process."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from itertools import count
from pathlib import Path
from typing import NoReturn

from mountcache.events import EventManager
from mountcache.local.connection import GuardedConnection
from mountcache.local.content import RAW, DatabaseContent, Spool
from mountcache.local.forking import watch
from mountcache.local.store import LocalStore

__all__ = ["MemoryContent", "MemoryStore"]

_CACHE = """
CREATE TABLE Cache (rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, mode INTEGER, filename TEXT,
                    value BLOB, size INTEGER, store_time REAL,
                    UNIQUE (key, raw))
"""


class MemoryLock:
    """The lock of a store that only this process has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, timeout: float) -> bool:
        return self._lock.acquire(timeout=max(0.0, timeout))

    def release(self) -> None:
        self._lock.release()

    def holder(self) -> str:
        return "this process" if self._lock.locked() else ""

    def forget(self) -> None:
        """Drop, in a forked child, what its parent holds."""
        self._lock = threading.Lock()


class MemoryContent(DatabaseContent):
    """The bytes of a store, in memory.

    One connection for all threads; who writes keeps it for the whole commit, so that nobody
    reads what isn't committed.
    """

    boot = ""

    def __init__(self) -> None:
        super().__init__("this MemoryStore")
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, factory=GuardedConnection
        )
        self._connection.guard, self._connection.where = self._turn, self.where
        self._connection.execute(_CACHE)
        self._token = self.incarnation = secrets.token_hex(16)
        self._counter = count()
        self._locks: dict[str, MemoryLock] = {}
        watch(self)

    @property
    def token(self) -> str:
        return self._token

    def connection(self) -> GuardedConnection:
        return self._connection

    def spool(self) -> Spool:
        return Spool(f"{self._token}-{next(self._counter):x}", self._token, None)

    def shelf(self) -> None:
        return None

    def adopt_file(self, con: sqlite3.Connection, path: Path, size: int) -> str:
        spool = self.spool()
        spool.write(path.read_bytes())
        spool.finish(False)
        self._open_commit(con).released.append(path)
        return self.adopt(con, spool)

    def _insert(
        self,
        con: sqlite3.Connection,
        content_id: str,
        filename: str | None,
        value: bytes,
        size: int,
    ) -> None:
        con.execute(
            "INSERT INTO Cache (key, raw, mode, value, size) VALUES (?, 1, ?, ?, ?)",
            (content_id, RAW, value, size),
        )

    def path(self, filename: str) -> Path:
        raise FileNotFoundError(filename)

    def sync_file(self, content_id: str) -> None:
        """Do nothing: there is no disk."""

    def free_bytes(self) -> int:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def default_limit(self) -> None:
        return None

    def lock(self, name: str) -> MemoryLock:
        return self._locks.setdefault(name, MemoryLock())

    def gc(self) -> int:
        return 0

    def sweep(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        """Do nothing: what is in memory is there until nobody needs it."""

    def before_fork(self) -> None:
        self._turn.acquire()

    def after_fork_in_parent(self) -> None:
        self._turn.release()

    def after_fork_in_child(self) -> None:
        # A copy of its own; what its parent was committing, it may commit too.
        self._group.forget()
        self._turn = self._connection.guard = threading.RLock()
        if self._writer is not None:
            self._turn.acquire()
        self._token = secrets.token_hex(16)
        self._counter = count()
        for lock in self._locks.values():
            lock.forget()


class MemoryStore(LocalStore):
    """A store that ends with its process.

    Parameters
    ----------
    event_manager
        Who hears of changes.
    """

    def __init__(self, event_manager: EventManager | None = None) -> None:
        self._content = MemoryContent()
        super().__init__(lambda: self._content, event_manager=event_manager)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a MemoryStore ends with its process and can't be pickled to another; a "
            "DiskCacheStore can"
        )
