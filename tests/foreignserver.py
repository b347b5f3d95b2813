"""A server of the dynamic layout that isn't ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.faultserver import PATIENCE

__all__ = ["Asked", "ForeignServer"]


class Asked(NamedTuple):
    """One request to the foreign server."""

    method: str
    key: str
    part: str
    """What of the key: data, metadata, auth, or "" for the key itself and for the query."""
    headers: Mapping[str, str]
    status: int


class ForeignServer:
    """A server of the dynamic layout that isn't ours.

    Data, metadata and permissions are plain resources, each with a strong entity tag of its
    own. Two resources are never changed as one.

    Parameters
    ----------
    etags
        Whether it names what it gives.
    ndjson
        Whether it can list keys with their metadata.
    conditions
        Whether it obeys If-Match and If-None-Match of writes, rather than ignoring them.

    Attributes
    ----------
    keys
        The parts of each key.
    asked
        The requests so far.
    before
        Called with method, key and part before each request is looked at: the place to change
        something between two requests of one client.
    lost
        (method, part) of requests that are carried out, and answered by hanging up.
    refused
        The status by which requests of a (method, part) are refused.
    """

    def __init__(self, *, etags: bool = True, ndjson: bool = True, conditions: bool = True) -> None:
        self.etags = etags
        self.ndjson = ndjson
        self.conditions = conditions
        self.keys: dict[str, dict[str, bytes]] = {}
        self.asked: list[Asked] = []
        self.before: Callable[[str, str, str], None] = lambda method, key, part: None
        self.lost: set[tuple[str, str]] = set()
        self.refused: dict[tuple[str, str], int] = {}
        self._made = 0
        self._tags: dict[tuple[str, str], str] = {}
        outer = self

        class Handler(_ForeignHandler):
            server_of = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    @property
    def urls(self) -> tuple[str, str]:
        """What a DynamicURLStore is made of."""
        return f"{self.url}keys", f"{self.url}query"

    def put(
        self, key: str, data: bytes | None = None, metadata: Any = None, auth: Any = None
    ) -> None:
        """Change parts of a key; what is None stays."""
        if data is not None:
            self.change(key, "data", data)
        if metadata is not None:
            self.change(key, "metadata", json.dumps(metadata).encode())
        if auth is not None:
            self.change(key, "auth", json.dumps(auth).encode())

    def change(self, key: str, part: str, body: bytes) -> None:
        """Change one part of a key; it gets another tag, even if the bytes are the same."""
        self.keys.setdefault(key, {})[part] = body
        self._made += 1
        self._tags[key, part] = f"{part}-{self._made}"

    def remove(self, key: str) -> None:
        """Delete a key."""
        del self.keys[key]

    def tag(self, key: str, part: str) -> str:
        """Return the entity tag of a part, without its quotes."""
        return self._tags[key, part]

    def version(self, key: str) -> str:
        """Return both tags, as one version."""
        return f"{self.tag(key, 'data')} {self.tag(key, 'metadata')}"

    def metadata(self, key: str) -> Any:
        """Return the metadata of a key."""
        return json.loads(self.keys[key]["metadata"])

    def order(self) -> list[tuple[str, str]]:
        """Return method and part of the requests so far."""
        return [(each.method, each.part) for each in self.asked]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Answered(NamedTuple):
    status: int
    body: bytes = b""
    kind: str = "application/octet-stream"
    tag: str | None = None


class _ForeignHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # With no buffer each header line would be a packet of its own.
    wbufsize = -1
    timeout = PATIENCE
    server_of: ForeignServer

    def log_message(self, *said: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the base class calls them so

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        url = urlsplit(self.path)
        key, part = "", ""
        if url.path.startswith("/keys/"):
            key = unquote(url.path.removeprefix("/keys/"))
            head, _, tail = key.rpartition("/")
            # What is deleted is always a key, "x/data" too.
            if tail in ("data", "metadata", "auth") and head and self.command != "DELETE":
                key, part = head, tail
        outer = self.server_of
        outer.before(self.command, key, part)
        if (self.command, part) in outer.refused:
            answered = _Answered(outer.refused[self.command, part])
        elif url.path == "/query":
            answered = self._query(url.query)
        elif self.command in ("GET", "HEAD"):
            answered = self._read(key, part)
        else:
            answered = self._write(key, part, body)
        headers = {name.lower(): text for name, text in self.headers.items()}
        outer.asked.append(Asked(self.command, key, part, headers, answered.status))
        if (self.command, part) in outer.lost:
            self.close_connection = True
            return
        self.send_response(answered.status)
        if answered.tag is not None and outer.etags:
            self.send_header("ETag", f'"{answered.tag}"')
        if answered.status not in (204, 304):
            self.send_header("Content-Type", answered.kind)
            self.send_header("Content-Length", str(len(answered.body)))
        self.end_headers()
        if self.command != "HEAD" and answered.status not in (204, 304):
            self.wfile.write(answered.body)

    def _read(self, key: str, part: str) -> _Answered:
        outer = self.server_of
        found = outer.keys.get(key, {}).get(part)
        if found is None:
            return _Answered(404)
        tag = outer.tag(key, part)
        if outer.etags and self.headers.get("If-None-Match") == f'"{tag}"':
            return _Answered(304, tag=tag)
        kind = "application/octet-stream" if part == "data" else "application/json"
        return _Answered(200, found, kind, tag)

    def _write(self, key: str, part: str, body: bytes) -> _Answered:
        outer = self.server_of
        there = part in outer.keys.get(key, {}) if part else key in outer.keys
        if outer.conditions:
            wanted = self.headers.get("If-Match")
            if wanted is not None:
                named = part or "data"
                if not there or wanted not in ("*", f'"{outer.tag(key, named)}"'):
                    return _Answered(412)
            if self.headers.get("If-None-Match") == "*" and there:
                return _Answered(412)
        if self.command == "DELETE":
            if not there:
                return _Answered(404)
            outer.remove(key)
            return _Answered(204)
        if self.command == "POST":
            if not there:
                return _Answered(404)
            merged = {**json.loads(outer.keys[key][part]), **json.loads(body)}
            body = json.dumps(merged).encode()
        outer.change(key, part, body)
        return _Answered(204 if there else 201, tag=outer.tag(key, part))

    def _query(self, query: str) -> _Answered:
        outer = self.server_of
        where = {name: json.loads(text) for name, text in parse_qsl(query)}
        found: dict[str, Any] = {}
        for key, parts in outer.keys.items():
            metadata = json.loads(parts.get("metadata", b"{}"))
            if all(name in metadata and metadata[name] == where[name] for name in where):
                found[key] = metadata
        if outer.ndjson and "application/x-ndjson" in self.headers.get("Accept", ""):
            records = [{"key": key, "metadata": metadata} for key, metadata in found.items()]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            return _Answered(200, lines.encode(), "application/x-ndjson")
        lines = "".join(f"{key}\n" for key in found)
        return _Answered(200, lines.encode(), "text/plain; charset=utf-8")
