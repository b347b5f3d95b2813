"""What a fork does to open stores.

A process must not carry SQLite's state across a fork: the child would believe that it holds the
locks its parent holds, would take none of its own, and its commits would go to a log that the
parent removes. (Leaving the parent's connections alone in the child isn't enough: SQLite keeps
locks per process and file, not per connection.) So a fork waits until no thread is inside
SQLite; the child closes what it inherited, at rest, and opens everything anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Forkable", "no_fork", "watch"]


class Forkable(Protocol):
    """What has to be brought to rest before a fork."""

    def before_fork(self) -> None:
        """Wait until no other thread is at work, and keep it so."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Start anew."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_at_rest: list[Forkable] = []
_turn = threading.Condition()
"""Held from before a fork until after it, and by who is added."""

_opening = 0
"""How many are about to be watched, and inside SQLite already."""


@contextmanager
def no_fork() -> Iterator[None]:
    """Let forks wait: a store is being opened, which nothing could bring to rest."""
    global _opening
    with _turn:
        _opening += 1
    try:
        yield
    finally:
        with _turn:
            _opening -= 1
            _turn.notify_all()


def watch(content: Forkable) -> None:
    """Bring `content` to rest before each fork, as long as it is in use."""
    with _turn:
        _watched.add(content)


def _before() -> None:
    _turn.acquire()
    while _opening:
        _turn.wait()
    for content in _watched:
        content.before_fork()
        _at_rest.append(content)


def _in_parent() -> None:
    while _at_rest:
        _at_rest.pop().after_fork_in_parent()
    _turn.release()


def _in_child() -> None:
    global _turn
    _turn = threading.Condition()
    while _at_rest:
        _at_rest.pop().after_fork_in_child()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
