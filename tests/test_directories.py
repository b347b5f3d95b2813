"""Directories: which become a store, which are refused and how, and who may read them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from mountcache.errors import DirectoryError
from mountcache.local import cache, directory, schema
from mountcache.local.content import Content
from mountcache.local.disk import DiskCacheStore
from mountcache.local.diskcontent import DiskContent, Durability
from tests.local_parts import LARGE, ROOT, Running, script


def made(path: Path) -> Path:
    """Make a store with a value in it."""
    with DiskCacheStore(path) as store:
        store.set("key", (io.BytesIO(LARGE), {"a": 1}))
    return path


def value_of(path: Path) -> bytes:
    with DiskCacheStore(path) as store:
        return store.get_data("key").read()


def refusal(path: Path) -> str:
    with pytest.raises(DirectoryError) as caught:
        DiskCacheStore(path).connect()
    return str(caught.value)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return made(tmp_path / "store")


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as con:
        for statement in statements:
            con.execute(statement)


# -- what becomes a store --------------------------------------------------------------------


def test_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    path = made(tmp_path / "some" / "where" / "store")
    assert value_of(path) == LARGE
    rooms = {entry.name for entry in path.iterdir() if entry.is_dir()}
    assert rooms == {f"{number:02x}" for number in range(256)} | {"live", "partial", "tmp"}


def test_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lost+found").mkdir()
    assert value_of(made(tmp_path / "empty")) == LARGE


@pytest.mark.parametrize(
    "name", ["$HOME", "${PATH}x", "~", "~root", "a b", "a?b=c#d", "100%25", "ü", "a'b\"c", "\udcff"]
)
def test_name_of_a_directory_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    path = made(tmp_path / name)
    assert (path / "cache.db").is_file()
    assert value_of(path) == LARGE
    assert os.listdir(tmp_path) == [name]


def test_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with DiskCacheStore("~/store") as store:
        store.set("key", (io.BytesIO(LARGE), {}))
    assert value_of(tmp_path / "store") == LARGE


def test_relative_directory_stays_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DiskCacheStore("store")
    monkeypatch.chdir("/")
    with store:
        store.set("key", (io.BytesIO(LARGE), {}))
    assert value_of(tmp_path / "store") == LARGE


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_nobody_else_can_read_it_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    script(
        """
        import os, sys
        os.umask(int(sys.argv[2]))
        from mountcache.local.diskcontent import DiskContent
        from tests.local_parts import LARGE, keep, ready
        content = DiskContent(sys.argv[1])
        ready(content)
        keep(content, LARGE)
        unfinished = content.spool()
        unfinished.write(LARGE)
        content.lock("push").acquire(0)
        for folder, folders, files in os.walk(sys.argv[1]):
            assert os.stat(folder).st_mode & 0o777 == 0o700, folder
            for name in files:
                mode = os.stat(os.path.join(folder, name)).st_mode & 0o777
                assert mode == 0o600, (name, oct(mode))
        """,
        tmp_path / "store",
        umask,
    )


def test_many_processes_may_make_one_store_at_once(tmp_path: Path) -> None:
    making = """
        import sys
        from mountcache.local.diskcontent import DiskContent
        print("ready", flush=True)
        sys.stdin.readline()
        content = DiskContent(sys.argv[1])
        print(content.incarnation, content.token, flush=True)
        sys.stdin.readline()
    """
    others = [Running(making, tmp_path / "store") for _ in range(4)]
    for other in others:
        assert other.hear() == "ready"
    for other in others:
        other.say()
    said = [other.hear().split() for other in others]
    assert len({incarnation for incarnation, _ in said}) == 1
    assert {token for _, token in said} == set(os.listdir(tmp_path / "store" / "live"))
    for other in others:
        other.__exit__()


# -- opened again ----------------------------------------------------------------------------


def test_opening_again_writes_nothing(store: Path) -> None:
    before = (store / "cache.db").read_bytes()
    with closing(sqlite3.connect(store / "cache.db")) as watching:
        watching.execute("SELECT * FROM Settings").fetchall()
        version = watching.execute("PRAGMA data_version").fetchone()
        with DiskCacheStore(store) as again:
            assert again.get_data("key").read() == LARGE
            assert (store / "cache.db-wal").stat().st_size == 0
        assert watching.execute("PRAGMA data_version").fetchone() == version
    assert (store / "cache.db").read_bytes() == before


def test_opening_waits_for_no_writer(store: Path) -> None:
    with closing(sqlite3.connect(store / "cache.db", isolation_level=None)) as con:
        con.execute("BEGIN IMMEDIATE")
        assert value_of(store) == LARGE
        con.execute("ROLLBACK")


def test_settings_that_a_stranger_changed_are_ours_again(store: Path) -> None:
    with diskcache.Cache(
        store, eviction_policy="least-recently-used", size_limit=1e6, cull_limit=10
    ):
        pass
    DiskContent(store).close()
    with closing(sqlite3.connect(store / "cache.db")) as con:
        found = dict(con.execute("SELECT key, value FROM Settings"))
    assert {name: found[name] for name in cache.SETTINGS} == cache.SETTINGS


def _synchronous(content: Content, **how: bool) -> int:
    with content.write(**how) as con:
        level: int = con.execute("PRAGMA synchronous").fetchone()[0]
        return level


def test_durability_is_each_openers_own(store: Path) -> None:
    for durability, synchronous in (("normal", 1), ("full", 2)):
        content = DiskContent(store, durability=durability)  # type: ignore[arg-type]
        assert _synchronous(content) == synchronous
        # What upstream can tell again is never waited for.
        assert _synchronous(content, durable=False) == 1
        content.close()
    with pytest.raises(ValueError, match="'full' or 'normal', not 'some'"):
        DiskContent(store, durability="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_store_is_made_with_either_durability(tmp_path: Path, durability: Durability) -> None:
    with DiskCacheStore(tmp_path / "new", durability=durability) as store:
        store.set("key", (io.BytesIO(LARGE), {"a": 1}))
        con = store.catalog.content.connection()
        wanted = 2 if durability == "full" else 1
        assert con.execute("PRAGMA synchronous").fetchone() == (wanted,)
    with DiskCacheStore(tmp_path / "new") as store:
        assert store.to_bytes("key") == LARGE


def test_store_that_was_killed_opens_as_ever(store: Path) -> None:
    holding = """
        import sys
        from mountcache.local.disk import DiskCacheStore
        store = DiskCacheStore(sys.argv[1])
        store.connect()
        assert store.catalog.content.lock("push").acquire(0)
        store.set_metadata("key", {"a": 2})
        print("ready", flush=True)
        sys.stdin.readline()
    """
    with Running(holding, store) as other:
        other.hear()
        other.kill()
    with DiskCacheStore(store) as again:
        assert again.get_metadata("key") == {"a": 2}
        assert again.catalog.content.lock("push").acquire(0)


def test_limit_that_is_asked_for_replaces_the_one_before(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "store", min_free=0) as store:
        first = store.catalog.available()
        assert first is not None
        assert 5_000_000 < first <= 10 * 2**30
    with DiskCacheStore(tmp_path / "store", size_limit=5_000_000, min_free=0) as store:
        assert store.catalog.available() == 5_000_000
    with DiskCacheStore(tmp_path / "store", min_free=0) as store:
        assert store.catalog.available() == 5_000_000


def test_store_can_be_pickled_to_another_process(store: Path) -> None:
    first = DiskCacheStore(store, size_limit=5, min_free=7, durability="normal")
    first.connect()
    again = pickle.loads(pickle.dumps(first))
    first.disconnect()
    assert not again.is_connected()
    with again:
        assert again.get_data("key").read() == LARGE
        assert _synchronous(again.catalog.content) == 1
    assert repr(again) == f"DiskCacheStore({str(store)!r})"


# -- killed while it was made ----------------------------------------------------------------

_STEPS = [
    "places.make",
    "StoreCache.__init__",
    "places.name_again",
    "places.fill",
    "places.sync",
    "Liveness.__init__",
    "schema.create",
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", _STEPS)
def test_store_whose_maker_was_killed_is_made_on(tmp_path: Path, step: str, when: str) -> None:
    killed = """
        import os, signal, sys
        from mountcache.local import directory as places, schema
        from mountcache.local.diskcontent import Liveness, StoreCache
        from mountcache.local.disk import DiskCacheStore
        owner, _, name = sys.argv[2].rpartition(".")
        owner = eval(owner)
        function = getattr(owner, name)
        def die(*arguments, **named):
            if sys.argv[3] == "after":
                function(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, name, die)
        DiskCacheStore(sys.argv[1]).connect()
    """
    with pytest.raises(AssertionError):
        script(killed, tmp_path / "store", step, when)
    assert (tmp_path / "store").is_dir()
    assert value_of(made(tmp_path / "store")) == LARGE


# -- refused ---------------------------------------------------------------------------------


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == (
        f"{tmp_path}/file is a file, and a store needs a directory of its own"
    )
    assert f"{tmp_path}/file is a file" in refusal(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_bytes() == b""


def test_name_that_can_be_no_directory_is_refused(tmp_path: Path) -> None:
    assert "can't be used: File name too long" in refusal(tmp_path / ("x" * 300))
    assert "can't be used: embedded null byte" in refusal(tmp_path / "a\0b")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    assert "can't be used" in refusal(tmp_path / "link")


def test_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert refusal(tmp_path) == (
        f"{tmp_path} isn't empty and isn't a store of mountcache; choose an empty directory"
    )
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_directory_of_another_program_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with diskcache.Cache(tmp_path / "theirs") as theirs:
        theirs["key"] = "value"
    before = (tmp_path / "theirs" / "cache.db").read_bytes()
    assert "belongs to another program, which has a diskcache Cache" in refusal(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "cache.db").read_bytes() == before
    assert os.listdir(tmp_path / "theirs") == ["cache.db"]

    (tmp_path / "other").mkdir()
    change(tmp_path / "other", "CREATE TABLE t (x)")
    assert "another program, which has an SQLite database" in refusal(tmp_path / "other")


def test_newer_format_is_refused(store: Path) -> None:
    change(store, f"PRAGMA user_version = {schema.FORMAT + 1}")
    assert refusal(store) == (
        f"the store in {store} is of format {schema.FORMAT + 1}, made by a later version of "
        f"mountcache; this one reads format {schema.FORMAT}: upgrade mountcache"
    )


def test_store_that_lost_its_database_isnt_started_anew(store: Path) -> None:
    (store / "cache.db").unlink()
    assert "is a store without its database cache.db: `mountcache doctor --repair`" in refusal(
        store
    )
    assert not (store / "cache.db").exists()


def test_database_that_is_no_database_is_refused(store: Path) -> None:
    (store / "cache.db").write_bytes(b"garbage " * 10_000)
    assert "damaged (file is not a database): `mountcache doctor --repair`" in refusal(store)


@pytest.mark.parametrize("left", [0, 1, 100, 4096, 20_000, 0.5])
def test_truncated_database_is_refused(store: Path, left: float) -> None:
    size = (store / "cache.db").stat().st_size
    left = int(left * size) if isinstance(left, float) else left
    os.truncate(store / "cache.db", left)
    assert "is damaged" in refusal(store)
    assert (store / "cache.db").stat().st_size == left


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("disk_class", "os.system"),
        ("sqlite_journal_mode", "delete; ATTACH 'x' AS y"),
        ("sqlite_cache_size", "1"),
        ("sqlite_writable_schema", 1),
        ("eviction_policy", "mine"),
        ("_disk", 1),
        ("statistics", b"1"),
        ("cull_limit", -1),
        ("count", "many"),
    ],
)
def test_setting_that_diskcache_doesnt_write_is_refused(
    store: Path, name: str, value: object
) -> None:
    with closing(sqlite3.connect(store / "cache.db")) as con, con:
        con.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (name, value))
    message = refusal(store)
    assert f"has the setting {name!r} = {value!r}" in message
    assert "tampered" in message


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p"])
def test_file_system_of_another_machine_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DirectoryError, match=f"of the type {kind}, which lies on another machine"):
        DiskContent(tmp_path / "new" / "store", file_system=lambda path: kind)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.bindfs", ""])
def test_file_system_of_this_machine_is_taken(tmp_path: Path, kind: str) -> None:
    DiskContent(tmp_path / "store", file_system=lambda path: kind).close()


def test_type_of_a_file_system_is_found() -> None:
    assert directory.file_system_of(Path("/proc/self")) == "proc"
    assert directory.file_system_of(Path("/proc/self/../../sys/kernel")) == "sysfs"
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", "/"], capture_output=True, text=True, check=True
    )
    assert directory.file_system_of(Path("/"))[:3] == found.stdout[:3]


def test_sentence_comes_at_first_use_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = DiskCacheStore(tmp_path / "file")
    with pytest.raises(DirectoryError, match="is a file"):
        store.get("key")


# -- copies ----------------------------------------------------------------------------------


def incarnation(path: Path) -> str:
    content = DiskContent(path)
    content.close()
    return content.incarnation


def test_incarnation_stays_while_the_directory_does(store: Path) -> None:
    first = incarnation(store)
    assert first
    assert incarnation(store) == first
    moved = store.rename(store.with_name("moved"))
    assert incarnation(moved) == first


def test_copy_is_another_incarnation(store: Path, tmp_path: Path) -> None:
    first = incarnation(store)
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    second = incarnation(copy)
    assert second != first
    assert incarnation(copy) == second
    assert incarnation(store) == first
    assert value_of(copy) == LARGE


def test_database_restored_in_its_place_is_another_incarnation(store: Path) -> None:
    first = incarnation(store)
    shutil.copy(store / "cache.db", store / "backup")
    (store / "backup").replace(store / "cache.db")
    assert incarnation(store) != first


# -- read only -------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

AS_NOBODY = """
import importlib, io, os, pkgutil, sys
import mountcache.local
from mountcache.errors import *
from mountcache.local.disk import DiskCacheStore
from tests.local_parts import LARGE, SMALL
for module in pkgutil.iter_modules(mountcache.local.__path__, "mountcache.local."):
    importlib.import_module(module.name)  # nobody may not be allowed to read them
