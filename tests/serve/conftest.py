"""A running origin on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.store import LocalStore
from mountcache.serve import Origin
from tests.serve.client import Client


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalStore]:
    made = MemoryStore() if request.param == "memory" else DiskCacheStore(tmp_path / "store")
    with made as opened:
        yield opened


@pytest.fixture
def origin(store: LocalStore) -> Iterator[Origin]:
    with Origin(store) as running:
        yield running


@pytest.fixture
def call(origin: Origin) -> Client:
    return Client(origin.url)
