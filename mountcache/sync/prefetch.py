"""Fetching beforehand what will be read offline. (first, simple version)"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from mountcache.errors import StoreError, StoreFullError, StoreUnavailableError
from mountcache.local.records import Row
from mountcache.sync.fetch import begin, fill
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.promise import promise_of

__all__ = ["PrefetchReport", "prefetch"]


@dataclass(frozen=True, slots=True)
class PrefetchReport:
    """What a prefetch brought."""

    fetched: int
    already: int
    bytes: int
    failed: dict[str, str] = field(default_factory=dict)


def prefetch(
    store: Mounted,
    pattern: str = "*",
    *,
    workers: int = 8,
    progress: Callable[[int, int, str], object] | None = None,
) -> PrefetchReport:
    """Fetch what matches a pattern, for reading offline."""
    mount = store.mount
    mount.staging.refuse_in_transaction("prefetch")
    low = pattern.removeprefix(mount.prefix)
    rows = [row for row in mount.catalog.listed(low) if row.edit is None]
    missing = [row for row in rows if not _here(row)]
    sizes = sum(
        (row.entry.size or promise_of(row.entry.entry).size or 0) for row in missing if row.entry
    )
    room = mount.catalog.available()
    if room is not None and sizes > room:
        raise StoreFullError(
            f"{len(missing)} keys of {sizes:,} bytes don't fit: there is room for {room:,} bytes; "
            "prefetch less, or make a store with a larger size_limit"
        )
    failed: dict[str, str] = {}
    total, done, count, told = len(missing), 0, 0, 0.0
    unavailable = 0
    with ThreadPoolExecutor(workers, "mountcache-prefetch") as pool:
        futures = {pool.submit(_one, mount, row): row for row in missing}
        for future in as_completed(futures):
            key = mount.full(futures[future].key)
            done += 1
            try:
                count += future.result()
            except StoreUnavailableError as error:
                unavailable += 1
                failed[key] = str(error)
            except (StoreError, KeyError, OSError) as error:
                failed[key] = str(error)
            if progress is not None and (time.monotonic() - told > 0.1 or done == total):
                told = time.monotonic()
                progress(done, total, key)
    if total and unavailable == total:
        raise StoreUnavailableError(next(iter(failed.values())))
    return PrefetchReport(total - len(failed), len(rows) - total, count, failed)


def _here(row: Row) -> bool:
    copy, entry = row.copy, row.entry
    if copy is None or entry is None:
        return False
    if entry.version is not None and copy.version is not None:
        return entry.version == copy.version
    return entry.sha256 == copy.sha256 or entry.entry == copy.entry


def _one(mount: Mount, row: Row) -> int:
    value = begin(mount.backing, mount.full(row.key))
    entry = row.entry.entry if row.entry is not None else None
    with fill(mount, row.key, value, promise_of(entry), asked=False) as data:
        return data.seek(0, 2)
