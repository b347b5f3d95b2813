"""DynamicURLStore against somebody else's server, and against our own."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mountcache.abc import (
    ABSENT,
    AbstractAuthorizingStore,
    IndexReading,
    NotModified,
    SupportsConditionalWrite,
    SupportsIdentity,
    SupportsIndex,
    SupportsRanges,
    SupportsRevalidation,
    SupportsVersions,
    Value,
)
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import (
    AuthorizationError,
    ChangedWhileReadingError,
    ConfigurationError,
    ConflictError,
    IndexUnreadableError,
    InvalidKeyError,
    InvalidMetadataError,
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
from mountcache.jsonform import content_version
from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.serve.client import KEYS
from tests.servers import RESET, ForeignServer, Reply, ScriptedServer, scripted

__all__ = ["scripted"]

DATA, METADATA = frozenset({"data"}), frozenset({"metadata"})
LONG = {"text": "\u00e9" * 5000, "n": 1}


@pytest.fixture
def foreign() -> Iterator[ForeignServer]:
    with ForeignServer() as server:
        yield server


@pytest.fixture
def store(foreign: ForeignServer) -> Iterator[DynamicURLStore]:
    """Give a store at the foreign server."""
    with DynamicURLStore(*foreign.urls, timeout=(5, 10)) as opened:
        yield opened


@pytest.fixture
def kept() -> Iterator[MemoryStore]:
    """Give the store that our own server serves."""
    with MemoryStore() as opened:
        yield opened


@pytest.fixture
def ours(kept: MemoryStore) -> Iterator[DynamicURLStore]:
    """Give a store at our own server."""
    with Origin(kept) as origin, at(origin.url) as opened:
        yield opened


def at(url: str, **others: Any) -> DynamicURLStore:
    others.setdefault("timeout", (5, 10))
    return DynamicURLStore(f"{url}keys", f"{url}query", **others)


def value_of(data: bytes, metadata: Mapping[str, Any]) -> StringValue:
    return StringValue(data, metadata)


def version(data: bytes, metadata: Mapping[str, Any]) -> str:
    return content_version(hashlib.sha256(data).hexdigest(), metadata)


def revalidated(store: DynamicURLStore, value: Value, key: str = "a") -> NotModified | Value:
    assert value.facts.validators is not None
    return store.revalidate(key, value.facts.validators)


def rows(reading: IndexReading | None) -> dict[str, tuple[Any, ...]]:
    """Return a listing: metadata, version, size, sha256 by key."""
    assert reading is not None
    return {key: (json.loads(meta), *rest) for key, meta, *rest in reading.entries}


def nth(count: int, method: str, part: str, change: Callable[[], object]) -> Callable[..., None]:
    """Return a hook that calls `change` before the `count`-th request of a kind."""
    seen: list[None] = []

    def before(asked: str, key: str, of: str) -> None:
        if (asked, of) == (method, part):
            seen.append(None)
            if len(seen) == count:
                change()

    return before


# -- what it is ------------------------------------------------------------------------------


def test_it_can_all_that_a_backing_store_can(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    assert isinstance(store, AbstractAuthorizingStore)
    for capability in (
        SupportsVersions, SupportsRevalidation, SupportsRanges, SupportsConditionalWrite,
        SupportsIdentity, SupportsIndex,
    ):  # fmt: skip
        assert isinstance(store, capability)
    assert store.identity == f"{foreign.url}keys/"
    assert store.poll is None
    assert store.info()["readonly"] is False
    assert store.info()["authorizing"] is True


def test_only_our_own_server_enforces(store: DynamicURLStore, ours: DynamicURLStore) -> None:
    assert store.enforces() is False
    assert ours.enforces() is True


# -- reading somebody else's server ----------------------------------------------------------


def test_value_is_its_two_resources(store: DynamicURLStore, foreign: ForeignServer) -> None:
    content = os.urandom(300_000)
    foreign.put("x/a", content, {"unit": "m", "n": [1, None]})
    for value in (store.get("x/a"), store.fetch("x/a")):
        assert value.metadata == {"unit": "m", "n": [1, None]}
        assert value.size == 300_000
        assert value.data.read() == content
    assert store.to_bytes("x/a") == content
    assert store.get_data_range("x/a", 5, 9).read() == content[5:9]
    assert store.get_metadata("x/a", ["unit", "none"]) == {"unit": "m"}
    assert store.exists("x/a")


def test_version_is_the_pair_of_both_tags(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {"n": 1})
    both = {store.get("a").version, store.fetch("a").version, store.version_of("a")}
    assert both == {foreign.version("a")}
    foreign.put("a", metadata={"n": 2})
    assert both != {store.version_of("a")} == {foreign.version("a")}


def test_missing_key(store: DynamicURLStore) -> None:
    for read in (store.get, store.fetch, store.to_bytes, store.get_metadata):
        with pytest.raises(KeyError) as raised:
            read("gone")
        assert raised.value.args == ("gone",)
    assert not store.exists("gone")
    assert store.version_of("gone") is ABSENT


def test_key_without_metadata_has_none(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A")
    for value in (store.get("a"), store.fetch("a")):
        assert (value.data.read(), value.metadata) == (b"A", {})


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_hard_keys(store: DynamicURLStore, foreign: ForeignServer, key: str) -> None:
    foreign.put(key, key.encode(), {"key": key})
    value = store.fetch(key)
    assert (value.data.read(), value.metadata) == (key.encode(), {"key": key})
    assert list(store.query_keys()) == [key]
    assert isinstance(revalidated(store, value, key), NotModified)
    store.delete_if(key, value.version, "op")
    assert foreign.keys == {}


@pytest.mark.parametrize("key", ["", ".", "a/../b", "a//b", "/a", "a/", "a\n"], ids=ascii)
def test_keys_that_servers_fold_are_refused(
    store: DynamicURLStore, foreign: ForeignServer, key: str
) -> None:
    value = value_of(b"", {})
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.fetch(key),
        lambda: store.get_metadata(key),
        lambda: store.exists(key),
        lambda: store.set(key, value),
        lambda: store.set_metadata(key, {}),
        lambda: store.set_if(key, value, None, "op"),
        lambda: store.set_metadata_if(key, {}, None, "op"),
        lambda: store.delete(key),
        lambda: store.delete_if(key, None, "op"),
        lambda: store.get_permissions(key),
    ]
    for call in calls:
        with pytest.raises(InvalidKeyError, match="key"):
            call()
    assert not [each for each in foreign.asked if each.key or each.part]


def test_fill_asks_for_metadata_data_and_metadata(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    store.enforces()
    with pytest.raises(KeyError):
        store.fetch("gone")
    del foreign.asked[:]
    value = store.fetch("a")
    assert (value.data.read(), value.metadata) == (b"A", {"n": 1})
    assert foreign.order() == [("GET", "metadata"), ("GET", "data"), ("GET", "metadata")]


@pytest.mark.parametrize("etags", [True, False])
def test_fill_is_never_a_mixture(etags: bool) -> None:
    with ForeignServer(etags=etags) as foreign, at(foreign.url) as store:
        foreign.put("a", b"old", {"n": "old"})
        store.fetch("a").data.read()

        def replace() -> None:
            foreign.put("a", b"new", {"n": "new"})

        for count, method, part in [(1, "GET", "data"), (2, "GET", "metadata")]:
            foreign.put("a", b"old", {"n": "old"})
            foreign.before = nth(count, method, part, replace)
            value = store.fetch("a")
            assert (value.data.read(), value.metadata) in [
                (b"old", {"n": "old"}),
                (b"new", {"n": "new"}),
            ]
            if etags:
                assert value.version == foreign.version("a")


def test_fill_of_a_key_that_never_rests_gives_up(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 0})
    store.fetch("a").data.read()

    def change(method: str, key: str, part: str) -> None:
        if part == "metadata":
            foreign.put("a", metadata={"n": len(foreign.asked)})

    foreign.before = change
    with pytest.raises(ChangedWhileReadingError, match="'a'"):
        store.fetch("a")
    assert len(foreign.asked) < 30


def test_data_asked_for_later_is_that_of_the_value(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    value = store.get("a")
    foreign.put("a", b"B")
    with pytest.raises(ChangedWhileReadingError, match="read it again"):
        value.data.read()


def test_getting_a_value_downloads_nothing(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {"n": 1})
    assert store.get("a").size == 1
    assert ("GET", "data") not in foreign.order()


def test_server_without_tags(foreign: ForeignServer, store: DynamicURLStore) -> None:
    foreign.etags = False
    foreign.put("a", b"A", {"n": 1})
    value = store.fetch("a")
    assert (value.data.read(), value.metadata, value.version) == (b"A", {"n": 1}, None)
    assert store.version_of("a") is None
    again = revalidated(store, value)
    assert isinstance(again, Value)
    assert again.data.read() == b"A"


@pytest.mark.parametrize("raw", [b"[]", b"nonsense", b"", b'"text"', b"\xff"])
def test_metadata_that_is_none_is_an_error(
    store: DynamicURLStore, foreign: ForeignServer, raw: bytes
) -> None:
    foreign.put("a", b"A")
    foreign.change("a", "metadata", raw)
    for call in (store.get_metadata, store.fetch, lambda key: store.get(key).metadata):
        with pytest.raises(UpstreamError, match="metadata of 'a' isn't a JSON object"):
            call("a")


def test_long_metadata(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", LONG)
    assert store.get("a").metadata == store.fetch("a").metadata == LONG
    store.set_if("b", value_of(b"B", LONG), ABSENT, "op")
    assert foreign.metadata("b") == LONG


# -- whether a copy still holds --------------------------------------------------------------


def test_both_halves_that_hold_cost_no_bytes(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    value = store.fetch("a")
    value.data.read()
    del foreign.asked[:]
    assert isinstance(revalidated(store, value), NotModified)
    assert {each.status for each in foreign.asked} == {304}
    assert {each.headers["if-none-match"] for each in foreign.asked} == {
        f'"{foreign.tag("a", part)}"' for part in ("data", "metadata")
    }


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_one_half_that_changed_is_a_change(
    store: DynamicURLStore, foreign: ForeignServer, part: str
) -> None:
    foreign.put("a", b"A", {"n": 1})
    value = store.fetch("a")
    value.data.read()
    foreign.put("a", b"B" if part == "data" else None, {"n": 2} if part == "metadata" else None)
    again = revalidated(store, value)
    assert isinstance(again, Value)
    assert again.data.read() == foreign.keys["a"]["data"]
    assert again.metadata == foreign.metadata("a")
    assert again.version == foreign.version("a") != value.version


def test_copy_of_what_has_gone(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {"n": 1})
    value = store.fetch("a")
    foreign.remove("a")
    with pytest.raises(KeyError):
        revalidated(store, value)


# -- listings --------------------------------------------------------------------------------


@pytest.fixture(params=["listing", "keys alone"])
def listed(request: pytest.FixtureRequest) -> Iterator[ForeignServer]:
    with ForeignServer(ndjson=request.param == "listing") as server:
        yield server


def test_query(listed: ForeignServer) -> None:
    listed.put("a", b"", {"kind": "sea", "n": 1})
    listed.put("b/c", b"", {"kind": "land", "n": 1})
    listed.put("caf\u00e9 #1", b"", {"kind": "sea", "text": "\u00e4&=\u2028"})
    with at(listed.url) as store:
        assert dict(store.query(kind="sea")) == {
            "a": {"kind": "sea", "n": 1},
            "caf\u00e9 #1": {"kind": "sea", "text": "\u00e4&=\u2028"},
        }
        assert dict(store.query(select=["n"], n=1)) == {"a": {"n": 1}, "b/c": {"n": 1}}
        assert list(store.query_keys(text="\u00e4&=\u2028")) == ["caf\u00e9 #1"]
        assert list(store.query_keys(n="1")) == []
        assert sorted(store.glob("*c*")) == ["b/c", "caf\u00e9 #1"]


def test_keys_are_split_at_line_feeds_only(scripted: ScriptedServer) -> None:
    body = "a\u2028b\nc\u0085d\r\ne\x0bf".encode()
    scripted.on("GET", "/query", Reply(200, body, {"Content-Type": "text/plain"}))
    with at(scripted.url) as store:
        assert list(store.query_keys())[:1] == ["a\u2028b"]
        assert next(iter(list(store.query_keys())[1:])) == "c\u0085d"


def test_query_is_one_request_where_the_server_lists(foreign: ForeignServer) -> None:
    for number in range(50):
        foreign.put(f"k{number}", b"", {"n": number})
    with at(foreign.url) as store:
        assert len(dict(store.query())) == 50
    assert len(foreign.asked) == 1


def test_query_for_keys_is_one_request(listed: ForeignServer) -> None:
    for number in range(50):
        listed.put(f"k{number}", b"", {"n": number})
    with at(listed.url) as store:
        assert len(list(store.query_keys())) == 50
    assert len(listed.asked) == 1


def test_query_half_read_leaves_the_store_usable(
    foreign: ForeignServer, store: DynamicURLStore
) -> None:
    for number in range(5000):
        foreign.put(f"k{number}", b"A", {"n": number})
    found = store.query()
    assert next(found) == ("k0", {"n": 0})
    assert store.to_bytes("k7") == b"A"
    del found
    assert store.to_bytes("k8") == b"A"


def test_key_deleted_while_a_query_is_read_is_left_out() -> None:
    with ForeignServer(ndjson=False) as foreign, at(foreign.url) as store:
        for key in "abc":
            foreign.put(key, b"", {"key": key})
        found = store.query()
        assert next(found)[0] == "a"
        foreign.remove("b")
        assert [key for key, _ in found] == ["c"]


def test_listing_of_somebody_elses_server(foreign: ForeignServer, store: DynamicURLStore) -> None:
    foreign.put("a", b"A", {"n": 1})
    foreign.put("b", b"B", {})
    assert rows(store.read_index()) == {
        "a": ({"n": 1}, None, None, None),
        "b": ({}, None, None, None),
    }


def test_server_that_gives_no_listing_says_so() -> None:
    with ForeignServer(ndjson=False) as foreign, at(foreign.url) as store:
        foreign.put("a", b"A", {"n": 1})
        with pytest.raises(IndexUnreadableError, match="no listing") as raised:
            store.read_index()
        assert "/query" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"nonsense\n",
        b'{"metadata": {}}\n',
        b'{"key": 1, "metadata": {}}\n',
        b'{"key": "a"}\n',
        b'{"key": "a", "metadata": []}\n',
        b'{"key": "a", "metadata": {}}\n{"key": "b", "meta',
        b'{"key": "\xff", "metadata": {}}\n',
    ],
    ids=ascii,
)
def test_bad_listing_is_an_error(scripted: ScriptedServer, body: bytes) -> None:
    kind = {"Content-Type": "application/x-ndjson"}
    scripted.on("GET", "/query", Reply(200, body, kind))
    with at(scripted.url) as store:
        with pytest.raises(IndexUnreadableError, match="listing"):
            rows(store.read_index())
        with pytest.raises(IndexUnreadableError, match="listing"):
            list(store.query())


def test_query_cut_off_isnt_a_short_answer(scripted: ScriptedServer) -> None:
    fields = {"Content-Type": "text/plain", "Content-Length": "99", "Connection": "close"}
    scripted.on("GET", "/query", Reply(200, b"a\nb\n", fields))
    with at(scripted.url) as store, pytest.raises(StoreError, match="query"):
        list(store.query_keys())


def test_page_where_keys_should_be_isnt_a_list_of_keys(scripted: ScriptedServer) -> None:
    page = b"<!doctype html>\n<html>\n<p>Log in to the network</p>\n</html>\n"
    scripted.on("GET", "/query", Reply(200, page, {"Content-Type": "text/html"}))
    with at(scripted.url) as store, pytest.raises((UpstreamError, IndexUnreadableError)):
        list(store.query_keys())


# -- writing somebody else's server ----------------------------------------------------------


def test_created_key(store: DynamicURLStore, foreign: ForeignServer) -> None:
    pushed = store.set_if("a", value_of(b"A", {"n": 1}), ABSENT, "op-1")
    assert foreign.keys["a"]["data"] == b"A"
    assert foreign.metadata("a") == {"n": 1}
    assert pushed.version == foreign.version("a")
    assert not pushed.enforced
    writes = [each for each in foreign.asked if each.method == "PUT"]
    assert [each.part for each in writes] == ["data", "metadata"]
    assert writes[0].headers["if-none-match"] == "*"
    assert {each.headers["idempotency-key"] for each in writes} == {"op-1"}
    assert isinstance(store.revalidate("a", pushed.validators), NotModified)


def test_replaced_key_carries_its_half_of_the_base(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    base = foreign.version("a")
    halves = [foreign.tag("a", "data"), foreign.tag("a", "metadata")]
    pushed = store.set_if("a", value_of(b"B", {"n": 2}), base, "op")
    assert pushed.version == foreign.version("a") != base
    writes = [each for each in foreign.asked if each.method == "PUT"]
    assert [each.headers["if-match"] for each in writes] == [f'"{half}"' for half in halves]


def test_parts_are_sent_alone(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {"n": 1})
    store.set_if("a", value_of(b"B", {"n": 2}), None, "op", parts=DATA)
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"B", {"n": 1})
    store.set_if("a", value_of(b"C", {"n": 3}), None, "op", parts=METADATA)
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"B", {"n": 3})
    store.set_metadata_if("a", {"n": 4}, foreign.version("a"), "op")
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"B", {"n": 4})


def test_write_over_another_version_is_a_conflict(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    base = foreign.version("a")
    foreign.put("a", b"theirs", {"n": 5})
    value = value_of(b"mine", {"n": 2})
    calls: list[tuple[Any, Callable[[], object]]] = [
        (base, lambda: store.set_if("a", value, base, "op")),
        (base, lambda: store.set_metadata_if("a", {}, base, "op")),
        (base, lambda: store.delete_if("a", base, "op")),
        (ABSENT, lambda: store.set_if("a", value, ABSENT, "op")),
    ]
    for expected, call in calls:
        with pytest.raises(ConflictError, match="'a'") as raised:
            call()
        assert (raised.value.key, raised.value.expected) == ("a", expected)
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"theirs", {"n": 5})


def test_write_over_a_key_that_has_gone_is_a_conflict(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {"n": 1})
    base = foreign.version("a")
    foreign.remove("a")
    with pytest.raises(ConflictError):
        store.set_if("a", value_of(b"mine", {}), base, "op")
    with pytest.raises(ConflictError):
        store.set_metadata_if("a", {}, base, "op")
    assert foreign.keys == {}


def test_server_that_ignores_conditions_isnt_said_to_enforce_them() -> None:
    with ForeignServer(conditions=False) as foreign, at(foreign.url) as store:
        foreign.put("a", b"A", {"n": 1})
        assert not store.enforces()
        assert not store.set_if("a", value_of(b"B", {}), "other base", "op").enforced
        assert not store.set_metadata_if("a", {"n": 1}, "other base", "op").enforced
        assert not store.delete_if("a", "other base", "op").enforced


def test_write_to_a_server_without_tags_makes_no_version(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.etags = False
    pushed = store.set_if("a", value_of(b"A", {}), ABSENT, "op")
    assert (pushed.version, pushed.validators) == (None, "")


def test_deleted_key(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {"n": 1})
    tag = foreign.tag("a", "data")
    assert store.delete_if("a", foreign.version("a"), "op").version is None
    assert foreign.keys == {}
    assert foreign.asked[-1].headers["if-match"] == f'"{tag}"'
    with pytest.raises(KeyError) as raised:
        store.delete_if("a", None, "op")
    assert raised.value.args == ("a",)


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_lost_answer_may_have_been_applied(
    store: DynamicURLStore, foreign: ForeignServer, part: str
) -> None:
    foreign.lost.add(("PUT", part))
    with pytest.raises(StoreUnavailableError) as raised:
        store.set_if("a", value_of(b"A", {"n": 1}), None, "op")
    assert raised.value.maybe_applied
    assert foreign.order().count(("PUT", part)) == 1
    assert part in foreign.keys["a"]


def test_lost_answer_to_a_delete_may_have_been_applied(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    foreign.put("a", b"A", {})
    foreign.lost.add(("DELETE", ""))
    with pytest.raises(StoreUnavailableError) as raised:
        store.delete_if("a", None, "op")
    assert raised.value.maybe_applied
    assert foreign.keys == {}


def test_verbs_of_a_store(store: DynamicURLStore, foreign: ForeignServer) -> None:
    heard: list[tuple[type[StoreModificationEvent], Any, Any]] = []
    for kind in (StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent):
        store.event_manager.connect(
            kind, lambda event: heard.append((type(event), event.key, event.metadata))
        )
    store.set("a", (io.BytesIO(b"A"), {"n": 1}))
    store.set_data("a", io.BytesIO(b"B"))
    store.update_metadata("a", {"m": 2})
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"B", {"n": 1, "m": 2})
    store.set_metadata("a", {"m": 3})
    assert foreign.metadata("a") == {"m": 3}
    store.delete("a")
    assert foreign.keys == {}
    with pytest.raises(KeyError):
        store.delete("a")
    assert heard == [
        (StoreSetEvent, "a", {"n": 1}),
        (StoreUpdateEvent, "a", {"n": 1}),
        (StoreUpdateEvent, "a", {"n": 1, "m": 2}),
        (StoreUpdateEvent, "a", {"m": 3}),
        (StoreDeleteEvent, "a", {"m": 3}),
    ]


def test_update_metadata_of_a_missing_key_creates_it(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    store.update_metadata("new", {"n": 1})
    assert foreign.metadata("new") == {"n": 1}


def test_bad_metadata_is_refused_before_anything_is_sent(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    wrong: Any
    for wrong in ({"n": float("nan")}, {1: 2}, {"n": b"bytes"}, ["list"]):
        calls: list[Callable[[], object]] = [
            lambda: store.set("a", (io.BytesIO(b"A"), wrong)),  # noqa: B023 - called at once
            lambda: store.set_metadata("a", wrong),  # noqa: B023
            lambda: store.update_metadata("a", wrong),  # noqa: B023
            lambda: store.set_permissions("a", wrong),  # noqa: B023
        ]
        for call in calls:
            with pytest.raises(InvalidMetadataError):
                call()
    assert not [each for each in foreign.asked if each.method not in ("GET", "HEAD")]


def test_stream_that_fails_half_way_changes_nothing(
    store: DynamicURLStore, foreign: ForeignServer
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 1_000_000:
                raise OSError("the disk is gone")
            return super().read(min(size or 0, 100_000))

    foreign.put("a", b"A", {"n": 1})
    with pytest.raises(OSError, match="the disk is gone"):
        store.set("a", (Failing(b"x" * 2_000_000), {}))
    assert (foreign.keys["a"]["data"], foreign.metadata("a")) == (b"A", {"n": 1})


# -- permissions -----------------------------------------------------------------------------


def test_permissions(store: DynamicURLStore, foreign: ForeignServer) -> None:
    foreign.put("a", b"A", {}, {"owner": ["ada"]})
    assert store.get_permissions("a") == {"owner": ["ada"]}
    store.update_permissions("a", {"reader": ["bob"]})
    assert store.get_permissions("a") == {"owner": ["ada"], "reader": ["bob"]}
    store.set_permissions("a", {"owner": ["eve"]})
    assert json.loads(foreign.keys["a"]["auth"]) == {"owner": ["eve"]}
    with pytest.raises(KeyError):
        store.get_permissions("gone")


def test_permissions_of_others_are_refused(scripted: ScriptedServer) -> None:
    scripted.on("GET", "/keys/a/auth", Reply(403)).on("PUT", "/keys/a/auth", Reply(403))
    with at(scripted.url) as store:
        with pytest.raises(AuthorizationError) as raised:
            store.get_permissions("a")
        assert raised.value.status == 403
        with pytest.raises(AuthorizationError):
            store.set_permissions("a", {"owner": ["ada"]})


def test_our_own_server_keeps_no_permissions(ours: DynamicURLStore, kept: MemoryStore) -> None:
    kept.set("a", value_of(b"A", {}))
    with pytest.raises(StoreError, match="no permissions"):
        ours.get_permissions("a")


# -- other layouts ---------------------------------------------------------------------------


def test_layout_of_another_server(scripted: ScriptedServer) -> None:
    fields = {"ETag": '"1"'}
    scripted.on("GET", "/v1/raw/x%20y/a", Reply(200, b"A", fields))
    scripted.on("GET", "/v1/meta/x%20y/a", Reply(200, b'{"n": 1}', fields))
    scripted.on("GET", "/v1/acl/x%20y/a", Reply(200, b'{"owner": ["ada"]}'))
    scripted.on("DELETE", "/v1/objects/x%20y/a", Reply(204))
    with DynamicURLStore(
        f"{scripted.url}v1/",
        f"{scripted.url}find",
        "{base}/{part}/{key}",
        "{base}/objects/{key}",
        {"data": "raw", "metadata": "meta", "permissions": "acl"},
    ) as store:
        value = store.fetch("x y/a")
        assert (value.data.read(), value.metadata) == (b"A", {"n": 1})
        assert store.get_permissions("x y/a") == {"owner": ["ada"]}
        store.delete_if("x y/a", None, "op")


@pytest.mark.parametrize(
    "wrong",
    [
        {"url_format": "{base}/{part}"},
        {"url_format": "{base}/{name}/{part}"},
        {"url_format": "{base}/{key"},
        {"url_format": "/{key}/{part}"},
        {"url_format_no_part": "{base}"},
        {"parts": {"date": "data"}},
    ],
    ids=str,
)
def test_layout_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"\{key\}|parts"):
        DynamicURLStore("http://127.0.0.1/keys", "http://127.0.0.1/query", **wrong)


# -- our own server --------------------------------------------------------------------------


def test_value_of_our_own_server(ours: DynamicURLStore, kept: MemoryStore) -> None:
    content = os.urandom(300_000)
    kept.set("x/a", value_of(content, {"unit": "m"}))
    for value in (ours.get("x/a"), ours.fetch("x/a")):
        assert value.metadata == {"unit": "m"}
        assert value.size == 300_000
        assert value.version == version(content, {"unit": "m"})
        assert value.facts.sha256 == hashlib.sha256(content).hexdigest()
        assert value.data.read() == content
    assert ours.version_of("x/a") == kept.version_of("x/a")
    assert ours.version_of("gone") is ABSENT
    with pytest.raises(KeyError):
        ours.fetch("gone")


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_hard_keys_on_our_own_server(ours: DynamicURLStore, kept: MemoryStore, key: str) -> None:
    pushed = ours.set_if(key, value_of(b"A", {"key": key}), ABSENT, "op")
    assert list(kept.query_keys()) == list(ours.query_keys()) == [key]
    value = ours.fetch(key)
    assert (value.data.read(), value.metadata, value.version) == (
        b"A",
        {"key": key},
        pushed.version,
    )
    ours.delete_if(key, pushed.version, "op-2")
    assert not kept.exists(key)


def test_copy_of_our_own_server_holds_until_data_or_metadata_change(
    ours: DynamicURLStore, kept: MemoryStore
) -> None:
    kept.set("a", value_of(b"A", {"n": 1}))
    value = ours.fetch("a")
    value.data.read()
    assert isinstance(revalidated(ours, value), NotModified)
    kept.set_metadata("a", {"n": 2})
    changed = revalidated(ours, value)
    assert isinstance(changed, Value)
    assert (changed.data.read(), changed.metadata) == (b"A", {"n": 2})


def test_rest_of_a_version_of_our_own_server(ours: DynamicURLStore, kept: MemoryStore) -> None:
    kept.set("a", value_of(b"0123456789", {"n": 1}))
    made = version(b"0123456789", {"n": 1})
    assert ours.open_range("a", 7, made).read() == b"789"
    kept.set_metadata("a", {"n": 2})
    with pytest.raises(ChangedWhileReadingError, match="'a'"):
        ours.open_range("a", 7, made)


def test_rest_of_a_version_is_bound_to_the_datas_half(scripted: ScriptedServer) -> None:
    fields = {"ETag": '"d"', "Content-Range": "bytes 5-9/10"}
    scripted.on("GET", "/keys/a/data", Reply(206, b"56789", fields))
    with at(scripted.url) as store:
        assert store.open_range("a", 5, "d m").read() == b"56789"
    assert scripted.requests[-1].headers["if-range"] == '"d"'


def test_listing_of_our_own_server(ours: DynamicURLStore, kept: MemoryStore) -> None:
    kept.set("a", value_of(b"A", {"n": 1}))
    kept.set("b\u2028/\u00e9", value_of(b"BB", LONG))
    reading = ours.read_index()
    assert reading is not None
    assert rows(reading) == {
        "a": ({"n": 1}, version(b"A", {"n": 1}), 1, hashlib.sha256(b"A").hexdigest()),
        "b\u2028/\u00e9": (LONG, version(b"BB", LONG), 2, hashlib.sha256(b"BB").hexdigest()),
    }
    assert ours.read_index(reading.validators) is None
    kept.set_metadata("a", {"n": 2})
    assert rows(ours.read_index(reading.validators))["a"][0] == {"n": 2}


def test_query_of_our_own_server(ours: DynamicURLStore, kept: MemoryStore) -> None:
    kept.set("a", value_of(b"", {"n": 1, "text": "\u00e4&=+ #"}))
    kept.set("b", value_of(b"", {"n": 1.0}))
    kept.set("c", value_of(b"", {"n": "1"}))
    assert sorted(ours.query_keys(n=1)) == ["a", "b"]
    assert list(ours.query_keys(text="\u00e4&=+ #")) == ["a"]
    assert dict(ours.query(select=["n"])) == {"a": {"n": 1}, "b": {"n": 1.0}, "c": {"n": "1"}}


def test_write_to_our_own_server_is_one_change(ours: DynamicURLStore, kept: MemoryStore) -> None:
    content = os.urandom(3_000_000)
    made = ours.set_if("a", value_of(content, {"n": 1}), ABSENT, "op-1")
    assert made.enforced and not made.replayed
    assert made.version == version(content, {"n": 1}) == kept.version_of("a")
    assert isinstance(ours.revalidate("a", made.validators), NotModified)
    other = ours.set_metadata_if("a", {"n": 2}, made.version, "op-2")
    assert other.version == version(content, {"n": 2})
    ours.set_if("a", value_of(b"B", {"n": 9}), other.version, "op-3", parts=DATA)
    assert (kept.to_bytes("a"), kept.get_metadata("a")) == (b"B", {"n": 2})
    ours.delete_if("a", kept.version_of("a"), "op-4")
    assert not kept.exists("a")


def test_long_metadata_goes_with_its_data_to_our_own_server(
    ours: DynamicURLStore, kept: MemoryStore
) -> None:
    content = os.urandom(200_000)
    made = ours.set_if("a", value_of(content, LONG), ABSENT, "op-1")
    assert made.version == version(content, LONG)
    assert (kept.to_bytes("a"), kept.get_metadata("a")) == (content, LONG)
    for value in (ours.get("a"), ours.fetch("a")):
        assert (value.metadata, value.data.read()) == (LONG, content)
    empty = ours.set_if("b", value_of(b"", LONG), ABSENT, "op-2")
    assert empty.version == version(b"", LONG)


@pytest.mark.parametrize("length", range(4080, 4112, 3))
def test_metadata_about_as_long_as_a_header_may_be(
    ours: DynamicURLStore, kept: MemoryStore, length: int
) -> None:
    # base64 makes four characters of three bytes; the rest of the JSON has eight.
    metadata = {"t": "x" * (length * 3 // 4 - 8)}
    made = ours.set_if("a", value_of(b"A", metadata), ABSENT, "op")
    assert made.version == version(b"A", metadata)
    assert ours.fetch("a").metadata == kept.get_metadata("a") == metadata


def test_long_metadata_that_changes_between_two_requests_isnt_mixed(
    scripted: ScriptedServer,
) -> None:
    ours = {"Mountcache": "1", "ETag": '"1"', "Mountcache-Metadata-Length": "9000"}
    scripted.on("GET", "/keys/a/data", Reply(200, b"A", ours))
    scripted.on("GET", "/keys/a/metadata", Reply(200, b"{}", {"Mountcache": "1", "ETag": '"2"'}))
    with at(scripted.url) as store, pytest.raises(ChangedWhileReadingError, match="'a'"):
        _ = store.fetch("a").metadata


def test_conflict_on_our_own_server_tells_what_is_there(
    ours: DynamicURLStore, kept: MemoryStore
) -> None:
    kept.set("a", value_of(b"theirs", {}))
    there = kept.version_of("a")
    value = value_of(b"mine", {"n": 1})
    old = version(b"old", {})
    calls: list[tuple[Any, Any, Callable[[], object]]] = [
        (old, there, lambda: ours.set_if("a", value, old, "op-1")),
        (ABSENT, there, lambda: ours.set_if("a", value, ABSENT, "op-2")),
        (old, there, lambda: ours.set_metadata_if("a", {}, old, "op-3")),
        (old, there, lambda: ours.delete_if("a", old, "op-4")),
    ]
    for expected, found, call in calls:
        with pytest.raises(ConflictError, match="'a'") as raised:
            call()
        assert (raised.value.key, raised.value.expected, raised.value.found) == (
            "a",
            expected,
            found,
        )
    with pytest.raises(ConflictError, match="isn't there") as raised:
        ours.set_if("gone", value, old, "op-5")
    assert raised.value.found is ABSENT
    assert kept.to_bytes("a") == b"theirs"


def test_same_operation_again_is_answered_as_before(
    ours: DynamicURLStore, kept: MemoryStore
) -> None:
    first = ours.set_if("a", value_of(b"A", {"n": 1}), ABSENT, "op-1")
    kept.set("a", value_of(b"theirs", {}))
    again = ours.set_if("a", value_of(b"A", {"n": 1}), ABSENT, "op-1")
    assert again.replayed and not first.replayed
    assert again.version == first.version
    assert kept.to_bytes("a") == b"theirs"
    there = kept.version_of("a")
    ours.delete_if("a", there, "op-2")
    assert ours.delete_if("a", there, "op-2").replayed


def test_many_creators_have_one_winner(ours: DynamicURLStore, kept: MemoryStore) -> None:
    def create(number: int) -> bool:
        try:
            ours.set_if("a", value_of(b"%d" % number, {"n": number}), ABSENT, f"op-{number}")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(24)))
    assert won.count(True) == 1
    assert kept.get_metadata("a") == {"n": won.index(True)}


def test_lost_answer_of_a_server_of_ours_is_asked_for_again(scripted: ScriptedServer) -> None:
    ours = {"Mountcache": "1", "ETag": '"v"'}
    replay = {**ours, "Idempotency-Replayed": "true"}
    scripted.on("HEAD", "/query", Reply(200, headers=ours))
    scripted.on("PUT", "/keys/a/data", [RESET], Reply(201, headers=replay))
    scripted.on("DELETE", "/keys/a", [RESET], Reply(204, headers=replay))
    with at(scripted.url) as store:
        pushed = store.set_if("a", value_of(b"A", {}), ABSENT, "op-1")
        assert (pushed.version, pushed.replayed) == ("v", True)
        assert store.delete_if("a", "v", "op-2").replayed
    puts = scripted.asked("PUT")
    assert [each.headers["idempotency-key"] for each in puts] == ["op-1", "op-1"]


def test_lost_answers_of_a_server_of_ours_may_have_been_applied(scripted: ScriptedServer) -> None:
    scripted.on("HEAD", "/query", Reply(200, headers={"Mountcache": "1"}))
    scripted.on("PUT", "/keys/a/data", [RESET])
    with at(scripted.url, retries=1) as store, pytest.raises(StoreUnavailableError) as raised:
        store.set_if("a", value_of(b"A", {}), ABSENT, "op-1")
    assert raised.value.maybe_applied
    assert len(scripted.asked("PUT")) == 2


def test_our_own_server_that_goes_away_and_comes_back(kept: MemoryStore) -> None:
    kept.set("a", value_of(b"A", {"n": 1}))
    with Origin(kept) as origin, at(origin.url) as store:
        value = store.fetch("a")
        value.data.read()
        origin.stop()
        calls: list[Callable[[], object]] = [
            lambda: store.fetch("a"),
            lambda: store.fetch("gone"),
            lambda: store.exists("a"),
            lambda: list(store.query()),
            lambda: store.read_index(),
            lambda: revalidated(store, value),
            lambda: store.set_if("a", value_of(b"B", {}), None, "op"),
            lambda: store.delete_if("a", None, "op"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailableError, match="can't be reached") as raised:
                call()
            assert not raised.value.maybe_applied
        origin.start()
        assert isinstance(revalidated(store, value), NotModified)
