"""What a stranger sends to a real server over a raw socket, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import ConfigurationError, StoreError
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin, run, run_origin
from mountcache.serve.body import Body
from mountcache.serve.doors import doors_at, read_token
from tests.command import Shell
from tests.serve.client import Client
from tests.upstreams import put

TOKEN = "0123456789abcdef.token-of/the+writers=="
HOST = b"Host: localhost\r\n"

# What HTTP alone decides needs no second store.
pytestmark = pytest.mark.parametrize("store", ["memory"], indirect=True)


# -- the framing of requests -----------------------------------------------------------------

SMUGGLED = b"GET /data/secret HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: +5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: -5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: 0x5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: 5 5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length:\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nContent-Length : 5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nX-A: a\r\n Content-Length: 5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\n\tfolded\r\nContent-Length: 5\r\n\r\nhello",
        b"PUT /data/k HTTP/1.1\r\nH\r\nX-\x00: a\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nX: a\x00b\r\n\r\n",
        b"PUT /data/k HTTP/1.1\r\nH\r\nno colon\r\n\r\n",
        b"PUT  /data/k HTTP/1.1\r\nH\r\nContent-Length: 0\r\n\r\n",
        b"PUT /data/k HTTP/1.0\r\nH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /data/k HTTP/9.9\r\nH\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_head_of_which_nobody_can_tell_where_it_ends_stores_nothing(
    store: MemoryStore, call: Client, head: bytes
) -> None:
    put(store, "secret", b"the secret")
    said = call.raw(head.replace(b"\r\nH\r\n", b"\r\nHost: localhost\r\n") + SMUGGLED, half=True)
    assert b"the secret" not in said
    assert not said or b" 400 " in said.split(b"\r\n")[0] or b" 505 " in said.split(b"\r\n")[0]
    assert said.count(b"HTTP/1.1 ") <= 1
    assert not store.exists("k")


CHUNKED = b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5hello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5 ;\x00\r\nhel",
        b"\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n",
    ],
)
def test_chunks_that_make_no_sense_store_nothing(
    store: MemoryStore, call: Client, body: bytes
) -> None:
    put(store, "secret", b"the secret")
    said = call.raw(CHUNKED + body + SMUGGLED, half=True)
    assert b"the secret" not in said
    assert not store.exists("k")


def test_a_bare_line_feed_ends_no_second_request(store: MemoryStore, call: Client) -> None:
    """RFC 9112 2.2 lets a server take one for the end of a line: then of each line alike."""
    put(store, "secret", b"the secret")
    said = call.raw(
        b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nX: a\nContent-Length: 45\r\n"
        b"Connection: close\r\n\r\nGET /data/secret HTTP/1.1\nHost: localhost\n\n",
        half=True,
    )
    assert b"the secret" not in said
    assert said.count(b"HTTP/1.1 ") <= 1


# -- what is given back ----------------------------------------------------------------------


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "a\x00b", "\u2028\x85"])
def test_no_text_of_a_client_becomes_a_field_of_an_answer(
    store: MemoryStore, call: Client, evil: str
) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in evil.encode())
    for method in ("GET", "PUT", "DELETE"):
        said = call.raw(
            f"{method} /data/{quoted} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        assert said.startswith(b"HTTP/1.1 400 ")
        assert b"x-evil" not in said.partition(b"\r\n\r\n")[0].lower()
    assert call.put("k", b"x", {evil: evil}).status == 201
    for path in ("/data/k", "/keys/k/metadata"):
        reply = call("GET", path)
        assert "x-evil" not in reply.headers
    assert json.loads(call("GET", "/keys/k/metadata").body) == {evil: evil}
    assert call("GET", f"/query?{quoted}=1").status in (200, 400)
    # A problem document says what was wrong, as JSON.
    assert "x-evil" not in call("GET", "/data/nothing%22%0d", X_Evil="1").headers


def test_no_path_leads_to_a_file(store: MemoryStore, call: Client) -> None:
    for path in (
        "/../../etc/passwd",
        "/data/../../../etc/passwd",
        "/data/..%2f..%2f..%2fetc/passwd",
        "/data/%2e%2e/%2e%2e/etc/passwd",
        "/data//etc/passwd",
        "/data/....//etc/passwd",
        "/etc/passwd",
        "/data/%00/etc/passwd",
        "//etc/passwd",
        "http://localhost/etc/passwd",
        "file:///etc/passwd",
    ):
        said = call.raw(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert b" 400 " in said[:20] or b" 404 " in said[:20]
        assert b"root:" not in said


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        b"X: " + b"x" * 20_000 + b"\r\n",
        b"X: " + b"x" * 500_000 + b"\r\n",
        b"".join(b"X%d: y\r\n" % number for number in range(101)),
        b"".join(b"X%d: y\r\n" % number for number in range(5_000)),
    ],
    ids=["20 KB", "500 KB", "101 fields", "5000 fields"],
)
def test_a_head_has_a_limit(store: MemoryStore, call: Client, fields: bytes) -> None:
    said = b""
    with contextlib.suppress(ConnectionError):
        said = call.raw(b"GET /-/health HTTP/1.1\r\n" + HOST + fields + b"\r\n", half=True)
    assert not said or b" 431 " in said[:20] or b" 400 " in said[:20]
    assert call("GET", "/-/health").status == 200


def test_a_path_has_a_limit(store: MemoryStore, call: Client) -> None:
    for length in (20_000, 60_000, 500_000):
        said = b""
        with contextlib.suppress(ConnectionError):
            said = call.raw(
                b"GET /query?a=" + b"x" * length + b" HTTP/1.1\r\n" + HOST + b"\r\n", half=True
            )
        assert not said or said.split(b" ")[1] in (b"400", b"414", b"431")


@pytest.fixture
def hurried(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A server that waits for less than a second, with room for eight connections."""
    monkeypatch.setattr(run, "_HEADER_SECONDS", 0.6)
    monkeypatch.setattr(run, "_CONNECTIONS", 8)
    monkeypatch.setitem(Body.__init__.__kwdefaults__, "patience", 0.5)
    with Origin(store) as origin:
        yield Client(origin.url)


