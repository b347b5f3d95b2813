"""Clients, starts and stops."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mountcache.serve import Origin
from tests.serve.client import Client


def test_curl_is_a_client(call: Client, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl isn't installed")
    here, back = tmp_path / "here.bin", tmp_path / "back.bin"
    here.write_bytes(os.urandom(2_000_000))
    url = f"{call.url}data/some%20key.bin"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [curl, "-sS", "--max-time", "30", "-w", "%{http_code}", *arguments],
            capture_output=True,
            check=True,
        )
        return done.stdout.decode()

    assert run("-T", str(here), url).endswith("201")
    assert run("-o", str(back), url) == "200"
    assert back.read_bytes() == here.read_bytes()
    back.write_bytes(here.read_bytes()[:1_000_000])
    assert run("-C", "-", "-o", str(back), url) == "206"
    assert back.read_bytes() == here.read_bytes()
    assert run("-T", str(here), "-H", 'If-Match: "x"', url).endswith("412")
    assert run("--compressed", f"{call.url}index.json") == '{"some key.bin":{}}\n200'
    assert run("-X", "DELETE", url) == "204"
    assert run("-I", url).endswith("404")


def test_an_origin_starts_again_at_its_port_with_what_it_had(origin: Origin, call: Client) -> None:
    call.put("k", b"kept", {"a": 1})
    idle = http.client.HTTPConnection(*call.address, timeout=20)
    idle.request("GET", "/data/k")
    idle.getresponse().read()
    url = origin.url
    origin.stop()
    with pytest.raises(ConnectionError):
        call.get("k")
    assert idle.sock is not None and idle.sock.recv(1) == b"", "an idle connection stayed open"
    idle.close()
    origin.start()
    assert origin.url == url
    assert call.get("k").body == b"kept"


def test_an_upload_under_way_is_ended_before_the_stop(origin: Origin, call: Client) -> None:
    with socket.create_connection(call.address, timeout=20) as wire:
        wire.sendall(b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n")
        wire.sendall(b"Expect: 100-continue\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
        stopping = threading.Thread(target=origin.stop)
        stopping.start()
        wire.sendall(b"abcdef")
        assert wire.recv(100).startswith(b"HTTP/1.1 201 ")
        stopping.join()
    origin.start()
    assert call.get("k").body == b"abcdef"


def test_headers_are_sent_without_waiting_for_an_acknowledgement(call: Client) -> None:
    call.put("k", b"x" * 4096, {})
    connection = http.client.HTTPConnection(*call.address, timeout=20)
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        connection.request("GET", "/data/k")
        connection.getresponse().read()
        times.append(time.perf_counter() - begun)
    connection.close()
    # With Nagle's algorithm each but the first takes 40 ms.
    assert sorted(times)[5] < 0.035
