"""What two processes on one directory have seen of each other's edits, and of their own.

Two stores on one directory share files alone, as two processes do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue


class Places:
    """An upstream, and two mounts of one directory: an author's, and somebody else's."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.upstream = stack.enter_context(MemoryStore())
        self.upstream.set("key", StringValue(b"0", {"n": 0}))
        origin = stack.enter_context(Origin(self.upstream))

        def mount() -> MountedStore:
            backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            store = MountedStore("", DiskCacheStore(folder), backing, max_age=0)
            return stack.enter_context(store)

        self.author = mount()
        self.other = mount()

    def set(self, store: MountedStore, n: int) -> None:
        store.set("key", StringValue(b"%d" % n, {"n": n}))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(tmp_path / "here", stack)


def outcome(store: MountedStore) -> str:
    (result,) = sync.push(store).results
    return result.outcome


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("way", ["set", "set_data", "set_metadata", "transaction"])
def test_an_edit_after_another_process_pushed_mine(
    places: Places, way: str, read_first: bool
) -> None:
    author = places.author
    if read_first:
        assert author.to_bytes("key") == b"0"
    else:
        assert places.other.to_bytes("key") == b"0"
    for n in range(1, 4):
        match way:
            case "set":
                places.set(author, n)
            case "set_data":
                author.set_data("key", StringValue(b"%d" % n, {}).data)
            case "set_metadata":
                author.set_metadata("key", {"n": n})
            case _:
                with author.transaction("one"):
                    places.set(author, n)
        assert outcome(places.other) == "pushed"
    assert places.upstream.to_bytes("key") == (b"0" if way == "set_metadata" else b"3")
    assert places.upstream.get_metadata("key")["n"] == (0 if way == "set_data" else 3)


def test_a_key_deleted_and_made_again(places: Places) -> None:
    assert places.author.exists("key")
    for n in range(1, 4):
        places.author.delete("key")
        assert outcome(places.other) == "pushed"
        assert not places.upstream.exists("key")
        places.set(places.author, n)
        assert outcome(places.other) == "pushed"
        assert places.upstream.to_bytes("key") == b"%d" % n


@pytest.mark.parametrize("read", ["get", "get_metadata", "to_bytes", "exists"])
def test_an_edit_of_another_process_that_was_read_and_then_pushed(
    places: Places, read: str
) -> None:
    assert places.author.to_bytes("key") == b"0"
    places.set(places.other, 1)
    getattr(places.author, read)("key")
    assert outcome(places.other) == "pushed"
    places.set(places.author, 2)
    assert outcome(places.author) == "pushed"


def test_an_edit_of_another_process_that_was_never_read(places: Places) -> None:
    """The author saw what came before it, and may not undo it unseen."""
    assert places.author.to_bytes("key") == b"0"
    places.set(places.other, 1)
    assert outcome(places.other) == "pushed"
    places.set(places.author, 2)
    assert outcome(places.author) == "conflict"
    assert places.upstream.to_bytes("key") == b"1"


def test_a_change_upstream_since_my_edit_was_pushed_is_not_overwritten(places: Places) -> None:
    assert places.author.to_bytes("key") == b"0"
    places.set(places.author, 1)
    assert outcome(places.other) == "pushed"
    places.upstream.set("key", StringValue(b"theirs", {"n": 100}))
    assert places.other.to_bytes("key") == b"theirs"  # the directory knows, the author doesn't
    places.set(places.author, 2)
    assert outcome(places.author) == "conflict"
    assert places.upstream.to_bytes("key") == b"theirs"


def test_a_deletion_upstream_since_my_edit_was_pushed_is_not_undone(places: Places) -> None:
    places.author.exists("new")
    places.author.set("new", StringValue(b"1", {}))
    assert outcome(places.other) == "pushed"
    places.upstream.delete("new")
    assert not places.other.exists("new")
    places.author.set("new", StringValue(b"2", {}))
    assert outcome(places.author) == "conflict"
    assert not places.upstream.exists("new")


@pytest.mark.parametrize("key", ["key", "new"])
def test_an_edit_after_another_process_reverted_mine(places: Places, key: str) -> None:
    if places.author.exists(key):
        places.author.to_bytes(key)
    places.author.set(key, StringValue(b"1", {"n": 1}))
    places.other.revert(key)
    places.author.set(key, StringValue(b"2", {"n": 2}))
    assert outcome(places.other) == "pushed"
    assert places.upstream.to_bytes(key) == b"2"


def test_a_change_upstream_since_my_edit_was_reverted_is_not_overwritten(places: Places) -> None:
    assert places.author.to_bytes("key") == b"0"
    places.set(places.author, 1)
    places.other.revert("key")
    places.upstream.set("key", StringValue(b"theirs", {"n": 100}))
    assert places.other.to_bytes("key") == b"theirs"
    places.set(places.author, 2)
    assert outcome(places.author) == "conflict"
    assert places.upstream.to_bytes("key") == b"theirs"


def test_a_delete_after_another_process_reverted_mine_asks_upstream(places: Places) -> None:
    """An edit of one's own says nothing of what upstream has under its key."""
    places.upstream.set("blind", StringValue(b"theirs", {}))
    places.author.set("blind", StringValue(b"mine", {}))
    places.other.revert("blind")
    places.author.delete("blind")
    assert [edit.state for edit in places.author.staged()] == ["deleted"]


def test_an_edit_after_one_over_a_push_in_flight_was_reverted(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, other = places.author, places.other
    assert author.to_bytes("key") == b"0"
    places.set(author, 1)
    sent = DynamicURLStore.set_if

    def edited_meanwhile(self: DynamicURLStore, *args: Any, **named: Any) -> Any:
        places.set(author, 2)
        return sent(self, *args, **named)

    monkeypatch.setattr(DynamicURLStore, "set_if", edited_meanwhile)
    assert outcome(other) == "pushed"
    monkeypatch.setattr(DynamicURLStore, "set_if", sent)
    other.revert("key")
    places.set(author, 3)
    assert outcome(author) == "pushed"
    assert places.upstream.to_bytes("key") == b"3"
