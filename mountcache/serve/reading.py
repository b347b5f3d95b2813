"""GET and HEAD of data and metadata."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache

from mountcache.abc import Value
from mountcache.jsonform import spelling
from mountcache.serve.answers import Answer
from mountcache.serve.conditions import Conditions, Span, read_verdict, span_of
from mountcache.serve.wire import (
    METADATA_HEADER_LIMIT,
    Problem,
    conflict,
    encode_metadata,
    etag,
    http_date,
    repr_digest,
)
from mountcache.values import mimetype_of

__all__ = ["read_data", "read_metadata"]

_PIECE = 262144
_NAMING = ("if-none-match", "if-match", "if-range")
_AT_ONCE = 262144
"""Data up to this length is read where it was looked up, and sent in one piece."""


def read_data(key: str, value: Value, headers: Mapping[str, str], method: str) -> Answer:
    """Return the answer to GET or HEAD of data.

    Parameters
    ----------
    key
        The key.
    value
        Its value.
    headers
        The headers of the request, names in lower case.
    method
        The HTTP method.
    """
    version = _version_for(value, headers)
    found = _validators(value, version)
    if early := _early(key, value, version, headers, found):
        return early
    size = value.size
    # Data is a stranger's: no browser may run it as a page of this server.
    found |= {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    found |= {"Content-Type": _media_type(key), **_described(value)}
    if size is None:
        # An upstream of another make that doesn't say beforehand; stores keep what is theirs.
        return Answer(200, found, blocks=None if method == "HEAD" else value.iterdata(_PIECE))
    found["Accept-Ranges"] = "none" if version is None else "bytes"
    asked = headers.get("range") if method == "GET" else None
    span = span_of(asked, headers.get("if-range"), version, size)
    if span == "unsatisfiable":
        raise Problem(
            416,
            "unsatisfiable-range",
            "The range lies outside the data",
            f"{key!r} has {size:,} bytes; {asked} asks for others",
            headers={"Content-Range": f"bytes */{size}", "ETag": etag(str(version))},
            key=key,
        )
    status = 200
    if isinstance(span, Span):
        status = 206
        found["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    else:
        span = Span(0, size)
    length = span.end - span.start
    found["Content-Length"] = str(length)
    if method == "HEAD":
        return Answer(status, found)
    stream = value.range(span.start, span.end) if status == 206 else value.data
    if length > _AT_ONCE:
        return Answer(status, found, stream=stream, length=length)
    with stream:
        body = stream.read(length)
    if len(body) != length:
        raise Problem(
            500,
            "damaged",
            "The data is damaged",
            f"{key!r} has {len(body):,} of {length:,} bytes; put it again",
            key=key,
        )
    return Answer(status, found, body)


def read_metadata(key: str, value: Value, headers: Mapping[str, str]) -> Answer:
    """Return the answer to GET or HEAD of metadata."""
    version = _version_for(value, headers)
    found = _validators(value, version)
    if early := _early(key, value, version, headers, found):
        return early
    body = spelling(value.metadata).encode()
    found |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Answer(200, found, body)


_media_type = lru_cache(1024)(mimetype_of)


def _version_for(value: Value, headers: Mapping[str, str]) -> str | None:
    """Return the name of a value: the one that the client knows, if there are several."""
    names: tuple[str, ...] = getattr(value, "names", ())
    for name in names[1:]:
        if any(f'"{name}"' in headers.get(field, "") for field in _NAMING):
            return name
    return value.version


def _validators(value: Value, version: str | None) -> dict[str, str]:
    if version is None:
        # A date alone is too coarse: two values of one second look alike.
        return {}
    found = {"ETag": etag(version)}
    if value.modified is not None:
        # RFC 9110 8.8.2.1: not later than the answer's Date.
        found["Last-Modified"] = http_date(min(value.modified, time.time()))
    return found


def _early(
    key: str,
    value: Value,
    version: str | None,
    headers: Mapping[str, str],
    validators: dict[str, str],
) -> Answer | None:
    """Return the answer that the conditions come to, None if the value is to be sent."""
    modified = None if version is None else value.modified
    match read_verdict(Conditions.of(headers), version, modified):
        case "not modified":
            return Answer(304, validators)
        case "failed":
            raise conflict(key, None, version)
        case "send":
            return None


def _described(value: Value) -> dict[str, str]:
    found = {}
    sha256 = value.facts.sha256
    if sha256 is not None:
        found["Repr-Digest"] = repr_digest(sha256)
    metadata = value.metadata
    packed = encode_metadata(metadata)
    if len(packed) <= METADATA_HEADER_LIMIT:
        found["Mountcache-Metadata"] = packed
    else:
        found["Mountcache-Metadata-Length"] = str(len(spelling(metadata).encode()))
    return found
