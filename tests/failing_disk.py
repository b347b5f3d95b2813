# ruff: noqa: PT017 - what is raised is looked at where it may come as well as not
"""What users do with a store, in a program whose system calls may fail: see `test_failing_disk`."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.scripted import pattern
from tests.upstreams import Origin, put

__all__ = ["ACTS", "DATA", "state", "upstream"]

SMALL, LARGE = pattern(500), pattern(90_000, 1)
DATA = {"theirs/small": pattern(400, 2), "theirs/large": pattern(1_300_000, 3), "theirs/n": b"n"}


def upstream() -> Origin:
    """Return an upstream with some values."""
    origin = Origin()
    for key, data in DATA.items():
        put(origin, key, data, n=0)
    return origin


def several(store: MountedStore) -> None:
    with store.transaction("several"):
        store.set("t/small", (io.BytesIO(SMALL), {}))
        store.set("t/large", (io.BytesIO(LARGE), {}))
        store.delete("large")


def read(key: str) -> Callable[[MountedStore], None]:
    """Return what reads a key, which never fails."""

    def act(store: MountedStore) -> None:
        assert store.to_bytes(key) == DATA[key]

    return act


ACTS: dict[str, Callable[[MountedStore], Any]] = {
    "set small": lambda store: store.set("small", (io.BytesIO(SMALL), {"n": 1})),
    "set large": lambda store: store.set("large", (io.BytesIO(LARGE), {"n": 2})),
    "read small": read("theirs/small"),
    "read large": read("theirs/large"),
    "metadata": lambda store: store.set_metadata("theirs/n", {"n": 3}),
    "data": lambda store: store.set_data("small", io.BytesIO(LARGE[::-1])),
    "transaction": several,
    "mv": lambda store: store.mv("t/large", "moved"),
    "delete": lambda store: store.delete("theirs/small"),
    "revert": lambda store: store.revert("theirs/n"),
}


def state(store: MountedStore) -> list[list[Any]]:
    """Return what is staged, with its bytes."""
    found: list[list[Any]] = []
    for edit in sorted(store.staged(), key=lambda each: each.key):
        told: list[Any] = [edit.state, edit.what]
        if edit.state != "deleted":
            told.append(store.get_metadata(edit.key))
        if edit.what == "data":
            told.append(hashlib.sha256(store.to_bytes(edit.key)).hexdigest())
        found.append([edit.key, told])
    return found


def main(directory: str, how: str, told: str) -> None:
    """Do all acts; say which was the last that was done, and which one failed and ended them.

    Parameters
    ----------
    how
        "once": an act that fails is done again.
    told
        The descriptor of a socket, which no failing call keeps from saying it.
    """
    says = socket.socket(fileno=int(told))
    mimetypes.init()  # reads files that are none of ours
    store = MountedStore("", DiskCacheStore(directory, min_free=0), upstream())
    store.exists("nothing")
    done = failed = None
    says.send(b"the acts begin\n")
    for name, act in ACTS.items():
        try:
            act(store)
        except StoreError as error:
            assert "\n" not in str(error), error
            assert not name.startswith("read"), (name, repr(error))
            if how != "once":
                failed = name
                break
            act(store)
        done = name
    with suppress(StoreError):
        store.disconnect()
    says.send(json.dumps({"done": done, "failed": failed}).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
