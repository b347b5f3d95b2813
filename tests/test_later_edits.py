"""An edit that is made after a push of the key began: it is never lost, and never sent unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.records import StagedEdit
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from tests.faultserver import RESET, Request, Script
from tests.test_push_faults import Between


class Lossy(Between):
    """Passes requests on, but loses answers, and does something when it is asked what is there."""

    loses = False
    meanwhile: Callable[[], object] | None = None

    def script_for(self, request: Request) -> Script:
        reply = self.passed_on(request)
        if request.method not in ("GET", "HEAD") and self.loses:
            return RESET
        if request.method in ("GET", "HEAD") and self.meanwhile is not None:
            done, self.meanwhile = self.meanwhile, None
            done()
        return reply


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        store.from_bytes("a", b"a")
        store.from_bytes("b", b"b")
        yield store


@pytest.fixture
def between(repository: MemoryStore) -> Iterator[Lossy]:
    with Origin(repository) as origin, Lossy(origin.url) as running:
        yield running


@pytest.fixture
def store(between: Lossy, tmp_path: Path) -> Iterator[MountedStore]:
    upstream = DynamicURLStore(f"{between.url}keys", f"{between.url}query", retries=0)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), upstream) as mounted:
        yield mounted


def push_without_answer(store: MountedStore, between: Lossy) -> None:
    between.loses = True
    report = sync.push(store)
    between.loses = False
    assert {result.outcome for result in report.results} == {"failed"}
    assert {op.state for op in store.mount.catalog.ops()} == {"unknown"}


def test_an_edit_over_a_push_without_answer_goes_with_the_push_that_settles_it(
    store: MountedStore, between: Lossy, repository: MemoryStore
) -> None:
    assert store.to_bytes("a") == b"a"
    store.from_bytes("a", b"first")
    push_without_answer(store, between)
    assert repository.to_bytes("a") == b"first"
    store.from_bytes("a", b"second")
    report = sync.push(store)
    assert {each.key: each.outcome for each in report.results} == {"a": "pushed"}
    assert repository.to_bytes("a") == b"second"
    assert list(store.staged()) == []
    assert store.mount.catalog.ops() == []


def test_an_edit_over_a_push_without_answer_overwrites_no_stranger(
    store: MountedStore, between: Lossy, repository: MemoryStore
) -> None:
    store.to_bytes("a")
    store.from_bytes("a", b"first")
    push_without_answer(store, between)
    repository.from_bytes("a", b"a stranger's")
    store.from_bytes("a", b"second")
    assert sync.push(store)["a"].outcome == "conflict"
    assert repository.to_bytes("a") == b"a stranger's"
    assert store.to_bytes("a") == b"second"


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a group"])
def test_an_edit_made_while_an_earlier_push_is_settled_waits_for_the_next(
    store: MountedStore, between: Lossy, repository: MemoryStore, *, together: bool
) -> None:
    """A check, or whoever approved the plan, has seen another one."""
    checked: list[str | None] = []

    def check(edit: StagedEdit) -> str | None:
        checked.append(edit.sha256)
        return None

    store.to_bytes("a")
    store.to_bytes("b")
    with store.transaction("edits"):
        store.from_bytes("a", b"first")
        if together:
            store.from_bytes("b", b"first")
    push_without_answer(store, between)
    between.meanwhile = lambda: store.from_bytes("a", b"unseen")
    report = sync.push(store, check=check)
    assert report["a"].outcome == "skipped"
    assert "the next push sends that" in report["a"].message
    assert not together or report["b"].outcome == "pushed"
    assert repository.to_bytes("a") == b"first"
    assert store.to_bytes("a") == b"unseen"
    (edit,) = store.staged()
    assert edit.sha256 not in checked
    # It replaces exactly what the push before it made.
    report = sync.push(store, check=check)
    assert report["a"].outcome == "pushed"
    assert edit.sha256 in checked
    assert repository.to_bytes("a") == b"unseen"
