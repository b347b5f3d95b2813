"""A state machine on MountedStore against plain dicts, and the bugs that it has to find.

The model knows what upstream holds, what is staged, and what its author has seen of upstream. A
push that replaces what the author hadn't seen has lost somebody's change.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mountcache import sync
from mountcache.errors import StoreError, StoreUnavailableError
from mountcache.jsonform import content_version
from mountcache.local import staging
from mountcache.local.catalog import Catalog
from mountcache.local.decide import Draft
from mountcache.local.disk import DiskCacheStore
from mountcache.local.journal import Journal
from mountcache.local.records import Row
from mountcache.mounted import MountedStore
from mountcache.overlay import Overlay
from mountcache.sync.batch import GroupSender
from mountcache.sync.send import Sender
from tests.upstreams import Origin, put

MEMORY = os.access("/dev/shm", os.W_OK)
NAMES = ("a", "dir/b")
# Most of what goes wrong takes several steps with one and the same key.
KEYS = st.sampled_from([*NAMES, "a", "a"])
DATA = st.sampled_from([b"", b"one", b"two", b"three" * 20_000])
LOSE = st.sampled_from(["", "", "reply", "request"])
COMES = st.sampled_from(["", "poll", "prefetch"])
METADATA = st.sampled_from([{}, {"state": "draft"}, {"state": "final", "n": 2.0}])


@dataclass(frozen=True)
class Held:
    """Data and metadata of a key."""

    data: bytes
    state: Any

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self.state)

    @property
    def version(self) -> str:
        import hashlib

        return content_version(hashlib.sha256(self.data).hexdigest(), self.metadata)


def held(data: bytes, metadata: dict[str, Any]) -> Held:
    return Held(data, tuple(sorted(metadata.items())))


DELETED = "deleted"


@dataclass
class Staged:
    """An edit: what is read, and whether it leaves the bytes to upstream."""

    value: Held | None
    metadata_only: bool = False


class Mounted(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a place: each walk makes 256 directories.
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if MEMORY else None))
        self.origin = Origin()
        self.upstream: dict[str, Held] = {}
        self.past: dict[str, set[Held | None]] = {name: {None} for name in NAMES}
        self.seen: dict[str, set[Held | None]] = {name: set() for name in NAMES}
        """What of a key's past its author saw last: more than one where only a part was shown."""
        self.told_absent: set[str] = set()
        """Keys of which upstream has once said that they aren't there."""
        self.edits: dict[str, Staged] = {}
        self.open()

    def open(self) -> None:
        # There is room for one of the large values: to keep another evicts it.
        self.local = DiskCacheStore(
            self.directory, size_limit=150_000, min_free=0, durability="normal"
        )
        self.store = MountedStore("", self.local, self.origin)
        self.store.connect()

    def teardown(self) -> None:
        self.store.disconnect()
        shutil.rmtree(self.directory)

    @property
    def online(self) -> bool:
        return not self.origin.down

    def view(self, key: str) -> Held | None:
        edit = self.edits.get(key)
        if edit is None:
            return self.upstream.get(key)
        return edit.value

    def remember(self) -> None:
        for key in NAMES:
            self.past[key].add(self.upstream.get(key))

    def saw(self, key: str, state: Any = None) -> None:
        """Note that upstream has shown a key, or at least its metadata (None: its absence)."""
        if self.online:
            self.seen[key] = {self.upstream.get(key)}
            self.told_absent |= {key} - self.upstream.keys()
        else:
            self.seen[key] = {each for each in self.past[key] if _state(each) == state}

    # -- others ---------------------------------------------------------------------------

    @initialize(start=st.dictionaries(KEYS, st.tuples(DATA, METADATA)), down=st.booleans())
    def begin(self, start: dict[str, tuple[bytes, dict[str, Any]]], down: bool = False) -> None:
        for key, (data, metadata) in start.items():
            self.others_set(key, data, metadata)
        self.remember()
        self.network(down)

    @rule(key=KEYS, data=DATA, metadata=METADATA, comes=COMES)
    def others_set(self, key: str, data: bytes, metadata: dict[str, Any], comes: str = "") -> None:
        put(self.origin, key, data, **metadata)
        self.upstream[key] = held(data, metadata)
        self.remember()
        self.come(key, comes)

    @rule(key=KEYS, comes=COMES)
    def others_delete(self, key: str, comes: str) -> None:
        if key in self.upstream:
            self.origin.delete(key)
            del self.upstream[key]
        self.remember()
        self.come(key, comes)

    def come(self, key: str, how: str) -> None:
        """Let what others did come here by itself: nobody has seen it then."""
        if not how or not self.online:
            return
        self.store.update_index()
        self.told_absent |= set(NAMES) - self.upstream.keys()
        for name in NAMES:
            # The first that is known of a key is what an edit is made from.
            self.seen[name] = self.seen[name] or {self.upstream.get(name)}
        if how == "prefetch":
            sync.prefetch(self.store, key, workers=1)

    @rule(down=st.sampled_from([False, False, True]))
    def network(self, down: bool) -> None:
        self.origin.down = down
        self.store._remote.wake()

    # -- reading --------------------------------------------------------------------------

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        try:
            value = self.store.get(key)
            got: Held | None = held(value.data.read(), value.metadata)
        except KeyError:
            got = None
        except StoreUnavailableError:
            edit = self.edits.get(key)
            assert edit is None or edit.metadata_only
            # An edit of metadata alone has no bytes once upstream's are gone.
            assert not self.online or (edit is not None and key not in self.upstream)
            return
        self.check_read(key, got)
        if key not in self.edits:
            self.saw(key, _state(got))

    def check_read(self, key: str, got: Held | None) -> None:
        edit = self.edits.get(key)
        if edit is not None and not edit.metadata_only:
            assert got == edit.value
        elif edit is not None and got is None:
            # An edit of metadata alone has no bytes once upstream's are gone.
            assert key not in self.upstream
        elif edit is not None:
            assert got is not None
            assert edit.value is not None
            assert got.state == edit.value.state
        elif self.online:
            assert got == self.upstream.get(key)
        else:
            assert got in self.past[key]
            assert got is not None or key in self.told_absent

    @rule(key=KEYS)
    def read_metadata(self, key: str) -> None:
        try:
            got = held(b"", self.store.get_metadata(key)).state
        except KeyError:
            got = None
        except StoreUnavailableError:
            assert not self.online
            assert key not in self.edits
            return
        view = self.view(key)
        if key in self.edits or self.online:
            assert got == (None if view is None else view.state)
        elif got is None:
            assert key in self.told_absent
        if key not in self.edits:
            self.saw(key, got)

    @rule()
    @precondition(lambda self: self.online)
    def list_all(self) -> None:
        for key in NAMES:
            if key not in self.edits:
                self.saw(key)
        expected = {key: self.view(key) for key in {*self.upstream, *self.edits}}
        assert dict(self.store.query()) == {
            key: value.metadata for key, value in expected.items() if value is not None
        }
        finals = {
            key
            for key, value in expected.items()
            if value is not None and value.metadata.get("n") == 2
        }
        assert set(self.store.query_keys(n=2)) == finals
        assert set(self.store.glob("dir/*")) == {
            key for key, value in expected.items() if value is not None and key == "dir/b"
        }

    # -- editing --------------------------------------------------------------------------

    def look(self, key: str) -> bool:
        """Look whether a key is there, as its author would before a change."""
        there = self.store.exists(key)
        assert there == (self.view(key) is not None)
        if key not in self.edits:
            self.saw(key)
        return there

    @rule(key=KEYS, data=DATA, metadata=METADATA)
    def set(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        put(self.store, key, data, **metadata)
        self.edits[key] = Staged(held(data, metadata))

    @rule(key=KEYS, data=DATA, metadata=METADATA, lose=LOSE, more=st.none() | DATA)
    def set_and_push(
        self, key: str, data: bytes, metadata: dict[str, Any], lose: str, more: bytes | None
    ) -> None:
        self.set(key, data, metadata)
        self.send(key, lose, more)

    @rule(key=KEYS, data=DATA)
    @precondition(lambda self: self.online)
    def set_data(self, key: str, data: bytes) -> None:
        self.look(key)
        view = self.view(key)
        self.store.set_data(key, io.BytesIO(data))
        self.edits[key] = Staged(held(data, view.metadata if view else {}))

    @rule(key=KEYS, metadata=METADATA, merge=st.booleans())
    @precondition(lambda self: self.online)
    def set_metadata(self, key: str, metadata: dict[str, Any], merge: bool) -> None:
        self.look(key)
        view, before = self.view(key), self.edits.get(key)
        if merge:
            self.store.update_metadata(key, metadata)
            metadata = {**(view.metadata if view else {}), **metadata}
        else:
            self.store.set_metadata(key, metadata)
        only = view is not None and (before is None or before.metadata_only)
        self.edits[key] = Staged(held(view.data if view else b"", metadata), only)

    @rule(key=KEYS)
    @precondition(lambda self: self.online)
    def delete(self, key: str) -> None:
        if not self.look(key):
            with pytest.raises(KeyError):
                self.store.delete(key)
            return
        bases = {edit.key: edit.base for edit in self.store.staged()}
        self.store.delete(key)
        if any(edit.key == key for edit in self.store.staged()):
            assert not self.store.exists(key)
            self.edits[key] = Staged(None)
        else:
            # It was only here, and what it was made from was that nothing is upstream.
            assert bases[key] == "absent"
            del self.edits[key]

    @rule(key=KEYS, data=DATA, fail=st.booleans(), inner=st.booleans())
    def transaction(self, key: str, data: bytes, fail: bool, inner: bool) -> None:
        class LeftError(Exception):
            pass

        try:
            with self.store.transaction("a transaction"):
                put(self.store, key, data, tx=1)
                assert self.store.to_bytes(key) == data
                if inner:
                    try:
                        with self.store.transaction("within"):
                            put(self.store, "dir/b", b"inner")
                            raise LeftError
                    except LeftError:
                        pass
                if fail:
                    raise LeftError
        except LeftError:
            return
        self.edits[key] = Staged(held(data, {"tx": 1}))

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        copy = self.local.catalog.row(key).copy
        if key in self.edits:
            with pytest.raises(StoreError, match="staged"):
                self.store.drop(key)
        elif copy is None:
            with pytest.raises(KeyError):
                self.store.drop(key)
        else:
            self.store.drop(key)

    @rule(key=KEYS, data=st.none() | DATA)
    def revert(self, key: str, data: bytes | None) -> None:
        """Revert an edit, and perhaps push another one at once."""
        if key not in self.edits and data is not None:
            self.set(key, b"to be reverted", {})
        if key not in self.edits:
            with pytest.raises(KeyError):
                self.store.revert(key)
            return
        assert self.store.revert(key) == [key]
        del self.edits[key]
        if data is not None:
            self.set_and_push(key, data, {"again": True}, "", None)

    @rule()
    def evict(self) -> None:
        self.local.catalog._evict(10**9)

    @rule()
    def restart(self) -> None:
        self.store.disconnect()
        self.open()

    # -- pushing --------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), lose=LOSE, more=st.none() | DATA)
    @precondition(lambda self: self.edits)
    def push(self, which: int, lose: str, more: bytes | None) -> None:
        self.send(sorted(self.edits)[which % len(self.edits)], lose, more)

    def send(self, key: str, lose: str, more: bytes | None) -> None:
        """Push an edit; one whose answer is lost again, perhaps after a further edit."""
        outcome, arrived = self.push_once(key, lose)
        if outcome == "failed" and lose and self.online:
            if more is not None:
                self.set(key, more, {"more": True})
            again, _ = self.push_once(key, "")
            # One's own write is no conflict.
            assert again != "conflict" or not arrived

    def push_once(self, key: str, lose: str) -> tuple[str, bool]:
        edit = self.edits[key]
        before = self.upstream.get(key)
        mine = self.pushed(edit, before)

        def broken(verb: str, key: str) -> None:
            raise StoreUnavailableError("the connection broke", maybe_applied=True)

        if lose == "reply":
            self.origin.after = broken
        elif lose == "request":
            self.origin.before = broken
        report = sync.push(self.store, [key])
        self.origin.after = self.origin.before = lambda verb, key: None
        outcome = report[key].outcome if report.results else "settled"
        after = self.origin_shows(key)
        arrived = after == mine
        assert after in (before, mine)
        if after != before:
            self.check_nothing_lost(key, before, edit)
            self.seen[key] = {after}
        if outcome in ("conflict", "failed", "skipped"):
            assert after == before or lose == "reply"
            assert key in {each.key for each in self.store.staged()}
        else:
            assert self.online
            assert outcome != "pushed" or arrived
            if arrived:
                self.seen[key] = {after}
            del self.edits[key]
        if self.online:
            self.told_absent |= {key} - ({key} if after else set())
        if after is None:
            self.upstream.pop(key, None)
        else:
            self.upstream[key] = after
        self.remember()
        return outcome, arrived and after != before

    def pushed(self, edit: Staged, before: Held | None) -> Held | None:
        if edit.value is None or not edit.metadata_only:
            return edit.value
        return None if before is None else Held(before.data, edit.value.state)

    def check_nothing_lost(self, key: str, before: Held | None, edit: Staged) -> None:
        """Check that the author of an edit had seen what it replaced."""
        if before is None:
            return
        if edit.value is not None and before == Held(edit.value.data, ()):
            # As a creation of mine that was cut half way: there is nothing in it to be lost.
            return
        # Another's change that the edit makes as well takes nothing from anybody.
        known = [each for each in (*self.seen[key], edit.value) if each is not None]
        assert before.state in {each.state for each in known}
        assert edit.metadata_only or before.data in {each.data for each in known}

    def origin_shows(self, key: str) -> Held | None:
        down, self.origin.down = self.origin.down, False
        try:
            value = self.origin.get(key)
            return held(value.data.read(), value.metadata)
        except KeyError:
            return None
        finally:
            self.origin.down = down

    # -- always ---------------------------------------------------------------------------

    @invariant()
    def what_is_staged_is_what_was_staged(self) -> None:
        shown = {edit.key: edit.state == "deleted" for edit in self.store.staged()}
        assert shown == {key: edit.value is None for key, edit in self.edits.items()}

    @invariant()
    def counters_agree_with_the_rows(self) -> None:
        con = self.local.catalog.content.connection()
        for table, name in (("copy", "clean_bytes"), ("edit", "staged_bytes")):
            (total,) = con.execute(f"SELECT coalesce(sum(size), 0) FROM {table}").fetchone()
            assert self.local.catalog.state(name) == total


def _state(value: Held | None) -> Any:
    return None if value is None else value.state


WALKS = settings(
    max_examples=60,
    derandomize=True,  # the same walks each time: what fails here fails for all
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestMounted = Mounted.TestCase
TestMounted.settings = WALKS


# -- bugs that it has to find ------------------------------------------------------------------


def replaces_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push compares nothing."""
    request, write = Sender._request, GroupSender._write
    monkeypatch.setattr(
        Sender, "_request", lambda self, op, expected, parts: request(self, op, None, parts)
    )
    monkeypatch.setattr(GroupSender, "_write", lambda self, op, base: write(self, op, None))


def takes_silence_for_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push whose answer is lost counts as refused."""
    monkeypatch.setattr(Journal, "unknown", lambda self, op: Journal.refused(self, op))


def forgets_to_take_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an inner transaction wrote stays, though it failed."""
    honest = staging.Staging.transaction

    @contextmanager
    def transaction(self: Any, *args: Any, **options: Any) -> Iterator[None]:
        if self.current() is not None:
            yield
            return
        with honest(self, *args, **options):
            yield

    monkeypatch.setattr(staging.Staging, "transaction", transaction)


def takes_unknown_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be known is said not to be there."""

    def not_here(self: Overlay, key: str, error: StoreUnavailableError) -> io.BufferedIOBase:
        raise KeyError(key)

    monkeypatch.setattr(Overlay, "_not_here", not_here)


def evicts_the_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """To make room takes what is staged."""
    honest = Catalog._evict

    def evict(self: Catalog, amount: int) -> None:
        honest(self, amount)
        with self.content.write() as con:
            con.execute("DELETE FROM edit WHERE size > 50000")

    monkeypatch.setattr(Catalog, "_evict", evict)


def loses_metadata_with_new_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """set_data starts from no metadata."""
    honest = staging.stage_write

    def stage_write(row: Row, **words: Any) -> Draft:
        if words["meta"] is None and words["merge"] is None:
            words["meta"] = "{}"
        return honest(row, **words)

    monkeypatch.setattr(staging, "stage_write", stage_write)


PLANTED: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    replaces_anything,
    takes_silence_for_no,
    forgets_to_take_back,
    takes_unknown_for_absent,
    evicts_the_edits,
    loses_metadata_with_new_data,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    # The first walk that meets the bug ends the search.
    found = settings(
        WALKS, max_examples=400, phases=[Phase.generate], report_multiple_bugs=False, database=None
    )
    with pytest.raises((AssertionError, StoreError, KeyError)):
        run_state_machine_as_test(Mounted, settings=found)
