"""Which conditional writes a server enforces, found out by trying them on a scratch key.

Servers differ, and differ by condition: one takes ``If-None-Match`` in earnest and ignores
``If-Match``. So each is tried by itself, once where the server has to take the write and once where
it has to refuse it, and what is there is read after each: an answer alone proves nothing.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mountcache.abc import Enforced
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import strong_version
from mountcache.backing.http import Answer, Payload, Transport
from mountcache.errors import ConflictError, StoreError, UpstreamError

__all__ = ["Probe"]

_TAKEN: Final = range(200, 300)
_REFUSED: Final = 412
_ANSWERS: Final = (*_TAKEN, 400, 404, 405, 409, 410, _REFUSED, 417, 422, 428, 501)
"""What tells how a server takes a write; 401, 403 and 5xx tell that it can't be probed."""
_LONGEST: Final = 4096
_SETTLING: Final = 5.0
"""Seconds within which a server gives what was just written a strong entity tag, if it ever does;
Apache takes two."""
_EVERY: Final = 0.25

_PUT_FIRST = Callable[[Mapping[str, str], Payload], object]


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a server.

    Parameters
    ----------
    transport
        Who asks.
    url
        Of a scratch key that nobody else has.
    what
        What it is called in messages.
    put_first
        Sends the first PUT, with these header fields; makes the folders that it needs.
    wait
        Sleeps for some seconds.
    """

    transport: Transport | FileTransport
    url: str
    what: str
    put_first: _PUT_FIRST
    wait: Callable[[float], object] = time.sleep

    def run(self) -> Enforced:
        """Try all, and remove the scratch key.

        Raises
        ------
        StoreError
            If the server doesn't answer, doesn't let us write, or doesn't keep what it is given.
        """
        try:
            found = self._tried()
        except BaseException:
            with suppress(StoreError):
                self._remove()
            raise
        self._remove()
        if self._content() is not None:
            raise UpstreamError(
                f"{self.what} was written to find out what upstream compares, and is still there "
                "though its removal was answered well; remove it, nothing else was touched"
            )
        return found

    def _tried(self) -> Enforced:
        first = b"scratch"
        create = True
        try:
            self.put_first({"If-None-Match": "*"}, _payload(first))
        except (ConflictError, UpstreamError):
            create = False  # it refuses whatever has a condition, or writes altogether
            self.put_first({}, _payload(first))
        if self._content() != first:
            raise UpstreamError(
                f"{self.what}: upstream took {len(first)} bytes and shows others; it can't be "
                "relied on for writes"
            )
        create = create and self._refuses(first, b"created twice", {"If-None-Match": "*"})
        now = self._content()
        replace = now is not None and self._refuses(now, b"replaced", _other())
        if replace:
            replace = self._takes_the_right_one()
        now = self._content()
        delete = now is not None and self._refuses(now, None, _other())
        return Enforced(create, replace, delete)

    def _refuses(self, now: bytes, data: bytes | None, condition: Mapping[str, str]) -> bool:
        """Whether a write whose condition doesn't hold is refused, and what is there stays.

        Parameters
        ----------
        data
            What is to be written; None to delete.
        """
        return self._write(data, condition) == _REFUSED and self._content() == now

    def _takes_the_right_one(self) -> bool:
        """Whether what is there can be replaced by who names it, and then not once more."""
        tag = self._tag()
        if tag is None:
            return False  # it has no names for what could be replaced
        right, second = {"If-Match": tag}, b"a second one"
        if self._write(second, right) not in _TAKEN or self._content() != second:
            return False
        return self._refuses(second, b"and a third", right)

    def _tag(self) -> str | None:
        """Return the strong entity tag of what is there, once it has one."""
        for _ in range(int(_SETTLING / _EVERY)):
            answer = self._ask("HEAD")
            version = strong_version(answer.headers)
            if version is not None:
                return f'"{version}"'
            if "ETag" not in answer.headers:
                return None
            self.wait(_EVERY)
        return None

    # -- requests ------------------------------------------------------------------------

    def _ask(self, method: str) -> Answer:
        answer = self.transport.request(
            method, self.url, self.what, accept=(200, 404, 410),
            headers={"Cache-Control": "no-cache"},
        )  # fmt: skip
        if method == "HEAD":
            answer.body.close()
        return answer

    def _content(self) -> bytes | None:
        """Return what is there now; None if nothing is."""
        answer = self._ask("GET")
        data = answer.read(_LONGEST)
        return data if answer.status == 200 else None

    def _write(self, data: bytes | None, headers: Mapping[str, str]) -> int:
        answer = self.transport.request(
            "DELETE" if data is None else "PUT", self.url, self.what, accept=_ANSWERS,
            headers=headers, payload=None if data is None else _payload(data),
        )  # fmt: skip
        answer.body.close()
        return answer.status

    def _remove(self) -> None:
        status = self._write(None, {})
        if status not in (*_TAKEN, 404, 410):
            raise UpstreamError(
                f"{self.what} was written to find out what upstream compares, and can't be removed "
                f"again ({status}); remove it, nothing else was touched",
                status=status,
            )


def _payload(data: bytes) -> Payload:
    return Payload(lambda: io.BytesIO(data), len(data))


def _other() -> dict[str, str]:
    """Return the condition that something else be there than is."""
    return {"If-Match": f'"{uuid.uuid4().hex}"'}
