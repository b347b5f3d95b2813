"""The wire as pure functions: paths, conditions, ranges, header fields, multipart bodies."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcache.abc import ABSENT, Base
from mountcache.errors import InvalidKeyError
from mountcache.jsonform import spelling
from mountcache.keys import check_http_key, quote_key
from mountcache.serve.body import Hashed, MultipartReader, media_type
from mountcache.serve.conditions import Conditions, Span, base_of, read_verdict, span_of
from mountcache.serve.wire import (
    METADATA_HEADER_LIMIT,
    Problem,
    accepts,
    decode_metadata,
    digest_claims,
    encode_metadata,
    http_date,
    is_loopback_host,
    operation_id,
    parse_metadata,
    parse_query,
    target_of,
)

V1, V2 = "1" * 64, "2" * 64
SPRING = 1714564800.0  # 2024-05-01T12:00:00Z


# -- paths -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "kind", "key"),
    [
        ("/data/a", "GET", "data", "a"),
        ("/data/a/b.csv", "PUT", "data", "a/b.csv"),
        ("/data/a%2Fb", "GET", "data", "a/b"),
        ("/data/a%20b+c%3F%23%25", "GET", "data", "a b+c?#%"),
        ("/data/%C3%A9", "GET", "data", "\u00e9"),
        ("/data/e%CC%81", "GET", "data", "e\u0301"),
        ("/data/%25C3", "GET", "data", "%C3"),
        ("/data/x/data", "DELETE", "data", "x/data"),
        ("/keys/a/data", "GET", "data", "a"),
        ("/keys/data/data", "GET", "data", "data"),
        ("/keys/a/data/data", "PUT", "data", "a/data"),
        ("/keys/a/b/metadata", "POST", "metadata", "a/b"),
        ("/keys/a%2Fmetadata", "GET", "metadata", "a"),
        ("/keys/a/auth", "GET", "auth", "a"),
        ("/keys/a", "DELETE", "key", "a"),
        ("/keys/a/data", "DELETE", "key", "a/data"),
        ("/index.json", "HEAD", "index", ""),
        ("/query", "GET", "query", ""),
        ("/batch", "POST", "batch", ""),
        ("/-/health", "GET", "health", ""),
    ],
)
def test_a_path_names_what_it_says(path: str, method: str, kind: str, key: str) -> None:
    target = target_of(path.encode(), method)
    assert (target.kind, target.key) == (kind, key)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/data/", "GET", 400),
        ("/data/../etc/passwd", "GET", 400),
        ("/data/a/../b", "PUT", 400),
        ("/data/a/%2e%2e/b", "PUT", 400),
        ("/data/a//b", "PUT", 400),
        ("/data//a", "PUT", 400),
        ("/data/a/", "PUT", 400),
        ("/data/./a", "PUT", 400),
        ("/data/a%00b", "PUT", 400),
        ("/data/a%0Ab", "PUT", 400),
        ("/data/a%0D%0AX:1", "PUT", 400),
        ("/data/%FF", "GET", 400),
        ("/data/%ED%A0%80", "GET", 400),
        ("/data/%zz", "GET", 400),
        ("/data/100%", "GET", 400),
        ("/data/" + "k" * 4097, "GET", 400),
        ("/keys//data", "GET", 400),
        ("/keys/../data", "GET", 400),
        ("/", "GET", 404),
        ("*", "OPTIONS", 404),
        ("//data/a", "GET", 404),
        ("/DATA/a", "GET", 404),
        ("/index.json/", "GET", 404),
        ("/./data/a", "GET", 404),
        ("/data/../index.json", "GET", 400),
        ("/data/a", "POST", 405),
        ("/keys/a", "GET", 405),
        ("/keys/a/data", "POST", 405),
        ("/index.json", "PUT", 405),
        ("/query", "POST", 405),
        ("/batch", "GET", 405),
    ],
)
def test_a_path_that_names_nothing_is_refused(path: str, method: str, status: int) -> None:
    with pytest.raises(Problem) as caught:
        target_of(path.encode(), method)
    assert caught.value.status == status
    assert ("Allow" in caught.value.headers) == (status == 405)


@given(st.text(max_size=60))
def test_every_key_comes_out_of_a_path_as_it_went_in(key: str) -> None:
    try:
        check_http_key(key)
    except InvalidKeyError:
        return
    assert target_of(b"/data/" + quote_key(key).encode(), "GET").key == key
    assert target_of(b"/keys/" + quote_key(key).encode() + b"/data", "GET").key == key
    assert target_of(b"/keys/" + quote_key(key).encode(), "DELETE").key == key


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", {}),
        (b"a=1&b=%22x%22", {"a": 1, "b": "x"}),
        (b"a=%22one+two%22", {"a": "one two"}),
        (b"a=null", {"a": None}),
        (b"%C3%A9=%5B1%2C2%5D", {"é": [1, 2]}),
        (b"self=1&select=2", {"self": 1, "select": 2}),
    ],
)
def test_a_query_names_metadata(query: bytes, expected: dict[str, Any]) -> None:
    assert parse_query(query) == expected


@pytest.mark.parametrize(
    "query", [b"a=x", b"a=", b"a=1&a=1", b"a=NaN", b"a=%FF", b"a=\xff", b"a=1" + b"&b=1" * 200]
)
def test_a_query_that_makes_no_sense_is_refused(query: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_query(query)
    assert caught.value.status == 400


# -- conditions --------------------------------------------------------------------------

BEFORE, AFTER = http_date(SPRING - 60), http_date(SPRING + 60)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "send"),
        ({"if-match": f'"{V1}"'}, "send"),
        ({"if-match": f'"{V2}"'}, "failed"),
        ({"if-match": f'"{V2}", "{V1}"'}, "send"),
        ({"if-match": f'W/"{V1}"'}, "failed"),
        ({"if-match": "*"}, "send"),
        ({"if-none-match": f'"{V1}"'}, "not modified"),
        ({"if-none-match": f'W/"{V1}"'}, "not modified"),
        ({"if-none-match": f'"{V2}"'}, "send"),
        ({"if-none-match": f'"{V2}" , W/"{V1}"'}, "not modified"),
        ({"if-none-match": "*"}, "not modified"),
        ({"if-unmodified-since": BEFORE}, "failed"),
        ({"if-unmodified-since": AFTER}, "send"),
        ({"if-modified-since": BEFORE}, "send"),
        ({"if-modified-since": AFTER}, "not modified"),
        ({"if-modified-since": http_date(SPRING)}, "not modified"),
        ({"if-modified-since": "Wednesday, 01-May-24 12:01:00 GMT"}, "not modified"),
        ({"if-modified-since": "Wed May  1 12:01:00 2024"}, "not modified"),
        ({"if-modified-since": "tomorrow"}, "send"),
        # The order of RFC 9110 13.2.2: an entity tag outweighs a date, If-Match the rest.
        ({"if-match": f'"{V1}"', "if-unmodified-since": BEFORE}, "send"),
        ({"if-match": f'"{V2}"', "if-none-match": f'"{V1}"'}, "failed"),
        ({"if-match": f'"{V1}"', "if-none-match": f'"{V1}"'}, "not modified"),
        ({"if-unmodified-since": BEFORE, "if-none-match": f'"{V1}"'}, "failed"),
        ({"if-none-match": f'"{V2}"', "if-modified-since": AFTER}, "send"),
        ({"if-none-match": f'"{V1}"', "if-modified-since": BEFORE}, "not modified"),
    ],
)
def test_conditions_of_a_read_count_in_their_order(headers: dict[str, str], expected: str) -> None:
    assert read_verdict(Conditions.of(headers), V1, SPRING) == expected


@pytest.mark.parametrize("name", ["if-match", "if-none-match"])
@pytest.mark.parametrize("text", [V1, f'"{V1}" x', '"', "", "W/", f'w/"{V1}"', f'"{V1}'])
def test_what_is_no_entity_tag_is_refused(name: str, text: str) -> None:
    with pytest.raises(Problem) as caught:
        Conditions.of({name: text})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("headers", "there", "expected"),
    [
        ({}, V1, None),
        ({}, ABSENT, None),
        ({"if-none-match": "*"}, V1, ABSENT),  # the store refuses, as one step
        ({"if-none-match": "*"}, ABSENT, ABSENT),
        ({"if-match": f'"{V1}"'}, V1, V1),
        ({"if-match": f'"{V2}"'}, V1, V2),
        ({"if-match": f'W/"{V1}"'}, V1, "412"),
        ({"if-match": "*"}, V1, V1),
        ({"if-match": "*"}, ABSENT, "412"),
        ({"if-match": f'"{V1}", "{V2}"'}, V1, V1),
        ({"if-match": f'"{V2}", "x"'}, V1, "412"),
        ({"if-none-match": f'"{V1}"'}, V1, "412"),
        ({"if-none-match": f'W/"{V1}"'}, V1, "412"),
        ({"if-none-match": f'"{V2}"'}, V1, V1),
        ({"if-none-match": f'"{V2}"'}, ABSENT, ABSENT),
        ({"if-match": f'"{V1}"', "if-none-match": "*"}, V1, "412"),
        ({"if-match": f'"{V1}"', "if-none-match": f'"{V1}"'}, V1, "412"),
        ({"if-match": f'"{V1}"', "if-none-match": f'"{V2}"'}, V1, V1),
        ({"if-unmodified-since": BEFORE}, V1, "412"),
        ({"if-unmodified-since": AFTER}, V1, V1),
        ({"if-unmodified-since": AFTER}, ABSENT, None),
        ({"if-unmodified-since": AFTER, "if-match": f'"{V2}"'}, V1, V2),
        ({"if-modified-since": AFTER}, V1, None),  # means nothing to a write
    ],
)
def test_conditions_of_a_write_become_the_base_that_it_replaces(
    headers: dict[str, str], there: Base, expected: Base
) -> None:
    def current() -> tuple[Base, float | None]:
        return there, None if there is ABSENT else SPRING

    if expected != "412":
        assert base_of(Conditions.of(headers), "k", current) == expected
        return
    with pytest.raises(Problem) as caught:
        base_of(Conditions.of(headers), "k", current)
    assert caught.value.status == 412
    assert caught.value.members["key"] == "k"
    assert caught.value.members["found"] == ("absent" if there is ABSENT else there)


def test_a_single_tag_is_left_to_the_store_to_compare() -> None:
    def current() -> tuple[Base, float | None]:
        raise AssertionError("the server looked before the store compared")

    for headers in ({"if-match": f'"{V1}"'}, {"if-none-match": "*"}, {}):
        base_of(Conditions.of(headers), "k", current)


# -- ranges ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "whole"),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-", Span(0, 10)),
        ("bytes=2-5", Span(2, 6)),
        ("bytes=2-500", Span(2, 10)),
        ("bytes=9-9", Span(9, 10)),
        ("bytes=-3", Span(7, 10)),
        ("bytes=-30", Span(0, 10)),
        ("BYTES = 2-5", Span(2, 6)),
        ("bytes=, 2-5 ,", Span(2, 6)),
        ("bytes=10-", "unsatisfiable"),
        ("bytes=10-12", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        ("bytes=" + "9" * 5000 + "-", "unsatisfiable"),
        ("bytes=0-" + "9" * 5000, Span(0, 10)),
        ("bytes=5-2", "whole"),
        ("bytes=0-1,3-4", "whole"),
        ("bytes=", "whole"),
        ("bytes=-", "whole"),
        ("bytes=a-b", "whole"),
        ("bytes=1-2-3", "whole"),
        ("bytes=\u0661-\u0662", "whole"),
        ("items=0-1", "whole"),
    ],
)
def test_a_single_range_is_answered_and_any_other_ignored(text: str | None, expected: Any) -> None:
    assert span_of(text, None, V1, 10) == expected


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_no_range_of_nothing_can_be_satisfied(text: str) -> None:
    assert span_of(text, None, V1, 0) == "unsatisfiable"


@pytest.mark.parametrize(
    ("if_range", "partial"),
    [
        (f'"{V1}"', True),
        (f'"{V2}"', False),
        (f'W/"{V1}"', False),
        (V1, False),
        (http_date(SPRING), False),
    ],
)
def test_if_range_takes_the_very_version_only(if_range: str, partial: bool) -> None:
    found = span_of("bytes=2-5", if_range, V1, 10)
    assert found == (Span(2, 6) if partial else "whole")
    assert span_of("bytes=99-", f'"{V2}"', V1, 10) == "whole"


# -- header fields -----------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=12), _values, max_size=5))
def test_metadata_comes_out_of_its_header_as_it_went_in(metadata: dict[str, Any]) -> None:
    packed = encode_metadata(metadata)
    assert packed.isascii() and not set(packed) & set("\r\n ,=+/")
    if len(packed) <= METADATA_HEADER_LIMIT:
        assert spelling(decode_metadata(packed)) == spelling(metadata)


def _packed(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "base64url"),
        ("a", "base64url"),
        ("é", "base64url"),
        ("e30\r\nX: y", "base64url"),
        ("A" * 4100, "4,100 characters"),
        (_packed("[]"), "a dict"),
        (_packed("1"), "a dict"),
        (_packed("{"), "JSON"),
        (_packed(b"\xff"), "UTF-8"),
        (_packed('{"a": NaN}'), "NaN|nan"),
        (_packed('{"a": 1, "a": 2}'), "twice"),
        (_packed('{"a": "\\ud800"}'), "surrogate"),
        (_packed('{"a": 9223372036854775808}'), "64 bits"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(Problem, match=says) as caught:
        decode_metadata(text)
    assert caught.value.status == 400


def test_json_nested_beyond_sense_is_refused() -> None:
    with pytest.raises(Problem):
        parse_metadata(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "the body")
    with pytest.raises(Problem, match="levels"):
        parse_metadata(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "the body")


def test_digests_that_are_known_are_taken_and_others_left_out() -> None:
    sha256, sha512 = hashlib.sha256(b"x").digest(), hashlib.sha512(b"x").digest()
    text = (
        f"sha-256=:{base64.b64encode(sha256).decode()}:, unixsum=:AA==:, "
        f"sha-512=:{base64.b64encode(sha512).decode()}:"
    )
    assert digest_claims(text, "Repr-Digest") == {"sha256": sha256, "sha512": sha512}
    assert digest_claims(None, "Repr-Digest") == {}


@pytest.mark.parametrize("text", ["sha-256=abc", "sha-256=:AA==:", "sha-256=:====:", "x", ","])
def test_a_digest_that_is_misspelled_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        digest_claims(text, "Repr-Digest")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, ""), ("abc-1", "abc-1"), ('"abc-1"', "abc-1"), (" x ", "x"), ("é", None)]
    + [(bad, None) for bad in ("", "a b", '"', '""', "x" * 256)],
)
def test_an_operation_id_is_bare_or_quoted(text: str | None, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Problem):
            operation_id(text)
    else:
        assert operation_id(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        (None, False),
        ("x-gzip", False),
    ],
)
def test_an_encoding_is_used_where_it_is_asked_for(text: str | None, expected: bool) -> None:
    assert accepts(text, "gzip") is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:80", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3", True),
        ("[::1]:80", True),
        ("LOCALHOST:1", True),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("10.0.0.1", False),
        ("localhost:80, evil.example", False),
        ("evil.example@localhost", False),
    ],
)
def test_only_names_of_this_machine_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback_host(host) is expected


# -- multipart/related -------------------------------------------------------------------


class _Trickle:
    """A stream that gives `step` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(self._step)


