"""A library with workers: it takes a store, reads in many processes, and writes back in one go.

`yearly_means` is what a tool author writes. It knows nothing of servers, caches or networks: it
gets a store, hands it to a pool of processes, and stages the results in one transaction, all or
nothing. When to push is for the caller to say.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mountcache import (
    AbstractStore,
    DiskCacheStore,
    DynamicURLStore,
    MountedStore,
    StringValue,
)
from mountcache.serve import Origin
from mountcache.sync import push


def mean_of(store: AbstractStore, key: str) -> float:
    """Return the mean of one table; runs in a worker, which shares the cache of all."""
    table = csv.DictReader(io.StringIO(store.to_bytes(key).decode()))
    return statistics.fmean(float(row["mm"]) for row in table)


def yearly_means(store: AbstractStore, pattern: str, into: str, workers: int = 2) -> list[str]:
    """Stage the mean of each table that matches, and an overview; return the keys."""
    keys = sorted(store.glob(pattern))
    # Settings go along to a worker; connections and secrets don't.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        means = dict(zip(keys, pool.map(partial(mean_of, store), keys), strict=True))
    with store.transaction(f"means of {len(keys)} tables"):
        for key, mean in means.items():
            name = f"{into}{Path(key).stem}.json"
            store.set(name, StringValue(json.dumps(mean).encode(), {"from": key}))
        store.from_bytes(f"{into}all.json", json.dumps(means).encode())
    return [f"{into}{Path(key).stem}.json" for key in keys] + [f"{into}all.json"]


def fill(directory: Path) -> None:
    """Put tables into the directory that the server serves."""
    with DiskCacheStore(directory) as store, store.transaction("tables"):
        for year in range(2006, 2026):
            rows = "".join(f"{year}-{month:02d},{year % 7 + month}\n" for month in range(1, 13))
            store.set(f"rain/{year}.csv", StringValue(f"month,mm\n{rows}".encode(), {}))


def main() -> None:
    """Compute online, push, and compute again without a network."""
    with tempfile.TemporaryDirectory() as scratch:
        fill(Path(scratch, "origin"))
        origin = Origin(Path(scratch, "origin")).start()
        remote = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        with MountedStore("rain/", DiskCacheStore(Path(scratch, "cache")), remote) as store:
            written = yearly_means(store, "rain/*.csv", "rain/means/")
            print("cached by the workers:", store.stats()["cached_keys"])
            print("staged:", {edit.notes for edit in store.staged()})
            report = push(store)
            print("pushed:", sum(result.outcome == "pushed" for result in report.results))
            origin.stop()
            offline = store.with_options(offline="always")
            assert yearly_means(offline, "rain/*.csv", "rain/again/")[-1] == "rain/again/all.json"
            assert store.to_bytes("rain/again/all.json") == store.to_bytes(written[-1])
            print("the same without a network:", len(list(store.staged())), "staged")


if __name__ == "__main__":
    main()
