"""A way to a server that is as long as one wishes: a TCP proxy in a process of its own.

``python -m benchmarks.delayed PORT SECONDS`` tells its own port, and ends when its input does.
Each direction takes half of the round trip, and opening a connection a whole one, as TCP's
handshake does; no byte waits for another. TCP's slow start is not played.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

__all__ = ["delayed"]

_ON_THE_WAY = 64 * 1048576
"""Bytes a direction of a connection may hold: far more than what a delay lets pile up."""


@contextmanager
def delayed(url: str, round_trip: float) -> Iterator[str]:
    """Give the URL of a server behind so many seconds of round trip; 0: the server itself."""
    if not round_trip:
        yield url
        return
    port = urlsplit(url).port
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.delayed", str(port), str(round_trip)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.stdin.close()


async def _pass_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, opened: float, one_way: float
) -> None:
    """Write what comes, each piece when its time has come."""
    clock = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    held = 0
    room = asyncio.Event()
    room.set()

    async def read() -> None:
        nonlocal held
        while True:
            piece = b""
            with suppress(OSError):
                piece = await source.read(262144)
            held += len(piece)
            pieces.put_nowait((max(clock(), opened) + one_way, piece))
            if not piece:
                return
            if held > _ON_THE_WAY:
                room.clear()
                await room.wait()

    reading = asyncio.create_task(read())
    try:
        while True:
            due, piece = await pieces.get()
            if (early := due - clock()) > 0:
                await asyncio.sleep(early)
            if not piece:
                target.write_eof()
                return
            target.write(piece)
            await target.drain()
            held -= len(piece)
            room.set()
    finally:
        reading.cancel()


async def _serve(port: int, round_trip: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + round_trip
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(
                    _pass_on(reader, far_writer, opened, round_trip / 2),
                    _pass_on(far_reader, writer, opened, round_trip / 2),
                )
            finally:
                far_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections that clients keep open have no end of their own


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
