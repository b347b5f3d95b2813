"""The wire as pure functions: paths, header fields, digests and problem documents.

Nothing here talks to a socket or a store; ``origin`` carries out what is decided here and in
``conditions``. The full text is docs/protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

from mountcache.abc import ABSENT, Base
from mountcache.errors import InvalidKeyError, InvalidMetadataError
from mountcache.jsonform import normal_value, spelling
from mountcache.keys import check_http_key

__all__ = [
    "METADATA_HEADER_LIMIT",
    "Problem",
    "Target",
    "accepts",
    "bad",
    "conflict",
    "decode_metadata",
    "digest_claims",
    "encode_metadata",
    "etag",
    "http_date",
    "is_loopback_host",
    "operation_id",
    "parse_metadata",
    "parse_query",
    "problem_document",
    "repr_digest",
    "target_of",
]

METADATA_HEADER_LIMIT = 4096
"""Characters of ``Mountcache-Metadata``; longer metadata travels in a body of its own."""

Part = Literal["data", "metadata", "auth"]
Kind = Literal["data", "metadata", "auth", "key", "index", "query", "batch", "health", "upload"]


class Problem(Exception):
    """A request that is answered by a problem document (RFC 9457).

    Parameters
    ----------
    status
        The HTTP status.
    name
        The last word of the document's type.
    title
        The kind of problem, the same each time.
    detail
        One sentence on this one.
    headers
        Further headers of the answer.
    members
        Further members of the document.
    """

    def __init__(
        self,
        status: int,
        name: str,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members


def problem_document(problem: Problem) -> bytes:
    """Return the JSON text of a problem document."""
    document = {
        "type": f"urn:problem-type:mountcache:{problem.name}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    return json.dumps(document).encode()


def bad(detail: str, **members: Any) -> Problem:
    return Problem(400, "bad-request", "The request makes no sense", detail, **members)


# -- paths -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What the path of a request names."""

    kind: Kind
    key: str = ""
    methods: tuple[str, ...] = ("GET", "HEAD")


_FIXED = {
    "/index.json": Target("index"),
    "/query": Target("query"),
    "/batch": Target("batch", methods=("POST",)),
    "/-/health": Target("health"),
}
_PARTS: dict[Part, tuple[str, ...]] = {
    "data": ("GET", "HEAD", "PUT"),
    "metadata": ("GET", "HEAD", "PUT", "POST"),
    "auth": ("GET", "HEAD", "PUT", "POST"),
}


def target_of(raw_path: bytes, method: str) -> Target:
    """Return what a path names.

    The path is percent-decoded once, as it came: no segment is folded, so that no key turns
    into another one on its way. Under ``/keys/`` the method tells a key from a part of one:
    DELETE is of the whole key.

    Parameters
    ----------
    raw_path
        The path as it came, without the query.
    method
        The HTTP method.

    Raises
    ------
    Problem
        400 for what can't be a key, 404 for a path that leads nowhere, 405 for a method
        that it doesn't have.
    """
    path = _decoded(raw_path)
    target = _FIXED.get(path) or _target_under(path, method)
    if target is None:
        raise Problem(
            404, "no-such-path", "Nothing is at this path", f"nothing is at the path {path!r}"
        )
    if method not in target.methods:
        raise Problem(
            405,
            "method-not-allowed",
            "The path doesn't take this method",
            f"{path!r} takes {', '.join(target.methods)}, not {method}",
            headers={"Allow": ", ".join(target.methods)},
        )
    return target


_UPLOAD = re.compile(r"/-/uploads/([0-9a-f]{64})")


def _target_under(path: str, method: str) -> Target | None:
    if (upload := _UPLOAD.fullmatch(path)) is not None:
        return Target("upload", upload[1], ("HEAD", "PATCH", "DELETE"))
    if path.startswith("/data/"):
        return Target("data", _key(path[6:]), ("GET", "HEAD", "PUT", "DELETE"))
    if not path.startswith("/keys/"):
        return None
    rest = path[6:]
    if method != "DELETE":
        for part, methods in _PARTS.items():
            if rest.endswith(f"/{part}"):
                return Target(part, _key(rest[: -len(part) - 1]), methods)
    return Target("key", _key(rest), ("DELETE",))


def _decoded(raw: bytes) -> str:
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
        raise bad("the path has a % that isn't followed by two hex digits")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise bad("the path isn't percent-encoded UTF-8") from None


def _key(key: str) -> str:
    try:
        return check_http_key(key)
    except InvalidKeyError as error:
        raise Problem(400, "bad-key", "This can't be a key", str(error), key=key) from None


