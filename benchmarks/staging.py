"""How long does it take until an edit would survive a power cut?"""

from __future__ import annotations

import io
import itertools
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diskcache

from benchmarks.surroundings import installed
from benchmarks.timing import Row, at_most, interleaved
from mountcache import DiskCacheStore

__all__ = ["FLOOR", "floor", "run"]

FLOOR = "floor: file, fsync of both, commit"
_THREADS = 8


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return durable sets of three sizes, alone, in a transaction and in 8 threads.

    The floor does what any store must do that keeps a file and a row about it: write, fsync of
    the file and of its directory, one commit. Small bytes can go into the row itself, which is
    the second floor. diskcache never syncs its files, and encore syncs nothing at all.
    """
    rows = []
    for size, bound, times, together in (
        (4096, 1.3, 64, 1000),
        (100_000, 1.6, 32, 200),
        ((8 if quick else 256) * 2**20, 1.6, 1, 0),
    ):
        if quick:
            times, together = min(times, 8), min(together, 16)
        repeats = 3 if quick or size > 2**20 else 9
        at = folder / f"{size}"
        at.mkdir()
        rows.append(_alone(at, size, bound, times, repeats))
        if together:
            rows.append(_together(at, size, together, 3 if quick else 5))
            rows.append(_threads(at, size, times, repeats))
    return rows


def _alone(folder: Path, size: int, bound: float, times: int, repeats: int) -> Row:
    data = os.urandom(min(size, 2**20)) * max(1, size >> 20)
    number = itertools.count()
    with ExitStack() as stack:
        ours = stack.enter_context(DiskCacheStore(folder / "ours", size_limit=2**40, min_free=0))
        write = floor(folder / "floor", stack)
        commit = floor(folder / "commit", stack, inside=True)
        raw = stack.enter_context(diskcache.Cache(folder / "raw", **_DURABLY))
        encore = _encore(folder / "encore") if installed("encore") else None

        def each(work: Callable[[str], object]) -> Callable[[], int]:
            def again() -> int:
                for _ in range(times):
                    # Of large values one is kept, so that they don't fill the disk.
                    work(f"key {next(number) if size <= 2**20 else 0}")
                return times

            return again

        contenders: dict[str, Callable[[], int] | None] = {
            FLOOR: each(lambda key: write(key, data)),
            "mountcache": each(lambda key: ours.set(key, (io.BytesIO(data), {"n": 1}))),
            "diskcache.set, synchronous=2": each(lambda key: raw.set(key, data)),
            "encore FileSystemStore": encore
            and each(lambda key: encore.set(key, (io.BytesIO(data), {"n": 1}))),
        }
        if size <= 2**20:
            contenders["floor: the bytes in the commit"] = each(lambda key: commit(key, data))
        return interleaved(
            f"durable set of {_size(size)}",
            contenders,
            reference=FLOOR,
            repeats=repeats,
            goals=(at_most("mountcache", bound, FLOOR),),
        )


def _together(folder: Path, size: int, keys: int, repeats: int) -> Row:
    data = os.urandom(size)
    number = itertools.count()
    with ExitStack() as stack:
        ours = stack.enter_context(DiskCacheStore(folder / "ours", size_limit=2**40, min_free=0))
        raw = stack.enter_context(diskcache.Cache(folder / "raw", **_DURABLY))
        write = floor(folder / "floor", stack)

        def staged() -> int:
            with ours.transaction("many"):
                for _ in range(keys):
                    ours.set(f"all {next(number)}", (io.BytesIO(data), {"n": 1}))
            return keys

        def transacted() -> int:
            with raw.transact():
                for _ in range(keys):
                    raw.set(f"all {next(number)}", data)
            return keys

        def alone() -> int:
            for _ in range(32):
                write(f"all {next(number)}", data)
            return 32

        return interleaved(
            f"durable set of {_size(size)}, {keys:,} in a transaction, a key",
            {FLOOR: alone, "mountcache": staged, "diskcache.transact, synchronous=2": transacted},
            reference=FLOOR,
            repeats=repeats,
            goals=(at_most("mountcache", 0.2, FLOOR),),
        )


def _threads(folder: Path, size: int, times: int, repeats: int) -> Row:
    data = os.urandom(size)
    number = itertools.count()
    with ExitStack() as stack:
        ours = stack.enter_context(DiskCacheStore(folder / "ours", size_limit=2**40, min_free=0))
        raw = stack.enter_context(diskcache.Cache(folder / "raw", **_DURABLY))
        write = floor(folder / "floor", stack)
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS))

        def at_once(work: Callable[[str], object]) -> Callable[[], int]:
            def again() -> int:
                keys = [f"at once {next(number)}" for _ in range(times)]
                list(pool.map(work, keys))
                return times

            return again

        return interleaved(
            f"durable set of {_size(size)}, {_THREADS} threads",
            {
                FLOOR: at_once(lambda key: write(key, data)),
                "mountcache": at_once(lambda key: ours.set(key, (io.BytesIO(data), {"n": 1}))),
                "diskcache.set, synchronous=2": at_once(lambda key: raw.set(key, data)),
            },
            reference=FLOOR,
            repeats=repeats,
        )


_DURABLY: dict[str, Any] = {
    "sqlite_synchronous": 2, "eviction_policy": "none", "size_limit": 2**40, "cull_limit": 0,
}  # fmt: skip


def floor(
    folder: Path, stack: ExitStack, *, inside: bool = False
) -> Callable[[str, bytes], object]:
    """Return the least that can be done for a durable value and a row about it.

    Parameters
    ----------
    inside
        Whether the bytes go into the row, instead of into a file.
    """
    folder.mkdir(exist_ok=True)
    (folder / "files").mkdir(exist_ok=True)
    con = sqlite3.connect(folder / "rows.db", isolation_level=None, check_same_thread=False)
    stack.callback(con.close)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("PRAGMA synchronous = FULL")
    con.execute("CREATE TABLE IF NOT EXISTS row (key TEXT PRIMARY KEY, meta TEXT, value BLOB)")
    directory = os.open(folder / "files", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, directory)
    insert = "INSERT OR REPLACE INTO row VALUES (?, ?, ?)"

    def as_file(key: str, data: bytes) -> None:
        with (folder / "files" / key).open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        os.fsync(directory)
        con.execute(insert, (key, '{"n":1}', None))

    def as_row(key: str, data: bytes) -> None:
        con.execute(insert, (key, '{"n":1}', data))

    return as_row if inside else as_file


def _encore(folder: Path) -> Any:
    from encore.storage.filesystem_store import FileSystemStore, init_shared_store

    folder.mkdir(exist_ok=True)
    init_shared_store(str(folder))
    store = FileSystemStore(str(folder))
    store.connect()
    return store


def _size(size: int) -> str:
    if size >= 2**20:
        return f"{size >> 20} MiB"
    return f"{size >> 10} KiB" if size % 1024 == 0 else f"{size // 1000} KB"
