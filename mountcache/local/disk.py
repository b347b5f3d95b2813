"""DiskCacheStore: a store in a directory."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from mountcache.events import EventManager
from mountcache.local.content import Content
from mountcache.local.diskcontent import DiskContent, Durability, Shared
from mountcache.local.records import Limits
from mountcache.local.store import LocalStore

__all__ = ["DiskCacheStore"]

_GIB = 2**30


class DiskCacheStore(LocalStore):
    """A store in a directory, which many threads and processes may share.

    It is opened at its first use, or by `connect`.

    Parameters
    ----------
    directory
        Made if it isn't there; ``~`` is the user's home. It must be on a local disk.
    size_limit
        Bytes that clean copies under a mount may take, from now on and for all who open the
        directory; None: as before. A new directory takes a tenth of what is free on the disk,
        at most 10 GiB.
    staged_limit
        Bytes that staged values may take, from now on and for all who open the directory; None:
        as before, without a limit at first. What would be more is a `StoreFullError`, and nothing
        of it is staged.
    undo_limit
        Bytes of staged values that were taken away and are kept for `MountedStore.undo`,
        likewise; at first a quarter of `size_limit`.
    min_free
        Bytes of the disk that clean copies leave free.
    durability
        "full": a `set` that has returned survives a power cut; "normal": the last ones may be
        lost.
    shared
        "group": the directory is for all in a group, and each of them opens it with their own
        programs. It is fixed when the directory is made, and counts for whoever opens it later.
        The group is that of the directory: `chgrp` an empty one first, or make it in one whose
        set-group-ID bit is set. None: for its owner alone, or as it was made.
    event_manager
        Who hears of changes.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        size_limit: int | None = None,
        staged_limit: int | None = None,
        undo_limit: int | None = None,
        min_free: int = _GIB,
        durability: Durability = "full",
        shared: Shared | None = None,
        event_manager: EventManager | None = None,
    ) -> None:
        self.directory = Path(os.path.abspath(os.path.expanduser(directory)))
        self.durability: Durability = durability
        self.shared: Shared | None = shared
        limits = Limits(size_limit, staged_limit, undo_limit)
        super().__init__(
            self._open_disk, limits=limits, min_free=min_free, event_manager=event_manager
        )

    def _open_disk(self) -> Content:
        return DiskContent(self.directory, durability=self.durability, shared=self.shared)

    def __reduce__(self) -> tuple[object, ...]:
        # Another process opens the directory for itself; listeners stay here.
        make = partial(
            DiskCacheStore,
            size_limit=self._limits.size,
            staged_limit=self._limits.staged,
            undo_limit=self._limits.undo,
            min_free=self._min_free,
            durability=self.durability,
            shared=self.shared,
        )
        return make, (self.directory,)

    def __repr__(self) -> str:
        return f"DiskCacheStore({str(self.directory)!r})"
