"""A mount as a store to serve: its values have names (`shown`), and writes to it are staged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from mountcache.abc import (
    ABSENT,
    Base,
    Pushed,
    Readable,
    SupportsIndex,
    Value,
    chunks,
    facts_of,
    read_again,
)
from mountcache.errors import ConflictError, StoreUnavailableError
from mountcache.jsonform import parse, spelling
from mountcache.local.listing import Known, with_known
from mountcache.local.records import StoredRecord
from mountcache.local.uploads import Uploads
from mountcache.local.value import Snapshot
from mountcache.local.view import matcher
from mountcache.mounted import MountedStore
from mountcache.serve.shown import IN_MEMORY, Shown, names_of, version_of

__all__ = ["ServedMount"]


class ServedMount:
    """A mount, as the application serves it.

    Parameters
    ----------
    store
        The mount.
    """

    def __init__(self, store: MountedStore) -> None:
        self._store = store

    @property
    def store(self) -> MountedStore:
        """The mount."""
        return self._store

    def connect(self, credentials: Any = None) -> None:
        self._store.connect(credentials)

    def disconnect(self) -> None:
        self._store.disconnect()

    def is_connected(self) -> bool:
        return self._store.is_connected()

    # -- reading -------------------------------------------------------------------------

    def warm(self, key: str) -> Value | None:
        """Return the value of a key if it is here and upstream needs no question; else None."""
        value = self._store.warm(key)
        return None if value is None else self._shown(value)

    def get(self, key: str) -> Shown:
        """Return the value of a key, as upstream confirms it; its data may still be there."""
        return read_again(lambda: self._get(key))

    def _get(self, key: str) -> Shown:
        value = self._store.get(key)
        if not self._is_nameless(value):
            return self._shown(value)
        # An index tells neither the version nor always the length: a look at the bytes does.
        try:
            look = value.range(0, 0)
        except StoreUnavailableError:
            return self._shown(value, version=None)
        with look:
            return self._looked(key, value, look, None)

    def fetch(self, key: str) -> Shown:
        """Return the value of a key, its data on their way if they aren't here."""
        return read_again(lambda: self._fetch(key))

    def _fetch(self, key: str) -> Shown:
        value = self._store.fetch(key)
        if value.source != "upstream" or not isinstance(value, Snapshot):
            return self._shown(value)
        stream = value.data
        if self._is_nameless(value):
            return self._looked(key, value, stream, stream)
        return self._shown(value, stream=stream)

    def _is_nameless(self, value: Value) -> bool:
        """Whether nothing is known that tells the bytes from others, or their length."""
        if value.source != "upstream" or not isinstance(value, Snapshot):
            return False
        sha256 = facts_of(value).sha256
        # The version in an index entry is that of the last fill, which may be long ago.
        known = sha256 is not None or (value.version is not None and not self._indexed)
        return not known or value.size is None

    @property
    def _indexed(self) -> bool:
        backing = self._store.backing_store
        return isinstance(backing, SupportsIndex) and backing.poll is not None

    def _looked(
        self, key: str, value: Value, look: io.BufferedIOBase, stream: io.BufferedIOBase | None
    ) -> Shown:
        """Return a value of whose bytes a stream has come."""
        raw = getattr(look, "raw", None)
        size: int | None = getattr(raw, "size", None)
        if (size is None or size <= IN_MEMORY) and (kept := self._store.warm(key)) is not None:
            shown = self._shown(kept)
            shown.fetched = True
            return shown
        return self._shown(value, version=version_of(look), stream=stream, size=size)

    def _shown(
        self,
        value: Value,
        *,
        version: str | Literal["its own"] | None = "its own",
        stream: io.BufferedIOBase | None = None,
        size: int | None = None,
    ) -> Shown:
        if value.source == "staged":
            return Shown(value, (str(value.version),), value.version)
        if version == "its own":
            version = value.version
        shown = Shown(
            value,
            names_of(facts_of(value).sha256, version, value.metadata),
            stream=stream,
            size=size,
            expected=version if value.source == "upstream" else None,
        )
        # A digest without a version is found again by the mount, in the entry it comes from.
        shown.base = version or shown.version
        return shown

    def exists(self, key: str) -> bool:
        """Return whether a key is there, or may be: upstream isn't asked.

        What is to replace the key blindly mustn't count as made over what upstream has now.
        """
        point = self._store.mount_point
        if not key.startswith(point) or key == point:
            return self._store.exists(key)
        row = self._store.mount.staging.row(key[len(point) :], mounted=True)
        if row.edit is not None:
            return row.edit.kind != "del"
        if row.entry is not None:
            return row.entry.present
        return row.copy is not None or not row.complete

    def version_of(self, key: str) -> Base:
        try:
            return self.get(key).version
        except KeyError:
            return ABSENT

    # -- listings ------------------------------------------------------------------------

    def records(self, where: Mapping[str, Any] = MappingProxyType({})) -> Iterator[StoredRecord]:
        """Iterate by key over what the mount shows, its data left out."""
        view = self._store.with_options(indexes=False)
        if view.info()["offline"] != "always":
            # What was asked for the revision of the listing needn't be asked again.
            view = view.with_options(offline="prefer")
        return self._records(view, where)

    def _records(self, view: MountedStore, where: Mapping[str, Any]) -> Iterator[StoredRecord]:
        answers = matcher(where, None)
        for key, metadata, known in self._seen(view, where):
            if known is None:
                if answers(key, metadata):
                    yield StoredRecord(key, metadata, None, None, None, 0.0)
                continue
            metadata, version = parse(known.meta), known.version
            # It may have changed since the query found it.
            if not answers(key, metadata):
                continue
            if not known.staged:
                names = names_of(known.sha256, None if self._indexed else version, metadata)
                version = names[0] if names else None
            yield StoredRecord(
                key, metadata, known.size, known.sha256, version, known.modified or 0.0
            )

    def _seen(
        self, view: MountedStore, where: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any], Known | None]]:
        """Iterate over what a query finds, and what is known of each key that is mounted."""
        point, catalog = view.mount_point, view.mount.catalog
        # Names that are taken in the signature of `query` are left to who asks.
        asked = {name: value for name, value in where.items() if name not in ("self", "select")}
        for inside, pairs in groupby(view.query(**asked), lambda pair: pair[0].startswith(point)):
            if not inside:
                yield from ((key, metadata, None) for key, metadata in pairs)
                continue
            short = ((key[len(point) :], metadata) for key, metadata in pairs)
            for (key, metadata), known in with_known(catalog, short):
                yield point + key, metadata, known

    def revision(self) -> str:
        """Return what changes with every change of what the mount shows.

        It is a hash over the whole listing.

        Raises
        ------
        StoreUnavailableError
            If upstream may hold more than is known here.
        """
        found = hashlib.sha256()
        for key, metadata, known in self._seen(self._store, {}):
            if known is None:
                text = spelling(metadata)
            else:
                text = f"{known.meta}\n{known.size}\n{known.sha256}\n{known.version}"
            found.update(f"{key}\n{text}\n".encode())
        return found.hexdigest()

    # -- writing -------------------------------------------------------------------------

    def _base(self, key: str, named: Base) -> Base:
        """Return what the mount calls the version that a client names.

        Raises
        ------
        ConflictError
            If the mount shows another one.
        """
        if named is None:
            return None
        found: Base
        try:
            shown = self.get(key)
        except KeyError:
            if named is ABSENT:
                return ABSENT
            found = ABSENT
        else:
            if named in shown.names:
                return shown.base
            found = shown.version
        raise ConflictError(
            f"{key!r} isn't what the change was made over; read it again and redo the change",
            key=key,
            expected=named,
            found=found,
        )

    @property
    def uploads(self) -> Uploads | None:
        """What others are still sending to the mount; None if it has no place for that."""
        return self._store.mount.catalog.content.uploads

    def done(self, op_id: str) -> Pushed | None:
        """Return the answer to a write that was staged before under this operation id."""
        return self._store.mount.staging.done(op_id)

    def _unless_done(
        self, op_id: str, data: Readable | None, write: Callable[[], Pushed]
    ) -> Pushed:
        """Return the answer to an operation that was done before, else do it.

        A repeat isn't measured by what is there now.
        """
        done = self.done(op_id) if op_id else None
        if done is None:
            return write()
        if data is not None:
            for _ in chunks(data):
                pass
        return done

    def set_if(
        self,
        key: str,
        value: tuple[Readable, Mapping[str, Any]],
        base: Base,
        op_id: str,
        *,
        parts: frozenset[str] = frozenset({"data", "metadata"}),
    ) -> Pushed:
        data, metadata = value

        def write() -> Pushed:
            named, meta = self._base(key, base), None
            if "metadata" in parts:
                meta = spelling(metadata)
            elif base is None and not self._can_learn(key):
                # As of a new key: pushed, it creates only, so it replaces nothing unseen.
                meta = "{}"
            data_or_none = data if "data" in parts else None
            return self._store.stage(
                key, data=data_or_none, meta=meta, base=named, op_id=op_id or None
            )

        return self._unless_done(op_id, data, write)

    def _can_learn(self, key: str) -> bool:
        """Whether the metadata of a key are known here, or can be asked for.

        Who is known here isn't asked after: what was seen last is what a write is over.
        """
        view, point = self._store, self._store.mount_point
        if view.info()["offline"] == "never" or not key.startswith(point) or key == point:
            return True
        catalog, short = view.mount.catalog, key[len(point) :]
        row = catalog.row(short)
        if row.edit or row.copy or row.entry or catalog.has_handed(short):
            return True
        try:
            view.exists(key)
        except StoreUnavailableError:
            return False
        return True

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        return self._unless_done(
            op_id,
            None,
            lambda: self._store.stage(
                key, meta=spelling(metadata), base=self._base(key, base), op_id=op_id or None
            ),
        )

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        return self._unless_done(
            op_id,
            None,
            lambda: self._store.stage_delete(key, base=self._base(key, base), op_id=op_id or None),
        )

    def set(
        self,
        key: str,
        value: tuple[Readable, Mapping[str, Any]],
        buffer_size: int = 1048576,
        *,
        base: Base = None,
    ) -> None:
        self._store.set(key, value, buffer_size, base=self._base(key, base))

    def set_data(
        self, key: str, data: Readable, buffer_size: int = 1048576, *, base: Base = None
    ) -> None:
        self._store.set_data(key, data, buffer_size, base=self._base(key, base))

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        self._store.set_metadata(key, metadata, base=self._base(key, base))

    def delete(self, key: str, *, base: Base = None) -> None:
        self._store.delete(key, base=self._base(key, base))

    def transaction(self, notes: str) -> AbstractContextManager[object]:
        return self._store.transaction(notes)
