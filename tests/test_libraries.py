"""Libraries that want files: cold, warm, and offline after a restart, over real HTTP."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import h5py
import numpy
import pandas
import pyarrow.dataset
import pyarrow.parquet
import pytest
import xarray
from PIL import Image

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.partial import BLOCK
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import prefetch

T = TypeVar("T")
NOISE = numpy.random.default_rng(1)


class Lab:
    """A server with a repository, and a cache of it."""

    def __init__(self, folder: Path) -> None:
        self.repository = MemoryStore()
        self._cache = folder / "cache"
        self._origin = Origin(self.repository)

    def start(self) -> None:
        self.repository.connect()
        self._origin.start()

    def stop(self) -> None:
        self._origin.stop()

    def mount(self) -> MountedStore:
        url = self._origin.url
        local = DiskCacheStore(self._cache, min_free=0)
        return MountedStore("", local, DynamicURLStore(f"{url}keys", f"{url}query"), max_age=3600.0)

    def put(self, key: str, write: Callable[[io.BufferedIOBase], object]) -> None:
        """Let a library write a key of the repository."""
        with self.repository.open(key, "wb") as file:
            write(file)

    def fetched(self) -> int:
        """Return how many bytes are here of values that aren't here whole."""
        return sum(each.stat().st_blocks * 512 for each in (self._cache / "partial").iterdir())

    def same(self, use: Callable[[MountedStore], T]) -> T:
        """Return what a library reads: the same cold, warm, and offline after a restart."""
        with self.mount() as store:
            cold, warm = use(store), use(store)
        self.stop()
        with self.mount() as store:
            offline = use(store)
        assert cold == warm == offline
        return cold

    def in_parts(self, key: str, use: Callable[[MountedStore], T]) -> T:
        """Do the same with what reads only parts of a large key, and is prefetched then."""
        with self.mount() as store:
            cold = use(store)
            assert store.stats()["cached_keys"] == 0
            size = store.get(key).size
            assert size is not None
            assert 0 < self.fetched() < size / 2
            assert use(store) == cold
            prefetch(store, key)
        assert self.same(use) == cold
        return cold


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def table() -> pandas.DataFrame:
    return pandas.DataFrame({"day": range(100_000), "rain": NOISE.normal(size=100_000)})


def grid() -> xarray.Dataset:
    rain = NOISE.normal(size=(2_000, 500))
    return xarray.Dataset({"rain": (("day", "place"), rain)}, {"day": numpy.arange(2_000)})


def write_again(store: MountedStore, key: str, write: Callable[[io.BufferedIOBase], Any]) -> None:
    """Let a library write a key through the cache, offline as well."""
    with store.open(key, "wb") as file:
        write(file)


def test_zipfile_fetches_the_members_it_reads(lab: Lab) -> None:
    members = {f"{number}.bin": NOISE.bytes(BLOCK) for number in range(8)}

    def write(file: io.BufferedIOBase) -> None:
        with zipfile.ZipFile(file, "w") as packed:
            for name, data in members.items():
                packed.writestr(name, data)

    def read(store: MountedStore) -> tuple[list[str], bytes]:
        with store.open("all.zip") as file, zipfile.ZipFile(file) as packed:
            return packed.namelist(), packed.read("3.bin")

    lab.put("all.zip", write)
    assert lab.in_parts("all.zip", read) == (list(members), members["3.bin"])


def test_tarfile(lab: Lab) -> None:
    data = NOISE.bytes(2 * BLOCK)

    def write(file: io.BufferedIOBase) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as packed:
            member = tarfile.TarInfo("a.bin")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))

    def read(store: MountedStore) -> bytes:
        with store.open("all.tar.gz") as file, tarfile.open(fileobj=file) as packed:
            found = packed.extractfile("a.bin")
            assert found is not None
            return found.read()

    lab.put("all.tar.gz", write)
    assert lab.same(read) == data


def test_text_through_a_wrapper(lab: Lab) -> None:
    rows = [["Zürich", "1"], ["東京", "2"]]

    def write(file: io.BufferedIOBase) -> None:
        with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            csv.writer(text).writerows(rows)

    def read(store: MountedStore) -> tuple[list[list[str]], Any]:
        with io.TextIOWrapper(store.open("a.csv"), encoding="utf-8", newline="") as text:
            found = list(csv.reader(text))
        with store.open("a.json.gz") as file, gzip.open(file, "rt") as text:
            return found, json.load(text)

    lab.put("a.csv", write)
    lab.put("a.json.gz", lambda file: file.write(gzip.compress(json.dumps(rows).encode())))
    assert lab.same(read) == (rows, rows)


