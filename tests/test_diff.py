"""What a staged edit changes, beside what it was made from and beside what upstream has now."""

from __future__ import annotations

import io

import pytest

from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.sync import MISSING, Difference, diff, push, side
from mountcache.values import StringValue
from tests.upstreams import Origin, put


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin) -> MountedStore:
    return MountedStore("", MemoryStore(), origin)


def only(store: MountedStore, **options: str) -> Difference:
    (found,) = diff(store, **options)  # type: ignore[arg-type]
    return found


def test_text_is_compared_line_by_line_and_metadata_by_name(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one\ntwo\n", unit="m", by="ada")
    store.to_bytes("k")
    put(store, "k", "one\nthree\n", unit="km", n=1)
    found = only(store)
    assert found.lines == ("--- base/k", "+++ mine/k", "@@ -1,2 +1,2 @@", " one", "-two", "+three")
    assert (found.added, found.removed, found.same_data) == (1, 1, False)
    assert found.metadata == {"unit": ("m", "km"), "by": ("ada", MISSING), "n": (MISSING, 1)}


def test_a_line_without_an_end_is_shown_so(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n")
    store.to_bytes("k")
    put(store, "k", "one")
    assert only(store).lines[-3:] == ("-one", "+one", "\\ No newline at end of file")  # type: ignore[index]


def test_what_is_no_text_is_compared_by_its_digest(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", b"\0one")
    store.to_bytes("k")
    put(store, "k", b"\0two!")
    found = only(store)
    assert (found.lines, found.same_data) == (None, False)
    assert (found.other.size, found.mine.size) == (4, 5)
    put(store, "k", b"\0one")
    assert only(store).same_data is True


def test_a_large_text_isnt_read_into_memory(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "x\n" * 600_000)
    store.to_bytes("k")
    put(store, "k", "y\n" * 600_000)
    assert only(store).lines is None


def test_metadata_that_mean_the_same_are_the_same(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "x", n=1, flag=True)
    store.to_bytes("k")
    store.set_metadata("k", {"n": 1.0, "flag": 1})
    found = only(store)
    assert found.same_data is True
    assert found.metadata == {"flag": (True, 1)}


def test_what_is_added_and_what_is_deleted(store: MountedStore, origin: Origin) -> None:
    put(origin, "old", "gone\n")
    store.to_bytes("old")
    assert not store.exists("new")
    put(store, "new", "text\n", n=1)
    store.delete("old")
    new, old = diff(store)
    assert new.other.present is False
    assert new.lines[-1] == "+text"  # type: ignore[index]
    assert new.metadata == {"n": (MISSING, 1)}
    assert old.mine.present is False
    assert old.lines[-1] == "-gone"  # type: ignore[index]
    assert [found.key for found in diff(store, ["old", "other"])] == ["old"]


def test_base_whose_bytes_are_gone_is_told_not_guessed(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n", n=1)
    store.to_bytes("k")
    put(store, "k", "two\n", n=2)
    store.mount.catalog.drop_copy("k")
    found = only(store)
    assert (found.lines, found.same_data) == (None, False)
    assert found.metadata == {"n": (1, 2)}
    assert side(store, "k", "base").open is None


def test_base_that_nobody_saw_is_unknown(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n", n=1)
    put(store, "k", "two\n", n=2)
    found = only(store)
    assert (found.other.present, found.same_data, dict(found.metadata)) == (None, None, {})


def test_upstream_is_asked_only_when_it_is_named_and_no_base_moves(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one\n")
    store.to_bytes("k")
    put(store, "k", "mine\n")
    put(origin, "k", "theirs\n")
    asked = origin.asked
    assert only(store).lines[-2:] == ("-one", "+mine")  # type: ignore[index]
    assert origin.asked == asked
    assert only(store, against="upstream").lines[-2:] == ("-theirs", "+mine")  # type: ignore[index]
    assert push(store)["k"].outcome == "conflict"


def test_edit_over_a_push_in_flight_is_compared_with_that(store: MountedStore) -> None:
    put(store, "k", "one\n")
    (edit,) = store.mount.catalog.edits()
    store.mount.journal.begin(edit, edit.base, "op")
    put(store, "k", "two\n")
    assert only(store).lines[-2:] == ("-one", "+two")  # type: ignore[index]


def test_sides_of_a_key_can_be_read(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n")
    store.to_bytes("k")
    store.set("k", StringValue(b"mine\n", {}))
    put(origin, "k", "theirs\n")
    read = {}
    for which in ("mine", "base", "upstream"):
        shown = side(store, "k", which)  # type: ignore[arg-type]
        assert shown.open is not None
        with shown.open() as stream:
            read[which] = stream.read()
    assert read == {"mine": b"mine\n", "base": b"one\n", "upstream": b"theirs\n"}
    assert side(store, "nowhere", "upstream").present is False
    assert side(store, "nowhere", "mine").present is None


def test_sides_of_a_clean_copy_are_the_copy(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n", n=1)
    store.to_bytes("k")
    mine, base = side(store, "k", "mine"), side(store, "k", "base")
    assert mine.metadata == base.metadata == {"n": 1}


def test_metadata_edit_shows_the_bytes_of_its_base(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one\n")
    store.to_bytes("k")
    store.set_metadata("k", {"n": 1})
    shown = side(store, "k", "mine")
    assert shown.open is not None
    with shown.open() as stream:
        assert stream.read() == b"one\n"


def test_key_outside_the_mount_point_has_no_sides(origin: Origin) -> None:
    store = MountedStore("a/", MemoryStore(), origin)
    store.set_data("a/k", io.BytesIO(b"x"))
    assert [found.key for found in diff(store, ["a/k"])] == ["a/k"]
    with pytest.raises(KeyError):
        side(store, "b/k", "mine")
