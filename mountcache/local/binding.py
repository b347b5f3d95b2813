"""Which upstream a local store belongs to.

A directory remembers its upstream and its mount point, and refuses others: copies and bases of
one mean nothing to another.
"""

from __future__ import annotations

import sqlite3

from mountcache.errors import DirectoryError
from mountcache.local.catalog import Catalog, get_state, set_state

__all__ = ["bind", "rebind"]

_WEAKEN = """
UPDATE {table} SET base_kind = CASE WHEN base_sha IS NULL THEN 'unknown' ELSE 'digest' END,
                   base = NULL, base_entry = NULL
WHERE base_kind IN ('version', 'digest', 'entry', 'absent')
"""
"""Versions of the old upstream mean nothing: digests do, and absence is unknown."""


def bind(catalog: Catalog, identity: str | None, mount_point: str) -> None:
    """Remember upstream and mount point, or check that they are the ones remembered.

    Parameters
    ----------
    identity
        What names upstream beyond this process; None if nothing does, so that copies and
        bases of an earlier connection mean nothing.

    Raises
    ------
    DirectoryError
        If the directory belongs to another upstream or mount point.
    """
    known, point = catalog.state("identity"), catalog.state("mount_point")
    _check_point(point, mount_point)
    if known is not None and identity is not None and known != identity:
        raise DirectoryError(
            f"this store belongs to upstream {known}, not to {identity}; if upstream has moved, "
            "say so with rebind(url), else use another directory"
        )
    if point is not None and known == identity and identity is not None:
        return
    if catalog.content.readonly:
        return
    with catalog.content.write() as con:
        if identity is None:
            _forget_upstream(con, catalog)
        set_state(con, "identity", identity)
        set_state(con, "mount_point", mount_point)
    if identity is None:
        catalog.forget_all_handed()


def _check_point(known: str | None, mount_point: str) -> None:
    if known is not None and known != mount_point:
        raise DirectoryError(
            f"this store was mounted at {known!r}, and is now to be at {mount_point!r}; use "
            "another directory for another mount point"
        )


def rebind(catalog: Catalog, identity: str, mount_point: str) -> None:
    """Belong to another upstream from now on.

    Raises
    ------
    DirectoryError
        If the mount point is another one: that would give every key another name.
    """
    _check_point(catalog.state("mount_point"), mount_point)
    with catalog.content.write() as con:
        con.execute(
            "UPDATE copy SET validators = '', version = NULL, expires = NULL, entry = NULL,"
            " seen = json_set(seen, '$.version', NULL, '$.entry', NULL, '$.absent', json('false'))"
        )
        _forget_listing(con)
        for table in ("edit", "op"):
            con.execute(_WEAKEN.format(table=table))
        # Permissions are compared as they are; only of a new key nobody knows whether it is.
        con.execute("UPDATE permission SET created = 0")
        set_state(con, "identity", identity)
        set_state(con, "mount_point", mount_point)
    catalog.forget_all_handed()


def _forget_upstream(con: sqlite3.Connection, catalog: Catalog) -> None:
    contents = [content for (content,) in con.execute("SELECT content FROM copy")]
    con.execute("DELETE FROM copy")
    catalog.content.release(con, contents)
    _forget_listing(con)
    con.execute(
        "UPDATE edit SET base_kind = 'unknown', base = NULL, base_sha = NULL, base_meta = NULL,"
        " base_entry = NULL WHERE base_kind NOT IN ('none', 'op')"
    )
    con.execute("UPDATE permission SET base = NULL, created = 0")


def _forget_listing(con: sqlite3.Connection) -> None:
    con.execute("DELETE FROM upstream")
    for name in ("index_checked", "index_validators", "index_doubted", "loading"):
        set_state(con, name, None)
    set_state(con, "index_size", 0)
    set_state(con, "complete", 0)
    set_state(con, "gen", get_state(con, "gen") + 1)
