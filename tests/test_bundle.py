"""Bundles: what is on the stick arrives whole, or not at all, and is pushed once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.abc import Value
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TransactionError,
)
from mountcache.events import BaseEvent, StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.records import Edit
from mountcache.mounted import MountedStore
from mountcache.sync import BundleConflictError, export_bundle, import_bundle
from mountcache.testing import Origin
from mountcache.values import StringValue
from tests.command import ROOT, TIME, Inside, environment
from tests.dictstore import DictStore

Machine = Callable[..., MountedStore]
UTF = "Übung/ä %2F b/" + "k" * 200


@pytest.fixture
def origin() -> Iterator[Origin]:
    contents = {
        "a": (b"a of upstream", {"n": 1, "by": "nobody"}),
        "b": (b"b of upstream", {"n": 2}),
        "c": (b"c of upstream", {}),
        "large": (b"0123456789abcdef" * 40_000, {"large": True}),
    }
    with Origin(contents) as running:
        yield running


@pytest.fixture(params=["dynamic", "static"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(origin: Origin, tmp_path: Path, layout: str) -> Iterator[Machine]:
    """Give stores on machines of their own, each opened again as often as one likes."""
    opened: list[MountedStore] = []

    def mount(name: str, point: str = "", **options: Any) -> MountedStore:
        backing = (
            DynamicURLStore(f"{origin.url}keys", f"{origin.url}query", timeout=5)
            if layout == "dynamic"
            else StaticURLStore(origin.url, poll=0, timeout=5)
        )
        local = DiskCacheStore(tmp_path / name, min_free=0, **options.pop("local", {}))
        store = MountedStore(point, local, backing, author=name, **options)
        store.connect()
        opened.append(store)
        return store

    yield mount
    for store in opened:
        store.disconnect()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    return tmp_path / "stick.zip"


def edits(store: MountedStore) -> dict[str, Edit]:
    return {edit.key: edit for edit in store.mount.catalog.edits()}


def told(edit: Edit) -> tuple[Any, ...]:
    """What of an edit is the same on each machine."""
    return (
        edit.kind, edit.sha256, edit.size, edit.meta, edit.base, edit.partner, edit.author,
        edit.at, edit.notes,
    )  # fmt: skip


def stage_all_kinds(store: MountedStore) -> None:
    store.set("new", StringValue(b"new", {"x": [1, 1.5, None]}))
    store.set(UTF, StringValue(b"odd", {}))
    assert store.to_bytes("a") == b"a of upstream"
    store.set_data("a", io.BytesIO(b"a of mine"))
    store.update_metadata("b", {"n": 3})
    store.to_bytes("c")
    store.mv("c", "moved")
    store.to_bytes("large")
    store.delete("large")
    with store.transaction("two at once"):
        store.set("g/1", StringValue(b"one" * 30_000, {}))
        store.set("g/2", StringValue(b"two", {}))


def test_edits_arrive_as_they_were_with_bases_groups_notes_and_authors(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    stage_all_kinds(here)
    report = export_bundle(here, stick)
    mine = edits(here)
    assert (report.keys, report.left_out, report.unknown) == (len(mine), {}, ())
    origin.stop()
    came = import_bundle(there, stick)
    theirs = edits(there)
    assert (came.kind, came.imported, came.already) == ("staged", len(mine), 0)
    assert list(theirs) == list(mine)
    for key, edit in mine.items():
        assert told(theirs[key]) == told(edit), key
    assert theirs["g/1"].group == theirs["g/2"].group
    assert theirs["c"].group == theirs["moved"].group
    assert len({edit.group for edit in theirs.values()}) == len(
        {edit.group for edit in mine.values()}
    )
    assert {edit.author for edit in theirs.values()} == {"ada"}
    assert there.to_bytes("g/1") == b"one" * 30_000
    assert there.get_metadata("new") == {"x": [1, 1.5, None]}
    assert not there.exists("large") and not there.exists("c")


def test_a_group_that_was_held_there_is_held_here_as_a_whole(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    with here.transaction("the notes", group="release"):
        here.set("g/1", StringValue(b"1", {}))
    here.hold("g/1")
    with there.transaction("bob's", group="release"):
        there.set("g/bob", StringValue(b"b", {}))
    export_bundle(here, stick)
    import_bundle(there, stick)
    assert {edit.key: edit.held for edit in there.staged()} == {"g/1": True, "g/bob": True}


def test_named_groups_and_what_is_held_back_stay_so(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    with here.transaction("the notes", group="release"):
        here.set("g/1", StringValue(b"1", {}))
        here.set("g/2", StringValue(b"2", {}))
    with here.transaction("more", group="later"):
        here.set("h/1", StringValue(b"1", {}))
        here.set("h/2", StringValue(b"2", {}))
    here.set("alone", StringValue(b"alone", {}))
    here.hold("h/1", "h/2")
    with there.transaction("bob's", group="release"):
        there.set("g/bob", StringValue(b"b", {}))
    export_bundle(here, stick)
    import_bundle(there, stick)
    found = {edit.key: (edit.group_name, edit.held, edit.notes) for edit in there.staged()}
    assert found == {
        "g/bob": ("release", False, "bob's"),
        "g/1": ("release", False, "the notes"),
        "g/2": ("release", False, "the notes"),
        "h/1": ("later", True, "more"),
        "h/2": ("later", True, "more"),
        "alone": (None, False, ""),
    }
    assert len({edits(there)[key].group for key in ("g/bob", "g/1", "g/2")}) == 1
    sync.push(there)
    assert not origin.store.exists("h/1")
    assert origin.store.exists("g/2")


def test_what_is_imported_stands_in_the_log_under_its_author(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    here.set("new", StringValue(b"new", {}))
    export_bundle(here, stick)
    import_bundle(there, stick)
    (logged,) = there.log("new")
    assert (logged.what, logged.author, logged.kind) == ("staged", "ada", "put")
    assert "bundle" in logged.note
    import_bundle(there, stick)
    assert len(list(there.log("new"))) == 1


def test_push_from_there_is_as_safe_as_from_here(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here = machine("ada")
    here.to_bytes("a"), here.to_bytes("b"), here.to_bytes("c")
    for key in "abc":
        here.set_data(key, io.BytesIO(b"mine " + key.encode()))
    here.set("d", StringValue(b"mine d", {}))
    export_bundle(here, stick)
    there = machine("bob")
    import_bundle(there, stick)
    origin.change("a", b"a stranger's")
    origin.remove("b")
    origin.change("d", b"somebody was faster")
    # What upstream has now is known there, and yet no base has moved.
    assert sync.prefetch(there, "*").failed == {}
    report = sync.push(there)
    assert {each.key: each.outcome for each in report.results} == {
        "a": "conflict", "b": "conflict", "c": "pushed", "d": "conflict",
    }  # fmt: skip
    assert origin.store.to_bytes("a") == b"a stranger's"
    assert origin.store.to_bytes("c") == b"mine c"
    assert not origin.store.exists("b")


def test_what_is_pushed_from_both_machines_is_sent_once(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    stage_all_kinds(here)
    export_bundle(here, stick)
    import_bundle(there, stick)
    assert sync.push(here).ok
    versions = {key: origin.store.version_of(key) for key in origin.store.query_keys()}
    report = sync.push(there)
    assert report.ok
    # A delete of what is gone is done; only that may say so.
    assert {each.key for each in report.results if each.outcome != "already there"} <= {
        "c", "large",
    }  # fmt: skip
    assert {key: origin.store.version_of(key) for key in origin.store.query_keys()} == versions
    assert not edits(there)


def test_importing_twice_changes_nothing(machine: Machine, origin: Origin, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    stage_all_kinds(here)
    export_bundle(here, stick)
    import_bundle(there, stick)
    before = edits(there)
    report = import_bundle(there, stick)
    assert (report.imported, report.already, report.before) == (0, len(before), ())
    assert edits(there) == before
    # Nor once it was pushed, changed or reverted there.
    there.set_data("new", io.BytesIO(b"newer"))
    there.revert("a")
    changed = edits(there)
    assert import_bundle(there, stick).before == ("new", "a")
    assert edits(there) == changed
    assert sync.push(there).ok
    assert set(import_bundle(there, stick).before) == set(before)
    assert not edits(there)
    # On the machine where it was made, too.
    assert import_bundle(here, stick).already == len(before)
    sync.push(here)
    own = set(edits(here))
    assert import_bundle(here, stick).imported == 0
    assert set(edits(here)) == own


def test_what_was_reverted_can_be_had_again_when_asked_for(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    here.set("new", StringValue(b"new", {}))
    export_bundle(here, stick)
    import_bundle(there, stick)
    there.revert("new")
    assert import_bundle(there, stick).imported == 0
    assert import_bundle(there, stick, again=True).imported == 1
    assert told(edits(there)["new"]) == told(edits(here)["new"])


def test_two_who_import_the_same_at_once_have_it_once(machine: Machine, stick: Path) -> None:
    here, one, other = machine("ada"), machine("bob"), machine("bob")
    stage_all_kinds(here)
    export_bundle(here, stick)
    reports: list[sync.BundleImport] = []

    def in_between(done: int, total: int, key: str) -> None:
        if not reports:
            reports.append(import_bundle(other, stick))

    second = import_bundle(one, stick, progress=in_between)
    assert reports[0].imported == len(edits(here))
    assert (second.imported, second.already) == (0, len(edits(here)))
    assert len(edits(one)) == len(edits(here))


def test_edit_that_is_made_while_a_bundle_comes_in_is_not_overwritten(
    machine: Machine, stick: Path
) -> None:
    here, one, other = machine("ada"), machine("bob"), machine("bob")
    stage_all_kinds(here)
    export_bundle(here, stick)

    def in_between(done: int, total: int, key: str) -> None:
        if not list(other.staged()):
            other.set("g/2", StringValue(b"mine", {}))

    with pytest.raises(ConflictError, match="'g/2' was changed here meanwhile"):
        import_bundle(one, stick, progress=in_between)
    assert set(edits(one)) == {"g/2"}
    assert one.to_bytes("g/2") == b"mine"


def test_edit_that_changes_while_it_is_exported_goes_as_it_is_then(
    machine: Machine, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    with here.transaction("both"):
        here.set("one", StringValue(b"1" * 40_000, {}))
        here.set("two", StringValue(b"1" * 40_001, {}))
    changed: list[int] = []

    def in_between(done: int, total: int, key: str) -> None:
        if not changed:
            changed.append(done)
            with here.transaction("both"):
                here.set("one", StringValue(b"2" * 40_000, {}))
                here.set("two", StringValue(b"2" * 40_001, {}))

    assert export_bundle(here, stick, progress=in_between).keys == 2
    import_bundle(there, stick)
    assert there.to_bytes("one")[:1] == there.to_bytes("two")[:1] == b"2"


def test_edit_that_was_changed_here_since_is_another_edit(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    here.set("new", StringValue(b"1", {}))
    export_bundle(here, stick)
    import_bundle(there, stick)
    there.revert("new")
    here.set("new", StringValue(b"2", {}))
    export_bundle(here, stick, overwrite=True)
    assert import_bundle(there, stick).imported == 1
    assert there.to_bytes("new") == b"2"


def test_other_edits_here_are_conflicts_key_by_key_and_nothing_is_imported(
    machine: Machine, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    stage_all_kinds(here)
    export_bundle(here, stick)
    there.set("new", StringValue(b"another", {}))
    there.to_bytes("a")
    there.delete("a")
    there.set("g/2", StringValue(b"two", {}))
    before = edits(there)
    with pytest.raises(BundleConflictError, match="nothing was imported") as raised:
        import_bundle(there, stick)
    assert isinstance(raised.value, ConflictError)
    assert set(raised.value.conflicts) == {"new", "a"}
    assert edits(there) == before
    there.revert("new"), there.revert("a")
    report = import_bundle(there, stick)
    assert report.already == 1
    assert told(edits(there)["g/2"]) == told(before["g/2"])
    assert edits(there)["g/1"].group == before["g/2"].group


def test_half_of_a_rename_brings_the_other_along(machine: Machine, stick: Path) -> None:
    here = machine("ada")
    here.to_bytes("c")
    here.mv("c", "moved")
    here.set("other", StringValue(b"other", {}))
    for half, other in (("c", "moved"), ("moved", "c")):
        report = export_bundle(here, stick, half, overwrite=True)
        assert (report.keys, report.added) == (2, (other,))
    there = machine("bob")
    assert import_bundle(there, stick).imported == 2
    assert edits(there)["c"].partner == "moved"
    assert sorted(there.revert("moved")) == ["c", "moved"]


class LostAnswer(DynamicURLStore):
    """Loses the answer of each write that names the key "lost"; it was applied."""

    def set_if(self, key: str, *args: Any, **kwargs: Any) -> Any:
        pushed = super().set_if(key, *args, **kwargs)
        if key == "lost":
            raise StoreUnavailableError("the line was cut", maybe_applied=True)
        return pushed

    def fetch(self, key: str) -> Value:
        raise StoreUnavailableError("the line is cut")

    get = fetch


def test_what_had_no_answer_goes_only_with_a_word_and_is_sent_once(
    origin: Origin, tmp_path: Path, stick: Path
) -> None:
    backing = LostAnswer(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("lost", StringValue(b"1", {}))
        here.set("fine", StringValue(b"1", {}))
        assert sync.push(here)["lost"].outcome == "failed"
        assert [op.state for op in here.mount.catalog.ops()] == ["unknown"]
        report = export_bundle(here, stick)
        assert (report.keys, report.unknown, report.left_out) == (1, ("lost",), {})
        version = origin.store.version_of("lost")
        plain = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        with MountedStore("", DiskCacheStore(tmp_path / "bob"), plain) as there:
            import_bundle(there, stick)
            assert sync.push(there)["lost"].outcome == "already there"
        assert origin.store.version_of("lost") == version
        # An edit over it was made from what nobody knows yet.
        stick.unlink()
        here.set("lost", StringValue(b"2", {}))
        report = export_bundle(here, stick)
        assert report.keys == 0
        assert "no answer" in report.left_out["lost"]
        assert not stick.exists()


def test_key_that_is_being_pushed_here_is_a_conflict(
    origin: Origin, tmp_path: Path, stick: Path
) -> None:
    plain = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "bob"), plain) as there:
        there.set("lost", StringValue(b"theirs", {}))
        export_bundle(there, stick)
    backing = LostAnswer(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("lost", StringValue(b"1", {}))
        sync.push(here)
        with pytest.raises(BundleConflictError):
            import_bundle(here, stick)


# -- damage ------------------------------------------------------------------------------


def test_bundle_that_is_cut_or_damaged_anywhere_is_refused_whole(
    machine: Machine, stick: Path, tmp_path: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    here.set("new", StringValue(b"new value", {"n": 1}))
    here.set("second", StringValue(b"second value", {}))
    export_bundle(here, stick)
    whole = stick.read_bytes()
    wrong = tmp_path / "wrong.zip"
    for at in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        wrong.write_bytes(damaged)
        try:
            import_bundle(there, wrong)
        except StoreError:
            assert not edits(there)
            continue
        # A date or a flag of the archive: nothing that is said of the edits.
        assert [told(edit) for edit in edits(there).values()] == [
            told(edit) for edit in edits(here).values()
        ]
        there = machine(f"bob{at}")
    for length in range(0, len(whole), 11):
        wrong.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="nothing was imported"):
            import_bundle(there, wrong)
    assert not edits(there)


def rewritten(
    stick: Path,
    change: Callable[[dict[str, Any]], object] = lambda said: None,
    members: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write a bundle as somebody with bad intentions would, its digest right."""
    with zipfile.ZipFile(stick) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    said = json.loads(contents.pop("manifest.json"))
    change(said)
    text = json.dumps(said).encode()
    with zipfile.ZipFile(stick, "w", compression) as archive:
        for name, data in (contents | (members or {})).items():
            archive.writestr(name, data)
        archive.writestr("manifest.json", text)
        digest = hashlib.sha256(text).hexdigest()
        archive.comment = f"mountcache bundle; manifest.json has sha256 {digest}".encode()


