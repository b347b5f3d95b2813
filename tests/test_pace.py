"""Traffic is held back as the limits say, and nothing else is: no lock, no deadline, no Ctrl-C."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import chunks
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.limits import Limits, Timetable, parse_rate
from mountcache.backing.pace import Pace, PacedBody
from mountcache.backing.static import StaticURLStore
from mountcache.config import backing_store, read_settings
from mountcache.errors import ConfigurationError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import ROOT, Inside, environment, words
from tests.servers import Reply, ScriptedServer, scripted

__all__ = ["scripted"]

KIB = 1024


class Time:
    """A clock that goes on by being slept on; of several threads, each sleeps by itself."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def paced(limits: Limits, now: Time, **more: Any) -> Pace:
    return Pace(limits, clock=lambda: now.now, sleep=now.sleep, **more)


def of(rate: str | float) -> Limits:
    return Limits(bytes=parse_rate(rate))


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("512k", 512 * KIB), ("512K", 512 * KIB), ("1.5M", 1.5 * KIB**2), ("10 MiB/s", 10 * KIB**2),
        ("1kB", 1000), ("2 GB", 2e9), ("100", 100), ("100B", 100), (4096, 4096), ("off", None),
    ],
)  # fmt: skip
def test_rates_are_read(text: str | float, rate: float | None) -> None:
    assert parse_rate(text) == Timetable(((0, rate),))


@pytest.mark.parametrize(
    "text",
    ["", "fast", "0", 0, -1, True, float("nan"), float("inf"), "1 x", "08:00,", "8:00,1k",
     "24:00,1k", "08:60,1k", "Xxx-08:00,1k", "08:00,1k,2k", "08:00,0"],
)  # fmt: skip
def test_what_is_no_rate_is_told(text: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^the rate is "):
        parse_rate(text)


def test_timetable_holds_by_the_time_of_the_day_and_week() -> None:
    table = parse_rate("08:00,512k 18:00,off Sat-00:00,off Mon-00:00,100")
    said = {
        "2026-11-23 00:00": 100, "2026-11-23 07:59": 100, "2026-11-23 08:00": 512 * KIB,
        "2026-11-23 17:59": 512 * KIB, "2026-11-23 18:00": None, "2026-11-24 07:00": None,
        "2026-11-27 12:00": 512 * KIB, "2026-11-28 07:00": None, "2026-11-28 09:00": 512 * KIB,
        "2026-11-29 23:59": None,
    }  # fmt: skip
    for text, rate in said.items():
        assert table.at(time.strptime(text, "%Y-%m-%d %H:%M")) == rate, text
    # The night before the first entry is the evening after the last.
    assert parse_rate("08:00,1k 18:00,off").at(time.strptime("03:00", "%H:%M")) is None


def test_bytes_take_the_time_that_their_rate_says() -> None:
    for rate in (2 * KIB, 512 * KIB, 100 * KIB**2):
        now = Time()
        pace = paced(of(rate), now)
        total = rate * 10
        body = PacedBody(io.BytesIO(b"x" * total), pace, pace.turn("it", 1), None)
        begun = now.now
        assert len(body.read()) == total
        assert 9.8 <= now.now - begun <= 10.1
        assert max(now.slept) <= 0.5, "a wait that Ctrl-C and a deadline had to wait for"


def test_rest_gives_no_more_than_a_moments_bytes_in_advance() -> None:
    now = Time()
    pace = paced(of(1000), now)
    pace.passed(1000)
    now.now += 3600
    begun = now.now
    pace.passed(1000)
    assert now.now - begun >= 0.8


def test_rate_changes_with_the_time_in_the_midst_of_a_body() -> None:
    now, hour = Time(), [17]
    pace = paced(
        of("08:00,1k 18:00,off"), now, wall=lambda: time.strptime(f"{hour[0]}:30", "%H:%M")
    )
    body = PacedBody(io.BytesIO(bytes(20 * KIB)), pace, pace.turn("it", 1), None)
    begun = now.now
    body.read(10 * KIB)
    assert 9 < now.now - begun < 11
    hour[0] = 18
    begun = now.now
    assert len(body.read()) == 10 * KIB
    assert now.now == begun


def test_threads_share_one_bucket() -> None:
    """What each is made to wait for adds up: the last of ten ends when the bytes of all may."""
    now = Time()
    waits: list[float] = []
    pace = Pace(of(1000), clock=lambda: now.now, sleep=waits.append)
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: pace.passed(1000), range(10)))
    assert max(waits) == pytest.approx(10, abs=0.2)
    assert sorted(waits)[0] == pytest.approx(1, abs=0.2)


def test_who_waits_holds_nothing() -> None:
    asleep, wake = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        asleep.set()
        assert wake.wait(20)

    pace = Pace(of(10), sleep=sleep)
    thread = threading.Thread(target=pace.passed, args=(1000,))
    thread.start()
    assert asleep.wait(20)
    assert pace.rate == 10
    with pace.at_most("off"):
        pace.passed(10**9)
    wake.set()
    thread.join()


