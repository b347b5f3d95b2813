"""Renames and deletes: the old name stays upstream until the new one is there, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from mountcache import sync
from mountcache.errors import AuthorizationError, ConflictError
from mountcache.local.memory import MemoryStore
from mountcache.local.records import Edit
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(origin: Origin) -> MountedStore:
    return MountedStore("", MemoryStore(), origin)


@pytest.fixture
def renamed(store: MountedStore, origin: Origin) -> MountedStore:
    """Upstream's a was renamed to b here."""
    put(origin, "a", "data")
    store.mv("a", "b")
    return store


def meanwhile(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_old_name_stays_if_the_new_one_yields_to_upstream(
    renamed: MountedStore, origin: Origin
) -> None:
    put(origin, "b", "a stranger's")
    report = sync.push(renamed, on_conflict="theirs")
    assert report.ok
    assert "not deleted" in report["a"].message
    assert origin.to_bytes("a") == renamed.to_bytes("a") == b"data"
    assert origin.to_bytes("b") == b"a stranger's"
    assert list(renamed.staged()) == []


def test_old_name_stays_while_what_is_kept_of_both_isnt_upstream(
    renamed: MountedStore, origin: Origin
) -> None:
    put(origin, "b", "a stranger's")

    def refuse(verb: str, key: str) -> None:
        if key != "b":
            raise AuthorizationError("not you", status=403)

    origin.before = refuse
    report = sync.push(renamed, on_conflict="keep-both")
    assert report["a"].outcome == "skipped"
    assert origin.to_bytes("a") == b"data"
    origin.before = lambda verb, key: None
    assert sync.push(renamed).ok
    mine = next(origin.glob("b.conflict-*"))
    assert origin.to_bytes(mine) == b"data"
    assert not origin.exists("a")


def test_two_renames_in_a_transaction_are_one(store: MountedStore, origin: Origin) -> None:
    put(origin, "a", "data")
    with store.transaction("rename"):
        store.mv("a", "b")
        store.mv("b", "c")
    put(origin, "c", "a stranger's")
    report = sync.push(store)
    assert (report["a"].outcome, report["c"].outcome) == ("skipped", "conflict")
    assert origin.to_bytes("a") == b"data"
    assert sorted(store.revert("c")) == ["a", "c"]


def test_new_name_that_was_deleted_and_set_anew_is_no_half_of_the_rename(
    renamed: MountedStore, origin: Origin
) -> None:
    with renamed.transaction("replace"):
        renamed.delete("b")
        put(renamed, "b", "another")
    assert renamed.revert("b") == ["b"]
    assert renamed.push("a").outcome == "pushed"
    assert not origin.exists("a")


def test_delete_of_the_new_name_that_is_taken_back_leaves_the_rename(
    renamed: MountedStore, origin: Origin
) -> None:
    with renamed.transaction("outer"):
        put(renamed, "c", "data")
        with pytest.raises(ZeroDivisionError), renamed.transaction("inner"):
            renamed.delete("b")
            raise ZeroDivisionError
    assert sorted(renamed.revert("b")) == ["a", "b"]


def test_rename_is_done_once_the_new_name_is_upstream(renamed: MountedStore) -> None:
    renamed.push("b")
    put(renamed, "b", "edited")
    assert renamed.revert("b") == ["b"]
    assert not renamed.exists("a")


def test_rename_overwrites_nothing_that_came_to_the_new_name_meanwhile(
    store: MountedStore, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin, "a", "data")
    with_bytes = store._with_bytes

    def slowly(*names: Any) -> Edit:
        found = with_bytes(*names)
        meanwhile(lambda: put(store, "b", "another thread's"))
        return found

    monkeypatch.setattr(store, "_with_bytes", slowly)
    with pytest.raises(ConflictError):
        store.mv("a", "b")
    assert store.to_bytes("b") == b"another thread's"
    assert store.to_bytes("a") == b"data"


def test_rename_of_what_is_evicted_meanwhile_stages_nothing(
    store: MountedStore, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin, "a", "data")
    with_bytes = store._with_bytes

    def slowly(*names: Any) -> Edit:
        found = with_bytes(*names)
        meanwhile(lambda: store.mount.catalog.drop_copy("a"))
        return found

    monkeypatch.setattr(store, "_with_bytes", slowly)
    with pytest.raises(ConflictError, match="'b' were dropped here meanwhile"):
        store.mv("a", "b")
    assert list(store.staged()) == []


def test_what_was_deleted_here_stays_hidden_though_upstream_has_it_now(
    store: MountedStore, origin: Origin
) -> None:
    store.update_index()
    put(store, "k", "mine")
    put(origin, "k", "a stranger's")
    store.update_index()
    store.delete("k")
    assert not store.exists("k")
    with pytest.raises(ConflictError):
        store.push("k")
    assert origin.to_bytes("k") == b"a stranger's"
    assert store.revert("k") == ["k"]
    assert store.to_bytes("k") == b"a stranger's"


def test_delete_in_a_transaction_meets_a_push_that_began_meanwhile(
    store: MountedStore, origin: Origin
) -> None:
    store.update_index()
    put(store, "k", "mine")
    sending, go_on = threading.Event(), threading.Event()

    def hold(verb: str, key: str) -> None:
        sending.set()
        assert go_on.wait(30)

    origin.before = hold
    pusher = threading.Thread(target=lambda: store.push("k"))
    with store.transaction("delete"):
        store.delete("k")
        pusher.start()
        assert sending.wait(30)
    go_on.set()
    pusher.join()
    assert not store.exists("k")
    origin.before = lambda verb, key: None
    assert sync.push(store, ["k"]).ok
    assert not origin.exists("k")


def test_transaction_notices_an_edit_of_what_nobody_knew_at_its_first_look(
    store: MountedStore,
) -> None:
    with pytest.raises(ConflictError), store.transaction("create"):
        assert not store.exists("k")
        meanwhile(lambda: put(store, "k", "another thread's"))
        if not store.exists("other"):
            put(store, "k", store.to_bytes("k").decode() + " and mine")
    assert store.to_bytes("k") == b"another thread's"
