"""What a directory remembers beside its counters: rows of ``state`` that come and go.

Unlike the counters, which are there from the beginning, they are None until they are written.
"""

from __future__ import annotations

from mountcache.local.catalog import Catalog

__all__ = ["recall", "remember"]


def recall(catalog: Catalog, name: str) -> str | None:
    """Return what was remembered under a name; None if nothing was, or not text."""
    con = catalog.content.connection()
    row = con.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None


def remember(catalog: Catalog, name: str, text: str | None) -> None:
    """Remember text under a name, for all processes of the directory; None forgets it."""
    with catalog.content.write() as con:
        if text is None:
            con.execute("DELETE FROM state WHERE name = ?", (name,))
            return
        con.execute(
            "INSERT INTO state VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value ="
            " excluded.value",
            (name, text),
        )
