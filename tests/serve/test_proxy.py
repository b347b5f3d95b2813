"""A proxy: clients read through the cache, what they write is staged."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mountcache.errors import (
    AuthorizationError,
    ChangedWhileReadingError,
    ConflictError,
    IntegrityError,
    StoreBusyError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.serve import Origin as Server
from mountcache.serve import ServedMount
from mountcache.serve.wire import encode_metadata
from mountcache.sync import push
from mountcache.testing import Origin
from tests.scripted import MIB, Indexed, Scripted, Whole, pattern
from tests.serve.client import JSON, RELATED, Client, Reply, multipart, tag
from tests.serve.proxies import LAYOUTS, Proxy, client_of, proxy_of


@pytest.fixture
def upstream() -> Iterator[Origin]:
    with Origin({"a.csv": (b"a,b\n1,2\n", {"unit": "m"})}) as origin:
        yield origin


@pytest.fixture(params=LAYOUTS)
def proxy(request: pytest.FixtureRequest, upstream: Origin, tmp_path: Path) -> Iterator[Proxy]:
    with proxy_of(client_of(upstream.url, request.param), tmp_path / "cache") as made:
        yield made


@pytest.fixture
def dynamic(upstream: Origin, tmp_path: Path) -> Iterator[Proxy]:
    with proxy_of(client_of(upstream.url, "dynamic"), tmp_path / "cache") as made:
        yield made


def status_of(reply: Reply) -> str:
    own, _, rest = reply.headers["cache-status"].partition("; ")
    assert own == "mountcache"
    return rest


# -- reading ---------------------------------------------------------------------------------


def test_a_read_fills_the_cache_and_is_answered_from_it_offline(
    upstream: Origin, proxy: Proxy
) -> None:
    first = proxy.call.get("a.csv")
    assert (first.status, first.body) == (200, b"a,b\n1,2\n")
    assert status_of(first) == "fwd=uri-miss"
    assert "age" not in first.headers
    assert first.headers["mountcache"] == "1"
    assert first.headers["etag"] == tag(b"a,b\n1,2\n", {"unit": "m"})
    again = proxy.call.get("a.csv")
    assert (again.body, again.headers["etag"]) == (first.body, first.headers["etag"])
    assert int(again.headers["age"]) >= 0
    upstream.stop()
    offline = proxy.call.get("a.csv")
    assert (offline.status, offline.body) == (200, first.body)
    assert "warning" not in offline.headers
    assert status_of(offline).startswith("hit")


def test_headers_say_how_an_answer_was_come_by(upstream: Origin, tmp_path: Path) -> None:
    now = [1_900_000_000.0]
    store = client_of(upstream.url, "dynamic")
    with proxy_of(store, tmp_path, max_age=60, clock=lambda: now[0]) as proxy:
        assert status_of(proxy.call.get("a.csv")) == "fwd=uri-miss"
        now[0] += 30
        fresh = proxy.call.get("a.csv")
        assert (status_of(fresh), fresh.headers["age"]) == ("hit", "30")
        now[0] += 60
        asked = proxy.call.get("a.csv")
        assert (status_of(asked), asked.headers["age"]) == ("fwd=stale", "0")
        upstream.stop()
        now[0] += 100
        stale = proxy.call.get("a.csv")
        assert (status_of(stale), stale.headers["age"]) == ("hit; detail=offline", "100")
        proxy.call.put("a.csv", b"mine", {})
        staged = proxy.call.get("a.csv")
        assert status_of(staged) == "hit; detail=staged"
        assert "age" not in staged.headers


def test_a_change_upstream_is_seen_by_the_next_read(upstream: Origin, dynamic: Proxy) -> None:
    before = dynamic.call.get("a.csv").headers["etag"]
    upstream.change("a.csv", b"other")
    changed = dynamic.call.get("a.csv", If_None_Match=before)
    assert (changed.status, changed.body) == (200, b"other")
    upstream.remove("a.csv")
    assert dynamic.call.get("a.csv").status == 404


def test_conditions_and_ranges_are_those_of_an_origin(upstream: Origin, proxy: Proxy) -> None:
    for _ in ("cold", "warm"):
        held = tag(b"a,b\n1,2\n", {"unit": "m"})
        part = proxy.call.get("a.csv", Range="bytes=2-4")
        assert (part.status, part.body) == (206, b"b\n1")
        assert part.headers["content-range"] == "bytes 2-4/8"
        assert proxy.call.get("a.csv", Range="bytes=2-4", If_Range=held).status == 206
        assert proxy.call.get("a.csv", Range="bytes=2-4", If_Range='"x"').status == 200
        assert proxy.call.get("a.csv", Range="bytes=9-").status == 416
        assert proxy.call.get("a.csv", If_None_Match=held).status == 304
        assert proxy.call.get("a.csv", If_Match='"x"').status == 412
        head = proxy.call("HEAD", "/data/a.csv")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "8")
        assert head.headers["etag"] == held
        told = proxy.call("GET", "/keys/a.csv/metadata")
        assert (json.loads(told.body), told.headers["etag"]) == ({"unit": "m"}, held)


def test_listings_show_what_is_staged_and_change_their_tag_with_it(
    upstream: Origin, proxy: Proxy
) -> None:
    upstream.change("b.csv", b"b", {"unit": "s"})
    first = proxy.call("GET", "/index.json")
    assert json.loads(first.body) == {"a.csv": {"unit": "m"}, "b.csv": {"unit": "s"}}
    held = first.headers["etag"]
    assert proxy.call("GET", "/index.json", If_None_Match=held).status == 304
    proxy.call.put("c.csv", b"c", {"unit": "s"})
    proxy.call("DELETE", "/data/a.csv")
    now = proxy.call("GET", "/index.json", If_None_Match=held)
    assert json.loads(now.body) == {"b.csv": {"unit": "s"}, "c.csv": {"unit": "s"}}
    keys = proxy.call("GET", "/query?unit=%22s%22")
    assert keys.body.decode().split() == ["b.csv", "c.csv"]
    lines = proxy.call("GET", "/query?self=1", Accept="application/x-ndjson")
    assert lines.body == b""
    lines = proxy.call("GET", "/query?unit=%22s%22", Accept="application/x-ndjson")
    records = [json.loads(line) for line in lines.body.splitlines()]
    assert [each["key"] for each in records] == ["b.csv", "c.csv"]
    assert f'"{records[1]["version"]}"' == tag(b"c", {"unit": "s"})
    upstream.stop()
    offline = proxy.call("GET", "/index.json", If_None_Match=now.headers["etag"])
    assert offline.status == 304


def test_version_in_a_listing_is_the_tag_of_the_key(upstream: Origin, dynamic: Proxy) -> None:
    dynamic.call.put("mine", b"x", {"n": 1})
    listed = dynamic.call("GET", "/query", Accept="application/x-ndjson")
    for line in listed.body.splitlines():
        said = json.loads(line)
        assert dynamic.call.get(said["key"]).headers["etag"] == f'"{said["version"]}"'


def test_one_fetch_serves_all_who_come_meanwhile(upstream: Origin, tmp_path: Path) -> None:
    for number, layout in enumerate(LAYOUTS):
        key = f"hot{number}"
        upstream.change(key, b"x" * 1000, {})
        with proxy_of(client_of(upstream.url, layout), tmp_path / layout, max_age=60) as proxy:
            proxy.call("GET", "/index.json")
            upstream.requests.clear()
            upstream.delay = 0.3
            with ThreadPoolExecutor(30) as threads:
                replies = list(threads.map(lambda _: proxy.call.get(key), range(30)))  # noqa: B023
            upstream.delay = 0.0
            assert {reply.body for reply in replies} == {b"x" * 1000}
            fetched = [
                each for each in upstream.requests if each.path.startswith(("/data", "/keys"))
            ]
            assert len(fetched) == 1, fetched


def test_revalidations_of_one_key_are_shared_but_never_older_than_who_asks(
    upstream: Origin, dynamic: Proxy
) -> None:
    dynamic.call.get("a.csv")
    upstream.requests.clear()
    upstream.delay = 0.3
    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(dynamic.call.get, "a.csv")
        while not upstream.requests:
            pass
        upstream.change("a.csv", b"new")
        later = [threads.submit(dynamic.call.get, "a.csv") for _ in range(19)]
        assert {each.result().body for each in later} == {b"new"}
        assert first.result().body in (b"new", b"a,b\n1,2\n")
    assert len(upstream.requests) <= 3


def test_large_value_is_read_by_many_at_once(tmp_path: Path) -> None:
    data = pattern(6 * MIB)
    store = Scripted()
    store.put("big", data)
    with proxy_of(store, tmp_path) as proxy, ThreadPoolExecutor(6) as threads:
        assert {
            reply.body == data for reply in threads.map(lambda _: proxy.call.get("big"), range(6))
        } == {True}
        assert store.given < 2 * len(data)
        store.down = True
        assert proxy.call.get("big", Range="bytes=-5").body == data[-5:]


def test_a_slow_upstream_holds_up_no_read_of_what_is_here(upstream: Origin, tmp_path: Path) -> None:
    store = client_of(upstream.url, "dynamic")
    with proxy_of(store, tmp_path, max_age=3600) as proxy:
        proxy.call.get("a.csv")
        proxy.call.put("mine", b"staged", {})
        upstream.requests.clear()
        upstream.delay = 600.0
        with ThreadPoolExecutor(40) as threads:
            cold = [threads.submit(proxy.call.get, f"cold{number}") for number in range(40)]
            while len(upstream.requests) < 40:
                pass
            assert proxy.call.get("a.csv").body == b"a,b\n1,2\n"
            assert proxy.call.get("mine").body == b"staged"
            assert proxy.call.put("more", b"x", {}).status == 204
            assert not any(each.done() for each in cold)
            upstream.delay = 0.0
            upstream.stop()
            assert {each.result().status for each in cold} <= {404, 504}


def test_a_client_that_goes_away_leaves_nothing_locked(tmp_path: Path) -> None:
    data = pattern(6 * MIB)
    reached, go_on = threading.Event(), threading.Event()

    class Slow(Scripted):
        held = True

    def hold(key: str, at: int) -> None:
        if at >= 2 * MIB and store.held:
            reached.set()
            assert go_on.wait(20)

    store = Slow()
    store.put("big", data)
    store.giving = hold
    with proxy_of(store, tmp_path) as proxy:
        with socket.create_connection(proxy.call.address, timeout=20) as wire:
            wire.sendall(b"GET /data/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wire.recv(10)
            assert reached.wait(20)
        store.held = False
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(proxy.call.get, "big")
            go_on.set()
            assert other.result().body == data
        assert proxy.call.put("big", b"mine", {}).status == 204
    assert store.open == 0


def test_a_body_that_fails_in_the_middle_never_looks_whole(tmp_path: Path) -> None:
    for number, size in enumerate((len(pattern(4 * MIB)), None)):
        store = Whole()
        store.put("big", pattern(4 * MIB), version=None if size is None else "v", size=size)

        def breaks(key: str, at: int) -> None:
            if at > 3 * MIB:
                raise StoreUnavailableError("the connection broke")

        store.giving = breaks
        with proxy_of(store, tmp_path / str(number)) as proxy:
            request = b"GET /data/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            came = proxy.call.raw(request)
            head, _, body = came.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            if size is None:
                assert b"chunked" in head.lower()
                assert not body.endswith(b"0\r\n\r\n")
            else:
                assert len(body) < size
            store.giving = lambda key, at: None
            assert proxy.call.get("big").body == pattern(4 * MIB)


def test_wrong_bytes_are_never_given_whole(tmp_path: Path) -> None:
    store = Scripted()
    for key, size in (("small", 1000), ("big", 4 * MIB)):
        store.put(key, pattern(size), sha256="0" * 64)
    with proxy_of(store, tmp_path) as proxy:
        reply = proxy.call.get("small")
        assert (reply.status, reply.problem["key"]) == (502, "small")
        came = proxy.call.raw(
            b"GET /data/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert len(came.partition(b"\r\n\r\n")[2]) < 4 * MIB
        assert proxy.store.stats()["cached_keys"] == 0


# -- names of what a plain server holds ------------------------------------------------------


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_client_keeps_its_copy_when_that_of_the_proxy_has_come(size: int, tmp_path: Path) -> None:
    store, data = Indexed(), pattern(size)
    store.put("k", data)
    with proxy_of(store, tmp_path) as proxy:
        first = proxy.call.get("k")
        held = first.headers["etag"]
        assert first.body == data
        for _ in range(2):
            assert proxy.call.get("k", If_None_Match=held).status == 304
            part = proxy.call.get("k", Range="bytes=10-19", If_Range=held)
            assert (part.status, part.body, part.headers["etag"]) == (206, data[10:20], held)
            # The mount's own copy is read from now on, and goes by its content as well.
            now = proxy.call.get("k").headers["etag"]
            assert now == tag(data, {"name": "k"})
        assert proxy.call.put("k", b"mine", None, If_Match=held).status == 204
        assert proxy.call.put("k", b"mine again", None, If_Match=held).status == 412


def test_ranges_of_a_large_value_dont_fetch_the_whole(tmp_path: Path) -> None:
    store, data = Indexed(), pattern(8 * MIB)
    store.put("k", data)
    with proxy_of(store, tmp_path) as proxy:
        part = proxy.call.get("k", Range="bytes=5000000-5000009")
        assert (part.status, part.body) == (206, data[5_000_000:5_000_010])
        assert store.given < 3 * MIB
        head = proxy.call("HEAD", "/data/k")
        assert head.headers["content-length"] == str(len(data))
        assert head.headers["etag"] == part.headers["etag"]


def test_a_tag_names_metadata_too_where_upstreams_version_leaves_them_out(tmp_path: Path) -> None:
    store = Indexed()
    store.put("k", pattern(3 * MIB))
    with proxy_of(store, tmp_path) as proxy:
        before = proxy.call("HEAD", "/data/k").headers["etag"]
        store.promise("k", unit="m")
        proxy.store.update_index()
        after = proxy.call("HEAD", "/data/k")
        assert after.headers["etag"] != before
        assert proxy.call.get("k", If_None_Match=before).status == 200


def test_what_nothing_names_is_given_without_a_tag_and_whole(tmp_path: Path) -> None:
    store = Whole()
    store.put("k", pattern(2 * MIB), version=None, storable=False)
    with proxy_of(store, tmp_path) as proxy:
        for _ in range(2):
            reply = proxy.call.get("k", Range="bytes=0-9", If_None_Match='"x"')
            assert (reply.status, reply.body) == (200, pattern(2 * MIB))
            assert not {"etag", "last-modified"} & set(reply.headers)
            assert reply.headers["accept-ranges"] == "none"
        assert proxy.call.put("k", b"x", None, If_Match='"x"').status == 412


# -- writing ---------------------------------------------------------------------------------


def test_writes_are_staged_and_stay_here_until_pushed(upstream: Origin, proxy: Proxy) -> None:
    assert json.loads(proxy.call("GET", "/index.json").body) == {"a.csv": {"unit": "m"}}
    made = proxy.call.put("new.csv", b"new", {"by": "me"})
    assert (made.status, made.headers["mountcache-staged"]) == (201, "1")
    assert proxy.call.put("a.csv", b"mine").status == 204
    upstream.change("gone", b"x", {})
    proxy.store.update_index()
    assert proxy.call.get("gone").status == 200
    assert proxy.call("DELETE", "/data/gone").status == 204
    merged = proxy.call("POST", "/keys/new.csv/metadata", b'{"n": 1}', Content_Type=JSON)
    assert merged.status == 204
    assert proxy.call.get("gone").status == 404
    assert proxy.call.get("a.csv").body == b"mine"
    assert proxy.call.get("a.csv").headers["mountcache-metadata"] == encode_metadata({"unit": "m"})
    assert sorted(proxy.staged) == ["a.csv", "gone", "new.csv"]
    assert sorted(upstream.store.query_keys()) == ["a.csv", "gone"]
    assert upstream.store.to_bytes("a.csv") == b"a,b\n1,2\n"
    held = proxy.call.get("new.csv").headers["etag"]
    report = push(proxy.store)
    assert report.ok, [(each.key, each.outcome, each.message) for each in report.results]
    assert sorted(upstream.store.query_keys()) == ["a.csv", "new.csv"]
    assert upstream.store.to_bytes("a.csv") == b"mine"
    assert upstream.store.get_metadata("new.csv") == {"by": "me", "n": 1}
    # The tag outlives the push.
    assert proxy.call.get("new.csv", If_None_Match=held).status == 304


def test_a_write_asks_upstream_nothing_that_it_can_do_without(
    upstream: Origin, dynamic: Proxy
) -> None:
    dynamic.call.put("a.csv", b"blind", {})
    assert upstream.requests == []
    (edit,) = dynamic.store.staged()
    assert edit.base == "unknown"
    (result,) = push(dynamic.store).results
    assert result.outcome == "conflict"
    assert upstream.store.to_bytes("a.csv") == b"a,b\n1,2\n"


def test_a_blind_write_is_over_what_was_shown_last(upstream: Origin, dynamic: Proxy) -> None:
    dynamic.call("GET", "/index.json")
    listed = upstream.store.version_of("a.csv")
    upstream.change("a.csv", b"stranger")
    dynamic.call.put("a.csv", b"mine")
    (edit,) = dynamic.store.staged()
    assert edit.base == listed
    (result,) = push(dynamic.store).results
    assert result.outcome == "conflict"


def test_a_condition_that_fails_stages_nothing(upstream: Origin, proxy: Proxy) -> None:
    wrong = tag(b"other", {})
    held = tag(b"a,b\n1,2\n", {"unit": "m"})

    def refused(reply: Reply, found: str | None) -> None:
        assert reply.status == 412
        assert reply.problem["found"] == found
        assert proxy.staged == []

    refused(proxy.call.put("a.csv", b"x", {}, If_Match=wrong), held.strip('"'))
    refused(proxy.call.put("a.csv", b"x", {}, If_None_Match="*"), held.strip('"'))
    refused(proxy.call.put("nix", b"x", {}, If_Match=wrong), "absent")
    refused(proxy.call.put("nix", b"x", {}, If_Match="*"), "absent")
    refused(proxy.call("DELETE", "/data/a.csv", If_Match=wrong), held.strip('"'))
    refused(
        proxy.call("PUT", "/keys/a.csv/metadata", b"{}", Content_Type=JSON, If_Match=wrong),
        held.strip('"'),
    )
    assert proxy.call("DELETE", "/data/nix", If_Match=wrong).status == 404
    assert proxy.call.put("nix", b"x", {}, If_None_Match="*").status == 201
    assert proxy.call.put("nix", b"y", {}, If_None_Match="*").status == 412
    assert proxy.call.put("nix", b"y", {}, If_Match=tag(b"x", {})).status == 204
    assert proxy.staged == ["nix"]


def test_a_write_is_made_over_what_its_condition_names(upstream: Origin, proxy: Proxy) -> None:
    held = proxy.call.get("a.csv").headers["etag"]
    assert proxy.call.put("a.csv", b"mine", {}, If_Match=held).status == 204
    (edit,) = proxy.store.staged()
    assert f'"{edit.base}"' == held
    upstream.change("a.csv", b"theirs")
    (result,) = push(proxy.store).results
    assert result.outcome == "conflict"
    assert proxy.call.get("a.csv").body == b"mine"


def test_of_many_writers_over_one_version_one_succeeds(upstream: Origin, proxy: Proxy) -> None:
    held = proxy.call.get("a.csv").headers["etag"]

    def write(number: int) -> int:
        return proxy.call.put("a.csv", f"{number}".encode(), {}, If_Match=held).status

    def create(number: int) -> int:
        return proxy.call.put("new", f"{number}".encode(), {}, If_None_Match="*").status

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(write, range(8))) == [204] + [412] * 7
        assert sorted(threads.map(create, range(8))) == [201] + [412] * 7


def test_a_repeat_is_answered_as_the_first_time(upstream: Origin, dynamic: Proxy) -> None:
    held = dynamic.call.get("a.csv").headers["etag"]
    once = {"If_Match": held, "Idempotency_Key": "one"}
    first = dynamic.call.put("a.csv", b"mine", {}, **once)
    assert (first.status, first.headers.get("idempotency-replayed")) == (204, None)
    dynamic.call.put("a.csv", b"later", {})
    again = dynamic.call.put("a.csv", b"mine", {}, **once)
    assert (again.status, again.headers["idempotency-replayed"]) == (204, "true")
    assert again.headers["etag"] == first.headers["etag"]
    assert dynamic.call.get("a.csv").body == b"later"
    assert dynamic.call.put("a.csv", b"another", {}, **once).status == 422
    gone = {"If_Match": dynamic.call.get("a.csv").headers["etag"], "Idempotency_Key": "two"}
    assert dynamic.call("DELETE", "/data/a.csv", **gone).status == 204
    assert dynamic.call("DELETE", "/data/a.csv", **gone).status == 204


def test_a_batch_is_staged_whole_or_not_at_all(upstream: Origin, proxy: Proxy) -> None:
    held = proxy.call.get("a.csv").headers["etag"].strip('"')

    def batch(version: str) -> Reply:
        operations = [
            {"op": "put", "key": "new", "part": 1, "metadata": {"n": 1}, "if_none_match": True},
            {"op": "put", "key": "a.csv", "part": 2, "if_match": version},
        ]
        document = json.dumps({"operations": operations}).encode()
        body = multipart((JSON, document), ("text/plain", b"1"), ("text/plain", b"2"))
        return proxy.call("POST", "/batch", body, Content_Type=RELATED)

    refused = batch("0" * 64)
    assert (refused.status, refused.problem["operation"]) == (412, 1)
    assert proxy.staged == []
    done = batch(held)
    assert done.status == 200, done.body
    assert f'"{json.loads(done.body)["results"][0]["version"]}"' == tag(b"1", {"n": 1})
    assert sorted(proxy.staged) == ["a.csv", "new"]


def test_only_what_is_mounted_can_be_written(upstream: Origin, tmp_path: Path) -> None:
    upstream.change("in/x", b"x", {})
    store = client_of(upstream.url, "dynamic")
    with proxy_of(store, tmp_path, point="in/") as proxy:
        assert proxy.call.get("a.csv").body == b"a,b\n1,2\n"
        assert proxy.call("HEAD", "/data/a.csv").headers["etag"]
        reply = proxy.call.put("a.csv", b"x", {})
        assert (reply.status, reply.problem["type"].rpartition(":")[2]) == (403, "read-only")
        assert proxy.call("DELETE", "/data/a.csv").status == 403
        assert proxy.call.put("in/x", b"y", {}).status == 204
        assert proxy.staged == ["in/x"]
        assert sorted(json.loads(proxy.call("GET", "/index.json").body)) == ["a.csv", "in/x"]


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (StoreUnavailableError("down"), 504, "unavailable"),
        (KeyError("k"), 404, "no-such-key"),
        (IntegrityError("torn"), 502, "bad-upstream"),
        (UpstreamError("nonsense"), 502, "bad-upstream"),
        (AuthorizationError("who are you", status=401), 502, "not-let-in"),
        (ChangedWhileReadingError("moved"), 503, "changed"),
        (StoreBusyError("busy"), 503, "busy"),
        (ConflictError("moved on", key="k"), 412, "conflict"),
    ],
)
def test_each_failure_of_upstream_has_its_status(
    error: Exception, status: int, name: str, tmp_path: Path
) -> None:
    class Failing(Whole):
        def get(self, key: str) -> Any:
            raise error

    with proxy_of(Failing(), tmp_path, offline="never") as proxy:
        for reply in (proxy.call.get("k"), proxy.call("HEAD", "/data/k")):
            assert reply.status == status
        assert proxy.call.get("k").problem["type"] == f"urn:problem-type:mountcache:{name}"
        assert ("retry-after" in proxy.call.get("k").headers) == (status == 503)
        if status != 404:
            assert proxy.call("DELETE", "/data/k").status == status
        assert proxy.staged == []


def test_offline_what_isnt_known_is_504_and_what_is_known_absent_404(
    upstream: Origin, dynamic: Proxy
) -> None:
    upstream.stop()
    reply = dynamic.call.get("a.csv")
    assert reply.status == 504
    assert "a.csv" in reply.problem["detail"]
    assert dynamic.call("GET", "/index.json").status == 504
    assert dynamic.call("DELETE", "/data/a.csv").status == 504
    # Whether the key is there can't be known, so neither can whether a condition holds.
    assert dynamic.call.put("a.csv", b"x", {}, If_None_Match="*").status == 504
    assert dynamic.staged == []
    # 204: it isn't known to be new.
    assert dynamic.call.put("a.csv", b"x").status == 204
    assert dynamic.call.get("a.csv").body == b"x"
    assert dynamic.staged == ["a.csv"]
    upstream.start()
    dynamic.store.backing_store.get("a.csv")
    (result,) = push(dynamic.store.with_options(offline="never")).results
    assert result.outcome == "conflict"
    assert upstream.store.to_bytes("a.csv") == b"a,b\n1,2\n"


def test_several_mounts_have_paths_of_their_own(upstream: Origin, tmp_path: Path) -> None:
    with (
        Origin({"b": (b"two", {})}) as second,
        proxy_of(client_of(upstream.url, "dynamic"), tmp_path / "1") as one,
        proxy_of(client_of(second.url, "dynamic"), tmp_path / "2") as two,
        Server({"one": ServedMount(one.store), "two": ServedMount(two.store)}) as server,
    ):
        call = Client(server.url)
        assert call("GET", "/one/data/a.csv").body == b"a,b\n1,2\n"
        assert call("GET", "/two/data/b").body == b"two"
        assert call("GET", "/two/data/a.csv").status == 404
        assert call("PUT", "/two/data/c", b"x", Mountcache_Metadata="e30").status == 204
        assert (one.staged, two.staged) == ([], ["c"])
        assert call("GET", "/two/query").body == b"b\nc\n"
        for path in ("/", "/one", "/three/data/b", "/data/b"):
            lost = call("GET", path)
            assert lost.status == 404
            assert "/one/, /two/" in lost.problem["detail"]
        assert call("GET", "/-/health").status == 200
        with proxy_of(client_of(f"{server.url}two/", "static"), tmp_path / "3") as third:
            assert third.store.to_bytes("b") == b"two"


def test_a_stop_waits_for_no_upstream_that_never_answers(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Hanging(Whole):
        def get(self, key: str) -> Any:
            reached.set()
            go_on.wait(60)
            raise StoreUnavailableError("too late")

    with proxy_of(Hanging(), tmp_path) as proxy, ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(proxy.call.get, "k"),
            threads.submit(proxy.call.put, "k", b"x", {}, If_Match='"x"'),
        ]
        assert reached.wait(20)
        stopping = threading.Thread(target=proxy.server.stop)
        stopping.start()
        stopping.join(40)
        ended = not stopping.is_alive()
        go_on.set()
        assert ended
        # What they hear, if anything, is no success.
        assert all(each.exception() or each.result().status >= 500 for each in calls)