def dripped(wire: socket.socket, piece: bytes) -> bytes:
    """Send bytes now and then until the server has enough of it; return what it says."""
    wire.settimeout(0.05)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            wire.sendall(piece)
            return wire.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the server waits on")


def test_a_head_that_drips_is_ended(hurried: Client) -> None:
    with socket.create_connection(hurried.address) as wire:
        wire.sendall(b"GET /-/health HTTP/1.1\r\n")
        said = dripped(wire, b"X: y\r\n")
    assert not said or b" 408 " in said or b" 431 " in said


def test_a_body_that_drips_is_ended_and_stores_nothing(hurried: Client, store: MemoryStore) -> None:
    with socket.create_connection(hurried.address) as wire:
        wire.sendall(b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        said = dripped(wire, b"xx")
    assert b" 408 " in said.split(b"\r\n")[0]
    assert not store.exists("k")


def test_idle_connections_make_room_for_others(hurried: Client) -> None:
    """Silence, half a head, and a connection kept alive are each ended in time."""
    with contextlib.ExitStack() as open_:
        for number in range(24):
            wire = open_.enter_context(socket.create_connection(hurried.address))
            wire.sendall(
                (b"", b"GET /", b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")[number % 3]
            )
        assert hurried("GET", "/-/health").status == 200


# -- who may write ---------------------------------------------------------------------------


@pytest.fixture
def guarded(store: MemoryStore) -> Iterator[Client]:
    with Origin(store, token=TOKEN) as origin:
        yield Client(origin.url)


WRITES = [
    ("PUT", "/data/k"),
    ("DELETE", "/data/k"),
    ("PUT", "/keys/k/data"),
    ("PUT", "/keys/k/metadata"),
    ("POST", "/keys/k/metadata"),
    ("DELETE", "/keys/k"),
    ("POST", "/batch"),
    ("PUT", "/keys/k/auth"),
    ("PROPFIND", "/data/k"),
]


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        "Bearer \u00e9",
    ],
)
def test_who_has_not_the_token_writes_nothing(
    guarded: Client, store: MemoryStore, said: str | None
) -> None:
    put(store, "k", b"before")
    for method, path in WRITES:
        reply = guarded(method, path, b"{}", Authorization=said)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer ")
        assert TOKEN.encode() not in reply.body
    assert store.to_bytes("k") == b"before"
    assert guarded.get("k").body == b"before", "reads need none"


