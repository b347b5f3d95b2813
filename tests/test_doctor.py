"""What is wrong with a store's directory is found, and mended without the loss of an edit."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from mountcache.errors import DirectoryError, StoreBusyError, StoreError
from mountcache.local import directory, diskcontent, doctor, salvage
from mountcache.local.disk import DiskCacheStore
from mountcache.local.doctor import Finding, examine, repair
from mountcache.local.liveness import FileLock
from mountcache.mounted import MountedStore
from tests.upstreams import Origin, put

KIB = 1024
SMALL, LARGE = b"small", random.Random(1).randbytes(100 * KIB)
STAGED = {"staged/small": SMALL, "staged/large": LARGE, "staged/other": LARGE[::-1]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with staged values, clean copies and something to undo."""
    path = tmp_path_factory.mktemp("whole") / "store"
    fill(path)
    return path


def origin() -> Origin:
    made = Origin()
    put(made, "copy/small", b"copy")
    put(made, "copy/large", LARGE[:50_000] * 2)
    put(made, "theirs", b"x", n=1)
    return made


def fill(path: Path) -> None:
    with DiskCacheStore(path, min_free=0, size_limit=10**8) as local:
        store = MountedStore("", local, origin(), author="ada")
        for key, data in STAGED.items():
            put(store, key, data, by="ada")
        for key in ("copy/small", "copy/large", "theirs"):
            store.to_bytes(key)
        store.set_metadata("theirs", {"n": 2})
        put(store, "gone", LARGE + b"!")
        store.revert("gone")


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    there = tmp_path / "store"
    shutil.copytree(whole, there, symlinks=True)
    with DiskCacheStore(there):
        pass  # it is a copy, and says so
    return there


def staged(path: Path) -> dict[str, bytes | str]:
    """What is staged, or why it can't be read."""
    found: dict[str, bytes | str] = {}
    with DiskCacheStore(path) as local:
        store = MountedStore("", local, origin())
        for edit in store.staged():
            try:
                found[edit.key] = store.to_bytes(edit.key)
            except (StoreError, OSError) as error:
                found[edit.key] = str(error)
    return found


def lost(path: Path) -> set[bytes]:
    return {file.read_bytes() for file in (path / "lost+found").rglob("*") if file.is_file()}


def state_of(path: Path) -> dict[str, tuple[int, int, int]]:
    """What is where, and when it was written."""
    return {
        str(each.relative_to(path)): (
            each.lstat().st_size,
            each.lstat().st_mtime_ns,
            each.lstat().st_mode,
        )
        for each in (path, *path.rglob("*"))
    }


def file_of(path: Path, key: str) -> Path:
    with closing(sqlite3.connect(path / "cache.db")) as con:
        (name,) = con.execute(
            "SELECT filename FROM Cache WHERE key ="
            " coalesce((SELECT content FROM edit WHERE key = ?1),"
            " (SELECT content FROM copy WHERE key = ?1),"
            " (SELECT content FROM undo WHERE key = ?1))",
            (key,),
        ).fetchone()
    return path / str(name)


