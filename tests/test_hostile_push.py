"""Pushes to servers that refuse half way, lose answers, or aren't the one that was meant."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ChangedWhileReadingError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync.send import Sender
from mountcache.values import StringValue
from tests.servers import ForeignServer, Reply, ScriptedServer, scripted

__all__ = ["scripted"]

OURS = {"Mountcache": "1"}
PAGE = Reply(200, b"<html>log in</html>", {"Content-Type": "text/html"})


def mounted(backing: Any, tmp_path: Path) -> MountedStore:
    return MountedStore("", DiskCacheStore(tmp_path / "here", min_free=0), backing)


def dynamic(url: str, **others: Any) -> DynamicURLStore:
    others = {"timeout": (5, 10), "retries": 0, **others}
    return DynamicURLStore(f"{url}keys", f"{url}query", **others)


def outcomes(report: sync.PushReport) -> dict[str, str]:
    return {each.key: each.outcome for each in report.results}


def staged(store: MountedStore) -> list[str]:
    return sorted(edit.key for edit in store.staged())


# -- refusals --------------------------------------------------------------------------------


def test_expired_login_blocks_the_rest_of_a_push(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.on("HEAD", "/query", Reply(200, headers=OURS))
    scripted.on("PUT", "/keys/a/data", Reply(201, headers={**OURS, "ETag": '"v"'}))
    scripted.on("PUT", "/keys/b/data", Reply(401, headers=OURS))
    with mounted(dynamic(scripted.url), tmp_path) as store:
        for key in "abcd":
            store.set(key, StringValue(b"mine", {}), base=None)
        report = sync.push(store, workers=1)
        assert outcomes(report) == {"a": "pushed", "b": "blocked", "c": "blocked", "d": "blocked"}
        assert "401" in report["d"].message
        assert staged(store) == ["b", "c", "d"]
        assert len(scripted.asked("PUT")) == 2


def test_login_that_is_refused_at_once_is_told_key_by_key(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    scripted.on("HEAD", "/index.json", Reply(401))
    with mounted(StaticURLStore(scripted.url), tmp_path) as store:
        for key in "ab":
            store.set(key, StringValue(b"mine", {}))
        assert outcomes(sync.push(store)) == {"a": "blocked", "b": "blocked"}
        assert staged(store) == ["a", "b"]


@pytest.mark.parametrize("status", [403, 409, 413, 500])
@pytest.mark.parametrize("existing", [False, True])
def test_metadata_refused_after_the_data_is_no_conflict_with_oneself(
    tmp_path: Path, status: int, existing: bool
) -> None:
    with ForeignServer() as server, mounted(dynamic(server.url), tmp_path) as store:
        if existing:
            server.put("a", b"first", {"n": 1})
            store.to_bytes("a")
        store.set("a", StringValue(b"mine", {"n": 2}))
        server.refused = {("PUT", "metadata"): status}
        assert outcomes(sync.push(store))["a"] in ("failed", "blocked")
        assert server.keys["a"]["data"] == b"mine"
        server.refused = {}
        assert sync.push(store).ok
        assert server.metadata("a") == {"n": 2}
        assert staged(store) == []


def test_one_key_that_cant_be_settled_stops_no_other(tmp_path: Path) -> None:
    with ForeignServer() as server, mounted(dynamic(server.url), tmp_path) as store:
        store.set("a", StringValue(b"mine", {"n": 2}))
        server.lost = {("PUT", "metadata")}
        assert outcomes(sync.push(store)) == {"a": "failed"}
        server.lost = set()
        store.set("b", StringValue(b"mine", {"n": 2}))
        server.change("a", "metadata", b"<html>")
        report = sync.push(store)
        assert outcomes(report) == {"a": "failed", "b": "pushed"}
        assert "isn't a JSON object" in report["a"].message
        server.change("a", "metadata", b'{"n": 2}')
        assert outcomes(sync.push(store)) == {"a": "pushed"}
        assert staged(store) == []


def test_push_interrupted_while_it_is_verified_is_settled_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForeignServer() as server, mounted(dynamic(server.url), tmp_path) as store:
        store.set("a", StringValue(b"mine", {"n": 2}))

        def interrupted(*args: Any, **others: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Sender, "_verify", interrupted)
            with pytest.raises(KeyboardInterrupt):
                sync.push(store, workers=1)
        assert server.keys["a"]["data"] == b"mine"
        assert outcomes(sync.push(store)) == {"a": "pushed"}
        assert staged(store) == []


# -- nobody there, or somebody else ----------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """Give the URL of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def test_push_without_answers_waits_for_a_few_keys_only(silent: str, tmp_path: Path) -> None:
    with mounted(dynamic(silent, timeout=(1, 0.3)), tmp_path) as store:
        asked: list[str] = []
        really = store.backing_store.enforces

        def enforces() -> bool:
            asked.append("")
            return really()

        store.backing_store.enforces = enforces
        for number in range(30):
            store.set(f"k{number}", StringValue(b"mine", {}))
        report = sync.push(store, workers=3)
        assert set(outcomes(report).values()) == {"failed"}
        assert all(isinstance(each.error, StoreUnavailableError) for each in report.results)
        assert len(asked) < 10
        assert len(staged(store)) == 30