path = sys.argv[1]
os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""


def open_to_all(path: Path) -> None:
    """Let everybody read a directory, and go through those above it."""
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o755 if entry.is_dir() else 0o644)
    for above in path.parents:
        if stat.S_IMODE(above.stat().st_mode) & 0o005 != 0o005:
            above.chmod(0o755)


@needs_root
def test_directory_that_cant_be_written_is_read(store: Path) -> None:
    open_to_all(store)
    script(
        AS_NOBODY,
        store,
        after="""
        with DiskCacheStore(path) as store:
            content = store.catalog.content
            assert content.readonly and content.incarnation
            assert store.get_data("key").read() == LARGE
            assert store.get_metadata("key") == {"a": 1}
            assert list(store.query_keys()) == ["key"]
            for act in (
                lambda: store.set("key", (io.BytesIO(SMALL), {})),
                lambda: store.set("key", (io.BytesIO(LARGE), {})),
                lambda: store.delete("key"),
                lambda: content.lock("push").acquire(0),
                content.gc,
            ):
                try:
                    act()
                except ReadOnlyStoreError as error:
                    assert "can only be read here" in str(error)
                else:
                    raise AssertionError(act)
            assert content.lock("push").holder() == ""
        """,
    )
    assert sorted(os.listdir(store / "live")) == []
    assert value_of(store) == LARGE


