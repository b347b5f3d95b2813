"""Pushing to a plain web server that takes PUT: nginx with its dav module, Apache with mod_dav."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.plain import SIDECAR
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    InvalidKeyError,
    ReadOnlyStoreError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.values import StringValue
from tests.servers import Apache, Nginx, Reply, ScriptedServer, apache, nginx, scripted

__all__ = ["apache", "nginx", "scripted"]

_when = count(1_600_000_000)


class Site:
    """Files under a server that takes PUT and DELETE, and an index that people make."""

    def __init__(self, root: Path, serve: Callable[[Path], Nginx | Apache]) -> None:
        self.data = root / "data"
        self.data.mkdir(parents=True)
        self.root = root
        self.url = serve(root).url

    def put(self, key: str, data: bytes) -> None:
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        when = next(_when)
        os.utime(path, (when, when))

    def index(self, metadata: dict[str, Any] | None = None, *, digests: bool = False) -> None:
        entries = {}
        for path in sorted(self.data.rglob("*")):
            if path.is_file() and not path.name.endswith(SIDECAR):
                key = str(path.relative_to(self.data))
                entries[key] = dict((metadata or {}).get(key, {}))
                if digests:
                    entries[key]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        target = self.root / "index.json"
        target.write_text(json.dumps(entries))
        when = next(_when)
        os.utime(target, (when, when))


@pytest.fixture(params=["nginx, folders by itself", "nginx, folders by MKCOL", "Apache"])
def site(
    request: pytest.FixtureRequest,
    nginx: Callable[..., Nginx],
    apache: Callable[..., Apache],
    tmp_path: Path,
) -> Site:
    def serve(root: Path) -> Nginx | Apache:
        if request.param == "Apache":
            return apache(root, dav=True)
        made = "on" if "itself" in request.param else "off"
        config = f"dav_methods PUT DELETE MKCOL; create_full_put_path {made};"
        return nginx(root, config=config)

    return Site(tmp_path / "site", serve)


Person = Callable[..., MountedStore]


@pytest.fixture
def person(site: Site, tmp_path: Path) -> Iterator[Person]:
    opened: list[MountedStore] = []

    def mount(name: str, **options: Any) -> MountedStore:
        backing = StaticURLStore(site.url, poll=0, write="put", **options)
        store = MountedStore("", DiskCacheStore(tmp_path / name, min_free=0), backing)
        store.connect()
        opened.append(store)
        return store

    yield mount
    for store in opened:
        store.disconnect()


@pytest.mark.parametrize("digests", [False, True], ids=["bare index", "index of digests"])
def test_edits_go_up_and_the_index_may_lag(person: Person, site: Site, digests: bool) -> None:
    site.put("a.csv", b"first")
    site.put("gone.csv", b"gone")
    site.index({"a.csv": {"n": 1}}, digests=digests)
    store = person("ada")
    assert store.to_bytes("a.csv") == b"first"
    assert store.to_bytes("gone.csv") == b"gone"
    store.set("a.csv", StringValue(b"mine", {"n": 2}))
    store.set("runs/new/b.csv", StringValue(b"new", {"n": 3}))
    store.delete("gone.csv")
    report = sync.push(store)
    assert [(each.key, each.outcome, each.grade) for each in report.results] == [
        ("a.csv", "pushed", "C"), ("gone.csv", "pushed", "C"), ("runs/new/b.csv", "pushed", "C"),
    ]  # fmt: skip
    assert "not in upstream's index yet; upstream keeps no metadata" in report["a.csv"].message
    assert not any(each.enforced for each in report.results)
    assert all(each.verified for each in report.results)
    assert (site.data / "a.csv").read_bytes() == b"mine"
    assert (site.data / "runs/new/b.csv").read_bytes() == b"new"
    assert not (site.data / "gone.csv").exists()
    for _ in range(2):
        assert (store.to_bytes("a.csv"), store.get_metadata("a.csv")) == (b"mine", {"n": 2})
        assert store.get_metadata("runs/new/b.csv") == {"n": 3}
        assert sorted(store.query_keys()) == ["a.csv", "runs/new/b.csv"]
        store.drop("a.csv")
        store.update_index()
    site.index({"a.csv": {"n": 4}}, digests=digests)
    store.update_index()
    assert store.get_metadata("a.csv")["n"] == 4
    assert store.to_bytes("a.csv") == b"mine"
    assert "n" not in store.get_metadata("runs/new/b.csv")


@pytest.mark.parametrize("metadata", ["local", "sidecar"])
def test_what_others_changed_is_kept(person: Person, site: Site, metadata: str) -> None:
    for name in ("a", "b", "c"):
        site.put(name, b"first")
    site.index()
    store = person("ada", metadata=metadata)
    for name in ("a", "b"):
        assert store.to_bytes(name) == b"first"
        store.set(name, StringValue(b"mine", {}))
    assert store.to_bytes("c") == b"first"
    store.delete("c")
    store.set("d", StringValue(b"mine", {}))
    site.put("a", b"theirs")
    (site.data / "b").unlink()
    site.put("c", b"theirs")
    site.put("d", b"theirs")
    site.index()
    report = sync.push(store)
    assert [each.outcome for each in report.results] == ["conflict"] * 4
    assert (site.data / "a").read_bytes() == b"theirs"
    assert (site.data / "c").read_bytes() == b"theirs"
    assert (site.data / "d").read_bytes() == b"theirs"
    assert not (site.data / "b").exists()
    assert len(list(store.staged())) == 4
    assert sync.push(store, on_conflict="ours").ok
    assert (site.data / "d").read_bytes() == b"mine"
    assert not (site.data / "c").exists()


@pytest.mark.parametrize("metadata", ["local", "sidecar"])
def test_what_was_just_pushed_is_changed_and_deleted_again(
    person: Person, site: Site, metadata: str
) -> None:
    site.index()
    store = person("ada", metadata=metadata)
    # Of one length and within a second: no entity tag of time and size tells them apart.
    for text in (b"one", b"two", b"six"):
        store.set("runs/a", StringValue(text, {"called": text.decode()}))
        result = store.push("runs/a")
        assert (result.outcome, result.grade, result.enforced) == ("pushed", "C", False)
        assert (site.data / "runs" / "a").read_bytes() == text
        assert store.to_bytes("runs/a") == text
    store.delete("runs/a")
    assert store.push("runs/a").outcome == "pushed"
    assert not (site.data / "runs" / "a").exists()


def test_sidecars_tell_others(person: Person, site: Site) -> None:
    site.put("a.csv", b"first")
    site.index({"a.csv": {"n": 1}})
    ada, bob = person("ada", metadata="sidecar"), person("bob", metadata="sidecar")
    assert ada.get_metadata("a.csv") == {"n": 1}
    ada.update_metadata("a.csv", {"by": "ada"})
    ada.set("b.csv", StringValue(b"new", {"n": 2}))
    assert sync.push(ada).ok
    assert json.loads((site.data / f"a.csv{SIDECAR}").read_text()) == {"n": 1, "by": "ada"}
    direct = StaticURLStore(site.url, write="put", metadata="sidecar")
    assert direct.get_metadata("a.csv") == {"n": 1, "by": "ada"}
    assert direct.get_metadata("b.csv") == {"n": 2}
    bob.update_metadata("a.csv", {"by": "bob"})
    with pytest.raises(ConflictError):
        bob.push("a.csv")
    ada.delete("b.csv")
    assert sync.push(ada).ok
    assert sorted(each.name for each in site.data.iterdir()) == ["a.csv", f"a.csv{SIDECAR}"]
    with pytest.raises(InvalidKeyError, match="choose another key"):
        ada.set(f"c{SIDECAR}", StringValue(b"", {}))
    direct.disconnect()


def test_metadata_alone_stay_here_where_nothing_keeps_them(person: Person, site: Site) -> None:
    site.put("a.csv", b"first")
    site.index({"a.csv": {"n": 1}})
    store = person("ada")
    store.update_metadata("a.csv", {"mine": True})
    result = store.push("a.csv")
    assert result.outcome == "already there"
    assert "keeps no metadata" in result.message
    assert store.get_metadata("a.csv") == {"n": 1, "mine": True}
    site.index({"a.csv": {"n": 2}})
    store.update_index()
    assert store.get_metadata("a.csv") == {"n": 2}


def test_server_that_takes_nothing_says_so(person: Person, site: Site, tmp_path: Path) -> None:
    site.put("a", b"first")
    site.index()
    backing = StaticURLStore(site.url, poll=0)
    with MountedStore("", DiskCacheStore(tmp_path / "plain", min_free=0), backing) as store:
        store.set("a", StringValue(b"mine", {}))
        with pytest.raises(ReadOnlyStoreError):
            store.push("a")
    store = person("ada")
    store.to_bytes("a")
    store.set("a", StringValue(b"mine", {}))
    site.data.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(site.data, os.W_OK):
        return  # whoever may do anything isn't refused
    result = sync.push(store).results[0]
    assert result.outcome in ("failed", "blocked")
    assert len(list(store.staged())) == 1


def test_a_push_that_upstream_doesnt_compare_is_three_requests(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    for method in ("HEAD", "GET"):
        scripted.on(method, "/index.json", Reply(200, b"{}"))
    scripted.on("HEAD", "/a", Reply(404))
    scripted.on("PUT", "/a", Reply(201))
    scripted.on("GET", "/a", Reply(200, b"mine"))
    backing = StaticURLStore(scripted.url, "", poll=0, write="put")
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        store.set("a", StringValue(b"mine", {}))
        report = sync.push(store)
    assert (report["a"].outcome, report["a"].grade) == ("pushed", "C")
    asked = [each.method for each in scripted.requests if each.path == "/a"]
    assert asked == ["HEAD", "PUT", "GET"]


def test_a_large_value_isnt_read_back_where_upstream_tells_its_digest(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    large = b"x" * (1048576 + 1)
    digest = base64.b64encode(hashlib.sha256(large).digest()).decode()
    for method in ("HEAD", "GET"):
        scripted.on(method, "/index.json", Reply(200, b"{}"))
    told = {"Repr-Digest": f"sha-256=:{digest}:", "Content-Length": str(len(large))}
    scripted.on("HEAD", "/a", Reply(404), Reply(200, headers=told))
    scripted.on("PUT", "/a", Reply(201))
    backing = StaticURLStore(scripted.url, "", poll=0, write="put")
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        store.set("a", StringValue(large, {}))
        assert sync.push(store)["a"].outcome == "pushed"
    asked = [each.method for each in scripted.requests if each.path == "/a"]
    assert asked == ["HEAD", "PUT", "HEAD"]


@pytest.mark.parametrize("status", [403, 405, 409, 500, 507])
def test_refusals_leave_the_edit_staged(
    scripted: ScriptedServer, tmp_path: Path, status: int
) -> None:
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    scripted.on("HEAD", "/index.json", Reply(200, b"{}"))
    for method in ("HEAD", "GET"):
        scripted.on(method, "/data/runs/a", Reply(404))
    scripted.on("PUT", "/data/runs/a", Reply(status, headers={"Retry-After": "0"}))
    scripted.on("MKCOL", "/data/runs/", Reply(405))
    backing = StaticURLStore(scripted.url, poll=0, write="put", retries=1)
    with MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        store.set("runs/a", StringValue(b"mine", {}))
        report = sync.push(store)
        assert report["runs/a"].outcome in ("failed", "blocked")
        assert str(status) in report["runs/a"].message
        assert [edit.key for edit in store.staged()] == ["runs/a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"write": "dav"}, 'write is "put" or nothing'),
        ({"write": "put", "metadata": "here"}, 'metadata is "local" or "sidecar"'),
        ({"write": "put", "query_path": None}, 'say metadata="sidecar"'),
    ],
)
def test_ways_of_writing_that_there_arent(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        StaticURLStore("http://127.0.0.1/", **options)
