"""Edits that give way to upstream, and those that can't: none is lost, and none makes up data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.abc import SupportsWrite
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import StoreError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.testing import Origin
from tests.command import Inside


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"k": (b"base", {"by": "lab"})}) as server:
        yield server


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as mounted:
        yield mounted


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    return Inside(tmp_path)


def put_again(store: MountedStore) -> None:
    store.to_bytes("k")
    store.set("k", (io.BytesIO(b"base"), {"by": "lab"}))


def test_what_was_put_again_gives_way_to_a_deletion_and_can_be_had_back(
    store: MountedStore, origin: Origin
) -> None:
    put_again(store)
    origin.remove("k")
    (result,) = sync.push(store).results
    assert (result.outcome, result.message) == (
        "already there", "the edit changed nothing; upstream's deletion stays",
    )  # fmt: skip
    assert not store.exists("k")
    assert not origin.store.exists("k")
    store.undo("k")
    assert store.to_bytes("k") == b"base"


def test_an_edit_made_meanwhile_is_not_said_to_be_given_up(
    store: MountedStore, origin: Origin
) -> None:
    store.to_bytes("k")
    store.set("k", (io.BytesIO(b"mine"), {"by": "me"}))
    origin.change("k", b"theirs", {})

    def upstream(_: sync.Conflict) -> str:
        store.set("k", (io.BytesIO(b"mine, later"), {"by": "me"}))
        return "theirs"

    (result,) = sync.push(store, on_conflict=upstream).results  # type: ignore[arg-type]
    assert result.outcome == "skipped"
    assert store.to_bytes("k") == b"mine, later"
    assert [edit.key for edit in store.staged()] == ["k"]


def test_metadata_never_make_an_empty_key_of_one_that_is_gone(
    store: MountedStore, origin: Origin, shell: Inside
) -> None:
    assert shell("cat", "k").code == 0
    assert shell("meta", "k", "by=me").code == 0
    origin.remove("k")
    pushed = shell("push", "--on-conflict", "mine")
    assert pushed.code == 2
    assert "there are no data to send; put the data, too, or revert it" in pushed.text
    assert "its metadata alone" in pushed.text
    assert shell("resolve", "k", "--mine").code == 3
    planned = shell("push", "--dry-run", "--on-conflict", "mine")
    assert "conflict" in planned.text
    assert not origin.store.exists("k")
    # What docs/conflicts.md says is to be done.
    base = shell("cat", "k", "--side", "base")
    assert shell("put", "k", given=base.out).code == 0
    assert shell("push", "--on-conflict", "mine").code == 0
    assert origin.store.to_bytes("k") == b"base"
    assert origin.store.get_metadata("k") == {"by": "me"}


def test_an_answer_that_was_lost_before_a_deletion_brings_nothing_back(
    store: MountedStore, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_again(store)
    backing = store.backing_store
    assert isinstance(backing, SupportsWrite)
    with monkeypatch.context() as patched:

        def lost(*args: object, **kwargs: object) -> object:
            raise StoreUnavailableError("the line is dead", maybe_applied=True)

        patched.setattr(type(backing), "set_if", lost)
        (result,) = sync.push(store).results
        assert result.outcome == "failed"
    origin.remove("k")
    (result,) = sync.push(store).results
    assert result.outcome == "already there"
    assert not store.exists("k")
    assert not list(store.staged())


def test_two_added_the_same_data_and_each_its_metadata(
    store: MountedStore, origin: Origin, shell: Inside
) -> None:
    assert shell("put", "new", "--meta", "by=me", "--meta", "n:=1", given=b"new").code == 0
    origin.change("new", b"new", {"unit": "m", "n": 1})
    assert shell("push").code == 2
    assert shell("resolve", "new", "--merge-metadata").code == 0
    assert shell("push").code == 0
    assert origin.store.get_metadata("new") == {"by": "me", "n": 1, "unit": "m"}
    assert origin.store.to_bytes("new") == b"new"


def test_two_added_other_data_is_nothing_that_metadata_could_mend(
    store: MountedStore, origin: Origin
) -> None:
    store.set("new", (io.BytesIO(b"mine"), {"by": "me"}))
    origin.change("new", b"theirs", {"unit": "m"})
    with pytest.raises(StoreError, match="the data, or one name of the metadata"):
        sync.resolve(store, "new", "merge-metadata")


def test_what_went_under_another_name_is_in_conflict_no_more(origin: Origin, shell: Inside) -> None:
    assert shell("cat", "k").code == 0
    assert shell("put", "k", given=b"mine").code == 0
    origin.change("k", b"theirs", {})
    assert shell("push").code == 2
    assert shell("resolve", "k", "--keep-both").code == 0
    shown = shell("status", "--porcelain")
    assert shown.code == 1
    assert shown.text.startswith("A? k.conflict-")


@pytest.mark.parametrize("text", [b"base", b"theirs", b"of both"])
def test_whatever_text_somebody_decides_on_is_the_resolution(
    origin: Origin, shell: Inside, tmp_path: Path, text: bytes
) -> None:
    """Also one that is as it was at first, or as upstream has it."""
    assert shell("cat", "k").code == 0
    assert shell("put", "k", given=b"mine").code == 0
    origin.change("k", b"theirs", {"by": "others"})
    (tmp_path / "text").write_bytes(text)
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ncp {tmp_path / "text"} "$1"\n')
    editor.chmod(0o700)
    resolved = shell("resolve", "k", "--edit", EDITOR=str(editor), VISUAL=str(editor))
    assert resolved.code == 0, resolved.err
    assert shell("push").code == 0
    assert origin.store.to_bytes("k") == text
    # An editor shows no metadata: nobody's change of them is undone by that.
    assert origin.store.get_metadata("k") == {"by": "others"}
    assert shell("status").code == 0


def test_ours_and_theirs_are_taken_for_mine_and_upstream(origin: Origin, shell: Inside) -> None:
    assert shell("cat", "k").code == 0
    assert shell("put", "k", given=b"mine\n").code == 0
    origin.change("k", b"theirs\n", {"by": "lab"})
    for old, side, data in (("ours", "mine", b"mine\n"), ("theirs", "upstream", b"theirs\n")):
        assert shell("cat", "k", "--side", old).out == data
        assert shell("cat", "k", "--side", side).out == data
    assert shell("diff", "--theirs").text == shell("diff", "--upstream").text != ""
    assert "[mine|base|upstream]" in shell("cat", "--help").text
    assert shell("resolve", "k", "--ours").code == 0
    assert shell("push", "--on-conflict", "ours").code == 0


def test_resolve_says_what_comes_next(origin: Origin, shell: Inside) -> None:
    for way, said in (
        ("--mine", "next: `mountcache push`"),
        ("--upstream", "`mountcache undo KEY`"),
    ):
        assert shell("put", "k", "--meta", "by=me", given=f"mine, {way}".encode()).code == 0
        origin.change("k", way.encode(), {"by": "others"})
        assert said in shell("resolve", "k", way).err
        assert shell("push").code == 0


def test_the_size_of_what_is_deleted_is_shown_though_it_was_never_fetched(
    origin: Origin, shell: Inside
) -> None:
    assert shell("ls").code == 0
    assert shell("rm", "k").code == 0
    assert "\n-4 bytes, " in shell("diff", "k").text
