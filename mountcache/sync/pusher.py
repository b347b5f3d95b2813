"""The background pusher: a thread that sends what is staged, off unless it is asked for.

One process of a directory does it at a time. It is woken by commits of its own process, looks
once a second for those of others, and sends what has rested for a moment. What fails is tried
again later and later; what needs somebody isn't, and what is late is complained of.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from mountcache.errors import (
    AuthorizationError,
    ConfigurationError,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
)
from mountcache.events import StoreOfflineEvent, StoreOverdueEvent
from mountcache.local import history
from mountcache.local.records import Edit, StagedEdit
from mountcache.stopping import stopped_by
from mountcache.sync.mount import Mount
from mountcache.sync.pausing import pace, remember_rest
from mountcache.sync.report import ARRIVED, PushReport
from mountcache.sync.schedule import Pace, backed_off, schedule
from mountcache.sync.switch import read_switch
from mountcache.sync.unattended import Check, Sender

__all__ = ["MODES", "Mode", "Pusher", "Pushing", "pusher_of", "pushing_of"]

Mode = Literal["manual", "auto"]
MODES: Final = ("manual", "auto")

_logger = logging.getLogger("mountcache")

_LOOK: Final = 1.0
"""Seconds between two looks at what other processes did."""
_GRACE: Final = 5.0
"""Seconds that a key in flight has when the store is disconnected."""
_LOCK: Final = "pusher"
_FOR_EVER: Final = 1e9
_MANY: Final = 6
"""After so many failures in a row the wait is as long as it gets."""


@dataclass(frozen=True, slots=True)
class Pushing:
    """How staged edits go upstream by themselves."""

    mode: Mode = "manual"
    """"auto": by a background pusher; "manual": only when somebody says so."""
    quiet: float = 2.0
    """Seconds for which an edit rests before it is sent."""
    late: float = 3600.0
    """Seconds after which an edit that isn't upstream is complained of."""
    check: Check | None = None
    """Called with each edit before it is sent; a message refuses it."""
    after: Callable[[PushReport], object] | None = None
    """Called with the report of each push that had something to send."""


def pushing_of(push: str | Pushing) -> Pushing:
    """Return how to push; ConfigurationError unless it is one of the modes, or says it all."""
    if isinstance(push, Pushing):
        return push
    if push not in MODES:
        raise ConfigurationError(f"push is one of {', '.join(MODES)}, not {push!r}")
    return Pushing("auto" if push == "auto" else "manual")


def pusher_of(mount: Mount) -> str:
    """Return who pushes a directory in the background, such as "pid 123 on HOST"; "" if nobody."""
    return mount.catalog.content.lock(_LOCK).holder()


