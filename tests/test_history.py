"""The log of what happened, tokens to go on from, named groups and edits that are held back."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StaticURLStore, sync
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    ExpiredTokenError,
    StoreError,
    TransactionError,
)
from mountcache.events import BaseEvent, StoreKeyEvent
from mountcache.local import history, listing
from mountcache.local.backup import backup, restore
from mountcache.local.records import Op
from mountcache.serve import Origin
from mountcache.sync.send import Sender
from tests.local_parts import script


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        store.from_bytes("a", b"a")
        store.from_bytes("b", b"b")
        yield store


@pytest.fixture
def origin(repository: DiskCacheStore) -> Iterator[Origin]:
    with Origin(repository) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path, origin: Origin) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing, author="ada") as mounted:
        yield mounted


@pytest.fixture
def polled(tmp_path: Path, origin: Origin) -> Iterator[MountedStore]:
    backing = StaticURLStore(origin.url, poll=0)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing, author="ada") as mounted:
        yield mounted


def told(store: MountedStore, key: str | None = None) -> list[tuple[object, ...]]:
    return [(each.what, each.key, each.kind) for each in store.log(key)]


# -- the log ---------------------------------------------------------------------------------


def test_what_becomes_of_an_edit_is_logged_in_order(store: MountedStore) -> None:
    store.from_bytes("a", b"mine")
    store.push("a")
    store.update_metadata("a", {"n": 1})
    store.revert("a")
    store.delete("b")
    sync.push(store)
    assert told(store) == [
        ("staged", "a", "put"),
        ("pushed", "a", "put"),
        ("staged", "a", "meta"),
        ("reverted", "a", "meta"),
        ("staged", "b", "del"),
        ("pushed", "b", "del"),
    ]
    assert told(store, "b") == [("staged", "b", "del"), ("pushed", "b", "del")]
    staged, pushed, *_ = store.log("a")
    assert (staged.author, staged.size, staged.grade) == ("ada", 4, None)
    assert (pushed.author, pushed.size, pushed.grade) == ("ada", 4, "A")
    assert pushed.version == store.get("a").version
    assert staged.at <= pushed.at
    assert list(store.log(last=2)) == list(store.log())[-2:]
    assert list(store.log("a", last=3)) == list(store.log("a"))[-3:]
    assert list(store.log(last=100)) == list(store.log())


def test_the_last_records_are_found_without_reading_the_others(store: MountedStore) -> None:
    store.from_bytes("a", b"mine")
    content = store.mount.catalog.content
    copied = "INSERT INTO log (at, what, key, note) SELECT at, what, key, note FROM log"
    with content.write() as con:
        for _ in range(12):
            con.execute(copied)
    steps: list[None] = []
    con = content.connection()
    con.set_progress_handler(lambda: steps.append(None), 10)
    for key in (None, "a"):
        steps.clear()
        assert len(list(store.log(key, last=5))) == 5
        few = len(steps)
        assert len(list(store.log(key))) == 4096
        assert few < len(steps) / 20


def test_conflict_and_how_it_was_resolved_are_logged(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"mine")
    repository.from_bytes("a", b"theirs")
    for _ in range(2):
        with pytest.raises(ConflictError):
            store.push("a")
    sync.push(store, on_conflict="ours")
    assert [each[0] for each in told(store, "a")] == ["staged", "failed", "resolved", "pushed"]
    _, failed, resolved, _ = store.log("a")
    assert "both sides changed it" in failed.note
    assert resolved.note == "mine replaces upstream's version."


def test_push_is_of_who_made_what_was_sent(
    store: MountedStore, repository: DiskCacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Sender._request

    def slow(self: Sender, op: Op, *rest: Any) -> Any:
        ben = MountedStore("", store.mount_store, store.backing_store, author="ben")
        ben.from_bytes("a", b"ben's, meanwhile")
        return request(self, op, *rest)

    store.from_bytes("a", b"ada's")
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_request", slow)
        sync.push(store)
    assert [(each.what, each.author) for each in store.log("a")] == [
        ("staged", "ada"), ("staged", "ben"), ("pushed", None),
    ]  # fmt: skip
    sync.push(store)
    assert list(store.log("a"))[-1].author == "ben"


@pytest.mark.parametrize(
    ("policy", "expected", "note"),
    [("theirs", "given up", ""), ("keep-both", "resolved", "mine goes to a.conflict-")],
)
def test_other_ways_to_resolve_are_logged(
    store: MountedStore, repository: DiskCacheStore, policy: str, expected: str, note: str
) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"mine")
    repository.from_bytes("a", b"theirs")
    sync.push(store, on_conflict=policy)
    found = list(store.log("a"))[-1]
    assert (found.what, found.note[: len(note)]) == (expected, note)


def test_nothing_is_logged_of_what_lies_outside(tmp_path: Path, origin: Origin) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("in/", DiskCacheStore(tmp_path / "in"), backing) as store:
        store.from_bytes("in/a", b"")
        assert told(store, "in/a") == [("staged", "in/a", "put")]
        assert told(store, "a") == []


def test_what_is_taken_back_isnt_logged(store: MountedStore) -> None:
    with pytest.raises(RuntimeError), store.transaction("half"):
        store.from_bytes("a", b"mine")
        raise RuntimeError
    assert told(store) == []
    with store.transaction("two at once"):
        store.from_bytes("a", b"1")
        store.from_bytes("b", b"2")
    assert [(each.key, each.note) for each in store.log()] == [
        ("a", "two at once"), ("b", "two at once"),
    ]  # fmt: skip


def test_change_upstream_is_logged_when_it_is_known_here(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.to_bytes("a")
    store.to_bytes("b")
    assert told(store) == []
    repository.from_bytes("a", b"theirs")
    repository.delete("b")
    fresh = store.with_options(max_age=0)
    assert fresh.to_bytes("a") == b"theirs"
    assert not fresh.exists("b")
    assert told(store) == [("upstream", "a", "update"), ("upstream", "b", "delete")]


@pytest.mark.parametrize("layout", ["store", "polled"])
def test_own_push_is_no_change_of_upstream_when_the_index_shows_it(
    layout: str, request: pytest.FixtureRequest, repository: DiskCacheStore
) -> None:
    mounted: MountedStore = request.getfixturevalue(layout)
    mounted.update_index()
    mounted.set("new", (io.BytesIO(b"new"), {"n": 1}))
    mounted.update_metadata("a", {"by": "me"})
    mounted.delete("b")
    assert sync.push(mounted).ok
    _, token = mounted.changes()
    heard: list[BaseEvent] = []
    mounted.event_manager.connect(StoreKeyEvent, heard.append)
    mounted.update_index()
    assert mounted.changes(token)[0] == []
    assert heard == []
    repository.set("new", (io.BytesIO(b"theirs"), {"n": 2}))
    repository.from_bytes("b", b"again")
    mounted.update_index()
    found, _ = mounted.changes(token)
    assert {(each.what, each.key, each.kind) for each in found} == {
        ("upstream", "new", "update"), ("upstream", "b", "set"),
    }  # fmt: skip
    assert len(heard) == 2


def test_poll_logs_what_it_changed_key_by_key_unless_that_is_too_much(
    polled: MountedStore, repository: DiskCacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled.update_index()
    assert told(polled) == []
    polled.to_bytes("a")
    repository.set("a", (io.BytesIO(b"theirs"), {"n": 1}))
    repository.from_bytes("c", b"new")
    repository.delete("b")
    polled.update_index()
    assert told(polled) == [
        ("upstream", "a", "update"), ("upstream", "b", "delete"), ("upstream", "c", "set"),
    ]  # fmt: skip
    assert polled.to_bytes("a") == b"theirs"
    assert len(told(polled)) == 3  # that its bytes came, too, is no news
    monkeypatch.setattr(listing, "RECORDED", 2)
    for name in "def":
        repository.from_bytes(name, b"new")
    polled.update_index()
    last = list(polled.log())[-1]
    assert (last.what, last.key, last.note) == ("upstream", None, "3 keys")


def test_log_is_bounded(store: MountedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 5)
    for n in range(9):
        store.from_bytes("a", b"%d" % n)
    found = list(store.log())
    assert [each.seq for each in found] == [5, 6, 7, 8, 9]
    with store.transaction("x" * 1000):
        store.from_bytes("a", b"")
    assert len(list(store.log())[-1].note) == 300


def test_pages_of_the_log_are_joined(store: MountedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction("many"):
        for n in range(1500):
            store.from_bytes(f"many/{n}", b"")
    assert [each.key for each in store.log()] == [f"many/{n}" for n in range(1500)]


# -- tokens ----------------------------------------------------------------------------------


def test_changes_go_on_where_they_ended(store: MountedStore) -> None:
    store.from_bytes("a", b"before")
    found, token = store.changes()
    assert found == []
    assert store.changes(token) == ([], token)
    store.from_bytes("b", b"after")
    store.push("b")
    found, later = store.changes(token)
    assert [(each.what, each.key) for each in found] == [("staged", "b"), ("pushed", "b")]
    assert store.changes(later) == ([], later)
    assert store.changes(token) == (found, later)


def test_changes_of_another_process_are_heard_of(store: MountedStore, tmp_path: Path) -> None:
    _, token = store.changes()
    script(
        """
        import sys
        from mountcache import DiskCacheStore
        DiskCacheStore(sys.argv[1]).from_bytes("x", b"")
        """,
        tmp_path / "here",
    )
    found, _ = store.changes(token)
    assert [(each.what, each.key) for each in found] == [("staged", "x")]


def test_token_that_says_too_little_is_refused(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, token = store.changes()
    monkeypatch.setattr(history, "KEPT", 3)
    for n in range(3):
        store.from_bytes("a", b"%d" % n)
    assert len(store.changes(token)[0]) == 3
    store.from_bytes("a", b"one more")
    with pytest.raises(ExpiredTokenError, match="look at all keys"):
        store.changes(token)
    for wrong in ("", "x", f"{token}x", "a:b:c", token.replace(":", ":-"), f"{token}99"):
        with pytest.raises(ExpiredTokenError):
            store.changes(wrong)
    _, token = store.changes()
    backup(tmp_path / "here", tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "again")
    again = MountedStore("", DiskCacheStore(tmp_path / "again"), store.backing_store)
    with pytest.raises(ExpiredTokenError, match="isn't of this store"):
        again.changes(token)


def test_looking_for_changes_searches(store: MountedStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "here" / "cache.db")) as con:
        for where in ("key = 'a' AND seq > 1", "seq > 1"):
            plan = con.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM log WHERE {where} ORDER BY seq LIMIT 10"
            ).fetchall()
            assert all("SEARCH" in row[3] for row in plan), plan


# -- groups ----------------------------------------------------------------------------------


def groups(store: MountedStore) -> dict[str, str | None]:
    return {edit.key: edit.group_name for edit in store.staged()}


def test_edits_of_several_transactions_share_a_named_group(store: MountedStore) -> None:
    with store.transaction("first", group="release"):
        store.from_bytes("a", b"1")
    store.from_bytes("alone", b"")
    with store.transaction("second", group="release"):
        store.from_bytes("b", b"2")
    assert groups(store) == {"a": "release", "b": "release", "alone": None}
    a, alone, b = store.staged()
    assert a.group == b.group != alone.group


def test_named_group_keeps_its_name_when_another_transaction_touches_it(
    store: MountedStore,
) -> None:
    with store.transaction("first", group="release"):
        store.from_bytes("a", b"1")
    with store.transaction("no name"):
        store.from_bytes("a", b"2")
        store.from_bytes("b", b"2")
    assert groups(store) == {"a": "release", "b": "release"}
    with store.transaction("named", group="later"):
        store.from_bytes("b", b"3")
        store.from_bytes("c", b"3")
    assert set(groups(store).values()) == {"later"}


def test_lone_edit_over_a_grouped_one_stays_in_its_group(store: MountedStore) -> None:
    with store.transaction("first", group="release"):
        store.from_bytes("a", b"1")
    store.from_bytes("a", b"2")
    assert groups(store) == {"a": "release"}


def test_name_of_a_group_is_free_once_it_is_pushed(store: MountedStore) -> None:
    with store.transaction("first", group="release"):
        store.from_bytes("a", b"1")
    sync.push(store)
    with store.transaction("again", group="release"):
        store.from_bytes("b", b"1")
    assert groups(store) == {"b": "release"}


def test_group_that_cant_be_named_is_refused(store: MountedStore) -> None:
    for name in ("", " x", "x\n", "x" * 201, "\x1b[31m"):
        with (
            pytest.raises(ConfigurationError, match="a group's name"),
            store.transaction("", group=name),
        ):
            pass
    with (
        store.transaction("outer"),
        pytest.raises(TransactionError),
        store.transaction("inner", group="x"),
    ):
        pass
    with store.transaction("outer", group="x"), store.transaction("inner", group="x"):
        store.from_bytes("a", b"")
    assert groups(store) == {"a": "x"}


# -- what is held back -------------------------------------------------------------------------


def test_held_edit_is_not_pushed_until_it_is_let_go(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.from_bytes("a", b"mine")
    store.from_bytes("b", b"mine")
    store.hold("a")
    assert [edit.held for edit in store.staged()] == [True, False]
    report = sync.push(store)
    assert {each.key: each.outcome for each in report.results} == {"a": "held", "b": "pushed"}
    assert report.ok
    assert repository.to_bytes("a") == b"a"
    with pytest.raises(StoreError, match="held back"):
        store.push("a")
    store.from_bytes("a", b"mine again")
    assert sync.push(store, ["a"])["a"].outcome == "held"
    store.unhold("a")
    store.push("a")
    assert repository.to_bytes("a") == b"mine again"
    assert told(store, "a")[-1] == ("pushed", "a", "put")


def test_what_comes_into_a_group_that_is_held_is_held(store: MountedStore) -> None:
    with store.transaction("first", group="release"):
        store.from_bytes("a", b"1")
    store.hold("a")
    with store.transaction("second", group="release"):
        store.from_bytes("b", b"1")
    assert [edit.held for edit in store.staged()] == [True, True]


def test_one_key_of_a_group_holds_all_of_it(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    with store.transaction("together"):
        store.from_bytes("a", b"1")
        store.from_bytes("b", b"1")
    store.from_bytes("lone", b"1")
    assert store.hold("b") == ["a", "b"]
    report = sync.push(store)
    assert {each.key: each.outcome for each in report.results} == {
        "a": "held", "b": "held", "lone": "pushed",
    }  # fmt: skip
    assert report.ok
    assert repository.to_bytes("a") == b"a"
    assert sync.push(store, ["a"])["a"].outcome == "held"
    assert store.unhold("a") == ["a", "b"]
    (group,) = sync.push(store).groups
    assert group.outcome == "complete"
    assert repository.to_bytes("b") == b"1"


def test_what_comes_to_be_together_with_what_is_held_is_held(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.from_bytes("a", b"1")
    store.hold("a")
    with store.transaction("joins"):
        store.from_bytes("b", b"1")
        store.from_bytes("a", b"2")
    assert {edit.key: edit.held for edit in store.staged()} == {"a": True, "b": True}
    store.unhold("b")
    store.from_bytes("draft", b"1")
    store.hold("draft")
    store.mv("draft", "draft 2")
    store.from_bytes("lone", b"1")
    held = {edit.key for edit in store.staged() if edit.held}
    assert held == {"draft 2"}
    assert sync.push(store).ok
    assert not repository.exists("draft 2")


def test_all_are_held_or_none(store: MountedStore) -> None:
    store.from_bytes("a", b"mine")
    with pytest.raises(KeyError, match="b"):
        store.hold("a", "b")
    assert [edit.held for edit in store.staged()] == [False]
    with store.transaction("x"), pytest.raises(TransactionError):
        store.hold("a")


def test_both_halves_of_a_rename_are_held(store: MountedStore, repository: DiskCacheStore) -> None:
    store.mv("a", "c")
    assert store.hold("c") == ["c", "a"]
    outcomes = {each.key: each.outcome for each in sync.push(store).results}
    assert outcomes == {"c": "held", "a": "held"}
    assert repository.exists("a")
    assert store.unhold("a") == ["c", "a"]
    assert sync.push(store).ok
    assert sorted(repository.query_keys()) == ["b", "c"]
