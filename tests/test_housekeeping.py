"""Housework: what is let go is never what somebody needs, and what is wrong is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.abc import Value
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import StoreUnavailableError
from mountcache.local import pruning, undo
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.undo import AGE
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import Whereabouts
from mountcache.values import StringValue
from tests.local_parts import Running
from tests.scripted import MIB, Scripted, pattern

EACH = 40_960
RUNS = [f"runs/{number}" for number in range(6)]


class Clock:
    """The time, which a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        for number, key in enumerate(RUNS):
            store.set(key, StringValue(bytes([number]) * EACH, {"n": number}))
        store.set("plan.txt", StringValue(b"go", {}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def store(origin: Origin, here: Path, clock: Clock) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    local = DiskCacheStore(here, size_limit=100 * EACH, min_free=0)
    with MountedStore("", local, backing, clock=clock) as mounted:
        yield mounted


def cached(store: MountedStore) -> list[str]:
    return [each.key for each in sync.residents(store, "cached")]


def pruned(store: MountedStore, *words: str, **options: float | bool) -> list[str]:
    return [each.key for each in sync.prune(store, *words, **options)]  # type: ignore[arg-type]


def files(here: Path) -> list[Path]:
    return sorted(here.glob("[0-9a-f][0-9a-f]/*"))


# -- prune -------------------------------------------------------------------------------------


def test_prune_to_a_size_takes_the_least_recently_used_first(
    store: MountedStore, here: Path
) -> None:
    for key in RUNS:
        store.to_bytes(key)
    store.to_bytes("runs/0")
    assert pruned(store, to=4 * EACH, dry_run=True) == ["runs/1", "runs/2"]
    assert len(files(here)) == 6
    assert pruned(store, to=4 * EACH) == ["runs/1", "runs/2"]
    assert cached(store) == ["runs/0", "runs/3", "runs/4", "runs/5"]
    assert len(files(here)) == 4
    assert pruned(store, to=4 * EACH) == []
    assert sync.room(store).cached == 4 * EACH


def test_prune_by_age_goes_by_what_upstream_confirmed(store: MountedStore, clock: Clock) -> None:
    for key in RUNS[:3]:
        store.to_bytes(key)
    clock.now += 3600
    store.with_options(max_age=0.0).to_bytes("runs/1")
    store.to_bytes("runs/3")
    assert pruned(store, older_than=1800.0) == ["runs/0", "runs/2"]
    assert cached(store) == ["runs/1", "runs/3"]
    clock.now -= 7200
    assert pruned(store, older_than=0.0) == []


def test_prune_keeps_what_is_pinned_staged_or_under_an_edit(
    store: MountedStore, origin: Origin, clock: Clock
) -> None:
    for key in RUNS[:4]:
        store.to_bytes(key)
    store.pin("runs/0")
    store.update_metadata("runs/1", {"more": True})
    store.set("runs/2", StringValue(b"mine", {}))
    store.set("new", StringValue(b"new", {}))
    clock.now += 3600
    assert pruned(store, older_than=1.0) == ["runs/3"]
    assert pruned(store, to=0) == []
    origin.stop()
    assert store.to_bytes("runs/0") == bytes(EACH)
    assert store.to_bytes("runs/1") == bytes([1]) * EACH
    assert store.to_bytes("runs/2") == b"mine"
    assert store.to_bytes("new") == b"new"


def test_prune_is_about_the_keys_of_its_pattern(store: MountedStore) -> None:
    for key in (*RUNS, "plan.txt"):
        store.to_bytes(key)
    assert pruned(store, "runs/[0-3]", to=2 * EACH) == ["runs/0", "runs/1"]
    assert pruned(store, "plan*", to=0) == ["plan.txt"]
    assert cached(store) == ["runs/2", "runs/3", "runs/4", "runs/5"]
    assert pruned(store, "nothing*", to=0) == []
    for wrong in ({}, {"to": 1, "older_than": 1.0}, {"to": -1}):
        with pytest.raises(ValueError, match="older_than and to"):
            pruned(store, **wrong)


def test_prune_lets_go_only_of_what_nobody_edited_or_pinned_meanwhile(
    store: MountedStore, origin: Origin, here: Path
) -> None:
    """Between the choice and the commit another process pins one and edits another."""
    sync.prefetch(store, "runs/*")
    with Running(
        """
        import sys
        from mountcache.backing.dynamic import DynamicURLStore
        from mountcache.local.disk import DiskCacheStore
        from mountcache.mounted import MountedStore
        backing = DynamicURLStore(sys.argv[1] + "keys", sys.argv[1] + "query")
        with MountedStore("", DiskCacheStore(sys.argv[2], min_free=0), backing) as store:
            print("open", flush=True)
            sys.stdin.readline()
            store.pin("runs/0")
            store.update_metadata("runs/1", {"more": True})
            print("done", flush=True)
            sys.stdin.readline()
        """,
        origin.url,
        here,
    ) as other:
        assert other.hear() == "open"
        begun = False

        def and_meanwhile(key: str) -> bool:
            nonlocal begun
            if not begun:
                begun = True
                other.say()
                assert other.hear() == "done"
            return key in ("runs/0", "runs/1", "runs/2")

        gone = pruning.prune(store.mount.catalog, and_meanwhile, older_than=-1.0)
        assert [each.key for each in gone] == ["runs/2"]
        other.say()
    assert "runs/0" in [each.key for each in sync.residents(store, "pinned")]
    assert store.with_options(offline="always").to_bytes("runs/1") == bytes([1]) * EACH


# -- gc ----------------------------------------------------------------------------------------


def test_gc_frees_what_a_killed_process_left_and_no_more(
    store: MountedStore, here: Path, origin: Origin
) -> None:
    store.to_bytes("runs/0")
    store.set("mine", StringValue(os.urandom(EACH), {}))
    with Running(
        """
        import sys
        from mountcache.local.disk import DiskCacheStore
        with DiskCacheStore(sys.argv[1], min_free=0) as store:
            spool = store.catalog.content.spool()
            spool.write(b"x" * 100_000)
            print("open", flush=True)
            sys.stdin.readline()
        """,
        here,
    ) as other:
        assert other.hear() == "open"
        assert sync.gc(store).files == 0
        other.kill()
    found = sync.gc(store)
    assert found.files >= 1
    assert found.bytes >= 100_000 - 65_536
    assert not list((here / "tmp").iterdir())
    assert sync.gc(store) == sync.Collected(0, 0, 0)
    origin.stop()
    assert store.to_bytes("runs/0") == bytes(EACH)
    assert len(store.to_bytes("mine")) == EACH


def test_gc_lets_go_of_undo_that_has_had_its_time(store: MountedStore, clock: Clock) -> None:
    store.set("mine", StringValue(os.urandom(EACH), {}))
    store.set("mine", StringValue(os.urandom(EACH), {}))
    assert sync.gc(store).undo == 0
    clock.now += AGE + 1
    assert sync.gc(store).undo == 1
    assert store.taken("mine") == []
    assert sync.room(store).undo == 0


def test_gc_drops_a_download_of_before_the_machine_was_started(here: Path) -> None:
    upstream = Scripted()
    upstream.put("large", pattern(5 * MIB, 1))
    with MountedStore("", DiskCacheStore(here, min_free=0), upstream) as store:
        cut(store, upstream)
        assert sync.room(store).partial == 5 * MIB
        assert sync.gc(store).bytes == 0
        with store.mount.catalog.content.write() as con:
            con.execute("UPDATE partial SET boot = 'an earlier one'")
        assert sync.gc(store).bytes >= 2 * MIB
        assert sync.room(store).partial == 0
        assert not list((here / "partial").iterdir())


def cut(store: MountedStore, upstream: Scripted) -> None:
    """Fetch a large value up to a good half of it."""

    def giving(key: str, at: int) -> None:
        if at >= 3 * MIB:
            upstream.down = True
            raise StoreUnavailableError("the connection broke")

    upstream.giving = giving
    with pytest.raises(StoreUnavailableError):
        sync.prefetch(store)


# -- verify ------------------------------------------------------------------------------------


def spoil(file: Path) -> None:
    """Change a byte as a bad disk does: neither length nor time tell of it."""
    found = file.stat()
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_verify_finds_each_kind_of_damage_and_mends_what_it_may(
    store: MountedStore, here: Path
) -> None:
    store.to_bytes("runs/0")
    store.set("mine", StringValue(b"a" * EACH, {}))
    store.set("mine", StringValue(b"b" * EACH, {}))
    report = sync.verify(store)
    assert (report.values, report.bytes, report.flaws) == (3, 3 * EACH, [])
    for file in files(here):
        spoil(file)
    report = sync.verify(store)
    assert [(each.where, each.key, each.mended) for each in report.flaws] == [
        ("staged", "mine", ""), ("undo", "mine", ""), ("cached", "runs/0", ""),
    ]  # fmt: skip
    assert "its digest is another" in report.flaws[0].what
    assert len(files(here)) == 3
    report = sync.verify(store, repair=True)
    assert [(each.where, bool(each.mended)) for each in report.flaws] == [
        ("staged", False), ("undo", True), ("cached", True),
    ]  # fmt: skip
    assert [edit.key for edit in store.staged()] == ["mine"]
    assert len(files(here)) == 1
    assert store.to_bytes("runs/0") == bytes(EACH)
    assert [each.where for each in sync.verify(store).flaws] == ["staged"]
    assert sync.verify(store, "runs/*").flaws == []


def test_verify_fetches_what_is_pinned_again(
    store: MountedStore, here: Path, origin: Origin
) -> None:
    store.pin("runs/0")
    files(here)[0].unlink()
    (flaw,) = sync.verify(store, repair=True).flaws
    assert (flaw.where, flaw.mended) == ("cached", "it is fetched again, and stays pinned")
    assert [each.key for each in sync.residents(store, "pinned")] == ["runs/0"]
    spoil(files(here)[0])
    origin.stop()
    (flaw,) = sync.verify(store, repair=True).flaws
    assert "couldn't be fetched" in flaw.mended


def test_verify_notes_copies_of_an_earlier_boot_as_sound(store: MountedStore) -> None:
    store.to_bytes("runs/0")
    with store.mount.catalog.content.write() as con:
        con.execute("UPDATE copy SET boot = 'an earlier one'")
    assert not where(store, "runs/0").cached.verified  # type: ignore[union-attr]
    assert sync.verify(store).flaws == []
    assert where(store, "runs/0").cached.verified  # type: ignore[union-attr]


def test_verify_compares_copies_with_upstream(
    store: MountedStore, repository: MemoryStore, origin: Origin
) -> None:
    sync.prefetch(store)
    repository.set("runs/1", StringValue(b"newer", {}))
    repository.delete("runs/2")
    store.set("runs/3", StringValue(b"mine", {}))
    assert sync.verify(store).flaws == []
    report = sync.verify(store, remote=True)
    assert [(each.key, each.where) for each in report.flaws] == [
        ("runs/1", "upstream"), ("runs/2", "upstream"),
    ]  # fmt: skip
    assert "gone upstream" in report.flaws[1].what
    assert (report.compared, report.unsure) == (6, 0)
    origin.stop()
    report = sync.verify(store, remote=True)
    assert report.unreachable
    assert report.flaws == []


def test_verify_calls_nothing_lost_that_is_replaced_meanwhile(
    store: MountedStore, here: Path
) -> None:
    """A reader replaces the copy just as it is looked at."""
    sync.prefetch(store, "runs/[01]")
    store.set("mine", StringValue(b"a" * EACH, {}))
    catalog = store.mount.catalog
    look = catalog.wrong_with
    looked: list[str] = []

    def replacing(content: str, sha256: str | None, size: int | None) -> str:
        if not looked:
            store.drop("runs/0")
            store.to_bytes("runs/0")
            store.set("mine", StringValue(b"b" * EACH, {}))
            with catalog.content.write() as con:
                for (seq,) in con.execute("SELECT seq FROM undo").fetchall():
                    undo.forget(con, catalog.content, seq)
        looked.append(content)
        return look(content, sha256, size)

    catalog.wrong_with = replacing  # type: ignore[method-assign]
    assert sync.verify(store).flaws == []
    assert len(looked) >= 3


def test_verify_takes_no_undo_entry_for_another_that_has_its_number(store: MountedStore) -> None:
    store.set("mine", StringValue(b"a" * EACH, {}))
    store.set("mine", StringValue(b"b" * EACH, {}))
    catalog = store.mount.catalog
    (before,) = store.taken("mine")
    look = catalog.wrong_with

    def replacing(content: str, sha256: str | None, size: int | None) -> str:
        if content == before.content:
            with catalog.content.write() as con:
                undo.forget(con, catalog.content, before.seq)
            store.set("mine", StringValue(b"c" * EACH, {}))
        return look(content, sha256, size)

    catalog.wrong_with = replacing  # type: ignore[method-assign]
    assert sync.verify(store, repair=True).flaws == []
    (after,) = store.taken("mine")
    assert after.seq == before.seq
    assert after.content != before.content


# -- du, room, whereis -------------------------------------------------------------------------


def test_du_adds_up_by_folder(store: MountedStore) -> None:
    sync.prefetch(store)
    store.set("runs/deep/x", StringValue(b"a" * 1_000, {}))
    store.set("runs/deep/x", StringValue(b"b" * 3_000, {}))
    assert sync.du(store) == [
        sync.Usage("", cached=2), sync.Usage("runs/", cached=6 * EACH, staged=3_000, undo=1_000),
    ]  # fmt: skip
    assert [each.folder for each in sync.du(store, depth=2)] == ["", "runs/", "runs/deep/"]
    (whole,) = sync.du(store, depth=0)
    assert whole.total == 2 + 6 * EACH + 4_000
    assert sync.du(store, "runs/[0-2]") == [sync.Usage("runs/", cached=3 * EACH)]
    room = sync.room(store)
    assert (room.cached, room.staged, room.undo) == (2 + 6 * EACH, 3_000, 1_000)
    assert room.database > 0
    assert room.limits.size == 100 * EACH
    assert room.limits.undo == 25 * EACH


def where(store: MountedStore, key: str) -> Whereabouts:
    return sync.whereis(store, key)


def test_whereis_names_all_the_places(
    store: MountedStore, here: Path, origin: Origin, clock: Clock
) -> None:
    store.to_bytes("runs/0")
    store.pin("runs/0")
    found = where(store, "runs/0")
    assert found.staged is None
    assert found.cached is not None
    assert found.cached.file == str(files(here)[0])
    assert (found.cached.pinned, found.cached.verified) == (True, True)
    assert found.upstream is not None
    assert found.upstream.version == found.cached.version
    assert found.upstream.asked == clock.now
    store.set("runs/0", StringValue(b"small", {}))
    store.set("runs/0", StringValue(b"smaller", {}))
    origin.stop()
    found = where(store, "runs/0")
    assert found.staged is not None
    assert (found.staged.kind, found.staged.size, found.staged.file) == ("put", 7, "")
    assert [(each.size, each.why) for each in found.kept] == [(5, "replaced")]
    assert found.cached is not None
    files(here)[0].unlink()
    again = where(store, "runs/0").cached
    assert again is not None
    assert again.file is None
    with pytest.raises(KeyError):
        where(store, "nowhere")


def test_whereis_tells_how_much_of_a_download_is_here(here: Path) -> None:
    upstream = Scripted()
    upstream.put("large", pattern(5 * MIB + 7, 1))
    with MountedStore("", DiskCacheStore(here, min_free=0), upstream) as store:
        cut(store, upstream)
        begun = where(store, "large").begun
        assert begun is not None
        assert (begun.here, begun.size) == (3 * MIB, 5 * MIB + 7)
        (used,) = sync.du(store)
        assert used.partial == 3 * MIB


def test_a_value_that_is_read_stays_readable_while_it_is_pruned(store: MountedStore) -> None:
    value: Value = store.fetch("runs/5")
    with value.data as stream:
        assert stream.read(10) == bytes([5]) * 10
        store.to_bytes("runs/5")
        assert pruned(store, to=0) == ["runs/5"]
        assert stream.read() == bytes([5]) * (EACH - 10)
