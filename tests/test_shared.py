"""A directory that a group shares, and one that it doesn't: with users of their own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.errors import DirectoryError
from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

ADA, BOB, EVE = 50_001, 50_002, 50_003
GROUP = 50_100

_RUN = """
import encodings.idna, importlib, io, os, pkgutil, sys
import mountcache
# All that is needed, while it can be read: Python may be installed for root alone.
for room in ("backing", "local", "sync"):
    package = importlib.import_module("mountcache." + room)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(package.__name__ + "." + module.name)
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, sync
directory, url, shared = sys.argv[3], sys.argv[4], sys.argv[5] or None
# Once as root, so that what is imported late is here too.
with MountedStore("", mountcache.MemoryStore(), DynamicURLStore(url + "keys", url + "query")) as s:
    s.to_bytes("theirs")
os.setgroups([int(each) for each in sys.argv[2].split(",")])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.umask(0o077)
uid = os.getuid()

def opened():
    return MountedStore(
        "",
        DiskCacheStore(directory, shared=shared, min_free=0),
        DynamicURLStore(url + "keys", url + "query"),
        author=str(uid),
    )

def put(store, key, data):
    store.set(key, (io.BytesIO(data), {}))

LARGE = bytes(range(256)) * 1024
"""


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with DiskCacheStore(tmp_path_factory.mktemp("origin") / "store") as repository:
        repository.from_bytes("theirs", b"t" * 100_000)
        with Origin(repository) as origin:
            yield origin.url


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory that ada made for the group; others may pass through to it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    made = tmp_path / "store"
    made.mkdir()
    os.chown(made, ADA, GROUP)
    return made


def run(uid: int, directory: Path, url: str, script: str, shared: str = "") -> str:
    """Run a script as a user; return what it prints."""
    groups = f"{GROUP},{uid}" if uid != EVE else f"{uid}"
    done = subprocess.run(
        [sys.executable, "-c", _RUN + script, str(uid), groups, str(directory), url, shared],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
        env={**os.environ, "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_root
def test_one_stages_another_edits_and_pushes(directory: Path, url: str) -> None:
    run(
        ADA, directory, url,
        'with opened() as s: s.to_bytes("theirs"); put(s, "small", b"1"); put(s, "large", LARGE)',
        "group",
    )  # fmt: skip
    said = run(
        BOB, directory, url,
        'with opened() as s:\n'
        '    assert s.to_bytes("large") == LARGE and s.to_bytes("small") == b"1"\n'
        '    assert s.get("theirs").source == "cached"\n'
        '    with s.local_path("theirs") as path: assert len(path.read_bytes()) == 100_000\n'
        '    put(s, "small", b"2"); put(s, "mine", LARGE + b"!")\n'
        '    print([r.outcome for r in sync.push(s).results], {e.author for e in s.staged()})\n',
    )  # fmt: skip
    assert said == "['pushed', 'pushed', 'pushed'] set()\n"
    # What bob made, ada goes on with: copies, drops, undo, and what is left of them.
    run(
        ADA, directory, url,
        'with opened() as s:\n'
        '    assert s.to_bytes("mine") == LARGE + b"!" and s.to_bytes("small") == b"2"\n'
        '    with s.local_path("theirs") as path: assert len(path.read_bytes()) == 100_000\n'
        '    s.drop("mine"); put(s, "large", b"3"); s.revert("large"); s.undo("large")\n'
        '    s.mount.catalog.content.gc()\n',
    )  # fmt: skip


@needs_root
def test_all_of_it_is_the_groups_whatever_the_umask(directory: Path, url: str) -> None:
    run(ADA, directory, url, 'with opened() as s: put(s, "large", LARGE)', "group")
    run(BOB, directory, url, 'with opened() as s: put(s, "other", LARGE); s.to_bytes("theirs")')
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2770
    for path in directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o2770 if path.is_dir() else 0o660), (path, oct(mode))
        assert path.stat().st_gid == GROUP, path


@needs_root
def test_what_one_left_who_was_killed_another_removes(directory: Path, url: str) -> None:
    run(
        ADA, directory, url,
        's = opened(); put(s, "k", b"1")\n'
        'w = s.mount.catalog.content.spool(); w.write(LARGE); print(os.listdir(directory + "/tmp"))'
        '; sys.stdout.flush(); os.kill(os.getpid(), 9) if os.fork() == 0 else os.wait()\n'
        'os._exit(0)',
        "group",
    )  # fmt: skip
    assert list((directory / "tmp").iterdir())
    run(BOB, directory, url, 'with opened() as s: assert s.to_bytes("k") == b"1"')
    assert not list((directory / "tmp").iterdir())


@needs_root
def test_who_isnt_in_the_group_is_told_so(directory: Path, url: str) -> None:
    run(ADA, directory, url, 'with opened() as s: put(s, "k", b"1")', "group")
    said = run(
        EVE, directory, url,
        'from mountcache.errors import DirectoryError\n'
        'try: opened().to_bytes("k")\nexcept DirectoryError as error: print(error)',
    )  # fmt: skip
    assert "Permission denied" in said
    assert str(directory) in said


@needs_root
def test_store_of_one_user_is_nobody_elses(directory: Path, url: str) -> None:
    run(ADA, directory, url, 'with opened() as s: put(s, "k", LARGE)')
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    said = run(
        BOB, directory, url,
        'from mountcache.errors import DirectoryError\n'
        'try: opened().to_bytes("k")\nexcept DirectoryError as error: print(error)',
    )  # fmt: skip
    assert "Permission denied" in said


def test_store_of_one_user_doesnt_become_a_groups(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "s") as store:
        store.from_bytes("k", b"1")
    with pytest.raises(DirectoryError, match="owner alone"):
        DiskCacheStore(tmp_path / "s", shared="group").connect()
    with DiskCacheStore(tmp_path / "t", shared="group") as store:
        store.from_bytes("k", b"1")
    with DiskCacheStore(tmp_path / "t") as store:
        assert store.to_bytes("k") == b"1"
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o2770


def test_nobody_but_a_group_can_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="group"):
        DiskCacheStore(tmp_path / "s", shared="all").connect()  # type: ignore[arg-type]
