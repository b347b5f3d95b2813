"""Each fault of a server against each way of reading: the right bytes, or one clear error.

A wrong byte is never given as a good one, and nothing of a fault is in the cache afterwards.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing import http
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.command import Inside
from tests.faultserver import (
    CLOSE,
    RESET,
    Fault,
    FaultServer,
    Reply,
    Request,
    Resource,
    Steps,
    chunked,
    cut,
)
from tests.scripted import pattern

SHORT, LONG = pattern(700), pattern(1_200_000, 1)
PARTS_OF = {len(SHORT): slice(100, 600), len(LONG): slice(1_100_000, 1_100_500)}
"""The part that is read of them: of the long one, in another block than the first."""
MEANT = {"n": 1, "by": "them"}
NEVER = threading.Event()
"""What a server waits for that says no more."""
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
TIME = 8.0
"""Seconds in which each read has ended."""


def start(count: int) -> Callable[[bytes, bytes], int]:
    """Return where so many bytes of the answer have been sent."""
    return lambda head, body: count


def body(count: int) -> Callable[[bytes, bytes], int]:
    """Return where so many bytes of its body have been sent."""
    return lambda head, body: len(head) + count


def end(count: int) -> Callable[[bytes, bytes], int]:
    """Return where all but so many bytes of it have been sent."""
    return lambda head, body: len(head + body) + count


def lie(**fields: str) -> Callable[[Resource, Request], Steps]:
    """Return the honest answer, but for some fields of its head."""
    return lambda resource, request: resource.reply(request, Connection="close", **fields)


def length(change: int) -> Callable[[Resource, Request], Steps]:
    def answer(resource: Resource, request: Request) -> Steps:
        reply = resource.reply(request)
        return [resource.reply(request, Content_Length=str(len(reply.body) + change)), CLOSE]

    return answer


def other(resource: Resource) -> bytes:
    """Return bytes of the same length which are others."""
    return bytes(byte ^ 1 for byte in resource.body)


def bytes_of(status: int, make: Callable[[Resource], bytes]) -> Callable[..., Steps]:
    def answer(resource: Resource, request: Request) -> Steps:
        return Reply(status, make(resource), {"ETag": f'"{resource.etag}"'})

    return answer


def raw_chunks(end: bytes) -> Callable[[Resource, Request], Steps]:
    """Return an honest beginning in chunks, and an end that isn't one."""
    return lambda resource, request: [
        chunked(resource.reply(request).body[:300], end=False, ETag='"1"') + end, CLOSE
    ]  # fmt: skip


def part(
    first: int = 0, last: int = 0, size: int = 0, *, etag: str = "1", whole: bool = False,
    fields: bool = True, changed: bool = False,
) -> Callable[[Resource, Request], Steps]:  # fmt: skip
    """Return a part that differs by so many bytes from the one that was asked for."""

    def answer(resource: Resource, request: Request) -> Steps:
        start = resource.start(request)
        if start is None and not whole:
            return resource.reply(request)
        begin, end = (start or 0) + first, len(resource.body) + last
        body = other(resource) if changed else resource.body
        headers = {"ETag": f'"{etag}"'}
        if fields:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(resource.body) + size}"
        return [Reply(206, body[begin:end].ljust(end - begin, b"?"), headers), CLOSE]

    return answer


def status_for_part(status: int) -> Callable[[Resource, Request], Steps]:
    def answer(resource: Resource, request: Request) -> Steps:
        if resource.start(request) is None:
            return resource.reply(request)
        return Reply(status, b"", {"Content-Range": f"bytes */{len(resource.body)}"})

    return answer


def digest(of: Callable[[Resource], bytes]) -> Callable[[Resource, Request], Steps]:
    def answer(resource: Resource, request: Request) -> Steps:
        told = base64.b64encode(hashlib.sha256(of(resource)).digest()).decode()
        return resource.reply(request, Repr_Digest=f"sha-256=:{told}:")

    return answer


def encoded(pack: Callable[[bytes], bytes]) -> Callable[[Resource, Request], Steps]:
    fields = {"ETag": '"1"', "Content-Encoding": "gzip", "Connection": "close"}
    return lambda resource, request: Reply(200, pack(resource.body), fields)