def test_who_has_the_token_writes(
    guarded: Client, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guarded.put("k", b"x", {}, Authorization=f"Bearer {TOKEN}").status == 201
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    url = guarded.url
    for auth, pushed in (("env:THE_TOKEN", True), (None, False)):
        mount = MountedStore("", MemoryStore(), DynamicURLStore(f"{url}keys", f"{url}query"))
        mount.connect(auth)
        put(mount, f"by-{auth}", b"mine")
        with contextlib.suppress(StoreError):
            mount.push(f"by-{auth}")
        mount.disconnect()
        assert store.exists(f"by-{auth}") is pushed


def test_others_are_let_in_by_address_or_name_only(store: MemoryStore) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        doors = doors_at(listening, TOKEN, ["Data.Example"])
    said = {"authorization": f"Bearer {TOKEN}"}
    for host in ("10.0.0.7:8765", "[fe80::1]:80", "data.example", "DATA.example:1", "localhost"):
        doors.check("GET", {"host": host})
        doors.check("PUT", {"host": host, **said})
    for host in ("evil.example", "data.example.evil.example", "10.0.0.7.evil.example", "", "a:b:c"):
        for method in ("GET", "PUT"):
            with pytest.raises(Exception, match="this server answers to its addresses"):
                doors.check(method, {"host": host, **said})
    with pytest.raises(Exception, match="comes from a page of"):
        doors.check("PUT", {"host": "data.example", "origin": "http://evil.example", **said})
    assert TOKEN not in repr(doors)


def test_others_cant_write_without_a_token(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOUNTCACHE_SERVE_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match=r"whoever reaches 0\.0\.0\.0 could write"):
        run_origin(store, "0.0.0.0")
    ended = Shell(tmp_path)(
        "serve", "--store", str(tmp_path / "s"), "--host", "0.0.0.0", "--port", "0"
    )
    assert ended.code != 0
    assert "MOUNTCACHE_SERVE_TOKEN" in ended.err


def test_nobody_writes_where_all_is_read_only(store: MemoryStore) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        doors = doors_at(listening, read_only=True)
    doors.check("GET", {"host": "127.0.0.1"})
    with pytest.raises(Exception, match="--read-only"):
        doors.check("PUT", {"host": "127.0.0.1"})


@pytest.mark.parametrize(
    "text", ["", "short", "0123456789abcde:", "a space in the token", "é" * 20]
)
def test_what_is_no_token_is_refused_without_showing_it(
    store: MemoryStore, tmp_path: Path, text: str
) -> None:
    (tmp_path / "token").write_text(text + "\n", "utf-8")
    for given in (
        lambda: read_token(tmp_path / "token"),
        lambda: read_token(None, {"MOUNTCACHE_SERVE_TOKEN": text}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            given()
        assert not text or text not in str(caught.value)


@pytest.mark.parametrize("how", ["file", "environment"])
def test_a_token_is_taken_where_nobody_else_sees_it(
    store: MemoryStore, tmp_path: Path, how: str
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    more = ["--token-file", str(tmp_path / "token")] if how == "file" else []
    environment = {**os.environ, "MOUNTCACHE_SERVE_TOKEN": "x" * 16 if more else TOKEN}
    serving = subprocess.Popen(
        [sys.executable, "-m", "mountcache", "serve", "--store", str(tmp_path / "s"), "--port", "0",
         "--json", *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        call = Client(json.loads(serving.stdout.readline())["url"])
        assert TOKEN.encode() not in Path(f"/proc/{serving.pid}/cmdline").read_bytes()
        assert call.put("k", b"x", {}).status == 401
        assert call.put("k", b"x", {}, Authorization=f"Bearer {TOKEN}").status == 201
    finally:
        serving.send_signal(signal.SIGTERM)
        said = serving.communicate(timeout=20)
    assert TOKEN not in "".join(said)
    assert not [
        path
        for path in (tmp_path / "s").rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
