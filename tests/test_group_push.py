"""What one transaction staged arrives together: as one change where upstream takes such changes.

There all of it is applied, or nothing, whatever is refused, lost or killed. Elsewhere the report
says what arrived.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mountcache import sync
from mountcache.abc import AbstractReadOnlyStore
from mountcache.backing import dynamic as backing
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConfigurationError
from mountcache.events import BaseEvent, StorePushEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin, OriginProcess
from mountcache.values import StringValue
from tests.command import ROOT, Inside
from tests.faultserver import RESET, Request, Script
from tests.foreignserver import ForeignServer
from tests.test_push_faults import Between

Stored = dict[str, tuple[bytes, dict[str, Any]]]


class Watched:
    """Notes the requests to an application, and can make it an older one."""

    def __init__(self, app: ASGIApp) -> None:
        self.asked: list[str] = []
        self.old = False
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(f"{scope['method']} {scope['path']}")

        async def sent(message: Message) -> None:
            if self.old and message["type"] == "http.response.start":
                message["headers"] = [
                    pair for pair in message["headers"] if pair[0] != b"mountcache-features"
                ]
            await send(message)

        await self._app(scope, receive, sent)

    @property
    def writes(self) -> list[str]:
        return [each for each in self.asked if not each.startswith(("GET", "HEAD"))]


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        for key in ("a", "b", "c"):
            store.set(key, StringValue(key.encode(), {"n": 1}))
        yield store


@pytest.fixture
def watched() -> list[Watched]:
    return []


@pytest.fixture
def origin(repository: MemoryStore, watched: list[Watched]) -> Iterator[Origin]:
    def around(app: ASGIApp) -> ASGIApp:
        watched.append(Watched(app))
        return watched[-1]

    with Origin(repository, around=around) as running:
        yield running


def dynamic(url: str) -> DynamicURLStore:
    return DynamicURLStore(f"{url}keys", f"{url}query")


def static(url: str) -> StaticURLStore:
    return StaticURLStore(url, "data/", "index.json")


def mounted(directory: Path, upstream: AbstractReadOnlyStore) -> MountedStore:
    return MountedStore("", DiskCacheStore(directory, min_free=0), upstream)


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    with mounted(tmp_path / "here", dynamic(origin.url)) as opened:
        yield opened


def stage(store: MountedStore) -> Stored:
    """Stage a change set: a new key, two edits and a delete; return what it makes."""
    for key in ("a", "b", "c"):
        store.get_metadata(key)
    with store.transaction("a change set"):
        store.set("new", StringValue(b"new", {"n": 2}))
        store.set("large", StringValue(b"x" * 100_000, {}))
        store.set_data("a", StringValue(b"mine").data)
        store.set_metadata("b", {"n": 3})
        store.delete("c")
    return {
        "new": (b"new", {"n": 2}),
        "large": (b"x" * 100_000, {}),
        "a": (b"mine", {"n": 1}),
        "b": (b"b", {"n": 3}),
    }


BEFORE: Stored = {key: (key.encode(), {"n": 1}) for key in ("a", "b", "c")}


def shown(repository: MemoryStore) -> Stored:
    return {key: (repository.to_bytes(key), meta) for key, meta in repository.query()}


def outcomes(report: sync.PushReport) -> dict[str, str]:
    return {result.key: result.outcome for result in report.results}


@pytest.mark.parametrize("layout", [dynamic, static])
def test_what_a_transaction_staged_arrives_as_one_change(
    origin: Origin,
    repository: MemoryStore,
    watched: list[Watched],
    tmp_path: Path,
    layout: Callable[[str], AbstractReadOnlyStore],
) -> None:
    with mounted(tmp_path / "here", layout(origin.url)) as store:
        wanted = stage(store)
        events: list[BaseEvent] = []
        store.event_manager.connect(StorePushEvent, events.append)
        report = sync.push(store)
        assert report.ok
        assert watched[0].writes == ["POST /batch"]
        assert shown(repository) == wanted
        assert set(outcomes(report).values()) == {"pushed"}
        assert {result.grade for result in report.results} == {"A"}
        (group,) = report.groups
        assert (group.outcome, group.together) == ("complete", True)
        assert group.keys == ("new", "large", "a", "b", "c")
        assert len(events) == 5
        assert list(store.staged()) == []
        assert {key: store.to_bytes(key) for key in wanted} == {
            key: data for key, (data, _) in wanted.items()
        }
        assert sync.push(store).results == ()


def test_lone_edits_go_by_themselves(store: MountedStore, watched: list[Watched]) -> None:
    store.set("x", StringValue(b"x", {}))
    store.set("y", StringValue(b"y", {}))
    report = sync.push(store)
    assert report.ok
    assert report.groups == ()
    assert sorted(watched[0].writes) == ["PUT /keys/x/data", "PUT /keys/y/data"]


def test_one_conflict_holds_all_of_it_back_and_is_named(
    store: MountedStore, repository: MemoryStore
) -> None:
    stage(store)
    repository.set("a", StringValue(b"a stranger's", {"n": 1}))
    repository.set("new", StringValue(b"a stranger's", {}))
    before = shown(repository)
    report = sync.push(store)
    assert outcomes(report) == {
        "a": "conflict", "b": "skipped", "c": "skipped", "large": "skipped", "new": "conflict",
    }  # fmt: skip
    assert "'new'" in report["b"].message
    assert [(group.outcome, group.together) for group in report.groups] == [("none", True)]
    assert shown(repository) == before
    assert len(list(store.staged())) == 5
    assert store.mount.catalog.ops() == []


@pytest.mark.parametrize("policy", ["ours", "theirs", "keep-both"])
def test_a_policy_for_conflicts_lets_the_rest_go_together(
    store: MountedStore, repository: MemoryStore, watched: list[Watched], policy: str
) -> None:
    wanted = stage(store)
    repository.set("a", StringValue(b"a stranger's", {"n": 1}))
    theirs = (b"a stranger's", {"n": 1})
    report = sync.push(store, on_conflict=policy)
    assert report.ok
    found = shown(repository)
    if policy == "ours":
        assert found == wanted
    else:
        kept = [found.pop(key) for key in list(found) if key.startswith("a.conflict-")]
        assert found == wanted | {"a": theirs}
        assert kept == ([wanted["a"]] if policy == "keep-both" else [])
    assert watched[0].writes == ["POST /batch"] * 2
    assert [group.outcome for group in report.groups] == ["complete"]
    assert list(store.staged()) == []


def test_what_is_upstream_already_doesnt_hold_the_rest_back(
    store: MountedStore, repository: MemoryStore
) -> None:
    wanted = stage(store)
    repository.set("new", StringValue(b"new", {"n": 2}))
    repository.delete("c")
    report = sync.push(store)
    assert report.ok
    assert report["new"].outcome == report["c"].outcome == "already there"
    assert shown(repository) == wanted


def test_a_rename_is_one_change(
    store: MountedStore, repository: MemoryStore, watched: list[Watched]
) -> None:
    store.mv("a", "moved")
    report = sync.push(store)
    assert report.ok
    assert watched[0].writes == ["POST /batch"]
    assert sorted(shown(repository)) == ["b", "c", "moved"]
    assert report.groups[0].keys == ("moved", "a")


@pytest.mark.parametrize("policy", ["fail", "theirs"])
def test_a_rename_onto_a_strangers_key_deletes_nothing(
    store: MountedStore, repository: MemoryStore, policy: str
) -> None:
    store.mv("a", "moved")
    repository.set("moved", StringValue(b"a stranger's", {}))
    before = shown(repository)
    report = sync.push(store, on_conflict=policy)
    assert shown(repository) == before
    assert report.ok is (policy == "theirs")
    assert len(list(store.staged())) == (2 if policy == "fail" else 0)


def test_half_of_a_rename_waits_while_the_rest_of_its_group_goes(
    store: MountedStore, repository: MemoryStore
) -> None:
    with store.transaction("a rename and more"):
        store.mv("a", "moved")
        store.set("x", StringValue(b"x", {}))
        store.set("y", StringValue(b"y", {}))
    report = sync.push(store, ["a", "x", "y"])
    assert outcomes(report) == {"a": "skipped", "x": "pushed", "y": "pushed"}
    assert [group.outcome for group in report.groups] == ["partial"]
    assert "a" in shown(repository)
    report = sync.push(store)
    assert [group.outcome for group in report.groups] == ["complete"]
    assert sorted(shown(repository)) == ["b", "c", "moved", "x", "y"]


def test_an_edit_made_meanwhile_holds_its_group_back(
    store: MountedStore, repository: MemoryStore
) -> None:
    stage(store)
    repository.set("a", StringValue(b"a stranger's", {"n": 1}))
    before = shown(repository)

    def edits_another(conflict: sync.Conflict) -> str:
        store.set("new", StringValue(b"newer", {}))
        return "ours"

    report = sync.push(store, on_conflict=edits_another)
    assert set(outcomes(report).values()) == {"skipped"}
    assert "edited again" in report["new"].message
    assert shown(repository) == before
    assert store.mount.catalog.ops() == []
    assert sync.push(store).ok
    assert shown(repository)["new"] == (b"newer", {})


def test_bytes_that_cant_be_read_hold_their_group_back(
    store: MountedStore, repository: MemoryStore, tmp_path: Path
) -> None:
    stage(store)
    (file,) = (path for path in tmp_path.rglob("*.val") if path.stat().st_size == 100_000)
    file.unlink()
    report = sync.push(store)
    assert report["large"].outcome == "failed"
    assert "'large'" in report["large"].message
    assert {result.outcome for result in report.results if result.key != "large"} == {"skipped"}
    assert shown(repository) == BEFORE
    assert store.mount.catalog.ops() == []


# -- where it can't be one change ------------------------------------------------------------


def test_a_group_larger_than_the_server_takes_goes_key_by_key(
    store: MountedStore,
    repository: MemoryStore,
    watched: list[Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backing, "BATCH_LIMIT", 100_000)
    wanted = stage(store)
    report = sync.push(store)
    assert report.ok
    assert watched[0].writes == [
        "PUT /keys/new/data",
        "PUT /keys/large/data",
        "PUT /keys/a/data",
        "PUT /keys/b/metadata",
        "DELETE /keys/c",
    ]
    (group,) = report.groups
    assert (group.outcome, group.together) == ("complete", False)
    assert "100,000" in group.message
    assert shown(repository) == wanted


def test_an_older_server_gets_them_key_by_key(
    store: MountedStore, repository: MemoryStore, watched: list[Watched]
) -> None:
    watched[0].old = True
    wanted = stage(store)
    report = sync.push(store)
    assert report.ok
    assert "POST /batch" not in watched[0].writes
    assert [(group.together, group.message) for group in report.groups] == [(False, "")]
    assert shown(repository) == wanted


def test_on_another_server_the_report_says_what_arrived(tmp_path: Path) -> None:
    with ForeignServer() as server:
        server.put("theirs", b"a stranger's", {})
        with mounted(tmp_path / "here", DynamicURLStore(*server.urls)) as store:
            with store.transaction("a change set"):
                store.set("x", StringValue(b"x", {}))
                store.set("theirs", StringValue(b"mine", {}))
                store.set("y", StringValue(b"y", {}))
            report = sync.push(store)
            assert outcomes(report) == {"theirs": "conflict", "x": "pushed", "y": "pushed"}
            (group,) = report.groups
            assert (group.outcome, group.together) == ("partial", False)
            assert group.keys == ("x", "theirs", "y")
            report = sync.push(store, on_conflict="theirs")
            assert report.ok
            assert report.groups == ()  # one key was left of it


def test_the_marker_is_sent_last_and_only_after_all_others(
    store: MountedStore, repository: MemoryStore, watched: list[Watched]
) -> None:
    with store.transaction("a run"):
        store.set("run/_DONE", StringValue(b"", {}))
        store.set("run/x", StringValue(b"x", {}))
    store.set("alone", StringValue(b"alone", {}))
    repository.set("alone", StringValue(b"a stranger's", {}))
    report = sync.push(store, marker="run/_DONE")
    assert outcomes(report) == {"alone": "conflict", "run/_DONE": "skipped", "run/x": "pushed"}
    assert [group.outcome for group in report.groups] == ["partial"]
    watched[0].asked.clear()
    report = sync.push(store, ["alone"], marker="run/_DONE", on_conflict="ours")
    assert outcomes(report) == {"alone": "pushed", "run/_DONE": "pushed"}
    assert watched[0].writes[-1] == "PUT /keys/run/_DONE/data"
    assert outcomes(sync.push(store, marker="run/_DONE")) == {"run/_DONE": "already there"}
    with pytest.raises(KeyError):
        sync.push(store, marker="nowhere")


def test_half_of_a_rename_is_no_marker(store: MountedStore) -> None:
    store.mv("a", "moved")
    for key in ("a", "moved"):
        with pytest.raises(ConfigurationError, match="half of a rename"):
            sync.push(store, marker=key)
    assert len(list(store.staged())) == 2


def test_a_change_set_isnt_sent_without_its_deletes(
    store: MountedStore, repository: MemoryStore
) -> None:
    stage(store)
    store.set("alone", StringValue(b"alone", {}))
    report = sync.push(store, max_delete=0)
    assert report["c"].outcome == "refused"
    assert {report[key].outcome for key in ("a", "b", "new", "large")} == {"skipped"}
    assert report["alone"].outcome == "pushed"
    assert shown(repository) == BEFORE | {"alone": (b"alone", {})}


# -- answers that don't come ------------------------------------------------------------------


class Lossy(Between):
    """Passes requests on, but loses batches, or the answers to them."""

    loses: str | None = None
    """"request", "answer", "first answer"."""

    def script_for(self, request: Request) -> Script:
        if request.method != "POST" or self.loses is None:
            return self.passed_on(request)
        if self.loses != "request":
            assert self.passed_on(request).status == 200
        if self.loses == "first answer":
            self.loses = None
        return RESET


@pytest.fixture
def between(origin: Origin) -> Iterator[Lossy]:
    with Lossy(origin.url) as running:
        yield running


@pytest.fixture
def behind(between: Lossy, tmp_path: Path) -> Iterator[MountedStore]:
    """A mount whose upstream is behind what loses requests."""
    upstream = DynamicURLStore(f"{between.url}keys", f"{between.url}query", retries=1)
    with mounted(tmp_path / "behind", upstream) as opened:
        yield opened


def written(repository: MemoryStore) -> int:
    """Return how many writes were committed."""
    found: int = repository.catalog.state("seq")
    return found


def test_a_lost_answer_is_asked_for_again(
    behind: MountedStore, between: Lossy, repository: MemoryStore
) -> None:
    wanted, before = stage(behind), written(repository)
    between.loses = "first answer"
    assert sync.push(behind).ok
    assert shown(repository) == wanted
    assert written(repository) == before + 5


def test_a_group_whose_answer_never_came_is_settled_exactly(
    behind: MountedStore, between: Lossy, repository: MemoryStore
) -> None:
    wanted, before = stage(behind), written(repository)
    between.loses = "answer"
    report = sync.push(behind)
    assert set(outcomes(report).values()) == {"failed"}
    assert [group.outcome for group in report.groups] == ["none"]
    assert {op.state for op in behind.mount.catalog.ops()} == {"unknown"}
    assert len(behind.mount.catalog.ops()) == 5
    # Others have built on it meanwhile.
    repository.set("new", StringValue(b"built on", {}))
    repository.set("c", StringValue(b"made again", {}))
    between.loses = None
    report = sync.push(behind)
    assert set(outcomes(report).values()) == {"pushed"}
    assert [group.outcome for group in report.groups] == ["complete"]
    assert shown(repository) == wanted | {"new": (b"built on", {}), "c": (b"made again", {})}
    assert written(repository) == before + 5 + 2
    assert list(behind.staged()) == []


def test_a_group_that_never_arrived_is_sent_again(
    behind: MountedStore, between: Lossy, repository: MemoryStore
) -> None:
    wanted = stage(behind)
    between.loses = "request"
    report = sync.push(behind)
    assert set(outcomes(report).values()) == {"failed"}
    assert shown(repository) == BEFORE
    behind.set("new", StringValue(b"edited since", {}))
    between.loses = None
    assert sync.push(behind).ok
    assert shown(repository) == wanted | {"new": (b"edited since", {})}


KILLED = """
import sys
from pathlib import Path
from mountcache import sync
from tests.crash.points import Target, install
from tests.test_group_push import dynamic, mounted

