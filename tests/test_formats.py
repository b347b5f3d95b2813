"""Formats: what a process does whose store becomes newer, and how a store becomes newer."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from mountcache import DiskCacheStore
from mountcache.errors import DirectoryError
from mountcache.local import rights
from mountcache.local.doctor import examine, repair
from mountcache.local.migrating import MIGRATIONS, migrate
from mountcache.local.schema import FORMAT
from tests.command import Shell
from tests.local_parts import LARGE, SMALL, Running, script

_MIGRATING = """
    import sys
    from mountcache.local import migrating
    migrating.living = lambda live: 0  # a later version that doesn't look who is there
    def step(con):
        con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
    print(migrating.migrate(sys.argv[1], migrations=(*migrating.MIGRATIONS, step)))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with DiskCacheStore(tmp_path / "store") as store:
        store.from_bytes("small", SMALL)
        store.from_bytes("large", LARGE)
    return tmp_path / "store"


def format_of(path: Path) -> int:
    with closing(sqlite3.connect(path / "cache.db")) as con:
        found: int = con.execute("PRAGMA user_version").fetchone()[0]
        return found


_OPEN = """
    import io, sys
    from mountcache import DiskCacheStore, MemoryStore, MountedStore
    from mountcache.errors import DirectoryError
    local = DiskCacheStore(sys.argv[1])
    store = MountedStore("", local, MemoryStore())
    acts = {
        "warm": lambda: store.to_bytes("small"),
        "large": lambda: store.to_bytes("large"),
        "metadata": lambda: store.get_metadata("small"),
        "bare": lambda: local.to_bytes("small"),
        "exists": lambda: store.exists("small"),
        "keys": lambda: list(store.query_keys()),
        "staged": lambda: list(store.staged()),
        "records": lambda: list(local.records()),
        "set": lambda: store.set("new", (io.BytesIO(b"1"), {})),
        "batch": lambda: store.set_metadata("small", {"a": 1}),
        "delete": lambda: store.delete("small"),
        "gc": lambda: local.catalog.content.write().__enter__(),
    }
    for _ in range(3):
        store.to_bytes("small"), store.to_bytes("large"), list(store.query_keys())
    print("ready", flush=True)
    sys.stdin.readline()
    for name, act in acts.items():
        try:
            said = repr(act())
        except DirectoryError as error:
            said = str(error)
        print(name, said, flush=True)
    print("", flush=True)
"""


