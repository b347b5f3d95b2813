"""Indexes of the names of metadata that queries ask for, made when they do: at most 8.

Among many keys a query by a value reads them all, unless its name has an index. An index names
the keys that may have a value: for each value that some row has had, whoever looks compares. So
nothing has to go from it in time, and what is written since it was made stands aside, in
``field_new``, until a query takes it in. SQLite's own indexes of expressions won't do: they
take functions that a schema which isn't trusted may not use.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mountcache.errors import StoreError
from mountcache.jsonform import spelling

if TYPE_CHECKING:
    from mountcache.local.content import Content

__all__ = ["MANY", "MOST", "candidates", "has_path", "path_of", "provide"]

MOST: Final = 8
"""How many names have an index."""

MANY: Final = 1000
"""Keys that a query reads without one."""

_LONGEST: Final = 200
"""Characters of a name that may have an index, and of a value that stand in one."""

_WORTH: Final = 50_000
"""Keys that may have a value; if there are more, reading all in their order is as good."""

_FEW: Final = 1000
"""The same, before another name of the query is asked."""

_ASIDE: Final = 500
"""Keys that were written since, which each query looks at, before they are taken in."""

_BATCH: Final = 20_000
_TABLES: Final = ("upstream", "edit")

_VALUES: Final = (
    "SELECT substr(coalesce({t}.norm, {t}.meta) -> :path, 1, " + str(_LONGEST) + ") AS value,"
    " {t}.key AS key FROM {t} WHERE (coalesce({t}.norm, {t}.meta) -> :path) IS NOT NULL"
)


def has_path(name: str) -> bool:
    """Return whether a JSON path can spell a name: not one that JSON escapes."""
    return spelling({name: 0}) == f'{{"{name}":0}}'


def path_of(name: str) -> str:
    """Return the JSON path of a name."""
    return f'$."{name}"'


def candidates(
    content: Content, wanted: Mapping[str, str], low: str, until: str | bytes
) -> list[str] | None:
    """Return the keys that may answer a query, in their order; None if it has to read all.

    Parameters
    ----------
    wanted
        Names and their values in normal form.
    low, until
        The first key that counts, and the first after it that doesn't.
    """
    con = content.connection()
    there = _whole(con)
    if not any(name in there for name in wanted):
        return None
    # In this order: what is taken in meanwhile is found twice, rather than not at all.
    sql = "SELECT key FROM field_new WHERE key >= ? AND key < ? LIMIT ?"
    since = con.execute(sql, (low, until, _WORTH)).fetchall()
    asked = [(there[name], value[:_LONGEST]) for name, value in wanted.items() if name in there]
    for most in (_FEW, _WORTH):
        for slot_and_value in asked:
            found = con.execute(
                "SELECT key FROM field WHERE slot = ? AND value = ? AND key >= ? AND key < ?"
                " ORDER BY key LIMIT ?",
                (*slot_and_value, low, until, most),
            ).fetchall()
            if len(found) < most:
                known = len(since) < _WORTH and _whole(con) == there
                return sorted({key for (key,) in [*found, *since]}) if known else None
    return None


def provide(content: Content, names: Iterable[str]) -> None:
    """Make the indexes that a query by these names lacks, if many keys are here.

    A store that is read only, busy or full does without.
    """
    asked = sorted({name for name in names if len(name) <= _LONGEST and has_path(name)})
    if not asked or len(asked) > MOST or content.readonly:
        return
    with suppress(StoreError):
        con = content.connection()
        if _whole(con):
            _take_in(content)
        there = _whole(con)
        lacking = [name for name in asked if name not in there]
        if lacking and any(_is_large(con, table) for table in _TABLES):
            for name in lacking:
                _make(content, name, asked)


def _whole(con: sqlite3.Connection) -> dict[str, int]:
    """Return the numbers of the names whose indexes are whole."""
    return dict(con.execute("SELECT name, slot FROM field_name WHERE whole").fetchall())


def _is_large(con: sqlite3.Connection, table: str) -> bool:
    return con.execute(f"SELECT 1 FROM {table} LIMIT 1 OFFSET {MANY}").fetchone() is not None


def _make(content: Content, name: str, asked: list[str]) -> None:
    """Make an index: from what there is, while what is written from now on stands aside."""
    with content.write(durable=False) as con:
        others = con.execute("SELECT slot, name FROM field_name ORDER BY slot").fetchall()
        gone = [slot for slot, other in others if other == name]
        left = [slot for slot, other in others if other not in asked]
        gone += left[: max(0, len(others) - len(gone) - MOST + 1)]
        con.executemany("DELETE FROM field_name WHERE slot = ?", [(slot,) for slot in gone])
        # A number of its own: whoever makes an index that is no more has to find that out.
        (slot,) = con.execute(
            "UPDATE state SET value = value + 1 WHERE name = 'seq' RETURNING value"
        ).fetchone()
        con.execute("INSERT INTO field_name VALUES (?, ?, 0, 0)", (slot, name))
    _sweep(content)
    con = content.connection()
    values = " UNION ALL ".join(_VALUES.format(t=table) for table in _TABLES)
    con.execute("DROP TABLE IF EXISTS temp.field_found")
    try:
        # In the order of the index, so that it grows at its end.
        con.execute(
            f"CREATE TEMP TABLE field_found AS SELECT value, key FROM ({values})"
            " ORDER BY value, key",
            {"path": path_of(name)},
        )
        (rows,) = con.execute("SELECT count(*) FROM temp.field_found").fetchone()
        for begin in range(0, rows, _BATCH):
            with content.write(durable=False) as con:
                if not _is_wanted(con, slot):
                    return  # another process makes it anew
                con.execute(
                    "INSERT OR IGNORE INTO field SELECT ?, value, key FROM temp.field_found"
                    " WHERE rowid > ? AND rowid <= ?",
                    (slot, begin, begin + _BATCH),
                )
        with content.write(durable=False) as con:
            con.execute("UPDATE field_name SET whole = 1 WHERE slot = ?", (slot,))
    finally:
        content.connection().execute("DROP TABLE IF EXISTS temp.field_found")


def _sweep(content: Content) -> None:
    """Take away what is left of indexes that are no more."""
    con = content.connection()
    slot = 0
    while True:
        (slot,) = con.execute("SELECT min(slot) FROM field WHERE slot > ?", (slot,)).fetchone()
        if slot is None:
            return
        while not _is_wanted(con, slot):
            with content.write(durable=False) as writing:
                gone = writing.execute(
                    "DELETE FROM field WHERE (slot, value, key) IN"
                    " (SELECT slot, value, key FROM field WHERE slot = ? LIMIT ?)",
                    (slot, _BATCH),
                ).rowcount
            if gone < _BATCH:
                break


def _is_wanted(con: sqlite3.Connection, slot: int) -> bool:
    return con.execute("SELECT 1 FROM field_name WHERE slot = ?", (slot,)).fetchone() is not None


def _take_in(content: Content) -> None:
    """Take into the indexes what was written since; make them anew if that is much."""
    con = content.connection()
    sql = "SELECT count(*) FROM (SELECT 1 FROM field_new LIMIT ?)"
    (since,) = con.execute(sql, (_WORTH + 1,)).fetchone()
    if since <= _ASIDE:
        return
    if since > _WORTH:
        with content.write(durable=False) as writing:
            writing.execute("DELETE FROM field_name")
            writing.execute("DELETE FROM field_new")
        _sweep(content)
        return
    for _ in range(since // MANY + 1):
        with content.write(durable=False) as writing:
            _take_some_in(writing)


def _take_some_in(con: sqlite3.Connection) -> None:
    sql = "SELECT key FROM field_new ORDER BY key LIMIT ?"
    keys = json.dumps([key for (key,) in con.execute(sql, (MANY,)).fetchall()])
    among = "key IN (SELECT value FROM json_each(:keys))"
    slots = con.execute("SELECT slot, name FROM field_name").fetchall()
    for slot, name in slots:
        for table in _TABLES:
            con.execute(
                f"INSERT OR IGNORE INTO field SELECT :slot, value, key FROM"
                f" ({_VALUES.format(t=table)} AND {table}.{among})",
                {"slot": slot, "path": path_of(name), "keys": keys},
            )
    taken = con.execute(f"DELETE FROM field_new WHERE {among}", {"keys": keys}).rowcount
    con.execute("UPDATE field_name SET taken_in = taken_in + ?", (taken,))
    # Half of what such an index holds may have gone from the keys by now: it is made anew.
    con.execute("DELETE FROM field_name WHERE taken_in > ?", (10 * _WORTH,))
