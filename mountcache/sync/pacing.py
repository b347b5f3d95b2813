"""How fast the verbs of this room may go about it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from mountcache.abc import SupportsPace
from mountcache.errors import ConfigurationError
from mountcache.sync.mount import Mount

__all__ = ["at_most", "at_once"]


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
