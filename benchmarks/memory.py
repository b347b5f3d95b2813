"""How much memory does it take to move a gigabyte, and to know a million keys?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.catalogs import catalog, index_of, mounted
from benchmarks.surroundings import installed
from benchmarks.timing import Row, at_most
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StaticURLStore, sync
from mountcache.serve import OriginProcess

__all__ = ["run"]

_IMPORTS = "all imports"
_MIB = 1048576


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return the peaks of processes that do one thing each."""
    size = (16 if quick else 1024) * _MIB
    keys = 10_000 if quick else 1_000_000
    source = folder / "large"
    with source.open("wb") as file:
        piece = os.urandom(_MIB)
        for _ in range(size // _MIB):
            file.write(piece)
    known = index_of(folder.parent, keys)
    directory = catalog(folder.parent, keys)
    index = known / "index.json"
    with OriginProcess(folder / "origin") as origin:

        def peak(work: str, *given: object) -> list[float]:
            return [_in_a_process(work, *given) for _ in range(1 if quick else 3)]

        def once(work: str, *given: object) -> list[float]:
            return [_in_a_process(work, *given)]

        alone = peak("imports")
        moving = {
            _IMPORTS: alone,
            "stage": once("stage", folder / "here", origin.url, source),
            "read what is staged": once("read", folder / "here", origin.url),
            "push": once("push", folder / "here", origin.url),
            "fetch": once("read", folder / "there", origin.url),
            "read what is cached": once("read", folder / "there", origin.url),
        }
    knowing = {
        _IMPORTS: alone,
        "a mount at rest": peak("rest", directory, known),
        "a query and a glob": peak("ask", directory, known),
        "json.loads of the index": once("json", index),
        **({"orjson.loads of the index": once("orjson", index)} if installed("orjson") else {}),
        "taking the index in": once("load", folder / "loaded", known),
    }
    return [
        Row(
            f"peak memory of a process that moves one value of {size // _MIB:,} MiB",
            moving,
            _IMPORTS,
            "B",
            tuple(at_most(name, 100e6) for name in moving if name != _IMPORTS),
        ),
        Row(
            f"peak memory of a process that knows {keys:,} keys",
            knowing,
            _IMPORTS,
            "B",
            (at_most("a mount at rest", 100e6), at_most("taking the index in", 200e6)),
        ),
    ]


def _in_a_process(work: str, *given: object) -> float:
    """Return the most memory that a process has while it works, in bytes."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", work, *map(str, given)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    return float(ended.stdout)


def _store(directory: str, url: str) -> MountedStore:
    local = DiskCacheStore(directory, size_limit=2**40, min_free=0)
    return MountedStore("", local, DynamicURLStore(f"{url}keys", f"{url}query"))


def _imports() -> None:
    assert DynamicURLStore and StaticURLStore and DiskCacheStore and sync.push


def _stage(directory: str, url: str, source: str) -> None:
    with _store(directory, url) as store:
        store.from_file("large", source)


def _read(directory: str, url: str) -> None:
    with _store(directory, url) as store, store.get_data("large") as stream:
        while stream.read(_MIB):
            pass


def _push(directory: str, url: str) -> None:
    with _store(directory, url) as store:
        assert store.push("large").outcome == "pushed"


def _rest(directory: str, folder: str) -> None:
    with mounted(Path(directory), Path(folder)) as store:
        store.mount.catalog.row("nothing")


def _ask(directory: str, folder: str) -> None:
    with mounted(Path(directory), Path(folder)) as store:
        assert len(list(store.query(n=77))) == 1
        assert len(list(store.glob("*/0000077.*"))) == 1


def _load(directory: str, folder: str) -> None:
    with mounted(Path(directory), Path(folder)) as store:
        store.update_index()


def _json(index: str) -> None:
    import json

    json.loads(Path(index).read_bytes())


def _orjson(index: str) -> None:
    import orjson

    orjson.loads(Path(index).read_bytes())


_WORK: dict[str, Callable[..., None]] = {
    "imports": _imports, "stage": _stage, "read": _read, "push": _push, "rest": _rest,
    "ask": _ask, "load": _load, "json": _json, "orjson": _orjson,
}  # fmt: skip


if __name__ == "__main__":
    _WORK[sys.argv[1]](*sys.argv[2:])
    # Not ru_maxrss: that begins with what the process had that started this one.
    told = Path("/proc/self/status").read_text()
    print(int(told.partition("VmHWM:")[2].split()[0]) * 1024)
