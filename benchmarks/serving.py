"""How fast does `mountcache serve` give what it has cached, beside nginx as a cache?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.timing import Row, at_least, interleaved
from benchmarks.webserver import files, nginx, repository

__all__ = ["run"]

_CONNECTIONS = 16


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return small and large values from our proxy and from nginx's `proxy_cache`."""
    keys = [f"dir/key{number:03}" for number in range(20 if quick else 200)]
    mebibytes = 4 if quick else 64
    large = os.urandom(1048576) * mebibytes
    repository(folder / "files", {**{key: os.urandom(4096) for key in keys}, "large": large})
    with ExitStack() as stack:
        upstream = stack.enter_context(files(folder / "files"))
        ours = stack.enter_context(_proxy(folder / "ours", upstream))
        peer = stack.enter_context(
            nginx(
                f"proxy_pass {upstream}; proxy_cache all; proxy_cache_valid 1h;"
                "proxy_http_version 1.1; add_header X-Cache $upstream_cache_status;",
                "proxy_cache_path FOLDER/kept keys_zone=all:10m max_size=2g;",
            )
        )
        proxies = {"nginx proxy_cache": peer, "mountcache serve": ours}

        def loads(
            names: list[str], requests: int, connections: int
        ) -> dict[str, Callable[[], int]]:
            return {
                proxy: _load(stack, url, [f"data/{name}" for name in names], requests, connections)
                for proxy, url in proxies.items()
            }

        return [
            interleaved(
                f"cached 4 KiB through a proxy, {_CONNECTIONS} connections, a request",
                loads(keys, 200 if quick else 5_000, _CONNECTIONS),
                reference="nginx proxy_cache",
                repeats=2 if quick else 7,
                goals=[at_least("mountcache serve", 0.4, "nginx proxy_cache")],
            ),
            interleaved(
                f"cached {mebibytes} MiB through a proxy, one connection, a request",
                loads(["large"], 4 if quick else 8, 1),
                reference="nginx proxy_cache",
                repeats=2 if quick else 7,
                goals=[at_least("mountcache serve", 1.0, "nginx proxy_cache")],
            ),
        ]


@contextmanager
def _proxy(folder: Path, upstream: str) -> Iterator[str]:
    """Run `mountcache serve` in front of a static repository; give its URL."""
    folder.mkdir()
    (folder / "mountcache.toml").write_text(
        f'url = "{upstream}"\nlayout = "static"\nmax_age = 3600\nsize_limit = "4 GiB"\n'
    )
    command = [sys.executable, "-m", "mountcache", "serve", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [*command, str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _await(port, process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("mountcache serve didn't come up")


def _load(
    stack: ExitStack, url: str, targets: list[str], requests: int, connections: int
) -> Callable[[], int]:
    """Return a client that asks on several connections at once, as cheaply as can be.

    It sends a request on each, then reads the answers: a system call or two a
    request, so that the server is what takes time. What an answer is long is
    learned from the first of each target.
    """
    port = urlsplit(url).port
    asked = [f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for name in targets]
    wires = [
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(connections)
    ]
    for wire in wires:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for request in asked:
        _answer(wires[0], request)  # the first of all comes from upstream
    lengths = [_answer(wires[0], request) for request in asked]
    buffer = memoryview(bytearray(1048576))

    def work() -> int:
        done = 0
        while done < requests:
            begun = [(wire, (done + turn) % len(asked)) for turn, wire in enumerate(wires)]
            for wire, which in begun:
                wire.sendall(asked[which])
            for wire, which in begun:
                missing = lengths[which]
                while missing:
                    came = wire.recv_into(buffer, min(missing, len(buffer)))
                    assert came, "the server hung up"
                    missing -= came
            done += len(begun)
        return done

    return work


def _answer(wire: socket.socket, request: bytes) -> int:
    """Ask once; return how long the whole answer is."""
    wire.sendall(request)
    came = b""
    while b"\r\n\r\n" not in came:
        came += wire.recv(65536)
    head, _, body = came.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    assert status.split(" ")[1] == "200", status
    named = {name.lower(): told for name, _, told in (field.partition(": ") for field in fields)}
    size = int(named["content-length"])
    missing = size - len(body)
    while missing:
        piece = wire.recv(min(missing, 1048576))
        assert piece, "the server hung up"
        missing -= len(piece)
    return len(head) + 4 + size
