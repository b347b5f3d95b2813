"""A client of the origin for tests, and keys that are hard to carry."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mountcache.jsonform import content_version
from mountcache.keys import quote_key
from mountcache.serve.wire import encode_metadata

__all__ = ["JSON", "KEYS", "RELATED", "Client", "Reply", "multipart", "tag", "version"]

JSON = "application/json"
RELATED = 'multipart/related; boundary=bound; type="application/json"'

KEYS = [
    "plain",
    "with space.csv",
    "100%",
    "%2F",
    "%25",
    "a?b=c",
    "a#b",
    "a+b",
    "a&b;c",
    "caf\u00e9",
    "cafe\u0301",
    "\u65e5\u672c/\U0001f600",
    "deep/er/and/deeper",
    "data",
    "x/data",
    "x/metadata",
    "a:b@c",
    "'quoted'\"",
    "back\\slash",
    "...",
    "~!$&'()*,;=",
    "line\u2028separator",
]


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


class Client:
    """Requests of one kind in a line, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.address: tuple[str, int] = str(parts.hostname), int(parts.port or 80)

    def __call__(self, method: str, path: str, body: Any = None, /, **headers: str | None) -> Reply:
        named = {name.replace("_", "-"): text for name, text in headers.items() if text is not None}
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {name.lower(): text for name, text in answer.getheaders()}
            assert len(found) == len(answer.getheaders()), "a header field came twice"
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def put(self, key: str, data: Any, metadata: Any = None, **headers: str | None) -> Reply:
        if metadata is not None:
            headers["Mountcache_Metadata"] = encode_metadata(metadata)
        return self("PUT", f"/data/{quote_key(key)}", data, **headers)

    def get(self, key: str, **headers: str | None) -> Reply:
        return self("GET", f"/data/{quote_key(key)}", **headers)

    def raw(self, request: bytes, *, half: bool = False) -> bytes:
        """Send bytes as they are; return all that comes until the server closes."""
        with socket.create_connection(self.address, timeout=20) as wire:
            wire.sendall(request)
            if half:
                with contextlib.suppress(OSError):  # the server has closed it already
                    wire.shutdown(socket.SHUT_WR)
            found = b""
            while piece := wire.recv(65536):
                found += piece
        return found


def version(data: bytes, metadata: Mapping[str, Any]) -> str:
    return content_version(hashlib.sha256(data).hexdigest(), metadata)


def tag(data: bytes, metadata: Mapping[str, Any]) -> str:
    return f'"{version(data, metadata)}"'


def multipart(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        f"--bound\r\nContent-Type: {kind}\r\n\r\n".encode() + data + b"\r\n" for kind, data in parts
    )
    return body + b"--bound--\r\n"
