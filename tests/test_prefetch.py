"""Fetching beforehand: what came is here, what didn't is named, and nothing is begun in vain."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import Value
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.limits import Limits
from mountcache.errors import StoreFullError, StoreUnavailableError, TransactionError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync.pacing import Width
from mountcache.values import StringValue
from tests.scripted import MIB, Scripted, pattern

LARGE = os.urandom(3_500_000)


class Counting(DynamicURLStore):
    """Counts the downloads that were begun, and can damage one."""

    damaged = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begun: list[str] = []

    def fetch(self, key: str) -> Value:
        self.begun.append(key)
        if key == self.damaged:
            raise StoreUnavailableError("the connection broke")
        return super().fetch(key)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with MemoryStore() as repository:
        for number in range(40):
            repository.set(f"runs/{number:02}", StringValue(b"%d" % number * 100, {"n": number}))
        repository.set("large", StringValue(LARGE, {}))
        with Origin(repository) as running:
            yield running


@pytest.fixture
def backing(origin: Origin) -> Counting:
    return Counting(f"{origin.url}keys", f"{origin.url}query")


@pytest.fixture
def store(backing: Counting, tmp_path: Path) -> Iterator[MountedStore]:
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as mounted:
        yield mounted


def test_all_of_a_pattern_is_here_and_offline_afterwards(
    store: MountedStore, backing: Counting, origin: Origin
) -> None:
    told: list[tuple[int, int]] = []
    report = sync.prefetch(
        store, "runs/*", progress=lambda done, total, key: told.append((done, total))
    )
    assert (report.fetched, report.already, report.failed) == (40, 0, {})
    assert report.bytes == sum(len(b"%d" % number) * 100 for number in range(40))
    assert told[-1] == (40, 40)
    assert len(backing.begun) == 40
    origin.stop()
    for number in range(40):
        assert store.to_bytes(f"runs/{number:02}") == b"%d" % number * 100


def test_what_is_here_isnt_fetched_again(store: MountedStore, backing: Counting) -> None:
    sync.prefetch(store)
    backing.begun.clear()
    report = sync.prefetch(store)
    assert (report.fetched, report.already) == (0, 41)
    assert backing.begun == []


def test_large_values_come_too_in_one_request(store: MountedStore, backing: Counting) -> None:
    assert sync.prefetch(store, "large").fetched == 1
    assert backing.begun == ["large"]
    with store.with_options(offline="always") as offline:
        found = hashlib.sha256(offline.to_bytes("large")).digest()
    assert found == hashlib.sha256(LARGE).digest()


def test_staged_keys_are_left_alone(store: MountedStore, backing: Counting) -> None:
    store.set("runs/00", StringValue(b"mine", {}))
    assert sync.prefetch(store, "runs/0?").fetched == 9
    assert "runs/00" not in backing.begun
    assert store.to_bytes("runs/00") == b"mine"


def test_one_that_fails_stops_no_other(store: MountedStore, backing: Counting) -> None:
    backing.damaged = "runs/07"
    report = sync.prefetch(store, "runs/*")
    assert report.fetched == 39
    assert report.failed == {"runs/07": "the connection broke"}


def test_out_of_reach_for_all_is_an_error(store: MountedStore, origin: Origin) -> None:
    origin.stop()
    with pytest.raises(StoreUnavailableError, match="can't be reached"):
        sync.prefetch(store, "runs/*")


def test_what_cant_fit_is_refused_beforehand(backing: Counting, tmp_path: Path) -> None:
    local = DiskCacheStore(tmp_path / "small", size_limit=1_000_000, min_free=0)
    with MountedStore("", local, backing) as store:
        store.update_index()
        with pytest.raises(StoreFullError, match=r"41 keys of 3,50\d,\d+ bytes .* room for"):
            sync.prefetch(store)
        assert backing.begun == []
        assert sync.prefetch(store, "runs/*").fetched == 40


def test_a_prefetch_takes_nothing_from_what_the_author_had_seen(
    store: MountedStore, origin: Origin
) -> None:
    other = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    assert store.to_bytes("runs/01") == b"1" * 100
    other.set("runs/01", StringValue(b"theirs", {}))
    store.update_index()
    assert sync.prefetch(store, "runs/01").fetched == 1
    store.set("runs/01", StringValue(b"mine", {}))
    (result,) = sync.push(store).results
    assert result.outcome == "conflict"


def test_half_of_an_older_version_never_gets_into_a_newer_one(tmp_path: Path) -> None:
    upstream = Scripted()
    before, after = pattern(5 * MIB + 7, 1), pattern(5 * MIB + 7, 2)
    upstream.put("large", before)

    def cut(key: str, at: int) -> None:
        if at >= 3 * MIB:
            upstream.down = True
            raise StoreUnavailableError("the connection broke")

    upstream.giving = cut
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, upstream) as store:
        with pytest.raises(StoreUnavailableError):
            sync.prefetch(store)
        con = store.mount.catalog.content.connection()
        assert con.execute("SELECT count(*) FROM partial").fetchone() == (1,)
        upstream.giving = lambda key, at: None
        upstream.down = False
        upstream.put("large", after)
        upstream.starts.clear()
        assert sync.prefetch(store).fetched == 1
        assert upstream.starts == [("large", 0)]
        assert con.execute("SELECT count(*) FROM partial").fetchone() == (0,)
        upstream.down = True
        assert store.to_bytes("large") == after


def test_inside_a_transaction_it_is_refused(store: MountedStore) -> None:
    with pytest.raises(TransactionError, match="prefetch"), store.transaction("no place"):
        sync.prefetch(store)


class Far(MemoryStore):
    """An upstream whose answers take a while, and who counts how many are under way."""

    def __init__(self, keys: int, seconds: float) -> None:
        super().__init__()
        self.seconds = 0.0
        for number in range(keys):
            self.set(f"{number:04}", StringValue(b"data", {}))
        self.seconds, self.now, self.most, self.lock = seconds, 0, 0, threading.Lock()

    def get(self, key: str) -> Value:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        return super().get(key)


@pytest.mark.parametrize(("named", "at_least", "at_most"), [(None, 20, 72), (3, 3, 3), (12, 9, 12)])
def test_more_are_asked_for_at_once_where_answers_take_long(
    tmp_path: Path, named: int | None, at_least: int, at_most: int
) -> None:
    far = Far(400, 0.05)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), far) as store:
        assert sync.prefetch(store, workers=named).fetched == 400
    assert at_least <= far.most <= at_most


def test_no_more_are_asked_for_than_connections_are_allowed(origin: Origin, tmp_path: Path) -> None:
    backing = DynamicURLStore(
        f"{origin.url}keys", f"{origin.url}query", limits=Limits(connections=2)
    )
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
        width = Width(store.mount, None)
        for _ in range(100):
            width.note(1.0)
        assert (width.first, width.of_use()) == (2, 2)


def test_near_upstream_isnt_crowded(store: MountedStore) -> None:
    width = Width(store.mount, None)
    assert width.of_use() is None
    for _ in range(100):
        width.note(0.003)
    assert width.of_use() == 8


def test_at_least_one_worker(store: MountedStore) -> None:
    with pytest.raises(ValueError, match="at least 1 worker"):
        sync.prefetch(store, workers=0)


def test_patterns_are_those_of_whole_keys(backing: Counting, tmp_path: Path) -> None:
    with MountedStore("runs/", DiskCacheStore(tmp_path / "part", min_free=0), backing) as store:
        assert sync.prefetch(store, "0*").fetched == 0
        assert sync.prefetch(store, "*/0*").fetched == 10
        assert sync.prefetch(store, "runs/1*").fetched == 10
        assert sync.prefetch(store).fetched == 20
        assert "large" not in backing.begun
