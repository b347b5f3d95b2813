"""What is kept in memory of a read is never given out once somebody has written."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, MemoryStore, MountedStore, StringValue
from mountcache.local.connection import GuardedConnection
from tests.upstreams import Origin


def opened(place: Path) -> MountedStore:
    return MountedStore("", DiskCacheStore(place, min_free=0), Origin())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MountedStore]:
    with opened(tmp_path / "here") as mounted:
        yield mounted


def kept(store: MountedStore) -> GuardedConnection:
    return store.mount.catalog.content.connection()


def read_twice(store: MountedStore, key: str = "k") -> bytes:
    """Read what is kept from the first time on."""
    first = store.get_data(key).read()
    asked: list[str] = []
    kept(store).set_trace_callback(asked.append)
    second = store.get_data(key).read()
    kept(store).set_trace_callback(None)
    assert asked == ["PRAGMA data_version"]
    assert first == second
    return second


def _set(place: Path, data: bytes) -> None:
    with opened(place) as other:
        other.set("k", StringValue(data))


def test_a_write_elsewhere_shows_in_the_very_next_read(store: MountedStore, tmp_path: Path) -> None:
    store.set("k", StringValue(b"first"))
    assert read_twice(store) == b"first"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        for number in range(5):
            processes.submit(_set, tmp_path / "here", b"%d" % number).result()
            assert store.get_data("k").read() == b"%d" % number
            assert read_twice(store) == b"%d" % number
    with ThreadPoolExecutor(1) as threads:
        for number in range(5):
            threads.submit(store.set, "k", StringValue(b"t%d" % number)).result()
            assert store.get_data("k").read() == b"t%d" % number


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.set("k", StringValue(b"second")),
        lambda store: store.set_data("k", StringValue(b"second").data),
        lambda store: store.update_metadata("k", {"n": 2}),
        lambda store: store.delete("k"),
        lambda store: store.revert("k"),
        lambda store: store.mv("k", "l"),
    ],
)
def test_a_write_of_its_own_shows_at_once(
    store: MountedStore, change: Callable[[MountedStore], object]
) -> None:
    store.backing_store.set("k", StringValue(b"upstream", {"n": 0}))
    store.set("k", StringValue(b"first", {"n": 1}))
    before = (read_twice(store), store.get_metadata("k"))
    change(store)
    with opened_beside(store) as other:
        expected = seen(other)
    assert seen(store) == expected != before


def opened_beside(store: MountedStore) -> MountedStore:
    """Return the same once more, which nobody has read from."""
    assert isinstance(store.mount_store, DiskCacheStore)
    local = DiskCacheStore(store.mount_store.directory, min_free=0)
    return MountedStore("", local, store.backing_store)


def seen(store: MountedStore) -> tuple[bytes, dict[str, object]] | None:
    try:
        value = store.get("k")
    except KeyError:
        return None
    return value.data.read(), value.metadata


def test_what_a_transaction_that_failed_wrote_is_never_seen(store: MountedStore) -> None:
    store.set("k", StringValue(b"first"))
    assert read_twice(store) == b"first"
    with pytest.raises(ZeroDivisionError), store.transaction("fails"):
        store.set("k", StringValue(b"second"))
        assert store.get_data("k").read() == b"second"
        raise ZeroDivisionError
    assert store.get_data("k").read() == b"first"
    content = store.mount.catalog.content
    with pytest.raises(ZeroDivisionError), content.write() as con:
        con.execute("UPDATE edit SET meta = '{\"lost\": 1}'")
        assert store.get_metadata("k") == {"lost": 1}
        assert store.get("k").metadata == {"lost": 1}
        raise ZeroDivisionError
    assert store.get("k").metadata == {}


def test_threads_on_one_connection_see_each_others_writes() -> None:
    with MountedStore("", MemoryStore(), Origin()) as store:
        store.set("k", StringValue(b"0"))
        wrong: list[tuple[bytes, bytes]] = []
        latest, ended = b"0", threading.Event()

        def read() -> None:
            while not ended.is_set():
                before = latest
                found = store.get_data("k").read()
                if int(found) < int(before):
                    wrong.append((found, before))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for each in readers:
            each.start()
        for number in range(1, 300):
            store.set("k", StringValue(b"%d" % number))
            latest = b"%d" % number
            assert store.get_data("k").read() == latest
        ended.set()
        for each in readers:
            each.join()
        assert wrong == []


def test_little_is_kept(store: MountedStore) -> None:
    with store.transaction("many"):
        for number in range(600):
            store.set(f"k{number}", StringValue(b"x" * 8192))
        store.set("large", StringValue(b"x" * 8193))
        store.set("file", StringValue(b"x" * 40_000))
        store.set("described", StringValue(b"", {"text": "x" * 8192}))
    most = 0
    for number in range(600):
        store.get(f"k{number}")
        most = max(most, len(kept(store).kept))
    assert most == 256
    for key in ("large", "described", "file"):
        assert store.get_data(key).read() == store.get_data(key).read()
    names = {key for key, _ in kept(store).kept}
    assert [key in names for key in ("large", "described", "file")] == [False, False, True]
