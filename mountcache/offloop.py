"""Blocking calls below an event loop: in which thread they run, and what a cancel does to them.

`mountcache.asynchronous` next door has the verbs. A thread can't be interrupted, so a cancelled
call that changes something is waited for, and one that only reads is left to itself: what it
still brings is let go of by the thread that brought it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Generic, TypeVar

from mountcache.errors import TransactionError
from mountcache.locks import Lock
from mountcache.stopping import stopped_by

__all__ = ["Block", "Calls"]

_R = TypeVar("_R")
_LONG = 256
"""How many calls that may last at once; their threads are made when they are needed."""


@dataclass(slots=True)
class _Open:
    """A block, such as a transaction, that a task has opened."""

    context: Context
    """Where all calls of the block run: it is there that the store knows of it."""
    free: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one call that runs in it, or by the block inside it."""
    ended: bool = False


_blocks: ContextVar[Mapping[int, _Open]] = ContextVar(
    "mountcache_blocks", default=MappingProxyType({})
)


class Calls:
    """The blocking calls of one store.

    Parameters
    ----------
    threads
        How many run at once, besides pushes, prefetches and the like.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"calls need at least 1 thread, not {threads}")
        self._threads = threads
        self._lock = Lock()
        self._short: ThreadPoolExecutor | None = None
        self._long: ThreadPoolExecutor | None = None

    # -- one call ------------------------------------------------------------------------

    async def read(
        self,
        call: Callable[[], _R],
        let_go: Callable[[_R | None], object] | None = None,
        *,
        context: Context | None = None,
        apart: bool = False,
    ) -> _R:
        """Return what a call that only reads returns.

        A cancel ends the waiting at once.

        Parameters
        ----------
        let_go
            Called at the end of a call that nobody waits for any more, with what it returned;
            with None if it returned nothing.
        context
            Where the call runs, unless in a block that is open here.
        apart
            Whether it has nothing to do with a block that is open here.
        """
        block = None if apart else self._block()
        if block is not None:
            return await self._inside(block, call, let_go)
        stop = threading.Event()
        future = self._submit(context or copy_context(), call, stop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            if let_go is not None:
                future.add_done_callback(partial(self._dispose, let_go))
            raise

    async def change(
        self,
        call: Callable[[], _R],
        let_go: Callable[[_R | None], object] | None = None,
        *,
        long: bool = False,
    ) -> _R:
        """Return what a call returns that changes something.

        A cancel asks it to end early, and is raised when it has ended: done or not, and never
        under way any more.

        Parameters
        ----------
        long
            Whether it may take so long that it is to have a thread besides the others'.
        """
        block = self._block()
        if block is not None:
            return await self._inside(block, call, let_go)
        return await self._ended(copy_context(), call, let_go, long=long)

    async def _inside(
        self, block: _Open, call: Callable[[], _R], let_go: Callable[[_R | None], object] | None
    ) -> _R:
        """Run a call in a block, after those of other tasks; it isn't left under way."""
        async with block.free:
            _refuse_after_end(block)
            return await self._ended(block.context, call, let_go)

    async def _ended(
        self,
        context: Context,
        call: Callable[[], _R],
        let_go: Callable[[_R | None], object] | None = None,
        *,
        long: bool = False,
    ) -> _R:
        stop = threading.Event()
        future = self._submit(context, call, stop, long=long)
        waiting = asyncio.wrap_future(future)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await asyncio.wait((waiting,))
            except asyncio.CancelledError as error:
                cancelled = error
                stop.set()
                future.cancel()  # what hasn't begun doesn't begin
        if cancelled is None:
            return waiting.result()
        if let_go is not None:
            self._dispose(let_go, future)
        raise cancelled from (None if waiting.cancelled() else waiting.exception())

    def _submit(
        self, context: Context, call: Callable[[], _R], stop: threading.Event, *, long: bool = False
    ) -> Future[_R]:
        return self._pool(long=long).submit(context.run, _stoppable, call, stop)

    def _dispose(self, let_go: Callable[[_R | None], object], future: Future[_R]) -> None:
        """Let go of a result that nobody waits for, in a thread: that may take a while."""
        came = not future.cancelled() and future.exception() is None
        result = future.result() if came else None
        pool = self._short
        if pool is not None:
            with suppress(RuntimeError):  # it is being closed
                pool.submit(let_go, result)
                return
        # At the end of a store no thread is begun any more.
        let_go(result)

    def _pool(self, *, long: bool = False) -> ThreadPoolExecutor:
        with self._lock:
            if long:
                self._long = self._long or ThreadPoolExecutor(_LONG, "mountcache-async-long")
                return self._long
            self._short = self._short or ThreadPoolExecutor(self._threads, "mountcache-async")
            return self._short

    async def close(self, last: Callable[[], object]) -> None:
        """Make one last call, then wait until no thread is left, in spite of cancels."""
        try:
            await self._ended(copy_context(), last, long=True)
        finally:
            with self._lock:
                pools = [pool for pool in (self._short, self._long) if pool is not None]
                self._short = self._long = None
            ending = [asyncio.ensure_future(asyncio.to_thread(pool.shutdown)) for pool in pools]
            cancelled: asyncio.CancelledError | None = None
            while not all(each.done() for each in ending):
                try:
                    await asyncio.wait(ending)
                except asyncio.CancelledError as error:
                    cancelled = error
            if cancelled is not None:
                raise cancelled

    # -- many results --------------------------------------------------------------------

    async def pages(
        self,
        make: Callable[[], Iterator[_R]],
        size: int,
        let_go: Callable[[_R], object] | None = None,
    ) -> AsyncGenerator[_R, None]:
        """Iterate over what a blocking iterator gives, `size` at a time.

        What comes before an error is given before it is raised.
        """
        pages = _Pages(make, size, let_go)
        # One context for all of it: what an iterator sets at one step it may reset at another.
        context = copy_context()
        idle = True
        try:
            while True:
                idle = False
                page = await self.read(pages.next, pages.abandon, context=context)
                idle = True
                for at, item in enumerate(page.items):
                    try:
                        yield item
                    except BaseException:
                        pages.drop(page.items[at + 1 :])
                        raise
                if page.error is not None:
                    raise page.error
                if page.last:
                    return
        finally:
            if idle:
                pages.close()

    # -- blocks --------------------------------------------------------------------------

    def block(self, make: Callable[[], AbstractContextManager[_R]]) -> Block[_R]:
        """Return an async context manager of a blocking one that shapes the calls inside it."""
        return Block(self, make)

    def _block(self) -> _Open | None:
        return _blocks.get().get(id(self))


