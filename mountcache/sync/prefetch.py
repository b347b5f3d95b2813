"""Fetching beforehand what will be read offline.

Threads fetch and verify; the caller's thread keeps what has come since its last commit, all in
one: a commit alone takes longer than a small value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from mountcache.abc import Value, chunks
from mountcache.errors import StoreError, StoreFullError, StoreUnavailableError
from mountcache.local.content import full
from mountcache.local.partial import BLOCK
from mountcache.local.pinning import set_pinned
from mountcache.local.records import Clean, Row
from mountcache.stopping import check_stopped, stopped_by, stopper
from mountcache.sync.fetch import discard, fill, whole
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pacing import Width, at_most
from mountcache.sync.promise import promise_for
from mountcache.sync.readiness import Wanted, listed, readiness, survey
from mountcache.sync.remote import Patience
from mountcache.sync.source import Source, begin
from mountcache.sync.switch import refuse_offline

__all__ = [
    "Came",
    "Fetched",
    "PrefetchReport",
    "arriving",
    "fetch_keys",
    "fetched",
    "listed",
    "pin_keys",
    "prefetch",
]

_EVERY: Final = 0.1
_AHEAD: Final = 8
"""How many values a worker may be ahead of the commits."""
_GATHER: Final = 0.02
"""Seconds for which what has come waits for more, since a commit of many costs little more."""
_SMALL: Final = 65536
"""Bytes up to which the time of a value tells how long an answer is on its way."""
_THREADS: Final = "mountcache-prefetch"


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
    unpinned: dict[str, str] = field(default_factory=dict)
    """Keys that are here and couldn't be pinned, though that was asked for, and why."""


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
    *more: str,
    workers: int | None = None,
    pin: bool = False,
    progress: Callable[[int, int, str], object] | None = None,
    bwlimit: str | float | None = None,
) -> PrefetchReport:
    """Fetch what matches patterns, for reading offline.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/". Upstream is asked which there are. Or the keys
        themselves: those that upstream doesn't have are among the failed.
    more
        Further patterns.
    workers
        How many values are on their way at once; None: 8, or up to 64 where answers take long.
    pin
        Whether to pin the copies, those that were here as well.
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
    if workers is not None and workers < 1:
        raise ValueError(f"a prefetch has at least 1 worker, not {workers}")
    wanted: list[Wanted] = []

    def sort(each: Wanted) -> None:
        # For the others there is nothing to do.
        if not each.here or (pin and not each.pinned):
            wanted.append(each)

    ready = readiness(store, pattern, *more, each=sort)
    if not ready.fits:
        raise StoreFullError(
            f"{ready.missing} keys of {ready.missing_bytes:,} bytes don't fit: there is room for "
            f"{ready.room or 0:,} bytes; prefetch less, or make a store with a larger size_limit"
        )
    report = _brought(mount, wanted, workers=workers, pin=pin, progress=progress, bwlimit=bwlimit)
    return replace(report, already=ready.clean)


def pin_keys(
    store: Mounted,
    keys: Iterable[str],
    *,
    workers: int | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> PrefetchReport:
    """Pin the copies of keys, fetching those that aren't here.

    Parameters
    ----------
    keys
        Full keys under the mount point.

    Raises
    ------
    StoreUnavailableError
        If upstream is out of reach for every key that would have to be fetched.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("pin")
    mount.refuse_frozen("pin")
    skip = len(mount.prefix)
    seen = list(survey(mount, (key[skip:] for key in keys)))
    wanted = [each for each in seen if not (each.here and each.pinned)]
    if any(not each.here for each in wanted):
        refuse_offline(mount)
    report = _brought(mount, wanted, workers=workers, pin=True, progress=progress)
    return replace(report, already=sum(each.here and not each.staged for each in seen))


def _brought(
    mount: Mount,
    wanted: Sequence[Wanted],
    *,
    workers: int | None,
    pin: bool,
    progress: Callable[[int, int, str], object] | None,
    bwlimit: str | float | None = None,
) -> PrefetchReport:
    """Fetch what isn't here, and pin what is."""
    skip = len(mount.prefix)
    absent = {each.key: "upstream has no such key" for each in wanted if not each.there}
    unpinned = {
        each.key: "it is staged, and stays without a pin; pin it once it is pushed"
        for each in wanted
        if each.here and not each.copied
    }
    here = (each.key[skip:] for each in wanted if each.here and each.copied)
    # First: what comes mustn't drive it out.
    for key in set_pinned(mount.catalog, here, True) if pin else ():
        unpinned[mount.full(key)] = "its copy was let go meanwhile; try again"
    missing = [each.key[skip:] for each in wanted if each.there and not each.here]
    came = fetch_keys(mount, missing, workers=workers, pin=pin, progress=progress, bwlimit=bwlimit)
    if came.unavailable is not None:
        raise StoreUnavailableError(came.unavailable)
    count = len(missing) - len(came.failed)
    return PrefetchReport(count, 0, came.bytes, absent | came.failed, unpinned)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of several keys."""

    bytes: int
    """Length of what came."""
    failed: dict[str, str]
    """Keys that didn't come, and why."""
    unavailable: str | None
    """Why upstream is out of reach, if that is so for each of them."""


