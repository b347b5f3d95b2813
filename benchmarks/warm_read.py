"""How long does a read take of what is here, with its metadata?"""

from __future__ import annotations

import os
from pathlib import Path

import diskcache

from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, MemoryStore, MountedStore, StringValue

__all__ = ["run"]

_SIZE = 4096


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return 4 KiB reads beside raw diskcache, and a large one beside a plain file."""
    return [_small(folder, 50 if quick else 500), _large(folder, 16 if quick else 256)]


def _small(folder: Path, count: int) -> Row:
    keys = [f"dir/key {number}" for number in range(count)]
    data = os.urandom(_SIZE)
    raw = diskcache.Cache(folder / "raw")
    upstream = MemoryStore()
    for key in keys:
        raw[key] = data
        upstream.set(key, StringValue(data, {"n": 1}))
    local = DiskCacheStore(folder / "small", min_free=0)
    with MountedStore("", local, upstream, max_age=3600.0) as store:
        for key in keys:
            store.to_bytes(key)

        def ours() -> int:
            for key in keys:
                value = store.get(key)
                assert len(value.data.read()) == _SIZE
                assert value.metadata == {"n": 1}
            return count

        def diskcache_get() -> int:
            for key in keys:
                assert len(raw.get(key)) == _SIZE
            return count

        return interleaved(
            "warm read of 4 KiB with its metadata (goal: at most 1.6x raw diskcache.get)",
            {"raw diskcache.get": diskcache_get, "mountcache": ours},
            reference="raw diskcache.get",
            repeats=15,
        )


def _large(folder: Path, mebibytes: int) -> Row:
    size = mebibytes * 1048576
    path = folder / "plain"
    path.write_bytes(os.urandom(1048576) * mebibytes)
    upstream = MemoryStore()
    with path.open("rb") as file:
        upstream.set("large", (file, {}))
    local = DiskCacheStore(folder / "large", size_limit=4 * size, min_free=0)
    with MountedStore("", local, upstream, max_age=3600.0) as store:
        store.to_file("large", folder / "aside")

        def read(file: object) -> int:
            done = 0
            while piece := file.read(1048576):  # type: ignore[attr-defined]
                done += len(piece)
            assert done == size
            return mebibytes

        def ours() -> int:
            with store.get_data("large") as data:
                return read(data)

        def plain() -> int:
            with path.open("rb") as file:
                return read(file)

        return interleaved(
            f"warm read of {mebibytes} MiB, a MiB (goal: at most 1.05x the file)",
            {"plain file": plain, "mountcache": ours},
            reference="plain file",
            repeats=7,
        )
