"""What the tests of the public suite share: stores on disk, and the ends of a mount."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mountcache.abc import AbstractStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.testing import (
    Mounted,
    StoreEventTests,
    StoreReadTests,
    StoreTransactionTests,
    StoreWriteTests,
)
from mountcache.values import StringValue

__all__ = ["OnDisk", "WholeStore", "ends"]


class WholeStore(StoreReadTests, StoreWriteTests, StoreTransactionTests, StoreEventTests):
    """All that a store that can be written promises."""


class OnDisk:
    """Gives ``disk``: an empty store on disk, not connected."""

    @pytest.fixture(scope="class")
    @classmethod
    def empty(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A directory of a store that holds nothing; to make one durably takes a while."""
        directory = tmp_path_factory.mktemp("empty") / "store"
        with DiskCacheStore(directory):
            pass
        return directory

    @pytest.fixture
    def disk(self, empty: Path, tmp_path: Path) -> DiskCacheStore:
        """An empty store on disk."""
        shutil.copytree(empty, tmp_path / "store")
        return DiskCacheStore(tmp_path / "store")


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