class Pusher:
    """A thread that pushes a mount until it is stopped.

    Parameters
    ----------
    mount
        The two ends.
    pushing
        How.
    offline
        Whether upstream isn't to be asked now.
    """

    def __init__(self, mount: Mount, pushing: Pushing, offline: Callable[[], bool]) -> None:
        self._mount = mount
        self._pushing = pushing
        self._offline = offline
        self._sender = Sender(mount, self._checked if pushing.check else None, self._told)
        self._lock = mount.catalog.content.lock(_LOCK)
        self._elected = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._pid = os.getpid()
        self._seen: tuple[object, ...] = ()
        self._due = 0.0
        """When there is something to do though nothing has changed, by the mount's clock."""
        self._failures = 0
        """How often in a row upstream was out of reach."""
        self._rests = False
        self._log_then = 0
        """The last record of what happened when upstream was left alone."""
        self._complained: set[tuple[str, int]] = set()
        self._futile: dict[tuple[str, int], tuple[int, float]] = {}
        """Edits that a push left as they were: how often, and when they are tried again."""
        self._thread = threading.Thread(target=self._run, name="mountcache-pusher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._mount.staging.changed = self.wake
        self._thread.start()

    def wake(self) -> None:
        """Look now at what is staged."""
        # A forked child has no such thread, and its copy of the event may never be free.
        if os.getpid() == self._pid:
            self._wake.set()

    def stop(self, cut: Callable[[], None]) -> None:
        """End; no further key is begun, and what stays staged stays so.

        Parameters
        ----------
        cut
            Cuts the connections to upstream, if what is in flight takes longer than a moment.
        """
        if os.getpid() != self._pid:
            return
        self._mount.staging.changed = lambda: None
        self._stop.set()
        self._wake.set()
        if threading.current_thread() is self._thread:
            return  # a listener of a push disconnects the store
        self._thread.join(_GRACE)
        if self._thread.is_alive():
            cut()
            self._thread.join()

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(self._turn())
                self._wake.clear()
        finally:
            if self._elected:
                self._lock.release()

    def _turn(self) -> float:
        """Do what is to be done; return for how many seconds there is nothing."""
        begun = time.monotonic()
        try:
            if not self._elected:
                self._elected = self._lock.acquire(0.0)
            if not self._elected:
                return _LOOK
            seen = self._look()
            if seen == self._seen and self._mount.clock() < self._due:
                return self._rest_of_turn()
            self._seen = seen
            with stopped_by(self._stop):
                self._push()
        except StoreBusyError:
            self._seen = ()  # somebody pushes by hand
            return _LOOK
        except Exception as error:
            # Whatever it is: the thread goes on, and says so.
            if not self._stop.is_set():
                _logger.debug("the background pusher couldn't do its work", exc_info=True)
                with suppress(StoreError, OSError):  # a full disk keeps no thread from going on
                    self._rest(str(error))
            return _LOOK
        # Of many changes in a row not each is looked at.
        self._stop.wait(min(max(0.05, (time.monotonic() - begun) * 5), _LOOK))
        return self._rest_of_turn()

    def _rest_of_turn(self) -> float:
        return min(max(self._due - self._mount.clock(), 0.0), _LOOK)

    def _look(self) -> tuple[object, ...]:
        """Return what differs once anybody has done something that counts here."""
        con = self._mount.catalog.content.connection()
        found: tuple[object, ...] = con.execute(
            "SELECT (SELECT max(seq) FROM log), (SELECT total(held) FROM edit),"
            " (SELECT group_concat(value) FROM state WHERE name IN ('push_paused',"
            " 'push_rests_until', 'offline'))"
        ).fetchone()
        return (*found, self._offline())

    def _push(self) -> None:
        """Send what is due, and find out when there is more."""
        mount, now = self._mount, self._mount.clock()
        edits = list(mount.edits())
        there = {(edit.key, edit.seq) for edit in edits}
        self._complained &= there
        self._futile = {each: why for each, why in self._futile.items() if each in there}
        if self._failures and self._others_pushed():
            self._reached()
        going = pace(mount.catalog, self._pushing.quiet)
        self._complain(edits, now, going)
        times = self._times(edits, now, going)
        due = [edit for edit in edits if (at := times.get(edit.key)) is not None and at <= now]
        asks = not self._offline() and read_switch(mount.catalog) != "always"
        self._due = min(
            (at for at in (*times.values(), *self._late(edits)) if at is not None and at > now),
            default=now + _FOR_EVER,
        )
        if not due or not asks:
            return
        if self._failures:
            # Whether upstream is back shows by what goes together first.
            due = [edit for edit in due if edit.group == due[0].group]
        self._note(due, self._sender.send(due))
        self._due = 0.0

    def _times(self, edits: Sequence[Edit], now: float, going: Pace) -> dict[str, float | None]:
        times = dict(schedule(edits, now, going))
        groups: dict[int, float] = {}
        for edit in edits:
            if (again := self._futile.get((edit.key, edit.seq))) is not None:
                until = now + again[1] - time.monotonic()
                groups[edit.group] = max(until, groups.get(edit.group, 0.0))
        for edit in edits:
            at = times.get(edit.key)
            if at is not None and edit.group in groups:
                times[edit.key] = max(at, groups[edit.group])
        return times

    # -- what came of it -----------------------------------------------------------------

    def _note(self, sent: Sequence[Edit], report: PushReport) -> None:
        outcomes = {each.key: each for each in report.results}
        for edit in sent:
            result = outcomes.get(self._mount.full(edit.key))
            if result is None or result.outcome in ARRIVED:
                continue
            now = self._mount.catalog.row(edit.key).edit
            if now is not None and (now.seq, now.tries) == (edit.seq, edit.tries):
                name = (edit.key, edit.seq)
                often = self._futile.get(name, (0, 0.0))[0] + 1
                self._futile[name] = (often, time.monotonic() + backed_off(often, edit.key))
        errors = [each.error for each in report.results if each.error is not None]
        for error in errors:
            if isinstance(error, AuthorizationError) and error.status == 401:
                # Some servers lock out who comes again and again with the wrong password.
                self._failures = max(self._failures, _MANY)
                self._rest(str(error))
                return
        if any(each.outcome in ARRIVED for each in report.results):
            self._reached()
        elif errors and all(
            isinstance(error, StoreUnavailableError) and not error.answered for error in errors
        ):
            self._rest(str(errors[0]))
        elif report.results:
            self._reached()

    def _reached(self) -> None:
        """Note that upstream answers."""
        if self._failures:
            self._failures, self._rests = 0, False
            remember_rest(self._mount.catalog, None)

    def _rest(self, reason: str) -> None:
        """Leave upstream alone for a while, the longer the more often that has been so."""
        mount = self._mount
        first, self._rests = not self._rests, True
        self._failures += 1
        until = mount.clock() + backed_off(self._failures, mount.catalog.content.token)
        self._log_then = self._last_record()
        remember_rest(mount.catalog, until)
        if first:
            _logger.warning("the background pusher leaves upstream alone for a while: %s", reason)
            mount.emit(StoreOfflineEvent(reason=reason, until=until))

    def _last_record(self) -> int:
        return history.last(self._mount.catalog.content.connection())

    def _others_pushed(self) -> bool:
        """Whether a push by hand got through since upstream is left alone."""
        con = self._mount.catalog.content.connection()
        sql = "SELECT 1 FROM log WHERE seq > ? AND what = 'pushed' LIMIT 1"
        return con.execute(sql, (self._log_then,)).fetchone() is not None

    def _checked(self, edit: StagedEdit) -> str | None:
        assert self._pushing.check is not None
        try:
            return self._pushing.check(edit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the edit isn't sent
            return f"the check didn't work: {str(error) or type(error).__name__}"

    def _told(self, report: PushReport) -> None:
        if self._pushing.after is None:
            return
        try:
            self._pushing.after(report)
        except Exception as error:  # noqa: BLE001 - a stranger's code ends no thread of ours
            _logger.warning("what is to be called after a push didn't work: %s", error)

    # -- what is late --------------------------------------------------------------------

    def _late(self, edits: Iterable[Edit]) -> Iterator[float]:
        """Iterate over the times from which edits are late that aren't yet."""
        for edit in edits:
            if not edit.held and (edit.key, edit.seq) not in self._complained:
                yield edit.at + self._pushing.late

    def _complain(self, edits: Iterable[Edit], now: float, going: Pace) -> None:
        """Say once of each edit that it should be upstream by now, and why it isn't."""
        late = [
            edit
            for edit in edits
            if not edit.held
            and now - edit.at >= self._pushing.late
            and (edit.key, edit.seq) not in self._complained
        ]
        if not late:
            return
        self._complained |= {(edit.key, edit.seq) for edit in late}
        whys = [edit.error or _why(going, now) for edit in late]
        first = self._mount.full(late[0].key)
        _logger.warning(
            "%d staged for more than %.0f s and not upstream yet, %r among them: %s",
            len(late), self._pushing.late, first, whys[0],
        )  # fmt: skip
        for edit, why in zip(late, whys, strict=True):
            self._mount.emit(
                StoreOverdueEvent(key=self._mount.full(edit.key), since=edit.at, reason=why)
            )


def _why(going: Pace, now: float) -> str:
    """Return why an edit isn't sent that no push has failed of."""
    if going.paused:
        return "pushing is paused"
    if going.rests_until > now:
        return "upstream is out of reach"
    return "it wasn't sent yet"
