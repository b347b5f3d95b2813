"""Whatever comes in: the documented error or a sensible result, in bounded time, and back again.

A quick look in each run of the tests. ``tox -e fuzz`` goes on for as many seconds as
MOUNTCACHE_FUZZ_SECONDS says, shared among all of them, with other seeds each time (the first is
MOUNTCACHE_FUZZ_SEED); what fails says its seed.
"""

# ruff: noqa: PT017 - what is raised is looked at where it may come as well as not
from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mountcache.backing import wire as client_wire
from mountcache.backing.freshness import (
    Validators,
    conditions,
    facts_from,
    facts_of_304,
    lifetime,
    parse_date,
    storable,
    strong_version,
    validators_from,
)
from mountcache.backing.http import Answer, _retry_after
from mountcache.backing.index import entries_of_lines, entries_of_object
from mountcache.backing.pages import items_of
from mountcache.backing.urls import check_url, origin_of, shown, target_of
from mountcache.config import read_mounts, read_settings, toml_key, toml_text
from mountcache.errors import (
    ConfigurationError,
    IndexUnreadableError,
    InvalidKeyError,
    InvalidMetadataError,
    StoreError,
)
from mountcache.jsonform import content_version, normal_form, parse, spelling
from mountcache.keys import MAX_KEY_BYTES, check_http_key, check_key, quote_key
from mountcache.serve import wire
from mountcache.serve.batch import read_batch
from mountcache.serve.body import MultipartReader, media_type
from mountcache.serve.conditions import Conditions, base_of, read_verdict, span_of
from mountcache.serve.wire import Problem
from mountcache.sync import read_plan

SECONDS = float(os.environ.get("MOUNTCACHE_FUZZ_SECONDS", 0))
SEED = int(os.environ.get("MOUNTCACHE_FUZZ_SEED", 0))
SLOWEST = 2.0
"""Seconds of the processor that one input may take."""

_tests: list[str] = []


