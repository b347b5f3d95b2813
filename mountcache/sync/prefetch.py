"""Fetching beforehand what will be read offline.

Threads fetch and verify; the caller's thread keeps what has come since its last commit, all in
one: a commit alone takes longer than a small value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from mountcache.abc import Value, chunks
from mountcache.errors import StoreError, StoreFullError, StoreUnavailableError
from mountcache.local.content import full
from mountcache.local.partial import BLOCK
from mountcache.local.records import Clean, Row
from mountcache.stopping import check_stopped, stopped_by, stopper
from mountcache.sync.fetch import discard, fill, whole
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pacing import at_most, at_once
from mountcache.sync.promise import promise_for, promise_of
from mountcache.sync.remote import Patience
from mountcache.sync.source import Source, begin
from mountcache.sync.switch import refuse_offline

__all__ = [
    "Came",
    "Fetched",
    "PrefetchReport",
    "arriving",
    "fetch_all",
    "fetched",
    "is_here",
    "listed",
    "prefetch",
]

_EVERY: Final = 0.1
_AHEAD: Final = 8
"""How many values a worker may be ahead of the commits."""


@dataclass(frozen=True, slots=True)
class PrefetchReport:
    """What a prefetch brought."""

    fetched: int
    """Keys that came."""
    already: int
    """Keys that were here."""
    bytes: int
    """Length of what came."""
    failed: dict[str, str] = field(default_factory=dict)
    """Keys that didn't come, and why."""


@dataclass(frozen=True, slots=True)
class Came:
    """What became of one key; `clean` is still to be kept."""

    row: Row
    size: int | None = 0
    """Bytes that came; None if there was no need for them."""
    clean: Clean | None = None
    error: Exception | None = None


def prefetch(
    store: Mounted,
    pattern: str | Iterable[str] = "*",
    *,
    workers: int = 8,
    progress: Callable[[int, int, str], object] | None = None,
    bwlimit: str | float | None = None,
) -> PrefetchReport:
    """Fetch what matches a pattern, for reading offline.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/". Upstream is asked which there are. Or the keys
        themselves: those that upstream doesn't have are among the failed.
    workers
        How many values are on their way at once.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.
    bwlimit
        Bytes a second, or text such as "512k" or "08:00,512k 18:00,off"; None: as the limits of
        the backing store say.

    Raises
    ------
    StoreFullError
        Beforehand, if it can't fit.
    StoreUnavailableError
        If upstream is out of reach for every key, or nobody knows which keys there are.
    IndexUnreadableError
        If upstream can't be listed.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("prefetch")
    refuse_offline(mount)
    mount.refuse_frozen("prefetch")
    if workers < 1:
        raise ValueError(f"a prefetch has at least 1 worker, not {workers}")
    absent: dict[str, str] = {}
    if isinstance(pattern, str):
        keys = listed(store, pattern)
    else:
        named = dict.fromkeys(pattern)
        keys = [key for key in listed(store, "*") if mount.full(key) in named]
        there = {mount.full(key) for key in keys}
        absent = {key: "upstream has no such key" for key in named if key not in there}
    rows = [row for row in map(mount.catalog.row, keys) if row.edit is None]
    missing = [row for row in rows if not is_here(row)]
    _refuse_what_cant_fit(mount, missing)
    came = fetch_all(mount, missing, workers=workers, progress=progress, bwlimit=bwlimit)
    if came.unavailable is not None:
        raise StoreUnavailableError(came.unavailable)
    already = len(rows) - len(missing)
    return PrefetchReport(
        len(missing) - len(came.failed), already, came.bytes, absent | came.failed
    )


def listed(store: Mounted, pattern: str) -> list[str]:
    """Return the keys of the catalog that match a pattern, as upstream lists them now."""
    prefix = store.mount.prefix
    return [
        key[len(prefix) :]
        for key in store.with_options(max_age=0.0).glob(pattern)
        if key.startswith(prefix) and len(key) > len(prefix)
    ]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of several keys."""

    bytes: int
    """Length of what came."""
    failed: dict[str, str]
    """Keys that didn't come, and why."""
    unavailable: str | None
    """Why upstream is out of reach, if that is so for each of them."""


def fetch_all(
    mount: Mount,
    rows: Sequence[Row],
    *,
    workers: int,
    progress: Callable[[int, int, str], object] | None = None,
    bwlimit: str | float | None = None,
) -> Fetched:
    """Fetch keys of the catalog, and keep what comes."""
    failed: dict[str, str] = {}
    done = size = unavailable = 0
    told = 0.0
    for came in arriving(mount, rows, workers, fetched, bwlimit):
        key = mount.full(came.row.key)
        done, size = done + 1, size + (came.size or 0)
        if came.error is not None:
            gone = type(came.error) is KeyError
            failed[key] = "upstream has no such key" if gone else str(came.error)
            unavailable += isinstance(came.error, StoreUnavailableError)
        if progress is not None and (time.monotonic() - told >= _EVERY or done == len(rows)):
            told = time.monotonic()
            progress(done, len(rows), key)
    every = bool(rows) and unavailable == len(rows)
    return Fetched(size, failed, next(iter(failed.values())) if every else None)


