"""The tests of encore.storage 0.8.0 itself, run on the stores of this project.

Its users should feel at home. Where its expectation contradicts ours on purpose, `DIFFERENT`
says why; such a test has to fail here, so that the table stays true.
"""

from __future__ import annotations

import inspect
import tempfile
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import encore.events.api as encore_events
import encore.storage.events as encore_store_events
import pytest
from encore.storage import abstract_store, dynamic_url_store, mounted_store, static_url_store
from encore.storage.file_value import FileValue as EncoreFileValue
from encore.storage.string_value import StringValue as EncoreStringValue
from encore.storage.tests import (
    abstract_test,
    mounted_store_test,
)

from mountcache import abc, events
from mountcache.abc import AbstractStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.values import FileValue, StringValue
from tests.dictstore import DictStore

_BYTES_ELSEWHERE = (
    "an edit of metadata alone claims no bytes and downloads none, so that foreign data is no "
    "conflict; the mount store by itself says that the bytes aren't here, and the mount has them"
)

DIFFERENT: Mapping[str, str] = {
    "test_set_metadata_masked": _BYTES_ELSEWHERE,
    "test_update_metadata_masked_1": _BYTES_ELSEWHERE,
    "test_update_metadata_masked_2": _BYTES_ELSEWHERE,
}
"""Tests of encore's that contradict the contract here, and the reason."""

_T = TypeVar("_T", bound=type[unittest.TestCase])


def different(cls: _T) -> _T:
    """Expect the tests in `DIFFERENT` to fail in this class."""
    for name in DIFFERENT:

        def contradicts(self: unittest.TestCase, name: str = name) -> None:
            getattr(super(cls, self), name)()

        contradicts.__name__ = name
        setattr(cls, name, unittest.expectedFailure(contradicts))
    return cls


class Stores(unittest.TestCase):
    """Makes stores for a test and takes them away after it."""

    # encore's tests use the old name, which Python 3.12 has no more.
    assertEquals = unittest.TestCase.assertEqual  # noqa: N815

    def memory(self) -> AbstractStore:
        store = MemoryStore()
        self.addCleanup(store.disconnect)
        return store

    def disk(self) -> AbstractStore:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        store = DiskCacheStore(Path(folder.name) / "store")
        self.addCleanup(store.disconnect)
        return store

    def foreign(self) -> AbstractStore:
        return DictStore()

    def mounted(self, point: str, mount: AbstractStore, backing: AbstractStore) -> MountedStore:
        store = MountedStore(point, mount, backing)
        self.addCleanup(store.disconnect)
        return store


def put(store: AbstractStore, key: str, data: bytes, metadata: dict[str, Any]) -> None:
    store.set(key, StringValue(data, metadata))


TEST1 = {
    "a_str": "test3",
    "an_int": 1,
    "a_float": 2.0,
    "a_bool": True,
    "a_list": ["one", "two", "three"],
    "a_dict": {"one": 1, "two": 2, "three": 3},
}


class ReadTests(abstract_test.StoreReadTestMixin, Stores):  # type: ignore[misc]
    """encore's tests of reading, on what they are documented to need."""

    __test__ = False

    def fill(self, first: AbstractStore, even: AbstractStore, odd: AbstractStore) -> None:
        put(first, "test1", b"test2\n", TEST1)
        for number in range(10):
            metadata: dict[str, Any] = {"query_test1": "value", "query_test2": number}
            if number % 2 == 0:
                metadata["optional"] = True
            put((even, odd)[number % 2], f"key{number}", f"value{number}".encode(), metadata)


class WriteTests(abstract_test.StoreWriteTestMixin, Stores):  # type: ignore[misc]
    """encore's tests of writing, on what they are documented to need."""

    __test__ = False

    def fill(self, first: AbstractStore, even: AbstractStore, odd: AbstractStore) -> None:
        put(first, "test1", b"test2\n", TEST1)
        for number in range(10):
            data = f"existing_value{number}".encode()
            metadata = {"meta": True, "meta1": -number}
            put((even, odd)[number % 2], f"existing_key{number}", data, metadata)


class TestReadMemory(ReadTests):
    __test__ = True

    def setUp(self) -> None:
        self.store = self.memory()
        self.fill(self.store, self.store, self.store)


class TestWriteMemory(WriteTests):
    __test__ = True

    def setUp(self) -> None:
        self.store = self.memory()
        self.fill(self.store, self.store, self.store)


class TestReadDisk(ReadTests):
    __test__ = True

    def setUp(self) -> None:
        self.store = self.disk()
        self.fill(self.store, self.store, self.store)


class TestWriteDisk(WriteTests):
    __test__ = True

    def setUp(self) -> None:
        self.store = self.disk()
        self.fill(self.store, self.store, self.store)


class TestReadMounted(ReadTests):
    """Half of the keys lie in the mount store and half in the backing store."""

    __test__ = True

    def mount(self) -> AbstractStore:
        return self.disk()

    def setUp(self) -> None:
        mount, backing = self.mount(), self.memory()
        self.fill(backing, mount, backing)
        self.store = self.mounted("", mount, backing)


class TestReadMountedOnForeign(TestReadMounted):
    """The mount store is one of another make."""

    def mount(self) -> AbstractStore:
        return self.foreign()


