"""What do opening and `status` cost where much is cached and little is staged?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, MountedStore, StringValue, sync
from mountcache.abc import AbstractReadOnlyStore, IndexReading, Value
from mountcache.jsonform import spelling
from mountcache.local.value import Snapshot

__all__ = ["run"]

STAGED = 1000


class Upstream(AbstractReadOnlyStore):
    """An upstream of small values, with an index, which nobody has to wait for."""

    poll = 1e9
    identity = "small values"
    """Without it a store lets go of its copies when it meets another of these."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        self._keys = keys

    def info(self) -> dict[str, Any]:
        return {"readonly": True}

    def get(self, key: str) -> Value:
        number = int(key.rpartition("/")[2])
        return Snapshot(
            key, spelling({"n": number}), stream=io.BytesIO(b"%d" % number), size=len(str(number))
        )

    def query(self, select: Any = None, **where: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        raise NotImplementedError

    def read_index(self, validators: str | None = None) -> IndexReading:
        entries = (
            (f"dir/{number}", spelling({"n": number}), None, None, None)
            for number in range(self._keys)
        )
        return IndexReading(entries, None, lambda: None)


def made(folder: Path, copies: int) -> Path:
    """Return the directory of a store with so many clean copies and 1,000 staged edits."""
    with DiskCacheStore(folder, min_free=0, durability="normal") as local:
        store = MountedStore("", local, Upstream(copies))
        if copies:
            report = sync.prefetch(store)
            assert (report.fetched, report.failed) == (copies, {})
        with store.transaction("staged"):
            for number in range(STAGED):
                store.set(f"mine/{number}", StringValue(b"mine", {"n": number}))
    return folder


def _holds(folder: Path, copies: int) -> None:
    """Make sure that the copies are there still."""
    with DiskCacheStore(folder, min_free=0) as local:
        store = MountedStore("", local, Upstream(0))
        assert sum(1 for _ in store.cached()) == copies


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return opening and `status` with 100,000 clean copies beside the same without any."""
    copies = 3000 if quick else 100_000
    places = {
        f"{copies:,} copies": made(folder / "many", copies),
        "none": made(folder / "none", 0),
    }

    def opened(path: Path) -> int:
        for _ in range(10):
            with DiskCacheStore(path, min_free=0) as local:
                MountedStore("", local, Upstream(0)).exists("mine/0")
        return 10

    def told(path: Path) -> int:
        with DiskCacheStore(path, min_free=0) as local:
            store = MountedStore("", local, Upstream(0))
            assert len(sync.status(store).edits) == STAGED
        return 1

    rows = [
        interleaved(
            f"{what}, {STAGED:,} edits staged",
            {name: (lambda path=path, work=work: work(path)) for name, path in places.items()},
            reference="none",
            repeats=3 if quick else 15,
        )
        for what, work in (("open", opened), ("open and status", told))
    ]
    _holds(folder / "many", copies)
    return rows
