"""Several writes to a server of our own as one change: ``POST /batch``.

docs/protocol.md is the full text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from mountcache.abc import ABSENT, Pushed, Readable, Write, facts_of
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import Validators
from mountcache.backing.http import Answer, Payload, Transport
from mountcache.backing.resource import not_ours
from mountcache.backing.uploads import UPLOAD_FROM, Uploads
from mountcache.backing.wire import is_ours, parse_object
from mountcache.backing.writing import conflict, opened
from mountcache.errors import IntegrityError, StoreError, UpstreamError
from mountcache.jsonform import spelling

__all__ = ["BATCH_IDS", "BATCH_LIMIT", "BATCH_WRITES", "Batches"]

BATCH_IDS: Final = "batch-ids"
"""What a server says that remembers each write of a batch by its operation id."""

BATCH_LIMIT: Final = 64 * 1048576
"""Bytes that the body of a batch may have."""

BATCH_WRITES: Final = 10_000
"""Writes that a batch may have: while all of them are committed others wait, at both ends."""

_LONGEST_ANSWER: Final = 64 * 1048576
_LONGEST_PROBLEM: Final = 65536
_UPLOADS: Final = 2
"""How often the data of one batch is sent ahead."""
_OPS: Final = {"put": "put", "meta": "put-metadata", "del": "delete"}


class Batches:
    """Writes several keys of a server that says ``Mountcache: 1``, all or none.

    Parameters
    ----------
    transport
        Who asks.
    url
        Where batches go.
    uploads
        Gives what sends large data ahead; None if the server takes no such data.
    """

    def __init__(
        self,
        transport: Transport | FileTransport,
        url: str,
        uploads: Callable[[], Uploads | None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._url = url
        self._uploads = uploads

    def write(self, writes: Sequence[Write]) -> list[Pushed]:
        """See `SupportsBatch.write_batch`."""
        for _ in range(_UPLOADS - 1):
            ahead = self._sent_ahead(writes)
            try:
                return self._write(writes, ahead)
            except UpstreamError as error:
                # 409: another write has taken an upload. 400: it came in pieces of others.
                if not ahead or error.status not in (400, 409):
                    raise
        return self._write(writes, self._sent_ahead(writes))

    def _sent_ahead(self, writes: Sequence[Write]) -> dict[str, str]:
        """Send large data ahead; return the digest of that of each key."""
        uploads = self._uploads()
        sent: dict[str, str] = {}
        if uploads is None:
            return sent
        for write in writes:
            if write.kind != "put" or write.value is None:
                continue
            size, sha256 = write.value.size or 0, facts_of(write.value).sha256
            # Of several keys with the same bytes only one can have the upload.
            if size < UPLOAD_FROM or sha256 is None or sha256 in sent.values():
                continue
            if uploads.send(write.key, write.value, size, sha256):
                sent[write.key] = sha256
        return sent

    def _write(self, writes: Sequence[Write], ahead: Mapping[str, str]) -> list[Pushed]:
        what = f"a batch of {len(writes):,} keys"
        payload, kind = _body(writes, ahead)
        answer = self._transport.request(
            "POST", self._url, what, headers={"Content-Type": kind}, payload=payload,
            accept=(200, 404, 412), repeatable=True,
        )  # fmt: skip
        if not is_ours(answer.headers):
            answer.body.close()
            raise not_ours(what, maybe_applied=True)
        if answer.status == 200:
            return _results(writes, answer, what)
        raise _refusal(writes, answer, what)


def _refusal(writes: Sequence[Write], answer: Answer, what: str) -> Exception:
    """Return the error of a batch of which one write can't be done."""
    status = answer.status
    try:
        said = parse_object(answer.read(_LONGEST_PROBLEM), "a problem document")
    except StoreError:
        said = {}
    for write in writes:
        if write.key == said.get("key"):
            if status == 404:
                return KeyError(write.key)
            return conflict(write.key, write.base, said.get("found"))
    return UpstreamError(f"{what}: upstream answered {status}, and names no key", status=status)