def another_each_time(resource: Resource, request: Request) -> Steps:
    return resource.reply(request, ETag=f'"{next(_counter)}"')


_counter = itertools.count()

PAGE = Reply(200, b"<html>please log in</html>", {"Content-Type": "text/html; charset=utf-8"})
HASTY = {"timeout": (5, 0.15)}
SHORTLY = {"deadline": 0.3}

CUTS = [
    Fault("cut before a byte", lambda *_: CLOSE),
    Fault("cut in the status line", cut(start(12))),
    Fault("cut in a field", cut(start(40))),
    Fault("cut before the blank line", cut(body(-2))),
    Fault("cut in the blank line", cut(body(-1))),
    Fault("cut after the head", cut(body(0))),
    Fault("cut after a byte", cut(body(1))),
    Fault("cut before the last byte", cut(end(-1)), part="either"),
    Fault("reset in the head", cut(start(40), RESET)),
    Fault("reset after the head", cut(body(0), RESET)),
    Fault("reset before the last byte", cut(end(-1), RESET), part="either"),
    Fault("stall before the head", lambda *_: NEVER, limits=HASTY),
    Fault("stall in the head", cut(start(40), NEVER), limits=HASTY),
    Fault("stall after the head", cut(body(0), NEVER), limits=HASTY),
    Fault("stall before the last byte", cut(end(-1), NEVER), part="either", limits=HASTY),
    Fault("chunks cut in a size", cut(body(1), chunks=2)),
    Fault("chunks cut in a chunk", cut(body(20), chunks=2)),
    Fault("chunks cut in the end of a chunk", cut(end(-6), chunks=2), part="either"),
    Fault("chunks cut before the last", cut(end(-5), chunks=2), part="either"),
    Fault("chunks reset before the last", cut(end(-5), RESET, chunks=2), part="either"),
    # The last chunk says that all has come; what ends it says no more.
    Fault("chunks cut in the last", cut(end(-4), chunks=2), "either"),
    Fault("chunks cut after the last", cut(end(-2), chunks=2), "either"),
]

