"""AsyncMountedStore: the verbs of a MountedStore for asyncio, and what a cancel does to them."""

from __future__ import annotations

import asyncio
import inspect
import io
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import mountcache
from mountcache import (
    AsyncMountedStore,
    DiskCacheStore,
    DynamicURLStore,
    MemoryStore,
    MountedStore,
    StringValue,
    asynchronous,
    sync,
)
from mountcache.abc import Value
from mountcache.asyncvalues import AsyncStream, AsyncValue
from mountcache.errors import (
    ConflictError,
    StoreUnavailableError,
    TransactionError,
)
from mountcache.testing import Origin
from tests.command import ROOT
from tests.servers import Reply, ScriptedServer

PATIENCE = 20.0
MIB = 1048576


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, which nothing may keep it from; no thread is left then."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await main

    asyncio.run(bounded())
    assert not running("mountcache-async", "mountcache-push", "mountcache-prefetch", "asyncio")


def running(*beginnings: str) -> list[str]:
    names = [each.name for each in threading.enumerate()]
    return [name for name in names if name.startswith(beginnings)]


@pytest.fixture
def origin() -> Iterator[Origin]:
    contents = {f"k{number}": (b"%d" % number, {"n": number}) for number in range(5)}
    with Origin(contents) as running:
        yield running


@pytest.fixture
def blocking(tmp_path: Path, origin: Origin) -> MountedStore:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    return MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)


@pytest.fixture
def store(blocking: MountedStore) -> AsyncMountedStore:
    return AsyncMountedStore(blocking)


@pytest.fixture
def alone(tmp_path: Path) -> AsyncMountedStore:
    """A store without a server."""
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    return AsyncMountedStore(MountedStore("", local, MemoryStore()))


class Slow(io.RawIOBase):
    """A stream of so many MiB that goes on only when it is let."""

    def __init__(self, pieces: int) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self.given = 0
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        self.asked.set()
        assert self.go.wait(PATIENCE)
        if self.given == self._pieces:
            return b""
        self.given += 1
        return bytes(MIB)


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


# -- the same verbs --------------------------------------------------------------------------

BESIDE = {
    # asks a store for its innards
    "mount",
    # emits an event for stores that are built on the base class
    "announce",
}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [
        (each.name, each.kind, each.default)
        for each in list(inspect.signature(function).parameters.values())[1:]
    ]


def test_every_verb_of_a_mounted_store_is_there_with_the_same_parameters() -> None:
    missing = public(MountedStore) - public(AsyncMountedStore) - BESIDE
    assert not missing, f"add a line for each to mountcache/asynchronous.py: {sorted(missing)}"
    for name in sorted(public(MountedStore) - BESIDE):
        theirs, mine = getattr(MountedStore, name), getattr(AsyncMountedStore, name)
        assert inspect.getdoc(mine), name
        if isinstance(theirs, property):
            assert isinstance(mine, property)
        else:
            assert parameters(theirs) == parameters(mine), name


def test_a_verb_that_could_block_is_awaited_or_iterated() -> None:
    at_once = {
        "offline_switch",
        "push_paused",
        "info",
        "user_tag",
        "is_connected",
        "is_offline",
        "with_options",
        "transaction",
        "local_path",
    }
    for name in sorted(public(MountedStore) - BESIDE - at_once):
        verb = getattr(AsyncMountedStore, name)
        theirs = getattr(MountedStore, name)
        if "Iterator" in str(inspect.signature(theirs).return_annotation):
            assert "AsyncGenerator" in str(inspect.signature(verb).return_annotation) or (
                getattr(verb, "__wrapped__", None) is theirs
            ), name
        else:
            assert inspect.iscoroutinefunction(verb), name


def test_every_function_of_sync_is_there_with_the_same_parameters() -> None:
    functions = {
        name
        for name in sync.__all__
        if inspect.isfunction(getattr(sync, name))
        and next(iter(inspect.signature(getattr(sync, name)).parameters)) == "store"
    }
    assert len(functions) > 10
    missing = functions - set(asynchronous.__all__)
    assert not missing, f"add a line for each to mountcache/asynchronous.py: {sorted(missing)}"
    for name in functions:
        assert parameters(getattr(sync, name)) == parameters(getattr(asynchronous, name)), name


