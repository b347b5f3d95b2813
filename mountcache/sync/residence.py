"""Where the data of keys are, as far as is known here: staged, a clean copy, or upstream alone.

`is_here` and `is_current` are the two questions of a prefetch; `residents` shows the answers key by
key. None of it asks upstream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mountcache.jsonform import parse
from mountcache.local.decide import merged_meta
from mountcache.local.records import Copy, Edit, Row
from mountcache.local.residence import Which, rows_of, rows_where
from mountcache.local.view import literal_prefix, matcher
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.promise import promise_of

__all__ = ["Residence", "Resident", "is_current", "is_here", "residents", "residents_of", "size_of"]

Residence = Literal["added", "modified", "deleted", "cached", "outdated", "gone", "remote"]
"""added, modified, deleted: staged. cached: a copy is here, of the version that upstream is known
to have; outdated: of another one; gone: upstream has lost the key. remote: nothing is here."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Where a key's data are."""

    key: str
    state: Residence
    here: bool
    """Whether they can be read without upstream."""
    pinned: bool
    size: int | None
    version: str | None
    sha256: str | None
    since: float | None
    """When it was staged, or when upstream confirmed the copy last; in seconds since 1970."""
    metadata: dict[str, Any]


def is_current(row: Row) -> bool:
    """Whether the copy of a key is what upstream is known to have."""
    copy, entry = row.copy, row.entry
    if copy is None or entry is None or not entry.present:
        return False
    if entry.version is not None and copy.version is not None:
        return entry.version == copy.version
    return entry.sha256 == copy.sha256 or entry.entry == copy.entry


def is_here(row: Row) -> bool:
    """Whether the data that a read of the key gives are in the store."""
    if row.edit is None:
        return is_current(row)
    return row.edit.kind == "put" or (row.copy is not None and is_base(row.copy, row.edit))


def is_base(copy: Copy, edit: Edit) -> bool:
    """Whether a copy has the bytes over which an edit of metadata alone was made."""
    base = edit.base
    if base.kind == "op":
        return True
    if base.version is not None and copy.version is not None:
        return base.version == copy.version
    return base.sha256 is None or base.sha256 == copy.sha256


def size_of(row: Row) -> int | None:
    """Return the length of the data that a read of the key gives; None if nobody knows."""
    if row.edit is not None and row.edit.kind != "meta":
        return row.edit.size
    if row.copy is not None and (is_here(row) or row.entry is None):
        return row.copy.size
    if row.entry is None:
        return None
    return row.entry.size if row.entry.size is not None else promise_of(row.entry.entry).size


def residents(
    store: Mounted,
    which: Literal["cached", "staged", "pinned", "missing"],
    pattern: str = "*",
) -> Iterator[Resident]:
    """Iterate by key over where data are; asks nobody, and takes the memory of a page.

    Parameters
    ----------
    store
        A mounted store.
    which
        cached: clean copies without an edit; staged: edits, deletes among them; pinned: pinned
        copies; missing: what upstream is known to hold and what can't be read without it.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    """
    mount = store.mount
    table: Which = "known" if which == "missing" else which
    for row, pinned in matching(mount, table, pattern):
        if which == "cached" and row.edit is not None:
            continue
        if which == "missing" and (
            is_here(row) or (row.edit is not None and row.edit.kind == "del")
        ):
            continue
        yield _resident(mount, row, pinned=pinned)


def residents_of(store: Mounted, keys: Iterable[str]) -> Iterator[Resident]:
    """Iterate over where the data of the given keys are, which are in order and under the mount."""
    mount = store.mount
    skip = len(mount.prefix)
    for row, pinned in rows_of(mount.catalog.content, (key[skip:] for key in keys)):
        yield _resident(mount, row, pinned=pinned)


def matching(mount: Mount, which: Which, pattern: str) -> Iterator[tuple[Row, bool]]:
    """Iterate over the rows of a mount whose full keys match a shell pattern."""
    point, low = mount.prefix, literal_prefix(pattern)
    if not (low.startswith(point) or point.startswith(low)):
        return
    matches = matcher({}, pattern)
    for row, pinned in rows_where(mount.catalog.content, which, prefix=low[len(point) :]):
        if matches(point + row.key, {}):
            yield row, pinned


def _resident(mount: Mount, row: Row, *, pinned: bool) -> Resident:
    edit, copy, entry = row.edit, row.copy, row.entry
    meta = edit.meta if edit is not None else merged_meta(row)
    shown: Any = edit
    if edit is None:
        shown = copy if copy is not None else entry
    since = edit.at if edit is not None else copy.checked if copy is not None else None
    return Resident(
        key=mount.full(row.key),
        state=_state(row),
        here=is_here(row),
        pinned=pinned,
        size=size_of(row),
        version=None if shown is None else shown.version,
        sha256=None if shown is None else shown.sha256,
        since=since,
        metadata=parse(meta if meta is not None else copy.meta if copy is not None else "{}"),
    )


def _state(row: Row) -> Residence:
    edit, entry = row.edit, row.entry
    if edit is not None:
        if edit.kind == "del":
            return "deleted"
        return "added" if edit.base.kind in ("none", "unknown", "absent") else "modified"
    if row.copy is None:
        return "remote"
    if entry is not None and not entry.present:
        return "gone"
    return "cached" if entry is None or is_current(row) else "outdated"
