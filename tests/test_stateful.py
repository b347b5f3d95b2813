"""A state machine on MountedStore against plain dicts.

The model knows what upstream holds and what is staged. Versions are content hashes, so the base
of an edit names the content that it may replace: a push that replaces anything else has lost
somebody's change.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mountcache import sync
from mountcache.errors import StoreUnavailableError
from mountcache.jsonform import content_version
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put

KEYS = st.sampled_from(["a", "b", "dir/c"])
DATA = st.sampled_from([b"", b"one", b"two", b"three" * 20_000])
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
        self.directory = Path(tempfile.mkdtemp())
        self.origin = Origin()
        self.upstream: dict[str, Held] = {}
        self.past: dict[str, set[Held | None]] = {}
        self.edits: dict[str, Staged] = {}
        self.open()

    def open(self) -> None:
        self.local = DiskCacheStore(self.directory, size_limit=1_000_000, min_free=0)
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
        for key in ("a", "b", "dir/c"):
            self.past.setdefault(key, {None}).add(self.upstream.get(key))

    # -- others ---------------------------------------------------------------------------

    @initialize(start=st.dictionaries(KEYS, st.tuples(DATA, METADATA)))
    def begin(self, start: dict[str, tuple[bytes, dict[str, Any]]]) -> None:
        for key, (data, metadata) in start.items():
            self.others_set(key, data, metadata)
        self.remember()

    @rule(key=KEYS, data=DATA, metadata=METADATA)
    def others_set(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        put(self.origin, key, data, **metadata)
        self.upstream[key] = held(data, metadata)
        self.remember()

    @rule(key=KEYS)
    def others_delete(self, key: str) -> None:
        if key in self.upstream:
            self.origin.delete(key)
            del self.upstream[key]
        self.remember()

    @rule(down=st.booleans())
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
            assert not self.online
            edit = self.edits.get(key)
            assert edit is None or edit.metadata_only
            return
        self.check_read(key, got)

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

    @rule()
    @precondition(lambda self: self.online)
    def list_all(self) -> None:
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
            key for key, value in expected.items() if value is not None and key == "dir/c"
        }

    # -- editing --------------------------------------------------------------------------

    @rule(key=KEYS, data=DATA, metadata=METADATA)
    def set(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        put(self.store, key, data, **metadata)
        self.edits[key] = Staged(held(data, metadata))

    @rule(key=KEYS, data=DATA)
    @precondition(lambda self: self.online)
    def set_data(self, key: str, data: bytes) -> None:
        self.store.get_metadata(key) if self.view(key) is not None else self.store.exists(key)
        view = self.view(key)
        self.store.set_data(key, io.BytesIO(data))
        self.edits[key] = Staged(held(data, view.metadata if view else {}))

    @rule(key=KEYS, metadata=METADATA, merge=st.booleans())
    @precondition(lambda self: self.online)
    def set_metadata(self, key: str, metadata: dict[str, Any], merge: bool) -> None:
        self.store.exists(key)
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
        there = self.store.exists(key)
        assert there == (self.view(key) is not None)
        if not there:
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
                            put(self.store, "b", b"inner")
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
        self.local.catalog.drop_copy(key)

    @rule(key=KEYS)
    def revert(self, key: str) -> None:
        if key not in self.edits:
            with pytest.raises(KeyError):
                self.store.revert(key)
            return
        assert self.store.revert(key) == [key]
        del self.edits[key]

    @rule()
    def evict(self) -> None:
        self.local.catalog._evict(10**9)

    @rule()
    def restart(self) -> None:
        self.store.disconnect()
        self.open()

    # -- pushing --------------------------------------------------------------------------

    @rule(key=KEYS, lose=st.sampled_from(["nothing", "reply", "request"]))
    def push(self, key: str, lose: str) -> None:
        edit = self.edits.get(key)
        if edit is None:
            return
        (shown,) = (each for each in self.store.staged() if each.key == key)
        before = self.upstream.get(key)

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
        if outcome in ("conflict", "failed", "skipped"):
            if lose != "reply" or not self.online:
                assert after == before
            else:
                assert after in (before, self.pushed(edit, before))
            if lose != "nothing" and outcome == "failed" and self.online:
                again = sync.push(self.store, [key])
                if before != after == self.pushed(edit, before):
                    # It arrived: one's own write is no conflict.
                    assert "conflict" not in {result.outcome for result in again.results}
                after = self.origin_shows(key)
                if key not in {each.key for each in self.store.staged()}:
                    assert after == self.pushed(edit, before) or after == before
                    del self.edits[key]
        else:
            assert self.online
            if outcome == "pushed":
                self.check_nothing_lost(key, shown.base, before, after, edit)
            del self.edits[key]
        if after is None:
            self.upstream.pop(key, None)
        else:
            self.upstream[key] = after
        self.remember()

    def pushed(self, edit: Staged, before: Held | None) -> Held | None:
        if edit.value is None or not edit.metadata_only:
            return edit.value
        return None if before is None else Held(before.data, edit.value.state)

    def check_nothing_lost(
        self, key: str, base: str, before: Held | None, after: Held | None, edit: Staged
    ) -> None:
        assert after == self.pushed(edit, before)
        if before is None:
            assert base in ("absent", "unknown") or edit.value is None
        elif edit.metadata_only:
            return
        elif base != before.version:
            # Another's change that the edit makes as well takes nothing from anybody.
            (seen,) = (held for held in self.past[key] if held and held.version == base)
            assert edit.value is not None
            assert before.data in (seen.data, edit.value.data)
            assert before.state in (seen.state, edit.value.state)

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


TestMounted = Mounted.TestCase
TestMounted.settings = settings(
    max_examples=80,
    derandomize=True,  # the same walks each time: what fails here fails for all
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
