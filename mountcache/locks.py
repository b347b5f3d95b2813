"""Locks that a forked child finds free.

A fork copies a lock as it is, and the thread that would give it back isn't in the child: who
asks for it there would wait for ever.
"""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["Lock"]


class Lock:
    """A `threading.Lock` for ``with`` that nobody holds at the start of a forked child."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        # In a child whose own thread held it at the fork it is free already.
        if self._lock.locked():
            self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


_all: weakref.WeakSet[Lock] = weakref.WeakSet()


def _in_child() -> None:
    for lock in _all:
        lock._renew()


os.register_at_fork(after_in_child=_in_child)