@needs_root
def test_reader_sees_what_a_writer_commits_meanwhile(store: Path) -> None:
    open_to_all(store)
    reading = AS_NOBODY + (
        "store = DiskCacheStore(path)\n"
        "for line in sys.stdin:\n"
        "    print(store.get_metadata('key'), flush=True)\n"
    )
    with Running(reading, store) as reader:
        reader.say()
        assert reader.hear() == "{'a': 1}"
        with DiskCacheStore(store) as writer:
            writer.set_metadata("key", {"a": 2})
            open_to_all(store)
            reader.say()
            assert reader.hear() == "{'a': 2}"
            writer.set_metadata("key", {"a": 3})
            reader.say()
            assert reader.hear() == "{'a': 3}"
        reader.say()
        assert reader.hear() == "{'a': 3}"
    with DiskCacheStore(store) as writer:
        writer.set_metadata("key", {"a": 4})
    assert value_of(store) == LARGE


@needs_root
def test_log_that_cant_be_read_in_is_told_rather_than_left_out(store: Path, tmp_path: Path) -> None:
    with DiskCacheStore(store) as writer:
        writer.set_metadata("key", {"a": 2})
        copy = Path(shutil.copytree(store, tmp_path / "copy"))
    (copy / "cache.db-shm").unlink()
    open_to_all(copy)
    script(
        AS_NOBODY,
        copy,
        after="""
        try:
            DiskCacheStore(path).connect()
        except DirectoryError as error:
            assert "the last changes of its database are in a log" in str(error), error
        else:
            raise AssertionError
        """,
    )
    with DiskCacheStore(copy) as writer:
        assert writer.get_metadata("key") == {"a": 2}


