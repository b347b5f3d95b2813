"""Those who read a key through a cache in a folder: ours and its peers, each as it comes.

Each takes a folder and the URL of a `webserver.repository`, and gives what reads a key. Peers
are imported where they are used, so that those that aren't installed do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import diskcache
import requests
import urllib3

from benchmarks.surroundings import installed
from mountcache import DiskCacheStore, MountedStore, StaticURLStore

__all__ = ["READERS", "Read", "Reader", "chosen", "mounted"]

Read = Callable[[str], bytes]
Reader = Callable[[Path, str], AbstractContextManager[Read]]


@contextmanager
def mounted(folder: Path, url: str, **options: Any) -> Iterator[MountedStore]:
    """Give a mount of a repository, whose copies are good for an hour."""
    backing = StaticURLStore(url, "data/", "index.json")
    local = DiskCacheStore(folder, size_limit=16 * 2**30, min_free=0)
    with MountedStore("", local, backing, **{"max_age": 3600.0, **options}) as store:
        yield store


@contextmanager
def _mountcache(folder: Path, url: str) -> Iterator[Read]:
    with mounted(folder, url) as store:

        def read(key: str) -> bytes:
            value = store.get(key)
            assert "n" in value.metadata
            return value.data.read()

        yield read


@contextmanager
def _diskcache(folder: Path, url: str) -> Iterator[Read]:
    pool = urllib3.PoolManager()
    with diskcache.Cache(folder) as cache:

        def read(key: str) -> bytes:
            data: bytes | None = cache.get(key)
            if data is None:
                data = pool.request("GET", f"{url}data/{key}").data
                cache[key] = data
            return data

        yield read


@contextmanager
def _file(folder: Path, url: str) -> Iterator[Read]:
    pool = urllib3.PoolManager()
    folder.mkdir(parents=True, exist_ok=True)

    def read(key: str) -> bytes:
        path = f"{folder}/{key.replace('/', '-')}"
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            data = pool.request("GET", f"{url}data/{key}").data
            Path(path).write_bytes(data)
            return data

    yield read


@contextmanager
def _encore(folder: Path, url: str) -> Iterator[Read]:
    """Its mount store is filled beforehand: its clients of HTTP are those of Python 2."""
    from encore.storage.dict_memory_store import DictMemoryStore
    from encore.storage.filesystem_store import FileSystemStore, init_shared_store
    from encore.storage.mounted_store import MountedStore as EncoreStore

    folder.mkdir(parents=True, exist_ok=True)
    init_shared_store(str(folder))
    files, pool = FileSystemStore(str(folder)), urllib3.PoolManager()
    store = EncoreStore("", files, DictMemoryStore())
    store.connect()

    def read(key: str) -> bytes:
        name = key.replace("/", "-")
        try:
            value = store.get(name)
        except KeyError:
            import io

            data = pool.request("GET", f"{url}data/{key}").data
            files.set(name, (io.BytesIO(data), {"n": 1}))
            value = store.get(name)
        assert "n" in value.metadata
        with value.data as file:
            return bytes(file.read())

    yield read


@contextmanager
def _pooch(folder: Path, url: str) -> Iterator[Read]:
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    registry: dict[str, None] = {}
    fetcher = pooch.create(folder, f"{url}data/", registry=registry)

    def read(key: str) -> bytes:
        registry[key] = None
        with open(fetcher.fetch(key), "rb") as file:
            return file.read()

    fetcher.registry = registry
    yield read


def _fsspec(protocol: str) -> Reader:
    @contextmanager
    def opened(folder: Path, url: str) -> Iterator[Read]:
        import fsspec

        system = fsspec.filesystem(
            protocol, target_protocol="http", cache_storage=str(folder), skip_instance_cache=True
        )

        def read(key: str) -> bytes:
            with system.open(f"{url}data/{key}") as file:
                return bytes(file.read())

        yield read

    return opened


@contextmanager
def _requests_cache(folder: Path, url: str) -> Iterator[Read]:
    import requests_cache

    folder.mkdir(parents=True, exist_ok=True)
    session = requests_cache.CachedSession(str(folder / "cache"), expire_after=3600)
    with session:
        yield lambda key: bytes(session.get(f"{url}data/{key}").content)


@contextmanager
def _hishel(folder: Path, url: str) -> Iterator[Read]:
    import hishel
    from hishel.requests import CacheAdapter

    folder.mkdir(parents=True, exist_ok=True)
    storage = hishel.SqliteStorage(database_path=folder / "cache.db", default_ttl=3600)
    with requests.Session() as session:
        session.mount("http://", CacheAdapter(storage=storage))
        yield lambda key: session.get(f"{url}data/{key}").content


@contextmanager
def _cachecontrol(folder: Path, url: str) -> Iterator[Read]:
    from cachecontrol import CacheControl
    from cachecontrol.caches import FileCache

    with requests.Session() as bare:
        session = CacheControl(bare, cache=FileCache(folder))
        yield lambda key: session.get(f"{url}data/{key}").content


@contextmanager
def _zarr(folder: Path, url: str) -> Iterator[Read]:
    import fsspec
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync
    from zarr.experimental.cache_store import CacheStore
    from zarr.storage import FsspecStore, LocalStore

    system = fsspec.filesystem("http", asynchronous=True, skip_instance_cache=True)
    source = FsspecStore(system, read_only=True, path=f"{url}data")
    folder.mkdir(parents=True, exist_ok=True)
    store = CacheStore(source, cache_store=LocalStore(folder))
    prototype = default_buffer_prototype()

    def read(key: str) -> bytes:
        found = sync(store.get(key, prototype))
        assert found is not None
        return found.to_bytes()

    yield read


READERS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    "raw diskcache.get": (_diskcache, ("diskcache",)),
    "open and read a file": (_file, ()),
    "mountcache": (_mountcache, ()),
    "encore MountedStore on files": (_encore, ("encore",)),
    "pooch, no hash checked": (_pooch, ("pooch",)),
    "fsspec simplecache": (_fsspec("simplecache"), ("fsspec", "aiohttp")),
    "fsspec filecache": (_fsspec("filecache"), ("fsspec", "aiohttp")),
    "requests-cache, sqlite": (_requests_cache, ("requests-cache",)),
    "hishel, sqlite": (_hishel, ("hishel",)),
    "CacheControl, files": (_cachecontrol, ("CacheControl", "filelock")),
    "zarr CacheStore on files": (_zarr, ("zarr", "fsspec", "aiohttp")),
}
"""Each with the packages that it needs."""


def chosen(*names: str) -> dict[str, Reader | None]:
    """Return readers by name, all if none is named; None is one that isn't installed."""
    return {
        name: READERS[name][0] if installed(*READERS[name][1]) else None
        for name in names or READERS
    }
