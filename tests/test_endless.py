"""Answers without end, and compressed bombs: an error in bounded time and memory, or a stream of
flat memory that its reader can end.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing import index
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import IndexUnreadableError, StoreError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.faultserver import ByRequest, Reply, ScriptedServer, Step, scripted

__all__ = ["scripted"]

MIB = 1_048_576
GOOD = Reply(200, b'{"k": {}}', {"ETag": '"good"'})
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


def endless(begin: bytes, again: bytes, **fields: str) -> ByRequest:
    """Return an answer in chunks of about 1 MiB that doesn't end."""
    named = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in fields.items())
    again *= max(1, MIB // len(again))

    def steps(_: object) -> Iterator[Step]:
        yield HEAD + named.encode() + b"\r\n" + chunk(begin)
        yield from itertools.repeat(chunk(again))

    return ByRequest(steps)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def bomb(begin: bytes, again: bytes, mib: int = 256) -> Reply:
    """Return a gzip whose contents are a thousand times as long."""
    packing = zlib.compressobj(9, wbits=31)
    piece = again * (MIB // len(again))
    packed = packing.compress(begin) + b"".join(packing.compress(piece) for _ in range(mib))
    return Reply(200, packed + packing.flush(), {"Content-Encoding": "gzip"})


def grown(work: Callable[[], object]) -> float:
    """Return by how many MiB this process was larger at its largest while it did something."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 1024


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1))


def mounted(backing: Any, tmp_path: Path) -> MountedStore:
    return MountedStore(
        "", DiskCacheStore(tmp_path / "here", min_free=0, size_limit=4 * MIB), backing
    )


INDEXES = {
    "space": (endless(b'{"k": {}', b" "), "space in a row"),
    "a string": (endless(b'{"k": {"name": "', b"x"), "one entry of more than"),
    "a key": (endless(b'{"', b"x"), "one entry of more than"),
    "an entry": (endless(b'{"k": {"name": [', b"1, "), "one entry of more than"),
    "a bomb of space": (bomb(b'{"k": {}', b" "), "space in a row"),
    "a bomb of a string": (bomb(b'{"k": {"name": "', b"x"), "one entry of more than"),
    "brackets": (endless(b'{"k": ', b"["), "nested too deeply"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_index_without_end_is_given_up(scripted: ScriptedServer, tmp_path: Path, name: str) -> None:
    script, said = INDEXES[name]
    scripted.on("GET", "/index.json", GOOD, script)
    with mounted(StaticURLStore(scripted.url, retries=0), tmp_path) as store:
        assert list(store.query_keys()) == ["k"]

        def poll() -> None:
            with pytest.raises(IndexUnreadableError, match=said):
                store.update_index()

        assert grown(poll) < 120
        assert list(store.query_keys()) == ["k"]


def test_index_of_entries_without_end_is_given_up(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_LONGEST_IN_ALL", 4 * MIB)

    def steps(_: object) -> Iterator[Step]:
        yield HEAD + b"\r\n" + chunk(b'{"k": {}')
        for number in itertools.count():
            more = "".join(f', "{number}/{each}": {{"name": "of it"}}' for each in range(10_000))
            yield chunk(more.encode())

    scripted.on("GET", "/index.json", GOOD, ByRequest(steps))
    with mounted(StaticURLStore(scripted.url, retries=0), tmp_path) as store:
        assert list(store.query_keys()) == ["k"]
        with pytest.raises(IndexUnreadableError, match="longer than"):
            store.update_index()
        assert list(store.query_keys()) == ["k"]


METADATA = {
    "a string": endless(b'{"name": "', b"x"),
    "space": endless(b'{"name": 1', b" "),
    "a bomb": bomb(b'{"name": "', b"x"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_without_end_are_given_up(
    scripted: ScriptedServer, tmp_path: Path, name: str
) -> None:
    scripted.on("GET", "/keys/k/data", Reply(200, b"data", {"ETag": '"1"'}))
    scripted.on("GET", "/keys/k/metadata", METADATA[name])
    backing = DynamicURLStore(f"{scripted.url}keys", f"{scripted.url}query", retries=0)
    with mounted(backing, tmp_path) as store:

        def read() -> None:
            for call in (store.get_metadata, store.to_bytes):
                with pytest.raises(StoreError, match="where fewer make sense"):
                    call("k")

        assert grown(read) < 80
        assert list(store.cached()) == []


QUERIES = {
    "a line": endless(b"k", b"x"),
    "a listing": endless(
        b'{"key": "k", "metadata": {}}\n', b" ", Content_Type="application/x-ndjson"
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_listing_without_end_is_given_up(
    scripted: ScriptedServer, tmp_path: Path, name: str
) -> None:
    scripted.on("GET", "/query", QUERIES[name])
    backing = DynamicURLStore(f"{scripted.url}keys", f"{scripted.url}query", retries=0)
    with mounted(backing, tmp_path) as store:

        def look() -> None:
            with pytest.raises(StoreError):
                list(store.query_keys())

        assert grown(look) < 80


@pytest.mark.parametrize("script", [endless(b"", b"x"), bomb(b"", b"x")], ids=["body", "bomb"])
def test_value_without_end_is_a_stream_of_flat_memory(
    scripted: ScriptedServer, tmp_path: Path, script: Any
) -> None:
    scripted.on("GET", "/data/k", script).on("GET", "/index.json", GOOD)
    with mounted(StaticURLStore(scripted.url, retries=0), tmp_path) as store:

        def read() -> None:
            with store.get_data("k") as stream:
                for _ in range(200):
                    assert stream.read(MIB) == b"x" * MIB

        assert grown(read) < 24
        assert list(store.cached()) == []
    used = sum(path.stat().st_size for path in (tmp_path / "here").rglob("*") if path.is_file())
    assert used < 6 * MIB


def test_value_without_end_ends_a_prefetch_and_a_call_with_a_deadline(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.on("GET", "/data/k", endless(b"", b"x")).on("GET", "/index.json", GOOD)
    with mounted(StaticURLStore(scripted.url, retries=0), tmp_path) as store:
        report = sync.prefetch(store)
        assert "wasn't kept" in report.failed["k"]
    backing = StaticURLStore(scripted.url, retries=0, deadline=0.5)
    with mounted(backing, tmp_path) as store, pytest.raises(StoreUnavailableError):
        store.to_bytes("k")


def test_words_of_a_problem_without_end_leave_the_status(scripted: ScriptedServer) -> None:
    trouble = endless(json.dumps({"detail": "x"}).encode(), b" ")

    def steps(request: Any) -> Iterator[Step]:
        answer: Any = trouble.make(request)
        yield next(answer).replace(b"200 OK", b"400 Bad\r\nContent-Type: application/problem+json")
        yield from answer

    scripted.on("GET", "/data/k", ByRequest(steps))
    with StaticURLStore(scripted.url, query_path=None) as store:

        def read() -> None:
            with pytest.raises(StoreError, match="400"):
                store.to_bytes("k")

        assert grown(read) < 16
