"""What was staged and taken away: kept for a while, so that it can be had back.

Through a mount, a staged value that is replaced, deleted, reverted or given up goes into the
table ``undo`` in the commit that takes it away, and shares its bytes. What of it is let go is
decided by `surplus`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from mountcache.local.content import Content
from mountcache.local.records import UNKNOWN_BASE, BaseOf, Edit, Taken, Why
from mountcache.local.rows import base_columns
from mountcache.local.view import PAGE

__all__ = [
    "Kept",
    "drop",
    "entries",
    "expire",
    "forget",
    "is_kept",
    "keep",
    "keep_taken",
    "pages",
    "surplus",
]

AGE: Final = 14 * 86400.0
"""Seconds for which something is kept."""

PER_KEY: Final = 10
"""How many are kept of one key."""

_COLUMNS: Final = (
    "seq, key, kind, content, sha, size, meta, author, at,"
    " base_kind, base, base_sha, base_meta, base_entry, taken, why"
)


class Kept(NamedTuple):
    """What decides how long something is kept."""

    seq: int
    key: str
    size: int
    taken: float


def surplus(kept: Sequence[Kept], now: float, over: int) -> list[int]:
    """Return the numbers of those that go.

    1. What is older than 14 days, and of each key all but the last 10.
    2. Then, the oldest first, as many as make up `over` bytes; the last one of a key outlives
       the others.

    Parameters
    ----------
    kept
        In the order in which they were taken away.
    now
        The time.
    over
        How many bytes have to go, those of the first rule included.
    """
    gone: list[Kept] = []
    stay: list[tuple[bool, Kept]] = []
    later: Counter[str] = Counter()
    for each in reversed(kept):
        if later[each.key] >= PER_KEY or now - each.taken > AGE:
            gone.append(each)
        else:
            stay.append((later[each.key] == 0, each))
        later[each.key] += 1
    over -= sum(each.size for each in gone)
    for _, each in sorted(stay):
        if over <= 0:
            break
        gone.append(each)
        over -= each.size
    return [each.seq for each in gone]


def keep(
    con: sqlite3.Connection, content: Content, edit: Edit, why: Why, now: float, room: int
) -> None:
    """Keep an edit inside the commit that takes it away, and let go of what is too much.

    Parameters
    ----------
    room
        Bytes that all of them may take; a value larger than that isn't kept.
    """
    if edit.kind == "del":
        return
    # What a push in flight makes of the key, nobody can ask when that has ended.
    base = UNKNOWN_BASE if edit.base.kind == "op" else edit.base
    taken = Taken(
        0, edit.key, edit.kind, edit.content, edit.sha256, edit.size, edit.meta, edit.author,
        edit.at, base, now, why,
    )  # fmt: skip
    keep_taken(con, content, taken, room)


def keep_taken(con: sqlite3.Connection, content: Content, taken: Taken, room: int) -> None:
    """Keep something, as `keep` does; it gets a number of its own."""
    if room <= 0 or (taken.size or 0) > room:
        return
    now = taken.taken
    con.execute(
        f"INSERT INTO undo ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            taken.key, taken.kind, taken.content, taken.sha256, taken.size, taken.meta,
            taken.author, taken.at, *base_columns(taken.base)[:5], now, taken.why,
        ),
    )  # fmt: skip
    total = _total(con)
    if total > room:
        # A good part at once, so that not each commit looks at all of them.
        _let_go(con, content, surplus(_kept(con), now, total - room * 3 // 4))
    else:
        nearby = "key = ? OR seq IN (SELECT seq FROM undo ORDER BY seq LIMIT 2)"
        _let_go(con, content, surplus(_kept(con, nearby, taken.key), now, 0))


def drop(con: sqlite3.Connection, content: Content, amount: int, now: float) -> int:
    """Let at least `amount` bytes go inside a commit, if there are as many; return how many."""
    if amount <= 0 or not (before := _total(con)):
        return 0
    _let_go(con, content, surplus(_kept(con), now, amount))
    return before - _total(con)


def expire(con: sqlite3.Connection, content: Content, now: float) -> int:
    """Let go inside a commit of what isn't to be kept any longer; return how many entries."""
    gone = surplus(_kept(con), now, 0)
    _let_go(con, content, gone)
    return len(gone)


def entries(con: sqlite3.Connection, key: str | None = None) -> list[Taken]:
    """Return what was taken away, the last first: of one key, or of all."""
    where, named = ("", ()) if key is None else ("WHERE key = ?", (key,))
    found = con.execute(f"SELECT {_COLUMNS} FROM undo {where} ORDER BY seq DESC", named)
    return [_taken(columns) for columns in found.fetchall()]


def pages(content: Content) -> Iterator[Taken]:
    """Iterate over what was taken away, the first first, a page at a time."""
    after = -1
    while True:
        sql = f"SELECT {_COLUMNS} FROM undo WHERE seq > ? ORDER BY seq LIMIT ?"
        found = content.connection().execute(sql, (after, PAGE)).fetchall()
        yield from map(_taken, found)
        if len(found) < PAGE:
            return
        after = found[-1][0]


def is_kept(con: sqlite3.Connection, taken: Taken) -> bool:
    """Return whether an entry is there still: the number of the last one is given again."""
    sql = "SELECT 1 FROM undo WHERE seq = ? AND key = ? AND content IS ?"
    return con.execute(sql, (taken.seq, taken.key, taken.content)).fetchone() is not None


def _taken(c: tuple[Any, ...]) -> Taken:
    return Taken(*(*c[:9], BaseOf(*c[9:14]), *c[14:]))


def forget(con: sqlite3.Connection, content: Content, seq: int) -> None:
    """Let go of what was had back, inside a commit."""
    if con.execute("SELECT 1 FROM undo WHERE seq = ?", (seq,)).fetchone() is not None:
        _let_go(con, content, [seq])


def _total(con: sqlite3.Connection) -> int:
    found: int = con.execute("SELECT value FROM state WHERE name = 'undo_bytes'").fetchone()[0]
    return found


def _kept(con: sqlite3.Connection, where: str = "1", *parameters: Any) -> list[Kept]:
    columns = "seq, key, coalesce(size, 0), CAST(taken AS REAL)"
    sql = f"SELECT {columns} FROM undo WHERE {where} ORDER BY seq"
    return [Kept(*found) for found in con.execute(sql, parameters).fetchall()]


def _let_go(con: sqlite3.Connection, content: Content, gone: Sequence[int]) -> None:
    for seq in gone:
        (named,) = con.execute(
            "DELETE FROM undo WHERE seq = ? RETURNING content", (seq,)
        ).fetchone()
        if named is not None:
            content.release(con, [named])
