"""The public suite on mounts whose upstream is in this process, each sensible pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.testing import (
    Entries,
    Mounted,
    MountedStoreTests,
    Populate,
    StoreReadTests,
)
from mountcache.values import StringValue
from tests.dictstore import DictStore
from tests.ends import OnDisk, WholeStore, ends

# A mount store of another make is warned of; `tests/test_mounted.py` reads the warning.
pytestmark = pytest.mark.filterwarnings("ignore:DictStore keeps no catalog")


class MountedWhole(WholeStore):
    """A mounted store is a store like any other, here with nothing upstream."""

    defers_conflicts = True


class TestDiskOnMemory(OnDisk, MountedWhole):
    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[MountedStore]:
        with MemoryStore() as backing, MountedStore("", disk, backing) as store:
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


class TestMountOnMount(OnDisk, MountedWhole):
    survives_disconnect = False

    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[MountedStore]:
        with (
            MemoryStore() as backing,
            MountedStore("", MemoryStore(), backing) as below,
            MountedStore("", disk, below) as store,
        ):
            yield store


class TestReadThrough(OnDisk, StoreReadTests):
    """What is upstream is read as if it were here."""

    @pytest.fixture
    def populate(self, disk: DiskCacheStore) -> Iterator[Populate]:
        with MemoryStore() as backing, MountedStore("", disk, backing) as store:

            def fill(entries: Entries) -> MountedStore:
                for key, (data, metadata) in entries.items():
                    backing.set(key, StringValue(data, metadata))
                return store

            yield fill


class TestReadCopies(TestReadThrough):
    """What was read before is read again from here; the first read is upstream's."""

    @pytest.fixture
    def populate(self, disk: DiskCacheStore) -> Iterator[Populate]:
        with (
            MemoryStore() as backing,
            MountedStore("", disk, backing, max_age=3600) as store,
        ):

            def fill(entries: Entries) -> MountedStore:
                for key, (data, metadata) in entries.items():
                    backing.set(key, StringValue(data, metadata))
                    assert store.to_bytes(key) == data
                return store

            yield fill


class TestReadHalfStaged(TestReadThrough):
    """Every other key is staged."""

    @pytest.fixture
    def populate(self, disk: DiskCacheStore) -> Iterator[Populate]:
        with MemoryStore() as backing, MountedStore("", disk, backing) as store:

            def fill(entries: Entries) -> MountedStore:
                for number, (key, (data, metadata)) in enumerate(entries.items()):
                    into = backing if number % 2 else store
                    into.set(key, StringValue(data, metadata))
                return store

            yield fill


class TestMountedDiskOnMemory(OnDisk, MountedStoreTests):
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


class TestMountedDiskOnForeign(OnDisk, MountedStoreTests):
    """The backing store is one of another make: it enforces nothing."""

    @pytest.fixture
    def mounted(self, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            DictStore() as backing,
            MountedStore("m/", disk, backing, max_age=0) as store,
        ):
            yield ends(store, backing)


class TestMountedOnAMount(OnDisk, MountedStoreTests):
    """Upstream is a mount itself; somebody else writes into it."""

    @pytest.fixture
    def mounted(self, disk: DiskCacheStore) -> Iterator[Mounted]:
        with (
            MemoryStore() as origin,
            MountedStore("", MemoryStore(), origin, max_age=0) as below,
            MountedStore("m/", disk, below, max_age=0) as store,
        ):
            yield ends(store, below)
