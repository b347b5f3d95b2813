"""Stores such as someone else would write, on a dict: a small one and a complete one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from mountcache.abc import (
    ABSENT,
    AbstractReadOnlyStore,
    AbstractStore,
    Base,
    Readable,
    Value,
    chunks,
    select_from,
    unpack,
)
from mountcache.errors import ConflictError
from mountcache.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreProgress,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import content_version, normal_value, parse, spelling
from mountcache.keys import check_key
from mountcache.values import StringValue

Given = Value | tuple[Readable, Mapping[str, Any]]


def matching(where: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether metadata has all of the names and values that are wanted."""
    wanted = {name: normal_value(value) for name, value in where.items()}
    return lambda metadata: all(
        name in metadata and normal_value(metadata[name]) == value for name, value in wanted.items()
    )


class ReadOnlyDictStore(AbstractReadOnlyStore):
    """The two methods that a store that can be read needs."""

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        super().__init__()
        self.values = dict(values or {})

    def get(self, key: str) -> Value:
        return self.values[check_key(key)]

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        names = None if select is None else list(select)
        matches = matching(kwargs)
        for key, value in list(self.values.items()):
            if matches(value.metadata):
                yield key, select_from(value.metadata, names)


class SmallDictStore(ReadOnlyDictStore, AbstractStore):
    """The four methods that a store needs: no versions, no events, no roll-back."""

    info = AbstractStore.info

    def set(self, key: str, value: Given, buffer_size: int = 1048576, *, base: Base = None) -> None:
        _refuse(base)
        data, metadata = unpack(value)
        content = b"".join(chunks(data, buffer_size))
        self.values[check_key(key)] = StringValue(content, parse(spelling(metadata)))

    def delete(self, key: str, *, base: Base = None) -> None:
        _refuse(base)
        del self.values[check_key(key)]


def _refuse(base: Base) -> None:
    if base is not None:
        raise TypeError("this store has no versions to compare with base=")


class VersionedValue(StringValue):
    """A value that knows its version."""

    @property
    def version(self) -> str:
        sha256 = hashlib.sha256(self.data.getvalue()).hexdigest()
        return content_version(sha256, self.metadata)


class _Transaction(threading.local):
    """The thread's open transaction."""

    changes: dict[str, VersionedValue | None] | None = None
    """What it will do; None stands for a deletion."""
    read: dict[str, Base]
    """What it found when it read."""


class DictStore(AbstractStore):
    """A store that keeps all of the contract."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, VersionedValue] = {}
        self._open = _Transaction()
        self._lock = threading.RLock()

    def get(self, key: str) -> VersionedValue:
        check_key(key)
        if self._open.changes is not None:
            self._open.read.setdefault(key, self._committed(key))
        return self._now()[key]

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        names = None if select is None else list(select)
        matches = matching(kwargs)
        return (
            (key, select_from(value.metadata, names))
            for key, value in self._now().items()
            if matches(value.metadata)
        )

    def version_of(self, key: str) -> Base:
        value = self._now().get(key)
        return ABSENT if value is None else value.version

    def set(self, key: str, value: Given, buffer_size: int = 1048576, *, base: Base = None) -> None:
        check_key(key)
        data, metadata = unpack(value)
        content = bytearray()
        spelling(metadata)
        with StoreProgress(self, f"Setting {key}", key=key) as progress:
            for piece in chunks(data, buffer_size):
                content += piece
                progress.step(len(content))
        self._change(key, VersionedValue(content, metadata), base)

    def delete(self, key: str, *, base: Base = None) -> None:
        self.get(key)
        self._change(key, None, base)

    @contextmanager
    def transaction(self, notes: str) -> Iterator[None]:
        outer = self._open.changes
        self._open.changes = {} if outer is None else dict(outer)
        state: Literal["done", "failed"] = "failed"
        if outer is None:
            self._open.read = {}
            self.event_manager.emit(StoreTransactionStartEvent(self, message=notes))
        events: list[StoreModificationEvent] = []
        try:
            yield
            if outer is None:
                with self._lock:
                    for key, base in self._open.read.items():
                        if self._committed(key) != base:
                            raise ConflictError(f"{key!r} was changed meanwhile", key=key)
                    events = self._commit(self._open.changes)
            else:
                outer |= self._open.changes
            state = "done"
        finally:
            self._open.changes = outer
            if outer is None:
                self.event_manager.emit(StoreTransactionEndEvent(self, message=notes, state=state))
        for event in events:
            self.event_manager.emit(event)

    def _committed(self, key: str) -> Base:
        value = self._values.get(key)
        return ABSENT if value is None else value.version

    def _now(self) -> dict[str, VersionedValue]:
        with self._lock:
            merged = {**self._values, **(self._open.changes or {})}
        return {key: value for key, value in merged.items() if value is not None}

    def _change(self, key: str, value: VersionedValue | None, base: Base) -> None:
        with self._lock:
            found = self.version_of(key)
            if base is not None and base != found:
                raise ConflictError(
                    f"{key!r} is {found}, not {base}", key=key, expected=base, found=found
                )
            if self._open.changes is not None:
                self._open.changes[key] = value
                return
            events = self._commit({key: value})
        for event in events:
            self.event_manager.emit(event)

    def _commit(self, changes: Mapping[str, VersionedValue | None]) -> list[StoreModificationEvent]:
        events: list[StoreModificationEvent] = []
        with self._lock:
            for key, value in changes.items():
                before = self._values.pop(key, None)
                if value is not None:
                    self._values[key] = value
                    kind = StoreSetEvent if before is None else StoreUpdateEvent
                    events.append(kind(self, key=key, metadata=value.metadata))
                elif before is not None:
                    events.append(StoreDeleteEvent(self, key=key, metadata=before.metadata))
        return events
