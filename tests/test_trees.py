"""Many at once: a folder's files as keys, and keys as a folder's files."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache.errors import (
    ConflictError,
    InvalidKeyError,
    InvalidMetadataError,
    ReadOnlyKeyError,
    StoreUnavailableError,
    TransactionError,
)
from mountcache.events import StoreTransactionEndEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import export_tree, import_tree, push, status
from mountcache.values import StringValue
from tests.upstreams import Origin, put


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def store(tmp_path: Path, origin: Origin) -> Iterator[MountedStore]:
    with MountedStore("", DiskCacheStore(tmp_path / "cache"), origin) as mounted:
        yield mounted


def _tree(folder: Path, **files: bytes) -> Path:
    """Make files, whose paths are given with "__" for "/"."""
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- import ----------------------------------------------------------------------------------


def test_four_hundred_files_are_one_transaction_and_one_commit(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    source = _tree(tmp_path / "results", large=bytes(100_000))
    for number in range(400):
        _tree(source, **{f"{number % 7}__{number}.csv": b"%d\n" % number})
    ends: list[str] = []
    store.event_manager.connect(StoreTransactionEndEvent, lambda event: ends.append(event.state))
    told: list[tuple[int, int]] = []
    said: list[str] = []
    store.mount.catalog.content.connection().set_trace_callback(said.append)
    report = import_tree(
        store, source, "runs", {"by": "ada"},
        progress=lambda done, total, key: told.append((done, total)),
    )  # fmt: skip
    store.mount.catalog.content.connection().set_trace_callback(None)
    said = [text.strip() for text in said]
    first = next(number for number, text in enumerate(said) if text.startswith("INSERT INTO edit"))
    assert said[first:].count("COMMIT") == 1
    assert said[-1] == "COMMIT"
    assert (report.staged, report.unchanged, dict(report.left_out)) == (401, 0, {})
    assert ends == ["done"]
    assert told[-1] == (401, 401)
    assert len({edit.group for edit in status(store).edits}) == 1
    assert store.to_bytes("runs/3/3.csv") == b"3\n"
    assert store.get_metadata("runs/large") == {"by": "ada"}
    assert push(store).ok
    assert len(list(origin.query_keys(by="ada"))) == 401


def test_import_asks_upstream_once_not_once_a_file(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    for number in range(20):
        put(origin, f"runs/{number}", b"old", unit="m")
    source = _tree(tmp_path / "s", **{str(number): b"new" for number in range(30)})
    before = origin.asked
    assert import_tree(store, source, "runs").staged == 30
    assert origin.asked - before == 1
    # What upstream says of a key is kept beside the new bytes.
    assert store.get_metadata("runs/3") == {"unit": "m"}
    assert push(store).ok


def test_import_of_files_that_did_not_change_stages_nothing(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    source = _tree(tmp_path / "s", a=b"one", b=b"two", c__d=b"three")
    assert import_tree(store, source, "p/").staged == 3
    again = import_tree(store, source, "p/")
    assert (again.staged, again.unchanged, again.bytes) == (0, 3, 0)
    assert push(store).ok
    (source / "b").write_bytes(b"TWO")
    changed = import_tree(store, source, "p/")
    assert (changed.staged, changed.unchanged) == (1, 2)
    assert [edit.key for edit in status(store).edits] == ["p/b"]
    # Other metadata are a change as well.
    assert import_tree(store, source, "p/", {"by": "me"}).staged == 3


def test_import_offline_only_creates(store: MountedStore, origin: Origin, tmp_path: Path) -> None:
    put(origin, "k", b"theirs", unit="m")
    origin.down = True
    assert import_tree(store, _tree(tmp_path / "s", k=b"mine", new=b"n"), "", {"a": 1}).staged == 2
    origin.down = False
    report = push(store.with_options(offline="never"))
    assert {each.key: each.outcome for each in report.results} == {"k": "conflict", "new": "pushed"}
    assert origin.to_bytes("k") == b"theirs"


def test_import_is_all_or_none(store: MountedStore, tmp_path: Path) -> None:
    source = _tree(tmp_path / "s", a=b"one", z=b"two")

    def metadata(key: str, path: Path) -> dict[str, Any]:
        if key == "z":
            raise RuntimeError("stopped half way")
        return {}

    with pytest.raises(RuntimeError, match="stopped"):
        import_tree(store, source, metadata=metadata)
    os.mkfifo(source / "m")
    assert not status(store).edits
    report = import_tree(store, source)
    assert report.staged == 2
    assert report.left_out == {"m": "neither a file nor a folder"}


def test_file_that_goes_while_it_is_imported_leaves_nothing_staged(
    store: MountedStore, tmp_path: Path
) -> None:
    source = _tree(tmp_path / "s", a=b"one", z=b"two")

    def metadata(key: str, path: Path) -> dict[str, Any]:
        (source / "z").unlink(missing_ok=True)
        (source / "z").symlink_to("/etc/passwd")
        return {}

    with pytest.raises(OSError, match="z"):
        import_tree(store, source, metadata=metadata)
    assert not status(store).edits


def test_key_that_another_process_changes_meanwhile_is_a_conflict_and_nothing_is_staged(
    store: MountedStore, tmp_path: Path
) -> None:
    store.set("b", StringValue(b"before"))
    source = _tree(tmp_path / "s", a=b"one", b=b"two", c=b"three")
    with DiskCacheStore(tmp_path / "cache") as other:

        def metadata(key: str, path: Path) -> dict[str, Any]:
            if key == "c":
                other.set("b", StringValue(b"theirs"))
            return {}

        with pytest.raises(ConflictError, match="'b' was changed here"):
            import_tree(store, source, metadata=metadata)
    assert store.to_bytes("b") == b"theirs"
    assert [edit.key for edit in status(store).edits] == ["b"]


def test_links_are_not_followed_out_of_the_tree(store: MountedStore, tmp_path: Path) -> None:
    secret = _tree(tmp_path / "elsewhere", secret=b"s", deep__secret=b"s")
    source = _tree(tmp_path / "s", a=b"one", sub__b=b"two")
    (source / "same").symlink_to("sub/b")
    (source / "out").symlink_to(secret / "secret")
    (source / "sneaky").symlink_to("sub/../../elsewhere/secret")
    (source / "folder").symlink_to(secret)
    (source / "loop").symlink_to(".")
    (source / "gone").symlink_to("nowhere")
    left: dict[str, str] = {}
    report = import_tree(store, source, left_out=left.__setitem__)
    assert sorted(store.query_keys()) == ["a", "same", "sub/b"]
    assert store.to_bytes("same") == b"two"
    assert set(left) == {"out", "sneaky", "folder", "loop", "gone"}
    assert report.left_out == left


def test_tree_behind_a_link_is_a_tree(store: MountedStore, tmp_path: Path) -> None:
    _tree(tmp_path / "real", a=b"one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert import_tree(store, tmp_path / "link").staged == 1


def test_hidden_files_are_told_before_anything_is_written(
    store: MountedStore, tmp_path: Path
) -> None:
    source = _tree(tmp_path / "s", a=b"one")
    _tree(source / ".git", config=b"c")
    _tree(source / "sub", **{".DS_Store": b"d"})
    left: dict[str, str] = {}

    def tell(path: str, why: str) -> None:
        assert not status(store).edits
        left[path] = why

    assert import_tree(store, source, left_out=tell).staged == 1
    assert left == {".git": "hidden", "sub/.DS_Store": "hidden"}
    assert import_tree(store, source, hidden=True).staged == 2


def test_local_store_is_never_imported_into_itself(store: MountedStore, tmp_path: Path) -> None:
    _tree(tmp_path, a=b"one")
    report = import_tree(store, tmp_path)
    assert sorted(store.query_keys()) == ["a"]
    assert report.left_out == {"cache": "the local store itself"}


def test_include_and_exclude_are_patterns_of_paths_and_of_folders(
    store: MountedStore, tmp_path: Path
) -> None:
    source = _tree(
        tmp_path / "s", **{"a.csv": b"", "a.txt": b"", "raw__b.csv": b"", "raw__tmp__c.csv": b""}
    )
    import_tree(store, source, "1", include=["*.csv"])
    import_tree(store, source, "2", include=["raw"], exclude=["*/tmp"])
    import_tree(store, source, "3", exclude=["raw/", "*.txt"])
    assert sorted(store.query_keys()) == [
        "1/a.csv", "1/raw/b.csv", "1/raw/tmp/c.csv", "2/raw/b.csv", "3/a.csv",
    ]  # fmt: skip


def test_names_that_can_be_no_keys_are_refused_before_anything_is_written(
    store: MountedStore, tmp_path: Path
) -> None:
    source = _tree(tmp_path / "s", a=b"one", **{"b\nc": b"", "d\x07": b""})
    (source / os.fsdecode(b"latin-\xe9")).write_bytes(b"")
    with pytest.raises(InvalidKeyError, match="3 of the 4 files") as error:
        import_tree(store, source)
    assert "\n" not in str(error.value)
    assert not status(store).edits
    with pytest.raises(InvalidMetadataError):
        import_tree(store, source, metadata={"a": float("nan")}, include=["a"])
    with pytest.raises(FileNotFoundError):
        import_tree(store, tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        import_tree(store, source / "a")


def test_import_outside_of_the_mount_point_is_refused(tmp_path: Path, origin: Origin) -> None:
    source = _tree(tmp_path / "s", a=b"one")
    with MountedStore("surveys/", DiskCacheStore(tmp_path / "c"), origin) as store:
        with pytest.raises(ReadOnlyKeyError, match="begins with 'surveys/'"):
            import_tree(store, source)
        assert import_tree(store, source, "surveys").staged == 1
        assert list(store.query_keys()) == ["surveys/a"]


@pytest.mark.parametrize(("count", "size"), [(3, 20_000_000), (900, 30_000)])
def test_memory_does_not_grow_with_the_bytes(
    store: MountedStore, tmp_path: Path, count: int, size: int
) -> None:
    block = os.urandom(size)
    for number in range(count):
        _tree(tmp_path / "s", **{str(number): b"%d" % number + block})
    list(store.query_keys())
    tracemalloc.start()
    try:
        import_tree(store, tmp_path / "s")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24_000_000
    assert store.to_bytes("2") == b"2" + block


def test_small_values_of_a_long_transaction_are_read_before_and_after_its_commit(
    store: MountedStore,
) -> None:
    data = {f"k{number}": os.urandom(30_000) for number in range(700)}
    with store.transaction("long"):
        for key, each in data.items():
            store.set(key, StringValue(each))
        assert store.to_bytes("k699") == data["k699"]
        store.mv("k698", "renamed")
    assert store.to_bytes("k699") == data["k699"]
    assert store.to_bytes("renamed") == data["k698"]
    assert not [*(store.mount_store.directory / "tmp").iterdir()]


# -- export ----------------------------------------------------------------------------------


def test_export_writes_what_matches_and_goes_on_where_it_stopped(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    for number in range(30):
        put(origin, f"runs/{number}.csv", b"%d\n" % number)
    put(origin, "runs/large.csv", bytes(3_000_000))
    put(origin, "notes", b"no")
    store.set("runs/staged.csv", StringValue(b"staged"))
    out = tmp_path / "out"
    told: list[tuple[int, int]] = []
    report = export_tree(
        store, "runs/*", out, progress=lambda done, total, key: told.append((done, total))
    )
    assert (report.written, report.already, report.failed) == (32, 0, {})
    assert told[-1] == (32, 32)
    found = _files(out)
    assert len(found) == 32
    assert found["runs/7.csv"] == b"7\n"
    assert found["runs/staged.csv"] == b"staged"
    (out / "runs" / "7.csv").unlink()
    again = export_tree(store, "runs/*", out)
    assert (again.written, again.already) == (1, 31)
    assert _files(out) == found


@pytest.mark.parametrize("link", ["auto", "copy"])
def test_changing_an_exported_file_never_changes_the_cache(
    store: MountedStore, origin: Origin, tmp_path: Path, link: Any
) -> None:
    put(origin, "large", bytes(1_000_000))
    put(origin, "small", b"small")
    store.set("staged", StringValue(b"s" * 100_000))
    store.to_bytes("large")
    out = tmp_path / "out"
    export_tree(store, "*", out, link)
    for name in ("large", "small", "staged"):
        assert (out / name).stat().st_nlink == 1
        with (out / name).open("r+b") as file:
            file.write(b"changed")
    assert store.to_bytes("large") == bytes(1_000_000)
    assert store.to_bytes("small") == b"small"
    assert store.to_bytes("staged") == b"s" * 100_000


def test_blocks_are_shared_only_where_the_file_system_can(
    store: MountedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for Btrfs, whose ioctl fills the new file."""
    from mountcache.sync import trees

    store.set("k", StringValue(b"k" * 100_000))
    cloned: list[int] = []

    def clone(new: int, request: int, old: int) -> int:
        cloned.append(request)
        return os.pwrite(new, os.pread(old, 200_000, 0), 0)

    monkeypatch.setattr(trees.fcntl, "ioctl", clone)
    assert export_tree(store, "k", tmp_path / "a").bytes == 100_000
    assert cloned == [0x40049409]
    assert (tmp_path / "a" / "k").read_bytes() == b"k" * 100_000
    export_tree(store, "k", tmp_path / "b", "copy")
    assert len(cloned) == 1