def test_process_that_has_a_store_open_refuses_it_once_it_is_of_a_newer_format(path: Path) -> None:
    with Running(_OPEN, path) as other:
        assert other.hear() == "ready"
        assert script(_MIGRATING, path) == f"({FORMAT}, {FORMAT + 1})\n"
        other.say()
        said = {}
        while line := other.hear():
            name, _, said[name] = line.partition(" ")
    assert len(said) == 12
    refused = (
        f"the store in {path} is of format {FORMAT + 1}, made by a later version of mountcache; "
        f"this one reads format {FORMAT}: upgrade mountcache"
    )
    assert said == dict.fromkeys(said, refused)
    with closing(sqlite3.connect(path / "cache.db")) as con:
        assert con.execute("SELECT key FROM edit ORDER BY key").fetchall() == [
            ("large",), ("small",),
        ]  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of format 1."""
    with tarfile.open(Path(__file__).parent / "samples" / "format1.tar.gz") as archive:
        (tmp_path / "old").mkdir(0o700)
        archive.extractall(tmp_path / "old", filter="fully_trusted")
    return tmp_path / "old"


def _edits(path: Path) -> list[str]:
    with closing(sqlite3.connect(path / "cache.db")) as con:
        return [key for (key,) in con.execute("SELECT key FROM edit ORDER BY key")]


def test_older_format_is_brought_to_the_newest_by_who_opens_it(old: Path) -> None:
    before = _edits(old)
    with DiskCacheStore(old, min_free=0) as store:
        assert store.to_bytes("new") == b"new"
    assert (format_of(old), _edits(old)) == (FORMAT, before)


def test_several_who_open_an_older_format_at_once_bring_it_up_once(old: Path) -> None:
    opens = """
        import sys
        from mountcache import DiskCacheStore
        sys.stdin.readline()
        with DiskCacheStore(sys.argv[1], min_free=0) as store:
            print(store.to_bytes("new"), flush=True)
            sys.stdin.readline()
    """
    with Running(opens, old) as one, Running(opens, old) as other:
        one.say()
        other.say()
        assert [one.hear(), other.hear()] == ["b'new'"] * 2
        one.say()
        other.say()
    assert format_of(old) == FORMAT


def test_older_format_that_somebody_has_open_is_left_to_them(old: Path) -> None:
    stays = "import sys; from mountcache.local.liveness import Liveness; from pathlib import Path"
    stays += "; l = Liveness(Path(sys.argv[1]) / 'live'); print('here', flush=True)"
    stays += "; sys.stdin.readline()"
    with Running(stays, old) as other:
        assert other.hear() == "here"
        with pytest.raises(DirectoryError, match=r"of format 1; end them: it is brought to"):
            DiskCacheStore(old, min_free=0).connect()
        other.say()
    assert format_of(old) == 1


def test_older_format_that_a_group_shares_is_migrated_when_somebody_says_so(old: Path) -> None:
    rights.set_rights(old, rights.GROUP)
    with pytest.raises(DirectoryError, match=r"a group shares, is of format 1: `mountcache mig"):
        DiskCacheStore(old, min_free=0).connect()
    assert format_of(old) == 1
    assert migrate(old) == (1, FORMAT)
    with DiskCacheStore(old, min_free=0) as store:
        assert store.to_bytes("new") == b"new"


def test_database_of_an_older_format_that_is_damaged_gives_its_edits_back(old: Path) -> None:
    assert [each for each in examine(old) if each.severity == "error"] == []
    before = _edits(old)
    with closing(sqlite3.connect(old / "cache.db")) as con, con:
        con.execute("DROP INDEX edit_grp")
    assert any("has lost" in each.what for each in examine(old))
    repair(old)
    assert _edits(old) == before
    assert format_of(old) == FORMAT


def test_store_in_use_isnt_migrated(path: Path) -> None:
    with (
        DiskCacheStore(path) as store,
        pytest.raises(DirectoryError, match=r"others have the store in .* open, .* end them"),
    ):
        store.connect()
        migrate(path, migrations=(*MIGRATIONS, lambda con: None))
    assert format_of(path) == FORMAT


def test_migration_is_tried_and_done(path: Path) -> None:
    def step(con: sqlite3.Connection) -> None:
        con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
        con.execute("UPDATE edit SET mood = 'good'")

    later = (*MIGRATIONS, step)
    assert migrate(path, dry_run=True, migrations=later) == (FORMAT, FORMAT + 1)
    assert format_of(path) == FORMAT
    with DiskCacheStore(path) as store:
        assert store.to_bytes("large") == LARGE
    assert migrate(path, migrations=later) == (FORMAT, FORMAT + 1)
    assert migrate(path, migrations=later) == (FORMAT + 1, FORMAT + 1)
    with closing(sqlite3.connect(path / "cache.db")) as con:
        assert con.execute("SELECT DISTINCT mood FROM edit").fetchall() == [("good",)]
    with pytest.raises(DirectoryError, match=f"of format {FORMAT + 1}, made by a later version"):
        migrate(path)


def test_migration_that_is_killed_or_fails_leaves_the_old_format(path: Path) -> None:
    with pytest.raises(AssertionError):
        script(
            """
            import os, signal, sys
            from mountcache.local.migrating import MIGRATIONS, migrate
            def step(con):
                con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
                con.execute("UPDATE edit SET mood = 'good'")
                con.execute("PRAGMA cache_spill = 1")
                os.kill(os.getpid(), signal.SIGKILL)
            migrate(sys.argv[1], migrations=(*MIGRATIONS, step))
            """,
            path,
        )

    def fails(con: sqlite3.Connection) -> None:
        con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        migrate(path, migrations=(*MIGRATIONS, fails))
    assert format_of(path) == FORMAT
    with DiskCacheStore(path) as store:
        assert store.to_bytes("small") == SMALL
        store.from_bytes("new", SMALL)


def test_command_says_that_there_is_nothing_to_migrate(path: Path) -> None:
    (path.parent / "mountcache.toml").write_text(f'url = "http://127.0.0.1:9/"\ndir = "{path}"\n')
    run = Shell(path.parent)
    for options in ([], ["--dry-run"]):
        ended = run("migrate", *options)
        assert (ended.code, ended.err) == (0, "")
        assert ended.text == f"{path} is of format {FORMAT}, the newest\n"
    with closing(sqlite3.connect(path / "cache.db")) as con:
        con.execute(f"PRAGMA user_version = {FORMAT + 1}")
    ended = run("migrate")
    assert (ended.code, ended.text) == (3, "")
    assert "upgrade mountcache" in ended.err
