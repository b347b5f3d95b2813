"""Servers that lie, stall and break off: no wrong byte counts as a right one, nobody waits long."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import AbstractStore
from mountcache.backing import http
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import IndexUnreadableError, StoreError, StoreUnavailableError
from mountcache.events import StoreOfflineEvent, StoreUpdateEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from tests.servers import CLOSE, ForeignServer, Reply, ScriptedServer, chunked, scripted

__all__ = ["scripted"]

FIRST = Reply(200, b"first", {"ETag": '"1"'})
PATIENT = {"timeout": (5, 10), "retries": 0}


def static(server: ScriptedServer, **others: Any) -> StaticURLStore:
    return StaticURLStore(server.url, "", None, **{**PATIENT, **others})


@pytest.fixture(params=["disk", "memory"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractStore:
    if request.param == "memory":
        return MemoryStore()
    return DiskCacheStore(tmp_path / "here", min_free=0)


def mounted(backing: Any, tmp_path: Path, **others: Any) -> MountedStore:
    return MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing, **others)


def head(*fields: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *fields, "")).encode("latin-1")


# -- where a body ends -----------------------------------------------------------------------


def test_stream_that_broke_never_comes_to_a_good_end(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [chunked(b"some", end=False), CLOSE])
    with static(scripted) as store:
        data = store.get_data("a")
        for _ in range(3):
            with pytest.raises(StoreError):
                data.read()


def test_length_said_twice_is_a_length(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", head("Content-Length: 5", "Content-Length: 5") + b"12345")
    with static(scripted) as store:
        for _ in range(2):
            value = store.fetch("a")
            assert (value.size, value.data.read()) == (5, b"12345")
        assert scripted.connections == 1


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        *([f"Content-Length: {text}"] for text in ("5, 6", "-5", "+5", "0x5", "five")),
        ["Content-Length: " + "9" * 5000],
        *([f"Transfer-Encoding: {text}"] for text in ("gzip, chunked", "gzip")),
    ],
    ids=lambda fields: fields[-1][:40],
)
def test_body_whose_end_nobody_can_tell_is_refused(
    scripted: ScriptedServer, fields: list[str]
) -> None:
    scripted.on("GET", "/a", [head(*fields), b"5\r\n12345\r\n0\r\n\r\n", CLOSE])
    with static(scripted) as store, pytest.raises(StoreError):
        store.to_bytes("a")


def test_chunks_count_more_than_a_length(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.on("GET", "/a", chunked(b"12345", Content_Length="3", ETag='"1"'))
    with mounted(static(scripted), tmp_path) as store:
        assert store.to_bytes("a") == b"12345"
        assert store.with_options(offline="always").to_bytes("a") == b"12345"


@pytest.mark.parametrize("length", ["9" * 20, "1" + "0" * 15])
def test_length_beyond_sense_is_an_error_of_one_sentence(
    scripted: ScriptedServer, local: AbstractStore, length: str
) -> None:
    fields = ('ETag: "1"', f"Content-Length: {length}")
    scripted.on("GET", "/a", [head(*fields), b"abc", CLOSE])
    scripted.on("HEAD", "/a", [head(*fields), CLOSE])
    with MountedStore("", local, static(scripted)) as store:
        for read in (
            lambda: store.to_bytes("a"),
            lambda: store.get("a").data.read(),
            lambda: store.get("a").range(5, 10).read(),
        ):
            with pytest.raises(StoreError):
                read()


@pytest.mark.parametrize("metadata", [b"[" * 200_000, b'{"a": NaN}', b"<html>", b"[]"])
def test_metadata_that_is_none_is_an_error_of_one_sentence(tmp_path: Path, metadata: bytes) -> None:
    with ForeignServer() as server:
        server.put("a", b"data")
        server.change("a", "metadata", metadata)
        with mounted(DynamicURLStore(*server.urls), tmp_path) as store, pytest.raises(StoreError):
            store.to_bytes("a")


# -- redirects -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/\xc3\xa4", "/%C3%A4", "\xc3\xa4"])
def test_location_in_plain_utf8_is_followed(scripted: ScriptedServer, where: str) -> None:
    scripted.on("GET", "/a", Reply(302, headers={"Location": where}))
    scripted.on("GET", "/%C3%A4", Reply(200, b"there"))
    with static(scripted) as store:
        assert store.to_bytes("a") == b"there"


@pytest.mark.parametrize("where", ["http://[bad", "http://h:99999999/", "http://\x00/", "http://"])
def test_location_that_is_no_url_is_an_error_of_one_sentence(
    scripted: ScriptedServer, where: str
) -> None:
    scripted.on("GET", "/a", Reply(302, headers={"Location": where}))
    with static(scripted) as store, pytest.raises(StoreError):
        store.to_bytes("a")


# -- copies that are confirmed ---------------------------------------------------------------


def test_confirmation_of_another_version_confirms_nothing(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    second = Reply(200, b"second", {"ETag": '"2"'})
    scripted.on("GET", "/a", FIRST, Reply(304, headers={"ETag": '"2"'}), second)
    with mounted(static(scripted), tmp_path) as store:
        assert store.to_bytes("a") == b"first"
        assert store.to_bytes("a") == b"second"


def test_confirmation_that_nobody_asked_for_confirms_nothing(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    now = formatdate(usegmt=True)
    racy = Reply(200, b"first", {"ETag": '"1"', "Last-Modified": now, "Date": now})
    scripted.on("GET", "/a", racy, Reply(304, headers={"ETag": '"1"'}))
    with mounted(static(scripted), tmp_path) as store:
        assert store.to_bytes("a") == b"first"
        with pytest.raises(StoreError, match="304"):
            store.to_bytes("a")


def test_confirmation_of_a_weak_tag_makes_no_version(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    weak = Reply(200, b"first", {"ETag": 'W/"1"'})
    scripted.on("GET", "/a", weak, Reply(304, headers={"ETag": '"1"'}))
    with mounted(static(scripted), tmp_path) as store:
        assert store.to_bytes("a") == b"first"
        assert store.to_bytes("a") == b"first"
        copy = store.mount.catalog.row("a").copy
        assert copy is not None
        assert copy.version is None


def test_values_of_many_changed_keys_hold_no_connections(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    keys = [f"k{number}" for number in range(20)]
    second = Reply(200, b"x" * 100_000, {"ETag": '"2"'})
    for key in keys:
        scripted.on("GET", f"/{key}", FIRST, second)
    with mounted(static(scripted), tmp_path) as store:
        for key in keys:
            store.to_bytes(key)
        values = [store.get(key) for key in keys]
        assert {value.version for value in values} == {"2"}
        scripted.wait_until_closed()
        for value in values:
            assert len(value.data.read()) == 100_000


# -- who waits, and for how long -------------------------------------------------------------


def test_deadline_ends_a_head_that_drips(scripted: ScriptedServer) -> None:
    over = threading.Event()
    dripped: list[None] = []
    steps: list[Any] = [b"HTTP/1.1 200 OK\r\nX-Drip: "]
    for _ in range(100):
        steps += [b"x", lambda: dripped.append(None), lambda: over.wait(0.05)]
    scripted.on("GET", "/a", [*steps, b"\r\nContent-Length: 0\r\n\r\n"])
    with static(scripted, deadline=0.5) as store:
        with pytest.raises(StoreUnavailableError):
            store.fetch("a")
        assert len(dripped) < 60
    over.set()


def test_head_that_drips_is_no_answer(scripted: ScriptedServer) -> None:
    over = threading.Event()
    dripped: list[None] = []
    steps: list[Any] = [b"HTTP/1.1 200 OK\r\nX-Drip: "]
    for _ in range(100):
        steps += [b"x", lambda: dripped.append(None), lambda: over.wait(0.05)]
    scripted.on("GET", "/a", [*steps, b"\r\nContent-Length: 0\r\n\r\n"])
    with static(scripted, timeout=(5, 0.5)) as store:
        with pytest.raises(StoreUnavailableError, match="no answer"):
            store.fetch("a")
        assert len(dripped) < 60
    over.set()


def test_large_value_goes_on_coming_after_the_deadline(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    came = threading.Event()
    large = b"x" * 3_000_000
    reply = Reply(200, large, {"ETag": '"1"'}).render("GET")
    scripted.on("GET", "/a", [reply[:-1_000_000], came, reply[-1_000_000:]])
    with mounted(static(scripted), tmp_path) as store:
        begun = time.monotonic()
        with store.with_options(deadline=0.3).get_data("a") as data:
            read = data.read(1_000_000)
            threading.Timer(max(0.0, begun + 0.5 - time.monotonic()), came.set).start()
            assert read + data.read() == large
        assert len(scripted.asked("GET")) == 1


def test_repeats_of_one_call_wait_no_longer_than_one_may(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_LONGEST_PAUSE", 1.5)
    scripted.on("GET", "/a", Reply(503, headers={"Retry-After": "1"}))
    with static(scripted, retries=5) as store, pytest.raises(StoreUnavailableError, match="503"):
        store.fetch("a")
    assert len(scripted.requests) == 2


def test_value_that_stalls_counts_as_out_of_reach(scripted: ScriptedServer, tmp_path: Path) -> None:
    never = threading.Event()
    stalling = [head('ETag: "2"', "Content-Length: 6"), never]
    for key in "abc":
        scripted.on("GET", f"/{key}", FIRST, stalling)
    told: list[Any] = []
    with mounted(static(scripted, timeout=(5, 0.4)), tmp_path) as store:
        store.event_manager.connect(StoreOfflineEvent, told.append)
        for key in "abc":
            assert store.to_bytes(key) == b"first"
        for key in "abc":
            assert store.to_bytes(key) == b"first"
        # One of them waited; the others knew.
        assert len(scripted.asked("GET")) == 4
        assert len(told) == 1
        with pytest.raises(StoreUnavailableError):
            store.with_options(offline="never").to_bytes("a")
        never.set()


def of_index(server: ScriptedServer, *later: Any, poll: float = 3600) -> StaticURLStore:
    """Return a store with two keys, whose index comes whole at first."""
    server.on("GET", "/index.json", Reply(200, b'{"a": {"n": 1}, "b": {}}'), *later)
    for key in "ab":
        server.on("GET", f"/data/{key}", FIRST)
    return StaticURLStore(server.url, timeout=(5, 0.4), retries=0, poll=poll)


def test_index_that_stalls_counts_as_out_of_reach(scripted: ScriptedServer, tmp_path: Path) -> None:
    never = threading.Event()
    backing = of_index(scripted, [head("Content-Length: 100"), b'{"a": {}, ', never])
    with mounted(backing, tmp_path) as store:
        for key in "ab":
            assert store.to_bytes(key) == b"first"
        anew = store.with_options(max_age=0)
        for key in "abab":
            assert anew.get(key).stale
        assert len(scripted.asked("GET", "/index.json")) == 2
        never.set()


def test_index_that_is_cut_off_changes_nothing(scripted: ScriptedServer, tmp_path: Path) -> None:
    backing = of_index(scripted, [head("Content-Length: 100"), b'{"a": {}, ', CLOSE])
    with mounted(backing, tmp_path) as store:
        for key in "ab":
            assert store.to_bytes(key) == b"first"
        for key in "ab":
            assert store.with_options(max_age=0).to_bytes(key) == b"first"
        with pytest.raises(IndexUnreadableError, match="ended after 10 of 100 bytes"):
            store.update_index()


def test_polls_go_on_after_any_answer(scripted: ScriptedServer, tmp_path: Path) -> None:
    later = Reply(200, b'{"a": {"n": 2}}')
    backing = of_index(scripted, Reply(403), Reply(429), Reply(200, b"<"), later, poll=0.05)
    seen = threading.Event()
    with mounted(backing, tmp_path) as store:
        store.update_index()
        store.event_manager.connect(StoreUpdateEvent, lambda event: seen.set())
        assert seen.wait(10)


def test_any_answer_ends_an_outage(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.on("GET", "/a", CLOSE)
    scripted.on("GET", "/c", Reply(403))
    told: list[Any] = []
    with mounted(static(scripted), tmp_path) as store:
        store.event_manager.connect(StoreOfflineEvent, told.append)
        for number, key in enumerate("bc", start=1):
            with pytest.raises(StoreUnavailableError):
                store.to_bytes("a")
            assert store.is_offline()
            store._remote.wake()
            with pytest.raises((KeyError, StoreError)):
                store.to_bytes(key)
            assert len(told) == number


@pytest.mark.parametrize("alone", [False, True])
def test_disconnecting_waits_for_no_answer(
    scripted: ScriptedServer, tmp_path: Path, alone: bool
) -> None:
    asked, never = threading.Event(), threading.Event()
    scripted.on("GET", "/index.json", Reply(200, b"{}"), [asked.set, never])
    backing = StaticURLStore(scripted.url, timeout=(5, 15), poll=0.05)
    with backing if alone else mounted(backing, tmp_path) as store:
        assert list(store.query_keys()) == []
        assert asked.wait(10)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert not [each for each in threading.enumerate() if each.name.startswith("mountcache-")]
    never.set()
