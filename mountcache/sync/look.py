"""A look at what upstream shows of a key, its data's digest if that is needed to tell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mountcache.abc import SupportsVersions, Value, chunks, facts_of
from mountcache.errors import ChangedWhileReadingError, StoreError, StoreUnavailableError
from mountcache.jsonform import spelling
from mountcache.local.records import Edit
from mountcache.sync.judge import Theirs, Verdict, judge
from mountcache.sync.mount import Mount
from mountcache.sync.source import begin
from mountcache.sync.switch import refuse_offline

__all__ = ["VERIFY_LIMIT", "Progress", "look", "looked_at"]

Progress = Callable[[int, int, str], object]
"""Called as ``progress(done, total, key)``."""

VERIFY_LIMIT = 64 * 1024 * 1024
"""Bytes of a value that are downloaded at most to find its digest out."""

_AT_ONCE = 1048576
"""Bytes of a value that are asked for without a look before: to look may be enough, and saves
more of them than it costs."""
_TRIES = 3


def look(mount: Mount, key: str, *, digest: bool = False, size: int | None = None) -> Theirs:
    """Return what upstream shows of a key of the catalog.

    Parameters
    ----------
    digest
        Download the data to find its digest, if upstream doesn't tell it.
    size
        How many bytes they should be, where that is known: few come with the first answer.

    Raises
    ------
    StoreUnavailableError
        If upstream can't be asked.
    """
    refuse_offline(mount)
    at_once = digest and size is not None and size <= _AT_ONCE
    for attempt in range(_TRIES):
        looked = time.monotonic()
        try:
            name = mount.full(key)
            value = begin(mount.backing, name) if at_once else mount.backing.get(name)
            return _theirs(mount, value, looked, digest=digest, begun=at_once)
        except KeyError:
            return Theirs(present=False, looked=looked)
        except ChangedWhileReadingError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def looked_at(
    mount: Mount, edits: Sequence[Edit], workers: int = 8, progress: Progress | None = None
) -> dict[str, Theirs | StoreError]:
    """Return what upstream shows of the keys of edits; no base moves by that.

    Raises
    ------
    StoreUnavailableError
        If upstream is out of reach.
    """

    def sight(edit: Edit) -> Theirs | StoreError:
        try:
            theirs = look(mount, edit.key)
            if judge(edit, theirs) is Verdict.UNSURE:
                theirs = look(mount, edit.key, digest=True, size=theirs.size)
        except StoreUnavailableError as error:
            if not error.answered:
                raise
            return error
        except StoreError as error:
            return error
        return theirs

    found: dict[str, Theirs | StoreError] = {}
    if not edits:
        return found
    with ThreadPoolExecutor(max(1, min(workers, len(edits))), "mountcache-look") as pool:
        futures = [(edit, pool.submit(sight, edit)) for edit in edits]
        try:
            for edit, future in futures:
                found[edit.key] = future.result()
                if progress is not None:
                    progress(len(found), len(edits), mount.full(edit.key))
        finally:
            for _, future in futures:
                future.cancel()
    return found


def _theirs(mount: Mount, value: Value, looked: float, *, digest: bool, begun: bool) -> Theirs:
    sha256 = facts_of(value).sha256
    if begun or (digest and sha256 is None and (value.size is None or value.size <= VERIFY_LIMIT)):
        sha256 = _digest(value)
    meta = spelling(value.metadata)
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
