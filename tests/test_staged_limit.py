"""What is staged, and what is kept for undo, takes no more room than it may."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.errors import StoreFullError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put

KIB = 1024


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    with DiskCacheStore(tmp_path / "cache", staged_limit=200 * KIB, min_free=0) as local:
        yield MountedStore("", local, origin)


def files(store: MountedStore) -> list[Path]:
    directory: Path = store.mount_store.directory  # type: ignore[attr-defined]
    return [*directory.glob("??/*"), *directory.glob("tmp/*")]


def staged(store: MountedStore) -> dict[str, bytes]:
    return {edit.key: store.to_bytes(edit.key) for edit in store.staged() if edit.what != "delete"}


@pytest.mark.parametrize("size", [201 * KIB, 10_000 * KIB])
def test_value_beyond_the_limit_is_refused_and_leaves_nothing(
    store: MountedStore, size: int
) -> None:
    with pytest.raises(StoreFullError, match=r"204,800 bytes .* 0 are; .*push or revert"):
        put(store, "k", b"x" * size)
    assert staged(store) == {}
    assert files(store) == []


def test_stream_without_end_is_read_to_the_limit_only(store: MountedStore) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1, /) -> bytes:
            self.given += size
            return bytes(size)

    endless = Endless()
    with pytest.raises(StoreFullError):
        store.set_data("k", endless, buffer_size=16 * KIB)
    assert endless.given <= 200 * KIB + 2 * 16 * KIB


def test_what_is_staged_counts_and_an_edit_in_its_place_counts_once(store: MountedStore) -> None:
    put(store, "a", b"a" * 150 * KIB)
    with pytest.raises(StoreFullError, match="153,600 are"):
        put(store, "b", b"b" * 60 * KIB)
    put(store, "a", b"c" * 200 * KIB)
    put(store, "a", b"d" * 10 * KIB)
    put(store, "b", b"b" * 190 * KIB)
    assert {key: len(data) for key, data in staged(store).items()} == {
        "a": 10 * KIB,
        "b": 190 * KIB,
    }


def test_a_transaction_counts_as_a_whole(store: MountedStore) -> None:
    put(store, "old", b"o" * 150 * KIB)
    with (
        pytest.raises(StoreFullError, match="153,600 are"),
        store.transaction("too much"),
    ):
        put(store, "a", b"a" * 40 * KIB)
        put(store, "b", b"b" * 40 * KIB)
    assert list(staged(store)) == ["old"]
    with store.transaction("as much again"):
        put(store, "a", b"a" * 40 * KIB)
        store.delete("old")
        put(store, "b", b"b" * 40 * KIB)
    assert sorted(staged(store)) == ["a", "b"]


def test_at_the_limit_all_that_makes_room_goes_on(store: MountedStore, origin: Origin) -> None:
    put(origin, "theirs", b"t")
    for key in ("a", "b"):
        put(store, key, bytes(100 * KIB))
    store.set_metadata("a", {"n": 1})
    store.delete("theirs")
    store.mv("b", "c")
    store.revert("a")
    assert sync.push(store).ok
    put(store, "d", bytes(200 * KIB))


def test_what_comes_back_by_undo_counts_too(store: MountedStore) -> None:
    put(store, "a", b"a" * 150 * KIB)
    store.revert("a")
    put(store, "b", b"b" * 150 * KIB)
    with pytest.raises(StoreFullError):
        store.undo("a")
    assert list(staged(store)) == ["b"]
    assert [each.key for each in store.taken()] == ["a"]


def test_refused_value_takes_nothing_from_undo(store: MountedStore) -> None:
    put(store, "a", b"a" * KIB)
    store.revert("a")
    with pytest.raises(StoreFullError):
        put(store, "b", b"b" * 300 * KIB)
    assert [each.key for each in store.taken()] == ["a"]


def test_limit_holds_for_all_who_open_the_directory(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "s", staged_limit=10) as store:
        put(store, "k", b"x")
    with DiskCacheStore(tmp_path / "s") as store:
        with pytest.raises(StoreFullError):
            put(store, "k", b"x" * 11)
        assert store.to_bytes("k") == b"x"
    with DiskCacheStore(tmp_path / "s", staged_limit=20) as store:
        put(store, "k", b"x" * 11)


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (70 * KIB, 2), (1000 * KIB, 4)])
def test_undo_takes_no_more_than_its_limit(
    origin: Origin, tmp_path: Path, limit: int, kept: int
) -> None:
    with DiskCacheStore(tmp_path / "s", undo_limit=limit, min_free=0) as local:
        store = MountedStore("", local, origin)
        for text in b"abcde":
            put(store, "k", bytes([text]) * 30 * KIB)
        assert len(store.taken()) == kept
        assert store.mount.catalog.state("undo_bytes") <= limit
        put(origin, "m", b"x")
        store.set_metadata("m", {"n": 1})
        store.revert("m")
        assert len(store.taken("m")) == (1 if limit else 0)
