"""Setters and `delete`: what they change, what they leave, and what they refuse.

What holds for several authors of a key is next door in `mountcache.testing.authors`.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import AbstractStore
from mountcache.errors import (
    InvalidKeyError,
    InvalidMetadataError,
    InvalidValueError,
)
from mountcache.testing.authors import Setter, SeveralAuthorsTests, setters
from mountcache.testing.suite import (
    BAD_KEYS,
    BAD_METADATA,
    BAD_PATHS,
    ODD_KEYS,
    BrokenStream,
    HesitantStream,
    Interrupted,
    TellingStream,
    contents,
    data_of,
    noise,
)
from mountcache.values import FileValue, StringValue

__all__ = ["StoreWriteTests"]

BAD_STREAMS: tuple[tuple[Any, str], ...] = (
    (b"bytes", "not bytes; for bytes use from_bytes"),
    ("text", "not str"),
    (None, "not NoneType"),
    (io.StringIO("text"), "text stream; open the file in binary mode"),
    (TellingStream(None), "gave NoneType where bytes were expected"),
    (TellingStream(7), "gave int where bytes were expected"),
)


class StoreWriteTests(SeveralAuthorsTests):
    """What can be changed. Needs ``store``."""

    # -- set -----------------------------------------------------------------------------

    def test_info_says_that_it_can_be_written(self, store: AbstractStore) -> None:
        assert store.info()["readonly"] is False

    def test_set_takes_a_pair_of_stream_and_metadata(self, store: AbstractStore) -> None:
        store.set("k", (io.BytesIO(b"data"), {"n": 1}))
        assert (store.to_bytes("k"), store.get_metadata("k")) == (b"data", {"n": 1})
        value = store.get("k")
        assert value.size == 4

    def test_set_takes_values(self, store: AbstractStore, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(b"a,b\n")
        store.set("string", StringValue(b"data", {"n": 1}))
        store.set("file", FileValue(tmp_path / "f.csv", {"n": 2}))
        store.set("copy", store.get("string"))
        assert contents(store) == {
            "string": (b"data", {"n": 1}),
            "file": (b"a,b\n", {"n": 2}),
            "copy": (b"data", {"n": 1}),
        }

    def test_key_can_be_set_to_its_own_value(self, store: AbstractStore) -> None:
        data = noise(self.large)
        store.set("k", StringValue(data, {"n": 1}))
        store.set("k", store.get("k"))
        assert (store.to_bytes("k"), store.get_metadata("k")) == (data, {"n": 1})

    def test_set_replaces_data_and_metadata(self, writable: AbstractStore) -> None:
        writable.set("one", StringValue(b"new", {"m": 1}))
        assert (data_of(writable, "one"), writable.get_metadata("one")) == (b"new", {"m": 1})
        writable.set("one", StringValue(b"", {}))
        assert (data_of(writable, "one"), writable.get_metadata("one")) == (b"", {})
        assert writable.exists("one")
        assert writable.to_bytes("two") == b"second"

    def test_set_reads_a_stream_from_where_it_is_and_leaves_it_open(
        self, store: AbstractStore
    ) -> None:
        stream = io.BytesIO(b"0123456789")
        stream.seek(4)
        store.set("k", (stream, {}))
        assert store.to_bytes("k") == b"456789"
        assert not stream.closed

    @pytest.mark.parametrize("buffer_size", [1000, 1023, 1 << 20])
    def test_set_reads_a_stream_to_its_end(self, store: AbstractStore, buffer_size: int) -> None:
        data = noise(100_003)
        store.set("k", (HesitantStream(data), {"n": 1}), buffer_size)
        store.set_data("l", HesitantStream(data), buffer_size)
        assert store.to_bytes("k") == data
        assert store.to_bytes("l") == data

    def test_large_values_are_set_and_replaced(self, store: AbstractStore) -> None:
        first, second = noise(self.large, 1), noise(self.large + 1, 2)
        store.set("k", (io.BytesIO(first), {"n": 1}))
        assert store.to_bytes("k") == first
        store.set("k", (io.BytesIO(second), {"n": 2}))
        assert (store.to_bytes("k"), store.get_metadata("k")) == (second, {"n": 2})
        store.set("k", (io.BytesIO(b"small"), {"n": 3}))
        assert (store.to_bytes("k"), store.get_metadata("k")) == (b"small", {"n": 3})

    def test_metadata_is_copied_when_it_is_set(self, store: AbstractStore) -> None:
        metadata: dict[str, Any] = {"list": [1, {"a": 2}]}
        store.set("set", (io.BytesIO(), metadata))
        store.set_metadata("set_metadata", metadata)
        store.update_metadata("update_metadata", metadata)
        metadata["list"][1]["a"] = 3
        metadata["more"] = 4
        for key in ("set", "set_metadata", "update_metadata"):
            assert store.get_metadata(key) == {"list": [1, {"a": 2}]}

    def test_metadata_is_kept_as_it_is_spelled(self, store: AbstractStore) -> None:
        metadata = {"z": 2.0, "a": {"y": 1, "b": [None, True]}, "m": "caf\u00e9 \U0001f600"}
        store.set("k", StringValue(b"", metadata))
        assert json.dumps(store.get_metadata("k")) == json.dumps(metadata)
        store.set_metadata("k", {"tuple": (1, (2,))})
        assert store.get_metadata("k") == {"tuple": [1, [2]]}

    def test_large_metadata_is_kept(self, store: AbstractStore) -> None:
        metadata = {"text": "x\u00e9" * 20_000, "list": list(range(2_000))}
        store.set("k", StringValue(b"data", metadata))
        assert store.get_metadata("k") == metadata
        assert store.get("k").metadata == metadata
        assert store.to_bytes("k") == b"data"

    # -- parts of a value ----------------------------------------------------------------

    def test_set_data_keeps_the_metadata(self, writable: AbstractStore) -> None:
        writable.set_data("one", io.BytesIO(b"new"))
        assert writable.to_bytes("one") == b"new"
        assert writable.get_metadata("one") == {"n": 1, "kind": "odd"}

    def test_set_data_of_a_missing_key_creates_it(self, store: AbstractStore) -> None:
        store.set_data("k", io.BytesIO(b"data"))
        assert contents(store) == {"k": (b"data", {})}

    def test_set_metadata_keeps_the_data(self, writable: AbstractStore) -> None:
        writable.set_metadata("one", {"m": 1})
        assert writable.to_bytes("one") == b"first"
        assert writable.get_metadata("one") == {"m": 1}
        writable.set_metadata("one", {})
        assert writable.get_metadata("one") == {}
        assert writable.to_bytes("one") == b"first"

    def test_set_metadata_of_a_missing_key_creates_it_empty(self, store: AbstractStore) -> None:
        store.set_metadata("k", {"n": 1})
        assert contents(store) == {"k": (b"", {"n": 1})}

    def test_set_metadata_of_a_large_value_keeps_it(self, store: AbstractStore) -> None:
        data = noise(self.large)
        store.set("k", StringValue(data, {"n": 1}))
        store.set_metadata("k", {"n": 2})
        store.update_metadata("k", {"m": 3})
        assert (store.to_bytes("k"), store.get_metadata("k")) == (data, {"n": 2, "m": 3})

    def test_update_metadata_changes_the_names_it_is_given(self, writable: AbstractStore) -> None:
        writable.update_metadata("two", {"n": None, "m": 5})
        assert writable.get_metadata("two") == {"n": None, "nested": {"a": 1, "b": 2}, "m": 5}
        writable.update_metadata("two", {"nested": {"c": 3}})
        assert writable.get_metadata("two")["nested"] == {"c": 3}
        writable.update_metadata("two", {})
        assert writable.to_bytes("two") == b"second"

    def test_update_metadata_of_a_missing_key_creates_it_empty(self, store: AbstractStore) -> None:
        store.update_metadata("k", {"n": 1})
        assert contents(store) == {"k": (b"", {"n": 1})}

    def test_from_bytes_and_from_file_keep_the_metadata(
        self, writable: AbstractStore, tmp_path: Path
    ) -> None:
        writable.from_bytes("one", b"bytes")
        (tmp_path / "f").write_bytes(b"a file")
        writable.from_file("three", tmp_path / "f", buffer_size=2)
        assert writable.to_bytes("one") == b"bytes"
        assert writable.to_bytes("three") == b"a file"
        assert writable.get_metadata("one") == {"n": 1, "kind": "odd"}
        assert writable.get_metadata("three") == {"n": 3, "kind": "odd"}
        writable.from_bytes("new", b"")
        assert (writable.to_bytes("new"), writable.get_metadata("new")) == (b"", {})

    def test_from_file_of_a_missing_file_changes_nothing(
        self, writable: AbstractStore, tmp_path: Path
    ) -> None:
        before = contents(writable)
        with pytest.raises(FileNotFoundError):
            writable.from_file("one", tmp_path / "missing")
        assert contents(writable) == before

    # -- several keys --------------------------------------------------------------------

    def test_setters_of_several_keys(self, writable: AbstractStore) -> None:
        writable.multiset(iter(["one", "new"]), (StringValue(c, {"c": 1}) for c in (b"a", b"b")))
        writable.multiset_data(["two", "new"], iter([io.BytesIO(b"c"), io.BytesIO(b"d")]))
        writable.multiset_metadata(iter(["three"]), [{"m": 1}])
        writable.multiupdate_metadata(["three", "new"], iter([{"n": 2}, {"n": 3}]))
        assert contents(writable) == {
            "one": (b"a", {"c": 1}),
            "two": (b"c", {"n": 2, "nested": {"a": 1, "b": 2}}),
            "three": (b"third", {"m": 1, "n": 2}),
            "new": (b"d", {"c": 1, "n": 3}),
        }

    @pytest.mark.parametrize(
        ("verb", "values"),
        [
            ("multiset", [StringValue(b"new")]),
            ("multiset_data", [io.BytesIO(b"new")]),
            ("multiset_metadata", [{"new": 1}]),
            ("multiupdate_metadata", [{"new": 1}]),
        ],
    )
    def test_more_keys_than_values_is_an_error(
        self, writable: AbstractStore, verb: str, values: list[Any]
    ) -> None:
        before = contents(writable)
        with pytest.raises(ValueError, match="shorter"):
            getattr(writable, verb)(["one", "two"], values)
        if self.rolls_back:
            assert contents(writable) == before

    # -- delete --------------------------------------------------------------------------

    def test_deleted_key_is_nowhere(self, writable: AbstractStore) -> None:
        writable.delete("one")
        assert not writable.exists("one")
        for verb in ("get", "get_data", "get_metadata", "to_bytes"):
            with pytest.raises(KeyError, match="one"):
                getattr(writable, verb)("one")
        assert sorted(writable.query_keys()) == ["three", "two"]
        assert sorted(writable.glob("*")) == ["three", "two"]
        assert list(writable.query_keys(kind="odd")) == ["three"]

    def test_delete_of_a_missing_key_is_a_key_error_that_names_it(
        self, writable: AbstractStore
    ) -> None:
        with pytest.raises(KeyError) as caught:
            writable.delete("missing")
        assert caught.value.args == ("missing",)
        writable.delete("one")
        with pytest.raises(KeyError):
            writable.delete("one")
        assert sorted(writable.query_keys()) == ["three", "two"]

    @setters
    def test_deleted_key_can_be_set_again_and_starts_anew(
        self, writable: AbstractStore, setter: Setter
    ) -> None:
        writable.delete("one")
        setter(writable, "one")
        data, metadata = writable.to_bytes("one"), writable.get_metadata("one")
        assert data in (b"new", b"")
        assert metadata in ({"new": True}, {})
        assert (data, metadata) != (b"", {})

    # -- keys ----------------------------------------------------------------------------

    def test_odd_keys_are_set_and_deleted_like_others(self, store: AbstractStore) -> None:
        for number, key in enumerate(ODD_KEYS):
            store.set(key, StringValue(key.encode(), {"n": number}))
        assert contents(store) == {
            key: (key.encode(), {"n": number}) for number, key in enumerate(ODD_KEYS)
        }
        gone = ODD_KEYS[::2]
        for key in gone:
            store.delete(key)
        for key in ODD_KEYS[1::2]:
            store.set_metadata(key, {"kept": True})
        assert contents(store) == {key: (key.encode(), {"kept": True}) for key in ODD_KEYS[1::2]}

    def test_key_and_keys_below_it_are_different_keys(self, store: AbstractStore) -> None:
        keys = ["a", "a/b", "a/b/c", "a/data", "a/metadata", "a/data/data"]
        for key in keys:
            store.set(key, StringValue(key.encode(), {"key": key}))
        assert contents(store) == {key: (key.encode(), {"key": key}) for key in keys}
        store.delete("a/data")
        store.delete("a")
        keys = ["a/b", "a/b/c", "a/metadata", "a/data/data"]
        assert contents(store) == {key: (key.encode(), {"key": key}) for key in keys}

    def test_longest_key_is_a_key(self, store: AbstractStore) -> None:
        key = "k/" + "\u00e9" * ((self.longest_key - 2) // 2)
        store.set(key, StringValue(b"data", {"n": 1}))
        assert contents(store) == {key: (b"data", {"n": 1})}
        store.delete(key)
        assert not store.exists(key)

    @setters
    def test_what_is_no_key_is_refused_by_every_setter(
        self, writable: AbstractStore, setter: Setter
    ) -> None:
        before = contents(writable)
        bad = list(BAD_KEYS)
        if self.keys_are_paths:
            bad += [(key, "path segment") for key in BAD_PATHS]
        for key, message in bad:
            with pytest.raises(InvalidKeyError, match=message) as caught:
                setter(writable, key)
            assert "\n" not in str(caught.value)
            with pytest.raises(InvalidKeyError, match=message):
                writable.delete(key)
        assert contents(writable) == before

    # -- bad input -----------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["one", "new"])
    @pytest.mark.parametrize(("stream", "message"), BAD_STREAMS, ids=lambda each: repr(each)[:20])
    def test_what_is_no_stream_of_bytes_is_refused(
        self, writable: AbstractStore, key: str, stream: Any, message: str
    ) -> None:
        before = contents(writable)
        with pytest.raises(InvalidValueError, match=message):
            writable.set(key, (stream, {"new": 1}))
        with pytest.raises(InvalidValueError, match=message):
            writable.set_data(key, stream)
        assert contents(writable) == before

    @pytest.mark.parametrize("value", [b"bytes", "text", None, 3, {"a": 1}, (io.BytesIO(),)])
    def test_what_is_no_value_is_refused(self, writable: AbstractStore, value: Any) -> None:
        before = contents(writable)
        with pytest.raises(InvalidValueError, match="a value is a Value or a pair"):
            writable.set("one", value)
        assert contents(writable) == before

    @pytest.mark.parametrize("value", ["text", None, io.BytesIO(b"x")])
    def test_from_bytes_takes_nothing_but_bytes(self, writable: AbstractStore, value: Any) -> None:
        before = contents(writable)
        with pytest.raises(InvalidValueError, match="from_bytes takes bytes, not"):
            writable.from_bytes("one", value)
        assert contents(writable) == before

    @pytest.mark.parametrize("verb", ["set", "set_metadata", "update_metadata"])
    @pytest.mark.parametrize("key", ["one", "new"])
    def test_what_is_no_metadata_is_refused_before_anything_is_written(
        self, writable: AbstractStore, key: str, verb: str
    ) -> None:
        before = contents(writable)
        for metadata, message in BAD_METADATA:
            argument = (io.BytesIO(b"new"), metadata) if verb == "set" else metadata
            with pytest.raises(InvalidMetadataError, match=message) as caught:
                getattr(writable, verb)(key, argument)
            assert "\n" not in str(caught.value)
        assert contents(writable) == before

    @pytest.mark.parametrize("key", ["one", "new"])
    @pytest.mark.parametrize("length", [0, 10, 3_000_000])
    def test_stream_that_breaks_leaves_what_was_there(
        self, writable: AbstractStore, key: str, length: int
    ) -> None:
        before = contents(writable)
        with pytest.raises(Interrupted, match="the stream broke"):
            writable.set(key, (BrokenStream(length), {"new": 1}))
        with pytest.raises(Interrupted, match="the stream broke"):
            writable.set_data(key, BrokenStream(length))
        assert contents(writable) == before
        writable.set_data(key, io.BytesIO(b"afterwards"))
        assert writable.to_bytes(key) == b"afterwards"

    def test_interrupt_of_the_program_leaves_what_was_there(self, writable: AbstractStore) -> None:
        before = contents(writable)
        with pytest.raises(KeyboardInterrupt):
            writable.set("one", (BrokenStream(10, KeyboardInterrupt), {}))
        assert contents(writable) == before

    # -- queries follow ------------------------------------------------------------------

    def test_query_sees_the_metadata_that_is_there_now(self, writable: AbstractStore) -> None:
        writable.update_metadata("one", {"kind": "even"})
        assert list(writable.query_keys(kind="odd")) == ["three"]
        assert list(writable.query_keys(kind="even")) == ["one"]
        writable.set_metadata("three", {"kind": "even"})
        assert list(writable.query_keys(kind="odd")) == []
        assert sorted(writable.query(["kind"], kind="even")) == [
            ("one", {"kind": "even"}),
            ("three", {"kind": "even"}),
        ]

    def test_store_can_be_changed_while_a_query_is_used_up(self, store: AbstractStore) -> None:
        keys = [f"key {number:02}" for number in range(30)]
        store.multiset(keys, (StringValue(b"", {"n": n}) for n in range(30)))
        seen = []
        for key, _ in store.query():
            seen.append(key)
            store.delete(key)
        assert sorted(seen) == keys
        assert list(store.query_keys()) == []

    def test_query_can_be_left_half_way(self, writable: AbstractStore) -> None:
        half_read = [writable.query(), writable.query_keys(), writable.glob("*")]
        for each in half_read:
            next(iter(each))
        writable.delete("one")
        writable.set("four", StringValue(b"fourth"))
        assert sorted(writable.query_keys()) == ["four", "three", "two"]
