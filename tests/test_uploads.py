"""A large value whose push was cut goes on where the server has come to, where it can."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mountcache import sync
from mountcache.abc import AbstractReadOnlyStore
from mountcache.backing import dynamic as backing
from mountcache.backing.uploads import UPLOAD_FROM
from mountcache.local import uploads
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.uploads import Uploads
from mountcache.mounted import MountedStore
from mountcache.serve import Origin, OriginProcess
from mountcache.values import StringValue
from tests.command import ROOT
from tests.relay import Relay
from tests.test_group_push import dynamic, mounted, static

MIB = 1048576
DATA = random.Random(0).randbytes(UPLOAD_FROM + 4 * MIB)
SHA = hashlib.sha256(DATA).hexdigest()
CUT = 9 * MIB
HEADS = 16384
"""More than the heads of the requests of one push have."""
IN_FLIGHT = 6 * MIB
"""More than is sent again while the server still takes in what an earlier connection brought, and
less than it would be from the beginning."""


class Counted:
    """Counts the bytes of bodies that come to an application, and can hide what it can do."""

    def __init__(self, app: ASGIApp) -> None:
        self.asked: list[str] = []
        self.came = 0
        self.old = False
        self.refuses: str | None = None
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(f"{scope['method']} {scope['path'].split('uploads/')[0]}")
        if self.refuses is not None and "/uploads/" in scope["path"]:
            scope = {**scope, "raw_path": self.refuses.encode()}

        async def received() -> Message:
            message = await receive()
            self.came += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if self.old and message["type"] == "http.response.start":
                message["headers"] = [
                    pair for pair in message["headers"] if pair[0] != b"mountcache-features"
                ]
            await send(message)

        await self._app(scope, received, sent)

    @property
    def writes(self) -> list[str]:
        return [each for each in self.asked if not each.startswith(("GET", "HEAD"))]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "there") as store:
        yield store


@pytest.fixture
def counted() -> list[Counted]:
    return []


@pytest.fixture
def origin(repository: DiskCacheStore, counted: list[Counted]) -> Iterator[Origin]:
    def around(app: ASGIApp) -> ASGIApp:
        counted.append(Counted(app))
        return counted[-1]

    with Origin(repository, around=around) as running:
        yield running


@pytest.fixture
def relay(origin: Origin) -> Iterator[Relay]:
    with Relay(origin.port) as running:
        yield running


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    with mounted(tmp_path / "here", dynamic(origin.url)) as opened:
        yield opened


def kept(tmp_path: Path) -> list[str]:
    folder = tmp_path / "there" / "uploads"
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.mark.parametrize("layout", [dynamic, static])
@pytest.mark.parametrize("metadata", [{"n": 1}, {"text": "x" * 5000}], ids=["short", "long"])
def test_a_large_value_is_sent_ahead_and_named(
    origin: Origin,
    repository: DiskCacheStore,
    counted: list[Counted],
    tmp_path: Path,
    layout: Callable[[str], AbstractReadOnlyStore],
    metadata: dict[str, object],
) -> None:
    with mounted(tmp_path / "here", layout(origin.url)) as store:
        store.set("k", StringValue(DATA, metadata))
        result = sync.push(store)["k"]
        assert (result.outcome, result.grade) == ("pushed", "A")
        assert result.version == repository.get("k").version
        assert counted[0].writes[0] == "PATCH /-/"
        assert counted[0].writes[-2].startswith("PATCH")
        assert counted[0].writes[-1].startswith("PUT")
        assert len(DATA) <= counted[0].came < len(DATA) + HEADS
        assert repository.to_bytes("k") == DATA
        assert repository.get_metadata("k") == metadata
        assert kept(tmp_path) == []
        assert store.to_bytes("k") == DATA


def test_smaller_values_are_sent_as_ever(store: MountedStore, counted: list[Counted]) -> None:
    store.set("k", StringValue(DATA[: UPLOAD_FROM - 1], {}))
    assert sync.push(store).ok
    assert counted[0].writes == ["PUT /keys/k/data"]


def test_a_connection_that_is_lost_goes_on_in_the_same_push(
    relay: Relay, repository: DiskCacheStore, tmp_path: Path
) -> None:
    with mounted(tmp_path / "here", dynamic(relay.url)) as store:
        store.set("k", StringValue(DATA, {}))
        relay.cut_after = CUT
        assert sync.push(store).ok
        assert relay.cut_after is None
    assert repository.to_bytes("k") == DATA
    # If it had begun again, nearly all that was cut off would have been sent twice.
    assert len(DATA) <= relay.sent <= len(DATA) + IN_FLIGHT


PUSH = """
import sys
from pathlib import Path
from mountcache import sync
from tests.test_group_push import dynamic, mounted

