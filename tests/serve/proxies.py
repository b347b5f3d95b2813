"""A proxy in this process, over an upstream that a test has in its hands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mountcache.abc import AbstractReadOnlyStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin as Server
from mountcache.serve import ServedMount
from tests.serve.client import Client

__all__ = ["LAYOUTS", "Proxy", "client_of", "proxy_of"]

LAYOUTS = ("dynamic", "static")


class Proxy(NamedTuple):
    call: Client
    store: MountedStore
    server: Server

    @property
    def staged(self) -> list[str]:
        return [edit.key for edit in self.store.staged()]


def client_of(url: str, layout: str) -> AbstractReadOnlyStore:
    """Return a store that reads the server at `url`; nothing is tried twice."""
    if layout == "dynamic":
        return DynamicURLStore(f"{url}keys", f"{url}query", retries=0)
    return StaticURLStore(url, "data/", "index.json", retries=0)


@contextmanager
def proxy_of(
    upstream: AbstractReadOnlyStore, folder: Path, *, point: str = "", **options: Any
) -> Iterator[Proxy]:
    """Serve a mount of an upstream."""
    with ExitStack() as stack:
        mount = MountedStore(point, DiskCacheStore(folder), upstream, **options)
        store = stack.enter_context(mount)
        server = stack.enter_context(Server(ServedMount(store), grace=1.0))
        yield Proxy(Client(server.url), store, server)
