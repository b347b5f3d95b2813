"""What the author of an edit had seen: through failures, restarts, other processes and a move."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.abc import NotModified, Value
from mountcache.errors import ConflictError, StoreFullError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin) -> MountedStore:
    return MountedStore("", MemoryStore(), origin)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def on_disk(origin: Origin, directory: Path) -> Iterator[MountedStore]:
    with DiskCacheStore(directory) as local:
        yield MountedStore("", local, origin)


def base(store: MountedStore, key: str = "k") -> str:
    return {edit.key: edit.base for edit in store.staged()}[key]


def pull(store: MountedStore) -> None:
    """Replace copies and entries by what upstream has, unasked."""
    store.update_index()
    sync.prefetch(store)


def test_set_that_failed_leaves_what_its_author_had_seen(
    on_disk: MountedStore, origin: Origin, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin, "k", "one")
    first = on_disk.get("k").version
    put(origin, "k", "two")
    # Another process reads what its author never saw.
    with DiskCacheStore(directory) as local:
        assert MountedStore("", local, origin, max_age=0).to_bytes("k") == b"two"
    content = on_disk.mount.catalog.content

    def full(commit: object) -> None:
        content._take_back(commit)  # type: ignore[attr-defined]
        raise StoreFullError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(content, "_finish", full)
        with pytest.raises(StoreFullError):
            put(on_disk, "k", "mine")
    put(on_disk, "k", "mine")
    assert base(on_disk) == first
    with pytest.raises(ConflictError):
        on_disk.push("k")


def test_a_read_of_what_was_pulled_counts_after_a_restart(
    on_disk: MountedStore, origin: Origin, directory: Path
) -> None:
    put(origin, "k", "one")
    put(origin, "unread", "one")
    pull(on_disk)
    assert on_disk.to_bytes("k") == b"one"
    put(origin, "k", "two")
    put(origin, "unread", "two")
    pull(on_disk)
    assert on_disk.to_bytes("k") == b"two"
    on_disk.mount_store.disconnect()
    with DiskCacheStore(directory) as local:
        restarted = MountedStore("", local, origin)
        put(restarted, "k", "mine")
        assert restarted.push("k").outcome == "pushed"
        put(restarted, "unread", "mine")
        with pytest.raises(ConflictError):
            restarted.push("unread")


def test_metadata_that_was_read_after_a_poll_counts_after_a_restart(
    on_disk: MountedStore, origin: Origin, directory: Path
) -> None:
    put(origin, "k", "data", state="draft")
    assert on_disk.get_metadata("k") == {"state": "draft"}
    put(origin, "k", "data", state="final")
    on_disk.update_index()
    assert on_disk.get_metadata("k") == {"state": "final"}
    on_disk.mount_store.disconnect()
    with DiskCacheStore(directory) as local:
        restarted = MountedStore("", local, origin)
        restarted.set_metadata("k", {"state": "mine"})
        assert restarted.push("k").outcome == "pushed"


def test_an_earlier_read_ends_nothing_though_the_metadata_are_the_same(
    on_disk: MountedStore, origin: Origin, directory: Path
) -> None:
    put(origin, "k", "one")
    first = on_disk.get("k").version
    assert on_disk.to_bytes("k") == b"one"
    put(origin, "k", "two")
    pull(on_disk)
    on_disk.mount_store.disconnect()
    with DiskCacheStore(directory) as local:
        restarted = MountedStore("", local, origin)
        put(restarted, "k", "mine")
        assert base(restarted) == first


@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_versions_of_the_upstream_before_a_move_are_no_bases(
    store: MountedStore, origin: Origin, *, pulled: bool, restarted: bool
) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    if pulled:
        put(origin, "k", "two")
        pull(store)
    origin.identity = "memory://elsewhere"
    moved = MountedStore("", store.mount_store, origin)
    moved.rebind("memory://elsewhere")
    if restarted:
        moved.mount.catalog.forget_all_handed()
    put(moved, "k", "mine")
    assert base(moved) in ("digest", "unknown")


def test_ops_of_the_upstream_before_a_move_have_no_versions(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(store, "k", "mine")

    def interrupt(verb: str, key: str) -> None:
        raise KeyboardInterrupt

    origin.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        store.push("k")
    origin.identity = "memory://elsewhere"
    moved = MountedStore("", store.mount_store, origin)
    moved.rebind("memory://elsewhere")
    op = moved.mount.catalog.row("k").op
    assert op is not None
    assert (op.base.kind, op.base.version) == ("digest", None)


def test_an_answer_that_comes_after_a_push_doesnt_bring_the_old_metadata_back(
    store: MountedStore, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin, "k", "data", state="draft")
    store.to_bytes("k")
    revalidate = origin.revalidate

    def slowly(key: str, validators: str) -> object:
        answer = revalidate(key, validators)
        assert isinstance(answer, NotModified)
        monkeypatch.setattr(origin, "revalidate", revalidate)
        pusher = threading.Thread(target=push)
        pusher.start()
        pusher.join()
        return answer

    def push() -> None:
        store.set_metadata("k", {"state": "final"})
        store.push("k")

    monkeypatch.setattr(origin, "revalidate", slowly)
    store.with_options(max_age=0).get("k")
    assert store.with_options(max_age=60).get_metadata("k") == {"state": "final"}


@pytest.mark.parametrize("deleted", [False, True])
def test_a_download_that_a_push_overtakes_isnt_kept(
    store: MountedStore, origin: Origin, monkeypatch: pytest.MonkeyPatch, *, deleted: bool
) -> None:
    put(origin, "k", "old")
    store.update_index()
    get = origin.get

    def slowly(key: str) -> Value:
        answer = get(key)
        monkeypatch.setattr(origin, "get", get)
        if deleted:
            store.delete("k")
        else:
            put(store, "k", "new")
        assert store.push("k").outcome == "pushed"
        return answer

    monkeypatch.setattr(origin, "get", slowly)
    assert store.get_data("k").read() == b"old"
    later = store.with_options(max_age=60)
    assert later.exists("k") is not deleted
    if not deleted:
        assert later.to_bytes("k") == b"new"


def test_staged_bytes_are_synced_before_their_row_whatever_the_durability(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    with DiskCacheStore(directory, durability="normal") as local:
        monkeypatch.setattr(os, "fsync", noted)
        put(local, "k", b"large" * 20_000)
        edit = local.catalog.row("k").edit
        assert edit is not None
        assert [Path(name).stem for name in synced][:1] == [edit.content]


def test_store_closes_though_another_process_keeps_it_locked(
    on_disk: MountedStore, origin: Origin, directory: Path
) -> None:
    put(origin, "k", "data")
    pull(on_disk)
    on_disk.to_bytes("k")
    other = sqlite3.connect(directory / "cache.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        on_disk.mount_store.disconnect()
        other.execute("ROLLBACK")
    finally:
        other.close()
    assert on_disk.mount_store.exists("k") is False  # opened again


def test_what_was_written_but_never_closed_isnt_staged(
    store: MountedStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "k", "old")
    store.open("k", "wb").write(b"half of")
    assert "what was written to 'k' is discarded: nobody closed it" in caplog.text
    assert store.to_bytes("k") == b"old"


@pytest.mark.parametrize("name", ["a\nb", "", "a\0b", 'a"b', "a.b", "é", "\u2028", "\x7f", "a]b"])
def test_metadata_of_any_name_are_found(name: str) -> None:
    store = MemoryStore()
    put(store, "k", "data", **{name: 1})
    assert list(store.query_keys(**{name: 1})) == ["k"]
    assert list(store.query_keys(**{name: 2})) == []


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("change", ["delete", "update_metadata"])
def test_value_that_passed_by_is_what_a_later_change_is_made_from(
    store: MountedStore, origin: Origin, change: str, changed: bool
) -> None:
    put(origin, "k", "data", n=1)
    passing = store.with_options(fill=False)
    assert passing.to_bytes("k") == b"data"
    assert store.mount.catalog.row("k").entry is None
    if changed:
        put(origin, "k", "theirs", n=100)
    if change == "delete":
        passing.delete("k")
    else:
        passing.update_metadata("k", {"n": 2})
    outcomes = {result.outcome for result in sync.push(store).results}
    assert ("conflict" in outcomes) is changed
    if changed:
        assert origin.to_bytes("k") == b"theirs"
