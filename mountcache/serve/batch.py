"""Several conditional writes in one request, all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from mountcache.abc import ABSENT, Base, Pushed, Readable
from mountcache.errors import ConflictError, InvalidKeyError
from mountcache.jsonform import content_version, spelling
from mountcache.keys import check_http_key
from mountcache.local.staging import AppliedMeanwhileError
from mountcache.serve.answers import absent
from mountcache.serve.body import Body, MultipartReader, media_type
from mountcache.serve.served import Served
from mountcache.serve.uploads import arrived, check_upload_name
from mountcache.serve.wire import Problem, bad, conflict, operation_id
from mountcache.serve.writing import operation_reused, scoped

__all__ = ["BATCH_LIMIT", "BATCH_WRITES", "FEATURE", "Operation", "apply_batch", "read_batch"]

FEATURE = "batch-ids"
"""What a server says that remembers each write of a batch by its operation id."""

BATCH_LIMIT = 64 * 1048576
"""Bytes that the body of a batch may have."""

BATCH_WRITES = 10_000
"""Writes that it may have: nobody else can write while they are committed."""

_FIELDS = {"op", "key", "metadata", "if_match", "if_none_match", "part", "sha256", "id", "upload"}
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Operation:
    """One write of a batch."""

    op: Literal["put", "put-metadata", "delete"]
    key: str
    base: Base
    metadata: dict[str, Any] | None
    data: bytes | None
    sha256: str | None = None
    """Digest of the data."""
    op_id: str = ""
    """Names the write as the store remembers it; "" if nothing does."""
    uploaded: bool = False
    """Whether the data is an upload."""


def read_batch(body: Body, content_type: str | None) -> list[Operation]:
    """Return the writes that the body of a batch asks for.

    Raises
    ------
    Problem
        If the body is no batch.
    """
    kind, boundary = media_type(content_type)
    if kind == "application/json":
        pieces = bytearray()
        while piece := body.read():
            pieces += piece
        return _operations(bytes(pieces), [])
    if kind != "multipart/related":
        raise Problem(
            415,
            "bad-media-type",
            "The body is of another media type",
            "a batch is multipart/related: a JSON document, then the data of its puts",
        )
    reader = MultipartReader(body, boundary)
    document = reader.next_part()
    if document is None:
        raise bad("the batch has no JSON document")
    text = document.whole(BATCH_LIMIT)
    datas = []
    while (part := reader.next_part()) is not None:
        datas.append(part.whole(BATCH_LIMIT))
    return _operations(text, datas)


def _operations(text: bytes, datas: list[bytes]) -> list[Operation]:
    try:
        asked = json.loads(text)["operations"]
    except (ValueError, TypeError, KeyError, RecursionError):
        asked = None
    if not isinstance(asked, list) or not asked:
        raise bad('the batch isn\'t a JSON object {"operations": [...]} with one at least')
    if len(asked) > BATCH_WRITES:
        raise Problem(
            413,
            "too-large",
            "The batch is too large",
            f"a batch may have {BATCH_WRITES:,} operations, not {len(asked):,}",
        )
    found = [_operation(each, number, datas) for number, each in enumerate(asked)]
    keys: set[str] = set()
    for each in found:
        if each.key in keys:
            raise bad(f"the batch names {each.key!r} twice")
        keys.add(each.key)
    parts = sorted(each["part"] for each in asked if each["op"] == "put" and "part" in each)
    if parts != list(range(1, len(datas) + 1)):
        raise bad(f"the batch has {len(datas)} data parts, but its puts name {parts}")
    return found


def _operation(asked: Any, number: int, datas: list[bytes]) -> Operation:
    where = f"operation {number} of the batch"
    if not isinstance(asked, dict) or asked.get("op") not in ("put", "put-metadata", "delete"):
        raise bad(f'{where} isn\'t an object with "op": "put", "put-metadata" or "delete"')
    if unknown := asked.keys() - _FIELDS:
        raise bad(f"{where} has the unknown member {min(unknown)!r}")
    try:
        key = check_http_key(asked.get("key"))  # type: ignore[arg-type]  # refuses what isn't str
    except InvalidKeyError as error:
        raise bad(f"{where}: {error}") from None
    part, metadata = asked.get("part"), asked.get("metadata")
    upload = asked.get("upload")
    if upload is not None:
        if asked["op"] != "put" or "part" in asked or "sha256" in asked:
            raise bad(f'{where} has "upload": the sha256 of a put\'s data, and nothing else of it')
        check_upload_name(str(upload), {})
    elif asked["op"] == "put":
        if type(part) is not int or not 1 <= part <= len(datas):
            raise bad(f'{where} needs "part": the number of its data part, counted from 1')
    elif part is not None:
        raise bad(f"{where} is no put, and has no data part")
    if metadata is not None:
        spelling(metadata)
    elif asked["op"] == "put-metadata":
        raise bad(f'{where} needs "metadata"')
    data = datas[part - 1] if type(part) is int else None
    sha256 = None if data is None else _digest(data, asked, where, key)
    if data is None and "sha256" in asked:
        raise bad(f"{where} is no put, and has no data to have a digest")
    named = asked.get("id", "")
    if not isinstance(named, str):
        raise bad(f'{where}: "id" is an operation id, as an Idempotency-Key is one')
    op_id = scoped(operation_id(named or None), _VERBS[asked["op"]], key)
    return Operation(
        asked["op"], key, _base(asked, where), metadata, data, upload or sha256, op_id,
        uploaded=upload is not None,
    )  # fmt: skip


_VERBS = {"put": "PUT", "put-metadata": "PUT metadata", "delete": "DELETE"}
"""What a write by itself is remembered as: asked again alone, it is answered as in its batch."""


def _digest(data: bytes, asked: Mapping[str, Any], where: str, key: str) -> str:
    found = hashlib.sha256(data).hexdigest()
    if asked.get("sha256", found) != found:
        raise Problem(
            400,
            "wrong-digest",
            "The data isn't what its digest says",
            f"{where} promised sha256 {str(asked['sha256'])[:80]}, but what came has {found}; "
            "nothing was stored: send it again",
            key=key,
        )
    return found


def _base(asked: Mapping[str, Any], where: str) -> Base:
    if_match, if_none_match = asked.get("if_match"), asked.get("if_none_match", False)
    if if_none_match not in (True, False) or not isinstance(if_match, str | None):
        raise bad(f'{where}: "if_match" is a version, "if_none_match" is true')
    if if_match is not None and if_none_match:
        raise bad(f'{where} has both "if_match" and "if_none_match"')
    return ABSENT if if_none_match else if_match


def apply_batch(store: Served, operations: list[Operation]) -> tuple[list[dict[str, Any]], bool]:
    """Carry out all writes of a batch in one commit, or none.

    A write that was applied before under its operation id isn't again.

    Returns
    -------
    list of dict, bool
        What each made; and whether all had been applied before.

    Raises
    ------
    Problem
        Names the operation that couldn't be done.
    """
    for _ in range(_TRIES - 1):
        with suppress(AppliedMeanwhileError):
            return _apply_all(store, operations)
    return _apply_all(store, operations)


def _apply_all(store: Served, operations: list[Operation]) -> tuple[list[dict[str, Any]], bool]:
    results: list[dict[str, Any]] = []
    replayed = 0
    version: Base
    try:
        with store.transaction("batch"):
            for each in operations:
                pushed = store.done(each.op_id) if each.op_id else None
                if pushed is None:
                    # A read inside the transaction is compared again at its commit.
                    store.exists(each.key)
                    pushed = _apply(store, each)
                if pushed.replayed:  # before, or by a repeat of this while it was looked for
                    _refuse_another(each, pushed)
                    version, replayed = pushed.version, replayed + 1
                else:
                    version = None if each.op == "delete" else store.version_of(each.key)
                results.append({"key": each.key, "version": version})
    except ConflictError as error:
        problem = conflict(error.key, error.expected, error.found)
    except KeyError:
        problem = absent(operations[len(results)].key)
    else:
        return results, replayed == len(results)
    if len(results) < len(operations):
        each = operations[len(results)]
        if each.op_id and store.done(each.op_id) is not None:
            # A repeat of this was quicker, after it was looked for: it is what stood in the way.
            raise AppliedMeanwhileError(f"{each.key!r} was written by a repeat of this meanwhile")
        problem.members["operation"] = len(results)
    raise problem


def _refuse_another(each: Operation, pushed: Pushed) -> None:
    if (
        each.sha256 is not None
        and each.metadata is not None
        and pushed.version != content_version(each.sha256, each.metadata)
    ):
        raise operation_reused(each.key)


def _apply(store: Served, each: Operation) -> Pushed:
    match each.op:
        case "put" if each.uploaded and each.sha256 is not None:
            with arrived(store, each.sha256, {}) as data:
                return _put(store, each, data)
        case "put":
            return _put(store, each, io.BytesIO(each.data or b""))
        case "put-metadata":
            return store.set_metadata_if(each.key, each.metadata or {}, each.base, each.op_id)
        case "delete":
            return store.delete_if(each.key, each.base, each.op_id)


def _put(store: Served, each: Operation, data: Readable) -> Pushed:
    parts = frozenset({"data"} if each.metadata is None else {"data", "metadata"})
    return store.set_if(each.key, (data, each.metadata or {}), each.base, each.op_id, parts=parts)
