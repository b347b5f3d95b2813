"""Letting clean copies go before room is short: by their age, or down to a size.

Never what is pinned, and never what an edit or a push in flight was made from. Each batch of
copies is looked at again inside the commit that lets them go, since others are at work too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mountcache.local.catalog import Catalog
from mountcache.local.residence import sizes
from mountcache.local.view import PAGE

__all__ = ["Pruned", "prune"]

_LOOSE: Final = (
    "NOT pinned AND key NOT IN (SELECT key FROM edit) AND key NOT IN (SELECT key FROM op)"
)

_LEAST_USED_FIRST: Final = (
    "SELECT used, rowid, key, content, size, CAST(checked AS REAL) FROM copy"
    f" WHERE {_LOOSE} AND used >= ?1 AND (used > ?1 OR rowid > ?2)"
    " ORDER BY used, rowid LIMIT ?3"
)
"""The partial index of `used` is in that order, so that a page costs what a page costs."""

_LET_GO: Final = f"DELETE FROM copy WHERE key = ? AND content = ? AND {_LOOSE} RETURNING content"


@dataclass(frozen=True, slots=True)
class Pruned:
    """A copy that was let go, or would be."""

    key: str
    content: str
    size: int


def prune(
    catalog: Catalog,
    matches: Callable[[str], bool],
    *,
    older_than: float | None = None,
    to: int | None = None,
    prefix: str = "",
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Let clean copies go, the least recently used first; iterate over them.

    Parameters
    ----------
    matches
        Which keys.
    older_than
        Seconds: those that upstream gave or confirmed longer ago. Uses have no time.
    to
        Bytes: until no more than these are left of the copies of such keys, those that stay in
        any case among them.
    prefix
        What these keys begin with.
    dry_run
        Only say which.
    """
    over = None
    if to is not None:
        over = (
            sum(size for key, size in sizes(catalog.content, "copy", prefix) if matches(key)) - to
        )
    if not (dry_run and catalog.content.readonly):
        # Else a dry run would name others than the real one.
        with catalog.content.write(durable=False) as con:
            catalog.write_uses(con)
    todo = _chosen(catalog, matches, older_than=older_than, over=over)
    while batch := list(islice(todo, PAGE)):
        yield from batch if dry_run else _let_go(catalog, batch)


def _chosen(
    catalog: Catalog,
    matches: Callable[[str], bool],
    *,
    older_than: float | None,
    over: int | None,
) -> Iterator[Pruned]:
    before = None if older_than is None else catalog.clock() - older_than
    at = (-1, -1)
    while over is None or over > 0:
        con = catalog.content.connection()
        found = con.execute(_LEAST_USED_FIRST, (*at, PAGE)).fetchall()
        for _, _, key, content, size, checked in found:
            if matches(key) and (before is None or checked < before):
                yield Pruned(key, content, size)
                if over is not None:
                    over -= size
                    if over <= 0:
                        return
        if len(found) < PAGE:
            return
        at = found[-1][:2]


def _let_go(catalog: Catalog, batch: list[Pruned]) -> list[Pruned]:
    """Let those go that may still go; return them."""
    with catalog.content.write(durable=False) as con:
        gone = [each for each in batch if con.execute(_LET_GO, (each.key, each.content)).fetchone()]
        catalog.content.release(con, [each.content for each in gone])
    return gone
