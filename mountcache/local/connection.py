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
from contextlib import suppress
from typing import Any, Final, cast

from mountcache.errors import (
    DirectoryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from mountcache.local.schema import FORMAT

__all__ = [
    "GuardedConnection",
    "damaged",
    "failed_to_sync",
    "is_damage",
    "newer_format",
    "store_error",
]

_execute = sqlite3.Connection.execute

_KEPT = 256
"""How many answers are kept."""
_KEPT_BYTES = 8192
"""Bytes of data, or characters of metadata, beyond which an answer isn't kept."""


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
    synchronous: int | None = None
    """The level of that name that it was given: 2 syncs each commit, 1 only when the log is read
    in."""
    where: str = "this store"
    """What the store is called in errors."""
    kept: dict[tuple[str, str], tuple[Any, ...]]
    """Answers that hold as long as the database is at `version`."""
    version: int | None = None
    """What ``PRAGMA data_version`` said before the first of them: it tells of each commit of
    another connection, and of none of this one."""
    writer: int | None
    """The thread whose commit is open, which a fork waits for as a whole: to it rows may come
    one by one, and what is raised is for who makes the commit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = threading.RLock()
        self.writer = None
        self.kept = {}
        # One cursor for all reads: making one costs as much as a tenth of a read.
        self._reader = super().cursor()

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.writer is not None and self.writer == threading.get_ident():
            return _execute(self, sql, parameters)
        with self.guard:
            rows = self.rows(sql, parameters)
            answer = _Answer(rows, self._reader.rowcount)
            # Afterwards: what a newer format answered isn't believed.
            self._refuse_newer(self.rows("PRAGMA user_version")[0][0])
            return cast(sqlite3.Cursor, answer)

    def _refuse_newer(self, version: int) -> None:
        if version > FORMAT:
            raise newer_format(version, self.where)

    def rows(self, sql: str, parameters: Any = (), /) -> list[Any]:
        """Return all rows of a query, outside a commit of this thread.

        A query of this alone has to name what no newer format has, see `schema.edit_key`.

        Raises
        ------
        StoreError
            As `store_error` says.
        """
        try:
            with self.guard:
                return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            with self.guard, suppress(sqlite3.Error):
                self._refuse_newer(self._reader.execute("PRAGMA user_version").fetchone()[0])
            if (meant := store_error(error, self.where)) is None:
                raise
            raise meant from error

    def row(
        self, sql: str, key: str, more: object, *, text: int, data: int
    ) -> tuple[Any, ...] | None:
        """Return the one row of a query about a key, or None, outside a commit of this thread.

        It is as it is now: what is kept from before is given out only if nobody has committed
        since, and that is asked for a fifth of the price.

        Parameters
        ----------
        more
            The other parameter, always the same.
        text, data
            The columns that may be large.
        """
        name = key, sql
        with self.guard:
            if self.writer is not None:
                found = self.rows(sql, (key, more))
                return found[0] if found else None
            kept = self.kept.get(name)
            if kept is not None or self.version is None:
                version = self.rows("PRAGMA data_version")[0][0]
                if kept is not None and version == self.version:
                    return kept
                self.kept.clear()
                self.version = version
            found = self.rows(sql, (key, more))
            if not found:
                return None
            row: tuple[Any, ...] = found[0]
            spelled, held = row[text], row[data]
            # Of other types they are what another program wrote.
            if (type(spelled) is str and len(spelled) <= _KEPT_BYTES) and (
                held is None or (type(held) is bytes and len(held) <= _KEPT_BYTES)
            ):
                if len(self.kept) >= _KEPT:
                    self.kept.clear()
                self.kept[name] = row
            return row

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        with self.guard:
            return super().executemany(sql, parameters)

    def close(self) -> None:
        with self.guard:
            super().close()


_OTHER_TABLES: Final = re.compile(
    "no such (table|column|index)|Could not decode|malformed JSON|JSON cannot hold"
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


def failed_to_sync(error: sqlite3.Error) -> bool:
    """Return whether a commit failed when all of it may have been written."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_IOERR


def newer_format(version: int, where: str) -> DirectoryError:
    """Return what is told of a store that a later version has made, or migrated."""
    return DirectoryError(
        f"the store in {where} is of format {version}, made by a later version of mountcache; "
        f"this one reads format {FORMAT}: upgrade mountcache"
    )


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
