"""What does a staged key cost `status` and a plan, where 10 are staged and where 10,000 are?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue, sync
from mountcache.serve import Origin

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return `status`, and a plan, for a key among 10,000 staged ones beside one among 10."""
    many = 500 if quick else 10_000
    with ExitStack() as stack:
        repository = stack.enter_context(DiskCacheStore(folder / "origin", min_free=0))
        origin = stack.enter_context(Origin(repository))
        stores = {}
        for count in (10, many):
            backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            local = DiskCacheStore(folder / str(count), min_free=0)
            store = stack.enter_context(MountedStore("", local, backing))
            with store.transaction("staged"):
                for number in range(count):
                    store.set(f"mine/{number}", StringValue(b"mine", {"n": number}))
            stores[count] = store

        def told(count: int) -> int:
            assert len(sync.status(stores[count]).edits) == count
            return count

        def planned(count: int) -> int:
            assert len(sync.plan(stores[count]).steps) == count
            return count

        return [
            interleaved(
                f"{what} of 10 and of {many:,} staged keys, a key "
                f"({_bytes_of(partial(work, many)) / many:,.0f} bytes each at most)",
                {"10": partial(work, 10), f"{many:,}": partial(work, many)},
                reference="10",
                repeats=3,
            )
            for what, work in (("status", told), ("plan", planned))
        ]


def _bytes_of(work: Callable[[], object]) -> int:
    """Return how much memory something takes at its height."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
