"""What our own server adds to the two layouts: headers for metadata and digests."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from mountcache.errors import UpstreamError

__all__ = [
    "LONGEST_HEADER",
    "decode_metadata",
    "digest_of",
    "encode_metadata",
    "features_of",
    "is_ours",
    "parse_object",
]

LONGEST_HEADER = 4096
"""Characters of metadata that travel in a header."""

_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


def is_ours(headers: Mapping[str, str]) -> bool:
    """Return whether an answer came from a server that says ``Mountcache: 1``."""
    return headers.get("Mountcache") == "1"


def features_of(headers: Mapping[str, str]) -> frozenset[str]:
    """Return what a server of ours says that it can do besides."""
    names = headers.get("Mountcache-Features", "").split(",") if is_ours(headers) else ()
    return frozenset(name.strip() for name in names)


def digest_of(headers: Mapping[str, str]) -> str | None:
    """Return the sha256 that Repr-Digest promises, or Content-Digest of a whole (RFC 9530)."""
    for name in ("Repr-Digest", "Content-Digest"):
        found = _DIGEST.search(headers.get(name, ""))
        if found is not None and (name == "Repr-Digest" or "Content-Range" not in headers):
            return base64.b64decode(found.group(1)).hex()
    return None


def encode_metadata(meta: str) -> str:
    """Return metadata as JSON text in the form of a header."""
    return base64.urlsafe_b64encode(meta.encode()).rstrip(b"=").decode()


def decode_metadata(headers: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the metadata that the headers of an answer carry, None if they carry none."""
    text = headers.get("Mountcache-Metadata")
    if text is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise UpstreamError(
            "upstream sent a Mountcache-Metadata header that isn't base64"
        ) from None
    return parse_object(raw, "the Mountcache-Metadata header")


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object; UpstreamError names `what` if it isn't one."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        shown = raw[:40].decode("utf-8", "replace")
        raise UpstreamError(f"{what} isn't a JSON object; it begins {shown!r}")
    return found