def parse_query(query: bytes) -> dict[str, Any]:
    """Return the names and values that ``name=<json>&...`` asks for."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as error:
        raise bad(f"the query can't be read: {error}") from None
    where: dict[str, Any] = {}
    for name, text in pairs:
        if name in where:
            raise bad(f"the query names {name!r} twice")
        where[name] = _json(text, f"the value of {name!r} in the query")
        try:
            normal_value(where[name])
        except InvalidMetadataError as error:
            raise bad(str(error)) from None
    return where


def conflict(key: str, expected: Base, found: Base) -> Problem:
    """Return the problem of a write whose base isn't there."""
    wanted = _named(expected, "what the conditions name")
    there = _named(found, "something else")
    return Problem(
        412,
        "conflict",
        "The key isn't what the author of the change had seen",
        f"the change was made over {wanted}, but there is {there}; read the key again and redo "
        "the change",
        key=key,
        expected=_spelled(expected),
        found=_spelled(found),
    )


def _named(version: Base, otherwise: str) -> str:
    if version is ABSENT:
        return "no such key"
    return otherwise if version is None else version


def _spelled(version: Base) -> str | None:
    return "absent" if version is ABSENT else version


# -- header fields -----------------------------------------------------------------------


def encode_metadata(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the value of ``Mountcache-Metadata``."""
    return base64.urlsafe_b64encode(spelling(metadata).encode()).rstrip(b"=").decode()


def decode_metadata(text: str) -> dict[str, Any]:
    """Return the metadata that a ``Mountcache-Metadata`` spells."""
    try:
        if len(text) > METADATA_HEADER_LIMIT:
            raise ValueError(f"{len(text):,} characters, where {METADATA_HEADER_LIMIT:,} are most")
        data = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error) as error:
        raise bad(f"Mountcache-Metadata isn't base64url of metadata: {error}") from None
    return parse_metadata(data, "Mountcache-Metadata")


def parse_metadata(data: bytes, where: str) -> dict[str, Any]:
    """Return the metadata that JSON text spells.

    Raises
    ------
    Problem
        If it is no JSON object, or has what metadata can't have.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise bad(f"{where} isn't UTF-8") from None
    metadata = _json(text, where)
    try:
        spelling(metadata)
    except InvalidMetadataError as error:
        raise Problem(400, "bad-metadata", "This can't be metadata", str(error)) from None
    found: dict[str, Any] = metadata
    return found


def _json(text: str, where: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise bad(f"{where} isn't JSON: {error}") from None


def etag(version: str) -> str:
    """Return the strong entity tag of a version."""
    return f'"{version}"'


def http_date(seconds: float) -> str:
    """Return a time since 1970 as an IMF-fixdate."""
    return _http_date(int(seconds))


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def repr_digest(sha256: str) -> str:
    """Return the ``Repr-Digest`` (RFC 9530) of a digest in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


_DIGESTS = {"sha-256": 32, "sha-512": 64}
_DIGEST = re.compile(r"\s*([a-z0-9*_.-]+)\s*=\s*:([A-Za-z0-9+/=]*):\s*")


def digest_claims(text: str | None, name: str) -> dict[str, bytes]:
    """Return what a ``Content-Digest`` or ``Repr-Digest`` says, by the names of hashlib.

    Algorithms that aren't known here are left out, as RFC 9530 asks.
    """
    claims: dict[str, bytes] = {}
    for item in text.split(",") if text else ():
        found = _DIGEST.fullmatch(item)
        if found is None:
            raise bad(f"{name} is spelled sha-256=:BASE64:, not {item.strip()[:80]!r}")
        length = _DIGESTS.get(found[1])
        if length is None:
            continue
        try:
            digest = base64.b64decode(found[2], validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != length:
            raise bad(f"{name} has a {found[1]} that isn't {length} bytes in base64")
        claims[found[1].replace("-", "")] = digest
    return claims


def operation_id(text: str | None) -> str:
    """Return the operation id in an ``Idempotency-Key``, bare or quoted; "" if there is none."""
    if text is None:
        return ""
    found = re.fullmatch(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})', text.strip())
    if found is None:
        raise bad("Idempotency-Key is 1 to 255 characters of ASCII without spaces and quotes")
    return found[1] or found[2]


def accepts(text: str | None, wanted: str) -> bool:
    """Return whether an Accept or Accept-Encoding names `wanted`, and doesn't refuse it."""
    for item in (text or "").lower().split(","):
        name, *parameters = (each.strip() for each in item.split(";"))
        if name == wanted:
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", each) for each in parameters)
    return False


_LOOPBACK = re.compile(
    r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE | re.ASCII
)


def is_loopback_host(host: str) -> bool:
    """Return whether a request's Host names this machine to itself.

    A page of a stranger whose name was made to resolve to 127.0.0.1 comes with its own.
    """
    return _LOOPBACK.fullmatch(host.strip()) is not None