def test_file_with_other_bytes_is_not_lost(store: MountedStore, tmp_path: Path) -> None:
    store.set("a", StringValue(b"one"))
    store.set("b", StringValue(b"two"))
    out = _tree(tmp_path / "out", a=b"my own", b=b"own")
    report = export_tree(store, "*", out)
    assert (report.written, report.already) == (0, 0)
    assert report.failed == {
        "a": "a: is there already, with other bytes",
        "b": "b: is there already, with other bytes",
    }
    assert _files(out) == {"a": b"my own", "b": b"own"}
    assert export_tree(store, "*", out, force=True).written == 2
    assert _files(out) == {"a": b"one", "b": b"two"}


def test_nothing_is_written_outside_of_the_directory_whatever_the_keys_are(
    store: MountedStore, tmp_path: Path
) -> None:
    bad = [
        "../up", "/etc/mountcache-test", "a/../../up", "a//b", "./here", "..", "dir/", "x/./y",
        "n" * 300, "clash", "clash/below", "evil/file", "folder", "badlink",
    ]  # fmt: skip
    for key in [*bad, "good/one"]:
        store.set(key, StringValue(b"data"))
    outside = _tree(tmp_path / "outside", there=b"theirs")
    out = tmp_path / "deep" / "out"
    (out / "folder").mkdir(parents=True)
    (out / "evil").symlink_to(outside)
    (out / "badlink").symlink_to(outside / "there")
    for force in (False, True):
        report = export_tree(store, "*", out, force=force)
        expected = {*bad} - {"clash"} - ({"badlink"} if force else set())
        assert set(report.failed) >= expected - {"badlink"}, report.failed
    assert _files(outside) == {"there": b"theirs"}
    assert (out / "good" / "one").read_bytes() == b"data"
    assert (out / "clash").read_bytes() == b"data"
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert not Path("/etc/mountcache-test").exists()
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def test_export_offline_writes_what_is_here_and_names_the_rest(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    put(origin, "a", b"one")
    put(origin, "b", b"two")
    store.to_bytes("a")
    list(store.query_keys())
    origin.down = True
    report = export_tree(store, "*", tmp_path / "out")
    assert report.written == 1
    assert set(report.failed) == {"b"}
    assert "isn't here" in report.failed["b"]
    with pytest.raises(StoreUnavailableError):
        export_tree(store, "b", tmp_path / "out")
    assert _files(tmp_path / "out") == {"a": b"one"}


def test_export_of_what_is_known_in_part_writes_that_and_says_so(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    put(origin, "a", b"one")
    store.to_bytes("a")
    origin.down = True
    with pytest.raises(StoreUnavailableError, match=r"1 files were written.*only what is known"):
        export_tree(store, "*", tmp_path / "out")
    assert _files(tmp_path / "out") == {"a": b"one"}


def test_export_in_a_transaction_is_refused(store: MountedStore, tmp_path: Path) -> None:
    with store.transaction("t"), pytest.raises(TransactionError):
        export_tree(store, "*", tmp_path / "out")
    with pytest.raises(ValueError, match="auto"):
        export_tree(store, "*", tmp_path / "out", "hard")  # type: ignore[arg-type]


def test_what_was_exported_comes_back_under_the_same_keys(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    keys = {"a": b"1", "deep/er/b.csv": b"2", "sp ace/ü[x]*?": b"3"}
    for key, data in keys.items():
        put(origin, key, data)
    export_tree(store, "*", tmp_path / "out")
    assert _files(tmp_path / "out") == keys
    again = import_tree(store, tmp_path / "out")
    assert (again.staged, again.unchanged) == (0, 3)
