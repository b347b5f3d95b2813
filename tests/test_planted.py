"""A directory into which somebody else has written: nothing is run, followed out of it, or hung on.

The test's own threat: whoever can write into the directory, but isn't its user. Each row and file
here is one that such a one could leave.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import diskcache
import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import DirectoryError, StoreError
from mountcache.local import partial as partials
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from tests.local_parts import LARGE
from tests.upstreams import put

SMALL = b"a small value"


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What is there once a pickle was loaded."""
    mark = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.is_dir(), "the bomb works"
    mark.rmdir()
    yield mark
    assert not mark.exists(), "a pickle was loaded"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the store, in which nothing may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"the secret" * 10_000)
    (folder / "secret").chmod(0o644)
    before = seen(folder)
    yield folder
    assert seen(folder) == before


def seen(folder: Path) -> dict[str, Any]:
    return {
        path.name: (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.iterdir()
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with values of both kinds, an incomplete download and something to undo."""
    path = tmp_path / "store"
    with DiskCacheStore(path) as made, made.transaction("fill"):
        put(made, "small", SMALL, a=1)
        made.set("large", (io.BytesIO(LARGE), {"a": 1}))
        made.set("other", (io.BytesIO(LARGE[::-1]), {}))
    with DiskCacheStore(path) as made:
        content = made.catalog.content
        part = partials.create(content, 3_000_000)
        partials.register(content, "part", "v1", part)
        part.close()
    return path


def rows(path: Path, *statements: str, **values: object) -> None:
    with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as con:
        con.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            con.execute(statement, values)


def without_guards(path: Path) -> None:
    """Take the triggers away that keep staged bytes, for a while."""
    rows(path, "DROP TRIGGER staged_bytes_are_final", "DROP TRIGGER staged_bytes_stay")


def use(path: Path) -> list[BaseException]:
    """Do all that a store can be asked for; return what it raised."""
    raised: list[BaseException] = []

    def tried(work: Callable[[], object]) -> None:
        try:
            work()
        except (StoreError, KeyError) as error:
            raised.append(error)

    store = DiskCacheStore(path, durability="normal")
    tried(store.connect)
    if not store.is_connected():
        return raised
    content = store.catalog.content
    tried(lambda: [list(store.query()), list(store.query(a=1)), list(store.glob("*"))])
    for key in ("small", "large", "other", "part"):
        tried(lambda key=key: store.get_data(key).read())  # type: ignore[misc]
        tried(lambda key=key: store.get_metadata(key))  # type: ignore[misc]
        tried(lambda key=key: store.update_metadata(key, {"b": 2}))  # type: ignore[misc]
        tried(lambda key=key: put(store, key, LARGE))  # type: ignore[misc]
        tried(lambda key=key: store.delete(key))  # type: ignore[misc]
    tried(lambda: partials.find(content, "part", "v1", 3_000_000))
    tried(lambda: partials.drop_idle(content))
    tried(content.gc)
    tried(lambda: put(store, "new", LARGE))
    tried(lambda: list(store.catalog.edits()))
    tried(store.catalog.ops)
    # Not our own way to look values up, but diskcache's on our connection.
    cache = content.cache  # type: ignore[attr-defined]
    for key in ("small", "evil"):
        tried(lambda key=key: cache.get(key))  # type: ignore[misc]
    tried(lambda: [*cache, *reversed(cache)])
    tried(lambda: cache.peekitem())
    tried(store.disconnect)
    return raised


# -- pickles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        "UPDATE Cache SET mode = 4, value = :pickle",
        "UPDATE Cache SET mode = 4, value = NULL WHERE filename IS NOT NULL",
        "UPDATE Cache SET mode = 3",
        "UPDATE Cache SET raw = 0, key = CAST(:pickle || rowid AS BLOB)",
        "INSERT INTO Cache (key, raw, mode, value) VALUES (:pickle, 0, 4, :pickle)",
        "INSERT INTO Cache (key, raw, mode, value, tag) VALUES ('evil', 1, 4, :pickle, :pickle)",
        "UPDATE Cache SET tag = :pickle, expire_time = :pickle",
        "UPDATE edit SET meta = :pickle, author = :pickle, notes = :pickle",
        "UPDATE state SET value = :pickle",
        "INSERT OR REPLACE INTO Settings VALUES ('disk_class', :pickle)",
        "UPDATE Settings SET value = :pickle",
        "UPDATE Settings SET value = :pickle WHERE key = 'disk_pickle_protocol'",
    ],
)
def test_no_pickle_is_loaded(store: Path, mark: Path, row: str) -> None:
    bomb = pickle.dumps(Bomb(mark))
    for path in store.glob("*/*.val"):
        path.write_bytes(bomb)
    without_guards(store)
    rows(store, row, pickle=bomb)
    use(store)


def test_the_bombs_of_a_plain_diskcache_stay_unloaded(store: Path, mark: Path) -> None:
    with diskcache.Cache(str(store)) as stranger:
        stranger[("a", "tuple")] = Bomb(mark)
        stranger.set("evil", Bomb(mark), tag=b"tag")
    assert not mark.exists()
    use(store)


def test_the_room_for_stores_has_no_pickle() -> None:
    """diskcache's Disk is the only way to one; ours overrides each of its methods that load."""
    loading = {
        name
        for name, method in vars(diskcache.Disk).items()
        if "pickle" in getattr(getattr(method, "__code__", None), "co_names", ())
    }
    from mountcache.local.cache import StoreDisk

    assert loading, "diskcache has another shape"
    assert loading <= {"put", "get", "store", "fetch"}
    assert loading <= set(vars(StoreDisk))


# -- rows ------------------------------------------------------------------------------------

ODD = {
    "blob": b"\xff\x00",
    "number": 7,
    "real": 1e308,
    "nothing": None,
    "text": "no such thing",
    "deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "long": '{"a": "' + "x" * 2_000_000 + '"}',
}


def columns() -> list[tuple[str, str]]:
    from mountcache.local import schema

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as con:
        con.execute("CREATE TABLE Cache (key)")
        schema.create(con)
        return [
            (table, column)
            for (table,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (column,) in con.execute("SELECT name FROM pragma_table_info(?)", (table,))
        ]


def test_odd_rows_are_told_in_a_sentence(store: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(store, before)
    told = 0
    for (table, column), kind in zip(columns(), cycle(ODD), strict=False):
        for path in [*store.glob("cache.db*"), *store.glob("partial/*")]:
            path.unlink()
        for path in [*before.glob("*.*"), *before.glob("*/*-*")]:
            shutil.copy(path, store / path.relative_to(before))
        with suppress(sqlite3.IntegrityError):
            rows(store, f"UPDATE {table} SET {column} = :odd", odd=ODD[kind])
        # Anything but errors of ours comes out of here.
        told += len(use(store))
    assert told


def restored(store: Path, before: Path) -> None:
    for path in store.glob("cache.db*"):
        path.unlink()
    for path in [*before.glob("cache.db*"), *before.glob("*/*.val")]:
        shutil.copy(path, store / path.relative_to(before))


@pytest.mark.parametrize("kind", ["blob", "text"])
def test_odd_rows_under_a_mount_are_told_in_a_sentence(tmp_path: Path, kind: str) -> None:
    """Copies, what is known of upstream, and what can be had back; upstream is there."""
    path, before = tmp_path / "store", tmp_path / "before"

    def mount(origin: Origin) -> MountedStore:
        backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        return MountedStore("", DiskCacheStore(path, min_free=0, durability="normal"), backing)

    with MemoryStore() as upstream, Origin(upstream) as origin:
        for key in "abc":
            put(upstream, key, SMALL if key == "b" else LARGE, n=1)
        with mount(origin) as filled:
            list(filled.query())
            for key in "abc":
                filled.to_bytes(key)
            put(filled, "b", b"edit")
            filled.delete("c")
            put(filled, "gone", b"reverted")
            filled.revert("gone")
        shutil.copytree(path, before)
        told = 0
        for table, column in columns():
            if table not in ("copy", "upstream", "undo", "op"):
                continue
            restored(path, before)
            with suppress(sqlite3.IntegrityError):
                rows(path, f"UPDATE {table} SET {column} = :odd", odd=ODD[kind])
            store = mount(origin)
            for work in (
                store.connect,
                *(partial(store.to_bytes, key) for key in "abc"),
                lambda store=store: list(store.query(n=1)),
                lambda store=store: sync.status(store),
                lambda store=store: put(store, "b", b"edited again"),
                lambda store=store: store.update_metadata("a", {"z": 1}),
                lambda store=store: store.revert("c"),
                store.disconnect,
            ):
                try:
                    work()
                except (StoreError, KeyError):
                    told += 1
    assert told


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "OUTSIDE/secret",
        "aa/../../outside/secret",
        "aa/" + "0" * 32 + "-aa.val\n",
        "aa/\0",
        "",
        ".",
        b"../outside/secret",
        7,
    ],
)
def test_names_in_rows_lead_nowhere_else(store: Path, outside: Path, name: object) -> None:
    if isinstance(name, str):
        name = name.replace("OUTSIDE", str(outside))
    without_guards(store)
    rows(
        store,
        "UPDATE Cache SET filename = :name, mode = 2",
        "UPDATE partial SET name = :name, size = 100000",
        name=name,
    )
    assert any("mountcache doesn't write" in str(error) for error in use(store))


def test_a_part_that_claims_to_be_huge_takes_no_memory(store: Path) -> None:
    rows(store, "UPDATE partial SET size = :size", size=2**62)
    with DiskCacheStore(store) as opened:
        assert partials.drop_idle(opened.catalog.content)


# -- files -----------------------------------------------------------------------------------


def replaced(path: Path, kind: str, outside: Path) -> None:
    """Put something else where a file or a folder of the store is."""
    was_folder = path.is_dir()
    shutil.rmtree(path) if was_folder else path.unlink(missing_ok=True)
    target = outside if was_folder else outside / "secret"
    match kind:
        case "symlink":
            path.symlink_to(target)
        case "dangling":
            path.symlink_to(outside / "nothing")
        case "hardlink":
            os.link(target, path)
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        case "folder":
            path.mkdir()


def one(store: Path, pattern: str) -> Path:
    return next(iter(sorted(store.glob(pattern))))


FILES: dict[str, Callable[[Path], Path]] = {
    "value": lambda store: one(store, "*/*.val"),
    "part": lambda store: one(store, "partial/*"),
    "database": lambda store: store / "cache.db",
    "log": lambda store: store / "cache.db-wal",
    "shared memory": lambda store: store / "cache.db-shm",
    "journal": lambda store: store / "cache.db-journal",
    "lock": lambda store: store / "open.lock",
    "push lock": lambda store: store / "push.lock",
    "life": lambda store: store / "live" / ("0" * 32),
}


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo", "device", "socket"])
@pytest.mark.parametrize("file", FILES)
def test_what_stands_in_for_a_file_isnt_used(
    store: Path, outside: Path, file: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)  # a socket's name is short
    path = FILES[file](Path("store"))
    replaced(path, kind, outside)
    errors = use(store)
    assert any(path.name in str(error) and "isn't used" in str(error) for error in errors), errors


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "folder"])
@pytest.mark.parametrize("room", ["tmp", "live", "partial", "ROOM"])
def test_what_stands_in_for_a_folder_isnt_used(
    store: Path, outside: Path, room: str, kind: str
) -> None:
    path = one(store, "*/*.val").parent if room == "ROOM" else store / room
    replaced(path, kind, outside)
    errors = use(store)
    # An empty folder is one whose files are missing.
    assert kind == "folder" or f"{path} is " in str(errors[0])


