"""Large values to a server of our own: sent so that one which was cut goes on where it was.

The bytes go to an upload that is named by their digest, from wherever the server has come to,
and then a write names it. So nothing needs to be remembered here: whoever has the bytes can go
on. docs/protocol.md is the full text.
"""

from __future__ import annotations

import io
from typing import Final

from mountcache.abc import Readable, Value, first_bytes
from mountcache.backing.files import FileTransport
from mountcache.backing.http import Answer, Payload, Transport
from mountcache.backing.wire import is_ours
from mountcache.errors import IntegrityError, StoreUnavailableError

__all__ = ["UPLOADS", "UPLOAD_FROM", "Uploads"]

UPLOADS: Final = "uploads"
"""What a server says that takes them."""

UPLOAD_FROM: Final = 8 * 1048576
"""Bytes from which on a value is sent so."""

_FIRST_PIECE: Final = 1048576
_LONGEST_PIECE: Final = 16 * 1048576
"""Bytes of one request. What stands before a server may keep a body until all of it has come."""

_TRIES: Final = 4
"""How often in a row it may be in vain."""
_TAKEN: Final = (200, 204)
_NOT_TAKEN: Final = (400, 404, 405, 409, 411, 413, 415, 501, 507)


class Uploads:
    """Sends data to a server that says it takes uploads.

    Parameters
    ----------
    transport
        Who asks.
    url
        What uploads are under, ending in "/".
    """

    def __init__(self, transport: Transport | FileTransport, url: str) -> None:
        self._transport = transport
        self._url = url

    def send(self, key: str, value: Value, size: int, sha256: str) -> bool:
        """Send what the server lacks of some data; tell whether it has all of it now.

        Nothing of a key is changed by it. False if the server doesn't take it so.

        Raises
        ------
        StoreUnavailableError
            If it can't be reached any more. What it has stays there for a day.
        """
        url, what = f"{self._url}{sha256}", f"the data of {key!r}"
        offset = best = self._offset(url, what)
        in_vain, piece = 0, _FIRST_PIECE
        while 0 <= offset < size:
            try:
                answer = self._part(url, what, value, size, offset, min(piece, size - offset))
            except StoreUnavailableError as error:
                # It changed no key, whether it arrived or not.
                error.maybe_applied = False
                in_vain += 1
                if in_vain >= _TRIES:
                    raise
                offset, piece = self._offset(url, what), _FIRST_PIECE
            else:
                if answer.status not in (*_TAKEN, 400, 409) or not is_ours(answer.headers):
                    return False
                # 400: what came wasn't what the digest says, and has gone.
                offset = self._offset(url, what) if answer.status == 400 else _number(answer)
                if answer.status in _TAKEN:
                    piece = min(2 * piece, _LONGEST_PIECE)
                else:
                    # The server may still take in what an earlier connection brought.
                    in_vain, piece = in_vain + 1, _FIRST_PIECE
                if in_vain >= _TRIES:
                    return False
            if offset > best:
                in_vain, best = 0, offset
        return offset == size

    def _offset(self, url: str, what: str) -> int:
        """Return how much the server has; -1 if it takes no uploads."""
        answer = self._transport.request("HEAD", url, what, accept=(*_TAKEN, *_NOT_TAKEN))
        answer.body.close()
        if not is_ours(answer.headers):
            return -1
        if answer.status == 404:
            return 0
        return _number(answer) if answer.status in _TAKEN else -1

    def _part(
        self, url: str, what: str, value: Value, size: int, offset: int, length: int
    ) -> Answer:
        answer = self._transport.request(
            "PATCH", url, what,
            headers={
                "Content-Type": "application/partial-upload",
                "Upload-Length": str(size),
                "Upload-Offset": str(offset),
            },
            payload=Payload(lambda: _from(value, offset, length, what), length),
            accept=(*_TAKEN, *_NOT_TAKEN),
        )  # fmt: skip
        answer.body.close()
        return answer


def _from(value: Value, offset: int, length: int, what: str) -> Readable:
    """Return some of the data of a value, from a byte on."""
    stream = value.data
    if offset and stream.seek(offset, io.SEEK_SET) != offset:
        raise IntegrityError(f"{what} can't be read from byte {offset:,} on")
    return first_bytes(stream, length)


def _number(answer: Answer) -> int:
    """Return where an upload goes on; -1 if the answer doesn't say."""
    text = answer.headers.get("Upload-Offset", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