def first(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["entries"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        first("key", "../../etc/passwd"),
        first("key", "a\x00b"),
        first("key", ""),
        first("key", "\ud800"),
        first("key", 3),
        first("kind", "op"),
        first("sha256", "00" * 32),
        first("sha256", "../x"),
        first("size", 10**30),
        first("size", -1),
        first("size", True),
        first("metadata", '{"a": NaN}'),
        first("metadata", "[]"),
        first("metadata", '{"a":' * 10_000),
        first("base", {"kind": "op"}),
        first("base", None),
        first("author", None),
        first("at", "yesterday"),
        first("at", float("nan")),
        first("number", 2**70),
        first("group_name", "a\nb"),
        first("held", "yes"),
        lambda said: said["entries"].append(said["entries"][0]),
        lambda said: said.pop("entries"),
        lambda said: said.update(entries={}),
        lambda said: said.update(format="something else"),
        lambda said: said.update(kind="other"),
        lambda said: said.update(version="1"),
    ],
    ids=range(28),
)
def test_manifest_that_makes_no_sense_is_refused(
    origin: Origin, tmp_path: Path, stick: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new", {}))
        export_bundle(here, stick)
        here.revert("new")
        rewritten(stick)
        assert import_bundle(here, stick, again=True).imported == 1
        here.revert("new")
        rewritten(stick, change)
        with pytest.raises(IntegrityError):
            import_bundle(here, stick, again=True)
        assert not edits(here)


@pytest.mark.parametrize(
    ("members", "compression"),
    [
        ({"../evil": b"x"}, zipfile.ZIP_STORED),
        ({"/etc/evil": b"x"}, zipfile.ZIP_STORED),
        ({"content/" + "0" * 64: b"x"}, zipfile.ZIP_STORED),
        ({"content/../x": b"x"}, zipfile.ZIP_STORED),
        ({}, zipfile.ZIP_DEFLATED),
        ({}, zipfile.ZIP_LZMA),
    ],
)
def test_members_that_no_bundle_has_are_refused(
    origin: Origin, tmp_path: Path, stick: Path, members: dict[str, bytes], compression: int
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new" * 1000, {}))
        export_bundle(here, stick)
        rewritten(stick, members=members, compression=compression)
        with pytest.raises(IntegrityError):
            import_bundle(here, stick)
    assert not (tmp_path / "evil").exists()


def test_bytes_under_the_digest_of_others_are_refused(
    origin: Origin, tmp_path: Path, stick: Path
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new", {}))
        export_bundle(here, stick)
        name = f"content/{hashlib.sha256(b'new').hexdigest()}"
        rewritten(stick, members={name: b"old"})
        with pytest.raises(IntegrityError, match="are others"):
            import_bundle(here, stick)


def test_member_that_claims_more_than_there_is_takes_no_memory(
    origin: Origin, tmp_path: Path, stick: Path
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new", {}))
        export_bundle(here, stick)
        here.revert("new")
        with zipfile.ZipFile(stick, "a") as archive:
            comment, archive.comment = archive.comment, b""
            for info in archive.filelist:
                info.file_size = info.compress_size = 2**40
            archive.comment = comment
        with pytest.raises(IntegrityError, match="less than it claims"):
            import_bundle(here, stick)
        assert not edits(here)


def test_manifest_without_end_is_neither_written_nor_read(
    origin: Origin, tmp_path: Path, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new", {"n": "n" * 3000}))
        export_bundle(here, stick)
        monkeypatch.setattr("mountcache.sync.archive.LONGEST_MANIFEST", 3000)
        with pytest.raises(IntegrityError, match="without end"):
            import_bundle(here, stick)
        stick.unlink()
        with pytest.raises(StoreError, match="make several"):
            export_bundle(here, stick)
    assert not stick.exists()


def test_later_format_is_named(origin: Origin, tmp_path: Path, stick: Path) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("", DiskCacheStore(tmp_path / "ada"), backing) as here:
        here.set("new", StringValue(b"new", {}))
        export_bundle(here, stick)
        rewritten(stick, lambda said: said.update(version=2))
        with pytest.raises(StoreError, match="bring it up to date"):
            import_bundle(here, stick)


def test_bundle_of_another_upstream_or_mount_point_is_refused(
    machine: Machine, stick: Path, tmp_path: Path
) -> None:
    here = machine("ada", "g/")
    here.set("g/1", StringValue(b"1", {}))
    export_bundle(here, stick)
    with pytest.raises(StoreError, match="mount point 'g/'"):
        import_bundle(machine("bob"), stick)
    with Origin() as other:
        backing = DynamicURLStore(f"{other.url}keys", f"{other.url}query")
        with MountedStore("g/", DiskCacheStore(tmp_path / "carl"), backing) as there:
            with pytest.raises(StoreError, match="bundle of upstream"):
                import_bundle(there, stick)
            assert not edits(there)
    there = machine("dora", "g/")
    import_bundle(there, stick)
    assert there.to_bytes("g/1") == b"1"


def test_upstream_without_a_name_has_no_bundles(stick: Path) -> None:
    with MountedStore("", MemoryStore(), MemoryStore()) as store:
        store.set("a", StringValue(b"a", {}))
        with pytest.raises(ConfigurationError, match="names the upstream"):
            export_bundle(store, stick)
    assert not stick.exists()


def test_mount_store_of_another_make_is_in_step(origin: Origin, stick: Path) -> None:
    def mount() -> MountedStore:
        backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        with pytest.warns(UserWarning, match="keeps no catalog"):
            return MountedStore("", DictStore(), backing)

    with mount() as here, mount() as there:
        here.set("through", StringValue(b"1", {}))
        here.mount_store.set("past", StringValue(b"2", {}))
        assert export_bundle(here, stick).keys == 2
        import_bundle(there, stick)
        assert set(there.mount_store.query_keys()) == {"through", "past"}
        assert edits(there)["past"].base.kind == "none"


def test_inside_a_transaction_there_is_neither(machine: Machine, stick: Path) -> None:
    here = machine("ada")
    with pytest.raises(TransactionError), here.transaction("t"):
        export_bundle(here, stick)
    with pytest.raises(TransactionError), here.transaction("t"):
        import_bundle(here, stick)


def test_file_that_is_there_stays_and_a_failed_one_leaves_nothing(
    machine: Machine, stick: Path, tmp_path: Path
) -> None:
    here = machine("ada")
    here.set("new", StringValue(b"n" * 100_000, {}))
    stick.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        export_bundle(here, stick)
    assert stick.read_bytes() == b"precious"
    for path in (tmp_path / "ada").rglob("*"):
        if path.is_file() and path.stat().st_size == 100_000:
            path.chmod(0o600)
            with open(path, "r+b") as file:
                file.write(b"rotten")
    with pytest.raises(StoreError, match="no bundle was written"):
        export_bundle(here, stick, overwrite=True)
    assert stick.read_bytes() == b"precious"
    assert [each.name for each in tmp_path.iterdir() if "unfinished" in each.name] == []


KILLED = """
import os, signal, sys
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import export_bundle, import_bundle

verb, directory, url, stick, at = sys.argv[1:]
steps = []

def kill(done, total, key):
    steps.append(done)
    if len(steps) > int(at) or done == total:
        os.kill(os.getpid(), signal.SIGKILL)

store = MountedStore("", DiskCacheStore(directory), DynamicURLStore(url + "keys", url + "query"))
(export_bundle if verb == "export" else import_bundle)(store, stick, progress=kill)
"""


def test_kill_leaves_no_bundle_and_nothing_staged(
    origin: Origin, tmp_path: Path, stick: Path
) -> None:
    def mount(name: str) -> MountedStore:
        backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        return MountedStore("", DiskCacheStore(tmp_path / name, min_free=0), backing)

    def killed(verb: str, name: str, at: int) -> None:
        words = (verb, str(tmp_path / name), origin.url, str(stick), str(at))
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, *words],
            env=environment(PYTHONPATH=str(ROOT)), timeout=TIME, check=False,
        )  # fmt: skip
        assert ended.returncode == -signal.SIGKILL

    with mount("ada") as here:
        here.set("one", StringValue(b"1" * 3_000_000, {}))
        here.set("two", StringValue(b"2" * 3_000_000, {}))
        killed("export", "ada", 0)
        assert not stick.exists()
        assert export_bundle(here, stick).keys == 2
    for at in (0, 1, 1000):  # the last is when all bytes are here, just before the commit
        killed("import", "bob", at)
        with mount("bob") as there:
            assert not edits(there)
    with mount("bob") as there:
        assert import_bundle(there, stick).imported == 2
        assert there.to_bytes("two") == b"2" * 3_000_000
        there.mount.catalog.content.gc()
        files = [each for each in (tmp_path / "bob").rglob("*") if each.is_file()]
        assert sum(each.stat().st_size == 3_000_000 for each in files) == 2


def test_more_than_may_be_staged_is_refused_beforehand(machine: Machine, stick: Path) -> None:
    here = machine("ada")
    here.set("new", StringValue(b"n" * 100_000, {}))
    export_bundle(here, stick)
    there = machine("bob", local={"staged_limit": 99_999})
    with pytest.raises(StoreFullError, match="nothing of it was staged"):
        import_bundle(there, stick)
    assert not edits(there)
    assert there.mount.catalog.state("staged_bytes") == 0


def test_memory_stays_flat_whatever_the_size(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    large = 64 * 2**20
    with here.open("large.bin", "wb") as file:
        for _ in range(64):
            file.write(os.urandom(2**20))
    tracemalloc.start()
    try:
        export_bundle(here, stick)
        import_bundle(there, stick)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stick.stat().st_size > large
    assert peak < large // 4


def test_bundle_is_a_plain_archive_with_the_manifest_last(machine: Machine, stick: Path) -> None:
    here = machine("ada")
    here.set("one", StringValue(b"the same", {"n": 1}))
    here.set("two", StringValue(b"the same", {}))
    export_bundle(here, stick)
    with zipfile.ZipFile(stick) as archive:
        assert archive.testzip() is None
        name = f"content/{hashlib.sha256(b'the same').hexdigest()}"
        assert archive.namelist() == [name, "manifest.json"]
        said = json.loads(archive.read("manifest.json"))
    assert [entry["key"] for entry in said["entries"]] == ["one", "two"]
    assert json.loads(said["entries"][0]["metadata"]) == {"n": 1}


def test_what_is_imported_is_announced(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    here.set("new", StringValue(b"new", {}))
    here.to_bytes("a"), here.to_bytes("b")
    here.set_data("a", io.BytesIO(b"mine"))
    here.delete("b")
    export_bundle(here, stick)
    there.to_bytes("a"), there.to_bytes("b")
    heard: list[BaseEvent] = []
    for kind in (StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent):
        there.event_manager.connect(kind, heard.append)
    import_bundle(there, stick)
    assert [(type(each).__name__, each.key) for each in heard] == [  # type: ignore[attr-defined]
        ("StoreSetEvent", "new"), ("StoreUpdateEvent", "a"), ("StoreDeleteEvent", "b"),
    ]  # fmt: skip


# -- copies ------------------------------------------------------------------------------


def test_copies_are_read_where_there_never_was_a_network(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here = machine("ada")
    sync.prefetch(here, "*")
    here.set("staged", StringValue(b"not a copy", {}))
    report = export_bundle(here, stick, kind="cached")
    assert (report.keys, report.left_out) == (4, {})
    origin.stop()
    there = machine("bob")
    came = import_bundle(there, stick)
    assert (came.kind, came.imported, came.already) == ("cached", 4, 0)
    value = there.get("large")
    assert value.data.read() == b"0123456789abcdef" * 40_000
    assert value.stale and value.source == "cached"
    assert there.get_metadata("a") == {"n": 1, "by": "nobody"}
    assert set(there.with_options(partial=True).query_keys()) == {"a", "b", "c", "large"}
    with pytest.raises(StoreUnavailableError):
        there.to_bytes("elsewhere")
    again = import_bundle(there, stick)
    assert (again.imported, again.already) == (0, 4)


def test_imported_copy_is_asked_after_however_young_it_is_said_to_be(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here = machine("ada")
    here.to_bytes("a")
    export_bundle(here, stick, kind="cached")
    origin.change("a", b"changed since")
    there = machine("bob", max_age=3600.0)
    import_bundle(there, stick)
    assert there.to_bytes("a") == b"changed since"


def test_edit_over_an_imported_copy_has_its_version_for_a_base(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here = machine("ada")
    here.to_bytes("a"), here.to_bytes("b")
    export_bundle(here, stick, kind="cached")
    there = machine("bob")
    origin.stop()
    import_bundle(there, stick)
    assert there.to_bytes("a") == b"a of upstream"
    there.set_data("a", io.BytesIO(b"mine"))
    there.set_data("b", io.BytesIO(b"mine"))
    origin.start()
    origin.change("b", b"a stranger's")
    report = sync.push(there)
    assert {each.key: each.outcome for each in report.results} == {"a": "pushed", "b": "conflict"}


def test_copy_counts_as_not_asked_for(machine: Machine, origin: Origin, stick: Path) -> None:
    """What its author had read stays the base of an edit, though a newer copy came."""
    there = machine("bob", clock=lambda: 1e9)
    there.to_bytes("a")
    there.disconnect()
    there.connect()
    before = there.mount.catalog.row("a").copy
    assert before is not None
    origin.change("a", b"changed since")
    here = machine("ada")
    here.to_bytes("a")
    export_bundle(here, stick, kind="cached")
    # As if upstream's own date told that it is newer.
    rewritten(stick, first("modified", 4e9))
    import_bundle(there, stick)
    row = there.mount.catalog.row("a")
    assert row.copy is not None and row.copy.sha256 != before.sha256
    assert row.copy.seen is not None and row.copy.seen.sha256 == before.sha256
    there.set_data("a", io.BytesIO(b"mine"))
    assert sync.push(there)["a"].outcome == "conflict"
    assert origin.store.to_bytes("a") == b"changed since"


def test_copies_here_that_may_be_newer_and_staged_keys_stay(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    for key in "abc":
        here.to_bytes(key)
    export_bundle(here, stick, kind="cached")
    rewritten(stick, lambda said: [each.update(modified=1.0) for each in said["entries"]])
    origin.change("a", b"changed since")
    assert there.to_bytes("a") == b"changed since"
    there.to_bytes("b")
    there.set_data("b", io.BytesIO(b"mine"))
    report = import_bundle(there, stick)
    assert (report.imported, set(report.left_out)) == (1, {"a", "b"})
    origin.stop()
    assert there.to_bytes("a") == b"changed since"
    assert there.to_bytes("b") == b"mine"
    assert there.to_bytes("c") == b"c of upstream"


def test_copy_of_what_was_seen_to_be_gone_isnt_kept(
    machine: Machine, origin: Origin, stick: Path
) -> None:
    here, there = machine("ada"), machine("bob")
    here.to_bytes("a"), there.to_bytes("a")
    export_bundle(here, stick, kind="cached")
    origin.remove("a")
    with pytest.raises(KeyError):
        there.with_options(max_age=0.0).to_bytes("a")
    there.drop("a")
    report = import_bundle(there, stick)
    assert (report.imported, set(report.left_out)) == (0, {"a"})


def test_copies_that_dont_fit_are_refused_beforehand(machine: Machine, stick: Path) -> None:
    here = machine("ada")
    sync.prefetch(here, "*")
    export_bundle(here, stick, kind="cached")
    there = machine("bob", local={"size_limit": 100_000})
    with pytest.raises(StoreFullError, match="nothing was imported"):
        import_bundle(there, stick)
    assert not list(there.cached())


def test_damaged_copies_are_refused_whole(machine: Machine, stick: Path) -> None:
    here, there = machine("ada"), machine("bob")
    here.to_bytes("a"), here.to_bytes("b")
    export_bundle(here, stick, kind="cached")
    data = stick.read_bytes()
    stick.write_bytes(data.replace(b"b of upstream", b"B of upstream"))
    with pytest.raises(IntegrityError):
        import_bundle(there, stick)
    assert not list(there.cached())


# -- the command line --------------------------------------------------------------------


@pytest.fixture
def shells(origin: Origin, tmp_path: Path) -> tuple[Inside, Inside]:
    found = []
    for name in ("ada", "bob"):
        folder = tmp_path / "at" / name
        folder.mkdir(parents=True)
        shell = Inside(folder, {"MOUNTCACHE_AUTHOR": name})
        assert shell("init", origin.url).code == 0
        found.append(shell)
    return found[0], found[1]


def test_story_of_the_stick(shells: tuple[Inside, Inside], origin: Origin) -> None:
    ada, bob = shells
    assert ada("bundle", "export", "s.zip").code == 3
    ada("put", "runs/1", "-", given=b"one")
    ada("put", "runs/2", "-", given=b"two")
    ada("put", "notes", "-", given=b"note")
    origin.requests.clear()
    ended = ada("bundle", "export", "s.zip", "runs/*")
    assert not origin.requests
    assert (ended.code, ended.text) == (0, "2 edits in s.zip (6 bytes)\n")
    assert "bundle import s.zip" in ended.err
    assert ada("bundle", "export", "s.zip").code == 3
    assert "exists" in ada("bundle", "export", "s.zip").err
    origin.stop()
    shutil.copy(ada.folder / "s.zip", bob.folder)
    ended = bob("bundle", "import", "s.zip")
    assert (ended.code, ended.text) == (0, "2 staged (6 bytes), 0 here already\n")
    assert bob("bundle", "import", "s.zip", "--json").documents == [
        {
            "kind": "staged", "imported": 0, "already": 2, "bytes": 0, "before": [],
            "left_out": {},
        }
    ]  # fmt: skip
    assert "(ada," in bob("status").text
    origin.start()
    assert bob("push").code == 0
    assert origin.store.to_bytes("runs/2") == b"two"
    assert ada("push").text.count("already there") == 2
    assert "stays so" in bob("bundle", "import", "s.zip").err


def test_conflicts_are_told_key_by_key(shells: tuple[Inside, Inside]) -> None:
    ada, bob = shells
    for shell in shells:
        shell("put", "x", "-", given=str(shell.folder).encode())
        shell("put", "y", "-", given=str(shell.folder).encode())
    ada("put", "z", "-", given=b"z")
    ada("bundle", "export", "../s.zip")
    ended = bob("bundle", "import", "../s.zip")
    assert ended.code == 2
    assert [line.split(":")[:2] for line in ended.text.splitlines()] == [
        ["conflict", " x"], ["conflict", " y"],
    ]  # fmt: skip
    assert ended.err.count("\n") == 1
    assert set(bob("bundle", "import", "../s.zip", "--json").documents[0]["conflicts"]) == {
        "x", "y",
    }  # fmt: skip
    assert "z" not in bob("status").text.split()


def test_copies_go_by_name_and_pattern(shells: tuple[Inside, Inside], origin: Origin) -> None:
    ada, bob = shells
    assert ada("bundle", "export", "../c.zip", "--cached", "a").code == 3
    ada("prefetch")
    ended = ada("bundle", "export", "../c.zip", "--cached", "[ab]", "--json")
    assert ended.documents[0]["keys"] == 2
    origin.stop()
    assert bob("bundle", "import", "../c.zip").text.startswith("2 kept")
    assert bob("cat", "a").out == b"a of upstream"


def test_damaged_file_is_one_sentence(shells: tuple[Inside, Inside]) -> None:
    ada, _ = shells
    (ada.folder / "x.zip").write_bytes(b"PK\x03\x04 nothing")
    for name in ("x.zip", "none.zip", "."):
        ended = ada("bundle", "import", name)
        assert ended.code == 3
        assert ended.err.count("\n") == 1
