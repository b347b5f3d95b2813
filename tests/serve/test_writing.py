"""PUT, POST and DELETE over real sockets."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serve.client import JSON, RELATED, Client, Reply, multipart, tag, version

# What HTTP alone decides needs no second store.
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


def test_put_creates_and_replaces(call: Client) -> None:
    for path in ("/data/k", "/keys/k/data"):
        first = call("PUT", path, b"one", If_None_Match="*")
        assert (first.status, first.headers["etag"]) == (201, tag(b"one", {}))
        second = call("PUT", path, b"two", If_Match=first.headers["etag"])
        assert (second.status, second.headers["etag"]) == (204, tag(b"two", {}))
        assert second.body == b""
        assert call("PUT", path, b"three").status == 204
        assert call.get("k").body == b"three"
        assert call("DELETE", "/data/k").status == 204
        assert call("PUT", path, b"four").status == 201
        assert call("DELETE", "/keys/k").status == 204


def test_put_keeps_metadata_that_it_doesnt_name(call: Client) -> None:
    call.put("k", b"one", {"a": 1})
    call.put("k", b"two")
    assert call("GET", "/keys/k/metadata").body == b'{"a":1}'
    call.put("k", b"three", {})
    assert call("GET", "/keys/k/metadata").body == b"{}"


def test_long_metadata_travels_in_a_multipart_body(call: Client) -> None:
    metadata = {"text": "\u00e9" * 5000}
    data = b"\r\n--boun" * 10_000
    body = multipart((JSON, json.dumps(metadata).encode()), ("application/octet-stream", data))
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    put = call("PUT", "/data/k", body, Content_Type=RELATED, Repr_Digest=f"sha-256=:{digest}:")
    assert (put.status, put.headers["etag"]) == (201, tag(data, metadata))
    got = call.get("k")
    assert got.body == data
    assert "mountcache-metadata" not in got.headers
    text = call("GET", "/keys/k/metadata")
    assert got.headers["mountcache-metadata-length"] == str(len(text.body))
    assert text.headers["etag"] == got.headers["etag"]
    assert json.loads(text.body) == metadata


@in_memory
@pytest.mark.parametrize(
    "body",
    [
        multipart((JSON, b"{}")),
        multipart(("text/plain", b"{}"), ("text/plain", b"x")),
        multipart((JSON, b"[]"), ("text/plain", b"x")),
        multipart((JSON, b"{}"), ("text/plain", b"x"), ("text/plain", b"y")),
        multipart((JSON, b"{}"), ("text/plain", b"x"))[:-6],
        b"--bound--",
        b"",
    ],
)
def test_a_multipart_body_that_isnt_metadata_and_data_stores_nothing(
    call: Client, body: bytes
) -> None:
    put = call("PUT", "/data/k", body, Content_Type=RELATED)
    assert put.status == 400
    assert put.problem["detail"]
    assert call.get("k").status == 404


def test_a_refused_write_says_what_was_expected_and_what_is_there(call: Client) -> None:
    call.put("k", b"theirs", {})
    there = version(b"theirs", {})
    for headers, expected in (
        ({"If_Match": '"mine"'}, "mine"),
        ({"If_None_Match": "*"}, "absent"),
        ({"If_Match": '"a", "b"'}, None),
        ({"If_None_Match": f'"{there}"'}, None),
    ):
        for reply in (
            call.put("k", b"mine", {}, **headers),
            call("PUT", "/keys/k/metadata", "{}", Content_Type=JSON, **headers),
            call("POST", "/keys/k/metadata", "{}", Content_Type=JSON, **headers),
            call("DELETE", "/keys/k", **headers),
        ):
            assert reply.status == 412
            said = {name: reply.problem[name] for name in ("key", "expected", "found")}
            assert said == {"key": "k", "expected": expected, "found": there}
    assert call.get("k").body == b"theirs"
    gone = call.put("none", b"mine", {}, If_Match='"mine"')
    assert (gone.status, gone.problem["found"]) == (412, "absent")


def test_delete_of_what_isnt_there_is_404_whatever_the_condition(call: Client) -> None:
    for headers in ({}, {"If_Match": '"x"'}, {"If_Match": "*"}, {"If_Match": '"x", "y"'}):
        reply = call("DELETE", "/data/none", **headers)
        assert (reply.status, reply.problem["key"]) == (404, "none")
    call.put("k", b"x", {})
    assert call("DELETE", "/keys/k", If_Match=tag(b"x", {})).status == 204
    assert call("DELETE", "/keys/k", If_Match=tag(b"x", {})).status == 404


def test_metadata_is_replaced_by_put_and_merged_by_post(call: Client) -> None:
    call.put("k", b"data", {"a": 1, "b": 2})
    posted = call("POST", "/keys/k/metadata", '{"b": 3, "c": 4}', Content_Type=JSON)
    assert (posted.status, posted.headers["etag"]) == (204, tag(b"data", {"a": 1, "b": 3, "c": 4}))
    assert call("GET", "/keys/k/metadata").body == b'{"a":1,"b":3,"c":4}'
    put = call(
        "PUT", "/keys/k/metadata", '{"d": 5}', Content_Type=JSON, If_Match=posted.headers["etag"]
    )
    assert (put.status, put.headers["etag"]) == (204, tag(b"data", {"d": 5}))
    assert call.get("k").body == b"data"


def test_metadata_of_a_new_key_creates_it_empty(call: Client) -> None:
    for method, key in (("PUT", "p"), ("POST", "q")):
        reply = call(method, f"/keys/{key}/metadata", '{"a":1}', Content_Type=JSON)
        assert (reply.status, reply.headers["etag"]) == (201, tag(b"", {"a": 1}))
        assert call.get(key).body == b""
        refused = call(method, f"/keys/{key}-2/metadata", "{}", Content_Type=JSON, If_Match='"x"')
        assert refused.status == 412
        assert call.get(f"{key}-2").status == 404


@in_memory
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("[]", JSON, 400),
        ("{", JSON, 400),
        ("", JSON, 400),
        ('{"a": NaN}', JSON, 400),
        ('{"a":1,"a":2}', JSON, 400),
        (b"\xff", JSON, 400),
        ("{}", "text/plain", 415),
        ("{}", None, 415),
    ],
)
def test_a_body_that_is_no_metadata_changes_nothing(
    call: Client, body: Any, kind: str | None, status: int
) -> None:
    call.put("k", b"data", {"a": 1})
    for method in ("PUT", "POST"):
        reply = call(method, "/keys/k/metadata", body, Content_Type=kind)
        assert reply.status == status
        assert reply.problem["detail"]
    assert call("GET", "/keys/k/metadata").body == b'{"a":1}'


@pytest.mark.parametrize("name", ["Content_Digest", "Repr_Digest"])
def test_data_with_another_digest_than_promised_is_refused(call: Client, name: str) -> None:
    for algorithm in ("sha256", "sha512"):
        spelled = f"{algorithm[:3]}-{algorithm[3:]}"
        right, wrong = (
            f"{spelled}=:{base64.b64encode(hashlib.new(algorithm, each).digest()).decode()}:"
            for each in (b"data", b"other")
        )
        refused = call.put("k", b"data", {}, **{name: wrong})
        assert refused.status == 400
        assert refused.problem["type"].endswith(":wrong-digest")
        assert call.get("k").status == 404
        assert call.put("k", b"data", {}, **{name: right}).status == 201
        call("DELETE", "/data/k")
    assert call.put("k", b"data", {}, **{name: "sha-256=oops"}).status == 400


def test_a_body_in_another_form_is_refused(call: Client) -> None:
    packed = gzip.compress(b"data")
    assert call.put("k", packed, {}, Content_Encoding="gzip").status == 415
    assert call.put("k", b"part", {}, Content_Range="bytes 0-3/10").status == 400
    assert call.put("k", b"x", None, Mountcache_Metadata="????").status == 400
    assert call.put("k", b"x", {}, If_Match="no quotes").status == 400
    assert call.put("k", b"x", {}, Idempotency_Key="a b").status == 400
    assert call.get("k").status == 404
    assert call.put("k", b"data", {}, Content_Encoding="identity").status == 201


def test_a_repeat_of_a_write_is_answered_as_the_first_time(call: Client) -> None:
    mine, theirs = tag(b"mine", {}), tag(b"theirs", {})
    for _ in range(2):
        put = call.put("k", b"mine", {}, If_None_Match="*", Idempotency_Key="op-1")
        assert (put.status, put.headers["etag"]) == (201, mine)
    assert put.headers["idempotency-replayed"] == "true"
    # Others built on it: the repeat still isn't a conflict, and overwrites nothing.
    call.put("k", b"theirs", {}, If_Match=mine)
    again = call.put("k", b"mine", {}, If_None_Match="*", Idempotency_Key='"op-1"')
    assert (again.status, again.headers["etag"]) == (201, mine)
    assert call.get("k").body == b"theirs"
    assert call.put("k", b"mine", {}, If_None_Match="*", Idempotency_Key="op-2").status == 412
    for _ in range(2):
        reply = call(
            "PUT", "/keys/k/metadata", '{"a":1}', Content_Type=JSON, If_Match=theirs,
            Idempotency_Key="op-3",
        )  # fmt: skip
        assert (reply.status, reply.headers["etag"]) == (204, tag(b"theirs", {"a": 1}))
    for _ in range(2):
        reply = call("DELETE", "/keys/k", If_Match=tag(b"theirs", {"a": 1}), Idempotency_Key="op-4")
        assert reply.status == 204
    assert reply.headers["idempotency-replayed"] == "true"


def test_an_operation_id_names_one_write_of_one_key(call: Client) -> None:
    call.put("k", b"one", {}, Idempotency_Key="op")
    reused = call.put("k", b"two", {}, Idempotency_Key="op")
    assert reused.status == 422
    assert call.get("k").body == b"one"
    other = call.put("k2", b"one", {}, Idempotency_Key="op")
    assert other.status == 201
    assert "idempotency-replayed" not in other.headers
    assert call.get("k2").body == b"one"


def test_of_twenty_writers_over_one_version_exactly_one_wins(call: Client) -> None:
    call.put("k", b"base", {"n": 0})
    barrier = threading.Barrier(20)

    def write(number: int) -> Reply:
        barrier.wait()
        return call.put("k", b"%d" % number, {"n": number}, If_Match=tag(b"base", {"n": 0}))

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(write, range(20)))
    assert sorted(reply.status for reply in replies) == [204] + [412] * 19
    (winner,) = (number for number, reply in enumerate(replies) if reply.status == 204)
    assert call.get("k").body == b"%d" % winner
    assert json.loads(call("GET", "/keys/k/metadata").body) == {"n": winner}


def test_of_twenty_creators_exactly_one_wins(call: Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        replies = list(
            pool.map(lambda n: call.put("k", b"%d" % n, {}, If_None_Match="*"), range(20))
        )
    assert sorted(reply.status for reply in replies) == [201] + [412] * 19


def test_merges_at_one_time_lose_none(call: Client) -> None:
    def merge(number: int) -> int:
        body = json.dumps({f"n{number}": number})
        return call("POST", "/keys/k/metadata", body, Content_Type=JSON).status

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(merge, range(20)))
    assert set(statuses) <= {201, 204}
    assert len(json.loads(call("GET", "/keys/k/metadata").body)) == 20


def test_no_reader_sees_new_data_under_old_metadata(call: Client) -> None:
    call.put("k", b"0" * 40_000, {"n": 0})
    stop = threading.Event()
    torn: list[Reply] = []

    def read() -> int:
        count = 0
        while not stop.is_set():
            got = call.get("k")
            number = int(got.body[:1])
            if got.headers["etag"] != tag(got.body, {"n": number}):
                torn.append(got)
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(1, 10):
            call.put("k", b"%d" % number * 40_000, {"n": number})
        stop.set()
        assert all(reader.result() for reader in readers)
    assert torn == []
