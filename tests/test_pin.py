"""Pins: what is pinned stays here, through whatever comes over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import StoreError, StoreFullError, StoreUnavailableError
from mountcache.local.backup import backup, restore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.pinning import is_pinned
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import Inside
from tests.local_parts import script

KIB = 1024
EACH = 40 * KIB


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        for number in range(12):
            store.set(f"runs/{number:02}", StringValue(bytes([number]) * EACH, {"n": number}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


def mounted(origin: Origin, folder: Path, size_limit: int | None = None) -> MountedStore:
    local = DiskCacheStore(folder, size_limit=size_limit, min_free=0)
    return MountedStore("", local, DynamicURLStore(f"{origin.url}keys", f"{origin.url}query"))


@pytest.fixture
def store(origin: Origin, tmp_path: Path) -> Iterator[MountedStore]:
    with mounted(origin, tmp_path / "here", 4 * EACH) as store:
        yield store


def pinned(store: MountedStore) -> list[str]:
    return [each.key for each in sync.residents(store, "pinned")]


def test_a_pinned_copy_is_never_evicted(store: MountedStore) -> None:
    store.pin("runs/00")
    for number in range(1, 12):
        store.to_bytes(f"runs/{number:02}")
    assert pinned(store) == ["runs/00"]
    assert "runs/01" not in set(store.cached())
    assert store.with_options(offline="always").to_bytes("runs/00") == bytes(EACH)
    store.unpin("runs/00")
    for number in range(1, 12):
        store.to_bytes(f"runs/{number:02}")
    with pytest.raises(StoreUnavailableError):
        store.with_options(offline="always").to_bytes("runs/00")


def test_another_process_doesnt_evict_it_either(
    store: MountedStore, origin: Origin, tmp_path: Path
) -> None:
    store.pin("runs/00")
    script(
        """
        import sys
        from mountcache.backing.dynamic import DynamicURLStore
        from mountcache.local.disk import DiskCacheStore
        from mountcache.mounted import MountedStore
        backing = DynamicURLStore(sys.argv[1] + "keys", sys.argv[1] + "query")
        with MountedStore("", DiskCacheStore(sys.argv[2], min_free=0), backing) as store:
            for number in range(1, 12):
                store.to_bytes(f"runs/{number:02}")
        """,
        origin.url,
        tmp_path / "here",
    )
    assert pinned(store) == ["runs/00"]
    assert store.with_options(offline="always").to_bytes("runs/00") == bytes(EACH)


def test_a_newer_version_takes_its_place_and_stays_pinned(
    store: MountedStore, repository: MemoryStore
) -> None:
    store.pin("runs/00")
    repository.set("runs/00", StringValue(b"newer", {}))
    assert store.with_options(max_age=0.0).to_bytes("runs/00") == b"newer"
    assert pinned(store) == ["runs/00"]
    repository.set("runs/00", StringValue(b"newer still", {}))
    store.update_index()
    assert sync.prefetch(store, "runs/00").fetched == 1
    assert pinned(store) == ["runs/00"]
    repository.set("runs/00", StringValue(b"pulled", {}))
    assert sync.pull(store).updated == ("runs/00",)
    assert pinned(store) == ["runs/00"]
    assert store.with_options(offline="always").to_bytes("runs/00") == b"pulled"


def test_a_push_of_the_key_keeps_the_pin(store: MountedStore) -> None:
    store.pin("runs/00")
    store.set("runs/00", StringValue(b"mine", {}))
    assert pinned(store) == ["runs/00"]
    assert store.push("runs/00").outcome == "pushed"
    assert pinned(store) == ["runs/00"]
    assert store.with_options(offline="always").to_bytes("runs/00") == b"mine"


def test_a_backup_keeps_the_pins(store: MountedStore, origin: Origin, tmp_path: Path) -> None:
    store.pin("runs/00")
    store.to_bytes("runs/01")
    backup(tmp_path / "here", tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "again")
    with mounted(origin, tmp_path / "again") as again:
        assert pinned(again) == ["runs/00"]


def test_a_pinned_copy_isnt_dropped(store: MountedStore) -> None:
    store.pin("runs/00")
    with pytest.raises(StoreError, match=r"'runs/00' is pinned.*unpin it first"):
        store.drop("runs/00")
    assert list(store.cached()) == []
    store.unpin("runs/00")
    store.drop("runs/00")
    with pytest.raises(KeyError):
        store.unpin("runs/00")


def test_a_pinned_copy_that_rots_is_fetched_again_and_stays_pinned(
    store: MountedStore, tmp_path: Path
) -> None:
    store.pin("runs/00")
    (file,) = (tmp_path / "here").glob("[0-9a-f][0-9a-f]/*")
    file.unlink()
    assert store.to_bytes("runs/00") == bytes(EACH)
    assert pinned(store) == ["runs/00"]


def test_what_cant_be_pinned_is_told(
    store: MountedStore, origin: Origin, repository: MemoryStore
) -> None:
    with pytest.raises(KeyError):
        store.pin("nowhere")
    store.set("new", StringValue(b"mine", {}))
    with pytest.raises(StoreError, match="'new' is staged, and stays here without a pin"):
        store.pin("new")
    repository.set("huge", StringValue(os.urandom(5 * EACH), {}))
    with pytest.raises(StoreFullError, match="'huge' can't be kept here"):
        store.pin("huge")
    origin.stop()
    with pytest.raises(StoreUnavailableError):
        store.pin("runs/07")
    assert pinned(store) == []


def test_bytes_under_an_edit_of_metadata_are_fetched_to_be_pinned(store: MountedStore) -> None:
    store.update_metadata("runs/03", {"more": 1})
    store.pin("runs/03")
    assert pinned(store) == ["runs/03"]
    assert store.with_options(offline="always").to_bytes("runs/03") == bytes([3]) * EACH


def test_pinned_copies_leave_no_room_for_a_prefetch(store: MountedStore) -> None:
    sync.prefetch(store, "runs/0[0-2]", pin=True)
    assert pinned(store) == ["runs/00", "runs/01", "runs/02"]
    store.update_index()
    with pytest.raises(StoreFullError, match="room for 40,960 bytes"):
        sync.prefetch(store, "runs/0[3-4]")
    assert sync.prefetch(store, "runs/03", pin=True).fetched == 1
    with pytest.raises(StoreFullError, match="room for 0 bytes"):
        sync.prefetch(store, "runs/04")
    assert store.to_bytes("runs/05") == bytes([5]) * EACH


# -- on the command line -----------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    folder = tmp_path / "shell"
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\nsize_limit = {4 * EACH}\n')
    return Inside(folder)


def test_pin_fetches_and_shows_everywhere(shell: Inside) -> None:
    ended = shell("pin", "runs/0[01]", "runs/02")
    assert (ended.code, ended.text.splitlines()) == (
        0, ["pinned runs/00", "pinned runs/01", "pinned runs/02"],
    ), ended.err  # fmt: skip
    assert "3 fetched" in ended.err
    assert "pinned:" in shell("info", "runs/00").text
    assert shell("info", "--json", "runs/00").documents[0]["pinned"] is True
    assert shell("info", "--json", "runs/05").documents[0]["pinned"] is False
    assert shell("ls", "-l", "runs/00").text.split()[:4] == ["cached", "pin", "41", "kB"]
    assert shell("ls", "--pinned").text.split() == ["runs/00", "runs/01", "runs/02"]
    refused = shell("drop", "runs/00")
    assert refused.code == 3
    assert "'runs/00' is pinned" in refused.err
    assert "mountcache unpin" in refused.err
    assert shell("unpin", "runs/*").text.split("\n")[0] == "unpinned runs/00"
    assert shell("drop", "runs/*").code == 0


def test_drop_of_a_pattern_leaves_what_is_pinned(shell: Inside) -> None:
    shell("pin", "runs/00")
    shell("prefetch", "runs/01")
    assert shell("drop", "runs/*").text == "dropped runs/01\n"
    both = shell("drop", "runs/01", "runs/00")
    assert (both.code, both.text) == (3, "")
    assert shell("ls", "--cached").text == "runs/00\n"


def test_pin_names_what_it_couldnt(shell: Inside) -> None:
    shell("put", "new", given=b"mine")
    ended = shell("pin", "--json", "new", "nowhere", "runs/00")
    assert ended.code == 3
    assert [(each["key"], each["pinned"]) for each in ended.documents] == [
        ("new", False), ("nowhere", False), ("runs/00", True),
    ]  # fmt: skip
    assert "nowhere isn't pinned: upstream has no such key" in ended.err
    assert "new isn't pinned: it is staged" in ended.err
    none = shell("unpin", "runs/01")
    assert none.code == 3
    assert "'runs/01' isn't pinned" in none.err


def test_cp_shares_the_bytes_and_takes_no_name_that_is_there(
    shell: Inside, store: MountedStore, repository: MemoryStore
) -> None:
    assert store.to_bytes("runs/00") == bytes(EACH)
    before = store.mount.catalog.content.connection().execute("SELECT count(*) FROM Cache")
    assert before.fetchone() == (1,)
    store.cp("runs/00", "copy")
    again = store.mount.catalog.content.connection().execute("SELECT count(*) FROM Cache")
    assert again.fetchone() == (1,)
    assert store.to_bytes("copy") == bytes(EACH)
    assert store.get_metadata("copy") == {"n": 0}
    assert store.exists("runs/00")
    assert store.push("copy").outcome == "pushed"
    assert repository.to_bytes("copy") == repository.to_bytes("runs/00")
    assert shell("cp", "runs/01", "other").text == "copied runs/01 to other\n"
    assert shell("ls", "--staged").text == "other\n"
    taken = shell("cp", "runs/01", "runs/02")
    assert taken.code == 2
    assert "'runs/02' is there already" in taken.err
    assert shell("cp", "nowhere", "x").code == 3


def test_is_pinned_tells_of_one_key(store: MountedStore) -> None:
    assert not is_pinned(store.mount.catalog, "runs/00")
    store.pin("runs/00")
    assert is_pinned(store.mount.catalog, "runs/00")
