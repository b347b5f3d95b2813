"""Downloads: upstream's bytes on their way to a reader and into the store.

(first, simple version)
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

from mountcache.abc import Value, chunks, facts_of
from mountcache.errors import IntegrityError, StoreFullError
from mountcache.jsonform import spelling
from mountcache.local.records import Clean
from mountcache.sync.mount import Mount
from mountcache.sync.promise import Promise

__all__ = ["begin", "fill", "open_range"]


def begin(backing: Any, key: str) -> Value:
    """Begin the download of a key in one request, where the store can."""
    value: Value = backing.fetch(key) if hasattr(backing, "fetch") else backing.get(key)
    return value


def fill(
    mount: Mount, key: str, value: Value, promise: Promise, *, asked: bool = True
) -> io.BufferedIOBase:
    """Return a stream of upstream's data, kept here once it is verified."""
    spool = mount.catalog.content.spool()
    md5 = hashlib.md5(usedforsecurity=False) if promise.md5 else None
    try:
        with value.data as data:
            for chunk in chunks(data):
                spool.write(chunk)
                if md5 is not None:
                    md5.update(chunk)
        spool.finish(False)
        facts = facts_of(value)
        for what, wanted, found in (
            ("length", promise.size, spool.size),
            ("sha256", promise.sha256, spool.sha256),
            ("sha256", facts.sha256, spool.sha256),
            ("md5", promise.md5, md5.hexdigest() if md5 else None),
        ):
            if wanted is not None and wanted != found:
                raise IntegrityError(
                    f"{mount.full(key)!r} has {what} {found}, but {wanted} was promised; nothing "
                    "of it was kept: ask the owner of upstream to mend it"
                )
        stream = spool.open()
        if facts.storable and mount.catalog.room_for(spool.size):
            clean = Clean(
                key,
                spool,
                spool.sha256,
                spool.size,
                spelling(value.metadata) if promise.entry is None else promise.entry,
                facts.version,
                facts.validators or "",
                facts.lifetime,
                facts.modified,
                promise.entry,
            )
            try:
                mount.catalog.keep([clean], asked=asked)
            except StoreFullError:
                pass
    finally:
        spool.discard()
    return stream


def open_range(
    mount: Mount, key: str, value: Value, start: int, end: int | None
) -> io.BufferedIOBase:
    """Return a stream of a part of upstream's data."""
    return value.range(start, end)