def _stoppable(call: Callable[[], _R], stop: threading.Event) -> _R:
    with stopped_by(stop):
        return call()


def _refuse_after_end(block: _Open) -> None:
    if block.ended:
        raise TransactionError(
            "the transaction in which this task was started has ended, and what it would write "
            "now belongs nowhere; wait for such tasks before the transaction ends"
        )


@dataclass(frozen=True, slots=True)
class _Page(Generic[_R]):
    items: list[_R]
    last: bool
    error: Exception | None = None


class _Pages(Generic[_R]):
    """A blocking iterator, a page at a time; one thread at once."""

    def __init__(
        self,
        make: Callable[[], Iterator[_R]],
        size: int,
        let_go: Callable[[_R], object] | None,
    ) -> None:
        self._make = make
        self._size = size
        self._let_go = let_go
        self._items: Iterator[_R] | None = None

    def next(self) -> _Page[_R]:
        items: list[_R] = []
        try:
            if self._items is None:
                self._items = iter(self._make())
            for item in self._items:
                items.append(item)
                if len(items) == self._size:
                    return _Page(items, last=False)
        except Exception as error:  # noqa: BLE001 - raised once what came before it is given out
            return _Page(items, last=True, error=error)
        return _Page(items, last=True)

    def abandon(self, page: _Page[_R] | None) -> None:
        if page is not None:
            self.drop(page.items)
        self.close()

    def drop(self, items: list[_R]) -> None:
        if self._let_go is not None:
            for item in items:
                self._let_go(item)

    def close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class Block(Generic[_R]):
    """An async context manager of a blocking one.

    The calls that its task makes inside it, and those of tasks that are started there, run in
    the block's own context, one at a time. A block inside it has it to itself until it ends.
    """

    def __init__(self, calls: Calls, make: Callable[[], AbstractContextManager[_R]]) -> None:
        self._calls = calls
        self._make = make
        self._manager: AbstractContextManager[_R] | None = None

    async def __aenter__(self) -> _R:
        calls = self._calls
        self._outer = outer = calls._block()
        if outer is not None:
            await outer.free.acquire()
        try:
            if outer is not None:
                _refuse_after_end(outer)
            self._block = _Open(copy_context() if outer is None else outer.context)
            entered = await calls._ended(self._block.context, self._entered)
        except BaseException as error:
            if self._manager is not None:  # entered for a task that was cancelled meanwhile
                with suppress(asyncio.CancelledError):
                    self._block.context.run(self._manager.__exit__, type(error), error, None)
            if outer is not None:
                outer.free.release()
            raise
        self._token = _blocks.set({**_blocks.get(), id(calls): self._block})
        return entered

    def _entered(self) -> _R:
        manager = self._make()
        entered = manager.__enter__()
        self._manager = manager
        return entered

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        block, manager = self._block, self._manager
        assert manager is not None
        block.ended = True
        with suppress(ValueError):  # left by another task than entered it
            _blocks.reset(self._token)
        # Calls of other tasks that are under way belong to it; those that wait don't any more.
        cancelled = await _acquired(block.free)
        error = exc or cancelled
        try:
            leave: Callable[[], Any] = partial(
                manager.__exit__,
                None if error is None else type(error),
                error,
                None if error is None else error.__traceback__,
            )
            swallowed = await self._calls._ended(block.context, leave)
            if cancelled is not None and not swallowed:
                raise cancelled
            return bool(swallowed)
        finally:
            block.free.release()
            if self._outer is not None:
                self._outer.free.release()


async def _acquired(lock: asyncio.Lock) -> asyncio.CancelledError | None:
    """Acquire a lock in any case; return the cancel that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await lock.acquire()
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            return cancelled
