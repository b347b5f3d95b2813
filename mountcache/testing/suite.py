"""What the test classes share: what they are told of a store, and what they feed it."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytest

from mountcache.abc import AbstractReadOnlyStore, AbstractStore
from mountcache.keys import MAX_KEY_BYTES

__all__ = ["Entries", "Populate", "StoreSuite", "needs"]

Entries = Mapping[str, tuple[bytes, dict[str, Any]]]
"""What a store is to hold: data and metadata by key."""

Populate = Callable[[Entries], AbstractReadOnlyStore]
"""Fills the store under test and returns it."""


_Test = TypeVar("_Test", bound=Callable[..., object])


def needs(**flags: bool) -> Callable[[_Test], _Test]:
    """Mark a test of something that only some stores promise, as their `StoreSuite` says.

    It is no test of the other stores: it isn't collected there, rather than skipped.
    """

    def mark(test: _Test) -> _Test:
        test.__dict__["needs"] = {**test.__dict__.get("needs", {}), **flags}
        return test

    return mark


class StoreSuite:
    """What is particular about the store under test; the other classes here build on it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {name for each in cls.__mro__ for name in vars(each)}:
            # None hides a test from pytest; a subclass may have shown it again.
            test = next(filter(None, (vars(each).get(name) for each in cls.__mro__)), None)
            flags: dict[str, bool] | None = getattr(test, "needs", None)
            if isinstance(flags, dict):
                fits = all(getattr(cls, flag) == value for flag, value in flags.items())
                shown = test if fits else None
                if getattr(cls, name) is not shown:
                    setattr(cls, name, shown)

    keys_are_paths: bool = False
    """Keys become paths of URLs: those with empty, "." and ".." segments are refused."""
    longest_key: int = MAX_KEY_BYTES
    """Bytes of the longest key that the way to the store lets through."""
    has_versions: bool = True
    """Values have a `version`, and setters compare it with ``base=``."""
    defers_conflicts: bool = False
    """A `base` for a key of which nothing is known is believed, and compared later."""
    rolls_back: bool = True
    """An exception takes back what a transaction wrote."""
    has_snapshots: bool = True
    """A value gives the data it was got with after the key was set again or deleted.

    If False, its data may raise ChangedWhileReadingError instead.
    """
    keeps_permissions: bool = False
    """Keys have permissions beside data and metadata."""
    survives_disconnect: bool = True
    """What was set is there after `disconnect` and `connect`."""
    keeps_metadata: bool = True
    """Upstream gives the metadata back that it was given.

    If False, it has metadata of its own, and what is about others is left out.
    """
    large: int = 3 * 1048576 + 17
    """Bytes of a value that is too large to be kept in one piece."""

    @pytest.fixture
    def store(self) -> AbstractStore:
        """An empty, connected store that can be written; given by the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has to give a fixture `store`")

    @pytest.fixture
    def populate(self, request: pytest.FixtureRequest) -> Populate:
        """A function that fills the store; given by the subclass if there is no `store`."""
        store: AbstractStore = request.getfixturevalue("store")

        def fill(entries: Entries) -> AbstractReadOnlyStore:
            for key, (data, metadata) in entries.items():
                store.set(key, (io.BytesIO(data), metadata))
            return store

        return fill


ODD_KEYS: tuple[str, ...] = (
    "with space",
    " space first",
    "space last ",
    "a%2Fb",
    "a/b",
    "%",
    "%zz",
    "question?mark=1",
    "hash#mark",
    "plus+plus",
    "amp&ersand=1;2,3",
    "colon:at@sign",
    "back\\slash",
    "single'quote",
    'double"quote',
    "[brackets]{braces}(parens)",
    "star*and?",
    "~tilde",
    "$dollar`tick`<>|^",
    "-rf",
    "..two dots first",
    "two dots last..",
    "...",
    ".hidden",
    "Case",
    "case",
    "caf\u00e9",
    "cafe\u0301",
    "\u65e5\u672c\u8a9e/\U0001f600",
    "no\u00a0break",
    "\ufeffbyte order mark",
    "line\u2028separator",
    "index.json",
    "name/data",
    "name/metadata",
    "deep/" * 20 + "leaf",
)
"""Keys that are as good as any, and that something on the way to a store may trip over."""

BAD_KEYS: tuple[tuple[Any, str], ...] = (
    ("", "empty"),
    ("a\x00b", "control character"),
    ("a\nb", "control character"),
    ("a\x7fb", "control character"),
    ("a\ud800b", "surrogate"),
    ("k" * (MAX_KEY_BYTES + 1), "4,097 bytes"),
    ("\u00e9" * 2049, "4,098 bytes"),
    (b"bytes", "bytes"),
    (None, "NoneType"),
    (3, "int"),
)
"""What is no key to any store, and what the message says about it."""

BAD_PATHS: tuple[str, ...] = ("..", ".", "a/../b", "a/./b", "a//b", "/a", "a/")
"""Keys that web servers would take for others."""

BAD_METADATA: tuple[tuple[Any, str], ...] = (
    (None, "dict"),
    ([("a", 1)], "dict"),
    ("text", "dict"),
    ({"a": float("nan")}, "nan"),
    ({"a": [float("inf")]}, "inf"),
    ({"a": b"bytes"}, "bytes"),
    ({"a": {"b": {1, 2}}}, "set"),
    ({1: "a"}, "names are str"),
    ({"a": {None: 1}}, "names are str"),
    ({"a": 2**63}, "64 bits"),
    ({"a": "\ud800"}, "surrogate"),
)
"""What is no metadata, and what the message says about it."""


STUCK: float = 60.0
"""Seconds after which a thread counts as stuck rather than slow."""


class Interrupted(Exception):
    """What a test's own streams and blocks raise."""


class BrokenStream:
    """A stream that raises after some bytes."""

    def __init__(self, length: int, error: type[BaseException] = Interrupted) -> None:
        self._left = length
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            raise self._error("the stream broke")
        count = min(size, self._left) if size > 0 else self._left
        self._left -= count
        return b"x" * count


class HesitantStream:
    """A stream with nothing but ``read``, which gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, 1000) if size > 0 else 1000)


class TellingStream:
    """A stream whose ``read`` gives what it is told to."""

    def __init__(self, gives: Any) -> None:
        self._gives = gives

    def read(self, _size: int = -1, /) -> Any:
        return self._gives


def noise(length: int, seed: int = 0) -> bytes:
    """Return bytes in which no piece is like another."""
    return random.Random(seed).randbytes(length)  # noqa: S311 (the same each time)


def in_threads(*works: Callable[[], object]) -> None:
    """Run functions beside each other and raise what the first of them raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again below)
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=STUCK)
        assert not thread.is_alive(), f"a thread is stuck for {STUCK:g} seconds"
    if failures:
        raise failures[0]


def data_of(store: AbstractReadOnlyStore, key: str) -> bytes:
    """Return the data of a key, by way of a Value."""
    with store.get(key).data as data:
        return data.read()


def contents(store: AbstractReadOnlyStore) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return all that a store holds, each key asked for twice in its own way."""
    found: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for key, metadata in store.query():
        assert key not in found, f"{key!r} is twice in a query"
        found[key] = (store.to_bytes(key), metadata)
    return found
