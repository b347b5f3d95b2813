"""What stores announce: a tree of events, and `StoreProgress`, which announces an operation.

Who hears of them is the business of `mountcache.event_manager`. The classes and their
attributes are those of ``encore.events`` and ``encore.storage.events``, and four more:
`StoreOfflineEvent`, `StorePushEvent`, `StoreConflictEvent` and `StoreOverdueEvent`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from mountcache.event_manager import BaseEvent, EventManager

__all__ = [
    "BaseEvent",
    "EventManager",
    "ProgressEndEvent",
    "ProgressEvent",
    "ProgressStartEvent",
    "ProgressStepEvent",
    "StoreConflictEvent",
    "StoreDeleteEvent",
    "StoreEvent",
    "StoreKeyEvent",
    "StoreModificationEvent",
    "StoreOfflineEvent",
    "StoreOverdueEvent",
    "StoreProgress",
    "StoreProgressEndEvent",
    "StoreProgressEvent",
    "StoreProgressStartEvent",
    "StoreProgressStepEvent",
    "StorePushEvent",
    "StoreSetEvent",
    "StoreTransactionEndEvent",
    "StoreTransactionEvent",
    "StoreTransactionStartEvent",
    "StoreUpdateEvent",
]

_STEP_INTERVAL = 0.1
"""Seconds between two step events of one operation, at least."""

ExitState = Literal["normal", "warning", "error", "exception"]
State = Literal["done", "failed"]


class ProgressEvent(BaseEvent):
    """A stage of an operation that takes a while.

    Parameters
    ----------
    operation_id
        The same in all events of one operation, and in no other.
    message
        What is being done, for people to read.
    """

    def __init__(
        self, source: Any = None, *, operation_id: str = "", message: str = "", **kwargs: Any
    ) -> None:
        super().__init__(source, **kwargs)
        self.operation_id = operation_id
        self.message = message


class ProgressStartEvent(ProgressEvent):
    """The start of an operation.

    Parameters
    ----------
    steps
        How many steps it has; -1 if that isn't known.
    """

    def __init__(self, source: Any = None, *, steps: int = -1, **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.steps = steps


class ProgressStepEvent(ProgressEvent):
    """Progress of an operation.

    Parameters
    ----------
    step
        How many steps are done; -1 if that isn't known.
    """

    def __init__(self, source: Any = None, *, step: int = -1, **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.step = step


class ProgressEndEvent(ProgressEvent):
    """The end of an operation; comes after every start.

    Parameters
    ----------
    exit_state
        "normal", "warning", "error" or "exception".
    state
        "done" or "failed".
    step
        How many steps were done; -1 if that isn't known.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        exit_state: ExitState = "normal",
        state: State = "done",
        step: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(source, **kwargs)
        self.exit_state: ExitState = exit_state
        self.state: State = state
        self.step = step


class StoreEvent(BaseEvent):
    """Something that happened in a store; `source` is the store."""


