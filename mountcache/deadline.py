"""How long a call may take, told from the store that is called to the one that asks upstream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["end_of_call", "within"]

_end: ContextVar[float | None] = ContextVar("mountcache_deadline", default=None)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Let what is asked of a remote store in this block take `seconds` in all, or less.

    Parameters
    ----------
    seconds
        None: as long as it takes.
    """
    token = _end.set(end_of_call(seconds))
    try:
        yield
    finally:
        _end.reset(token)


def end_of_call(seconds: float | None = None) -> float | None:
    """Return when a call that begins now has to be over, on the clock of `time.monotonic`.

    Parameters
    ----------
    seconds
        What a store allows by itself; None: as long as it takes.

    Returns
    -------
    float or None
        None if there is no hurry.
    """
    end = _end.get()
    if seconds is None:
        return end
    own = time.monotonic() + seconds
    return own if end is None else min(own, end)
