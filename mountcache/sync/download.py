"""Downloads into the store: shared by all who read the same version of a key.

What is here lies in a partial (`mountcache.local.partial`). Whoever needs a byte that isn't here
moves the download on, and reads from the network under no lock: a reader that stops half way
keeps nobody waiting. One whose bytes another thread is just asking for waits for that answer;
one whose bytes another process is asking for waits as long as the partial grows.

The last missing block is held back until all is verified and committed, so that no reader
finishes on wrong bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from mountcache.errors import (
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
)
from mountcache.local import partial as partials
from mountcache.local.catalog import Catalog
from mountcache.local.partial import BLOCK

__all__ = ["PATIENCE", "Download", "Keeping", "Single", "join", "make_room"]

PATIENCE: Final = 5.0
"""Seconds for which a partial of another process may stand still."""

_LOOK_AGAIN: Final = 0.05
_GAP: Final = BLOCK
_IDLE_FEEDS: Final = 2
_SCRATCH: Final = 65536

_logger = logging.getLogger("mountcache")

_Step: TypeAlias = Callable[[memoryview, int], int]


def make_room(catalog: Catalog, size: int) -> bool:
    """Make room for a value of `size` bytes; return whether it can be kept."""
    if catalog.content.readonly:
        return False
    try:
        if catalog.room_for(size):
            return True
        limit = catalog.available()
        if limit is not None and size > limit:
            return False
        return partials.drop_idle(catalog.content) and catalog.room_for(size)
    except (StoreBusyError, StoreFullError, ReadOnlyStoreError) as error:
        _logger.info("no room was made: %s", error)
        return False
