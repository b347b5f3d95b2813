"""Am I ready to leave? What is said to be here can be read without upstream, all of it."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import StoreFullError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import Readiness, Wanted
from mountcache.values import StringValue
from tests.command import Inside

EACH = 40_960


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        for number in range(6):
            store.set(f"runs/{number}", StringValue(bytes([number]) * EACH, {"n": number}))
        store.set("plan.txt", StringValue(b"go", {}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    local = DiskCacheStore(tmp_path / "here", size_limit=10 * EACH, min_free=0)
    with MountedStore("", local, backing) as mounted:
        yield mounted


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    folder = tmp_path / "shell"
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\nsize_limit = {5 * EACH}\n')
    return Inside(folder)


def ready(store: MountedStore, *patterns: str) -> tuple[Readiness, list[str]]:
    """What is said, and the keys that aren't here."""
    missing: list[str] = []

    def note(each: Wanted) -> None:
        if not each.here:
            missing.append(each.key)

    return sync.readiness(store, *patterns, each=note), missing


def test_what_is_missing_is_named_and_nothing_is_fetched(
    store: MountedStore, origin: Origin
) -> None:
    store.to_bytes("runs/0")
    store.set("mine", StringValue(b"staged", {}))
    found, missing = ready(store, "runs/*", "mine", "r*/0")
    assert missing == [f"runs/{number}" for number in range(1, 6)]
    assert (found.here, found.here_bytes, found.clean) == (2, EACH + 6, 1)
    assert (found.missing, found.missing_bytes, found.unsized) == (5, 5 * EACH, 0)
    assert not found.ready
    assert found.fits
    assert store.stats()["cached_keys"] == 1
    sync.prefetch(store, "runs/*")
    assert ready(store, "runs/*", "mine")[0].ready
    origin.stop()
    found, missing = ready(store)
    assert missing == ["plan.txt"]
    for number in range(6):
        assert store.to_bytes(f"runs/{number}") == bytes([number]) * EACH


def test_another_version_upstream_is_missing(store: MountedStore, repository: MemoryStore) -> None:
    sync.prefetch(store)
    repository.set("runs/3", StringValue(b"newer", {}))
    assert ready(store, "runs/*")[1] == ["runs/3"]


def test_bytes_under_an_edit_of_metadata_are_asked_after_too(
    store: MountedStore, origin: Origin
) -> None:
    store.update_metadata("runs/1", {"mine": True})
    assert ready(store, "runs/1")[1] == ["runs/1"]
    assert sync.prefetch(store, "runs/1").fetched == 1
    assert ready(store, "runs/1")[0].ready
    origin.stop()
    assert store.to_bytes("runs/1") == bytes([1]) * EACH
    assert store.get_metadata("runs/1") == {"n": 1, "mine": True}


def test_a_copy_whose_file_has_gone_isnt_here(store: MountedStore, tmp_path: Path) -> None:
    store.to_bytes("runs/1")
    (file,) = (tmp_path / "here").glob("[0-9a-f][0-9a-f]/*")
    file.unlink()
    assert ready(store, "runs/1")[1] == ["runs/1"]
    assert sync.prefetch(store, "runs/1").fetched == 1
    assert ready(store, "runs/1")[0].ready


def test_a_copy_that_was_torn_by_a_power_cut_isnt_here(store: MountedStore, tmp_path: Path) -> None:
    sync.prefetch(store, "runs/[12]")
    with store.mount.catalog.content.write() as con:
        con.execute("UPDATE copy SET boot = 'an earlier one'")
    file = next((tmp_path / "here").glob("[0-9a-f][0-9a-f]/*"))
    os.utime(file, (before := file.stat().st_mtime, before))
    file.write_bytes(b"\0" * EACH)
    os.utime(file, (before, before))
    found, missing = ready(store, "runs/[12]")
    assert (found.here, len(missing)) == (1, 1)


def test_nobody_knows_before_upstream_was_ever_asked(store: MountedStore, origin: Origin) -> None:
    origin.stop()
    with pytest.raises(StoreUnavailableError):
        sync.readiness(store)


def test_what_is_here_and_wanted_isnt_room_for_the_rest(
    origin: Origin, repository: MemoryStore, tmp_path: Path
) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    local = DiskCacheStore(tmp_path / "small", size_limit=4 * EACH, min_free=0)
    with MountedStore("", local, backing) as store:
        sync.prefetch(store, "runs/[0-2]")
        found, _ = ready(store, "runs/*")
        assert (found.missing_bytes, found.room, found.fits) == (3 * EACH, EACH, False)
        with pytest.raises(StoreFullError, match=f"room for {EACH:,} bytes"):
            sync.prefetch(store, "runs/*")
        assert store.stats()["cached_keys"] == 3
        # Of others it may take theirs.
        assert sync.prefetch(store, "runs/[3-5]").fetched == 3


# -- on the command line -----------------------------------------------------------------------


def test_check_ends_with_0_only_if_all_is_here(shell: Inside, origin: Origin) -> None:
    ended = shell("prefetch", "--check", "runs/[0-2]", "plan.txt")
    assert ended.code == 1
    assert [line.split()[-1] for line in ended.text.splitlines()[:-1]] == [
        "plan.txt", "runs/0", "runs/1", "runs/2",
    ]  # fmt: skip
    assert ended.text.splitlines()[-1] == "0 here (0 bytes), 4 missing (123 kB)"
    assert "next: `mountcache prefetch`" in ended.err
    assert shell("prefetch", "runs/[0-2]", "plan.txt").text.startswith("4 fetched")
    origin.stop()
    ended = shell("prefetch", "--check", "runs/[0-2]", "plan.txt")
    assert (ended.code, ended.text) == (0, "4 here (123 kB), 0 missing (0 bytes)\n"), ended.err
    assert "upstream is out of reach: this is as it was known last" in ended.err


