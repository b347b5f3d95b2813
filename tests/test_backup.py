"""A backup is whole, whatever others do to the store while it is taken."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, sync
from mountcache.errors import DirectoryError
from mountcache.local.backup import Saved, backup, restore
from mountcache.local.diskcontent import DiskContent
from mountcache.local.doctor import examine
from mountcache.serve import Origin
from tests.command import Shell
from tests.local_parts import LARGE, SMALL, Running, script
from tests.test_directories import AS_NOBODY, open_to_all


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "cache.db")) as con:
        return con.execute(sql).fetchall()


def sound(path: Path) -> None:
    assert [each for each in examine(path) if each.severity != "note"] == []


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    with DiskCacheStore(tmp_path / "origin") as repository:
        for name in ("one", "two", "three"):
            repository.set(name, (io.BytesIO(name.encode() * 30_000), {"name": name}))
        with Origin(repository) as server:
            yield server


def mounted(path: Path, origin: Origin) -> MountedStore:
    remote = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    return MountedStore("", DiskCacheStore(path, min_free=0), remote, author="me")


@pytest.fixture
def store(tmp_path: Path, origin: Origin) -> Path:
    """A store with copies, staged edits, and something to undo."""
    with mounted(tmp_path / "store", origin) as store:
        for name in ("one", "two", "three"):
            store.to_bytes(name)
        store.set("one", (io.BytesIO(LARGE), {"v": 1}))
        store.set("one", (io.BytesIO(LARGE + b"2"), {"v": 2}))
        store.set("new", (io.BytesIO(SMALL), {}))
        store.delete("two")
    return tmp_path / "store"


def test_backup_has_all_of_a_store(store: Path, origin: Origin, tmp_path: Path) -> None:
    saved = backup(store, tmp_path / "saved")
    assert (saved.edits, saved.copies, saved.missing) == (3, 3, ())
    sound(tmp_path / "saved")
    restored = restore(tmp_path / "saved", tmp_path / "restored")
    assert restored == saved
    shutil.rmtree(tmp_path / "saved")
    with mounted(tmp_path / "restored", origin) as again:
        assert again.to_bytes("one") == LARGE + b"2"
        assert again.get_metadata("one") == {"v": 2}
        assert again.to_bytes("new") == SMALL
        assert not again.exists("two")
        assert again.get("three").source == "cached"
        assert [taken.key for taken in again.taken()] == ["one"]
        assert {each.outcome for each in sync.push(again).results} == {"pushed"}
    sound(tmp_path / "restored")


def test_backup_of_what_is_staged_has_the_bases_and_no_other_copies(
    store: Path, origin: Origin, tmp_path: Path
) -> None:
    saved = backup(store, tmp_path / "saved", staged_only=True)
    assert saved.edits == 3
    assert rows(tmp_path / "saved", "SELECT key FROM copy ORDER BY key") == [("one",), ("two",)]
    assert rows(tmp_path / "saved", "SELECT key FROM undo") == [("one",)]
    assert ("three",) not in rows(tmp_path / "saved", "SELECT key FROM upstream")
    files = [path for path in (tmp_path / "saved").glob("*/*.val") if path.is_file()]
    assert len(files) == 4  # two of one's edits, and the bases
    sound(tmp_path / "saved")
    with mounted(tmp_path / "saved", origin) as again:
        assert again.to_bytes("three") == b"three" * 30_000
        assert {each.outcome for each in sync.push(again).results} == {"pushed"}


def test_only_its_maker_can_read_it(store: Path, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        backup(store, tmp_path / "saved")
    finally:
        os.umask(old)
    for path in (tmp_path / "saved", *(tmp_path / "saved").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_store_reads_its_values_after_a_backup_and_during_it(store: Path, tmp_path: Path) -> None:
    backup(store, tmp_path / "saved")
    assert os.listdir(store / "tmp") == []
    assert not any(path.stat().st_nlink > 1 for path in store.rglob("*.val"))
    with DiskCacheStore(store) as again:
        assert again.to_bytes("one") == LARGE + b"2"


def test_each_copy_is_an_incarnation_of_its_own_without_pushes_under_way(
    store: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(store / "cache.db", isolation_level=None)) as con:
        con.execute(
            "INSERT INTO op (op_id, key, edit_seq, state, owner, at, kind, content, sha, size,"
            " meta, base_kind) SELECT 'o', key, seq, 'sending', 'x', 0, kind, content, sha, size,"
            " meta, 'absent' FROM edit WHERE key = 'new'"
        )
    backup(store, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "restored")
    restore(tmp_path / "saved", tmp_path / "again")
    named = set()
    for name in ("saved", "restored", "again"):
        assert rows(tmp_path / name, "SELECT state FROM op") == [("unknown",)]
        with DiskCacheStore(tmp_path / name) as opened:
            named.add(opened.catalog.content.incarnation)
    assert rows(store, "SELECT state FROM op") == [("sending",)]
    with DiskCacheStore(store) as opened:
        assert opened.catalog.content.incarnation not in named
    assert len(named) == 3


@pytest.mark.parametrize("act", [backup, restore])
def test_directory_with_something_in_it_is_refused_and_left(
    store: Path, tmp_path: Path, act: Callable[..., Saved]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DirectoryError, match="isn't empty; choose"):
        act(store, tmp_path / "full")
    with pytest.raises(DirectoryError, match="Not a directory"):
        act(store, tmp_path / "file")
    with pytest.raises(DirectoryError, match="in the store itself"):
        act(store, store / "saved")
    with pytest.raises(DirectoryError, match="there is no store in"):
        act(tmp_path / "nothing", tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "empty").mkdir()
    act(store, tmp_path / "empty")
    sound(tmp_path / "empty")


def test_store_in_use_isnt_restored(store: Path, tmp_path: Path) -> None:
    with DiskCacheStore(store), pytest.raises(DirectoryError, match="in use: `mountcache backup`"):
        restore(store, tmp_path / "new")


def test_staged_value_that_had_gone_is_named_and_all_else_is_there(
    store: Path, tmp_path: Path
) -> None:
    ((name,),) = rows(store, "SELECT b.filename FROM edit e JOIN Cache b ON b.key = e.content"
                             " WHERE e.key = 'one' AND b.filename NOTNULL")  # fmt: skip
    (store / str(name)).unlink()
    saved = backup(store, tmp_path / "saved")
    assert saved.missing == ("one",)
    assert (saved.edits, saved.copies) == (3, 3)
    with DiskCacheStore(tmp_path / "saved") as again:
        assert again.to_bytes("new") == SMALL


def test_backup_that_was_killed_is_no_store(store: Path, tmp_path: Path) -> None:
    killed = """
        import os, signal, sys
        from mountcache.local import backup
        step, room = sys.argv[3].partition(":")[::2]
        owner = os if room == "os" else backup
        function = getattr(owner, step)
        def die(*arguments, **named):
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, step, die)
        backup.backup(sys.argv[1], sys.argv[2])
    """
    for number, step in enumerate(["_fill:", "_copy_file:", "_copy_files:", "rename:os"]):
        with pytest.raises(AssertionError):
            script(killed, store, tmp_path / f"saved{number}", step)
        assert not (tmp_path / f"saved{number}").exists()
        (left,) = tmp_path.glob(f"saved{number}.unfinished-*")
        for act in (lambda left=left: DiskCacheStore(left).connect(),
                    lambda left=left: restore(left, tmp_path / "restored")):  # fmt: skip
            with pytest.raises(DirectoryError):
                act()
        backup(store, tmp_path / f"saved{number}")
        sound(tmp_path / f"saved{number}")
    assert os.listdir(store / "tmp") == []


_HAMMER = """
    import io, sys
    from mountcache import DiskCacheStore, DynamicURLStore, MountedStore
    path, url = sys.argv[1:]
    remote = DynamicURLStore(url + "keys", url + "query")
    # Room for two of the three copies, so that each fill evicts one.
    with MountedStore("", DiskCacheStore(path, size_limit=300_000, min_free=0), remote) as store:
        print("ready", flush=True)
        turn = 0
        while True:
            turn += 1
            with store.transaction("pair"):
                for name in ("left", "right"):
                    store.set(name, (io.BytesIO(b"%09d" % turn * 6000), {"turn": turn}))
            store.set("single", (io.BytesIO(b"%09d" % turn * (1 + turn % 2 * 6000)), {"t": turn}))
            if turn % 3 == 0:
                store.revert("single")
            store.to_bytes(("one", "two", "three")[turn % 3])
            if turn % 5 == 0:
                store.mount.catalog.content.gc()
            if turn % 10 == 0:
                print(turn, flush=True)
