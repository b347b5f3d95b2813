"""What goes wrong half way: nothing is lost, nothing wrong is served, and the next try goes on."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import Pushed, Value
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ChangedWhileReadingError,
    ConfigurationError,
    ConflictError,
    DirectoryError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from mountcache.events import StoreSetEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import look
from mountcache.values import StringValue
from tests.servers import ForeignServer, Reply, Script, ScriptedServer, chunked, scripted

__all__ = ["scripted"]

MIB = 1048576
LARGE = os.urandom(3 * MIB + 5)


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        store.set("a", StringValue(b"first", {"n": 1}))
        store.set("large", StringValue(LARGE, {}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


def dynamic(origin: Origin) -> DynamicURLStore:
    return DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, dynamic(origin), max_age=3600.0) as mounted:
        yield mounted


@pytest.fixture
def foreign() -> Iterator[ForeignServer]:
    with ForeignServer(etags=False, conditions=False) as server:
        server.put("a", b"first", {"n": 1})
        yield server


@pytest.fixture
def over_foreign(foreign: ForeignServer, tmp_path: Path) -> Iterator[MountedStore]:
    local = DiskCacheStore(tmp_path / "there", min_free=0)
    with MountedStore("", local, DynamicURLStore(*foreign.urls)) as mounted:
        yield mounted


# -- the disk is full --------------------------------------------------------------------------


def no_space(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full after so many bytes of downloads."""
    really, left = os.pwrite, [after]

    def pwrite(descriptor: int, data: Any, at: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("after", [0, 100_000, MIB, 2 * MIB + 1])
def test_full_disk_fails_no_read(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int
) -> None:
    no_space(monkeypatch, after)
    assert store.to_bytes("large") == LARGE
    assert store.stats()["cached_keys"] == 0
    monkeypatch.undo()
    assert store.to_bytes("large") == LARGE
    assert store.stats()["cached_keys"] == 1
    assert list((tmp_path / "here" / "partial").iterdir()) == []


@pytest.mark.parametrize("after", [0, 100_000, MIB])
@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
def test_full_disk_fails_no_read_of_what_comes_once(
    scripted: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    after: int,
    length: bool,
) -> None:
    scripted.on("GET", "/a", Reply(200, LARGE) if length else [chunked(LARGE)])
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, backing) as store:
        no_space(monkeypatch, after)
        with store.get_data("a") as data:
            assert data.read(10) == LARGE[:10]
            assert data.read() == LARGE[10:]
        assert len(scripted.asked("GET", "/a")) == 1
        assert store.stats()["cached_keys"] == 0
        monkeypatch.undo()
        assert list((tmp_path / "here" / "partial").iterdir()) == []
        assert store.to_bytes("a") == LARGE
        assert store.stats()["cached_keys"] == 1


@pytest.mark.parametrize("error", [StoreFullError("no room"), StoreError("no")], ids=repr)
def test_prefetch_tells_what_it_couldnt_keep(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    def keep(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(store.mount.catalog, "keep", keep)
    report = sync.prefetch(store, "a")
    assert report.failed == {"a": str(error)}
    monkeypatch.undo()
    assert sync.prefetch(store, "a").fetched == 1


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        [chunked(LARGE)],
        Reply(200, LARGE),
        Reply(200, LARGE, {"ETag": '"1"'}),
        [chunked(LARGE, ETag='"1"')],
    ],
    ids=["once", "length", "version", "version alone"],
)
def test_stream_that_isnt_kept_can_be_sought_in(
    scripted: ScriptedServer, tmp_path: Path, reply: Script
) -> None:
    scripted.on("GET", "/a", reply)
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    with (
        MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store,
        store.with_options(fill=False).get_data("a") as data,
    ):
        assert data.read(10) == LARGE[:10]
        assert data.seek(0) == 0
        assert data.read(200_000) == LARGE[:200_000]
        assert data.seek(-5, io.SEEK_END) == len(LARGE) - 5
        assert data.read() == LARGE[-5:]
        assert data.seek(10) == 10
        assert data.read(5) == LARGE[10:15]
        assert data.seek(0) == 0
        assert data.read() == LARGE
        assert store.stats()["cached_keys"] == 0


# The last of the bytes that are given out below, and those alone, tells the third one.
_ALMOST = LARGE[:-11] + bytes([LARGE[-11] ^ 1]) + LARGE[-10:]