def _results(writes: Sequence[Write], answer: Answer, what: str) -> list[Pushed]:
    try:
        found = parse_object(answer.read(_LONGEST_ANSWER), f"the answer to {what}")["results"]
        versions = {each["key"]: each["version"] for each in found}
        named = [versions[write.key] for write in writes]
        if not all(isinstance(version, str | None) for version in named):
            raise TypeError
    except (StoreError, KeyError, TypeError):
        error = UpstreamError(f"{what}: upstream's answer can't be read; the next push asks again")
        error.maybe_applied = True
        raise error from None
    replayed = answer.headers.get("Idempotency-Replayed") == "true"
    return [
        Pushed(
            None if write.kind == "del" else version,
            enforced=write.base is not None,
            validators="" if version is None else Validators(f'"{version}"', strong=True).dump(),
            replayed=replayed,
        )
        for write, version in zip(writes, named, strict=True)
    ]


def _body(writes: Sequence[Write], ahead: Mapping[str, str]) -> tuple[Payload, str]:
    """Return writes as a multipart/related body (RFC 2387), and its media type."""
    boundary = uuid.uuid4().hex
    datas = [
        (each.key, opened(each.value, each.key))
        for each in writes
        if each.kind == "put" and each.key not in ahead
    ]
    document = f'{{"operations": [{", ".join(_operations(writes, ahead))}]}}'.encode()
    head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode() + document
    before = f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = len(head) + len(tail)
    length += sum(len(before) + data.length for _, data in datas)

    def pieces() -> Iterator[Callable[[int], bytes]]:
        yield _Bytes(head).read
        for key, data in datas:
            yield _Bytes(before).read
            yield _Exactly(key, data).read
        yield _Bytes(tail).read

    kind = f'multipart/related; boundary="{boundary}"; type="application/json"'
    return Payload(lambda: _Chain(pieces()), length), kind


def _operations(writes: Sequence[Write], ahead: Mapping[str, str]) -> Iterator[str]:
    part = 0
    for write in writes:
        asked: dict[str, Any] = {"op": _OPS[write.kind], "key": write.key, "id": write.op_id}
        if write.base is ABSENT:
            asked["if_none_match"] = True
        elif write.base is not None:
            asked["if_match"] = write.base
        if write.key in ahead:
            asked["upload"] = ahead[write.key]
        elif write.kind == "put":
            part += 1
            asked["part"] = part
            assert write.value is not None
            if (sha256 := facts_of(write.value).sha256) is not None:
                asked["sha256"] = sha256
        text = json.dumps(asked, ensure_ascii=False)
        if write.value is not None:
            # As it was spelled: a number keeps its form.
            text = f'{text[:-1]}, "metadata": {spelling(write.value.metadata)}}}'
        yield text


class _Bytes:
    """Bytes, read once."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, size: int) -> bytes:
        piece, self._left = self._left[:size], self._left[size:]
        return bytes(piece)


class _Exactly:
    """The data of a key, which has just the length that was noted."""

    def __init__(self, key: str, payload: Payload) -> None:
        self._key = key
        self._payload = payload
        self._left = payload.length
        self._stream: Readable | None = None

    def read(self, size: int) -> bytes:
        if not self._left:
            return b""
        if self._stream is None:
            self._stream = self._payload.open()
        piece = self._stream.read(min(size, self._left))
        self._left -= len(piece)
        if not piece or (not self._left and self._stream.read(1)):
            # Others would be taken for the beginning of the next part.
            raise IntegrityError(
                f"the data of {self._key!r} isn't the {self._payload.length:,} bytes that were "
                "noted"
            )
        return piece


class _Chain:
    """Streams one after the other, each opened when it is its turn."""

    def __init__(self, pieces: Iterator[Callable[[int], bytes]]) -> None:
        self._pieces = pieces
        self._read: Callable[[int], bytes] | None = next(pieces)

    def read(self, size: int = 1048576) -> bytes:
        found = bytearray()
        while self._read is not None and len(found) < size:
            if piece := self._read(size - len(found)):
                found += piece
            else:
                self._read = next(self._pieces, None)
        return bytes(found)
