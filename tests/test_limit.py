"""Copies and incomplete downloads stay within the limit of their store, however many come."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountcache.local.catalog import Catalog
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.scripted import Scripted
from tests.upstreams import Origin, put

MIB = 1048576


def test_all_who_were_given_the_same_room_stay_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin()
    with DiskCacheStore(tmp_path / "cache", size_limit=250_000, min_free=0) as local:
        store = MountedStore("", local, origin)
        # As if each had been told of the room before the others came.
        monkeypatch.setattr(Catalog, "room_for", lambda self, size: True)
        for number in range(6):
            put(origin, f"k{number}", b"x" * 100_000)
            assert store.to_bytes(f"k{number}") == b"x" * 100_000
            assert store.stats()["cached_bytes"] <= 250_000
        assert store.get("k5").source == "cached"
        assert store.stats()["cached_keys"] == 2
        assert len(list((tmp_path / "cache").glob("??/*"))) == 2


def test_a_download_that_is_kept_counts_once(tmp_path: Path) -> None:
    origin = Scripted()
    origin.put("large", b"l" * (2 * MIB + 1))
    origin.put("small", b"s" * 100_000)
    with DiskCacheStore(tmp_path / "cache", size_limit=3 * MIB, min_free=0) as local:
        store = MountedStore("", local, origin)
        assert len(store.to_bytes("small")) == 100_000
        with store.get_data("large") as stream:
            assert len(stream.read()) == 2 * MIB + 1
        assert store.stats()["cached_keys"] == 2
