"""What is known of diskcache's inside, and what a stranger with a Cache of his own can do."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import pytest

from mountcache.errors import DirectoryError
from mountcache.local import cache
from mountcache.local.diskcontent import DiskContent
from tests.local_parts import LARGE, SMALL, files, keep, read, ready, spooled, stored


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskContent]:
    made = DiskContent(tmp_path / "store")
    ready(made)
    yield made
    made.close()


def diskcaches_own(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path / "cache.db")) as con:
        return dict(
            con.execute(
                "SELECT name, sql FROM sqlite_master WHERE tbl_name IN ('Cache', 'Settings')"
                " AND type != 'trigger'"
            )
        )


def test_diskcache_is_the_version_whose_inside_is_known() -> None:
    assert diskcache.__version__ == cache.DISKCACHE


def test_tables_are_those_that_diskcache_makes(disk: DiskContent, tmp_path: Path) -> None:
    diskcache.Cache(tmp_path / "plain", eviction_policy="none").close()
    assert diskcaches_own(disk.directory) == diskcaches_own(tmp_path / "plain")


def test_settings_are_all_that_diskcache_knows() -> None:
    assert cache.SETTINGS.keys() == diskcache.DEFAULT_SETTINGS.keys()
    counters = set(diskcache.core.METADATA)
    assert counters | cache.SETTINGS.keys() == set(cache._ALLOWED)
    assert all(cache._ALLOWED[name](value) for name, value in cache.SETTINGS.items())
    assert all(cache._ALLOWED[name](value) for name, value in diskcache.DEFAULT_SETTINGS.items())
    assert set(diskcache.EVICTION_POLICY) == set(cache._POLICIES)
    assert (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY) == (1, 2)


def test_cache_has_the_attributes_that_diskcaches_own_would_set(
    disk: DiskContent, tmp_path: Path
) -> None:
    with diskcache.Cache(tmp_path / "plain") as plain:
        assert vars(disk.cache).keys() - vars(plain).keys() == {"_connect"}
        assert vars(plain).keys() - vars(disk.cache).keys() == set()
        assert vars(disk.cache.disk).keys() - vars(plain.disk).keys() == {"new_id"}


def test_cache_works_on_the_connections_of_the_store(disk: DiskContent) -> None:
    disk.cache.set("small", SMALL)
    disk.cache.set("large", LARGE)
    assert disk.cache["small"] == SMALL
    assert disk.cache["large"] == LARGE
    assert list(disk.cache) == ["small", "large"]
    assert len(disk.cache) == 2
    assert disk.cache.volume() > len(LARGE)
    (file,) = files(disk)
    assert file.parent.name in {f"{number:02x}" for number in range(256)}
    assert disk.gc() == 0
    assert disk.cache.pop("large") == LARGE
    assert files(disk) == []
    assert file.parent.is_dir()
    assert disk.cache.check() is not None
    disk.cache.close()
    with pytest.raises(TypeError, match="pickle the store"):
        pickle.dumps(disk.cache)


@pytest.mark.parametrize("value", ["text", 1, 1.5, None, {"a": 1}, ["a"]])
def test_values_that_would_be_pickled_or_changed_are_refused(
    disk: DiskContent, value: object
) -> None:
    with pytest.raises(TypeError, match="is bytes"):
        disk.cache.set("key", value)
    assert len(disk.cache) == 0


@pytest.mark.parametrize("key", [b"bytes", 1, 1.5, None, ("a", 1)])
def test_keys_that_arent_text_are_refused(disk: DiskContent, key: object) -> None:
    with pytest.raises(TypeError, match="is str"):
        disk.cache.set(key, b"value")
    with pytest.raises(TypeError, match="is str"):
        disk.cache.get(key)


class Trap:
    """Says when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[object, ...]:
        return _spring, ()


def _spring() -> str:
    Trap.sprung = True
    return "sprung"


def test_pickle_that_a_stranger_wrote_isnt_run(disk: DiskContent) -> None:
    with diskcache.Cache(disk.directory) as stranger:
        stranger.set("value", Trap())
        stranger.set(("key", Trap()), b"value")
        stranger.set("large", [Trap(), b"x" * 100_000])
    rows = "SELECT mode, filename, value, size, store_time FROM Cache WHERE mode = 4"
    for row in disk.connection().execute(rows):
        with pytest.raises(DirectoryError, match="another program"):
            disk.open(row)
    with pytest.raises(DirectoryError, match="another program"):
        disk.cache.get("value")
    with pytest.raises(DirectoryError, match="another program"):
        list(disk.cache)
    assert not Trap.sprung


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd", "/etc/passwd", "00/../../x", "00/name.val", "live/x", ""]
)
def test_row_that_leads_out_of_the_directory_isnt_followed(
    disk: DiskContent, filename: str
) -> None:
    with pytest.raises(DirectoryError, match="names a file"):
        disk.open((2, filename, None, 0, 0.0))
    with pytest.raises(DirectoryError, match="names a file"):
        disk.cache.disk.fetch(2, filename, None, True)
    with pytest.raises(DirectoryError, match="names a file"):
        disk.cache.disk.remove(filename)


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_staged_bytes_withstand_a_stranger(disk: DiskContent, data: bytes) -> None:
    adopted = keep(disk, data)

    def refused(act: Any) -> None:
        with pytest.raises(sqlite3.IntegrityError, match="these bytes are staged"):
            act()

    with diskcache.Cache(disk.directory) as stranger:
        refused(stranger.clear)
        refused(lambda: stranger.pop(adopted))
        refused(lambda: stranger.set(adopted, b"theirs"))
        refused(lambda: stranger.touch(adopted, expire=-1))
        refused(lambda: stranger.delete(adopted))
        stranger.cull()
        stranger.expire()
        stranger.evict("tag")
        for number in range(50):
            stranger.set(f"filler {number}", b"x" * 10_000)
        stranger.clear() if False else None
    assert read(disk, adopted) == data


def test_strangers_clear_that_removes_empty_directories_does_no_harm(disk: DiskContent) -> None:
    spool = spooled(disk, LARGE)
    with disk.write() as con:
        adopted = disk.adopt(con, spool)
    row = stored(disk, adopted)
    with diskcache.Cache(disk.directory) as stranger:
        assert stranger.clear() == 1
    room = disk.path(row[1]).parent
    assert not room.exists()
    while True:
        spool = spooled(disk, LARGE)
        assert spool.filename is not None
        if disk.path(spool.filename).parent == room:
            break
        spool.discard()
    assert spool.open().read() == LARGE
    assert disk.gc() == 0


def test_settings_keep_a_stranger_from_evicting(disk: DiskContent) -> None:
    with diskcache.Cache(disk.directory) as stranger:
        assert stranger.eviction_policy == "none"
        assert stranger.cull_limit == 0
        assert stranger.statistics == 0
        assert stranger.size_limit > 2**60
        (synchronous,) = stranger._sql("PRAGMA synchronous").fetchone()
        assert synchronous == 2
