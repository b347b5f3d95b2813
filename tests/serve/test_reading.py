"""GET and HEAD over real sockets."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from email.utils import parsedate_to_datetime

import pytest

from mountcache.serve import Origin
from mountcache.serve.wire import encode_metadata
from tests.serve.client import JSON, Client, tag, version

# What HTTP alone decides needs no second store.
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


def test_data_comes_with_all_that_is_known_of_it(call: Client) -> None:
    call.put("t/a.csv", b"1,2\n", {"unit": "m", "name": "\u00e9"})
    for path in ("/data/t/a.csv", "/keys/t/a.csv/data"):
        got = call("GET", path)
        assert (got.status, got.body) == (200, b"1,2\n")
        digest = base64.b64encode(hashlib.sha256(b"1,2\n").digest()).decode()
        assert {name: got.headers[name] for name in got.headers if name != "date"} == {
            "mountcache": "1",
            "mountcache-features": got.headers["mountcache-features"],
            "server": "mountcache",
            "etag": tag(b"1,2\n", {"unit": "m", "name": "\u00e9"}),
            "content-length": "4",
            "content-type": "text/csv",
            "repr-digest": f"sha-256=:{digest}:",
            "accept-ranges": "bytes",
            "cache-control": "no-cache",
            "mountcache-metadata": encode_metadata({"unit": "m", "name": "\u00e9"}),
            "last-modified": got.headers["last-modified"],
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox",
        }
        assert "batch-ids" in got.headers["mountcache-features"].split(", ")
        changed, sent = (
            parsedate_to_datetime(got.headers[name]) for name in ("last-modified", "date")
        )
        assert changed <= sent


def test_head_says_what_get_says_without_the_body(call: Client) -> None:
    call.put("k", b"x" * 100_000, {"a": 1})
    for path in ("/data/k", "/keys/k/data", "/keys/k/metadata", "/index.json", "/query"):
        got, head = call("GET", path), call("HEAD", path)
        assert head.body == b""
        lost = {"content-length", "date"} if path in ("/index.json", "/query") else {"date"}
        for name in set(got.headers) - lost:
            assert head.headers[name] == got.headers[name], (path, name)
    assert call("HEAD", "/data/k").headers["content-length"] == "100000"
    assert call("HEAD", "/data/none").status == 404


def test_metadata_is_given_in_the_spelling_that_was_set(call: Client) -> None:
    call("PUT", "/keys/k/metadata", '{"z": 1.0, "a": [true, null]}', Content_Type=JSON)
    got = call("GET", "/keys/k/metadata")
    assert got.body == b'{"z":1.0,"a":[true,null]}'
    assert got.headers["content-type"] == JSON
    assert got.headers["etag"] == tag(b"", {"a": [True, None], "z": 1})


def test_a_key_has_one_entity_tag_that_changes_with_data_and_with_metadata(call: Client) -> None:
    seen = set()
    for data, metadata in ((b"1", {"a": 1}), (b"2", {"a": 1}), (b"2", {"a": 2})):
        call.put("k", data, metadata)
        tags = {
            call("HEAD", path).headers["etag"]
            for path in ("/data/k", "/keys/k/data", "/keys/k/metadata")
        }
        assert tags == {tag(data, metadata)}
        seen |= tags
    assert len(seen) == 3


def test_a_key_that_isnt_there_is_a_problem_document(call: Client) -> None:
    for path in ("/data/a%20b", "/keys/a%20b/data", "/keys/a%20b/metadata"):
        got = call("GET", path, If_None_Match="*")
        assert got.status == 404
        assert got.headers["mountcache"] == "1"
        assert got.problem["key"] == "a b"
        assert got.problem["type"] == "urn:problem-type:mountcache:no-such-key"
        assert got.problem["status"] == 404
        assert "'a b'" in got.problem["detail"]


def test_not_modified_has_its_tag_and_no_body(call: Client) -> None:
    call.put("k", b"data", {})
    for path in ("/data/k", "/keys/k/data", "/keys/k/metadata"):
        got = call("GET", path, If_None_Match=f'"other", W/{tag(b"data", {})}')
        assert (got.status, got.body) == (304, b"")
        assert got.headers["etag"] == tag(b"data", {})
        assert "content-length" not in got.headers
        assert "last-modified" in got.headers
    assert call("HEAD", "/data/k", If_None_Match=tag(b"data", {})).status == 304
    later = "Fri, 01 Jan 2100 00:00:00 GMT"
    assert call.get("k", If_Modified_Since=later).status == 304
    assert call.get("k", If_Modified_Since=later, If_None_Match='"x"').status == 200


def test_a_read_can_ask_for_the_very_version(call: Client) -> None:
    call.put("k", b"data", {})
    assert call.get("k", If_Match=tag(b"data", {})).status == 200
    got = call.get("k", If_Match='"other"')
    assert got.status == 412
    assert got.problem["found"] == version(b"data", {})
    assert call.get("k", If_Match=f"W/{tag(b'data', {})}").status == 412
    assert call.get("none", If_Match="*").status == 404


@in_memory
@pytest.mark.parametrize(
    ("asked", "status", "said", "expected"),
    [
        ("bytes=2-5", 206, "bytes 2-5/10", b"2345"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-2", 206, "bytes 8-9/10", b"89"),
        ("bytes=0-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=0-1,4-5", 200, None, b"0123456789"),
        ("bytes=5-2", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_a_range_gives_its_bytes(
    call: Client, asked: str, status: int, said: str | None, expected: bytes
) -> None:
    call.put("k", b"0123456789", {"a": 1})
    got = call.get("k", Range=asked)
    assert (got.status, got.body) == (status, expected)
    assert got.headers.get("content-range") == said
    assert got.headers["content-length"] == str(len(expected))
    assert got.headers["etag"] == tag(b"0123456789", {"a": 1})
    # RFC 9530: the digest is that of the whole.
    whole = base64.b64encode(hashlib.sha256(b"0123456789").digest()).decode()
    assert got.headers["repr-digest"] == f"sha-256=:{whole}:"
    assert call("HEAD", "/data/k", Range=asked).status == 200


def test_a_range_past_the_end_says_how_long_the_data_is(call: Client) -> None:
    call.put("k", b"0123456789", {})
    got = call.get("k", Range="bytes=10-")
    assert (got.status, got.headers["content-range"]) == (416, "bytes */10")
    assert got.problem["key"] == "k"
    call.put("empty", b"", {})
    assert call.get("empty", Range="bytes=0-").status == 416
    assert call.get("empty").body == b""


def test_a_range_of_another_version_gives_the_whole(call: Client) -> None:
    call.put("k", b"0123456789", {})
    mine = tag(b"0123456789", {})
    assert call.get("k", Range="bytes=2-3", If_Range=mine).body == b"23"
    for other in ('"other"', f"W/{mine}", "Fri, 01 Jan 2100 00:00:00 GMT"):
        got = call.get("k", Range="bytes=2-3", If_Range=other)
        assert (got.status, len(got.body)) == (200, 10)
    # Conditions come before ranges.
    assert call.get("k", Range="bytes=2-3", If_None_Match=mine).status == 304
    assert call.get("k", Range="bytes=99-", If_Match='"other"').status == 412


def test_a_large_value_comes_whole_and_in_parts(call: Client) -> None:
    data = os.urandom(3_000_000)
    assert call.put("big", data, {}).status == 201
    assert call.get("big").body == data
    assert call.get("big", Range="bytes=1000000-2999998").body == data[1_000_000:2_999_999]


def test_a_reader_that_goes_away_costs_nothing(call: Client, origin: Origin) -> None:
    call.put("big", bytes(30_000_000), {})
    for _ in range(20):
        with socket.create_connection(call.address) as wire:
            wire.sendall(b"GET /data/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wire.recv(10)
    assert call.get("big", Range="bytes=-1").body == b"\0"
    origin.stop()