def sql(*statements: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as con:
            for statement in statements:
                con.execute(statement)

    return damage


def alter(key: str, how: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda path: (how(file_of(path, key)), None)[1]


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def flip(file: Path) -> None:
    file.write_bytes(flipped(file.read_bytes()))
    later(file)


def later(file: Path) -> None:
    """Let a file have been written a minute from now: clocks and files agree to a second or two."""
    os.utime(file, (time.time() + 60, time.time() + 60))


MISSING = (
    "the bytes of 'staged/large' are missing from the store's directory, or aren't what they were, "
    "though it is staged; restore the directory from a backup, or set the key again"
)


DAMAGE = {
    "a counter": (sql("UPDATE state SET value = 7 WHERE name = 'staged_bytes'"), "counter"),
    "a copy that is gone": (alter("copy/large", Path.unlink), "copied bytes"),
    "a copy cut off": (alter("copy/large", lambda file: os.truncate(file, 5)), "copied bytes"),
    "a copy altered": (alter("copy/large", flip), "copied bytes"),
    "a small copy altered": (
        sql("UPDATE Cache SET value = x'00' WHERE value = CAST('copy' AS BLOB)"),
        "copied bytes",
    ),
    "an undo value altered": (alter("gone", flip), "undo bytes"),
    "a row of bytes gone": (
        sql(
            "DROP TRIGGER staged_bytes_stay",
            "DELETE FROM Cache WHERE key = (SELECT content FROM edit WHERE key = 'staged/large')",
        ),
        "database",
    ),
    "a trigger gone": (sql("DROP TRIGGER staged_bytes_stay"), "database"),
    "a trigger planted": (
        sql("CREATE TRIGGER t AFTER INSERT ON edit BEGIN DELETE FROM copy; END"),
        "database",
    ),
    "a setting changed": (
        sql("UPDATE Settings SET value = 'pickle' WHERE key = 'disk_min_file_size'"),
        "database",
    ),
    "bytes that nothing names": (
        sql(
            "INSERT INTO Cache (key, raw, mode, value, size)"
            " VALUES ('00000000000000000000000000000000-1', 1, 1, x'6c6f7374', 4)"
        ),
        "nameless bytes",
    ),
    "a file without a row": (
        lambda path: (path / "00" / f"{'0' * 32}-100.val").write_bytes(b"x"),
        "file",
    ),
    "a directory for all": (lambda path: path.chmod(0o755), "rights"),
    "a file for all": (lambda path: (path / "cache.db").chmod(0o644), "rights"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_mended_and_no_edit_is_lost(path: Path, name: str) -> None:
    damage, kind = DAMAGE[name]
    damage(path)
    assert kind in [each.kind for each in examine(path)]
    told = repair(path)
    assert kind in [each.kind for each in told]
    assert [each for each in examine(path) if each.severity != "note"] == []
    assert staged(path) == {**STAGED, "theirs": b"x"}
    assert list(examine(path)) == []
    if name == "bytes that nothing names":
        assert b"lost" in lost(path)


def test_nothing_is_found_where_nothing_is_wrong_and_nothing_written(path: Path) -> None:
    before = state_of(path)
    assert list(examine(path)) == []
    assert state_of(path) == before
    assert repair(path) == []


@pytest.mark.parametrize("how", [Path.unlink, flip, lambda file: os.truncate(file, 5)])
def test_staged_value_that_is_damaged_is_named_and_kept(
    path: Path, how: Callable[[Path], object]
) -> None:
    alter("staged/large", how)(path)
    (found,) = examine(path)
    assert (found.kind, found.severity, found.key) == ("staged bytes", "error", "staged/large")
    assert "revert" in found.what
    assert [each.kind for each in repair(path)] == ["staged bytes"]
    left = staged(path)
    assert left.pop("staged/large") == MISSING
    assert left == {"theirs": b"x", "staged/small": SMALL, "staged/other": LARGE[::-1]}


@pytest.mark.parametrize("how", [lambda file: os.truncate(file, 5), flip, Path.unlink])
def test_copy_that_was_altered_is_fetched_again_in_silence(
    path: Path, how: Callable[[Path], object]
) -> None:
    alter("copy/large", how)(path)
    with DiskCacheStore(path) as local:
        store = MountedStore("", local, origin())
        assert store.to_bytes("copy/large") == LARGE[:50_000] * 2
        assert store.with_options(offline="always").to_bytes("copy/large") == LARGE[:50_000] * 2


def test_file_that_was_written_again_as_it_was_is_what_it_was(path: Path) -> None:
    for key in ("copy/large", "staged/large"):
        alter(key, later)(path)
    assert staged(path) == {**STAGED, "theirs": b"x"}
    with DiskCacheStore(path) as local:
        store = MountedStore("", local, origin()).with_options(offline="always")
        assert store.to_bytes("copy/large") == LARGE[:50_000] * 2
        with store.get("staged/large").range(5, 9) as part:
            assert part.read() == LARGE[5:9]
    assert list(examine(path)) == []


def test_database_that_is_gone_leaves_the_bytes_for_people(path: Path) -> None:
    (path / "cache.db").unlink()
    with pytest.raises(DirectoryError, match="doctor --repair"):
        DiskCacheStore(path).connect()
    assert [each.kind for each in examine(path)] == ["database"]
    repair(path)
    assert staged(path) == {}
    assert {LARGE, LARGE[::-1]} <= lost(path)
    assert any(b"mountcache put" in text for text in lost(path))
    assert list(examine(path)) == []


def test_database_that_is_none_is_kept_aside(path: Path) -> None:
    (path / "cache.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(DirectoryError, match="doctor --repair"):
        DiskCacheStore(path).connect()
    repair(path)
    (aside,) = path.glob("damaged-*")
    assert (aside / "cache.db").read_bytes().startswith(b"no database")
    assert {LARGE, LARGE[::-1]} <= lost(path)
    assert list(examine(path)) == []


@pytest.mark.parametrize("seed", range(8))
def test_staged_values_outlive_a_database_with_damaged_pages(path: Path, seed: int) -> None:
    """Each large value is under its key still, or in lost+found; nothing else is taken for it."""
    chance = random.Random(seed)
    database = path / "cache.db"
    size = database.stat().st_size
    with database.open("r+b") as file:
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(0 if seed % 5 == 0 else 4096, size - 512)
            file.seek(at)
            file.write(chance.randbytes(chance.randrange(1, 2048)))
    wrong = [each.kind for each in examine(path) if each.severity == "error"]
    repair(path)
    left, found = staged(path), lost(path)
    for key in ("staged/large", "staged/other"):
        assert left.get(key) == STAGED[key] or STAGED[key] in found, (key, wrong)
    for key, data in left.items():
        # What could be read is what was staged, or is told of.
        assert data in (STAGED.get(key), b"x") or isinstance(data, str), key
    remaining = [each for each in examine(path) if each.severity != "note"]
    assert [each for each in remaining if each.kind != "staged bytes"] == []


@pytest.mark.parametrize("left", [0.9, 0.5, 0.2, 0.0])
def test_database_that_was_cut_off_gives_back_what_is_left_of_it(path: Path, left: float) -> None:
    database = path / "cache.db"
    os.truncate(database, int(database.stat().st_size * left))
    assert [each.kind for each in examine(path)] == ["database"]
    repair(path)
    kept = staged(path)
    expected = {**STAGED, "theirs": b"x"}
    assert all(expected[key] == data for key, data in kept.items())
    for key in ("staged/large", "staged/other"):
        assert key in kept or STAGED[key] in lost(path)
    assert [each for each in examine(path) if each.severity != "note"] == []


def test_log_that_was_deleted_takes_the_last_commits_along_and_no_others(path: Path) -> None:
    script = (
        "import io, os, sys\n"
        "from mountcache import DiskCacheStore\n"
        "store = DiskCacheStore(sys.argv[1])\n"
        "store.set('late', (io.BytesIO(b'late' * 20000), {}))\n"
        "store.delete('staged/large')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (path / "cache.db-wal").unlink()
    (path / "cache.db-shm").unlink(missing_ok=True)
    told = repair(path)
    kept = staged(path)
    # The file of a value that was deleted in the log has gone with it, and that is told.
    missing = {each.key for each in told if each.kind == "staged bytes"}
    assert missing == {"staged/large"}
    assert {key: kept[key] for key in kept if key not in missing} == {
        "theirs": b"x", "staged/small": SMALL, "staged/other": LARGE[::-1]
    }  # fmt: skip
    assert "late" not in kept


def test_repair_that_was_killed_is_ended_by_the_next(path: Path) -> None:
    sql("DROP TRIGGER staged_bytes_stay")(path)
    killed = 0
    for call in range(1, 9):
        trial = path.with_name(f"trial{call}")
        shutil.copytree(path, trial)
        script = (
            "import os, shutil, sys\n"
            "from mountcache.local.doctor import repair\n"
            "left = [int(sys.argv[2])]\n"
            "def dying(call):\n"
            "    def wrapped(*args, **options):\n"
            "        left[0] -= 1\n"
            "        if not left[0]: os.kill(os.getpid(), 9)\n"
            "        return call(*args, **options)\n"
            "    return wrapped\n"
            "for name in ('rename', 'unlink'): setattr(os, name, dying(getattr(os, name)))\n"
            "shutil.rmtree = dying(shutil.rmtree)\n"
            "repair(sys.argv[1])\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(trial), str(call)], check=False)
        killed += done.returncode == -9
        repair(trial)
        assert staged(trial) == {**STAGED, "theirs": b"x"}, call
        assert list(examine(trial)) == []
        assert list(trial.glob("damaged-*/cache.db"))
        assert not list(trial.glob("mend*"))
    assert killed >= 5


def test_who_opens_the_store_in_a_repair_waits_and_sees_the_new_database(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it commits would go with the old one."""
    sql("DROP TRIGGER staged_bytes_stay")(path)
    opening: list[Future[None]] = []

    def rebuild(where: Path) -> list[salvage.Salvaged]:
        opening.append(pool.submit(local.connect))
        with pytest.raises(FutureTimeoutError):
            opening[0].result(0.5)
        return salvage.rebuild(where)

    monkeypatch.setattr(doctor, "rebuild", rebuild)
    local = DiskCacheStore(path)
    with ThreadPoolExecutor(1) as pool:
        repair(path)
        opening[0].result(10)
    with local:
        put(MountedStore("", local, origin()), "staged/later", b"later")
    assert staged(path) == {**STAGED, "theirs": b"x", "staged/later": b"later"}


def test_who_has_begun_to_open_the_store_keeps_a_repair_from_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = Event(), Event()

    class Slow(FileLock):
        def is_held(self) -> bool:
            begun.set()
            assert go_on.wait(10)
            return super().is_held()

    monkeypatch.setattr(diskcontent, "FileLock", Slow)
    local = DiskCacheStore(path)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(local.exists, "staged/small")
        assert begun.wait(10)
        with pytest.raises(DirectoryError, match="1 other process has"):
            repair(path)
        go_on.set()
        assert opening.result(10)
    local.disconnect()


def test_database_that_is_only_locked_or_unreadable_is_not_made_anew(path: Path) -> None:
    with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as con:
        con.execute("PRAGMA locking_mode = EXCLUSIVE")
        con.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusyError, match="locked"):
            repair(path)
        con.execute("ROLLBACK")
    assert not list(path.glob("damaged-*"))
    assert repair(path) == []


def test_row_of_bytes_whose_file_is_gone_and_that_nothing_names_is_let_go(path: Path) -> None:
    name = f"00/{'0' * 32}-100.val"
    sql(
        "INSERT INTO Cache (key, raw, mode, filename, size)"
        f" VALUES ('{'0' * 32}-100', 1, 2, '{name}', 4)"
    )(path)
    assert [each.kind for each in repair(path)] == ["nameless bytes"]
    assert list(examine(path)) == []


def test_staged_row_that_has_no_place_is_kept_with_its_bytes_in_one_folder(path: Path) -> None:
    sql(
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE edit SET kind = 'odd' WHERE key = 'staged/large'",
        "DROP TRIGGER staged_bytes_stay",
    )(path)
    repair(path)
    assert staged(path) == {
        "theirs": b"x", "staged/small": SMALL, "staged/other": LARGE[::-1]
    }  # fmt: skip
    (told,) = (path / "lost+found").glob("*/0*/metadata.json")
    assert json.loads(told.read_text())["key"] == "staged/large"
    assert (told.parent / "large").read_bytes() == LARGE
    assert not list((path / "lost+found").glob("*/nameless"))


@pytest.mark.parametrize("name", ["cache.db", "3f", "live", "push.lock"])
def test_link_in_the_place_of_something_of_ours_is_found_and_not_followed(
    path: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (path / name).exists():
        (path / name).rename(elsewhere)
    (path / name).symlink_to(elsewhere)
    before = state_of(path)
    (found,) = examine(path)
    assert (found.kind, found.severity) == ("stranger", "error")
    assert name in found.what and "symbolic link" in found.what
    assert repair(path) == [found]
    assert state_of(path) == before


def test_directory_on_another_machine_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "file_system_of", lambda path: "nfs4")
    (found,) = examine(path)
    assert (found.kind, found.severity) == ("place", "error")
    assert "nfs4" in found.what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_file_of_another_user_is_told_of(path: Path) -> None:
    os.chown(path / "cache.db", 12345, -1)
    (found,) = examine(path)
    assert (found.kind, found.file) == ("owner", "cache.db")
    assert "12345" in found.what


def test_repair_needs_the_store_for_itself(path: Path) -> None:
    with (
        DiskCacheStore(path) as store,
        pytest.raises(DirectoryError, match="1 other process has"),
    ):
        store.exists("k")
        repair(path)


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path) -> None:
    for call in (lambda path: list(examine(path)), repair):
        with pytest.raises(DirectoryError, match="no directory"):
            call(tmp_path / "nowhere")
        with pytest.raises(DirectoryError, match="no store"):
            call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_store_of_a_group_stays_the_groups(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "s", shared="group") as store:
        put(store, "k", LARGE)
    sql("DROP TRIGGER staged_bytes_stay")(tmp_path / "s")
    repair(tmp_path / "s")
    assert stat.S_IMODE((tmp_path / "s" / "cache.db").stat().st_mode) == 0o660
    assert [each for each in examine(tmp_path / "s") if isinstance(each, Finding)] == []