@pytest.mark.parametrize("then", [LARGE[::-1], LARGE[:70_000], _ALMOST])
def test_stream_never_goes_on_in_another_value(
    scripted: ScriptedServer, tmp_path: Path, then: bytes
) -> None:
    scripted.on("GET", "/a", Reply(200, LARGE), Reply(200, then))
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    with (
        MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store,
        store.with_options(fill=False).get_data("a") as data,
    ):
        assert data.read(len(LARGE) - 10) == LARGE[:-10]
        data.seek(0)
        with pytest.raises(ChangedWhileReadingError):
            data.read(1)


def test_stream_that_is_kept_can_be_sought_in(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.on("GET", "/a", [chunked(LARGE)])
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        with store.get_data("a") as data:
            assert data.seek(-5, io.SEEK_END) == len(LARGE) - 5
            assert data.read() == LARGE[-5:]
            assert data.seek(10) == 10
            assert data.seek(5, io.SEEK_CUR) == 15
            assert data.read(5) == LARGE[15:20]
            with pytest.raises(ValueError, match="seek"):
                data.seek(-1)
        with pytest.raises(ValueError, match="closed"):
            data.read()
        assert store.stats()["cached_keys"] == 1


def test_reads_past_the_store_are_verified_too(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    quiet = store.with_options(fill=False)
    with quiet.get_data("large") as data:
        data.seek(2 * MIB)
        assert data.read(7) == LARGE[2 * MIB : 2 * MIB + 7]
        data.seek(0)
        assert data.read() == LARGE
    assert quiet.to_bytes("large") == LARGE
    assert store.stats()["cached_keys"] == 0


# -- copies that aren't what they were ---------------------------------------------------------


def reboot(store: MountedStore) -> None:
    """Let the machine have been started anew since the copies were written."""
    con = store.mount.catalog.content.connection()
    con.execute("UPDATE copy SET boot = 'an earlier one'")


def copy_file(directory: Path) -> Path:
    (found,) = directory.glob("??/*.val")
    return found


@pytest.mark.parametrize("online", [True, False])
def test_copies_of_an_earlier_boot_are_verified_before_they_are_used(
    store: MountedStore, origin: Origin, online: bool
) -> None:
    for key in ("a", "large"):
        store.to_bytes(key)
    reboot(store)
    if not online:
        origin.stop()
    assert store.to_bytes("a") == b"first"
    assert store.to_bytes("large") == LARGE
    assert store.get("large").source == "cached"
    con = store.mount.catalog.content.connection()
    assert con.execute("SELECT count(*) FROM copy WHERE boot = ?", (
        store.mount.catalog.content.boot,
    )).fetchone() == (2,)  # fmt: skip


@pytest.mark.parametrize("damage", ["torn", "gone"])
@pytest.mark.parametrize("online", [True, False])
def test_damaged_copies_are_never_served(
    store: MountedStore, origin: Origin, tmp_path: Path, damage: str, online: bool
) -> None:
    store.to_bytes("large")
    file = copy_file(tmp_path / "here")
    if damage == "torn":
        file.chmod(0o600)
        file.write_bytes(LARGE[:MIB] + bytes(len(LARGE) - MIB))
        reboot(store)
    else:
        file.unlink()
    if online:
        assert store.to_bytes("large") == LARGE
        assert store.to_bytes("large") == LARGE
    else:
        origin.stop()
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("large")


@pytest.mark.parametrize("online", [True, False])
def test_copy_that_a_power_cut_tore_is_never_renamed_and_pushed(
    store: MountedStore, origin: Origin, repository: MemoryStore, tmp_path: Path, online: bool
) -> None:
    assert sync.prefetch(store, "large").fetched == 1
    file = copy_file(tmp_path / "here")
    file.chmod(0o600)
    file.write_bytes(LARGE[:MIB] + bytes(len(LARGE) - MIB))
    reboot(store)
    if online:
        store.mv("large", "renamed")
        assert sync.push(store).ok
        assert repository.to_bytes("renamed") == LARGE
        assert not repository.exists("large")
    else:
        origin.stop()
        with pytest.raises(StoreUnavailableError):
            store.mv("large", "renamed")
        assert list(store.staged()) == []
        assert repository.to_bytes("large") == LARGE


# -- another upstream --------------------------------------------------------------------------


def test_moved_upstream_is_followed_when_it_is_said(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    for key in ("a", "large"):
        store.to_bytes(key)
    store.set("a", StringValue(b"mine", {"n": 2}))
    store.set("large", StringValue(b"mine", {}))
    store.set("new", StringValue(b"new", {}))
    store.disconnect()
    with MemoryStore() as moved:
        moved.set("a", StringValue(b"first", {"n": 1}))
        moved.set("large", StringValue(b"other than it was", {}))
        moved.set("new", StringValue(b"theirs", {}))
        with Origin(moved) as elsewhere:
            backing = dynamic(elsewhere)
            again = MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)
            with pytest.raises(DirectoryError, match="rebind"):
                list(again.staged())
            with pytest.raises(StoreError, match="make the mount with the new backing store"):
                again.rebind("http://127.0.0.1:1/")
            again.rebind(backing.identity)
            with again:
                assert again.to_bytes("a") == b"mine"
                report = sync.push(again)
                assert {each.key: each.outcome for each in report.results} == {
                    "a": "pushed", "large": "conflict", "new": "conflict",
                }  # fmt: skip
                assert moved.to_bytes("a") == b"mine"
                assert moved.to_bytes("new") == b"theirs"


# -- pushes ------------------------------------------------------------------------------------


class Interrupted(DynamicURLStore):
    """The user presses Ctrl-C once, before or after a request has been carried out."""

    when = ""

    def set_if(self, key: str, value: Value, *args: Any, **options: Any) -> Pushed:
        when, self.when = self.when, ""
        if when == "before":
            raise KeyboardInterrupt
        pushed = super().set_if(key, value, *args, **options)
        if when == "after":
            raise KeyboardInterrupt
        return pushed


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("workers", [1, 4])
def test_interrupted_push_is_settled_by_the_next(
    origin: Origin, repository: MemoryStore, tmp_path: Path, when: str, workers: int
) -> None:
    backing = Interrupted(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        assert store.to_bytes("a") == b"first"
        store.set("a", StringValue(b"mine", {"n": 2}))
        backing.when = when
        with pytest.raises(KeyboardInterrupt):
            sync.push(store, workers=workers)
        # What others build on a push that arrived isn't taken back by a repeat.
        if when == "after":
            assert repository.to_bytes("a") == b"mine"
            repository.set("a", StringValue(b"theirs", {"n": 3}))
        assert sync.push(store, workers=workers).ok
        assert list(store.staged()) == []
        assert repository.to_bytes("a") == (b"theirs" if when == "after" else b"mine")


def test_blind_push_says_so(over_foreign: MountedStore, foreign: ForeignServer) -> None:
    assert over_foreign.to_bytes("a") == b"first"
    over_foreign.set("a", StringValue(b"mine", {"n": 2}))
    foreign.put("a", b"theirs")
    report = sync.push(over_foreign, allow_blind=True)
    assert (report["a"].outcome, report["a"].grade) == ("pushed", "D")
    assert "without a look" in report["a"].message
    assert foreign.keys["a"]["data"] == b"mine"
    with pytest.raises(KeyError):
        report["b"]


@pytest.mark.parametrize("policy", ["ours", "theirs", "keep-both", "merge-metadata", "fail"])
@pytest.mark.parametrize("mine", ["put", "meta", "del"])
def test_policies_where_nothing_has_a_version(
    over_foreign: MountedStore, foreign: ForeignServer, policy: Any, mine: str
) -> None:
    assert over_foreign.to_bytes("a") == b"first"
    if mine == "put":
        over_foreign.set("a", StringValue(b"mine", {"n": 1}))
    elif mine == "meta":
        over_foreign.set_metadata("a", {"n": 2})
    else:
        over_foreign.delete("a")
    foreign.put("a", b"theirs", {"n": 1, "theirs": True})
    if mine == "meta":
        foreign.put("a", metadata={"n": 3})
    (result,) = sync.push(over_foreign, on_conflict=policy).results
    data = foreign.keys.get("a", {}).get("data")
    match policy, mine:
        case "ours", "put":
            assert (result.outcome, data) == ("pushed", b"mine")
        case "ours", "meta":
            assert (result.outcome, foreign.metadata("a")) == ("pushed", {"n": 2})
            assert data == b"theirs"
        case "ours", "del":
            assert (result.outcome, data) == ("pushed", None)
        case "theirs", _:
            assert data == b"theirs"
            assert list(over_foreign.staged()) == []
            assert over_foreign.to_bytes("a") == b"theirs"
        case "keep-both", "put":
            assert data == b"theirs"
            (other,) = set(foreign.keys) - {"a"}
            assert foreign.keys[other]["data"] == b"mine"
        case "keep-both", "del":
            assert data == b"theirs"
            assert list(over_foreign.staged()) == []
        case _:
            assert (result.outcome, data) == ("conflict", b"theirs")
            assert [edit.in_conflict for edit in over_foreign.staged()] == [True]


def test_what_is_too_large_to_read_back_says_so(
    over_foreign: MountedStore, foreign: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "VERIFY_LIMIT", 1000)
    over_foreign.set("new", StringValue(b"x" * 2000, {}))
    (result,) = sync.push(over_foreign).results
    assert (result.outcome, result.verified) == ("pushed", False)
    assert "too large to read back" in result.message
    assert foreign.keys["new"]["data"] == b"x" * 2000
    assert over_foreign.to_bytes("new") == b"x" * 2000


@pytest.mark.parametrize("fate", ["deleted", "changed", "unreachable"])
def test_what_was_sent_is_looked_after(
    over_foreign: MountedStore, foreign: ForeignServer, fate: str
) -> None:
    over_foreign.set("new", StringValue(b"mine", {"n": 1}))
    sent = threading.Event()

    def before(method: str, key: str, part: str) -> None:
        if method == "PUT" and part == "metadata":
            sent.set()
        elif sent.is_set() and key == "new" and method in ("GET", "HEAD"):
            if fate == "deleted" and "new" in foreign.keys:
                foreign.remove("new")
            elif fate == "changed":
                foreign.put("new", b"changed by the server")
            elif fate == "unreachable":
                raise ConnectionResetError

    foreign.before = before
    (result,) = sync.push(over_foreign).results
    if fate == "deleted":
        assert (result.outcome, len(list(over_foreign.staged()))) == ("failed", 1)
        assert "doesn't show" in result.message
    elif fate == "changed":
        assert result.outcome == "stored differently"
        assert over_foreign.to_bytes("new") == b"changed by the server"
    else:
        assert result.outcome == "pushed"
        assert not result.verified
        assert "couldn't be read back" in result.message
        assert over_foreign.to_bytes("new") == b"mine"


def test_orders_that_make_no_sense(store: MountedStore) -> None:
    store.set("a", StringValue(b"mine", {}))
    with pytest.raises(ConfigurationError, match="no policy for conflicts"):
        sync.push(store, on_conflict="perhaps")
    with pytest.raises(ValueError, match="at least 1 worker"):
        sync.push(store, workers=0)
    with pytest.raises(ConfigurationError, match="no way to work offline"):
        store.with_options(offline="perhaps")
    with pytest.raises(ValueError, match="'rb' or 'wb'"):
        store.open("a", "a+")
    assert len(list(store.staged())) == 1


def test_policy_that_answers_nonsense_leaves_the_edit(
    store: MountedStore, repository: MemoryStore
) -> None:
    store.to_bytes("a")
    store.set("a", StringValue(b"mine", {}))
    repository.set("a", StringValue(b"theirs", {}))
    (result,) = sync.push(store, on_conflict=lambda conflict: "perhaps").results
    assert result.outcome == "failed"
    assert "no policy for conflicts" in result.message
    assert [edit.key for edit in store.staged()] == ["a"]
    assert repository.to_bytes("a") == b"theirs"
    with pytest.raises(ConflictError):
        store.push("a")


# -- polls -------------------------------------------------------------------------------------


def test_index_is_polled_on_through_an_outage(
    origin: Origin, repository: MemoryStore, tmp_path: Path
) -> None:
    heard: list[str] = []
    came = threading.Event()

    def listen(event: StoreSetEvent) -> None:
        heard.append(str(event.key))
        came.set()

    backing = StaticURLStore(origin.url, poll=0.05)
    store = MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)
    with store:
        assert sorted(store.query_keys()) == ["a", "large"]
        store.event_manager.connect(StoreSetEvent, listen)
        repository.set("b", StringValue(b"B", {}))
        assert came.wait(30)
        assert heard == ["b"]
        origin.stop()
        assert sorted(store.query_keys()) == ["a", "b", "large"]


def test_index_that_another_reads_just_now_isnt_waited_for(origin: Origin, tmp_path: Path) -> None:
    backing = StaticURLStore(origin.url, poll=0)
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        assert sorted(store.query_keys()) == ["a", "large"]
        lock = store.mount.catalog.content.lock("index")
        assert lock.acquire(0)
        try:
            store.update_index()
            assert sorted(store.query_keys()) == ["a", "large"]
        finally:
            lock.release()
