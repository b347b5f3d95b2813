"""StaticURLStore on real nginx, on files, and on servers that leave out what nginx sends."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mountcache.abc import ABSENT, NotModified, Value
from mountcache.backing import index
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ChangedWhileReadingError,
    IndexUnreadableError,
    IntegrityError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.servers import Nginx, Reply, ScriptedServer, chunked, nginx, scripted

__all__ = ["nginx", "scripted"]

LONG_AGO = 1_600_000_000
NFC, NFD = "caf\u00e9", "cafe\u0301"
HARD_KEYS = [
    "with space.csv",
    "100%",
    "%2F",
    "a%2Fb",
    "%252F",
    "what?",
    "a?b=c&d",
    "#1",
    "a#b",
    "a+b",
    "a;b,c",
    'it\'s "quoted"',
    "back\\slash",
    "...",
    ".hidden",
    "~tilde",
    "colon:at@",
    "http://nested",
    "deep/er/and/deeper",
    NFC,
    NFD,
    "\u65e5\u672c/\U0001f600",
    "/".join(["k" * 149] * 10),
]


class Site:
    """A folder of files, and their index."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index: dict[str, Any] = {}
        (root / "data").mkdir(parents=True)
        self.write_index()

    def put(self, key: str, data: bytes, metadata: Any = None, *, when: float = LONG_AGO) -> None:
        """Replace a key as one step: whoever reads it goes on with what it was."""
        path = self.root / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.root / "aside"
        aside.write_bytes(data)
        os.utime(aside, (when, when))
        aside.replace(path)
        self.index[key] = {} if metadata is None else metadata
        self.write_index()

    def remove(self, key: str) -> None:
        (self.root / "data" / key).unlink()
        del self.index[key]
        self.write_index()

    def write_index(self, raw: bytes | None = None) -> None:
        """Replace the index, by a text of any kind if one is given."""
        aside = self.root / "aside"
        aside.write_bytes(json.dumps(self.index).encode() if raw is None else raw)
        aside.replace(self.root / "index.json")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def server(site: Site, nginx: Callable[[Path], Nginx]) -> Nginx:
    return nginx(site.root)


@pytest.fixture
def store(server: Nginx) -> Iterator[StaticURLStore]:
    with StaticURLStore(server.url, timeout=(5, 10), poll=0) as opened:
        yield opened


@pytest.fixture(params=["nginx", "files"])
def either(
    request: pytest.FixtureRequest, site: Site, nginx: Callable[[Path], Nginx]
) -> Iterator[StaticURLStore]:
    """Give a store of the site, by nginx and by ``file:``."""
    url = nginx(site.root).url if request.param == "nginx" else site.root.as_uri() + "/"
    with StaticURLStore(url, timeout=(5, 10), poll=0) as opened:
        yield opened


def of_scripted(server: ScriptedServer, **others: Any) -> StaticURLStore:
    """Return a store whose key "a" is at /data/a."""
    return StaticURLStore(server.url, timeout=(5, 10), poll=0, **others)


def with_index(server: ScriptedServer, body: bytes = b'{"a": {}}', **fields: str) -> None:
    headers = {name.replace("_", "-"): text for name, text in fields.items()}
    server.on("GET", "/index.json", Reply(200, body, headers))


def revalidated(store: StaticURLStore, value: Value, key: str = "a") -> NotModified | Value:
    assert value.facts.validators is not None
    return store.revalidate(key, value.facts.validators)


def listing(store: StaticURLStore) -> dict[str, Any]:
    reading = store.read_index()
    assert reading is not None
    return {key: json.loads(meta) for key, meta, *_ in reading.entries}


def changes(store: StaticURLStore) -> list[tuple[str, Any, Mapping[str, Any]]]:
    """Return a list into which all that happens to keys comes."""
    heard: list[tuple[str, Any, Mapping[str, Any]]] = []
    names: dict[type[StoreModificationEvent], str] = {
        StoreSetEvent: "set",
        StoreUpdateEvent: "update",
        StoreDeleteEvent: "delete",
    }
    store.event_manager.connect(
        StoreModificationEvent,
        lambda event: heard.append((names[type(event)], event.key, event.metadata)),
    )
    return heard


# -- values ----------------------------------------------------------------------------------


def test_value_is_its_file_and_its_entry(either: StaticURLStore, site: Site) -> None:
    content = os.urandom(300_000)
    site.put("x/a.csv", content, {"unit": "m", "n": [1, {"deep": None}]})
    for value in (either.get("x/a.csv"), either.fetch("x/a.csv")):
        assert value.metadata == {"unit": "m", "n": [1, {"deep": None}]}
        assert value.size == 300_000
        assert value.modified == LONG_AGO
        assert value.version
        assert value.source == "upstream"
        assert not value.stale
        assert value.data.read() == content
    assert either.to_bytes("x/a.csv") == content
    assert either.get_metadata("x/a.csv", ["unit", "none"]) == {"unit": "m"}
    assert either.exists("x/a.csv")
    assert either.version_of("x/a.csv") == either.get("x/a.csv").version


def test_getting_a_value_downloads_nothing(
    store: StaticURLStore, site: Site, server: Nginx
) -> None:
    site.put("a", b"A" * 1000)
    value = store.get("a")
    assert value.size == 1000
    assert [line for line in server.requests if line.startswith("GET /data")] == []


