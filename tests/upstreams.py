"""Upstreams whose answers a test can hold back, lose or refuse."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from mountcache.abc import AbstractStore, Base, Pushed, Readable, Value
from mountcache.errors import StoreUnavailableError
from mountcache.local.memory import MemoryStore

__all__ = ["Foreign", "Origin", "put"]


def put(store: AbstractStore, key: str, data: str | bytes, **metadata: Any) -> None:
    """Set a key in one line."""
    raw = data.encode() if isinstance(data, str) else data
    store.set(key, (io.BytesIO(raw), metadata))


class Origin(MemoryStore):
    """An origin in memory that is the same one after a reconnect, and can be out of reach.

    `before` and `after` are called with the verb and the key around each conditional write;
    what they raise goes to the pusher.
    """

    def __init__(self, identity: str = "memory://origin") -> None:
        super().__init__()
        self.identity = identity
        self.down = False
        self.asked = 0
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda verb, key: None
        self.after: Callable[[str, str], None] = lambda verb, key: None

    def _asked(self) -> None:
        self.asked += 1
        if self.down:
            raise StoreUnavailableError("the origin is down")

    def get(self, key: str) -> Value:
        self._asked()
        return super().get(key)

    def get_metadata(self, key: str, select: Any = None) -> dict[str, Any]:
        self._asked()
        return super().get_metadata(key, select)

    def revalidate(self, key: str, validators: str) -> Any:
        self._asked()
        return super().revalidate(key, validators)

    def read_index(self, validators: str | None = None) -> Any:
        self._asked()
        return super().read_index(validators)

    def _write(self, verb: str, key: str, write: Callable[[], Pushed]) -> Pushed:
        self._asked()
        self.before(verb, key)
        pushed = write()
        self.writes.append((verb, key))
        self.after(verb, key)
        return pushed

    def set_if(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        base: Base,
        op_id: str,
        *,
        parts: frozenset[str] = frozenset({"data", "metadata"}),
    ) -> Pushed:
        write = super().set_if
        return self._write("set", key, lambda: write(key, value, base, op_id, parts=parts))

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        write = super().set_metadata_if
        return self._write("meta", key, lambda: write(key, metadata, base, op_id))

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        write = super().delete_if
        return self._write("delete", key, lambda: write(key, base, op_id))


class Foreign(Origin):
    """An origin that takes conditions and ignores them, as many servers do.

    It remembers no operation ids, and its listing can be told to lag behind.
    """

    def enforces(self) -> bool:
        return False

    def set_if(self, key: str, value: Any, base: Base, op_id: str, *, parts: Any = None) -> Pushed:
        def write() -> Pushed:
            if parts == frozenset({"metadata"}):
                self.set_metadata(key, value.metadata)
            elif parts == frozenset({"data"}):
                self.set_data(key, value.data)
            else:
                self.set(key, value)
            return Pushed(None, enforced=False)

        return self._write("set", key, write)

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        def write() -> Pushed:
            self.set_metadata(key, metadata)
            return Pushed(None, enforced=False)

        return self._write("meta", key, write)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        def write() -> Pushed:
            self.delete(key)
            return Pushed(None, enforced=False)

        return self._write("delete", key, write)
