"""A client that does the least that can be done: sockets, and answers whose length is known."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

__all__ = ["fetched"]


def fetched(url: str, paths: Sequence[str], size: int, connections: int) -> int:
    """Ask for paths on new connections, one at a time on each; return how many there were.

    Parameters
    ----------
    size
        Bytes of each of them.
    """
    port = urlsplit(url).port
    todo = iter(paths)
    done = 0
    with ExitStack() as stack:
        ready = stack.enter_context(selectors.DefaultSelector())

        def ask(wire: socket.socket) -> None:
            path = next(todo, None)
            if path is None:
                ready.unregister(wire)
            else:
                wire.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        missing: dict[socket.socket, int | None] = {}
        for _ in range(min(connections, len(paths))):
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(wire, selectors.EVENT_READ, wire)
            missing[wire] = None
            ask(wire)
        while done < len(paths):
            for chosen, _ in ready.select():
                wire = chosen.data
                piece = wire.recv(262144)
                assert piece, "the server hung up"
                left = missing[wire]
                if left is None:
                    # The head comes in one piece from loopback.
                    assert piece.startswith(b"HTTP/1.1 200 "), piece[:80]
                    left = piece.index(b"\r\n\r\n") + 4 + size
                missing[wire] = left - len(piece)
                if not missing[wire]:
                    missing[wire] = None
                    done += 1
                    ask(wire)
    return done
