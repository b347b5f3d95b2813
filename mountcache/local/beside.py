"""Hashing beside the write: one of them waits for the disk, the other doesn't."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

__all__ = ["HashBeside"]

_AHEAD = 4
"""How many pieces may wait for their turn."""


class HashBeside:
    """Brings a hash up to date in a thread of its own.

    Parameters
    ----------
    digest
        One of hashlib's; it is this one's alone until `end`.
    """

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._thread = threading.Thread(target=self._work, name="mountcache-hash", daemon=True)
        self._thread.start()

    def update(self, piece: bytes) -> None:
        """Have a piece taken in; it mustn't change any more."""
        self._room.acquire()
        self._pieces.put(piece)

    def end(self) -> None:
        """Wait until all is taken in, and end the thread."""
        self._pieces.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)
            self._room.release()
