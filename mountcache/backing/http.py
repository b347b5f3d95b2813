"""The transport: one request and its answer, whatever lies between.

requests holds session, logins, proxies and certificates. The bulk goes past the session, through
the urllib3 pool of its adapter, where the login comes to one header. Both share what follows:
redirects, repeats, and one error for each way in which an answer can fail to come.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
from requests.utils import requote_uri
from urllib3 import Timeout
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from mountcache.abc import Readable
from mountcache.backing.connection import (
    DECODABLE,
    Body,
    ConnectionDroppedError,
    DecodedBody,
    HTTPBody,
    Waits,
    waits,
)
from mountcache.backing.credentials import login_of, may_change
from mountcache.backing.freshness import parse_date
from mountcache.backing.limits import Limits
from mountcache.backing.pace import NOBODYS, Pace, PacedBody
from mountcache.backing.session import OwnSession, environment_proxies, plain_session
from mountcache.backing.tls import TLS
from mountcache.backing.urls import PORTS, origin_of, shown, target_of
from mountcache.backing.wire import is_ours
from mountcache.deadline import end_of_call, within
from mountcache.errors import (
    AuthorizationError,
    ConfigurationError,
    IntegrityError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.locks import Lock

__all__ = ["Answer", "Payload", "Transport"]

_REDIRECTS: Final = 10
_MOVED: Final = (301, 302, 303, 307, 308)
_TROUBLE: Final = (408, 500, 502, 503, 504)
_NOT_OFFLINE: Final = (501, 505, 507, 508)
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
_DETAIL: Final = 2048
_SECRET: Final = 6
_OPEN: Final = re.compile("(?i:accept.*|connection|content-.*|host|if-.*|range|user-agent)")
"""Header fields that tell upstream nothing that others mustn't know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer. Read its body to the end, or close it."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Body
    asked: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The header fields of the request, with the secrets that are in them."""

    def read(self, limit: int) -> bytes:
        """Return a body of at most `limit` bytes, and close it.

        Raises
        ------
        UpstreamError
            If it is longer.
        """
        try:
            data = self.body.read(limit + 1)
            # Only what comes after its last byte tells that a body is whole.
            data += self.body.read(1) if len(data) <= limit else b""
        finally:
            self.body.close()
        if len(data) > limit:
            raise UpstreamError(f"upstream sent more than {limit:,} bytes where fewer make sense")
        return data


@dataclass(frozen=True, slots=True)
class Payload:
    """What a request sends."""

    open: Callable[[], Readable]
    """Gives the bytes, from their beginning each time."""
    length: int


class _Sent:
    """A payload on its way, which tells its own failures from those of the connection."""

    def __init__(self, payload: Payload, what: str, pace: Pace) -> None:
        self.failure: Exception | None = None
        self._pace = pace
        self._payload = payload
        self._what = what
        self._at = 0
        self._stream: Readable | None = None

    def __len__(self) -> int:
        return self._payload.length

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(65536), b"")

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        assert at == 0
        self._at, self._stream = 0, None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except Exception as error:
            self.failure = error
            raise

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._payload.open()
        left = self._payload.length - self._at
        paced = self._pace.counts_bytes
        if paced:
            size = self._pace.piece(left if size < 0 else min(size, left))
        piece = self._stream.read(left if size < 0 else min(size, left)) if left else b""
        self._at += len(piece)
        if not piece and left:
            raise IntegrityError(
                f"{self._what} has {self._at:,} bytes where {self._payload.length:,} were noted"
            )
        if left and self._at == self._payload.length and self._stream.read(1):
            raise IntegrityError(
                f"{self._what} has more than the {self._payload.length:,} bytes that were noted"
            )
        if paced:
            self._wait_for(len(piece))
        return piece

    def _wait_for(self, count: int) -> None:
        """Wait for the time that so many bytes may take, unless the call is over before."""
        end = end_of_call()
        self._pace.passed(count, end)
        if end is not None and time.monotonic() >= end:
            raise StoreUnavailableError(
                f"{self._what} couldn't be sent before the deadline of the call at the rate that "
                "is allowed",
                maybe_applied=True,
            )


class _Failed(Exception):
    """No answer came.

    Parameters
    ----------
    error
        What to raise in the end.
    sent
        Whether anything was sent before.
    tries
        How often to try again at most.
    """

    def __init__(self, error: Exception, *, sent: bool, tries: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.sent = sent
        self.tries = tries


class _Pauses:
    """The pauses of one request before its repeats, which in all aren't longer than one may be.

    Parameters
    ----------
    stopping
        Set when the store is closed.
    deadline
        When the call has to be over, on the monotonic clock.
    """

    def __init__(self, stopping: threading.Event, deadline: float | None) -> None:
        self.taken = 0
        self._left = _LONGEST_PAUSE
        self._stopping = stopping
        self._deadline = deadline

    def take(self, headers: Mapping[str, str] | None) -> bool:
        """Wait, as long as `headers` ask for; return whether there is time for a repeat."""
        pause = _FIRST_PAUSE * 2**self.taken * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        said = None if headers is None else _retry_after(headers)
        if said is not None:
            pause = said
        self._left -= pause
        if self._left < 0:
            return False
        if self._deadline is not None and time.monotonic() + pause >= self._deadline:
            return False
        self.taken += 1
        return not self._stopping.wait(pause)


class Transport:
    """Requests to one remote store.

    Parameters
    ----------
    *urls
        Where the store is. Credentials go to their origins and nowhere else.
    timeout
        Seconds to wait for a connection and for the next bytes; one number is both.
    deadline
        Seconds that a call may take in all; None: as long as bytes come.
    retries
        How often a request that is safe to repeat is repeated.
    tls
        How the server proves who it is, and we to it; None: as the environment says.
    limits
        How fast it may be asked.
    """

    def __init__(
        self,
        *urls: str,
        timeout: float | tuple[float, float],
        deadline: float | None,
        retries: int,
        tls: TLS | None,
        limits: Limits | None = None,
    ) -> None:
        self._tls = tls or TLS()
        self._timeout = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        if min(self._timeout) <= 0 or (deadline is not None and deadline <= 0):
            raise ConfigurationError("timeout and deadline are more than 0 seconds")
        self._deadline = deadline
        self._retries = retries
        self._root = urls[0]
        self._homes = frozenset(origin_of(url) for url in urls)
        self._lock = Lock()
        self._stopping = threading.Event()
        self.pace = Pace(limits, sleep=self._stopping.wait)
        self._waits = Waits()
        self._credentials: object = None
        self._last: tuple[Mapping[str, str], float] | None = None
        self._session: OwnSession | None = None
        self._stranger: requests.Session | None = None

    # -- sessions ------------------------------------------------------------------------

    def open(self, credentials: object) -> None:
        """Ask with these credentials from now on.

        Raises
        ------
        ConfigurationError
            If they are of no kind that is known.
        """
        if not may_change(credentials):
            login_of(credentials, self._root)
        with self._lock:
            self._credentials = credentials
            self._close_sessions()
        self._stopping.clear()
        self.pace.open()

    @property
    def named(self) -> str | None:
        """The credentials that are only named, such as "netrc"; None for all others."""
        return self._credentials if isinstance(self._credentials, str) else None

    def close(self) -> None:
        """Close all connections, and end what waits for an answer or a repeat."""
        self._stopping.set()
        self.pace.close()
        waiting, self._waits = self._waits, Waits()
        waiting.give_up()
        with self._lock:
            self._close_sessions()

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which upstream's clock was ahead of ours when it answered last, to the second;
        None if it hasn't, or told no time.
        """
        if self._last is None:
            return None
        headers, when = self._last
        date = parse_date(headers.get("Date"))
        if date is None:
            return None
        age = headers.get("Age", "").strip()
        return date + (float(age) if age.isascii() and age.isdigit() else 0.0) - when

    @property
    def software(self) -> str | None:
        """What upstream called itself when it answered last; None if it hasn't, or didn't say."""
        return None if self._last is None else self._last[0].get("Server")

    @property
    def user_tag(self) -> str | None:
        """The name under which permissions know the user."""
        return self._own().login.user_tag

    def _close_sessions(self) -> None:
        for session in (self._session, self._stranger):
            if session is not None:
                session.close()
        self._session = self._stranger = None

    def _own(self) -> OwnSession:
        """Return the session for the store's own origins."""
        with self._lock:
            # The connections of a session are those of the process that made it.
            if self._session is None or self._session.pid != os.getpid():
                login = login_of(self._credentials, self._root)
                self._session = OwnSession(login, self._homes, self._tls)
            return self._session

    def _strange(self) -> requests.Session:
        """Return the session for where redirects lead: nobody is told who asks."""
        with self._lock:
            if self._stranger is None:
                self._stranger = plain_session()
            return self._stranger

    # -- requests ------------------------------------------------------------------------

    def request(
        self,
        method: str,
        url: str,
        what: str,
        *,
        accept: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        payload: Payload | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Return the answer to a request.

        Parameters
        ----------
        method, url
            The request.
        what
            What it is about, for messages.
        accept
            The statuses that mean something to the caller.
        headers
            Header fields.
        payload
            The body of the request.
        repeatable
            Whether it does no harm a second time; None: as the method says.

        Raises
        ------
        AuthorizationError
            401, 403.
        StoreUnavailableError
            No answer, or one of 5xx; `maybe_applied` if it was a write that may have arrived.
        UpstreamError
            Any other answer that isn't accepted, and faults of TLS.
        """
        reads = method in ("GET", "HEAD")
        repeatable = reads if repeatable is None else repeatable
        own_end = None if self._deadline is None else time.monotonic() + self._deadline
        deadline = end_of_call(self._deadline)
        pauses = _Pauses(self._stopping, deadline)
        redirects = 0
        renewed = False
        while True:
            own = self._own() if origin_of(url) in self._homes else None
            try:
                with within(None if deadline is None else deadline - time.monotonic()):
                    answer = self._once(own, method, url, what, headers or {}, payload, own_end)
            except _Failed as failed:
                again = (repeatable or not failed.sent) and pauses.taken < failed.tries
                if again and pauses.take(None):
                    continue
                if isinstance(failed.error, StoreUnavailableError):
                    failed.error.maybe_applied = failed.sent and not reads
                raise failed.error from failed.__cause__
            status = answer.status
            if status in _MOVED and "Location" in answer.headers and status not in accept:
                answer.body.close()
                redirects += 1
                url = self._follow(method, url, what, answer, redirects)
                if method != "HEAD" and status == 303:
                    method = "GET"
                continue
            if status == 401 and own and not renewed and may_change(self._credentials):
                answer.body.close()
                renewed = True
                with self._lock:
                    # Of many threads that are refused, the first asks for the login anew.
                    if self._session is own:
                        self._close_sessions()
                continue
            if status in accept:
                return answer
            trouble = status in _TROUBLE and repeatable and not _of_a_proxy(answer)
            if (status == 429 or trouble) and pauses.taken < self._retries:
                answer.body.close()
                if pauses.take(answer.headers):
                    continue
            raise self._refusal(answer, what, reads=reads)

    def _follow(self, method: str, url: str, what: str, answer: Answer, count: int) -> str:
        """Return where a redirect leads."""
        try:
            target = requote_uri(urljoin(url, _utf8(answer.headers["Location"])))
            origin, old, new = origin_of(target), urlsplit(url), urlsplit(target)
            new.port  # noqa: B018 - raises where there is none that can be
        except ValueError:
            raise UpstreamError(
                f"{what}: {shown(url)} redirects to what is no URL; set the URL that it has now",
                status=answer.status,
            ) from None
        reason = None
        if count > _REDIRECTS:
            reason = f"more than {_REDIRECTS} times"
        elif new.scheme not in PORTS or not new.hostname:
            reason = f"to {shown(target)}, which isn't http or https"
        elif old.scheme == "https" and new.scheme == "http":
            reason = f"from https to {shown(target)}, which isn't encrypted"
        elif method not in ("GET", "HEAD"):
            if origin != origin_of(url):
                reason = f"to {shown(target)}, and a write isn't sent to another server"
            elif answer.status not in (307, 308):
                reason = f"with {answer.status}, which turns a write into a read"
        if reason is not None:
            raise UpstreamError(
                f"{what}: {shown(url)} redirects {reason}; set the URL that it has now",
                status=answer.status,
            )
        return urlunsplit(new._replace(fragment=""))

    def _once(
        self,
        own: OwnSession | None,
        method: str,
        url: str,
        what: str,
        headers: Mapping[str, str],
        payload: Payload | None,
        deadline: float | None,
    ) -> Answer:
        if not self.pace.counts_requests:
            slot = NOBODYS
        else:
            try:
                slot = self.pace.turn(what, self._timeout[1])
            except StoreUnavailableError as error:
                raise _Failed(error, sent=False, tries=0) from None
        try:
            raw, asked = self._sent(own, method, url, what, headers, payload)
        except BaseException:
            slot.leave()
            raise
        self._last = (raw.headers, time.time())
        plain = HTTPBody(raw, what, deadline)
        body: Body = plain
        if slot is not NOBODYS or self.pace.counts_bytes:
            body = PacedBody(plain, self.pace, slot, deadline)
        coding = raw.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            if coding not in DECODABLE:
                body.close()
                raise UpstreamError(f"{what} came in the Content-Encoding {coding!r}, unasked")
            body = DecodedBody(body, what)
        return Answer(raw.status, raw.headers, body, asked)

    def _sent(
        self,
        own: OwnSession | None,
        method: str,
        url: str,
        what: str,
        headers: Mapping[str, str],
        payload: Payload | None,
    ) -> tuple[Any, Mapping[str, str]]:
        """Send a request; return what urllib3 got, and the header fields that were sent."""
        connect, read = self._timeout
        end = end_of_call()
        left = math.inf if end is None else max(0.01, end - time.monotonic())
        connect = min(connect, left)
        waits.set(self._waits)
        fields = {"Accept-Encoding": "identity", "Accept": "*/*", **headers}
        sent = None if payload is None else _Sent(payload, what, self.pace)
        try:
            pool = None if own is None else own.pool(url)
            if own is not None and pool is not None:
                if sent is not None:
                    fields["Content-Length"] = str(len(sent))
                asked: Mapping[str, str] = own.fields(fields)
                raw = pool.urlopen(
                    method, target_of(url), body=sent or None, headers=asked,
                    retries=False, redirect=False, assert_same_host=False,
                    timeout=Timeout(connect=connect, read=read), preload_content=False,
                    decode_content=False,
                )  # fmt: skip
            else:
                session = self._strange() if own is None else own.session
                response = session.request(
                    method, url, data=sent or None, headers=fields, stream=True,
                    allow_redirects=False, timeout=(connect, min(read, left)),
                    proxies=environment_proxies(url),
                    verify=None if own is None else own.verify,
                    cert=None if own is None else own.cert,
                )  # fmt: skip
                raw, asked = response.raw, response.request.headers
        except (requests.RequestException, HTTPError, OSError) as error:
            if sent is not None and sent.failure is not None:
                raise sent.failure from None
            raise self._failed(error, url, what) from error
        return raw, asked

    def _failed(self, error: Exception, url: str, what: str) -> _Failed:
        cause = _cause(error)
        where = shown(origin_of(url))
        connect, read = self._timeout
        match cause:
            case SSLError() if "EOF" not in str(cause):
                reason = str(cause).split("] ")[-1].split(" (_ssl")[0]
                return _Failed(
                    UpstreamError(
                        f"{what}: the TLS certificate or set-up of {where} isn't accepted: "
                        f"{reason}; correct it, or name its authority in REQUESTS_CA_BUNDLE "
                        "or as ca in mountcache.toml"
                    ),
                    sent=False, tries=0,
                )  # fmt: skip
            case OSError() if cause.errno is None and "TLS" in str(cause):
                # What requests says of files that aren't there.
                return _Failed(
                    ConfigurationError(
                        f"{what}: the certificates for {where} can't be used: {cause}; correct "
                        "REQUESTS_CA_BUNDLE, or ca, client_cert and client_key in mountcache.toml"
                    ),
                    sent=False, tries=0,
                )  # fmt: skip
            case NameResolutionError():
                text, sent, tries = f"the host of {where} isn't known", False, 1
            case NewConnectionError():
                reason = str(cause.__cause__ or cause).split("] ")[-1]
                text, sent, tries = f"{where} can't be reached: {reason}", False, 1
            case ConnectTimeoutError():
                text, sent, tries = f"no connection to {where} within {connect:g} s", False, 0
            case ReadTimeoutError() | TimeoutError():
                text, sent, tries = f"no answer from {where} within {read:g} s", True, 0
            case ClosedPoolError():
                # Another thread has just renewed the login, or disconnected.
                text, sent, tries = f"the connections to {where} were closed", False, 1
            case requests.exceptions.InvalidURL() | requests.exceptions.InvalidSchema():
                return _Failed(
                    ConfigurationError(f"{where} is no URL that can be asked: {cause}"),
                    sent=False, tries=0,
                )  # fmt: skip
            case ProtocolError(args=(_, ConnectionDroppedError())):
                # A server may close what it kept open at any time: no fault to count.
                text, sent, tries = f"{where} closed the connection", True, self._retries + 1
            case _:
                text, sent, tries = f"the connection to {where} broke", True, self._retries
        return _Failed(StoreUnavailableError(f"{what}: {text}; try again"), sent=sent, tries=tries)

    def _refusal(self, answer: Answer, what: str, *, reads: bool) -> Exception:
        """Return the error that an answer comes to."""
        status = answer.status
        text = f"{what}: upstream answered {status}{_detail(answer)}"
        match status:
            case 401:
                return AuthorizationError(f"{text}; give other credentials", status=status)
            case 403:
                return AuthorizationError(f"{text}; these credentials may not do this", status=403)
            case 429:
                return UpstreamError(f"{text}: too many requests; try again later", status=429)
            case _ if _of_a_proxy(answer):
                return StoreUnavailableError(text, maybe_applied=not reads, answered=True)
            case _ if (status >= 500 or status == 408) and status not in _NOT_OFFLINE:
                return StoreUnavailableError(
                    f"{text}; try again later", maybe_applied=not reads, status=status
                )
        return UpstreamError(text, status=status)


# -- what went wrong -----------------------------------------------------------------------


def _cause(error: BaseException) -> BaseException:
    """Return what lies under the wrappings of requests and urllib3."""
    while True:
        inner: object = None
        if isinstance(error, MaxRetryError):
            inner = error.reason
        elif isinstance(error, requests.RequestException) and error.args:
            inner = error.args[0]
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _of_a_proxy(answer: Answer) -> bool:
    """Whether a proxy of our own says that what lies behind it can't be reached or used."""
    return answer.status in (502, 504) and is_ours(answer.headers)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds upstream asks to be left alone (RFC 9110 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    when, now = parse_date(text), parse_date(headers.get("Date"))
    return None if when is None else max(0.0, when - (time.time() if now is None else now))


def _harmless(text: str, asked: Mapping[str, str]) -> str:
    """Return what upstream says without what a terminal obeys, and without what it was told.

    A server that repeats the request in its answer would have secrets shown and logged.
    """
    text = "".join(char if char.isprintable() else " " for char in text)
    for name, said in asked.items():
        if _OPEN.fullmatch(name) is None:
            for secret in (said, *re.split("[ ;=,]+", said)):
                if len(secret) >= _SECRET:
                    text = text.replace(secret, "...")
    return text


def _utf8(location: str) -> str:
    """Return a Location as its server meant it: many send UTF-8 as it is."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def _detail(answer: Answer) -> str:
    """Return what the answer says in words, if it is a problem document (RFC 9457)."""
    try:
        data = answer.body.read(_DETAIL)
        if "problem+json" in answer.headers.get("Content-Type", ""):
            match json.loads(data):
                case {"detail": str(detail)}:
                    return f" ({_harmless(detail, answer.asked)[:300]})"
    except (StoreUnavailableError, IntegrityError, ValueError, RecursionError):
        pass  # the status says it all the same
    finally:
        answer.body.close()
    return ""