def _refuse_what_cant_fit(mount: Mount, missing: Sequence[Row]) -> None:
    sizes = sum(
        row.entry.size or promise_of(row.entry.entry).size or 0 for row in missing if row.entry
    )
    room = mount.catalog.available()
    if room is not None and sizes > room:
        raise StoreFullError(
            f"{len(missing)} keys of {sizes:,} bytes don't fit: there is room for {room:,} bytes; "
            "prefetch less, or make a store with a larger size_limit"
        )


def is_here(row: Row) -> bool:
    """Return whether the copy of a key is what upstream was last known to have."""
    copy, entry = row.copy, row.entry
    if copy is None or entry is None:
        return False
    if entry.version is not None and copy.version is not None:
        return entry.version == copy.version
    return entry.sha256 == copy.sha256 or entry.entry == copy.entry


def arriving(
    mount: Mount,
    rows: Sequence[Row],
    workers: int,
    fetch: Callable[[Mount, Row], Came],
    bwlimit: str | float | None = None,
) -> Iterator[Came]:
    """Iterate over what becomes of the keys, in the order in which they come.

    Parameters
    ----------
    fetch
        Asks for one key, in a thread of the `workers`.
    bwlimit
        Bytes a second; None: as the limits of the backing store say.
    """
    with at_most(mount, bwlimit):
        yield from _arriving(mount, rows, at_once(mount, workers), fetch)


def _arriving(
    mount: Mount, rows: Sequence[Row], workers: int, fetch: Callable[[Mount, Row], Came]
) -> Iterator[Came]:
    todo = iter(rows)
    coming: set[Future[Came]] = set()
    patience = Patience(workers)
    stop = stopper()

    def one(row: Row) -> Came:
        with stopped_by(stop):
            return _one(mount, row, patience, fetch)

    with ThreadPoolExecutor(workers, "mountcache-prefetch") as pool:
        try:
            while True:
                check_stopped()
                room = workers * _AHEAD - len(coming)
                coming |= {pool.submit(one, row) for row in islice(todo, room)}
                if not coming:
                    return
                here, coming = wait(coming, return_when=FIRST_COMPLETED)
                yield from _kept(mount, [future.result() for future in here])
        finally:
            for future in coming:
                future.cancel()


def _one(mount: Mount, row: Row, patience: Patience, fetch: Callable[[Mount, Row], Came]) -> Came:
    """Fetch one key, if it is of any use to ask for it."""
    came = Came(row, error=patience.lost) if patience.lost else fetch(mount, row)
    patience.note(came.error)
    return came


def fetched(mount: Mount, row: Row, value: Value | None = None) -> Came:
    """Fetch one key: a small value to be kept by the caller, a large one kept as it comes.

    Parameters
    ----------
    value
        What upstream shows, if it was asked already.
    """
    promise = promise_for(mount, row.entry)
    try:
        value = value or begin(mount.backing, mount.full(row.key))
        source = Source(mount, row, value, promise)
        if source.size is not None and source.size <= BLOCK:
            data, clean = whole(source)
            return Came(row, len(data), clean, None if clean else _not_kept(mount, row))
        size, room = 0, mount.catalog.available()
        with fill(mount, row, value, promise, asked=False) as stream:
            for chunk in chunks(stream):
                size += len(chunk)
                if room is not None and size > room:  # a body without an end, perhaps
                    return Came(row, size, error=_not_kept(mount, row))
        copy = mount.catalog.row(row.key).copy
        return Came(row, size, error=None if copy else _not_kept(mount, row))
    except (StoreError, KeyError, OSError) as error:
        return Came(row, error=error)


def _not_kept(mount: Mount, row: Row) -> StoreFullError:
    return StoreFullError(
        f"{mount.full(row.key)!r} came, but wasn't kept: upstream forbids it, or there is no room"
    )


def _kept(mount: Mount, batch: list[Came]) -> list[Came]:
    """Keep what has come, in one commit."""
    cleans = [came.clean for came in batch if came.clean is not None]
    if not cleans:
        return batch
    try:
        if not mount.catalog.room_for(sum(clean.size for clean in cleans)):
            return [_without_room(mount, came) for came in batch]
        mount.catalog.keep(cleans, asked=False)
    except (StoreError, OSError) as error:
        if isinstance(error, OSError) and full(error):
            return [_without_room(mount, came) for came in batch]
        return [came if came.clean is None else Came(came.row, error=error) for came in batch]
    finally:
        for clean in cleans:
            discard(clean)
    return batch


def _without_room(mount: Mount, came: Came) -> Came:
    return came if came.clean is None else Came(came.row, error=_not_kept(mount, came.row))
