"""The contracts: what a value and a store are, and what a store can do besides.

A store of your own needs `get` and `query` (read-only), or these and `set` and `delete`; the
rest of the API comes from the base classes here. What a store can do besides (versions,
conditional writes, an index, ranges) is asked by Protocol, never by class.

The signatures are those of ``encore.storage``.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeVar, cast

from mountcache.capabilities import (
    ABSENT,
    Absent,
    Base,
    BatchLimits,
    Enforced,
    Facts,
    Grade,
    IndexReading,
    NotModified,
    Pushed,
    Source,
    SupportsBatch,
    SupportsClock,
    SupportsConditionalWrite,
    SupportsIdentity,
    SupportsIndex,
    SupportsLock,
    SupportsPace,
    SupportsPermissions,
    SupportsProbing,
    SupportsRanges,
    SupportsRevalidation,
    SupportsVersions,
    SupportsWrite,
    Write,
)
from mountcache.errors import (
    AuthorizationError,
    ChangedWhileReadingError,
    ConflictError,
    InvalidValueError,
    ReadOnlyStoreError,
)
from mountcache.events import (
    EventManager,
    StoreModificationEvent,
    StoreProgress,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
)
from mountcache.jsonform import parse, spelling
from mountcache.streams import Readable, Writer, check_mode, check_stream, chunks, first_bytes

__all__ = [
    "ABSENT",
    "Absent",
    "AbstractAuthorizingStore",
    "AbstractReadOnlyStore",
    "AbstractStore",
    "Base",
    "BatchLimits",
    "Enforced",
    "Facts",
    "Grade",
    "IndexReading",
    "NotModified",
    "Pushed",
    "Readable",
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
    "Value",
    "Write",
    "check_stream",
    "chunks",
    "facts_of",
    "first_bytes",
    "read_again",
    "select_from",
    "unpack",
]

_MIB = 1048576
_TRIES = 3
_T = TypeVar("_T")


class Value(ABC):
    """Data and metadata of one key at one moment.

    Unpacks as ``data, metadata = value``. As a context manager it gives its data and closes
    it at the end.
    """

    @property
    @abstractmethod
    def data(self) -> io.BufferedIOBase:
        """A readable stream of the data, at its beginning."""

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """The metadata; a dict of the caller's own."""

    @property
    def permissions(self) -> dict[str, Any]:
        """The permissions, where the store keeps them and the user owns the key."""
        raise AuthorizationError("this store keeps no permissions for this key")

    @property
    def size(self) -> int | None:
        """Length of the data in bytes, or None if it isn't known before it is read."""
        return None

    @property
    def mimetype(self) -> str:
        """The media type of the data."""
        return "application/octet-stream"

    @property
    def created(self) -> float | None:
        """When the key was made, in seconds since 1970, or None if that isn't known."""
        return None

    @property
    def modified(self) -> float | None:
        """When data or metadata last changed, in seconds since 1970, or None."""
        return None

    @property
    def version(self) -> str | None:
        """What ``base=`` of the setters takes; None if the store has no versions."""
        return None

    @property
    def source(self) -> Source:
        """Where the data comes from."""
        return "upstream"

    @property
    def age(self) -> float:
        """Seconds since upstream last confirmed the value; 0 for a staged one."""
        return 0.0

    @property
    def stale(self) -> bool:
        """True if upstream may have moved on and couldn't be asked."""
        return False

    @property
    def facts(self) -> Facts:
        """What upstream said of it; of its data as well once `data` was asked for."""
        return Facts(
            version=self.version, size=self.size, modified=self.modified, mimetype=self.mimetype
        )

    def range(self, start: int | None = None, end: int | None = None) -> io.BufferedIOBase:
        """Return a stream of the bytes from `start` up to but not with `end`.

        Parameters
        ----------
        start
            First byte, counted from 0; None is 0.
        end
            The byte after the last; None, or past the end, is the end.
        """
        start = 0 if start is None else start
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"a range has 0 <= start <= end; this one is {start} to {end}")
        data = self.data
        if data.seekable():
            data.seek(start)
        else:
            left = start
            while left:
                passed = len(data.read(min(left, _MIB)))
                if not passed:
                    break
                left -= passed
        return data if end is None else first_bytes(data, end - start)

    def iterdata(
        self, buffer_size: int = _MIB, progress: Callable[..., object] | None = None
    ) -> Iterator[bytes]:
        """Iterate over the data in pieces of at most `buffer_size` bytes.

        Parameters
        ----------
        buffer_size
            Bytes in a piece.
        progress
            Called with ``step=`` the count of bytes so far after each piece.
        """
        with self.data as data:
            done = 0
            for chunk in chunks(data, buffer_size):
                done += len(chunk)
                if progress is not None:
                    progress(step=done)
                yield chunk

    def __iter__(self) -> Iterator[Any]:
        yield self.data
        yield self.metadata

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (lambda: self.data, lambda: self.metadata)[index]()

    def __enter__(self) -> io.BufferedIOBase:
        self._entered = self.data
        return self._entered

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.close()