"""


def test_backup_is_of_one_moment_while_another_process_writes_evicts_and_collects(
    tmp_path: Path, origin: Origin
) -> None:
    path = tmp_path / "store"
    turns = []
    with Running(_HAMMER, path, origin.url) as other:
        assert other.hear() == "ready"
        for number in range(12):
            assert int(other.hear()) > 0
            saved = backup(path, tmp_path / f"saved{number}", staged_only=number % 4 == 3)
            assert saved.missing == ()
        other.kill()
    for number in range(12):
        copy = tmp_path / f"saved{number}"
        sound(copy)
        with DiskCacheStore(copy) as store:
            turn = store.get_metadata("left")["turn"]
            for name in ("left", "right"):
                assert store.get_metadata(name) == {"turn": turn}
                assert store.to_bytes(name) == b"%09d" % turn * 6000
            turns.append(turn)
    assert turns == sorted(set(turns))
    DiskContent(path).close()  # removes what the killed one left
    sound(path)


def test_commands_copy_and_bring_back(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text(
        f'url = "http://127.0.0.1:9/"\nlayout = "dynamic"\ndir = "{store}"\n'
    )
    run = Shell(tmp_path)
    ended = run("backup", "saved")
    assert ended.code == 0, ended.err
    assert ended.text.startswith("saved in saved: 3 staged edits, 3 clean copies, ")
    assert run("backup", "saved").code == 3
    assert run("backup", "--staged-only", "--json", "staged").documents[0]["copies"] == 2
    ended = run("restore", "saved", "restored")
    assert ended.code == 0, ended.err
    sound(tmp_path / "restored")
    again = run("restore", "saved", "restored")
    assert (again.code, again.text) == (3, "")
    assert again.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_cant_write_a_store_restores_it_and_takes_no_backup(
    store: Path, tmp_path: Path
) -> None:
    open_to_all(store)
    tmp_path.chmod(0o777)
    script(
        AS_NOBODY,
        store,
        after="""
        from mountcache.local.backup import backup, restore
        try:
            backup(path, path + "-saved")
        except ReadOnlyStoreError as error:
            assert "can only be read here" in str(error)
        else:
            raise AssertionError
        assert restore(path, path + "-mine").edits == 3
        with DiskCacheStore(path + "-mine") as store:
            store.from_bytes("more", b"more")
        """,
    )
