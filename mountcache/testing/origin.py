"""A remote repository on loopback for the tests of those who build on this package."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from mountcache.local.memory import MemoryStore
from mountcache.serve.answers import answer_to
from mountcache.serve.run import Origin as Server
from mountcache.serve.wire import Problem

__all__ = ["Asked", "Origin"]


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    """As it came, the query included."""


class Origin:
    """A real server on loopback, which can be slow, fail and go away when a test says so.

    It is that of ``mountcache serve``: it compares and writes as one step (grade A). It runs in
    a thread of this process, on a port of its own, and keeps what it has in memory.

    Parameters
    ----------
    contents
        What it has at first: ``{key: (data, metadata)}``.

    Attributes
    ----------
    delay : float
        Seconds to wait before each answer.
    requests : list of Asked
        What came, in the order of its coming; clear it as you like.
    store : MemoryStore
        What it has, for looking into it.
    """

    def __init__(self, contents: Mapping[str, tuple[bytes, Mapping[str, Any]]] | None = None):
        self.delay = 0.0
        self.requests: list[Asked] = []
        self.store = MemoryStore()
        self._failures: list[int] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._server = Server(self.store, grace=1.0, around=self._around)
        for key, (data, metadata) in (contents or {}).items():
            self.change(key, data, metadata)

    @property
    def url(self) -> str:
        """The root of the server, ending in "/"; it stays the same when started again."""
        return self._server.url

    def start(self) -> Self:
        """Start the server; it takes connections when this returns."""
        self.store.connect()
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop the server, as if it had gone away; what it has is there at the next start."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            # Who is made to wait needn't wait any longer.
            loop.call_soon_threadsafe(self._wake)
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def fail(self, n: int = 1, status: int = 503) -> None:
        """Answer the next `n` requests with `status`, as a gateway in front would."""
        self._failures += [status] * n

    def change(
        self, key: str, data: bytes | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Change a key, as somebody else would; return its new version.

        Parameters
        ----------
        key
            The key; a new one is made.
        data, metadata
            What it is to have; None leaves what it has.
        """
        if data is not None and metadata is not None:
            self.store.set(key, (io.BytesIO(data), metadata))
        elif data is not None:
            self.store.from_bytes(key, data)
        elif metadata is not None:
            self.store.set_metadata(key, metadata)
        return str(self.store.version_of(key))

    def remove(self, key: str) -> None:
        """Delete a key, as somebody else would."""
        self.store.delete(key)

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    def _around(self, app: ASGIApp) -> ASGIApp:
        async def asked(scope: Scope, receive: Receive, send: Send) -> None:
            path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode()
            self.requests.append(Asked(scope["method"], f"{path}?{query}" if query else path))
            if self.delay:
                await self._wait(self.delay)
            try:
                status = self._failures.pop(0)
            except IndexError:
                await app(scope, receive, send)
                return
            answer = answer_to(Problem(status, "failing", "A failure to order", "told to fail"))
            headers = [
                (name.lower().encode(), text.encode()) for name, text in answer.headers.items()
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            body = b"" if scope["method"] == "HEAD" else answer.body
            await send({"type": "http.response.body", "body": body})

        return asked

    async def _wait(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        wake = self._loop.create_future()
        self._waiting.add(wake)
        try:
            await asyncio.wait((wake,), timeout=seconds)
        finally:
            self._waiting.discard(wake)
