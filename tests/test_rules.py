"""Rules by pattern: each is heeded by every way in, and goes for no other key."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConfigurationError, StoreError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import Pushing, Rule
from mountcache.sync.rules import Rules, rules_of
from mountcache.values import StringValue
from tests.command import Inside

KEYS = ("raw/1", "raw/2", "raw/keep", "pub/1")


def _without_storing(app: ASGIApp) -> ASGIApp:
    """Say no-store of all that is given."""

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message["headers"] if each[0].lower() != b"cache-control"]
                message["headers"] = [*kept, (b"cache-control", b"no-store")]
            await send(message)

        await app(scope, receive, sent)

    return around


class Place:
    """A repository, its server, and a directory that mounts it."""

    def __init__(self, tmp_path: Path, layout: str, around: Callable[[ASGIApp], ASGIApp]) -> None:
        self.repository = MemoryStore()
        self.repository.connect()
        for key in KEYS:
            self.repository.set(key, StringValue(key.encode() * 100, {"n": 1}))
        self.origin = Origin(self.repository, around=around)
        self.origin.start()
        self.layout = layout
        self.directory = tmp_path / "here"

    def mount(self, rules: Any = (), **more: Any) -> MountedStore:
        url = self.origin.url
        backing = (
            StaticURLStore(url, poll=300)
            if self.layout == "static"
            else DynamicURLStore(f"{url}keys", f"{url}query")
        )
        local = DiskCacheStore(self.directory, min_free=0)
        return MountedStore("", local, backing, rules=rules, **more)


@pytest.fixture(params=["dynamic", "static"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path, request.param, lambda app: app)
    yield there
    there.origin.stop()


@pytest.fixture(params=["dynamic", "static"])
def shy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path, request.param, _without_storing)
    yield there
    there.origin.stop()


def source(store: MountedStore, key: str) -> str:
    store.to_bytes(key)
    return store.get(key).source


# -- which rule counts --------------------------------------------------------------------------


def test_last_rule_that_says_something_of_a_thing_counts() -> None:
    rules = Rules(
        [
            Rule("*", max_age=5.0, store="never"),
            Rule("raw/*", push="never", max_age=60.0),
            Rule("raw/public/*", push="allow"),
            Rule("raw/public/secret", push="never", pin=True),
        ]
    )
    found = {
        key: (rules.max_age(key), rules.why_unpushed(key) is None, rules.pins(key))
        for key in ("a", "raw/x/y", "raw/public/a", "raw/public/secret", "Raw/x")
    }
    assert found == {
        "a": (5.0, True, False), "raw/x/y": (60.0, False, False),
        "raw/public/a": (60.0, True, False), "raw/public/secret": (60.0, False, True),
        "Raw/x": (5.0, True, False),
    }  # fmt: skip
    assert '"raw/public/secret"' in (rules.why_unpushed("raw/public/secret") or "")
    assert rules.store("a") == "never"
    assert pickle.loads(pickle.dumps(rules)).rules == rules.rules


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"pattern": "x"}, "array of tables"),
        (["raw/*"], "rule 1 is a table"),
        ([{"push": "never"}], "rule 1: needs a pattern"),
        ([{"pattern": ""}], "needs a pattern"),
        ([{"pattern": "a"}], "says nothing of 'a'"),
        ([{"pattern": "*", "pin": True}, {"patern": "a"}], "rule 2: unknown key 'patern'; did you"),
        ([{"pattern": "a", "push": "nver"}], "push is one of never, allow, not 'nver'; did you"),
        ([{"pattern": "a", "push": False}], "push is one of"),
        ([{"pattern": "a", "store": True}], "store is one of always, never, auto"),
        ([{"pattern": "a", "pin": "yes"}], "pin is true or false"),
        ([{"pattern": "a", "max_age": -1}], "max_age is a number of seconds"),
        ([{"pattern": "a", "max_age": float("nan")}], "max_age is a number of seconds"),
        ([{"pattern": "a", "max_age": True}], "max_age is a number of seconds"),
        ([{"pattern": "a", "pin": True, "store": "never"}], "can't be pinned"),
        ([{"pattern": "raw/*", "pin": True}], "matches nothing under the mount point 'surveys/'"),
    ],
)
def test_mistake_in_a_rule_is_told_in_one_sentence(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        rules_of(value, "m.toml", "surveys/")
    assert str(caught.value).startswith("m.toml: ") and said in str(caught.value)


# -- push ---------------------------------------------------------------------------------------


def test_what_is_never_pushed_stays_whoever_pushes_it(place: Place) -> None:
    with place.mount([Rule("raw/*", push="never")]) as store:
        store.to_bytes("raw/1")
        with store.transaction("together"):
            store.set("raw/1", StringValue(b"mine", {}))
            store.set("pub/new", StringValue(b"mine", {}))
        report = sync.push(store)
        assert (report["raw/1"].outcome, report["pub/new"].outcome) == ("held", "pushed")
        assert '"raw/*"' in report["raw/1"].message
        assert report.ok
        assert sync.push(store, ["raw/1"])["raw/1"].outcome == "held"
        with pytest.raises(StoreError, match="never pushed: a rule"):
            store.push("raw/1")
        assert [step.action for step in sync.plan(store).steps] == ["held"]
        store.flush()
        (edit,) = store.staged()
        assert (edit.held, edit.next_try) == (True, None)
        assert '"raw/*"' in (edit.held_why or "")
        assert store.to_bytes("raw/1") == b"mine"
    assert place.repository.to_bytes("raw/1") != b"mine"
    with place.mount() as store:
        assert store.push("raw/1").outcome == "pushed"


def test_delete_and_rename_under_a_rule_change_nothing_upstream(place: Place) -> None:
    with place.mount([Rule("raw/*", push="never")]) as store:
        store.delete("raw/1")
        store.mv("raw/2", "pub/2")
        store.mv("pub/1", "raw/3")
        sync.push(store)
        there = set(place.repository.glob("*"))
    assert there == {*KEYS, "pub/2"}


def test_background_pusher_heeds_rules(place: Place) -> None:
    rules = [Rule("raw/*", push="never")]
    with place.mount(rules, push=Pushing("auto", quiet=0.0)) as store:
        store.set("raw/1", StringValue(b"mine", {}))
        store.set("pub/new", StringValue(b"mine", {}))
        store.flush(60)
        assert [each.key for each in store.staged()] == ["raw/1"]
    assert place.repository.to_bytes("pub/new") == b"mine"


# -- pin ----------------------------------------------------------------------------------------


def pinned(store: MountedStore) -> set[str]:
    return {each.key for each in sync.residents(store, "pinned")}


def test_what_is_kept_under_a_rule_is_pinned_by_whatever_way_it_came(place: Place) -> None:
    with place.mount([Rule("raw/*", pin=True), Rule("raw/2", pin=False)]) as store:
        store.to_bytes("raw/1")
        sync.prefetch(store, "*")
        store.set("raw/new", StringValue(b"mine", {}))
        sync.push(store)
        assert pinned(store) == {"raw/1", "raw/keep", "raw/new"}
        store.unpin("raw/1")
        assert pinned(store) == {"raw/keep", "raw/new"}


def test_what_was_kept_before_the_rule_is_pinned_once(place: Place) -> None:
    with place.mount() as store:
        sync.prefetch(store, "*")
        assert pinned(store) == set()
    rules = [Rule("raw/*", pin=True)]
    with place.mount(rules) as store:
        assert pinned(store) == {"raw/1", "raw/2", "raw/keep"}
        store.unpin("raw/1")
    with place.mount(rules) as store:
        assert pinned(store) == {"raw/2", "raw/keep"}


# -- max_age ------------------------------------------------------------------------------------


def test_max_age_of_a_rule_counts_more_than_the_mounts_and_less_than_a_calls(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, "dynamic", lambda app: app)
    with place.mount([Rule("raw/*", max_age=3600)], max_age=0.0) as store:
        for key in ("raw/1", "pub/1"):
            store.to_bytes(key)
            place.repository.set(key, StringValue(b"new", {"n": 2}))
        assert store.warm("raw/1") is not None
        assert store.warm("pub/1") is None
        assert store.to_bytes("raw/1") == b"raw/1" * 100
        assert store.get("raw/1").metadata == {"n": 1}
        assert store.get_metadata("raw/1") == {"n": 1}
        assert store.to_bytes("pub/1") == b"new"
        assert store.with_options(max_age=0.0).to_bytes("raw/1") == b"new"
    with place.mount([Rule("raw/*", max_age=0)], max_age=3600) as store:
        place.repository.set("raw/1", StringValue(b"newer", {}))
        place.repository.set("pub/1", StringValue(b"newer", {}))
        assert store.to_bytes("raw/1") == b"newer"
        assert store.to_bytes("pub/1") == b"new"
    place.origin.stop()


# -- store --------------------------------------------------------------------------------------


def test_what_is_never_stored_passes_through_by_every_way(place: Place) -> None:
    with place.mount([Rule("raw/*", store="never"), Rule("raw/keep", store="auto")]) as store:
        assert store.to_bytes("raw/1") == b"raw/1" * 100
        assert source(store, "raw/1") == "upstream"
        with store.get("raw/2").range(0, 5) as part:
            assert part.read() == b"raw/2"
        report = sync.prefetch(store, "*")
        assert set(report.failed) == {"raw/1", "raw/2"}
        with pytest.raises(StoreError):
            store.pin("raw/1")
        store.set("raw/new", StringValue(b"mine" * 20_000, {}))
        assert store.to_bytes("raw/new") == b"mine" * 20_000
        sync.push(store)
        sync.pull(store)
        assert set(store.cached()) == {"raw/keep", "pub/1"}
        assert store.to_bytes("raw/new") == b"mine" * 20_000
        assert not list(store.staged())
        place.origin.stop()
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("raw/1")
        place.origin.start()


def test_large_values_that_are_never_stored_leave_no_part(place: Place) -> None:
    large = bytes(3 * 1048576)
    place.repository.set("raw/large", StringValue(large, {}))
    with place.mount([Rule("raw/*", store="never")]) as store:
        assert store.to_bytes("raw/large") == large
        with store.get("raw/large").range(2 * 1048576, 2 * 1048576 + 10) as part:
            assert part.read() == bytes(10)
        assert not list(store.cached())
    assert not list((place.directory / "partial").iterdir())


def test_what_was_stored_before_such_a_rule_goes_and_pins_stay(place: Place) -> None:
    with place.mount() as store:
        sync.prefetch(store, "*")
        store.pin("raw/keep")
    with place.mount([Rule("raw/*", store="never")]) as store:
        assert set(store.cached()) == {"pub/1"}
        assert pinned(store) == {"raw/keep"}


def test_always_keeps_what_upstream_says_isnt_to_be_stored(shy: Place) -> None:
    with shy.mount([Rule("raw/*", store="always")]) as store:
        for key in ("raw/1", "pub/1"):
            store.to_bytes(key)
        assert set(store.cached()) == {"raw/1"}
        shy.origin.stop()
        assert store.to_bytes("raw/1") == b"raw/1" * 100
        with pytest.raises(StoreUnavailableError):
            store.to_bytes("pub/1")


# -- mountcache.toml ----------------------------------------------------------------------------


def test_rules_of_the_file_are_heeded_and_shown(place: Place, tmp_path: Path) -> None:
    me = Inside(tmp_path)
    (tmp_path / "mountcache.toml").write_text(
        f'url = "{place.origin.url}"\nlayout = "{place.layout}"\n'
        '[[rule]]\npattern = "raw/*"\npush = "never"\npin = true\n'
    )
    assert me("put", "raw/1", given=b"mine").code == 0
    pushed = me("push")
    assert pushed.code == 0
    assert 'held: raw/1\n   never pushed: a rule says so (pattern = "raw/*"' in pushed.text
    assert 'never pushed: a rule says so (pattern = "raw/*"' in me("status").text
    me("cat", "raw/2")
    assert me("ls", "--pinned").text == "raw/2\n"
    (config,) = me("config", "--json").documents
    assert config["settings"]["rule"]["value"] == [
        {"pattern": "raw/*", "push": "never", "pin": True}
    ]
    text = (tmp_path / "mountcache.toml").read_text()
    elsewhere = f'mount_point = "pub/"\n{text}'
    (tmp_path / "other.toml").write_text(elsewhere)
    other = me("status", "--config", "other.toml")
    assert other.code == 3
    assert "other.toml: rule 1: 'raw/*' matches nothing under the mount point" in other.err
    with (tmp_path / "mountcache.toml").open("a") as file:
        file.write('pussh = "never"\n')
    wrong = me("status")
    assert (wrong.code, "did you mean 'push'" in wrong.err) == (3, True)
