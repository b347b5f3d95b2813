"""What the application asks of a store, be it an origin's or a mount."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from mountcache.abc import Base, Pushed, Readable, Value
from mountcache.local.records import StoredRecord
from mountcache.local.uploads import Uploads

__all__ = ["AsksUpstream", "Served"]


class Served(Protocol):
    """A store with versions that compares and writes in one commit."""

    def connect(self, credentials: Any = None) -> None: ...

    def disconnect(self) -> None: ...

    def is_connected(self) -> bool: ...

    def get(self, key: str) -> Value: ...

    def exists(self, key: str) -> bool: ...

    def version_of(self, key: str) -> Base: ...

    def records(self, where: Mapping[str, Any] = ...) -> Iterator[StoredRecord]:
        """Iterate by key over what is in the store, its data left out.

        `where` is of names of metadata and the values that they must have.
        """

    def revision(self) -> str:
        """Return what changes with every change of the store."""

    @property
    def uploads(self) -> Uploads | None:
        """What others are still sending to the store; None if it has no place for that."""

    def done(self, op_id: str) -> Pushed | None:
        """Return the answer to a write that was applied before under this operation id."""

    def set_if(
        self,
        key: str,
        value: tuple[Readable, Mapping[str, Any]],
        base: Base,
        op_id: str,
        *,
        parts: frozenset[str] = ...,
    ) -> Pushed: ...

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed: ...

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed: ...

    def set(
        self,
        key: str,
        value: tuple[Readable, Mapping[str, Any]],
        buffer_size: int = ...,
        *,
        base: Base = ...,
    ) -> None: ...

    def set_data(
        self, key: str, data: Readable, buffer_size: int = ..., *, base: Base = ...
    ) -> None: ...

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = ...) -> None: ...

    def delete(self, key: str, *, base: Base = ...) -> None: ...

    def transaction(self, notes: str) -> AbstractContextManager[object]: ...


@runtime_checkable
class AsksUpstream(Protocol):
    """A store some of whose reads wait for another server."""

    def warm(self, key: str) -> Value | None:
        """Return the value of a key if nobody need be asked for it; else None."""

    def fetch(self, key: str) -> Value:
        """Return the value of a key, its data on their way if they aren't here."""
