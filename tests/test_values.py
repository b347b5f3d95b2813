"""Values of bytes in memory and of files."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from mountcache.abc import Value
from mountcache.errors import AuthorizationError, InvalidMetadataError, InvalidValueError
from mountcache.values import FileValue, StringValue, mimetype_of


def _string(_: Path) -> Value:
    return StringValue(b"0123456789", {"a": [1, {"b": None}]})


def _file(folder: Path) -> Value:
    path = folder / "digits.txt"
    path.write_bytes(b"0123456789")
    return FileValue(path, {"a": [1, {"b": None}]})


@pytest.fixture(params=[_string, _file], ids=["string", "file"])
def value(request: pytest.FixtureRequest, tmp_path: Path) -> Value:
    made: Value = request.param(tmp_path)
    return made


class TestBoth:
    def test_unpacks_as_data_and_metadata(self, value: Value) -> None:
        data, metadata = value
        with data:
            assert data.read() == b"0123456789"
        assert metadata == {"a": [1, {"b": None}]}
        assert len(value) == 2
        with value[0] as again:
            assert again.read() == b"0123456789"
        assert value[1] == metadata

    def test_each_stream_is_seekable_and_at_its_beginning(self, value: Value) -> None:
        with value.data as first, value.data as second:
            assert first.seekable()
            assert first.read(3) == b"012"
            assert second.read(3) == b"012"
            first.seek(-2, io.SEEK_END)
            assert first.read() == b"89"

    def test_metadata_is_the_callers_own_to_any_depth(self, value: Value) -> None:
        value.metadata["a"][1]["b"] = 7
        assert value.metadata == {"a": [1, {"b": None}]}

    def test_size_is_that_of_the_data(self, value: Value) -> None:
        assert value.size == 10

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (None, None, b"0123456789"),
            (3, None, b"3456789"),
            (None, 3, b"012"),
            (3, 7, b"3456"),
            (4, 4, b""),
            (8, 99, b"89"),
            (10, None, b""),
            (99, 100, b""),
        ],
    )
    def test_range(self, value: Value, start: int | None, end: int | None, expected: bytes) -> None:
        with value.range(start, end) as part:
            assert part.read() == expected

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4), (0, -1)])
    def test_range_that_is_none_says_so(self, value: Value, start: int, end: int | None) -> None:
        with pytest.raises(ValueError, match="0 <= start <= end"):
            value.range(start, end)

    def test_iterdata_gives_pieces_and_tells_progress(self, value: Value) -> None:
        done: list[int] = []
        pieces = list(value.iterdata(4, progress=lambda step: done.append(step)))
        assert pieces == [b"0123", b"4567", b"89"]
        assert done == [4, 8, 10]

    def test_context_manager_gives_the_data_and_closes_it(self, value: Value) -> None:
        with value as data:
            assert data.read(2) == b"01"
        assert data.closed

    def test_has_no_permissions_and_no_version(self, value: Value) -> None:
        with pytest.raises(AuthorizationError):
            _ = value.permissions
        assert value.version is None
        assert value.facts.size == 10
        assert not value.stale
        assert value.age == 0

    def test_repr_names_it(self, value: Value) -> None:
        assert type(value).__name__ in repr(value)


class TestStringValue:
    def test_empty_by_default(self) -> None:
        value = StringValue()
        assert (value.data.read(), value.metadata, value.size) == (b"", {}, 0)

    @pytest.mark.parametrize("data", [bytearray(b"ab"), memoryview(b"ab")])
    def test_takes_what_is_like_bytes_and_copies_it(self, data: bytearray | memoryview) -> None:
        value = StringValue(data)
        if isinstance(data, bytearray):
            data[:] = b"xx"
        assert value.data.read() == b"ab"

    def test_times_are_now_or_what_was_given(self) -> None:
        before = time.time()
        value = StringValue(b"")
        assert before <= value.created <= time.time()
        assert before <= value.modified <= time.time()
        value = StringValue(b"", {}, 1.0, 2.0)
        assert (value.created, value.modified) == (1.0, 2.0)

    def test_mimetype_is_unknown_or_what_was_given(self) -> None:
        assert StringValue(b"").mimetype == "application/octet-stream"
        assert StringValue(b"", mimetype="text/csv").mimetype == "text/csv"

    def test_text_is_refused_in_one_sentence(self) -> None:
        with pytest.raises(InvalidValueError, match="takes bytes, not str; encode the text"):
            StringValue("text")  # type: ignore[arg-type]

    @pytest.mark.parametrize("data", [None, 3, io.BytesIO(b"x"), ["x"]])
    def test_what_is_no_bytes_is_refused(self, data: object) -> None:
        with pytest.raises(InvalidValueError, match="takes bytes, not"):
            StringValue(data)  # type: ignore[arg-type]

    def test_metadata_is_checked_and_copied(self) -> None:
        metadata = {"a": {"b": 1}}
        value = StringValue(b"", metadata)
        metadata["a"]["b"] = 2
        assert value.metadata == {"a": {"b": 1}}
        with pytest.raises(InvalidMetadataError, match="metadata is a dict, not list"):
            StringValue(b"", [1])  # type: ignore[arg-type]


class TestFileValue:
    def test_facts_are_those_of_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_bytes(b"a,b\n")
        os.utime(path, (5, 7))
        value = FileValue(str(path))
        assert (value.size, value.modified, value.mimetype) == (4, 7.0, "text/csv")
        assert value.created is None
        assert value.metadata == {}

    def test_missing_file_is_told_when_the_value_is_made(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
            FileValue(tmp_path / "missing.txt")

    def test_folder_is_told_when_the_value_is_made(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            FileValue(tmp_path)

    def test_metadata_is_checked(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        with pytest.raises(InvalidMetadataError, match="is nan, which JSON"):
            FileValue(tmp_path / "f", {"x": float("nan")})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.csv", "text/csv"),
        ("b.json", "application/json"),
        ("b.csv.gz", "application/gzip"),
        ("b.csv.xz", "application/octet-stream"),
        ("b", "application/octet-stream"),
        ("b.no-such-suffix", "application/octet-stream"),
    ],
)
def test_media_type_by_suffix(name: str, expected: str) -> None:
    assert mimetype_of(name) == expected
