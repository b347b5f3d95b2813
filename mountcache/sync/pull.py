"""Bringing what is here up to date: the index, and the clean copies that upstream has replaced.

No base of a staged edit moves by that. What is replaced stays known as what was seen, so that an
edit made from it is still compared with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mountcache.abc import NotModified, SupportsIndex, SupportsRevalidation, Value, facts_of
from mountcache.errors import StoreError, StoreUnavailableError
from mountcache.local.decide import merged_meta
from mountcache.local.records import Copy, Row
from mountcache.local.view import matcher
from mountcache.sync.look import Progress
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pacing import at_most
from mountcache.sync.prefetch import Came, arriving, fetched
from mountcache.sync.promise import promise_of
from mountcache.sync.residence import is_current
from mountcache.sync.status import status
from mountcache.sync.switch import refuse_offline

__all__ = ["PullReport", "pull"]

_EVERY: Final = 0.1


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull found and brought."""

    updated: tuple[str, ...]
    """Keys whose copies were replaced by upstream's newer ones."""
    gone: tuple[str, ...]
    """Keys that upstream has no more."""
    current: int
    """How many copies were as upstream has them."""
    bytes: int
    """Length of what came."""
    behind: tuple[str, ...] = ()
    """Staged keys that upstream has changed, or lost, since the edits were made: they are as
    they were, and a push of them is a conflict."""
    failed: dict[str, str] = field(default_factory=dict)
    """Keys of which nobody knows, and why."""


def pull(
    store: Mounted,
    pattern: str = "*",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    bwlimit: str | float | None = None,
) -> PullReport:
    """Bring the index and the clean copies that match a pattern up to date.

    Parameters
    ----------
    store
        A MountedStore.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    workers
        How many keys are asked for at once; None: 8, or up to 64 where answers take long.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.
    bwlimit
        Bytes a second, or text such as "512k" or "08:00,512k 18:00,off"; None: as the limits of
        the backing store say.

    Raises
    ------
    StoreUnavailableError
        If upstream is out of reach.
    IndexUnreadableError
        If its index can't be read.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("pull")
    refuse_offline(mount)
    mount.refuse_frozen("pull")
    if workers is not None and workers < 1:
        raise ValueError(f"a pull has at least 1 worker, not {workers}")
    with at_most(mount, bwlimit):
        return _pulled(store, pattern, workers, progress)


def _pulled(
    store: Mounted, pattern: str, workers: int | None, progress: Progress | None
) -> PullReport:
    mount = store.mount
    keys = list(_copies(mount, pattern))  # before: what is gone by now is told
    store.update_index()
    rows = (mount.catalog.row(key) for key in keys)
    updated: list[str] = []
    gone: list[str] = []
    failed: dict[str, str] = {}
    size = unavailable = 0
    told = 0.0
    for done, came in enumerate(arriving(mount, rows, workers, _one), 1):
        key = mount.full(came.row.key)
        if isinstance(came.error, KeyError):
            mount.catalog.note_entry(came.row.key, meta=None, asked=False)
            gone.append(key)
        elif came.error is not None:
            failed[key] = str(came.error)
            unavailable += isinstance(came.error, StoreUnavailableError)
        elif came.size is not None:
            updated.append(key)
            size += came.size
        if progress is not None and (time.monotonic() - told >= _EVERY or done == len(keys)):
            told = time.monotonic()
            progress(done, len(keys), key)
    if keys and unavailable == len(keys):
        raise StoreUnavailableError(next(iter(failed.values())))
    edits = status(store, pattern, remote=True).edits
    behind = tuple(e.key for e in edits if e.in_conflict or e.upstream in ("changed", "gone"))
    current = len(keys) - len(updated) - len(gone) - len(failed)
    return PullReport(tuple(sorted(updated)), tuple(sorted(gone)), current, size, behind, failed)


def _copies(mount: Mount, pattern: str) -> Iterator[str]:
    """Iterate over the keys of the catalog that have a copy and are in the merged view."""
    matches = matcher({}, pattern)
    for key in mount.catalog.copies():
        if matches(mount.full(key), {}):
            row = mount.catalog.row(key)
            if row.copy is not None and row.edit is None and merged_meta(row) is not None:
                yield key


def _one(mount: Mount, row: Row) -> Came:
    """Ask after one copy; fetch it anew if upstream has another."""
    copy, entry = row.copy, row.entry
    if copy is None or row.edit is not None:
        return Came(row, size=None)  # dropped, or edited, meanwhile
    indexed = isinstance(mount.backing, SupportsIndex) and mount.backing.poll is not None
    try:
        if indexed and entry is not None:
            if not entry.present:
                raise KeyError(row.key)
            if not is_current(row):
                return fetched(mount, row)
            if promise_of(entry.entry).digest:
                return Came(row, size=None)  # the index names these very bytes
        return _revalidated(mount, row, copy)
    except (StoreError, KeyError, OSError) as error:
        return Came(row, error=error)


def _revalidated(mount: Mount, row: Row, copy: Copy) -> Came:
    name = mount.full(row.key)
    answer: NotModified | Value
    if isinstance(mount.backing, SupportsRevalidation) and copy.validators:
        answer = mount.backing.revalidate(name, copy.validators)
    else:
        answer = mount.backing.get(name)
    facts = facts_of(answer)
    if not isinstance(answer, NotModified):
        if facts.version is None or facts.version != copy.version:
            return fetched(mount, row, answer)
        answer.data.close()
    mount.catalog.note_checked(
        copy,
        lifetime=facts.lifetime,
        validators=facts.validators or copy.validators,
        version=facts.version if facts.version is not None else copy.version,
        entry=copy.entry,
        meta=copy.meta,
    )
    return Came(row, size=None)
