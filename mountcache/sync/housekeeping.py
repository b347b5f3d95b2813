"""The housework of a store: let go of copies, collect what the dead left, say what takes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mountcache.local import partial, pruning, undo
from mountcache.local.pruning import Pruned
from mountcache.local.records import Limits
from mountcache.local.residence import sizes
from mountcache.local.view import literal_prefix, matcher
from mountcache.sync.mount import Mount, Mounted

__all__ = ["Collected", "Pruned", "Room", "Usage", "du", "gc", "prune", "room"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was collected."""

    files: int
    """Files that no row named, of processes that are gone."""
    bytes: int
    """How much of the disk was freed."""
    undo: int
    """Entries that `undo` doesn't keep any longer."""


def gc(store: Mounted) -> Collected:
    """Remove what nobody needs: safe beside readers, writers and pushes of other processes.

    That is: files that killed processes left and no row names; downloads of before the machine's
    last start; what `undo` kept for its time.

    Raises
    ------
    ReadOnlyStoreError
        If the store can only be read here.
    """
    catalog = store.mount.catalog
    files, freed = catalog.content.sweep()
    freed += partial.drop_torn(catalog.content)
    with catalog.content.write() as con:
        expired = undo.expire(con, catalog.content, catalog.clock())
    return Collected(files, freed, expired)


def prune(
    store: Mounted,
    pattern: str = "*",
    *,
    older_than: float | None = None,
    to: int | None = None,
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Let clean copies go, the least recently used first; iterate over them, with full keys.

    What is pinned, and what an edit or a push in flight was made from, stays. They go while they
    are iterated over.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    older_than
        Seconds: those that upstream gave or confirmed longer ago, by this machine's clock. Which
        copy was used when isn't known, only in which order.
    to
        Bytes: until the copies of these keys have no more.
    dry_run
        Only say which would go.

    Raises
    ------
    ValueError
        If not one of `older_than` and `to` is given, or one that is less than 0.
    """
    if (older_than is None) == (to is None):
        raise ValueError("a prune is told one of older_than and to")
    if (older_than or 0) < 0 or (to or 0) < 0:
        raise ValueError("older_than and to aren't less than 0")
    mount = store.mount
    mount.staging.refuse_in_transaction("prune")
    mount.refuse_frozen("prune")
    found = _low(mount, pattern)
    if found is None:
        return iter(())
    low, matches = found
    gone = pruning.prune(
        mount.catalog, matches, older_than=older_than, to=to, prefix=low, dry_run=dry_run
    )
    return (replace(each, key=mount.full(each.key)) for each in gone)


def _low(mount: Mount, pattern: str) -> tuple[str, Callable[[str], bool]] | None:
    """Return what keys of the catalog begin with, and what tells which match; None: none can."""
    point, low = mount.prefix, literal_prefix(pattern)
    if not (low.startswith(point) or point.startswith(low)):
        return None
    matches = matcher({}, pattern)
    return low[len(point) :], lambda key: matches(point + key, {})


# -- what takes room ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of the keys in a folder."""

    folder: str
    """It ends in "/"; "" are keys in none."""
    cached: int = 0
    staged: int = 0
    undo: int = 0
    partial: int = 0
    """Of downloads that aren't complete: what is here."""

    @property
    def total(self) -> int:
        """All of them; what several share is counted for each."""
        return self.cached + self.staged + self.undo + self.partial


def du(store: Mounted, pattern: str = "*", *, depth: int = 1) -> list[Usage]:
    """Return how many bytes are here of the keys in each folder, by name; asks nobody.

    It takes the memory of the folders, not of the keys.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    depth
        How many names make a folder; 0: one for all.
    """
    mount = store.mount
    found = _low(mount, pattern)
    if found is None:
        return []
    low, matches = found
    folders: dict[str, list[int]] = {}
    content = mount.catalog.content
    tables: tuple[Iterator[tuple[str, int]], ...] = (
        sizes(content, "copy", low),
        sizes(content, "edit", low),
        sizes(content, "undo", low),
        ((each.key, each.here) for each in partial.begun(content, low)),
    )
    for number, table in enumerate(tables):
        for key, size in table:
            if matches(key):
                folder = _folder(mount.full(key), depth)
                folders.setdefault(folder, [0, 0, 0, 0])[number] += size
    return [Usage(folder, *folders[folder]) for folder in sorted(folders)]


def _folder(key: str, depth: int) -> str:
    names = key.split("/")[:-1][:depth]
    return "".join(f"{name}/" for name in names)


@dataclass(frozen=True, slots=True)
class Room:
    """What a store takes of the disk, in bytes, and what it may take."""

    cached: int
    pinned: int
    """Of `cached`: what is pinned."""
    partial: int
    """What downloads that aren't complete count for: the size that they will have."""
    undo: int
    staged: int
    limits: Limits
    """Of clean copies, partials and undo together; of staged values; of undo alone."""
    free: int
    """Free on the disk."""
    database: int
    """The database, in which small values lie as well."""
    log: int
    """The log that isn't read into it yet."""


def room(store: Mounted) -> Room:
    """Return what takes room in the local store; asks nobody."""
    catalog = store.mount.catalog
    con = catalog.content.connection()
    cached, undone, staged, partials, pinned = con.execute(
        "SELECT (SELECT value FROM state WHERE name = 'clean_bytes'),"
        " (SELECT value FROM state WHERE name = 'undo_bytes'),"
        " (SELECT value FROM state WHERE name = 'staged_bytes'),"
        " (SELECT coalesce(sum(size), 0) FROM partial),"
        " (SELECT coalesce(sum(size), 0) FROM copy WHERE pinned)"
    ).fetchone()
    (file,) = [name for _, schema, name in con.execute("PRAGMA database_list") if schema == "main"]
    return Room(
        cached=cached,
        pinned=pinned,
        partial=partials,
        undo=undone,
        staged=staged,
        limits=catalog.limits,
        free=catalog.content.free_bytes(),
        database=_size(file),
        log=_size(f"{file}-wal" if file else ""),
    )


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size if file else 0
    except FileNotFoundError:
        return 0
