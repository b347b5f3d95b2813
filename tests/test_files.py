"""Values as files: seekable data, lent paths, and the libraries that want them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue

LARGE = os.urandom(2_500_000)


def archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("readme.txt", "about the runs")
        file.writestr("run.csv", "t,x\n" * 50_000)
    return packed.getvalue()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with MemoryStore() as repository:
        repository.set("runs/large.tar.gz", StringValue(LARGE, {"n": 1}))
        repository.set("runs/small.csv", StringValue(b"t,x\n0,1\n", {}))
        repository.set("runs/all.zip", StringValue(archive(), {}))
        with Origin(repository) as running:
            yield running


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, backing, max_age=3600.0) as mounted:
        yield mounted


@pytest.mark.parametrize(
    ("key", "suffix"), [("runs/large.tar.gz", ".gz"), ("runs/small.csv", ".csv")]
)
@pytest.mark.parametrize("state", ["remote", "cached", "staged", "metadata edit"])
def test_path_is_lent(
    store: MountedStore, tmp_path: Path, key: str, suffix: str, state: str
) -> None:
    data = store.backing_store.to_bytes(key)
    if state == "cached":
        store.to_bytes(key)
    elif state == "staged":
        data = data[::-1]
        store.set_data(key, io.BytesIO(data))
    elif state == "metadata edit":
        store.update_metadata(key, {"mine": True})
    with store.local_path(key) as path:
        assert path.suffix == suffix
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o400
        if state != "metadata edit":
            linked = path.stat().st_nlink > 1
            assert linked == (len(data) > 100_000)
        if state in ("remote", "cached"):
            store.drop(key)
        assert path.read_bytes() == data
        file = path.open("rb")
    with file:
        assert not path.exists()
        assert file.read() == data
    assert list((tmp_path / "here" / "tmp").iterdir()) == []


def test_path_of_what_isnt_here_is_refused_at_once(store: MountedStore, origin: Origin) -> None:
    with pytest.raises(KeyError), store.local_path("nobody"):
        pass
    with store.local_path("runs/large.tar.gz"):
        pass
    origin.stop()
    with store.local_path("runs/large.tar.gz") as path:
        assert path.read_bytes() == LARGE


def test_what_cant_be_kept_is_lent_all_the_same(origin: Origin, tmp_path: Path) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    local = DiskCacheStore(tmp_path / "here", size_limit=1_000_000, min_free=0)
    with (
        MountedStore("", local, backing) as store,
        store.local_path("runs/large.tar.gz") as path,
    ):
        assert path.read_bytes() == LARGE
        assert store.stats()["cached_keys"] == 0


def test_store_in_memory_lends_copies() -> None:
    with MemoryStore() as store:
        store.set("a.bin", StringValue(LARGE, {}))
        with store.local_path("a.bin") as path:
            assert path.name == "data.bin"
            assert path.read_bytes() == LARGE
        assert not path.parent.exists()


@pytest.mark.parametrize("state", ["remote", "cached", "staged"])
def test_data_is_seekable(store: MountedStore, state: str) -> None:
    if state == "cached":
        store.to_bytes("runs/all.zip")
    elif state == "staged":
        store.update_metadata("runs/all.zip", {"mine": True})
        store.set_data("runs/all.zip", io.BytesIO(archive()))
    with store.open("runs/all.zip") as data, zipfile.ZipFile(data) as packed:
        assert packed.namelist() == ["readme.txt", "run.csv"]
        assert packed.read("run.csv").count(b"\n") == 50_000
        assert packed.read("readme.txt") == b"about the runs"
