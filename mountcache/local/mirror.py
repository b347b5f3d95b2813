"""A mount store of another make, with a catalog beside it.

What is staged through the mount is written into the foreign store as well, so that it shows
there; what is set into the foreign store by itself is taken over with base `none`. Bases,
whiteouts and copies live in a catalog in memory, and don't outlive the process.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable

from mountcache.abc import ABSENT, AbstractStore, Value
from mountcache.errors import ConflictError
from mountcache.jsonform import spelling
from mountcache.local.memory import MemoryStore
from mountcache.local.records import Edit
from mountcache.local.store import LocalStore
from mountcache.local.value import Snapshot

__all__ = ["Mirror", "mirrored"]

_Signature = tuple[object, ...]


def mirrored(store: AbstractStore) -> LocalStore:
    """Return `store` if it has a catalog, else one that mirrors it."""
    if isinstance(store, LocalStore):
        return store
    warnings.warn(
        f"{type(store).__name__} keeps no catalog: what edits were made from, deletes and copies "
        "are kept in memory, and don't outlive this process; use DiskCacheStore to keep them",
        stacklevel=3,
    )
    return Mirror(store)


class Mirror(MemoryStore):
    """The catalog of a foreign mount store.

    Parameters
    ----------
    foreign
        The mount store.
    """

    def __init__(self, foreign: AbstractStore) -> None:
        super().__init__()
        self._foreign = foreign
        self._agreeing = threading.RLock()
        self._agreed: dict[str, tuple[int | None, _Signature | None]] = {}

    def agree(self, keys: Iterable[str] | None = None) -> None:
        """Bring both stores to the same state for some keys, or for all.

        A change on our side since they last agreed goes to the foreign store; otherwise a
        change on its side is taken over.
        """
        if keys is None:
            keys = {edit.key for edit in self.catalog.edits()}
            keys |= self._agreed.keys() | set(self._foreign.query_keys())
        for key in keys:
            # One thread at a time: an older change mustn't overtake a newer one.
            with self._agreeing:
                while not self._agree(key):
                    continue

    def _agree(self, key: str) -> bool:
        """Do so for one key; False if its bytes were replaced meanwhile."""
        edit = self.catalog.row(key).edit
        seq = None if edit is None else edit.seq
        seq_before, signature_before = self._agreed.get(key, (None, None))
        theirs = self._theirs(key)
        signature = None if theirs is None else _signature(theirs)
        if seq != seq_before:
            if edit is not None and edit.kind == "put" and edit.content is not None:
                try:
                    stream = self.catalog.open_content(edit.content, edit.sha256)
                except FileNotFoundError:
                    return False
                mine = Snapshot(key, edit.meta, stream=stream, size=edit.size, modified=edit.at)
                self._foreign.set(key, mine)
            elif theirs is not None:
                self._foreign.delete(key)
        elif signature != signature_before:
            try:
                seq = self._take_over(key, edit, theirs)
            except ConflictError:
                return False
        now = self._theirs(key)
        self._agreed[key] = (seq, None if now is None else _signature(now))
        return True

    def _take_over(self, key: str, edit: Edit | None, theirs: Value | None) -> int | None:
        """Take a change of the foreign store over; return the number of the edit it makes.

        Raises
        ------
        ConflictError
            If the key was changed on this side meanwhile.
        """
        there = edit is not None and edit.kind == "put"
        seen = edit.version if edit is not None and there else ABSENT
        if theirs is not None:
            super().set(key, (theirs.data, theirs.metadata), base=seen)
        elif there:
            super().delete(key, base=seen)
        after = self.catalog.row(key).edit
        return None if after is None else after.seq

    def _theirs(self, key: str) -> Value | None:
        try:
            return self._foreign.get(key)
        except KeyError:
            return None


def _signature(value: Value) -> _Signature:
    metadata = spelling(value.metadata)
    return (getattr(value, "version", None), value.modified, value.size, metadata)
