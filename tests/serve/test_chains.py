"""A mountcache whose upstream is a proxy: what of its guarantees comes through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.errors import ConflictError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import push
from mountcache.testing import Origin
from mountcache.values import StringValue
from tests.scripted import MIB, pattern
from tests.serve.proxies import LAYOUTS, Proxy, client_of, proxy_of


@pytest.fixture
def origin() -> Iterator[Origin]:
    contents = {"a": (b"first", {"n": 1}), "b": (b"second", {}), "big": (pattern(3 * MIB), {})}
    with Origin(contents) as origin:
        yield origin


@pytest.fixture
def proxy(origin: Origin, tmp_path: Path) -> Iterator[Proxy]:
    with proxy_of(client_of(origin.url, "dynamic"), tmp_path / "proxy") as made:
        yield made


@pytest.fixture(params=LAYOUTS)
def mine(request: pytest.FixtureRequest, proxy: Proxy, tmp_path: Path) -> Iterator[MountedStore]:
    upstream = client_of(proxy.server.url, request.param)
    with MountedStore("", DiskCacheStore(tmp_path / "mine"), upstream, author="ada") as store:
        yield store


def test_reads_come_through_and_keep_their_version(origin: Origin, mine: MountedStore) -> None:
    assert mine.to_bytes("a") == b"first"
    assert mine.get("a").version == origin.store.version_of("a")
    assert mine.get_metadata("a") == {"n": 1}
    assert mine.to_bytes("big") == pattern(3 * MIB)
    assert mine.get_data_range("big", 5, 15).read() == pattern(3 * MIB)[5:15]
    assert sorted(mine.query_keys()) == ["a", "b", "big"]
    assert list(mine.query_keys(n=1)) == ["a"]
    with pytest.raises(KeyError):
        mine.get("nix")


def test_what_the_proxy_has_is_read_while_the_origin_is_gone(
    origin: Origin, proxy: Proxy, mine: MountedStore
) -> None:
    proxy.call.get("b")
    mine.update_index()
    origin.stop()
    with pytest.raises(StoreUnavailableError, match="a"):
        mine.to_bytes("a")
    # That one key isn't there is no reason to leave the proxy alone.
    assert mine.to_bytes("b") == b"second"
    assert not mine.is_offline()
    proxy.server.stop()
    assert mine.to_bytes("b") == b"second"
    with pytest.raises(StoreUnavailableError):
        mine.to_bytes("a")
    origin.start()
    proxy.server.start()


def test_a_push_is_staged_at_the_proxy_and_goes_on_from_there(
    origin: Origin, proxy: Proxy, mine: MountedStore
) -> None:
    mine.to_bytes("a")
    mine.set("a", StringValue(b"changed", {"n": 2}))
    mine.set("new", StringValue(b"new", {"by": "ada"}))
    mine.to_bytes("b")
    mine.delete("b")
    report = push(mine)
    assert report.ok, [(each.key, each.outcome, each.message) for each in report.results]
    assert {(each.grade, each.outcome) for each in report.results} == {("A", "pushed")}
    assert sorted(proxy.staged) == ["a", "b", "new"]
    assert origin.store.to_bytes("a") == b"first"
    held = mine.get("a").version
    assert push(proxy.store).ok
    assert origin.store.to_bytes("a") == b"changed"
    assert origin.store.get_metadata("new") == {"by": "ada"}
    assert not origin.store.exists("b")
    # One content has one version, wherever it is.
    assert origin.store.version_of("a") == held
    origin.requests.clear()
    assert mine.get("a").version == held
    assert mine.get("a").source == "cached"


def test_of_two_behind_one_proxy_the_second_meets_a_conflict(
    proxy: Proxy, mine: MountedStore, tmp_path: Path
) -> None:
    other = MountedStore(
        "", DiskCacheStore(tmp_path / "other"), client_of(proxy.server.url, "dynamic")
    )
    with other:
        for store, text in ((mine, b"ada"), (other, b"ben")):
            store.to_bytes("a")
            store.from_bytes("a", text)
        mine.push("a")
        with pytest.raises(ConflictError):
            other.push("a")
        assert proxy.call.get("a").body == b"ada"
        assert push(other, on_conflict="ours").ok
        assert proxy.call.get("a").body == b"ben"


def test_who_wrote_to_the_origin_past_the_proxy_isnt_overwritten(
    origin: Origin, proxy: Proxy, mine: MountedStore
) -> None:
    mine.to_bytes("a")
    mine.from_bytes("a", b"ada")
    # The proxy asks upstream before it compares, so this is seen at once.
    origin.change("a", b"stranger")
    with pytest.raises(ConflictError):
        mine.push("a")
    assert proxy.staged == []
    assert push(mine, on_conflict="ours").ok
    # And this, after it has compared, at its own push.
    origin.change("a", b"stranger again")
    (result,) = push(proxy.store).results
    assert result.outcome == "conflict"
    assert origin.store.to_bytes("a") == b"stranger again"


def test_a_push_whose_answer_was_lost_at_the_proxy_is_found_to_have_arrived(
    origin: Origin, proxy: Proxy, mine: MountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.to_bytes("a")
    mine.from_bytes("a", b"ada")
    staging = proxy.store.mount.staging
    write = staging.write

    def lost(*given: object, **named: object) -> object:
        write(*given, **named)  # type: ignore[arg-type]
        monkeypatch.undo()
        raise StoreUnavailableError("the answer is lost")

    monkeypatch.setattr(staging, "write", lost)
    (result,) = push(mine).results
    assert result.outcome == "failed", result
    # Somebody has built on it meanwhile.
    held = proxy.call.get("a").headers["etag"]
    assert proxy.call.put("a", b"built on it", None, If_Match=held).status == 204
    report = push(mine)
    assert report.ok, report
    assert proxy.call.get("a").body == b"built on it"
    assert not list(mine.staged())