class StoreTransactionEvent(StoreEvent):
    """The start or the end of a transaction.

    Parameters
    ----------
    message
        The notes that the transaction was opened with.
    """

    def __init__(self, source: Any = None, *, message: str = "", **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.message = message


class StoreTransactionStartEvent(StoreTransactionEvent):
    """The start of an outermost transaction."""


class StoreTransactionEndEvent(StoreTransactionEvent):
    """The end of an outermost transaction; comes after every start.

    Parameters
    ----------
    state
        "done" if its changes hold, "failed" if they were taken back.
    """

    def __init__(self, source: Any = None, *, state: State = "done", **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.state: State = state


class StoreKeyEvent(StoreEvent):
    """Something that happened to one key.

    Parameters
    ----------
    key
        The key; None where an operation is about more than one.
    metadata
        Its metadata, as far as known; of a deleted key what it was before.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(source, **kwargs)
        self.key = key
        self.metadata = {} if metadata is None else dict(metadata)


class StoreModificationEvent(StoreKeyEvent):
    """A change of one key, after it was committed; `action` names the kind."""

    action: Literal["", "set", "update", "delete"] = ""


class StoreSetEvent(StoreModificationEvent):
    """A key that wasn't there, as far as was known, was set."""

    action = "set"


class StoreUpdateEvent(StoreModificationEvent):
    """A key that was there has other data or metadata."""

    action = "update"


class StoreDeleteEvent(StoreModificationEvent):
    """A key was deleted."""

    action = "delete"


class StoreProgressEvent(ProgressEvent, StoreKeyEvent):
    """A stage of a store's operation that takes a while."""


class StoreProgressStartEvent(ProgressStartEvent, StoreProgressEvent):
    """The start of a store's operation."""


class StoreProgressStepEvent(ProgressStepEvent, StoreProgressEvent):
    """Progress of a store's operation; comes at most 10 times a second."""


class StoreProgressEndEvent(ProgressEndEvent, StoreProgressEvent):
    """The end of a store's operation."""


class StoreOfflineEvent(StoreEvent):
    """Upstream is out of reach and is left alone for a while.

    Parameters
    ----------
    reason
        What went wrong, in a sentence.
    until
        When it is tried again, in seconds since 1970.
    """

    def __init__(
        self, source: Any = None, *, reason: str = "", until: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(source, **kwargs)
        self.reason = reason
        self.until = until


class StorePushEvent(StoreKeyEvent):
    """A push of one key came to its end.

    Parameters
    ----------
    outcome
        What came of it, such as "pushed" or "already there".
    version
        The version that upstream has now; None if it isn't known or the key is gone.
    grade
        How the write was guarded, "A" to "D"; None if nothing was sent.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        outcome: str = "",
        version: str | None = None,
        grade: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(source, **kwargs)
        self.outcome = outcome
        self.version = version
        self.grade = grade


class StoreConflictEvent(StoreKeyEvent):
    """Upstream has a key other than the author of an edit had seen it.

    Parameters
    ----------
    conflict
        Both sides of it.
    """

    def __init__(self, source: Any = None, *, conflict: Any = None, **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.conflict = conflict


class StoreOverdueEvent(StoreKeyEvent):
    """A background pusher hasn't got an edit upstream for too long.

    Parameters
    ----------
    since
        When the edit was made, in seconds since 1970.
    reason
        What stands in its way, in a sentence.
    """

    def __init__(
        self, source: Any = None, *, since: float = 0.0, reason: str = "", **kwargs: Any
    ) -> None:
        super().__init__(source, **kwargs)
        self.since = since
        self.reason = reason


class _Announcing(Protocol):
    """A store, as far as progress goes."""

    @property
    def event_manager(self) -> EventManager: ...


class StoreProgress:
    """Announces the progress of an operation of a store for the length of a ``with`` block.

    The start is announced on entry and the end on every exit; steps between them at most 10
    times a second.

    Parameters
    ----------
    source
        The store.
    message
        What is being done, for people to read.
    steps
        How many steps it has; -1 if that isn't known.
    key
        The key that it is about, if it is about one.
    metadata
        Its metadata.
    event_manager
        Who announces it; the store's own unless given.
    clock
        Seconds from any moment on that never go back.
    """

    def __init__(
        self,
        source: _Announcing,
        message: str,
        *,
        steps: int = -1,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_manager: EventManager | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event_manager = source.event_manager if event_manager is None else event_manager
        self._message = message
        self._steps = steps
        self._clock = clock
        self._common: dict[str, Any] = {
            "source": source,
            "operation_id": uuid.uuid4().hex,
            "key": key,
            "metadata": metadata,
        }
        self._done = -1
        self._last: float | None = None

    def __enter__(self) -> Self:
        self._event_manager.emit(
            StoreProgressStartEvent(**self._common, message=self._message, steps=self._steps)
        )
        return self

    def step(self, done: int, message: str | None = None) -> None:
        """Announce that `done` steps are done, unless one was announced just now."""
        self._done = done
        now = self._clock()
        if self._last is not None and now - self._last < _STEP_INTERVAL:
            return
        self._last = now
        text = self._message if message is None else message
        self._event_manager.emit(StoreProgressStepEvent(**self._common, message=text, step=done))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed = exc_type is not None
        self._event_manager.emit(
            StoreProgressEndEvent(
                **self._common,
                message=(str(exc) or exc_type.__name__) if exc_type else self._message,
                exit_state="exception" if failed else "normal",
                state="failed" if failed else "done",
                step=self._done,
            )
        )
