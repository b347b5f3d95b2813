"""One question to upstream for many who ask the same.

No thread waits for another: the event loop does. An answer serves those who came before its
question was put; who comes while it is under way may want to see what was written meanwhile,
and shares the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Flights"]

_T = TypeVar("_T")


class Flights(Generic[_T]):
    """Questions under way, by name. Belongs to one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[_T]] = {}

    def are(self, name: Hashable) -> bool:
        """Whether a question is under way."""
        return name in self._under_way

    async def settled(self, name: Hashable) -> None:
        """Wait for the question that is under way now, if one is."""
        if (task := self._under_way.get(name)) is not None:
            await asyncio.wait((task,))

    async def ask(self, name: Hashable, question: Callable[[], Awaitable[_T]]) -> tuple[_T, bool]:
        """Ask, or share the answer to the question under way; return it and whether it is shared.

        Call it at once, or right after `settled`: then the question is younger than the caller.
        """
        task = self._under_way.get(name)
        shared = task is not None
        if task is None:
            task = asyncio.ensure_future(question())
            self._under_way[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        # Whoever goes away leaves the question to the others.
        return await asyncio.shield(task), shared

    def _ended(self, name: Hashable, task: asyncio.Task[_T]) -> None:
        del self._under_way[name]
        if not task.cancelled():
            task.exception()  # it was told to all who asked
