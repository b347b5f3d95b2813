"""What was staged and taken away: kept for a while, so that it can be had back.

Through a mount, a staged value that is replaced, deleted, reverted or given up goes into the
table ``undo`` in the commit that takes it away, and shares its bytes. What of it is let go is
decided by `surplus`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from mountcache.local.content import Content
from mountcache.local.records import Edit, EditKind

__all__ = ["Kept", "Taken", "Why", "drop", "entries", "keep", "surplus"]

AGE: Final = 14 * 86400.0
"""Seconds for which something is kept."""

PER_KEY: Final = 10
"""How many are kept of one key."""

Why = Literal["replaced", "deleted", "reverted", "given up"]


class Kept(NamedTuple):
    """What decides how long something is kept."""

    seq: int
    key: str
    size: int
    taken: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A staged value that was taken away."""

    seq: int
    key: str
    kind: EditKind
    content: str | None
    """Its bytes, for `Catalog.open_content`; None if only metadata was staged."""
    sha256: str | None
    size: int | None
    meta: str
    author: str
    at: float
    """When it was staged."""
    taken: float
    """When it was taken away."""
    why: Why


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
    if edit.kind == "del" or (edit.size or 0) > room:
        return
    con.execute(
        "INSERT INTO undo (key, kind, content, sha, size, meta, author, at, taken, why)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            edit.key, edit.kind, edit.content, edit.sha256, edit.size, edit.meta, edit.author,
            edit.at, now, why,
        ),
    )  # fmt: skip
    total = _total(con)
    if total > room:
        # A good part at once, so that not each commit looks at all of them.
        _let_go(con, content, surplus(_kept(con), now, total - room * 3 // 4))
    else:
        nearby = "key = ? OR seq IN (SELECT seq FROM undo ORDER BY seq LIMIT 2)"
        _let_go(con, content, surplus(_kept(con, nearby, edit.key), now, 0))


def drop(con: sqlite3.Connection, content: Content, amount: int, now: float) -> int:
    """Let at least `amount` bytes go inside a commit, if there are as many; return how many."""
    if amount <= 0 or not (before := _total(con)):
        return 0
    _let_go(con, content, surplus(_kept(con), now, amount))
    return before - _total(con)


def entries(con: sqlite3.Connection, key: str | None = None) -> list[Taken]:
    """Return what was taken away, the last first: of one key, or of all."""
    found = con.execute(
        "SELECT seq, key, kind, content, sha, size, meta, author, at, taken, why FROM undo"
        " WHERE ?1 IS NULL OR key = ?1 ORDER BY seq DESC",
        (key,),
    )
    return [Taken(*columns) for columns in found.fetchall()]


def _total(con: sqlite3.Connection) -> int:
    found: int = con.execute("SELECT value FROM state WHERE name = 'undo_bytes'").fetchone()[0]
    return found


def _kept(con: sqlite3.Connection, where: str = "1", *parameters: Any) -> list[Kept]:
    sql = f"SELECT seq, key, coalesce(size, 0), taken FROM undo WHERE {where} ORDER BY seq"
    return [Kept(*columns) for columns in con.execute(sql, parameters).fetchall()]


def _let_go(con: sqlite3.Connection, content: Content, gone: Sequence[int]) -> None:
    for seq in gone:
        (named,) = con.execute(
            "DELETE FROM undo WHERE seq = ? RETURNING content", (seq,)
        ).fetchone()
        if named is not None:
            content.release(con, [named])
