"""The background pusher: what is staged goes by itself, nothing is lost, and nothing is hidden."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import ConfigurationError, NotPushedError, TransactionError
from mountcache.events import BaseEvent, EventManager, StoreOverdueEvent, StorePushEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.records import CONFLICT, REFUSED, UNKNOWN_BASE, Edit
from mountcache.mounted import MountedStore
from mountcache.sync import Pushing
from mountcache.sync.pausing import read_pause
from mountcache.sync.pusher import pusher_of
from mountcache.sync.schedule import LONGEST, Pace, backed_off, next_try, schedule
from mountcache.testing import Origin
from mountcache.values import StringValue
from tests.command import ROOT, environment

PATIENCE = 60.0
SOON = Pushing("auto", quiet=0.05)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"a": (b"first", {})}) as running:
        yield running


Mount = Callable[..., MountedStore]


@pytest.fixture
def mount(origin: Origin, tmp_path: Path) -> Iterator[Mount]:
    opened: list[MountedStore] = []

    def make(name: str = "here", push: str | Pushing = SOON, **more: Any) -> MountedStore:
        backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        directory = DiskCacheStore(tmp_path / name, min_free=0)
        store = MountedStore("", directory, backing, author="ada", push=push, **more)
        opened.append(store)
        store.connect()
        return store

    yield make
    for store in opened:
        if store.is_connected():
            store.disconnect()


class Heard:
    """What a store announces, to be waited for."""

    def __init__(
        self, store: MountedStore | EventManager, cls: type[BaseEvent] = StorePushEvent
    ) -> None:
        self._came = threading.Condition()
        self.events: list[Any] = []
        manager = store if isinstance(store, EventManager) else store.event_manager
        manager.connect(cls, self._hear)

    def _hear(self, event: BaseEvent) -> None:
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def wait(self, enough: Callable[[list[Any]], object]) -> list[Any]:
        with self._came:
            assert self._came.wait_for(lambda: enough(self.events), PATIENCE)
            return list(self.events)


def until(true: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    deadline = time.monotonic() + PATIENCE
    never = threading.Event()
    while not true():
        assert time.monotonic() < deadline
        never.wait(0.02)


def outcome(key: str, what: str) -> Callable[[list[Any]], bool]:
    return lambda events: any((e.key, e.outcome) == (key, what) for e in events)


# -- when, as a table ---------------------------------------------------------------------------


def an_edit(key: str = "k", **more: Any) -> Edit:
    given = {
        "seq": 1, "kind": "put", "content": "c", "sha256": None, "size": 1, "meta": "{}",
        "version": None, "base": UNKNOWN_BASE, "group": 1, "partner": None, "author": "ada",
        "at": 100.0, "notes": "", **more,
    }  # fmt: skip
    return Edit(key, **given)


@pytest.mark.parametrize(
    ("more", "pace", "expected"),
    [
        ({}, Pace(2.0), 102.0),
        ({"held": 1}, Pace(2.0), None),
        ({}, Pace(2.0, paused=True), None),
        ({"tries": 1, "tried": 900.0, "error": CONFLICT + "both"}, Pace(), None),
        ({"tries": 1, "tried": 900.0, "error": REFUSED + "no"}, Pace(), None),
        ({"tries": 1, "tried": 990.0, "error": "x"}, Pace(), 990.0 + backed_off(1, "k 1")),
        ({"tries": 9, "tried": 990.0, "error": "x"}, Pace(), 990.0 + backed_off(9, "k 1")),
        ({}, Pace(2.0, rests_until=1100.0), 1100.0),
        # Clocks that were set back hold nothing up.
        ({"at": 5000.0}, Pace(2.0), 1000.0),
        ({"tries": 1, "tried": 5000.0, "error": "x"}, Pace(), 1000.0),
        ({}, Pace(2.0, rests_until=9000.0), 102.0),
    ],
)
def test_when_an_edit_is_sent_is_decided_by_a_table(
    more: dict[str, Any], pace: Pace, expected: float | None
) -> None:
    assert next_try(an_edit(**more), 1000.0, pace) == expected


def test_waits_grow_differ_by_key_and_have_an_end() -> None:
    waits = [backed_off(n, "k") for n in range(1, 2000)]
    assert all(wait <= LONGEST * 1.25 for wait in waits)
    assert waits[3] > waits[0] and waits[6] > waits[3]
    assert len({backed_off(3, f"key {n}") for n in range(50)}) > 40


def test_what_belongs_together_waits_for_the_last_of_it_and_for_somebody() -> None:
    edits = [an_edit("a"), an_edit("b", at=200.0), an_edit("c", group=2)]
    assert schedule(edits, 1000.0, Pace(2.0)) == {"a": 202.0, "b": 202.0, "c": 102.0}
    edits[0] = an_edit("a", tries=1, tried=1.0, error=CONFLICT)
    assert schedule(edits, 1000.0, Pace(2.0)) == {"a": None, "b": None, "c": 102.0}
    edits[0] = an_edit("a", held=1)
    assert schedule(edits, 1000.0, Pace(2.0)) == {"b": 202.0, "c": 102.0}


# -- what goes ----------------------------------------------------------------------------------


def test_is_off_by_default_and_other_words_are_refused(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    assert not [each for each in threading.enumerate() if each.name == "mountcache-pusher"]
    store.from_bytes("b", b"mine")
    assert pusher_of(store.mount) == ""
    assert not origin.store.exists("b")
    with pytest.raises(ConfigurationError, match="'always'"):
        mount(push="always")


def test_what_is_staged_goes_by_itself(origin: Origin, mount: Mount) -> None:
    store = mount()
    heard = Heard(store)
    store.from_bytes("b", b"mine")
    heard.wait(outcome("b", "pushed"))
    assert origin.store.to_bytes("b") == b"mine"
    until(lambda: not list(store.staged()))
    with store.transaction("two"):
        store.from_bytes("c", b"1")
        store.delete("b")
    heard.wait(outcome("c", "pushed"))
    until(lambda: not origin.store.exists("b"))


def test_its_thread_is_joined_at_disconnect_and_what_was_left_goes_the_next_time(
    origin: Origin, mount: Mount
) -> None:
    store = mount(push=Pushing("auto", quiet=3600.0))
    store.from_bytes("b", b"mine")
    store.disconnect()
    assert not [each for each in threading.enumerate() if each.name == "mountcache-pusher"]
    assert not origin.store.exists("b")
    again = mount()
    until(lambda: not list(again.staged()))
    assert origin.store.to_bytes("b") == b"mine"


def test_edits_of_another_process_go_too(origin: Origin, mount: Mount, tmp_path: Path) -> None:
    store = mount()
    heard = Heard(store)
    code = (
        "import sys; from mountcache import MountedStore, DiskCacheStore, DynamicURLStore\n"
        "at, url = sys.argv[1:]\n"
        "with MountedStore('', DiskCacheStore(at, min_free=0), DynamicURLStore(url + 'keys',"
        " url + 'query')) as store:\n    store.from_bytes('theirs', b'x' * 100_000)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "here"), origin.url],
        check=True, env=environment(PYTHONPATH=str(ROOT)), timeout=PATIENCE,
    )  # fmt: skip
    heard.wait(outcome("theirs", "pushed"))
    assert origin.store.to_bytes("theirs") == b"x" * 100_000


def test_one_process_of_a_directory_does_it_and_another_takes_over(
    origin: Origin, mount: Mount
) -> None:
    first = mount()
    until(lambda: pusher_of(first.mount))
    second = mount()
    assert str(os.getpid()) in pusher_of(second.mount)
    heard = Heard(second)
    first.disconnect()
    second.from_bytes("b", b"mine")
    heard.wait(outcome("b", "pushed"))


def test_conflict_isnt_tried_again_until_the_edit_changes(origin: Origin, mount: Mount) -> None:
    store = mount()
    store.to_bytes("a")
    origin.change("a", b"theirs", {})
    heard = Heard(store)
    store.from_bytes("a", b"mine")
    heard.wait(outcome("a", "conflict"))
    store.from_bytes("other", b"goes all the same")
    heard.wait(outcome("other", "pushed"))
    (edit,) = store.staged()
    assert (edit.in_conflict, edit.tries, edit.next_try) == (True, 1, None)
    assert origin.store.to_bytes("a") == b"theirs"
    assert [each.outcome for each in heard.events if each.key == "a"] == ["conflict"]
    sync.resolve(store, "a", "ours")
    heard.wait(outcome("a", "pushed"))
    assert origin.store.to_bytes("a") == b"mine"


def test_held_edit_goes_once_it_is_let_go(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    store.from_bytes("b", b"mine")
    store.hold("b")
    store.disconnect()
    store = mount()
    heard = Heard(store)
    store.from_bytes("c", b"goes")
    heard.wait(outcome("c", "pushed"))
    assert [each.key for each in store.staged()] == ["b"]
    store.unhold("b")
    heard.wait(outcome("b", "pushed"))


def test_upstream_that_is_down_is_left_alone_and_status_says_until_when(
    origin: Origin, mount: Mount
) -> None:
    store = mount()
    origin.stop()
    heard = Heard(store)
    for number in range(30):
        store.set(f"k/{number}", StringValue(b"mine", {}))
    heard.wait(lambda events: any(each.outcome == "failed" for each in events))
    until(lambda: (edits := list(store.staged())) and min(e.next_try or 0 for e in edits) > 0)
    edits = list(store.staged())
    assert len(edits) == 30
    assert all(each.next_try is not None for each in edits)
    assert any(each.error for each in edits)
    origin.start()
    store.resume_push()
    until(lambda: not list(store.staged()))
    assert origin.store.to_bytes("k/29") == b"mine"


def test_failure_of_one_key_keeps_no_other_waiting(origin: Origin, mount: Mount) -> None:
    store = mount()
    store.to_bytes("a")  # from here on it is known whose server that is
    heard = Heard(store)
    origin.fail(1, 400)
    store.set("b", StringValue(b"mine", {}))
    heard.wait(outcome("b", "failed"))
    store.from_bytes("c", b"goes")
    heard.wait(outcome("c", "pushed"))
    left = [each for each in store.staged() if each.key == "b"]
    assert left and left[0].tries == 1
    assert left[0].next_try is not None and left[0].next_try > (left[0].tried or 0.0)


def test_many_deletes_at_once_or_one_after_another_are_too_many(
    origin: Origin, mount: Mount
) -> None:
    for number in range(40):
        origin.change(f"k/{number}", b"x", {})
    store = mount()
    heard = Heard(store)
    for number in range(40):
        store.delete(f"k/{number}")
        if number == 5:
            heard.wait(outcome("k/5", "pushed"))
    until(lambda: any((each.error or "").startswith(REFUSED) for each in store.staged()))
    until(lambda: all(each.next_try is None for each in store.staged()))
    left = sum(origin.store.exists(f"k/{number}") for number in range(40))
    assert left >= 30 - 1
    sync.push(store, max_delete=100)
    assert not list(store.staged())


# -- pause, flush, complaints -------------------------------------------------------------------


def test_pause_holds_for_all_processes_and_outlives_them(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    store.pause_push()
    store.disconnect()
    store = mount()
    paused = store.push_paused
    assert paused is not None and paused.by == "ada"
    store.from_bytes("b", b"mine")
    until(lambda: [each.next_try for each in store.staged()] == [None])
    store.from_bytes("by-hand", b"mine")
    store.push("by-hand")
    assert not origin.store.exists("b")
    with pytest.raises(NotPushedError, match="paused"):
        store.flush()
    heard = Heard(store)
    store.resume_push()
    heard.wait(outcome("b", "pushed"))
    assert read_pause(store.mount.catalog) is None


@pytest.mark.parametrize("push", ["manual", SOON, Pushing("auto", quiet=3600.0)])
def test_flush_returns_when_nothing_is_left(
    origin: Origin, mount: Mount, push: str | Pushing
) -> None:
    store = mount(push=push)
    for number in range(30):
        store.from_bytes(f"k/{number}", b"mine")
    store.flush(PATIENCE)
    assert not list(store.staged())
    assert all(origin.store.exists(f"k/{number}") for number in range(30))
    store.flush(0)


def test_flush_says_what_is_left_and_needs_somebody(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    store.to_bytes("a")
    origin.change("a", b"theirs", {})
    store.from_bytes("a", b"mine")
    store.from_bytes("b", b"mine")
    store.from_bytes("held", b"mine")
    store.hold("held")
    with pytest.raises(NotPushedError, match="'a'") as caught:
        store.flush()
    assert (caught.value.left, caught.value.conflicts) == (("a",), ("a",))
    assert origin.store.exists("b")
    with store.transaction("x"), pytest.raises(TransactionError):
        store.flush()


def test_flush_without_upstream_ends_at_its_time(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    store.from_bytes("b", b"mine")
    origin.stop()
    for timeout in (0, 0.2):
        with pytest.raises(NotPushedError) as caught:
            store.flush(timeout)
        assert caught.value.left == ("b",)
    (edit,) = store.staged()
    assert edit.tries >= 1


def test_flush_waits_until_upstream_is_back(origin: Origin, mount: Mount) -> None:
    store = mount(push="manual")
    heard = Heard(store)
    store.from_bytes("b", b"mine")
    origin.fail(1, 400)
    thread = threading.Thread(target=store.flush)
    thread.start()
    heard.wait(outcome("b", "failed"))
    heard.wait(outcome("b", "pushed"))
    thread.join(PATIENCE)
    assert not list(store.staged())


def test_edit_that_is_late_is_complained_of_once(
    origin: Origin, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mountcache")
    store = mount(push="manual")
    store.pause_push()
    store.from_bytes("b", b"mine")
    store.disconnect()
    manager = EventManager()
    heard = Heard(manager, StoreOverdueEvent)
    store = mount(
        push=Pushing("auto", quiet=0.05, late=3600.0), clock=lambda: time.time() + 4000,
        event_manager=manager,
    )  # fmt: skip
    store.from_bytes("c", b"isn't late")
    store.hold("c")
    (event,) = heard.wait(lambda events: events)
    assert (event.key, event.reason) == ("b", "pushing is paused")
    pushed = Heard(manager)
    store.resume_push()
    pushed.wait(outcome("b", "pushed"))
    assert [each.key for each in heard.events] == ["b"]
    assert sum("not upstream yet" in each.message for each in caplog.records) == 1


def test_check_that_raises_refuses_and_ends_no_thread(origin: Origin, mount: Mount) -> None:
    def check(edit: Any) -> str | None:
        if edit.key == "bad":
            raise ZeroDivisionError
        return None

    reports: list[Any] = []
    store = mount(push=Pushing("auto", quiet=0.05, check=check, after=reports.append))
    heard = Heard(store)
    store.from_bytes("bad", b"mine")
    until(lambda: any(each.error for each in store.staged()))
    store.from_bytes("good", b"mine")
    heard.wait(outcome("good", "pushed"))
    until(lambda: len(reports) > 1)
    (edit,) = store.staged()
    assert edit.error == REFUSED + "the check didn't work: ZeroDivisionError"
    assert not origin.store.exists("bad")
    assert [(each.key, each.outcome) for report in reports for each in report.results] == [
        ("bad", "refused"),
        ("good", "pushed"),
    ]


# -- forks and kills ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_has_no_pusher_and_ends(origin: Origin, mount: Mount) -> None:
    store = mount()
    heard = Heard(store)
    until(lambda: pusher_of(store.mount))
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            store.from_bytes("child", b"mine")
            store.disconnect()
            os._exit(0)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert status == 0
    # What the child staged is the parent's to send.
    heard.wait(outcome("child", "pushed"))
    assert pusher_of(store.mount)


def test_listener_that_disconnects_the_store_hangs_nothing(origin: Origin, mount: Mount) -> None:
    store = mount()
    done = threading.Event()

    def leave(event: BaseEvent) -> None:
        store.disconnect()
        done.set()

    store.event_manager.connect(StorePushEvent, leave)
    store.from_bytes("b", b"mine")
    assert done.wait(PATIENCE)


def test_push_by_hand_and_the_pusher_send_nothing_twice(origin: Origin, mount: Mount) -> None:
    store = mount(push=Pushing("auto", quiet=0.0))
    for number in range(40):
        store.from_bytes(f"k/{number}", b"mine")
        if number % 5 == 0:
            sync.push(store)
    store.flush(PATIENCE)
    puts = [each.path for each in origin.requests if each.method == "PUT" and "k/" in each.path]
    assert len(puts) == len(set(puts)) == 40


def test_wrong_password_is_shown_once_and_then_not_for_minutes(
    origin: Origin, mount: Mount
) -> None:
    store = mount()
    store.to_bytes("a")
    heard = Heard(store)
    origin.fail(1, 401)
    for number in range(10):
        store.set(f"k/{number}", StringValue(b"mine", {}))
    heard.wait(lambda events: any(each.outcome == "blocked" for each in events))
    until(lambda: all((each.next_try or 0) > time.time() + 100 for each in store.staged()))
    # A push by hand that gets through shows that it is right again.
    store.push("k/9")
    store.flush(PATIENCE)
    until(lambda: not list(store.staged()))


def test_what_upstream_forbids_isnt_tried_again(origin: Origin, mount: Mount) -> None:
    store = mount()
    store.to_bytes("a")
    heard = Heard(store)
    origin.fail(1, 403)
    store.set("b", StringValue(b"mine", {}))
    heard.wait(outcome("b", "blocked"))
    (edit,) = store.staged()
    assert (edit.next_try, (edit.error or "").startswith(REFUSED)) == (None, True)
    store.set("b", StringValue(b"again", {}))
    heard.wait(outcome("b", "pushed"))


def test_killed_pusher_leaves_the_right_to_push_and_nothing_is_sent_twice(
    origin: Origin, mount: Mount, tmp_path: Path
) -> None:
    code = (
        "import sys, threading\n"
        "from mountcache import MountedStore, DiskCacheStore, DynamicURLStore\n"
        "at, url = sys.argv[1:]\n"
        "store = MountedStore('', DiskCacheStore(at, min_free=0), DynamicURLStore(url + 'keys',"
        " url + 'query'), push='auto')\nstore.connect(); store.from_bytes('b', b'mine')\n"
        "print('staged', flush=True); threading.Event().wait()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "here"), origin.url],
        env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE,
    )  # fmt: skip
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"staged\n"
        origin.delay = 3600.0
        until(lambda: any(each.method == "PUT" for each in origin.requests))
        running.kill()
    origin.stop()
    origin.delay = 0.0
    origin.start()
    store = mount()
    until(lambda: not list(store.staged()))
    assert origin.store.to_bytes("b") == b"mine"
    assert [each.what for each in store.log("b")] == ["staged", "pushed"]


def test_store_is_closed_in_time_though_upstream_stalls(origin: Origin, mount: Mount) -> None:
    store = mount()
    store.to_bytes("a")
    origin.delay = 3600.0
    store.set("b", StringValue(b"mine", {}))
    until(lambda: any(each.method == "PUT" for each in origin.requests))
    begun = time.monotonic()
    store.disconnect()
    assert time.monotonic() - begun < 30
    assert not [each for each in threading.enumerate() if each.name == "mountcache-pusher"]
    origin.stop()
    origin.delay = 0.0
    origin.start()
    store = mount(push="manual")
    assert [each.key for each in store.staged()] == ["b"]
    store.flush(PATIENCE)
    assert origin.store.to_bytes("b") == b"mine"


def test_store_in_memory_pushes_by_itself_too(origin: Origin) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", MemoryStore(), backing, push=SOON) as store:
        heard = Heard(store)
        store.from_bytes("b", b"mine")
        heard.wait(outcome("b", "pushed"))
    assert origin.store.to_bytes("b") == b"mine"