@pytest.mark.parametrize("at", ["value", "part"])
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
def test_what_comes_while_a_store_is_open_isnt_used_either(
    store: Path, outside: Path, at: str, kind: str
) -> None:
    with DiskCacheStore(store) as opened:
        content = opened.catalog.content
        replaced(FILES[at](store), kind, outside)
        errors = []
        for work in (
            lambda: opened.get_data("large").read(),
            lambda: opened.get_data("other").read(),
            lambda: partials.find(content, "part", "v1", 3_000_000),
        ):
            try:
                work()
            except StoreError as error:
                errors.append(str(error))
        assert [error for error in errors if "isn't used" in error]


def test_a_value_that_is_lent_can_be_read(store: Path) -> None:
    """Its second name is in ``tmp/``, and no link that somebody planted."""
    with DiskCacheStore(store) as opened:
        path = one(store, "*/*.val")
        os.link(path, store / "tmp" / "lent")
        assert opened.get_data("large").read() == LARGE
        os.link(path, store.parent / "elsewhere")
        with pytest.raises(DirectoryError, match="hard link"):
            for key in ("large", "other"):
                opened.get_data(key).read()


# -- what runs with our statements -----------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON edit BEGIN SELECT load_extension('evil.so'); END",
        "CREATE TRIGGER evil AFTER UPDATE ON state BEGIN DELETE FROM edit; END",
        "CREATE TRIGGER edit_counts_in AFTER INSERT ON copy BEGIN DELETE FROM edit; END",
        "CREATE VIEW evil AS SELECT load_extension('evil.so')",
        "CREATE TABLE evil (a DEFAULT (randomblob(1000000000)))",
        "CREATE VIRTUAL TABLE evil USING fts5(a)",
        "CREATE INDEX evil ON edit (json_extract(meta, '$.a'))",
        "CREATE VIRTUAL TABLE sqlite_stat1 USING fts5(a)",
        "CREATE VIEW edit AS SELECT 1",
        "CREATE VIEW Settings AS SELECT 'disk_class' AS key, 'os.system' AS value",
    ],
)
def test_what_would_run_with_our_statements_is_refused(store: Path, statement: str) -> None:
    for name in ("edit", "Settings", "edit_counts_in"):
        for kind in ("TABLE", "TRIGGER"):
            if f"{kind} {name} " in statement.replace("VIEW", "TABLE"):
                rows(store, f"DROP {kind} {name}")
    if "sqlite_stat1" in statement:
        row = "INSERT INTO sqlite_master VALUES ('table', 'sqlite_stat1', 'sqlite_stat1', 0, :sql)"
        rows(store, row, sql=statement)
    else:
        rows(store, statement)
    with pytest.raises(DirectoryError, match=r"tampered with|damaged") as caught:
        DiskCacheStore(store).connect()
    assert str(store) in str(caught.value)


