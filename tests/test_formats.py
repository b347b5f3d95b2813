"""Formats: what a process does whose store becomes newer, and how a store becomes newer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mountcache import DiskCacheStore
from mountcache.errors import DirectoryError
from mountcache.local.migrating import migrate
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


def test_store_in_use_isnt_migrated(path: Path) -> None:
    with (
        DiskCacheStore(path) as store,
        pytest.raises(DirectoryError, match=r"others have the store in .* open; end them"),
    ):
        store.connect()
        migrate(path, migrations=(lambda con: None,))
    assert format_of(path) == 1


def test_migration_is_tried_and_done(path: Path) -> None:
    def step(con: sqlite3.Connection) -> None:
        con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
        con.execute("UPDATE edit SET mood = 'good'")

    assert migrate(path, dry_run=True, migrations=(step,)) == (1, 2)
    assert format_of(path) == 1
    with DiskCacheStore(path) as store:
        assert store.to_bytes("large") == LARGE
    assert migrate(path, migrations=(step,)) == (1, 2)
    assert migrate(path, migrations=(step,)) == (2, 2)
    with closing(sqlite3.connect(path / "cache.db")) as con:
        assert con.execute("SELECT DISTINCT mood FROM edit").fetchall() == [("good",)]
    with pytest.raises(DirectoryError, match="of format 2, made by a later version"):
        migrate(path)


def test_migration_that_is_killed_or_fails_leaves_the_old_format(path: Path) -> None:
    with pytest.raises(AssertionError):
        script(
            """
            import os, signal, sys
            from mountcache.local.migrating import migrate
            def step(con):
                con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
                con.execute("UPDATE edit SET mood = 'good'")
                con.execute("PRAGMA cache_spill = 1")
                os.kill(os.getpid(), signal.SIGKILL)
            migrate(sys.argv[1], migrations=(step,))
            """,
            path,
        )

    def fails(con: sqlite3.Connection) -> None:
        con.execute("ALTER TABLE edit ADD COLUMN mood TEXT")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        migrate(path, migrations=(fails,))
    assert format_of(path) == 1
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
