"""Plans, pulls and conflicts that are resolved before a push."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StaticURLStore, sync
from mountcache.errors import ConfigurationError, PushInProgressError, StoreError
from mountcache.serve import Origin


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        for name in "abcd":
            store.set(name, (io.BytesIO(name.encode()), {"by": "them"}))
        yield store


@pytest.fixture
def origin(repository: DiskCacheStore) -> Iterator[Origin]:
    with Origin(repository) as served:
        yield served


def mounted(tmp_path: Path, origin: Origin, name: str = "here") -> MountedStore:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    return MountedStore("", DiskCacheStore(tmp_path / name), backing, author=name)


@pytest.fixture
def store(tmp_path: Path, origin: Origin) -> Iterator[MountedStore]:
    with mounted(tmp_path, origin) as made:
        yield made


@pytest.fixture
def polled(tmp_path: Path, origin: Origin) -> Iterator[MountedStore]:
    backing = StaticURLStore(origin.url, poll=0)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as made:
        yield made


def actions(plan: sync.Plan) -> dict[str, str]:
    return {step.key: step.action for step in plan.steps}


def outcomes(report: sync.PushReport) -> dict[str, str]:
    return {each.key: each.outcome for each in report.results}


def stage_one_of_each(store: MountedStore) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"mine")
    store.update_metadata("b", {"by": "me"})
    store.delete("c")
    store.from_bytes("new", b"new")


# -- what a plan says --------------------------------------------------------------------------


def test_plan_says_what_a_push_would_do_and_does_nothing(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    stage_one_of_each(store)
    before = list(store.staged())
    plan = sync.plan(store)
    assert actions(plan) == {"a": "replace", "b": "metadata", "c": "delete", "new": "create"}
    assert list(store.staged()) == before
    assert sorted(repository.query_keys()) == ["a", "b", "c", "d"]
    assert (plan.steps[0].size, plan.steps[0].author) == (4, "here")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fail", "conflict"),
        ("ours", "replace"),
        ("mine", "replace"),
        ("theirs", "discard"),
        ("upstream", "discard"),
        ("keep-both", "keep both"),
        ("merge-metadata", "conflict"),  # the data were changed on both sides
    ],
)
def test_plan_says_what_becomes_of_a_conflict(
    store: MountedStore, repository: DiskCacheStore, policy: str, expected: str
) -> None:
    stage_one_of_each(store)
    repository.from_bytes("a", b"theirs")
    plan = sync.plan(store, ["a"], on_conflict=policy)
    assert actions(plan) == {"a": expected}
    assert [step.key for step in plan.conflicts] == (["a"] if expected == "conflict" else [])


def test_plan_knows_what_needs_no_sending(store: MountedStore, repository: DiskCacheStore) -> None:
    store.from_bytes("new", b"same")
    repository.from_bytes("new", b"same")
    store.to_bytes("a")
    store.from_bytes("a", b"held")
    store.hold("a")
    store.mv("b", "e")
    store.hold("e")
    assert actions(sync.plan(store)) == {"new": "nothing", "a": "held", "e": "held", "b": "held"}


def test_plan_brakes_as_a_push_does(store: MountedStore, repository: DiskCacheStore) -> None:
    for n in range(11):
        repository.from_bytes(f"many/{n}", b"")
    for n in range(11):
        store.delete(f"many/{n}")
    assert set(actions(sync.plan(store)).values()) == {"refused"}
    assert set(actions(sync.plan(store, max_delete=11)).values()) == {"delete"}


# -- applying it ---------------------------------------------------------------------------------


def test_plan_is_written_read_and_applied(store: MountedStore, repository: DiskCacheStore) -> None:
    stage_one_of_each(store)
    made = sync.plan(store)
    read = sync.read_plan(made.to_json())
    assert read == made
    report = sync.apply(store, read)
    assert set(outcomes(report).values()) == {"pushed"}
    assert repository.to_bytes("a") == b"mine"
    assert repository.get_metadata("b") == {"by": "me"}
    assert sorted(repository.query_keys()) == ["a", "b", "d", "new"]
    assert set(outcomes(sync.apply(store, read)).values()) == {"refused"}  # a second time: nothing


def test_what_was_edited_since_is_refused(store: MountedStore, repository: DiskCacheStore) -> None:
    stage_one_of_each(store)
    plan = sync.plan(store)
    store.from_bytes("a", b"mine, edited again")
    store.update_metadata("b", {"by": "me again"})
    store.revert("c")
    store.from_bytes("later", b"not in the plan")
    report = sync.apply(store, plan)
    assert outcomes(report) == {"a": "refused", "b": "refused", "c": "refused", "new": "pushed"}
    assert "edited since" in report["a"].message
    assert sorted(repository.query_keys()) == ["a", "b", "c", "d", "new"]
    assert repository.to_bytes("a") == b"a"
    assert {edit.key for edit in store.staged()} == {"a", "b", "later"}


def test_same_edit_made_again_is_as_good(store: MountedStore, repository: DiskCacheStore) -> None:
    stage_one_of_each(store)
    plan = sync.plan(store, ["a"])
    store.from_bytes("a", b"something else")
    store.from_bytes("a", b"mine")
    assert outcomes(sync.apply(store, plan)) == {"a": "pushed"}
    assert repository.to_bytes("a") == b"mine"


def test_what_was_changed_upstream_since_is_a_conflict(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    stage_one_of_each(store)
    plan = sync.plan(store)
    repository.from_bytes("a", b"theirs")
    repository.from_bytes("new", b"theirs")
    report = sync.apply(store, plan)
    assert outcomes(report) == {"a": "conflict", "b": "pushed", "c": "pushed", "new": "conflict"}
    assert repository.to_bytes("a") == b"theirs"
    assert repository.to_bytes("new") == b"theirs"


@pytest.mark.parametrize("policy", ["ours", "theirs", "keep-both"])
def test_approved_answer_to_a_conflict_is_for_that_conflict_alone(
    store: MountedStore, repository: DiskCacheStore, policy: str
) -> None:
    stage_one_of_each(store)
    repository.from_bytes("a", b"theirs")
    plan = sync.plan(store, ["a"], on_conflict=policy)
    repository.from_bytes("a", b"theirs, once more")
    assert outcomes(sync.apply(store, plan)) == {"a": "conflict"}
    assert repository.to_bytes("a") == b"theirs, once more"
    plan = sync.plan(store, ["a"], on_conflict=policy)
    report = sync.apply(store, plan)
    assert report.ok
    expected = {"ours": b"mine", "theirs": b"theirs, once more", "keep-both": b"theirs, once more"}
    assert repository.to_bytes("a") == expected[policy]


def test_plan_with_conflicts_sends_the_rest(store: MountedStore) -> None:
    stage_one_of_each(store)
    plan = sync.plan(store)
    steps = tuple(
        step if step.key != "a" else type(step)(**{**_as_dict(step), "action": "conflict"})
        for step in plan.steps
    )
    report = sync.apply(store, type(plan)(**{**_as_dict(plan), "steps": steps}))
    assert outcomes(report)["a"] == "refused"
    assert outcomes(report)["b"] == "pushed"


def test_plan_of_another_upstream_is_refused(
    store: MountedStore, tmp_path: Path, origin: Origin
) -> None:
    stage_one_of_each(store)
    plan = sync.plan(store)
    with DiskCacheStore(tmp_path / "other") as other, Origin(other) as elsewhere:
        there = mounted(tmp_path, elsewhere, "there")
        with there, pytest.raises(ConfigurationError, match="the plan is for"):
            sync.apply(there, plan)


def test_step_outside_the_mount_point_is_refused(tmp_path: Path, origin: Origin) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("in/", DiskCacheStore(tmp_path / "in"), backing) as store:
        store.from_bytes("in/a", b"mine")
        plan = sync.plan(store)
        (step,) = plan.steps
        outside = type(step)(**{**_as_dict(step), "key": "a"})
        report = sync.apply(store, type(plan)(**{**_as_dict(plan), "steps": (outside, step)}))
        assert outcomes(report) == {"a": "refused", "in/a": "pushed"}


def _as_dict(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


GOOD = {
    "mountcache": "plan", "format": 1, "upstream": "http://x/", "mount_point": "", "made": 1.0,
    "policy": "fail",
    "steps": [
        {"key": "a", "action": "create", "edit": "e", "upstream": "absent", "size": 1,
         "sha256": "s", "version": None, "author": "me", "at": 1.0, "group": "1", "message": ""}
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"mountcache": "index"}, {"format": 2}, {"format": "1"}, {"steps": {}}, {"steps": [1]},
        {"steps": [{}]}, {"policy": "overwrite"}, {"policy": 1}, {"made": "now"}, {"upstream": 1},
        {"mount_point": None}, {"steps": GOOD["steps"] * 2},  # type: ignore[operator]
        *({"steps": [{**GOOD["steps"][0], **each}]} for each in (  # type: ignore[index]
            {"key": 1}, {"action": "overwrite"}, {"size": "1"}, {"version": 1}, {"at": None},
            {"more": 1},
        )),
    ],
)  # fmt: skip
def test_file_that_is_no_plan_is_refused_in_one_sentence(change: dict[str, Any]) -> None:
    assert sync.read_plan(json.dumps(GOOD)).steps[0].key == "a"
    with pytest.raises(ConfigurationError, match="plan"):
        sync.read_plan(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "[" * 100_000, b"\xff\xfe"])
def test_text_that_is_no_plan_is_refused(text: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="this is no plan"):
        sync.read_plan(text)


def test_check_refuses_single_edits_before_anything_is_sent(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    stage_one_of_each(store)
    seen: list[str] = []

    def check(edit: Any) -> str | None:
        assert repository.to_bytes("a") == b"a"
        seen.append(edit.key)
        return "no metadata" if edit.key == "new" else None

    report = sync.push(store, check=check)
    assert sorted(seen) == ["a", "b", "c", "new"]
    assert outcomes(report) == {"a": "pushed", "b": "pushed", "c": "pushed", "new": "refused"}
    assert report["new"].message == "no metadata"
    assert not repository.exists("new")


# -- status with a look at upstream ---------------------------------------------------------------


def test_status_looks_at_upstream_only_if_told_to(
    store: MountedStore, repository: DiskCacheStore, origin: Origin
) -> None:
    stage_one_of_each(store)
    repository.from_bytes("a", b"theirs")
    repository.delete("b")
    repository.from_bytes("new", b"new")
    here = {edit.key: edit.upstream for edit in sync.status(store).edits}
    assert here == {"a": "same", "b": "same", "c": "same", "new": "unknown"}
    found = {edit.key: edit for edit in sync.status(store, remote=True).edits}
    there = {key: (edit.upstream, edit.in_conflict) for key, edit in found.items()}
    assert there == {
        "a": ("changed", True),
        "b": ("gone", True),
        "c": ("same", False),
        "new": ("changed", False),  # the same bytes were put there by somebody else
    }
    assert [edit.key for edit in sync.status(store, "[ab]").edits] == ["a", "b"]
    assert [edit.base for edit in sync.status(store, "a").edits] == [found["a"].base]


# -- resolving -------------------------------------------------------------------------------------


@pytest.fixture
def conflict(store: MountedStore, repository: DiskCacheStore) -> str:
    store.to_bytes("a")
    store.set("a", (io.BytesIO(b"mine"), {"by": "them", "mine": 1}))
    repository.set("a", (io.BytesIO(b"theirs"), {"by": "them", "theirs": 1}))
    assert not sync.push(store).ok
    return "a"


def test_mine_replaces_what_was_seen_and_nothing_later(
    store: MountedStore, repository: DiskCacheStore, conflict: str
) -> None:
    done = sync.resolve(store, conflict, "mine")
    assert (done.key, done.staged) == ("a", "a")
    assert repository.to_bytes("a") == b"theirs"
    (edit,) = store.staged()
    assert (edit.in_conflict, edit.error) == (False, None)
    repository.from_bytes("a", b"theirs, later")
    assert outcomes(sync.push(store)) == {"a": "conflict"}
    sync.resolve(store, conflict, "ours")
    assert sync.push(store).ok
    assert repository.to_bytes("a") == b"mine"


def test_upstream_stays_and_mine_can_be_had_back(
    store: MountedStore, repository: DiskCacheStore, conflict: str
) -> None:
    done = sync.resolve(store, conflict, "upstream")
    assert done.staged is None
    assert list(store.staged()) == []
    assert store.to_bytes("a") == b"theirs"
    store.undo("a")
    assert store.to_bytes("a") == b"mine"


def test_both_are_kept(store: MountedStore, repository: DiskCacheStore, conflict: str) -> None:
    done = sync.resolve(store, conflict, "keep-both")
    assert done.staged is not None
    assert done.staged.startswith("a.conflict-")
    assert store.to_bytes("a") == b"theirs"
    assert store.to_bytes(done.staged) == b"mine"
    assert sync.push(store).ok
    assert repository.to_bytes(done.staged) == b"mine"
    assert repository.to_bytes("a") == b"theirs"


def test_metadata_of_both_are_merged_where_the_bytes_agree(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.update_metadata("a", {"mine": 1})
    repository.set_metadata("a", {"by": "them", "theirs": 1})
    assert not sync.push(store).ok
    sync.resolve(store, "a", "merge-metadata")
    assert sync.push(store).ok
    assert repository.get_metadata("a") == {"by": "them", "mine": 1, "theirs": 1}


def test_conflict_that_a_policy_cant_resolve_stays(store: MountedStore, conflict: str) -> None:
    with pytest.raises(StoreError, match="changed on both sides"):
        sync.resolve(store, conflict, "merge-metadata")
    with pytest.raises(ConfigurationError, match="no policy"):
        sync.resolve(store, conflict, "overwrite")
    (edit,) = store.staged()
    assert edit.in_conflict


def test_what_isnt_in_conflict_isnt_resolved(store: MountedStore) -> None:
    store.from_bytes("new", b"")
    assert sync.in_conflict(store, "new") is None
    with pytest.raises(StoreError, match="isn't in conflict"):
        sync.resolve(store, "new", "mine")
    with pytest.raises(KeyError):
        sync.resolve(store, "a", "mine")


def test_conflict_that_was_looked_at_is_the_one_that_is_resolved(
    store: MountedStore, repository: DiskCacheStore, conflict: str
) -> None:
    seen = sync.in_conflict(store, conflict)
    repository.from_bytes("a", b"theirs, later")
    with pytest.raises(StoreError, match="again since"):
        sync.resolve(store, conflict, "mine", seen=seen)


def test_push_without_an_answer_is_settled_before_it_is_resolved(
    store: MountedStore, conflict: str
) -> None:
    catalog = store.mount.catalog
    edit = catalog.row("a").edit
    assert edit is not None
    assert store.mount.journal.begin(edit, edit.base, "1") is not None
    with pytest.raises(PushInProgressError):
        sync.resolve(store, conflict, "mine")


# -- pulling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["store", "polled"])
def test_pull_brings_copies_up_to_date(
    kind: str, request: pytest.FixtureRequest, repository: DiskCacheStore
) -> None:
    store: MountedStore = request.getfixturevalue(kind)
    for name in "abc":
        store.to_bytes(name)
    repository.set("a", (io.BytesIO(b"newer"), {"n": 1}))
    repository.delete("b")
    report = sync.pull(store)
    assert (report.updated, report.gone, report.current) == (("a",), ("b",), 1)
    assert (report.bytes, report.failed) == (5, {})
    offline = store.with_options(offline="always")
    assert offline.to_bytes("a") == b"newer"
    assert not offline.exists("b")
    again = sync.pull(store)
    assert (again.updated, again.gone, again.bytes) == ((), (), 0)
    assert "d" not in list(store.cached())


def test_pull_moves_no_base_and_names_who_is_behind(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    stage_one_of_each(store)
    bases = {edit.key: edit.base for edit in store.staged()}
    repository.from_bytes("a", b"theirs")
    report = sync.pull(store)
    assert report.behind == ("a",)
    assert {edit.key: edit.base for edit in store.staged()} == bases
    assert outcomes(sync.push(store, ["a"])) == {"a": "conflict"}


def test_edit_after_a_pull_that_nobody_read_is_made_from_what_was_read(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    store.to_bytes("a")
    repository.from_bytes("a", b"theirs")
    assert sync.pull(store).updated == ("a",)
    store.from_bytes("a", b"mine")
    assert outcomes(sync.push(store)) == {"a": "conflict"}


def test_pull_of_a_pattern_asks_for_no_others(
    store: MountedStore, repository: DiskCacheStore
) -> None:
    for name in "ab":
        store.to_bytes(name)
        repository.from_bytes(name, b"newer")
    assert sync.pull(store, "a").updated == ("a",)
    assert store.with_options(offline="always").to_bytes("b") == b"b"


def test_pull_without_upstream_changes_nothing(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    from mountcache.errors import StoreUnavailableError

    store.to_bytes("a")
    origin.stop()
    with pytest.raises(StoreUnavailableError):
        sync.pull(store)
    assert store.with_options(offline="always").to_bytes("a") == b"a"