FRAMES = [
    Fault("a length beyond the bytes", length(10), part="either"),
    Fault("two lengths", lambda resource, request: [
        resource.reply(request, Content_Length="700, 701"), CLOSE
    ]),
    Fault("a length of minus one", lie(Content_Length="-1")),
    Fault("a transfer coding that nobody asked for", lie(Transfer_Encoding="gzip, chunked")),
    Fault("a chunk's size that is no number", raw_chunks(b"xyz\r\n")),
    Fault("a chunk's size below nothing", raw_chunks(b"-5\r\nabcde\r\n0\r\n\r\n")),
    Fault("a chunk longer than its size", raw_chunks(b"3\r\nabcdefgh\r\n0\r\n\r\n")),
    Fault("a chunk shorter than its size", raw_chunks(b"ff\r\nabc\r\n0\r\n\r\n")),
    Fault("a chunk of 2^70 bytes", raw_chunks(b"400000000000000000\r\nabc")),
    Fault("a chunk's size without end", raw_chunks(b"1;" + b"x" * 200_000)),
    Fault("no HTTP", lambda *_: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", CLOSE]),
    Fault("a status of four digits", lambda *_: [b"HTTP/1.1 2000 OK\r\n\r\nabc", CLOSE]),
    Fault("a status line without end", lambda *_: [b"HTTP/1.1 200 " + b"O" * 200_000, CLOSE]),
    Fault("a field without end", lambda *_: [b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000, CLOSE]),
    Fault("fields without end", lambda *_: itertools.chain(
        [b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"A: b\r\n" * 1000)
    )),
    Fault("early hints, and the rest late", lambda resource, request: [
        HINTS, HINTS + HINTS, resource.reply(request)
    ], "right"),
    Fault("early hints without end", lambda *_: itertools.repeat(HINTS * 100)),
    Fault("another protocol, unasked", lambda *_: [b"HTTP/1.1 101 Switching\r\n\r\n", CLOSE]),
]  # fmt: skip

ANSWERS = [
    Fault("a page to log in", lambda *_: PAGE),
    Fault("a page to log in, whatever is asked", lambda *_: PAGE, heads=True),
    Fault("a redirect to itself", lambda resource, request: Reply(
        302, headers={"Location": request.path}
    ), heads=True),
    Fault("a redirect to nowhere", lambda *_: Reply(302, headers={"Location": "http://[x"})),
    Fault("a page to log in, behind a redirect", lambda *_: Reply(
        302, headers={"Location": "/login"}
    )),
    Fault("unchanged, unasked", lambda *_: Reply(304, headers={"ETag": '"1"'})),
    Fault("no content", lambda *_: Reply(204)),
    Fault("a part of nothing", lambda *_: Reply(206, b"", {"ETag": '"1"'})),
    Fault("a choice", lambda *_: Reply(300, b"choose")),
    *(Fault(f"status {status}", lambda *_, status=status: Reply(status, b"no"))
      for status in (400, 401, 403, 429, 500, 503)),
    Fault("gzip that is cut off", encoded(lambda body: gzip.compress(body)[:-20])),
    Fault("gzip that is damaged", encoded(lambda body: gzip.compress(body)[:20] + b"x" * 99)),
    Fault("gzip that isn't", encoded(lambda body: body)),
    Fault("gzip, unasked", encoded(gzip.compress), "right", part="either"),
]  # fmt: skip

PARTS = [
    Fault("a part for all", part(whole=True), part="right"),
    Fault("a part for all, and not from its beginning", part(5, whole=True)),
    Fault("all for a part", lambda resource, request: resource.reply(
        Request("GET", request.path, {}, b"", 0)
    ), "right"),
    Fault("another part", part(first=1), "right", part="error"),
    Fault("an earlier part", part(first=-1), "right", part="error"),
    Fault("a part that is too short", part(last=-100), "right", part="either"),
    Fault("a part that is too long", part(last=100), "right", part="either"),
    Fault("a part of something longer", part(size=100), "right", part="either"),
    Fault("a part without its place", part(fields=False), "right", part="error"),
    Fault("a part of another version", part(etag="2", changed=True), "right", part="either"),
    Fault("a part that can't be", status_for_part(416), "right", part="either"),
    Fault("a part that isn't there", status_for_part(404), "right", part="either"),
    Fault("a changed condition", status_for_part(412), "right", part="either"),
    Fault("several parts", lie(Content_Type="multipart/byteranges; boundary=x"), "either"),
]  # fmt: skip

# The index says what the bytes are, or the answer does; what the server does is consistent.
DIGESTS = [
    Fault("other bytes under the same name", bytes_of(200, other)),
    Fault("fewer bytes than there are", bytes_of(200, lambda resource: resource.body[:-9])),
    Fault("more bytes than there are", bytes_of(200, lambda resource: resource.body + b"more")),
    Fault("a length short of the bytes", length(-9)),
    Fault("gzip in a gzip", encoded(lambda body: gzip.compress(gzip.compress(body)))),
    Fault("nothing", bytes_of(200, lambda resource: b"")),
    Fault("a digest of other bytes", digest(other)),
    Fault("a digest of other bytes, in each answer", digest(other), heads=True),
    Fault("the digest", digest(lambda resource: resource.body), "right"),
]

NAMES = [
    Fault("another name each time", another_each_time, "right", part="either", heads=True),
    Fault("a weak name", lie(ETag='W/"1"'), "right", heads=True),
    Fault("a name without quotes", lie(ETag="1"), "right", heads=True),
    Fault("an empty name", lie(ETag='""'), "right", heads=True),
    Fault("a name that no header holds", lie(ETag='"\x01"'), "right", heads=True),
]


class Place:
    """A server, and folders of those who read from it."""

    def __init__(self, folder: Path, server: FaultServer) -> None:
        self.folder, self.server = folder, server
        self.promise: dict[str, Any] = {}
        self._count = itertools.count()

    def hold(self, data: bytes, *, digest: bool = False) -> None:
        """Let the server have this data, and its index promise it if `digest`."""
        meta = dict(MEANT)
        if digest:
            meta["sha256"] = hashlib.sha256(data).hexdigest()
        self.promise = meta
        index = Resource(json.dumps({"k.csv": meta}).encode(), "i", "application/json")
        told = Resource(json.dumps(meta).encode(), "m", "application/json")
        self.server.resources = {
            "/data/k.csv": Resource(data), "/index.json": index,
            "/keys/k.csv/data": Resource(data), "/keys/k.csv/metadata": told,
            "/login": Resource(PAGE.body, "l", "text/html"),
        }  # fmt: skip

    def new(self) -> Path:
        folder = self.folder / str(next(self._count))
        folder.mkdir()
        return folder

    def mount(self, folder: Path, **options: Any) -> MountedStore:
        backing = StaticURLStore(self.server.url, **{"retries": 0, **options})
        return MountedStore(
            "", DiskCacheStore(folder / ".mountcache", min_free=0, durability="normal"), backing
        )


@dataclass(frozen=True)
class Way:
    """A way of reading a value of the static layout."""

    name: str
    read: Callable[[MountedStore, Path, slice], bytes]
    is_part: bool = False
    with_long: bool = False
    """Whether it is tried with a long value too."""


def in_pieces(store: MountedStore, folder: Path, part: slice) -> bytes:
    with store.open("k.csv", "rb") as stream:
        return b"".join(iter(lambda: stream.read(70_000), b""))


def a_part(store: MountedStore, folder: Path, part: slice) -> bytes:
    with store.get("k.csv").range(part.start, part.stop) as stream:
        return stream.read()


def prefetched(store: MountedStore, folder: Path, part: slice) -> bytes:
    report = sync.prefetch(store)
    for said in report.failed.values():
        raise StoreError(said)
    return store.with_options(offline="always").to_bytes("k.csv")


def to_file(store: MountedStore, folder: Path, part: slice) -> bytes:
    target = folder / "target"
    target.write_bytes(b"before")
    try:
        store.to_file("k.csv", target)
    except StoreError:
        assert target.read_bytes() == b"before"
        raise
    return target.read_bytes()


WAYS = [
    Way("get_data", lambda store, folder, part: store.to_bytes("k.csv"), with_long=True),
    Way("open", in_pieces),
    Way("range", a_part, is_part=True, with_long=True),
    Way("prefetch", prefetched),
    Way("to_file", to_file),
]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def place(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.001)
    NEVER.clear()
    yield Place(tmp_path, server)
    server.heal()
    NEVER.set()


def outcome(read: Callable[[], Any], right: Any) -> str:
    """Return what became of a read: "right", or "error" if that was one clear sentence."""
    begun = time.monotonic()
    try:
        got = read()
    except StoreError as error:
        said = str(error)
        assert "\n" not in said, said
        assert len(said) < 400, said
        result = "error"
    else:
        assert got == right
        result = "right"
    assert time.monotonic() - begun < TIME
    return result


def check(place: Place, fault: Fault, way: Way, data: bytes) -> None:
    """Read while a fault lasts, after it, and after one that came once."""
    part = PARTS_OF[len(data)]
    right = data[part] if way.is_part else data
    expected = fault.part if way.is_part and fault.part else fault.ends
    server, folder = place.server, place.new()
    with place.mount(folder, **fault.limits) as store:
        store.update_index()
        server.break_down("/data/k.csv", fault)
        became = outcome(lambda: way.read(store, folder, part), right)
        assert expected in (became, "either")
        if became == "error":
            assert list(store.cached()) == []
        outcome(lambda: store.with_options(offline="always").to_bytes("k.csv"), data)
        server.heal()
        store._remote.wake()
        # Of a part nobody can tell that its bytes are wrong: all of them together can.
        after = [outcome(lambda: store.to_bytes("k.csv"), data) for _ in range(2)]
        assert after[1] == "right", after
        assert after[0] == "right" or way.is_part, after
        assert store.get_metadata("k.csv") == place.promise
        assert store.with_options(offline="always").to_bytes("k.csv") == data
    folder = place.new()
    with place.mount(folder, **{**fault.limits, "retries": 2}) as store:
        store.update_index()
        server.break_down("/data/k.csv", fault, times=1)
        outcome(lambda: way.read(store, folder, part), right)
        store._remote.wake()
        after = [outcome(lambda: store.to_bytes("k.csv"), data) for _ in range(2)]
        assert after[1] == "right", after
    server.heal()


def named(each: Any) -> str:
    return each.name if isinstance(each, (Fault, Way)) else str(each)


@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("fault", [*CUTS, *FRAMES, *ANSWERS, *NAMES], ids=named)
def test_values(place: Place, fault: Fault, way: Way) -> None:
    for data in (SHORT, LONG) if way.with_long else (SHORT,):
        place.hold(data)
        check(place, fault, way, data)


@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("fault", PARTS, ids=named)
def test_parts_of_values(place: Place, fault: Fault, way: Way) -> None:
    place.hold(LONG)
    check(place, fault, way, LONG)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.is_part], ids=named)
