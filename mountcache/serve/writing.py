"""PUT, POST and DELETE of one key: each is one conditional commit of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mountcache.abc import ABSENT, Base, Pushed, Readable
from mountcache.errors import ConflictError
from mountcache.jsonform import METADATA_LIMIT, content_version
from mountcache.serve.answers import Answer
from mountcache.serve.body import Body, Hashed, MultipartReader, media_type
from mountcache.serve.conditions import Conditions, base_of
from mountcache.serve.served import Served
from mountcache.serve.uploads import arrived, check_upload_name
from mountcache.serve.wire import (
    Problem,
    bad,
    decode_metadata,
    digest_claims,
    etag,
    operation_id,
    parse_metadata,
)

__all__ = ["delete", "merge_metadata", "operation_reused", "put_data", "put_metadata", "scoped"]

_MERGE_TRIES = 100


def put_data(store: Served, key: str, headers: Mapping[str, str], body: Body) -> Answer:
    """Replace the data of a key, and its metadata where the request brings some.

    Parameters
    ----------
    store
        The store.
    key
        The key.
    headers
        The headers of the request, names in lower case.
    body
        The body of the request.
    """
    _refuse_encoded(headers)
    if (named := headers.get("mountcache-upload")) is not None:
        return _put_upload(store, key, named, headers, body)
    data, metadata = _read_put(headers, body)
    base = base_of(Conditions.of(headers), key, lambda: _current(store, key))
    created = base is ABSENT or (base is None and not store.exists(key))
    parts = frozenset({"data"} if metadata is None else {"data", "metadata"})
    op = _scoped(headers, "PUT", key)
    pushed = store.set_if(key, (data, metadata or {}), base, op, parts=parts)
    if (
        pushed.replayed
        and metadata is not None
        and pushed.version != content_version(data.sha256, metadata)
    ):
        raise operation_reused(key)
    return _written(pushed, created=created)


def _put_upload(
    store: Served, key: str, named: str, headers: Mapping[str, str], body: Body
) -> Answer:
    """Replace the data of a key by an upload, and its metadata where the request brings some."""
    check_upload_name(named, headers)
    metadata = _metadata_beside(headers, body)
    op = _scoped(headers, "PUT", key)
    # After the first time the upload has gone.
    pushed = store.done(op) if op else None
    created = False
    if pushed is None:
        base = base_of(Conditions.of(headers), key, lambda: _current(store, key))
        created = base is ABSENT or (base is None and not store.exists(key))
        parts = frozenset({"data"} if metadata is None else {"data", "metadata"})
        with arrived(store, named, headers) as data:
            pushed = store.set_if(key, (data, metadata or {}), base, op, parts=parts)
    if (
        pushed.replayed
        and metadata is not None
        and pushed.version != content_version(named, metadata)
    ):
        raise operation_reused(key)
    created = created or headers.get("if-none-match") == "*"
    return _written(pushed, created=created)


def _metadata_beside(headers: Mapping[str, str], body: Body) -> dict[str, Any] | None:
    """Return the metadata that come with the name of an upload."""
    packed = headers.get("mountcache-metadata")
    if media_type(headers.get("content-type"))[0] == "application/json":
        if packed is not None:
            raise bad("metadata is in Mountcache-Metadata or in the body, not both")
        return parse_metadata(_whole(body), "the body")
    if _whole(body):
        raise bad("with Mountcache-Upload the body is empty, or metadata as application/json")
    return None if packed is None else decode_metadata(packed)


def operation_reused(key: str) -> Problem:
    """Return the problem of an operation id that named another write."""
    return Problem(
        422,
        "operation-reused",
        "The operation id was used for something else",
        f"this operation id named another write of {key!r}; nothing was stored: give each write "
        "an id of its own",
        key=key,
    )


def _read_put(headers: Mapping[str, str], body: Body) -> tuple[Hashed, dict[str, Any] | None]:
    claims = digest_claims(headers.get("repr-digest"), "Repr-Digest")
    packed = headers.get("mountcache-metadata")
    metadata = None if packed is None else decode_metadata(packed)
    kind, boundary = media_type(headers.get("content-type"))
    if kind != "multipart/related":
        return Hashed(body, claims), metadata
    if metadata is not None:
        raise bad("metadata is in Mountcache-Metadata or in the first part of the body, not both")
    reader = MultipartReader(body, boundary)
    first = reader.next_part()
    if first is None or media_type(first.headers.get("content-type"))[0] != "application/json":
        raise bad("the first part of a multipart/related body is application/json, the metadata")
    metadata = parse_metadata(first.whole(METADATA_LIMIT), "the first part of the body")
    second = reader.next_part()
    if second is None:
        raise bad("the multipart/related body has no second part, the data")

    def nothing_follows() -> None:
        if reader.next_part() is not None:
            raise bad("the multipart/related body has more than two parts")

    return Hashed(second, claims, nothing_follows), metadata


def put_metadata(store: Served, key: str, headers: Mapping[str, str], body: Body) -> Answer:
    """Replace the metadata of a key; a new key gets empty data."""
    metadata = _read_metadata(headers, body)
    base = base_of(Conditions.of(headers), key, lambda: _current(store, key))
    created = base is ABSENT or (base is None and not store.exists(key))
    pushed = store.set_metadata_if(key, metadata, base, _scoped(headers, "PUT metadata", key))
    return _written(pushed, created=created)


def merge_metadata(store: Served, key: str, headers: Mapping[str, str], body: Body) -> Answer:
    """Change the metadata of a key by the names given; the others stay."""
    changes = _read_metadata(headers, body)
    op = _scoped(headers, "POST metadata", key)
    conditions = Conditions.of(headers)
    for _ in range(_MERGE_TRIES):
        asked = base_of(conditions, key, lambda: _current(store, key))
        base, metadata = _look(store, key)
        try:
            pushed = store.set_metadata_if(
                key, {**metadata, **changes}, base if asked is None else asked, op
            )
        except ConflictError:
            # Someone was quicker. Without a condition the change holds over theirs as well.
            if asked is not None:
                raise
            continue
        return _written(pushed, created=base is ABSENT)
    raise Problem(
        503,
        "busy",
        "The store is busy",
        f"others keep changing {key!r}",
        headers={"Retry-After": "1"},
        key=key,
    )


def delete(store: Served, key: str, headers: Mapping[str, str]) -> Answer:
    """Delete a key."""
    op = _scoped(headers, "DELETE", key)
    try:
        base = base_of(Conditions.of(headers), key, lambda: _current(store, key))
        pushed = store.delete_if(key, base, op)
    except ConflictError as error:
        # RFC 9110 13.2.1: conditions don't count where there would be no success without.
        if error.found is ABSENT:
            raise KeyError(key) from None
        raise
    except Problem:
        if store.version_of(key) is ABSENT:
            raise KeyError(key) from None
        raise
    return Answer(204, _replayed(pushed))


def _read_metadata(headers: Mapping[str, str], body: Body) -> dict[str, Any]:
    _refuse_encoded(headers)
    kind, _ = media_type(headers.get("content-type"))
    if kind != "application/json":
        raise Problem(
            415,
            "bad-media-type",
            "The body is of another media type",
            f"metadata is sent as application/json, not {kind or 'without a Content-Type'}",
        )
    stream = Hashed(body, digest_claims(headers.get("repr-digest"), "Repr-Digest"))
    return parse_metadata(_whole(stream), "the body")


def _whole(stream: Readable) -> bytes:
    pieces = bytearray()
    while piece := stream.read():
        pieces += piece
    return bytes(pieces)


def _refuse_encoded(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(
            415,
            "bad-encoding",
            "The body is encoded",
            f"the body is kept as it comes; send it without Content-Encoding {encoding}",
            headers={"Accept-Encoding": "identity"},
        )
    if "content-range" in headers:
        # RFC 9110 14.5: stored as a whole, a part would destroy the rest.
        raise bad("a PUT replaces the whole; Content-Range has no meaning here")


def _current(store: Served, key: str) -> tuple[Base, float | None]:
    try:
        value = store.get(key)
    except KeyError:
        return ABSENT, None
    return value.version, value.modified


def _look(store: Served, key: str) -> tuple[Base, dict[str, Any]]:
    try:
        value = store.get(key)
    except KeyError:
        return ABSENT, {}
    return value.version, value.metadata


def _scoped(headers: Mapping[str, str], verb: str, key: str) -> str:
    """Return the operation id as the store remembers it.

    An id that comes again for another key or verb names another operation.
    """
    return scoped(operation_id(headers.get("idempotency-key")), verb, key)


def scoped(op: str, verb: str, key: str) -> str:
    """Return an operation id as the store remembers it; "" if there is none."""
    return hashlib.sha256(f"{verb}\n{key}\n{op}".encode()).hexdigest() if op else ""


def _written(pushed: Pushed, *, created: bool) -> Answer:
    headers = _replayed(pushed)
    if pushed.version is not None:
        headers["ETag"] = etag(pushed.version)
    return Answer(201 if created else 204, headers)


def _replayed(pushed: Pushed) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if pushed.replayed else {}
