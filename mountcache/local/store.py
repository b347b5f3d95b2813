"""LocalStore: a writable store on a catalog, by itself or under a mount.

By itself it shows only what was set into it; clean copies are a cache beside that. It compares
and writes in one commit, so it can be a backing store too, and an origin behind a server.
"""

from __future__ import annotations

import getpass
import io
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mountcache.abc import (
    ABSENT,
    AbstractStore,
    Base,
    IndexReading,
    NotModified,
    Pushed,
    Readable,
    Value,
    check_stream,
    select_from,
    unpack,
)
from mountcache.errors import IntegrityError, StoreUnavailableError
from mountcache.events import EventManager
from mountcache.jsonform import parse, spelling
from mountcache.keys import check_key
from mountcache.local import fields
from mountcache.local.catalog import Catalog
from mountcache.local.content import Content
from mountcache.local.journal import Journal
from mountcache.local.lending import lent
from mountcache.local.listing import with_known
from mountcache.local.records import Edit, Limits, StoredRecord
from mountcache.local.staging import Announce, Staging
from mountcache.local.uploads import Uploads
from mountcache.local.value import Snapshot
from mountcache.local.view import PAGE, matcher
from mountcache.locks import Lock

__all__ = ["LocalStore", "default_author", "reread"]

_REREADS = 100
_AS_BEFORE = Limits()

_RECORDS = """
SELECT key, meta, size, sha, version, at FROM edit
WHERE kind != 'del' AND key > ? ORDER BY key LIMIT ?
"""


