"""Without a network: what is known goes on working at once, and what can't be known says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConfigurationError, StoreUnavailableError
from mountcache.events import StoreOfflineEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Reply, ScriptedServer, scripted

__all__ = ["scripted"]

KEYS = {f"runs/{number}.csv": (b"run %d" % number * 30, {"n": number}) for number in range(8)}


class Place:
    """A mounted directory and the server behind it."""

    def __init__(
        self, repository: MemoryStore, origin: Origin, directory: Path, layout: str
    ) -> None:
        self.repository = repository
        self.origin = origin
        self.directory = directory
        self.layout = layout
        self.url = origin.url

    def mount(self) -> MountedStore:
        backing = (
            DynamicURLStore(f"{self.url}keys", f"{self.url}query")
            if self.layout == "dynamic"
            else StaticURLStore(self.url, poll=0)
        )
        return MountedStore("runs/", DiskCacheStore(self.directory), backing)


@pytest.fixture(params=["dynamic", "static"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with MemoryStore() as repository:
        for key, (data, metadata) in KEYS.items():
            repository.set(key, StringValue(data, metadata))
        with Origin(repository) as origin:
            yield Place(repository, origin, tmp_path / "here", request.param)


def before_the_train(place: Place) -> None:
    """List all, read three, edit one, and go."""
    with place.mount() as store:
        assert set(store.query_keys()) == set(KEYS)
        for key in list(KEYS)[:3]:
            assert store.to_bytes(key) == KEYS[key][0]
        store.set("runs/0.csv", StringValue(b"mine", {"n": 0, "mine": True}))
    place.origin.stop()


def test_all_that_is_known_works_after_a_restart(place: Place) -> None:
    before_the_train(place)
    with place.mount() as store:
        assert store.to_bytes("runs/0.csv") == b"mine"
        assert store.to_bytes("runs/1.csv") == KEYS["runs/1.csv"][0]
        assert store.get_metadata("runs/7.csv") == {"n": 7}
        assert store.exists("runs/7.csv")
        assert set(store.query_keys()) == set(KEYS)
        assert list(store.query_keys(mine=True)) == ["runs/0.csv"]
        assert sorted(store.glob("runs/[12].csv")) == ["runs/1.csv", "runs/2.csv"]
        store.set("runs/new.csv", StringValue(b"new", {}))
        store.update_metadata("runs/6.csv", {"checked": True})
        store.delete("runs/7.csv")
        assert not store.exists("runs/7.csv")
        with pytest.raises(KeyError):
            store.get("runs/nobody.csv")
        assert {edit.key for edit in store.staged()} == {
            "runs/0.csv", "runs/new.csv", "runs/6.csv", "runs/7.csv",
        }  # fmt: skip


def test_what_was_never_read_is_unavailable_not_absent(place: Place) -> None:
    before_the_train(place)
    with place.mount() as store:
        with pytest.raises(StoreUnavailableError, match=r"runs/5\.csv"):
            store.get_data("runs/5.csv")
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("runs/5.csv")


def test_a_key_nobody_ever_asked_after_cant_be_known(place: Place) -> None:
    place.origin.stop()
    with place.mount() as store:
        for ask in (store.get, store.exists, store.get_metadata, store.delete, store.to_bytes):
            with pytest.raises(StoreUnavailableError):
                ask("runs/1.csv")
        with pytest.raises(StoreUnavailableError):
            list(store.query_keys())
        store.set("runs/1.csv", StringValue(b"all the same", {}))
        assert store.to_bytes("runs/1.csv") == b"all the same"
        (edit,) = store.staged()
        assert edit.base == "unknown"


def test_upstream_is_tried_once_and_not_once_a_key(place: Place) -> None:
    before_the_train(place)
    offline: list[StoreOfflineEvent] = []
    with place.mount() as store:
        store.event_manager.connect(StoreOfflineEvent, offline.append)
        asked = 0
        first = store.with_options(max_age=0.0)
        for key in list(KEYS)[1:3]:
            value = first.get(key)
            assert value.stale
            assert value.data.read() == KEYS[key][0]
            asked += 1
        assert asked == 2
        assert len(offline) == 1
        assert store.is_offline()


def test_back_in_reach_what_was_staged_is_pushed(place: Place) -> None:
    before_the_train(place)
    with place.mount() as store:
        report = sync.push(store)
        assert [result.outcome for result in report.results] == ["failed"]
        assert len(list(store.staged())) == 1
        place.origin.start()
        assert sync.push(store).ok
        assert list(store.staged()) == []
        assert store.to_bytes("runs/0.csv") == b"mine"


def test_forced_offline_asks_nobody(place: Place) -> None:
    with place.mount() as store:
        assert store.to_bytes("runs/1.csv") == KEYS["runs/1.csv"][0]
    store = place.mount()
    with store, store.with_options(offline="always") as quiet:
        assert quiet.to_bytes("runs/1.csv") == KEYS["runs/1.csv"][0]
        with pytest.raises(StoreUnavailableError, match="offline"):
            quiet.get_data("runs/2.csv")


def test_a_server_that_hangs_doesnt_hang_each_read(tmp_path: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        backing = DynamicURLStore(f"{url}keys", f"{url}query", timeout=(1, 0.3))
        with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                store.get("first")
            once = time.monotonic() - began
            began = time.monotonic()
            for number in range(50):
                with pytest.raises(StoreUnavailableError):
                    store.get(f"key {number}")
            # Fifty more take less than one that waits: they don't wait.
            assert time.monotonic() - began < once + 0.3


def test_who_is_in_a_hurry_gets_the_copy_and_tells_nobody_that_upstream_is_down(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    hurry = threading.Event()
    first = Reply(200, b"first", {"ETag": '"1"', "Cache-Control": "max-age=0"})
    scripted.on("GET", "/a", first, [hurry, Reply(304)])
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
        assert store.to_bytes("a") == b"first"
        quick = store.with_options(deadline=0.2)
        value = quick.get("a")
        assert value.stale
        assert value.data.read() == b"first"
        assert not store.is_offline()
        hurry.set()
        assert not store.get("a").stale
        with pytest.raises(ConfigurationError, match="more than 0 seconds"):
            store.with_options(deadline=0)


def test_glob_under_the_mount_point_needs_nothing_beyond_it(place: Place) -> None:
    before_the_train(place)
    with place.mount() as store:
        strict = store.with_options(offline="never", max_age=3600.0)
        assert sorted(strict.glob("runs/[12].csv")) == ["runs/1.csv", "runs/2.csv"]
        with pytest.raises(StoreUnavailableError):
            list(strict.glob("*.csv"))
        assert set(store.glob("*.csv")) == set(KEYS)


def test_keys_outside_the_mount_point_arent_left_out_silently(place: Place) -> None:
    with place.mount() as store:
        place.repository.set("elsewhere", StringValue(b"", {}))
        store.update_index()
        assert set(store.query_keys()) == {"elsewhere", *KEYS}
    place.origin.stop()
    with place.mount() as store:
        known = []
        with pytest.raises(StoreUnavailableError, match=r"outside 'runs/' aren't known"):
            known.extend(store.query_keys())
        assert set(known) == set(KEYS)
        assert set(store.with_options(partial=True).query_keys()) == set(KEYS)
        assert set(store.glob("runs/*")) == set(KEYS)


def test_file_that_is_left_by_an_error_stages_nothing(place: Place) -> None:
    with place.mount() as store:
        with pytest.raises(ZeroDivisionError), store.open("runs/1.csv", "wb") as file:
            file.write(b"half of it")
            raise ZeroDivisionError
        assert list(store.staged()) == []
        with store.open("runs/1.csv", "wb") as file:
            file.write(b"all ")
            file.write(b"of it")
        assert store.to_bytes("runs/1.csv") == b"all of it"
        assert store.get_metadata("runs/1.csv") == {"n": 1}