def fuzzed(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Turn a property into a test, quick or long."""

    def made(prove: Callable[..., None]) -> Callable[[], None]:
        _tests.append(prove.__name__)

        def timed(**drawn: Any) -> None:
            begun = time.thread_time()
            prove(**drawn)
            assert time.thread_time() - begun < SLOWEST, "it took too long"

        def test() -> None:
            until = time.monotonic() + SECONDS / len(_tests)
            number = SEED
            while True:
                run = given(**strategies)(timed)
                run = settings(
                    max_examples=1000 if SECONDS else 60, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck),
                )(seed(number)(run))  # fmt: skip
                try:
                    run()
                except BaseException as error:
                    error.add_note(f"MOUNTCACHE_FUZZ_SEED={number}")
                    raise
                number += 1
                if time.monotonic() >= until:
                    return

        test.__name__ = prove.__name__
        test.__doc__ = prove.__doc__
        return test

    return made


# -- what is put in --------------------------------------------------------------------------


def damaged(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Good examples, of which pieces are cut, repeated, changed, and put together."""
    piece = st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\r\n", b"\n", b"\x00",
                         b"\xff", b"\xef\xbb\xbf", b"-", b"=", b";", b"%", b"%2e", b"<", b">", b"/",
                         b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"9" * 30, b"[" * 2000, b"1e999",
                         b"--bound", b"--bound--", b"NaN", b"..", b"//", b"\\ud800"]),
    )  # fmt: skip
    change = st.tuples(st.integers(0, 2**16), st.integers(0, 40), piece)

    def apply(sample: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, cut, put in changes:
            start = at % (len(sample) + 1)
            sample = sample[:start] + put + sample[start + cut :]
        return sample

    return st.one_of(
        st.builds(apply, st.sampled_from(samples), st.lists(change, max_size=5)),
        st.binary(max_size=200),
    )


def words(*samples: str) -> st.SearchStrategy[str]:
    """The same for text of header fields, which is Latin-1."""
    return damaged(*(sample.encode("latin-1") for sample in samples)).map(
        lambda data: data.decode("latin-1")
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
METADATA = st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4)


class Dripping(io.BytesIO):
    """Gives some bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self._step = step

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._step if size is None or size < 0 else min(size, self._step))


# -- keys, URLs, JSON ------------------------------------------------------------------------


@fuzzed(key=st.text() | st.text("/.%\\?#&;+ \u2028\u00e9", max_size=20) | st.binary() | st.none())
def test_keys(key: Any) -> None:
    try:
        assert check_key(key) == key
    except InvalidKeyError:
        return
    assert 0 < len(key.encode()) <= MAX_KEY_BYTES
    try:
        quoted = quote_key(key)
    except InvalidKeyError:
        return
    assert quoted.isascii()
    assert not set(quoted) & set(' "<>\\^`{|}?#\r\n')
    assert not {"", ".", ".."} & set(quoted.split("/"))
    for path in (f"/data/{quoted}", f"/keys/{quoted}/data"):
        assert wire.target_of(path.encode(), "GET").key == key
        assert target_of(f"http://host{path}?a=b#c") == f"{path}?a=b"


@fuzzed(path=damaged(b"/data/a/b", b"/keys/a%2Fb/data", b"/query", b"/batch", b"/-/health"),
        method=st.sampled_from(["GET", "PUT", "DELETE", "POST", "\r\n"]))  # fmt: skip
def test_paths_of_requests(path: bytes, method: str) -> None:
    try:
        target = wire.target_of(path, method)
    except Problem as problem:
        assert problem.status in (400, 404, 405)
        return
    if target.key:
        check_http_key(target.key)


@fuzzed(url=damaged(b"http://ada:pass@host:80/a/b?c#d", b"https://[::1]:443/", b"file:///tmp/x")
        .map(lambda data: data.decode("utf-8", "surrogateescape")))  # fmt: skip
def test_urls(url: str) -> None:
    try:
        checked, user = check_url(url, "url")
    except ConfigurationError as error:
        assert "pass@" not in str(error)
        return
    assert "@" not in checked.partition("://")[2].partition("/")[0]
    assert user is None or isinstance(user, tuple)
    assert check_url(checked, "url") == (checked, None)
    assert origin_of(checked) == origin_of(url)
    assert "?" not in shown(url)


@fuzzed(metadata=METADATA | JSON_VALUES)
def test_metadata(metadata: Any) -> None:
    try:
        text = spelling(metadata)
    except InvalidMetadataError:
        return
    assert parse(text) == json.loads(text)
    assert normal_form(parse(text)) == normal_form(metadata)
    assert normal_form(json.loads(normal_form(metadata))) == normal_form(metadata)
    assert content_version("0" * 64, metadata) == content_version("0" * 64, parse(text))
    assert wire.decode_metadata(wire.encode_metadata(metadata)) == parse(text)
    sent = {"Mountcache-Metadata": client_wire.encode_metadata(text)}
    assert client_wire.decode_metadata(sent) in (None, parse(text))


@fuzzed(data=damaged(b'{"a": [1, 2.5, null, true, "x"], "b": {"c": "\\u00e9"}}'))
def test_json_of_others(data: bytes) -> None:
    for read, allowed in (
        (lambda: client_wire.parse_object(data, "it"), StoreError),
        (lambda: wire.parse_metadata(data, "it"), (Problem, InvalidMetadataError)),
        (lambda: parse(data.decode("latin-1")), StoreError),
    ):
        try:
            found = read()  # type: ignore[no-untyped-call]
        except allowed:  # type: ignore[misc]
            continue
        assert isinstance(found, dict)


# -- indexes and listings --------------------------------------------------------------------

INDEX = b'{"a": {"x": 1, "sha256": "' + b"0" * 64 + b'"}, "b/c": {}, "d": {"y": [1, "z"]}}\n'
LINES = b'{"key": "a", "metadata": {}, "size": 3, "version": "v"}\n{"key": "b", "metadata": {}}\n'


PLAN = (
    b'{"mountcache": "plan", "format": 1, "upstream": "http://h/", "mount_point": "", "made": 1.5,'
    b' "policy": "fail", "steps": [\n{"key": "a", "action": "create", "edit": "e", "upstream":'
    b' "absent", "size": 1, "sha256": "s", "version": null, "author": "me", "at": 2, "group": "1",'
    b' "message": ""}\n]}'
)


@fuzzed(data=damaged(PLAN))
def test_plans(data: bytes) -> None:
    try:
        plan = read_plan(data)
    except ConfigurationError as error:
        assert "plan" in str(error)
        return
    assert read_plan(plan.to_json()) == plan


@fuzzed(data=damaged(INDEX, LINES), step=st.sampled_from([1, 3, 7, 2**20]))
def test_indexes(data: bytes, step: int) -> None:
    for entries in (entries_of_object, entries_of_lines):
        try:
            found = list(entries(Dripping(data, step), "the index"))
        except IndexUnreadableError:
            continue
        for key, meta, *_ in found:
            check_http_key(key)
            assert isinstance(parse(meta), dict)


@fuzzed(entries=st.dictionaries(st.text(min_size=1), METADATA, max_size=5))
def test_indexes_come_out_as_they_went_in(entries: dict[str, Any]) -> None:
    good = {}
    for key, metadata in entries.items():
        try:
            good[check_http_key(key)] = parse(spelling(metadata))
        except (InvalidKeyError, InvalidMetadataError):
            continue
    data = json.dumps(good).encode()
    found = {key: parse(meta) for key, meta, *_ in entries_of_object(Dripping(data, 5), "it")}
    assert found == good


NGINX = (
    b"<html><head><title>Index of /x/</title></head><body><h1>Index of /x/</h1><pre>"
    b'<a href="../">../</a>\n<a href="a%20b.csv">a b.csv</a>   26-Nov-2026 08:00   1234\n'
    b'<a href="sub/">sub/</a>  26-Nov-2026 08:00   -\n</pre></body></html>'
)
NGINX_JSON = (
    b'[{"name": "a", "type": "file", "mtime": "Thu, 26 Nov 2026 08:00:00 GMT", "size": 12},'
    b'{"name": "sub", "type": "directory", "mtime": "Thu, 26 Nov 2026 08:00:00 GMT"}]'
)


@fuzzed(data=damaged(NGINX, NGINX_JSON),
        kind=st.sampled_from(["text/html", "application/json", ""]))  # fmt: skip
def test_listing_pages(data: bytes, kind: str) -> None:
    url = "http://host/x/"
    try:
        items = list(items_of(Answer(200, {"Content-Type": kind}, io.BytesIO(data)), url, "it"))
    except IndexUnreadableError:
        return
    for item in items:
        # What is no key, such as "..", is left out where keys are made of names.
        assert "html" not in kind or "/" not in item.name.rstrip("/")
        assert isinstance(item.metadata, dict)


# -- header fields ---------------------------------------------------------------------------

DATES = ("Thu, 26 Nov 2026 08:00:00 GMT", "Thursday, 26-Nov-26 08:00:00 GMT",
         "Thu Nov 26 08:00:00 2026")  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[str]] = {
    "Date": words(*DATES),
    "Last-Modified": words(*DATES),
    "Expires": words(*DATES, "0"),
    "Age": words("12", "-1", "1e9"),
    "Cache-Control": words("max-age=60, no-cache, s-maxage=1", 'private="a, b", no-store'),
    "ETag": words('"abc"', 'W/"abc"', '"'),
    "Content-Length": words("12", "1 2"),
    "Content-Range": words("bytes 0-11/12", "bytes */12", "bytes 5-2/1"),
    "Content-Type": words("text/plain", "multipart/related; boundary=bound"),
    "Retry-After": words("120", *DATES),
    "Repr-Digest": words("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:", "md5=::, x=1"),
    "Content-Digest": words("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
    "Vary": words("Accept, *"),
    "Mountcache": words("1"),
    "Mountcache-Metadata": words("eyJhIjoxfQ"),
    "Mountcache-Metadata-Length": words("7"),
}


@fuzzed(headers=st.fixed_dictionaries({}, optional=FIELDS))
def test_header_fields_of_answers(headers: dict[str, str]) -> None:
    now = 1.8e9
    lifetime(headers, now=now)
    storable(headers)
    strong_version(headers)
    for facts in (facts_from(headers, now=now), facts_of_304(headers, now=now)):
        assert facts.size is None or 0 <= facts.size < 10**18
    validators = validators_from(headers)
    assert Validators.load(validators.dump()) == validators
    assert all("\n" not in text and "\r" not in text for text in conditions(validators).values())
    seconds = _retry_after(headers)
    assert seconds is None or seconds >= 0
    client_wire.digest_of(headers)
    with contextlib.suppress(StoreError):
        client_wire.decode_metadata(headers)
    parse_date(headers.get("Date"))


@fuzzed(headers=st.fixed_dictionaries({}, optional={
    "if-match": words('"a", W/"b"', "*"), "if-none-match": words('"a"', "*"),
    "if-modified-since": words(*DATES), "if-unmodified-since": words(*DATES),
    "range": words("bytes=0-5", "bytes=-3", "bytes=7-", "bytes=1-2,3-4"),
    "if-range": words('"a"', *DATES), "content-type": words("multipart/related; boundary=bound"),
    "accept": words("application/x-ndjson;q=0.5, */*"), "host": words("localhost:80", "[::1]"),
    "idempotency-key": words('"abc"', "abc"), "accept-encoding": words("gzip;q=0, identity"),
    "content-digest": words("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
    "mountcache-metadata": words("eyJhIjoxfQ"),
}), query=damaged(b"a=1&b=%22x%22&c=[1]"))  # fmt: skip
def test_header_fields_of_requests(headers: dict[str, str], query: bytes) -> None:
    for read in (
        lambda: read_verdict(Conditions.of(headers), "a", 1.7e9),
        lambda: base_of(Conditions.of(headers), "k", lambda: ("a", 1.7e9)),
        lambda: span_of(headers.get("range"), headers.get("if-range"), "a", 12),
        lambda: media_type(headers.get("content-type")),
        lambda: wire.accepts(headers.get("accept"), "application/x-ndjson"),
        lambda: wire.accepts(headers.get("accept-encoding"), "gzip"),
        lambda: wire.operation_id(headers.get("idempotency-key")),
        lambda: wire.digest_claims(headers.get("content-digest"), "Content-Digest"),
        lambda: wire.decode_metadata(headers.get("mountcache-metadata", "")),
        lambda: wire.parse_query(query),
        lambda: wire.is_loopback_host(headers.get("host", "")),
    ):
        try:
            read()  # type: ignore[no-untyped-call]
        except (Problem, InvalidMetadataError) as error:
            assert isinstance(error, StoreError) or error.status in (400, 412, 413, 416)


# -- bodies of requests ----------------------------------------------------------------------

RELATED = "multipart/related; boundary=bound"
MULTIPART = (
    b'--bound\r\nContent-Type: application/json\r\n\r\n{"operations": [{"op": "put", "key": "a",'
    b' "part": 1, "metadata": {}}, {"op": "delete", "key": "b", "if_match": "v"}]}\r\n'
    b"--bound\r\nContent-Type: application/octet-stream\r\n\r\ndata\r\n--bound--\r\n"
)
BATCH = b'{"operations": [{"op": "put-metadata", "key": "a", "metadata": {"x": 1}}]}'


@fuzzed(data=damaged(MULTIPART, BATCH), step=st.sampled_from([1, 5, 2**20]),
        kind=st.sampled_from([RELATED, "application/json", None]))  # fmt: skip
def test_batches(data: bytes, step: int, kind: str | None) -> None:
    body: Any = Dripping(data, step)
    try:
        operations = read_batch(body, kind)
    except (Problem, InvalidMetadataError):
        pass
    else:
        for each in operations:
            check_http_key(each.key)
    reader = MultipartReader(Dripping(data, step), "bound")
    given_out = 0
    try:
        while (part := reader.next_part()) is not None:
            given_out += len(part.whole(2**20))
    except Problem:
        pass
    assert given_out <= len(data)


# -- mountcache.toml -------------------------------------------------------------------------

TOML = [
    b'url = "https://host/"\nlayout = "static"\nmax_age = 60\nsize_limit = "10 GiB"\n',
    b'[mount.a]\nurl = "http://h/"\nca = "c.pem"\ninsecure_skip_tls_verify = true\n',
    b'[mount."b.c"]\nurl = "file:///tmp"\noffline = "never"\ndurability = "normal"\n',
    b'url = "http://h/"\nwrite = "put"\nauth = "netrc"\ndir = "x"\n[mount.a]\n',
    b'url = "http://ada:secret@host/"\n',
]


@fuzzed(data=damaged(*TOML))
def test_mountcache_toml(data: bytes) -> None:
    path = Path(os.environ["PYTEST_FUZZ_FOLDER"], "mountcache.toml")
    path.write_bytes(data)
    for read in (lambda: read_mounts(path, {}), lambda: read_settings(path, {})):
        try:
            read()
        except ConfigurationError as error:
            assert "secret@" not in str(error)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_FUZZ_FOLDER", str(tmp_path))


@fuzzed(values=st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_toml_comes_out_as_it_went_in(values: dict[str, str]) -> None:
    import tomllib

    try:
        text = toml_text({toml_key(name): each for name, each in values.items()})
        text.encode()
    except UnicodeEncodeError:
        return
    assert tomllib.loads(text) == values
