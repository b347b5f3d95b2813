"""Values as files: seekable data, lent paths, and the libraries that want them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ReadOnlyKeyError, ReadOnlyStoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Reply, ScriptedServer, scripted

__all__ = ["scripted"]

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
@pytest.mark.parametrize("user", [0, 1000])
def test_path_is_lent(
    store: MountedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    suffix: str,
    state: str,
    user: int,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
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
            assert linked == (len(data) > 100_000 and user != 0)
        if state in ("remote", "cached"):
            store.drop(key)
        assert path.read_bytes() == data
        file = path.open("rb")
    with file:
        assert not path.exists()
        assert file.read() == data
    assert list((tmp_path / "here" / "tmp").iterdir()) == []


@pytest.mark.parametrize("staged", [False, True])
def test_what_a_library_writes_to_a_lent_file_harms_nothing(
    store: MountedStore, staged: bool
) -> None:
    store.to_bytes("runs/large.tar.gz")
    if staged:
        store.set_data("runs/large.tar.gz", io.BytesIO(LARGE))
    with store.local_path("runs/large.tar.gz") as path, contextlib.suppress(PermissionError):
        path.write_bytes(b"broken")  # root may
    assert store.to_bytes("runs/large.tar.gz") == LARGE


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


def test_path_of_what_isnt_to_be_kept_costs_one_download(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.on("GET", "/a.bin", Reply(200, LARGE))
    backing = StaticURLStore(scripted.url, data_path="", query_path=None)
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, backing) as store:
        with store.with_options(fill=False).local_path("a.bin") as path:
            assert path.read_bytes() == LARGE
        assert store.stats()["cached_keys"] == 0
    assert len(scripted.asked("GET")) == 1


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


def test_file_is_staged_at_a_close_in_good_order_alone(
    store: MountedStore, caplog: pytest.LogCaptureFixture
) -> None:
    def text() -> io.TextIOWrapper:
        return io.TextIOWrapper(store.open("runs/small.csv", "wb"), encoding="utf-8", newline="")

    with pytest.raises(ZeroDivisionError), text() as file:
        file.write("half")
        raise ZeroDivisionError
    try:
        file = text()
        file.write("half")
        raise ZeroDivisionError
    except ZeroDivisionError:
        file.close()
    raw = store.open("runs/small.csv", "wb")
    raw.write(b"half")
    del raw
    assert [word in caplog.text for word in ("an exception came", "nobody closed it")] == [True] * 2
    assert list(store.staged()) == []
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        with text() as file:
            csv.writer(file).writerow(["t", "é"])
    assert store.to_bytes("runs/small.csv") == "t,é\r\n".encode()
    assert [edit.key for edit in store.staged()] == ["runs/small.csv"]


def test_file_that_is_written_can_be_looked_at_again(store: MountedStore) -> None:
    with store.open("runs/new.bin", "wb") as file:
        assert file.write(b"0123456789" * 200_000) == 2_000_000
        assert file.seek(-3, io.SEEK_END) == 1_999_997
        assert file.read() == b"789"
        assert file.seek(4) == 4
        buffer = bytearray(2)
        assert file.readinto(buffer) == 2
        assert (bytes(buffer), file.tell()) == (b"45", 6)
        assert file.truncate() == 6
        assert file.name == "runs/new.bin"
        assert not store.exists("runs/new.bin")
    assert file.closed
    assert store.to_bytes("runs/new.bin") == b"012345"


def test_stores_by_themselves_open_keys_too(store: MountedStore, tmp_path: Path) -> None:
    for mode in ("r", "w", "rt", "wt"):
        with pytest.raises(ValueError, match=r"io\.TextIOWrapper"):
            store.open("runs/small.csv", mode)
    with store.backing_store.open("runs/small.csv") as file:
        assert file.read() == b"t,x\n0,1\n"
    with DiskCacheStore(tmp_path / "other", min_free=0) as alone:
        with alone.open("a", "wb") as file:
            file.write(b"1")
        assert alone.to_bytes("a") == b"1"
    only = StaticURLStore("http://127.0.0.1:9/")
    with pytest.raises(ReadOnlyStoreError, match="'a' can't be written"):
        only.open("a", "wb")
    with pytest.raises(ReadOnlyKeyError):
        MountedStore("runs/", MemoryStore(), only).open("a", "wb")


def test_one_stream_is_for_many_threads(store: MountedStore) -> None:
    names = ["readme.txt", "run.csv"] * 8
    with (
        store.open("runs/all.zip") as data,
        zipfile.ZipFile(data) as packed,
        ThreadPoolExecutor(8) as pool,
    ):
        sizes = [len(each) for each in pool.map(packed.read, names)]
    assert sizes == [14, 200_000] * 8
