"""The hard sequences: what must come out when reads, edits, polls and pushes interleave.

Each test is one of them. Upstream is an origin in memory that compares and writes as one step,
unless the test says otherwise.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import ABSENT
from mountcache.errors import ConflictError, PushInProgressError, StoreUnavailableError
from mountcache.events import StoreModificationEvent
from mountcache.local import undo
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.store import LocalStore
from mountcache.mounted import MountedStore
from tests.local_parts import script
from tests.scripted import Indexed
from tests.upstreams import Foreign, Origin, put

Reopen = Callable[..., MountedStore]


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture(params=["memory", "disk"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalStore]:
    store: LocalStore
    store = MemoryStore() if request.param == "memory" else DiskCacheStore(tmp_path / "cache")
    yield store
    store.disconnect()


@pytest.fixture
def store(local: LocalStore, origin: Origin) -> MountedStore:
    return MountedStore("", local, origin)


def again(store: MountedStore, **options: Any) -> MountedStore:
    """The same two ends, as a process sees them that has read nothing yet."""
    store.mount.catalog._handed.clear()
    return MountedStore("", store.mount_store, store.backing_store, **options)  # type: ignore[arg-type]


def staged(store: MountedStore) -> dict[str, tuple[str, str]]:
    return {edit.key: (edit.state, edit.base) for edit in store.staged()}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pull(store: MountedStore, key: str) -> None:
    """Replace the copy and the entry of a key by what upstream has, unasked."""
    store.update_index()
    sync.prefetch(store, key)


def test_read_pull_unseen_set_push_is_a_conflict(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    first = store.get("k")
    assert first.data.read() == b"one"
    put(origin, "k", "two")
    pull(store, "k")
    put(store, "k", "mine")
    assert staged(store) == {"k": ("modified", first.version)}
    with pytest.raises(ConflictError):
        store.push("k")
    assert origin.to_bytes("k") == b"two"
    assert store.to_bytes("k") == b"mine"


def test_the_same_is_told_after_a_restart(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(origin, "k", "two")
    pull(store, "k")
    restarted = again(store)
    put(restarted, "k", "mine")
    with pytest.raises(ConflictError):
        restarted.push("k")


def test_a_read_of_the_second_version_in_between_lets_it_through(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(origin, "k", "two")
    pull(store, "k")
    assert store.to_bytes("k") == b"two"
    put(store, "k", "mine")
    assert store.push("k").outcome == "pushed"
    assert origin.to_bytes("k") == b"mine"


def test_metadata_read_then_poll_then_set_metadata_is_a_conflict(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "data", state="draft")
    assert store.get_metadata("k") == {"state": "draft"}
    put(origin, "k", "data", state="final")
    store.update_index()
    store.set_metadata("k", {"state": "mine"})
    with pytest.raises(ConflictError):
        store.push("k")
    assert origin.get_metadata("k") == {"state": "final"}


def test_prefetch_unread_then_pull_then_set_is_a_conflict_too_many(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    pull(store, "k")
    put(origin, "k", "two")
    pull(store, "k")
    put(store, "k", "mine")
    with pytest.raises(ConflictError):
        store.push("k")


@pytest.mark.parametrize("restarted", [False, True])
def test_read_pull_unseen_set_revert_set_push_is_a_conflict(
    store: MountedStore, origin: Origin, restarted: bool
) -> None:
    put(origin, "k", "one")
    version = store.get("k").version
    assert store.to_bytes("k") == b"one"
    put(origin, "k", "two")
    pull(store, "k")
    put(store, "k", "mine")
    store.revert("k")
    if restarted:
        store = again(store)
    put(store, "k", "mine again")
    assert staged(store) == {"k": ("modified", version)}
    with pytest.raises(ConflictError):
        store.push("k")
    assert origin.to_bytes("k") == b"two"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_read_before_a_revert_counts_after_it(
    store: MountedStore, origin: Origin, restarted: bool
) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(origin, "k", "two")
    pull(store, "k")
    assert store.to_bytes("k") == b"two"
    put(store, "k", "mine")
    store.revert("k")
    if restarted:
        store = again(store)
    put(store, "k", "mine again")
    assert store.push("k").outcome == "pushed"


def test_two_sets_in_a_row_are_one_edit_with_the_first_base(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    version = store.get("k").version
    put(store, "k", "d1")
    assert store.to_bytes("k") == b"d1"
    put(store, "k", "d2")
    assert staged(store) == {"k": ("modified", version)}
    store.push("k")
    assert origin.writes == [("set", "k")]
    assert origin.to_bytes("k") == b"d2"


def in_flight(store: MountedStore, origin: Origin, edit: Callable[[], None]) -> None:
    """Let `edit` happen while the next request is on its way."""

    def once(verb: str, key: str) -> None:
        origin.before = lambda verb, key: None
        edit()

    origin.before = once


def test_edit_during_push_gets_the_pushed_version_for_its_base(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    in_flight(store, origin, lambda: put(store, "k", "d2"))
    pushed = sync.push(store)["k"]
    assert pushed.outcome == "pushed"
    assert origin.to_bytes("k") == b"d1"
    assert staged(store) == {"k": ("modified", pushed.version)}
    assert store.to_bytes("k") == b"d2"
    assert sync.push(store)["k"].outcome == "pushed"
    assert origin.to_bytes("k") == b"d2"


def test_edit_during_a_refused_push_gets_the_old_base(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "d0")
    base = store.get("k").version
    put(store, "k", "d1")

    def meanwhile() -> None:
        put(origin, "k", "theirs")
        put(store, "k", "d2")

    in_flight(store, origin, meanwhile)
    sync.push(store)
    assert staged(store) == {"k": ("modified", base)}
    assert store.mount.catalog.ops() == []
    result = sync.push(store)["k"]
    assert result.outcome == "conflict"
    assert store.to_bytes("k") == b"d2"
    assert origin.to_bytes("k") == b"theirs"


def lose_reply(origin: Origin) -> None:
    """Apply the next write, and lose its reply."""

    def once(verb: str, key: str) -> None:
        origin.after = lambda verb, key: None
        raise StoreUnavailableError("the connection broke", maybe_applied=True)

    origin.after = once


def lose_request(origin: Origin) -> None:
    """Lose the next write on its way, so that the pusher can't tell."""

    def once(verb: str, key: str) -> None:
        origin.before = lambda verb, key: None
        raise StoreUnavailableError("the connection broke", maybe_applied=True)

    origin.before = once


