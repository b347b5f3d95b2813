"""The public suite on the stores of this project that keep what they hold themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from tests.ends import OnDisk, WholeStore


class TestMemoryStore(WholeStore):
    survives_disconnect = False

    @pytest.fixture
    def store(self) -> Iterator[MemoryStore]:
        with MemoryStore() as store:
            yield store


class TestDiskCacheStore(OnDisk, WholeStore):
    @pytest.fixture
    def store(self, disk: DiskCacheStore) -> Iterator[DiskCacheStore]:
        with disk as store:
            yield store
