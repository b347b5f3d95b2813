"""Downloads: given while they come, shared, resumed, verified, and kept only when right."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mountcache.errors import (
    ChangedWhileReadingError,
    IntegrityError,
    StoreUnavailableError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.partial import Partial
from mountcache.local.store import LocalStore
from mountcache.mounted import MountedStore
from mountcache.sync import download as downloads
from tests.local_parts import Running, script
from tests.scripted import MIB, Indexed, Scripted, Whole, pattern

DATA = pattern(5 * MIB + 12345)
OTHER = pattern(5 * MIB + 12345, seed=1)


@pytest.fixture
def origin() -> Scripted:
    return Scripted()


@pytest.fixture(params=["memory", "disk"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalStore]:
    store: LocalStore
    store = MemoryStore() if request.param == "memory" else DiskCacheStore(tmp_path / "cache")
    store.connect()
    yield store
    store.disconnect()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "cache") as store:
        yield store


def mounted(local: LocalStore, origin: Whole) -> MountedStore:
    return MountedStore("", local, origin)


def copy_of(store: MountedStore, key: str) -> bytes | None:
    copy = store.mount.catalog.row(key).copy
    if copy is None:
        return None
    with store.mount.catalog.open_copy(copy) as stream:
        return stream.read()


def partial_rows(store: MountedStore) -> list[Any]:
    con = store.mount.catalog.content.connection()
    return con.execute("SELECT key, version, size FROM partial").fetchall()


def leftovers(store: MountedStore) -> list[str]:
    """Files of downloads that no row names, and descriptors of them."""
    directory = Path(store.mount.catalog.content.directory)  # type: ignore[attr-defined]
    names = {
        row[0] for row in store.mount.catalog.content.connection().execute(
            "SELECT name FROM partial"
        )
    }  # fmt: skip
    files = [path.name for path in directory.glob("partial/*") if path.name not in names]
    return files + [path.name for path in directory.glob("tmp/*")]


# -- the whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 40_000, MIB, MIB + 1, 3 * MIB, 3 * MIB + 7])
@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize("told", [True, False])
def test_value_is_given_and_kept(
    local: LocalStore, origin: Scripted, size: int, version: str | None, told: bool
) -> None:
    data = pattern(size)
    origin.put("key", data, version=version, size=size if told else None)
    store = mounted(local, origin)
    assert store.to_bytes("key") == data
    assert copy_of(store, "key") == data
    copy = store.mount.catalog.row("key").copy
    assert copy is not None
    assert copy.sha256 == hashlib.sha256(data).hexdigest()
    assert partial_rows(store) == []
    assert origin.open == 0


def test_large_value_is_given_while_it_comes(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get_data("key") as stream:
        assert stream.read(10) == DATA[:10]
        assert origin.given <= 2 * MIB
        assert copy_of(store, "key") is None
        assert stream.read() == DATA[10:]
        assert copy_of(store, "key") == DATA


def test_stream_can_be_read_in_any_order(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get_data("key") as stream:
        assert stream.seek(-100, os.SEEK_END) == len(DATA) - 100
        assert stream.read() == DATA[-100:]
        stream.seek(3 * MIB - 10)
        assert stream.read(20) == DATA[3 * MIB - 10 :][:20]
        stream.seek(0)
        assert stream.read() == DATA
    assert copy_of(store, "key") == DATA
    assert origin.given <= len(DATA) + 4 * MIB


def test_upstream_without_parts_is_read_in_any_order(local: LocalStore) -> None:
    origin = Whole()
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get_data("key") as stream:
        stream.seek(-100, os.SEEK_END)
        assert stream.read() == DATA[-100:]
        stream.seek(0)
        assert stream.read() == DATA
    assert copy_of(store, "key") == DATA
    assert origin.starts == [("key", 0)]


def test_value_that_may_not_be_kept_passes_through(local: LocalStore, origin: Scripted) -> None:
    origin.put("large", DATA, storable=False)
    origin.put("small", DATA[:100], storable=False)
    store = mounted(local, origin)
    for key in ("large", "small"):
        assert store.to_bytes(key) == origin.items[key].data
        assert copy_of(store, key) is None
    assert partial_rows(store) == []


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("version", ["v1", None])
def test_value_for_which_there_is_no_room_passes_through(
    tmp_path: Path, origin: Scripted, told: bool, version: str | None
) -> None:
    origin.put("key", DATA, size=len(DATA) if told else None, version=version)
    with DiskCacheStore(tmp_path / "cache", size_limit=2 * MIB) as disk:
        store = mounted(disk, origin)
        assert store.to_bytes("key") == DATA
        assert copy_of(store, "key") is None
        assert leftovers(store) == []
    assert origin.open == 0


@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("after", [0, 65536, 2 * MIB + 65536])
def test_full_disk_fails_no_read(
    disk: DiskCacheStore,
    origin: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    told: bool,
    after: int,
) -> None:
    write = Partial.write

    def full(self: Partial, view: memoryview, at: int) -> None:
        if at >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, view, at)

    monkeypatch.setattr(Partial, "write", full)
    origin.put("key", DATA, version=version, size=len(DATA) if told else None)
    store = mounted(disk, origin)
    assert store.to_bytes("key") == DATA
    assert copy_of(store, "key") is None
    assert origin.open == 0
    assert leftovers(store) == []
    if version is None:
        assert origin.starts == [("key", 0)]


def test_full_disk_lets_no_wrong_bytes_through(
    disk: DiskCacheStore, origin: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Partial.write

    def full(self: Partial, view: memoryview, at: int) -> None:
        if at >= 2 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, view, at)

    monkeypatch.setattr(Partial, "write", full)
    origin.put("key", DATA, sha256="0" * 64)
    with mounted(disk, origin).get_data("key") as stream, pytest.raises(IntegrityError):
        stream.read(len(DATA))


# -- wrong bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, MIB, 3 * MIB, 3 * MIB + 7])
@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize(
    "facts",
    [
        {"sha256": "0" * 64},
        {"md5": "0" * 32},
        {"size": "shorter"},
        {"size": "longer"},
        {"size": None, "sha256": "0" * 64},
    ],
)
def test_wrong_bytes_are_an_error_and_not_kept(
    local: LocalStore, origin: Scripted, size: int, version: str | None, facts: dict[str, Any]
) -> None:
    told = {"shorter": size - 1, "longer": size + 1}
    said = {name: told.get(value, value) for name, value in facts.items()}
    data = pattern(size)
    origin.put("key", data, version=version, **said)
    store = mounted(local, origin)
    for _ in range(2):
        with pytest.raises(IntegrityError):
            store.to_bytes("key")
        assert copy_of(store, "key") is None
    assert origin.open == 0


@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize("storable", [True, False])
def test_reader_of_exactly_content_length_never_gets_the_end_of_wrong_bytes(
    local: LocalStore, origin: Scripted, version: str | None, storable: bool
) -> None:
    origin.put("key", DATA, version=version, sha256="0" * 64, storable=storable)
    store = mounted(local, origin)
    got = b""
    with store.get_data("key") as stream, pytest.raises(IntegrityError):
        while len(got) < len(DATA):
            got += stream.read(min(100_000, len(DATA) - len(got)))
    assert len(got) < len(DATA)
    assert copy_of(store, "key") is None
    assert partial_rows(store) == []


def test_wrong_bytes_are_asked_for_anew_once_upstream_is_mended(
    local: LocalStore, origin: Scripted
) -> None:
    good = hashlib.sha256(DATA).hexdigest()
    item = origin.put("key", DATA, version="v1", sha256=good)
    item.data = OTHER
    store = mounted(local, origin)
    with pytest.raises(IntegrityError):
        store.to_bytes("key")
    item.data = DATA
    assert store.to_bytes("key") == DATA
    assert copy_of(store, "key") == DATA


@pytest.mark.parametrize("promise", ["sha256", "md5"])
def test_promise_of_the_index_counts(local: LocalStore, promise: str) -> None:
    origin = Indexed()
    for key, data in (("large", DATA), ("small", b"small")):
        origin.put(key, data)
        digest = hashlib.new(promise, data).hexdigest()
        origin.promise(key, **{promise: digest, "size": len(data)})
        wrong = f"wrong-{key}"
        origin.put(wrong, data)
        origin.promise(wrong, **{promise: hashlib.new(promise, b"").hexdigest()})
    store = mounted(local, origin)
    for key, data in (("large", DATA), ("small", b"small")):
        assert store.to_bytes(key) == data
        assert copy_of(store, key) == data
        with pytest.raises(IntegrityError):
            store.to_bytes(f"wrong-{key}")
        assert copy_of(store, f"wrong-{key}") is None


# -- upstream changes or breaks ----------------------------------------------------------------


def test_change_in_mid_stream_is_an_error(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get_data("key") as stream:
        stream.read(100)
        origin.put("key", OTHER)
        stream.seek(4 * MIB)
        with pytest.raises(ChangedWhileReadingError):
            stream.read(1)
    assert store.to_bytes("key") == OTHER
    assert copy_of(store, "key") == OTHER
    assert origin.open == 0
    assert partial_rows(store) == []


def test_value_stays_bound_to_the_version_it_named(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    value = store.get("key")
    origin.put("key", OTHER)
    with pytest.raises(ChangedWhileReadingError):
        value.data.read()
    assert store.to_bytes("key") == OTHER


def test_read_of_a_key_begins_again_when_upstream_changes_before_a_byte(
    local: LocalStore, origin: Scripted
) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    get = origin.get

    def get_and_change(key: str) -> Any:
        value = get(key)
        if len(origin.starts) == 0:
            origin.put("key", OTHER)
            origin.get = get  # type: ignore[method-assign]
        return value

    origin.get = get_and_change  # type: ignore[method-assign]
    assert store.to_bytes("key") == OTHER


def test_broken_connection_is_mended_in_mid_stream(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    broken = []

    def giving(key: str, at: int) -> None:
        if at >= 2 * MIB and not broken:
            broken.append(at)
            raise StoreUnavailableError("the connection broke")

    origin.giving = giving
    store = mounted(local, origin)
    assert store.to_bytes("key") == DATA
    assert [start for _, start in origin.starts] == [0, broken[0]]
    assert copy_of(store, "key") == DATA


def test_read_goes_on_where_an_earlier_one_was_broken_off(
    local: LocalStore, origin: Scripted
) -> None:
    origin.put("key", DATA)

    def giving(key: str, at: int) -> None:
        if at >= 3 * MIB:
            origin.down = True
            raise StoreUnavailableError("the connection broke")

    origin.giving = giving
    store = mounted(local, origin)
    with pytest.raises(StoreUnavailableError):
        store.to_bytes("key")
    origin.down = False
    origin.giving = lambda key, at: None
    assert MountedStore("", local, origin).to_bytes("key") == DATA
    assert origin.starts[-1] == ("key", 3 * MIB)
    assert origin.given < len(DATA) + MIB
    assert copy_of(store, "key") == DATA


# -- readers that stop, share, alternate -----------------------------------------------------


@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize("told", [True, False])
def test_reader_that_stops_leaves_nothing_open(
    disk: DiskCacheStore, origin: Scripted, version: str | None, told: bool
) -> None:
    origin.put("key", DATA, version=version, size=len(DATA) if told else None)
    store = mounted(disk, origin)
    gc.collect()  # what other tests left open isn't to go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    stream = store.get_data("key")
    stream.read(2 * MIB + 5)
    stream.close()
    assert origin.open == 0
    assert len(os.listdir("/proc/self/fd")) == before
    assert leftovers(store) == []
    assert copy_of(store, "key") is None
    stream = store.get_data("key")
    del stream
    gc.collect()
    assert origin.open == 0
    assert len(os.listdir("/proc/self/fd")) == before
    assert not downloads._downloads.get(store.mount.catalog.content)
    assert store.to_bytes("key") == DATA


@pytest.mark.parametrize("kind", [Scripted, Whole])
def test_two_readers_in_one_thread_take_turns(local: LocalStore, kind: type[Whole]) -> None:
    origin = kind()
    origin.put("key", DATA)
    store = mounted(local, origin)
    got = [b"", b""]
    with store.get_data("key") as one, store.get_data("key") as two:
        while len(got[1]) < len(DATA):
            got[0] += one.read(300_000)
            got[1] += two.read(200_000)
            got[1] += two.read(250_000)
    assert got[0] + DATA[len(got[0]) :] == DATA
    assert got[1] == DATA
    assert origin.given == len(DATA)


def test_nobody_waits_for_a_reader_that_has_stopped(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get_data("key") as idle:
        idle.read(MIB + 5)
        assert store.to_bytes("key") == DATA
        assert origin.given == len(DATA)
        assert idle.read() == DATA[MIB + 5 :]


def test_readers_in_threads_share_one_download(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    together = threading.Barrier(8)

    def read(number: int) -> bool:
        with store.get_data("key") as stream:
            together.wait()
            if number % 2:
                stream.seek(number * 500_000)
                assert stream.read(10) == DATA[number * 500_000 :][:10]
                stream.seek(0)
            return stream.read() == DATA

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert copy_of(store, "key") == DATA
    assert origin.given <= len(DATA) + 8 * 65536
    assert origin.open == 0
    assert partial_rows(store) == []


def test_reader_whose_bytes_another_thread_asks_for_gets_them_too(
    local: LocalStore, origin: Scripted
) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    asked, go_on = threading.Event(), threading.Event()

    def giving(key: str, at: int) -> None:
        asked.set()
        assert go_on.wait(30)

    origin.giving = giving
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.to_bytes, "key")
        assert asked.wait(30)
        second = pool.submit(store.to_bytes, "key")
        go_on.set()
        assert first.result() == second.result() == DATA
    assert origin.given == len(DATA)


def test_error_of_one_stream_lets_other_readers_go_on(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    failing = threading.current_thread()

    def giving(key: str, at: int) -> None:
        if threading.current_thread() is failing:
            raise StoreUnavailableError("the connection broke")

    with store.get_data("key") as stream:
        stream.read(10)
        origin.giving = giving
        with pytest.raises(StoreUnavailableError):
            stream.read()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(store.to_bytes, "key").result() == DATA
        assert copy_of(store, "key") == DATA


# -- parts -------------------------------------------------------------------------------------


def test_range_fetches_only_its_blocks_and_keeps_them(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)

    def part(start: int, end: int | None) -> bytes:
        with store.get("key").range(start, end) as stream:
            return stream.read()

    assert part(2 * MIB + 5, 2 * MIB + 50) == DATA[2 * MIB + 5 : 2 * MIB + 50]
    assert origin.given <= MIB
    given = origin.given
    assert part(2 * MIB + 9, 2 * MIB + 11) == DATA[2 * MIB + 9 : 2 * MIB + 11]
    assert part(len(DATA) - 7, None) == DATA[-7:]
    assert part(len(DATA) - 7, len(DATA) + 7) == DATA[-7:]
    assert part(len(DATA), None) == part(5, 5) == b""
    assert origin.given <= given + 3 * MIB
    assert copy_of(store, "key") is None
    assert part(0, None) == DATA
    assert copy_of(store, "key") == DATA
    assert origin.open == 0


def test_block_that_a_range_has_read_is_not_fetched_again(
    local: LocalStore, origin: Scripted
) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get("key").range(MIB, 2 * MIB) as stream:
        stream.read()
    given = origin.given
    with store.get("key").range(MIB, 2 * MIB) as stream:
        assert stream.read() == DATA[MIB : 2 * MIB]
    assert origin.given == given


def test_range_of_a_small_value_keeps_it(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", b"0123456789")
    store = mounted(local, origin)
    with store.get("key").range(3, 6) as stream:
        assert stream.read() == b"345"
    assert copy_of(store, "key") == b"0123456789"


def test_partial_of_an_older_version_goes(local: LocalStore, origin: Scripted) -> None:
    origin.put("key", DATA)
    store = mounted(local, origin)
    with store.get("key").range(0, MIB) as stream:
        stream.read()
    assert len(partial_rows(store)) == 1
    origin.put("key", OTHER)
    assert store.to_bytes("key") == OTHER
    assert partial_rows(store) == []
    with store.get_data("key") as stream:
        assert stream.read() == OTHER


# -- processes ---------------------------------------------------------------------------------

_CHILD = """
import sys
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.scripted import MIB, Scripted, pattern

