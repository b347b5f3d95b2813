"""What somebody else may have put into a store's directory: it isn't followed, run or waited for.

A link leads out of the directory, a FIFO or a device keeps its reader, a trigger or a view runs
with our statements. Entries and schema are looked at when a store is opened, each file once more
when it is opened. Who exchanges whole subdirectories while a store is open is as good as its user.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Collection
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

from diskcache.core import EVICTION_POLICY

from mountcache.errors import DirectoryError
from mountcache.local import schema
from mountcache.local.cache import DATABASE, StoreCache

__all__ = [
    "PLACE",
    "check_entries",
    "check_schema",
    "check_state",
    "missing",
    "open_own",
    "value_opener",
]

PLACE: Final = "CREATE TABLE place (name TEXT PRIMARY KEY, value) WITHOUT ROWID"
"""The one table that is neither diskcache's nor the catalog's: where the directory is."""

_TAG_INDEX: Final = "CREATE INDEX Cache_tag_rowid ON Cache(tag, rowid)"

_DATABASE_FILES: Final = [f"{DATABASE}{end}" for end in ("", "-wal", "-shm", "-journal")]


def _strange(path: str | os.PathLike[str], what: str) -> DirectoryError:
    return DirectoryError(
        f"{os.fspath(path)} is {what}, where a store has a file or folder of its own; somebody "
        "else put it there, so it isn't used: look at it, and move it away"
    )


def _what(mode: int) -> str:
    match stat.S_IFMT(mode):
        case stat.S_IFLNK:
            return "a symbolic link"
        case stat.S_IFDIR:
            return "a folder"
        case stat.S_IFREG:
            return "a file"
    return "no plain file"


def check_entries(directory: Path, rooms: Collection[str]) -> set[str]:
    """Check that what a store uses in its directory is what it made; return all names.

    Parameters
    ----------
    directory
        The store's.
    rooms
        Which subdirectories it has.

    Raises
    ------
    DirectoryError
        If one is a link, a FIFO, or something else that leads elsewhere.
    """
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            names.add(entry.name)
            if entry.name in rooms:
                if not entry.is_dir(follow_symlinks=False):
                    raise _strange(entry, _what(entry.stat(follow_symlinks=False).st_mode))
            elif entry.name in _DATABASE_FILES or entry.name.endswith(".lock"):
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # of a log whose last user has just closed it
                _check(entry, found, alone=True)
    return names


def _check(path: str | os.PathLike[str], found: os.stat_result, *, alone: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _strange(path, _what(found.st_mode))
    if alone and found.st_nlink > 1:
        # SQLite, too, damages a database that has two names.
        raise _strange(path, "a file that has another name elsewhere (a hard link)")


def open_own(path: str | os.PathLike[str], flags: int, *, alone: bool = True) -> int:
    """Open a file that is there as one of ours; return its descriptor.

    Parameters
    ----------
    path
        Its name in the directory of a store.
    flags
        As of `os.open`.
    alone
        Refuse one that has another name: what is written would be written there.

    Raises
    ------
    FileNotFoundError
        If it isn't there.
    DirectoryError
        If it leads elsewhere.
    """
    # Without O_NONBLOCK the opening of a FIFO waits for somebody at its other end.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError:
        if stat.S_ISREG(mode := os.lstat(path).st_mode):
            raise
        raise _strange(path, _what(mode)) from None
    try:
        _check(path, os.fstat(descriptor), alone=alone)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def value_opener(path: str, flags: int) -> int:
    """Open the file of a byte string, as an `opener` of `open`.

    It may have other names only in ``tmp/``, where it is lent.
    """
    descriptor = open_own(path, flags, alone=False)
    found = os.fstat(descriptor)
    if found.st_nlink > 1 and found.st_nlink > 1 + _lent(path, found.st_ino):
        os.close(descriptor)
        raise _strange(path, "a file that has another name elsewhere (a hard link)")
    return descriptor


def _lent(path: str, inode: int) -> int:
    with os.scandir(os.path.join(os.path.dirname(os.path.dirname(path)), "tmp")) as entries:
        return sum(entry.inode() == inode for entry in entries)


def check_schema(con: sqlite3.Connection, directory: Path) -> None:
    """Check that a database has no tables, triggers and views but ours, before any is used.

    Raises
    ------
    DirectoryError
        If it has.
    """
    (version,) = con.execute("PRAGMA user_version").fetchone()
    ours = _ours(version or schema.FORMAT)
    for kind, name, sql in con.execute("SELECT type, name, sql FROM sqlite_master"):
        if (kind, name, sql) in ours or (kind != "trigger" and _is_of_sqlite(name, sql)):
            continue
        raise DirectoryError(
            f"the database in {directory} has the {kind} {name[:60]!r}, which isn't as mountcache "
            "and diskcache make it; somebody has tampered with it, so it isn't opened"
        )


def missing(con: sqlite3.Connection) -> list[str]:
    """Return what a database lacks of the tables, indexes and triggers that it was made with."""
    found = set(con.execute("SELECT type, name, sql FROM sqlite_master"))
    (version,) = con.execute("PRAGMA user_version").fetchone()
    with closing(_made(version or schema.FORMAT)) as made:
        wanted = made.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return [f"its {kind} {name}" for kind, name, sql in wanted if (kind, name, sql) not in found]


def check_state(con: sqlite3.Connection, directory: Path) -> None:
    """Check the counters, of which each commit makes others.

    Raises
    ------
    DirectoryError
        If one is no number.
    """
    for name, value in con.execute("SELECT name, value FROM state"):
        if type(value) is not int and type(schema.STATE.get(name)) is int:
            raise DirectoryError(
                f"the database in {directory} has no number in its counter {name!r}; another "
                "program wrote into it: restore the directory from a backup"
            )


def _is_of_sqlite(name: str, sql: str | None) -> bool:
    """Whether it is the index of a key, or what ANALYZE leaves."""
    if sql is None:
        return name.startswith("sqlite_autoindex_")
    return sql.startswith(f"CREATE TABLE {name}(") and name in ("sqlite_stat1", "sqlite_stat4")


@cache
def _ours(version: int) -> frozenset[tuple[str, str, str]]:
    with closing(_made(version)) as con:
        # What a Cache of another program adds to the directory.
        for policy in EVICTION_POLICY.values():
            if policy["init"]:
                con.execute(policy["init"])
        con.execute(_TAG_INDEX)
        return frozenset(con.execute("SELECT type, name, sql FROM sqlite_master").fetchall())


def _made(version: int) -> sqlite3.Connection:
    """Return a database in memory as a new store of a format has it."""
    con = sqlite3.connect(":memory:", isolation_level=None)
    con.execute("BEGIN")
    StoreCache("", lambda: con, str, create=True)
    schema.create(con, version)
    con.execute(PLACE)
    return con