class AbstractReadOnlyStore(ABC):
    """A store that can be read.

    A store of your own implements `get` and `query`, and `connect` and `disconnect` if there
    is something to open. All keys are str (see `mountcache.keys`); a missing one raises
    KeyError; one that can't be looked up now raises StoreUnavailableError.

    Parameters
    ----------
    event_manager
        Who hears of changes; one of the store's own unless given.
    """

    def __init__(self, event_manager: EventManager | None = None) -> None:
        self.event_manager = EventManager() if event_manager is None else event_manager
        self._connected = False

    def connect(self, credentials: Any = None) -> None:
        """Open what the store needs for long, with `credentials` where it asks for some."""
        self._connected = True

    def disconnect(self) -> None:
        """Close what `connect` opened. A store can be connected again."""
        self._connected = False

    def is_connected(self) -> bool:
        """Whether `connect` was called last, rather than `disconnect`."""
        return self._connected

    def info(self) -> dict[str, Any]:
        """Return what the store says of itself: ``readonly`` and ``authorizing`` at least."""
        return {"readonly": True, "authorizing": False}

    def __enter__(self) -> Self:
        if not self.is_connected():
            self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    @abstractmethod
    def get(self, key: str) -> Value:
        """Return the value of `key`. No download begins before its data is asked for.

        Raises
        ------
        KeyError
            If the key isn't there.
        StoreUnavailableError
            If that can't be known now.
        """

    @abstractmethod
    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (key, metadata) of the keys whose metadata has all of `kwargs`.

        Parameters
        ----------
        select
            Names of metadata to return; all of them if None.
        **kwargs
            Names of metadata, and the value that each must have.
        """

    def get_data(self, key: str) -> io.BufferedIOBase:
        """Return a stream of the data of `key`; raises as `get` does."""
        return self.get(key).data

    def open(self, key: str, mode: str = "rb") -> BinaryIO:
        """Open a key as a file of bytes, for libraries that take one.

        Parameters
        ----------
        key
            The key.
        mode
            "rb" to read it. Where the store can be written also "wb" to replace its data: when
            the file is closed in good order, and not at all if an exception leaves its block.

        Raises
        ------
        KeyError, StoreUnavailableError
            As `get_data` does.
        ValueError
            For any other mode; `io.TextIOWrapper` makes a text file of it.
        ReadOnlyKeyError, ReadOnlyStoreError
            If it can't be written.
        """
        if check_mode(mode) == "wb":
            raise ReadOnlyStoreError(f"{key!r} can't be written: this store can only be read")
        return cast("BinaryIO", self.get_data(key))

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> io.BufferedIOBase:
        """Return a stream of the bytes `start` up to but not with `end` of `key`."""
        return self.get(key).range(start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the metadata of `key`, of the names in `select` only if given."""
        return select_from(self.get(key).metadata, select)

    def exists(self, key: str) -> bool:
        """Return whether the key is there; StoreUnavailableError if that can't be known."""
        try:
            self.get(key)
        except KeyError:
            return False
        return True

    def multiget(self, keys: Iterable[str]) -> Iterator[Value]:
        """Iterate over the values of `keys`, in their order."""
        return (self.get(key) for key in keys)

    def multiget_data(self, keys: Iterable[str]) -> Iterator[io.BufferedIOBase]:
        """Iterate over streams of the data of `keys`, in their order."""
        return (self.get_data(key) for key in keys)

    def multiget_metadata(
        self, keys: Iterable[str], select: Iterable[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Iterate over the metadata of `keys`, in their order."""
        names = None if select is None else list(select)
        return (self.get_metadata(key, names) for key in keys)

    def query_keys(self, **kwargs: Any) -> Iterator[str]:
        """Iterate over the keys whose metadata has all of `kwargs`."""
        return (key for key, _ in self.query(select=(), **kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        """Iterate over the keys that match a shell pattern; ``*`` crosses "/", case counts."""
        matches = re.compile(fnmatch.translate(pattern)).match
        return (key for key in self.query_keys() if matches(key))

    def to_file(self, key: str, path: str | os.PathLike[str], buffer_size: int = _MIB) -> None:
        """Write the data of `key` to a file, whole or not at all.

        The bytes go to a file beside `path` that takes its name at the end, so that an error
        leaves what was there.

        Parameters
        ----------
        key
            The key.
        path
            The file to write or replace.
        buffer_size
            Bytes to read at a time.
        """
        read_again(lambda: self._to_file(key, Path(path), buffer_size))

    def _to_file(self, key: str, target: Path, buffer_size: int) -> None:
        value = self.get(key)
        message = f"Saving {key} to {target}"
        aside = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex}.part")
        steps = -1 if value.size is None else value.size
        try:
            with (
                StoreProgress(
                    self, message, steps=steps, key=key, metadata=value.metadata
                ) as progress,
                value.data as data,
                aside.open("xb") as file,
            ):
                for chunk in chunks(data, buffer_size):
                    file.write(chunk)
                    progress.step(file.tell())
            aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def to_bytes(self, key: str, buffer_size: int = _MIB) -> bytes:
        """Return the data of `key`."""

        def read() -> bytes:
            with self.get_data(key) as data:
                return b"".join(chunks(data, buffer_size))

        return read_again(read)


_held: ContextVar[Mapping[int, list[StoreModificationEvent]]] = ContextVar(
    "mountcache_held_changes", default=MappingProxyType({})
)


class AbstractStore(AbstractReadOnlyStore):
    """A store that can be written.

    A store of your own implements `get`, `query`, `set` and `delete`. Better ones override
    `transaction`, which here groups events but can't take writes back.
    """

    def info(self) -> dict[str, Any]:
        return {"readonly": False, "authorizing": False}

    @abstractmethod
    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        buffer_size: int = _MIB,
        *,
        base: Base = None,
    ) -> None:
        """Store data and metadata under `key`.

        Parameters
        ----------
        key
            The key.
        value
            A `Value`, or a pair of a readable stream of bytes and a metadata dict. It is
            read to its end before anything is changed.
        buffer_size
            Bytes to read at a time.
        base
            The version that this replaces, or `ABSENT` to create only; None doesn't compare.

        Raises
        ------
        ConflictError
            If `base` is given and isn't what is there.
        InvalidKeyError, InvalidMetadataError, InvalidValueError
            Before anything is written.
        """

    @abstractmethod
    def delete(self, key: str, *, base: Base = None) -> None:
        """Delete `key`; KeyError if it isn't there."""

    def open(self, key: str, mode: str = "rb") -> BinaryIO:
        if check_mode(mode) == "rb":
            return cast("BinaryIO", self.get_data(key))
        return cast("BinaryIO", Writer(lambda data: self.set_data(key, data), key))

    def set_data(
        self, key: str, data: Readable, buffer_size: int = _MIB, *, base: Base = None
    ) -> None:
        """Replace the data of `key`; its metadata stays, or is empty for a new key."""
        try:
            metadata = self.get_metadata(key)
        except KeyError:
            metadata = {}
        self.set(key, (data, metadata), buffer_size, base=base)

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        """Replace the metadata of `key`; its data stays, or is empty for a new key."""
        try:
            data: Readable = self.get_data(key)
        except KeyError:
            data = io.BytesIO()
        self.set(key, (data, metadata), base=base)

    def update_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        """Change the metadata of `key` by the names in `metadata`; the others stay."""
        changes = parse(spelling(metadata))
        while True:
            seen: Base = None
            try:
                value = self.get(key)
                merged, seen = {**value.metadata, **changes}, value.version
            except KeyError:
                merged = changes
                if isinstance(self, SupportsVersions):
                    seen = ABSENT
            try:
                self.set_metadata(key, merged, base=seen if base is None else base)
            except ConflictError:
                # Somebody was in between: with versions that is seen, and nothing is lost.
                if base is not None or seen is None:
                    raise
            else:
                return

    def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | tuple[Readable, Mapping[str, Any]]],
        buffer_size: int = _MIB,
    ) -> None:
        """Set each of `keys` to its value, in one transaction."""
        with self.transaction("Setting several keys"):
            for key, value in zip(keys, values, strict=True):
                self.set(key, value, buffer_size)

    def multiset_data(
        self, keys: Iterable[str], datas: Iterable[Readable], buffer_size: int = _MIB
    ) -> None:
        """Replace the data of each of `keys`, in one transaction."""
        with self.transaction("Setting the data of several keys"):
            for key, data in zip(keys, datas, strict=True):
                self.set_data(key, data, buffer_size)

    def multiset_metadata(
        self, keys: Iterable[str], metadatas: Iterable[Mapping[str, Any]]
    ) -> None:
        """Replace the metadata of each of `keys`, in one transaction."""
        with self.transaction("Setting the metadata of several keys"):
            for key, metadata in zip(keys, metadatas, strict=True):
                self.set_metadata(key, metadata)

    def multiupdate_metadata(
        self, keys: Iterable[str], metadatas: Iterable[Mapping[str, Any]]
    ) -> None:
        """Change the metadata of each of `keys`, in one transaction."""
        with self.transaction("Updating the metadata of several keys"):
            for key, metadata in zip(keys, metadatas, strict=True):
                self.update_metadata(key, metadata)

    def transaction(self, notes: str) -> AbstractContextManager[object]:
        """Return a context manager in which writes belong together.

        Stores that can, commit all of it at the end of the outermost block, and take back
        the block that an exception leaves. Events: Start, progress, End, then Set, Update
        and Delete on success.

        Parameters
        ----------
        notes
            What the transaction is for; shown by status and log.
        """
        return self._announced_transaction(notes)

    @contextmanager
    def _announced_transaction(self, notes: str) -> Iterator[object]:
        if id(self) in _held.get():
            yield self  # part of the one that is open
            return
        changes: list[StoreModificationEvent] = []
        self.event_manager.emit(StoreTransactionStartEvent(source=self, message=notes))
        state: Literal["done", "failed"] = "failed"
        token = _held.set({**_held.get(), id(self): changes})
        try:
            yield self
            state = "done"
        finally:
            _held.reset(token)
            self.event_manager.emit(
                StoreTransactionEndEvent(source=self, message=notes, state=state)
            )
            # Nothing was taken back: what was changed is changed.
            for change in changes:
                self.event_manager.emit(change)

    def announce(self, change: StoreModificationEvent) -> None:
        """Emit a change, or keep it for the end of the transaction that is open here.

        For stores that leave `transaction` as it is.
        """
        held = _held.get().get(id(self))
        if held is None:
            self.event_manager.emit(change)
        else:
            held.append(change)

    def from_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        buffer_size: int = _MIB,
        *,
        base: Base = None,
    ) -> None:
        """Replace the data of `key` by that of a file; its metadata stays."""
        with open(path, "rb") as file:
            self.set_data(key, file, buffer_size, base=base)

    def from_bytes(
        self, key: str, data: bytes, buffer_size: int = _MIB, *, base: Base = None
    ) -> None:
        """Replace the data of `key` by `data`; its metadata stays."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidValueError(f"from_bytes takes bytes, not {type(data).__name__}")
        self.set_data(key, io.BytesIO(data), buffer_size, base=base)


class AbstractAuthorizingStore(AbstractStore):
    """A store that keeps permissions beside data and metadata."""

    def info(self) -> dict[str, Any]:
        return {"readonly": False, "authorizing": True}

    @property
    @abstractmethod
    def user_tag(self) -> str | None:
        """The name under which permissions know the user; None before `connect`."""

    def get_permissions(self, key: str) -> dict[str, Any]:
        """Return the permissions of `key`: names of permissions and lists of user tags."""
        return self.get(key).permissions

    @abstractmethod
    def set_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        """Replace the permissions of `key`."""

    @abstractmethod
    def update_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        """Change the permissions of `key` by the names in `permissions`."""


def select_from(metadata: dict[str, Any], select: Iterable[str] | None) -> dict[str, Any]:
    """Return the names in `select` that `metadata` has; all of it if `select` is None."""
    if select is None:
        return metadata
    return {name: metadata[name] for name in select if name in metadata}


def facts_of(value: Any) -> Facts:
    """Return what upstream said of a value, of another make too."""
    facts = getattr(value, "facts", None)
    if isinstance(facts, Facts):
        return facts
    return Facts(size=getattr(value, "size", None), modified=getattr(value, "modified", None))


def unpack(
    value: Value | tuple[Readable, Mapping[str, Any]],
) -> tuple[Readable, Mapping[str, Any]]:
    """Return the stream and the metadata of what a setter was given.

    Raises
    ------
    InvalidValueError
        If it is neither a Value nor a pair.
    """
    given: Any = value
    if hasattr(given, "data") and hasattr(given, "metadata"):
        return given.data, given.metadata
    pair = tuple(given) if isinstance(given, (tuple, list)) else ()
    if len(pair) != 2:
        raise InvalidValueError(
            f"a value is a Value or a pair (stream, metadata), not {type(value).__name__}; "
            "for bytes use from_bytes, or StringValue(data, metadata)"
        )
    return pair[0], pair[1]


def read_again(read: Callable[[], _T]) -> _T:
    """Return what `read` returns, begun again if upstream replaced the value meanwhile.

    For reads that give nothing out before they have all.
    """
    for _ in range(_TRIES - 1):
        try:
            return read()
        except ChangedWhileReadingError:
            continue
    return read()
