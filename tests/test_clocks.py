"""A clock that is set back or forward hides nothing and brings nothing back."""

from __future__ import annotations

import pytest

from mountcache.abc import IndexReading
from mountcache.local import listing
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put

YEAR = 365 * 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin, clock: Clock) -> MountedStore:
    return MountedStore("", MemoryStore(), origin, clock=clock)


@pytest.mark.parametrize("step", [-YEAR, YEAR])
def test_key_that_vanishes_upstream_is_hidden_whatever_the_clock_says(
    store: MountedStore, origin: Origin, clock: Clock, step: float
) -> None:
    put(origin, "k", "data")
    put(origin, "other", "data")
    store.update_index()
    assert store.to_bytes("k") == b"data"
    clock.now += step
    origin.delete("k")
    store.update_index()
    assert list(store.with_options(offline="always").query_keys()) == ["other"]


def test_what_is_learned_while_an_index_loads_stays_whatever_the_clock_says(
    store: MountedStore, origin: Origin, clock: Clock
) -> None:
    put(origin, "k", "data")
    store.update_index()
    catalog = store.mount.catalog

    def entries() -> object:
        yield "other", "{}", None, None, None
        put(origin, "new", "data")
        clock.now -= 3600
        assert store.to_bytes("new") == b"data"

    reading = IndexReading(entries(), None, lambda: None)  # type: ignore[arg-type]
    assert [change.key for change in listing.load(catalog, reading)] == ["k", "other"]
    assert sorted(store.with_options(offline="always").query_keys()) == ["new", "other"]
