"""Who may ask a call to end early, told from the one who called to where the work is done.

A thread can't be interrupted from outside. What moves many bytes or many keys asks here between
two of them whether anybody still wants the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["CallStopped", "check_stopped", "stopped_by", "stopper"]

_stopper: ContextVar[threading.Event | None] = ContextVar("mountcache_stopper", default=None)


class CallStopped(BaseException):
    """A call was asked to end early. No error of the store, so that nothing takes it for one."""


@contextmanager
def stopped_by(event: threading.Event | None) -> Iterator[None]:
    """Let the calls in this block end early once `event` is set.

    Data that is on its way is given up at the next piece, with `CallStopped` and nothing
    changed. A push or a prefetch ends what is in flight and begins no further key.

    Parameters
    ----------
    event
        None: nothing in this block ends early.
    """
    token = _stopper.set(event)
    try:
        yield
    finally:
        _stopper.reset(token)


def stopper() -> threading.Event | None:
    """Return what is set to end this call early; None if nobody can."""
    return _stopper.get()


def check_stopped() -> None:
    """Raise `CallStopped` if this call was asked to end."""
    event = _stopper.get()
    if event is not None and event.is_set():
        raise CallStopped("the call was asked to end")
