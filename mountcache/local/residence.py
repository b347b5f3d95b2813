"""What is known of many keys at once: their rows, in the order of the keys, a page at a time.

Each page is read and closed before its first row is given out, so that neither memory nor the
database's log grows with the number of keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Literal

from mountcache.local.content import Content
from mountcache.local.records import Row
from mountcache.local.rows import ROW, VISIBLE_NOW, row_from
from mountcache.local.view import PAGE, past_prefix

__all__ = ["Which", "rows_of", "rows_where", "sizes"]

Which = Literal["staged", "cached", "pinned", "known"]
"""With an edit; with a clean copy; with one that is pinned; known to be upstream."""

_BOUNDS: Final = "key {after} :after AND key < :until ORDER BY key LIMIT :page"

_KEYS: Final[dict[Which, str]] = {
    "staged": f"SELECT key FROM edit WHERE {_BOUNDS}",
    "cached": f"SELECT key FROM copy WHERE {_BOUNDS}",
    "pinned": f"SELECT key FROM copy WHERE pinned AND {_BOUNDS}",
    "known": f"SELECT key FROM upstream u WHERE {VISIBLE_NOW} AND u.present AND {_BOUNDS}",
}


def _statement(keys: str) -> str:
    """Return the statement that reads one key, for many: with a column for the pin at the end."""
    select, start, joins = ROW.partition("FROM (SELECT ? AS key) k\n")
    assert start
    return f"{select.rstrip()}, coalesce(c.pinned, 0)\nFROM ({keys}) k\n{joins} ORDER BY k.key"


def rows_where(content: Content, which: Which, *, prefix: str = "") -> Iterator[tuple[Row, bool]]:
    """Iterate over what is known of keys, and whether each is pinned.

    Parameters
    ----------
    content
        The store.
    which
        Which keys.
    prefix
        What they begin with.
    """
    sql = _statement(_KEYS[which])
    bounds = {"after": prefix, "until": past_prefix(prefix), "page": PAGE}
    # The first page takes its lower bound in, the others leave theirs out.
    comparison = ">="
    while True:
        con = content.connection()
        found = con.execute(sql.replace("{after}", comparison), bounds).fetchall()
        for columns in found:
            yield row_from(columns[:-1]), bool(columns[-1])
        if len(found) < PAGE:
            return
        bounds["after"], comparison = found[-1][0], ">"


def rows_of(content: Content, keys: Iterable[str]) -> Iterator[tuple[Row, bool]]:
    """Iterate over what is known of the given keys, which are in their order."""
    sql = _statement("SELECT value AS key FROM json_each(?)")
    todo = iter(keys)
    while batch := list(islice(todo, PAGE)):
        found = content.connection().execute(sql, (json.dumps(batch),)).fetchall()
        for columns in found:
            yield row_from(columns[:-1]), bool(columns[-1])


def sizes(
    content: Content, table: Literal["copy", "edit", "undo"], prefix: str = ""
) -> Iterator[tuple[str, int]]:
    """Iterate over the keys of a table that begin with a prefix, and the sizes of their bytes."""
    until, after, comparison = past_prefix(prefix), (prefix, 0), ">="
    while True:
        found = (
            content.connection()
            .execute(
                f"SELECT key, rowid, coalesce(size, 0) FROM {table}"
                f" WHERE (key, rowid) {comparison} (?1, ?2) AND key < ?3"
                " ORDER BY key, rowid LIMIT ?4",
                (*after, until, PAGE),
            )
            .fetchall()
        )
        for key, _, size in found:
            yield key, size
        if len(found) < PAGE:
            return
        after, comparison = found[-1][:2], ">"
