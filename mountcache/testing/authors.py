"""Several authors of one key: versions, ``base=``, snapshots, and threads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from mountcache.abc import ABSENT, AbstractStore, Base
from mountcache.errors import ChangedWhileReadingError, ConflictError
from mountcache.testing.suite import StoreSuite, contents, in_threads, needs, noise
from mountcache.values import StringValue

__all__ = ["SETTERS", "Setter", "SeveralAuthorsTests", "setters"]

Setter = Callable[..., None]


def _setters(data: bytes, metadata: dict[str, Any]) -> dict[str, Callable[..., None]]:
    """Return every setter, as a function of a store, a key and keywords."""
    return {
        "set": lambda store, key, **kw: store.set(key, StringValue(data, metadata), **kw),
        "set_data": lambda store, key, **kw: store.set_data(key, io.BytesIO(data), **kw),
        "set_metadata": lambda store, key, **kw: store.set_metadata(key, metadata, **kw),
        "update_metadata": lambda store, key, **kw: store.update_metadata(key, metadata, **kw),
        "from_bytes": lambda store, key, **kw: store.from_bytes(key, data, **kw),
    }


SETTERS = _setters(b"new", {"new": True})
setters = pytest.mark.parametrize("setter", SETTERS.values(), ids=SETTERS)


class SeveralAuthorsTests(StoreSuite):
    """What holds when a key has more than one author. Needs ``store``."""

    @pytest.fixture
    def writable(self, store: AbstractStore) -> AbstractStore:
        """The store with three keys."""
        store.set("one", StringValue(b"first", {"n": 1, "kind": "odd"}))
        store.set("two", StringValue(b"second", {"n": 2, "nested": {"a": 1, "b": 2}}))
        store.set("three", StringValue(b"third", {"n": 3, "kind": "odd"}))
        return store

    # -- values are snapshots ------------------------------------------------------------

    @pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
    @pytest.mark.parametrize("change", ["set", "set_metadata", "delete"])
    def test_value_keeps_what_it_was_got_with(
        self, store: AbstractStore, change: str, large: bool
    ) -> None:
        data = noise(self.large) if large else b"before"
        store.set("k", StringValue(data, {"n": 1}))
        value = store.get("k")
        opened = store.get_data("k")
        begun = opened.read(3)
        version = value.version
        match change:
            case "set":
                store.set("k", StringValue(b"after", {"n": 2}))
            case "set_metadata":
                store.set_metadata("k", {"n": 2})
            case _:
                store.delete("k")
        assert value.version == version
        try:
            assert value.metadata == {"n": 1}
            with value.data as stream:
                assert stream.read() == data
            with opened:
                assert begun + opened.read() == data
        except (ChangedWhileReadingError, KeyError):
            if self.has_snapshots:
                raise
            opened.close()

    # -- base ----------------------------------------------------------------------------

    @needs(has_versions=True)
    @setters
    def test_base_that_is_there_is_replaced(self, writable: AbstractStore, setter: Setter) -> None:
        before = writable.get("one").version
        setter(writable, "one", base=before)
        assert writable.get("one").version != before

    @needs(has_versions=True)
    @setters
    def test_base_that_is_not_there_is_a_conflict_and_changes_nothing(
        self, writable: AbstractStore, setter: Setter
    ) -> None:
        old = writable.get("one").version
        writable.set("one", StringValue(b"somebody else's", {"n": 5}))
        new = writable.get("one").version
        assert new != old
        for base in (old, ABSENT, writable.get("two").version):
            before = contents(writable)
            with pytest.raises(ConflictError, match="one") as caught:
                setter(writable, "one", base=base)
            assert caught.value.key == "one"
            assert caught.value.expected == base
            assert caught.value.found == new
            assert contents(writable) == before

    @needs(has_versions=True)
    @setters
    def test_base_absent_creates(self, writable: AbstractStore, setter: Setter) -> None:
        setter(writable, "new", base=ABSENT)
        assert writable.exists("new")
        with pytest.raises(ConflictError, match="new"):
            setter(writable, "new", base=ABSENT)

    @needs(has_versions=True, defers_conflicts=False)
    @setters
    def test_base_of_a_key_that_is_gone_is_a_conflict(
        self, writable: AbstractStore, setter: Setter
    ) -> None:
        base = writable.get("one").version
        writable.delete("one")
        with pytest.raises(ConflictError, match="one") as caught:
            setter(writable, "one", base=base)
        assert caught.value.found is ABSENT
        assert not writable.exists("one")

    @needs(has_versions=True)
    def test_delete_compares_its_base(self, writable: AbstractStore) -> None:
        base = writable.get("one").version
        writable.set_data("one", io.BytesIO(b"somebody else's"))
        wrong: list[Base] = [base, ABSENT]
        for each in wrong:
            with pytest.raises(ConflictError, match="one"):
                writable.delete("one", base=each)
        assert writable.to_bytes("one") == b"somebody else's"
        writable.delete("one", base=writable.get("one").version)
        assert not writable.exists("one")

    @needs(has_versions=True)
    def test_version_changes_with_the_data_and_with_the_metadata(
        self, writable: AbstractStore
    ) -> None:
        versions = [writable.get("one").version]
        writable.set_data("one", io.BytesIO(b"FIRST"))
        versions.append(writable.get("one").version)
        writable.update_metadata("one", {"n": 10})
        versions.append(writable.get("one").version)
        writable.set("one", StringValue(b"other", {"m": 1}))
        versions.append(writable.get("one").version)
        assert None not in versions
        assert len(set(versions)) == 4

    # -- several threads -----------------------------------------------------------------

    def test_threads_that_set_keys_of_their_own_lose_nothing(self, store: AbstractStore) -> None:
        def work(name: str) -> None:
            for number in range(10):
                store.set(f"{name}/{number}", StringValue(name.encode(), {"n": number}))

        in_threads(*(lambda name=name: work(name) for name in "abcd"))
        assert contents(store) == {
            f"{name}/{number}": (name.encode(), {"n": number})
            for name in "abcd"
            for number in range(10)
        }

    @needs(has_versions=True)
    def test_threads_that_compare_with_base_lose_no_change(self, store: AbstractStore) -> None:
        store.set("count", StringValue(b"0", {"n": 0}))

        def work() -> None:
            for _ in range(5):
                while True:
                    value = store.get("count")
                    metadata = value.metadata
                    try:
                        with value.data as data:
                            count = int(data.read()) + 1
                        assert count == metadata["n"] + 1
                        new = StringValue(b"%d" % count, {"n": count})
                        store.set("count", new, base=value.version)
                    except (ConflictError, ChangedWhileReadingError):
                        continue
                    break

        in_threads(*[work] * 4)
        assert contents(store) == {"count": (b"20", {"n": 20})}

    @needs(has_versions=True)
    def test_threads_that_update_the_metadata_of_one_key_lose_nothing(
        self, store: AbstractStore
    ) -> None:
        store.set("k", StringValue(b"data"))

        def work(name: str) -> None:
            for number in range(10):
                store.update_metadata("k", {f"{name}{number}": number})

        in_threads(*(lambda name=name: work(name) for name in "abcd"))
        assert store.get_metadata("k") == {
            f"{name}{number}": number for name in "abcd" for number in range(10)
        }
        assert store.to_bytes("k") == b"data"

    def test_reader_never_sees_new_data_under_old_metadata(self, store: AbstractStore) -> None:
        sizes = (10, 100_000)
        store.set("k", StringValue(b"x" * sizes[0], {"size": sizes[0]}))
        done = False

        def write() -> None:
            nonlocal done
            try:
                for number in range(1, 21):
                    size = sizes[number % 2]
                    store.set("k", StringValue(b"x" * size, {"size": size}))
            finally:
                done = True

        def read() -> None:
            while not done:
                value = store.get("k")
                try:
                    with value.data as data:
                        assert len(data.read()) == value.metadata["size"]
                except ChangedWhileReadingError:
                    assert not self.has_snapshots

        in_threads(write, read, read)
