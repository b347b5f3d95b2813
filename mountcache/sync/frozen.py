"""Frozen inputs: a file that names the bytes of keys, and what makes and reads it.

The same bytes for a paper or a CI run, or a refusal that says what is different. The file is JSON,
a line a key in the order of the keys, so that git shows what changed. Next door:
`mountcache.frozen` (a store that gives nothing else).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from mountcache.abc import (
    Facts,
    NotModified,
    SupportsIdentity,
    SupportsRevalidation,
    Value,
    chunks,
    read_again,
)
from mountcache.errors import (
    ConfigurationError,
    IntegrityError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from mountcache.keys import check_key
from mountcache.local.records import Row
from mountcache.local.view import matcher
from mountcache.sync.fetch import fill
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pacing import at_most, at_once
from mountcache.sync.prefetch import PrefetchReport, fetch_keys, listed, prefetch
from mountcache.sync.promise import promise_for, promise_of
from mountcache.sync.residence import is_current
from mountcache.sync.source import begin
from mountcache.sync.switch import refuse_offline

__all__ = [
    "Locked",
    "Lockfile",
    "lock",
    "mismatch",
    "prefetch_locked",
    "read_keys",
    "read_lock",
    "write_lock",
]

Progress = Callable[[int, int, str], object]

FORMAT: Final = "mountcache lock"
VERSION: Final = 1
LONGEST: Final = 1024 * 1048576
"""Bytes of a lock, which is read as a whole."""
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Locked:
    """The bytes of one key."""

    size: int
    """Length in bytes."""
    sha256: str
    """64 hex digits."""
    version: str | None = None
    """What upstream called them then. It is told, and not compared: the digest is."""


@dataclass(frozen=True, slots=True)
class Lockfile:
    """The bytes of some keys, as a file names them."""

    keys: Mapping[str, Locked]
    """In the order of the keys."""
    upstream: str | None = None
    """Where they were; a mirror that has the same bytes will do."""
    name: str = field(default="the lock", compare=False)
    """What it is called in errors: its file."""

    def text(self) -> str:
        """Return what stands in the file: the same text for the same lock."""
        lines = ",\n".join(
            f"    {_json(key)}: {_json(_said(self.keys[key]))}" for key in sorted(self.keys)
        )
        head = f'  "format": {_json(FORMAT)},\n  "version": {VERSION},\n'
        keys = f"{{\n{lines}\n  }}" if lines else "{}"
        return f'{{\n{head}  "upstream": {_json(self.upstream)},\n  "keys": {keys}\n}}\n'


def _said(locked: Locked) -> dict[str, Any]:
    return {"size": locked.size, "sha256": locked.sha256, "version": locked.version}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def mismatch(lock: Lockfile, key: str, found: str) -> IntegrityError:
    """Return the error of a key that has other bytes than the lock names.

    Parameters
    ----------
    found
        What there is instead, such as "sha256 ...".
    """
    locked = lock.keys[key]
    return IntegrityError(
        f"{key!r} isn't what {lock.name} names: sha256 {locked.sha256} of {locked.size:,} bytes "
        f"was expected, and {found} was found; have the old bytes put back upstream or imported "
        "from a bundle, or lock anew"
    )


# -- the file ----------------------------------------------------------------------------


def write_lock(lock: Lockfile, path: str | os.PathLike[str]) -> None:
    """Write a lock to a file, in one step; one that says the same already is left alone."""
    target = Path(path)
    data = lock.text().encode()
    if target.is_file() and target.read_bytes() == data:
        return
    aside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.unfinished")
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def read_lock(path: str | os.PathLike[str]) -> Lockfile:
    """Read a lock.

    Raises
    ------
    ConfigurationError
        If the file is none, or of a later format.
    OSError
        If it can't be read.
    """
    text = _text_of(path)
    try:
        said = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _no_lock(path, f"{error}: did a merge leave it half done?") from None
    return _lock_from(path, said)


def read_keys(path: str | os.PathLike[str]) -> list[str] | Lockfile:
    """Read a list of keys, one a line, or a lock.

    Empty lines don't count, nor do carriage returns at the end of one.

    Raises
    ------
    ConfigurationError
        If the file is neither.
    InvalidKeyError
        If a line can't be a key.
    OSError
        If it can't be read.
    """
    text = _text_of(path)
    if text.lstrip().startswith("{") and f'"{FORMAT}"' in text[:1000]:
        return read_lock(path)
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return list(dict.fromkeys(check_key(line) for line in lines if line))


def _text_of(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise _no_lock(path, f"it has more than {LONGEST:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _no_lock(path, "it isn't UTF-8") from None


def _no_lock(path: str | os.PathLike[str], why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{os.fspath(path)} is no lock ({why}); `mountcache lock -o FILE` makes one"
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{repeated!r} stands there twice")
    return found


def _lock_from(path: str | os.PathLike[str], said: Any) -> Lockfile:
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise _no_lock(path, "it doesn't say so")
    version, upstream, keys = said.get("version"), said.get("upstream"), said.get("keys")
    if type(version) is not int or version < 1:
        raise _no_lock(path, "it has no version")
    if version > VERSION:
        raise ConfigurationError(
            f"{os.fspath(path)} is a lock of format {version}, which a later mountcache wrote; "
            f"this one reads {VERSION}: bring it up to date"
        )
    if not isinstance(keys, dict) or not isinstance(upstream, str | None):
        raise _no_lock(path, "it names no keys")
    found: dict[str, Locked] = {}
    for key in sorted(keys):
        try:
            found[check_key(key)] = _locked_from(keys[key])
        except ValueError as error:
            raise _no_lock(path, f"{key[:60]!r}: {error}") from None
    return Lockfile(found, upstream, os.fspath(path))


def _locked_from(said: Any) -> Locked:
    if not isinstance(said, dict):
        raise ValueError("it has no digest")
    size, sha256, version = said.get("size"), said.get("sha256"), said.get("version")
    if type(size) is not int or size < 0:
        raise ValueError("its size is no number of bytes")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ValueError("its sha256 isn't 64 hex digits")
    if not isinstance(version, str | None):
        raise ValueError("its version is no text")
    return Locked(size, sha256, version)


# -- making one --------------------------------------------------------------------------


class Lockable(Mounted, Protocol):
    """A store of which a lock can be made."""

    def with_options(self, *, max_age: float | None = None, offline: str | None = None) -> Lockable:
        """Return a view of the store with other settings."""

    def is_offline(self) -> bool:
        """Whether upstream isn't asked now."""


