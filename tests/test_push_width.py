"""How many edits a push has on their way at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, MountedStore, StringValue, sync
from mountcache.errors import ReadOnlyStoreError
from tests.upstreams import Origin

KEYS = 240


class Far(Origin):
    """An upstream whose answers are long on their way."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.seconds, self.now, self.most = seconds, 0, 0
        self.before, self.after = self.comes, self.goes

    def comes(self, verb: str, key: str) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)

    def goes(self, verb: str, key: str) -> None:
        with self.lock:
            self.now -= 1


def local(place: Path) -> DiskCacheStore:
    return DiskCacheStore(place / "here", min_free=0, durability="normal")


@pytest.mark.parametrize(("named", "at_least", "at_most"), [(None, 16, 64), (3, 3, 3), (1, 1, 1)])
def test_more_are_sent_at_once_where_answers_take_long(
    tmp_path: Path, named: int | None, at_least: int, at_most: int
) -> None:
    far = Far(0.1 if named is None else 0.01)
    with MountedStore("", local(tmp_path), far) as store:
        for number in range(KEYS):
            store.set(f"k{number}", StringValue(b"x"))
        report = sync.push(store, workers=named)
    assert [each.outcome for each in report.results] == ["pushed"] * KEYS
    assert sorted(key for _, key in far.writes) == sorted(f"k{each}" for each in range(KEYS))
    assert at_least <= far.most <= at_most


def test_nothing_more_is_begun_once_upstream_turns_out_to_be_readonly(tmp_path: Path) -> None:
    far = Far(0.01)
    sent = []

    def refused(verb: str, key: str) -> None:
        sent.append(key)
        if len(sent) > 2:
            raise ReadOnlyStoreError("this server can only be read")

    far.before = refused
    with MountedStore("", local(tmp_path), far) as store:
        for number in range(KEYS):
            store.set(f"k{number}", StringValue(b"x"))
        with pytest.raises(ReadOnlyStoreError):
            sync.push(store, workers=4)
        assert len(sent) <= 2 + 2 * 4
        assert len(list(store.staged())) >= KEYS - 2


def test_what_is_raised_while_a_push_tells_of_its_keys_ends_it_soon(tmp_path: Path) -> None:
    far = Far(0.02)

    def told(done: int, total: int, key: str) -> None:
        # Not that worker for whose end a push waits first.
        if not threading.current_thread().name.endswith("_0"):
            raise ZeroDivisionError

    with MountedStore("", local(tmp_path), far) as store:
        for number in range(KEYS):
            store.set(f"k{number}", StringValue(b"x"))
        with pytest.raises(ZeroDivisionError):
            sync.push(store, workers=4, progress=told)
        assert len(far.writes) <= KEYS * 3 // 4
        assert len(list(store.staged())) == KEYS - len(far.writes)
        assert sync.push(store).ok
