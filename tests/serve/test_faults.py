"""What a client hears when the store fails, before and in the middle of an answer."""

from __future__ import annotations

import io
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests

from mountcache.abc import Base, Pushed, Value
from mountcache.errors import (
    DirectoryError,
    IntegrityError,
    PushInProgressError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.diskcontent import DiskContent
from mountcache.local.memory import MemoryStore
from mountcache.local.records import StoredRecord
from mountcache.serve import Origin
from tests.serve.client import Client


class Failing(MemoryStore):
    """A store whose work fails in the way that a test asks for."""

    error: Exception | None = None
    listed: int | None = None

    def _maybe(self) -> None:
        if self.error is not None:
            raise self.error

    def get(self, key: str) -> Value:
        self._maybe()
        return super().get(key)

    def set_if(self, *arguments: Any, **named: Any) -> Pushed:
        self._maybe()
        return super().set_if(*arguments, **named)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        self._maybe()
        return super().delete_if(key, base, op_id)

    def records(self, where: Mapping[str, Any] = MappingProxyType({})) -> Iterator[StoredRecord]:
        for number, found in enumerate(super().records(where)):
            if number == self.listed:
                raise StoreBusyError("the store is busy")
            yield found


@pytest.fixture
def failing() -> Iterator[Failing]:
    with Failing() as store:
        yield store


@pytest.fixture
def broken(failing: Failing) -> Iterator[Client]:
    with Origin(failing) as origin:
        yield Client(origin.url)


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (StoreBusyError("busy"), 503, "busy"),
        (StoreFullError("full"), 507, "full"),
        (ReadOnlyStoreError("read-only"), 403, "read-only"),
        (PushInProgressError("pushing"), 409, "in-flight"),
        (StoreUnavailableError("elsewhere"), 503, "unavailable"),
        (IntegrityError("damaged"), 500, "damaged"),
        (DirectoryError("secret path"), 500, "internal"),
        (sqlite3.OperationalError("secret path"), 500, "internal"),
    ],
)
def test_each_failure_of_a_store_has_its_status(
    failing: Failing,
    broken: Client,
    error: Exception,
    status: int,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing.error = error
    calls: list[Callable[[], Any]] = [
        lambda: broken.get("k"),
        lambda: broken.put("k", b"x", {}),
        lambda: broken("DELETE", "/data/k"),
    ]
    for call in calls:
        with caplog.at_level(logging.ERROR):
            reply = call()
        assert reply.status == status
        assert reply.problem["type"].endswith(f":{name}")
        assert "secret" not in reply.problem["detail"]
        assert ("retry-after" in reply.headers) == (name == "busy")
    assert ("secret" in caplog.text) == (name == "internal")
    failing.error = None
    assert broken.put("k", b"x", {}).status == 201


def test_a_listing_that_fails_in_the_middle_is_seen_to_have_failed(
    failing: Failing, broken: Client
) -> None:
    with failing.transaction("many"):
        for number in range(400):
            failing.set(f"k{number:04}", (io.BytesIO(b""), {"text": "x" * 3000}))
    failing.listed = 0
    assert broken("GET", "/index.json").status == 503
    failing.listed = 399
    for path, accept in (("index.json", "*/*"), ("query", "application/x-ndjson")):
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(f"{broken.url}{path}", headers=headers, timeout=20)
    assert broken("GET", "/-/health").status == 200


def test_data_that_was_cut_off_on_disk_is_no_answer(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path) as store, Origin(store) as origin:
        call = Client(origin.url)
        for size in (100_000, 2_000_000):
            call.put("k", bytes(size), {})
            os.truncate(file_of(tmp_path, size), size - 1)
            reply = call.get("k")
            assert (reply.status, reply.problem["key"]) == (500, "k")


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_data_that_is_cut_off_while_it_is_given_is_seen_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    opened = DiskContent.open

    def open_then_cut(self: DiskContent, stored: Any, **how: Any) -> io.BufferedIOBase:
        stream = opened(self, stored, **how)
        os.truncate(file_of(tmp_path, size), size - 1)
        return stream

    with DiskCacheStore(tmp_path) as store, Origin(store) as origin:
        call = Client(origin.url)
        call.put("k", bytes(size), {})
        monkeypatch.setattr(DiskContent, "open", open_then_cut)
        if size == 100_000:
            reply = call.get("k")
            assert (reply.status, reply.problem["key"]) == (500, "k")
        else:
            with pytest.raises(requests.exceptions.RequestException):
                requests.get(f"{origin.url}data/k", timeout=20)


def file_of(directory: Path, size: int) -> Path:
    (file,) = (path for path in directory.rglob("*") if path.stat().st_size == size)
    return file
