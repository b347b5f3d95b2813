"""The public suite runs on stores that someone else has written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from mountcache.testing import (
    Entries,
    MountedStoreTests,
    Populate,
    StoreEventTests,
    StoreReadTests,
    StoreSuite,
    StoreTransactionTests,
    StoreWriteTests,
    suite,
)
from mountcache.values import StringValue
from tests.dictstore import DictStore, ReadOnlyDictStore, SmallDictStore

pytest_plugins = ["pytester"]


class TestCompleteStore(StoreReadTests, StoreWriteTests, StoreTransactionTests, StoreEventTests):
    """A store on a dict that keeps all of the contract."""

    @pytest.fixture
    def store(self) -> Iterator[DictStore]:
        with DictStore() as store:
            yield store


class TestSmallStore(StoreReadTests, StoreWriteTests, StoreTransactionTests):
    """A store of four methods."""

    has_versions = False
    rolls_back = False

    @pytest.fixture
    def store(self) -> Iterator[SmallDictStore]:
        with SmallDictStore() as store:
            yield store


class TestReadOnlyStore(StoreReadTests):
    """A store of two methods."""

    has_versions = False

    @pytest.fixture
    def populate(self) -> Populate:
        def fill(entries: Entries) -> ReadOnlyDictStore:
            store = ReadOnlyDictStore(
                {key: StringValue(data, metadata) for key, (data, metadata) in entries.items()}
            )
            store.connect()
            return store

        return fill


def test_missing_fixture_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from mountcache.testing import StoreReadTests

        class TestMine(StoreReadTests):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-k", "test_exists", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TestMine has to give a fixture `store`"])


def test_failed_assert_of_the_suite_is_explained(
    pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath))
    pytester.makepyfile(
        """
        import pytest
        from mountcache.testing import StoreReadTests
        from tests.dictstore import DictStore

        class Forgetful(DictStore):
            def exists(self, key):
                return key == "dir"

        class TestMine(StoreReadTests):
            @pytest.fixture
            def store(self):
                return Forgetful()
        """
    )
    result = pytester.runpytest_subprocess("-k", "test_exists", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert False", "*where False = all(*"])


PLANTED: dict[str, tuple[str, str]] = {
    "queries take true for 1": (
        """
        def query(self, select=None, **kwargs):
            for key, value in self._now().items():
                if all(value.metadata.get(k) == v for k, v in kwargs.items()):
                    yield key, select_from(value.metadata, select)
        """,
        "test_query_compares_json_values",
    ),
    "metadata is shared": (
        """
        def get_metadata(self, key, select=None):
            found = self.__dict__.setdefault("shared", {})
            return found.setdefault(key, super().get_metadata(key, select))
        """,
        "test_metadata_is_the_callers_own",
    ),
    "glob takes no notice of case": (
        """
        def glob(self, pattern):
            return fnmatch.filter((key.lower() for key in self.query_keys()), pattern.lower())
        """,
        "test_glob_is_that_of_the_shell",
    ),
    "a broken stream leaves a part": (
        """
        def set(self, key, value, buffer_size=1048576, *, base=None):
            try:
                super().set(key, value, buffer_size, base=base)
            except Exception:
                super().set(key, (io.BytesIO(b"part"), {}))
                raise
        """,
        "test_stream_that_breaks_leaves_what_was_there",
    ),
    "keys are normalised": (
        """
        def _change(self, key, value, base):
            super()._change(unicodedata.normalize("NFC", key), value, base)
        """,
        "test_odd_keys_are_set_and_deleted_like_others",
    ),
    "base is compared outside the lock": (
        """
        def _change(self, key, value, base):
            if base is not None and base != self.version_of(key):
                raise ConflictError(key, key=key, expected=base, found=self.version_of(key))
            threading.Event().wait(0.001)
            super()._change(key, value, None)
        """,
        "test_threads_that_compare_with_base_lose_no_change",
    ),
    "inner transactions commit by themselves": (
        """
        @contextmanager
        def transaction(self, notes):
            outer = self._open.changes
            self._open.changes = None
            try:
                with super().transaction(notes):
                    yield
            finally:
                self._open.changes = outer
        """,
        "test_inner_transaction_ends_with_the_outer_one",
    ),
    "changes are announced before the end": (
        """
        def _commit(self, changes):
            for event in super()._commit(changes):
                self.event_manager.emit(event)
            return []
        """,
        "test_transaction_announces_start_progress_end_and_then_the_changes",
    ),
    "listeners are called under the lock": (
        """
        def set(self, *args, **kwargs):
            with self._lock:
                super().set(*args, **kwargs)
        """,
        "test_listener_to_progress_may_read_the_store",
    ),
}
"""Bugs, as methods of a store, and a test that has to find each."""


@pytest.mark.parametrize("bug", PLANTED)
def test_suite_finds_a_planted_bug(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    monkeypatch.setattr(suite, "STUCK", 1.0)
    body, found_by = PLANTED[bug]
    header = """
        import fnmatch, io, threading, unicodedata
        from contextlib import contextmanager
        import pytest
        from mountcache.abc import select_from
        from mountcache.errors import ConflictError
        from mountcache.testing import (
            StoreEventTests, StoreReadTests, StoreTransactionTests, StoreWriteTests
        )
        from tests.dictstore import DictStore

        class Suites(StoreReadTests, StoreWriteTests, StoreTransactionTests, StoreEventTests):
            @pytest.fixture
            def store(self):
                with BrokenStore() as store:
                    yield store

        class TestBroken(Suites):
            pass
        """
    store = f"class BrokenStore(DictStore):\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    pytester.makepyfile(textwrap.dedent(header) + store)
    result = pytester.runpytest_inprocess("-k", found_by, "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) >= 1
    assert "error" not in outcomes
    assert "errors" not in outcomes


def test_what_a_store_does_not_promise_is_no_test_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from mountcache.testing import StoreTransactionTests
        from tests.dictstore import DictStore

        class TestPlain(StoreTransactionTests):
            rolls_back = False

            @pytest.fixture
            def store(self):
                return DictStore()

        class TestBetter(TestPlain):
            rolls_back = True
        """
    )
    result = pytester.runpytest_inprocess(
        "--collect-only", "-q", "-k", "takes_all_of_it_back", "-p", "no:cacheprovider"
    )
    assert "TestBetter" in result.stdout.str()
    assert "TestPlain" not in result.stdout.str()


def test_no_test_hides_another() -> None:
    suites = (
        StoreReadTests,
        StoreWriteTests,
        StoreTransactionTests,
        StoreEventTests,
        MountedStoreTests,
    )
    names: dict[str, set[type]] = {}
    for each in suites:
        for cls in each.__mro__:
            for name in vars(cls):
                if not name.startswith("__") and cls is not StoreSuite:
                    names.setdefault(name, set()).add(cls)
    assert {name: found for name, found in names.items() if len(found) > 1} == {}