def test_refusal_whose_reason_cant_be_asked_for_keeps_the_edit(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(store, "k", "mine")

    def theirs_and_gone(verb: str, key: str) -> None:
        origin.before = lambda verb, key: None
        put(origin, "k", "theirs")
        origin.down = True

    origin.before = theirs_and_gone
    assert sync.push(store)["k"].outcome == "failed"
    assert store.to_bytes("k") == b"mine"
    origin.down = False
    store._remote.wake()
    assert sync.push(store)["k"].outcome == "conflict"
    assert origin.to_bytes("k") == b"theirs"


def test_lost_reply_of_an_applied_write_is_no_conflict(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_reply(origin)
    assert sync.push(store)["k"].outcome == "failed"
    assert [op.state for op in store.mount.catalog.ops()] == ["unknown"]
    put(store, "k", "d2")
    restarted = again(store)
    assert sync.push(restarted)["k"].outcome == "pushed"
    assert origin.to_bytes("k") == b"d2"
    assert origin.writes == [("set", "k"), ("set", "k")]


def test_lost_reply_without_a_later_edit_is_settled_without_a_second_write(
    store: MountedStore, origin: Origin
) -> None:
    put(store, "k", "d1")
    lose_reply(origin)
    sync.push(store)
    (result,) = sync.push(again(store)).results
    assert (result.key, result.outcome) == ("k", "pushed")
    assert "had arrived" in result.message
    assert origin.writes == [("set", "k")]
    assert staged(store) == {}


def test_request_that_never_arrived_sends_the_later_edit_alone(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_request(origin)
    sync.push(store)
    put(store, "k", "d2")
    assert sync.push(again(store))["k"].outcome == "pushed"
    assert origin.writes == [("set", "k")]
    assert origin.to_bytes("k") == b"d2"


def test_lost_request_then_a_strangers_write_is_a_conflict_on_the_later_edit(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_request(origin)
    sync.push(store)
    put(store, "k", "d2")
    put(origin, "k", "theirs")
    assert sync.push(again(store))["k"].outcome == "conflict"
    assert store.to_bytes("k") == b"d2"
    assert origin.to_bytes("k") == b"theirs"


def test_others_built_on_a_write_whose_reply_was_lost(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_reply(origin)
    sync.push(store)
    first = origin.get("k").version
    put(store, "k", "d2")
    put(origin, "k", "built on d1")
    result = sync.push(again(store))["k"]
    assert result.outcome == "conflict"
    assert staged(store) == {"k": ("modified", first)}
    assert origin.to_bytes("k") == b"built on d1"
    assert store.mount.catalog.ops() == []


def test_delete_while_its_creation_is_in_flight(store: MountedStore, origin: Origin) -> None:
    put(store, "k", "new")
    in_flight(store, origin, lambda: store.delete("k"))
    version = sync.push(store)["k"].version
    assert origin.exists("k")
    assert staged(store) == {"k": ("deleted", version)}
    assert sync.push(store)["k"].outcome == "pushed"
    assert not origin.exists("k")


def test_delete_while_its_creation_is_refused_deletes_nothing(
    store: MountedStore, origin: Origin
) -> None:
    put(store, "k", "new")

    def meanwhile() -> None:
        put(origin, "k", "a stranger's")
        store.delete("k")

    in_flight(store, origin, meanwhile)
    sync.push(store)
    edit = next(iter(store.staged()))
    assert (edit.state, edit.base) in {("deleted", "absent"), ("deleted", "unknown")}
    assert sync.push(store)["k"].outcome == "conflict"
    assert origin.to_bytes("k") == b"a stranger's"


def test_set_while_a_delete_is_in_flight_only_creates(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "old")
    store.get("k")
    store.delete("k")
    in_flight(store, origin, lambda: put(store, "k", "again"))
    sync.push(store)
    assert not origin.exists("k")
    assert staged(store) == {"k": ("added", "absent")}
    put(origin, "k", "a stranger's")
    assert sync.push(store)["k"].outcome == "conflict"


def test_revert_while_in_flight(store: MountedStore, origin: Origin) -> None:
    put(store, "k", "new")
    seen: list[BaseException] = []

    def meanwhile() -> None:
        with pytest.raises(PushInProgressError) as caught:
            store.revert("k")
        seen.append(caught.value)

    in_flight(store, origin, meanwhile)
    assert sync.push(store)["k"].outcome == "pushed"
    assert len(seen) == 1


def test_revert_of_an_unknown_push_settles_first_and_sends_nothing(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_request(origin)
    sync.push(store)
    assert store.revert("k") == ["k"]
    assert origin.writes == []
    assert store.to_bytes("k") == b"d0"


@pytest.mark.parametrize("arrived", [True, False])
def test_revert_of_a_rename_of_an_unknown_push_settles_that_too(
    store: MountedStore, origin: Origin, arrived: bool
) -> None:
    put(store, "old", "mine")
    (lose_reply if arrived else lose_request)(origin)
    assert not sync.push(store).ok
    store.mv("old", "new")
    assert sorted(store.revert("new")) == ["new", "old"]
    assert staged(store) == {}
    assert store.exists("old") is arrived
    assert not store.exists("new")


def test_revert_of_an_unknown_push_offline_cannot_know(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "d0")
    store.get("k")
    put(store, "k", "d1")
    lose_request(origin)
    sync.push(store)
    origin.down = True
    with pytest.raises(StoreUnavailableError):
        store.revert("k")
    assert store.to_bytes("k") == b"d1"


def test_revert_of_the_new_name_brings_the_old_one_back(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "a", "data")
    store.mv("a", "b")
    put(store, "b", "edited")
    assert sorted(store.revert("b")) == ["a", "b"]
    assert store.to_bytes("a") == b"data"
    assert not store.exists("b")
    assert staged(store) == {}


def test_revert_of_the_old_name_leaves_an_ordinary_copy(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "a", "data")
    store.mv("a", "b")
    assert store.revert("a") == ["a"]
    assert store.to_bytes("a") == store.to_bytes("b") == b"data"
    assert sync.push(store).ok
    assert sorted(origin.query_keys()) == ["a", "b"]


def test_two_renames_never_show_the_name_in_between(store: MountedStore, origin: Origin) -> None:
    put(origin, "a", "data", unit="m")
    store.mv("a", "b")
    store.mv("b", "c")
    assert sync.push(store).ok
    assert origin.writes == [("set", "c"), ("delete", "a")]
    assert origin.to_bytes("c") == b"data"
    assert origin.get_metadata("c") == {"unit": "m"}


def test_rename_whose_new_name_is_refused_deletes_nothing(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "a", "data")
    store.mv("a", "b")
    put(origin, "b", "a stranger's")
    report = sync.push(store)
    assert report["b"].outcome == "conflict"
    assert report["a"].outcome == "skipped"
    assert origin.to_bytes("a") == b"data"


def test_metadata_edit_ignores_foreign_bytes(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one", state="draft")
    store.update_index()
    origin.down = True
    store.set_metadata("k", {"state": "final"})
    origin.down = False
    store._remote.wake()
    origin.set_data("k", __import__("io").BytesIO(b"two"))
    assert store.push("k").outcome == "pushed"
    assert origin.to_bytes("k") == b"two"
    assert origin.get_metadata("k") == {"state": "final"}


def test_metadata_changed_on_both_sides_is_a_conflict_that_merges(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "data", a=1, b=1)
    store.get_metadata("k")
    store.update_metadata("k", {"a": 2})
    origin.update_metadata("k", {"b": 2})
    with pytest.raises(ConflictError):
        store.push("k")
    assert sync.push(store, on_conflict="merge-metadata")["k"].outcome == "pushed"
    assert origin.get_metadata("k") == {"a": 2, "b": 2}


def test_merge_of_a_name_changed_on_both_sides_stays_a_conflict(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "data", a=1)
    store.get_metadata("k")
    store.update_metadata("k", {"a": 2})
    origin.update_metadata("k", {"a": 3})
    assert sync.push(store, on_conflict="merge-metadata")["k"].outcome == "conflict"
    assert origin.get_metadata("k") == {"a": 3}


@pytest.mark.parametrize("there", [True, False])
def test_transaction_that_read_what_another_process_changed_commits_nothing(
    local: LocalStore, origin: Origin, there: bool
) -> None:
    mine = MountedStore("", local, origin)
    if there:
        put(origin, "k", "one")
    other = MountedStore("", local, origin)
    with pytest.raises(ConflictError), mine.transaction("read, then write"):
        assert mine.exists("k") is there
        from threading import Thread

        thread = Thread(target=put, args=(other, "k", "theirs"))
        thread.start()
        thread.join()
        put(mine, "other", "mine")
    assert not mine.exists("other")
    assert mine.to_bytes("k") == b"theirs"


def test_transaction_that_read_what_a_process_of_its_own_changed_commits_nothing(
    tmp_path: Path, origin: Origin
) -> None:
    put(origin, "k", "one")
    with MountedStore("", DiskCacheStore(tmp_path / "cache"), origin) as mine:
        with pytest.raises(ConflictError, match="'k' was changed here"), mine.transaction("both"):
            assert mine.to_bytes("k") == b"one"
            script(
                """
                import io, sys
                from mountcache.local.disk import DiskCacheStore
                with DiskCacheStore(sys.argv[1]) as store:
                    store.set("k", (io.BytesIO(b"theirs"), {}))
                """,
                tmp_path / "cache",
            )
            put(mine, "other", "mine")
        assert not mine.exists("other")
        assert mine.to_bytes("k") == b"theirs"


def test_transaction_whose_copy_was_evicted_commits(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    with store.transaction("read, then write"):
        assert store.to_bytes("k") == b"one"
        assert store.mount.catalog.drop_copy("k")
        put(store, "other", "mine")
    assert store.exists("other")


def test_mount_store_set_by_itself_takes_what_push_of_the_key_shows(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "theirs")
    put(store.mount_store, "k", "mine")  # type: ignore[arg-type]
    result = store.push("k")
    assert result.outcome == "pushed"
    assert "past the mount" in result.message
    assert origin.to_bytes("k") == b"mine"


def test_mount_store_set_by_itself_is_create_only_for_a_push_of_all(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "theirs")
    put(store.mount_store, "k", "mine")  # type: ignore[arg-type]
    assert sync.push(store)["k"].outcome == "conflict"
    assert origin.to_bytes("k") == b"theirs"


def test_mount_store_set_by_itself_then_through_the_mount_has_a_fresh_base(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "theirs")
    put(store.mount_store, "k", "by itself")  # type: ignore[arg-type]
    put(store, "k", "mine")
    with pytest.raises(ConflictError):
        store.push("k")
    assert origin.to_bytes("k") == b"theirs"


def test_poll_leaves_edits_and_bases_alone_and_says_nothing_of_them(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "changed", "one")
    put(origin, "dropped", "one")
    store.update_index()
    before = {key: store.get(key).version for key in ("changed", "dropped")}
    for key in ("changed", "dropped", "added"):
        put(store, key, "mine")
    put(origin, "changed", "two")
    origin.delete("dropped")
    put(origin, "added", "theirs")
    put(origin, "other", "news")
    heard: list[str] = []
    store.event_manager.connect(StoreModificationEvent, lambda event: heard.append(event.key))
    store.update_index()
    assert heard == ["other"]
    assert staged(store) == {
        "changed": ("modified", before["changed"]),
        "dropped": ("modified", before["dropped"]),
        "added": ("added", "absent"),
    }
    assert {edit.key: edit.upstream for edit in store.staged()} == {
        "changed": "changed", "dropped": "gone", "added": "changed",
    }  # fmt: skip
    assert {result.outcome for result in sync.push(store).results} == {"conflict"}


@pytest.mark.parametrize("digests", [True, False])
def test_status_compares_upstream_as_it_is_known_here_with_the_base(
    local: LocalStore, digests: bool
) -> None:
    upstream = Indexed()
    for key in ("same", "changed", "gone", "meta"):
        upstream.put(key, key.encode(), **({"sha256": sha(key)} if digests else {}))
        upstream.promise(key, **({"sha256": sha(key)} if digests else {"n": 1}))
    store = MountedStore("", local, upstream)
    for key in ("same", "changed", "gone"):
        assert store.to_bytes(key) == key.encode()
        put(store, key, "mine")
    store.update_metadata("meta", {"n": 2})
    put(store, "new", "mine")
    assert {edit.upstream for edit in store.staged()} == {"same"}
    upstream.put("changed", b"theirs")
    upstream.promise("changed", **({"sha256": sha("theirs")} if digests else {"n": 2}))
    del upstream.items["gone"]
    store.update_index()
    assert {edit.key: edit.upstream for edit in store.staged()} == {
        "same": "same", "changed": "changed", "gone": "gone", "meta": "same", "new": "same",
    }  # fmt: skip


def test_status_of_what_nobody_asked_about_is_unknown(store: MountedStore) -> None:
    put(store, "k", "mine")
    (edit,) = store.staged()
    assert edit.upstream == "unknown"


def test_copy_of_the_directory_pushes_nothing_twice(tmp_path: Path, origin: Origin) -> None:
    put(origin, "both", "one")
    with MountedStore("", DiskCacheStore(tmp_path / "here"), origin) as store:
        assert store.to_bytes("both") == b"one"
        put(store, "both", "two")
        put(store, "sent", "sent")
        lose_reply(origin)
        assert sync.push(store, ["sent"])["sent"].outcome == "failed"
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for place in ("here", "there"):
        with MountedStore("", DiskCacheStore(tmp_path / place), origin) as store:
            assert sync.push(store).ok
            assert staged(store) == {}
            assert store.to_bytes("both") == b"two"
            assert store.to_bytes("sent") == b"sent"
    assert sorted(origin.writes) == [("set", "both"), ("set", "sent")]


def test_push_of_a_copied_directory_leaves_what_was_built_on_the_first(
    tmp_path: Path, origin: Origin
) -> None:
    put(origin, "k", "one")
    with MountedStore("", DiskCacheStore(tmp_path / "here"), origin) as store:
        assert store.to_bytes("k") == b"one"
        put(store, "k", "two")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    with MountedStore("", DiskCacheStore(tmp_path / "here"), origin) as store:
        assert sync.push(store).ok
    put(origin, "k", "built on two")
    with MountedStore("", DiskCacheStore(tmp_path / "there"), origin) as store:
        assert sync.push(store)["k"].outcome == "conflict"
    assert origin.to_bytes("k") == b"built on two"


def test_equal_content_on_both_sides_is_no_conflict(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    store.get("k")
    put(store, "k", "same", by="us")
    put(origin, "k", "same", by="us")
    assert store.push("k").outcome == "already there"
    assert staged(store) == {}


def test_equal_bytes_with_other_metadata_are_judged_by_the_metadata(
    store: MountedStore, origin: Origin
) -> None:
    put(origin, "k", "one")
    store.get("k")
    put(store, "k", "same", by="us")
    put(origin, "k", "same", by="them")
    with pytest.raises(ConflictError):
        store.push("k")


def test_edit_equal_to_its_base_yields_to_upstream(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(store, "k", "one")
    put(origin, "k", "two")
    assert store.push("k").outcome == "already there"
    assert origin.to_bytes("k") == b"two"
    assert store.to_bytes("k") == b"two"


def test_base_argument_refuses_what_is_not_here(store: MountedStore, origin: Origin) -> None:
    put(origin, "k", "one")
    version = store.get("k").version
    store.to_bytes("k")
    with pytest.raises(ConflictError):
        store.set("k", (__import__("io").BytesIO(b"x"), {}), base="another")
    with pytest.raises(ConflictError):
        store.set("k", (__import__("io").BytesIO(b"x"), {}), base=ABSENT)
    store.set("k", (__import__("io").BytesIO(b"x"), {}), base=version)
    with pytest.raises(ConflictError):
        store.set("k", (__import__("io").BytesIO(b"y"), {}), base=version)


@pytest.mark.parametrize("policy", ["ours", "theirs", "keep-both"])
def test_policies(store: MountedStore, origin: Origin, policy: str) -> None:
    put(origin, "k", "one")
    store.to_bytes("k")
    put(store, "k", "mine")
    put(origin, "k", "theirs")
    report = sync.push(store, on_conflict=policy)
    assert report.ok
    upstream = {key: origin.to_bytes(key) for key in origin.query_keys()}
    if policy == "ours":
        assert upstream == {"k": b"mine"}
    elif policy == "theirs":
        assert upstream == {"k": b"theirs"}
        assert store.to_bytes("k") == b"theirs"
    else:
        assert upstream.pop("k") == b"theirs"
        ((key, data),) = upstream.items()
        assert key.startswith("k.conflict-")
        assert data == b"mine"
    assert staged(store) == {}


class TestGradeC:
    """The same against an upstream that ignores conditions."""

    @pytest.fixture
    def origin(self) -> Origin:
        return Foreign()

    def test_pushes_and_says_what_it_verified(self, store: MountedStore, origin: Origin) -> None:
        put(origin, "k", "one")
        store.to_bytes("k")
        put(store, "k", "two")
        result = store.push("k")
        assert (result.outcome, result.grade, result.enforced) == ("pushed", "C", False)
        assert result.verified

    def test_compares_before_it_writes(self, store: MountedStore, origin: Origin) -> None:
        put(origin, "k", "one")
        store.to_bytes("k")
        put(store, "k", "mine")
        put(origin, "k", "theirs")
        with pytest.raises(ConflictError):
            store.push("k")
        assert origin.to_bytes("k") == b"theirs"

    def test_delete_against_a_later_edit_keeps_the_edit(
        self, store: MountedStore, origin: Origin
    ) -> None:
        put(origin, "k", "one")
        store.to_bytes("k")
        store.delete("k")
        put(origin, "k", "theirs")
        assert sync.push(store)["k"].outcome == "conflict"
        assert origin.to_bytes("k") == b"theirs"

    def test_crash_between_data_and_metadata_is_no_conflict(
        self, store: MountedStore, origin: Origin
    ) -> None:
        put(origin, "k", "one", state="draft")
        store.to_bytes("k")
        put(store, "k", "two", state="final")

        def half(verb: str, key: str) -> None:
            origin.before = lambda verb, key: None
            origin.set_data("k", __import__("io").BytesIO(b"two"))
            raise StoreUnavailableError("killed", maybe_applied=True)

        origin.before = half
        sync.push(store)
        assert sync.push(again(store))["k"].outcome == "pushed"
        assert origin.get_metadata("k") == {"state": "final"}
        assert origin.to_bytes("k") == b"two"

    def test_a_server_that_stores_something_else_is_told(
        self, store: MountedStore, origin: Origin
    ) -> None:
        put(store, "k", "mine")
        origin.after = lambda verb, key: put(origin, "k", "rewritten")
        assert sync.push(store)["k"].outcome == "stored differently"
        origin.after = lambda verb, key: None
        assert store.to_bytes("k") == b"rewritten"
        # It may as well have been a stranger: what was staged can be had back.
        (mine,) = undo.entries(store.mount.catalog.content.connection(), "k")
        assert mine.content is not None
        assert store.mount.catalog.open_content(mine.content, mine.sha256).read() == b"mine"
