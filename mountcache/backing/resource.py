"""The data of keys as resources: asked for whole, in part, or only whether they changed."""

from __future__ import annotations

import copy
import io
import mimetypes
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from mountcache.abc import Facts, Value, first_bytes
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import Validators, conditions, facts_from, facts_of_304
from mountcache.backing.http import Answer, Transport
from mountcache.backing.wire import features_of, is_ours
from mountcache.errors import (
    ChangedWhileReadingError,
    IntegrityError,
    StoreUnavailableError,
    UpstreamError,
)

__all__ = ["Data", "RemoteValue", "ask_again", "not_ours"]

_GONE: Final = (404, 410)
_PART: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def ask_again(
    ask: Callable[[Mapping[str, str], tuple[int, ...]], Answer], validators: Validators
) -> Answer:
    """Ask for what is there now unless it is what `validators` name: 200, or 304 and closed.

    A 304 that names another version confirms nothing, nor does one to a question without
    condition.

    Parameters
    ----------
    ask
        Asks with these header fields, and takes these statuses.
    validators
        What is here.
    """
    condition = conditions(validators)
    if condition:
        answer = ask(condition, (200, 304))
        if answer.status != 304:
            return answer
        answer.body.close()
        tags = [
            tag and tag.removeprefix("W/") for tag in (answer.headers.get("ETag"), validators.etag)
        ]
        if None in tags or tags[0] == tags[1]:
            return answer
    return ask({}, (200,))


def not_ours(what: str, *, maybe_applied: bool = False) -> StoreUnavailableError:
    """Return the error of an answer that a server of ours can't have given."""
    return StoreUnavailableError(
        f"{what}: the answer isn't that of the mountcache server which was there before, but of a "
        "proxy or log-in page; log in to the network, or connect again if the server was replaced",
        maybe_applied=maybe_applied,
    )


class Data:
    """The data of all keys of one remote store.

    Parameters
    ----------
    transport
        Who asks.
    url_of
        Gives the URL of a key's data.
    clock
        Seconds since 1970.
    """

    def __init__(
        self,
        transport: Transport | FileTransport,
        url_of: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self.transport = transport
        self.url_of = url_of
        self.clock = clock
        self.ours: bool | None = None
        """Whether upstream says ``Mountcache: 1``; None: not asked yet."""
        self.features: frozenset[str] = frozenset()
        """What it says that it can do besides."""

    def note(self, headers: Mapping[str, str]) -> bool:
        """Note what an answer says of the server; return whether it is one of ours."""
        self.ours, self.features = is_ours(headers), features_of(headers)
        return self.ours

    def ask(
        self, method: str, key: str, *, headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (200,), url: str | None = None, what: str = "",
    ) -> Answer:  # fmt: skip
        """Return the answer about a key.

        Raises
        ------
        KeyError
            If it isn't there.
        StoreUnavailableError
            Also if what came is a page of HTML, and the key's name says something else.
        """
        answer = self.transport.request(
            method, url or self.url_of(key), what or repr(key), headers=headers,
            accept=(*accept, *_GONE),
        )  # fmt: skip
        if self.ours and not is_ours(answer.headers):
            answer.body.close()
            raise not_ours(what or repr(key))
        self.note(answer.headers)
        if answer.status in _GONE:
            answer.body.close()
            raise KeyError(key)
        if answer.status == 200 and method == "GET" and "Content-Range" in answer.headers:
            answer.body.close()
            raise UpstreamError(
                f"{what or repr(key)}: upstream sent a part where it said the whole"
            )
        if url is None and not self.ours and answer.status in (200, 206):
            self._refuse_page(key, answer)
        return answer

    def _refuse_page(self, key: str, answer: Answer) -> None:
        """Refuse a log-in page, or a friendly word that something is missing."""
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        expected = mimetypes.guess_type(key)[0]
        if kind == "text/html" and expected not in (None, "text/html", "application/xhtml+xml"):
            answer.body.close()
            raise StoreUnavailableError(
                f"{key!r}: upstream sent a page of HTML where {expected} was expected; log in to "
                "the network or server, or let the server give the type that it is of",
                answered=True,
            )

    def facts(self, key: str, headers: Mapping[str, str]) -> Facts:
        """Return what an answer says of the data."""
        return replace(facts_from(headers, now=self.clock()), names_metadata=is_ours(headers))

    def confirmed(self, validators: Validators, headers: Mapping[str, str]) -> Facts:
        """Return what a 304 adds to the copy that `validators` came from."""
        return facts_of_304(headers, now=self.clock())

    def head(self, key: str) -> Mapping[str, str]:
        """Return the headers of the data of a key."""
        answer = self.ask("HEAD", key)
        answer.body.close()
        return answer.headers

    def again(self, key: str, validators: Validators) -> Answer:
        """Ask for the data if it isn't what `validators` name: 200, or 304 and closed."""
        return ask_again(
            lambda headers, accept: self.ask("GET", key, headers=headers, accept=accept),
            validators,
        )

    def part(self, key: str, start: int, etag: str) -> io.BufferedIOBase:
        """Return a stream of the data from byte `start` on, of the version that `etag` names.

        Raises
        ------
        ChangedWhileReadingError
            If upstream has another version, or gives no parts.
        """
        quoted = f'"{etag}"'
        try:
            answer = self.ask(
                "GET", key, accept=(200, 206, 412, 416),
                headers={"Range": f"bytes={start}-", "If-Range": quoted},
            )  # fmt: skip
        except KeyError:
            raise self.changed(key, "was deleted upstream") from None
        if answer.status != 206 or answer.headers.get("ETag") != quoted:
            answer.body.close()
            given = answer.status == 200 and answer.headers.get("ETag") == quoted
            raise self.changed(key, "comes whole only" if given else "was replaced upstream")
        found = _PART.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found.group(1)) != start:
            answer.body.close()
            raise IntegrityError(
                f"{key!r}: asked for the bytes from {start} on, upstream sent "
                f"{answer.headers.get('Content-Range', 'no Content-Range')!r}"
            )
        return cast("io.BufferedIOBase", answer.body)

    def changed(self, key: str, how: str = "was replaced upstream") -> ChangedWhileReadingError:
        """Return the error that tells of it."""
        return ChangedWhileReadingError(f"{key!r} {how} while it was being read; read it again")