def test_numpy(lab: Lab) -> None:
    array = NOISE.normal(size=(600, 500))

    def read(store: MountedStore) -> list[bytes]:
        with store.open("a.npy") as file:
            whole = numpy.load(file)
        with store.open("a.npz") as file, numpy.load(file) as several:
            one = several["a"]
        with store.local_path("a.npy") as path:
            mapped = numpy.load(path, mmap_mode="r")
        # The map outlives the name of the file.
        return [each.tobytes() for each in (whole, one, mapped)]

    lab.put("a.npy", lambda file: numpy.save(file, array))
    lab.put("a.npz", lambda file: numpy.savez(file, a=array))
    assert lab.same(read) == [array.tobytes()] * 3


def test_pandas(lab: Lab, table: pandas.DataFrame) -> None:
    def read(store: MountedStore) -> list[str]:
        with store.open("t.csv") as file:
            text = pandas.read_csv(file)
        with store.open("t.parquet") as file:
            columns = pandas.read_parquet(file)
        write_again(store, "sum.csv", lambda file: text.sum().to_csv(file))
        with store.open("sum.csv") as file:
            summed = pandas.read_csv(file, index_col=0)
        return [repr(each) for each in (text, columns, summed)]

    lab.put("t.csv", lambda file: table.to_csv(file, index=False))
    lab.put("t.parquet", table.to_parquet)
    assert lab.same(read)[:2] == [repr(table)] * 2


def test_pyarrow_fetches_the_row_groups_it_reads(lab: Lab, table: pandas.DataFrame) -> None:
    large = pandas.concat([table] * 8)

    def read(store: MountedStore) -> int:
        with store.open("t.parquet") as file, pyarrow.parquet.ParquetFile(file) as parquet:
            return int(parquet.read_row_group(2, columns=["day"])["day"][-1].as_py())

    lab.put(
        "t.parquet",
        lambda file: large.to_parquet(file, row_group_size=100_000, compression=None),
    )
    assert lab.in_parts("t.parquet", read) == 99_999


def test_datasets_of_pyarrow_and_duckdb(lab: Lab, table: pandas.DataFrame) -> None:
    def read(store: MountedStore) -> list[int]:
        with store.local_path("t.parquet") as path:
            counted = pyarrow.dataset.dataset(path).count_rows()
            rows = duckdb.sql(f"SELECT count(*), max(day) FROM '{path}'").fetchall()
        return [counted, *rows[0]]

    lab.put("t.parquet", table.to_parquet)
    assert lab.same(read) == [100_000, 100_000, 99_999]


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_xarray(lab: Lab, tmp_path: Path, engine: str) -> None:
    written = grid()
    written.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    lab.repository.from_file("a.nc", tmp_path / "a.nc")

    def read(store: MountedStore) -> float:
        if engine == "netcdf4":  # reads files by their path alone
            with store.local_path("a.nc") as path, xarray.open_dataset(path, engine=engine) as data:
                return float(data.rain.sum())
        with store.open("a.nc") as file, xarray.open_dataset(file, engine=engine) as data:
            return float(data.rain.sum())

    assert lab.same(read) == float(written.rain.sum())


def test_h5py_fetches_the_chunks_it_reads(lab: Lab) -> None:
    array = NOISE.normal(size=(2_000, 500))

    def write(file: io.BufferedIOBase) -> None:
        with h5py.File(file, "w") as written:
            written.create_dataset("rain", data=array, chunks=(10, 500))

    def read(store: MountedStore) -> bytes:
        with store.open("a.h5") as file, h5py.File(file) as found:
            row: bytes = found["rain"][1_000].tobytes()
        return row

    lab.put("a.h5", write)
    assert lab.in_parts("a.h5", read) == array[1_000].tobytes()


def test_h5py_by_path(lab: Lab) -> None:
    def write(file: io.BufferedIOBase) -> None:
        with h5py.File(file, "w") as written:
            written["rain"] = numpy.arange(200_000)

    def read(store: MountedStore) -> int:
        with store.local_path("a.h5") as path, h5py.File(path) as found:
            return int(found["rain"][:].sum())

    lab.put("a.h5", write)
    assert lab.same(read) == 19_999_900_000


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_pillow(lab: Lab, suffix: str) -> None:
    picture = Image.fromarray(NOISE.integers(0, 255, (700, 700, 3), numpy.uint8))

    def read(store: MountedStore) -> bytes:
        with store.open(f"a.{suffix}") as file, Image.open(file) as found:
            found.load()
            write_again(store, "small.jpg", found.resize((70, 70)).convert("RGB").save)
            pixels: bytes = found.tobytes()
        with store.local_path("small.jpg") as path, Image.open(path) as small:
            assert small.size == (70, 70)
        return pixels

    lab.put(f"a.{suffix}", lambda file: picture.save(file, suffix))
    assert lab.same(read) == picture.tobytes()
