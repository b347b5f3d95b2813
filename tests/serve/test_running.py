"""Clients, starts and stops."""

from __future__ import annotations

import hashlib
import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from mountcache.errors import ConfigurationError, DirectoryError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.store import LocalStore
from mountcache.serve import Origin, OriginProcess
from mountcache.serve.run import listen
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


def test_small_answers_dont_wait_for_an_acknowledgement() -> None:
    with listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_stop_doesnt_wait_for_ever(store: LocalStore) -> None:
    origin = Origin(store, grace=0.2).start()
    call = Client(origin.url)
    call.put("big", bytes(30_000_000), {})
    with (
        socket.create_connection(call.address, timeout=20) as upload,
        socket.create_connection(call.address, timeout=20) as download,
    ):
        upload.sendall(b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n")
        upload.sendall(b"Expect: 100-continue\r\n\r\n")
        assert upload.recv(100).startswith(b"HTTP/1.1 100 ")
        download.sendall(b"GET /data/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert download.recv(10)
        origin.stop()
        with pytest.raises(ConnectionError):
            call.get("big")
    origin.start()
    assert call.get("k").status == 404
    origin.stop()


def test_a_port_that_is_taken_is_named(store: LocalStore, origin: Origin) -> None:
    other = Origin(store, origin.port)
    with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {origin.port}"):
        other.start()
    with pytest.raises(ConfigurationError):
        Origin(store, 99_999).start()


def test_an_origin_of_a_directory_opens_and_closes_it(tmp_path: Path) -> None:
    with Origin(tmp_path / "store") as origin:
        Client(origin.url).put("k", b"kept", {})
    with DiskCacheStore(tmp_path / "store") as store:
        assert store.to_bytes("k") == b"kept"
    (tmp_path / "file").write_text("not a directory")
    broken = Origin(tmp_path / "file")
    with pytest.raises(DirectoryError):
        broken.start()


def _wait_for_end(pid: int) -> None:
    """Wait until a process that isn't our child has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with open(watched, "rb") as file:
        assert select.select([file], [], [], 20)[0], f"process {pid} lives on"


def test_a_process_keeps_what_it_answered_through_a_kill(tmp_path: Path) -> None:
    process = OriginProcess(tmp_path / "store").start()
    call = Client(process.url)
    assert call.put("k", b"kept", {"a": 1}).status == 201
    process.kill()
    with pytest.raises(ConnectionError):
        call.get("k")
    url = process.url
    with process:
        assert process.url == url
        assert call.get("k").body == b"kept"
        pid = process.pid
    assert process.pid is None
    assert pid is not None
    _wait_for_end(pid)


def test_a_process_that_doesnt_start_says_why(tmp_path: Path, origin: Origin) -> None:
    with pytest.raises(StoreUnavailableError, match=f"port {origin.port}"):
        OriginProcess(tmp_path / "store", origin.port).start()
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StoreUnavailableError, match="file"):
        OriginProcess(tmp_path / "file").start()


def test_a_process_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, signal\n"
        "from mountcache.serve import OriginProcess\n"
        "process = OriginProcess(sys.argv[1]).start()\n"
        "print(process.pid, process.url, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as told:
        pid, url = told.readline().split()
        assert Client(url)("GET", "/-/health").status == 200
        parent.kill()
    parent.wait()
    _wait_for_end(int(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_and_is_no_failure(tmp_path: Path, number: int) -> None:
    process = OriginProcess(tmp_path / "store").start()
    assert process.pid is not None
    watched = os.pidfd_open(process.pid)
    os.kill(process.pid, number)
    with open(watched, "rb") as file:
        assert select.select([file], [], [], 20)[0]
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT).si_status == 0  # type: ignore[union-attr]  # it has ended
    process.stop()


def test_bodies_larger_than_memory_pass_through(tmp_path: Path) -> None:
    block, count = os.urandom(1_000_000), 150
    with OriginProcess(tmp_path / "store") as process:
        call = Client(process.url)
        assert call.put("small", b"x", {}).status == 201
        status = Path(f"/proc/{process.pid}/status")
        before = _peak(status)
        assert call.put("big", (block for _ in range(count)), {}).status == 201
        answer = requests.get(f"{process.url}data/big", stream=True, timeout=60)
        found = hashlib.sha256()
        for piece in answer.iter_content(1 << 20):
            found.update(piece)
        grown = _peak(status) - before
    assert found.hexdigest() == hashlib.sha256(block * count).hexdigest()
    assert grown < 60_000_000, f"{grown:,} bytes more than for a small value"


def _peak(status: Path) -> int:
    (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
