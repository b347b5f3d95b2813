"""Stores over HTTP, an ASGI application: an origin's, or the mounts of a proxy.

Both layouts at once: what ``StaticURLStore`` reads (``/data/``, ``/index.json``) and what
``DynamicURLStore`` does (``/keys/``, ``/query``). Each conditional write is one commit of the
store. Blocking work runs in threads; the event loop only passes bytes on. What may wait for
upstream has threads of its own, so that it never holds up what is here.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mountcache.abc import Value
from mountcache.errors import IntegrityError
from mountcache.jsonform import METADATA_LIMIT
from mountcache.serve.answers import Answer, answer_to, problem_of
from mountcache.serve.batch import BATCH_LIMIT, apply_batch, read_batch
from mountcache.serve.batch import FEATURE as BATCH_IDS
from mountcache.serve.body import Body
from mountcache.serve.conditions import Conditions, read_verdict
from mountcache.serve.doors import Doors
from mountcache.serve.flights import Flights
from mountcache.serve.listing import gzipped, index, key_lines, record_lines
from mountcache.serve.reading import read_data, read_metadata
from mountcache.serve.served import AsksUpstream, Served
from mountcache.serve.shown import How, told
from mountcache.serve.threads import Threads
from mountcache.serve.uploads import FEATURE as UPLOADS
from mountcache.serve.uploads import add_to_upload, look_at_upload, remove_upload
from mountcache.serve.wire import (
    Problem,
    Target,
    accepts,
    etag,
    parse_query,
    target_of,
)
from mountcache.serve.writing import (
    delete,
    merge_metadata,
    put_data,
    put_metadata,
)

__all__ = ["StoreApp"]

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_Threads = ThreadPoolExecutor | Threads

_HEADER_LIMIT = 16384
_DRAIN = 64 * 1048576
"""Bytes of a refused upload that are read for nothing, so that its client hears why."""
_PIECE = 1048576
_READERS = 16
_ASKERS = 64
_WRITERS = 64
_PATIENCE = 5.0
"""Seconds that a commit under way may take at most."""


class StoreApp:
    """An ASGI application that gives stores to others.

    Parameters
    ----------
    stores
        The stores by name; each is under ``/NAME/``, one of the name "" at the root.
    doors
        Who may come in.
    """

    def __init__(self, stores: Mapping[str, Served], doors: Doors) -> None:
        self._stores = dict(stores)
        self._proxied = {
            id(each): each for each in stores.values() if isinstance(each, AsksUpstream)
        }
        self._doors = doors
        self._readers = ThreadPoolExecutor(_READERS, "mountcache-read")
        # What is asked of upstream may take long; reads of what is here must not wait for it.
        self._askers = Threads(_ASKERS, "mountcache-ask")
        self._flights: Flights[Value] = Flights()
        # Uploads wait for their clients; they must not keep reads from threads.
        self._writers = Threads(_WRITERS, "mountcache-write")
        self._batches = asyncio.Semaphore(2)
        self._bodies: set[Body] = set()
        self._tasks: set[asyncio.Task[object]] = set()

    def abort(self) -> None:
        """End what is still under way: uploads and answers break off. Call it in the loop."""
        for body in self._bodies:
            body.abort()
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Wait for the threads; for those that may wait for upstream not for long."""
        self._readers.shutdown()
        self._writers.end(_PATIENCE)
        self._askers.end(_PATIENCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this is an HTTP application, not one of {scope['type']}")
        task = asyncio.current_task()
        assert task is not None
        headers = _joined(scope["headers"])
        body = Body(receive, headers)
        self._tasks.add(task)
        self._bodies.add(body)
        try:
            answer = await self._answer(scope, headers, body)
            if not body.ended and ("content-length" in headers or "transfer-encoding" in headers):
                await _drain(body, headers)
            await self._response(scope["method"], answer)(scope, receive, send)
        finally:
            self._tasks.discard(task)
            self._bodies.discard(body)

    async def _answer(self, scope: Scope, headers: Mapping[str, str], body: Body) -> Answer:
        key, proxied, features = "", False, BATCH_IDS
        try:
            self._check(scope, headers)
            store, path = self._store_at(scope["raw_path"])
            if store.uploads is not None:
                features = f"{BATCH_IDS}, {UPLOADS}"
            target = target_of(path, scope["method"])
            key, proxied = target.key, id(store) in self._proxied
            if target.kind == "upload":
                # Also what only looks: who may write alone is told what others send.
                self._doors.check("PATCH", headers)
            answer = await self._routed(store, scope, target, headers, body)
            if proxied and scope["method"] not in ("GET", "HEAD"):
                answer.headers["Mountcache-Staged"] = "1"
        except Exception as error:
            problem = problem_of(error, key, proxied=proxied)
            if problem is None:
                _logger.exception("%s %r failed", scope["method"], scope["raw_path"])
                problem = Problem(
                    500, "internal", "The server failed", "the server failed; its log says why"
                )
            answer = answer_to(problem)
        answer.headers["Mountcache-Features"] = features
        return answer

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        if sum(len(name) + len(text) for name, text in scope["headers"]) > _HEADER_LIMIT:
            raise Problem(
                431,
                "large-headers",
                "The header fields are too large",
                f"header fields may have {_HEADER_LIMIT:,} bytes in all",
            )
        self._doors.check(scope["method"], headers)

    def _store_at(self, path: bytes) -> tuple[Served, bytes]:
        """Return the store that a path leads to, and the path there."""
        if "" in self._stores:
            return self._stores[""], path
        name, slash, rest = path[1:].partition(b"/")
        store = self._stores.get(name.decode("latin-1"))
        if path == b"/-/health" and self._stores:
            return next(iter(self._stores.values())), path
        if store is None or not slash:
            raise Problem(
                404,
                "no-such-path",
                "Nothing is at this path",
                f"this server has {', '.join(f'/{each}/' for each in self._stores)}",
            )
        return store, b"/" + rest

    async def _routed(
        self,
        store: Served,
        scope: Scope,
        target: Target,
        headers: Mapping[str, str],
        body: Body,
    ) -> Answer:
        key, method = target.key, scope["method"]
        match target.kind, method:
            case "health", _:
                return _json_answer({"status": "ok"})
            case "index" | "query", _:
                return await self._listed(store, scope, target, headers)
            case "batch", _:
                return await self._batch(store, headers, body)
            case "auth", _:
                raise Problem(
                    501,
                    "no-permissions",
                    "Permissions aren't kept",
                    "this server keeps no permissions; whoever can reach it can read and write",
                    key=key,
                )
            case "data" | "metadata", "GET" | "HEAD":
                return await self._read(store, target, headers, method)
            case "upload", "HEAD":
                return await self._reading(lambda: look_at_upload(store, key))
            case "upload", "PATCH":
                return await self._writing(lambda: add_to_upload(store, key, headers, body))
            case "upload", _:
                return await self._writing(lambda: remove_upload(store, key))
            case "data", "PUT":
                if "mountcache-upload" in headers:
                    body.limit = METADATA_LIMIT
                return await self._writing(lambda: put_data(store, key, headers, body), body)
            case "metadata", "PUT":
                body.limit = METADATA_LIMIT
                return await self._writing(lambda: put_metadata(store, key, headers, body), body)
            case "metadata", "POST":
                body.limit = METADATA_LIMIT
                return await self._writing(lambda: merge_metadata(store, key, headers, body), body)
            case _:
                return await self._writing(lambda: delete(store, key, headers))

    async def _read(
        self, store: Served, target: Target, headers: Mapping[str, str], method: str
    ) -> Answer:
        key = target.key

        def answer(value: Value) -> Answer:
            if target.kind == "data":
                return read_data(key, value, headers, method)
            return read_metadata(key, value, headers)

        proxy = self._proxied.get(id(store))
        if proxy is None:
            return await self._reading(lambda: answer(store.get(key)))

        def from_here() -> Answer | None:
            value = proxy.warm(key)
            return None if value is None else _said(answer(value), value, "warm")

        # It asks the database once and reads a small file at most: another thread would cost more.
        if (found := from_here()) is not None:
            return found
        whole = target.kind == "data" and method == "GET" and "range" not in headers
        name = id(store), key, whole
        if self._flights.are(name):
            await self._flights.settled(name)
            if (found := from_here()) is not None:
                return found
        look = proxy.fetch if whole else store.get
        value, shared = await self._flights.ask(name, lambda: self._asking(lambda: look(key)))
        how: How = "collapsed" if shared else "asked"
        return await self._asking(lambda: _said(answer(value), value, how))

    async def _listed(
        self, store: Served, scope: Scope, target: Target, headers: Mapping[str, str]
    ) -> Answer:
        where = parse_query(scope["query_string"]) if target.kind == "query" else {}
        lines = target.kind == "query" and accepts(headers.get("accept"), "application/x-ndjson")
        packed = accepts(headers.get("accept-encoding"), "gzip")
        # The revision is older than the listing: whoever holds its tag asks again rather
        # than once too seldom.
        revision = await self._asking(store.revision)
        variant = f"{revision} {target.kind} {lines} {packed}"
        tag = hashlib.sha256(variant.encode()).hexdigest()[:40]
        found = {"ETag": etag(tag), "Vary": "Accept, Accept-Encoding"}
        match read_verdict(Conditions.of(headers), tag, None):
            case "not modified":
                return Answer(304, found)
            case "failed":
                raise Problem(
                    412, "conflict", "The listing is another one", "the listing has changed since"
                )
        if target.kind == "index":
            found["Content-Type"] = "application/json"
        elif lines:
            found["Content-Type"] = "application/x-ndjson"
        else:
            found["Content-Type"] = "text/plain; charset=utf-8"
        if packed:
            found["Content-Encoding"] = "gzip"
        if scope["method"] == "HEAD":
            return Answer(200, found)

        def begin() -> Answer:
            if target.kind == "index":
                blocks = index(store)
            else:
                blocks = (record_lines if lines else key_lines)(store, where)
            if packed:
                blocks = gzipped(blocks)
            first, second = next(blocks, b""), next(blocks, None)
            if second is None:
                return Answer(200, found | {"Content-Length": str(len(first))}, first)
            return Answer(200, found, blocks=chain((first, second), blocks), waits=True)

        return await self._asking(begin)

    async def _batch(self, store: Served, headers: Mapping[str, str], body: Body) -> Answer:
        body.limit = BATCH_LIMIT

        def carry_out() -> Answer:
            operations = read_batch(body, headers.get("content-type"))
            results, replayed = apply_batch(store, operations)
            answer = _json_answer({"results": results})
            if replayed:
                answer.headers["Idempotency-Replayed"] = "true"
            return answer

        async with self._batches:
            return await self._writing(carry_out)

    async def _reading(self, work: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._readers.submit(work))

    async def _asking(self, work: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._askers.submit(work))

    async def _writing(self, work: Callable[[], _T], body: Body | None = None) -> _T:
        if body is not None:
            await body.come()
        return await asyncio.wrap_future(self._writers.submit(work))

    def _response(self, method: str, answer: Answer) -> Response:
        headers = {**_COMMON, **answer.headers}
        if method == "HEAD" or answer.status in (204, 304):
            response = Response(None, answer.status, headers)
            if "Content-Length" not in headers and "content-length" in response.headers:
                del response.headers["content-length"]
            return response
        if answer.stream is not None:
            blocks: Iterator[bytes] = _read_on(answer.stream, answer.length)
        elif answer.blocks is not None:
            blocks = answer.blocks
        else:
            return Response(answer.body, answer.status, headers)
        threads: _Threads = self._askers if answer.waits else self._readers
        return StreamingResponse(_pieces(blocks, threads), answer.status, headers)


async def _pieces(blocks: Iterator[bytes], threads: _Threads) -> AsyncIterator[bytes]:
    coming: Future[bytes | None] | None = None
    try:
        while True:
            coming = threads.submit(next, blocks, None)
            piece = await asyncio.wrap_future(coming)
            if piece is None:
                return
            yield piece
    finally:
        if coming is not None:
            # A client that went away may leave a read under way.
            coming.add_done_callback(lambda _: _close(blocks))


def _said(answer: Answer, value: Value, how: How) -> Answer:
    """Return an answer with what a proxy says of itself."""
    waits = value.source == "upstream" and (answer.stream or answer.blocks) is not None
    return replace(answer, headers=answer.headers | told(value, how), waits=waits)


_COMMON = {"Mountcache": "1", "Server": "mountcache", "Cache-Control": "no-cache"}


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_text in pairs:
        name, text = raw_name.decode("latin-1").lower(), raw_text.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


async def _drain(body: Body, headers: Mapping[str, str]) -> None:
    """Let a client end its upload: it may listen for an answer only then."""
    if not body.started and "expect" in headers:
        return
    with suppress(Problem):
        await body.drain(_DRAIN)


def _json_answer(document: object) -> Answer:
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Answer(200, headers, body)


def _read_on(stream: io.BufferedIOBase, length: int) -> Iterator[bytes]:
    with stream:
        left = length
        while left:
            piece = stream.read(min(left, _PIECE))
            if not piece:
                # The length was promised: breaking off is the only way left to say so.
                raise IntegrityError(f"{left:,} of {length:,} bytes are missing")
            left -= len(piece)
            yield piece


def _close(blocks: Iterator[bytes]) -> None:
    if isinstance(blocks, Generator):
        blocks.close()
