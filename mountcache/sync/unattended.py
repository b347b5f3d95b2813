"""Pushing while nobody looks on: what may be sent then, and a push until nothing is left.

The background pusher and `flush` send by this. Nobody can be asked, so a brake holds for all that
is sent within an hour, and what was refused isn't tried again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from mountcache.errors import NotPushedError, StoreBusyError, StoreUnavailableError
from mountcache.local.records import CONFLICT, REFUSED, Edit, StagedEdit
from mountcache.stopping import stopper
from mountcache.sync.mount import Mount
from mountcache.sync.pausing import pace, read_pause
from mountcache.sync.push import brake, push_mount, refusing, too_many
from mountcache.sync.report import ARRIVED, GroupResult, PushReport, PushResult
from mountcache.sync.schedule import schedule

__all__ = ["Check", "Sender", "flush"]

Check = Callable[[StagedEdit], str | None]

_AT_ONCE: Final = 200
"""How many keys go before a pause is looked for again."""
_HOUR: Final = 3600.0
_SOON: Final = 0.1
_LOOK: Final = 1.0


class Sender:
    """Sends edits for which nobody was asked.

    Parameters
    ----------
    mount
        The two ends.
    check
        Called with each edit before it is sent; a message refuses it.
    after
        Called with the report of what was sent.
    workers
        How many edits are on their way at once; None: 8, or up to 64 where answers take long.
    """

    def __init__(
        self,
        mount: Mount,
        check: Check | None = None,
        after: Callable[[PushReport], object] | None = None,
        workers: int | None = None,
    ) -> None:
        self._mount = mount
        self._refuse = None if check is None else refusing(mount, check)
        self._after = after
        self._workers = workers
        self._deleted: deque[float] = deque()

    def send(self, edits: Sequence[Edit]) -> PushReport:
        """Send edits, whole groups of them, until a pause or a stop; raises as a push does."""
        mount, stop = self._mount, stopper()
        results: list[PushResult] = []
        groups: list[GroupResult] = []
        try:
            for some in _parts(self._unbraked(edits)):
                if read_pause(mount.catalog) is not None or (stop is not None and stop.is_set()):
                    break
                deletes = {mount.full(edit.key) for edit in some if edit.kind == "del"}
                report = push_mount(
                    mount, [edit.key for edit in some], workers=self._workers,
                    refuse=self._refuse,
                )  # fmt: skip
                results += report.results
                groups += report.groups
                self._deleted.extend(
                    time.monotonic()
                    for each in report.results
                    if each.outcome in ARRIVED and each.key in deletes
                )
                if any(isinstance(each.error, StoreUnavailableError) for each in report.results):
                    break
        finally:
            told = PushReport(tuple(results), tuple(groups))
            if self._after is not None and results:
                self._after(told)
        return told

    def _unbraked(self, edits: Sequence[Edit]) -> list[Edit]:
        """Return what is sent of edits; those of too many deletes are refused, and say so."""
        since = time.monotonic() - _HOUR
        while self._deleted and self._deleted[0] < since:
            self._deleted.popleft()
        before = len(self._deleted)
        stopped = brake(self._mount, edits, None, before)
        for edit in stopped:
            self._mount.journal.failed(edit, REFUSED + too_many(len(stopped) + before))
        halved = {edit.group for edit in stopped}
        return [edit for edit in edits if edit.group not in halved]


def _parts(edits: Iterable[Edit]) -> Iterator[list[Edit]]:
    """Put edits in parts of some size; no group is torn."""
    groups: dict[int, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit.group, []).append(edit)
    part: list[Edit] = []
    for group in groups.values():
        part += group
        if len(part) >= _AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def flush(mount: Mount, sender: Sender, timeout: float | None = None) -> None:
    """Push until nothing is left; see `MountedStore.flush`."""
    mount.staging.refuse_in_transaction("flush")
    mount.refuse_frozen("flush")
    stop = stopper() or threading.Event()
    deadline = None if timeout is None else time.monotonic() + timeout
    wait, first = _SOON, True
    error: StoreUnavailableError | None = None

    while True:
        left = [edit for edit in mount.edits() if not edit.held]
        if not left:
            return
        now = mount.clock()
        # The first time nothing rests: somebody waits for it.
        due = _due(mount, left, float("inf") if first else now)
        if read_pause(mount.catalog) is not None:
            raise _left(mount, left, "pushing is paused; `mountcache push --resume` ends that")
        if due:
            try:
                report = sender.send(due)
            except StoreBusyError:
                report = PushReport()  # another process is at it
            except StoreUnavailableError as unavailable:
                raise _left(mount, left, str(unavailable)) from unavailable
            if report.results:
                error = next(
                    (r.error for r in report.results if isinstance(r.error, StoreUnavailableError)),
                    None,
                )
        first = False
        before, left = len(left), [e for e in mount.edits() if not e.held]
        if not left:
            return
        times = [each for each in _times(mount, left).values() if each is not None]
        if not times:
            raise _left(mount, left, "each needs somebody") from error
        if stop.is_set():
            raise _left(mount, left, "it was asked to end")
        now_left = None if deadline is None else deadline - time.monotonic()
        if now_left is not None and now_left <= 0:
            raise _left(mount, left, "") from error
        # What somebody else is sending isn't looked at all the time.
        wait = _SOON if len(left) < before else min(wait * 2, _LOOK)
        wanted = max(wait, min(min(times) - mount.clock(), 10.0))
        stop.wait(wanted if now_left is None else min(wanted, now_left))


def _times(mount: Mount, left: Iterable[Edit]) -> dict[str, float | None]:
    now = pace(mount.catalog, 0.0)
    whole = schedule(mount.edits(), mount.clock(), now)
    return {edit.key: whole.get(edit.key) for edit in left}


def _due(mount: Mount, left: Sequence[Edit], until: float) -> list[Edit]:
    times = _times(mount, left)
    return [e for e in left if (at := times[e.key]) is not None and at <= until]


def _left(mount: Mount, left: Sequence[Edit], why: str) -> NotPushedError:
    """Return the error that says what is left."""
    keys = tuple(mount.full(edit.key) for edit in left)
    conflicts = tuple(mount.full(e.key) for e in left if (e.error or "").startswith(CONFLICT))
    first = left[0].error or why or "it wasn't sent yet"
    more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
    said = f" ({why})" if why and why != first else ""
    return NotPushedError(
        f"{keys[0]!r}{more} stay staged{said}: {first}", left=keys, conflicts=conflicts
    )
