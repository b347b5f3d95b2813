"""Indexes that lag, lie or lose their keys: what is known here stays known."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import IndexReading
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ChangedWhileReadingError,
    ConflictError,
    IndexUnreadableError,
    IntegrityError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Nginx, nginx

__all__ = ["nginx"]


# -- an index that lags behind what was pushed ------------------------------------------------


class Lagging(StaticURLStore):
    """A server whose index is made anew only now and then."""

    frozen: list[Any] | None = None
    made = count()

    def freeze(self) -> None:
        reading = super().read_index()
        assert reading is not None
        self.frozen = list(reading.entries)

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        if self.frozen is None:
            return super().read_index(None)
        return IndexReading(iter(self.frozen), str(next(self.made)), lambda: None)


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        store.set("a", StringValue(b"first", {"n": 1}))
        store.set("b", StringValue(b"other", {"n": 1}))
        yield store


@pytest.fixture
def lagging(repository: MemoryStore) -> Iterator[Lagging]:
    with Origin(repository) as origin, Lagging(origin.url, poll=0) as backing:
        yield backing


@pytest.fixture
def store(lagging: Lagging, tmp_path: Path) -> Iterator[MountedStore]:
    with MountedStore("", DiskCacheStore(tmp_path / "here"), lagging) as mounted:
        assert mounted.to_bytes("a") == b"first"
        lagging.freeze()
        yield mounted


def test_what_was_pushed_stays_though_the_index_lags(
    store: MountedStore, lagging: Lagging, repository: MemoryStore
) -> None:
    store.set("a", StringValue(b"mine", {"n": 2}))
    store.set("new", StringValue(b"new", {"n": 3}))
    assert sync.push(store).ok
    for _ in range(2):
        store.update_index()
        assert (store.to_bytes("a"), store.get_metadata("a")) == (b"mine", {"n": 2})
        assert (store.to_bytes("new"), store.get_metadata("new")) == (b"new", {"n": 3})
        assert sorted(store.query_keys()) == ["a", "b", "new"]
    store.drop("a")
    assert (store.to_bytes("a"), store.get_metadata("a")) == (b"mine", {"n": 2})
    lagging.frozen = None
    store.update_index()
    assert store.get_metadata("a") == {"n": 2}
    repository.set("a", StringValue(b"theirs", {"n": 4}))
    store.update_index()
    assert (store.to_bytes("a"), store.get_metadata("a")) == (b"theirs", {"n": 4})


def test_what_was_deleted_stays_deleted_though_the_index_lags(
    store: MountedStore, lagging: Lagging
) -> None:
    store.delete("a")
    assert sync.push(store).ok
    store.update_index()
    assert not store.exists("a")
    assert list(store.query_keys()) == ["b"]
    lagging.frozen = None
    store.update_index()
    assert list(store.query_keys()) == ["b"]


# -- an index that loses what it had ----------------------------------------------------------


class Site:
    """Files and their index under nginx."""

    def __init__(self, root: Path, serve: Callable[[Path], Nginx]) -> None:
        self.root = root
        self._when = count(1_600_000_000)
        (root / "data").mkdir(parents=True)
        self.server = serve(root)
        self.url = self.server.url

    def put(self, key: str, data: bytes) -> dict[str, Any]:
        (self.root / "data" / key).write_bytes(data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    def index(self, content: bytes | dict[str, Any]) -> None:
        path = self.root / "index.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        when = next(self._when)
        os.utime(path, (when, when))


@pytest.fixture
def site(nginx: Callable[[Path], Nginx], tmp_path: Path) -> Site:
    return Site(tmp_path / "site", nginx)


def mounted(site: Site, folder: Path) -> MountedStore:
    return MountedStore("", DiskCacheStore(folder), StaticURLStore(site.url, poll=0))


def test_emptied_index_is_believed_at_the_second_poll(site: Site, tmp_path: Path) -> None:
    site.index({f"key {number}": {"n": number} for number in range(300)})
    with mounted(site, tmp_path / "here") as store:
        assert len(list(store.query_keys())) == 300
        site.index({})
        store.update_index()
        assert len(list(store.query_keys())) == 300
        store.update_index()
        assert list(store.query_keys()) == []


def test_index_that_loses_little_is_believed_at_once(site: Site, tmp_path: Path) -> None:
    site.index({f"key {number}": {} for number in range(300)})
    with mounted(site, tmp_path / "here") as store:
        assert len(list(store.query_keys())) == 300
        site.index({f"key {number}": {} for number in range(200)})
        store.update_index()
        assert len(list(store.query_keys())) == 200


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html><body>log in</body></html>", "begins '<html>"),
        (b"[1, 2]", r"begins '\[1"),
        (b'{"a": 3}', "metadata is a dict"),
        (b'{"a": {}, "a": {}}', "twice"),
        (b'{"a": {"n": NaN}}', "NaN"),
        (b'{"a": {"n": 1}', "ends"),
        (b"", "empty"),
        (b'{"a": {}} trailing', "after its end"),
        (b"\xff\xfe", "UTF-8"),
    ],
    ids=["html", "list", "number", "twice", "nan", "cut", "empty", "trailing", "encoding"],
)
def test_index_that_isnt_one_changes_nothing(
    site: Site, tmp_path: Path, content: bytes, says: str
) -> None:
    site.index({"a": site.put("a", b"A"), "b": {"n": 2}})
    with mounted(site, tmp_path / "here") as store:
        assert store.to_bytes("a") == b"A"
        site.index(content)
        with pytest.raises(IndexUnreadableError, match=says):
            store.update_index()
        assert sorted(store.query_keys()) == ["a", "b"]
        assert store.to_bytes("a") == b"A"
        site.index({"a": site.put("a", b"A2")})
        store.update_index()
        assert list(store.query_keys()) == ["a"]
        assert store.to_bytes("a") == b"A2"


def test_index_that_is_gone_changes_nothing(site: Site, tmp_path: Path) -> None:
    site.index({"a": site.put("a", b"A")})
    with mounted(site, tmp_path / "here") as store:
        assert store.to_bytes("a") == b"A"
        (site.root / "index.json").unlink()
        with pytest.raises(IndexUnreadableError, match=r"no index at .*index\.json \(404\)"):
            store.update_index()
        assert list(store.query_keys()) == ["a"]


def test_key_that_vanishes_is_hidden_and_its_copy_is_good_when_it_returns(
    site: Site, tmp_path: Path
) -> None:
    entry = site.put("a", b"A")
    site.index({"a": entry, "b": {}})
    with mounted(site, tmp_path / "here") as store:
        assert store.to_bytes("a") == b"A"
        site.index({"b": {}})
        store.update_index()
        with pytest.raises(KeyError):
            store.get("a")
        site.index({"a": entry, "b": {}})
        store.update_index()
        asked = len([line for line in site.server.requests if "/data/a" in line])
        assert store.to_bytes("a") == b"A"
        assert len([line for line in site.server.requests if "/data/a" in line]) == asked


def test_bytes_other_than_the_index_promised_are_refused(site: Site, tmp_path: Path) -> None:
    promised = site.put("a", b"what was promised")
    site.put("a", b"what is there now")
    site.index({"a": promised})
    with mounted(site, tmp_path / "here") as store:
        with pytest.raises(IntegrityError, match="'a'"):
            store.to_bytes("a")
        assert store.stats()["cached_keys"] == 0
        site.put("a", b"what was promised")
        assert store.to_bytes("a") == b"what was promised"


def test_what_was_published_since_the_last_poll_is_read_at_once(site: Site, tmp_path: Path) -> None:
    names = {"small": 1000, "large": 3_000_000}
    site.index({name: site.put(name, b"old" * size) for name, size in names.items()})
    backing = StaticURLStore(site.url, poll=3600)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
        assert sorted(store.query_keys()) == ["large", "small"]
        site.index({name: site.put(name, b"new" * size) for name, size in names.items()})
        assert store.to_bytes("small") == b"new" * 1000
        site.index({name: site.put(name, b"now" * size) for name, size in names.items()})
        with pytest.raises(IntegrityError, match="read it again"):
            store.to_bytes("large")
        assert store.to_bytes("large") == b"now" * 3_000_000
        assert store.stats()["cached_keys"] == 2


def test_version_is_never_shown_with_the_metadata_of_another(tmp_path: Path) -> None:
    with MemoryStore() as repository, Origin(repository) as origin:
        repository.set("a", StringValue(b"same", {"n": 1}))
        repository.set("b", StringValue(b"x" * 3_000_000, {"n": 1}))
        backing = StaticURLStore(origin.url, poll=3600)
        with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
            for key in ("a", "b"):
                value = store.get(key)
                repository.update_metadata(key, {"theirs": True})
                with pytest.raises(ChangedWhileReadingError, match="read it again"):
                    value.data.read()
                # Nobody here has seen what they wrote.
                store.set(key, StringValue(b"mine", {"n": 1}))
                with pytest.raises(ConflictError):
                    store.push(key)
                store.revert(key)
                part = store.get_data_range(key, 0, 2).read()
                assert part == repository.to_bytes(key)[:2]
                assert store.get_metadata(key) == {"n": 1, "theirs": True}


@pytest.mark.parametrize("fill", [True, False], ids=["kept", "passing"])
def test_data_read_at_once_comes_with_the_metadata_of_its_version(
    tmp_path: Path, fill: bool
) -> None:
    with MemoryStore() as repository, Origin(repository) as origin:
        repository.set("a", StringValue(b"same", {"n": 1}))
        backing = StaticURLStore(origin.url, poll=3600)
        with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as whole:
            store = whole.with_options(fill=fill)
            assert store.get_metadata("a") == {"n": 1}
            repository.update_metadata("a", {"theirs": True})
            assert store.to_bytes("a") == b"same"
            assert store.get_metadata("a") == {"n": 1, "theirs": True}
            assert store.stats()["cached_keys"] == int(fill)


# -- a transaction that is taken back ---------------------------------------------------------


def test_rollback_leaves_values_in_files_whole(tmp_path: Path) -> None:
    large = os.urandom(200_000)
    with DiskCacheStore(tmp_path / "store") as store:
        store.set("large", StringValue(large, {"n": 1}))
        store.set("gone", StringValue(large[::-1], {}))
        with pytest.raises(ZeroDivisionError), store.transaction("taken back"):
            store.set("large", StringValue(os.urandom(200_000), {"n": 2}))
            store.delete("gone")
            raise ZeroDivisionError
        assert (store.to_bytes("large"), store.get_metadata("large")) == (large, {"n": 1})
        assert store.to_bytes("gone") == large[::-1]
