"""A proxy in a process of its own that loses requests and replies: ``python -m tests.many.loser``.

It passes bytes on. Of the writes, some never reach the server, some reach it by half, and of
some the server's reply is lost after it was given; the client sees its connection reset.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Loser"]

_WRITES = (b"PUT ", b"POST ", b"DELETE ")
_PIECE = 1 << 18


class Loser:
    """The proxy, started with the block and ended with it.

    Parameters
    ----------
    url
        The server, as ``http://127.0.0.1:PORT/``.
    losing
        Which part of the writes something is lost of.
    seed
        Makes the losses the same each time, as far as the order of the requests is.
    halves
        Whether requests are lost by half, too.
    """

    def __init__(self, url: str, losing: float, seed: int, *, halves: bool = True) -> None:
        self._port = url.rstrip("/").rsplit(":", 1)[-1]
        self._given = [str(losing), str(seed), str(int(halves))]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.lost = ""
        """What was lost, said at the end."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.many.loser", self._port, *self._given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        said, _ = self._process.communicate("", timeout=30)
        self.lost = said.strip()


class _Losing:
    def __init__(self, port: int, losing: float, seed: int, halves: bool) -> None:
        self._port = port
        self._half = 0.5 if halves else 0.25
        self._losing = losing
        self._chance = random.Random(seed)
        self.counts = {"requests": 0, "halves": 0, "replies": 0}

    def serve(self, waiting: socket.socket) -> None:
        """Take connections for ever."""
        while True:
            client, _ = waiting.accept()
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as server, client:
            for wire in (client, server):
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # With no time to linger, close() sends RST.
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):  # one of them went away
                self._until_something_is_lost(client, server)

    def _until_something_is_lost(self, client: socket.socket, server: socket.socket) -> None:
        fate = 1.0
        while True:
            ready, _, _ = select.select((client, server), (), ())
            if server in ready:
                piece = server.recv(_PIECE)
                if not piece:
                    return
                if fate < 1.0:
                    self.counts["replies"] += 1
                    return
                client.sendall(piece)
            if client in ready:
                piece = client.recv(_PIECE)
                if not piece:
                    return
                if piece.startswith(_WRITES):
                    fate = self._chance.random() / self._losing
                if fate < 0.25:
                    self.counts["requests"] += 1
                    return
                if fate < self._half:
                    self.counts["halves"] += 1
                    server.sendall(piece[: len(piece) // 2])
                    return
                server.sendall(piece)


def _main(port: str, losing: str, seed: str, halves: str) -> None:
    one = _Losing(int(port), float(losing), int(seed), halves == "1")
    waiting = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(waiting.getsockname()[1], flush=True)
    threading.Thread(target=one.serve, args=(waiting,), daemon=True).start()
    sys.stdin.read()
    print(", ".join(f"{count} {what}" for what, count in one.counts.items()), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