def test_fetching_a_value_is_one_request(store: StaticURLStore, site: Site, server: Nginx) -> None:
    site.put("a", b"A", {"n": 1})
    assert store.exists("a")
    before = len(server.requests)
    value = store.fetch("a")
    assert (value.data.read(), value.metadata) == (b"A", {"n": 1})
    assert server.requests[before:] == ["GET /data/a 200"]


def test_mimetype_is_that_of_the_server(store: StaticURLStore, site: Site) -> None:
    site.put("a.csv", b"1,2")
    assert store.get("a.csv").mimetype == "text/csv"


def test_page_where_something_else_is_expected_isnt_a_value(scripted: ScriptedServer) -> None:
    page = Reply(200, b"<h1>Log in</h1>", {"Content-Type": "text/html; charset=utf-8"})
    scripted.on("GET", "/data/a.csv", page).on("GET", "/data/a.html", page)
    with of_scripted(scripted, query_path=None) as store:
        for read in (store.fetch, store.get, store.get_data):
            with pytest.raises(StoreUnavailableError, match="HTML where text/csv was expected"):
                read("a.csv")
        assert store.fetch("a.html").facts.storable


@pytest.mark.parametrize("text", ["no-store", "private, No-Store", "max-age=60, no-store"])
def test_what_isnt_to_be_stored_is_told(scripted: ScriptedServer, text: str) -> None:
    scripted.on("GET", "/data/a", Reply(200, b"A", {"Cache-Control": text}))
    with of_scripted(scripted, query_path=None) as store:
        assert not store.fetch("a").facts.storable


def test_digest_that_the_server_promises_is_told(scripted: ScriptedServer) -> None:
    digest = "sha-256=:VZrq0IJk1XldOQlxjN0Fq9SVcuhP5VWQ7vMaiKCP3/0=:"
    scripted.on("GET", "/data/a", Reply(200, b"A", {"Repr-Digest": digest}))
    with of_scripted(scripted, query_path=None) as store:
        sha256 = store.fetch("a").facts.sha256
    assert sha256 == "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"


@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (0, 10), (5, 20), (500, None), (990, 5000), (1000, None), (1500, 1600), (7, 7)],
)
def test_range_of_a_value(either: StaticURLStore, site: Site, start: int, end: int) -> None:
    content = os.urandom(1000)
    site.put("a", content)
    assert either.get("a").range(start, end).read() == content[start:end]
    assert either.fetch("a").range(start, end).read() == content[start:end]
    with either.get_data_range("a", start, end) as data:
        assert data.read() == content[start:end]


@pytest.mark.parametrize("start", [0, 1, 999])
def test_rest_of_a_version(either: StaticURLStore, site: Site, start: int) -> None:
    content = os.urandom(1000)
    site.put("a", content)
    version = either.get("a").version
    assert version is not None
    with either.open_range("a", start, version) as data:
        assert data.read() == content[start:]


