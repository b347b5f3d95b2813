"""Pins: clean copies that stay until they are let go by name.

A pin is a mark on the row of a copy. A newer copy of the key, by whatever way it comes, takes its
place there and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from mountcache.local.catalog import Catalog
from mountcache.local.view import PAGE

__all__ = ["is_pinned", "pinned_under_edits", "set_pinned"]


def is_pinned(catalog: Catalog, key: str) -> bool:
    """Return whether a key has a copy that is pinned."""
    con = catalog.content.connection()
    found = con.execute("SELECT pinned FROM copy WHERE key = ?", (key,)).fetchone()
    return found is not None and bool(found[0])


def pinned_under_edits(catalog: Catalog) -> frozenset[str]:
    """Return the staged keys whose copy is pinned."""
    con = catalog.content.connection()
    sql = "SELECT e.key FROM edit e CROSS JOIN copy c ON c.key = e.key WHERE c.pinned"
    return frozenset(key for (key,) in con.execute(sql).fetchall())


def set_pinned(catalog: Catalog, keys: Iterable[str], pinned: bool) -> list[str]:
    """Pin the copies of keys, or unpin them; return the keys that have none.

    A thousand to a commit, so that others aren't kept waiting.
    """
    todo, lacking = iter(keys), []
    while batch := list(islice(todo, PAGE)):
        with catalog.content.write() as con:
            lacking += [
                key
                for key in batch
                if not con.execute(
                    "UPDATE copy SET pinned = ? WHERE key = ?", (int(pinned), key)
                ).rowcount
            ]
        if not pinned:
            catalog.pins_to_come.difference_update(batch)
    return lacking
