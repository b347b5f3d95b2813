"""A database that is damaged is told of in a sentence, and never by an error of SQLite."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from tests.upstreams import put


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "store"
    with DiskCacheStore(directory) as store, store.transaction("fill"):
        for number in range(60):
            put(store, f"k{number}", f"{number}" * 50, number=number, text="x" * 50)
    return directory / "cache.db"


def damage(database: Path, luck: random.Random) -> None:
    size = database.stat().st_size
    with open(database, "r+b") as file:
        if luck.random() < 0.3:
            file.truncate(luck.randrange(size))
            return
        for _ in range(luck.choice([1, 20, 400])):
            file.seek(luck.randrange(size))
            file.write(luck.randbytes(1))


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_told_in_a_sentence(whole: Path, tmp_path: Path, seed: int) -> None:
    shutil.copy(whole, tmp_path)
    damage(tmp_path / "cache.db", random.Random(seed))
    store = DiskCacheStore(tmp_path)
    try:
        store.connect()
    except StoreError:
        return
    for work in (
        lambda: [store.to_bytes(key) for key in store.query_keys()],
        lambda: put(store, "new", "data"),
        lambda: put(store, "k3", "data"),
        lambda: store.delete("k4"),
        lambda: list(store.query(number=3)),
        store.disconnect,
    ):
        with suppress(StoreError, KeyError):
            work()
