"""What can be read from a store, and how queries compare."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import AbstractReadOnlyStore, Value
from mountcache.errors import AuthorizationError, InvalidKeyError, StoreError
from mountcache.events import StoreProgressEndEvent, StoreProgressEvent, StoreProgressStartEvent
from mountcache.testing.suite import (
    BAD_KEYS,
    BAD_PATHS,
    ODD_KEYS,
    Entries,
    Populate,
    StoreSuite,
    data_of,
    in_threads,
    needs,
    noise,
)

__all__ = ["StoreReadTests"]

METADATA: dict[str, Any] = {
    "zebra": "first though last in the alphabet",
    "text": 'caf\u00e9 \U0001f600 "quoted" \\ \n\t\x00',
    "whole": 1,
    "float": 2.0,
    "fraction": -0.125,
    "large": 2**63 - 1,
    "yes": True,
    "no": False,
    "nothing": None,
    "list": ["one", 2, [3.5, None], {}],
    "dict": {"one": 1, "nested": {"two": [2]}, "": "empty name"},
    "": "a name of no characters",
    "dotted.name": 4,
    "a name with \"quotes\" and 'more' %20 & = ?": 5,
}

ENTRIES: Entries = {
    "dir/one": (b"the first\n", METADATA),
    "dir/two": (b"the second\r\n\x00\xff", {"kind": "even", "n": 2}),
    "dir/sub/three": (b"3", {"kind": "odd", "n": 3, "extra": None}),
    "Four": (b"", {"kind": "even", "n": 4}),
    "five.csv": (b"a,b\n1,2\n", {}),
}

VALUES: tuple[Any, ...] = (
    True,
    False,
    None,
    1,
    0,
    -1,
    2,
    2.5,
    1e100,
    2**53 + 1,
    2**62,
    "",
    "true",
    "null",
    "1",
    "2.5",
    "a",
    "A",
    "a b&c=d?e#f%20+g",
    'say "a"',
    "back\\slash",
    "two\nlines",
    "caf\u00e9",
    "cafe\u0301",
    "\U0001f600",
    '["a"]',
    "{}",
    ["a"],
    [],
    [None],
    [[]],
    [1, 2],
    [2, 1],
    {},
    {"a": None},
    {"a": 1, "b": {"c": [1, {"d": 2}]}},
)
"""JSON values of which no two are equal."""

SPELLINGS: tuple[tuple[Any, Any], ...] = (
    (1.0, 1),
    (2.0, 2),
    (-1.0, -1),
    (-0.0, 0),
    ([1.0, 2.0], [1, 2]),
    ((1, 2), [1, 2]),
    ({"b": {"c": [1.0, {"d": 2.0}]}, "a": 1.0}, {"a": 1, "b": {"c": [1, {"d": 2}]}}),
)
"""Other spellings of some of these."""


class StoreReadTests(StoreSuite):
    """What can be read. Needs ``populate``, or ``store``."""

    @pytest.fixture
    def readable(self, populate: Populate) -> AbstractReadOnlyStore:
        """The store with a few keys of several kinds."""
        return populate(ENTRIES)

    # -- values --------------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_get_gives_data_and_metadata(self, readable: AbstractReadOnlyStore) -> None:
        for key, (data, metadata) in ENTRIES.items():
            value = readable.get(key)
            assert isinstance(value, Value)
            with value.data as stream:
                assert isinstance(stream, io.BufferedIOBase)
                assert stream.read() == data
                assert stream.read() == b""
            assert value.metadata == metadata
            assert value.size in (None, len(data))

    @needs(keeps_metadata=True)
    def test_value_unpacks_as_data_and_metadata(self, readable: AbstractReadOnlyStore) -> None:
        data, metadata = readable.get("dir/two")
        with data:
            assert data.read() == b"the second\r\n\x00\xff"
        assert metadata == {"kind": "even", "n": 2}

    def test_value_is_a_context_manager_for_its_data(self, readable: AbstractReadOnlyStore) -> None:
        with readable.get("dir/one") as data:
            assert data.read() == b"the first\n"
        assert data.closed

    def test_value_iterates_over_its_data(self, readable: AbstractReadOnlyStore) -> None:
        pieces = list(readable.get("dir/one").iterdata(4))
        assert b"".join(pieces) == b"the first\n"
        assert max(map(len, pieces)) <= 4

    def test_each_value_has_a_stream_of_its_own(self, readable: AbstractReadOnlyStore) -> None:
        with readable.get("dir/one").data as first, readable.get("dir/one").data as second:
            assert first.read(4) == b"the "
            assert second.read() == b"the first\n"
            assert first.read() == b"first\n"

    def test_data_of_a_value_can_be_asked_for_again(self, readable: AbstractReadOnlyStore) -> None:
        value = readable.get("dir/one")
        for _ in range(2):
            with value.data as data:
                assert data.read() == b"the first\n"

    def test_data_can_be_sought_in_or_says_that_it_cant(
        self, readable: AbstractReadOnlyStore
    ) -> None:
        with readable.get_data("dir/one") as data:
            assert data.read(5) == b"the f"
            if not data.seekable():
                with pytest.raises(io.UnsupportedOperation):
                    data.seek(0)
                assert data.read() == b"irst\n"
                return
            assert data.seek(0) == 0
            assert data.read() == b"the first\n"
            assert data.seek(-6, io.SEEK_END) == 4
            assert data.read(5) == b"first"
            assert data.tell() == 9

    def test_data_can_be_read_in_every_manner(self, readable: AbstractReadOnlyStore) -> None:
        with readable.get_data("dir/one") as data:
            buffer = bytearray(3)
            assert data.readinto(buffer) == 3
            assert bytes(buffer) == b"the"
            assert data.read(0) == b""
            assert data.read(1) == b" "
            assert data.readline() == b"first\n"
            assert data.read(100) == b""
        with readable.get_data("five.csv") as data:
            assert list(data) == [b"a,b\n", b"1,2\n"]

    def test_facts_of_a_value_have_their_types(self, readable: AbstractReadOnlyStore) -> None:
        value = readable.get("five.csv")
        assert isinstance(value.mimetype, str)
        assert "/" in value.mimetype
        for when in (value.created, value.modified):
            assert when is None or isinstance(when, (int, float))
        assert value.version is None or isinstance(value.version, str)
        assert value.source in ("staged", "cached", "upstream")
        assert value.age >= 0
        assert isinstance(value.stale, bool)

    @needs(has_versions=True)
    def test_version_stays_while_nothing_changes(self, readable: AbstractReadOnlyStore) -> None:
        version = readable.get("dir/one").version
        assert version is not None
        data_of(readable, "dir/one")
        assert readable.get("dir/one").version == version
        assert readable.get("dir/two").version != version

    @needs(keeps_permissions=False)
    def test_permissions_are_refused_where_none_are_kept(
        self, readable: AbstractReadOnlyStore
    ) -> None:
        with pytest.raises(AuthorizationError):
            _ = readable.get("dir/one").permissions

    # -- metadata ------------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_metadata_comes_as_it_was_spelled(self, readable: AbstractReadOnlyStore) -> None:
        for found in (readable.get("dir/one").metadata, readable.get_metadata("dir/one")):
            assert json.dumps(found) == json.dumps(METADATA)

    @needs(keeps_metadata=True)
    def test_metadata_is_the_callers_own(self, readable: AbstractReadOnlyStore) -> None:
        value = readable.get("dir/one")
        found = [
            value.metadata,
            readable.get_metadata("dir/one"),
            dict(readable.query())["dir/one"],
        ]
        for metadata in found:
            metadata["dict"]["nested"]["two"].append("changed")
            metadata["added"] = 1
        assert value.metadata == METADATA
        assert readable.get_metadata("dir/one") == METADATA
        assert dict(readable.query())["dir/one"] == METADATA

    @needs(keeps_metadata=True)
    def test_select_gives_the_names_that_are_there(self, readable: AbstractReadOnlyStore) -> None:
        assert readable.get_metadata("dir/one", ["whole", "missing", "yes"]) == {
            "whole": 1,
            "yes": True,
        }
        assert readable.get_metadata("dir/one", ("nothing",)) == {"nothing": None}
        assert readable.get_metadata("dir/one", iter(["whole"])) == {"whole": 1}
        assert readable.get_metadata("dir/one", []) == {}
        assert readable.get_metadata("five.csv", ["whole"]) == {}

    # -- what is there -------------------------------------------------------------------

    def test_exists(self, readable: AbstractReadOnlyStore) -> None:
        assert all(readable.exists(key) is True for key in ENTRIES)
        for key in ("dir", "dir/on", "dir/one/more", "four", "missing", "*"):
            assert readable.exists(key) is False

    @pytest.mark.parametrize(
        "verb", ["get", "get_data", "get_data_range", "get_metadata", "to_bytes"]
    )
    def test_missing_key_is_a_key_error_that_names_it(
        self, readable: AbstractReadOnlyStore, verb: str
    ) -> None:
        with pytest.raises(KeyError) as caught:
            getattr(readable, verb)("missing")
        assert caught.value.args == ("missing",)
        assert not isinstance(caught.value, StoreError)

    def test_empty_store_holds_nothing(self, populate: Populate) -> None:
        store = populate({})
        assert list(store.query()) == []
        assert list(store.query_keys()) == []
        assert list(store.glob("*")) == []
        assert not store.exists("anything")

    @needs(keeps_metadata=True)
    def test_odd_keys_are_keys_like_others(self, populate: Populate) -> None:
        entries = {
            key: (f"data of {number}".encode(), {"n": number})
            for number, key in enumerate(ODD_KEYS)
        }
        store = populate(entries)
        assert {key: store.to_bytes(key) for key in ODD_KEYS} == {
            key: data for key, (data, _) in entries.items()
        }
        assert {key: store.get_metadata(key) for key in ODD_KEYS} == {
            key: metadata for key, (_, metadata) in entries.items()
        }
        assert all(store.exists(key) for key in ODD_KEYS)
        assert sorted(store.query_keys()) == sorted(ODD_KEYS)
        assert sorted(store.glob("*")) == sorted(ODD_KEYS)
        assert [list(store.query_keys(n=number)) for number in range(len(ODD_KEYS))] == [
            [key] for key in ODD_KEYS
        ]

    @pytest.mark.parametrize("verb", ["get", "get_data", "get_metadata", "exists", "to_bytes"])
    def test_what_is_no_key_is_refused_by_every_read(
        self, readable: AbstractReadOnlyStore, verb: str
    ) -> None:
        bad = list(BAD_KEYS)
        if self.keys_are_paths:
            bad += [(key, "path segment") for key in BAD_PATHS]
        for key, message in bad:
            with pytest.raises(InvalidKeyError, match=message) as caught:
                getattr(readable, verb)(key)
            assert "\n" not in str(caught.value)

    # -- several keys --------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_multiget_follows_the_keys(self, readable: AbstractReadOnlyStore) -> None:
        keys = ["dir/two", "Four", "dir/one", "Four"]
        values = readable.multiget(iter(keys))
        assert iter(values) is values
        for key, value in zip(keys, values, strict=True):
            with value.data as data:
                assert (data.read(), value.metadata) == ENTRIES[key]

    def test_multiget_data_follows_the_keys(self, readable: AbstractReadOnlyStore) -> None:
        keys = ["dir/two", "Four", "dir/one", "Four"]
        for key, stream in zip(keys, readable.multiget_data(iter(keys)), strict=True):
            with stream:
                assert stream.read() == ENTRIES[key][0]

    @needs(keeps_metadata=True)
    def test_multiget_metadata_follows_the_keys(self, readable: AbstractReadOnlyStore) -> None:
        keys = ["dir/two", "Four", "dir/two"]
        assert list(readable.multiget_metadata(iter(keys))) == [ENTRIES[key][1] for key in keys]
        assert list(readable.multiget_metadata(keys, iter(["n", "missing"]))) == [
            {"n": 2},
            {"n": 4},
            {"n": 2},
        ]

    @pytest.mark.parametrize("verb", ["multiget", "multiget_data", "multiget_metadata"])
    def test_missing_key_among_several_is_a_key_error(
        self, readable: AbstractReadOnlyStore, verb: str
    ) -> None:
        with pytest.raises(KeyError, match="missing"):
            list(getattr(readable, verb)(["Four", "missing"]))

    # -- queries -------------------------------------------------------------------------

    @needs(keeps_metadata=True)
    def test_query_without_names_gives_everything_once(
        self, readable: AbstractReadOnlyStore
    ) -> None:
        found = list(readable.query())
        assert len(found) == len(ENTRIES)
        assert dict(found) == {key: metadata for key, (_, metadata) in ENTRIES.items()}

    @needs(keeps_metadata=True)
    def test_query_gives_the_keys_that_have_all_of_it(
        self, readable: AbstractReadOnlyStore
    ) -> None:
        assert dict(readable.query(kind="even")) == {
            "dir/two": {"kind": "even", "n": 2},
            "Four": {"kind": "even", "n": 4},
        }
        assert dict(readable.query(kind="even", n=4)) == {"Four": {"kind": "even", "n": 4}}
        assert list(readable.query(kind="even", n=3)) == []
        assert list(readable.query(kind="even", missing=1)) == []

    @needs(keeps_metadata=True)
    def test_query_selects_names(self, readable: AbstractReadOnlyStore) -> None:
        assert dict(readable.query(["n", "extra"], kind="odd")) == {
            "dir/sub/three": {"n": 3, "extra": None}
        }
        assert dict(readable.query(select=iter(["n"]), kind="even")) == {
            "dir/two": {"n": 2},
            "Four": {"n": 4},
        }
        assert dict(readable.query((), kind="odd")) == {"dir/sub/three": {}}

    @needs(keeps_metadata=True)
    def test_query_keys(self, readable: AbstractReadOnlyStore) -> None:
        assert sorted(readable.query_keys()) == sorted(ENTRIES)
        assert sorted(readable.query_keys(kind="even")) == ["Four", "dir/two"]
        assert list(readable.query_keys(kind="none of these")) == []

    @needs(keeps_metadata=True)
    def test_query_finds_names_of_any_kind(self, readable: AbstractReadOnlyStore) -> None:
        for name, value in METADATA.items():
            assert list(readable.query_keys(**{name: value})) == ["dir/one"], name
        # A name with a dot is a name, not a path.
        assert list(readable.query_keys(**{"dict.one": 1})) == []

    @needs(keeps_metadata=True)
    def test_query_compares_json_values(self, populate: Populate) -> None:
        keys = {f"value {number:02}": value for number, value in enumerate(VALUES)}
        entries: dict[str, tuple[bytes, dict[str, Any]]] = {
            key: (b"", {"x": value}) for key, value in keys.items()
        }
        store = populate({**entries, "absent": (b"", {"y": 1})})
        found = {key: list(store.query_keys(x=value)) for key, value in keys.items()}
        assert found == {key: [key] for key in keys}
        for other, value in SPELLINGS:
            assert list(store.query_keys(x=other)) == list(store.query_keys(x=value)), other
        assert list(store.query_keys(x="none of these")) == []
        assert list(store.query_keys(x=[1])) == []

    def test_query_for_what_is_no_json_is_refused(self, readable: AbstractReadOnlyStore) -> None:
        for value in (float("nan"), b"bytes", {1: 2}, 2**64, "\ud800"):
            with pytest.raises(ValueError, match="a value in a query"):
                list(readable.query(x=value))

    def test_glob_is_that_of_the_shell(self, readable: AbstractReadOnlyStore) -> None:
        def glob(pattern: str) -> list[str]:
            return sorted(readable.glob(pattern))

        assert glob("*") == sorted(ENTRIES)
        assert glob("dir/*") == ["dir/one", "dir/sub/three", "dir/two"]
        assert glob("*three") == ["dir/sub/three"]
        assert glob("dir/t??") == ["dir/two"]
        assert glob("dir?one") == ["dir/one"]
        assert glob("[Ff]*") == ["Four", "five.csv"]
        assert glob("[!d]*") == ["Four", "five.csv"]
        assert glob("f*") == ["five.csv"]
        assert glob("five.csv") == ["five.csv"]
        assert glob("fiveXcsv") == []
        assert glob("ive.csv") == []
        assert glob("dir") == []
        assert glob("") == []

    # -- parts ---------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (None, None),
            (0, None),
            (3, None),
            (None, 3),
            (3, 7),
            (0, 1),
            (9, 10),
            (4, 4),
            (0, 0),
            (8, 1000),
            (10, None),
            (1000, None),
            (1000, 2000),
        ],
    )
    def test_range_is_a_slice(
        self, readable: AbstractReadOnlyStore, start: int | None, end: int | None
    ) -> None:
        expected = b"the first\n"[start:end]
        with readable.get_data_range("dir/one", start, end) as part:
            assert part.read() == expected
            assert part.read() == b""
        with readable.get("dir/one").range(start, end) as part:
            assert part.read() == expected

    def test_range_of_an_empty_value_is_empty(self, readable: AbstractReadOnlyStore) -> None:
        for start, end in ((None, None), (0, 5), (3, None)):
            with readable.get_data_range("Four", start, end) as part:
                assert part.read() == b""

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4), (None, -1)])
    def test_range_that_is_none_is_refused(
        self, readable: AbstractReadOnlyStore, start: int | None, end: int | None
    ) -> None:
        with pytest.raises(ValueError, match="range"):
            readable.get_data_range("dir/one", start, end)

    def test_large_value_comes_whole_and_in_parts(self, populate: Populate, tmp_path: Path) -> None:
        data = noise(self.large)
        store = populate({"large": (data, {"kind": "large"}), "small": (b"small", {})})
        middle = self.large // 2
        with store.get_data_range("large", middle, middle + 100_000) as part:
            assert part.read() == data[middle : middle + 100_000]
        assert store.to_bytes("large", buffer_size=70_000) == data
        with store.get("large").data as stream:
            assert stream.read(10) == data[:10]
            assert stream.read() == data[10:]
        with store.get_data_range("large", self.large - 5) as part:
            assert part.read() == data[-5:]
        store.to_file("large", tmp_path / "large", buffer_size=70_000)
        assert (tmp_path / "large").read_bytes() == data
        assert store.get("large").size in (None, len(data))

    def test_reader_that_stops_half_way_harms_nobody(self, populate: Populate) -> None:
        data = noise(self.large)
        store = populate({"large": (data, {}), "small": (b"small", {})})
        for _ in range(3):
            with store.get_data("large") as stream:
                assert stream.read(1000) == data[:1000]
            assert store.to_bytes("small") == b"small"
        assert store.to_bytes("large") == data

    # -- files ---------------------------------------------------------------------------

    def test_to_bytes(self, readable: AbstractReadOnlyStore) -> None:
        for key, (data, _) in ENTRIES.items():
            assert readable.to_bytes(key) == data
            assert readable.to_bytes(key, buffer_size=1) == data

    def test_to_file_writes_the_data(self, readable: AbstractReadOnlyStore, tmp_path: Path) -> None:
        folder = tmp_path / "a folder of its own"
        folder.mkdir()
        for key, (data, _) in ENTRIES.items():
            readable.to_file(key, folder / "out", buffer_size=3)
            assert (folder / "out").read_bytes() == data
        assert [each.name for each in folder.iterdir()] == ["out"]

    def test_to_file_of_a_missing_key_leaves_what_was_there(
        self, readable: AbstractReadOnlyStore, tmp_path: Path
    ) -> None:
        folder = tmp_path / "a folder of its own"
        folder.mkdir()
        with pytest.raises(KeyError):
            readable.to_file("missing", str(folder / "out"))
        assert list(folder.iterdir()) == []
        (folder / "out").write_bytes(b"before")
        with pytest.raises(KeyError):
            readable.to_file("missing", str(folder / "out"))
        assert (folder / "out").read_bytes() == b"before"

    def test_to_file_announces_its_progress(
        self, readable: AbstractReadOnlyStore, tmp_path: Path
    ) -> None:
        heard: list[StoreProgressEvent] = []
        readable.event_manager.connect(StoreProgressEvent, heard.append, filter={"key": "dir/one"})
        readable.to_file("dir/one", tmp_path / "out")
        mine = [each for each in heard if each.operation_id == heard[-1].operation_id]
        assert isinstance(mine[0], StoreProgressStartEvent)
        assert isinstance(mine[-1], StoreProgressEndEvent)
        assert (mine[-1].exit_state, mine[-1].state) == ("normal", "done")

    # -- the store itself ----------------------------------------------------------------

    def test_info_says_what_it_is(self, readable: AbstractReadOnlyStore) -> None:
        info = readable.info()
        assert isinstance(info["readonly"], bool)
        assert isinstance(info["authorizing"], bool)

    def test_connected_again_it_holds_what_it_held(self, readable: AbstractReadOnlyStore) -> None:
        assert readable.is_connected()
        readable.disconnect()
        assert not readable.is_connected()
        with readable as same:
            assert same is readable
            assert readable.is_connected()
            if self.survives_disconnect:
                assert readable.to_bytes("dir/one") == b"the first\n"
                assert sorted(readable.query_keys()) == sorted(ENTRIES)
        assert not readable.is_connected()

    @needs(keeps_metadata=True)
    def test_many_threads_read_at_once(self, populate: Populate) -> None:
        large = noise(self.large)
        store = populate({**ENTRIES, "large": (large, {})})

        def work() -> None:
            for key, (data, metadata) in ENTRIES.items():
                assert store.to_bytes(key) == data
                assert store.get_metadata(key) == metadata
            assert store.to_bytes("large") == large
            assert len(list(store.query_keys())) == len(ENTRIES) + 1

        in_threads(*[work] * 4)
