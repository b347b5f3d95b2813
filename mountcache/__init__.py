"""A local, writable cache mounted over a remote HTTP store.

The names that people import are here, and each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mountcache.abc import (
        ABSENT,
        AbstractAuthorizingStore,
        AbstractReadOnlyStore,
        AbstractStore,
        Value,
    )
    from mountcache.asynchronous import AsyncMountedStore
    from mountcache.backing.dynamic import DynamicURLStore
    from mountcache.backing.listing import ListingURLStore
    from mountcache.backing.static import StaticURLStore
    from mountcache.backing.tls import TLS
    from mountcache.config import open  # noqa: A004
    from mountcache.errors import (
        AuthorizationError,
        ChangedWhileReadingError,
        ConfigurationError,
        ConflictError,
        IntegrityError,
        ReadOnlyKeyError,
        ReadOnlyStoreError,
        StoreError,
        StoreUnavailableError,
        UpstreamError,
    )
    from mountcache.events import EventManager
    from mountcache.local.disk import DiskCacheStore
    from mountcache.local.memory import MemoryStore
    from mountcache.mounted import MountedStore
    from mountcache.values import FileValue, StringValue

__version__ = "0.1.0"

__all__ = [
    "ABSENT",
    "TLS",
    "AbstractAuthorizingStore",
    "AbstractReadOnlyStore",
    "AbstractStore",
    "AsyncMountedStore",
    "AuthorizationError",
    "ChangedWhileReadingError",
    "ConfigurationError",
    "ConflictError",
    "DiskCacheStore",
    "DynamicURLStore",
    "EventManager",
    "FileValue",
    "IntegrityError",
    "ListingURLStore",
    "MemoryStore",
    "MountedStore",
    "ReadOnlyKeyError",
    "ReadOnlyStoreError",
    "StaticURLStore",
    "StoreError",
    "StoreUnavailableError",
    "StringValue",
    "UpstreamError",
    "Value",
    "__version__",
    "open",
]

_HOMES = {
    "mountcache.abc": (
        "ABSENT",
        "AbstractAuthorizingStore",
        "AbstractReadOnlyStore",
        "AbstractStore",
        "Value",
    ),
    "mountcache.asynchronous": ("AsyncMountedStore",),
    "mountcache.backing.dynamic": ("DynamicURLStore",),
    "mountcache.backing.listing": ("ListingURLStore",),
    "mountcache.backing.static": ("StaticURLStore",),
    "mountcache.backing.tls": ("TLS",),
    "mountcache.config": ("open",),
    "mountcache.errors": (
        "AuthorizationError",
        "ChangedWhileReadingError",
        "ConfigurationError",
        "ConflictError",
        "IntegrityError",
        "ReadOnlyKeyError",
        "ReadOnlyStoreError",
        "StoreError",
        "StoreUnavailableError",
        "UpstreamError",
    ),
    "mountcache.events": ("EventManager",),
    "mountcache.local.disk": ("DiskCacheStore",),
    "mountcache.local.memory": ("MemoryStore",),
    "mountcache.mounted": ("MountedStore",),
    "mountcache.values": ("FileValue", "StringValue"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mountcache' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
