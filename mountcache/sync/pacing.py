"""How fast the verbs of this room may go about it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from mountcache.abc import SupportsPace
from mountcache.errors import ConfigurationError
from mountcache.sync.mount import Mount

__all__ = ["Width", "at_most", "at_once"]

_FIRST: Final = 8
_MOST: Final = 64
_EACH: Final = 0.0005
"""Seconds that to fetch a small key takes this machine; meanwhile others can be on their way."""


def at_most(mount: Mount, rate: str | float | None) -> AbstractContextManager[None]:
    """Let upstream's bytes pass at a rate in the block; None: as its limits say.

    Raises
    ------
    ConfigurationError
        If it is no rate, or upstream's traffic can't be held back.
    """
    backing = mount.backing
    if isinstance(backing, SupportsPace):
        return backing.at_most(rate)
    if rate is None:
        return nullcontext()
    raise ConfigurationError(
        f"the traffic of a {type(backing).__name__} can't be held back; leave bwlimit out"
    )


def at_once(mount: Mount, workers: int) -> int:
    """Return how many of `workers` are of use, by the connections that are allowed."""
    backing = mount.backing
    most = backing.connections if isinstance(backing, SupportsPace) else None
    return workers if most is None else min(workers, most)


class Width:
    """How many keys are asked for at once.

    That is what the caller named, or `_FIRST` at first, and more, up to `_MOST`, once it is seen
    that answers are long on their way. Never more than the connections that are allowed.

    Parameters
    ----------
    workers
        How many; None: as many as are of use.
    each
        Seconds that a small key takes this machine.
    """

    def __init__(self, mount: Mount, workers: int | None, each: float = _EACH) -> None:
        self._each = each
        self.most = at_once(mount, workers or _MOST)
        """How many there can be."""
        self._quickest = math.inf
        self._answers = 0
        self.first = self.most if workers else min(_FIRST, self.most)
        self.settled = self.first == self.most
        """Whether it stays as it is."""

    def note(self, seconds: float) -> None:
        """Note how long a small key took, from the question to its end; any thread may."""
        # The first answers had connections to make, and the quickest waited for no other thread.
        self._answers += 1
        if self._answers > self.first:
            self._quickest = min(self._quickest, seconds)

    def of_use(self) -> int | None:
        """Return how many are of use from now on; None if it can't be told yet."""
        if self._answers < 2 * self.first:
            return None
        self.settled = True
        return max(self.first, min(self.most, round(self._quickest / self._each)))