class LocalStore(AbstractStore):
    """A writable store on a catalog.

    Parameters
    ----------
    open_content
        Opens the place of the bytes, at the first use of the store.
    limits
        Bytes that it may take of the disk.
    min_free
        Bytes of the disk that clean copies leave free.
    event_manager
        Who hears of changes.
    """

    def __init__(
        self,
        open_content: Callable[[], Content],
        *,
        limits: Limits = _AS_BEFORE,
        min_free: int = 0,
        event_manager: EventManager | None = None,
    ) -> None:
        super().__init__(event_manager)
        self._open_content = open_content
        self._limits = limits
        self._min_free = min_free
        self._opening = Lock()
        self._catalog: Catalog | None = None
        self._staging: Staging | None = None
        self._journal: Journal | None = None

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        """Lend the data of a key as a read-only file, for libraries that want a path."""
        with lent(self.catalog.content, key, self.get(key)) as path:
            yield path

    # -- what a mount works with ---------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The tables of the store; opened at their first use."""
        if self._catalog is None:
            with self._opening:
                if self._catalog is None:
                    catalog = Catalog(
                        self._open_content(), limits=self._limits, min_free=self._min_free
                    )
                    self._staging = Staging(catalog)
                    self._journal = Journal(catalog, self._staging)
                    self._catalog = catalog
        return self._catalog

    @property
    def staging(self) -> Staging:
        """The staged edits."""
        _ = self.catalog
        assert self._staging is not None
        return self._staging

    @property
    def journal(self) -> Journal:
        """The pushes."""
        _ = self.catalog
        assert self._journal is not None
        return self._journal

    # -- the store -----------------------------------------------------------------------

    def connect(self, credentials: Any = None) -> None:
        _ = self.catalog
        super().connect(credentials)

    def disconnect(self) -> None:
        super().disconnect()
        with self._opening:
            if self._catalog is not None:
                self._catalog.close()
            self._catalog = self._staging = self._journal = None

    def get(self, key: str) -> Value:
        return reread(lambda: self._get(key), key)

    def _get(self, key: str) -> Value:
        edit = self._edit(key)
        if edit.kind == "meta":
            return self._snapshot(edit, None, lambda: self._bytes_elsewhere(key))
        return self._snapshot(edit, self.staging.open_edit(edit), None)

    def _snapshot(
        self,
        edit: Edit,
        stream: io.BufferedIOBase | None,
        fetch: Callable[[], io.BufferedIOBase] | None,
    ) -> Snapshot:
        return Snapshot(
            edit.key,
            edit.meta,
            stream=stream,
            fetch=fetch,
            version=edit.version,
            size=edit.size,
            sha256=edit.sha256,
            modified=edit.at,
        )

    def _edit(self, key: str) -> Edit:
        edit = self.staging.row(check_key(key), mounted=False).edit
        if edit is None or edit.kind == "del":
            raise KeyError(key)
        return edit

    def _bytes_elsewhere(self, key: str) -> io.BufferedIOBase:
        raise StoreUnavailableError(
            f"only the metadata of {key!r} was edited here; read its data through the mount"
        )

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> dict[str, Any]:
        return select_from(parse(self._edit(key).meta), select)

    def exists(self, key: str) -> bool:
        try:
            self._edit(key)
        except KeyError:
            return False
        return True

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        names = None if select is None else list(select)
        fields.provide(self.catalog.content, kwargs)
        rows = self.staging.view(kwargs, merged=False)
        return ((key, select_from(metadata, names)) for key, metadata in rows)

    def query_keys(self, **kwargs: Any) -> Iterator[str]:
        fields.provide(self.catalog.content, kwargs)
        return (key for key, _ in self.staging.view(kwargs, merged=False))

    def glob(self, pattern: str) -> Iterator[str]:
        return (key for key, _ in self.staging.view({}, merged=False, pattern=pattern))

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        buffer_size: int = 1048576,
        *,
        base: Base = None,
    ) -> None:
        data, metadata = unpack(value)
        self.staging.write(
            check_key(key),
            self._announce(key),
            data=check_stream(data),
            meta=spelling(metadata),
            base=base,
            buffer_size=buffer_size,
        )

    def set_data(
        self, key: str, data: Readable, buffer_size: int = 1048576, *, base: Base = None
    ) -> None:
        self.staging.write(
            check_key(key),
            self._announce(key),
            data=check_stream(data),
            base=base,
            buffer_size=buffer_size,
        )

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        self.staging.write(check_key(key), self._announce(key), meta=spelling(metadata), base=base)

    def update_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        self.staging.write(
            check_key(key), self._announce(key), merge=parse(spelling(metadata)), base=base
        )

    def delete(self, key: str, *, base: Base = None) -> None:
        self.staging.delete(check_key(key), self._announce(key), base=base)

    def transaction(self, notes: str) -> AbstractContextManager[object]:
        return self.staging.transaction(self, notes)

    def _announce(self, key: str) -> Announce:
        return Announce(self, key, mounted=False, author=default_author())

    # -- as a backing store --------------------------------------------------------------

    def enforces(self) -> bool:
        return True

    def version_of(self, key: str) -> Base:
        try:
            return self._edit(key).version
        except KeyError:
            return ABSENT

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        value = self.get(key)
        return NotModified(value.facts) if value.version == validators else value

    @property
    def uploads(self) -> Uploads | None:
        """What others are still sending to this store; None if it has no place for that."""
        return self.catalog.content.uploads

    def done(self, op_id: str) -> Pushed | None:
        """Return the answer to a write that was applied before under this operation id."""
        return self.staging.done(op_id)

    def set_if(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        base: Base,
        op_id: str,
        *,
        parts: frozenset[str] = frozenset({"data", "metadata"}),
    ) -> Pushed:
        data, metadata = unpack(value)
        return self.staging.write(
            check_key(key),
            self._announce(key),
            data=data if "data" in parts else None,
            meta=spelling(metadata) if "metadata" in parts else None,
            base=base,
            op_id=op_id or None,
        )

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        return self.staging.write(
            check_key(key),
            self._announce(key),
            meta=spelling(metadata),
            base=base,
            op_id=op_id or None,
        )

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        return self.staging.delete(
            check_key(key), self._announce(key), base=base, op_id=op_id or None
        )

    @property
    def poll(self) -> float | None:
        return None

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        revision = self.revision()
        if validators == revision:
            return None
        entries = (
            (found.key, spelling(found.metadata), found.version, found.size, found.sha256)
            for found in self.records()
        )
        return IndexReading(entries, revision, lambda: None)

    def revision(self) -> str:
        """Return what changes with every change of the store."""
        return f"{self.catalog.content.incarnation}-{self.catalog.state('seq')}"

    def records(self, where: Mapping[str, Any] = MappingProxyType({})) -> Iterator[StoredRecord]:
        """Iterate by key over what was set into the store, its data left out.

        Parameters
        ----------
        where
            Names of metadata, and the values that they must have.
        """
        if where:
            yield from self._records_of(where)
            return
        after = ""
        while True:
            page = self.catalog.content.connection().execute(_RECORDS, (after, PAGE)).fetchall()
            for key, meta, size, sha256, version, at in page:
                yield StoredRecord(key, parse(meta), size, sha256, version, at)
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def _records_of(self, where: Mapping[str, Any]) -> Iterator[StoredRecord]:
        answers = matcher(where, None)
        for (key, _), known in with_known(self.catalog, self.staging.view(where, merged=False)):
            # It may have changed since the query found it.
            if known is not None and known.staged and answers(key, parse(known.meta)):
                yield StoredRecord(
                    key, parse(known.meta), known.size, known.sha256, known.version,
                    known.modified or 0.0,
                )  # fmt: skip


def reread(read: Callable[[], Value], key: str) -> Value:
    """Read a key again if its bytes were replaced between its row and its file.

    Raises
    ------
    IntegrityError
        If its bytes are missing for good.
    """
    for _ in range(_REREADS):
        try:
            return read()
        except FileNotFoundError:
            continue
    raise IntegrityError(
        f"the bytes of {key!r} are missing from the store's directory, or aren't what they "
        "were, though it is staged; restore the directory from a backup, or set the key again"
    )


def default_author() -> str:
    """Return who makes the edits: ``MOUNTCACHE_AUTHOR``, else the user's name at the host."""
    return os.environ.get("MOUNTCACHE_AUTHOR") or _user_at_host()


@cache
def _user_at_host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
