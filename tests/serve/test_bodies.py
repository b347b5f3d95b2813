"""Uploads that break off, lie, or hurry."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from mountcache.local.store import LocalStore
from mountcache.serve.body import Body
from mountcache.serve.wire import Problem
from tests.serve.client import JSON, Client


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if "cache.db" not in path.name}


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 900000\r\n\r\n" + b"x" * 400_000,
        b"Transfer-Encoding: chunked\r\n\r\n61a80\r\n" + b"x" * 400_000 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n61a80\r\n" + b"x" * 400_000 + b"\r\nZZ\r\n",
    ],
    ids=["length", "chunked", "nonsense"],
)
def test_an_upload_that_breaks_off_leaves_nothing(
    call: Client, store: LocalStore, tmp_path: Path, head: bytes
) -> None:
    before, revision = _files(tmp_path), store.revision()
    said = call.raw(b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\n" + head, half=True)
    assert not said or b" 400 " in said.split(b"\r\n")[0]
    assert call.get("k").status == 404
    assert store.revision() == revision
    assert _files(tmp_path) == before


def test_an_upload_without_a_length_is_taken(call: Client) -> None:
    assert call.put("k", iter([b"one", b"", b"two"]), {}).status == 201
    assert call.get("k").body == b"onetwo"


def test_of_a_length_and_chunks_the_chunks_count(call: Client) -> None:
    said = call.raw(
        b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        b"GET /data/k HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    # RFC 9112 6.3: one answer, and the connection is closed, so that nothing is smuggled.
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 201 ")
    assert call.get("k").body == b"hello"
    assert b" 400 " in call.raw(
        b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )


def test_a_client_that_waits_is_told_to_continue(call: Client) -> None:
    said = call.raw(
        b"PUT /data/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")


def test_a_refusal_is_heard_by_a_client_that_is_still_sending(call: Client) -> None:
    data = bytes(6_000_000)
    for _ in range(5):
        reply = call("PUT", "/data/a/../b", data)
        assert reply.status == 400
    assert call("PUT", "/data/k", data, If_Match='"x"').status == 412
    assert call("PUT", "/keys/k/metadata", bytes(20_000_000), Content_Type=JSON).status == 413


def test_connections_are_used_again(call: Client) -> None:
    connection = http.client.HTTPConnection(*call.address, timeout=20)
    sockets = set()
    for method, path, body in (
        ("PUT", "/data/k", b"x"),
        ("GET", "/data/k", None),
        ("HEAD", "/data/k", None),
        ("GET", "/data/none", None),
        ("PUT", "/data/a/../b", b"x" * 100_000),
        ("GET", "/index.json", None),
        ("DELETE", "/data/k", None),
    ):
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("connection") != "close"
        sockets.add(id(connection.sock))
    connection.close()
    assert len(sockets) == 1


async def _never() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_stalls_is_given_up() -> None:
    async def upload() -> None:
        body = Body(_never, {}, patience=0.01)
        with pytest.raises(Problem) as caught:
            await asyncio.to_thread(body.read)
        assert caught.value.status == 408
        assert body.ended

    asyncio.run(upload())


def test_an_upload_can_be_aborted_before_and_while_it_waits() -> None:
    async def upload() -> None:
        waiting = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            waiting.set()
            return await _never()

        body = Body(receive, {})
        reading = asyncio.create_task(asyncio.to_thread(body.read))
        await waiting.wait()
        body.abort()
        for broken in (reading, asyncio.to_thread(body.read)):
            with pytest.raises(Problem, match="stopping"):
                await broken
        fresh = Body(_never, {})
        fresh.abort()
        with pytest.raises(Problem, match="stopping"):
            await asyncio.to_thread(fresh.read)

    asyncio.run(upload())


def test_a_body_shorter_than_promised_never_ends_well() -> None:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"abc", "more_body": False}

    async def upload() -> None:
        body = Body(receive, {"content-length": "4"})
        with pytest.raises(Problem, match="3 of 4 bytes"):
            await asyncio.to_thread(body.read)
        with pytest.raises(Problem, match="3 of 4 bytes"):
            await asyncio.to_thread(body.read)

    asyncio.run(upload())
