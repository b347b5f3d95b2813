"""Frozen inputs: the same bytes as then, or a refusal that says what is different."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mountcache
from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ConfigurationError,
    IntegrityError,
    NotLockedError,
    ReadOnlyStoreError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from mountcache.frozen import FrozenStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import Locked, Lockfile, prefetch_locked, read_lock, write_lock
from mountcache.sync.frozen import read_keys
from mountcache.testing import Origin
from mountcache.values import StringValue
from tests.command import Inside

LARGE = os.urandom(3_000_000)
THEN = {"a": b"a then", "b": b"b then", "large": LARGE}
Open = Callable[..., MountedStore]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({key: (data, {"n": len(data)}) for key, data in THEN.items()}) as running:
        yield running


@pytest.fixture(params=["dynamic", "static"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mount(origin: Origin, tmp_path: Path, layout: str) -> Iterator[Open]:
    opened: list[MountedStore] = []

    def store(
        name: str, lock: Lockfile | None = None, point: str = "", **options: Any
    ) -> MountedStore:
        backing = (
            DynamicURLStore(f"{origin.url}keys", f"{origin.url}query", timeout=5)
            if layout == "dynamic"
            else StaticURLStore(origin.url, poll=0, timeout=5)
        )
        local = DiskCacheStore(tmp_path / name, min_free=0, **options.pop("local", {}))
        ends = (point, local, backing)
        made = (
            MountedStore(*ends, **options) if lock is None else FrozenStore(lock, *ends, **options)
        )
        made.connect()
        opened.append(made)
        return made

    yield store
    for each in opened:
        each.disconnect()


# -- the file ----------------------------------------------------------------------------


def test_lock_names_size_digest_and_version_of_each_key(mount: Open, origin: Origin) -> None:
    store = mount("here")
    told: list[tuple[int, int]] = []
    lock = sync.lock(store, progress=lambda done, total, key: told.append((done, total)))
    assert {key: (each.size, each.sha256) for key, each in lock.keys.items()} == {
        key: (len(data), sha(data)) for key, data in THEN.items()
    }
    assert all(each.version for each in lock.keys.values())
    assert told[-1] == (3, 3)
    assert set(store.cached()) == set(THEN)
    assert set(sync.lock(store, "[ab]").keys) == {"a", "b"}


def test_lock_of_what_has_no_room_is_the_same(mount: Open) -> None:
    whole = sync.lock(mount("here"))
    small = sync.lock(mount("small", local={"size_limit": 1000}))
    assert {key: each.sha256 for key, each in small.keys.items()} == {
        key: each.sha256 for key, each in whole.keys.items()
    }
    assert small.keys["large"].version == whole.keys["large"].version


def test_lock_names_upstreams_bytes_and_refuses_staged_ones(mount: Open, origin: Origin) -> None:
    store = mount("here")
    store.to_bytes("a")
    origin.change("a", b"a now")
    assert sync.lock(store, "a").keys["a"].sha256 == sha(b"a now")
    store.set("staged", StringValue(b"mine", {}))
    with pytest.raises(StoreError, match="push or revert"):
        sync.lock(store)
    assert set(sync.lock(store, "[ab]").keys) == {"a", "b"}
    # A key that a delete hides is upstream's all the same.
    store.delete("b")
    with pytest.raises(StoreError, match="'b'"):
        sync.lock(store, "[ab]")


def test_same_lock_is_the_same_text_and_a_change_is_a_line(
    mount: Open, origin: Origin, tmp_path: Path
) -> None:
    path = tmp_path / "mountcache.lock"
    write_lock(sync.lock(mount("one")), path)
    before = path.read_text()
    written = path.stat().st_mtime_ns
    write_lock(sync.lock(mount("two")), path)
    assert path.read_text() == before
    assert path.stat().st_mtime_ns == written
    assert json.loads(before)["format"] == "mountcache lock"
    origin.change("b", b"b now")
    write_lock(sync.lock(mount("one")), path)
    pairs = zip(before.splitlines(), path.read_text().splitlines(), strict=True)
    changed = [new for old, new in pairs if old != new]
    assert len(changed) == 1
    assert changed[0].strip().startswith('"b": ')
    assert list(tmp_path.glob("*unfinished*")) == []


def test_keys_of_all_kinds_come_back_from_the_file(tmp_path: Path) -> None:
    keys = ["a/b", 'q"uote', "ä %2F", "\\", "{", "k" * 4096, "\u2028"]
    lock = Lockfile({key: Locked(1, "0" * 64, None) for key in sorted(keys)}, "http://x/")
    write_lock(lock, tmp_path / "f")
    assert read_lock(tmp_path / "f") == lock
    empty = Lockfile({}, None)
    write_lock(empty, tmp_path / "f")
    assert read_lock(tmp_path / "f") == empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "<<<<<<< HEAD\n{}",
        '{"format": "mountcache lock", "version": 1}',
        '{"format": "mountcache lock", "version": true, "keys": {}}',
        '{"format": "mountcache lock", "version": 1, "keys": []}',
        '{"format": "mountcache lock", "version": 1, "keys": {"a": 1}}',
        '{"format": "mountcache lock", "version": 1, "keys": {"a": {"size": 1}}}',
        '{"format": "mountcache lock", "version": 1, "keys": {"": {"size": 1, "sha256": "SHA"}}}',
        '{"format": "mountcache lock", "version": 1, "keys": {"a": {"size": -1, "sha256": "SHA"}}}',
        '{"format": "mountcache lock", "version": 1, "keys": {"a": {"size": 1, "sha256": "aSHA"}}}',
        '{"format": "mountcache lock", "version": 1, "keys": {"a": ENTRY, "a": ENTRY}}',
        '{"a":' * 100_000,
    ],
    ids=range(14),
)
def test_file_that_is_no_lock_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f"
    text = text.replace("ENTRY", '{"size": 1, "sha256": "SHA"}')
    path.write_text(text.replace("SHA", "0" * 64))
    with pytest.raises(ConfigurationError, match="is no lock") as raised:
        read_lock(path)
    assert str(path) in str(raised.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_lock(path)


def test_lock_of_a_later_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"format": "mountcache lock", "version": 2, "keys": {}}')
    with pytest.raises(ConfigurationError, match="bring it up to date"):
        read_lock(tmp_path / "f")


def test_lock_without_end_isnt_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(Lockfile({"a": Locked(1, "0" * 64)}), tmp_path / "f")
    monkeypatch.setattr("mountcache.sync.frozen.LONGEST", 50)
    with pytest.raises(ConfigurationError, match="more than 50 bytes"):
        read_lock(tmp_path / "f")


def test_list_of_keys_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("\ufeffa\r\n\n b \n#c\nä\na".encode())
    assert read_keys(path) == ["a", " b ", "#c", "ä"]


# -- with a lock in force ----------------------------------------------------------------


def test_bytes_of_then_are_given_whatever_upstream_has_now(mount: Open, origin: Origin) -> None:
    lock = sync.lock(mount("here"))
    origin.change("a", b"a now", {"n": 5})
    origin.remove("b")
    plain = mount("here")
    frozen = mount("here", lock)
    for _ in range(2):
        assert {key: frozen.to_bytes(key) for key in THEN} == THEN
    assert frozen.get("a").source == "cached"
    assert frozen.get_data_range("large", 1000, 2000).read() == LARGE[1000:2000]
    assert frozen.get_metadata("a") == {"n": 6}
    with frozen.local_path("large") as path:
        assert path.read_bytes() == LARGE
    assert list(frozen.glob("*")) == sorted(THEN)
    assert dict(frozen.query(n=6)) == {"a": {"n": 6}, "b": {"n": 6}}
    # A store without the lock goes on as ever.
    assert plain.with_options(max_age=0.0).to_bytes("a") == b"a now"


def test_what_isnt_here_is_fetched_and_compared(mount: Open, origin: Origin) -> None:
    lock = sync.lock(mount("here"))
    frozen = mount("there", lock)
    for key, data in THEN.items():
        value = frozen.get(key)
        assert (value.size, value.data.read()) == (len(data), data)
    origin.stop()
    assert {key: frozen.to_bytes(key) for key in THEN} == THEN


def test_other_bytes_are_refused_with_what_was_expected_and_found(
    mount: Open, origin: Origin
) -> None:
    lock = sync.lock(mount("here"))
    origin.change("a", b"a now.")
    origin.change("b", b"longer than then")
    origin.change("large", os.urandom(len(LARGE)))
    frozen = mount("there", lock)
    for key in THEN:
        for _ in range(2):
            with pytest.raises(IntegrityError) as raised:
                frozen.to_bytes(key)
            said = str(raised.value)
            assert repr(key) in said and lock.keys[key].sha256 in said
            assert "was found" in said
        with pytest.raises(IntegrityError):
            frozen.get_data_range(key, 0, 1)
        with pytest.raises(IntegrityError):
            frozen.get(key).data.read(1)
    assert sha(b"a now.") in str(_error(lambda: frozen.to_bytes("a")))
    origin.remove("a")
    assert "no such key" in str(_error(lambda: frozen.to_bytes("a")))
    origin.change("a", THEN["a"])
    assert frozen.to_bytes("a") == THEN["a"]


def _error(read: Callable[[], object]) -> IntegrityError:
    with pytest.raises(IntegrityError) as raised:
        read()
    return raised.value


def test_fresh_copy_of_another_version_is_no_answer(mount: Open, origin: Origin) -> None:
    """It is younger than max_age, and yet not what the lock names."""
    old = mount("there", max_age=3600.0)
    assert old.to_bytes("a") == b"a then"
    origin.change("a", b"a now")
    lock = sync.lock(mount("here"), "a")
    assert mount("there", lock, max_age=3600.0).to_bytes("a") == b"a now"


def test_upstream_is_asked_though_any_copy_and_any_index_would_do(
    mount: Open, origin: Origin
) -> None:
    list(mount("there").query_keys())
    origin.change("a", b"a now", {"n": 5})
    lock = sync.lock(mount("here"), "a")
    assert mount("there", lock, offline="prefer").to_bytes("a") == b"a now"


def test_what_cant_be_known_is_no_mismatch(mount: Open, origin: Origin) -> None:
    lock = sync.lock(mount("here"))
    stale = mount("there")
    origin.change("a", b"another")
    stale.to_bytes("a")
    origin.stop()
    frozen = mount("there", lock)
    for key in ("a", "b"):
        with pytest.raises(StoreUnavailableError, match="prefetch --from"):
            frozen.to_bytes(key)
    with pytest.raises(StoreUnavailableError):
        frozen.with_options(offline="always").to_bytes("a")


def test_keys_that_arent_locked_are_refused(mount: Open) -> None:
    lock = sync.lock(mount("here"), "a")
    frozen = mount("here", lock)
    for read in (frozen.get, frozen.get_data, frozen.get_metadata, frozen.exists, frozen.to_bytes):
        with pytest.raises(NotLockedError, match="isn't among the 1 keys"):
            read("b")
    assert frozen.exists("a")
    assert list(frozen.glob("*")) == ["a"]
    assert list(frozen.query_keys()) == ["a"]


def test_nothing_can_be_changed_and_what_is_staged_isnt_seen(mount: Open, origin: Origin) -> None:
    plain = mount("here")
    lock = sync.lock(plain)
    plain.set_data("a", io.BytesIO(b"mine"))
    plain.delete("b")
    frozen = mount("here", lock)
    assert frozen.to_bytes("a") == b"a then"
    assert frozen.to_bytes("b") == b"b then"
    changes: list[Callable[[], object]] = [
        lambda: frozen.set("a", StringValue(b"x", {})),
        lambda: frozen.set_metadata("a", {}),
        lambda: frozen.delete("a"),
        lambda: frozen.mv("large", "c"),
        lambda: frozen.revert("a"),
        lambda: frozen.drop("large"),
        lambda: frozen.push("a"),
        lambda: frozen.open("c", "wb"),
        lambda: sync.push(frozen),
        lambda: sync.prefetch(frozen, "*"),
        lambda: sync.pull(frozen),
        lambda: sync.resolve(frozen, "a", "mine"),
        lambda: frozen.hold("a"),
        lambda: frozen.rebind(origin.url),
    ]
    for change in changes:
        with pytest.raises(ReadOnlyStoreError, match="is in force"):
            change()
    assert frozen.info()["readonly"]
    assert {edit.key for edit in plain.staged()} == {"a", "b"}
    # Beneath an edit upstream is asked, too.
    plain.drop("large")
    other = mount("other")
    other.set("a", StringValue(b"mine, unseen", {}))
    other.set("b", StringValue(b"mine, unseen", {}))
    assert mount("other", lock).to_bytes("a") == b"a then"
    assert prefetch_locked(other, lock).failed == {}
    assert other.to_bytes("b") == b"mine, unseen"
    assert mount("other", lock).with_options(offline="always").to_bytes("b") == b"b then"


def test_value_that_finds_no_room_is_compared_all_the_same(mount: Open, origin: Origin) -> None:
    lock = sync.lock(mount("here"))
    frozen = mount("small", lock, local={"size_limit": 1000})
    value = frozen.get("large")
    assert value.data.read() == LARGE
    assert frozen.get_data_range("large", 5, 10).read() == LARGE[5:10]
    with frozen.local_path("large") as path:
        assert path.read_bytes() == LARGE
    assert frozen.with_options(fill=False).to_bytes("b") == b"b then"
    assert not list(frozen.cached())
    origin.change("large", LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        frozen.get("large").data.read(1)


def test_copy_that_rotted_here_is_fetched_again(
    mount: Open, origin: Origin, tmp_path: Path
) -> None:
    store = mount("here")
    lock = sync.lock(store)
    with closing(sqlite3.connect(tmp_path / "here" / "cache.db")) as con:
        con.execute("UPDATE Cache SET value = ? WHERE value = ?", (b"A THEN", b"a then"))
        con.commit()
    frozen = mount("here", lock)
    assert frozen.to_bytes("a") == b"a then"
    assert sha(frozen.to_bytes("a")) == lock.keys["a"].sha256


def test_frozen_store_goes_to_another_process(mount: Open, layout: str) -> None:
    lock = sync.lock(mount("here"), "a")
    frozen = mount("here", lock)
    with pickle.loads(pickle.dumps(frozen)) as again:
        assert type(again) is FrozenStore
        assert again.to_bytes("a") == b"a then"
        with pytest.raises(NotLockedError):
            again.to_bytes("b")
    with pytest.raises(NotLockedError):
        frozen.with_options(offline="prefer").to_bytes("b")


def test_keys_below_a_mount_point_are_frozen_under_their_full_names(
    mount: Open, origin: Origin
) -> None:
    origin.change("runs/1", b"one", {})
    lock = sync.lock(mount("here", point="runs/"))
    assert set(lock.keys) == {"runs/1"}
    origin.change("runs/1", b"two")
    assert mount("here", lock, "runs/").to_bytes("runs/1") == b"one"
    beyond = Lockfile({"a": Locked(6, sha(b"a then"))})
    with pytest.raises(NotLockedError, match="outside the mount point"):
        mount("here", beyond, "runs/").to_bytes("a")


# -- prefetch ----------------------------------------------------------------------------


def test_prefetch_of_a_lock_has_all_here_or_says_what_is_different(
    mount: Open, origin: Origin
) -> None:
    lock = sync.lock(mount("here"))
    there = mount("there")
    there.to_bytes("a")
    report = prefetch_locked(there, lock)
    assert (report.fetched, report.already, report.failed) == (2, 1, {})
    origin.change("b", b"b now")
    origin.remove("a")
    # What is here has the right bytes, whatever upstream has.
    assert prefetch_locked(there, lock).already == 3
    report = prefetch_locked(mount("third"), lock)
    assert (report.fetched, set(report.failed)) == (1, {"a", "b"})
    assert sha(b"b now") in report.failed["b"] and sha(b"b then") in report.failed["b"]
    origin.stop()
    assert prefetch_locked(there, lock).already == 3
    with pytest.raises(StoreUnavailableError):
        prefetch_locked(mount("fourth"), lock)
    with pytest.raises(StoreFullError):
        prefetch_locked(mount("small", local={"size_limit": 1000}), lock)


def test_prefetch_of_a_lock_evicts_nothing_that_it_names(mount: Open, origin: Origin) -> None:
    origin.change("filler", b"f" * 2_000_000, {})
    lock = sync.lock(mount("here"), "[abl]*")
    there = mount("there", local={"size_limit": 3_100_000})
    there.to_bytes("a")
    there.to_bytes("filler")
    report = prefetch_locked(there, lock)
    assert (report.fetched, report.already, report.failed) == (2, 1, {})
    assert set(there.cached()) == set(THEN)


def test_prefetch_of_named_keys_brings_these_alone(mount: Open) -> None:
    store = mount("here")
    report = sync.prefetch(store, ["a", "large", "none"])
    assert (report.fetched, set(report.failed)) == (2, {"none"})
    assert set(store.cached()) == {"a", "large"}


# -- from Python and the command line ----------------------------------------------------


@pytest.fixture
def shell(origin: Origin, tmp_path: Path) -> Inside:
    folder = tmp_path / "work"
    folder.mkdir()
    shell = Inside(folder)
    assert shell("init", origin.url).code == 0
    return shell


def test_story_of_the_paper(shell: Inside, origin: Origin, tmp_path: Path) -> None:
    ended = shell("lock", "[ab]")
    assert (ended.code, ended.text) == (0, "2 keys in mountcache.lock\n")
    assert "prefetch --from mountcache.lock --frozen" in ended.err
    assert shell("lock", "[ab]").text == "2 keys in mountcache.lock (0 changed, 0 new, 0 gone)\n"
    toml, lock = shell.folder / "mountcache.toml", shell.folder / "mountcache.lock"
    with mountcache.open(toml, lock=lock) as store:
        assert store.to_bytes("a") == b"a then"
    origin.change("a", b"a now")
    # The reader has nothing yet, and upstream has moved on.
    other = tmp_path / "reader"
    with mountcache.open(toml, lock=lock, dir=other) as store:
        assert store.to_bytes("b") == b"b then"
        with pytest.raises(IntegrityError, match=r"mountcache\.lock"):
            store.to_bytes("a")
        with pytest.raises(NotLockedError):
            store.to_bytes("large")
    # The author's machine still has it.
    assert shell("prefetch", "--from", "mountcache.lock", "--frozen").code == 0
    shell("drop", "a")
    ended = shell("prefetch", "--from", "mountcache.lock", "--frozen")
    assert ended.code == 3
    assert ended.text == "0 fetched (5 bytes), 1 here already, 1 failed\n"
    assert sha(b"a then") in ended.err and sha(b"a now") in ended.err
    ended = shell("lock", "--json")
    assert ended.documents == [
        {"file": "mountcache.lock", "keys": 3, "new": ["large"], "changed": ["a"], "gone": []}
    ]


def test_prefetch_from_a_list_or_a_lock(shell: Inside, origin: Origin) -> None:
    (shell.folder / "keys").write_text("a\nlarge\n")
    ended = shell("prefetch", "--from", "keys", "--json")
    assert (ended.code, ended.documents[0]["fetched"]) == (0, 2)
    (shell.folder / "keys").write_text("a\nnone\n")
    ended = shell("prefetch", "--from", "keys")
    assert ended.code == 3
    assert "none: upstream has no such key" in ended.err
    assert shell("lock", "b", "-o", "b.lock").code == 0
    origin.change("b", b"b now")
    assert shell("prefetch", "--from", "b.lock").text.startswith("1 fetched")
    assert shell("cat", "b").out == b"b now"


def test_directory_that_is_switched_offline_asks_nobody(shell: Inside, origin: Origin) -> None:
    assert shell("lock", "a").code == 0
    assert shell("offline", "on").code == 0
    origin.requests.clear()
    assert shell("lock", "-o", "other").code == 4
    assert shell("prefetch", "--from", "mountcache.lock", "--frozen").code == 0
    shell("drop", "a")
    assert shell("prefetch", "--from", "mountcache.lock", "--frozen").code == 4
    with mountcache.open(
        shell.folder / "mountcache.toml", lock=shell.folder / "mountcache.lock"
    ) as store:
        assert store.is_offline()
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("a")
    assert not origin.requests


def test_lock_to_standard_output_is_a_lock(shell: Inside) -> None:
    ended = shell("lock", "-o", "-")
    (shell.folder / "x.lock").write_bytes(ended.out)
    assert set(read_lock(shell.folder / "x.lock").keys) == set(THEN)


def test_mistakes_on_the_line_are_one_sentence_and_lose_nothing(
    shell: Inside, origin: Origin
) -> None:
    (shell.folder / "precious").write_text("text")
    (shell.folder / "keys").write_text("a\n")
    for words, code in (
        (["lock", "-o", "precious"], 3),
        (["lock", "none*"], 3),
        (["lock", "-o", "no/such/folder"], 3),
        (["lock", "--json", "-o", "-"], 64),
        (["prefetch", "--frozen"], 64),
        (["prefetch", "a", "--from", "keys"], 64),
        (["prefetch", "--from", "keys", "--frozen"], 3),
        (["prefetch", "--from", "none"], 3),
    ):
        ended = shell(*words)
        assert (ended.code, ended.err.count("\n")) == (code, 1), words
    assert (shell.folder / "precious").read_text() == "text"
    assert not (shell.folder / "mountcache.lock").exists()
    origin.stop()
    assert shell("lock").code == 4