class TestWriteMounted(WriteTests):
    __test__ = True

    def mount(self) -> AbstractStore:
        return self.disk()

    def setUp(self) -> None:
        self.mount_store, backing = self.mount(), self.memory()
        self.fill(backing, self.mount_store, backing)
        self.store = self.mounted("", self.mount_store, backing)

    def test_multiset_metadata(self) -> None:
        super().test_multiset_metadata()
        for number in range(10):
            found = self.mount_store.get_metadata(f"existing_key{number}")
            assert found == {"meta1": number, "meta2": True}

    def test_delete_of_a_key_of_the_mount_store(self) -> None:
        put(self.mount_store, "test2", b"test2\n", {})
        self.store.delete("test2")
        assert not self.store.exists("test2")


class TestWriteMountedOnForeign(TestWriteMounted):
    """The mount store is one of another make."""

    def mount(self) -> AbstractStore:
        return self.foreign()


class MountedTests(mounted_store_test.MountedStoreTest, Stores):  # type: ignore[misc]
    """encore's tests of a mounted store."""

    __test__ = False

    def mount(self) -> AbstractStore:
        raise NotImplementedError

    def setUp(self) -> None:
        # Not encore's own, which fills stores of its own make behind their backs.
        self.mounted_store = self.mount()
        self.backing_store = self.memory()
        put(self.mounted_store, "test1", b"mounted\n", {"metakey": "mounted"})
        put(self.backing_store, "test/test1", b"backing\n", {"metakey": "backing"})
        put(self.backing_store, "test/test2", b"backing\n", {"metakey": "backing"})
        self.store = self.mounted("test/", self.mounted_store, self.backing_store)


@different
class TestMountedMemory(MountedTests):
    __test__ = True

    def mount(self) -> AbstractStore:
        return self.memory()


@different
class TestMountedDisk(MountedTests):
    __test__ = True

    def mount(self) -> AbstractStore:
        return self.disk()


class TestMountedForeign(MountedTests):
    """A mount store of another make gets a real copy, so nothing is different."""

    __test__ = True

    def mount(self) -> AbstractStore:
        return self.foreign()


def test_table_of_differences_names_tests_of_encores() -> None:
    assert all(hasattr(mounted_store_test.MountedStoreTest, name) for name in DIFFERENT)


# -- names and signatures --------------------------------------------------------------------

SAME: tuple[tuple[type, type], ...] = (
    (abstract_store.AbstractReadOnlyStore, abc.AbstractReadOnlyStore),
    (abstract_store.AbstractStore, abc.AbstractStore),
    (abstract_store.AbstractAuthorizingStore, abc.AbstractAuthorizingStore),
    (abstract_store.Value, abc.Value),
    (mounted_store.MountedStore, MountedStore),
    (static_url_store.StaticURLStore, StaticURLStore),
    (dynamic_url_store.DynamicURLStore, DynamicURLStore),
    (EncoreStringValue, StringValue),
    (EncoreFileValue, FileValue),
    (encore_events.BaseEventManager, events.EventManager),
)
"""Classes of encore's, and ours of the same name."""

OURS_ALONE = {
    ("EventManager", "emit"): "`block=False` started a thread for each event",
    ("DynamicURLStore", "__init__"): "`parts` may be left out: encore's are in force then",
    ("StaticURLStore", "connect"): "handlers of urllib: sessions and proxies are those of requests",
}
"""Where a signature differs on purpose."""


def _names(cls: type) -> list[str]:
    return [
        name
        for name in dir(cls)
        if name in ("__init__", "__enter__", "__exit__") or not name.startswith("_")
    ]


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=[ours.__name__ for _, ours in SAME])
def test_what_encore_calls_can_be_called_so(theirs: type, ours: type) -> None:
    for name in _names(theirs):
        assert hasattr(ours, name), name
        method = inspect.getattr_static(theirs, name)
        if (
            not inspect.isfunction(method)
            or isinstance(inspect.getattr_static(ours, name), property)
            or (ours.__name__, name) in OURS_ALONE
        ):
            continue
        mine = inspect.signature(getattr(ours, name)).parameters
        for position, (word, parameter) in enumerate(inspect.signature(method).parameters.items()):
            if parameter.kind is parameter.VAR_KEYWORD:
                assert any(each.kind is each.VAR_KEYWORD for each in mine.values()), name
                continue
            assert list(mine)[position] == word, (name, word)
            if parameter.default is not parameter.empty:
                assert mine[word].default == parameter.default, (name, word)
        more = list(mine.values())[len(inspect.signature(method).parameters) :]
        assert all(each.default is not each.empty or each.kind > 1 for each in more), name


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for module in (encore_store_events, encore_events)
        for name, cls in vars(module).items()
        if inspect.isclass(cls)
        and issubclass(cls, encore_events.BaseEvent)
        and name != "HeartbeatEvent"
    ),
)
def test_events_are_encores_tree(name: str) -> None:
    theirs = getattr(encore_store_events, name, None) or getattr(encore_events, name)
    ours = getattr(events, name)
    above = [cls.__name__ for cls in theirs.__mro__ if issubclass(cls, encore_events.BaseEvent)]
    assert [cls.__name__ for cls in ours.__mro__ if cls.__name__ in above] == above
    assert getattr(ours, "action", None) == getattr(theirs, "action", getattr(ours, "action", None))
