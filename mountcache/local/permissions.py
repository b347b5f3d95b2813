"""Staged permissions: a third part of a key, beside its data and metadata.

They are staged, compared and pushed by themselves, and never with a push that doesn't ask for
them. A row says what is to be upstream, and what its author had seen there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from mountcache.local import history, undo
from mountcache.local.catalog import Catalog, get_state, set_state
from mountcache.local.records import (
    ABSENT_BASE,
    UNKNOWN_BASE,
    BaseOf,
    StagedPermissions,
    Taken,
    Why,
)

__all__ = ["all_staged", "discard", "failed", "follow", "rebase", "restore", "settle", "stage",
           "staged"]  # fmt: skip

_ROWS: Final = "SELECT key, seq, staged, base, created, author, at, tries, error FROM permission"


def staged(catalog: Catalog, key: str) -> StagedPermissions | None:
    """Return what is staged of a key's permissions; None if nothing is."""
    return _staged(catalog.content.connection(), key)


def all_staged(catalog: Catalog) -> list[StagedPermissions]:
    """Return all staged permissions, in the order of their making."""
    found = catalog.content.connection().execute(f"{_ROWS} ORDER BY seq").fetchall()
    return [_from(columns) for columns in found]


def stage(
    catalog: Catalog,
    key: str,
    make: Callable[[StagedPermissions | None], str],
    *,
    base: str | None,
    created: bool,
    author: str,
) -> None:
    """Stage permissions, in one commit; what is staged already keeps its base.

    Parameters
    ----------
    make
        Returns what is to be upstream, in normal form, from what is staged before.
    base, created
        As of `StagedPermissions`.
    """
    with catalog.content.write() as con:
        before = _staged(con, key)
        text = make(before)
        if before is not None:
            base, created = before.base, before.created
            if before.text != text:
                _take_away(con, catalog, before, "replaced")
        _write(con, catalog, key, text, base, created=created, author=author)


def restore(catalog: Catalog, taken: Taken) -> None:
    """Stage again what was taken away; what is staged now is kept for undo in its place."""
    with catalog.content.write() as con:
        before = _staged(con, taken.key)
        base, created = taken.base.meta, taken.base.kind == "absent"
        if before is not None:
            base, created = before.base, before.created
            _take_away(con, catalog, before, "replaced")
        _write(con, catalog, taken.key, taken.meta, base, created=created, author=taken.author)
        undo.forget(con, catalog.content, taken.seq)


def discard(catalog: Catalog, key: str, why: Why, seq: int | None = None) -> bool:
    """Take staged permissions away, those of a number alone if it is given; tell if there were."""
    if staged(catalog, key) is None:
        return False
    with catalog.content.write() as con:
        found = _staged(con, key)
        if found is None or seq not in (None, found.seq):
            return False
        _take_away(con, catalog, found, why)
        con.execute("DELETE FROM permission WHERE key = ?", (key,))
        what: history.What = "reverted" if why == "reverted" else "given up"
        _record(con, catalog, what, found)
        return True


def follow(con: sqlite3.Connection, catalog: Catalog, key: str, partner: str | None) -> None:
    """Let staged permissions go where their key goes, inside the commit that deletes it.

    Parameters
    ----------
    partner
        Its new name, which has none upstream; None if it has none: they are kept for undo.
    """
    found = _staged(con, key)
    if found is None:
        return
    con.execute("DELETE FROM permission WHERE key = ?", (key,))
    if partner is None:
        _take_away(con, catalog, found, "deleted")
        return
    other = _staged(con, partner)
    if other is not None:
        _take_away(con, catalog, other, "replaced")
    _write(con, catalog, partner, found.text, None, created=True, author=found.author)


def settle(catalog: Catalog, sent: StagedPermissions, now: str, *, note: str = "") -> None:
    """Note that permissions were pushed; newer ones, staged meanwhile, are made from them.

    Parameters
    ----------
    now
        What upstream shows, in normal form.
    note
        What there is to know of it, for the log.
    """
    with catalog.content.write() as con:
        if note:
            _take_away(con, catalog, sent, "given up")
        con.execute("DELETE FROM permission WHERE key = ? AND seq = ?", (sent.key, sent.seq))
        con.execute("UPDATE permission SET base = ?, created = 0 WHERE key = ?", (now, sent.key))
        _record(con, catalog, "pushed", sent, note)


def failed(catalog: Catalog, one: StagedPermissions, message: str) -> None:
    """Note why permissions couldn't be pushed."""
    with catalog.content.write() as con:
        con.execute(
            "UPDATE permission SET tries = tries + 1, error = ? WHERE key = ? AND seq = ?",
            (message, one.key, one.seq),
        )
        if message != one.error:
            _record(con, catalog, "failed", one, message)


def rebase(
    catalog: Catalog, one: StagedPermissions, base: str, text: str, note: str
) -> StagedPermissions | None:
    """Let permissions be made from what upstream shows; None if they were staged anew meanwhile.

    Parameters
    ----------
    text
        What is to be upstream then.
    """
    with catalog.content.write() as con:
        now = _staged(con, one.key)
        if now is None or now.seq != one.seq:
            return None
        if text != now.text:
            _take_away(con, catalog, now, "replaced")
        con.execute(
            "UPDATE permission SET base = ?, created = 0, staged = ?, error = NULL WHERE key = ?",
            (base, text, one.key),
        )
        _record(con, catalog, "resolved", one, note)
        return _staged(con, one.key)


def _staged(con: sqlite3.Connection, key: str) -> StagedPermissions | None:
    columns = con.execute(f"{_ROWS} WHERE key = ?", (key,)).fetchone()
    return None if columns is None else _from(columns)


def _from(c: tuple[Any, ...]) -> StagedPermissions:
    return StagedPermissions(*(*c[:4], bool(c[4]), *c[5:]))


def _write(
    con: sqlite3.Connection,
    catalog: Catalog,
    key: str,
    text: str,
    base: str | None,
    *,
    created: bool,
    author: str,
) -> None:
    seq = get_state(con, "seq") + 1
    set_state(con, "seq", seq)
    con.execute(
        "INSERT INTO permission (key, seq, staged, base, created, author, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, staged = excluded.staged,"
        " base = excluded.base, created = excluded.created, author = excluded.author,"
        " at = excluded.at, tries = 0, error = NULL",
        (key, seq, text, base, int(created), author, catalog.clock()),
    )
    history.record(con, catalog.clock(), "staged", key, kind="perm", author=author)


def _take_away(con: sqlite3.Connection, catalog: Catalog, one: StagedPermissions, why: Why) -> None:
    if one.base is not None:
        base = BaseOf("digest", meta=one.base)
    else:
        base = ABSENT_BASE if one.created else UNKNOWN_BASE
    catalog.keep_for_undo(
        con,
        Taken(
            0, one.key, "perm", None, None, None, one.text, one.author, one.at, base,
            catalog.clock(), why,
        ),
    )  # fmt: skip


def _record(
    con: sqlite3.Connection,
    catalog: Catalog,
    what: history.What,
    one: StagedPermissions,
    note: str = "",
) -> None:
    history.record(con, catalog.clock(), what, one.key, kind="perm", author=one.author, note=note)