def test_open_takes_what_mountcache_open_takes() -> None:
    mine = inspect.signature(asynchronous.open).parameters
    theirs = inspect.signature(mountcache.open).parameters
    assert set(mine) == set(theirs) | {"threads"}


def test_every_attribute_of_a_value_is_there() -> None:
    assert public(Value) <= public(AsyncValue)


# -- reading and writing ---------------------------------------------------------------------


def test_reads_lists_and_edits_as_the_store_below_does(store: AsyncMountedStore) -> None:
    async def main() -> None:
        async with store:
            assert await store.to_bytes("k3") == b"3"
            assert await store.get_metadata("k3") == {"n": 3}
            assert [key async for key in store.glob("k*")] == [f"k{n}" for n in range(5)]
            assert [key async for key in store.query_keys(n=2)] == ["k2"]
            assert [m async for _, m in store.query(["n"], n=2)] == [{"n": 2}]
            assert [v.metadata["n"] async for v in store.multiget(["k1", "k0"])] == [1, 0]
            assert [await s.read() async for s in store.multiget_data(["k1"])] == [b"1"]
            assert [m async for m in store.multiget_metadata(["k1"])] == [{"n": 1}]
            assert not await store.exists("nowhere")
            with pytest.raises(KeyError):
                await store.get("nowhere")
            await store.set("new", (io.BytesIO(b"new"), {"by": "me"}))
            await store.delete("k0")
            await store.mv("k1", "moved")
            assert {edit.key async for edit in store.staged()} == {"new", "k0", "k1", "moved"}
            report = await asynchronous.push(store)
            assert report.ok
            assert [each async for each in store.staged()] == []
            assert (await store.push("k4")).outcome == "already there"
            assert not store.is_offline()
            assert (await store.stats())["staged_keys"] == 0

    run(main())


def test_a_value_is_a_snapshot_with_a_stream(store: AsyncMountedStore) -> None:
    async def main() -> None:
        async with store:
            await store.set_data("big", io.BytesIO(b"abc" * MIB))
            value = await store.get("big")
            assert (value.size, value.source, value.metadata) == (3 * MIB, "staged", {})
            await store.set_data("big", io.BytesIO(b"later"))
            async with value as data:
                assert await data.read(4) == b"abca"
                assert await data.seek(1) == 1
                assert await data.tell() == 1
                assert await data.read(2) == b"bc"
            async with await value.range(3, 9) as part:
                assert await part.read() == b"abcabc"
            pieces = [len(piece) async for piece in value.iterdata(2 * MIB)]
            assert pieces == [2 * MIB, MIB]
            assert value.blocking.size == 3 * MIB

    run(main())