def test_check_says_what_doesnt_fit(shell: Inside) -> None:
    ended = shell("prefetch", "--check", "--json")
    assert ended.code == 1
    *missing, summary = ended.documents
    assert {"key": "runs/0", "size": EACH} in missing
    assert (summary["missing"], summary["fits"], summary["ready"]) == (7, False, False)
    assert shell("prefetch", "--dry-run").code == 3
    ended = shell("prefetch", "--check")
    assert f"room for {5 * EACH / 1000:.3g} kB" in ended.err


def test_dry_run_names_what_would_come_and_brings_nothing(shell: Inside) -> None:
    ended = shell("prefetch", "--dry-run", "runs/[01]")
    assert ended.code == 0
    assert ended.text.splitlines()[0].split() == ["41", "kB", "runs/0"]
    assert shell("ls", "--cached").text == ""
    assert shell("prefetch", "--dry-run", "--check").code == 64


def test_a_pattern_in_vain_is_an_error_beside_others(shell: Inside) -> None:
    for options in ([], ["--check"], ["--dry-run"]):
        ended = shell("prefetch", *options, "runs/0", "ruins/*")
        assert ended.code == 3
        assert "no key matches 'ruins/*'" in ended.err


def test_prefetch_pin_keeps_what_was_here_as_well(shell: Inside) -> None:
    shell("prefetch", "runs/0")
    shell("put", "runs/9", given=b"mine")
    ended = shell("prefetch", "--pin", "runs/[019]")
    assert ended.code == 0
    assert "runs/9 isn't pinned: it is staged" in ended.err
    assert shell("ls", "--pinned").text.split() == ["runs/0", "runs/1"]


# -- ls ----------------------------------------------------------------------------------------


def test_ls_tells_the_states_apart_without_a_network(
    shell: Inside, origin: Origin, repository: MemoryStore
) -> None:
    shell("prefetch", "runs/[0-2]")
    shell("put", "runs/0", given=b"mine")
    shell("put", "new", given=b"mine")
    shell("rm", "runs/3")
    repository.set("runs/1", StringValue(b"newer", {}))
    repository.delete("runs/2")
    shell("ls")
    origin.stop()
    states = {each["key"]: each["state"] for each in shell("ls", "-l", "--json").documents}
    assert states == {
        "new": "added", "plan.txt": "remote", "runs/0": "modified", "runs/1": "outdated",
        "runs/4": "remote", "runs/5": "remote",
    }  # fmt: skip
    assert shell("ls", "--staged").text.split() == ["new", "runs/0", "runs/3"]
    assert shell("ls", "--staged", "runs/*").text.split() == ["runs/0", "runs/3"]
    assert shell("ls", "--missing").text.split() == ["plan.txt", "runs/1", "runs/4", "runs/5"]
    cached = shell("ls", "--cached", "--json").documents
    assert [(each["key"], each["state"]) for each in cached] == [
        ("runs/1", "outdated"), ("runs/2", "gone"),
    ]  # fmt: skip
    assert set(cached[0]) == {
        "key", "state", "here", "pinned", "size", "version", "sha256", "since", "metadata",
    }  # fmt: skip
    assert shell("ls", "--cached", "--meta", "n:=2").text == "runs/2\n"
    assert shell("ls", "--cached", "--missing").code == 64
    none = shell("ls", "--pinned")
    assert (none.code, none.text) == (0, "")
    assert "nothing is pinned; next: `mountcache pin KEY`" in none.err


def test_ls_long_is_aligned(shell: Inside) -> None:
    shell("prefetch", "runs/0")
    shell("pin", "runs/1")
    lines = [line.partition("\t")[0] for line in shell("ls", "-l").text.splitlines()]
    at = {line.index(key) for line in lines for key in ("runs/", "plan") if key in line}
    assert len(at) == 1
    assert lines[1].split()[0] == "cached"
    assert lines[1].split()[-1] == "runs/0"
    assert "pin" in lines[2].split()
    assert lines[0].split()[0] == "remote"


def test_a_mount_point_is_part_of_the_keys_that_ls_lists(origin: Origin, tmp_path: Path) -> None:
    backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
    with MountedStore("runs/", DiskCacheStore(tmp_path / "part", min_free=0), backing) as store:
        sync.prefetch(store, "runs/[01]")
        for pattern in ("*", "r*", "runs/*", "runs/[01]"):
            assert [each.key for each in sync.residents(store, "cached", pattern)] == [
                "runs/0", "runs/1",
            ], pattern  # fmt: skip
        assert [each.key for each in sync.residents(store, "missing", "runs/4")] == ["runs/4"]
        assert list(sync.residents(store, "cached", "plan*")) == []


def test_a_listing_takes_the_memory_of_a_page(tmp_path: Path) -> None:
    local = DiskCacheStore(tmp_path / "here", min_free=0)
    with MountedStore("", local, MemoryStore()) as store:
        with store.mount.catalog.content.write() as con:
            con.executemany(
                "INSERT INTO upstream (key, gen_from, present, meta, size, learned)"
                " VALUES (?, 1, 1, '{}', 1, 0)",
                ((f"{number:06}",) for number in range(30_000)),
            )
        peaks = []
        for pattern, count in (("00[0-2]*", 3_000), ("*", 30_000)):
            tracemalloc.start()
            assert sum(1 for _ in sync.residents(store, "missing", pattern)) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.5 * peaks[0]
        keys = [each.key for each in sync.residents(store, "missing", "0299*")]
        assert keys == [f"{number:06}" for number in range(29_900, 30_000)]
