"""The transport against servers that do what servers shouldn't: real sockets, exact bytes."""

from __future__ import annotations

import base64
import gzip
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from mountcache.abc import ABSENT, NotModified
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    AuthorizationError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.values import StringValue
from tests.servers import (
    CLOSE,
    RESET,
    ByRequest,
    Nginx,
    Reply,
    Request,
    ScriptedServer,
    chunked,
    nginx,
    scripted,
    self_signed,
)

__all__ = ["nginx", "scripted"]

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
AT_ONCE = {"Retry-After": "0"}
A, B = Reply(200, b"A"), Reply(200, b"B")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep out what the machine says of proxies, certificates and log-ins."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def elsewhere() -> Iterator[ScriptedServer]:
    """Give a server of another origin."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def refused() -> Iterator[str]:
    """Give a URL where nobody listens, nor can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


def static(url: str, **others: Any) -> StaticURLStore:
    """Return a store whose key "a" is at /a."""
    others.setdefault("timeout", (5, 10))
    return StaticURLStore(url, "", None, **others)


def dynamic(server: ScriptedServer, **others: Any) -> DynamicURLStore:
    others.setdefault("timeout", (5, 10))
    return DynamicURLStore(f"{server.url}keys", f"{server.url}query", **others)


def put(store: DynamicURLStore, data: bytes = b"mine", *, op_id: str = "op") -> None:
    """Write the data of the key "a", and nothing else."""
    store.set_if("a", StringValue(data, {}), None, op_id, parts=frozenset({"data"}))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def said(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Return all that a traceback shows of an error of ours."""
    return f"{raised.value} {raised.value!r}"


# -- interim answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interim",
    [EARLY, PROCESSING, CONTINUE, EARLY * 3 + PROCESSING + CONTINUE],
    ids=["103", "102", "100", "several"],
)
def test_interim_answers_are_read_past(scripted: ScriptedServer, interim: bytes) -> None:
    scripted.on("GET", "/a", [interim, A]).on("GET", "/b", B)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
        assert store.to_bytes("b") == b"B"
    assert scripted.connections == 1


def test_late_answer_after_early_hints_isnt_the_answer_to_the_next_url(
    scripted: ScriptedServer,
) -> None:
    hinted, go_on = threading.Event(), threading.Event()
    scripted.on("GET", "/a", [EARLY, hinted.set, go_on, A]).on("GET", "/b", B)
    with static(scripted.url) as store, ThreadPoolExecutor() as pool:
        first = pool.submit(store.to_bytes, "a")
        assert hinted.wait(10)
        assert store.to_bytes("b") == b"B"
        go_on.set()
        assert first.result(10) == b"A"
        assert store.to_bytes("b") == b"B"


def test_interim_answers_through_a_session_are_read_past(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [EARLY, A]).on("GET", "/b", [PROCESSING, B])
    session = requests.Session()
    session.hooks["response"].append(lambda answer, **_: answer)
    with static(scripted.url) as store:
        store.connect(session)
        assert [store.to_bytes("a"), store.to_bytes("b")] == [b"A", b"B"]


def test_interim_answers_to_a_write_are_read_past(scripted: ScriptedServer) -> None:
    scripted.on("PUT", "/keys/a/data", [CONTINUE, PROCESSING, Reply(204)])
    with dynamic(scripted) as store:
        put(store)
    assert len(scripted.asked("PUT")) == 1


@pytest.mark.parametrize("interim", [EARLY, CONTINUE], ids=["103", "100"])
def test_interim_answers_without_end_are_an_error(scripted: ScriptedServer, interim: bytes) -> None:
    scripted.on("GET", "/a", [interim * 5000, A]).on("GET", "/b", B)
    with static(scripted.url, retries=0) as store:
        with pytest.raises(StoreUnavailableError, match="'a'"):
            store.to_bytes("a")
        assert store.to_bytes("b") == b"B"


def test_endless_fields_of_an_interim_answer_are_an_error(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [b"HTTP/1.1 103 Early Hints\r\n" + b"Link: <x>\r\n" * 5000, A])
    with static(scripted.url, retries=0) as store, pytest.raises(StoreUnavailableError):
        store.to_bytes("a")


# -- connections -----------------------------------------------------------------------------


def test_one_connection_serves_one_request_after_the_other(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", A).on("GET", "/b", chunked(b"B"))
    with static(scripted.url) as store:
        for _ in range(5):
            assert store.to_bytes("a") == b"A"
            assert store.to_bytes("b") == b"B"
    assert scripted.connections == 1


def test_answers_without_a_body_leave_their_connection_to_the_next(
    scripted: ScriptedServer,
) -> None:
    scripted.on("HEAD", "/a", Reply(200, b"A", {"ETag": '"1"'})).on("GET", "/b", Reply(304))
    scripted.on("PUT", "/keys/a/data", Reply(204)).on("HEAD", "/query", Reply(200))
    with static(scripted.url) as store:
        validators = store.get("a").facts.validators
        assert validators is not None
        for _ in range(3):
            assert store.exists("a")
            assert not store.exists("gone")
            assert isinstance(store.revalidate("b", validators), NotModified)
    with dynamic(scripted) as other:
        for _ in range(3):
            put(other)
    assert scripted.connections == 2


def test_connection_with_unread_bytes_isnt_used_again(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(200, b"A" * 5_000_000)).on("GET", "/b", B)
    with static(scripted.url) as store:
        with store.get_data("a") as data:
            assert data.read(10) == b"A" * 10
        assert store.to_bytes("b") == b"B"
    assert scripted.connections == 2


def test_refused_answer_with_a_long_body_does_no_harm(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(404, b"x" * 3_000_000)).on("GET", "/b", B)
    with static(scripted.url) as store:
        for _ in range(3):
            with pytest.raises(KeyError):
                store.to_bytes("a")
            assert store.to_bytes("b") == b"B"


@pytest.mark.parametrize("together", [True, False], ids=["one packet", "later"])
def test_bytes_after_the_promised_end_arent_the_next_answer(
    scripted: ScriptedServer, together: bool
) -> None:
    smuggled = Reply(200, b"EVIL").render("GET")
    first, done = A.render("GET"), threading.Event()
    steps = [first + smuggled] if together else [first, smuggled]
    scripted.on("GET", "/a", [*steps, done.set]).on("GET", "/b", B)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
        assert done.wait(10)
        assert store.to_bytes("b") == b"B"


def test_body_of_an_answer_to_head_isnt_the_next_answer(scripted: ScriptedServer) -> None:
    scripted.on("HEAD", "/a", [A.render("GET")]).on("GET", "/b", B)
    with static(scripted.url) as store:
        assert store.exists("a")
        assert store.to_bytes("b") == b"B"


def test_connection_closed_between_requests_is_made_anew(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [A, CLOSE]).on("GET", "/b", B)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
        assert store.to_bytes("b") == b"B"
    assert scripted.connections == 2


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
def test_kept_connection_that_closes_instead_of_answering_is_no_failure(
    scripted: ScriptedServer, ending: Any
) -> None:
    scripted.on("GET", "/a", A).on("GET", "/b", [ending], B)
    with static(scripted.url, retries=0) as store:
        assert store.to_bytes("a") == b"A"
        assert store.to_bytes("b") == b"B"


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
def test_new_connection_that_closes_instead_of_answering_is_one(
    scripted: ScriptedServer, ending: Any
) -> None:
    scripted.on("GET", "/a", [ending], A).on("GET", "/b", [ending], [ending], B)
    with static(scripted.url, retries=0) as store:
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("a")
        assert store.to_bytes("a") == b"A"
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("b")
    assert len(scripted.asked("GET", "/b")) == 2


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
def test_read_is_repeated_when_its_connection_breaks(scripted: ScriptedServer, ending: Any) -> None:
    scripted.on("GET", "/a", [ending], [ending], A)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
    assert len(scripted.asked("GET", "/a")) == 3


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        b'HTTP/1.1 200 OK\r\nETag: "whole"\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Len",
    ],
    ids=["version", "status", "line", "fields", "field"],
)
def test_answer_that_is_cut_off_in_its_head_isnt_an_empty_value(
    scripted: ScriptedServer, head: bytes
) -> None:
    scripted.on("GET", "/a", [head, CLOSE])
    with static(scripted.url, retries=0) as store, pytest.raises(StoreUnavailableError):
        store.to_bytes("a")


def test_read_isnt_repeated_for_ever(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [RESET])
    with static(scripted.url, retries=1) as store, pytest.raises(StoreUnavailableError) as raised:
        store.to_bytes("a")
    assert len(scripted.asked("GET", "/a")) == 2
    assert "'a'" in str(raised.value) and scripted.origin in str(raised.value)
    assert not raised.value.maybe_applied


def test_write_goes_out_on_a_new_connection_when_the_old_one_was_closed(
    scripted: ScriptedServer,
) -> None:
    scripted.on("HEAD", "/query", [Reply(200), CLOSE]).on("PUT", "/keys/a/data", Reply(201))
    with dynamic(scripted) as store:
        assert not store.enforces()
        scripted.wait_until_closed()
        put(store)
    assert [each.body for each in scripted.asked("PUT")] == [b"mine"]


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
def test_write_whose_answer_is_lost_is_sent_once(scripted: ScriptedServer, ending: Any) -> None:
    scripted.on("PUT", "/keys/a/data", [ending])
    with dynamic(scripted) as store, pytest.raises(StoreUnavailableError) as raised:
        put(store)
    assert raised.value.maybe_applied
    assert len(scripted.asked("PUT")) == 1


def test_write_whose_answer_is_late_is_sent_once(scripted: ScriptedServer) -> None:
    never = threading.Event()
    scripted.on("PUT", "/keys/a/data", [never, Reply(204)])
    with dynamic(scripted, timeout=(5, 0.3)) as store:
        with pytest.raises(StoreUnavailableError, match="no answer") as raised:
            put(store)
        never.set()
    assert raised.value.maybe_applied
    assert len(scripted.asked("PUT")) == 1


def test_write_with_an_operation_id_is_repeated_on_a_server_that_remembers_it(
    scripted: ScriptedServer,
) -> None:
    ours = {"Mountcache": "1", "ETag": '"v"'}
    scripted.on("HEAD", "/query", Reply(200, headers=ours))
    scripted.on("PUT", "/keys/a/data", [RESET], Reply(204, headers=ours))
    with dynamic(scripted) as store:
        pushed = store.set_if("a", StringValue(b"mine", {}), ABSENT, "op-7")
    assert pushed.version == "v"
    puts = scripted.asked("PUT")
    assert [each.headers["idempotency-key"] for each in puts] == ["op-7", "op-7"]
    assert [each.body for each in puts] == [b"mine", b"mine"]


def test_write_that_nobody_heard_wasnt_applied(refused: str) -> None:
    with (
        DynamicURLStore(f"{refused}keys", f"{refused}query") as store,
        pytest.raises(StoreUnavailableError) as raised,
    ):
        put(store)
    assert not raised.value.maybe_applied


def test_readers_in_threads_get_each_their_own(scripted: ScriptedServer) -> None:
    keys = [f"k{n}" for n in range(40)]
    for key in keys:
        scripted.on("GET", f"/{key}", [EARLY, Reply(200, key.encode() * 5000)])
    with static(scripted.url) as store, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(store.to_bytes, keys))
    assert found == [key.encode() * 5000 for key in keys]


def test_connecting_asks_nothing(scripted: ScriptedServer, refused: str) -> None:
    for url in (scripted.url, refused):
        with static(url) as store:
            assert store.is_connected()
    assert scripted.connections == 0


def test_store_can_be_connected_again(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", A)
    store = static(scripted.url)
    for _ in range(2):
        with store:
            assert store.to_bytes("a") == b"A"
    assert scripted.connections == 2


# -- statuses --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410])
def test_what_isnt_there_is_a_key_error(scripted: ScriptedServer, status: int) -> None:
    scripted.on("GET", "/a", Reply(status, b"<h1>no</h1>"))
    with static(scripted.url) as store:
        for read in (store.get, store.get_data, store.fetch):
            with pytest.raises(KeyError) as raised:
                read("a")
            assert raised.value.args == ("a",)
        assert not store.exists("a")
        assert store.version_of("a") is ABSENT


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, AuthorizationError, "401"),
        (403, AuthorizationError, "403"),
        (429, UpstreamError, "429"),
        (400, UpstreamError, "400"),
        (405, UpstreamError, "405"),
        (418, UpstreamError, "418"),
        (451, UpstreamError, "451"),
        (501, UpstreamError, "501"),
        (204, UpstreamError, "204"),
        (304, UpstreamError, "304"),
    ],
)
def test_other_answers_name_the_key_and_the_status(
    scripted: ScriptedServer, status: int, kind: type[StoreError], words: str
) -> None:
    scripted.on("GET", "/a", Reply(status, headers={"Retry-After": "0"}))
    with static(scripted.url, retries=1) as store:
        for read in (store.get, store.fetch):
            with pytest.raises(kind) as raised:
                read("a")
            assert words in str(raised.value) and "'a'" in str(raised.value)
            assert getattr(raised.value, "status", None) == status
        with pytest.raises(kind):
            store.exists("a")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_server_in_trouble_is_out_of_reach(scripted: ScriptedServer, status: int) -> None:
    scripted.on("GET", "/a", b"HTTP/1.1 %d Trouble\r\nContent-Length: 0\r\n\r\n" % status)
    with static(scripted.url, retries=0) as store:
        with pytest.raises(StoreUnavailableError, match=str(status)) as raised:
            store.fetch("a")
        assert not raised.value.maybe_applied
        with pytest.raises(StoreUnavailableError):
            store.version_of("a")


def test_words_of_a_problem_document_are_in_the_message(scripted: ScriptedServer) -> None:
    document = b'{"status": 403, "detail": "the project is closed"}'
    kind = {"Content-Type": "application/problem+json"}
    scripted.on("GET", "/a", Reply(403, document, kind))
    with (
        static(scripted.url) as store,
        pytest.raises(AuthorizationError, match="the project is closed"),
    ):
        store.fetch("a")


@pytest.mark.parametrize("document", [b"[]", b'{"detail": 3}', b"{", b"[" * 100_000])
def test_problem_documents_without_words_leave_the_status(
    scripted: ScriptedServer, document: bytes
) -> None:
    kind = {"Content-Type": "application/problem+json"}
    scripted.on("GET", "/a", Reply(403, document, kind))
    with static(scripted.url) as store, pytest.raises(AuthorizationError, match="403"):
        store.fetch("a")


def test_precondition_that_fails_is_a_conflict(scripted: ScriptedServer) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(412)).on("DELETE", "/keys/a", Reply(412))
    with dynamic(scripted) as store:
        with pytest.raises(ConflictError, match="'a'") as raised:
            store.set_if("a", StringValue(b"mine", {}), "d m", "op")
        assert (raised.value.key, raised.value.expected) == ("a", "d m")
        with pytest.raises(ConflictError):
            store.delete_if("a", "d m", "op")
    assert len(scripted.asked("PUT")) == 1
    assert scripted.asked("PUT")[0].headers["if-match"] == '"d"'


def test_trouble_of_a_server_with_a_write_may_have_come_after_it(
    scripted: ScriptedServer,
) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(500, headers=AT_ONCE))
    with dynamic(scripted) as store, pytest.raises(StoreUnavailableError) as raised:
        put(store)
    assert raised.value.maybe_applied
    assert len(scripted.asked("PUT")) == 1


def test_what_isnt_http_is_out_of_reach(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [b"220 mail.example ESMTP ready\r\n", CLOSE])
    with static(scripted.url, retries=0) as store, pytest.raises(StoreUnavailableError):
        store.fetch("a")


# -- repeats ---------------------------------------------------------------------------------


def test_three_errors_of_the_server_and_then_the_answer(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(500), Reply(502), Reply(503), A)
    with static(scripted.url, retries=3) as store:
        assert store.to_bytes("a") == b"A"
    assert len(scripted.asked("GET", "/a")) == 4


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_waited_for(scripted: ScriptedServer, status: int, as_date: bool) -> None:
    asked_at: list[float] = []

    def answer(request: Request) -> Reply:
        asked_at.append(time.monotonic())
        if len(asked_at) > 1:
            return A
        later = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return Reply(status, headers={"Retry-After": later})

    scripted.on("GET", "/a", ByRequest(answer))
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
    # A date two seconds ahead is cut to its second: one of them is left at least.
    assert asked_at[1] - asked_at[0] >= 0.95


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_beyond_the_deadline_isnt_waited_for(
    scripted: ScriptedServer, status: int
) -> None:
    scripted.on("GET", "/a", Reply(status, headers={"Retry-After": "25"}), A)
    with static(scripted.url, deadline=5) as store, pytest.raises(StoreError, match=str(status)):
        store.fetch("a")
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    "later", ["86400", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_retry_after_of_a_day_is_told_at_once(scripted: ScriptedServer, later: str) -> None:
    scripted.on("GET", "/a", Reply(429, headers={"Retry-After": later}), A)
    with static(scripted.url) as store, pytest.raises(UpstreamError, match="429") as raised:
        store.fetch("a")
    assert raised.value.status == 429
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("later", ["soon", "-1", "Wed, 99 Foo 2020 00:00:00 GMT", "1.5e3", ""])
def test_retry_after_that_makes_no_sense_is_ignored(scripted: ScriptedServer, later: str) -> None:
    scripted.on("GET", "/a", Reply(503, headers={"Retry-After": later}), A)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"


def test_write_that_was_refused_for_its_haste_is_sent_again(scripted: ScriptedServer) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(429, headers=AT_ONCE), Reply(204))
    with dynamic(scripted) as store:
        put(store, b"all of it" * 20_000)
    assert [each.body for each in scripted.asked("PUT")] == [b"all of it" * 20_000] * 2


def test_disconnecting_ends_the_wait_for_a_repeat(scripted: ScriptedServer) -> None:
    told = threading.Event()
    scripted.on("GET", "/a", [Reply(503, headers={"Retry-After": "29"}), told.set])
    with ThreadPoolExecutor() as pool, static(scripted.url) as store:
        waiting = pool.submit(store.fetch, "a")
        assert told.wait(10)
        store.disconnect()
        with pytest.raises(StoreUnavailableError):
            waiting.result(10)
    assert len(scripted.requests) == 1


# -- time ------------------------------------------------------------------------------------


def test_server_that_doesnt_answer_is_out_of_reach(scripted: ScriptedServer) -> None:
    never = threading.Event()
    scripted.on("GET", "/a", [never, A])
    with static(scripted.url, timeout=(1, 0.3)) as store:
        with pytest.raises(StoreUnavailableError, match=r"no answer .* within 0\.3 s"):
            store.fetch("a")
        never.set()


def test_time_to_connect_isnt_the_time_to_answer(scripted: ScriptedServer) -> None:
    pause = threading.Event()
    scripted.on("GET", "/a", [lambda: pause.wait(0.6), A])
    with static(scripted.url, timeout=(0.3, 15)) as store:
        assert store.to_bytes("a") == b"A"


def test_body_that_stops_coming_is_out_of_reach(scripted: ScriptedServer) -> None:
    never = threading.Event()
    scripted.on("GET", "/a", [Reply(200, b"A" * 100).render("GET")[:-50], never])
    with static(scripted.url, timeout=(1, 0.3)) as store:
        with pytest.raises(StoreUnavailableError, match="stopped coming"):
            store.to_bytes("a")
        never.set()


def test_deadline_ends_a_body_that_drips(scripted: ScriptedServer) -> None:
    done = threading.Event()
    dripping: list[Any] = [Reply(200, b"A" * 200).render("GET")[:-200]]
    dripped: list[None] = []
    for _ in range(200):
        dripping += [b"A", lambda: dripped.append(None), lambda: done.wait(0.05)]
    scripted.on("GET", "/a", dripping)
    with static(scripted.url, deadline=0.5) as store:
        with pytest.raises(StoreUnavailableError, match="deadline"):
            store.to_bytes("a")
        done.set()
        assert len(dripped) < 150


def test_deadline_ends_the_wait_for_an_answer(scripted: ScriptedServer) -> None:
    never = threading.Event()
    scripted.on("GET", "/a", [never, A])
    with static(scripted.url, deadline=0.3) as store:
        with pytest.raises(StoreUnavailableError):
            store.fetch("a")
        never.set()


def test_deadline_ends_the_repeats(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(503))
    with (
        static(scripted.url, deadline=0.5, retries=50) as store,
        pytest.raises(StoreUnavailableError, match="503"),
    ):
        store.fetch("a")
    assert len(scripted.requests) < 10


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"timeout": (1, -1)}, {"deadline": 0}], ids=str)
def test_time_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="more than 0 seconds"):
        static("http://127.0.0.1/", **wrong)


# -- redirects -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "where", ["/there", "there", "{url}there", "//{host}/there", "/x/../there"]
)
def test_read_follows_a_redirect(scripted: ScriptedServer, status: int, where: str) -> None:
    location = where.format(url=scripted.url, host=f"127.0.0.1:{scripted.port}")
    scripted.on("GET", "/a", Reply(status, b"moved", {"Location": location}))
    scripted.on("GET", "/there", Reply(200, b"THERE", {"ETag": '"t"'}))
    with static(scripted.url) as store:
        store.connect(("ada", "secret"))
        assert store.to_bytes("a") == b"THERE"
        assert store.get("a").version == "t"
    assert {each.headers["authorization"] for each in scripted.requests} == {basic("ada", "secret")}


def test_redirect_is_followed_before_a_missing_key_is_told(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(302, headers={"Location": "/there"}))
    with static(scripted.url) as store, pytest.raises(KeyError) as raised:
        store.fetch("a")
    assert raised.value.args == ("a",)


@pytest.mark.parametrize("where", ["/a", "/other"])
def test_redirect_in_a_circle_is_an_error(scripted: ScriptedServer, where: str) -> None:
    scripted.on("GET", "/a", Reply(302, headers={"Location": where}))
    scripted.on("GET", "/other", Reply(302, headers={"Location": "/a"}))
    with static(scripted.url) as store, pytest.raises(UpstreamError, match="redirects"):
        store.fetch("a")
    assert len(scripted.requests) <= 21


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["X-Token"] = "secret"
    session.headers["Authorization"] = "Bearer secret"
    session.cookies.set("id", "secret")
    return session


class _Signed(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Signature"] = "secret"
        return request


@pytest.mark.parametrize(
    "credentials",
    [("ada", "secret"), HTTPBasicAuth("ada", "secret"), _session(), ("ada", _session()), _Signed()],
    ids=["pair", "auth", "session", "tagged session", "own auth"],
)
def test_credentials_dont_follow_to_another_server(
    scripted: ScriptedServer, elsewhere: ScriptedServer, credentials: object
) -> None:
    scripted.on("GET", "/a", Reply(307, headers={"Location": f"{elsewhere.url}a"}))
    elsewhere.on("GET", "/a", [EARLY, Reply(200, b"THERE")])
    with static(scripted.url) as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"THERE"
    first, second = str(scripted.requests[0].headers), elsewhere.requests[0].headers
    assert "secret" in first or basic("ada", "secret") in first
    assert not {"authorization", "cookie", "x-token", "x-signature"} & set(second)


def test_credentials_dont_follow_to_another_name_of_the_server(scripted: ScriptedServer) -> None:
    scripted.on(
        "GET", "/a", Reply(302, headers={"Location": f"http://localhost:{scripted.port}/b"})
    )
    scripted.on("GET", "/b", B)
    with static(scripted.url) as store:
        store.connect(("ada", "secret"))
        assert store.to_bytes("a") == b"B"
    assert "authorization" not in scripted.asked("GET", "/b")[0].headers


def test_credentials_in_a_redirect_arent_used(
    scripted: ScriptedServer, elsewhere: ScriptedServer
) -> None:
    location = f"http://eve:hunter2@127.0.0.1:{elsewhere.port}/b"
    scripted.on("GET", "/a", Reply(302, headers={"Location": location}))
    elsewhere.on("GET", "/b", Reply(500))
    with static(scripted.url, retries=0) as store, pytest.raises(StoreUnavailableError) as raised:
        store.fetch("a")
    assert "hunter2" not in said(raised)


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/a", "file:///etc/passwd", "gopher:x"])
def test_redirect_out_of_the_web_is_refused(scripted: ScriptedServer, where: str) -> None:
    scripted.on("GET", "/a", Reply(302, headers={"Location": where}))
    with static(scripted.url) as store, pytest.raises(UpstreamError, match="redirects to"):
        store.fetch("a")


def test_redirect_to_nowhere_is_an_error(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(302))
    with static(scripted.url) as store, pytest.raises(UpstreamError, match="302"):
        store.fetch("a")


@pytest.mark.parametrize("status", [307, 308])
def test_write_follows_a_redirect_that_keeps_its_method(
    scripted: ScriptedServer, status: int
) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(status, headers={"Location": "/there"}))
    scripted.on("PUT", "/there", Reply(201))
    with dynamic(scripted) as store:
        store.connect(("ada", "secret"))
        put(store, b"mine" * 50_000)
    assert scripted.asked("PUT", "/there")[0].body == b"mine" * 50_000
    assert scripted.asked("PUT", "/there")[0].headers["authorization"] == basic("ada", "secret")


@pytest.mark.parametrize("status", [301, 302, 303])
def test_write_doesnt_follow_a_redirect_that_makes_it_a_read(
    scripted: ScriptedServer, status: int
) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(status, headers={"Location": "/there"}))
    with dynamic(scripted) as store, pytest.raises(UpstreamError, match=str(status)):
        put(store)
    assert not [each for each in scripted.requests if each.path == "/there"]


@pytest.mark.parametrize("status", [301, 307, 308])
def test_write_doesnt_follow_to_another_server(
    scripted: ScriptedServer, elsewhere: ScriptedServer, status: int
) -> None:
    scripted.on("PUT", "/keys/a/data", Reply(status, headers={"Location": f"{elsewhere.url}x"}))
    with dynamic(scripted) as store, pytest.raises(UpstreamError, match="another server"):
        put(store)
    assert elsewhere.connections == 0


def test_redirect_from_https_to_http_is_refused(
    tmp_path: Path, elsewhere: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with ScriptedServer(context) as secure, static(secure.url) as store:
        secure.on("GET", "/a", Reply(301, headers={"Location": f"{elsewhere.url}a"}))
        with pytest.raises(UpstreamError, match="isn't encrypted"):
            store.fetch("a")
    assert elsewhere.connections == 0


# -- bodies ----------------------------------------------------------------------------------


def test_values_are_asked_for_as_they_are(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", A)
    with static(scripted.url) as store:
        store.to_bytes("a")
    assert scripted.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_gzip_that_nobody_asked_for_is_undone_and_has_no_version(
    scripted: ScriptedServer, coding: str
) -> None:
    packed = gzip.compress(b"hello" * 1000)
    fields = {"Content-Encoding": coding, "ETag": '"packed"'}
    scripted.on("GET", "/a", Reply(200, packed, fields))
    with static(scripted.url) as store:
        value = store.fetch("a")
        assert value.data.read() == b"hello" * 1000
        assert value.version is None
        assert value.size is None
        assert not value.facts.validators
        assert store.version_of("a") is None
        assert store.get("a").size is None


def test_chunks_of_gzip_are_undone(scripted: ScriptedServer) -> None:
    packed = gzip.compress(os.urandom(1000) * 300)
    scripted.on("GET", "/a", chunked(packed[:100], packed[100:], Content_Encoding="gzip"))
    with static(scripted.url) as store:
        assert store.to_bytes("a") == gzip.decompress(packed)


def test_gzip_that_is_damaged_is_an_error(scripted: ScriptedServer) -> None:
    packed = bytearray(gzip.compress(os.urandom(5000)))
    packed[20:30] = b"\xff" * 10
    fields = {"Content-Encoding": "gzip"}
    scripted.on("GET", "/a", Reply(200, bytes(packed), fields), Reply(200, b"plain text", fields))
    with static(scripted.url) as store:
        for _ in range(2):
            with pytest.raises(IntegrityError, match="'a'"):
                store.to_bytes("a")


def test_gzip_that_ends_too_early_is_an_error(scripted: ScriptedServer) -> None:
    packed = gzip.compress(os.urandom(5000))[:-200]
    scripted.on("GET", "/a", Reply(200, packed, {"Content-Encoding": "gzip"}))
    with static(scripted.url) as store, pytest.raises(IntegrityError, match="'a'"):
        store.to_bytes("a")


def test_coding_that_cant_be_undone_is_an_error(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(200, b"...", {"Content-Encoding": "x-odd"}))
    with static(scripted.url) as store, pytest.raises(UpstreamError, match="x-odd"):
        store.fetch("a")


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("size", [-1, 10, 100, 1_048_576])
def test_body_shorter_than_promised_is_an_error(
    scripted: ScriptedServer, ending: Any, size: int
) -> None:
    scripted.on("GET", "/a", [Reply(200, b"A" * 100).render("GET")[:-10], ending])
    with static(scripted.url) as store:
        data = store.get_data("a")
        kind = IntegrityError if ending is CLOSE else (IntegrityError, StoreUnavailableError)
        with pytest.raises(kind, match="'a'") as raised:
            while data.read(size):
                pass
        assert not isinstance(raised.value, IntegrityError) or "90 of 100" in str(raised.value)


def test_reading_exactly_what_came_of_a_short_body_isnt_its_end(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [Reply(200, b"A" * 100).render("GET")[:-10], CLOSE])
    with static(scripted.url) as store:
        data = store.get_data("a")
        assert data.read(90) == b"A" * 90
        with pytest.raises(IntegrityError):
            data.read(1)


def test_body_longer_than_promised_ends_as_promised(scripted: ScriptedServer) -> None:
    long = Reply(200, b"A" * 100, {"Content-Length": "60"})
    scripted.on("GET", "/a", [long]).on("GET", "/b", B)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A" * 60
        assert store.to_bytes("b") == b"B"


@pytest.mark.parametrize("pieces", [[b"A" * 10], [b"A"] * 50, [os.urandom(200_000)] * 3, []])
def test_chunks_come_without_a_size(scripted: ScriptedServer, pieces: list[bytes]) -> None:
    scripted.on("GET", "/a", chunked(*pieces, ETag='"c"')).on("GET", "/b", B)
    with static(scripted.url) as store:
        value = store.fetch("a")
        assert value.size is None
        assert value.version == "c"
        with value.data as data:
            assert data.read() == b"".join(pieces)
        assert store.to_bytes("b") == b"B"
    assert scripted.connections == 1


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize(
    "start",
    [
        chunked(b"A" * 10, end=False),
        chunked(b"A" * 10, end=False) + b"64\r\nAAAA",
        chunked(b"A" * 10, end=False) + b"6",
    ],
    ids=["between", "within", "in a length"],
)
def test_chunks_cut_off_are_out_of_reach(
    scripted: ScriptedServer, start: bytes, ending: Any
) -> None:
    scripted.on("GET", "/a", [start, ending])
    with static(scripted.url) as store, pytest.raises(StoreUnavailableError, match="'a'"):
        store.to_bytes("a")


def test_chunks_that_make_no_sense_are_an_error(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [chunked(b"A" * 10, end=False) + b"zz\r\nAAAA\r\n0\r\n\r\n"])
    with static(scripted.url) as store, pytest.raises(StoreError, match="'a'"):
        store.to_bytes("a")


def test_body_that_ends_with_its_connection_is_whole(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", [b"HTTP/1.0 200 OK\r\n\r\n" + b"A" * 100_000, CLOSE])
    scripted.on("GET", "/b", B)
    with static(scripted.url) as store:
        value = store.fetch("a")
        assert value.size is None
        assert value.data.read() == b"A" * 100_000
        assert store.to_bytes("b") == b"B"


def test_part_where_the_whole_was_asked_for_is_refused(scripted: ScriptedServer) -> None:
    part = {"Content-Range": "bytes 0-0/10"}
    scripted.on("GET", "/a", Reply(206, b"A", part)).on("GET", "/b", Reply(200, b"A", part))
    with static(scripted.url) as store:
        with pytest.raises(UpstreamError, match="206"):
            store.fetch("a")
        with pytest.raises(UpstreamError, match="part"):
            store.fetch("b")


def test_empty_body(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(200)).on("GET", "/b", B)
    with static(scripted.url) as store:
        value = store.fetch("a")
        assert value.size == 0
        assert value.data.read() == b""
        assert store.to_bytes("b") == b"B"
    assert scripted.connections == 1


def test_streams_read_as_any_other(scripted: ScriptedServer) -> None:
    content = os.urandom(300_000)
    scripted.on("GET", "/a", Reply(200, content))
    with static(scripted.url) as store:
        data = store.get_data("a")
        assert data.readable() and not data.writable()
        assert data.read(0) == b""
        assert data.read(7) == content[:7]
        into = bytearray(5)
        assert data.readinto(into) == 5
        assert into == content[7:12]
        assert content[12:].startswith(data.read1(100))
        data.close()
        assert data.closed
        with pytest.raises(ValueError, match="closed"):
            data.read(1)
        with store.get_data("a") as again:
            assert io.BufferedReader(again).read() == content


# -- credentials -----------------------------------------------------------------------------


def _from_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    module = ModuleType("keyring")
    found = SimpleNamespace(username="ada", password="secret")
    asked = {"127.0.0.1": found}
    module.get_credential = lambda service, _: asked.get(service)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    return "keyring"


def _from_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    file = tmp_path / "home" / ".netrc"
    file.write_text("machine 127.0.0.1 login ada password secret\n")
    file.chmod(0o600)
    return "netrc"


def _from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.setenv("DATA_LOGIN", "ada:secret")
    return "env:DATA_LOGIN"


def _from_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    return "command:echo ada:secret"


def _session_with_auth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    session = requests.Session()
    session.auth = ("ada", "secret")
    return session


_KINDS: dict[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "pair": lambda monkeypatch, tmp_path: ("ada", "secret"),
    "dict": lambda monkeypatch, tmp_path: {"username": "ada", "password": "secret"},
    "auth": lambda monkeypatch, tmp_path: HTTPBasicAuth("ada", "secret"),
    "session": _session_with_auth,
    "tagged session": lambda *given: ("ada", _session_with_auth(*given)),
    "callable": lambda monkeypatch, tmp_path: lambda: ("ada", "secret"),
    "callable dict": lambda *_: lambda: {"username": "ada", "password": "secret"},
    "netrc": _from_netrc,
    "keyring": _from_keyring,
    "environment": _from_environment,
    "command": _from_command,
}


@pytest.mark.parametrize("kind", _KINDS)
def test_credentials_of_each_kind_are_sent(
    scripted: ScriptedServer, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted.on("GET", "/a", A).on("PUT", "/keys/a/data", Reply(204))
    credentials = _KINDS[kind](monkeypatch, tmp_path)
    with static(scripted.url) as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"A"
        assert store.exists("a")
    with dynamic(scripted) as other:
        other.connect(credentials)
        put(other)
    assert {each.headers.get("authorization") for each in scripted.requests} == {
        basic("ada", "secret")
    }


def test_credentials_in_the_url_are_sent(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", A)
    with static(f"http://ada:s%40cret@127.0.0.1:{scripted.port}/") as store:
        assert store.to_bytes("a") == b"A"
    assert scripted.requests[0].headers["authorization"] == basic("ada", "s@cret")


def test_digest_is_answered(scripted: ScriptedServer) -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'
    scripted.on("GET", "/a", Reply(401, headers={"WWW-Authenticate": challenge}), A)
    with static(scripted.url) as store:
        store.connect(HTTPDigestAuth("ada", "secret"))
        assert store.to_bytes("a") == b"A"
    first, second = scripted.requests
    assert "authorization" not in first.headers
    assert second.headers["authorization"].startswith('Digest username="ada"')


def test_session_of_the_users_own_is_used_with_all_it_has(scripted: ScriptedServer) -> None:
    heard: list[int] = []
    session = requests.Session()
    session.headers["X-Project"] = "ocean"
    session.cookies.set("id", "7")
    session.hooks["response"].append(lambda answer, **_: heard.append(answer.status_code))
    scripted.on("GET", "/a", A)
    with static(scripted.url) as store:
        store.connect(("ada", session))
        assert store.to_bytes("a") == b"A"
    assert scripted.requests[0].headers["x-project"] == "ocean"
    assert scripted.requests[0].headers["cookie"] == "id=7"
    assert heard == [200]


def test_user_tag_is_that_of_the_pair(scripted: ScriptedServer) -> None:
    with dynamic(scripted) as store:
        store.connect(("team", requests.Session()))
        assert store.user_tag == "team"


def test_callable_is_asked_again_after_401(scripted: ScriptedServer) -> None:
    given = iter([("ada", "old"), ("ada", "new")])

    def answer(request: Request) -> Reply:
        return A if request.headers["authorization"] == basic("ada", "new") else Reply(401)

    scripted.on("GET", "/a", ByRequest(answer))
    with static(scripted.url) as store:
        store.connect(lambda: next(given))
        assert store.to_bytes("a") == b"A"
        assert store.to_bytes("a") == b"A"
    assert len(scripted.requests) == 3
    assert not list(given)


def test_callable_is_asked_again_for_a_write_too(scripted: ScriptedServer) -> None:
    given = iter([("ada", "old"), ("ada", "new")])

    def answer(request: Request) -> Reply:
        return Reply(204 if request.headers["authorization"] == basic("ada", "new") else 401)

    scripted.on("PUT", "/keys/a/data", ByRequest(answer)).on("HEAD", "/query", Reply(200))
    with dynamic(scripted) as store:
        store.connect(lambda: next(given))
        put(store, b"mine" * 100_000)
    assert scripted.asked("PUT")[-1].body == b"mine" * 100_000


def test_callable_is_asked_again_once(scripted: ScriptedServer) -> None:
    asked: list[None] = []

    def credentials() -> tuple[str, str]:
        asked.append(None)
        return "ada", "wrong"

    scripted.on("GET", "/a", Reply(401))
    with static(scripted.url) as store:
        store.connect(credentials)
        with pytest.raises(AuthorizationError, match="other credentials") as raised:
            store.fetch("a")
    assert raised.value.status == 401
    assert len(scripted.requests) == len(asked) == 2


def test_credentials_that_cant_change_are_tried_once(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/a", Reply(401))
    with static(scripted.url) as store:
        store.connect(("ada", "wrong"))
        with pytest.raises(AuthorizationError):
            store.fetch("a")
    assert len(scripted.requests) == 1


def test_netrc_isnt_looked_into_unless_it_is_named(
    scripted: ScriptedServer,
    elsewhere: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _from_netrc(monkeypatch, tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    scripted.on("GET", "/a", A).on("GET", "/b", Reply(307, headers={"Location": "/a"}))
    scripted.on("GET", "/c", Reply(307, headers={"Location": f"{elsewhere.url}c"}))
    elsewhere.on("GET", "/c", A)
    with static(scripted.url) as store:
        assert [store.to_bytes(key) for key in "abc"] == [b"A"] * 3
        assert store.exists("a")
    with dynamic(scripted) as other, pytest.raises(UpstreamError):
        put(other)
    for request in scripted.requests + elsewhere.requests:
        assert "authorization" not in request.headers


# -- what isn't shown ------------------------------------------------------------------------


def _failing(scripted: ScriptedServer, refused: str) -> Iterator[tuple[str, str]]:
    """Iterate over (host and port, key) that fail each in its own way."""
    host = f"127.0.0.1:{scripted.port}"
    for status in (400, 401, 403, 404, 429, 500):
        scripted.on("GET", f"/{status}", Reply(status))
        yield host, str(status)
    scripted.on("GET", "/loop", Reply(302, headers={"Location": "/loop"}))
    scripted.on("GET", "/out", Reply(302, headers={"Location": "ftp://ada:hunter2@127.0.0.1/"}))
    scripted.on("GET", "/reset", [RESET])
    scripted.on("GET", "/part", Reply(206))
    scripted.on("GET", "/odd", Reply(200, b"", {"Content-Encoding": "x-odd"}))
    scripted.on("GET", "/short", [Reply(200, b"A" * 9).render("GET")[:-1], CLOSE])
    for key in ("loop", "out", "reset", "part", "odd", "short"):
        yield host, key
    yield refused.removeprefix("http://").rstrip("/"), "refused"


def test_credentials_in_a_url_are_never_shown(scripted: ScriptedServer, refused: str) -> None:
    for host, key in list(_failing(scripted, refused)):
        with StaticURLStore(f"http://ada:hunter2@{host}/", "", retries=0) as store:
            with pytest.raises((StoreError, KeyError)) as raised:
                store.to_bytes(key)
            assert "hunter2" not in said(raised)
            with pytest.raises(StoreError) as raised:
                list(store.query())
            assert "hunter2" not in said(raised)
            assert "hunter2" not in f"{store.identity} {store.info()} {store!r}"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ada:hunter2@127.0.0.1/",
        "//ada:hunter2@127.0.0.1/",
        "ada:hunter2@127.0.0.1/",
        "http://ada:hunter2@127.0.0.1:port/",
        "http://ada:hunter2@127.0.0.1/?x=1",
        "http://ada:hunter2@/",
        "http://127.0.0.1/?token=hunter2",
        "http:ada:hunter2@127.0.0.1/",
        "http://ada:hunter2@[::1/",
    ],
)
def test_credentials_in_an_unusable_url_are_never_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        static(url)
    assert "hunter2" not in said(raised)
    with pytest.raises(ConfigurationError) as raised:
        DynamicURLStore(url, "http://127.0.0.1/query")
    assert "hunter2" not in said(raised)


# -- proxies ---------------------------------------------------------------------------------


def test_proxy_of_the_environment_is_asked(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", scripted.url)
    scripted.on("GET", "http://data.example.invalid/a", [EARLY, A])
    scripted.on("GET", "http://data.example.invalid/b", B)
    with static("http://data.example.invalid/") as store:
        store.connect(("ada", "secret"))
        assert [store.to_bytes("a"), store.to_bytes("b")] == [b"A", b"B"]
    assert scripted.requests[0].headers["host"] == "data.example.invalid"
    assert scripted.requests[0].headers["authorization"] == basic("ada", "secret")
    assert scripted.connections == 1


def test_proxy_gets_the_credentials_that_are_for_it(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://eve:pass@127.0.0.1:{scripted.port}")
    scripted.on("GET", "http://data.example.invalid/a", A)
    with static("http://data.example.invalid/") as store:
        assert store.to_bytes("a") == b"A"
    assert scripted.requests[0].headers["proxy-authorization"] == basic("eve", "pass")
    assert "authorization" not in scripted.requests[0].headers


def test_no_proxy_is_obeyed(
    scripted: ScriptedServer, elsewhere: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    scripted.on("GET", "/a", A)
    with static(scripted.url) as store:
        assert store.to_bytes("a") == b"A"
    assert elsewhere.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", ["plain", "digest", "session"])
def test_no_proxy_of_the_environment_leads_to_this_machine(
    scripted: ScriptedServer,
    elsewhere: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    kind: str,
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.setenv("all_proxy", elsewhere.url)
    scripted.on("GET", "/a", A)
    credentials = {"digest": HTTPDigestAuth("a", "b"), "session": requests.Session()}.get(kind)
    with static(f"http://{host}:{scripted.port}/") as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"A"
    assert elsewhere.connections == 0


def test_proxy_that_is_down_makes_upstream_unreachable(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = refused.replace("http://", "http://eve:hunter2@")
    monkeypatch.setenv("http_proxy", proxy)
    with (
        static("http://data.example.invalid/", retries=0) as store,
        pytest.raises(StoreUnavailableError) as raised,
    ):
        store.fetch("a")
    assert "hunter2" not in said(raised)


def test_proxy_that_opens_no_tunnel_makes_upstream_unreachable(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", scripted.url)
    scripted.on("CONNECT", "data.example.invalid:443", Reply(502))
    with (
        static("https://data.example.invalid/", retries=0) as store,
        pytest.raises(StoreUnavailableError, match=r"data\.example\.invalid"),
    ):
        store.fetch("a")
    assert scripted.requests[0].method == "CONNECT"


# -- TLS -------------------------------------------------------------------------------------


def test_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context, _ = self_signed(tmp_path)
    with ScriptedServer(context) as secure, static(secure.url) as store:
        secure.on("GET", "/a", A)
        with pytest.raises(UpstreamError, match="certificate") as raised:
            store.fetch("a")
    assert secure.requests == []
    assert secure.connections == 1
    assert "self-signed" in str(raised.value)
    assert "REQUESTS_CA_BUNDLE" in str(raised.value)


def test_certificate_that_the_environment_vouches_for_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with ScriptedServer(context) as secure, static(secure.url) as store:
        secure.on("GET", "/a", [EARLY, A]).on("GET", "/b", B)
        assert [store.to_bytes("a"), store.to_bytes("b")] == [b"A", b"B"]
    assert secure.connections == 1


def test_certificate_of_another_host_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed(tmp_path, "DNS:other.example")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        ScriptedServer(context) as secure,
        static(secure.url) as store,
        pytest.raises(UpstreamError, match="certificate"),
    ):
        store.fetch("a")
    assert secure.requests == []


def test_write_to_a_server_with_a_bad_certificate_isnt_sent(tmp_path: Path) -> None:
    context, _ = self_signed(tmp_path)
    with (
        ScriptedServer(context) as secure,
        dynamic(secure) as store,
        pytest.raises(UpstreamError, match="certificate"),
    ):
        put(store)
    assert secure.requests == []


def test_https_to_a_server_without_tls_is_an_error(
    nginx: Callable[[Path], Nginx], tmp_path: Path
) -> None:
    plain = nginx(tmp_path)
    with (
        static(plain.url.replace("http:", "https:")) as store,
        pytest.raises(UpstreamError, match="TLS"),
    ):
        store.fetch("a")


# -- places where no store can be ------------------------------------------------------------


def test_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *others: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        static("http://data.example.invalid/", retries=0) as store,
        pytest.raises(StoreUnavailableError, match=r"data\.example\.invalid isn't known"),
    ):
        store.fetch("a")


def test_refused_connection_names_the_host(refused: str) -> None:
    with (
        static(refused) as store,
        pytest.raises(
            StoreUnavailableError, match="can't be reached: Connection refused"
        ) as raised,
    ):
        store.fetch("a")
    assert refused.rstrip("/") in str(raised.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://127.0.0.1/", "ftp"),
        ("gopher://127.0.0.1/", "gopher"),
        ("127.0.0.1:8000/data", "scheme"),
        ("data.example.org/data", "scheme"),
        ("localhost:8000", "scheme"),
        ("/srv/data", "scheme"),
        ("", "scheme"),
        ("http://", "http"),
        ("http:///data", "http"),
        ("http://127.0.0.1:99999/", "URL"),
        ("http://127.0.0.1/?a=b", "query"),
        ("http://127.0.0.1/#a", "fragment"),
        ("http://[::1/", "URL"),
        ("https://[::1]@[[[/", "URL|none"),
        ("http://a b/", "can be none"),
        ("http://a^b/", "can be none"),
    ],
)
def test_url_that_cant_be_used_is_refused_at_once(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        StaticURLStore(url)
    with pytest.raises(ConfigurationError, match=words):
        DynamicURLStore(url, "http://127.0.0.1/query")
    with pytest.raises(ConfigurationError, match=words):
        DynamicURLStore("http://127.0.0.1/keys", url)


def test_url_that_isnt_text_is_refused() -> None:
    wrong: Any = b"http://127.0.0.1/"
    with pytest.raises(ConfigurationError, match="bytes"):
        StaticURLStore(wrong)


def test_dynamic_store_of_files_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="file"):
        DynamicURLStore("file:///srv/keys", "file:///srv/query")