def test_data_comes_from_blocking_and_from_async_sources(
    alone: AsyncMountedStore, tmp_path: Path
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"x" * MIB

    async def main() -> None:
        async with alone as store:
            await store.set_data("a", pieces())
            await store.set("b", (pieces(), {"n": 1}))
            # From one key to another, also where the source waits for the same store.
            await store.set_data("c", await store.get_data("a"))
            await store.set("d", await store.get("b"))

            async def from_the_store() -> AsyncIterator[bytes]:
                async for piece in await store.get_data("a"):
                    yield piece

            async with store.transaction("many"):
                await store.set_data("e", from_the_store())
            await store.multiset(["f"], [(await store.get_data("a"), {"n": 2})])
            await store.multiset_data(["g"], [await store.get_data("a")])
            for key in "abcdefg":
                assert len(await store.to_bytes(key)) == 3 * MIB, key
            assert (await store.get_metadata("d")) == {"n": 1}
            await store.to_file("a", tmp_path / "out")
            assert (tmp_path / "out").stat().st_size == 3 * MIB
            async with store.local_path("a") as path:
                assert path.stat().st_size == 3 * MIB
            assert not path.exists()

    run(main())


def test_a_file_is_staged_by_a_close_in_good_order_alone(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            async with await store.open("k", "wb") as file:
                await file.write(b"one")
            with pytest.raises(RuntimeError):
                async with await store.open("k", "wb") as file:
                    await file.write(b"two")
                    raise RuntimeError
            file = await store.open("j", "wb")
            await file.write(b"two")
            with pytest.raises(RuntimeError):
                try:
                    raise RuntimeError
                finally:
                    await file.aclose()
            assert not await store.exists("j")
            async with await store.open("k") as data:
                assert await data.read() == b"one"
            with pytest.raises(ValueError, match="opened with 'rb' or 'wb'"):
                await store.open("k", "a")

    run(main())


def test_what_is_known_comes_before_the_error(store: AsyncMountedStore, origin: Origin) -> None:
    async def main() -> None:
        async with store:
            assert await store.exists("k1")
            await store.from_bytes("mine", b"1")
            origin.stop()
            keys = []
            with pytest.raises(StoreUnavailableError):
                async for key in store.query_keys():
                    keys.append(key)  # noqa: PERF401 - what comes before the error counts
            assert "mine" in keys
            partial = store.with_options(partial=True)
            assert "mine" in [key async for key in partial.query_keys()]

    run(main())


def test_a_listing_holds_a_page_and_not_all(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            keys = [f"{number:05}" for number in range(5000)]
            await store.multiset_data(keys, (io.BytesIO() for _ in keys))
            given = 0

            def counted(*args: Any, **kwargs: Any) -> Iterator[str]:
                nonlocal given
                for key in MountedStore.query_keys(store.blocking, *args, **kwargs):
                    given += 1
                    yield key

            store.blocking.query_keys = counted  # type: ignore[method-assign]
            listing = store.query_keys()
            assert await anext(listing) == "00000"
            assert given == 1000
            await listing.aclose()
            assert [key async for key in store.query_keys()] == keys

    run(main())


def test_progress_is_told_on_the_loop_and_before_the_end(store: AsyncMountedStore) -> None:
    async def main() -> None:
        loop = threading.get_ident()
        told: list[tuple[int, int]] = []
        threads = set()

        def step(done: int, total: int, key: str) -> None:
            threads.add(threading.get_ident())
            told.append((done, total))

        async with store:
            report = await asynchronous.prefetch(store, "*", progress=step)
            assert report.fetched == 5
            assert told[-1] == (5, 5)
            told.clear()
            await store.set_data("k1", io.BytesIO(b"other"))
            assert (await asynchronous.push(store, progress=step)).ok
            assert told == [(1, 1)]
            assert (await asynchronous.status(store)).edits == ()
        assert threads == {loop}

    run(main())


def test_differences_are_iterated(store: AsyncMountedStore) -> None:
    async def main() -> None:
        async with store:
            await store.to_bytes("k1")
            await store.set_data("k1", io.BytesIO(b"other\n"))
            found = [each async for each in asynchronous.diff(store)]
            assert [each.key for each in found] == ["k1"]
            assert (await asynchronous.side(store, "k1", "base")).size == 1

    run(main())


def test_opens_what_mountcache_toml_says(tmp_path: Path, origin: Origin) -> None:
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\n')

    async def main() -> None:
        async with await asynchronous.open(tmp_path) as store:
            assert store.is_connected()
            assert await store.to_bytes("k2") == b"2"
        assert not store.is_connected()

    run(main())


def test_python_of_the_asyncio_page_runs(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.change("runs/1.csv", b"1,2")
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/asyncio.md").read_text(), re.DOTALL)
    exec(compile(code, "docs/asyncio.md", "exec"), {})
    with mountcache.open(tmp_path) as store:
        assert store.to_bytes("runs/2.csv") == b"1,2"
        assert store.get_metadata("runs/1.csv") == {"checked": True}
        assert not list(store.staged())


# -- transactions ----------------------------------------------------------------------------


def test_two_tasks_with_two_transactions_do_not_see_each_other(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        both = asyncio.Barrier(2)

        async def write(mine: str) -> None:
            async with alone.transaction(mine):
                await alone.from_bytes(mine, b"1")
                await both.wait()
                assert await alone.exists(mine)
                # A look at the other's key by name would be a conflict with it later, rightly.
                assert [key async for key in alone.query_keys()] == [mine]
                await both.wait()

        async with alone:
            await asyncio.gather(write("a"), write("b"))
            assert [key async for key in alone.query_keys()] == ["a", "b"]

    run(main())


def test_a_transaction_is_whole_or_absent(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            with pytest.raises(RuntimeError):
                async with store.transaction("outer"):
                    await store.from_bytes("a", b"1")
                    raise RuntimeError
            async with store.transaction("outer"):
                await store.from_bytes("b", b"1")
                with pytest.raises(RuntimeError):
                    async with store.transaction("inner"):
                        await store.from_bytes("c", b"1")
                        raise RuntimeError
                assert not await store.exists("c")
                assert await asyncio.to_thread(store.blocking.exists, "b") is False
            assert [key async for key in store.query_keys()] == ["b"]
            with pytest.raises(TransactionError):
                async with store.transaction("no push"):
                    await asynchronous.push(store)

    run(main())


def test_a_transaction_commits_nothing_if_what_it_read_was_changed(
    alone: AsyncMountedStore,
) -> None:
    async def main() -> None:
        async with alone as store:
            await store.from_bytes("a", b"1")
            read, changed = asyncio.Event(), asyncio.Event()

            async def other() -> None:
                await read.wait()
                await store.from_bytes("a", b"2")
                changed.set()

            task = asyncio.create_task(other())
            with pytest.raises(ConflictError):
                async with store.transaction("t"):
                    await store.to_bytes("a")
                    read.set()
                    await changed.wait()
                    await store.from_bytes("b", b"1")
            await task
            assert not await store.exists("b")

    run(main())


def test_tasks_that_are_started_in_a_transaction_belong_to_it(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            async with store.transaction("many"), asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(store.from_bytes(f"{number:02}", b"1"))
                group.create_task(inside(store))
            edits = [edit async for edit in store.staged()]
            assert len(edits) == 21
            assert len({edit.group for edit in edits}) == 1

    async def inside(store: AsyncMountedStore) -> None:
        async with store.transaction("one of them"):
            await store.from_bytes("nested", b"1")

    run(main())


def test_a_task_that_outlives_its_transaction_is_told(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            ended = asyncio.Event()

            async def late() -> None:
                await ended.wait()
                await store.from_bytes("lost", b"1")

            async with store.transaction("t"):
                task = asyncio.create_task(late())
                await store.from_bytes("a", b"1")
            ended.set()
            with pytest.raises(TransactionError, match="has ended"):
                await task
            await store.from_bytes("b", b"1")
            assert [key async for key in store.query_keys()] == ["a", "b"]

    run(main())


# -- cancels ---------------------------------------------------------------------------------


def test_a_cancelled_write_stages_nothing_and_has_ended(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            data = Slow(3)
            task = asyncio.create_task(store.set_data("k", data))
            await happened(data.asked)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()  # it is still being read
            data.go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert data.given <= 1
            assert not await store.exists("k")
            assert [each async for each in store.staged()] == []

    run(main())


def test_a_write_that_is_cancelled_too_late_is_whole(alone: AsyncMountedStore) -> None:
    """The cancel comes while the commit is under way."""

    async def main() -> None:
        async with alone as store:
            committing, go = threading.Event(), threading.Event()

            def slow(event: object) -> None:
                committing.set()
                assert go.wait(PATIENCE)

            store.event_manager.connect(mountcache.events.StoreSetEvent, slow)
            task = asyncio.create_task(store.from_bytes("k", b"whole"))
            await happened(committing)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.to_bytes("k") == b"whole"

    run(main())


def test_a_cancelled_transaction_commits_nothing(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            inside = asyncio.Event()

            async def write() -> None:
                async with store.transaction("t"):
                    await store.from_bytes("a", b"1")
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(write())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await store.exists("a")
            data = Slow(3)

            async def write_slowly() -> None:
                async with store.transaction("t"):
                    await store.from_bytes("a", b"1")
                    await store.set_data("b", data)

            task = asyncio.create_task(write_slowly())
            await happened(data.asked)
            task.cancel()
            data.go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [key async for key in store.query_keys()] == []

    run(main())


def test_an_async_source_that_is_cancelled_stages_nothing(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with alone as store:
            asked = asyncio.Event()

            async def pieces() -> AsyncIterator[bytes]:
                yield b"x" * 2 * MIB
                asked.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(store.set_data("k", pieces()))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await store.exists("k")

    run(main())


@pytest.fixture
def stalling() -> Iterator[tuple[ScriptedServer, threading.Event]]:
    """A server whose data stops after its first MiB, until an event is set."""
    go = threading.Event()
    body = bytes(4 * MIB)
    head = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v"\r\n\r\n' % len(body)
    with ScriptedServer() as server:
        server.on("GET", "/keys/k/metadata", Reply(body=b"{}", headers={"ETag": '"m"'}))
        server.on("HEAD", "/keys/k/data", Reply(body=body, headers={"ETag": '"v"'}))
        server.on("GET", "/keys/k/data", [head + body[:MIB], go, body[MIB:]])
        yield server, go
        go.set()


def test_a_cancelled_read_releases_its_download(
    stalling: tuple[ScriptedServer, threading.Event], tmp_path: Path
) -> None:
    server, go = stalling
    backing = DynamicURLStore(f"{server.url}keys", f"{server.url}query")
    store = AsyncMountedStore(
        MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)
    )

    async def main() -> None:
        async with store:
            stream = await store.get_data("k")
            assert len(await stream.read(1000)) == 1000
            with pytest.raises(TimeoutError):
                # What is asked for can't come; who waits isn't held by that.
                async with asyncio.timeout(0.05):
                    await stream.read()
            assert stream.closed
            with pytest.raises(ValueError, match="was closed"):
                await stream.read(1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.to_bytes("k")
            go.set()
            # The thread that was left in it closes it: to end the store waits for that.
        assert stream.blocking.closed

    run(main())


def test_a_stream_is_read_by_one_task_at_a_time(
    stalling: tuple[ScriptedServer, threading.Event], tmp_path: Path
) -> None:
    server, go = stalling
    backing = DynamicURLStore(f"{server.url}keys", f"{server.url}query")
    store = AsyncMountedStore(
        MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)
    )

    async def main() -> None:
        async with store, await store.get_data("k") as stream:
            assert isinstance(stream, AsyncStream)
            task = asyncio.create_task(stream.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.read(1)
            go.set()
            assert len(await task) == 4 * MIB

    run(main())


def test_a_cancelled_push_ends_what_is_in_flight_and_begins_no_more(
    store: AsyncMountedStore, origin: Origin
) -> None:
    async def main() -> None:
        async with store:
            for number in range(50):
                await store.from_bytes(f"new{number:02}", b"1")
            first = asyncio.Event()
            task = asyncio.create_task(
                asynchronous.push(store, workers=2, progress=lambda *_: first.set())
            )
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = [edit async for edit in store.staged()]
            assert 0 < len(left) < 50
            assert not any(edit.in_flight for edit in left)
            assert store.blocking.mount.catalog.ops() == []
            report = await asynchronous.push(store)
            assert report.ok
            assert len(report.results) == len(left)

    run(main())


def test_a_cancelled_prefetch_leaves_no_thread_and_goes_on_later(
    store: AsyncMountedStore, origin: Origin
) -> None:
    for number in range(200):
        origin.change(f"more{number:03}", b"x" * 1000)

    async def main() -> None:
        async with store:
            first = asyncio.Event()
            task = asyncio.create_task(
                asynchronous.prefetch(store, workers=2, progress=lambda *_: first.set())
            )
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not running("mountcache-prefetch")
            here = (await store.stats())["cached_keys"]
            assert here < 205
            report = await asynchronous.prefetch(store)
            assert report.fetched == 205 - here

    run(main())


def test_what_is_cancelled_before_it_began_does_not_begin(alone: AsyncMountedStore) -> None:
    async def main() -> None:
        async with AsyncMountedStore(alone.blocking, threads=1) as store:
            data = Slow(1)
            first = asyncio.create_task(store.set_data("a", data))
            await happened(data.asked)
            second = asyncio.create_task(store.from_bytes("b", b"1"))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second  # though the only thread is taken
            data.go.set()
            await first
            assert [key async for key in store.query_keys()] == ["a"]

    run(main())


def test_values_that_nobody_takes_any_more_are_closed(store: AsyncMountedStore) -> None:
    async def main() -> None:
        async with store:
            async for stream in store.multiget_data(["k1", "k2"]):
                assert await stream.read() == b"1"
                await stream.aclose()
                break
            assert stream.blocking.closed
            assert (await store.get("k1")).source == "cached"

    run(main())


def test_a_store_can_be_used_again_after_it_was_closed(blocking: MountedStore) -> None:
    async def main() -> None:
        store = AsyncMountedStore(blocking)
        for _ in range(2):
            async with store:
                assert await store.to_bytes("k1") == b"1"
        await store.connect()
        assert StringValue(b"").size == 0
        await store.disconnect()

    run(main())