@needs_root
def test_directory_that_cant_be_written_or_seen_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "secret").mkdir(mode=0o700)
    open_to_all(tmp_path / "empty")
    script(
        AS_NOBODY,
        tmp_path,
        after="""
        for name, words in {
            "empty": "can't be written, so no store can be made in it",
            "empty/new": "can't be used: Permission denied",
            "secret": "can't be used: Permission denied",
            "secret/new": "can't be used: Permission denied",
        }.items():
            try:
                DiskCacheStore(os.path.join(path, name)).connect()
            except DirectoryError as error:
                assert words in str(error), error
            else:
                raise AssertionError(name)
        """,
    )


# -- a disk of its own -----------------------------------------------------------------------


def on_a_small_disk(tmp_path: Path, size: str, text: str) -> None:
    """Run Python where `sys.argv[1]` is a disk of `size`, in a mount namespace of its own."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(text)
    mounting = f"mount -t tmpfs -o size={size} none {tmp_path}/disk"
    running = f"{sys.executable} {tmp_path}/script.py {tmp_path}/disk"
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mounting} && exec {running}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    on_a_small_disk(
        tmp_path,
        "6m",
        """
import io, os, sys
from mountcache.errors import StoreFullError
from mountcache.local.disk import DiskCacheStore
directory = sys.argv[1] + "/store"
kept = []
with open(sys.argv[1] + "/something else", "wb") as file:
    file.write(bytes(1_000_000))
