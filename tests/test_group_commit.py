"""Threads that commit at the same moment share one flush of the disk, and nothing else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, StringValue
from mountcache.abc import ABSENT
from mountcache.errors import ConflictError, StoreBusyError, StoreFullError
from mountcache.local.grouping import GroupCommit

THREADS = 6


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "store", min_free=0) as opened:
        yield opened


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield threads


def commits(store: DiskCacheStore) -> list[int]:
    """Return a list to which each commit of a store adds one."""
    content, made = store.catalog.content, []
    write = content.write

    @contextmanager
    def counted(*wait: float) -> Iterator[sqlite3.Connection]:
        with write(*wait) as con:
            made.append(1)
            yield con

    content.write = counted  # type: ignore[method-assign]
    return made


def all_wait(group: GroupCommit, count: int) -> None:
    """Wait until as much work waits for a commit."""
    until = time.monotonic() + 30
    while len(group._waiting) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


def while_one_writes(
    store: DiskCacheStore, pool: ThreadPoolExecutor, work: list[Callable[[], object]]
) -> list[Future[object]]:
    """Let all of it come to wait behind one commit; return what it comes to."""
    group = store.catalog.content._group
    with store.catalog.content.write():
        begun = [pool.submit(each) for each in work]
        all_wait(group, len(work))
    return begun


def test_what_waits_together_is_one_commit(store: DiskCacheStore, pool: ThreadPoolExecutor) -> None:
    made = commits(store)
    work = [
        lambda name=f"k{number}": store.set(name, StringValue(name.encode(), {"of": name}))
        for number in range(THREADS)
    ]
    for each in while_one_writes(store, pool, work):
        each.result()
    # The one that all waited for, and theirs.
    assert len(made) == 2
    for number in range(THREADS):
        assert store.get_data(f"k{number}").read() == f"k{number}".encode()
        assert store.get_metadata(f"k{number}") == {"of": f"k{number}"}


def test_one_that_fails_undoes_itself_alone(
    store: DiskCacheStore, pool: ThreadPoolExecutor
) -> None:
    store.set("taken", StringValue(b"first"))
    work: list[Callable[[], object]] = [
        lambda name=f"k{number}": store.set(name, StringValue(b"x" * 40_000))
        for number in range(THREADS - 1)
    ]
    work.insert(2, lambda: store.set_if("taken", StringValue(b"second"), ABSENT, ""))
    ends = while_one_writes(store, pool, work)
    with pytest.raises(ConflictError):
        ends.pop(2).result()
    for each in ends:
        each.result()
    assert store.get_data("taken").read() == b"first"
    for number in range(THREADS - 1):
        assert store.get_data(f"k{number}").read() == b"x" * 40_000


def test_the_same_key_gets_each_value_in_turn(
    store: DiskCacheStore, pool: ThreadPoolExecutor
) -> None:
    work = [
        lambda value=str(number): store.set("k", StringValue(value.encode()))
        for number in range(THREADS)
    ]
    for each in while_one_writes(store, pool, work):
        each.result()
    with store.get_data("k") as data:
        assert int(data.read()) in range(THREADS)
    assert store.catalog.state("staged_bytes") == 1


def test_a_write_inside_a_commit_is_refused_at_once(store: DiskCacheStore) -> None:
    with (
        store.catalog.content.write(),
        pytest.raises(RuntimeError, match="open already"),
    ):
        store.set("k", StringValue(b""))


def test_an_error_of_the_commit_is_told_to_all(pool: ThreadPoolExecutor) -> None:
    group, held, tries = GroupCommit(5), threading.Lock(), []

    @contextmanager
    def full(wait: float) -> Iterator[sqlite3.Connection]:
        with held:
            yield sqlite3.connect(":memory:")
            tries.append(wait)
            raise StoreFullError("the disk is full")

    with held:
        ends = [pool.submit(group.run, full, lambda con: con) for _ in range(THREADS)]
        all_wait(group, THREADS)
    for each in ends:
        with pytest.raises(StoreFullError):
            each.result()
    assert len(tries) == 1
    assert not group._led


def test_nobody_waits_longer_than_for_a_commit_alone(pool: ThreadPoolExecutor) -> None:
    group, waited = GroupCommit(0.3), []

    @contextmanager
    def busy(wait: float) -> Iterator[sqlite3.Connection]:
        waited.append(wait)
        time.sleep(wait)
        raise StoreBusyError("another process writes")
        yield

    ends = [pool.submit(group.run, busy, lambda con: con) for _ in range(THREADS)]
    for each in ends:
        with pytest.raises(StoreBusyError):
            each.result()
    assert len(waited) == THREADS
    assert sum(waited) < 0.3 * THREADS / 2  # all waited for the same one
    assert not group._led


CHILD = """
import os, sys, threading, time
from mountcache import DiskCacheStore, StringValue

store = DiskCacheStore(sys.argv[1], min_free=0)
ended = threading.Event()

def write(name):
    number = 0
    while not ended.is_set():
        store.set(f"{name}{number % 7}", StringValue(b"x"))
        number += 1
        time.sleep(0.005)  # SQLite has no queue: who never pauses lets no other process in

threads = [threading.Thread(target=write, args=(f"t{each}-",)) for each in range(4)]
for each in threads:
    each.start()
for turn in range(10):
    child = os.fork()
    if not child:
        def one():
            store.set(f"child{turn}", StringValue(b"y"))
        inner = [threading.Thread(target=one) for _ in range(3)]
        [each.start() for each in inner]
        [each.join() for each in inner]
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
ended.set()
for each in threads:
    each.join()
print(sum(key.startswith("child") for key in store.query_keys()))
"""


def test_a_forked_child_waits_for_none_of_its_parents_threads(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "store"],
        capture_output=True, text=True, timeout=120, env=os.environ, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("10\n", "")


def test_a_file_that_cant_be_removed_fails_nobody_whose_work_is_committed(
    store: DiskCacheStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("large", StringValue(b"x" * 40_000))

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    work: list[Callable[[], object]] = [
        lambda: store.set("large", StringValue(b"y" * 40_000)),
        lambda: store.set("other", StringValue(b"z")),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        for each in while_one_writes(store, pool, work):
            each.result()
    assert store.get_data("large").read() == b"y" * 40_000
    assert store.get_data("other").read() == b"z"
