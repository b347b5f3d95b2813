"""How long does it take until an edit would survive a power cut?"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path

from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, StringValue

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return durable sets of two sizes, alone and in a transaction, beside their floor."""
    sizes = ((4096, "1.3x"), (100_000, "1.6x"))
    return [_sets(folder, size, goal, 10 if quick else 60) for size, goal in sizes]


def _sets(folder: Path, size: int, goal: str, times: int) -> Row:
    data = os.urandom(size)
    number = count()
    with DiskCacheStore(folder / f"sets {size}", min_free=0) as store:

        def alone() -> int:
            for _ in range(times):
                store.set(f"key {next(number)}", StringValue(data, {"n": 1}))
            return times

        def together() -> int:
            with store.transaction("many"):
                return alone()

        return interleaved(
            f"durable set of {size:,} bytes (goal: at most {goal} the floor)",
            {
                "floor: write, fsync, commit": _floor(folder, data, times),
                "mountcache": alone,
                "mountcache, in a transaction": together,
            },
            reference="floor: write, fsync, commit",
            repeats=9,
        )


def _floor(folder: Path, data: bytes, times: int) -> Callable[[], int]:
    """Return the least that can be done: small bytes in the row, others in a file."""
    con = sqlite3.connect(folder / f"floor {len(data)}.db", isolation_level=None)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("PRAGMA synchronous = FULL")
    con.execute("CREATE TABLE row (key TEXT PRIMARY KEY, value BLOB)")
    number = count()
    files = folder / f"files {len(data)}"
    files.mkdir()

    def floor() -> int:
        for _ in range(times):
            name = f"key {next(number)}"
            value: bytes | None = data
            if len(data) >= 32768:
                with (files / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                value = None
            con.execute("INSERT INTO row VALUES (?, ?)", (name, value))
        return times

    return floor
