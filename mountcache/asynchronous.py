"""AsyncMountedStore: a MountedStore for asyncio.

Each verb runs in a thread, under the name and with the parameters it has there; nothing is
decided here. What a cancel does is told in `mountcache.offloop`, once for all of them. The
functions at the end are those of `mountcache.sync`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Concatenate, ParamSpec, Self, TypeVar, cast

from mountcache import config, sync
from mountcache.abc import Base, Readable, Value
from mountcache.asyncvalues import AsyncStream, AsyncValue, AsyncWriter, opened
from mountcache.events import EventManager
from mountcache.mounted import MountedStore
from mountcache.offloop import Calls
from mountcache.streams import Writer
from mountcache.sync.options import Offline
from mountcache.sync.pausing import Pause

__all__ = [
    "AsyncMountedStore",
    "AsyncStream",
    "AsyncValue",
    "AsyncWriter",
    "about",
    "apply",
    "diff",
    "du",
    "export_bundle",
    "export_tree",
    "gc",
    "grading",
    "import_bundle",
    "import_tree",
    "in_conflict",
    "lock",
    "open",
    "pin_keys",
    "plan",
    "prefetch",
    "prefetch_locked",
    "probe",
    "prune",
    "pull",
    "push",
    "readiness",
    "residents",
    "residents_of",
    "resolve",
    "room",
    "side",
    "status",
    "verify",
    "whereis",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Any = TypeVar("_Any", bound=Callable[..., Any])
_PAGE = 1000

Data = Readable | AsyncStream | AsyncIterable[bytes]
"""What can be given as data: a blocking stream, which a thread reads, or what `async for` takes
bytes from. The latter are collected in a temporary file first."""

_Verb = Callable[Concatenate["AsyncMountedStore", _P], Coroutine[Any, Any, _R]]
_Listing = Callable[Concatenate["AsyncMountedStore", _P], AsyncGenerator[_R, None]]


def _of(method: Callable[..., Any], verb: Callable[..., Any]) -> None:
    """Give a verb the name, the parameters and the docstring of a method."""
    functools.update_wrapper(verb, method)
    verb.__doc__ = inspect.getdoc(method)


def _read(method: Callable[Concatenate[MountedStore, _P], _R]) -> _Verb[_P, _R]:
    """Return the verb of a method that changes nothing; a cancel doesn't wait for it."""
    name = method.__name__

    async def verb(self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self._calls.read(lambda: getattr(self.blocking, name)(*args, **kwargs))

    _of(method, verb)
    return verb


def _change(method: Callable[Concatenate[MountedStore, _P], _R]) -> _Verb[_P, _R]:
    """Return the verb of a method; if it is cancelled it is done or not done, never half."""
    name = method.__name__

    async def verb(self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self._calls.change(lambda: getattr(self.blocking, name)(*args, **kwargs))

    _of(method, verb)
    return verb


def _value(method: Callable[Concatenate[MountedStore, _P], Value]) -> _Verb[_P, AsyncValue]:
    """Return the verb of a method that gives a value."""
    name = method.__name__

    async def verb(self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncValue:
        return await self._calls.read(
            lambda: AsyncValue(self._calls, getattr(self.blocking, name)(*args, **kwargs)), _let_go
        )

    _of(method, verb)
    return verb


def _stream(
    method: Callable[Concatenate[MountedStore, _P], io.BufferedIOBase],
) -> _Verb[_P, AsyncStream]:
    """Return the verb of a method that opens a stream."""
    name = method.__name__

    async def verb(self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncStream:
        return await opened(self._calls, lambda: getattr(self.blocking, name)(*args, **kwargs))

    _of(method, verb)
    return verb


def _list(
    method: Callable[Concatenate[MountedStore, _P], Iterator[_R]], page: int = _PAGE
) -> _Listing[_P, _R]:
    """Return the verb of a method that iterates, so many at a time."""
    name = method.__name__

    def verb(
        self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> AsyncGenerator[_R, None]:
        return self._calls.pages(lambda: getattr(self.blocking, name)(*args, **kwargs), page)

    _of(method, verb)
    return verb


def _view(
    method: Callable[Concatenate[MountedStore, _P], MountedStore],
) -> Callable[Concatenate[AsyncMountedStore, _P], AsyncMountedStore]:
    """Return the verb of a method that gives another view of the store, without a wait."""
    name = method.__name__

    def verb(self: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncMountedStore:
        return _made(getattr(self.blocking, name)(*args, **kwargs), self._calls)

    _of(method, verb)
    return verb


def _like(method: Callable[..., Any]) -> Callable[[_Any], _Any]:
    """Return a decorator that gives a verb of its own parameters the docstring of a method."""

    def documented(verb: _Any) -> _Any:
        verb.__doc__ = inspect.getdoc(method)
        return verb

    return documented


def _let_go(value: AsyncValue | None) -> None:
    close = getattr(None if value is None else value.blocking, "close", None)
    if close is not None:
        close()


class AsyncMountedStore:
    """A `MountedStore` for asyncio: the same verbs, with the same parameters.

    A cancelled verb that changes something is asked to end early and is waited for: after the
    CancelledError it is done or it isn't, and nothing goes on behind it. One that only reads
    isn't waited for; what it still brings is closed, and its thread is free when upstream
    answers or its time is over. A transaction belongs to the task that opened it, and to tasks
    that are started inside it.

    Listeners of `event_manager` are called in threads.

    Parameters
    ----------
    store
        The store whose verbs these are. It may be used beside this one.
    threads
        How many calls run at once, besides pushes and prefetches. Each thread has a
        connection to the local database.
    """

    def __init__(self, store: MountedStore, *, threads: int = 16) -> None:
        self.blocking = store
        self._calls = Calls(threads)

    # -- the two ends --------------------------------------------------------------------

    @property
    def mount_point(self) -> str:
        """The prefix of the keys that are cached and can be written."""
        return self.blocking.mount_point

    @property
    def event_manager(self) -> EventManager:
        """Who hears of changes."""
        return self.blocking.event_manager

    def info(self) -> dict[str, Any]:
        """Return what the store says of itself."""
        return self.blocking.info()

    def is_connected(self) -> bool:
        """Whether `connect` was called last, rather than `disconnect`."""
        return self.blocking.is_connected()

    @property
    def user_tag(self) -> str | None:
        """The name under which upstream's permissions know the user; None if it has none."""
        return self.blocking.user_tag

    def is_offline(self) -> bool:
        """Whether upstream is left alone now."""
        return self.blocking.is_offline()

    @property
    def offline_switch(self) -> Offline | None:
        """What `set_offline` said for this directory; None if nothing."""
        return self.blocking.offline_switch

    @property
    def push_paused(self) -> Pause | None:
        """Who has paused background pushing, and when; None if nobody has."""
        return self.blocking.push_paused

    set_offline = _change(MountedStore.set_offline)
    flush = _change(MountedStore.flush)
    pause_push = _change(MountedStore.pause_push)
    resume_push = _change(MountedStore.resume_push)
    connect = _change(MountedStore.connect)

    async def disconnect(self) -> None:
        """Disconnect what `connect` connected, and wait until no thread is left."""
        await self._calls.close(self.blocking.disconnect)

    async def __aenter__(self) -> Self:
        if not self.is_connected():
            await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.disconnect()

    with_options = _view(MountedStore.with_options)
    rebind = _change(MountedStore.rebind)
    update_index = _change(MountedStore.update_index)
    stats = _read(MountedStore.stats)

    # -- reading -------------------------------------------------------------------------

    get = _value(MountedStore.get)
    fetch = _value(MountedStore.fetch)
    get_data = _stream(MountedStore.get_data)
    get_data_range = _stream(MountedStore.get_data_range)
    get_metadata = _read(MountedStore.get_metadata)
    get_permissions = _read(MountedStore.get_permissions)
    exists = _read(MountedStore.exists)
    to_bytes = _read(MountedStore.to_bytes)
    to_file = _change(MountedStore.to_file)
    glob = _list(MountedStore.glob)
    cached = _list(MountedStore.cached)
    staged = _list(MountedStore.staged)
    taken = _read(MountedStore.taken)
    log = _list(MountedStore.log)
    changes = _read(MountedStore.changes)
    multiget_metadata = _list(MountedStore.multiget_metadata, 1)

    @_like(MountedStore.query)
    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        return self._calls.pages(lambda: self.blocking.query(select, **kwargs), _PAGE)

    @_like(MountedStore.query_keys)
    def query_keys(self, **kwargs: Any) -> AsyncGenerator[str, None]:
        return self._calls.pages(lambda: self.blocking.query_keys(**kwargs), _PAGE)

    @_like(MountedStore.warm)
    async def warm(self, key: str) -> AsyncValue | None:
        def call() -> AsyncValue | None:
            found = self.blocking.warm(key)
            return None if found is None else AsyncValue(self._calls, found)

        return await self._calls.read(call, _let_go)

    @_like(MountedStore.multiget)
    def multiget(self, keys: Iterable[str]) -> AsyncGenerator[AsyncValue, None]:
        values = (AsyncValue(self._calls, value) for value in self.blocking.multiget(keys))
        return self._calls.pages(lambda: values, 1, _let_go)

    @_like(MountedStore.multiget_data)
    def multiget_data(self, keys: Iterable[str]) -> AsyncGenerator[AsyncStream, None]:
        streams = (AsyncStream(self._calls, data) for data in self.blocking.multiget_data(keys))
        return self._calls.pages(lambda: streams, 1, lambda stream: stream.blocking.close())

    @_like(MountedStore.open)
    async def open(self, key: str, mode: str = "rb") -> AsyncStream | AsyncWriter:
        def let_go(file: BinaryIO | None) -> None:
            if file is not None and mode == "rb":
                file.close()

        file = await self._calls.read(lambda: self.blocking.open(key, mode), let_go)
        if isinstance(file, Writer):
            return AsyncWriter(self._calls, file)
        return AsyncStream(self._calls, cast("io.BufferedIOBase", file))

    @_like(MountedStore.local_path)
    @asynccontextmanager
    async def local_path(self, key: str) -> AsyncIterator[Path]:
        def lend() -> tuple[AbstractContextManager[Path], Path]:
            lent = self.blocking.local_path(key)
            return lent, lent.__enter__()

        def take_back(made: tuple[AbstractContextManager[Path], Path] | None) -> None:
            if made is not None:
                made[0].__exit__(None, None, None)

        made = await self._calls.read(lend, take_back)
        try:
            yield made[1]
        finally:
            await self._calls.change(lambda: take_back(made))

    # -- changing ------------------------------------------------------------------------

    @_like(MountedStore.set)
    async def set(
        self,
        key: str,
        value: Value | AsyncValue | tuple[Data, Mapping[str, Any]],
        buffer_size: int = 1048576,
        *,
        base: Base = None,
    ) -> None:
        if isinstance(value, tuple) and len(value) == 2:
            data, metadata = value
            await self._with_data(
                key,
                data,
                lambda data: self.blocking.set(key, (data, metadata), buffer_size, base=base),
            )
        else:
            given: Any = _blocking(value)
            await self._calls.change(lambda: self.blocking.set(key, given, buffer_size, base=base))

    @_like(MountedStore.set_data)
    async def set_data(
        self, key: str, data: Data, buffer_size: int = 1048576, *, base: Base = None
    ) -> None:
        await self._with_data(
            key, data, lambda data: self.blocking.set_data(key, data, buffer_size, base=base)
        )

    async def _with_data(self, key: str, data: Data, call: Callable[[Readable], object]) -> None:
        if not isinstance(data, AsyncStream) and isinstance(data, AsyncIterable):
            async with AsyncWriter(self._calls, Writer(call, key)) as file:
                async for piece in data:
                    await file.write(piece)
        else:
            given = _blocking(data)
            await self._calls.change(lambda: call(given))

    @_like(MountedStore.multiset)
    async def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | AsyncValue | tuple[Readable | AsyncStream, Mapping[str, Any]]],
        buffer_size: int = 1048576,
    ) -> None:
        given = (_blocking(value) for value in values)
        await self._calls.change(lambda: self.blocking.multiset(keys, given, buffer_size))

    @_like(MountedStore.multiset_data)
    async def multiset_data(
        self,
        keys: Iterable[str],
        datas: Iterable[Readable | AsyncStream],
        buffer_size: int = 1048576,
    ) -> None:
        given = (_blocking(data) for data in datas)
        await self._calls.change(lambda: self.blocking.multiset_data(keys, given, buffer_size))

    @_like(MountedStore.transaction)
    def transaction(
        self, notes: str, *, group: str | None = None
    ) -> AbstractAsyncContextManager[object]:
        return self._calls.block(lambda: self.blocking.transaction(notes, group=group))

    set_metadata = _change(MountedStore.set_metadata)
    update_metadata = _change(MountedStore.update_metadata)
    set_permissions = _change(MountedStore.set_permissions)
    update_permissions = _change(MountedStore.update_permissions)
    multiset_metadata = _change(MountedStore.multiset_metadata)
    multiupdate_metadata = _change(MountedStore.multiupdate_metadata)
    from_file = _change(MountedStore.from_file)
    from_bytes = _change(MountedStore.from_bytes)
    stage = _change(MountedStore.stage)
    stage_delete = _change(MountedStore.stage_delete)
    delete = _change(MountedStore.delete)
    mv = _change(MountedStore.mv)
    cp = _change(MountedStore.cp)
    push = _change(MountedStore.push)
    revert = _change(MountedStore.revert)
    undo = _change(MountedStore.undo)
    drop = _change(MountedStore.drop)
    pin = _change(MountedStore.pin)
    unpin = _change(MountedStore.unpin)
    hold = _change(MountedStore.hold)
    unhold = _change(MountedStore.unhold)


def _blocking(given: Any) -> Any:
    """Return what a thread can read."""
    if isinstance(given, tuple):
        return tuple(_blocking(each) for each in given)
    return given.blocking if isinstance(given, (AsyncStream, AsyncValue)) else given


async def open(  # noqa: A001 - as `mountcache.open`
    path: str | os.PathLike[str] | None = None,
    *,
    threads: int = 16,
    mount: str | None = None,
    credentials: Any = None,
    lock: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> AsyncMountedStore:
    """Open the store that a mountcache.toml describes; see `mountcache.open`.

    ``async with await open() as store`` disconnects it at the end.

    Parameters
    ----------
    path, mount, credentials, lock, **overrides
        As of `mountcache.open`.
    threads
        As of `AsyncMountedStore`.
    """

    def let_go(store: MountedStore | None) -> None:
        if store is not None:
            store.disconnect()

    calls = Calls(threads)
    store = await calls.read(
        lambda: config.open(path, mount=mount, credentials=credentials, lock=lock, **overrides),
        let_go,
    )
    return _made(store, calls)


def _made(store: MountedStore, calls: Calls) -> AsyncMountedStore:
    """Return a store whose calls are made where those of another are."""
    made = AsyncMountedStore.__new__(AsyncMountedStore)
    made.blocking, made._calls = store, calls
    return made


# -- the functions of mountcache.sync --------------------------------------------------------


def _whole(function: Callable[Concatenate[Any, _P], _R]) -> _Verb[_P, _R]:
    """Return a function of `mountcache.sync` for asyncio; what it calls is called on the loop."""

    async def verb(store: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in ("progress", "each"):
            told: Any = kwargs.get(name)
            if told is not None:
                loop = asyncio.get_running_loop()
                kwargs[name] = functools.partial(loop.call_soon_threadsafe, told)
        return await store._calls.change(
            lambda: function(store.blocking, *args, **kwargs), long=True
        )

    _of(function, verb)
    return verb


def _several(function: Callable[Concatenate[Any, _P], Iterator[_R]], page: int) -> _Listing[_P, _R]:
    """Return a function of `mountcache.sync` that iterates for asyncio, `page` at a time."""

    def verb(
        store: AsyncMountedStore, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> AsyncGenerator[_R, None]:
        return store._calls.pages(lambda: function(store.blocking, *args, **kwargs), page)

    _of(function, verb)
    return verb


about = _whole(sync.about)
apply = _whole(sync.apply)
export_bundle = _whole(sync.export_bundle)
diff = _several(sync.diff, 1)
du = _whole(sync.du)
export_tree = _whole(sync.export_tree)
gc = _whole(sync.gc)
grading = _whole(sync.grading)
import_bundle = _whole(sync.import_bundle)
import_tree = _whole(sync.import_tree)
in_conflict = _whole(sync.in_conflict)
lock = _whole(sync.lock)
pin_keys = _whole(sync.pin_keys)
plan = _whole(sync.plan)
prefetch = _whole(sync.prefetch)
prefetch_locked = _whole(sync.prefetch_locked)
probe = _whole(sync.probe)
prune = _several(sync.prune, _PAGE)
pull = _whole(sync.pull)
push = _whole(sync.push)
readiness = _whole(sync.readiness)
residents = _several(sync.residents, _PAGE)
residents_of = _several(sync.residents_of, _PAGE)
resolve = _whole(sync.resolve)
room = _whole(sync.room)
side = _whole(sync.side)
status = _whole(sync.status)
verify = _whole(sync.verify)
whereis = _whole(sync.whereis)
