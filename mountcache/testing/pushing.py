"""The ends of a mounted store, and what `push` promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mountcache.abc import AbstractReadOnlyStore, AbstractStore
from mountcache.errors import ConflictError
from mountcache.events import StoreConflictEvent, StorePushEvent
from mountcache.testing.suite import ODD_KEYS, StoreSuite, needs, noise
from mountcache.values import StringValue

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore

__all__ = ["Mounted", "PushTests"]


@dataclass(frozen=True)
class Mounted:
    """A mounted store, its two ends, and a way to change upstream behind its back."""

    store: MountedStore
    """The store under test, connected; nothing is staged in it or upstream."""
    mount_store: AbstractStore
    """Where it stages."""
    backing_store: AbstractReadOnlyStore
    """Where it pushes to."""
    put: Callable[[str, bytes, dict[str, Any]], None]
    """Sets a key upstream, as somebody else: full key, data, metadata."""
    remove: Callable[[str], None]
    """Deletes a key upstream, as somebody else."""
    look: Callable[[str], tuple[bytes, dict[str, Any]] | None]
    """Gives data and metadata that upstream has for a full key, None if it has none."""
    refresh: Callable[[], None] = lambda: None
    """Makes the next read see what upstream has, if it wouldn't by itself."""

    def short(self, key: str) -> str:
        """Return the mount store's name of a key."""
        return key.removeprefix(self.store.mount_point)


