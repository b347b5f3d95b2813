"""The public suite over HTTP: real nginx, files, and our own server, by themselves and mounted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import AbstractReadOnlyStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.listing import ListingURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.testing import (
    Entries,
    Mounted,
    MountedStoreTests,
    Populate,
    StoreEventTests,
    StoreReadTests,
    StoreTransactionTests,
    StoreWriteTests,
)
from mountcache.values import StringValue
from tests.ends import OnDisk, WholeStore
from tests.servers import Nginx, nginx

__all__ = ["nginx"]


class Site:
    """Files and their index, as a static web server gives them.

    Parameters
    ----------
    root
        The folder: ``data/`` and ``index.json`` come into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index: dict[str, dict[str, Any]] = {}
        # Each file is from another second, as an ETag of nginx is second and size.
        self._times = count(1_700_000_000)
        (root / "data").mkdir(parents=True)
        self._write_index()

    def put(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        self._write(self.root / "data" / key, data)
        self._index[key] = metadata
        self._write_index()

    def remove(self, key: str) -> None:
        (self.root / "data" / key).unlink()
        del self._index[key]
        self._write_index()

    def look(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        if key not in self._index:
            return None
        return (self.root / "data" / key).read_bytes(), self._index[key]

    def _write_index(self) -> None:
        self._write(self.root / "index.json", json.dumps(self._index).encode())

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.root / "aside"
        aside.write_bytes(data)
        when = next(self._times)
        os.utime(aside, (when, when))
        aside.replace(path)


class HTTPKeys:
    """What is particular about keys that go through URLs."""

    keys_are_paths = True
    longest_key = 1500


class ServedStatically(HTTPKeys):
    """Gives ``site`` and ``url``: a folder that is empty, and where a server gives it."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        return Site(tmp_path / "site")

    @pytest.fixture
    def populate(self, site: Site, url: str) -> Iterator[Populate]:
        opened: list[AbstractReadOnlyStore] = []

        def fill(entries: Entries) -> StaticURLStore:
            for key, (data, metadata) in entries.items():
                site.put(key, data, metadata)
            store = StaticURLStore(url, "data/", "index.json")
            opened.append(store)
            store.connect()
            return store

        yield fill
        for store in opened:
            store.disconnect()

    @pytest.fixture
    def mounted(self, site: Site, url: str, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            StaticURLStore(url, "data/", "index.json", poll=0) as backing,
            MountedStore("m/", disk, backing) as store,
        ):
            yield Mounted(
                store=store,
                mount_store=disk,
                backing_store=backing,
                put=site.put,
                remove=site.remove,
                look=site.look,
                refresh=store.update_index,
            )


class ByNginx(ServedStatically):
    """The server is nginx."""

    @pytest.fixture
    def url(self, site: Site, nginx: Callable[[Path], Nginx]) -> str:
        return nginx(site.root).url


class ByFiles(ServedStatically):
    """There is no server: the root is a ``file:`` URL."""

    @pytest.fixture
    def url(self, site: Site) -> str:
        return site.root.as_uri() + "/"


class TestStaticByNginx(ByNginx, StoreReadTests):
    has_snapshots = False


class TestStaticByFiles(ByFiles, StoreReadTests):
    has_snapshots = False


class TestMountedOnNginx(ByNginx, OnDisk, MountedStoreTests):
    can_push = False


class TestMountedOnFiles(ByFiles, OnDisk, MountedStoreTests):
    can_push = False


class Listed(HTTPKeys):
    """A folder that a server lists by itself; it keeps no metadata."""

    keeps_metadata = False

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        return Site(tmp_path / "site")

    @pytest.fixture
    def url(self, site: Site, nginx: Callable[..., Nginx]) -> str:
        return nginx(site.root, config="autoindex on; autoindex_format json;").url + "data/"

    @pytest.fixture
    def populate(self, site: Site, url: str) -> Iterator[Populate]:
        opened: list[AbstractReadOnlyStore] = []

        def fill(entries: Entries) -> ListingURLStore:
            for key, (data, metadata) in entries.items():
                site.put(key, data, metadata)
            store = ListingURLStore(url)
            opened.append(store)
            store.connect()
            return store

        yield fill
        for store in opened:
            store.disconnect()

    @pytest.fixture
    def mounted(self, site: Site, url: str, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            ListingURLStore(url, poll=0, write="put") as backing,
            MountedStore("m/", disk, backing) as store,
        ):
            yield Mounted(
                store=store,
                mount_store=disk,
                backing_store=backing,
                put=site.put,
                remove=site.remove,
                look=site.look,
                refresh=store.update_index,
            )


class TestListing(Listed, StoreReadTests):
    has_snapshots = False


class TestMountedOnListing(Listed, OnDisk, MountedStoreTests):
    can_push = False


class ServedByUs(HTTPKeys):
    """Gives ``origin``: our own server on a store that is empty."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Iterator[tuple[MemoryStore, Origin]]:
        with MemoryStore() as store, Origin(store) as origin:
            yield store, origin

    @pytest.fixture
    def kept(self, running: tuple[MemoryStore, Origin]) -> MemoryStore:
        """The server's own store, emptied."""
        store, _ = running
        with store.transaction("for the next test"):
            for key in list(store.query_keys()):
                store.delete(key)
        return store

    @pytest.fixture
    def url(self, running: tuple[MemoryStore, Origin], kept: MemoryStore) -> str:
        return running[1].url

    def upstream_of(self, store: MountedStore, kept: MemoryStore, **other: Any) -> Mounted:
        def look(key: str) -> tuple[bytes, dict[str, Any]] | None:
            if not kept.exists(key):
                return None
            return kept.to_bytes(key), kept.get_metadata(key)

        return Mounted(
            store=store,
            mount_store=store.mount_store,
            backing_store=store.backing_store,
            put=lambda key, data, metadata: kept.set(key, StringValue(data, metadata)),
            remove=kept.delete,
            look=look,
            **other,
        )


class HTTPStore(StoreReadTests, StoreWriteTests, StoreTransactionTests, StoreEventTests):
    """All that a store promises that another machine keeps."""

    rolls_back = False
    has_snapshots = False


class TestDynamic(ServedByUs, HTTPStore):
    @pytest.fixture
    def store(self, url: str) -> Iterator[DynamicURLStore]:
        with DynamicURLStore(f"{url}keys", f"{url}query") as store:
            yield store


class TestMountedWholeOnDynamic(ServedByUs, OnDisk, WholeStore):
    """A mounted store is a store like any other, here with nothing upstream."""

    defers_conflicts = True

    @pytest.fixture
    def store(self, url: str, disk: DiskCacheStore) -> Iterator[MountedStore]:
        with (
            DynamicURLStore(f"{url}keys", f"{url}query") as backing,
            MountedStore("", disk, backing) as store,
        ):
            yield store


class TestMountedOnDynamic(ServedByUs, OnDisk, MountedStoreTests):
    @pytest.fixture
    def mounted(self, url: str, kept: MemoryStore, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            DynamicURLStore(f"{url}keys", f"{url}query") as backing,
            MountedStore("m/", disk, backing, max_age=0) as store,
        ):
            yield self.upstream_of(store, kept)


class TestMountedOnOurStatic(ServedByUs, OnDisk, MountedStoreTests):
    """The static layout of our own server can be written."""

    @pytest.fixture
    def mounted(self, url: str, kept: MemoryStore, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            StaticURLStore(url, "data/", "index.json", poll=0) as backing,
            MountedStore("m/", disk, backing) as store,
        ):
            yield self.upstream_of(store, kept, refresh=store.update_index)


class TestReadThroughTheMount(ServedByUs, OnDisk, StoreReadTests):
    """What is upstream is read as if it were here."""

    @pytest.fixture
    def populate(self, url: str, kept: MemoryStore, disk: DiskCacheStore) -> Iterator[Populate]:
        backing = DynamicURLStore(f"{url}keys", f"{url}query")
        with MountedStore("", disk, backing) as store:

            def fill(entries: Entries) -> MountedStore:
                for key, (data, metadata) in entries.items():
                    kept.set(key, StringValue(data, metadata))
                return store

            yield fill
