"""Permissions: staged apart, based and compared by themselves, pushed when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MemoryStore, MountedStore, StringValue, sync
from mountcache.errors import (
    AuthorizationError,
    ConflictError,
    InvalidMetadataError,
    ReadOnlyKeyError,
    StoreError,
    StoreUnavailableError,
    TransactionError,
)
from mountcache.events import StorePushEvent
from mountcache.sync.permissions import judged
from mountcache.sync.report import PushResult
from tests.command import Inside
from tests.foreignserver import ForeignServer

MINE, THEIRS = {"read": ["ada", "me"]}, {"read": ["ada", "eve"]}
BASE = {"read": ["ada"]}


@pytest.fixture
def foreign() -> Iterator[ForeignServer]:
    with ForeignServer() as server:
        server.put("a", b"data of a", {"n": 1}, BASE)
        server.put("b", b"data of b", {"n": 2}, {"read": ["bob"], "write": ["bob"]})
        yield server


def mounted(foreign: ForeignServer, path: Path, **options: Any) -> MountedStore:
    backing = DynamicURLStore(*foreign.urls, retries=0)
    return MountedStore("", DiskCacheStore(path), backing, author="me", **options)


@pytest.fixture
def store(foreign: ForeignServer, tmp_path: Path) -> Iterator[MountedStore]:
    with mounted(foreign, tmp_path / "here") as made:
        yield made


def there(foreign: ForeignServer, key: str) -> Any:
    return json.loads(foreign.keys[key]["auth"])


def push(store: MountedStore, keys: Sequence[str] | None = None, **told: Any) -> PushResult:
    """Push, and return the one result that is about permissions."""
    results = sync.push(store, keys, permissions=True, **told).results
    (found,) = [each for each in results if each.part == "permissions"]
    return found


# -- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "base", "theirs", "own", "expected"),
    [
        (MINE, BASE, BASE, False, "send"),
        (MINE, BASE, MINE, False, "done"),
        (MINE, None, MINE, False, "done"),
        (MINE, BASE, {**MINE, "owner": ["root"]}, False, "done"),
        (MINE, BASE, THEIRS, False, "conflict"),
        (MINE, None, BASE, False, "conflict"),
        (MINE, None, BASE, True, "send"),
        (BASE, BASE, THEIRS, False, "yield"),
        ({}, BASE, BASE, False, "send"),
        (BASE, {**BASE, "write": ["x"]}, {**BASE, "write": ["x"]}, False, "send"),
        (BASE, {**BASE, "write": ["x"]}, {**BASE, "write": ["y"]}, False, "conflict"),
    ],
)
def test_what_becomes_of_them(mine: Any, base: Any, theirs: Any, own: bool, expected: str) -> None:
    assert judged(mine, base, theirs, own=own) == expected


# -- staging ---------------------------------------------------------------------------------


def test_they_are_upstreams_until_they_are_staged(
    store: MountedStore, foreign: ForeignServer
) -> None:
    assert store.get_permissions("a") == BASE
    foreign.put("a", auth=THEIRS)
    assert store.get_permissions("a") == THEIRS
    store.set_permissions("a", MINE)
    assert store.get_permissions("a") == MINE
    assert there(foreign, "a") == THEIRS


def test_a_change_by_name_leaves_the_others(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("b", {"read": ["me"]})
    store.update_permissions("b", {"list": ["me"]})
    expected = {"read": ["me"], "write": ["bob"], "list": ["me"]}
    assert store.get_permissions("b") == expected
    assert push(store).outcome == "pushed"
    assert there(foreign, "b") == expected


def test_a_push_sends_none_unasked(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    store.from_bytes("a", b"mine")
    assert [each.part for each in sync.push(store).results] == ["value"]
    assert foreign.keys["a"]["data"] == b"mine"
    (named,) = sync.push(store, ["a"]).results
    assert named.outcome == "already there"
    assert "permissions=True" in named.message
    assert there(foreign, "a") == BASE
    assert [one.key for one in sync.status(store).permissions] == ["a"]


def test_they_outlive_the_process_and_are_read_offline(
    store: MountedStore, foreign: ForeignServer, tmp_path: Path
) -> None:
    store.update_permissions("a", MINE)
    store.disconnect()
    with mounted(foreign, tmp_path / "here", offline="always") as again:
        assert again.get_permissions("a") == MINE
        with pytest.raises(StoreUnavailableError):
            again.get_permissions("b")


def test_what_isnt_there_has_none(store: MountedStore) -> None:
    for act in (store.get_permissions, lambda key: store.update_permissions(key, MINE)):
        with pytest.raises(KeyError):
            act("gone")
    store.delete("a")
    for act in (store.get_permissions, lambda key: store.set_permissions(key, MINE)):
        with pytest.raises(KeyError):
            act("a")


def test_an_upstream_without_permissions_says_so(tmp_path: Path) -> None:
    upstream = MemoryStore()
    upstream.set("a", StringValue(b"a"))
    with MountedStore("", DiskCacheStore(tmp_path / "x"), upstream) as store:
        for act in (store.get_permissions, lambda key: store.set_permissions(key, MINE)):
            with pytest.raises(AuthorizationError, match="keeps no permissions"):
                act("a")
        assert store.user_tag is None


def test_bad_ones_and_bad_places_are_refused(foreign: ForeignServer, tmp_path: Path) -> None:
    foreign.put("in/a", b"x", {}, BASE)
    backing = DynamicURLStore(*foreign.urls)
    with MountedStore("in/", DiskCacheStore(tmp_path / "x"), backing) as store:
        with pytest.raises(InvalidMetadataError, match="permissions"):
            store.set_permissions("in/a", {"read": float("nan")})
        with pytest.raises(ReadOnlyKeyError):
            store.set_permissions("a", MINE)
        assert store.get_permissions("a") == BASE
        with store.transaction("of values"), pytest.raises(TransactionError):
            store.set_permissions("in/a", MINE)
        assert not sync.status(store).permissions
        store.update_permissions("in/a", MINE)
        assert push(store).key == "in/a"
    assert there(foreign, "in/a") == MINE


# -- pushing ---------------------------------------------------------------------------------


def test_a_push_compares_before_and_reads_back(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    foreign.asked.clear()
    heard: list[StorePushEvent] = []
    store.event_manager.connect(StorePushEvent, heard.append)
    result = push(store)
    assert (result.outcome, result.grade, result.verified) == ("pushed", "C", True)
    assert result.race is not None
    assert foreign.order() == [("GET", "auth"), ("PUT", "auth"), ("GET", "auth")]
    assert [event.key for event in heard] == ["a"]
    assert not sync.status(store).permissions
    assert sync.push(store, permissions=True).results == ()


def test_somebody_elses_change_is_a_conflict(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    foreign.put("a", auth=THEIRS)
    result = push(store)
    assert result.outcome == "conflict"
    assert result.conflict is not None
    assert (result.conflict.mine.metadata, result.conflict.upstream.metadata) == (MINE, THEIRS)
    assert there(foreign, "a") == THEIRS
    (left,) = sync.status(store).permissions
    assert left.in_conflict


def test_what_nobody_here_has_seen_isnt_overwritten(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.to_bytes("a")
    store.set_permissions("a", MINE)
    assert "nobody here had seen" in push(store).message
    assert there(foreign, "a") == BASE


def test_others_change_of_the_value_is_no_conflict(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    foreign.put("a", b"theirs", {"n": 9})
    assert push(store).outcome == "pushed"
    assert foreign.keys["a"]["data"] == b"theirs"


@pytest.mark.parametrize(
    ("policy", "outcome", "expected"),
    [
        ("mine", "pushed", {"read": ["me"], "write": ["bob"]}),
        ("upstream", "already there", {"read": ["bob"], "write": ["eve"]}),
        ("merge-metadata", "pushed", {"read": ["me"], "write": ["eve"]}),
        ("keep-both", "conflict", {"read": ["bob"], "write": ["eve"]}),
        (lambda conflict: {"permissions": "ours"}[conflict.part], "pushed",
         {"read": ["me"], "write": ["bob"]}),
    ],
)  # fmt: skip
def test_policies(
    store: MountedStore, foreign: ForeignServer, policy: Any, outcome: str, expected: Any
) -> None:
    store.update_permissions("b", {"read": ["me"]})
    foreign.put("b", auth={"read": ["bob"], "write": ["eve"]})
    assert push(store, on_conflict=policy).outcome == outcome
    assert there(foreign, "b") == expected
    assert bool(sync.status(store).permissions) == (outcome == "conflict")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("mine", {"read": ["me"], "write": ["bob"]}),
        ("merge-metadata", {"read": ["me"], "write": ["eve"]}),
        ("upstream", {"read": ["bob"], "write": ["eve"]}),
    ],
)
def test_a_conflict_is_resolved_before_a_push(
    store: MountedStore, foreign: ForeignServer, policy: str, expected: Any
) -> None:
    store.update_permissions("b", {"read": ["me"]})
    with pytest.raises(StoreError, match="aren't in conflict"):
        sync.resolve(store, "b", policy, permissions=True)
    foreign.put("b", auth={"read": ["bob"], "write": ["eve"]})
    resolved = sync.resolve(store, "b", policy, permissions=True)
    assert (resolved.staged is None) == (policy == "upstream")
    assert resolved.conflict.part == "permissions"
    assert there(foreign, "b") == {"read": ["bob"], "write": ["eve"]}
    sync.push(store, permissions=True)
    assert there(foreign, "b") == expected
    with pytest.raises(KeyError):
        sync.resolve(store, "b", policy, permissions=True)


def test_a_lost_reply_is_no_conflict(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    foreign.lost.add(("PUT", "auth"))
    assert push(store).outcome == "failed"
    foreign.lost.clear()
    assert push(store).outcome == "already there"
    assert there(foreign, "a") == MINE


@pytest.mark.parametrize(
    ("status", "outcome"), [(403, "blocked"), (401, "blocked"), (500, "failed")]
)
def test_who_may_not_is_told_and_keeps_them(
    store: MountedStore, foreign: ForeignServer, status: int, outcome: str
) -> None:
    store.update_permissions("a", MINE)
    foreign.refused["PUT", "auth"] = status
    foreign.asked.clear()
    assert push(store).outcome == outcome
    assert foreign.order().count(("PUT", "auth")) == 1
    (left,) = sync.status(store).permissions
    assert (left.tries, left.permissions) == (1, MINE)
    foreign.refused.clear()
    assert push(store).outcome == "pushed"


def test_401_stops_the_rest(store: MountedStore, foreign: ForeignServer) -> None:
    for key in "ab":
        store.update_permissions(key, MINE)
    foreign.refused["GET", "auth"] = 401
    foreign.asked.clear()
    report = sync.push(store, permissions=True, workers=1)
    assert [each.outcome for each in report.results] == ["blocked", "blocked"]
    assert foreign.order() == [("GET", "auth")]


def test_a_server_that_keeps_other_ones_is_told_of_and_mine_are_kept(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    seen: list[str] = []

    def before(method: str, key: str, part: str) -> None:
        if method == "PUT":
            seen.append(method)
        elif seen and part == "auth":
            foreign.put("a", auth={"read": []})

    foreign.before = before
    assert push(store).outcome == "stored differently"
    assert not sync.status(store).permissions
    store.undo("a")
    assert store.get_permissions("a") == MINE


def test_a_new_key_is_pushed_first_and_its_permissions_after_it(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.from_bytes("new", b"new")
    assert store.get_permissions("new") == {}
    store.update_permissions("new", MINE)

    def before(method: str, key: str, part: str) -> None:
        if method == "PUT" and (key, part) == ("new", "metadata"):
            foreign.put("new", auth={"owner": ["me"]})

    foreign.before = before
    report = sync.push(store, permissions=True)
    assert [(each.part, each.outcome) for each in report.results] == [
        ("value", "pushed"), ("permissions", "pushed"),
    ]  # fmt: skip
    assert there(foreign, "new") == MINE


def test_permissions_of_a_new_key_that_went_before_are_compared(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.from_bytes("new", b"new")
    store.set_permissions("new", MINE)
    sync.push(store)
    foreign.put("new", auth=THEIRS)
    assert push(store).outcome == "conflict"
    assert there(foreign, "new") == THEIRS


def test_they_wait_for_a_value_that_isnt_upstream(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"mine")
    store.update_permissions("a", MINE)
    foreign.put("a", b"theirs")
    report = sync.push(store, permissions=True)
    assert [each.outcome for each in report.results] == ["conflict", "skipped"]
    store.from_bytes("b", b"mine")
    store.update_permissions("b", MINE)
    store.hold("b")
    assert push(store, ["b"]).outcome == "skipped"
    assert there(foreign, "a") == BASE


def test_a_key_that_was_deleted_upstream_is_told_of(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    foreign.remove("a")
    result = push(store)
    assert result.outcome == "failed"
    assert "no such key" in result.message
    assert sync.status(store).permissions


def test_what_was_staged_during_a_push_is_made_from_it(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)

    def before(method: str, key: str, part: str) -> None:
        if method == "PUT":
            foreign.before = lambda method, key, part: None
            store.set_permissions("a", {"read": ["later"]})

    foreign.before = before
    assert push(store).outcome == "pushed"
    assert store.get_permissions("a") == {"read": ["later"]}
    assert push(store).outcome == "pushed"
    assert there(foreign, "a") == {"read": ["later"]}


def test_rules_that_forbid_a_push_forbid_these(foreign: ForeignServer, tmp_path: Path) -> None:
    rules = [sync.Rule("a", push="never")]
    with mounted(foreign, tmp_path / "x", rules=rules) as store:
        store.update_permissions("a", MINE)
        assert push(store).outcome == "held"
    assert there(foreign, "a") == BASE


def test_what_was_given_out_is_remembered_of_so_many_keys(
    store: MountedStore, foreign: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mountcache.sync.permissions._SEEN", 1)
    for key in "ab":
        store.get_permissions(key)
        store.set_permissions(key, MINE)
    store.get_permissions("b")
    assert list(store.mount.seen_permissions) == ["b"]
    foreign.put("c", b"c", {}, BASE)
    store.get_permissions("c")
    assert list(store.mount.seen_permissions) == ["c"]
    store.set_permissions("c", MINE)
    store.get_permissions("c")
    assert push(store, ["c"]).outcome == "pushed"


# -- taking away and having back -------------------------------------------------------------


def test_revert_discards_them_and_undo_has_them_back(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    assert store.revert("a") == ["a"]
    assert store.get_permissions("a") == BASE
    with pytest.raises(KeyError):
        store.revert("a")
    (taken,) = store.taken("a")
    assert (taken.kind, taken.why) == ("perm", "reverted")
    store.undo("a")
    foreign.put("a", auth=THEIRS)
    assert push(store).outcome == "conflict"  # made from what it was made from then


def test_revert_discards_both_parts(store: MountedStore) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"mine")
    store.update_permissions("a", MINE)
    assert store.revert("a") == ["a"]
    status = sync.status(store)
    assert (status.edits, status.permissions) == ((), ())
    assert {taken.kind for taken in store.taken("a")} == {"put", "perm"}


def test_what_is_replaced_is_kept(store: MountedStore) -> None:
    store.update_permissions("a", MINE)
    store.set_permissions("a", THEIRS)
    store.set_permissions("a", THEIRS)
    assert [taken.why for taken in store.taken("a")] == ["replaced"]
    store.undo("a")
    assert store.get_permissions("a") == MINE


def test_a_delete_takes_them_away_and_a_rename_takes_them_along(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    store.update_permissions("b", MINE)
    store.mv("a", "c")
    store.delete("b")
    assert [one.key for one in sync.status(store).permissions] == ["c"]
    assert store.get_permissions("c") == MINE
    assert "perm" in {taken.kind for taken in store.taken("b")}
    assert push(store).outcome == "pushed"
    assert there(foreign, "c") == MINE


def test_a_rename_there_and_back_makes_no_key_new(
    store: MountedStore, foreign: ForeignServer
) -> None:
    store.update_permissions("a", MINE)
    store.mv("a", "c")
    store.mv("c", "a")
    store.from_bytes("a", b"mine")
    foreign.put("a", auth=THEIRS)
    report = sync.push(store, permissions=True)
    assert [(each.part, each.outcome) for each in report.results if each.key == "a"] == [
        ("value", "pushed"), ("permissions", "conflict"),
    ]  # fmt: skip
    assert there(foreign, "a") == THEIRS


def test_what_took_the_place_of_anothers_value_leaves_their_permissions(
    store: MountedStore, foreign: ForeignServer
) -> None:
    with pytest.raises(KeyError):
        store.get("new")
    store.from_bytes("new", b"new")
    store.set_permissions("new", MINE)
    foreign.put("new", b"theirs", {}, THEIRS)

    def mine_alone(conflict: sync.Conflict) -> str:
        return "ours" if conflict.part == "value" else "fail"

    outcomes = {
        each.part: each.outcome
        for each in sync.push(store, permissions=True, on_conflict=mine_alone).results
    }
    assert outcomes == {"value": "pushed", "permissions": "conflict"}
    assert there(foreign, "new") == THEIRS


def test_one_that_fails_stops_no_other(
    store: MountedStore, foreign: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "ab":
        store.update_permissions(key, MINE)
    ask = store.mount.backing.get_permissions  # type: ignore[attr-defined]

    def odd(key: str) -> Any:
        if key == "a":
            raise ReadOnlyKeyError("a store error that is a KeyError, too")
        return ask(key)

    monkeypatch.setattr(store.mount.backing, "get_permissions", odd)
    outcomes = {each.key: each.outcome for each in sync.push(store, permissions=True).results}
    assert outcomes == {"a": "failed", "b": "pushed"}


def test_moving_upstream_forgets_that_a_key_was_new(foreign: ForeignServer, tmp_path: Path) -> None:
    with mounted(foreign, tmp_path / "x") as store:
        store.from_bytes("new", b"new")
        store.set_permissions("new", MINE)
    with ForeignServer() as other:
        other.put("new", b"new", {}, THEIRS)
        backing = DynamicURLStore(*other.urls)
        moved = MountedStore("", DiskCacheStore(tmp_path / "x"), backing)
        moved.rebind(str(backing.identity))
        with moved:
            assert push(moved).outcome == "conflict"
        assert there(other, "new") == THEIRS


# -- plans -----------------------------------------------------------------------------------


def planned(store: MountedStore, **told: Any) -> sync.Plan:
    return sync.read_plan(sync.plan(store, permissions=True, **told).to_json().encode())


def test_a_plan_does_what_it_says(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    store.from_bytes("new", b"new")
    store.set_permissions("new", MINE)
    plan = planned(store)
    assert [(step.key, step.action) for step in plan.permissions] == [
        ("a", "permissions"), ("new", "permissions"),
    ]  # fmt: skip
    assert sync.plan(store).permissions == ()
    assert there(foreign, "a") == BASE
    report = sync.apply(store, plan)
    assert {(each.key, each.part): each.outcome for each in report.results} == {
        ("a", "permissions"): "pushed", ("new", "permissions"): "pushed",
        ("new", "value"): "pushed",
    }  # fmt: skip
    assert there(foreign, "a") == MINE


def test_a_plan_refuses_what_has_changed_since(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    plan = planned(store)
    store.set_permissions("a", {"read": ["later"]})
    store.from_bytes("a", b"staged later")
    store.update_permissions("b", MINE)
    outcomes = {(each.key, each.part): each.outcome for each in sync.apply(store, plan).results}
    assert outcomes == {("a", "permissions"): "refused", ("a", "value"): "refused"}
    assert foreign.keys["a"]["data"] == b"data of a"
    store.revert("a")
    (gone,) = sync.apply(store, plan).results
    assert (gone.outcome, gone.part) == ("refused", "permissions")


@pytest.mark.parametrize("again", [False, True])
def test_a_plan_resolves_the_conflict_that_it_saw_alone(
    store: MountedStore, foreign: ForeignServer, again: bool
) -> None:
    store.update_permissions("a", MINE)
    foreign.put("a", auth=THEIRS)
    assert [step.action for step in planned(store).permissions] == ["conflict"]
    plan = planned(store, on_conflict="mine")
    if again:
        foreign.put("a", auth={"read": ["zoe"]})
    (result,) = sync.apply(store, plan).results
    assert result.outcome == ("conflict" if again else "pushed")
    assert there(foreign, "a") == ({"read": ["zoe"]} if again else MINE)


# -- one key, and the command ----------------------------------------------------------------


def test_push_of_one_key_is_about_its_value(store: MountedStore, foreign: ForeignServer) -> None:
    store.update_permissions("a", MINE)
    assert store.push("a").outcome == "already there"
    store.to_bytes("b")
    store.from_bytes("b", b"mine")
    foreign.put("b", b"theirs")
    with pytest.raises(ConflictError):
        store.push("b")


def test_command(foreign: ForeignServer, tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text(
        f'url = "{foreign.url}"\nlayout = "dynamic"\ndir = "here"\n'
    )
    shell = Inside(tmp_path)
    assert shell("permissions", "a").text == "read=ada\n"
    staged = shell("permissions", "a", "read=ada,me", "list=")
    assert (staged.text, staged.code) == ("list=\nread=ada,me\n", 0)
    assert "push --permissions" in staged.err
    assert shell("permissions", "a", "--upstream").text == "read=ada\n"
    status = shell("status", "--porcelain")
    assert (status.text, status.code) == ("P? a\n", 1)
    assert "1 staged" in shell("status").err
    (told,) = shell("status", "--json").documents
    assert told["permissions"][0]["permissions"] == {"list": [], "read": ["ada", "me"]}
    assert "nothing is staged" in shell("push").text
    dry = shell("push", "--permissions", "--dry-run")
    assert dry.text.startswith("permissions  a  (")
    foreign.put("a", auth=THEIRS)
    refused = shell("push", "--permissions")
    assert refused.code == 2
    assert "conflict: a (permissions)" in refused.text
    assert "resolve a --permissions --mine" in refused.err
    assert shell("status", "--porcelain").text == "PC a\n"
    assert shell("status").code == 2
    assert shell("resolve", "a", "--permissions", "--keep-both").code == 64
    assert shell("resolve", "a", "--permissions", "--mine").code == 0
    pushed = shell("push", "a", "--permissions")
    assert (pushed.code, pushed.text[:25]) == (0, "pushed: a (permissions) (")
    assert there(foreign, "a") == {"list": [], "read": ["ada", "me"]}
    assert shell("permissions", "a", "--unset", "list").code == 0
    assert shell("revert", "a").code == 0
    assert "permissions" in shell("undo").text
    assert shell("undo", "a").code == 0
    assert shell("permissions", "a").text == "read=ada,me\n"
    assert "perm" in shell("log", "a").text
    wrong = shell("permissions", "a", "read")
    assert (wrong.code, "NAME=TAG" in wrong.err) == (64, True)
    assert shell("permissions", "gone").code == 3
