"""One directory, many readers: one download for all, which survives the death of who makes it,
and no wait for what others send.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.static import StaticURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.values import StringValue
from tests.faultserver import FaultServer, Reply, Request, Resource
from tests.scripted import pattern

MIB = 1_048_576
DATA = pattern(6 * MIB + 12_345, 3)

CHILD = """
import hashlib, sys, threading
from concurrent.futures import ThreadPoolExecutor
from mountcache import *
url, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
with MountedStore("", DiskCacheStore(folder, min_free=0), StaticURLStore(url)) as store:
    store.update_index()
    print("here", flush=True)
    sys.stdin.readline()
    begun = threading.Semaphore(threads - 1)
    def read(_):
        with store.get_data("k") as stream:
            head = stream.read(1)
            if not begun.acquire(blocking=False):
                print("begun", flush=True)
            return hashlib.sha256(head + stream.read()).hexdigest()
    with ThreadPoolExecutor(threads) as pool:
        found = set(pool.map(read, range(threads)))
    print(*found, flush=True)
    sys.stdin.readline()
"""


class Readers:
    """A process whose threads read the same key."""

    def __init__(self, server: FaultServer, folder: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, server.url, str(folder), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.hear() == "here"

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Slow(FaultServer):
    """Gives the beginning of a value, and the rest once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        index = json.dumps({"k": {}, "other": {}}).encode()
        self.resources = {
            "/index.json": Resource(index, "i", "application/json"),
            "/data/k": Resource(DATA),
            "/data/other": Resource(b"other"),
        }

    def script_for(self, request: Request) -> Any:
        reply = super().script_for(request)
        if request.method == "GET" and request.path == "/data/k" and isinstance(reply, Reply):
            whole = reply.render("GET")
            at = min(len(whole) - 1, 3 * MIB)
            return [whole[:at], self.begun.set, self.go_on, whole[at:]]
        if request.method == "PUT":
            return [self.begun.set, self.go_on, Reply(201)]
        return reply


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as server:
        yield server
        server.go_on.set()


DIGEST = hashlib.sha256(DATA).hexdigest()


def test_twenty_readers_in_four_processes_make_one_download(slow: Slow, tmp_path: Path) -> None:
    first, *others = readers = [Readers(slow, tmp_path / "here", 5) for _ in range(4)]
    for each in (first, *others):
        each.say()
        assert each.hear() == "begun"  # all of its threads have had a byte
    slow.go_on.set()
    assert [each.hear() for each in readers] == [DIGEST] * 4
    asked = slow.asked("GET", "/data/k")
    assert [each.headers.get("range") for each in asked] == [None]
    for each in readers:
        each.kill()


def test_download_of_a_killed_process_is_gone_on_with_by_another(
    slow: Slow, tmp_path: Path
) -> None:
    first = Readers(slow, tmp_path / "here", 3)
    first.say()
    assert first.hear() == "begun"
    assert slow.begun.wait(20)
    second = Readers(slow, tmp_path / "here", 3)
    second.say()
    assert second.hear() == "begun"
    first.kill()
    slow.go_on.set()
    assert second.hear() == DIGEST
    whole, *rest = slow.asked("GET", "/data/k")
    assert "range" not in whole.headers
    # Of what came before the kill only blocks that were begun are asked for again.
    starts = [int(each.headers["range"].removeprefix("bytes=").rstrip("-")) for each in rest]
    assert starts
    assert min(starts) >= 2 * MIB
    second.kill()


def test_nobody_waits_for_a_push_that_stalls(slow: Slow, tmp_path: Path) -> None:
    slow.go_on.set()
    folder = tmp_path / "here"
    with MountedStore(
        "",
        DiskCacheStore(folder, min_free=0),
        StaticURLStore(slow.url, write="put", timeout=(5, 15)),
    ) as store:
        assert store.to_bytes("other") == b"other"
        slow.begun.clear()
        slow.go_on.clear()
        store.set("new", StringValue(b"mine", {}))
        done = threading.Event()

        def push() -> None:
            sync.push(store)
            done.set()

        pushing = threading.Thread(target=push)
        pushing.start()
        assert slow.begun.wait(20)
        # All this happens before the push has its answer.
        assert store.to_bytes("other") == b"other"
        store.set("other", StringValue(b"changed", {}))
        assert store.to_bytes("other") == b"changed"
        assert list(store.query_keys()) == ["k", "new", "other"]
        child = (
            "import sys; from mountcache import *\n"
            "with MountedStore('', DiskCacheStore(sys.argv[1], min_free=0),"
            " StaticURLStore(sys.argv[2])) as store:\n"
            "    offline = store.with_options(offline='always')\n"
            "    print(offline.to_bytes('other'), offline.to_bytes('new'))\n"
            "    store.set('third', StringValue(b'3', {}))\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", child, str(folder), slow.url],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        assert said.strip() == "b'changed' b'mine'"
        assert store.to_bytes("third") == b"3"
        assert not done.is_set()
        slow.go_on.set()
        pushing.join(60)
        assert done.is_set()