def test_prefetch_without_answers_waits_for_a_few_keys_only(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    index = b"{%s}" % b", ".join(b'"k%02d": {}' % number for number in range(30))
    scripted.on("GET", "/index.json", Reply(200, index))
    backing = StaticURLStore(scripted.url, retries=0)
    with mounted(backing, tmp_path) as store:
        asked: list[str] = []

        def fetch(key: str) -> Any:
            asked.append(key)
            answered = int(key[1:]) < 10
            raise StoreUnavailableError("no answer", status=503 if answered else 0)

        backing.fetch = fetch
        with pytest.raises(StoreUnavailableError):
            sync.prefetch(store, workers=3)
        # Answers of a server in trouble may be of one key alone.
        assert 13 <= len(asked) < 20


def test_page_of_a_network_isnt_taken_for_our_servers_answer(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.on("HEAD", "/query", Reply(200, headers=OURS))
    scripted.on("HEAD", "/keys/a/data", PAGE)
    for method, path in (("PUT", "data"), ("GET", "data"), ("GET", "metadata")):
        scripted.on(method, f"/keys/a/{path}", PAGE)
    with mounted(dynamic(scripted.url), tmp_path) as store:
        store.set("a", StringValue(b"mine", {"n": 1}))
        for _ in range(2):
            assert outcomes(sync.push(store)) == {"a": "failed"}
            assert store.to_bytes("a") == b"mine"
        scripted.on("HEAD", "/keys/a/data", Reply(404, headers=OURS))
        scripted.on("PUT", "/keys/a/data", Reply(201, headers={**OURS, "ETag": '"v"'}))
        assert outcomes(sync.push(store)) == {"a": "pushed"}


def test_what_a_proxy_says_of_our_server_isnt_what_it_says(scripted: ScriptedServer) -> None:
    scripted.on("HEAD", "/index.json", Reply(200, headers=OURS))
    scripted.on("GET", "/data/page", PAGE)
    with StaticURLStore(scripted.url) as store:
        assert store.enforces()
        for key in ("missing", "page"):
            with pytest.raises(StoreUnavailableError, match="of a proxy or log-in page"):
                store.fetch(key)
        assert store.enforces()


# -- bytes and metadata that belong together -------------------------------------------------


def test_long_metadata_of_two_versions_arent_mixed() -> None:
    with MemoryStore() as repository, Origin(repository) as origin:
        repository.set("a", StringValue(b"1", {"text": "x" * 10_000}))
        with StaticURLStore(origin.url, query_path=None) as store, store.fetch("a") as data:
            assert data.read() == b"1"
            value = store.fetch("a")
            repository.set("a", StringValue(b"2", {"text": "y" * 10_000}))
            with pytest.raises(ChangedWhileReadingError):
                _ = value.metadata


def test_staged_bytes_that_were_damaged_here_never_get_upstream(tmp_path: Path) -> None:
    with (
        MemoryStore() as repository,
        Origin(repository) as origin,
        mounted(dynamic(origin.url), tmp_path) as store,
    ):
        store.set("a", StringValue(os.urandom(100_000), {}))
        (file,) = (
            path for path in (tmp_path / "here").rglob("*") if path.stat().st_size == 100_000
        )
        file.chmod(0o600)
        file.write_bytes(os.urandom(100_000))
        report = sync.push(store)
        assert outcomes(report) == {"a": "failed"}
        assert "promised sha256" in report["a"].message
        assert not repository.exists("a")


# -- policies, kinds of edits, grades --------------------------------------------------------


class Upstream:
    """An upstream of one grade, as a stranger sees and changes it."""

    def __init__(
        self,
        backing: Callable[[], Any],
        put: Callable[[str, bytes, dict[str, Any]], object],
        remove: Callable[[str], object],
        look: Callable[[str], tuple[bytes, dict[str, Any]] | None],
        *,
        metadata: bool = True,
    ) -> None:
        self.backing, self.put, self.remove, self.look = backing, put, remove, look
        self.metadata = metadata


def found(repository: MemoryStore, key: str) -> tuple[bytes, dict[str, Any]] | None:
    if not repository.exists(key):
        return None
    return repository.to_bytes(key), repository.get_metadata(key)


@pytest.fixture(params=["A", "C", "C without tags"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    with ExitStack() as running:
        if request.param == "A":
            repository = running.enter_context(MemoryStore())
            origin = running.enter_context(Origin(repository))
            yield Upstream(
                lambda: dynamic(origin.url),
                lambda key, data, metadata: repository.set(key, StringValue(data, metadata)),
                repository.delete,
                lambda key: found(repository, key),
            )
            return
        tags = request.param == "C"
        server = running.enter_context(ForeignServer(etags=tags, conditions=tags))
        yield Upstream(
            lambda: dynamic(server.url),
            server.put,
            server.remove,
            lambda key: (
                (server.keys[key]["data"], server.metadata(key)) if key in server.keys else None
            ),
        )


EDITS: dict[str, Callable[[MountedStore], object]] = {
    "put": lambda store: store.set("k", StringValue(b"mine", {"n": 1, "by": "me"})),
    "meta": lambda store: store.update_metadata("k", {"by": "me"}),
    "del": lambda store: store.delete("k"),
}
MINE = {
    "put": (b"mine", {"n": 1, "by": "me"}),
    "meta": (b"theirs", {"n": 1, "by": "me"}),
    "del": None,
}
THEIRS = (b"theirs", {"n": 2})


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("called", [False, True])
def test_policies_leave_what_they_say_on_each_side(
    upstream: Upstream, tmp_path: Path, edit: str, called: bool
) -> None:
    for policy in ("fail", "ours", "theirs", "keep-both", "merge-metadata"):
        upstream.put("k", b"first", {"n": 1})
        with MountedStore(
            "", DiskCacheStore(tmp_path / policy, min_free=0), upstream.backing()
        ) as store:
            assert store.to_bytes("k") == b"first"
            EDITS[edit](store)
            upstream.put("k", *THEIRS)
            chosen: Any = (lambda conflict, policy=policy: policy) if called else policy
            result = sync.push(store, on_conflict=chosen).results[0]
            seen = upstream.look("k")
            if policy == "ours":
                assert result.outcome in ("pushed", "already there")
                assert seen == MINE[edit]
                assert staged(store) == []
            elif policy == "theirs" or (policy == "keep-both" and edit == "del"):
                assert seen == THEIRS
                assert staged(store) == []
                assert (store.to_bytes("k"), store.get_metadata("k")) == THEIRS
            elif policy == "keep-both" and edit == "put":
                assert seen == THEIRS
                assert staged(store) == []
                (copy,) = [key for key in store.query_keys() if key != "k"]
                assert upstream.look(copy) == MINE["put"]
                upstream.remove(copy)
            elif policy == "merge-metadata" and edit == "meta":
                assert seen == (b"theirs", {"n": 2, "by": "me"})
                assert staged(store) == []
            else:
                assert result.outcome == "conflict"
                assert seen == THEIRS
                assert staged(store) == ["k"]
                assert store.exists("k") == (edit != "del")
        if upstream.look("k") is not None:
            upstream.remove("k")