def _parts(body: bytes, step: int, boundary: str = "b") -> list[tuple[dict[str, str], bytes]]:
    reader = MultipartReader(_Trickle(body, step), boundary)
    found = []
    while (part := reader.next_part()) is not None:
        found.append((part.headers, part.whole(1 << 20)))
    return found


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n", b"\r\n--", b"--b", b"\r\n-"])),
    st.integers(1, 50),
)
def test_parts_come_out_whole_however_the_body_arrives(datas: list[bytes], step: int) -> None:
    datas = [data for data in datas if b"\r\n--b" not in b"\r\n" + data + b"\r\n"]
    body = b"".join(b"--b\r\nA: 1\r\n\r\n" + data + b"\r\n" for data in datas) + b"--b--\r\n"
    if not datas:
        body = b"--b--"
    assert [data for _, data in _parts(body, step)] == datas


def test_preamble_epilogue_and_missing_headers_are_allowed() -> None:
    body = b"hello\r\n--b  \r\n\r\none\r\n--b\r\nX-Y: z\r\n\r\n\r\n--b--\r\nbye --b"
    assert _parts(body, 3) == [({}, b"one"), ({"x-y": "z"}, b"")]


def test_a_part_that_nobody_read_is_skipped() -> None:
    body = b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--"
    reader = MultipartReader(io.BytesIO(body), "b")
    assert reader.next_part() is not None
    second = reader.next_part()
    assert second is not None and second.read() == b"two"
    assert reader.next_part() is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b\r\n\r\none",
        b"--b\r\n\r\none\r\n--b",
        b"--b\r\n\r\none\r\n--b\r\n",
        b"--b\r\nno colon\r\n\r\none\r\n--b--",
        b"--b\r\nX: " + b"x" * 20000 + b"\r\n\r\none\r\n--b--",
        b"--b\r\n\r\none\r\n--bogus\r\n\r\n--b--",
    ],
)
def test_a_multipart_body_that_breaks_off_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        _parts(body, 1000)
    assert caught.value.status == 400