class RemoteValue(Value):
    """What upstream shows under a key. Its data comes when it is asked for.

    Parameters
    ----------
    data
        Where its data is.
    key
        The key.
    facts
        What is known of it so far.
    metadata
        Its metadata, or what fetches it.
    answer
        An answer with the data, nothing of it read.
    facts_of
        Gives the facts that the headers of an answer with the data come to.
    """

    def __init__(
        self,
        data: Data,
        key: str,
        facts: Facts,
        metadata: Mapping[str, Any] | Callable[[], dict[str, Any]],
        answer: Answer | None = None,
        facts_of: Callable[[Mapping[str, str]], Facts] | None = None,
    ) -> None:
        self._data = data
        self._key = key
        self._facts = facts
        self._metadata = metadata
        self._answer = answer
        self._facts_of = facts_of or (lambda headers: data.facts(key, headers))

    @property
    def data(self) -> io.BufferedIOBase:
        answer, self._answer = self._answer, None
        if answer is None:
            try:
                answer = self._data.ask("GET", self._key)
            except KeyError:
                if self._facts.version is None:
                    raise
                raise self._data.changed(self._key, "was deleted upstream") from None
            facts = self._facts_of(answer.headers)
            if self._facts.version not in (None, facts.version):
                answer.body.close()
                raise self._data.changed(self._key)
            self._facts = facts
        return cast("io.BufferedIOBase", answer.body)

    @property
    def metadata(self) -> dict[str, Any]:
        if callable(self._metadata):
            self._metadata = self._metadata()
        return copy.deepcopy(dict(self._metadata))

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def version(self) -> str | None:
        return self._facts.version

    @property
    def size(self) -> int | None:
        return self._facts.size

    @property
    def modified(self) -> float | None:
        return self._facts.modified

    @property
    def mimetype(self) -> str:
        return self._facts.mimetype

    def range(self, start: int | None = None, end: int | None = None) -> io.BufferedIOBase:
        version = self._facts.version
        if start and version is not None and (end is None or end > start):
            self.close()
            try:
                etag = version.split(" ")[0]
                stream = self._data.part(self._key, start, etag)
            except ChangedWhileReadingError:
                pass  # the whole of it tells whether it changed
            else:
                return stream if end is None else first_bytes(stream, end - start)
        return super().range(start, end)

    def close(self) -> None:
        """Let go of an answer that nobody reads."""
        if self._answer is not None:
            self._answer.body.close()
            self._answer = None