def test_rest_of_a_version_that_has_gone_is_told(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A" * 1000)
    version = either.get("a").version
    assert version is not None
    site.put("a", b"B" * 1000, when=LONG_AGO + 5)
    with pytest.raises(ChangedWhileReadingError, match="'a' was replaced upstream"):
        either.open_range("a", 10, version)
    site.remove("a")
    with pytest.raises(ChangedWhileReadingError, match="'a' was deleted upstream"):
        either.open_range("a", 10, version)


def test_data_asked_for_later_is_that_of_the_value(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A" * 1000, {"n": 1})
    value = either.get("a")
    site.put("a", b"B" * 1000, {"n": 2}, when=LONG_AGO + 5)
    with pytest.raises(ChangedWhileReadingError, match="read it again"):
        value.data.read()
    assert either.get("a").data.read() == b"B" * 1000


def test_file_replaced_while_it_is_read_gives_no_mixture(
    either: StaticURLStore, site: Site
) -> None:
    old = os.urandom(20_000_000)
    site.put("a", old)
    with either.get_data("a") as data:
        first = data.read(1000)
        site.put("a", b"B" * len(old), when=LONG_AGO + 5)
        rest = data.read()
    assert first + rest == old


def test_file_cut_off_while_it_is_read_is_an_error(either: StaticURLStore, site: Site) -> None:
    site.put("a", os.urandom(30_000_000))
    with either.get_data("a") as data:
        data.read(1000)
        os.truncate(site.root / "data" / "a", 500)
        with pytest.raises((IntegrityError, StoreUnavailableError), match="'a'"):
            while data.read(1_000_000):
                pass


def test_server_that_gives_no_parts_is_told(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/data/a", Reply(200, b"A" * 100, {"ETag": '"v"'}))
    with of_scripted(scripted, query_path=None) as store:
        with pytest.raises(ChangedWhileReadingError, match="whole"):
            store.open_range("a", 10, "v")
        # The caller of a range needn't know: the rest is read past.
        assert store.get("a").range(90, 95).read() == b"A" * 5
    asked = scripted.asked("GET")[0].headers
    assert (asked["range"], asked["if-range"]) == ("bytes=10-", '"v"')


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Range": "bytes 0-99/100"},
        {"Content-Range": "bytes 20-99/100"},
        {"Content-Range": "items 10-99/100"},
        {},
    ],
    ids=["start", "later", "unit", "none"],
)
def test_part_that_isnt_the_one_asked_for_is_refused(
    scripted: ScriptedServer, fields: dict[str, str]
) -> None:
    scripted.on("GET", "/data/a", Reply(206, b"A" * 90, {"ETag": '"v"', **fields}))
    with (
        of_scripted(scripted, query_path=None) as store,
        pytest.raises(IntegrityError, match="from 10 on"),
    ):
        store.open_range("a", 10, "v")


def test_part_of_another_version_is_refused(scripted: ScriptedServer) -> None:
    fields = {"ETag": '"other"', "Content-Range": "bytes 10-99/100"}
    scripted.on("GET", "/data/a", Reply(206, b"A" * 90, fields))
    with of_scripted(scripted, query_path=None) as store, pytest.raises(ChangedWhileReadingError):
        store.open_range("a", 10, "v")


# -- what isn't there ------------------------------------------------------------------------


def test_missing_key(either: StaticURLStore) -> None:
    for read in (either.get, either.fetch, either.get_data, either.get_metadata, either.to_bytes):
        with pytest.raises(KeyError) as raised:
            read("gone")
        assert raised.value.args == ("gone",)
    assert not either.exists("gone")
    assert either.version_of("gone") is ABSENT
    with pytest.raises(KeyError):
        either.revalidate("gone", "")


def test_folder_of_files_isnt_a_value(site: Site) -> None:
    site.put("folder/a", b"A")
    with StaticURLStore(site.root.as_uri(), query_path=None) as store:
        assert store.version_of("folder") is ABSENT
        with pytest.raises(KeyError):
            store.fetch("folder")


def test_key_under_a_file_is_missing(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A")
    with pytest.raises(KeyError):
        either.fetch("a/b")


def test_file_that_has_gone_before_its_data_is_asked_for(
    either: StaticURLStore, site: Site
) -> None:
    site.put("a", b"A")
    value = either.get("a")
    site.remove("a")
    with pytest.raises(ChangedWhileReadingError, match="deleted"):
        _ = value.data
    with pytest.raises(KeyError):
        revalidated(either, value)


# -- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HARD_KEYS, ids=lambda key: ascii(key)[:20])
def test_hard_keys(either: StaticURLStore, site: Site, key: str) -> None:
    if "//" in key:
        with pytest.raises(InvalidKeyError, match="empty path segment"):
            either.fetch(key)
        return
    site.put(key, key.encode(), {"key": key})
    value = either.fetch(key)
    assert (value.data.read(), value.metadata) == (key.encode(), {"key": key})
    assert list(either.query_keys()) == [key]
    assert either.exists(key)
    assert value.version == either.version_of(key) is not None
    assert isinstance(revalidated(either, value, key), NotModified)


def test_two_spellings_of_a_word_are_two_keys(either: StaticURLStore, site: Site) -> None:
    assert unicodedata.normalize("NFD", NFC) == NFD
    site.put(NFC, b"composed")
    with pytest.raises(KeyError):
        either.fetch(NFD)
    site.put(NFD, b"decomposed")
    assert [either.to_bytes(NFC), either.to_bytes(NFD)] == [b"composed", b"decomposed"]


def test_key_is_decoded_once(either: StaticURLStore, site: Site) -> None:
    site.put("a/b", b"two segments")
    for key in ("a%2Fb", "a%252Fb", "%61/b", "a/b?", "a/b#x", "a/b%00"):
        with pytest.raises(KeyError):
            either.fetch(key)


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "a/../b", "../a", "a//b", "/a", "a/", "a/.", "./a", "a\nb", "a\0b", "\x7f"],
    ids=ascii,
)
def test_keys_that_servers_fold_are_refused(either: StaticURLStore, site: Site, key: str) -> None:
    site.put("a", b"A")
    (site.root / "outside").write_bytes(b"outside")
    calls: list[Callable[[], object]] = [
        lambda: either.get(key),
        lambda: either.fetch(key),
        lambda: either.get_data(key),
        lambda: either.get_metadata(key),
        lambda: either.exists(key),
        lambda: either.version_of(key),
        lambda: either.revalidate(key, ""),
        lambda: either.open_range(key, 0, "v"),
    ]
    for call in calls:
        with pytest.raises(InvalidKeyError, match="key"):
            call()


def test_key_of_1500_characters_is_sent_whole(scripted: ScriptedServer) -> None:
    key = "\u00e9" * 1500
    scripted.on("GET", f"/data/{quote(key)}", Reply(200, b"long"))
    with of_scripted(scripted, query_path=None) as store:
        assert store.to_bytes(key) == b"long"


# -- whether a copy still holds --------------------------------------------------------------


def test_copy_that_holds_costs_no_bytes(store: StaticURLStore, site: Site, server: Nginx) -> None:
    site.put("a", b"A" * 1000, {"n": 1})
    value = store.fetch("a")
    value.data.read()
    again = revalidated(store, value)
    assert isinstance(again, NotModified)
    assert server.requests[-1] == "GET /data/a 304"
    assert again.facts.version in (None, value.version)


