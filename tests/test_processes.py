"""Several processes, threads and forks on one mounted directory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import Value
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import PushInProgressError, StoreBusyError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import ROOT

KEYS = [f"key {number}" for number in range(12)]
LARGE = os.urandom(300_000)


class Place:
    """A mounted directory, and its upstream."""

    def __init__(self, folder: Path, url: str, repository: MemoryStore) -> None:
        self.folder = folder
        self.url = url
        self.repository = repository

    def mount(self) -> MountedStore:
        backing = DynamicURLStore(f"{self.url}keys", f"{self.url}query")
        return MountedStore("", DiskCacheStore(self.folder), backing)

    def elsewhere(self, work: str) -> subprocess.Popen[str]:
        """Run statements on `store` in another process."""
        lines = [
            "import sys",
            "from mountcache import *",
            "from mountcache import sync",
            f"backing = DynamicURLStore({self.url + 'keys'!r}, {self.url + 'query'!r})",
            f"KEYS = {KEYS!r}",
            f"with MountedStore('', DiskCacheStore({str(self.folder)!r}), backing) as store:",
            *(f"    {line}" for line in work.strip().splitlines()),
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


def ended(process: subprocess.Popen[str], given: str = "") -> str:
    out, err = process.communicate(given, timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with MemoryStore() as repository:
        for key in KEYS:
            repository.set(key, StringValue(b"first", {"n": 0}))
        repository.set("large", StringValue(LARGE, {}))
        with Origin(repository) as origin:
            yield Place(tmp_path / "here", origin.url, repository)


def test_one_reads_one_writes_one_pushes(place: Place) -> None:
    writer = place.elsewhere(
        """
assert {store.to_bytes(key) for key in KEYS} == {b"first"}
for round in range(1, 16):
    for key in KEYS:
        store.set(key, StringValue(b"round %d" % round, {"n": round}))
print("written")
"""
    )
    reader = place.elsewhere(
        """
for round in range(60):
    for key in KEYS:
        value = store.get(key)
        data, n = value.data.read(), value.metadata["n"]
        assert data == (b"round %d" % n if n else b"first"), (key, data, n)
print("read")
"""
    )
    pusher = place.elsewhere(
        """
for round in range(8):
    for result in sync.push(store).results:
        assert result.outcome in ("pushed", "already there", "skipped"), result
print("pushed")
"""
    )
    assert [ended(each).strip() for each in (writer, reader, pusher)] == [
        "written", "read", "pushed",
    ]  # fmt: skip
    with place.mount() as store:
        assert sync.push(store).ok
        assert list(store.staged()) == []
        for key in KEYS:
            assert store.to_bytes(key) == b"round 15"
            assert place.repository.to_bytes(key) == b"round 15"
            assert place.repository.get_metadata(key) == {"n": 15}


def test_two_processes_fetch_the_same_keys(place: Place) -> None:
    work = """
