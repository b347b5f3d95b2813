"""A mounted store in which a lock is in force: the bytes that it names, and no others.

What is here and has the right digest counts, whatever upstream has now; what isn't here is
fetched whole and compared before a byte of it is given. Next door: `mountcache.sync.frozen` (the
file).
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, Final

from mountcache.abc import Value, chunks, facts_of, read_again, select_from
from mountcache.errors import NotLockedError, ReadOnlyStoreError, StoreUnavailableError
from mountcache.jsonform import spelling
from mountcache.local.decide import copy_version
from mountcache.local.value import Snapshot
from mountcache.local.view import matcher
from mountcache.mounted import MountedStore
from mountcache.sync.frozen import Locked, Lockfile, mismatch
from mountcache.sync.keeping import make_room
from mountcache.sync.report import PushResult

__all__ = ["FrozenStore"]

_IN_MEMORY: Final = 1048576


class FrozenStore(MountedStore):
    """A mounted store that gives what a lock names.

    A key of the lock gives exactly its bytes, or IntegrityError, which says what was expected and
    what was found; StoreUnavailableError if they aren't here and upstream is out of reach. Any
    other key is a NotLockedError. Metadata aren't frozen: they are those of the copy that is
    here, else upstream's. What is staged here isn't seen, and nothing can be changed.

    Parameters
    ----------
    lock
        What is in force.
    *args, **kwargs
        As of `MountedStore`.
    """

    def __init__(self, lock: Lockfile, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = lock

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.lock, *super().__reduce__())

    def _open(self) -> None:
        super()._open()
        assert self._mount_ is not None
        self._mount_ = replace(self._mount_, frozen=self.lock.name)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "readonly": True}

    # -- reading -------------------------------------------------------------------------

    def _locked(self, key: str) -> tuple[str, Locked]:
        """Return the catalog's name of a key, and what it has to be."""
        locked = self.lock.keys.get(self._check(key))
        if locked is None:
            raise NotLockedError(
                f"{key!r} isn't among the {len(self.lock.keys):,} keys of {self.lock.name}, which "
                "is in force; lock it, too, or open the store without a lock"
            )
        short = self._short(key)
        if short is None:
            raise NotLockedError(
                f"{key!r} lies outside the mount point {self.mount_point!r}, where no bytes can be "
                "frozen"
            )
        return short, locked

    def _value(self, key: str, *, data: bool) -> Value:
        short, locked = self._locked(key)
        if data:
            return read_again(lambda: self._brought(key, short, locked))
        return self._here_already(key, short, locked) or self._lazy(key, short, locked)

    def _data(self, key: str) -> io.BufferedIOBase:
        return self._value(key, data=True).data

    def warm(self, key: str) -> Value | None:
        short, locked = self._locked(key)
        return self._here_already(key, short, locked)

    def get_metadata(self, key: str, select: Any = None) -> dict[str, Any]:
        return select_from(self._value(key, data=False).metadata, select)

    def glob(self, pattern: str) -> Iterator[str]:
        matches = matcher({}, pattern)
        return (key for key in sorted(self.lock.keys) if matches(key, {}))

    def _view(self, where: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        matches = matcher(where, None)
        for key in sorted(self.lock.keys):
            metadata = self.get_metadata(key)
            if matches(key, metadata):
                yield key, metadata

    def _here_already(self, key: str, short: str, locked: Locked) -> Snapshot | None:
        """Return the value if the right bytes are here."""
        catalog = self.mount.catalog
        copy = catalog.row(short).copy
        if copy is None or copy.sha256 != locked.sha256 or not catalog.is_sound(copy):
            return None
        try:
            stream = catalog.open_copy(copy)
        except FileNotFoundError:
            return None  # evicted just now
        if isinstance(stream, io.BytesIO) and not _is(stream, locked):
            # Of a row nothing shows that it was altered, but its digest.
            if not catalog.content.readonly:
                catalog.drop_copy(short, content=copy.content)
            return None
        catalog.use(short)
        self.mount.counts.hits += 1
        return Snapshot(
            key, copy.meta, stream=stream, source="cached", version=copy_version(copy),
            size=copy.size, sha256=copy.sha256, modified=copy.modified,
            age=max(0.0, self._clock() - copy.checked),
        )  # fmt: skip

    def _lazy(self, key: str, short: str, locked: Locked) -> Snapshot:
        """Return a value whose data is brought, and compared, when it is asked for."""
        try:
            theirs = self._overlay.beneath(short, self._options)
        except KeyError:
            raise mismatch(self.lock, key, "no such key upstream") from None
        return _shown(key, theirs, locked, lambda: self._value(key, data=True).data)

    def _brought(self, key: str, short: str, locked: Locked) -> Snapshot:
        """Return the value once all of it is here and was compared."""
        here = self._here_already(key, short, locked)
        if here is not None:
            return here
        if self._remote.is_left_alone(self._options):
            raise self._not_here(key, "upstream is left alone now")
        try:
            if self._options.fill and make_room(self.mount.catalog, locked.size):
                self._read(key, self._asked(short), locked, None)
                here = self._here_already(key, short, locked)
            return here or self._aside(key, short, locked)
        except KeyError:
            raise mismatch(self.lock, key, "no such key upstream") from None
        except StoreUnavailableError as error:
            raise self._not_here(key, str(error)) from error

    def _asked(self, short: str) -> Value:
        """Ask upstream: what is fresh here isn't what is wanted."""
        options = replace(self._options, max_age=0.0, offline="never")
        return self._overlay.asked(short, options)

    def _aside(self, key: str, short: str, locked: Locked) -> Snapshot:
        """Return a value that can't be kept in the store."""
        theirs = self._asked(short)
        large = locked.size > _IN_MEMORY
        file: Any = tempfile.TemporaryFile() if large else io.BytesIO()  # noqa: SIM115  # lent
        self._read(key, theirs, locked, file)
        file.flush()
        held = Snapshot(key, "{}", stream=file)
        return _shown(key, theirs, locked, lambda: held.data)

    def _read(self, key: str, theirs: Value, locked: Locked, into: BinaryIO | None) -> None:
        """Read and compare all bytes of a value.

        Raises
        ------
        IntegrityError
            If they are others. What is known of them shows that before they are read.
        """
        facts = facts_of(theirs)
        if facts.sha256 not in (None, locked.sha256):
            raise mismatch(self.lock, key, f"sha256 {facts.sha256}")
        if theirs.size not in (None, locked.size):
            raise mismatch(self.lock, key, f"{theirs.size:,} bytes")
        digest, size = hashlib.sha256(), 0
        with theirs.data as data:
            for chunk in chunks(data):
                digest.update(chunk)
                size += len(chunk)
                if size > locked.size:
                    raise mismatch(self.lock, key, f"more than {locked.size:,} bytes")
                if into is not None:
                    into.write(chunk)
        if digest.hexdigest() != locked.sha256:
            found = f"sha256 {digest.hexdigest()} of {size:,} bytes"
            raise mismatch(self.lock, key, found)

    def _not_here(self, key: str, why: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"what {self.lock.name} names as {key!r} isn't here, and {why}; `prefetch --from "
            f"{self.lock.name} --frozen` fetches it beforehand"
        )

    # -- what there isn't ----------------------------------------------------------------

    def _refuse(self, verb: str) -> ReadOnlyStoreError:
        return ReadOnlyStoreError(
            f"{self.lock.name} is in force in this store, which gives what it names and changes "
            f"nothing; open it without a lock to {verb}"
        )

    def _mine(self, key: str) -> str:
        raise self._refuse(f"change {key!r}")

    def push(self, key: str) -> PushResult:
        raise self._refuse(f"push {key!r}")

    def rebind(self, url: str) -> None:
        raise self._refuse(f"move it to {url!r}")


def _shown(
    key: str, theirs: Value, locked: Locked, fetch: Callable[[], io.BufferedIOBase]
) -> Snapshot:
    """Return a value with upstream's metadata and the bytes of the lock."""
    return Snapshot(
        key, spelling(theirs.metadata), fetch=fetch, source="upstream", version=locked.version,
        size=locked.size, sha256=locked.sha256, modified=theirs.modified,
    )  # fmt: skip


def _is(stream: io.BytesIO, locked: Locked) -> bool:
    return hashlib.sha256(stream.getbuffer()).hexdigest() == locked.sha256


def _again(lock: Lockfile, again: Callable[..., MountedStore], args: tuple[Any, ...]) -> Any:
    """Return a store like one of another process."""
    plain = again(*args)
    store = FrozenStore(
        lock, plain.mount_point, plain.mount_store, plain.backing_store,
        author=plain._author, clock=plain._clock,
    )  # fmt: skip
    store._chosen = plain._chosen
    return store