with mounted(Path(sys.argv[1]), dynamic(sys.argv[2])) as store:
    sync.push(store)
"""


def test_a_killed_push_goes_on_at_the_next(
    relay: Relay, repository: DiskCacheStore, tmp_path: Path
) -> None:
    with mounted(tmp_path / "here", dynamic(relay.url)) as store:
        store.set("k", StringValue(DATA, {}))
    pushing: list[subprocess.Popen[bytes]] = []
    relay.on_cut = lambda: (pushing[0].kill(), pushing[0].wait())
    relay.cut_after = CUT
    pushing.append(
        subprocess.Popen([sys.executable, "-c", PUSH, tmp_path / "here", relay.url], cwd=ROOT)
    )
    assert pushing[0].wait() == -9
    assert not repository.exists("k")
    with mounted(tmp_path / "here", dynamic(relay.url)) as store:
        assert sync.push(store).ok
        assert list(store.staged()) == []
    assert repository.to_bytes("k") == DATA
    assert len(DATA) <= relay.sent <= len(DATA) + IN_FLIGHT
    assert kept(tmp_path) == []


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_push_to_a_server_that_went_away_goes_on_when_it_is_back(
    tmp_path: Path, how: str
) -> None:
    with OriginProcess(tmp_path / "there") as origin:
        with (
            Relay(int(origin.url.rstrip("/").rpartition(":")[2])) as relay,
            mounted(tmp_path / "here", dynamic(relay.url)) as store,
        ):
            store.set("k", StringValue(DATA, {}))
            relay.on_cut = getattr(origin, how)
            relay.cut_after = CUT
            failed = sync.push(store)["k"]
            assert failed.outcome == "failed"
            (name,) = kept(tmp_path)
            there = (tmp_path / "there" / "uploads" / name).stat().st_size
            assert 0 < there <= CUT
            assert store.mount.catalog.ops() == []  # nothing is unknown: no key was changed
            origin.start()
            relay.sent = 0
            assert sync.push(store).ok
            assert len(DATA) - there <= relay.sent <= len(DATA) - there + HEADS
            assert kept(tmp_path) == []
        origin.stop()
    with DiskCacheStore(tmp_path / "there") as repository:
        assert repository.to_bytes("k") == DATA


def test_a_conflict_that_is_resolved_sends_nothing_again(
    store: MountedStore, repository: DiskCacheStore, counted: list[Counted]
) -> None:
    store.set("k", StringValue(DATA, {}))
    repository.set("k", StringValue(b"a stranger's", {}))
    assert sync.push(store)["k"].outcome == "conflict"
    assert repository.to_bytes("k") == b"a stranger's"
    assert sync.push(store, on_conflict="ours").ok
    assert repository.to_bytes("k") == DATA
    assert counted[0].came < len(DATA) + HEADS


@pytest.mark.parametrize("how", ["old", "/nowhere", "full"])
def test_a_server_that_takes_none_gets_one_put(
    store: MountedStore,
    repository: DiskCacheStore,
    counted: list[Counted],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """One that says nothing of it, one that was replaced by such a one, one without room."""
    match how:
        case "old":
            counted[0].old = True
        case "full":
            monkeypatch.setattr(uploads, "LIMIT", 1000)
        case path:
            counted[0].refuses = path
    store.set("k", StringValue(DATA, {}))
    result = sync.push(store)["k"]
    assert (result.outcome, result.message) == ("pushed", "")
    assert counted[0].writes[-1] == "PUT /keys/k/data"
    assert repository.to_bytes("k") == DATA
    assert kept(tmp_path) == []


def test_a_store_in_memory_gets_one_put(tmp_path: Path) -> None:
    with (
        MemoryStore() as repository,
        Origin(repository) as origin,
        mounted(tmp_path / "here", dynamic(origin.url)) as store,
    ):
        store.set("k", StringValue(DATA, {}))
        assert sync.push(store).ok
        assert repository.to_bytes("k") == DATA


def test_garbage_that_others_sent_under_the_digest_only_costs_time(
    store: MountedStore, repository: DiskCacheStore, tmp_path: Path
) -> None:
    store.set("k", StringValue(DATA, {}))
    folder = tmp_path / "there" / "uploads"
    folder.mkdir()
    (folder / f"{SHA}.{len(DATA)}").write_bytes(bytes(CUT))
    assert sync.push(store).ok
    assert repository.to_bytes("k") == DATA


def test_two_who_push_the_same_bytes_at_once_both_arrive(
    origin: Origin, repository: DiskCacheStore, tmp_path: Path
) -> None:
    def push(number: int) -> bool:
        with mounted(tmp_path / f"here{number}", dynamic(origin.url)) as store:
            store.set(f"k{number}", StringValue(DATA, {}))
            return sync.push(store).ok

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(push, range(3)))
    assert {repository.to_bytes(f"k{number}") == DATA for number in range(3)} == {True}


def test_a_proxy_takes_uploads_and_passes_them_on(
    origin: Origin, repository: DiskCacheStore, tmp_path: Path
) -> None:
    from mountcache.serve.mounts import ServedMount

    with (
        mounted(tmp_path / "proxy", dynamic(origin.url)) as between,
        Origin(ServedMount(between)) as proxy,
        mounted(tmp_path / "here", dynamic(proxy.url)) as store,
    ):
        store.set("k", StringValue(DATA, {"n": 1}))
        assert sync.push(store).ok
        assert [edit.key for edit in between.staged()] == ["k"]
        assert os.listdir(tmp_path / "proxy" / "uploads") == []
        assert sync.push(between).ok
    assert repository.to_bytes("k") == DATA
    assert repository.get_metadata("k") == {"n": 1}


def _peak(pid: int | None) -> int:
    """Return the most memory that a process had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_memory_stays_flat_at_both_ends(tmp_path: Path) -> None:
    with (
        OriginProcess(tmp_path / "there") as origin,
        mounted(tmp_path / "here", dynamic(origin.url)) as store,
    ):
        store.set("before", StringValue(DATA, {}))
        assert sync.push(store).ok
        with store.open("large", "wb") as file:
            for _ in range(12):
                file.write(DATA)
        before = _peak(origin.pid)
        tracemalloc.start()
        try:
            assert sync.push(store).ok
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB
        assert _peak(origin.pid) - before < 32 * MIB


