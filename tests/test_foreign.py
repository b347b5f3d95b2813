"""A mount over a REST server of another make: no step is atomic there, and the results say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import ConflictError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.values import StringValue
from tests.servers import ForeignServer

KINDS = {
    "strong tags": {},
    "no tags": {"etags": False, "conditions": False},
    "ignores conditions": {"conditions": False},
    "keys alone": {"ndjson": False},
}


@pytest.fixture(params=KINDS)
def foreign(request: pytest.FixtureRequest) -> Iterator[ForeignServer]:
    with ForeignServer(**KINDS[request.param]) as server:
        server.put("a", b"first", {"n": 1})
        yield server


@pytest.fixture
def store(foreign: ForeignServer, tmp_path: Path) -> Iterator[MountedStore]:
    backing = DynamicURLStore(*foreign.urls)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as mounted:
        yield mounted


def test_what_was_read_is_replaced(store: MountedStore, foreign: ForeignServer) -> None:
    assert store.to_bytes("a") == b"first"
    store.set("a", StringValue(b"mine", {"n": 2}))
    result = store.push("a")
    assert (result.outcome, result.grade, result.verified) == ("pushed", "C", True)
    assert not result.enforced
    assert foreign.keys["a"]["data"] == b"mine"
    assert foreign.metadata("a") == {"n": 2}
    assert list(store.staged()) == []
    assert store.to_bytes("a") == b"mine"


def test_what_others_changed_is_kept(store: MountedStore, foreign: ForeignServer) -> None:
    assert store.to_bytes("a") == b"first"
    store.set("a", StringValue(b"mine", {"n": 2}))
    foreign.put("a", b"theirs")
    with pytest.raises(ConflictError, match="'a'"):
        store.push("a")
    assert foreign.keys["a"]["data"] == b"theirs"
    assert store.to_bytes("a") == b"mine"


def test_what_is_prefetched_is_here_without_the_server(
    store: MountedStore, foreign: ForeignServer
) -> None:
    foreign.put("b", b"second", {"n": 2})
    report = sync.prefetch(store)
    assert (report.fetched, report.failed) == (2, {})
    quiet = store.with_options(offline="always")
    assert (quiet.to_bytes("a"), quiet.get_metadata("a")) == (b"first", {"n": 1})
    assert (quiet.to_bytes("b"), quiet.get_metadata("b")) == (b"second", {"n": 2})


def test_new_keys_are_created(store: MountedStore, foreign: ForeignServer) -> None:
    store.set("new", StringValue(b"new", {"n": 3}))
    assert store.push("new").outcome == "pushed"
    assert foreign.keys["new"]["data"] == b"new"
    assert foreign.metadata("new") == {"n": 3}


def test_what_others_created_is_kept(store: MountedStore, foreign: ForeignServer) -> None:
    store.set("new", StringValue(b"mine", {}))
    foreign.put("new", b"theirs", {})
    (result,) = sync.push(store).results
    assert result.outcome == "conflict"
    assert foreign.keys["new"]["data"] == b"theirs"


def test_metadata_alone_is_sent_alone(store: MountedStore, foreign: ForeignServer) -> None:
    assert store.get_metadata("a") == {"n": 1}
    store.update_metadata("a", {"seen": True})
    foreign.put("a", b"theirs")
    tag = foreign.tag("a", "metadata") if foreign.etags else None
    assert store.push("a").outcome == "pushed"
    writes = [each for each in foreign.asked if each.method in ("PUT", "POST")]
    assert [each.part for each in writes] == ["metadata"]
    assert writes[0].headers.get("if-match") == (None if tag is None else f'"{tag}"')
    assert foreign.keys["a"]["data"] == b"theirs"
    assert foreign.metadata("a") == {"n": 1, "seen": True}


def test_delete_of_what_was_read(store: MountedStore, foreign: ForeignServer) -> None:
    assert store.to_bytes("a") == b"first"
    store.delete("a")
    assert store.push("a").outcome == "pushed"
    assert "a" not in foreign.keys
    assert not store.exists("a")


def test_delete_of_what_others_changed_is_refused(
    store: MountedStore, foreign: ForeignServer
) -> None:
    assert store.to_bytes("a") == b"first"
    store.delete("a")
    foreign.put("a", b"theirs", {"n": 5})
    (result,) = sync.push(store).results
    assert result.outcome == "conflict"
    assert foreign.keys["a"]["data"] == b"theirs"


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_lost_reply_is_no_conflict(store: MountedStore, foreign: ForeignServer, part: str) -> None:
    assert store.to_bytes("a") == b"first"
    store.set("a", StringValue(b"mine", {"n": 2}))
    foreign.lost.add(("PUT", part))
    (result,) = sync.push(store).results
    assert result.outcome == "failed"
    foreign.lost.clear()
    report = sync.push(store)
    assert report.ok
    assert list(store.staged()) == []
    assert foreign.keys["a"]["data"] == b"mine"
    assert foreign.metadata("a") == {"n": 2}


def test_all_keys_are_listed_and_read(store: MountedStore, foreign: ForeignServer) -> None:
    for number in range(5):
        foreign.put(f"dir/{number}", b"%d" % number, {"n": number})
    assert set(store.query_keys()) == {"a", *(f"dir/{number}" for number in range(5))}
    assert list(store.query_keys(n=3)) == ["dir/3"]
    assert [store.to_bytes(f"dir/{number}") for number in range(5)] == [
        b"%d" % number for number in range(5)
    ]