origin = Scripted()
origin.put("key", pattern(5 * MIB + 12345))
with DiskCacheStore(sys.argv[1]) as disk:
    stream = MountedStore("", disk, origin).get_data("key")
    data = stream.read(3 * MIB)
    print("read", flush=True)
    for line in sys.stdin:
        data += stream.read(int(line))
        print(origin.given, data == pattern(5 * MIB + 12345)[:len(data)], flush=True)
"""


def test_download_of_a_killed_process_is_resumed(
    disk: DiskCacheStore, origin: Scripted, tmp_path: Path
) -> None:
    origin.put("key", DATA)
    with Running(_CHILD, tmp_path / "cache") as other:
        assert other.hear() == "read"
        other.kill()
    store = mounted(disk, origin)
    assert store.to_bytes("key") == DATA
    assert 2 * MIB <= origin.starts[-1][1] <= 3 * MIB
    assert origin.given <= len(DATA) - 2 * MIB
    assert copy_of(store, "key") == DATA
    assert leftovers(store) == []


def test_partial_of_an_earlier_boot_is_not_trusted(
    disk: DiskCacheStore, origin: Scripted, tmp_path: Path
) -> None:
    origin.put("key", DATA)
    with Running(_CHILD, tmp_path / "cache") as other:
        assert other.hear() == "read"
        other.kill()
    with disk.catalog.content.write() as con:
        con.execute("UPDATE partial SET boot = 'earlier'")
    store = mounted(disk, origin)
    assert store.to_bytes("key") == DATA
    assert origin.given == len(DATA)
    assert leftovers(store) == []


def test_process_reads_what_another_one_downloads(
    disk: DiskCacheStore, origin: Scripted, tmp_path: Path
) -> None:
    origin.put("key", DATA)
    store = mounted(disk, origin)
    with Running(_CHILD, tmp_path / "cache") as other:
        assert other.hear() == "read"
        with store.get_data("key") as stream:
            got = stream.read(2 * MIB)
            other.say(str(3 * MIB))
            got += stream.read()
            assert other.hear().endswith("True")
    assert got == DATA
    assert origin.given <= 65536
    assert copy_of(store, "key") == DATA
    assert leftovers(store) == []


def test_process_fetches_the_rest_itself_once_another_one_stands_still(
    disk: DiskCacheStore, origin: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    origin.put("key", DATA)
    store = mounted(disk, origin)
    with Running(_CHILD, tmp_path / "cache") as other:
        assert other.hear() == "read"
        assert store.to_bytes("key") == DATA
        assert origin.given <= len(DATA) - 2 * MIB
        assert copy_of(store, "key") == DATA
        other.say(str(3 * MIB))
        assert other.hear().endswith("True")
    assert copy_of(store, "key") == DATA
    assert leftovers(store) == []


def test_range_waits_for_no_other_process(
    disk: DiskCacheStore, origin: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 3600.0)
    origin.put("key", DATA)
    store = mounted(disk, origin)
    with Running(_CHILD, tmp_path / "cache") as other:
        assert other.hear() == "read"
        with store.get("key").range(5 * MIB, 5 * MIB + 10) as stream:
            assert stream.read() == DATA[5 * MIB : 5 * MIB + 10]


@pytest.mark.parametrize("version", ["v1", None])
@pytest.mark.parametrize("told", [True, False])
def test_child_forked_while_reading_disturbs_nobody(
    disk: DiskCacheStore, origin: Scripted, version: str | None, told: bool
) -> None:
    origin.put("key", DATA, version=version, size=len(DATA) if told else None)
    store = mounted(disk, origin)
    with store.get_data("key") as stream:
        head = stream.read(2 * MIB + 5)
        child = os.fork()
        if not child:
            good = False
            try:
                try:
                    good = stream.read() == DATA[2 * MIB + 5 :]
                except StoreUnavailableError:
                    good = version is None
                stream.close()
            finally:
                os._exit(0 if good else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert head + stream.read() == DATA
    assert copy_of(store, "key") == DATA
    assert store.to_bytes("key") == DATA
    assert leftovers(store) == []


# -- memory ------------------------------------------------------------------------------------


def test_memory_stays_flat_while_a_large_value_goes_through(tmp_path: Path) -> None:
    peak = script(
        """
        import sys, tracemalloc
        from mountcache.local.disk import DiskCacheStore
        from mountcache.mounted import MountedStore
        from tests.scripted import MIB, Scripted, pattern

        origin = Scripted()
        origin.put("key", pattern(MIB) * 64)
        with DiskCacheStore(sys.argv[1], size_limit=100 * MIB) as disk:
            store = MountedStore("", disk, origin)
            store.get("key")
            tracemalloc.start()
            with store.get_data("key") as stream:
                while stream.read(MIB):
                    pass
            assert store.mount.catalog.row("key").copy is not None
            print(tracemalloc.get_traced_memory()[1])
        """,
        tmp_path / "cache",
    )
    assert int(peak) < 8 * MIB
