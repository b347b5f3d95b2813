"""One question to upstream for all threads that miss the same key in the same moment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mountcache.deadline import end_of_call
from mountcache.sync.download import PATIENCE

__all__ = ["Turns"]


class Turns:
    """The keys that threads of this process are asking for."""

    def __init__(self) -> None:
        self._asking: dict[tuple[int, str], threading.Event] = {}

    @contextmanager
    def first(self, key: str) -> Iterator[None]:
        """Let the first who comes ask alone, and the others when it has an answer, or is slow.

        What the first has brought by then is here, or is on its way as a download to join.
        """
        # A forked child asks for itself.
        name = os.getpid(), key
        mine = threading.Event()
        asking = self._asking.setdefault(name, mine)
        if asking is not mine:
            end = end_of_call()
            left = PATIENCE if end is None else min(PATIENCE, max(0.0, end - time.monotonic()))
            asking.wait(left)
            yield
            return
        try:
            yield
        finally:
            del self._asking[name]
            mine.set()
