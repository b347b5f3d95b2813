"""A directory that can't be written serves what is in it, through a mount and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore
from mountcache.serve import Origin
from tests.command import ROOT
from tests.local_parts import LARGE
from tests.test_directories import open_to_all

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

_AS_NOBODY = """
import encodings.idna, importlib, io, json, os, pkgutil, sys
import mountcache, mountcache.cli, mountcache.mounted
# All that is needed, while it can be read: Python may be installed for root alone.
for name in ("backing", "local", "sync", "cli"):
    package = importlib.import_module("mountcache." + name)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "demo":
            importlib.import_module(package.__name__ + "." + module.name)
import mountcache.config, rich.console
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore
from mountcache.cli import main
from mountcache.errors import ReadOnlyStoreError
path, url, folder = sys.argv[1:]
os.chdir(folder)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
remote = DynamicURLStore(url + "keys", url + "query")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with mountcache.toml, and a store that another user can only read."""
    with DiskCacheStore(tmp_path / "origin") as repository:
        repository.from_bytes("large", LARGE)
        repository.from_bytes("small", b"small")
        repository.from_bytes("elsewhere", b"not fetched")
        with Origin(repository) as origin:
            (tmp_path / "mountcache.toml").write_text(
                f'url = "{origin.url}"\nlayout = "dynamic"\ndir = "{tmp_path}/store"\n'
            )
            (tmp_path / "url").write_text(origin.url)
            remote = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            with MountedStore("", DiskCacheStore(tmp_path / "store", min_free=0), remote) as store:
                store.to_bytes("large")
                store.to_bytes("small")
                store.from_bytes("staged", b"staged" * 10_000)
    open_to_all(tmp_path / "store")
    (tmp_path / "mountcache.toml").chmod(0o644)
    return tmp_path


def as_nobody(place: Path, text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY + text, str(place / "store"),
         (place / "url").read_text(), str(place)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_mount_serves_what_is_here_and_refuses_edits(place: Path) -> None:
    as_nobody(
        place,
        """
with MountedStore("", DiskCacheStore(path), remote, offline="prefer") as store:
    assert store.to_bytes("large") == b"more than fits in a row " * 5000
    assert store.get("small").source == "cached" and store.to_bytes("small") == b"small"
    assert store.to_bytes("staged") == b"staged" * 10_000
    assert [edit.key for edit in store.staged()] == ["staged"]
    assert store.exists("small")
    with store.local_path("large") as file:
        assert len(file.read_bytes()) == 120_000
    for act in (
        lambda: store.set("new", (io.BytesIO(b"1"), {})),
        lambda: store.set_metadata("staged", {}),
        lambda: store.delete("staged"),
        lambda: store.revert("staged"),
        lambda: store.drop("small"),
        lambda: store.push("staged"),
    ):
        try:
            act()
        except ReadOnlyStoreError as error:
            assert "can only be read here" in str(error), error
        else:
            raise AssertionError(act)
""",
    )


def test_command_serves_what_is_here_and_refuses_edits_in_a_sentence(place: Path) -> None:
    (place / "mountcache.toml").write_text(
        (place / "mountcache.toml").read_text() + 'offline = "prefer"\n'
    )
    said = as_nobody(
        place,
        """
def run(*words):
    print("$", *words, flush=True)
    code = main(list(words))
    sys.stdout.flush(), sys.stderr.flush()
    print("=", code, flush=True)
run("cat", "small")
run("get", "small", "-o", "-")
run("ls", "staged")
run("status")
""",
    )
    answers = [part.partition("\n")[2] for part in said.split("$ ")[1:]]
    assert answers[0].startswith("small= 0")
    assert answers[1].startswith("small= 0")
    assert answers[2].startswith("staged\n= 0")
    assert "staged" in answers[3]
    assert "= 1" in answers[3]
    for words in ('"put", "new", "mountcache.toml"', '"rm", "small"', '"push"'):
        said = as_nobody(place, f"print(main([{words}]), flush=True)")
        code, _, told = said.partition("\n")
        assert code == "3", said
        assert told.count("\n") == 1, said
        assert "can only be read here" in told, said
