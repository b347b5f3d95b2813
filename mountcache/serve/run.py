"""Running the application on a socket, with Granian in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs hide it
from granian.server.embed import Server
from starlette.types import ASGIApp

from mountcache.errors import ConfigurationError
from mountcache.serve.app import StoreApp
from mountcache.serve.doors import Doors, doors_at
from mountcache.serve.served import Served

__all__ = ["Origin", "listen", "run_origin", "run_stores"]

_BACKLOG = 512
_CONNECTIONS = 512
"""How many are open at once; others wait until one of them ends."""
_HEADER_SECONDS = 30.0
"""How long the head of a request may take, and how long a connection may be idle."""
_GRACE = 5.0
"""Seconds that requests under way have when the server stops."""


class _Server(Server):
    """Granian on a socket that is listening already.

    Granian binds its own with SO_REUSEPORT: a second server on a busy port would start
    without a word and get half of the requests, and port 0 couldn't be asked for.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        super().__init__(
            target=app,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_CONNECTIONS,
            http1_settings=HTTP1Settings(header_read_timeout=int(_HEADER_SECONDS * 1000)),
            log_enabled=False,
        )
        self._listening = listening

    def _init_shared_socket(self) -> None:
        # The server closes the descriptor when it stops.
        holder: Any = SocketHolder
        self._shd = holder(self._listening.detach(), False, _BACKLOG)
        self._ssp = None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; ConfigurationError if it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"can't listen on {host} port {port}: {error}") from None
    # What is accepted inherits it; without it small answers wait for the client's ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _held(host: str, port: int) -> socket.socket | None:
    """Return a socket that has a port and doesn't listen; None if another has it by now."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        return None
    return held


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def _serve(
    stores: Mapping[str, Served],
    doors: Doors,
    listening: socket.socket,
    stopping: asyncio.Event,
    ready: Callable[[], None],
    grace: float,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> None:
    app = StoreApp(stores, doors)
    server = _Server(around(app), listening)
    serving = asyncio.create_task(server.serve())
    asked = asyncio.create_task(stopping.wait())
    try:
        # Connections queue up from here on, whether or not Granian has come so far.
        ready()
        await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
        stop: Any = server.stop
        stop()
        done, _ = await asyncio.wait((serving,), timeout=grace)
        if not done:
            app.abort()
            # A client that doesn't read what was sent isn't waited for any longer.
            await asyncio.wait((serving,), timeout=min(grace, 1.0))
    finally:
        asked.cancel()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        # The threads may still wait for something of this loop.
        await asyncio.to_thread(app.close)


def run_origin(
    store: Served,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] | None = None,
    *,
    lifeline: int | None = None,
    token: str | None = None,
    names: Iterable[str] = (),
    read_only: bool = False,
) -> None:
    """Serve a store until SIGINT or SIGTERM; requests under way are ended first.

    Call it in the main thread, where signals arrive.

    Parameters
    ----------
    store
        The store.
    host
        The address to listen on. Whoever can reach it can read.
    port
        The port; 0 takes a free one.
    ready
        Called with the URL once connections are taken.
    lifeline
        The reading end of a pipe: the server stops when its other end is closed, as it is
        when the parent process dies, in whatever way.
    token
        What writers have to send as a bearer token; needed where others can reach the server.
    names
        Names of this machine in the network by which it may be asked, where others can.
    read_only
        Whether nobody may write.

    Raises
    ------
    ConfigurationError
        If the address can't be listened on.
    DirectoryError
        If the store can't be opened.
    """
    run_stores(
        {"": store}, host, port, ready, lifeline=lifeline, token=token, names=names,
        read_only=read_only,
    )  # fmt: skip


def run_stores(
    stores: Mapping[str, Served],
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] | None = None,
    *,
    lifeline: int | None = None,
    token: str | None = None,
    names: Iterable[str] = (),
    read_only: bool = False,
) -> None:
    """Serve several stores, each under ``/NAME/``; see `run_origin`.

    Parameters
    ----------
    stores
        The stores by name; one of the name "" is at the root.
    host, port, ready, lifeline, token, names, read_only
        As of `run_origin`.
    """
    with ExitStack() as opened:
        for store in stores.values():
            if not store.is_connected():
                store.connect()
                opened.callback(store.disconnect)
        listening = listen(host, port)
        with listening:
            doors = doors_at(listening, token, names, read_only=read_only)
            url = _url(listening)
            asyncio.run(
                _until_signal(
                    stores, doors, listening, lambda: ready(url) if ready else None, lifeline
                )
            )


async def _until_signal(
    stores: Mapping[str, Served],
    doors: Doors,
    listening: socket.socket,
    ready: Callable[[], None],
    lifeline: int | None,
) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        stopping.set()
        # A second one is not to be waited for.
        for each in signals:
            loop.remove_signal_handler(each)
        if lifeline is not None:
            loop.remove_reader(lifeline)

    if lifeline is not None:
        loop.add_reader(lifeline, stop)
    for each in signals:
        loop.add_signal_handler(each, stop)
    await _serve(stores, doors, listening, stopping, ready, _GRACE)


@contextmanager
def _opened(
    given: Served | str | os.PathLike[str] | Mapping[str, Served],
) -> Iterator[Mapping[str, Served]]:
    if not isinstance(given, (str, os.PathLike)):
        yield given if isinstance(given, Mapping) else {"": given}
        return
    from mountcache.local.disk import DiskCacheStore

    with DiskCacheStore(given) as store:
        yield {"": store}


class Origin:
    """A server on loopback in a thread of this process, for tests and demonstrations.

    As a context manager it starts and stops. Started again after a stop, it is at the same
    port.

    Parameters
    ----------
    store
        The store, or the directory of one, or stores by name, each under ``/NAME/``. A store is
        left open at the end; a directory is opened at each start and closed at each stop.
    port
        The port; 0 takes a free one.
    grace
        Seconds that requests under way have to end when the server stops.
    around
        Puts something around the application, which sees each request first.
    token
        What writers have to send as a bearer token.
    """

    def __init__(
        self,
        store: Served | str | os.PathLike[str] | Mapping[str, Served],
        port: int = 0,
        *,
        grace: float = _GRACE,
        around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
        token: str | None = None,
    ) -> None:
        self._given = store
        self._doors = Doors(token=token)
        self._port = port
        self._grace = grace
        self._around = around
        self._url = ""
        self._thread: threading.Thread | None = None
        self._held: socket.socket | None = None
        """Keeps the port from others while the server is stopped."""
        self._stop: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """The root of the server, ending in "/"."""
        return self._url

    @property
    def port(self) -> int:
        """The port of the server; 0 before its first start."""
        return self._port

    def start(self) -> Self:
        """Start the server; it takes connections when this returns."""
        if self._thread is not None:
            return self
        listening, self._held = self._held, None
        if listening is None:
            listening = listen("127.0.0.1", self._port)
        else:
            listening.listen(_BACKLOG)
        self._port, self._url = listening.getsockname()[1], _url(listening)
        started = threading.Event()
        failed: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._run, args=(listening, started, failed), name="mountcache-origin"
        )
        self._thread.start()
        started.wait()
        if failed:
            self.stop()
            raise failed[0]
        return self

    def stop(self) -> None:
        """Stop the server; requests under way are ended first, idle connections closed."""
        if self._thread is None:
            return
        self._stop()
        self._thread.join()
        self._thread = None
        # Refuses connections, as if nobody were there; another server at this port would answer.
        self._held = _held("127.0.0.1", self._port)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._held is not None:
            self._held.close()
            self._held = None

    def _run(
        self, listening: socket.socket, started: threading.Event, failed: list[BaseException]
    ) -> None:
        try:
            with listening, _opened(self._given) as stores:
                asyncio.run(self._main(stores, listening, started))
        except BaseException as error:
            failed.append(error)
            if started.is_set():
                raise
        finally:
            started.set()

    async def _main(
        self, stores: Mapping[str, Served], listening: socket.socket, started: threading.Event
    ) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            # The loop may have ended by itself.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stopping.set)

        self._stop = stop
        await _serve(
            stores, self._doors, listening, stopping, started.set, self._grace, self._around
        )
