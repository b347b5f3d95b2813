"""What happened to which key: the table ``log``, written in the commits in which it happens.

The latest `KEPT` records are there. Their numbers go up, so that they say, too, what has changed
since somebody looked last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from mountcache.local.view import PAGE

__all__ = ["KEPT", "Logged", "What", "before_last", "entries", "last", "oldest", "record"]

KEPT: Final = 100_000
"""How many records are kept."""

_NOTE: Final = 300
"""How many characters of a note are kept."""

What = Literal["staged", "reverted", "given up", "resolved", "pushed", "failed", "upstream"]


@dataclass(frozen=True, slots=True)
class Logged:
    """One thing that happened."""

    seq: int
    at: float
    """When, in seconds since 1970 by the clock of who did it."""
    what: What
    """staged: an edit was made here; reverted, given up: it was taken away; resolved: a conflict
    was; pushed; failed: a push of it did, or met a conflict; upstream: it is known here that the
    key was changed there."""
    key: str | None
    """None: more keys at once than are told one by one."""
    kind: str | None
    """put, meta or del, of an edit, perm of permissions; set, update or delete, of what upstream
    did."""
    author: str | None
    size: int | None
    version: str | None
    grade: str | None
    note: str


_COLUMNS: Final = "seq, at, what, key, kind, author, size, version, grade, note"


def record(
    con: sqlite3.Connection,
    at: float,
    what: What,
    key: str | None,
    *,
    kind: str | None = None,
    author: str | None = None,
    size: int | None = None,
    version: str | None = None,
    grade: str | None = None,
    note: str = "",
) -> None:
    """Record what happens, inside the commit in which it does; the oldest records go."""
    cursor = con.execute(
        "INSERT INTO log (at, what, key, kind, author, size, version, grade, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (at, what, key, kind, author, size, version, grade, note[:_NOTE]),
    )
    con.execute("DELETE FROM log WHERE seq <= ?", ((cursor.lastrowid or 0) - KEPT,))


def last(con: sqlite3.Connection) -> int:
    """Return the number of the latest record; 0 if there is none."""
    found: int | None = con.execute("SELECT max(seq) FROM log").fetchone()[0]
    return found or 0


def oldest(con: sqlite3.Connection) -> int:
    """Return the number of the first record that is kept; 1 if there is none."""
    found: int | None = con.execute("SELECT min(seq) FROM log").fetchone()[0]
    return found or 1


def before_last(con: sqlite3.Connection, number: int, key: str | None = None) -> int:
    """Return the number after which the last `number` records come: of one key, or of all."""
    where = "WHERE key = ?2" if key is not None else "WHERE ?2 IS NULL"
    sql = f"SELECT seq FROM log {where} ORDER BY seq DESC LIMIT 1 OFFSET ?1"
    found = con.execute(sql, (number, key)).fetchone()
    return 0 if found is None else int(found[0])


def entries(con: sqlite3.Connection, after: int, key: str | None = None) -> Iterator[Logged]:
    """Iterate over the records after a number: of one key, or of all."""
    where = "key = ?2 AND seq > ?1" if key is not None else "seq > ?1 AND ?2 IS NULL"
    sql = f"SELECT {_COLUMNS} FROM log WHERE {where} ORDER BY seq LIMIT {PAGE}"
    while True:
        found = con.execute(sql, (after, key)).fetchall()
        for columns in found:
            yield Logged(*columns)
        if len(found) < PAGE:
            return
        after = found[-1][0]
