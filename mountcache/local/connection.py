"""Connections to a store's database that can be brought to rest, and what their errors mean.

SQLite keeps the locks of a process in that process's memory, for all its connections to a file
together. Neither a fork nor a close from another thread is safe while some thread is inside
SQLite, so each statement here runs under the guard of its connection.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from mountcache.errors import (
    DirectoryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)

__all__ = ["GuardedConnection", "damaged", "is_damage", "store_error"]

_execute = sqlite3.Connection.execute


class _Answer:
    """The rows of a finished statement; of sqlite3.Cursor what a reader needs."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class GuardedConnection(sqlite3.Connection):
    """A connection whose statements run to their end under `guard`.

    Outside a commit `execute` fetches all rows at once: a half-read query would hold a read
    lock, and would step on outside the guard. Any thread may close it.
    """

    guard: threading.RLock
    where: str = "this store"
    """What the store is called in errors."""
    writer: int | None
    """The thread whose commit is open, which a fork waits for as a whole: to it rows may come
    one by one, and what is raised is for who makes the commit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = threading.RLock()
        self.writer = None
        # One cursor for all reads: making one costs as much as a tenth of a read.
        self._reader = super().cursor()

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.writer is not None and self.writer == threading.get_ident():
            return _execute(self, sql, parameters)
        with self.guard:
            rows = self.rows(sql, parameters)
            return cast(sqlite3.Cursor, _Answer(rows, self._reader.rowcount))

    def rows(self, sql: str, parameters: Any = (), /) -> list[Any]:
        """Return all rows of a query, outside a commit of this thread.

        Raises
        ------
        StoreError
            As `store_error` says.
        """
        try:
            with self.guard:
                return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            if (meant := store_error(error, self.where)) is None:
                raise
            raise meant from error

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        with self.guard:
            return super().executemany(sql, parameters)

    def close(self) -> None:
        with self.guard:
            super().close()


_OTHER_TABLES: Final = re.compile(
    "no such (table|column)|Could not decode|malformed JSON|JSON cannot hold"
)


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error of SQLite says that the database isn't whole."""
    # The low byte is the primary code; the others only say how it came about.
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return True
        # Our statements are always the same, so it is the tables that aren't as they were made.
        case sqlite3.SQLITE_ERROR | None:
            return _OTHER_TABLES.match(str(error)) is not None
        case _:
            return False


def damaged(error: Exception, where: str) -> DirectoryError:
    """Return what is told of a database that isn't whole."""
    return DirectoryError(
        f"the database in {where} is damaged ({error}): `mountcache doctor --repair` saves what "
        "can be read of it"
    )


def store_error(error: sqlite3.Error, where: str) -> StoreError | None:
    """Return what an error of SQLite means to the user of a store; None if it is a bug of ours.

    Parameters
    ----------
    where
        The store's directory, for the sentence.
    """
    if is_damage(error):
        return damaged(error, where)
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreBusyError(f"another process keeps {where} locked; try again")
        case sqlite3.SQLITE_FULL:
            return StoreFullError(f"the disk of {where} is full: nothing was changed; make room")
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return StoreFullError(f"the disk of {where} is full: nothing was changed; make room")
        case sqlite3.SQLITE_READONLY:
            return ReadOnlyStoreError(f"the database in {where} can't be written: {error}")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return DirectoryError(f"the database in {where} can't be read or written: {error}")
        case sqlite3.SQLITE_TOOBIG:
            return StoreFullError(f"a value is larger than a row of {where} can be: {error}")
        case _:
            return None
