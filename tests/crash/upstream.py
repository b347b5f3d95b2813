"""The real server that lives push to."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from mountcache.events import StoreModificationEvent
from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin
from tests.crash.model import Held, payload

__all__ = ["Upstream"]

_TOO_LONG = 60.0


class Upstream:
    """A real server, which counts each change of each key."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self._changes: dict[str, list[str | None]] = {}
        self._active = 0
        self._origin = Origin(self.store, around=self._around)
        self.store.event_manager.connect(StoreModificationEvent, self._note, weak=False)

    @property
    def url(self) -> str:
        return self._origin.url

    def __enter__(self) -> Upstream:
        self.store.connect()
        self._origin.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._origin.stop()

    def _note(self, event: StoreModificationEvent) -> None:
        assert event.key is not None
        version = None if event.action == "delete" else str(self.store.version_of(event.key))
        self._changes.setdefault(event.key, []).append(version)

    def note(self, key: str, versions: Sequence[str | None]) -> None:
        """Count changes that came before."""
        self._changes[key] = list(versions)

    def changes(self, key: str) -> tuple[str | None, ...]:
        """Return the versions of a key that came, None for a delete."""
        return tuple(self._changes.get(key, ()))

    def reset(self, prefix: str, held: Mapping[str, Held]) -> None:
        """Hold this and nothing else under a prefix, and have counted nothing."""
        for key in list(self.store.glob(prefix + "*")):
            if key[len(prefix) :] not in held:
                self.store.delete(key)
        for name, value in held.items():
            key = prefix + name
            if self.store.version_of(key) != value.version:
                data = io.BytesIO(payload(value.number, value.size))
                self.store.set(key, (data, json.loads(value.meta)))
        for key in [key for key in self._changes if key.startswith(prefix)]:
            del self._changes[key]

    def held(self, prefix: str) -> dict[str, str]:
        """Return the version of each key under a prefix."""
        return {
            key[len(prefix) :]: str(self.store.version_of(key))
            for key in self.store.glob(prefix + "*")
        }

    # -- rest ----------------------------------------------------------------------------

    def _around(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._active += 1
            try:
                await app(scope, receive, send)
            finally:
                self._active -= 1

        return counted

    def come_to_rest(self) -> None:
        """Wait until all that a dead client sent was answered, or can't come any more."""
        port = urlsplit(self.url).port
        rest = threading.Event()
        until = time.monotonic() + _TOO_LONG
        while _connections(port or 0):
            rest.wait(0.001)
            assert time.monotonic() < until, "a connection of a dead client stays open"
        # What was read from a connection that is closed by now is begun before this request.
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/-/health")
        connection.getresponse().read()
        connection.close()
        while self._active:
            rest.wait(0.001)


def _connections(port: int) -> int:
    """Count the connections to a port that its server hasn't closed."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    states = (line.split()[3] for line in lines if line.split()[1].endswith(f":{port:04X}"))
    return sum(state in ("01", "08") for state in states)
