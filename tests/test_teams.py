"""Two writers over one real server: nothing of either is lost, whoever comes first."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.abc import ABSENT
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConflictError, ReadOnlyKeyError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue

Person = Callable[[str], MountedStore]


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        store.set("report.txt", StringValue(b"first draft", {"by": "nobody"}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture(params=["dynamic", "static"])
def person(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Iterator[Person]:
    opened: list[MountedStore] = []

    def mount(name: str) -> MountedStore:
        backing = (
            DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            if request.param == "dynamic"
            else StaticURLStore(origin.url, poll=0)
        )
        store = MountedStore("", DiskCacheStore(tmp_path / name), backing, author=name)
        store.connect()
        opened.append(store)
        return store

    yield mount
    for store in opened:
        store.disconnect()


def both_read(person: Person) -> tuple[MountedStore, MountedStore]:
    ada, bob = person("ada"), person("bob")
    assert ada.to_bytes("report.txt") == bob.to_bytes("report.txt") == b"first draft"
    return ada, bob


def test_second_pusher_is_refused_and_loses_nothing(
    person: Person, repository: MemoryStore
) -> None:
    ada, bob = both_read(person)
    ada.set("report.txt", StringValue(b"by ada", {"by": "ada"}))
    bob.set("report.txt", StringValue(b"by bob", {"by": "bob"}))
    assert ada.push("report.txt").outcome == "pushed"
    with pytest.raises(ConflictError, match=r"report\.txt") as caught:
        bob.push("report.txt")
    assert caught.value.key == "report.txt"
    assert repository.to_bytes("report.txt") == b"by ada"
    assert bob.to_bytes("report.txt") == b"by bob"
    (edit,) = bob.staged()
    assert (edit.key, edit.state) == ("report.txt", "modified")
    # Asking again changes nothing; taking note of what is there does.
    (result,) = sync.push(bob).results
    assert result.outcome == "conflict"
    (result,) = sync.push(bob, on_conflict="ours").results
    assert result.outcome == "pushed"
    assert repository.to_bytes("report.txt") == b"by bob"


def test_create_against_create(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    ada.set("new.txt", StringValue(b"ada's", {}))
    bob.set("new.txt", StringValue(b"bob's", {}))
    bob.push("new.txt")
    (result,) = sync.push(ada).results
    assert result.outcome == "conflict"
    assert repository.to_bytes("new.txt") == b"bob's"
    assert ada.to_bytes("new.txt") == b"ada's"


def test_the_same_change_twice_is_no_conflict(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    for store in (ada, bob):
        store.set("report.txt", StringValue(b"agreed", {"by": "both"}))
    assert ada.push("report.txt").outcome == "pushed"
    assert bob.push("report.txt").outcome == "already there"
    assert list(bob.staged()) == []
    assert repository.get_metadata("report.txt") == {"by": "both"}


def test_delete_against_edit_keeps_the_edit(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    ada.set_data("report.txt", StringValue(b"rewritten", {}).data)
    bob.delete("report.txt")
    ada.push("report.txt")
    (result,) = sync.push(bob).results
    assert result.outcome == "conflict"
    assert repository.to_bytes("report.txt") == b"rewritten"
    assert not bob.exists("report.txt")
    bob.revert("report.txt")
    bob.update_index()
    assert bob.to_bytes("report.txt") == b"rewritten"


def test_edit_against_delete_keeps_the_edit_here(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    ada.delete("report.txt")
    bob.set("report.txt", StringValue(b"rewritten", {}))
    ada.push("report.txt")
    (result,) = sync.push(bob).results
    assert result.outcome == "conflict"
    assert not repository.exists("report.txt")
    assert bob.to_bytes("report.txt") == b"rewritten"
    (result,) = sync.push(bob, on_conflict="ours").results
    assert result.outcome == "pushed"
    assert repository.to_bytes("report.txt") == b"rewritten"


def test_metadata_against_data_of_another(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    ada.set_data("report.txt", StringValue(b"rewritten", {}).data)
    bob.update_metadata("report.txt", {"reviewed": True})
    ada.push("report.txt")
    (result,) = sync.push(bob).results
    assert result.outcome == "pushed"
    assert repository.to_bytes("report.txt") == b"rewritten"
    assert repository.get_metadata("report.txt") == {"by": "nobody", "reviewed": True}


def test_metadata_over_data_that_another_deleted(person: Person, repository: MemoryStore) -> None:
    ada = person("ada")
    assert ada.get_metadata("report.txt") == {"by": "nobody"}
    ada.update_metadata("report.txt", {"by": "ada"})
    repository.delete("report.txt")
    assert ada.get_metadata("report.txt") == {"by": "ada"}
    with pytest.raises(StoreUnavailableError, match=r"deleted upstream.*set it whole, or revert"):
        ada.get_data("report.txt")
    with pytest.raises(ConflictError):
        ada.push("report.txt")
    ada.set_data("report.txt", io.BytesIO(b"second draft"))
    assert [edit.kind for edit in ada.mount.catalog.edits()] == ["put"]
    assert sync.push(ada, on_conflict="ours").ok
    assert repository.to_bytes("report.txt") == b"second draft"
    assert repository.get_metadata("report.txt") == {"by": "ada"}


def test_keep_both(person: Person, repository: MemoryStore) -> None:
    ada, bob = both_read(person)
    ada.set("report.txt", StringValue(b"by ada", {}))
    bob.set("report.txt", StringValue(b"by bob", {}))
    ada.push("report.txt")
    sync.push(bob, on_conflict="keep-both")
    assert repository.to_bytes("report.txt") == b"by ada"
    (other,) = (key for key in repository.query_keys() if key != "report.txt")
    assert repository.to_bytes(other) == b"by bob"
    assert list(bob.staged()) == []


def test_base_given_by_the_caller_is_held_to(person: Person) -> None:
    ada, _ = both_read(person)
    version = ada.get("report.txt").version
    ada.set("report.txt", StringValue(b"one", {}), base=version)
    with pytest.raises(ConflictError, match=r"report\.txt"):
        ada.set("report.txt", StringValue(b"two", {}), base=version)
    with pytest.raises(ConflictError, match=r"report\.txt"):
        ada.set("report.txt", StringValue(b"two", {}), base=ABSENT)
    assert ada.to_bytes("report.txt") == b"one"


def test_two_transactions_over_one_base_have_one_winner(person: Person) -> None:
    ada, _ = both_read(person)
    version = ada.get("report.txt").version
    with (
        pytest.raises(ConflictError, match="nothing was committed"),
        ada.transaction("over what was read"),
    ):
        ada.set("report.txt", StringValue(b"inside", {}), base=version)
        ada.set("beside.txt", StringValue(b"inside", {}))
        in_another_thread(lambda: ada.set("report.txt", StringValue(b"outside", {})))
    assert ada.to_bytes("report.txt") == b"outside"
    assert not ada.exists("beside.txt")


def in_another_thread(work: Callable[[], object]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def test_many_edits_go_in_one_push(person: Person, repository: MemoryStore) -> None:
    ada = person("ada")
    with ada.transaction("a campaign"):
        for number in range(50):
            ada.set(f"runs/{number:03}", StringValue(b"%d" % number, {"n": number}))
    seen: list[tuple[int, int]] = []
    report = sync.push(ada, progress=lambda done, total, key: seen.append((done, total)))
    assert report.ok
    assert {result.outcome for result in report.results} == {"pushed"}
    assert {result.grade for result in report.results} == {"A"}
    assert seen[-1] == (50, 50)
    assert repository.get_metadata("runs/049") == {"n": 49}
    assert list(ada.staged()) == []


def test_named_key_with_nothing_staged_has_a_result_too(
    person: Person, repository: MemoryStore
) -> None:
    ada = person("ada")
    ada.get("report.txt")
    ada.set("new.txt", StringValue(b"new", {}))
    report = sync.push(ada, ["report.txt", "new.txt"])
    assert [result.outcome for result in report.results] == ["pushed", "already there"]
    assert report["report.txt"].message == "nothing is staged for it"


def test_keys_that_cant_be_pushed_stop_a_push_before_it_sends(
    origin: Origin, repository: MemoryStore
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("mine/", MemoryStore(), backing) as store:
        store.set("mine/new.txt", StringValue(b"new", {}))
        with pytest.raises(ReadOnlyKeyError, match=r"'new\.txt' lies outside the mount point"):
            sync.push(store, ["mine/new.txt", "new.txt"])
        with pytest.raises(KeyError, match="mistyped"):
            sync.push(store, ["mine/new.txt", "mine/mistyped"])
        assert not repository.exists("mine/new.txt")
        assert sync.push(store, ["mine/new.txt"]).ok
    assert repository.to_bytes("mine/new.txt") == b"new"
