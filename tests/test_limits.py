"""Limits: the page of them says what the code says, and those that nothing else tries hold."""

from __future__ import annotations

import importlib
import io
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mountcache.backing import credentials, dynamic, index, pages
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.listing import ListingURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    IndexUnreadableError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.local import catalog, staging
from mountcache.local import listing as local_listing
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from tests.command import ROOT
from tests.faultserver import Reply, ScriptedServer
from tests.scripted import Indexed, Item
from tests.upstreams import Origin, put

PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what")
]
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "days": 86400, "s": 1}


def named(name: str) -> Any:
    """Return what a dotted name below `mountcache` stands for, of a class the default."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"mountcache.{module}"), rest)
    except ModuleNotFoundError:
        return getattr(named(module)(), rest)


def number(text: str) -> float:
    """Return the first number of a cell, in bytes, seconds or pieces."""
    found = re.search(r"([\d,]+)(?: (\w+))?", text)
    assert found is not None, text
    return int(found[1].replace(",", "")) * UNITS.get(found[2], 1)


@pytest.mark.parametrize("row", [row for row in ROWS if "`" in row[2]], ids=lambda row: row[2])
def test_number_on_the_page_is_that_of_the_code(row: list[str]) -> None:
    _, most, name, _ = row
    found = re.fullmatch(r"`([\w.]+)`(?: = (.*))?", name)
    assert found is not None
    said = found[2] or most.split(";")[-1].split("free, ")[-1].split("`, ")[-1]
    assert named(found[1]) == number(said)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_limit_is_tried(row: list[str]) -> None:
    file, _, test = row[3].strip("`").partition("::")
    assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.fixture
def scripted() -> Any:
    with ScriptedServer() as server:
        yield server


def test_writes_that_are_remembered_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_OPS_REMEMBERED", 3)
    now = [0.0]
    with MemoryStore() as store:
        monkeypatch.setattr(store.catalog, "clock", lambda: now[0])

        def write(op_id: str) -> None:
            store.set_if("k", (io.BytesIO(op_id.encode()), {}), None, op_id)

        def remembered() -> list[str]:
            rows = store.catalog.content.connection().execute("SELECT op_id FROM done")
            return sorted(op_id for (op_id,) in rows)

        for each in "abcde":
            write(each)
        assert remembered() == ["c", "d", "e"]
        now[0] += 31 * 86400
        write("f")
        assert remembered() == ["f"]


def test_what_was_handed_out_has_an_end_and_the_directory_knows_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "_HANDED", 2)
    origin = Origin()
    with MemoryStore() as local:
        store = MountedStore("", local, origin)
        for key in "abc":
            put(origin, key, "first")
            assert store.to_bytes(key) == b"first"
        assert [local.catalog.handed(key) is not None for key in "abc"] == [False, True, True]
        put(origin, "a", "theirs")
        store.set("a", (io.BytesIO(b"mine"), {}))
        with pytest.raises(ConflictError):
            store.push("a")


def test_metadata_without_end_are_an_error(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic, "METADATA_LIMIT", 1000)
    fields = {"Content-Type": "application/json"}
    scripted.on("GET", "/keys/a/metadata", Reply(200, b'{"a": "%s"}' % (b"x" * 1000), fields))
    with (
        DynamicURLStore(scripted.url + "keys", scripted.url + "query") as store,
        pytest.raises(UpstreamError, match="more than 1,000 bytes"),
    ):
        store.get_metadata("a")


def test_entry_of_an_index_without_end_is_an_error(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_LONGEST", 1000)
    monkeypatch.setattr(index, "_WINDOW", 400)
    whole = b'{"a": {"text": "%s"}}' % (b"x" * 5000)
    scripted.on("GET", "/index.json", Reply(200, whole, {"Content-Type": "application/json"}))
    with (
        StaticURLStore(scripted.url) as store,
        pytest.raises(IndexUnreadableError, match="one entry of more than 1,000 characters"),
    ):
        list(store.query_keys())


def test_page_of_a_folder_without_end_is_given_up(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_LONGEST_PAGE", 100_000)
    row = b'<a href="%d">f</a>\n'
    rows = b"".join(row % each for each in range(20_000))
    text = (
        b"<html><head><title>Index of /</title></head><body><pre>" + rows + b"</pre></body></html>"
    )
    scripted.on("GET", "/", Reply(200, text, {"Content-Type": "text/html"}))
    with (
        ListingURLStore(scripted.url) as store,
        pytest.raises(IndexUnreadableError, match="has no end"),
    ):
        list(store.query_keys())


def test_upstream_is_asked_again_every_few_minutes() -> None:
    origin = Indexed()
    origin.down = True
    with MemoryStore() as local:
        store = MountedStore("", local, origin)
        rests = []
        for _ in range(12):
            store._remote.wake()
            with pytest.raises(StoreUnavailableError):
                store.update_index()
            rests.append(round(store._remote.rests_for()))
    assert rests == [5, 10, 20, 40, 80, 160, *[300] * 6]


def test_command_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_COMMAND_SECONDS", 0.2)
    command = f"command:{sys.executable} -c 'import time; time.sleep(600)'"
    with pytest.raises(ConfigurationError, match=r"0\.2 s"):
        credentials.login_of(command, "https://example.org/")


def test_keys_that_are_gone_are_forgotten_when_they_are_more_than_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_listing, "GONE_KEPT", 100)
    origin = Indexed()
    with MemoryStore() as local:
        store = MountedStore("", local, origin)
        for day in range(8):
            days = [f"{day}/{each}" for each in range(200)]
            origin.items = {key: Item(b"x", metadata={"n": day}) for key in days}
            for _ in range(2):
                store.update_index()
            if day == 0:
                assert store.to_bytes("0/0") == b"x"
                store.set_metadata("0/1", {"n": 100})
        rows = local.catalog.content.connection().execute("SELECT key, present FROM upstream")
        known = dict(rows.fetchall())
        assert sorted(store.query_keys(n=7)) == sorted(origin.items)
        # Of what is here or staged it is known that upstream has it no more.
        assert known.pop("0/0") == known.pop("0/1") == 0
        assert len(known) <= 400
        assert {key[0] for key in known} <= {"6", "7"}
        (edit,) = store.staged()
        assert edit.upstream == "gone"


def test_log_of_the_database_stays_small(tmp_path: Path) -> None:
    origin = Indexed()
    log = tmp_path / "store" / "cache.db-wal"
    with DiskCacheStore(tmp_path / "store", min_free=0, durability="normal") as local:
        store = MountedStore("", local, origin)
        for number in range(100):
            store.set(f"mine/{number}", (io.BytesIO(bytes(20_000)), {}))
        assert log.stat().st_size <= 1280 * 1024
        metadata = {"text": "x" * 1000}
        origin.items = {f"{number:06}": Item(b"x", metadata=metadata) for number in range(30_000)}
        store.update_index()
        assert log.stat().st_size <= 20_000 * 4096 * 1.1
        for number in range(10):
            store.set(f"more/{number}", (io.BytesIO(bytes(20_000)), {}))
        assert log.stat().st_size <= 1280 * 1024


def test_connections_that_are_kept_have_an_end() -> None:
    with ScriptedServer() as server, StaticURLStore(server.url, "", None) as store:
        server.on("GET", "/a", Reply(200, b"a"))

        def read(_: int) -> bytes:
            return store.to_bytes("a")

        with ThreadPoolExecutor(100) as pool:
            assert set(pool.map(read, range(400))) == {b"a"}
        deadline = time.monotonic() + 20
        while (kept := len(server._open)) > 64 and time.monotonic() < deadline:
            time.sleep(0.05)  # the server hears of each end a moment later
        assert 1 <= kept <= 64
