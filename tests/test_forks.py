"""A child that is forked while another thread is at work: it hangs nowhere and holds nothing."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountcache.errors import StoreBusyError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.store import LocalStore
from mountcache.locks import Lock
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    local: LocalStore
    local = MemoryStore() if request.param == "memory" else DiskCacheStore(tmp_path / "cache")
    with local:
        yield MountedStore("", local, origin)


def in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` is true in a forked child, which has half a minute for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return status == 0


class Held:
    """An action of another thread, which stops at `here` until the block ends."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=work)

    def here(self, *_: object) -> None:
        self._reached.set()
        assert self._go_on.wait(60)

    def __enter__(self) -> Held:
        self._thread.start()
        assert self._reached.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._thread.join()


class HeldLock(Held):
    """A lock that another thread holds."""

    def __init__(self, lock: Lock) -> None:
        def hold() -> None:
            with lock:
                self.here()

        super().__init__(hold)


def test_child_polls_though_its_parent_is_polling(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "data")
    parent = os.getpid()
    held = Held(store.update_index)
    read_index = origin.read_index

    def slowly(validators: str | None = None) -> object:
        if os.getpid() == parent:
            held.here()
        return read_index(validators)

    def poll() -> bool:
        store.update_index()
        return "k" in store.query_keys()

    store.update_index()  # of a directory one process polls; what it knows serves the others
    put(origin, "other", "data")
    origin.read_index = slowly  # type: ignore[method-assign]
    with held:
        assert in_child(poll)


def test_child_doesnt_take_a_push_of_its_parent_for_its_own(
    store: MountedStore, origin: Origin
) -> None:
    put(store, "k", "mine")
    held = Held(lambda: store.push("k"))
    origin.before = held.here

    def push() -> bool:
        try:
            with store.mount.journal.pushing(wait=0.1):
                return isinstance(store.mount_store, MemoryStore)  # a copy of its own
        except StoreBusyError:
            return True

    with held:
        assert in_child(push)
    assert origin.to_bytes("k") == b"mine"
    assert list(store.staged()) == []


def test_child_forked_by_who_pushes_ends_in_peace(store: MountedStore) -> None:
    def leave() -> bool:
        store.mount.catalog.state("gen")
        return True

    with store.mount.journal.pushing():
        assert in_child(leave)
    with store.mount.journal.pushing(wait=0.0):
        pass


def test_lock_is_free_in_a_child_of_whoever_held_it() -> None:
    lock = Lock()

    def take() -> bool:
        with lock:
            return True

    with HeldLock(lock):
        assert in_child(take)
    with lock:
        assert in_child(take)
