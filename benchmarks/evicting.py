"""What does a read cost that fills a cache which is full?"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import diskcache

from benchmarks.start_up import Upstream
from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, MountedStore
from mountcache.abc import Value
from mountcache.local.value import Snapshot

__all__ = ["run"]


class _Bytes(Upstream):
    """An upstream of 4 KiB under any name, which nobody has to wait for."""

    poll = None  # type: ignore[assignment]

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._bytes = data

    def get(self, key: str) -> Value:
        return Snapshot(key, "{}", stream=io.BytesIO(self._bytes), size=len(self._bytes))


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return cold reads with and without a limit that is reached, beside diskcache's culling.

    Each read is of a key that isn't here: at the limit, one has to go for it. diskcache culls
    ten rows at a set, and syncs nothing; ours keeps copies without a sync, too.
    """
    data = os.urandom(4096)
    held, times = (200, 50) if quick else (5000, 500)
    number = itertools.count()
    with ExitStack() as stack:

        def mount(name: str, limit: int | None) -> MountedStore:
            local = DiskCacheStore(folder / name, size_limit=limit, min_free=0)
            return stack.enter_context(MountedStore("", local, _Bytes(data)))

        def read(store: MountedStore) -> Callable[[], int]:
            def again() -> int:
                for _ in range(times):
                    assert len(store.to_bytes(f"dir/{next(number)}")) == 4096
                return times

            return again

        def cache(name: str, limit: int) -> diskcache.Cache:
            return stack.enter_context(
                diskcache.Cache(
                    folder / name, size_limit=limit, eviction_policy="least-recently-used"
                )
            )

        def kept(raw: diskcache.Cache) -> Callable[[], int]:
            def again() -> int:
                for _ in range(times):
                    key = f"dir/{next(number)}"
                    if raw.get(key) is None:
                        raw.set(key, data)
                return times

            return again

        full, free = mount("full", held * 4096), mount("free", 2**40)
        raw_full, raw_free = cache("raw full", held * 4096), cache("raw free", 2**40)
        for name in range(held):
            full.to_bytes(f"before/{name}")
            free.to_bytes(f"before/{name}")
        for raw in (raw_full, raw_free):
            with raw.transact():
                for name in range(held):
                    raw.set(f"before/{name}", data)
        return [
            interleaved(
                f"a cold read of 4 KiB beside {held:,} others",
                {
                    "mountcache, no limit reached": read(free),
                    "mountcache, at its limit": read(full),
                    "raw diskcache, no limit reached": kept(raw_free),
                    "raw diskcache, at its limit": kept(raw_full),
                },
                reference="raw diskcache, at its limit",
                repeats=3 if quick else 5,
            )
        ]
