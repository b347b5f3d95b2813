"""An upstream of which a test says what each stream gives, and which counts what is open."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mountcache.abc import (
    AbstractReadOnlyStore,
    Facts,
    IndexReading,
    NotModified,
    Value,
)
from mountcache.errors import ChangedWhileReadingError, StoreUnavailableError
from mountcache.jsonform import spelling

__all__ = ["MIB", "Indexed", "Item", "Scripted", "Whole", "pattern"]

MIB = 1048576


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that are the same in each process."""
    return random.Random(seed).randbytes(size)


@dataclass
class Item:
    """What upstream holds under a key."""

    data: bytes
    facts: Facts = field(default_factory=Facts)
    metadata: dict[str, Any] = field(default_factory=dict)


class _Stream(io.RawIOBase):
    def __init__(self, store: Whole, key: str, data: bytes, at: int) -> None:
        self._store, self._key, self._data, self._at = store, key, data, at
        store.started(key, at)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._at : self._at + min(len(buffer), 65536)]
        self._store.giving(self._key, self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self._store.given += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            with self._store.counting:
                self._store.open -= 1
        super().close()


class _Found(Value):
    def __init__(self, store: Whole, key: str, item: Item) -> None:
        self._store, self._key, self._item = store, key, item

    @property
    def data(self) -> io.BufferedIOBase:
        item = self._store.item(self._key)
        if item.facts.version != self._item.facts.version:
            raise ChangedWhileReadingError(f"{self._key!r} was replaced")
        return self._store.stream(self._key, item, 0)

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._item.metadata)

    @property
    def version(self) -> str | None:
        return self._item.facts.version

    @property
    def size(self) -> int | None:
        return self._item.facts.size

    @property
    def facts(self) -> Facts:
        return self._item.facts


class Whole(AbstractReadOnlyStore):
    """An upstream that gives whole values only."""

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[str, Item] = {}
        self.counting = threading.Lock()
        self.open = 0
        """Streams that weren't closed."""
        self.starts: list[tuple[str, int]] = []
        """Where streams began."""
        self.given = 0
        """Bytes that went out."""
        self.down = False
        self.giving: Callable[[str, int], object] = lambda key, at: None
        """Called before bytes go out; what it raises breaks the stream."""
        self.identity = "scripted"

    def put(self, key: str, data: bytes, **facts: Any) -> Item:
        """Hold `data`; its version and length are told unless `facts` say otherwise."""
        version = facts.pop("version", hashlib.sha256(data).hexdigest()[:16])
        facts = {"size": len(data), "validators": version, **facts}
        self.items[key] = item = Item(data, Facts(version=version, **facts), {"name": key})
        return item

    def item(self, key: str) -> Item:
        if self.down:
            raise StoreUnavailableError("upstream is down")
        return self.items[key]

    def started(self, key: str, at: int) -> None:
        with self.counting:
            self.open += 1
            self.starts.append((key, at))

    def stream(self, key: str, item: Item, at: int) -> io.BufferedIOBase:
        return io.BufferedReader(_Stream(self, key, item.data, at), 65536)

    def get(self, key: str) -> Value:
        return _Found(self, key, self.item(key))

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        item = self.item(key)
        if item.facts.validators == validators:
            return NotModified(item.facts)
        return self.get(key)

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        return iter([(key, dict(item.metadata)) for key, item in sorted(self.items.items())])


class Scripted(Whole):
    """An upstream that gives parts."""

    def open_range(self, key: str, start: int, version: str) -> io.BufferedIOBase:
        item = self.item(key)
        if item.facts.version != version:
            raise ChangedWhileReadingError(f"{key!r} was replaced")
        return self.stream(key, item, start)


class Indexed(Scripted):
    """An upstream with an index of all it holds."""

    poll = 3600.0

    def promise(self, key: str, **metadata: Any) -> None:
        """Let the index say more of a key."""
        self.items[key].metadata.update(metadata)

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        if self.down:
            raise StoreUnavailableError("upstream is down")
        entries = [
            (key, spelling(item.metadata), None, None, item.metadata.get("sha256"))
            for key, item in sorted(self.items.items())
        ]
        return IndexReading(iter(entries), None, lambda: None)


def without(item: Item, **facts: Any) -> Item:
    """Return an item of which upstream says something else."""
    return replace(item, facts=replace(item.facts, **facts))
