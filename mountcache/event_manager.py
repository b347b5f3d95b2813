"""Who hears of what: functions connected to classes of events.

The events that stores emit are next door in `mountcache.events`, which has the two names here
as well.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from types import BuiltinMethodType, MethodType
from typing import Any, TypeVar

from mountcache.locks import Lock

__all__ = ["BaseEvent", "EventManager"]

_logger = logging.getLogger("mountcache")


class BaseEvent:
    """Something that happened.

    Parameters
    ----------
    source
        The object that it happened to.
    **kwargs
        Further attributes of the event.
    """

    def __init__(self, source: Any = None, **kwargs: Any) -> None:
        self.source = source
        self._handled = False
        self.__dict__.update(kwargs)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if name != "source" and not name.startswith("_")
        )
        return f"{type(self).__name__}({shown})"

    @property
    def handled(self) -> bool:
        """Whether a listener has kept the event from those after it."""
        return self._handled

    def mark_as_handled(self) -> None:
        """Keep the event from the listeners that would hear of it after this one."""
        self._handled = True


_E = TypeVar("_E", bound=BaseEvent)


@dataclass(frozen=True, slots=True)
class _Listener:
    """A function that was connected to a class of events."""

    ident: tuple[object, ...]
    """Tells whether two functions are one: each access to a method makes a new object."""
    refer: Callable[[], Callable[[Any], object] | None]
    """Gives the function, or None if it was held weakly and is gone."""
    tests: tuple[tuple[Callable[[object], object], object], ...]
    """Getters of attributes, and the value that each must give."""
    rank: tuple[int, int]
    """Highest priority first, then first come, first served."""


@dataclass(frozen=True, slots=True)
class _Connections:
    """All connections at one moment; replaced, never changed, so that readers need no lock."""

    listeners: Mapping[type[BaseEvent], tuple[_Listener, ...]] = field(default_factory=dict)
    disabled: frozenset[type[BaseEvent]] = frozenset()
    found: dict[type[BaseEvent], tuple[_Listener, ...]] = field(default_factory=dict)
    """What `heard_by` has worked out; belongs to this moment and goes with it."""

    def heard_by(self, cls: type[BaseEvent]) -> tuple[_Listener, ...]:
        """Return who hears of an event of this class, in the order of the calls."""
        listeners = self.found.get(cls)
        if listeners is None:
            line = cls.__mro__
            all_of_them = (each for above in line for each in self.listeners.get(above, ()))
            listeners = tuple(sorted(all_of_them, key=attrgetter("rank")))
            if not self.disabled.isdisjoint(line):
                listeners = ()
            self.found[cls] = listeners
        return listeners


class EventManager:
    """Calls the listeners of events.

    Listeners of a class hear of events of its subclasses too. Those of higher priority are
    called first, those of equal priority in the order in which they were connected, whatever
    class they were connected to. They are called by the thread that emits, outside all locks:
    a listener may connect, disconnect, emit, and use the store. What one raises is logged on
    the logger "mountcache", and the rest are called all the same.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections = _Connections()
        self._count = 0

    def connect(
        self,
        cls: type[_E],
        func: Callable[[_E], object],
        filter: Mapping[str, object] | None = None,  # noqa: A002 (encore's name)
        priority: int = 0,
        *,
        weak: bool = False,
    ) -> None:
        """Call `func` with each event of `cls` or a subclass of it.

        To connect a function again to the same class replaces its filter, its priority and
        its place in the order.

        Parameters
        ----------
        cls
            `BaseEvent` or a subclass of it.
        func
            Called with the event. It can keep the event from those after it by
            ``event.mark_as_handled()``.
        filter
            Names of attributes, dotted for attributes of attributes, and the value that each
            must equal; an event without the attribute doesn't match.
        priority
            Higher ones are called first.
        weak
            Hold `func`, or the object whose method it is, by a weak reference: it is called
            as long as something else keeps it. A lambda that nothing else keeps is never
            called.
        """
        if not (isinstance(cls, type) and issubclass(cls, BaseEvent)):
            raise TypeError(f"listeners are connected to a class of events, not to {cls!r}")
        if not callable(func):
            raise TypeError(f"a listener is a function of one event, not {func!r}")
        tests = tuple((attrgetter(name), value) for name, value in (filter or {}).items())
        refer = _weak_reference(func) if weak else lambda: func
        with self._lock:
            self._count += 1
            listener = _Listener(_ident(func), refer, tests, (-priority, self._count))
            others = self._others(cls, func)[0]
            self._put(cls, (*others, listener))

    def disconnect(self, cls: type[_E], func: Callable[[_E], object]) -> None:
        """Call `func` no more with events of `cls`.

        Raises
        ------
        KeyError
            If it isn't connected to `cls` itself.
        """
        with self._lock:
            others, connected = self._others(cls, func)
            if not connected:
                raise KeyError(f"{func!r} isn't connected to {cls.__name__}")
            self._put(cls, others)

    def emit(self, event: BaseEvent) -> None:
        """Call all who listen to the class of `event` or to a superclass of it.

        Who connects or disconnects meanwhile counts from the next event on.
        """
        for listener in self._connections.heard_by(type(event)):
            func = listener.refer()
            if func is None:
                continue
            try:
                if all(_matches(event, get, value) for get, value in listener.tests):
                    func(event)
            except Exception:
                _logger.exception("a listener to %s failed: %r", type(event).__name__, func)
            if event.handled:
                return

    def disable(self, cls: type[BaseEvent]) -> None:
        """Emit no events of `cls` and its subclasses until it is enabled again."""
        self._disable(self._connections.disabled | {cls})

    def enable(self, cls: type[BaseEvent]) -> None:
        """Emit events of `cls` again; those of a class that was disabled itself stay off."""
        self._disable(self._connections.disabled - {cls})

    def is_enabled(self, cls: type[BaseEvent]) -> bool:
        """Whether events of `cls` are emitted: neither it nor a superclass is disabled."""
        return self._connections.disabled.isdisjoint(cls.__mro__)

    def _others(
        self, cls: type[BaseEvent], func: Callable[[Any], object]
    ) -> tuple[tuple[_Listener, ...], bool]:
        """Return the living listeners of `cls` other than `func`, and whether it is one."""
        ident = _ident(func)
        connected = self._connections.listeners.get(cls, ())
        # A dead one may have had the identity that `func` has now.
        alive = [each for each in connected if each.refer() is not None]
        others = tuple(each for each in alive if each.ident != ident)
        return others, len(others) < len(alive)

    def _put(self, cls: type[BaseEvent], listeners: tuple[_Listener, ...]) -> None:
        now = self._connections
        self._connections = _Connections({**now.listeners, cls: listeners}, now.disabled)

    def _disable(self, disabled: frozenset[type[BaseEvent]]) -> None:
        with self._lock:
            self._connections = _Connections(self._connections.listeners, disabled)


def _matches(event: object, get: Callable[[object], object], value: object) -> bool:
    try:
        return bool(get(event) == value)
    except AttributeError:
        return False


def _ident(func: Callable[..., object]) -> tuple[object, ...]:
    # Each access to a method gives a new object, so those are told by what they are bound to;
    # all else by identity, since equal objects needn't be the same listener.
    if isinstance(func, MethodType):
        return (id(func.__self__), id(func.__func__))
    if isinstance(func, BuiltinMethodType):
        return (id(func.__self__), func.__name__)
    return (id(func),)


def _weak_reference(
    func: Callable[[Any], object],
) -> Callable[[], Callable[[Any], object] | None]:
    try:
        if isinstance(func, MethodType):
            return weakref.WeakMethod(func)
        if not isinstance(func, BuiltinMethodType):
            return weakref.ref(func)
    except TypeError:
        pass
    # A method of a built-in type is a passing object that doesn't refer weakly to its owner.
    raise TypeError(f"{func!r} can't be referred to weakly; connect it without weak=True")