def test_what_analyze_and_a_plain_diskcache_leave_is_no_harm(store: Path) -> None:
    with diskcache.Cache(str(store), eviction_policy="least-frequently-used") as stranger:
        stranger.create_tag_index()
        stranger.set("theirs", b"bytes")
    rows(store, "ANALYZE")
    with DiskCacheStore(store) as opened:
        assert opened.get_data("small").read() == SMALL


def test_no_statement_trusts_the_schema(store: Path) -> None:
    with DiskCacheStore(store) as opened:
        con = opened.catalog.content.connection()
        assert con.execute("PRAGMA trusted_schema").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            con.execute("SELECT load_extension('evil.so')")


# -- rights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o022])
def test_nothing_in_it_is_anybody_elses_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = tmp_path / "store"
        with DiskCacheStore(path) as made:
            put(made, "small", SMALL)
            made.set("large", (io.BytesIO(LARGE), {}))
            content = made.catalog.content
            part = partials.create(content, 3_000_000)
            partials.register(content, "part", "v1", part)
            lock = content.lock("push")
            assert lock.acquire(1)
            with made.local_path("large") as lent:
                assert stat.S_IMODE(lent.stat().st_mode) == 0o400
            spool = content.spool()
            spool.write(LARGE)  # under way
            modes = {
                (path.is_dir(), oct(stat.S_IMODE(path.stat().st_mode)))
                for path in [path, *path.rglob("*")]
            }
            spool.discard()
            part.close()
            lock.release()
    finally:
        os.umask(before)
    assert modes == {(True, "0o700"), (False, "0o600")}
