"""Uploads that can be resumed: bytes are sent piece by piece, and then named by a write.

In the spirit of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload); an upload's
URL is made of its digest, so that a client which knows its bytes needs to remember nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mountcache.errors import IntegrityError
from mountcache.local.uploads import Arrived, Upload, UploadOffsetError, Uploads
from mountcache.serve.answers import Answer
from mountcache.serve.body import Body, media_type
from mountcache.serve.served import Served
from mountcache.serve.wire import Problem, bad, digest_claims

__all__ = ["FEATURE", "add_to_upload", "arrived", "look_at_upload", "remove_upload"]

FEATURE = "uploads"
"""What a server says that takes them."""

_PARTIAL = "application/partial-upload"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _place(store: Served) -> Uploads:
    if store.uploads is None:
        raise Problem(
            501,
            "no-uploads",
            "Uploads can't be resumed here",
            "this server has no place for what has come in part; send the value in one PUT",
        )
    return store.uploads


def look_at_upload(store: Served, sha256: str) -> Answer:
    """Say how much of an upload has come."""
    found = _place(store).find(sha256)
    if found is None:
        raise _missing(sha256)
    return _told(found)


def remove_upload(store: Served, sha256: str) -> Answer:
    """Let go of an upload."""
    if not _place(store).remove(sha256):
        raise _missing(sha256)
    return Answer(204)


def add_to_upload(store: Served, sha256: str, headers: Mapping[str, str], body: Body) -> Answer:
    """Add the body of a request to an upload."""
    uploads = _place(store)
    kind, _ = media_type(headers.get("content-type"))
    if kind != _PARTIAL or "content-encoding" in headers:
        raise Problem(
            415,
            "bad-media-type",
            "The body is of another media type",
            f"a part of an upload is sent as {_PARTIAL}, without Content-Encoding",
        )
    length, offset = _number(headers, "Upload-Length"), _number(headers, "Upload-Offset")
    try:
        return _told(uploads.append(sha256, length, offset, body))
    except UploadOffsetError as error:
        raise _elsewhere(error) from None
    except IntegrityError as error:
        raise _wrong(error) from None


def arrived(store: Served, named: str, headers: Mapping[str, str]) -> Arrived:
    """Return the upload that a PUT names, all of it here and compared with its digest.

    Raises
    ------
    Problem
        If it isn't.
    """
    check_upload_name(named, headers)
    try:
        return _place(store).open(named)
    except UploadOffsetError as error:
        raise _elsewhere(error) from None
    except IntegrityError as error:
        raise _wrong(error) from None


def check_upload_name(named: str, headers: Mapping[str, str]) -> None:
    """Check what a PUT says of the upload that it names."""
    if _SHA256.fullmatch(named) is None:
        raise bad("Mountcache-Upload is the sha256 of an upload, 64 hex digits in lower case")
    claims = digest_claims(headers.get("repr-digest"), "Repr-Digest")
    if claims.keys() - {"sha256"} or claims.get("sha256", bytes.fromhex(named)).hex() != named:
        raise bad("Repr-Digest is the sha256 that Mountcache-Upload names, or isn't sent")


def _told(upload: Upload) -> Answer:
    return Answer(204, {"Upload-Offset": str(upload.offset), "Upload-Length": str(upload.length)})


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name.lower(), "")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise bad(f"{name} is a number of bytes, not {text[:40]!r}")
    return int(text)


def _missing(sha256: str) -> Problem:
    return Problem(
        404, "no-such-upload", "There is no such upload", f"nothing of {sha256} has come"
    )


def _elsewhere(error: UploadOffsetError) -> Problem:
    return Problem(
        409,
        "upload-offset",
        "The upload goes on elsewhere",
        str(error),
        headers={"Upload-Offset": str(error.offset)},
        offset=error.offset,
    )


def _wrong(error: IntegrityError) -> Problem:
    return Problem(400, "wrong-digest", "The data isn't what its digest says", str(error))
