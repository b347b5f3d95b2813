"""A disk that fails at one system call or from there on: nothing is half done, nothing is lost.

A program does what users do, under strace, which lets a call of it fail. Where an act fails it
has changed nothing, and does what it should once the disk is well again; what was acknowledged
stays. Reads don't fail for want of room.

In a default run a few calls are chosen; all of them are tried with ``MOUNTCACHE_EACH_CALL=1``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.doctor import examine
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from tests.command import ROOT
from tests.failing_disk import ACTS, DATA, state, upstream

EACH = os.environ.get("MOUNTCACHE_EACH_CALL") == "1"
CHOSEN = 10


def run(folder: Path, *inject: str, once: bool = True) -> tuple[Any, str]:
    """Run the acts on a store in a folder, with calls that fail; return what they said."""
    folder.mkdir()
    here, there = socket.socketpair()
    with here, there:
        done = subprocess.run(
            [
                "strace", "-f", "-qq", "-o", str(folder / "calls"), *inject,
                sys.executable, "-m", "tests.failing_disk", str(folder / "store"),
                "once" if once else "from there on", str(there.fileno()),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[there.fileno()], capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (inject, done.stderr[-3000:])
        there.close()
        with here.makefile() as said:
            return json.loads(said.readlines()[1]), (folder / "calls").read_text()


State = list[tuple[str, object]]


def plain(found: object) -> State:
    """Return a state as it comes out of JSON."""
    state: State = json.loads(json.dumps(found))
    return state


@pytest.fixture(scope="module")
def states() -> dict[str | None, State]:
    """What is staged after each act."""
    found: dict[str | None, State] = {None: []}
    with MemoryStore() as local:
        store = MountedStore("", local, upstream())
        for name, act in ACTS.items():
            act(store)
            found[name] = plain(state(store))
    return found


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """How many calls of each name are made before the acts begin, and in all."""
    folder = tmp_path_factory.mktemp("counting") / "whole"
    _, calls = run(folder, f"-etrace={WRITES},{OPENS},{SYNCS},sendto")
    found: dict[str, tuple[int, int]] = {}
    begun = False
    for line in calls.splitlines():
        name = line.split(" ", 1)[1].strip().partition("(")[0]
        begun = begun or name == "sendto"
        before, in_all = found.get(name, (0, 0))
        found[name] = before + (not begun), in_all + 1
    return found


WRITES, OPENS, SYNCS = "write,pwrite64,ftruncate,mkdir,rename", "openat", "fdatasync,fsync"
FAULTS = {
    "the disk is full": (WRITES, "ENOSPC"),
    "over the quota": (WRITES, "EDQUOT"),
    "no file handles": (OPENS, "EMFILE"),
    "rights were taken away": (OPENS, "EACCES"),
    "the disk can't be written": (WRITES, "EIO"),
    "the disk can't sync": (SYNCS, "EIO"),
}


def chosen(calls: str, counts: dict[str, tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Iterate over names of calls, and which of them is to fail."""
    most = CHOSEN // len(calls.split(","))
    for call in calls.split(","):
        begun, in_all = counts.get(call, (0, 0))
        step = 1 if EACH else max(1, -(-(in_all - begun) // most))
        yield from ((call, number) for number in range(begun + 1, in_all + 1, step))


@pytest.mark.parametrize("once", [True, False], ids=["once", "from there on"])
@pytest.mark.parametrize("name", FAULTS)
def test_act_that_the_disk_fails_is_not_half_done(
    tmp_path: Path,
    counts: dict[str, tuple[int, int]],
    states: dict[str | None, State],
    name: str,
    once: bool,
) -> None:
    calls, error = FAULTS[name]
    met = 0
    for call, number in chosen(calls, counts):
        folder = tmp_path / f"{call} {number}"
        when = f"{number}" if once else f"{number}+"
        said, calls_made = run(folder, f"-einject={call}:error={error}:when={when}", once=once)
        met += "(INJECTED)" in calls_made
        # A commit that couldn't be synced may be on disk all the same.
        maybe = said["failed"] if error == "EIO" else said["done"]
        check(folder / "store", states[said["done"]], states[maybe])
    assert met >= 4


def check(directory: Path, acknowledged: State, maybe: State) -> None:
    """Open what was left, on a disk that is well again."""
    with DiskCacheStore(directory, min_free=0) as local:
        store = MountedStore("", local, upstream())
        found = plain(state(store))
        assert found in (acknowledged, maybe)
        for key in DATA.keys() - dict(found).keys():
            assert store.to_bytes(key) == DATA[key]
        for act in ACTS.values():
            with suppress(KeyError, StoreError):  # it was done before
                act(store)
        local.catalog.content.gc()
        assert all(each.outcome != "failed" for each in sync.push(store).results)
    assert [each for each in examine(directory) if each.severity != "note"] == []
