"""A relay between a client and a server that can cut the connection after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Relay"]

_PIECE = 65536


class Relay:
    """Passes bytes on to a server on loopback, and counts those that clients send.

    Parameters
    ----------
    port
        Of the server.

    Attributes
    ----------
    cut_after : int or None
        Bytes from clients after which the next connection is cut, once.
    on_cut
        Called before that.
    sent : int
        Bytes from clients that were passed on.
    """

    def __init__(self, port: int) -> None:
        self.cut_after: int | None = None
        self.on_cut: Callable[[], object] = lambda: None
        self.sent = 0
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    def _start(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            self._start(self._pass_on, client, server, True)
            self._start(self._pass_on, server, client, False)

    def _pass_on(self, one: socket.socket, other: socket.socket, counted: bool) -> None:
        try:
            while piece := one.recv(_PIECE):
                if counted and self._cuts(len(piece), other, piece):
                    break
                if not counted:
                    other.sendall(piece)
        except OSError:
            pass
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _cuts(self, size: int, other: socket.socket, piece: bytes) -> bool:
        with self._lock:
            cut = self.cut_after is not None and self.sent + size >= self.cut_after
            if cut:
                assert self.cut_after is not None
                piece = piece[: self.cut_after - self.sent]
                self.cut_after = None
            self.sent += len(piece)
        other.sendall(piece)
        if cut:
            self.on_cut()
        return cut

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()
