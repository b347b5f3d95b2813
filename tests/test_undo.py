"""What was staged and taken away can be had back for a while, and never fills the disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.errors import StoreFullError, TransactionError
from mountcache.events import StoreSetEvent
from mountcache.local import undo
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.undo import AGE, Kept, surplus
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put

KIB = 1024


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin) -> MountedStore:
    return MountedStore("", MemoryStore(), origin)


@pytest.fixture
def on_disk(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    with DiskCacheStore(tmp_path / "cache", size_limit=1000 * KIB, min_free=0) as local:
        yield MountedStore("", local, origin)


def taken(store: MountedStore, key: str | None = None) -> list[tuple[str, bytes | None, str]]:
    """What can be had back: key, bytes and why it was taken away, the last first."""
    catalog = store.mount.catalog
    found = []
    for each in undo.entries(catalog.content.connection(), key):
        data = None
        if each.content is not None:
            with catalog.open_content(each.content, each.sha256) as stream:
                data = stream.read()
        found.append((each.key, data, each.why))
    return found


def bytes_kept(store: MountedStore) -> int:
    kept: int = store.mount.catalog.state("undo_bytes")
    return kept


def files(store: MountedStore) -> int:
    directory: Path = store.mount_store.directory  # type: ignore[attr-defined]
    return len(list(directory.glob("??/*")))


def test_replaced_deleted_and_reverted_values_can_be_had_back(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "upstream's")
    put(store, "k", "one")
    put(store, "k", "two", unit="m")
    store.delete("k")
    store.revert("k")
    put(store, "k", "three")
    store.revert("k")
    assert taken(store, "k") == [
        ("k", b"three", "reverted"),
        ("k", b"two", "deleted"),
        ("k", b"one", "replaced"),
    ]
    assert undo.entries(store.mount.catalog.content.connection())[1].meta == '{"unit":"m"}'


def test_what_is_given_up_at_a_push_can_be_had_back(store: MountedStore, origin: Origin) -> None:
    put(store, "k", "mine")
    put(origin, "k", "a stranger's")
    assert sync.push(store, on_conflict="theirs").ok
    assert taken(store) == [("k", b"mine", "given up")]


def test_metadata_that_was_staged_alone_can_be_had_back(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "data")
    store.set_metadata("k", {"state": "draft"})
    store.set_metadata("k", {"state": "final"})
    assert taken(store) == [("k", None, "replaced")]
    assert undo.entries(store.mount.catalog.content.connection())[0].meta == '{"state":"draft"}'


def test_changes_of_a_transaction_are_kept_with_it_or_not_at_all(store: MountedStore) -> None:
    put(store, "a", "one")
    put(store, "b", "two")
    with pytest.raises(RuntimeError), store.transaction("taken back"):
        put(store, "a", "never")
        raise RuntimeError
    assert taken(store) == []
    with store.transaction("both"):
        put(store, "a", "never seen")
        put(store, "a", "three")
        store.delete("b")
    assert sorted(taken(store)) == [("a", b"one", "replaced"), ("b", b"two", "deleted")]


def test_what_loses_nothing_keeps_nothing(store: MountedStore, origin: Origin) -> None:
    put(store, "pushed", "one")
    store.push("pushed")
    put(store, "same", "one")
    put(store, "same", "one")
    store.mv("same", "moved")
    store.delete("pushed")
    store.revert("pushed")
    assert taken(store) == []


def test_a_bare_store_keeps_nothing() -> None:
    bare = MemoryStore()
    put(bare, "k", "one")
    put(bare, "k", "two")
    bare.delete("k")
    assert undo.entries(bare.catalog.content.connection()) == []


def test_a_set_that_replaces_nothing_asks_nothing_of_it(store: MountedStore) -> None:
    put(store, "k", "one")
    asked: list[str] = []
    store.mount.catalog.content.connection().set_trace_callback(asked.append)
    put(store, "other", "two")
    store.mount.catalog.content.connection().set_trace_callback(None)
    assert asked
    assert not [statement for statement in asked if "undo" in statement]


def test_ten_are_kept_of_a_key(on_disk: MountedStore) -> None:
    for number in range(15):
        put(on_disk, "k", f"{number}".encode() * KIB)
    assert [data[:2] for _, data, _ in taken(on_disk) if data][:2] == [b"13", b"12"]
    assert len(taken(on_disk)) == 10


def test_they_go_after_two_weeks_and_their_files_with_them(on_disk: MountedStore) -> None:
    clock = on_disk.mount.catalog.clock
    later = 0.0
    on_disk.mount.catalog.clock = lambda: clock() + later
    for key in ("a", "b", "c"):
        put(on_disk, key, b"o" * 40 * KIB)
        put(on_disk, key, b"n" * 40 * KIB)
    assert (len(taken(on_disk)), files(on_disk)) == (3, 6)
    later = AGE + 60
    for text in ("x", "y"):
        put(on_disk, "c", text)
    assert [key for key, _, _ in taken(on_disk)] == ["c", "c"]
    assert files(on_disk) == 3  # of a and b, and what was replaced last of c


def test_they_take_a_quarter_of_the_limit_at_most(on_disk: MountedStore) -> None:
    put(on_disk, "first", b"f" * 50 * KIB)
    put(on_disk, "first", b"other")
    for number in range(12):
        put(on_disk, "k", f"{number:x}".encode() * 60 * KIB)
        assert bytes_kept(on_disk) <= 250 * KIB
    # The latest of a key outlives older ones of others.
    assert ("first", b"f" * 50 * KIB, "replaced") in taken(on_disk)
    put(on_disk, "huge", b"h" * 300 * KIB)
    put(on_disk, "huge", b"small")
    assert taken(on_disk, "huge") == []
    assert taken(on_disk, "first")


def test_they_are_the_first_to_go_when_space_is_short(
    on_disk: MountedStore, origin: Origin
) -> None:
    put(origin, "cached", b"c" * 700 * KIB)
    on_disk.to_bytes("cached")
    put(on_disk, "k", b"o" * 200 * KIB)
    put(on_disk, "k", b"new")
    assert bytes_kept(on_disk) == 200 * KIB
    assert on_disk.mount.catalog.room_for(250 * KIB)
    assert bytes_kept(on_disk) == 0
    assert on_disk.get("cached").source == "cached"


def test_a_set_without_room_lets_them_go_and_says_so(
    on_disk: MountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(on_disk, "k", "old")
    put(on_disk, "k", "new")

    def full(con: Any, spool: Any) -> str:
        raise StoreFullError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(on_disk.mount.catalog.content, "adopt", full)
        with pytest.raises(StoreFullError, match="kept for undo has gone"):
            put(on_disk, "more", "data")
    assert taken(on_disk) == []
    assert on_disk.to_bytes("k") == b"new"


def test_a_strangers_clear_leaves_them(on_disk: MountedStore) -> None:
    put(on_disk, "k", b"o" * 40 * KIB)
    put(on_disk, "k", b"n" * 40 * KIB)
    catalog = on_disk.mount.catalog
    with pytest.raises(Exception, match="these bytes are staged"):
        catalog.content.cache.clear()  # type: ignore[attr-defined]
    assert taken(on_disk) == [("k", b"o" * 40 * KIB, "replaced")]


def kept(*each: tuple[int, str, int, float]) -> list[Kept]:
    return [Kept(*one) for one in each]


@pytest.mark.parametrize(
    ("rows", "now", "over", "gone"),
    [
        ([], 0.0, 100, []),
        (kept((1, "a", 5, 0.0)), AGE, 0, []),
        (kept((1, "a", 5, 0.0)), AGE + 1, 0, [1]),
        (kept((1, "a", 5, 100.0)), 0.0, 0, []),  # a clock that was set back
        (kept(*((n, "a", 1, 0.0) for n in range(12))), 0.0, 0, [1, 0]),
        # The oldest first, but the last of a key after all others.
        (kept((1, "a", 5, 0.0), (2, "b", 5, 0.0), (3, "b", 5, 0.0)), 0.0, 1, [2]),
        (kept((1, "a", 5, 0.0), (2, "b", 5, 0.0), (3, "b", 5, 0.0)), 0.0, 6, [2, 1]),
        (kept((1, "a", 5, 0.0), (2, "b", 5, 0.0), (3, "b", 5, 0.0)), 0.0, 99, [2, 1, 3]),
        # What is too old counts for the bytes that have to go.
        (kept((1, "a", 5, 0.0), (2, "a", 5, AGE)), AGE + 1, 5, [1]),
    ],
)
def test_what_goes(rows: list[Kept], now: float, over: int, gone: list[int]) -> None:
    assert surplus(rows, now, over) == gone


# -- having it back ----------------------------------------------------------------------


def test_undo_has_back_what_was_reverted_made_from_what_it_was_made_from(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "base")
    store.to_bytes("k")
    put(store, "k", "mine", by="ada")
    store.revert("k")
    put(origin, "k", "a stranger's")
    assert store.to_bytes("k") == b"a stranger's"
    assert store.undo("k").why == "reverted"
    assert store.to_bytes("k") == b"mine"
    assert store.get_metadata("k") == {"by": "ada"}
    # Made from "base", which is what its author had seen.
    assert sync.push(store)["k"].outcome == "conflict"
    assert origin.to_bytes("k") == b"a stranger's"
    assert store.taken() == []


def test_undo_where_nobody_wrote_meanwhile_can_be_pushed(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "base")
    store.to_bytes("k")
    put(store, "k", "mine")
    store.revert("k")
    store.undo("k")
    assert sync.push(store)["k"].outcome == "pushed"
    assert origin.to_bytes("k") == b"mine"


def test_undo_twice_is_as_before(store: MountedStore) -> None:
    put(store, "k", "one")
    put(store, "k", "two")
    store.undo("k")
    assert store.to_bytes("k") == b"one"
    store.undo("k")
    assert store.to_bytes("k") == b"two"
    assert taken(store) == [("k", b"one", "replaced")]


def test_undo_after_a_delete_takes_its_place(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "base")
    store.to_bytes("k")
    put(store, "k", "mine")
    store.delete("k")
    store.undo("k")
    assert store.to_bytes("k") == b"mine"
    assert sync.push(store)["k"].outcome == "pushed"


def test_undo_takes_the_one_that_is_named(store: MountedStore) -> None:
    for text in ("one", "two", "three"):
        put(store, "k", text)
    put(store, "other", "x")
    first = store.taken("k")[-1]
    assert store.undo("k", first.seq).seq == first.seq
    assert store.to_bytes("k") == b"one"
    with pytest.raises(KeyError, match="other"):
        store.undo("other", store.taken("k")[0].seq)
    with pytest.raises(KeyError, match="nowhere"):
        store.undo("nowhere")


def test_undo_of_metadata_keeps_the_bytes_there_are(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "data")
    store.set_metadata("k", {"state": "draft"})
    store.revert("k")
    store.undo("k")
    assert store.get_metadata("k") == {"state": "draft"}
    assert [edit.what for edit in store.staged()] == ["metadata"]
    store.set_data("k", io.BytesIO(b"new data"))
    store.set_metadata("k", {"state": "final"})
    store.undo("k", store.taken("k")[-1].seq)
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"new data", {"state": "draft"})


def test_undo_of_metadata_whose_key_has_gone_changes_nothing(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "data")
    store.set_metadata("k", {"state": "draft"})
    store.revert("k")
    origin.delete("k")
    assert not store.exists("k")
    with pytest.raises(KeyError, match="k"):
        store.undo("k")
    assert len(store.taken("k")) == 1
    assert not list(store.staged())


def test_undo_of_a_value_in_a_file_copies_no_bytes(on_disk: MountedStore) -> None:
    put(on_disk, "k", b"1" * 100 * KIB)
    on_disk.revert("k")
    before = files(on_disk)
    on_disk.undo("k")
    assert files(on_disk) == before
    assert on_disk.to_bytes("k") == b"1" * 100 * KIB
    assert bytes_kept(on_disk) == 0


def test_undo_is_announced_as_a_set(store: MountedStore) -> None:
    put(store, "k", "one")
    store.revert("k")
    heard: list[str] = []
    store.event_manager.connect(StoreSetEvent, lambda event: heard.append(event.key))
    store.undo("k")
    assert heard == ["k"]


def test_undo_has_no_meaning_in_a_transaction(store: MountedStore) -> None:
    put(store, "k", "one")
    store.revert("k")
    with pytest.raises(TransactionError), store.transaction(""):
        store.undo("k")


def test_undo_over_a_push_in_flight_waits_for_its_result(
    store: MountedStore, origin: Origin
) -> None:
    """What was made over a push that has ended since is compared with upstream, not assumed."""
    put(store, "k", "one")
    journal, (edit,) = store.mount.journal, store.mount.catalog.edits()
    journal.begin(edit, edit.base, "op")
    put(store, "k", "two")
    put(store, "k", "three")
    assert str(store.taken("k")[0].base) == "unknown"
    store.undo("k")
    assert store.mount.catalog.row("k").edit.base.kind == "op"  # type: ignore[union-attr]
