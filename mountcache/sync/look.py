"""A look at what upstream shows of a key, its data's digest if that is needed to tell."""

from __future__ import annotations

import hashlib
import time

from mountcache.abc import SupportsVersions, Value, chunks, facts_of
from mountcache.errors import ChangedWhileReadingError
from mountcache.jsonform import spelling
from mountcache.sync.judge import Theirs
from mountcache.sync.mount import Mount

__all__ = ["VERIFY_LIMIT", "look"]

VERIFY_LIMIT = 64 * 1024 * 1024
"""Bytes of a value that are downloaded at most to find its digest out."""

_TRIES = 3


def look(mount: Mount, key: str, *, digest: bool = False) -> Theirs:
    """Return what upstream shows of a key of the catalog.

    Parameters
    ----------
    digest
        Download the data to find its digest, if upstream doesn't tell it.

    Raises
    ------
    StoreUnavailableError
        If upstream can't be asked.
    """
    for attempt in range(_TRIES):
        looked = time.monotonic()
        try:
            value = mount.backing.get(mount.full(key))
            return _theirs(mount, value, looked, digest=digest)
        except KeyError:
            return Theirs(present=False, looked=looked)
        except ChangedWhileReadingError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _theirs(mount: Mount, value: Value, looked: float, *, digest: bool) -> Theirs:
    meta = spelling(value.metadata)
    sha256 = facts_of(value).sha256
    if digest and sha256 is None and (value.size is None or value.size <= VERIFY_LIMIT):
        sha256 = _digest(value)
    # The answer that carried the data speaks for it, if there was one.
    facts = facts_of(value)
    versioned = isinstance(mount.backing, SupportsVersions)
    return Theirs(
        present=True,
        version=facts.version if versioned else None,
        meta=meta,
        sha256=sha256 or facts.sha256,
        size=value.size if value.size is not None else facts.size,
        modified=value.modified,
        keeps_metadata=mount.backing.info().get("keeps_metadata", True),
        validators=facts.validators or "",
        lifetime=facts.lifetime,
        looked=looked,
    )


def _digest(value: Value) -> str | None:
    found = hashlib.sha256()
    size = 0
    with value.data as data:
        for chunk in chunks(data):
            size += len(chunk)
            if size > VERIFY_LIMIT:
                return None
            found.update(chunk)
    return found.hexdigest()