class PushTests(StoreSuite):
    """What is particular about a mounted store under test.

    The mount point is ``m/``, and reads see what upstream has after ``refresh``.
    """

    can_push: bool = True
    """Upstream can be written through the mount."""
    foreign_mount_store: bool = False
    """The mount store is one of another make, which announces what is set into it."""
    compares_metadata_apart: bool = True
    """Upstream tells whose data and whose metadata changed."""

    @pytest.fixture
    def mounted(self) -> Mounted:
        """The store and its ends; given by the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has to give a fixture `mounted`")

    @pytest.fixture
    def upstream(self, mounted: Mounted) -> Mounted:
        """The same, with three keys upstream, one of them outside the mount point."""
        mounted.put("m/one", b"first", {"n": 1, "kind": "odd"})
        mounted.put("m/two", b"second", {"n": 2, "kind": "even"})
        mounted.put("beyond/three", b"third", {"n": 3, "kind": "odd"})
        mounted.refresh()
        return mounted

    # -- pushing -------------------------------------------------------------------------

    @needs(can_push=True)
    @pytest.mark.parametrize("key", ["m/one", "m/new"])
    def test_push_moves_the_value_upstream(self, upstream: Mounted, key: str) -> None:
        store = upstream.store
        if key == "m/one":
            store.to_bytes(key)
        store.set(key, StringValue(b"mine", {"by": "me", "n": [1, None]}))
        store.push(key)
        assert upstream.look(key) == (b"mine", {"by": "me", "n": [1, None]})
        assert not upstream.mount_store.exists(upstream.short(key))
        assert list(store.staged()) == []
        for _ in range(2):
            assert store.to_bytes(key) == b"mine"
            assert store.get_metadata(key) == {"by": "me", "n": [1, None]}
            assert store.get(key).source in ("cached", "upstream")
            assert key in set(store.query_keys(by="me"))
            upstream.refresh()

    @needs(can_push=True)
    def test_push_of_a_large_value(self, upstream: Mounted) -> None:
        data = noise(self.large)
        upstream.store.set("m/large", StringValue(data, {"kind": "large"}))
        upstream.store.push("m/large")
        assert upstream.look("m/large") == (data, {"kind": "large"})
        assert upstream.store.to_bytes("m/large") == data

    @needs(can_push=True)
    def test_push_of_an_empty_value(self, upstream: Mounted) -> None:
        upstream.store.set("m/empty", StringValue())
        upstream.store.push("m/empty")
        assert upstream.look("m/empty") == (b"", {})

    @needs(can_push=True)
    def test_push_of_a_deleted_key_deletes_it_upstream(self, upstream: Mounted) -> None:
        store = upstream.store
        store.to_bytes("m/one")
        store.delete("m/one")
        store.push("m/one")
        assert upstream.look("m/one") is None
        assert not store.exists("m/one")
        assert list(store.staged()) == []
        upstream.refresh()
        assert not store.exists("m/one")
        assert list(store.glob("m/*")) == ["m/two"]

    @needs(can_push=True)
    def test_push_of_metadata_leaves_the_data(self, upstream: Mounted) -> None:
        store = upstream.store
        store.update_metadata("m/one", {"n": 5})
        store.push("m/one")
        assert upstream.look("m/one") == (b"first", {"n": 5, "kind": "odd"})
        assert store.to_bytes("m/one") == b"first"
        assert store.get_metadata("m/one") == {"n": 5, "kind": "odd"}

    def test_push_of_what_is_not_staged(self, upstream: Mounted) -> None:
        upstream.store.push("m/one")
        assert upstream.look("m/one") == (b"first", {"n": 1, "kind": "odd"})
        with pytest.raises(KeyError, match="m/missing"):
            upstream.store.push("m/missing")

    @needs(can_push=True)
    def test_edit_after_a_push_is_pushed_as_well(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("m/one") == b"first"
        for number in range(3):
            store.set("m/one", StringValue(b"%d" % number, {"n": number}))
            store.set("m/one", StringValue(b"%d again" % number, {"n": number}))
            store.push("m/one")
            assert upstream.look("m/one") == (b"%d again" % number, {"n": number})
        store.delete("m/one")
        store.push("m/one")
        store.set("m/one", StringValue(b"anew"))
        store.push("m/one")
        assert upstream.look("m/one") == (b"anew", {})

    @needs(can_push=True)
    def test_odd_keys_are_pushed_like_others(self, mounted: Mounted) -> None:
        store = mounted.store
        for number, key in enumerate(ODD_KEYS):
            store.set(f"m/{key}", StringValue(key.encode(), {"n": number}))
            store.push(f"m/{key}")
        found = {key: mounted.look(f"m/{key}") for key in ODD_KEYS}
        assert found == {key: (key.encode(), {"n": n}) for n, key in enumerate(ODD_KEYS)}
        for key in ODD_KEYS[::3]:
            store.delete(f"m/{key}")
            store.push(f"m/{key}")
        assert [key for key in ODD_KEYS if mounted.look(f"m/{key}") is None] == list(ODD_KEYS[::3])

    @needs(keeps_metadata=True)
    def test_rename_shows_at_once(self, upstream: Mounted) -> None:
        store = upstream.store
        store.mv("m/one", "m/renamed")
        assert not store.exists("m/one")
        assert store.to_bytes("m/renamed") == b"first"
        assert store.get_metadata("m/renamed") == {"n": 1, "kind": "odd"}
        assert upstream.look("m/one") == (b"first", {"n": 1, "kind": "odd"})
        assert upstream.look("m/renamed") is None

    @needs(can_push=True, keeps_metadata=True)
    def test_rename_is_pushed_as_a_copy_and_a_delete(self, upstream: Mounted) -> None:
        store = upstream.store
        store.mv("m/one", "m/renamed")
        store.push("m/renamed")
        store.push("m/one")
        assert upstream.look("m/renamed") == (b"first", {"n": 1, "kind": "odd"})
        assert upstream.look("m/one") is None

    # -- conflicts -----------------------------------------------------------------------

    def refuse(self, mounted: Mounted, key: str) -> None:
        """Check that a push is a conflict, and that it leaves the edit and upstream alone."""
        staged = [(each.key, each.state, each.size) for each in mounted.store.staged()]
        theirs = mounted.look(key)
        with pytest.raises(ConflictError, match=re.escape(key)) as caught:
            mounted.store.push(key)
        assert caught.value.key == key
        assert [(each.key, each.state, each.size) for each in mounted.store.staged()] == staged
        assert mounted.look(key) == theirs
        mounted.refresh()
        mounted.store.revert(key)
        mounted.refresh()
        if theirs is None:
            assert not mounted.store.exists(key)
        else:
            assert mounted.store.to_bytes(key) == theirs[0]
            assert mounted.store.get_metadata(key) == theirs[1]

    @needs(can_push=True)
    def test_edit_against_edit(self, upstream: Mounted) -> None:
        assert upstream.store.to_bytes("m/one") == b"first"
        upstream.put("m/one", b"theirs", {"by": "them"})
        upstream.store.set("m/one", StringValue(b"mine", {"by": "me"}))
        assert upstream.store.to_bytes("m/one") == b"mine"
        self.refuse(upstream, "m/one")

    @needs(can_push=True)
    def test_create_against_create(self, upstream: Mounted) -> None:
        assert not upstream.store.exists("m/new")
        upstream.store.set("m/new", StringValue(b"mine", {"by": "me"}))
        upstream.put("m/new", b"theirs", {"by": "them"})
        self.refuse(upstream, "m/new")

    @needs(can_push=True)
    def test_delete_against_edit(self, upstream: Mounted) -> None:
        assert upstream.store.to_bytes("m/one") == b"first"
        upstream.store.delete("m/one")
        upstream.put("m/one", b"theirs", {"by": "them"})
        self.refuse(upstream, "m/one")

    @needs(can_push=True)
    def test_edit_against_delete(self, upstream: Mounted) -> None:
        assert upstream.store.to_bytes("m/one") == b"first"
        upstream.store.set("m/one", StringValue(b"mine", {"by": "me"}))
        upstream.remove("m/one")
        self.refuse(upstream, "m/one")

    @needs(can_push=True)
    def test_metadata_against_metadata(self, upstream: Mounted) -> None:
        assert upstream.store.get_metadata("m/one") == {"n": 1, "kind": "odd"}
        upstream.store.update_metadata("m/one", {"n": 5})
        upstream.put("m/one", b"first", {"n": 6, "kind": "odd"})
        self.refuse(upstream, "m/one")

    @needs(can_push=True, compares_metadata_apart=True)
    def test_metadata_against_data_is_no_conflict(self, upstream: Mounted) -> None:
        assert upstream.store.get_metadata("m/one") == {"n": 1, "kind": "odd"}
        upstream.store.update_metadata("m/one", {"n": 5})
        upstream.put("m/one", b"theirs", {"n": 1, "kind": "odd"})
        upstream.store.push("m/one")
        assert upstream.look("m/one") == (b"theirs", {"n": 5, "kind": "odd"})

    @needs(can_push=True)
    def test_equal_content_is_no_conflict(self, upstream: Mounted) -> None:
        assert upstream.store.to_bytes("m/one") == b"first"
        upstream.store.set("m/one", StringValue(b"the same", {"b": 1, "a": 2.0}))
        upstream.put("m/one", b"the same", {"a": 2, "b": 1})
        upstream.store.push("m/one")
        assert list(upstream.store.staged()) == []
        assert upstream.store.to_bytes("m/one") == b"the same"

    @needs(can_push=True)
    def test_delete_against_delete_is_no_conflict(self, upstream: Mounted) -> None:
        assert upstream.store.to_bytes("m/one") == b"first"
        upstream.store.delete("m/one")
        upstream.remove("m/one")
        upstream.store.push("m/one")
        assert list(upstream.store.staged()) == []
        upstream.refresh()
        assert not upstream.store.exists("m/one")

    @needs(can_push=True)
    def test_conflict_of_one_key_keeps_no_other_back(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("m/one") == b"first"
        assert store.to_bytes("m/two") == b"second"
        store.set("m/one", StringValue(b"mine"))
        store.set("m/two", StringValue(b"mine"))
        upstream.put("m/one", b"theirs", {})
        with pytest.raises(ConflictError):
            store.push("m/one")
        store.push("m/two")
        assert [each.key for each in store.staged()] == ["m/one"]
        assert upstream.look("m/two") == (b"mine", {})

    @needs(can_push=True)
    def test_push_is_announced(self, upstream: Mounted) -> None:
        heard: list[StorePushEvent] = []
        upstream.store.event_manager.connect(StorePushEvent, heard.append)
        upstream.store.set("m/new", StringValue(b"mine", {"n": 1}))
        upstream.store.push("m/new")
        assert [(each.key, each.outcome) for each in heard] == [("m/new", "pushed")]
        assert heard[0].source is upstream.store
        assert heard[0].grade in ("A", "B", "C", "D")

    @needs(can_push=True)
    def test_conflict_is_announced(self, upstream: Mounted) -> None:
        heard: list[StoreConflictEvent] = []
        upstream.store.event_manager.connect(StoreConflictEvent, heard.append)
        upstream.store.to_bytes("m/one")
        upstream.store.set("m/one", StringValue(b"mine"))
        upstream.put("m/one", b"theirs", {})
        with pytest.raises(ConflictError):
            upstream.store.push("m/one")
        assert [each.key for each in heard] == ["m/one"]
        assert heard[0].conflict is not None