directory, url, kind, nth, when = sys.argv[1:]
with mounted(Path(directory), dynamic(url)) as store:
    install(directory, Target(kind, int(nth), when), lambda kind: None)
    sync.push(store)
"""


@pytest.mark.parametrize(
    ("kind", "nth", "when", "arrived"),
    [
        ("COMMIT", 1, "before", False),  # the ops are being begun
        ("COMMIT", 1, "after", False),
        ("request", 2, "before", False),  # the batch; the first asks whose server it is
        ("answer", 2, "after", True),
        ("COMMIT", 2, "before", True),  # the answer is being settled
        ("COMMIT", 2, "after", True),
    ],
)
def test_killed_anywhere_all_of_it_arrives_once(
    origin: Origin,
    repository: MemoryStore,
    tmp_path: Path,
    kind: str,
    nth: int,
    when: str,
    arrived: bool,
) -> None:
    with mounted(tmp_path / "here", dynamic(origin.url)) as store:
        wanted, before = stage(store), written(repository)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "here", origin.url, kind, str(nth), when],
        cwd=ROOT, check=False, capture_output=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr.decode()
    assert shown(repository) == (wanted if arrived else BEFORE)
    with mounted(tmp_path / "here", dynamic(origin.url)) as store:
        assert sync.push(store).ok
        assert list(store.staged()) == []
    assert shown(repository) == wanted
    assert written(repository) == before + 5


def test_memory_stays_flat_while_a_group_goes_out(tmp_path: Path) -> None:
    with (
        OriginProcess(tmp_path / "there") as running,
        mounted(tmp_path / "here", dynamic(running.url)) as store,
    ):
        with store.transaction("much"):
            for number in range(12):
                store.set(f"k{number}", StringValue(bytes([number]) * 4 * 1048576, {}))
        tracemalloc.start()
        try:
            report = sync.push(store)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert report.ok
        assert report.groups[0].together
        assert peak < 8 * 1048576


# -- from the shell ----------------------------------------------------------------------------


def test_push_says_what_became_of_a_group(
    origin: Origin, repository: MemoryStore, tmp_path: Path
) -> None:
    shell = Inside(tmp_path)
    assert shell("init", origin.url).code == 0
    assert shell("mv", "a", "moved").code == 0
    assert shell("put", "done", given=b"done").code == 0
    repository.set("moved", StringValue(b"a stranger's", {}))
    refused = shell("push", "--marker", "done")
    assert refused.code == 2
    assert "none: a group: 2 keys, as one change" in refused.text
    assert "skipped: done" in refused.text
    repository.delete("moved")
    pushed = shell("push", "--json", "--marker", "done")
    assert pushed.code == 0
    groups = {found["key"]: found["group"] for found in pushed.documents}
    assert groups["done"] is None
    assert groups["a"] == groups["moved"]
    assert (groups["a"]["outcome"], groups["a"]["together"]) == ("complete", True)
    assert shell("push", "--marker", "nowhere").code == 3


def test_a_plan_is_applied_group_by_group(store: MountedStore, repository: MemoryStore) -> None:
    stage(store)
    store.set("alone", StringValue(b"alone", {}))
    repository.set("a", StringValue(b"a stranger's", {"n": 1}))
    before = shown(repository)
    report = sync.apply(store, sync.plan(store))
    assert report["a"].outcome == "refused"
    assert {report[key].outcome for key in ("b", "c", "new", "large")} == {"skipped"}
    assert report["alone"].outcome == "pushed"
    assert [group.outcome for group in report.groups] == ["none"]
    assert shown(repository) == before | {"alone": (b"alone", {})}
    report = sync.apply(store, sync.plan(store, on_conflict="ours"))
    assert report.ok
    assert [(group.outcome, group.together) for group in report.groups] == [("complete", True)]


def test_a_group_of_more_keys_than_the_server_takes_goes_key_by_key(
    store: MountedStore,
    repository: MemoryStore,
    watched: list[Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backing, "BATCH_WRITES", 4)
    wanted = stage(store)
    report = sync.push(store)
    assert report.ok
    assert "POST /batch" not in watched[0].writes
    assert [(group.outcome, group.together) for group in report.groups] == [("complete", False)]
    assert shown(repository) == wanted