def test_copy_that_holds_no_more_comes_anew(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A", {"n": 1})
    value = either.fetch("a")
    assert isinstance(revalidated(either, value), NotModified)
    site.put("a", b"B", {"n": 2}, when=LONG_AGO + 5)
    again = revalidated(either, value)
    assert isinstance(again, Value)
    assert again.data.read() == b"B"
    assert again.version not in (None, value.version)


def test_copy_without_validators_comes_anew(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A")
    again = either.revalidate("a", "")
    assert isinstance(again, Value)
    assert again.data.read() == b"A"


def test_tag_of_a_file_just_written_isnt_trusted(
    store: StaticURLStore, site: Site, server: Nginx
) -> None:
    now = time.time() + 1
    site.put("a", b"first", when=now)
    value = store.fetch("a")
    assert value.version is None
    assert value.data.read() == b"first"
    # A second file of one size within one second: nginx gives it the same tag.
    site.put("a", b"other", when=now)
    again = revalidated(store, value)
    assert isinstance(again, Value)
    assert again.data.read() == b"other"
    assert server.requests[-1] == "GET /data/a 200"


@pytest.mark.parametrize(
    ("age", "settled"), [(0, False), (1, False), (2, True), (3600, True), (-60, False)]
)
def test_tag_names_the_bytes_once_they_are_two_seconds_old(
    scripted: ScriptedServer, age: int, settled: bool
) -> None:
    date = LONG_AGO + 100_000
    fields = {
        "ETag": '"v"',
        "Date": formatdate(date, usegmt=True),
        "Last-Modified": formatdate(date - age, usegmt=True),
    }
    scripted.on("GET", "/data/a", Reply(200, b"A", fields))
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        assert value.version == ("v" if settled else None)
        revalidated(store, value)
    asked = scripted.requests[-1].headers
    assert asked.get("if-none-match") == ('"v"' if settled else None)
    assert "if-modified-since" not in asked


def test_strong_tag_without_a_date_of_change_names_the_bytes(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/data/a", Reply(200, b"A", {"ETag": '"v"'}))
    with of_scripted(scripted, query_path=None) as store:
        assert store.fetch("a").version == "v"


def test_weak_tag_is_no_version_but_saves_bytes(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/data/a", Reply(200, b"A", {"ETag": 'W/"v"'}), Reply(304))
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        assert value.version is None
        value.data.read()
        assert isinstance(revalidated(store, value), NotModified)
    assert scripted.requests[-1].headers["if-none-match"] == 'W/"v"'


def test_date_of_change_alone_is_no_version_but_saves_bytes(scripted: ScriptedServer) -> None:
    changed = formatdate(LONG_AGO, usegmt=True)
    fields = {"Last-Modified": changed, "Date": formatdate(LONG_AGO + 60, usegmt=True)}
    scripted.on("GET", "/data/a", Reply(200, b"A", fields), Reply(304))
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        assert value.version is None
        assert value.modified == LONG_AGO
        value.data.read()
        assert isinstance(revalidated(store, value), NotModified)
    assert scripted.requests[-1].headers["if-modified-since"] == changed


@pytest.mark.parametrize("tag", ["unquoted", '"a"b"', '"', "W/unquoted", ""])
def test_tag_that_is_none_is_ignored(scripted: ScriptedServer, tag: str) -> None:
    scripted.on("GET", "/data/a", Reply(200, b"A", {"ETag": tag}))
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        assert value.version is None
        assert isinstance(revalidated(store, value), Value)
    assert "if-none-match" not in scripted.requests[-1].headers


def test_server_that_names_nothing(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/data/a", chunked(b"A", b"B"))
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        assert (value.version, value.size, value.modified) == (None, None, None)
        assert value.data.read() == b"AB"
        again = revalidated(store, value)
        assert isinstance(again, Value)
        assert again.data.read() == b"AB"
        assert store.get_data_range("a", 1, 2).read() == b"B"


def test_facts_of_a_confirmation_are_told(scripted: ScriptedServer) -> None:
    first = Reply(200, b"A", {"ETag": '"v"', "Cache-Control": "max-age=5"})
    scripted.on(
        "GET", "/data/a", first, Reply(304, headers={"ETag": '"v"', "Cache-Control": "max-age=90"})
    )
    with of_scripted(scripted, query_path=None) as store:
        value = store.fetch("a")
        value.data.read()
        again = revalidated(store, value)
    assert value.facts.lifetime == 5
    assert isinstance(again, NotModified)
    assert again.facts.lifetime == 90


# -- the index -------------------------------------------------------------------------------


def test_query(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"", {"kind": "sea", "n": 1})
    site.put("b", b"", {"kind": "land", "n": 1})
    site.put("c/d", b"", {"kind": "sea", "n": None})
    assert dict(either.query(kind="sea")) == {
        "a": {"kind": "sea", "n": 1},
        "c/d": {"kind": "sea", "n": None},
    }
    assert dict(either.query(select=["n"], kind="sea", n=1)) == {"a": {"n": 1}}
    assert sorted(either.query_keys(n=1)) == ["a", "b"]
    assert list(either.query_keys(n=None)) == ["c/d"]
    assert list(either.query_keys(none=None)) == []
    assert sorted(either.glob("c*")) == ["c/d"]


def test_index_is_read_once(store: StaticURLStore, site: Site, server: Nginx) -> None:
    site.put("a", b"A", {"n": 1})
    for _ in range(3):
        assert store.get_metadata("a") == {"n": 1}
        assert list(store.query_keys()) == ["a"]
        assert not store.exists("b")
    assert server.requests == ["GET /index.json 200"]


def test_index_that_stayed_the_same_costs_no_bytes(
    store: StaticURLStore, site: Site, server: Nginx
) -> None:
    site.put("a", b"A")
    os.utime(site.root / "index.json", (LONG_AGO, LONG_AGO))
    reading = store.read_index()
    assert reading is not None
    assert list(reading.entries) == [("a", "{}", None, None, None)]
    assert store.read_index(reading.validators) is None
    assert server.requests == ["GET /index.json 200", "GET /index.json 304"]


def test_index_just_written_is_asked_for_again(
    store: StaticURLStore, site: Site, server: Nginx
) -> None:
    site.put("a", b"A", {"n": 1})
    now = time.time() + 1
    os.utime(site.root / "index.json", (now, now))
    store.update_index()
    heard = changes(store)
    site.put("a", b"A", {"n": 2})
    os.utime(site.root / "index.json", (now, now))
    store.update_index()
    assert heard == [("update", "a", {"n": 2})]


def test_digests_are_the_only_promises_of_an_entry(either: StaticURLStore, site: Site) -> None:
    sha256 = "Ab" * 32
    site.put("a", b"A", {"sha256": sha256, "version": "3", "size": 99})
    site.put("b", b"B", {"sha256": "not hex", "size": "large"})
    reading = either.read_index()
    assert reading is not None
    found = {key: rest for key, _, *rest in reading.entries}
    assert found == {"a": [None, None, sha256.lower()], "b": [None, None, None]}
    assert either.get("a").size == 1
    assert either.get_metadata("a") == {"sha256": sha256, "version": "3", "size": 99}


def test_events_of_two_polls(either: StaticURLStore, site: Site) -> None:
    site.put("same", b"", {"n": 1, "m": [1, 2]})
    site.put("changed", b"", {"n": 1})
    site.put("gone", b"", {"n": 1})
    heard = changes(either)
    either.update_index()
    assert heard == []
    site.index["same"] = {"m": [1, 2], "n": 1.0}
    site.put("changed", b"", {"n": 2})
    site.put("new", b"", {"n": 3})
    site.remove("gone")
    either.update_index()
    assert sorted(heard) == [
        ("delete", "gone", {"n": 1}),
        ("set", "new", {"n": 3}),
        ("update", "changed", {"n": 2}),
    ]
    assert sorted(either.query_keys()) == ["changed", "new", "same"]
    del heard[:]
    either.update_index()
    assert heard == []


def test_index_is_polled_beside_reads(site: Site, server: Nginx) -> None:
    site.put("a", b"A")
    told = threading.Event()
    with StaticURLStore(server.url, poll=0.05) as store:
        store.event_manager.connect(StoreSetEvent, lambda event: told.set())
        assert list(store.query_keys()) == ["a"]
        site.put("b", b"B")
        assert told.wait(15)
        assert sorted(store.query_keys()) == ["a", "b"]
    assert "mountcache-index" not in {thread.name for thread in threading.enumerate()}


def test_poll_goes_on_when_one_fails(scripted: ScriptedServer) -> None:
    indexes = [Reply(200, b'{"a": {}}'), Reply(200, b'{"a": {'), Reply(500), Reply(404)]
    scripted.on("GET", "/index.json", *indexes, Reply(200, b'{"a": {}, "b": {}}'))
    told = threading.Event()
    with StaticURLStore(scripted.url, poll=0.05, retries=0) as store:
        store.event_manager.connect(StoreSetEvent, lambda event: told.set())
        assert list(store.query_keys()) == ["a"]
        assert told.wait(15)
        assert list(store.query_keys()) == ["a", "b"]


@pytest.mark.parametrize("poll", [0, 300, 2.5])
def test_poll_is_told(poll: float) -> None:
    assert StaticURLStore("http://127.0.0.1/", poll=poll).poll == poll
    assert StaticURLStore("http://127.0.0.1/", query_path=None, poll=poll).poll is None


_BAD = {
    "empty": (b"", "empty"),
    "space": (b"  \n", "empty"),
    "text": (b"hello", "JSON|begins"),
    "list": (b'[{"key": "a"}]', r"begins '\["),
    "number": (b"12", "begins"),
    "null": (b"null", "begins"),
    "cut off": (b'{"a": {}, "b": {"n"', "JSON|ends"),
    "cut off between": (b'{"a": {}, ', "JSON|ends|quotes"),
    "cut off after": (b'{"a": {}', "ends"),
    "no metadata": (b'{"a"}', "'a' has no metadata"),
    "value is a list": (b'{"a": []}', "'a'"),
    "value is text": (b'{"a": {}, "b": "text"}', "'b'"),
    "value is null": (b'{"a": null}', "'a'"),
    "NaN": (b'{"a": {"n": NaN}}', "NaN"),
    "infinity": (b'{"a": {"n": 1e999}}', "'a'"),
    "not UTF-8": (b'{"a": {"n": "\xff"}}', "UTF-8"),
    "UTF-16": ('{"a": {}}'.encode("utf-16"), "UTF-8"),
    "after its end": (b'{"a": {}} {"b": {}}', "after its end"),
    "deep": (b'{"a": {"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "deep"),
    "trailing comma": (b'{"a": {},}', "quotes|JSON"),
    "html": (b"<!doctype html><p>log in</p>", "begins"),
}


@pytest.mark.parametrize(("raw", "words"), _BAD.values(), ids=list(_BAD))
def test_bad_index_is_an_error_that_says_how(
    either: StaticURLStore, site: Site, raw: bytes, words: str
) -> None:
    site.write_index(raw)
    with pytest.raises(IndexUnreadableError, match=words):
        listing(either)
    with pytest.raises(IndexUnreadableError, match=words):
        list(either.query_keys())
    with pytest.raises(IndexUnreadableError, match=words):
        either.get_metadata("a")
    site.put("a", b"A", {"n": 1})
    assert either.get_metadata("a") == {"n": 1}


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"a": {}, "b"', b'{"a": 1}', b'{"a":{},"a":{}}'])
def test_bad_index_leaves_the_one_before_in_force(
    either: StaticURLStore, site: Site, raw: bytes
) -> None:
    site.put("one", b"", {"n": 1})
    site.put("two", b"", {"n": 2})
    heard = changes(either)
    before = dict(either.query())
    site.write_index(raw)
    with pytest.raises(IndexUnreadableError, match="index before stays in force"):
        either.update_index()
    assert dict(either.query()) == before
    (site.root / "index.json").unlink()
    with pytest.raises(IndexUnreadableError, match="no index"):
        either.update_index()
    assert dict(either.query()) == before
    assert heard == []


def test_index_that_names_a_key_twice_is_refused(either: StaticURLStore, site: Site) -> None:
    site.write_index(b'{"a": {"n": 1}, "b": {}, "a": {"n": 2}}')
    with pytest.raises(IndexUnreadableError, match="'a' twice"):
        either.update_index()


def test_missing_index_names_its_url(store: StaticURLStore, site: Site, server: Nginx) -> None:
    (site.root / "index.json").unlink()
    with pytest.raises(IndexUnreadableError, match=r"/index\.json") as raised:
        list(store.query())
    assert "query_path" in str(raised.value)
    with pytest.raises(IndexUnreadableError):
        store.exists("a")


def test_page_where_the_index_should_be_is_an_error(scripted: ScriptedServer) -> None:
    with_index(scripted, b"<h1>Welcome</h1>", Content_Type="text/html; charset=utf-8")
    with of_scripted(scripted) as store, pytest.raises(IndexUnreadableError, match="HTML"):
        list(store.query())


@pytest.mark.parametrize(("status", "kind"), [(500, StoreUnavailableError), (400, UpstreamError)])
def test_index_that_cant_be_had_isnt_an_empty_one(
    scripted: ScriptedServer, status: int, kind: type[StoreError]
) -> None:
    scripted.on("GET", "/index.json", Reply(status))
    with of_scripted(scripted, retries=0) as store:
        for call in (lambda: list(store.query()), lambda: store.exists("a"), store.update_index):
            with pytest.raises(kind, match=str(status)):
                call()


def test_index_that_was_emptied_is_an_empty_one(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A", {"n": 1})
    heard = changes(either)
    either.update_index()
    site.index.clear()
    site.write_index()
    either.update_index()
    assert list(either.query_keys()) == []
    assert heard == [("delete", "a", {"n": 1})]


def test_index_with_a_signature_and_space_is_read(either: StaticURLStore, site: Site) -> None:
    site.write_index(b'\xef\xbb\xbf \r\n{ "a" :\t{ "n" : 1 } ,\n\n"b":{}}\n\n')
    assert dict(either.query()) == {"a": {"n": 1}, "b": {}}


def test_keys_that_no_url_can_name_are_left_out(either: StaticURLStore, site: Site) -> None:
    site.write_index(b'{"a": {}, "../b": {}, "": {}, "c//d": {}, "e\\u0000": {}, "f": {}}')
    assert list(either.query_keys()) == ["a", "f"]


def test_index_in_gzip_is_read(site: Site, nginx: Callable[..., Nginx]) -> None:
    packed = "gzip on; gzip_types application/json; gzip_min_length 1;"
    for number in range(500):
        site.index[f"key {number}"] = {"n": number}
    site.write_index()
    with StaticURLStore(nginx(site.root, config=packed).url, poll=0) as store:
        assert len(list(store.query_keys())) == 500
        reading = store.read_index()
        assert reading is not None
        assert len(list(reading.entries)) == 500


def test_index_cut_off_on_its_way_is_an_error(scripted: ScriptedServer) -> None:
    body = json.dumps({f"k{n}": {} for n in range(1000)}).encode()
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    scripted.on("GET", "/index.json", Reply(200, body[: len(body) // 2], fields))
    with of_scripted(scripted) as store, pytest.raises(StoreError, match="index"):
        list(store.query())


def test_metadata_of_an_entry_is_the_callers_own(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A", {"tags": ["x"]})
    either.get_metadata("a")["tags"].append("y")
    either.get("a").metadata["tags"].append("z")
    next(either.query())[1]["tags"].append("z")
    assert either.get_metadata("a") == {"tags": ["x"]}


def test_large_index_streams(store: StaticURLStore, site: Site) -> None:
    path = site.root / "index.json"
    with path.open("w") as file:
        file.write("{")
        for number in range(16_000):
            name = f"folder {number % 100}/a key with a name of some length {number}"
            file.write(
                f'{"," if number else ""}"{name}": {{"n": {number}, "text": "{"x" * 1000}"}}'
            )
        file.write("}")
    assert path.stat().st_size > 16_000_000
    reading = store.read_index()
    assert reading is not None
    tracemalloc.start()
    try:
        count = sum(1 for _ in reading.entries)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        reading.close()
    assert count == 16_000
    assert peak < 12_000_000


def test_index_that_nobody_reads_on_is_closed(either: StaticURLStore, site: Site) -> None:
    for number in range(20_000):
        site.index[f"key {number}"] = {"n": number}
    site.write_index()
    site.put("a", b"A")
    reading = either.read_index()
    assert reading is not None
    assert next(reading.entries)[0] == "key 0"
    reading.close()
    assert either.to_bytes("a") == b"A"


def test_threads_share_one_index(store: StaticURLStore, site: Site, server: Nginx) -> None:
    site.put("a", b"A", {"n": 1})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: store.get_metadata("a"), range(40)))
    assert found == [{"n": 1}] * 40
    assert server.requests == ["GET /index.json 200"]


# -- without an index ------------------------------------------------------------------------


@pytest.fixture
def unlisted(site: Site, server: Nginx) -> Iterator[StaticURLStore]:
    with StaticURLStore(server.url, query_path=None) as opened:
        yield opened


def test_keys_are_read_without_an_index(unlisted: StaticURLStore, site: Site) -> None:
    (site.root / "index.json").unlink()
    site.put("a", b"A", {"n": 1})
    (site.root / "index.json").unlink()
    assert unlisted.to_bytes("a") == b"A"
    assert unlisted.get("a").metadata == {}
    assert unlisted.get_metadata("a") == {}
    assert unlisted.exists("a")
    assert not unlisted.exists("b")
    with pytest.raises(KeyError):
        unlisted.get_metadata("b")


def test_query_without_an_index_says_so(unlisted: StaticURLStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: list(unlisted.query()),
        lambda: list(unlisted.query_keys(n=1)),
        lambda: list(unlisted.glob("*")),
        unlisted.read_index,
        unlisted.update_index,
    ]
    for call in calls:
        with pytest.raises(IndexUnreadableError, match="no index"):
            call()


@pytest.mark.parametrize(
    ("data_path", "query_path", "asked"),
    [
        ("data/", "index.json", ["/root/data/a", "/root/index.json"]),
        ("data", "/index.json", ["/root/data/a", "/root/index.json"]),
        ("", "meta/all.json", ["/root/a", "/root/meta/all.json"]),
        ("/x/y/", "index", ["/root/x/y/a", "/root/index"]),
    ],
)
@pytest.mark.parametrize("root", ["root", "root/"])
def test_paths_are_put_together(
    scripted: ScriptedServer, root: str, data_path: str, query_path: str, asked: list[str]
) -> None:
    scripted.on("GET", asked[0], Reply(200, b"A")).on("GET", asked[1], Reply(200, b'{"a": {}}'))
    with StaticURLStore(scripted.url + root, data_path, query_path, poll=0) as store:
        assert store.to_bytes("a") == b"A"
        assert list(store.query_keys()) == ["a"]
    assert [each.path for each in scripted.requests] == asked


# -- files -----------------------------------------------------------------------------------


def test_link_to_a_file_is_a_value(site: Site, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (site.root / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (site.root / "data" / "b").symlink_to(tmp_path / "nowhere")
    with StaticURLStore(site.root.as_uri(), query_path=None) as store:
        assert store.to_bytes("a") == b"linked"
        with pytest.raises(KeyError):
            store.fetch("b")


def test_root_that_is_a_link_or_goes_back_up(site: Site, tmp_path: Path) -> None:
    site.put("a", b"A", {"n": 1})
    (tmp_path / "link").symlink_to(site.root)
    for root in (tmp_path / "link", tmp_path / "other" / ".." / "site"):
        (tmp_path / "other").mkdir(exist_ok=True)
        with StaticURLStore(f"file://{root}/") as store:
            assert store.fetch("a").data.read() == b"A"
            assert dict(store.query()) == {"a": {"n": 1}}


def test_root_is_percent_encoded(tmp_path: Path) -> None:
    site = Site(tmp_path / "a b%2F#?\u00e9")
    site.put("a", b"A", {"n": 1})
    with StaticURLStore(site.root.as_uri() + "/") as store:
        assert store.to_bytes("a") == b"A"
        assert list(store.query_keys()) == ["a"]


@pytest.mark.parametrize("key", ["..%2Fsecret", "%2e%2e/secret", "..\\secret", "%2e%2e%2fsecret"])
def test_key_doesnt_lead_out_of_the_folder(either: StaticURLStore, site: Site, key: str) -> None:
    (site.root / "secret").write_bytes(b"secret")
    with pytest.raises(KeyError):
        either.fetch(key)


def test_pipe_isnt_a_value_and_isnt_waited_for(site: Site) -> None:
    os.mkfifo(site.root / "data" / "pipe")
    with StaticURLStore(site.root.as_uri(), query_path=None) as store, ThreadPoolExecutor() as pool:
        asking = pool.submit(store.exists, "pipe")
        try:
            assert asking.result(5) is False
        finally:
            # Lets go of a reader that hangs in open().
            writer = os.open(site.root / "data" / "pipe", os.O_RDWR | os.O_NONBLOCK)
            os.close(writer)


def test_folder_that_isnt_there(tmp_path: Path) -> None:
    with StaticURLStore((tmp_path / "none").as_uri()) as store:
        with pytest.raises(KeyError):
            store.fetch("a")
        with pytest.raises(IndexUnreadableError, match="no index"):
            list(store.query())


def test_name_longer_than_the_file_system_has_is_missing(site: Site) -> None:
    with StaticURLStore(site.root.as_uri(), query_path=None) as store:
        assert not store.exists("k" * 1500)


def test_host_in_a_file_url(site: Site) -> None:
    site.put("a", b"A")
    with StaticURLStore(f"file://localhost{site.root}/") as store:
        assert store.to_bytes("a") == b"A"
    with pytest.raises(StoreError, match="file:///"):
        StaticURLStore("file://data.example.org/srv/")


# -- writing ---------------------------------------------------------------------------------


def test_plain_server_cant_be_written(either: StaticURLStore, site: Site) -> None:
    site.put("a", b"A")
    value = StringValue(b"B", {})
    calls: list[Callable[[], object]] = [
        lambda: either.set_if("a", value, None, "op"),
        lambda: either.set_if("new", value, ABSENT, "op"),
        lambda: either.set_metadata_if("a", {}, None, "op"),
        lambda: either.delete_if("a", None, "op"),
    ]
    for call in calls:
        with pytest.raises(ReadOnlyStoreError, match="can only be read"):
            call()
    assert not either.enforces()
    assert either.info()["readonly"] is True
    assert either.to_bytes("a") == b"A"


def test_server_that_takes_put_isnt_written_unasked(
    site: Site, nginx: Callable[..., Nginx]
) -> None:
    site.put("a", b"A")
    server = nginx(site.root, dav=True)
    with StaticURLStore(server.url) as store, pytest.raises(ReadOnlyStoreError):
        store.set_if("a", StringValue(b"B", {}), None, "op")
    assert not [line for line in server.requests if line.startswith("PUT")]
    assert (site.root / "data" / "a").read_bytes() == b"A"


def test_our_own_server_can_be_written() -> None:
    with MemoryStore() as kept, Origin(kept) as origin, StaticURLStore(origin.url, poll=0) as store:
        assert store.enforces()
        made = store.set_if("a", StringValue(b"A", {"n": 1}), ABSENT, "op-1")
        assert made.enforced
        assert (kept.to_bytes("a"), kept.get_metadata("a")) == (b"A", {"n": 1})
        value = store.fetch("a")
        assert (value.version, value.metadata) == (made.version, {"n": 1})
        changed = store.set_metadata_if("a", {"n": 2}, made.version, "op-2")
        assert (kept.to_bytes("a"), kept.get_metadata("a")) == (b"A", {"n": 2})
        store.delete_if("a", changed.version, "op-3")
        assert not kept.exists("a")


def test_long_metadata_of_our_own_server_comes_with_its_value() -> None:
    long = {"text": "\u00e9" * 5000}
    with MemoryStore() as kept, Origin(kept) as origin:
        kept.set("a", StringValue(b"A", long))
        with StaticURLStore(origin.url, query_path=None) as store:
            assert store.fetch("a").metadata == store.get("a").metadata == long


# -- a server that goes away -----------------------------------------------------------------


def test_server_that_goes_away_and_comes_back(
    site: Site, server: Nginx, store: StaticURLStore
) -> None:
    site.put("a", b"A", {"n": 1})
    value = store.fetch("a")
    assert value.data.read() == b"A"
    assert value.metadata == {"n": 1}
    server.stop()
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.fetch("a"),
        lambda: store.fetch("gone"),
        lambda: store.version_of("a"),
        lambda: revalidated(store, value),
        lambda: store.open_range("a", 0, "v"),
        store.update_index,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            call()
    assert store.get_metadata("a") == {"n": 1}
    server.start()
    assert isinstance(revalidated(store, value), NotModified)
    site.put("b", b"B")
    store.update_index()
    assert store.to_bytes("b") == b"B"


def test_server_that_goes_away_while_a_value_is_read(
    site: Site, server: Nginx, store: StaticURLStore
) -> None:
    site.put("a", os.urandom(30_000_000))
    data = store.get_data("a")
    data.read(1000)
    server.stop()
    with pytest.raises((StoreUnavailableError, IntegrityError), match="'a'"):
        while data.read(1_000_000):
            pass


def test_index_that_comes_in_drops_is_read_once() -> None:
    entry = json.dumps({"long": {"text": "x" * 400_000}}).encode()

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(100)

    def looks() -> int:
        count = 0
        honest = index.JSONWindow.more

        def more(self: index.JSONWindow) -> bool:
            nonlocal count
            count += 1
            return honest(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index.JSONWindow, "more", more)
            ((key, *_),) = index.entries_of_object(Dripping(entry), "it")
            assert key == "long"
        return count

    assert looks() < 20