def test_a_part_longer_than_allowed_is_refused() -> None:
    reader = MultipartReader(io.BytesIO(b"--b\r\n\r\n12345\r\n--b--"), "b")
    part = reader.next_part()
    assert part is not None
    with pytest.raises(Problem) as caught:
        part.whole(4)
    assert caught.value.status == 413


@pytest.mark.parametrize("boundary", [None, "", "x" * 71, "é"])
def test_a_boundary_is_short_ascii(boundary: str | None) -> None:
    with pytest.raises(Problem):
        MultipartReader(io.BytesIO(b""), boundary)


def test_media_types_are_read_with_their_boundary() -> None:
    assert media_type(None) == ("", None)
    assert media_type("Application/JSON; charset=utf-8") == ("application/json", None)
    assert media_type('multipart/related; boundary="a b"') == ("multipart/related", "a b")


def test_a_digest_is_checked_before_the_end_is_given_out() -> None:
    ended: list[bool] = []
    right = Hashed(
        io.BytesIO(b"abc"),
        {"sha512": hashlib.sha512(b"abc").digest()},
        lambda: ended.append(True),
    )
    assert (right.read(2), right.read(2), right.read(2), right.read(2)) == (b"ab", b"c", b"", b"")
    assert right.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert ended == [True]
    wrong = Hashed(io.BytesIO(b"abd"), {"sha256": hashlib.sha256(b"abc").digest()})
    assert wrong.read() == b"abd"
    with pytest.raises(Problem) as caught:
        wrong.read()
    assert caught.value.name == "wrong-digest"
