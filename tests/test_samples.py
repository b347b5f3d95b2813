"""Directories of each format that was ever written are opened, read and pushed.

The samples are made by tools/make_sample_directory.py. One that was released is never changed.
"""

from __future__ import annotations

import io
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, MountedStore, StaticURLStore, sync
from mountcache.local.backup import backup, restore
from mountcache.local.doctor import examine
from mountcache.local.schema import FORMAT
from mountcache.serve import Origin

SAMPLES = Path(__file__).parent / "samples"
FORMATS = range(1, FORMAT + 1)


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(SAMPLES / f"format{request.param}.tar.gz") as archive:
        # With the rights it had: it is ours.
        (tmp_path / "store").mkdir(0o700)
        archive.extractall(tmp_path / "store", filter="fully_trusted")
    return tmp_path / "store"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    """What upstream has by then: all that the sample was made from, and the lost answer's."""
    with DiskCacheStore(tmp_path / "origin") as store:
        for n in range(4):
            store.set(f"small/{n}", (io.BytesIO(b"small %d" % n), {"n": n}))
        store.set("small/4", (io.BytesIO(b"changed there"), {"n": 44}))
        for n in range(3):
            store.set(f"large/{n}", (io.BytesIO(b"large %d" % n * 5714), {"n": n}))
        store.set("huge", (io.BytesIO(bytes(range(256)) * 12288), {"kind": "huge"}))
        store.set("old name", (io.BytesIO(b"renamed " * 10_000), {"n": 7}))
        store.set("pushed", (io.BytesIO(b"pushed"), {"masked": True}))
        store.set("masked", (io.BytesIO(b"masked, too"), {}))
        store.set("unanswered", (io.BytesIO(b"unanswered"), {}))
        yield store


@pytest.fixture
def store(path: Path, repository: DiskCacheStore) -> Iterator[MountedStore]:
    with Origin(repository) as origin:
        with closing(sqlite3.connect(path / "cache.db")) as con, con:
            con.execute(
                "UPDATE state SET value = replace(value, 'http://upstream.example/', ?)"
                " WHERE name = 'identity'",
                (origin.url,),
            )
        with MountedStore(
            "", DiskCacheStore(path, min_free=0), StaticURLStore(origin.url, poll=0)
        ) as mounted:
            yield mounted


def offline(store: MountedStore) -> MountedStore:
    return store.with_options(offline="always")  # type: ignore[return-value]