# -- what belongs together ---------------------------------------------------------------------


def stage_group(store: MountedStore) -> dict[str, bytes]:
    wanted = {"one": DATA, "two": DATA[::-1], "three": b"small"}
    with store.transaction("a large change set"):
        for key, data in wanted.items():
            store.set(key, StringValue(data, {}))
    return wanted


def test_a_large_group_is_one_change_all_the_same(
    store: MountedStore,
    repository: DiskCacheStore,
    counted: list[Counted],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backing, "BATCH_LIMIT", MIB)
    wanted = stage_group(store)
    report = sync.push(store)
    assert [(group.outcome, group.together) for group in report.groups] == [("complete", True)]
    assert set(counted[0].writes) == {"PATCH /-/", "POST /batch"}
    assert counted[0].writes[-1] == "POST /batch"
    assert {key: repository.to_bytes(key) for key in wanted} == wanted
    assert kept(tmp_path) == []


def test_a_large_group_that_was_cut_goes_on_where_it_was(
    relay: Relay, repository: DiskCacheStore, tmp_path: Path
) -> None:
    with mounted(tmp_path / "here", dynamic(relay.url)) as store:
        wanted = stage_group(store)
    pushing: list[subprocess.Popen[bytes]] = []
    relay.on_cut = lambda: (pushing[0].kill(), pushing[0].wait())
    relay.cut_after = len(DATA) + CUT
    pushing.append(
        subprocess.Popen([sys.executable, "-c", PUSH, tmp_path / "here", relay.url], cwd=ROOT)
    )
    assert pushing[0].wait() == -9
    assert list(repository.query_keys()) == []
    with mounted(tmp_path / "here", dynamic(relay.url)) as store:
        report = sync.push(store)
        assert [(group.outcome, group.together) for group in report.groups] == [("complete", True)]
    assert {key: repository.to_bytes(key) for key in wanted} == wanted
    assert relay.sent <= 2 * len(DATA) + IN_FLIGHT


def test_the_same_large_bytes_under_two_keys_are_one_change(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    with store.transaction("twice the same"):
        for key in ("one", "two"):
            store.set(key, StringValue(DATA, {}))
    report = sync.push(store)
    assert [(group.outcome, group.together) for group in report.groups] == [("complete", True)]
    assert repository.to_bytes("one") == repository.to_bytes("two") == DATA


def test_nothing_is_remembered_of_uploads_that_were_taken_over(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", lambda: 2**50)
    for number in range(3):
        data = b"%d" % number * 1000
        sha256 = hashlib.sha256(data).hexdigest()
        uploads.append(sha256, len(data), 0, io.BytesIO(data))
        (tmp_path / "uploads" / f"{sha256}.{len(data)}").rename(tmp_path / str(number))
    assert uploads.find("0" * 64) is None
    assert uploads._hashes == {}
