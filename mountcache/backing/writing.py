"""Writes to a server of our own: data and metadata as one change, compared and written as one.

docs/protocol.md is the full text.
"""

from __future__ import annotations

import io
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from mountcache.abc import ABSENT, Base, Pushed, Readable, Value, facts_of
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import strong_version, validators_from
from mountcache.backing.http import Answer, Payload, Transport
from mountcache.backing.resource import not_ours
from mountcache.backing.uploads import UPLOAD_FROM, Uploads
from mountcache.backing.wire import LONGEST_HEADER, encode_metadata, is_ours, parse_object
from mountcache.errors import ConflictError, IntegrityError, StoreError, UpstreamError
from mountcache.jsonform import spelling

__all__ = ["Writer", "condition", "conflict", "json_payload", "opened", "send"]

_WRITTEN: Final = (200, 201, 204)
_LONGEST_PROBLEM: Final = 65536
_UPLOADS: Final = 2
"""How often the data of one write is sent ahead."""


def send(
    transport: Transport | FileTransport,
    method: str,
    url: str,
    key: str,
    base: Base,
    *,
    condition: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
    payload: Payload | None = None,
    repeatable: bool = False,
) -> Answer:
    """Send one write, and return its answer, closed.

    Raises
    ------
    ConflictError
        412: the condition doesn't hold.
    KeyError
        404, 410 to a DELETE.
    """
    answer = transport.request(
        method, url, repr(key), headers={**condition, **(headers or {})}, payload=payload,
        accept=(*_WRITTEN, 404, 410, 412), repeatable=repeatable,
    )  # fmt: skip
    if answer.status == 412:
        raise _conflict(key, base, answer)
    answer.body.close()
    if answer.status in (404, 410):
        if method == "DELETE":
            raise KeyError(key)
        raise UpstreamError(
            f"{key!r} can't be written: upstream answered {answer.status} to {method}; is the URL "
            "the right one?",
            status=answer.status,
        )
    return answer


def _conflict(key: str, base: Base, answer: Answer) -> ConflictError:
    try:
        said = parse_object(answer.read(_LONGEST_PROBLEM), "a problem document").get("found")
    except StoreError:
        said = None  # only our own server says what is there
    return conflict(key, base, said)


def conflict(key: str, base: Base, said: object) -> ConflictError:
    """Return the error of a write whose base isn't there; `said` is what is, if that was told."""
    found: Base = None
    if isinstance(said, str):
        found = ABSENT if said == "absent" else said
    there = {None: "something else is there", ABSENT: "it isn't there"}.get(
        found if not isinstance(found, str) else None, "something else is there"
    )
    over = "as a new key" if base is ABSENT else f"over version {base}"
    return ConflictError(
        f"{key!r} was to be written {over}, but upstream {there}; read it again and redo the "
        "change",
        key=key,
        expected=base,
        found=found,
    )


def json_payload(metadata: Mapping[str, Any]) -> Payload:
    """Return metadata as the body of a request."""
    text = spelling(metadata).encode()
    return Payload(lambda: io.BytesIO(text), len(text))


def opened(value: Value | None, key: str) -> Payload:
    """Return the data of a value as the body of a request.

    Raises
    ------
    IntegrityError
        If its length isn't known.
    """
    size = None if value is None else value.size
    if value is None or size is None:
        raise IntegrityError(f"the data of {key!r} has no known length, so it can't be sent")
    return Payload(lambda: value.data, size)


