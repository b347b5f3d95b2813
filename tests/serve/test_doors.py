"""Keys, methods, hosts: who may come in, and by which path."""

from __future__ import annotations

import json

import pytest
import requests

from mountcache.keys import quote_key
from tests.serve.client import KEYS, Client

# What HTTP alone decides needs no second store.
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


def test_a_key_is_itself_on_every_path(call: Client) -> None:
    for key in KEYS:
        data, quoted = key.encode(), quote_key(key)
        assert call.put(key, data, {"key": key}).status == 201
        assert call("GET", f"/data/{quoted}").body == data
        assert call("GET", f"/keys/{quoted}/data").body == data
        assert json.loads(call("GET", f"/keys/{quoted}/metadata").body) == {"key": key}
        assert json.loads(call("GET", "/index.json").body) == {key: {"key": key}}
        assert call("GET", "/query").body == data + b"\n"
        assert requests.get(f"{call.url}data/{quoted}", timeout=20).content == data
        every = "".join(f"%{byte:02x}" for byte in data)
        assert call("GET", f"/data/{every}").body == data
        assert call("DELETE", f"/keys/{every}").status == 204
        assert call("GET", "/index.json").body == b"{}\n"


def test_two_spellings_of_one_word_are_two_keys(call: Client) -> None:
    call.put("caf\u00e9", b"composed", {})
    call.put("cafe\u0301", b"decomposed", {})
    assert call.get("caf\u00e9").body == b"composed"
    assert call.get("cafe\u0301").body == b"decomposed"


@in_memory
@pytest.mark.parametrize(
    "path",
    [
        "/data/../../etc/passwd",
        "/data/a/%2e%2e/b",
        "/data/a//b",
        "/data//etc/passwd",
        "/data/",
        "/data/a%00",
        "/data/a%0d%0aX-Evil:1",
        "/data/%ff",
        "/data/%",
        "/keys//data",
        "/keys/./data",
        "/data/" + "k" * 4097,
    ],
)
def test_what_cant_be_a_key_is_refused_before_it_is_folded(call: Client, path: str) -> None:
    call.put("b", b"precious", {})
    for method in ("GET", "PUT", "DELETE"):
        reply = call(method, path, b"evil" if method == "PUT" else None)
        assert reply.status == 400
        assert reply.problem["detail"]
    assert json.loads(call("GET", "/index.json").body) == {"b": {}}


@in_memory
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/data/k", "GET, HEAD, PUT, DELETE"),
        ("/keys/k", "DELETE"),
        ("/keys/k/data", "GET, HEAD, PUT"),
        ("/keys/k/metadata", "GET, HEAD, PUT, POST"),
        ("/index.json", "GET, HEAD"),
        ("/query", "GET, HEAD"),
        ("/batch", "POST"),
        ("/-/health", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_doesnt_take_is_told_which_it_does(
    call: Client, path: str, allowed: str
) -> None:
    for method in {"PATCH", "OPTIONS", "MKCOL", "POST", "PUT"} - set(allowed.split(", ")):
        reply = call(method, path, b"")
        assert (reply.status, reply.headers["allow"]) == (405, allowed)


def test_permissions_arent_kept_and_health_is_told(call: Client) -> None:
    for method in ("GET", "PUT", "POST"):
        assert call(method, "/keys/k/auth", b"{}" if method != "GET" else None).status == 501
    assert json.loads(call("GET", "/-/health").body) == {"status": "ok"}
    assert call("GET", "/").status == 404


def test_only_names_of_this_machine_are_answered_on_loopback(call: Client) -> None:
    port = call.address[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert call("GET", "/index.json", Host=host).status == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert call("GET", "/index.json", Host=host).status == 421
        assert call("PUT", "/data/k", b"x", Host=host).status == 421
    twice = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n"
    assert b" 421 " in call.raw(twice)


def test_a_page_of_another_site_cant_write(call: Client) -> None:
    own = f"http://127.0.0.1:{call.address[1]}"
    assert call.put("k", b"x", {}, Origin="http://evil.example").status == 403
    assert call.put("k", b"x", {}, Origin="null").status == 403
    assert call.put("k", b"x", {}, Origin=own).status == 201
    assert call.get("k", Origin="http://evil.example").status == 200


def test_header_fields_have_a_limit(call: Client) -> None:
    assert call("GET", "/-/health", X_Long="x" * 20_000).status == 431
    # The longest key and the longest metadata go together.
    assert call.put("\u00e9" * 2048, b"x", {"t": "y" * 3060}).status == 201