with DiskCacheStore(directory, min_free=0) as store:
    for size in (10_000_000, 300_000, 20_000, 1_000):
        try:
            for number in range(10_000):
                key = f"{size} {number}"
                store.set(key, (io.BytesIO(bytes([number % 256]) * size), {"n": number}))
                kept.append((key, size, number))
        except StoreFullError as error:
            assert "no room for a value" in str(error) or "is full" in str(error), error
        else:
            raise AssertionError("it was never full")
    for key, size, number in kept:
        assert store.get_data(key).read() == bytes([number % 256]) * size
    assert os.listdir(directory + "/tmp") == []
    os.unlink(sys.argv[1] + "/something else")
    for key, size, _ in kept:
        if size == 300_000:
            store.delete(key)
    store.set("again", (io.BytesIO(b"x" * 300_000), {}))
with DiskCacheStore(directory) as store:
    assert len(list(store.query_keys())) == sum(size != 300_000 for _, size, _ in kept) + 1
    con = store.catalog.content.connection()
    assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
""",
    )


def test_disk_too_small_for_a_store_is_told(tmp_path: Path) -> None:
    on_a_small_disk(
        tmp_path,
        "64k",
        """
import sys
from mountcache.errors import StoreFullError
from mountcache.local.disk import DiskCacheStore
try:
    DiskCacheStore(sys.argv[1] + "/store").connect()
except StoreFullError as error:
    assert "is full" in str(error), error
else:
    raise AssertionError
""",
    )


def test_medium_that_cant_be_written_is_read(tmp_path: Path) -> None:
    on_a_small_disk(
        tmp_path,
        "20m",
        """
import io, subprocess, sys
from mountcache.errors import ReadOnlyStoreError
from mountcache.local.disk import DiskCacheStore
with DiskCacheStore(sys.argv[1] + "/store") as store:
    store.set("key", (io.BytesIO(b"x" * 300_000), {}))
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
with DiskCacheStore(sys.argv[1] + "/store") as store:
    assert store.get_data("key").read() == b"x" * 300_000
    try:
        store.delete("key")
    except ReadOnlyStoreError:
        pass
    else:
        raise AssertionError
""",
    )


def test_what_the_dead_left_is_looked_for_again_if_it_cant_be_told_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "store"
    with DiskCacheStore(here) as store:
        store.from_bytes("k", b"1")
    dead = "0" * 32
    (here / "live" / dead).touch()
    left = here / "tmp" / f"{dead}-1"
    left.write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr(DiskContent, "_flush", lambda self: False)  # the disk is full, say
        with DiskCacheStore(here) as store:
            assert store.to_bytes("k") == b"1"
    assert left.exists()
    assert (here / "live" / dead).exists()
    with DiskCacheStore(here):
        pass
    assert not left.exists()
    assert not (here / "live" / dead).exists()