def lock(
    store: Lockable,
    pattern: str = "*",
    *,
    workers: int = 8,
    progress: Progress | None = None,
    bwlimit: str | float | None = None,
) -> Lockfile:
    """Return the bytes that upstream has now under the keys that match a pattern.

    What isn't here is fetched, and kept if there is room.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/". Upstream is asked which there are.
    workers
        How many values are on their way at once.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.
    bwlimit
        Bytes a second, as of `prefetch`.

    Raises
    ------
    StoreError
        If one of the keys is staged: what it names has to be upstream's.
    StoreUnavailableError
        If upstream is out of reach.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("lock")
    if store.is_offline():
        raise StoreUnavailableError(
            "a lock names what upstream has now, and that can't be asked: it is out of reach, or "
            "this store is set to work offline"
        )
    # What was known before upstream went out of reach isn't what it has now.
    store = store.with_options(offline="never")
    matches = matcher({}, pattern)
    _refuse_staged(
        [full for edit in mount.catalog.edits() if matches(full := mount.full(edit.key), {})]
    )
    since = mount.clock()
    with suppress(StoreFullError):  # then they are read without being kept
        prefetch(store, pattern, workers=workers, progress=progress, bwlimit=bwlimit)
    keys = listed(store, pattern)
    look = partial(_locked, mount, since)
    with (
        at_most(mount, bwlimit),
        ThreadPoolExecutor(at_once(mount, workers), "mountcache-lock") as pool,
    ):
        try:
            seen = list(pool.map(lambda key: read_again(partial(look, key)), keys))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = {mount.full(key): locked for key, locked in zip(keys, seen, strict=True)}
    backing = mount.backing
    upstream = backing.identity if isinstance(backing, SupportsIdentity) else None
    return Lockfile(dict(sorted(found.items())), upstream)


def _refuse_staged(staged: list[str]) -> None:
    if staged:
        raise StoreError(
            f"{len(staged):,} of the keys are staged here, {staged[0]!r} among them, and a lock "
            "names what upstream has; push or revert them, then lock"
        )


def _locked(mount: Mount, since: float, key: str) -> Locked:
    """Return what upstream has of a key, as it was seen after a time of the clock of the mount."""
    row = mount.catalog.row(key)
    if row.edit is not None:
        _refuse_staged([mount.full(key)])
    copy, backing, name = row.copy, mount.backing, mount.full(row.key)
    try:
        if copy is None or not is_current(row):
            return _looked(mount, row, begin(backing, name))
        promised = row.entry is not None and promise_of(row.entry.entry).digest
        answer: NotModified | Value = NotModified(Facts())
        if copy.checked < since and not promised:
            # A listing that says nothing of the bytes is the same for other ones.
            if copy.validators and isinstance(backing, SupportsRevalidation):
                answer = backing.revalidate(name, copy.validators)
            else:
                answer = begin(backing, name)
        if isinstance(answer, NotModified):
            return Locked(copy.size, copy.sha256, copy.version)
        return _looked(mount, row, answer)
    except KeyError:
        raise StoreError(f"{name!r} was deleted upstream meanwhile; lock again") from None


def _looked(mount: Mount, row: Row, value: Value) -> Locked:
    """Read a value past the store."""
    digest, size = hashlib.sha256(), 0
    with fill(mount, row, value, promise_for(mount, row.entry), asked=False, keep=False) as data:
        for chunk in chunks(data):
            digest.update(chunk)
            size += len(chunk)
    return Locked(size, digest.hexdigest(), value.version)


# -- fetching what one names -------------------------------------------------------------


def prefetch_locked(
    store: Mounted,
    lock: Lockfile,
    keys: Iterable[str] | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    bwlimit: str | float | None = None,
) -> PrefetchReport:
    """Fetch what a lock names, and compare: afterwards it is here, byte for byte, or is told.

    A copy that is here and has the right digest counts, whatever upstream has now.

    Parameters
    ----------
    store
        A mounted store.
    lock
        What is to be here.
    keys
        Some of its keys; None: all.
    workers
        How many values are on their way at once; None: 8, or up to 64 where answers take long.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.
    bwlimit
        Bytes a second, as of `prefetch`.

    Returns
    -------
    PrefetchReport
        Whose `failed` has the keys that upstream has other bytes of, with what was expected and
        what was found.

    Raises
    ------
    StoreFullError
        Beforehand, if it can't fit.
    StoreUnavailableError
        If upstream is out of reach for every key that isn't here.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("prefetch")
    if workers is not None and workers < 1:
        raise ValueError(f"a prefetch has at least 1 worker, not {workers}")
    names = list(lock.keys if keys is None else keys)
    skip = len(mount.prefix)
    failed: dict[str, str] = {}
    rows: dict[str, Row] = {}
    for key in names:
        if key.startswith(mount.prefix) and len(key) > skip:
            rows[key] = mount.catalog.row(key[skip:])
        else:
            failed[key] = f"{key!r} lies outside the mount point {mount.prefix!r}"
    missing = []
    for key, row in rows.items():
        if _has(row, lock.keys[key]):
            mount.catalog.use(row.key)  # what comes now takes the room of others
        else:
            missing.append(row)
    size = sum(lock.keys[mount.full(row.key)].size for row in missing)
    room = mount.catalog.available()
    if room is not None and size > room:
        raise StoreFullError(
            f"{len(missing):,} keys of {size:,} bytes don't fit: there is room for {room:,} bytes; "
            "make a store with a larger size_limit"
        )
    if missing:
        refuse_offline(mount)
    keys = [row.key for row in missing]
    came = fetch_keys(mount, keys, workers=workers, progress=progress, bwlimit=bwlimit)
    if came.unavailable is not None:
        raise StoreUnavailableError(came.unavailable)
    failed |= came.failed
    for key, row in rows.items():
        now = mount.catalog.row(row.key)
        if key in failed or _has(now, lock.keys[key]):
            continue
        copy = now.copy
        if copy is None:
            failed[key] = f"{key!r} was here and went for want of room; make more"
        else:
            found = f"sha256 {copy.sha256} of {copy.size:,} bytes"
            failed[key] = str(mismatch(lock, key, found))
    fetched = sum(mount.full(row.key) not in failed for row in missing)
    return PrefetchReport(fetched, len(rows) - len(missing), came.bytes, failed)


def _has(row: Row, locked: Locked) -> bool:
    return row.copy is not None and row.copy.sha256 == locked.sha256
