"""A store goes to another process: what it is made with, and no secret of it."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import requests

from mountcache.abc import ABSENT, AbstractReadOnlyStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import AuthorizationError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Reply, ScriptedServer, scripted

__all__ = ["scripted"]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with MemoryStore() as repository:
        for number in range(8):
            repository.set(f"runs/{number}", StringValue(b"%d" % number * 50_000, {"n": number}))
        with Origin(repository) as running:
            yield running


@pytest.fixture(params=["static", "dynamic"])
def store(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    backing: AbstractReadOnlyStore = (
        StaticURLStore(origin.url, poll=5.0)
        if request.param == "static"
        else DynamicURLStore(f"{origin.url}keys", f"{origin.url}query", parts={"data": "data"})
    )
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("runs/", local, backing, author="ada", max_age=60.0) as mounted:
        yield mounted


def read_and_edit(store: MountedStore, key: str) -> bytes:
    data = store.to_bytes(key)
    store.update_metadata(key, {"read": True})
    return data


@pytest.mark.parametrize(
    ("store", "method"),
    [("dynamic", "fork"), ("static", "spawn"), ("dynamic", "forkserver")],
    indirect=["store"],
)
def test_workers_read_and_edit_one_directory(store: MountedStore, method: str) -> None:
    keys = sorted(store.query_keys())
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(partial(read_and_edit, store), keys))
    assert found == [b"%d" % number * 50_000 for number in range(8)]
    assert {edit.key for edit in store.staged()} == set(keys)
    assert {edit.author for edit in store.staged()} == {"ada"}
    assert store.stats()["cached_keys"] == 8


class Runs:
    """A data set as PyTorch's DataLoader takes one: it goes to each worker, once."""

    def __init__(self, store: MountedStore, keys: list[str]) -> None:
        self.store = store
        self.keys = keys

    def __getitem__(self, index: int) -> bytes:
        return self.store.to_bytes(self.keys[index])

    def work(self, asked: SimpleQueue[int | None], given: SimpleQueue[tuple[int, bytes]]) -> None:
        while (index := asked.get()) is not None:
            given.put((index, self[index]))


@pytest.mark.parametrize(
    ("store", "method"),
    [("static", "fork"), ("dynamic", "spawn"), ("static", "forkserver")],
    indirect=["store"],
)
def test_workers_of_a_data_loader_read_while_their_parent_does(
    store: MountedStore, origin: Origin, method: str
) -> None:
    large = bytes(range(256)) * 10_000
    with DynamicURLStore(f"{origin.url}keys", f"{origin.url}query") as upstream:
        upstream.set_if("runs/large", StringValue(large, {}), ABSENT, "1")
    store.update_index()
    runs = Runs(store, [*(f"runs/{number}" for number in range(8)), "runs/large"])
    context = multiprocessing.get_context(method)
    asked, given = context.SimpleQueue(), context.SimpleQueue()
    with store.open("runs/large") as half:
        assert half.read(100_000) == large[:100_000]
        workers = [context.Process(target=runs.work, args=(asked, given)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for _ in range(2):  # epochs
            for index in range(9):
                asked.put(index)
            found = dict(given.get() for _ in range(9))
            assert [found[index] for index in range(9)] == [runs[index] for index in range(9)]
        for _ in workers:
            asked.put(None)
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert half.read() == large[100_000:]
    assert store.stats()["cached_keys"] == 9


@pytest.mark.parametrize("store", ["static"], indirect=True)
def test_dask_takes_a_store_along(store: MountedStore) -> None:
    import dask  # here, since each worker loads this module

    keys = sorted(store.query_keys())
    tasks = [dask.delayed(read_and_edit)(store, key) for key in keys]
    found = dask.compute(*tasks, scheduler="processes", num_workers=2)
    assert list(found) == [b"%d" % number * 50_000 for number in range(8)]
    assert {edit.key for edit in store.staged()} == set(keys)


@pytest.mark.parametrize("store", ["static"], indirect=True)
def test_settings_of_a_view_go_with_it(store: MountedStore) -> None:
    store.to_bytes("runs/1")
    quiet = pickle.loads(pickle.dumps(store.with_options(offline="always")))
    assert quiet.to_bytes("runs/1") == b"1" * 50_000
    with pytest.raises(StoreUnavailableError, match="offline"):
        quiet.get_data("runs/2")


@pytest.mark.parametrize("layout", ["static", "dynamic"])
def test_secrets_stay_and_names_go(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    url = scripted.url.replace("http://", "http://ada:lovelace@")
    scripted.on("GET", "/data/a", Reply(401))
    scripted.on("GET", "/keys/a/data", Reply(401))
    made: AbstractReadOnlyStore = (
        StaticURLStore(url, query_path=None)
        if layout == "static"
        else DynamicURLStore(f"{url}keys", f"{url}query")
    )
    for credentials in (None, ("ada", "lovelace"), ("ada", requests.Session())):
        made.connect(credentials)
        packed = pickle.dumps(made)
        assert b"lovelace" not in packed
        again: AbstractReadOnlyStore = pickle.loads(packed)
        with pytest.raises(AuthorizationError):
            again.get_data("a").read()
        assert "authorization" not in scripted.requests[-1].headers
        again.disconnect()
    monkeypatch.setenv("LAB_TOKEN", "lovelace")
    made.connect("env:LAB_TOKEN")
    packed = pickle.dumps(made)
    assert b"lovelace" not in packed
    again = pickle.loads(packed)
    with pytest.raises(AuthorizationError):
        again.get_data("a").read()
    assert scripted.requests[-1].headers["authorization"] == "Bearer lovelace"
    again.disconnect()
    made.disconnect()


def test_what_lives_in_this_process_says_so(origin: Origin) -> None:
    store = MountedStore("", MemoryStore(), StaticURLStore(origin.url))
    with pytest.raises(TypeError, match=r"MemoryStore ends with its process.*DiskCacheStore"):
        pickle.dumps(store)
