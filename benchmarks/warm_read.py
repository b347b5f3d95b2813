"""How long does a read take of what is here, with its metadata?"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.readers import Read, Reader, chosen
from benchmarks.timing import Row, at_most, interleaved
from benchmarks.webserver import files, repository

__all__ = ["run"]

_SIZE = 4096
_TOGETHER = (
    "raw diskcache.get", "open and read a file", "mountcache", "fsspec simplecache",
    "requests-cache, sqlite",
)  # fmt: skip
"""Whom threads and processes run: the floor, and the peers that are used the most."""
_LONG_AGO = "mountcache, 600 keys in turn"
_GOAL = at_most("mountcache", 1.6, "raw diskcache.get")


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return 4 KiB reads by one thread, by 8 threads and by 4 processes.

    We keep in memory what was read last; so once more among more keys than that.
    """
    keys = [f"dir/key{number:04}" for number in range(20 if quick else 200)]
    more = [f"dir/more{number:04}" for number in range(40 if quick else 600)]
    repository(folder / "files", {key: os.urandom(_SIZE) for key in (*keys, *more)})
    with files(folder / "files") as url, ExitStack() as stack:
        alone: dict[str, Callable[[], int] | None] = {}
        threads: dict[str, Callable[[], int] | None] = {}
        pool = stack.enter_context(ThreadPoolExecutor(8))
        for name, reader in chosen().items():
            alone[name] = threads[name] = None
            if reader is not None:
                read = stack.enter_context(reader(folder / name, url))
                alone[name] = _by_one(read, keys)
                threads[name] = _by_threads(read, keys, pool)
            if name == "mountcache" and reader is not None:
                others = stack.enter_context(reader(folder / _LONG_AGO, url))
                alone[_LONG_AGO] = _by_one(others, more)
        question = "warm read of 4 KiB with its metadata"
        rows = [
            interleaved(
                f"{question}, one thread",
                alone, reference="raw diskcache.get", repeats=2 if quick else 15, goals=[_GOAL],
            ),
            interleaved(
                f"{question}, 8 threads",
                {name: threads[name] for name in _TOGETHER},
                reference="raw diskcache.get", repeats=2 if quick else 7, goals=[_GOAL],
            ),
        ]  # fmt: skip
        processes: dict[str, Callable[[], int] | None] = {}
        for name, reader in chosen(*_TOGETHER).items():
            processes[name] = None
            if reader is not None:
                processes[name] = _by_processes(stack, name, folder / name, url, keys)
        rows.append(
            interleaved(
                f"{question}, 4 processes",
                processes, reference="raw diskcache.get", repeats=2 if quick else 7, goals=[_GOAL],
            )
        )  # fmt: skip
        return rows


def _by_one(read: Read, keys: list[str]) -> Callable[[], int]:
    def work() -> int:
        for key in keys:
            assert len(read(key)) == _SIZE
        return len(keys)

    return work


def _by_threads(read: Read, keys: list[str], pool: ThreadPoolExecutor) -> Callable[[], int]:
    one = _by_one(read, keys)
    return lambda: sum(each.result() for each in [pool.submit(one) for _ in range(8)])


_read: Read
"""What a process of `_by_processes` reads with."""


def _by_processes(
    stack: ExitStack, name: str, folder: Path, url: str, keys: list[str]
) -> Callable[[], int]:
    # Twice the keys at a time than by one thread: to hand out the work takes some, too.
    many = keys * 2
    pool = stack.enter_context(
        ProcessPoolExecutor(
            4,
            multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(name, folder, url),
        )
    )
    return lambda: sum(each.result() for each in [pool.submit(_read_all, many) for _ in range(4)])


def _begin(name: str, folder: Path, url: str) -> None:
    global _read
    reader: Reader | None = chosen(name)[name]
    assert reader is not None
    # It ends with its process.
    _read = ExitStack().enter_context(reader(folder, url))


def _read_all(keys: list[str]) -> int:
    return _by_one(_read, keys)()
