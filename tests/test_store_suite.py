"""The public suite on every store of this project, and on each sensible pair under a mount."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore

from mountcache.abc import AbstractStore
from mountcache.mounted import MountedStore
from mountcache.testing import (
    Mounted,
    MountedStoreTests,
    StoreEventTests,
    StoreReadTests,
    StoreTransactionTests,
    StoreWriteTests,
)
from mountcache.values import StringValue
from tests.dictstore import DictStore


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a store that holds nothing; to make one durably takes a while."""
    directory = tmp_path_factory.mktemp("empty") / "store"
    with DiskCacheStore(directory):
        pass
    return directory


@pytest.fixture
def disk(empty: Path, tmp_path: Path) -> DiskCacheStore:
    """An empty store on disk, not connected."""
    shutil.copytree(empty, tmp_path / "store")
    return DiskCacheStore(tmp_path / "store")


class WholeStore(StoreReadTests, StoreWriteTests, StoreTransactionTests, StoreEventTests):
    """All that a store that can be written promises."""


class TestMemoryStore(WholeStore):
    survives_disconnect = False

    @pytest.fixture
    def store(self) -> Iterator[MemoryStore]:
        with MemoryStore() as store:
            yield store


class TestDiskCacheStore(WholeStore):
    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[DiskCacheStore]:
        with disk as store:
            yield store


class MountedWhole(WholeStore):
    """A mounted store is a store like any other, here with nothing upstream."""

    defers_conflicts = True


class TestDiskOnMemory(MountedWhole):
    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[MountedStore]:
        with (
            MemoryStore() as backing,
            MountedStore("", disk, backing) as store,
        ):
            yield store


class TestMemoryOnMemory(MountedWhole):
    survives_disconnect = False

    @pytest.fixture
    def store(self) -> Iterator[MountedStore]:
        with MemoryStore() as backing, MountedStore("", MemoryStore(), backing) as store:
            yield store


class TestForeignOnMemory(MountedWhole):
    """The mount store is one of another make."""

    @pytest.fixture
    def store(self) -> Iterator[MountedStore]:
        with MemoryStore() as backing, MountedStore("", DictStore(), backing) as store:
            yield store


class TestMountOnMount(MountedWhole):
    survives_disconnect = False

    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[MountedStore]:
        with (
            MemoryStore() as backing,
            MountedStore("", MemoryStore(), backing) as below,
            MountedStore("", disk, below) as store,
        ):
            yield store


def ends(store: MountedStore, backing: AbstractStore, **other: Any) -> Mounted:
    """Return a mounted store and its ends, upstream being a store in this process."""

    def look(key: str) -> tuple[bytes, dict[str, Any]] | None:
        try:
            return backing.to_bytes(key), backing.get_metadata(key)
        except KeyError:
            return None

    return Mounted(
        store=store,
        mount_store=store.mount_store,
        backing_store=backing,
        put=lambda key, data, metadata: backing.set(key, StringValue(data, metadata)),
        remove=backing.delete,
        look=look,
        **other,
    )


class TestMountedDiskOnMemory(MountedStoreTests):
    @pytest.fixture
    def mounted(self, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            MemoryStore() as backing,
            MountedStore("m/", disk, backing, max_age=0) as store,
        ):
            yield ends(store, backing)


class TestMountedMemoryOnMemory(MountedStoreTests):
    @pytest.fixture
    def mounted(self) -> Iterator[Mounted]:
        with MemoryStore() as backing:  # noqa: SIM117
            with MountedStore("m/", MemoryStore(), backing, max_age=0) as store:
                yield ends(store, backing)


class TestMountedForeignOnMemory(MountedStoreTests):
    """The mount store is one of another make: it holds whole values, and says so."""

    compares_metadata_apart = False
    foreign_mount_store = True

    @pytest.fixture
    def mounted(self) -> Iterator[Mounted]:
        with MemoryStore() as backing:  # noqa: SIM117
            with MountedStore("m/", DictStore(), backing, max_age=0) as store:
                yield ends(store, backing)


class TestMountedDiskOnForeign(MountedStoreTests):
    """The backing store is one of another make: it enforces nothing."""

    @pytest.fixture
    def mounted(self, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            DictStore() as backing,
            MountedStore("m/", disk, backing, max_age=0) as store,
        ):
            yield ends(store, backing)


class TestMountedOnAMount(MountedStoreTests):
    """Upstream is a mount itself; somebody else writes into it."""

    @pytest.fixture
    def mounted(self, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            MemoryStore() as origin,
            MountedStore("", MemoryStore(), origin, max_age=0) as below,
            MountedStore("m/", disk, below, max_age=0) as store,
        ):
            yield ends(store, below)