def test_sample_says_nothing_of_the_machine_it_was_made_on(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            for word in (b"/tmp", b"/home", b"/root", b"localhost", b"127.0.0.1"):
                assert word not in data, (file, word)
    assert not list(path.glob("*.lock"))
    for sample in SAMPLES.iterdir():
        assert sample.stat().st_size < 300_000


def test_sample_has_each_kind_of_row(path: Path) -> None:
    with closing(sqlite3.connect(path / "cache.db")) as con:

        def found(sql: str) -> set[object]:
            return {value for (value,) in con.execute(sql)}

        assert found("SELECT kind FROM edit") == {"put", "meta", "del"}
        assert found("SELECT state FROM op") == {"unknown"}
        assert found("SELECT pinned FROM copy") == {0, 1}
        assert found("SELECT why FROM undo") == {"replaced", "reverted"}
        assert found("SELECT key FROM partial") == {"huge"}
        assert len(found("SELECT gen_from FROM upstream")) > 1
        assert found("SELECT masked FROM upstream") == {0, 1}
        for table in ("edit", "copy", "undo"):
            assert found(
                f"SELECT filename IS NULL FROM Cache JOIN {table} ON content = Cache.key"
            ) == {0, 1}, table


def test_permissions_are_what_they_were(store: MountedStore, path: Path) -> None:
    staged = sync.status(store).permissions
    if not staged:
        # They came with format 3.
        with closing(sqlite3.connect(path / "cache.db")) as con:
            assert not con.execute("SELECT 1 FROM undo WHERE kind = 'perm'").fetchall()
        return
    (one,) = staged
    assert (one.key, one.permissions, one.base) == (
        "small/0", {"read": ["ada"]}, '{"read":[]}',
    )  # fmt: skip
    (taken,) = store.taken("small/0")
    store.undo("small/0", taken.seq)
    assert store.get_permissions("small/0") == {"read": ["somebody"]}


def test_all_of_it_is_read_without_upstream(store: MountedStore) -> None:
    here = offline(store)
    assert here.to_bytes("small/0") == b"small 0"
    for n in (0, 2):
        assert here.get(f"large/{n}").source == "cached"
        assert here.to_bytes(f"large/{n}") == b"large %d" % n * 5714
    assert here.to_bytes("new") == b"new"
    assert here.to_bytes("small/1") == b"modified twice"
    assert here.get_metadata("small/1") == {"n": 11}
    assert here.to_bytes("large/1") == b"modified" * 5_000
    assert here.to_bytes("small/2") == b"small 2"
    assert here.get_metadata("small/2") == {"n": 2, "edited": "metadata alone"}
    assert here.to_bytes("new name") == b"renamed " * 10_000
    assert here.to_bytes("group/b") == b"b" * 40_000
    assert here.to_bytes("pushed") == b"pushed"
    assert sorted(here.query_keys()) == sorted(
        ["group/a", "group/b", "huge", "large/0", "large/1", "large/2", "masked", "new",
         "new name", "pushed", "small/0", "small/1", "small/2", "small/4", "unanswered"]
    )  # fmt: skip
    for gone in ("small/3", "small/5", "old name", "reverted"):
        assert not here.exists(gone)


def test_each_edit_is_what_it_was(store: MountedStore) -> None:
    edits = {edit.key: edit for edit in store.staged()}
    assert {key: edit.state for key, edit in edits.items()} == {
        "group/a": "added", "group/b": "added", "large/1": "modified", "new": "added",
        "new name": "added", "old name": "deleted", "small/1": "modified",
        "small/2": "modified", "small/3": "deleted", "unanswered": "added",
    }  # fmt: skip
    assert {edit.author for edit in edits.values()} == {"a sample"}
    with closing(sqlite3.connect(store.mount_store.directory / "cache.db")) as con:  # type: ignore[attr-defined]
        groups = dict(con.execute("SELECT key, grp FROM edit"))
        notes = dict(con.execute("SELECT key, notes FROM edit"))
    assert groups["group/a"] == groups["group/b"]
    assert groups["new name"] == groups["old name"]
    assert notes["group/b"] == "two that belong together"


def test_what_was_taken_away_comes_back(store: MountedStore) -> None:
    assert {(taken.key, taken.why) for taken in store.taken() if taken.kind != "perm"} == {
        ("small/1", "replaced"),
        ("reverted", "reverted"),
    }
    store.undo("reverted")
    assert store.to_bytes("reverted") == b"to be had back" * 4_000
    store.undo("small/1")
    assert store.to_bytes("small/1") == b"modified once"


def test_all_of_it_is_pushed_and_goes_on_being_read(
    store: MountedStore, repository: DiskCacheStore, path: Path
) -> None:
    store.undo("reverted")
    results = {each.key: each.outcome for each in sync.push(store).results}
    assert set(results.values()) <= {"pushed", "already there"}, results
    assert list(store.staged()) == []
    assert repository.to_bytes("small/1") == b"modified twice"
    assert repository.get_metadata("small/2") == {"n": 2, "edited": "metadata alone"}
    assert repository.to_bytes("new name") == b"renamed " * 10_000
    assert repository.to_bytes("reverted") == b"to be had back" * 4_000
    assert not repository.exists("small/3")
    assert not repository.exists("old name")
    assert store.to_bytes("huge") == bytes(range(256)) * 12288
    store.update_index()
    assert sorted(store.query_keys()) == sorted(repository.query_keys())
    store.disconnect()
    assert [each for each in examine(path) if each.severity != "note"] == []


def test_sample_is_backed_up_and_restored(path: Path, tmp_path: Path) -> None:
    saved = backup(path, tmp_path / "saved")
    assert (saved.edits, saved.copies, saved.missing) == (10, 12, ())
    assert restore(tmp_path / "saved", tmp_path / "again") == saved