def fetch_keys(
    mount: Mount,
    keys: Sequence[str],
    *,
    workers: int | None = None,
    pin: bool = False,
    progress: Callable[[int, int, str], object] | None = None,
    bwlimit: str | float | None = None,
) -> Fetched:
    """Fetch keys of the catalog, whatever is here of them, and keep what comes, pinned or not."""
    failed: dict[str, str] = {}
    done = size = unavailable = 0
    told = 0.0
    rows = map(mount.catalog.row, keys)
    for came in arriving(mount, rows, workers, fetched, bwlimit, pin=pin):
        key = mount.full(came.row.key)
        done, size = done + 1, size + (came.size or 0)
        if came.error is not None:
            gone = type(came.error) is KeyError
            failed[key] = "upstream has no such key" if gone else str(came.error)
            unavailable += isinstance(came.error, StoreUnavailableError)
        if progress is not None and (time.monotonic() - told >= _EVERY or done == len(keys)):
            told = time.monotonic()
            progress(done, len(keys), key)
    every = bool(keys) and unavailable == len(keys)
    return Fetched(size, failed, next(iter(failed.values())) if every else None)


def arriving(
    mount: Mount,
    rows: Iterable[Row],
    workers: int | None,
    fetch: Callable[[Mount, Row], Came],
    bwlimit: str | float | None = None,
    *,
    pin: bool = False,
) -> Iterator[Came]:
    """Iterate over what becomes of the keys, in the order in which they come.

    Parameters
    ----------
    fetch
        Asks for one key, in a thread of the `workers`.
    bwlimit
        Bytes a second; None: as the limits of the backing store say.
    pin
        Whether to pin what comes.
    """
    with at_most(mount, bwlimit):
        for batch in _arriving(mount, rows, Width(mount, workers), fetch):
            yield from _pinned(mount, batch) if pin else batch


def _arriving(
    mount: Mount, rows: Iterable[Row], width: Width, fetch: Callable[[Mount, Row], Came]
) -> Iterator[list[Came]]:
    todo = iter(rows)
    coming: set[Future[Came]] = set()
    workers, patience = width.first, Patience(width.first)
    stop = stopper()

    def one(row: Row) -> Came:
        with stopped_by(stop):
            return _one(mount, row, patience, width, fetch)

    with ExitStack() as pools:
        pool = pools.enter_context(ThreadPoolExecutor(workers, _THREADS))
        try:
            while True:
                check_stopped()
                if not width.settled and (now := width.of_use() or 0) > workers:
                    # The first pool ends what it has begun.
                    workers, pool = now, pools.enter_context(ThreadPoolExecutor(now, _THREADS))
                room = workers * (_AHEAD if width.settled else 3) - len(coming)
                coming |= {pool.submit(one, row) for row in islice(todo, room)}
                if not coming:
                    return
                wait(coming, return_when=FIRST_COMPLETED)
                here, coming = wait(coming, timeout=_GATHER)
                yield _kept(mount, [future.result() for future in here])
        finally:
            for future in coming:
                future.cancel()


def _one(
    mount: Mount,
    row: Row,
    patience: Patience,
    width: Width,
    fetch: Callable[[Mount, Row], Came],
) -> Came:
    """Fetch one key, if it is of any use to ask for it."""
    begun = time.monotonic()
    came = Came(row, error=patience.lost) if patience.lost else fetch(mount, row)
    patience.note(came.error)
    if came.error is None and (came.size or 0) <= _SMALL:
        width.note(time.monotonic() - begun)
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


def _pinned(mount: Mount, batch: list[Came]) -> list[Came]:
    """Pin what has come; what others have let go of since has failed."""
    come = [came.row.key for came in batch if came.error is None]
    try:
        gone = set(set_pinned(mount.catalog, come, True))
    except StoreError as error:
        return [came if came.error else Came(came.row, error=error) for came in batch]
    return [
        Came(came.row, error=_not_kept(mount, came.row)) if came.row.key in gone else came
        for came in batch
    ]


def _without_room(mount: Mount, came: Came) -> Came:
    return came if came.clean is None else Came(came.row, error=_not_kept(mount, came.row))
