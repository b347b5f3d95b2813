"""The behaviour that every store promises, as tests to run on a store of your own.

Subclass what fits and give a fixture ``store`` (and pytest is to be installed)::

    import pytest
    from mountcache.testing import StoreEventTests, StoreReadTests, StoreWriteTests

    class TestMyStore(StoreReadTests, StoreWriteTests, StoreEventTests):
        keys_are_paths = True          # what is particular about it: see StoreSuite

        @pytest.fixture
        def store(self, tmp_path):
            with MyStore(tmp_path) as store:
                yield store            # empty, connected, writable

A store that can only be read has `StoreReadTests` alone, and gives ``populate`` instead of
``store``: a function that takes ``{key: (data, metadata)}`` and returns a connected store that
holds exactly these.

- `StoreReadTests`: what can be read, and how queries compare
- `StoreWriteTests`: setters, `delete`, ``base=``, bad input, several threads
- `StoreTransactionTests`: what belongs together, and what is taken back
- `StoreEventTests`: who hears of what, and in which order
- `MountedStoreTests`: a store mounted over another, and the verbs of a mount

`Origin` is a server on loopback to test against: docs/testing.md.
"""

from __future__ import annotations

import pytest

# Before the import: pytest explains a failed assert only in modules that it has rewritten.
pytest.register_assert_rewrite(
    *(
        f"mountcache.testing.{name}"
        for name in (
            "announcing",
            "authors",
            "mounting",
            "pushing",
            "reading",
            "suite",
            "transacting",
            "writing",
        )
    )
)

from mountcache.testing.announcing import StoreEventTests  # noqa: E402
from mountcache.testing.mounting import MountedStoreTests  # noqa: E402
from mountcache.testing.origin import Origin  # noqa: E402
from mountcache.testing.pushing import Mounted  # noqa: E402
from mountcache.testing.reading import StoreReadTests  # noqa: E402
from mountcache.testing.suite import Entries, Populate, StoreSuite  # noqa: E402
from mountcache.testing.transacting import StoreTransactionTests  # noqa: E402
from mountcache.testing.writing import StoreWriteTests  # noqa: E402

__all__ = [
    "Entries",
    "Mounted",
    "MountedStoreTests",
    "Origin",
    "Populate",
    "StoreEventTests",
    "StoreReadTests",
    "StoreSuite",
    "StoreTransactionTests",
    "StoreWriteTests",
]
