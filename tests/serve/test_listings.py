"""The index and queries."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable

import requests

from mountcache.local.store import LocalStore
from tests.serve.client import JSON, KEYS, Client, Reply, version


def test_the_index_has_each_key_with_its_metadata_as_it_is(call: Client) -> None:
    assert call("GET", "/index.json").body == b"{}\n"
    metadata = {"z": 1.0, "sha256": "the user's own", "a": {"b": [None, True]}}
    for key in KEYS:
        call.put(key, b"x", metadata)
    got = call("GET", "/index.json")
    assert got.headers["content-type"] == JSON
    assert json.loads(got.body) == dict.fromkeys(KEYS, metadata)
    assert got.body.count(b'{"z":1.0,"sha256":') == len(KEYS)


def test_an_index_that_hasnt_changed_is_304(call: Client) -> None:
    call.put("k", b"x", {"a": 1})
    for path in ("/index.json", "/query", "/query?a=1"):
        seen = []
        changes: list[Callable[[], Reply]] = [
            lambda: call.put("k", b"y", {"a": 1}),
            lambda: call("PUT", "/keys/k/metadata", '{"a":2}', Content_Type=JSON),
            lambda: call("DELETE", "/keys/k"),
            lambda: call.put("k", b"x", {"a": 1}),
        ]
        for change in changes:
            mine = call("GET", path).headers["etag"]
            assert mine.startswith('"')
            again = call("GET", path, If_None_Match=mine)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", mine)
            change()
            assert call("GET", path, If_None_Match=mine).status == 200
            seen.append(mine)
        assert len(set(seen)) == len(seen)
        assert call("GET", path, If_Match=seen[0]).status == 412


def test_each_form_of_a_listing_has_a_tag_of_its_own(call: Client) -> None:
    call.put("k", b"x", {})
    forms = [
        call("GET", "/query"),
        call("GET", "/query", Accept="application/x-ndjson"),
        call("GET", "/query", Accept_Encoding="gzip"),
        call("GET", "/index.json"),
        call("GET", "/index.json", Accept_Encoding="deflate, gzip"),
    ]
    assert len({got.headers["etag"] for got in forms}) == len(forms)
    assert all(got.headers["vary"] == "Accept, Accept-Encoding" for got in forms)
    assert gzip.decompress(forms[2].body) == forms[0].body
    assert gzip.decompress(forms[4].body) == forms[3].body
    assert "content-encoding" not in forms[3].headers


def test_a_query_gives_a_key_a_line(call: Client) -> None:
    for number, key in enumerate(KEYS):
        call.put(key, b"x" * number, {"n": number, "kind": "odd" if number % 2 else "even"})
    got = call("GET", "/query")
    assert got.headers["content-type"] == "text/plain; charset=utf-8"
    assert sorted(got.body.decode().split("\n")[:-1]) == sorted(KEYS)
    odd = call("GET", "/query?kind=%22odd%22")
    assert sorted(odd.body.decode().split("\n")[:-1]) == sorted(KEYS[1::2])
    assert call("GET", "/query?kind=%22odd%22&n=3").body.decode() == KEYS[3] + "\n"
    assert call("GET", "/query?kind=%22none%22").body == b""
    assert call("GET", "/query?kind=odd").status == 400


def test_a_query_can_give_a_record_a_line(call: Client) -> None:
    for number, key in enumerate(KEYS):
        call.put(key, b"x" * number, {"n": number, "odd": bool(number % 2)})
    for query, numbers in (
        ("", range(len(KEYS))),
        ("?odd=true", range(1, len(KEYS), 2)),
        ("?n=4", [4]),
        ("?n=true", []),
    ):
        got = call("GET", f"/query{query}", Accept="text/plain, application/x-ndjson;q=0.9")
        assert got.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in got.body.decode().split("\n")[:-1]]
        assert sorted(lines, key=lambda line: line["key"]) == [
            {
                "key": KEYS[number],
                "metadata": {"n": number, "odd": bool(number % 2)},
                "size": number,
                "version": version(b"x" * number, {"n": number, "odd": bool(number % 2)}),
                "sha256": hashlib.sha256(b"x" * number).hexdigest(),
            }
            for number in sorted(numbers, key=lambda each: KEYS[each])
        ]


def test_a_query_by_any_name_of_metadata(call: Client) -> None:
    for name in ("self", "select", "kwargs", 'a"b', "a b", "\u00e9", "$.x", "key"):
        call.put("k", b"", {name: 1})
        call.put("other", b"", {name: 2})
        where = {name: "1"}
        for accept in ("text/plain", "application/x-ndjson"):
            got = requests.get(f"{call.url}query", where, headers={"Accept": accept}, timeout=20)
            assert len(got.text.splitlines()) == 1
            assert '"k"' in got.text or got.text == "k\n"


def test_a_long_listing_is_streamed_whole(call: Client, store: LocalStore) -> None:
    wide = {"text": "x" * 3000}
    with store.transaction("many"):
        for number in range(400):
            store.set(f"k/{number:04}", (io.BytesIO(b""), {**wide, "n": number}))
    got = call("GET", "/index.json")
    assert "content-length" not in got.headers
    assert [each["n"] for each in json.loads(got.body).values()] == list(range(400))
    packed = call("GET", "/index.json", Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == got.body
    assert len(call("GET", "/query").body.split()) == 400


def test_a_key_that_no_url_can_name_is_left_out(call: Client, store: LocalStore) -> None:
    store.set("a//b", (io.BytesIO(b""), {"n": 1}))
    store.set("a/b", (io.BytesIO(b""), {"n": 1}))
    assert json.loads(call("GET", "/index.json").body) == {"a/b": {"n": 1}}
    assert call("GET", "/query?n=1").body == b"a/b\n"