assert len(store.to_bytes("large")) == 300_000
report = sync.prefetch(store, "*")
assert not report.failed, report
assert all(store.to_bytes(key) == b"first" for key in KEYS)
"""
    both = [place.elsewhere(work) for _ in range(2)]
    for process in both:
        ended(process)
    with place.mount() as store, store.with_options(offline="always") as offline:
        assert offline.to_bytes("large") == LARGE


def test_a_write_elsewhere_shows_in_the_very_next_read(place: Place) -> None:
    with place.mount() as store:
        assert store.to_bytes(KEYS[0]) == b"first"
        ended(place.elsewhere("store.set(KEYS[0], StringValue(b'elsewhere', {}))"))
        assert store.to_bytes(KEYS[0]) == b"elsewhere"
        assert [edit.key for edit in store.staged()] == [KEYS[0]]


def test_each_kind_of_warm_read_shows_a_write_elsewhere_at_once(place: Place) -> None:
    reads: dict[str, Callable[[MountedStore], object]] = {
        "get": lambda store: (store.get(KEYS[0]).data.read(), store.get(KEYS[0]).metadata),
        "get_data": lambda store: store.get_data(KEYS[0]).read(),
        "get_metadata": lambda store: store.get_metadata(KEYS[0]),
    }
    with place.mount() as store:
        warm = store.with_options(max_age=3600.0)
        for number, read in enumerate(reads.values()):
            before = read(warm), read(warm), warm.exists(KEYS[0])
            set_it = f"StringValue(b'elsewhere {number}', {{'at': {number}}})"
            ended(place.elsewhere(f"store.set(KEYS[0], {set_it})"))
            assert read(warm) != before[0] == before[1]
            assert before[2]
        ended(place.elsewhere("store.delete(KEYS[0])"))
        assert not warm.exists(KEYS[0])
        for read in reads.values():
            with pytest.raises(KeyError):
                read(warm)


@pytest.mark.parametrize("change", ["set", "delete"])
def test_what_another_process_pushed_of_mine_is_no_conflict_with_what_i_do_next(
    place: Place, change: str
) -> None:
    with place.mount() as store:
        assert store.to_bytes(KEYS[0]) == b"first"
        assert not store.exists("new")
        for key in (KEYS[0], "new"):
            store.set(key, StringValue(b"mine", {}))
        ended(place.elsewhere("assert sync.push(store).ok"))
        for key in (KEYS[0], "new"):
            if change == "delete":
                store.delete(key)
            else:
                store.set(key, StringValue(b"mine again", {}))
        ended(place.elsewhere("assert sync.push(store).ok"))
        for key in (KEYS[0], "new"):
            store.set(key, StringValue(b"and again", {}))
        assert sync.push(store).ok
        assert place.repository.to_bytes("new") == b"and again"


@pytest.mark.parametrize("here", [True, False])
def test_revert_leaves_what_was_seen_before(place: Place, here: bool) -> None:
    with place.mount() as store:
        assert store.to_bytes(KEYS[0]) == b"first"
        store.set(KEYS[0], StringValue(b"mine", {}))
        place.repository.set(KEYS[0], StringValue(b"theirs", {}))
        if here:
            store.revert(KEYS[0])
        else:
            ended(place.elsewhere("store.revert(KEYS[0])"))
        store.set(KEYS[0], StringValue(b"mine", {}))
        assert [each.outcome for each in sync.push(store).results] == ["conflict"]


class Halting(DynamicURLStore):
    """Waits before its first write is sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def set_if(self, key: str, value: Value, *args: Any, **kwargs: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(60)
        return super().set_if(key, value, *args, **kwargs)


@pytest.fixture
def halting(place: Place) -> Iterator[tuple[MountedStore, Halting]]:
    backing = Halting(f"{place.url}keys", f"{place.url}query")
    with MountedStore("", DiskCacheStore(place.folder), backing) as store:
        yield store, backing
        backing.go_on.set()


def test_edit_made_while_its_predecessor_is_in_flight(
    place: Place, halting: tuple[MountedStore, Halting]
) -> None:
    store, backing = halting
    store.set("new", StringValue(b"one", {}))
    pushing = threading.Thread(target=lambda: sync.push(store))
    pushing.start()
    assert backing.begun.wait(60)
    store.set("new", StringValue(b"two", {}))
    with pytest.raises(PushInProgressError, match="new"):
        store.revert("new")
    assert store.to_bytes("new") == b"two"
    backing.go_on.set()
    pushing.join()
    assert place.repository.to_bytes("new") == b"one"
    (edit,) = store.staged()
    assert edit.state == "modified"
    assert sync.push(store).ok
    assert place.repository.to_bytes("new") == b"two"


def test_second_pusher_is_told_who_pushes(
    place: Place, halting: tuple[MountedStore, Halting], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backing = halting
    store.set("new", StringValue(b"one", {}))
    pushing = threading.Thread(target=lambda: sync.push(store))
    pushing.start()
    assert backing.begun.wait(60)
    other = place.elsewhere(
        """
try:
    sync.push(store)
except Exception as error:
    print(type(error).__name__, error)
"""
    )
    said = ended(other)
    backing.go_on.set()
    pushing.join()
    assert said.startswith(StoreBusyError.__name__)
    assert str(os.getpid()) in said


def test_one_key_opened_twice_in_one_thread(place: Place) -> None:
    with place.mount() as store:
        one, two = store.get_data("large"), store.get_data("large")
        pieces: list[list[bytes]] = [[], []]
        for _ in range(30):
            for stream, got in ((one, pieces[0]), (two, pieces[1])):
                got.append(stream.read(10_000))
        one.close()
        two.close()
        assert b"".join(pieces[0]) == b"".join(pieces[1]) == LARGE


def test_fork_while_a_store_is_open(place: Place) -> None:
    said = ended(
        place.elsewhere(
            """
import os
store.to_bytes("large")
store.set("before", StringValue(b"parent", {}))
child = os.fork()
if child == 0:
    assert store.to_bytes("before") == b"parent"
    assert store.to_bytes(KEYS[3]) == b"first"
    store.set("child", StringValue(b"child", {}))
    assert sync.push(store, ["child"]).ok
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert store.to_bytes("child") == b"child"
assert store.to_bytes(KEYS[4]) == b"first"
assert sync.push(store).ok
print("both")
"""
        )
    )
    assert said.strip() == "both"
    assert place.repository.to_bytes("before") == b"parent"
    assert place.repository.to_bytes("child") == b"child"
