"""A store mounted over another: reads, staged changes, and the verbs of a mount."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mountcache.errors import (
    ChangedWhileReadingError,
    ConflictError,
    InvalidKeyError,
    ReadOnlyKeyError,
    StoreError,
    TransactionError,
)
from mountcache.events import (
    BaseEvent,
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.testing.authors import SETTERS, setters
from mountcache.testing.pushing import Mounted, PushTests
from mountcache.testing.suite import (
    Interrupted,
    contents,
    in_threads,
    needs,
    noise,
)
from mountcache.values import StringValue

__all__ = ["MountedStoreTests"]


class MountedStoreTests(PushTests):
    """A store mounted over another. Needs ``mounted``, which gives a `Mounted`."""

    # -- reading -------------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_reads_go_through(self, upstream: Mounted, tmp_path: Path) -> None:
        store = upstream.store
        for _ in range(2):
            assert store.to_bytes("m/one") == b"first"
            assert store.get_metadata("m/one") == {"n": 1, "kind": "odd"}
            value = store.get("m/two")
            with value.data as data:
                assert data.read() == b"second"
            assert value.metadata == {"n": 2, "kind": "even"}
            assert value.source in ("cached", "upstream")
            with store.get_data_range("m/two", 1, 4) as part:
                assert part.read() == b"eco"
            assert store.exists("m/one")
            assert not store.exists("m/missing")
            store.to_file("m/one", tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == b"first"

    @needs(keeps_metadata=True)
    def test_keys_outside_the_mount_point_are_read_too(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("beyond/three") == b"third"
        assert store.get_metadata("beyond/three", ["n"]) == {"n": 3}
        assert store.exists("beyond/three")
        assert not store.exists("beyond/four")
        assert sorted(store.query_keys()) == ["beyond/three", "m/one", "m/two"]
        assert sorted(store.query_keys(kind="odd")) == ["beyond/three", "m/one"]
        assert sorted(store.glob("*/t*")) == ["beyond/three", "m/two"]

    def test_reading_sets_nothing_into_the_mount_store(self, upstream: Mounted) -> None:
        upstream.store.to_bytes("m/one")
        assert not upstream.mount_store.exists("one")
        assert list(upstream.mount_store.query_keys()) == []
        assert list(upstream.store.staged()) == []

    def test_large_value_comes_through_whole(self, mounted: Mounted) -> None:
        data = noise(self.large)
        mounted.put("m/large", data, {"kind": "large"})
        mounted.refresh()
        with mounted.store.get_data_range("m/large", 5, 1_000_000) as part:
            assert part.read() == data[5:1_000_000]
        for _ in range(2):
            assert mounted.store.to_bytes("m/large") == data

    def test_threads_that_read_one_cold_key_all_get_it(self, mounted: Mounted) -> None:
        data = noise(self.large)
        mounted.put("m/large", data, {})
        mounted.refresh()

        def read() -> None:
            assert mounted.store.to_bytes("m/large") == data

        in_threads(*[read] * 6)

    @needs(keeps_metadata=True)
    def test_what_others_change_upstream_is_seen(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("m/one") == b"first"
        assert not store.exists("m/new")
        upstream.put("m/one", b"changed by another", {"n": 9})
        upstream.put("m/new", b"new", {"kind": "odd"})
        upstream.remove("m/two")
        upstream.refresh()
        assert store.to_bytes("m/one") == b"changed by another"
        assert store.get_metadata("m/one") == {"n": 9}
        assert store.to_bytes("m/new") == b"new"
        assert not store.exists("m/two")
        assert sorted(store.glob("m/*")) == ["m/new", "m/one"]
        assert sorted(store.query_keys(kind="odd")) == ["beyond/three", "m/new"]

    @needs(keeps_metadata=True)
    def test_value_never_mixes_two_versions(self, mounted: Mounted) -> None:
        before, after = noise(self.large, 1), noise(self.large, 2)
        mounted.put("m/large", before, {"n": 1})
        mounted.refresh()
        value = mounted.store.get("m/large")
        mounted.put("m/large", after, {"n": 2})
        mounted.refresh()
        try:
            with value.data as data:
                assert data.read() == before
        except ChangedWhileReadingError:
            pass
        assert value.metadata == {"n": 1}
        assert mounted.store.to_bytes("m/large") == after

    @needs(keeps_metadata=True)
    def test_open_reads_and_writes(self, upstream: Mounted) -> None:
        with upstream.store.open("m/one") as file:
            assert file.read() == b"first"
        with upstream.store.open("m/one", "wb") as file:
            file.write(b"written ")
            file.write(b"through")
        assert upstream.store.to_bytes("m/one") == b"written through"
        assert upstream.store.get_metadata("m/one") == {"n": 1, "kind": "odd"}
        with pytest.raises(KeyError):
            upstream.store.open("m/missing")

    # -- staging -------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["m/one", "m/new"])
    def test_set_goes_to_the_mount_store_alone(self, upstream: Mounted, key: str) -> None:
        before = upstream.look(key)
        upstream.store.set(key, StringValue(b"mine", {"by": "me"}))
        assert upstream.store.to_bytes(key) == b"mine"
        assert upstream.store.get_metadata(key) == {"by": "me"}
        assert upstream.store.get(key).source == "staged"
        short = upstream.short(key)
        assert contents(upstream.mount_store) == {short: (b"mine", {"by": "me"})}
        upstream.refresh()
        assert upstream.look(key) == before
        assert upstream.store.to_bytes(key) == b"mine"

    @needs(keeps_metadata=True)
    def test_partial_setters_start_from_upstreams_value(self, upstream: Mounted) -> None:
        store = upstream.store
        store.set_data("m/one", io.BytesIO(b"mine"))
        store.update_metadata("m/two", {"n": 5})
        assert (store.to_bytes("m/one"), store.get_metadata("m/one")) == (
            b"mine",
            {"n": 1, "kind": "odd"},
        )
        assert (store.to_bytes("m/two"), store.get_metadata("m/two")) == (
            b"second",
            {"n": 5, "kind": "even"},
        )
        store.set_metadata("m/two", {"all": "new"})
        assert (store.to_bytes("m/two"), store.get_metadata("m/two")) == (
            b"second",
            {"all": "new"},
        )
        with store.get_data_range("m/two", 0, 3) as part:
            assert part.read() == b"sec"
        assert upstream.look("m/two") == (b"second", {"n": 2, "kind": "even"})

    @setters
    @needs(keeps_metadata=True)
    def test_outside_the_mount_point_nothing_can_be_written(
        self, upstream: Mounted, setter: Callable[..., None]
    ) -> None:
        store = upstream.store
        for key in ("beyond/three", "beyond/new", "m", "mm/one"):
            for write in (setter, type(store).delete):
                with pytest.raises(ReadOnlyKeyError, match=re.escape(repr(key))) as caught:
                    write(store, key)
                assert isinstance(caught.value, StoreError)
                assert isinstance(caught.value, KeyError)
                assert "\n" not in str(caught.value)
        assert contents(store) == {
            "m/one": (b"first", {"n": 1, "kind": "odd"}),
            "m/two": (b"second", {"n": 2, "kind": "even"}),
            "beyond/three": (b"third", {"n": 3, "kind": "odd"}),
        }

    @setters
    def test_mount_point_itself_is_no_key(
        self, upstream: Mounted, setter: Callable[..., None]
    ) -> None:
        with pytest.raises((ReadOnlyKeyError, InvalidKeyError), match="m/"):
            setter(upstream.store, "m/")
        assert list(upstream.store.staged()) == []

    @needs(keeps_metadata=True)
    def test_queries_shadow_by_key_first_and_filter_then(self, upstream: Mounted) -> None:
        store = upstream.store
        store.set_metadata("m/one", {"kind": "even", "mine": True})
        assert sorted(store.query_keys(kind="odd")) == ["beyond/three"]
        assert sorted(store.query_keys(kind="even")) == ["m/one", "m/two"]
        assert dict(store.query(["mine"], kind="even")) == {
            "m/one": {"mine": True},
            "m/two": {},
        }
        assert sorted(store.query_keys()) == ["beyond/three", "m/one", "m/two"]
        assert sorted(store.glob("m/*")) == ["m/one", "m/two"]

    def test_staged_tells_what_is_staged(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("m/one") == b"first"
        assert not store.exists("m/new")
        store.set("m/one", StringValue(b"mine"))
        store.set("m/new", StringValue(b"new!"))
        store.delete("m/two")
        states = {each.key: each.state for each in store.staged()}
        assert states == {"m/one": "modified", "m/new": "added", "m/two": "deleted"}
        sizes = {each.key: each.size for each in store.staged()}
        assert (sizes["m/one"], sizes["m/new"]) == (4, 4)

    def test_base_is_compared_with_what_was_read(self, upstream: Mounted) -> None:
        store = upstream.store
        value = store.get("m/one")
        with value.data as data:
            assert data.read() == b"first"
        base = store.get("m/one").version
        assert base is not None
        store.set("m/one", StringValue(b"mine"), base=base)
        with pytest.raises(ConflictError, match="m/one") as caught:
            store.set("m/one", StringValue(b"mine again"), base=base)
        assert caught.value.key == "m/one"
        assert store.to_bytes("m/one") == b"mine"

    def test_transaction_that_fails_leaves_upstreams_values(self, upstream: Mounted) -> None:
        store = upstream.store
        before = contents(store)
        with pytest.raises(Interrupted), store.transaction("taken back"):
            store.set("m/one", StringValue(b"mine"))
            store.update_metadata("m/two", {"n": 5})
            store.delete("m/two")
            store.set("m/new", StringValue(b"new"))
            assert sorted(store.glob("m/*")) == ["m/new", "m/one"]
            raise Interrupted
        assert contents(store) == before
        assert list(store.staged()) == []

    # -- deleting ------------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_deleted_key_is_hidden_everywhere(self, upstream: Mounted) -> None:
        store = upstream.store
        store.delete("m/one")
        upstream.refresh()
        assert not store.exists("m/one")
        for verb in ("get", "get_data", "get_metadata", "to_bytes", "delete"):
            with pytest.raises(KeyError, match="m/one"):
                getattr(store, verb)("m/one")
        assert sorted(store.query_keys()) == ["beyond/three", "m/two"]
        assert list(store.query_keys(kind="odd")) == ["beyond/three"]
        assert list(store.glob("m/*")) == ["m/two"]
        assert upstream.look("m/one") == (b"first", {"n": 1, "kind": "odd"})
        assert not upstream.mount_store.exists("one")

    @pytest.mark.parametrize("name", SETTERS)
    def test_hidden_key_can_be_set_again_and_starts_anew(
        self, upstream: Mounted, name: str
    ) -> None:
        store = upstream.store
        store.delete("m/one")
        SETTERS[name](store, "m/one")
        data, metadata = store.to_bytes("m/one"), store.get_metadata("m/one")
        assert (data, metadata) in (
            (b"new", {"new": True}),
            (b"new", {}),
            (b"", {"new": True}),
        )
        assert sorted(store.glob("m/*")) == ["m/one", "m/two"]

    def test_deleted_key_that_was_only_here_leaves_nothing(self, upstream: Mounted) -> None:
        store = upstream.store
        store.set("m/new", StringValue(b"new"), base=None)
        store.delete("m/new")
        assert not store.exists("m/new")
        with pytest.raises(KeyError, match="m/new"):
            store.delete("m/new")
        assert not upstream.mount_store.exists("new")

    def test_delete_of_what_is_nowhere_is_a_key_error(self, upstream: Mounted) -> None:
        with pytest.raises(KeyError) as caught:
            upstream.store.delete("m/missing")
        assert caught.value.args == ("m/missing",)
        assert list(upstream.store.staged()) == []

    # -- revert and drop -----------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_reverted_key_is_upstreams_again(self, upstream: Mounted) -> None:
        store = upstream.store
        store.set("m/one", StringValue(b"mine", {"kind": "mine"}))
        store.delete("m/two")
        store.set("m/new", StringValue(b"new"))
        for key in ("m/one", "m/two", "m/new"):
            assert store.revert(key) == [key]
        assert list(store.staged()) == []
        assert contents(store) == {
            "m/one": (b"first", {"n": 1, "kind": "odd"}),
            "m/two": (b"second", {"n": 2, "kind": "even"}),
            "beyond/three": (b"third", {"n": 3, "kind": "odd"}),
        }
        assert list(upstream.mount_store.query_keys()) == []
        assert not store.exists("m/new")

    def test_revert_has_no_meaning_in_a_transaction(self, upstream: Mounted) -> None:
        upstream.store.set("m/one", StringValue(b"mine"))
        with pytest.raises(TransactionError), upstream.store.transaction("reverts"):
            upstream.store.revert("m/one")
        assert upstream.store.to_bytes("m/one") == b"mine"

    def test_dropped_copy_is_read_from_upstream_again(self, upstream: Mounted) -> None:
        store = upstream.store
        assert store.to_bytes("m/one") == b"first"
        store.drop("m/one")
        assert store.to_bytes("m/one") == b"first"
        store.drop("m/one")
        with pytest.raises(KeyError, match="m/one"):
            store.drop("m/one")

    def test_drop_refuses_what_is_staged(self, upstream: Mounted) -> None:
        store = upstream.store
        store.set("m/one", StringValue(b"mine"))
        store.delete("m/two")
        for key in ("m/one", "m/two"):
            with pytest.raises(StoreError, match="staged"):
                store.drop(key)
        assert store.to_bytes("m/one") == b"mine"
        assert not store.exists("m/two")

    # -- events --------------------------------------------------------------------------

    def test_mount_announces_full_keys_as_its_own(self, upstream: Mounted) -> None:
        store = upstream.store
        store.to_bytes("m/one")
        store.get_metadata("m/two")
        heard: list[StoreModificationEvent] = []
        store.event_manager.connect(StoreModificationEvent, heard.append)
        store.set("m/one", StringValue(b"mine", {"n": 5}))
        store.set("m/new", StringValue(b"new"))
        store.delete("m/two")
        assert [(type(each), each.key) for each in heard] == [
            (StoreUpdateEvent, "m/one"),
            (StoreSetEvent, "m/new"),
            (StoreDeleteEvent, "m/two"),
        ]
        assert all(each.source is store for each in heard)
        assert heard[0].metadata == {"n": 5}

    @needs(foreign_mount_store=False)
    def test_mount_store_announces_nothing_of_what_goes_through_the_mount(
        self, upstream: Mounted
    ) -> None:
        heard: list[BaseEvent] = []
        upstream.mount_store.event_manager.connect(StoreModificationEvent, heard.append)
        upstream.store.set("m/one", StringValue(b"mine"))
        upstream.store.to_bytes("m/two")
        upstream.store.delete("m/two")
        assert heard == []

    def test_filling_announces_no_change(self, upstream: Mounted) -> None:
        heard: list[BaseEvent] = []
        upstream.store.event_manager.connect(StoreModificationEvent, heard.append)
        upstream.store.to_bytes("m/one")
        upstream.store.to_bytes("m/one")
        assert heard == []

    # -- the mount store by itself -------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_what_is_set_into_the_mount_store_is_seen_through_the_mount(
        self, upstream: Mounted
    ) -> None:
        upstream.mount_store.set("one", StringValue(b"set by itself", {"kind": "even"}))
        store = upstream.store
        assert store.to_bytes("m/one") == b"set by itself"
        assert sorted(store.query_keys(kind="even")) == ["m/one", "m/two"]
        assert [each.key for each in store.staged()] == ["m/one"]
        assert upstream.look("m/one") == (b"first", {"n": 1, "kind": "odd"})

    @needs(can_push=True)
    def test_what_is_set_into_the_mount_store_is_pushed_when_it_is_named(
        self, upstream: Mounted
    ) -> None:
        upstream.mount_store.set("one", StringValue(b"set by itself", {"kind": "even"}))
        upstream.store.push("m/one")
        assert upstream.look("m/one") == (b"set by itself", {"kind": "even"})
        assert not upstream.mount_store.exists("one")
