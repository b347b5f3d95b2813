"""The remote end as a mount asks it: when it is left alone, and when its index is read anew."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from mountcache.abc import SupportsIndex
from mountcache.deadline import within
from mountcache.errors import (
    AuthorizationError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.events import (
    StoreDeleteEvent,
    StoreOfflineEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import parse
from mountcache.local import listing
from mountcache.locks import Lock
from mountcache.sync.mount import Mount
from mountcache.sync.options import Options
from mountcache.sync.switch import Switch

__all__ = ["Patience", "Remote"]

_EVENTS = {"set": StoreSetEvent, "update": StoreUpdateEvent, "delete": StoreDeleteEvent}

_logger = logging.getLogger("mountcache")
_T = TypeVar("_T")

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0
_IN_A_ROW = 3


class Patience:
    """Tells when to give up: each of many keys would wait for a time-out of its own.

    Parameters
    ----------
    workers
        How many keys are asked for at once.
    """

    def __init__(self, workers: int) -> None:
        self.lost: StoreUnavailableError | None = None
        """What the last of several keys met that all got no answer."""
        self._most = max(workers, _IN_A_ROW)
        self._in_a_row = 0
        self._lock = threading.Lock()

    def note(self, error: Exception | None) -> None:
        """Note what a key met."""
        unreached = isinstance(error, StoreUnavailableError) and not error.status
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if unreached else 0
            if self._in_a_row >= self._most and isinstance(error, StoreUnavailableError):
                self.lost = error


class Remote:
    """The remote end of one mount.

    After a failure it is left alone for a while, so that not each read waits for a time-out
    of its own: 5 seconds at first, twice as long after each further failure, at most 5 minutes.
    """

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self._lock = Lock()
        self._polling = Lock()
        self._pause = 0.0
        self._until = 0.0
        self._read_since_connect = False
        self.switch = Switch(mount.catalog)

    def in_force(self, options: Options) -> Options:
        """Return options with what the directory's switch says, unless they insist."""
        says = None if options.insists else self.switch.says
        return options if says in (None, options.offline) else replace(options, offline=says)

    # -- asking --------------------------------------------------------------------------

    def ask(self, question: Callable[[], _T], options: Options) -> _T:
        """Ask upstream, unless it is to be left alone.

        Raises
        ------
        StoreUnavailableError
            If it can't be reached, or isn't asked at all now.
        """
        self._refuse_while_resting(options)
        return self.watch(question, options)

    def _refuse_while_resting(self, options: Options) -> None:
        if options.offline == "always" and not options.insists and self.switch.says is not None:
            raise StoreUnavailableError(
                "this directory is switched to work offline; `mountcache offline off` ends that"
            )
        if options.offline == "always":
            raise StoreUnavailableError("this store is set to work offline; set offline='auto'")
        if options.offline != "never" and self.is_resting():
            raise StoreUnavailableError(
                f"upstream couldn't be reached; it is asked again in {self.rests_for():.0f} s"
            )

    def watch(self, question: Callable[[], _T], options: Options) -> _T:
        """Let upstream go on with an answer, and note what that says of it."""
        begun = time.monotonic()
        try:
            with within(options.deadline):
                answer = question()
        except StoreUnavailableError as error:
            if error.answered:
                # One key isn't at a proxy; another may be.
                self._succeeded()
            # Who is in a hurry tells nobody else that upstream is down.
            elif options.deadline is None or time.monotonic() - begun < options.deadline:
                self._failed(str(error))
            raise
        except (KeyError, UpstreamError, AuthorizationError):
            self._succeeded()  # an answer, if not the one hoped for
            raise
        self._succeeded()
        return answer

    def is_resting(self) -> bool:
        """Whether upstream is left alone after a failure."""
        return self._until > 0 and time.monotonic() < self._until

    def is_left_alone(self, options: Options) -> bool:
        """Whether a question would fail without being asked."""
        if options.offline == "always":
            return True
        return options.offline != "never" and self.is_resting()

    def rests_for(self) -> float:
        """Return for how many more seconds upstream is left alone."""
        return max(0.0, self._until - time.monotonic())

    def wake(self) -> None:
        """Ask upstream at the next question again."""
        with self._lock:
            self._until = 0.0

    def _failed(self, reason: str) -> None:
        with self._lock:
            first = self._pause == 0.0
            self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._until = time.monotonic() + self._pause
            until = self.mount.clock() + self._pause
        if first:
            _logger.info("upstream is out of reach: %s", reason)
            self.mount.emit(StoreOfflineEvent(reason=reason, until=until))

    def _succeeded(self) -> None:
        if self._pause:
            with self._lock:
                self._pause = self._until = 0.0

    # -- its index -----------------------------------------------------------------------

    @property
    def poll(self) -> float | None:
        """How long an index counts as current; None if upstream has no index that is polled."""
        backing = self.mount.backing
        return backing.poll if isinstance(backing, SupportsIndex) else None

    def index_is_current(self, max_age: float | None) -> bool:
        """Whether there is no need to ask for the index again."""
        return self.is_current(self.mount.catalog.state("index_checked"), max_age)

    def is_current(self, checked: float | None, max_age: float | None) -> bool:
        """Whether an index that was asked for at `checked` needs no question now."""
        if checked is None:
            return False
        limit = self.poll if max_age is None else max_age
        if limit is None:
            return False
        if limit == 0 and max_age is None:
            return self._read_since_connect
        age: float = self.mount.clock() - checked
        return 0 <= age < limit

    def update_index(self, options: Options, *, max_age: float | None = 0.0) -> bool:
        """Take the index in, unless it is younger than `max_age`; tell whether upstream has one.

        One thread and one process of a directory does it at a time; the others wait for it.

        Raises
        ------
        StoreUnavailableError
            If it can't be reached.
        IndexUnreadableError
            If what is there isn't an index. What was known before stays in force.
        """
        backing = self.mount.backing
        if not isinstance(backing, SupportsIndex):
            return False
        with self._polling:
            if max_age != 0.0 and self.index_is_current(max_age):
                return True
            lock = self.mount.catalog.content.lock("index")
            if not lock.acquire(0.0):
                # Another process is at it; what it finds shows here by itself.
                if self.mount.catalog.state("index_checked") is not None:
                    return True
                if not lock.acquire(60.0):
                    raise StoreUnavailableError(
                        f"another process ({lock.holder()}) has been reading the index for a "
                        "minute; try again"
                    )
            try:
                changes = self._read_index(backing, options)
            finally:
                lock.release()
        # Listeners run outside all locks: they may ask for the index themselves.
        for change in changes:
            self.mount.emit(
                _EVENTS[change.action](key=self.mount.full(change.key), metadata=parse(change.meta))
            )
        return True

    def _read_index(self, backing: SupportsIndex, options: Options) -> list[listing.Change]:
        mount, catalog = self.mount, self.mount.catalog
        complete = catalog.state("complete")
        doubted = catalog.state("index_doubted")
        validators = catalog.state("index_validators") if complete and not doubted else None

        def take_in() -> list[listing.Change] | None:
            reading = backing.read_index(validators)
            if reading is None:
                return None
            return list(listing.load(catalog, reading, prefix=mount.prefix))

        changes = self.ask(take_in, options)
        self._read_since_connect = True
        if changes is None:
            listing.note_index_checked(catalog)
        return changes or []

    def poll_until(self, stop: threading.Event, options: Options) -> None:
        """Poll the index every so often until `stop` is set."""
        period = self.poll
        if not period:
            return
        while not stop.wait(period):
            now = self.in_force(options)
            if now.offline == "always":
                continue
            try:
                # Another process may have polled a moment ago: then its answer counts.
                self.update_index(now, max_age=period * 0.9)
            except StoreError as error:
                _logger.info("the index couldn't be polled: %s", error)