def test_requests_take_turns() -> None:
    now = Time()
    pace = paced(Limits(requests=4), now)
    begun = now.now
    for _ in range(9):
        pace.turn("it", 1).leave()
    assert now.now - begun == pytest.approx(2)


def test_command_line_counts_more_than_the_file_and_goes_with_its_block() -> None:
    pace = Pace(of("1k"))
    with pace.at_most("2k"):
        assert pace.rate == 2 * KIB
        with pace.at_most("off"):
            assert pace.rate is None
        with pace.at_most(None):
            assert pace.rate == 2 * KIB
    assert pace.rate == KIB
    assert not Pace().counts_bytes


# -- real servers ----------------------------------------------------------------------------


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    with DiskCacheStore(tmp_path / "origin", min_free=0) as repository:
        repository.set("big", StringValue(bytes(256 * KIB), {}))
        for number in range(8):
            repository.set(f"small/{number}", StringValue(bytes(8 * KIB), {}))
        with Origin(repository) as server:
            yield server


def dynamic(url: str, **more: Any) -> DynamicURLStore:
    return DynamicURLStore(f"{url}keys", f"{url}query", **more)


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Fail if a block is faster than it may be; slower it may be on any machine."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun >= seconds


def test_bodies_are_no_faster_than_their_rate_in_both_directions(
    origin: Origin, tmp_path: Path
) -> None:
    rate, size = 256 * KIB, 256 * KIB
    with MountedStore("", DiskCacheStore(tmp_path / "here"), dynamic(origin.url)) as store:
        with at_least(0.85):
            assert sync.prefetch(store, "big", bwlimit=rate).bytes == size
        store.set("mine", StringValue(bytes(size), {}))
        with at_least(0.85):
            assert sync.push(store, bwlimit="256k").ok
        for key in ("big", "mine"):
            backing = store.backing_store
            assert isinstance(backing, DynamicURLStore)
            backing.set(key, StringValue(b"y" * (size // 2), {}))
        with at_least(0.85):
            assert set(sync.pull(store, bwlimit="256k").updated) == {"big", "mine"}
        with at_least(0.85):  # eight threads together
            assert sync.prefetch(store, "small/*", bwlimit="64k").fetched == 8
    with dynamic(origin.url, limits=of(rate // 2)) as direct, at_least(0.85):
        assert direct.to_bytes("big") == b"y" * (size // 2)


def test_memory_stays_flat_and_the_bytes_are_the_same(scripted: ScriptedServer) -> None:
    data = os.urandom(16 * KIB**2)
    scripted.on("GET", "/data/big", Reply(200, data))
    scripted.on("GET", "/index.json", Reply(200, b'{"big": {}}'))
    with StaticURLStore(scripted.url, limits=of("1G")) as store:
        tracemalloc.start()
        with store.get_data("big") as stream:
            assert all(piece == data[at : at + KIB**2] for at, piece in pieces(stream))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 24 * KIB**2  # the server of the test holds one copy of it as it sends


def pieces(stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    at = 0
    for piece in chunks(stream):
        yield at, piece
        at += len(piece)
    assert at == 16 * KIB**2


@pytest.mark.parametrize("limits", [of(1024), Limits(requests=0.01)], ids=["bytes", "requests"])
def test_deadline_isnt_waited_past(origin: Origin, tmp_path: Path, limits: Limits) -> None:
    backing = dynamic(origin.url, limits=limits)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
        store.exists("big")  # this takes the first turn
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"deadline|no answer"):
            store.with_options(deadline=0.5).to_bytes("small/1" if limits.requests else "big")
        assert time.monotonic() - begun < 60  # at the rate it would be minutes


def test_upload_ends_with_its_deadline(origin: Origin) -> None:
    with dynamic(origin.url, limits=of(1024), deadline=0.5) as store:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="deadline") as raised:
            store.set("mine", StringValue(bytes(256 * KIB), {}))
        assert raised.value.maybe_applied
        assert time.monotonic() - begun < 60


def test_closing_a_store_ends_its_waits(origin: Origin) -> None:
    store = dynamic(origin.url, limits=Limits(requests=0.001))
    store.connect()
    store.exists("big")
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(store.exists, "small/1")
        while not store._transport.pace._turns._free > time.monotonic() + 1500:
            time.sleep(0.01)
        store.disconnect()
        asked.exception(60)
    assert time.monotonic() - begun < 100


def test_ctrl_c_isnt_waited_for(scripted: ScriptedServer, tmp_path: Path) -> None:
    here, asked = tmp_path / "here", threading.Event()
    here.mkdir()
    (here / "mountcache.toml").write_text(
        f'url = "{scripted.url}"\nlayout = "static"\n[limits]\nbytes = 1024\n'
    )
    scripted.on("GET", "/index.json", Reply(200, b'{"big": {}}'))
    # One that comes whole, its end too, so that only we are slow: 4 minutes.
    scripted.on("GET", "/data/big", [Reply(200, bytes(256 * KIB)), asked.set])
    process = subprocess.Popen(
        [*words(), "cat", "big"],
        cwd=here,
        env=environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, (b"", b"mountcache: interrupted\n"))


def test_no_more_requests_are_under_way_than_connections_are_allowed(
    scripted: ScriptedServer,
) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def come() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)  # so that others had the time to come as well

    def go() -> None:
        nonlocal now
        with lock:
            now -= 1

    for number in range(12):
        scripted.on("GET", f"/data/{number}", [come, go, Reply(200, b"x")])
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    with (
        StaticURLStore(scripted.url, limits=Limits(connections=2)) as store,
        ThreadPoolExecutor(12) as pool,
    ):
        assert set(pool.map(store.to_bytes, map(str, range(12)))) == {b"x"}
    assert most == 2


def test_thread_in_the_middle_of_something_doesnt_wait_for_itself(origin: Origin) -> None:
    with dynamic(origin.url, limits=Limits(connections=1)) as store, store.get_data("big") as open_:
        assert store.get_metadata("small/1") == {}
        assert len(open_.read()) == 256 * KIB


def test_connection_that_isnt_free_in_time_is_told(origin: Origin) -> None:
    with (
        dynamic(origin.url, limits=Limits(connections=1), timeout=(5, 0.2)) as store,
        ThreadPoolExecutor(1) as pool,
    ):
        with store.get_data("big"):
            asked = pool.submit(store.to_bytes, "small/1")
            with pytest.raises(StoreUnavailableError, match="all 1 connections"):
                asked.result()
        assert pool.submit(store.to_bytes, "small/1").result() == bytes(8 * KIB)


def test_every_way_of_ending_an_answer_gives_its_place_back(
    scripted: ScriptedServer, origin: Origin
) -> None:
    scripted.on(
        "GET",
        "/data/cut",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
    )
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    with StaticURLStore(scripted.url, limits=Limits(connections=1), timeout=0.3) as store:
        slots = store._transport.pace._slots  # type: ignore[union-attr]
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("cut")
        with pytest.raises(KeyError):
            store.to_bytes("gone")
        scripted.stop()
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("cut")
        assert slots.count == 0
    with dynamic(origin.url, limits=Limits(connections=1)) as other:
        stream = other.get_data("big")
        stream.read()
        assert other._transport.pace._slots.count == 0
        stream.close()
        del stream
        other.get_data("big")  # nobody reads or closes it
        assert other._transport.pace._slots.count == 0


def test_fork_finds_the_places_free(origin: Origin) -> None:
    with dynamic(origin.url, limits=Limits(connections=1)) as store, store.get_data("big"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with ThreadPoolExecutor(1) as pool:
                    code = pool.submit(store.to_bytes, "small/1").result(20) != bytes(8 * KIB)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_limits_of_the_file_reach_the_store_and_its_pickle(tmp_path: Path) -> None:
    path = tmp_path / "mountcache.toml"
    for layout in ("static", "dynamic", "listing"):
        path.write_text(
            f'url = "http://h/"\nlayout = "{layout}"\n'
            '[limits]\nrequests = 5\nbytes = "08:00,512k 18:00,off"\nconnections = 3\n'
        )
        store: Any = backing_store(read_settings(path, {}))
        wanted = Limits(5, parse_rate("08:00,512k 18:00,off"), 3)
        for each in (store, pickle.loads(pickle.dumps(store))):
            assert each._transport.pace.limits == wanted
            assert each.connections == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("request = 5", "did you mean 'requests'"), ("requests = 0", "more than 0"),
        ('requests = "5"', "more than 0"), ("connections = 0", "from 1 up"),
        ("connections = 1.5", "from 1 up"), ('bytes = "fast"', "at least 1 byte"),
        ("bytes = []", "bytes is a rate"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_told(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mountcache.toml"
    path.write_text(f'url = "http://h/"\n[limits]\n{line}\n')
    with pytest.raises(ConfigurationError, match=said):
        read_settings(path, {})


def test_bwlimit_on_the_command_line(origin: Origin, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    shell = Inside(here)
    with at_least(0.85):
        assert shell("prefetch", "big", "--bwlimit", "256k").code == 0
    shell("put", "mine", given=bytes(256 * KIB))
    with at_least(0.85):
        assert shell("push", "--bwlimit", "256k").code == 0
    assert shell("pull", "--bwlimit", "off").code == 0
    for verb in ("push", "pull", "prefetch"):
        refused = shell(verb, "--bwlimit", "fast")
        assert (refused.code, "at least 1 byte" in refused.err) == (64, True)


def test_traffic_that_cant_be_held_back_is_told(tmp_path: Path) -> None:
    with (
        MountedStore("", DiskCacheStore(tmp_path / "here"), MemoryStore()) as store,
        pytest.raises(ConfigurationError, match="leave bwlimit out"),
    ):
        sync.push(store, bwlimit="1k")


def test_unlimited_store_pays_for_no_pace(origin: Origin) -> None:
    with dynamic(origin.url) as store, store.get_data("big") as stream:
        assert not isinstance(stream, PacedBody)