@pytest.mark.parametrize("fault", DIGESTS, ids=named)
def test_values_that_the_index_promises(place: Place, fault: Fault, way: Way) -> None:
    for data in (SHORT, LONG):
        place.hold(data, digest=True)
        check(place, fault, way, data)


@pytest.mark.parametrize("fault", [*CUTS, *FRAMES, *ANSWERS], ids=named)
def test_indexes(place: Place, fault: Fault) -> None:
    place.hold(SHORT)
    server, later = place.server, {"n": 2, "by": "us"}
    with place.mount(place.new(), **fault.limits) as store:
        store.update_index()
        server.resources["/index.json"] = Resource(
            json.dumps({"k.csv": later, "new": {}}).encode(), "j", "application/json"
        )
        server.break_down("/index.json", fault)
        became = outcome(store.update_index, None)
        assert became == "error" or fault.ends != "error"
        known = store.with_options(offline="always")
        assert known.get_metadata("k.csv") == (later if became == "right" else MEANT)
        assert sorted(known.query_keys()) == ["k.csv", "new"][: 2 if became == "right" else 1]
        server.heal()
        with suppress(StoreError):  # of a connection that the server has just closed
            store.update_index()
        store._remote.wake()
        store.update_index()
        assert known.get_metadata("k.csv") == later


