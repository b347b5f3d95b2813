"""What do durability, the number of workers and max_age buy?"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from benchmarks.cold_read import Fresh
from benchmarks.delayed import delayed
from benchmarks.readers import mounted
from benchmarks.timing import Row, interleaved
from benchmarks.webserver import files, repository
from mountcache import DiskCacheStore, MemoryStore, MountedStore, StringValue, sync

__all__ = ["run"]

_SIZE = 4096
_AWAY = 0.02


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return sets of both durabilities, prefetches with few and many workers, reads by age."""
    count = 40 if quick else 800
    root = folder / "origin"
    contents = {f"dir/{number:05}": os.urandom(_SIZE) for number in range(count)}
    repository(root, contents)
    with files(root) as near, delayed(near, _AWAY) as far:
        return [
            _durability(folder, 20 if quick else 300),
            _workers(folder, far, count, (1, 8) if quick else (1, 8, 16, 32, 64)),
            _max_age(folder, far, list(contents)[: 5 if quick else 25]),
        ]


def _durability(folder: Path, sets: int) -> Row:
    data, numbers = os.urandom(_SIZE), count()

    def setting(store: MountedStore) -> Callable[[], int]:
        def work() -> int:
            for _ in range(sets):
                store.set(f"dir/{next(numbers)}", StringValue(data, {"n": 1}))
            return sets

        return work

    with ExitStack() as stack:
        contenders = {}
        for durability in ("full", "normal"):
            local = DiskCacheStore(folder / durability, min_free=0, durability=durability)
            store = stack.enter_context(MountedStore("", local, MemoryStore()))
            contenders[f'durability="{durability}"'] = setting(store)
        return interleaved(
            "staging of 4 KiB, a key", contenders, reference='durability="full"', repeats=5
        )


def _workers(folder: Path, url: str, keys: int, choices: tuple[int, ...]) -> Row:
    fresh = Fresh(folder / "fetched")

    def fetching(**options: int) -> Callable[[], int]:
        def work() -> int:
            with mounted(fresh.path / "store", url) as store:
                assert sync.prefetch(store, **options).fetched == keys
            return keys

        return work

    contenders = {f"workers={workers}": fetching(workers=workers) for workers in choices}
    return interleaved(
        f"prefetch of {keys:,} keys of 4 KiB, {1000 * _AWAY:.0f} ms away, a key",
        {**contenders, "as it comes": fetching()},
        reference="workers=8",
        repeats=2,
        between=fresh.clear,
        warm=False,
    )


def _max_age(folder: Path, url: str, keys: list[str]) -> Row:
    with mounted(folder / "aged", url) as store:
        asking = store.with_options(max_age=0.0)

        def reading(view: MountedStore) -> Callable[[], int]:
            def work() -> int:
                for key in keys:
                    assert len(view.to_bytes(key)) == _SIZE
                return len(keys)

            return work

        return interleaved(
            f"read of 4 KiB that is here, {1000 * _AWAY:.0f} ms away, a key",
            {"max_age=3600": reading(store), "max_age=0: upstream is asked": reading(asking)},
            reference="max_age=3600",
            repeats=5,
        )
