"""Bad input gets one clear sentence, and nothing is lost by it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ConfigurationError,
    DirectoryError,
    IndexUnreadableError,
    InvalidKeyError,
    ReadOnlyKeyError,
    StoreError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Nginx, nginx

__all__ = ["nginx"]

POINT = "runs/"
BEFORE = (b"what was there", {"n": 1})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with MemoryStore() as repository:
        repository.set("runs/a", StringValue(*BEFORE))
        repository.set("other", StringValue(b"other", {}))
        with Origin(repository) as running:
            yield running


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore(POINT, DiskCacheStore(tmp_path / "here", min_free=0), backing) as mounted:
        mounted.set("runs/mine", StringValue(*BEFORE))
        yield mounted


def check_nothing_is_lost(store: MountedStore) -> None:
    assert [edit.key for edit in store.staged()] == ["runs/mine"]
    for key in ("runs/a", "runs/mine"):
        assert (store.to_bytes(key), store.get_metadata(key)) == BEFORE


def sentence(error: BaseException) -> str:
    """Return the message of an error, after a look whether it is one sentence."""
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 400
    return text


# -- keys --------------------------------------------------------------------------------------

REFUSED = {
    "": "this one is empty",
    "runs/../a": "has '..' path segment",
    "runs/./a": "has '.' path segment",
    "runs//a": "an empty path segment",
    "runs/a/": "an empty path segment",
    "runs/a\0": "the control character '\\x00'",
    "runs/a\nb": "the control character '\\n'",
    "runs/\ud800": "half of a surrogate pair",
    "runs/" + "k" * 4096: "4,101 bytes long; the limit is 4,096",
}


@pytest.mark.parametrize("key", REFUSED, ids=[repr(key)[:20] for key in REFUSED])
@pytest.mark.parametrize("verb", ["set", "get", "delete", "exists", "push", "revert", "drop"])
def test_what_is_no_key(store: MountedStore, key: str, verb: str) -> None:
    words = (StringValue(b"new", {}),) if verb == "set" else ()
    with pytest.raises(InvalidKeyError) as raised:
        getattr(store, verb)(key, *words)
    assert REFUSED[key] in sentence(raised.value)
    check_nothing_is_lost(store)


ODD = [
    "runs/a%2Fb", "runs/what?", "runs/a#b", "runs/caf\u00e9", "runs/cafe\u0301", "runs/%",
    "runs/ a ", "runs/a+b&c=d;e", "runs/'\"\\", "runs/" + "k" * 4091,
]  # fmt: skip


def test_odd_keys_are_keys_and_no_two_are_one(store: MountedStore, origin: Origin) -> None:
    store.revert("runs/mine")
    for number, key in enumerate(ODD):
        store.set(key, StringValue(b"%d" % number, {"number": number}))
        assert store.push(key).outcome == "pushed"
    fresh = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    for number, key in enumerate(ODD):
        assert fresh.to_bytes(key) == b"%d" % number
        assert store.get_metadata(key) == {"number": number}
    assert set(ODD) <= set(fresh.query_keys())
    fresh.disconnect()


@pytest.mark.parametrize("key", ["other", "run", "Runs/a", "new"])
@pytest.mark.parametrize("verb", ["set", "delete", "update_metadata"])
def test_keys_outside_the_mount_point_are_read_only(
    store: MountedStore, key: str, verb: str
) -> None:
    words = {"set": (StringValue(b"new", {}),), "update_metadata": ({"n": 2},)}.get(verb, ())
    with pytest.raises(ReadOnlyKeyError) as raised:
        getattr(store, verb)(key, *words)
    assert isinstance(raised.value, KeyError)
    assert repr(POINT) in sentence(raised.value)
    assert store.to_bytes("other") == b"other"
    check_nothing_is_lost(store)


def test_mount_point_itself_is_outside(origin: Origin, tmp_path: Path) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("other", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        assert store.to_bytes("other") == b"other"
        assert list(store.glob("oth*")) == ["other"]
        with pytest.raises(ReadOnlyKeyError):
            store.set("other", StringValue(b"mine", {}))
        store.set("others", StringValue(b"mine", {}))
        assert sorted(store.glob("other*")) == ["other", "others"]


# -- values ------------------------------------------------------------------------------------


class Breaks(io.RawIOBase):
    """A stream that breaks after a while."""

    def __init__(self, good: int) -> None:
        self._left = good

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError("the tape has jammed")
        piece = b"x" * min(self._left, 65536 if size < 0 else size)
        self._left -= len(piece)
        return piece


class Gives:
    """A stream that gives what no stream gives."""

    def __init__(self, given: object) -> None:
        self._given = given

    def read(self, size: int = -1) -> Any:
        return self._given


VALUES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "bytes": (lambda: (b"bytes", {}), ValueError, "for bytes use from_bytes"),
    "text": (lambda: (io.StringIO("text"), {}), ValueError, "str"),
    "a number": (lambda: (7, {}), ValueError, "a stream with read()"),
    "breaks": (lambda: (Breaks(100), {}), OSError, "the tape has jammed"),
    "breaks late": (lambda: (Breaks(3_000_000), {}), OSError, "the tape has jammed"),
    "gives None": (lambda: (Gives(None), {}), ValueError, "None"),
    "gives a number": (lambda: (Gives(3), {}), ValueError, "int"),
    "no metadata": (lambda: (io.BytesIO(b""), None), ValueError, "metadata is a"),
    "a list of metadata": (lambda: (io.BytesIO(b""), ["n"]), ValueError, "metadata is a"),
    "a set": (lambda: StringValue(b"", {"n": {1}}), ValueError, "type set"),
    "NaN": (lambda: StringValue(b"", {"n": float("nan")}), ValueError, "nan"),
    "infinity": (lambda: StringValue(b"", {"n": [float("inf")]}), ValueError, "inf"),
    "bytes in metadata": (lambda: StringValue(b"", {"n": b"x"}), ValueError, "type bytes"),
    "a name of 1": (lambda: StringValue(b"", {1: "x"}), ValueError, "names are str"),  # type: ignore[dict-item]
    "65 bits": (lambda: StringValue(b"", {"n": 2**64}), ValueError, "64 bits"),
    "half a pair": (lambda: StringValue(b"", {"n": "\ud800"}), ValueError, "surrogate"),
    "not a value": (lambda: "text", ValueError, "value"),
    "one thing": (lambda: (io.BytesIO(b""),), ValueError, "value"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("key", ["runs/a", "runs/mine", "runs/new"])
def test_what_is_no_value(store: MountedStore, tmp_path: Path, name: str, key: str) -> None:
    make, kind, said = VALUES[name]
    with pytest.raises(kind) as raised:
        store.set(key, make())
    assert said in sentence(raised.value)
    assert not store.exists("runs/new")
    check_nothing_is_lost(store)
    assert list((tmp_path / "here" / "tmp").iterdir()) == []


# -- directories -------------------------------------------------------------------------------


def mount(directory: Path, url: str, point: str = POINT) -> MountedStore:
    return MountedStore(
        point, DiskCacheStore(directory, min_free=0), DynamicURLStore(f"{url}keys", f"{url}query")
    )


def test_directory_of_another_upstream(store: MountedStore, origin: Origin, tmp_path: Path) -> None:
    store.disconnect()
    with pytest.raises(StoreError) as raised, mount(tmp_path / "here", "http://127.0.0.1:1/"):
        pass
    assert origin.url in sentence(raised.value)
    with pytest.raises(StoreError) as raised, mount(tmp_path / "here", origin.url, "other/"):
        pass
    assert repr(POINT) in sentence(raised.value)
    with mount(tmp_path / "here", origin.url) as again:
        check_nothing_is_lost(again)


def _file(path: Path) -> None:
    path.write_text("notes")


def _foreign_files(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("chapter 1")


def _foreign_database(path: Path) -> None:
    path.mkdir()
    with sqlite3.connect(path / "cache.db") as con:
        con.execute("CREATE TABLE songs (title)")
    con.close()


def _no_database(path: Path) -> None:
    path.mkdir()
    (path / "cache.db").write_bytes(os.urandom(8192))


def _files(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in [path, *path.rglob("*")] if each.is_file()}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_file, "is a file"),
        (_foreign_files, "choose an empty directory"),
        (_foreign_database, "another program"),
        (_no_database, "mountcache doctor --repair"),
    ],
)
def test_directory_that_isnt_ours(
    tmp_path: Path, origin: Origin, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "theirs"
    make(path)
    before = _files(path)
    with pytest.raises(DirectoryError) as raised, mount(path, origin.url):
        pass
    assert said in sentence(raised.value)
    assert _files(path) == before


def test_truncated_database_is_told_and_left_alone(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    store.disconnect()
    database = tmp_path / "here" / "cache.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError) as raised, mount(tmp_path / "here", origin.url) as damaged:
        list(damaged.staged())
        damaged.to_bytes("runs/mine")
    assert "damaged" in sentence(raised.value)
    database.write_bytes(whole)
    with mount(tmp_path / "here", origin.url) as again:
        check_nothing_is_lost(again)


# -- indexes -----------------------------------------------------------------------------------

INDEXES = {
    "not JSON": (b"{'a': 1}", "a key in quotes was expected"),
    "cut off": (b'{"a": {"n": 1}, "b"', "'b' has no metadata"),
    "empty": (b"", "it is empty"),
    "a list": (b'["a"]', "where { was expected"),
    "a value that is no object": (b'{"a": 1}', "'a'"),
    "a key twice": (b'{"a": {}, "a": {}}', "twice"),
    "two documents": (b'{"a": {}} {"b": {}}', "after its end"),
    "NaN": (b'{"a": {"n": NaN}}', "NaN"),
}


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "bare"])
def test_what_is_no_index(
    nginx: Callable[..., Nginx], tmp_path: Path, name: str, mounted: bool
) -> None:
    content, said = INDEXES[name]
    root = tmp_path / "site"
    (root / "data").mkdir(parents=True)
    (root / "data" / "a").write_bytes(b"A")
    (root / "index.json").write_text(json.dumps({"a": {"n": 1}}))
    backing = StaticURLStore(nginx(root).url, poll=0)
    store: Any = (
        MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)
        if mounted
        else backing
    )
    with store:
        assert list(store.query_keys()) == ["a"]
        (root / "index.json").write_bytes(content)
        os.utime(root / "index.json", (1_600_000_000, 1_600_000_000))
        with pytest.raises(IndexUnreadableError) as raised:
            store.update_index()
        assert said in sentence(raised.value)
        assert list(store.query()) == [("a", {"n": 1})]
        assert store.to_bytes("a") == b"A"


# -- URLs --------------------------------------------------------------------------------------

URLS = {
    "": "has no scheme",
    "example.org/data": "has no scheme",
    "//example.org/": "has no scheme",
    "ftp://example.org/": "the scheme 'ftp'",
    "http://": "has no scheme",
    "http:///data": "has no scheme",
    "http://host:port/": "can't be read as a URL",
    "http://host/?q=1": "a query or fragment",
    "file://elsewhere/data": "a file is on this machine",
}


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        StaticURLStore(url)
    assert URLS[url] in sentence(raised.value)
