"""Transactions: what belongs together, what is taken back, and who sees what meanwhile."""

from __future__ import annotations

import io
from typing import Any

import pytest

from mountcache.abc import ABSENT, AbstractStore
from mountcache.errors import ConflictError, InvalidValueError
from mountcache.testing.suite import (
    BrokenStream,
    Interrupted,
    StoreSuite,
    contents,
    data_of,
    in_threads,
    needs,
    noise,
)
from mountcache.values import StringValue

__all__ = ["StoreTransactionTests"]


def _set(store: AbstractStore, key: str, data: bytes, /, **metadata: Any) -> None:
    store.set(key, StringValue(data, metadata))


class StoreTransactionTests(StoreSuite):
    """What belongs together. Needs ``store``.

    Where the store can't take writes back (`rolls_back` is False), only those tests run that
    don't need it.
    """

    @pytest.fixture
    def booked(self, store: AbstractStore) -> AbstractStore:
        """The store with three keys, one of them large."""
        _set(store, "one", b"first", n=1, kind="odd")
        _set(store, "two", b"second", n=2, kind="even")
        _set(store, "large", noise(self.large, 1), n=3)
        return store

    # -- commit --------------------------------------------------------------------------

    def test_what_was_written_is_there_afterwards(self, booked: AbstractStore) -> None:
        with booked.transaction("all verbs"):
            _set(booked, "new", b"new", n=4)
            booked.set_data("one", io.BytesIO(b"replaced"))
            booked.update_metadata("one", {"m": 1})
            booked.set_metadata("large", {"n": 5})
            booked.delete("two")
        assert contents(booked) == {
            "one": (b"replaced", {"n": 1, "kind": "odd", "m": 1}),
            "large": (noise(self.large, 1), {"n": 5}),
            "new": (b"new", {"n": 4}),
        }

    def test_empty_transaction_changes_nothing(self, booked: AbstractStore) -> None:
        before = contents(booked)
        with booked.transaction("nothing"):
            pass
        assert contents(booked) == before

    def test_reads_in_a_transaction_see_its_writes(self, booked: AbstractStore) -> None:
        large = noise(self.large, 2)
        with booked.transaction("reads"):
            _set(booked, "new", b"new data", n=4, kind="odd")
            _set(booked, "large", large, kind="odd")
            booked.set_metadata("one", {"kind": "even"})
            booked.delete("two")
            assert data_of(booked, "new") == b"new data"
            assert booked.get("new").metadata == {"n": 4, "kind": "odd"}
            assert booked.get_metadata("new", ["n"]) == {"n": 4}
            with booked.get_data_range("new", 4, 6) as part:
                assert part.read() == b"da"
            assert booked.to_bytes("large") == large
            assert booked.to_bytes("one") == b"first"
            assert booked.exists("new")
            assert not booked.exists("two")
            with pytest.raises(KeyError):
                booked.get("two")
            with pytest.raises(KeyError):
                booked.delete("two")
            assert sorted(booked.query_keys()) == ["large", "new", "one"]
            assert sorted(booked.query_keys(kind="odd")) == ["large", "new"]
            assert dict(booked.query(kind="even")) == {"one": {"kind": "even"}}
            assert list(booked.glob("n*")) == ["new"]

    def test_last_write_of_a_key_counts(self, booked: AbstractStore) -> None:
        with booked.transaction("one key after another"):
            _set(booked, "one", b"a", n=1)
            _set(booked, "one", b"b", n=2)
            booked.update_metadata("one", {"m": 3})
            booked.delete("two")
            _set(booked, "two", b"c", n=4)
            _set(booked, "new", b"d", n=5)
            booked.delete("new")
            booked.delete("large")
            _set(booked, "large", b"e")
            booked.delete("large")
        assert contents(booked) == {
            "one": (b"b", {"n": 2, "m": 3}),
            "two": (b"c", {"n": 4}),
        }

    def test_key_deleted_in_a_transaction_starts_anew(self, booked: AbstractStore) -> None:
        with booked.transaction("delete and set again"):
            booked.delete("one")
            booked.set_data("one", io.BytesIO(b"anew"))
            assert booked.get_metadata("one") == {}
            booked.delete("two")
            booked.update_metadata("two", {"anew": True})
            assert booked.to_bytes("two") == b""
        assert booked.get_metadata("one") == {}
        assert booked.to_bytes("one") == b"anew"
        assert (booked.to_bytes("two"), booked.get_metadata("two")) == (b"", {"anew": True})

    @needs(has_snapshots=True)
    def test_values_got_in_a_transaction_are_good_afterwards(self, booked: AbstractStore) -> None:
        large = noise(self.large, 2)
        with booked.transaction("values"):
            _set(booked, "one", b"changed")
            _set(booked, "large", large)
            values = [booked.get(key) for key in ("one", "large")]
            opened = booked.get_data("large")
        with values[0].data as data:
            assert data.read() == b"changed"
        with values[1].data as data:
            assert data.read() == large
        with opened:
            assert opened.read() == large

    def test_store_can_be_changed_while_a_query_is_used_up_in_a_transaction(
        self, store: AbstractStore
    ) -> None:
        keys = [f"key {number:02}" for number in range(10)]
        with store.transaction("queries"):
            for key in keys:
                _set(store, key, b"", n=1)
            for key in store.query_keys(n=1):
                store.update_metadata(key, {"n": 2})
        assert sorted(store.query_keys(n=2)) == keys

    def test_bad_input_that_is_caught_spoils_nothing_else(self, booked: AbstractStore) -> None:
        with booked.transaction("bad input"):
            _set(booked, "new", b"new")
            with pytest.raises(InvalidValueError):
                booked.set("one", (b"bytes", {}))  # type: ignore[arg-type]
            with pytest.raises(Interrupted):
                booked.set("one", (BrokenStream(3_000_000), {}))
            with pytest.raises(KeyError):
                booked.delete("missing")
            assert booked.to_bytes("one") == b"first"
        assert booked.to_bytes("one") == b"first"
        assert booked.to_bytes("new") == b"new"

    @needs(has_versions=True)
    def test_base_is_compared_with_what_the_transaction_wrote(self, booked: AbstractStore) -> None:
        base = booked.get("one").version
        with booked.transaction("base"):
            booked.set("one", StringValue(b"a"), base=base)
            with pytest.raises(ConflictError):
                booked.set("one", StringValue(b"b"), base=base)
            booked.set("one", StringValue(b"c"), base=booked.get("one").version)
            booked.set("new", StringValue(b"d"), base=ABSENT)
            with pytest.raises(ConflictError):
                booked.set("new", StringValue(b"e"), base=ABSENT)
        assert booked.to_bytes("one") == b"c"
        assert booked.to_bytes("new") == b"d"

    def test_error_in_a_transaction_comes_through(self, booked: AbstractStore) -> None:
        error = Interrupted("from the block")
        with pytest.raises(Interrupted) as caught, booked.transaction("fails"):
            raise error
        assert caught.value is error

    # -- roll-back -----------------------------------------------------------------------

    @needs(rolls_back=True)
    @pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, GeneratorExit])
    def test_error_takes_all_of_it_back(
        self, booked: AbstractStore, error: type[BaseException]
    ) -> None:
        before = contents(booked)
        with pytest.raises(error), booked.transaction("taken back"):
            _set(booked, "new", b"new")
            _set(booked, "one", b"replaced", n=9)
            _set(booked, "large", noise(self.large, 2))
            booked.set_metadata("two", {"n": 8})
            booked.update_metadata("two", {"m": 7})
            booked.delete("one")
            booked.delete("large")
            raise error
        assert contents(booked) == before
        assert not booked.exists("new")
        assert sorted(booked.query_keys(kind="odd")) == ["one"]

    @needs(rolls_back=True)
    def test_overwritten_and_deleted_large_values_come_back_byte_for_byte(
        self, store: AbstractStore
    ) -> None:
        data = noise(self.large, 1)
        for key in ("replaced", "deleted", "both"):
            _set(store, key, data, key=key)
        with pytest.raises(Interrupted), store.transaction("taken back"):
            _set(store, "replaced", noise(self.large, 2))
            store.delete("deleted")
            _set(store, "both", b"small")
            store.delete("both")
            raise Interrupted
        assert contents(store) == {
            key: (data, {"key": key}) for key in ("replaced", "deleted", "both")
        }

    @needs(rolls_back=True)
    def test_next_transaction_after_a_failed_one_is_like_any_other(
        self, booked: AbstractStore
    ) -> None:
        for _ in range(2):
            with pytest.raises(Interrupted), booked.transaction("fails"):
                _set(booked, "new", b"lost")
                raise Interrupted
            assert not booked.exists("new")
        with booked.transaction("goes well"):
            _set(booked, "new", b"kept")
        assert booked.to_bytes("new") == b"kept"

    @needs(rolls_back=True)
    def test_setters_of_several_keys_set_all_or_none(self, booked: AbstractStore) -> None:
        before = contents(booked)
        with pytest.raises(Interrupted):
            booked.multiset(
                ["one", "new", "two"],
                [StringValue(b"a"), StringValue(b"b"), (BrokenStream(10), {})],
            )
        with pytest.raises(ValueError, match="dict"):
            booked.multiset_metadata(["one", "new"], [{"n": 1}, None])  # type: ignore[list-item]
        assert contents(booked) == before

    # -- nested --------------------------------------------------------------------------

    @needs(rolls_back=True)
    def test_inner_transaction_ends_with_the_outer_one(self, booked: AbstractStore) -> None:
        before = contents(booked)
        with pytest.raises(Interrupted), booked.transaction("outer"):
            _set(booked, "outer", b"outer")
            with booked.transaction("inner"):
                _set(booked, "inner", b"inner")
                booked.delete("one")
            assert booked.to_bytes("inner") == b"inner"
            assert not booked.exists("one")
            raise Interrupted
        assert contents(booked) == before

    @needs(rolls_back=True)
    def test_error_that_is_caught_outside_an_inner_transaction_takes_that_one_back(
        self, booked: AbstractStore
    ) -> None:
        with booked.transaction("outer"):
            _set(booked, "outer", b"outer")
            _set(booked, "one", b"by outer")
            with pytest.raises(Interrupted), booked.transaction("inner"):
                _set(booked, "inner", b"inner")
                _set(booked, "one", b"by inner")
                booked.delete("outer")
                booked.delete("two")
                raise Interrupted
            assert not booked.exists("inner")
            assert booked.to_bytes("one") == b"by outer"
            assert booked.to_bytes("outer") == b"outer"
            assert booked.to_bytes("two") == b"second"
            _set(booked, "last", b"last")
        assert sorted(booked.query_keys()) == ["large", "last", "one", "outer", "two"]
        assert booked.to_bytes("one") == b"by outer"
        assert booked.to_bytes("outer") == b"outer"
        assert booked.to_bytes("two") == b"second"

    @needs(rolls_back=True)
    def test_transactions_nest_three_deep(self, store: AbstractStore) -> None:
        with store.transaction("1"):
            _set(store, "a", b"1")
            with store.transaction("2"):
                _set(store, "b", b"2")
                with pytest.raises(Interrupted), store.transaction("3"):
                    _set(store, "a", b"3")
                    _set(store, "c", b"3")
                    raise Interrupted
                _set(store, "b", store.to_bytes("b") + b" again")
        assert contents(store) == {"a": (b"1", {}), "b": (b"2 again", {})}

    # -- other threads -------------------------------------------------------------------

    @needs(rolls_back=True)
    def test_other_threads_see_nothing_before_the_end(self, booked: AbstractStore) -> None:
        before = contents(booked)
        with booked.transaction("hidden"):
            _set(booked, "new", b"new")
            _set(booked, "one", b"replaced")
            booked.delete("two")

            def look() -> None:
                assert contents(booked) == before
                assert not booked.exists("new")
                assert booked.get_metadata("two") == {"n": 2, "kind": "even"}

            in_threads(look)
        assert booked.to_bytes("one") == b"replaced"

    @needs(rolls_back=True)
    def test_writes_of_other_threads_go_their_own_way(self, booked: AbstractStore) -> None:
        with pytest.raises(Interrupted), booked.transaction("taken back"):
            _set(booked, "mine", b"mine")
            in_threads(lambda: _set(booked, "theirs", b"theirs"))
            raise Interrupted
        assert not booked.exists("mine")
        assert booked.to_bytes("theirs") == b"theirs"

    @needs(rolls_back=True)
    def test_transactions_of_two_threads_are_two(self, booked: AbstractStore) -> None:

        def fail() -> None:
            with pytest.raises(Interrupted), booked.transaction("theirs"):
                _set(booked, "theirs", b"theirs")
                assert not booked.exists("mine")
                raise Interrupted

        with booked.transaction("mine"):
            _set(booked, "mine", b"mine")
            in_threads(fail)
        assert booked.exists("mine")
        assert not booked.exists("theirs")

    @needs(rolls_back=True, has_versions=True)
    def test_what_was_read_and_is_changed_meanwhile_is_a_conflict(
        self, booked: AbstractStore
    ) -> None:
        with pytest.raises(ConflictError, match="one") as caught, booked.transaction("sums up"):
            n = booked.get_metadata("one")["n"]
            in_threads(lambda: booked.update_metadata("one", {"n": 10}))
            _set(booked, "sum", b"", n=n + 1)
        assert caught.value.key == "one"
        assert not booked.exists("sum")
        assert booked.get_metadata("one")["n"] == 10

    @needs(rolls_back=True, has_versions=True)
    def test_what_was_read_as_absent_and_is_made_meanwhile_is_a_conflict(
        self, booked: AbstractStore
    ) -> None:
        with pytest.raises(ConflictError, match="new"), booked.transaction("reads and writes"):
            assert not booked.exists("new")
            in_threads(lambda: _set(booked, "new", b"theirs"))
            _set(booked, "new", b"mine")
        assert booked.to_bytes("new") == b"theirs"

    @needs(rolls_back=True)
    def test_what_was_not_read_is_no_conflict(self, booked: AbstractStore) -> None:
        with booked.transaction("writes"):
            booked.to_bytes("one")
            in_threads(lambda: _set(booked, "two", b"theirs"))
            _set(booked, "new", b"mine")
        assert booked.to_bytes("new") == b"mine"
        assert booked.to_bytes("two") == b"theirs"
