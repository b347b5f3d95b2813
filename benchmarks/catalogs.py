"""Indexes of many keys, and the catalogs that hold them: made once in a run, for all who ask."""

from __future__ import annotations

import functools
import json
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mountcache import DiskCacheStore, MountedStore, StaticURLStore

__all__ = ["catalog", "entries", "index_of", "key", "made", "mounted", "rows_of", "write_index"]

KINDS = ("temperature", "pressure", "humidity", "wind", "rain", "snow", "sun")


def key(number: int) -> str:
    """Return the name of a key: a thousand of them have a folder of their own."""
    return f"stations/{number // 1000:04}/{number:07}.csv"


def entries(keys: int, changed: Iterable[int] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the keys and metadata of an index, some of them with another size."""
    chosen, others = random.Random(7), set(changed)
    for number in range(keys):
        size = chosen.randrange(1_000_000)
        yield (
            key(number),
            {
                "kind": KINDS[number % len(KINDS)],
                "n": number,
                "size": size + 1_000_000 if number in others else size,
                "modified": f"2026-{1 + number % 12:02}-{1 + number % 28:02}T12:00:00Z",
            },
        )


def write_index(path: Path, keys: int, changed: Iterable[int] = ()) -> Path:
    """Write an ``index.json``, a key a line."""
    with path.open("w", encoding="utf-8") as file:
        separator = "{"
        file.write("" if keys else "{")
        for name, metadata in entries(keys, changed):
            file.write(f"{separator}\n{json.dumps(name)}:{json.dumps(metadata)}")
            separator = ","
        file.write("\n}\n")
    return path


def _shared(root: Path) -> Path:
    folder = root / "catalogs"
    folder.mkdir(exist_ok=True)
    return folder


@functools.cache
def index_of(root: Path, keys: int) -> Path:
    """Return the folder of an ``index.json`` of so many keys.

    Parameters
    ----------
    root
        Where benchmarks work: the folder above that of each.
    """
    folder = _shared(root) / f"index {keys}"
    folder.mkdir()
    write_index(folder / "index.json", keys)
    return folder


def catalog(root: Path, keys: int) -> Path:
    """Return the directory of a store that has taken in the index of so many keys."""
    return made(root, keys)[0]


@functools.cache
def made(root: Path, keys: int) -> tuple[Path, float]:
    """Return the same, and how many seconds it took to take the index in."""
    directory = _shared(root) / f"catalog {keys}"
    with mounted(directory, index_of(root, keys)) as store:
        store.mount.catalog.row("nothing")  # it is opened at its first use
        begun = time.perf_counter()
        store.update_index()
        return directory, time.perf_counter() - begun


def mounted(directory: Path, folder: Path) -> MountedStore:
    """Return a store over a folder with an index, which is asked for nothing by itself."""
    return MountedStore(
        "",
        DiskCacheStore(directory, min_free=0),
        StaticURLStore(folder.absolute().as_uri() + "/", "", poll=0),
    )


@functools.cache
def rows_of(root: Path, keys: int) -> sqlite3.Connection:
    """Return a bare table of the same keys, with indexes on what is asked for."""
    con = sqlite3.connect(_shared(root) / f"bare {keys}.db", isolation_level=None)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, meta TEXT) WITHOUT ROWID")
    con.execute("BEGIN")
    con.executemany(
        "INSERT INTO entry VALUES (?, ?)",
        ((name, json.dumps(metadata)) for name, metadata in entries(keys)),
    )
    con.execute("CREATE INDEX by_n ON entry (json_extract(meta, '$.n'))")
    con.execute("COMMIT")
    return con
