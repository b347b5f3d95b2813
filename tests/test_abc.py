"""What the base classes make of the few methods that a store implements."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import (
    ABSENT,
    AbstractAuthorizingStore,
    AbstractStore,
    Facts,
    Value,
    chunks,
    facts_of,
    select_from,
    unpack,
)
from mountcache.errors import AuthorizationError, InvalidValueError
from mountcache.events import (
    BaseEvent,
    EventManager,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
)
from mountcache.values import StringValue
from tests.dictstore import ReadOnlyDictStore, SmallDictStore


class Pipe(io.RawIOBase):
    """A stream that can't seek and gives a few bytes at a time."""

    def __init__(self, content: bytes, fails_after: int | None = None) -> None:
        self._content = io.BytesIO(content)
        self._fails_after = fails_after

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._fails_after is not None and self._content.tell() >= self._fails_after:
            raise OSError("the line went dead")
        piece = self._content.read(min(len(buffer), 3))
        buffer[: len(piece)] = piece
        return len(piece)


class PipeValue(Value):
    """A value that comes over a `Pipe`."""

    def __init__(self, content: bytes, fails_after: int | None = None) -> None:
        self._content = content
        self._fails_after = fails_after

    @property
    def data(self) -> io.BufferedReader:
        return io.BufferedReader(Pipe(self._content, self._fails_after), buffer_size=4)

    @property
    def metadata(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def store() -> SmallDictStore:
    store = SmallDictStore()
    store.set("a", (io.BytesIO(b"alpha"), {"n": 1, "kind": "letter"}))
    store.set("b", (io.BytesIO(b"beta"), {"n": 2, "kind": "letter"}))
    store.set("c", (io.BytesIO(b""), {}))
    return store


class TestReading:
    def test_a_third_party_needs_two_methods_to_read(self) -> None:
        store = ReadOnlyDictStore({"a": StringValue(b"alpha", {"n": 1})})
        assert store.to_bytes("a") == b"alpha"
        assert store.get_metadata("a") == {"n": 1}
        assert list(store.query_keys(n=1)) == ["a"]
        assert store.info() == {"readonly": True, "authorizing": False}

    def test_derived_reads(self, store: SmallDictStore) -> None:
        assert store.get_data("a").read() == b"alpha"
        assert store.get_data_range("a", 1, 3).read() == b"lp"
        assert store.get_metadata("a") == {"n": 1, "kind": "letter"}
        assert store.get_metadata("a", ["n", "no such name"]) == {"n": 1}
        assert store.get_metadata("a", []) == {}
        assert store.exists("a")
        assert not store.exists("z")
        assert store.to_bytes("b", buffer_size=1) == b"beta"

    def test_multiget_keeps_the_order_asked_for(self, store: SmallDictStore) -> None:
        keys = ["b", "a", "b"]
        assert [value.size for value in store.multiget(keys)] == [4, 5, 4]
        assert [data.read() for data in store.multiget_data(keys)] == [b"beta", b"alpha", b"beta"]
        names = iter(["n"])
        assert list(store.multiget_metadata(keys, names)) == [{"n": 2}, {"n": 1}, {"n": 2}]

    def test_multiget_raises_where_a_key_is_missing(self, store: SmallDictStore) -> None:
        values = store.multiget(["a", "z"])
        next(values)
        with pytest.raises(KeyError, match="z"):
            next(values)

    def test_query_keys_and_glob(self, store: SmallDictStore) -> None:
        store.set("dir/A.txt", (io.BytesIO(), {}))
        assert sorted(store.query_keys(kind="letter")) == ["a", "b"]
        assert sorted(store.glob("*")) == ["a", "b", "c", "dir/A.txt"]
        assert list(store.glob("d*.txt")) == ["dir/A.txt"]
        assert list(store.glob("*.TXT")) == []
        assert sorted(store.glob("[ab]")) == ["a", "b"]
        assert list(store.glob("?/*")) == []

    def test_context_manager_connects_and_disconnects(self) -> None:
        store = SmallDictStore()
        assert not store.is_connected()
        with store as same:
            assert same is store
            assert store.is_connected()
        assert not store.is_connected()

    def test_context_manager_leaves_no_trace_of_an_earlier_connect(self) -> None:
        store = SmallDictStore()
        store.connect(("user", "password"))
        with store:
            assert store.is_connected()

    def test_event_manager_of_its_own_unless_given(self) -> None:
        assert SmallDictStore().event_manager is not SmallDictStore().event_manager
        manager = EventManager()

        class Given(SmallDictStore):
            def __init__(self) -> None:
                AbstractStore.__init__(self, manager)

        assert Given().event_manager is manager


class TestToFile:
    def test_writes_the_data(self, store: SmallDictStore, tmp_path: Path) -> None:
        store.to_file("a", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == b"alpha"
        assert [each.name for each in tmp_path.iterdir()] == ["out"]

    def test_missing_key_leaves_no_file(self, store: SmallDictStore, tmp_path: Path) -> None:
        with pytest.raises(KeyError):
            store.to_file("z", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_missing_key_leaves_the_file_that_was_there(
        self, store: SmallDictStore, tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_bytes(b"before")
        with pytest.raises(KeyError):
            store.to_file("z", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"before"

    def test_error_half_way_leaves_the_file_that_was_there(
        self, store: SmallDictStore, tmp_path: Path
    ) -> None:
        store.values["broken"] = PipeValue(b"0123456789", fails_after=6)
        (tmp_path / "out").write_bytes(b"before")
        with pytest.raises(OSError, match="the line went dead"):
            store.to_file("broken", tmp_path / "out", buffer_size=2)
        assert (tmp_path / "out").read_bytes() == b"before"
        assert [each.name for each in tmp_path.iterdir()] == ["out"]

    def test_replaces_the_file_that_was_there(self, store: SmallDictStore, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"a longer file than before")
        store.to_file("a", tmp_path / "out", buffer_size=2)
        assert (tmp_path / "out").read_bytes() == b"alpha"

    def test_longest_file_name_is_no_trouble(self, store: SmallDictStore, tmp_path: Path) -> None:
        store.to_file("a", tmp_path / ("x" * 255))
        assert (tmp_path / ("x" * 255)).read_bytes() == b"alpha"

    def test_longest_file_name_in_wide_letters_is_no_trouble(
        self, store: SmallDictStore, tmp_path: Path
    ) -> None:
        name = "\N{SNOWMAN}" * 85
        store.to_file("a", tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"alpha"

    def test_folder_that_is_not_there_is_told(self, store: SmallDictStore, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.to_file("a", tmp_path / "no" / "out")

    def test_progress_is_announced(self, store: SmallDictStore, tmp_path: Path) -> None:
        heard: list[StoreProgressEvent] = []
        store.event_manager.connect(StoreProgressEvent, heard.append)
        store.to_file("a", tmp_path / "out")
        start, step, end = heard
        assert isinstance(start, StoreProgressStartEvent)
        assert isinstance(step, StoreProgressStepEvent)
        assert isinstance(end, StoreProgressEndEvent)
        assert (start.key, start.steps, step.step, end.state) == ("a", 5, 5, "done")
        assert start.metadata == {"n": 1, "kind": "letter"}

    def test_end_of_progress_is_announced_when_it_fails(
        self, store: SmallDictStore, tmp_path: Path
    ) -> None:
        heard: list[StoreProgressEndEvent] = []
        store.event_manager.connect(StoreProgressEndEvent, heard.append)
        store.values["broken"] = PipeValue(b"0123456789", fails_after=6)
        with pytest.raises(OSError, match="dead"):
            store.to_file("broken", tmp_path / "out")
        assert [(each.exit_state, each.state) for each in heard] == [("exception", "failed")]


class TestWriting:
    def test_a_third_party_needs_four_methods_to_write(self, store: SmallDictStore) -> None:
        assert store.info() == {"readonly": False, "authorizing": False}
        store.delete("a")
        assert not store.exists("a")

    def test_set_data_keeps_the_metadata(self, store: SmallDictStore) -> None:
        store.set_data("a", io.BytesIO(b"new"))
        assert store.to_bytes("a") == b"new"
        assert store.get_metadata("a") == {"n": 1, "kind": "letter"}
        store.set_data("z", io.BytesIO(b"zeta"))
        assert store.get_metadata("z") == {}

    def test_set_metadata_keeps_the_data(self, store: SmallDictStore) -> None:
        store.set_metadata("a", {"m": 3})
        assert store.to_bytes("a") == b"alpha"
        assert store.get_metadata("a") == {"m": 3}
        store.set_metadata("z", {"m": 4})
        assert store.to_bytes("z") == b""

    def test_update_metadata_changes_the_names_given(self, store: SmallDictStore) -> None:
        store.update_metadata("a", {"n": 5, "m": 6})
        assert store.get_metadata("a") == {"n": 5, "kind": "letter", "m": 6}
        store.update_metadata("z", {"m": 7})
        assert store.get_metadata("z") == {"m": 7}

    def test_multiset_and_its_kin(self, store: SmallDictStore) -> None:
        store.multiset(iter("xy"), (StringValue(c.encode(), {"c": c}) for c in "xy"))
        assert store.to_bytes("y") == b"y"
        store.multiset_data(["x", "y"], [io.BytesIO(b"1"), io.BytesIO(b"2")])
        assert (store.to_bytes("x"), store.get_metadata("x")) == (b"1", {"c": "x"})
        store.multiset_metadata(["x", "y"], [{"d": 1}, {"d": 2}])
        store.multiupdate_metadata(["x", "y"], [{"e": 1}, {"e": 2}])
        assert store.get_metadata("y") == {"d": 2, "e": 2}

    @pytest.mark.parametrize(
        ("verb", "values"),
        [
            ("multiset", [StringValue(b"1")]),
            ("multiset_data", [io.BytesIO(b"1")]),
            ("multiset_metadata", [{}]),
            ("multiupdate_metadata", [{}]),
        ],
    )
    def test_keys_without_values_are_told(
        self, store: SmallDictStore, verb: str, values: list[Any]
    ) -> None:
        with pytest.raises(ValueError, match="shorter"):
            getattr(store, verb)(["x", "y"], values)

    def test_from_file_and_from_bytes_keep_the_metadata(
        self, store: SmallDictStore, tmp_path: Path
    ) -> None:
        (tmp_path / "in").write_bytes(b"from a file")
        store.from_file("a", tmp_path / "in", buffer_size=2)
        assert store.to_bytes("a") == b"from a file"
        store.from_bytes("a", b"from bytes")
        assert store.to_bytes("a") == b"from bytes"
        assert store.get_metadata("a") == {"n": 1, "kind": "letter"}

    @pytest.mark.parametrize("data", ["text", None, io.BytesIO(b"x"), 3])
    def test_from_bytes_takes_bytes(self, store: SmallDictStore, data: Any) -> None:
        with pytest.raises(InvalidValueError, match="from_bytes takes bytes, not"):
            store.from_bytes("a", data)
        assert store.to_bytes("a") == b"alpha"

    def test_copy_from_one_store_to_another(self, store: SmallDictStore) -> None:
        other = SmallDictStore()
        other.set("copy", store.get("a"))
        assert other.to_bytes("copy") == b"alpha"
        assert other.get_metadata("copy") == {"n": 1, "kind": "letter"}

    def test_transaction_is_announced(self, store: SmallDictStore) -> None:
        heard: list[BaseEvent] = []
        store.event_manager.connect(BaseEvent, heard.append)
        with store.transaction("two keys"):
            store.set_metadata("a", {})
        start, end = heard
        assert isinstance(start, StoreTransactionStartEvent)
        assert isinstance(end, StoreTransactionEndEvent)
        assert (start.message, end.message, end.state) == ("two keys", "two keys", "done")

    def test_transaction_that_fails_is_announced_as_failed(self, store: SmallDictStore) -> None:
        heard: list[StoreTransactionEndEvent] = []
        store.event_manager.connect(StoreTransactionEndEvent, heard.append)
        with pytest.raises(ZeroDivisionError), store.transaction("fails"):
            _ = 1 // 0
        assert [each.state for each in heard] == ["failed"]


class TestAuthorizing:
    def test_permissions_come_from_the_value(self) -> None:
        class Owned(StringValue):
            @property
            def permissions(self) -> dict[str, Any]:
                return {"owned": ["me"]}

        class Store(SmallDictStore, AbstractAuthorizingStore):
            @property
            def user_tag(self) -> str:
                return "me"

            def set_permissions(self, key: str, permissions: Any) -> None: ...

            def update_permissions(self, key: str, permissions: Any) -> None: ...

            info = AbstractAuthorizingStore.info

        store = Store()
        store.values["a"] = Owned(b"")
        store.values["b"] = StringValue(b"")
        assert store.info() == {"readonly": False, "authorizing": True}
        assert store.get_permissions("a") == {"owned": ["me"]}
        with pytest.raises(AuthorizationError):
            store.get_permissions("b")


class TestRanges:
    @pytest.mark.parametrize("make", [StringValue, PipeValue])
    @pytest.mark.parametrize("start", [None, 0, 1, 5, 9, 10, 50])
    @pytest.mark.parametrize("end", [None, 0, 1, 5, 9, 10, 50])
    def test_as_a_slice_on_seekable_and_unseekable_data(
        self, make: type[Any], start: int | None, end: int | None
    ) -> None:
        content = b"0123456789"
        value = make(content)
        if end is not None and end < (start or 0):
            with pytest.raises(ValueError, match="this one is"):
                value.range(start, end)
            return
        with value.range(start, end) as part:
            assert part.read() == content[start:end]
            assert part.read() == b""

    def test_pieces_of_a_range_add_up(self) -> None:
        with PipeValue(bytes(range(100))).range(10, 90) as part:
            assert b"".join(chunks(part, 7)) == bytes(range(10, 90))

    def test_closing_a_range_closes_the_data(self) -> None:
        opened: list[io.BufferedIOBase] = []

        class Noted(StringValue):
            @property
            def data(self) -> io.BytesIO:
                opened.append(super().data)
                return opened[-1]  # type: ignore[return-value]

        Noted(b"0123").range(1, 2).close()
        assert [each.closed for each in opened] == [True]


class TestValueDefaults:
    def test_value_of_two_properties_says_that_the_rest_is_not_known(self) -> None:
        value = PipeValue(b"0123456789")
        assert (value.size, value.created, value.modified, value.version) == (None,) * 4
        assert value.mimetype == "application/octet-stream"
        assert (value.source, value.age, value.stale) == ("upstream", 0.0, False)
        assert value.facts == Facts()
        assert list(value.iterdata(4)) == [b"0123", b"4567", b"89"]
        with pytest.raises(AuthorizationError):
            _ = value.permissions

    def test_facts_of_values_of_another_make_are_what_they_show(self) -> None:
        class Foreign:
            size = 3
            modified = 5.0

        assert facts_of(Foreign()) == Facts(size=3, modified=5.0)
        assert facts_of(object()) == Facts()
        assert facts_of(StringValue(b"four")).size == 4


class TestUnpack:
    def test_values_and_pairs(self) -> None:
        stream = io.BytesIO(b"x")
        assert unpack((stream, {"a": 1})) == (stream, {"a": 1})
        data, metadata = unpack(StringValue(b"y", {"b": 2}))
        assert (data.read(), metadata) == (b"y", {"b": 2})

    def test_stores_own_values_of_another_kind(self) -> None:
        class Foreign:
            """As a value of encore: it isn't one of ours, and has all that is asked for."""

            data = io.BytesIO(b"z")
            metadata: dict[str, Any] = {}  # noqa: RUF012

        data, metadata = unpack(Foreign())  # type: ignore[arg-type]
        assert (data.read(), metadata) == (b"z", {})

    @pytest.mark.parametrize(
        "value",
        [b"bytes", "text", {"a": 1, "b": 2}, None, 3, (), (io.BytesIO(),), (1, 2, 3)],
        ids=["bytes", "str", "dict", "None", "int", "empty", "one", "three"],
    )
    def test_anything_else_is_refused_with_a_way_out(self, value: Any) -> None:
        with pytest.raises(InvalidValueError, match=r"pair.*use from_bytes, or StringValue"):
            unpack(value)


class TestChunks:
    @pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 1000])
    def test_nothing_is_lost_at_any_size(self, size: int) -> None:
        pieces = list(chunks(io.BytesIO(b"0123456789"), size))
        assert b"".join(pieces) == b"0123456789"
        assert all(0 < len(piece) <= size for piece in pieces)

    def test_starts_where_the_stream_is(self) -> None:
        stream = io.BytesIO(b"0123")
        stream.seek(2)
        assert b"".join(chunks(stream)) == b"23"

    def test_stream_that_gives_less_than_asked_for_is_read_to_its_end(self) -> None:
        assert b"".join(chunks(Pipe(b"0123456789"), 1000)) == b"0123456789"

    def test_buffers_that_are_used_again_are_copied(self) -> None:
        class Reusing:
            """A stream that gives its one buffer each time."""

            def __init__(self) -> None:
                self.buffer = bytearray(b"0")

            def read(self, _size: int = -1, /) -> bytes:
                self.buffer[0] += 1
                return b"" if self.buffer > b"3" else self.buffer  # type: ignore[return-value]

        assert list(chunks(Reusing())) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"bytes", "data is a stream with read.*, not bytes; for bytes use from_bytes"),
            (None, "not NoneType"),
            (3, "not int"),
            (io.StringIO("text"), "a text stream; open the file in binary mode"),
            (type("Nothing", (), {"read": lambda _, __: None})(), "gave NoneType where bytes"),
            (type("Numbers", (), {"read": lambda _, __: 7})(), "gave int where bytes"),
        ],
    )
    def test_what_is_no_stream_of_bytes_is_refused(self, data: Any, message: str) -> None:
        with pytest.raises(InvalidValueError, match=message):
            list(chunks(data))

    @pytest.mark.parametrize("size", [0, -1])
    def test_buffer_size_has_to_be_one_at_least(self, size: int) -> None:
        with pytest.raises(ValueError, match="buffer_size is at least 1 byte"):
            list(chunks(io.BytesIO(b"x"), size))

    def test_what_the_stream_raises_comes_through(self) -> None:
        def pieces() -> Iterator[bytes]:
            return chunks(Pipe(b"0123456789", fails_after=5), 4)

        with pytest.raises(OSError, match="the line went dead"):
            list(pieces())


def test_select_from_gives_what_is_there() -> None:
    metadata = {"a": 1, "b": None}
    assert select_from(metadata, None) == metadata
    assert select_from(metadata, ["b", "c"]) == {"b": None}
    assert select_from(metadata, ()) == {}


def test_absent_has_a_readable_repr() -> None:
    assert repr(ABSENT) == "ABSENT"
