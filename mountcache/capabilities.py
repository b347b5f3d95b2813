"""What a store can do besides, and the records that tell of it.

Each is asked by Protocol, never by class: ``isinstance(store, SupportsRanges)``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mountcache.abc import Value

__all__ = [
    "ABSENT",
    "Absent",
    "Base",
    "BatchLimits",
    "Enforced",
    "Facts",
    "Grade",
    "IndexEntry",
    "IndexReading",
    "IndexWindow",
    "Metadata",
    "NotModified",
    "Pushed",
    "Source",
    "SupportsBatch",
    "SupportsClock",
    "SupportsConditionalWrite",
    "SupportsIdentity",
    "SupportsIndex",
    "SupportsLock",
    "SupportsPace",
    "SupportsPermissions",
    "SupportsProbing",
    "SupportsRanges",
    "SupportsRevalidation",
    "SupportsVersions",
    "SupportsWrite",
    "Write",
]

Source = Literal["staged", "cached", "upstream"]
Grade = Literal["A", "B", "C", "D"]
Metadata = dict[str, Any]


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""The version of a key that isn't there: ``store.set(key, value, base=ABSENT)`` only creates."""

Base = str | Absent | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What an upstream said of a value besides its bytes and metadata."""

    version: str | None = None
    """Names these bytes and this metadata beyond doubt; None if upstream gave no such name."""
    validators: str | None = None
    """What `SupportsRevalidation.revalidate` wants back; opaque to all but the store."""
    size: int | None = None
    """Length of the data in bytes, if promised."""
    sha256: str | None = None
    """Digest of the data, 64 hex digits, if promised."""
    md5: str | None = None
    """Digest of the data, 32 hex digits, if promised."""
    lifetime: float | None = None
    """Seconds from now for which a copy may be used without asking; None: nothing was said;
    0: it may not, not even where an index covers it."""
    storable: bool = True
    """False if upstream forbids keeping a copy (no-store, Vary: *)."""
    modified: float | None = None
    """When upstream changed it last, in seconds since 1970."""
    mimetype: str = "application/octet-stream"
    names_metadata: bool = False
    """`version` names the metadata too, which are the value's own, whatever an index says."""


@dataclass(frozen=True, slots=True)
class NotModified:
    """The copy that the validators came from still holds."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to a write that was applied."""

    version: str | None
    """The version that the write made, if the answer told; None after a delete."""
    enforced: bool
    """Upstream is known to have compared the base and written as one step."""
    validators: str = ""
    """What `SupportsRevalidation.revalidate` wants for that version, if the answer told."""
    replayed: bool = False
    """Upstream had applied this operation id before, and gave the same answer again."""


@dataclass(frozen=True, slots=True)
class Enforced:
    """Which conditional writes a server was seen to enforce, each by itself.

    That it compares says nothing of whether it compares and writes as one step.
    """

    create: bool = False
    """``If-None-Match: *`` keeps a key that is there from being replaced."""
    replace: bool = False
    """``If-Match`` keeps any other version than the one it names from being replaced."""
    delete: bool = False
    """``If-Match`` keeps any other version from being deleted."""

    def covers(self, kind: str, base: Base) -> bool:
        """Return whether the server itself refuses an edit whose base isn't there.

        Parameters
        ----------
        kind
            "put", "meta" or "del".
        base
            The base, as the request names it.
        """
        match kind, base:
            case "put", Absent.ABSENT:
                return self.create
            case "put", str():
                return self.replace
            case "del", str():
                return self.delete
        return False


@dataclass(frozen=True, slots=True)
class Write:
    """One conditional write of several that are one change."""

    key: str
    kind: Literal["put", "meta", "del"]
    value: Value | None
    """Data and metadata of a put, metadata alone of a "meta"; None for a "del"."""
    base: Base
    """The version to be replaced; `ABSENT`: create only; None: whatever is there."""
    op_id: str
    """Names the write, so that a repeat is harmless."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may be."""

    size: int
    """Bytes of its writes in all."""
    count: int
    """Writes."""
    ahead: int | None = None
    """Bytes from which on data is sent ahead, and doesn't count; None: all of it counts."""


IndexEntry = tuple[str, str, str | None, int | None, str | None]
"""(key, metadata as JSON text, version, size, sha256); the last three None where an index
doesn't say."""


class IndexWindow(Protocol):
    """The next part of an index that is the JSON text ``{key: metadata}``. Take it by `text`, or
    if that comes to nothing by `entries`."""

    def text(self, is_json: Callable[[str], bool]) -> str | None:
        """Take what is whole as the text of an object; None if no cut makes JSON of it."""

    def entries(self) -> Sequence[IndexEntry]:
        """Take some of what is left."""

    def parsed(self, text: str) -> Sequence[IndexEntry]:
        """Return the entries of the text of an object."""


@dataclass(frozen=True, slots=True)
class IndexReading:
    """An index on its way in. Use up `entries` or `windows`, or close it."""

    entries: Iterator[IndexEntry]
    """Raises IndexUnreadableError where it breaks."""
    validators: str | None
    """What to give to the next `read_index`."""
    close: Callable[[], None]
    withheld: Sequence[str] = ()
    """Prefixes of keys of which nothing can be said this time: what was known of them stays.
    Complete once `entries` are used up."""
    windows: Iterator[IndexWindow] | None = None
    """The same, where who reads it needs no more of an entry than whether it is as before."""