class Writer:
    """Writes keys of a server that says ``Mountcache: 1``.

    Parameters
    ----------
    transport
        Who asks.
    data_url, metadata_url, key_url
        Give the URLs of a key: of its data, its metadata, and for DELETE.
    uploads
        Gives what sends large data ahead; None if the server takes no such data.
    """

    def __init__(
        self,
        transport: Transport | FileTransport,
        data_url: Callable[[str], str],
        metadata_url: Callable[[str], str],
        key_url: Callable[[str], str],
        uploads: Callable[[], Uploads | None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._uploads = uploads
        self._data_url = data_url
        self._metadata_url = metadata_url
        self._key_url = key_url

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, parts: frozenset[str]
    ) -> Pushed:
        """See `SupportsConditionalWrite`."""
        if parts == {"metadata"}:
            return self.set_metadata_if(key, value.metadata, base, op_id)
        payload = opened(value, key)
        headers = {"Content-Type": "application/octet-stream"}
        sha256 = facts_of(value).sha256
        if sha256 is not None:
            headers["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(sha256)).decode()}:"
        text = spelling(value.metadata) if "metadata" in parts else None
        header = None if text is None else encode_metadata(text)
        short = header is not None and len(header) <= LONGEST_HEADER
        if header is not None and short:
            headers["Mountcache-Metadata"] = header
        beside = None if text is None or short else text.encode()
        if sha256 is not None and payload.length >= UPLOAD_FROM:
            named = {**headers, "Mountcache-Upload": sha256}
            pushed = self._put_upload(key, value, payload.length, base, op_id, named, beside)
            if pushed is not None:
                return pushed
        if beside is not None:
            payload, headers["Content-Type"] = _related(beside, payload)
        return self._write("PUT", self._data_url(key), key, base, op_id, headers, payload)

    def _put_upload(
        self,
        key: str,
        value: Value,
        size: int,
        base: Base,
        op_id: str,
        headers: Mapping[str, str],
        metadata: bytes | None,
    ) -> Pushed | None:
        """Send data ahead, and then the write that names it; None if it can't go so."""
        uploads, sha256 = self._uploads(), headers["Mountcache-Upload"]
        if uploads is None:
            return None
        kind = "application/octet-stream" if metadata is None else "application/json"
        payload = None if metadata is None else Payload(lambda: io.BytesIO(metadata), len(metadata))
        headers = {**headers, "Content-Type": kind}
        for _ in range(_UPLOADS):
            if not uploads.send(key, value, size, sha256):
                return None
            try:
                return self._write("PUT", self._data_url(key), key, base, op_id, headers, payload)
            except UpstreamError as error:
                # 409: another write has taken the upload. 400: it came in pieces of others.
                if error.status not in (400, 409, 501):
                    raise
        return None

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """See `SupportsConditionalWrite`."""
        headers = {"Content-Type": "application/json"}
        payload = json_payload(metadata)
        return self._write("PUT", self._metadata_url(key), key, base, op_id, headers, payload)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """See `SupportsConditionalWrite`."""
        return self._write("DELETE", self._key_url(key), key, base, op_id, {}, None)

    def _write(
        self,
        method: str,
        url: str,
        key: str,
        base: Base,
        op_id: str,
        headers: Mapping[str, str],
        payload: Payload | None,
    ) -> Pushed:
        answer = send(
            self._transport, method, url, key, base, condition=condition(base), payload=payload,
            headers={"Idempotency-Key": op_id, **headers}, repeatable=True,
        )  # fmt: skip
        if not is_ours(answer.headers):
            raise not_ours(repr(key), maybe_applied=True)
        version = None if method == "DELETE" else strong_version(answer.headers)
        return Pushed(
            version,
            enforced=base is not None,
            validators="" if version is None else validators_from(answer.headers).dump(),
            replayed=answer.headers.get("Idempotency-Replayed") == "true",
        )


def condition(base: Base) -> dict[str, str]:
    """Return the header by which a write is bound to `base`."""
    if base is None:
        return {}
    return {"If-None-Match": "*"} if base is ABSENT else {"If-Match": f'"{base}"'}


def _related(metadata: bytes, data: Payload) -> tuple[Payload, str]:
    """Return metadata and data as one multipart/related body (RFC 2387)."""
    boundary = uuid.uuid4().hex
    head = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode()
        + metadata
        + f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    )
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = len(head) + data.length + len(tail)
    payload = Payload(lambda: _Chained(head, data.open(), data.length, tail), length)
    return payload, f'multipart/related; boundary="{boundary}"; type="application/json"'


class _Chained:
    """A head, a stream of a known length and a tail, one after the other."""

    def __init__(self, head: bytes, stream: Readable, length: int, tail: bytes) -> None:
        self._head = io.BytesIO(head)
        self._stream = stream
        self._left = length
        self._tail = io.BytesIO(tail)

    def read(self, size: int = -1) -> bytes:
        piece = self._head.read(size)
        if piece:
            return piece
        if self._left:
            piece = self._stream.read(self._left if size < 0 else min(size, self._left))
            self._left -= len(piece)
            return piece
        if self._stream.read(1):
            raise IntegrityError("the data is longer than it was when it was staged")
        return self._tail.read(size)
