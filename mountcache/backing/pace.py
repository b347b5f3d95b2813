"""How fast a store talks to its upstream: requests and bytes a second, and how many at once.

A token bucket for each, shared by all threads of a process. A thread that has to wait sleeps with
nothing held: it takes its turn under the lock, and waits for it outside.
"""

from __future__ import annotations

import io
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mountcache.backing.connection import Piecewise
from mountcache.backing.limits import Limits, Timetable, parse_rate
from mountcache.deadline import end_of_call
from mountcache.errors import StoreUnavailableError
from mountcache.locks import Lock

__all__ = ["NOBODYS", "Pace", "PacedBody", "Slot"]

_BURST: Final = 0.125
"""Seconds' worth of bytes that may go at once after a rest."""
_PIECE: Final = 65536
_SMALLEST: Final = 1024


class _Bucket:
    """When the next may go: what goes now is charged to those after it."""

    def __init__(self, burst: float) -> None:
        self._burst = burst
        self._free = -math.inf
        self._lock = Lock()

    def begins(self, cost: float, now: float) -> float:
        """Return when what costs so many seconds may begin, and charge it."""
        with self._lock:
            begins = max(self._free, now - self._burst)
            self._free = begins + cost
            return begins


class _Slots:
    """The requests of one process that are under way."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.changed = threading.Condition()
        self.count = 0
        self.owners: Counter[int] = Counter()


class Pace:
    """Holds back the requests of one store, and the bytes of their bodies.

    Parameters
    ----------
    limits
        What is allowed.
    clock
        Seconds, of any beginning.
    sleep
        Sleeps for some seconds, or less if the store is closed meanwhile.
    wall
        The local time.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        wall: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self.limits = limits or Limits()
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._turns = _Bucket(0.0)
        self._bytes = _Bucket(_BURST)
        self._instead: list[Timetable] = []
        self._slots = _Slots()
        self._lock = Lock()
        self._closed = False

    # -- how fast ------------------------------------------------------------------------

    @contextmanager
    def at_most(self, rate: str | float | None) -> Iterator[None]:
        """Let bytes pass at this rate in the block, whatever the limits say; None: as they say.

        All threads of the store are held back, and the bodies that are begun in the block.
        """
        if rate is None:
            yield
            return
        table = parse_rate(rate)
        with self._lock:
            self._instead.append(table)
        try:
            yield
        finally:
            with self._lock:
                self._instead.remove(table)

    @property
    def counts_bytes(self) -> bool:
        """Whether bodies have to be counted."""
        return bool(self._instead) or self.limits.bytes is not None

    @property
    def rate(self) -> float | None:
        """Bytes a second that may pass now; None: any number."""
        with self._lock:
            table = self._instead[-1] if self._instead else self.limits.bytes
        return None if table is None else table.at(self._wall())

    def piece(self, size: int) -> int:
        """Return how many of `size` bytes to move at once, so that no wait is a long one."""
        rate = self.rate
        return size if rate is None else max(1, min(size, _PIECE, max(_SMALLEST, int(rate / 8))))

    def passed(self, count: int, until: float | None = None) -> None:
        """Wait until that many bytes more may have passed, but not past `until`."""
        rate = self.rate
        if rate is None or not count:
            return
        now = self._clock()
        cost = count / rate
        self._wait(self._bytes.begins(cost, now) + cost - now, until)

    # -- requests ------------------------------------------------------------------------

    @property
    def counts_requests(self) -> bool:
        """Whether requests have to wait for their turn, or for each other."""
        return self.limits.requests is not None or self.limits.connections is not None

    def turn(self, what: str, patience: float) -> Slot:
        """Wait until a request may be sent; return its place among those under way.

        Parameters
        ----------
        what
            What it is about, for messages.
        patience
            Seconds to wait for a place.

        Raises
        ------
        StoreUnavailableError
            If that isn't before the end of the call, or no place is free for too long.
        """
        until = end_of_call()
        slot = self._place(what, patience, until)
        if self.limits.requests is None:
            return slot
        now = self._clock()
        left = self._turns.begins(1 / self.limits.requests, now) - now
        try:
            if until is not None and left > until - time.monotonic():
                self._wait(left, until)
                raise StoreUnavailableError(
                    f"{what}: its turn doesn't come before the deadline of the call; "
                    f"{self.limits.requests:g} requests a second are allowed"
                )
            self._wait(left, None)
        except BaseException:
            slot.leave()
            raise
        return slot

    def _place(self, what: str, patience: float, until: float | None) -> Slot:
        most = self.limits.connections
        if most is None:
            return NOBODYS
        slots = self._current_slots()
        mine = threading.get_ident()
        ends = time.monotonic() + patience
        ends = ends if until is None else min(ends, until)
        with slots.changed:
            # Who has one already is in the middle of something: it would wait for itself.
            while slots.count >= most and not slots.owners[mine] and not self._closed:
                if not slots.changed.wait(max(0.0, ends - time.monotonic())):
                    raise StoreUnavailableError(
                        f"{what}: all {most} connections that are allowed are in use; try again, "
                        "or allow more with connections in [limits]"
                    )
            slots.count += 1
            slots.owners[mine] += 1
        return Slot(slots, mine)

    def _current_slots(self) -> _Slots:
        with self._lock:
            # What was under way at a fork is its parent's.
            if self._slots.pid != os.getpid():
                self._slots = _Slots()
            return self._slots

    def open(self) -> None:
        """Hold requests back from now on."""
        self._closed = False

    def close(self) -> None:
        """End the waits of other threads."""
        self._closed = True
        slots = self._current_slots()
        with slots.changed:
            slots.changed.notify_all()

    def _wait(self, seconds: float, until: float | None) -> None:
        if until is not None:
            seconds = min(seconds, until - time.monotonic())
        if seconds > 0 and not self._closed:
            self._sleep(seconds)


class Slot:
    """The place of a request among those under way, until its answer is read or closed."""

    def __init__(self, slots: _Slots | None, owner: int) -> None:
        self._slots = slots
        self._owner = owner

    def leave(self) -> None:
        """Make room for the next; more than once does no harm."""
        slots, self._slots = self._slots, None
        if slots is None or slots.pid != os.getpid():
            return
        with slots.changed:
            slots.count -= 1
            slots.owners[self._owner] -= 1
            if not slots.owners[self._owner]:
                del slots.owners[self._owner]
            slots.changed.notify()


NOBODYS: Final = Slot(None, 0)
"""That of a request which nobody counts."""


class PacedBody(Piecewise):
    """The body of an answer that comes no faster than it may.

    Parameters
    ----------
    body
        The body as it comes.
    pace
        How fast it may.
    slot
        Left once the body is over.
    deadline
        When it has to be here, on the monotonic clock; None: whenever it comes.
    """

    def __init__(
        self, body: io.BufferedIOBase, pace: Pace, slot: Slot, deadline: float | None
    ) -> None:
        self._body = body
        self._pace = pace
        self._slot = slot
        self._deadline = deadline

    def read1(self, size: int = -1, /) -> bytes:
        size = size if size >= 0 else _PIECE
        if size == 0:
            return b""
        try:
            piece = self._body.read1(self._pace.piece(size))
        except BaseException:
            self._slot.leave()
            raise
        if piece:
            # The deadline itself is looked after by the next read.
            ends = [each for each in (self._deadline, end_of_call()) if each is not None]
            self._pace.passed(len(piece), min(ends, default=None))
        else:
            self._slot.leave()
        return piece

    def close(self) -> None:
        self._body.close()
        self._slot.leave()
        super().close()