@runtime_checkable
class SupportsIdentity(Protocol):
    """A store that is the same one in another process or on another day."""

    @property
    def identity(self) -> str:
        """What names it, such as its normalised URL without credentials."""


@runtime_checkable
class SupportsClock(Protocol):
    """A store whose answers say what time it is there."""

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which its clock was ahead of ours at its last answer; None: nobody knows."""


@runtime_checkable
class SupportsVersions(Protocol):
    """A store whose values have a `version`."""

    def version_of(self, key: str) -> Base:
        """Return the version upstream shows now, `ABSENT`, or None if it names none."""


@runtime_checkable
class SupportsRevalidation(Protocol):
    """A store that can be asked whether a copy still holds."""

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        """Return NotModified, or the value that is there now; KeyError if it is gone."""


@runtime_checkable
class SupportsRanges(Protocol):
    """A store that gives a part of a value."""

    def open_range(self, key: str, start: int, version: str) -> io.BufferedIOBase:
        """Return a stream of `version` of `key` from byte `start` on.

        Raises
        ------
        ChangedWhileReadingError
            If upstream has another version by now, or can't give parts.
        """


@runtime_checkable
class SupportsConditionalWrite(Protocol):
    """A store that replaces only what the author of a change had seen.

    Each method takes the version to be replaced (`ABSENT`: create only; None: whatever is
    there, which enforces nothing) and an operation id, which makes a repeat harmless where
    the store remembers it. A base that isn't there is a ConflictError and changes nothing.
    """

    def enforces(self) -> bool:
        """True if the store compares and writes as one step, for any other writer."""

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, *, parts: frozenset[str] = ...
    ) -> Pushed:
        """Write data and metadata.

        `parts` is a subset of ``{"data", "metadata"}``: what is still to be sent where the
        two are two resources.
        """

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """Write the metadata alone; the data stays whatever it is."""

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """Delete the key. KeyError if it isn't there."""


@runtime_checkable
class SupportsPermissions(Protocol):
    """A store that keeps permissions beside data and metadata."""

    def get_permissions(self, key: str) -> dict[str, Any]:
        """Return the permissions of a key; KeyError if it isn't there."""

    def set_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        """Replace the permissions of a key."""


@runtime_checkable
class SupportsPace(Protocol):
    """A store whose traffic can be held back."""

    @property
    def connections(self) -> int | None:
        """How many requests may be under way at once; None: any number."""

    def at_most(self, rate: str | float | None) -> AbstractContextManager[None]:
        """Let the bodies that are begun in the block pass at this many bytes a second, all threads
        of the store together.

        Parameters
        ----------
        rate
            Bytes a second, or text such as "512k", "off" or "08:00,512k 18:00,off"; None changes
            nothing.

        Raises
        ------
        ConfigurationError
            If it is no rate.
        """


@runtime_checkable
class SupportsProbing(Protocol):
    """A store that can find out by trying which conditional writes its server enforces."""

    @property
    def software(self) -> str | None:
        """What the server called itself in its last answer; None: it hasn't answered, or said.

        What was found out of one isn't believed of another.
        """

    def probe(self, key: str) -> Enforced:
        """Write, replace and delete a scratch key, and look after each what is there.

        Parameters
        ----------
        key
            A key that nobody else has. It is gone afterwards.

        Raises
        ------
        ReadOnlyStoreError
            If the server can't be written.
        ConfigurationError
            If what it enforces would be of no use.
        StoreError
            If the server doesn't answer, or doesn't let us write.
        """


@runtime_checkable
class SupportsBatch(Protocol):
    """A store some of whose servers take several conditional writes as one change."""

    def batch_limits(self) -> BatchLimits | None:
        """Return how large a batch may be; None if none is taken."""

    def write_batch(self, writes: Sequence[Write]) -> list[Pushed]:
        """Carry out all writes, or none. Each op_id is remembered as of a write alone.

        Raises
        ------
        ConflictError
            If a base isn't there; it names the key.
        KeyError
            If a key isn't there that is to be deleted; it names it.
        """


@runtime_checkable
class SupportsWrite(Protocol):
    """A store that can be written, whoever wrote it."""

    def set(self, key: str, value: Any, buffer_size: int = ...) -> None:
        """Store data and metadata under `key`."""

    def set_metadata(self, key: str, metadata: Any) -> None:
        """Replace the metadata of `key`."""

    def delete(self, key: str) -> None:
        """Delete `key`."""


@runtime_checkable
class SupportsIndex(Protocol):
    """A store that can list all it holds in one request."""

    @property
    def poll(self) -> float | None:
        """Seconds for which an index counts as current; 0: until it is asked for again.

        None if the index is a listing made for the asker, and ages as a value does.
        """

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        """Return the index, or None if `validators` still hold.

        Raises
        ------
        IndexUnreadableError
            If there is none, or what is there isn't one.
        """


@runtime_checkable
class SupportsLock(Protocol):
    """A store whose keys can be locked against other writers (grade B)."""

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Hold a lock on `key` for the length of the block."""