@pytest.mark.parametrize("fault", [*CUTS, *FRAMES, *ANSWERS], ids=named)
def test_metadata(place: Place, fault: Fault) -> None:
    place.hold(SHORT)
    server = place.server
    backing = DynamicURLStore(
        f"{server.url}keys", f"{server.url}query", **{"retries": 0, **fault.limits}
    )
    local = DiskCacheStore(place.new() / ".mountcache", min_free=0, durability="normal")
    with MountedStore("", local, backing) as store:
        server.break_down("/keys/k.csv/metadata", fault)
        for read, right in ((store.get_metadata, MEANT), (store.to_bytes, SHORT)):
            became = outcome(lambda read=read: read("k.csv"), right)
            assert became == "error" or fault.ends != "error"
            store._remote.wake()
        server.heal()
        store._remote.wake()
        assert "right" in [outcome(lambda: store.to_bytes("k.csv"), SHORT) for _ in range(2)]
        assert store.get_metadata("k.csv") == MEANT


@pytest.mark.parametrize(
    "fault", [fault for fault in [*CUTS, *ANSWERS] if not fault.limits], ids=named
)
def test_command(place: Place, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LONGEST_PAUSE", 0.01)
    place.hold(SHORT)
    shell = Inside(place.new())
    (shell.folder / "mountcache.toml").write_text(
        f'url = "{place.server.url}"\nlayout = "static"\n'
    )
    assert shell("ls").code == 0
    place.server.break_down("/data/k.csv", fault)
    ended = shell("get", "k.csv", "-o", "target")
    target = shell.folder / "target"
    if ended.code == 0:
        assert fault.ends != "error"
        assert target.read_bytes() == SHORT
    else:
        assert len(ended.err.strip().splitlines()) == 1, ended.err
        assert "Traceback" not in ended.err
        assert not target.exists()
    place.server.heal()
    assert shell("get", "k.csv", "-o", "target").code == 0
    assert target.read_bytes() == SHORT
