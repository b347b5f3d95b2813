"""Which conditional writes a server enforces is tried, read back, remembered, and used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, product
from pathlib import Path
from typing import Any, Self

import pytest

from mountcache import sync
from mountcache.abc import Enforced
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConfigurationError, ReadOnlyStoreError, StoreError, UpstreamError
from mountcache.events import StoreModificationEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync.probing import SCRATCH
from mountcache.values import StringValue
from tests.command import ROOT
from tests.faultserver import PATIENCE
from tests.servers import (
    Apache,
    ByRequest,
    Nginx,
    Reply,
    ScriptedServer,
    apache,
    nginx,
    scripted,
)

__all__ = ["apache", "nginx", "scripted"]

ALL = Enforced(create=True, replace=True, delete=True)
NONE = Enforced()
_when = count(1_600_000_000)


def put(root: Path, key: str, data: bytes) -> None:
    """Write a file that is old enough for its entity tag to be strong."""
    path = root / "data" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    when = next(_when)
    os.utime(path, (when, when))


def site(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    (root / "index.json").write_text("{}")
    return root


def mounted(url: str, here: Path, point: str = "", **options: Any) -> MountedStore:
    backing = StaticURLStore(url, poll=0, write="put")
    return MountedStore(point, DiskCacheStore(here, min_free=0), backing, **options)


def files(root: Path) -> set[str]:
    return {
        path.relative_to(root / "data").as_posix()
        for path in (root / "data").rglob("*")
        if path.is_file()
    }


class Careful:
    """A plain web server of files in memory, which obeys the conditions that it is told to obey.

    Parameters
    ----------
    obeys
        Of "create", "replace" and "delete", the writes whose conditions it heeds.
    lies
        "refuses, but writes": it answers 412 and does it all the same. "takes, but doesn't": it
        answers well and does nothing. "refuses all": what has a condition is answered 412.
    removes
        Whether it takes DELETE.
    """

    def __init__(self, obeys: str = "", *, lies: str = "", removes: bool = True) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.software = "careful/1"
        self.before: Callable[[str, str], None] = lambda method, path: None
        self._obeys, self._lies, self._removes = obeys.split(), lies, removes
        self._made = count(1)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE
            wbufsize = -1

            def log_message(self, *said: object) -> None:
                """Say nothing."""

            def version_string(self) -> str:
                return outer.software

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                outer.before(self.command, self.path)
                status, data, tag = outer.answer(self.command, self.path, self.headers, body)
                outer.asked.append((self.command, self.path, status))
                self.send_response(status)
                if tag:
                    self.send_header("ETag", tag)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_PUT = do_DELETE = do_MKCOL = do_GET  # noqa: N815 - as the base class

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def put(self, key: str, data: bytes) -> None:
        self.files[f"/data/{key}"] = (data, f'"{next(self._made)}"')

    def get(self, key: str) -> bytes | None:
        return self.files.get(f"/data/{key}", (None,))[0]

    def answer(
        self, method: str, path: str, headers: Message, body: bytes
    ) -> tuple[int, bytes, str]:
        if path == "/index.json":
            index = {name.removeprefix("/data/"): {} for name in self.files}
            return 200, json.dumps(index).encode(), ""
        data, tag = self.files.get(path, (b"", ""))
        if method in ("GET", "HEAD"):
            return (200, data, tag) if tag else (404, b"", "")
        if method == "MKCOL" or (method == "DELETE" and not self._removes):
            return 405, b"", ""
        wanted, bound = headers.get("If-Match"), "If-None-Match" in headers
        kind = "delete" if method == "DELETE" else "create" if bound else "replace"
        fails = (bound and tag != "") or (wanted is not None and wanted != tag)
        refused = fails and kind in self._obeys
        if self._lies == "refuses all":
            refused = bound or wanted is not None
        if fails and self._lies == "takes, but doesn't":
            return 204, b"", ""
        if refused and self._lies != "refuses, but writes":
            return 412, b"", ""
        if method == "DELETE":
            there = self.files.pop(path, None)
            return 412 if refused else 204 if there else 404, b"", ""
        self.files[path] = (body, f'"{next(self._made)}"')
        return 412 if refused else 201, b"", ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_each_condition_is_found_out_by_itself(tmp_path: Path) -> None:
    names = ("create", "replace", "delete")
    for wanted in product((False, True), repeat=3):
        obeys = " ".join(name for name, yes in zip(names, wanted, strict=True) if yes)
        with Careful(obeys) as server, mounted(server.url, tmp_path / f"here {obeys}") as store:
            found = sync.probe(store)
            assert found.enforced == Enforced(*wanted)
            assert found.grade == "C"
            assert not server.files


@pytest.mark.parametrize("lies", ["refuses, but writes", "takes, but doesn't", "refuses all"])
def test_server_that_lies_enforces_nothing(tmp_path: Path, lies: str) -> None:
    with (
        Careful("create replace delete", lies=lies) as server,
        mounted(server.url, tmp_path / "here") as store,
    ):
        found = sync.probe(store)
        assert found.enforced in (NONE, Enforced(delete=True))
        # A server that refuses whatever has a condition keeps a key from being deleted, too.
        assert found.enforced == NONE or lies == "refuses all"
        assert not server.files


def test_nginx_is_seen_to_ignore_and_apache_to_enforce(
    nginx: Callable[..., Nginx], apache: Callable[..., Apache], tmp_path: Path
) -> None:
    folder = site(tmp_path / "nginx")
    server = nginx(folder, dav=True)
    with mounted(server.url, tmp_path / "of nginx") as store:
        assert sync.grading(store).enforced is None
        assert sync.probe(store).enforced == NONE
        assert "was seen to ignore" in sync.grading(store).why
    assert files(folder) == set()
    folder = site(tmp_path / "apache")
    other = apache(folder, dav=True)
    with mounted(other.url, tmp_path / "of apache", "runs/") as store:
        assert sync.probe(store).enforced == ALL
    assert files(folder) == set()
    with mounted(other.url, tmp_path / "of apache", "runs/") as store:  # another process, a day on
        found = sync.grading(store)
        assert (found.grade, found.enforced) == ("C", ALL)
        assert "perhaps not as one step" in found.why
        assert found.probed is not None


def test_enforcing_server_gets_one_request_where_it_got_a_look_before(
    apache: Callable[..., Apache], tmp_path: Path
) -> None:
    folder = site(tmp_path / "site")
    for name in ("old", "gone", "theirs", "gone too"):
        put(folder, name, b"first")
    (folder / "index.json").write_text(json.dumps({key: {} for key in files(folder)}))
    with mounted(apache(folder, dav=True).url, tmp_path / "here") as store:
        sync.probe(store)
        for name in ("old", "theirs"):
            assert store.to_bytes(name) == b"first"
            store.set(name, StringValue(b"mine", {}))
        for name in ("gone", "gone too"):
            assert store.to_bytes(name) == b"first"
            store.delete(name)
        store.set("new", StringValue(b"mine", {}))
        store.set("new too", StringValue(b"mine", {}))
        for name in ("theirs", "gone too", "new too"):
            put(folder, name, b"their own")
        report = sync.push(store)
    said = {each.key: (each.outcome, each.grade, each.enforced) for each in report.results}
    assert said == {
        "old": ("pushed", "C", True), "gone": ("pushed", "C", True), "new": ("pushed", "C", True),
        "theirs": ("conflict", None, False), "gone too": ("conflict", None, False),
        "new too": ("conflict", None, False),
    }  # fmt: skip
    assert all(each.verified and each.race for each in report.results if each.outcome == "pushed")
    assert {name: (folder / "data" / name).read_bytes() for name in files(folder)} == {
        "old": b"mine", "new": b"mine", "theirs": b"their own", "gone too": b"their own",
        "new too": b"their own",
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["create", "replace", "delete"])
def test_only_what_is_enforced_is_sent_without_a_look(tmp_path: Path, verb: str) -> None:
    with Careful(verb) as server, mounted(server.url, tmp_path / "here") as store:
        sync.probe(store)
        for name in ("replace", "delete"):
            server.put(name, b"first")
        store.update_index()
        for name in ("replace", "delete"):
            assert store.to_bytes(name) == b"first"
        store.set("create", StringValue(b"mine", {}))
        store.set("replace", StringValue(b"mine", {}))
        store.delete("delete")
        server.asked.clear()
        report = sync.push(store, workers=1)
        assert [each.outcome for each in report.results] == ["pushed"] * 3
        assert {each.key for each in report.results if each.enforced} == {verb}
        for name in ("create", "replace", "delete"):
            asked = [method for method, path, _ in server.asked if path == f"/data/{name}"]
            write = "DELETE" if name == "delete" else "PUT"
            assert (asked[0] == write) == (name == verb), asked


def test_write_in_the_middle_of_the_old_race_is_a_conflict(tmp_path: Path) -> None:
    """Somebody writes just before our request arrives: only the server can tell."""
    for obeys, outcome, left in (("", "pushed", b"mine"), ("replace", "conflict", b"theirs")):
        with Careful(obeys) as server, mounted(server.url, tmp_path / f"here{obeys}") as store:
            sync.probe(store)
            server.put("a", b"first")
            assert store.to_bytes("a") == b"first"
            store.set("a", StringValue(b"mine", {}))

            def meanwhile(method: str, path: str, server: Careful = server) -> None:
                if method == "PUT":
                    server.before = lambda method, path: None
                    server.put("a", b"theirs")

            server.before = meanwhile
            assert sync.push(store)["a"].outcome == outcome
            assert server.get("a") == left


def test_blind_push_isnt_blind_where_the_server_compares(tmp_path: Path) -> None:
    with Careful("create") as server, mounted(server.url, tmp_path / "here") as store:
        sync.probe(store)
        store.set("a", StringValue(b"mine", {}))
        server.put("a", b"theirs")
        assert sync.push(store, allow_blind=True)["a"].outcome == "conflict"
        assert server.get("a") == b"theirs"
        assert server.get("b") is None
        store.set("b", StringValue(b"mine", {}))
        result = sync.push(store, ["b"], allow_blind=True)["b"]
        assert (result.grade, result.enforced, result.verified) == ("C", True, True)


def test_what_was_found_is_of_one_upstream(tmp_path: Path) -> None:
    with Careful("create") as one, Careful() as other:
        with mounted(one.url, tmp_path / "here") as store:
            sync.probe(store)
        moved = mounted(other.url, tmp_path / "here")
        with moved.mount_store:
            assert isinstance(moved.backing_store, StaticURLStore)
            moved.rebind(moved.backing_store.identity)
        with moved as store:
            assert sync.grading(store).enforced is None


def test_what_was_found_isnt_believed_of_another_server(tmp_path: Path) -> None:
    """The same URL, and other software behind it, which ignores what the first one enforced."""
    with Careful("create") as server:
        with mounted(server.url, tmp_path / "here") as store:
            assert sync.probe(store).enforced == Enforced(create=True)
        server.software, server._obeys = "careless/2", []
        with mounted(server.url, tmp_path / "here") as store:
            assert sync.grading(store).enforced is None
        with mounted(server.url, tmp_path / "here") as store:
            store.set("a", StringValue(b"mine", {}))
            server.put("a", b"theirs")
            assert sync.push(store)["a"].outcome == "conflict"
            assert server.get("a") == b"theirs"
            assert sync.probe(store).enforced == NONE


def test_push_probes_once_where_it_was_allowed_to(tmp_path: Path) -> None:
    with Careful("create") as server:
        for probe in (False, True):
            here = tmp_path / f"here {probe}"
            with mounted(server.url, here, probe=probe) as store:
                store.set("a", StringValue(b"mine", {}))
                assert sync.push(store)["a"].enforced is probe
                assert any(SCRATCH in path for _, path, _ in server.asked) is probe
                server.asked.clear()
                server.files.pop("/data/a")
                store.set("b", StringValue(b"mine", {}))
                assert sync.push(store)["b"].enforced is probe
                assert not any(SCRATCH in path for _, path, _ in server.asked)
                server.files.pop("/data/b")


def test_probe_that_fails_keeps_no_push_from_its_work(tmp_path: Path) -> None:
    with (
        Careful("create", removes=False) as server,
        mounted(server.url, tmp_path / "here", probe=True) as store,
    ):
        for name in ("a", "b"):
            store.set(name, StringValue(b"mine", {}))
            result = sync.push(store)[name]
            assert (result.outcome, result.enforced) == ("pushed", False)
        with pytest.raises(UpstreamError, match="405"):
            sync.probe(store)
        # One scratch key that can't be removed is enough.
        assert len([path for path in server.files if SCRATCH in path]) == 1


def test_scratch_key_of_a_killed_probe_is_removed_by_the_next(tmp_path: Path) -> None:
    with Careful("create") as server:
        here = tmp_path / "here"
        with mounted(server.url, here):
            pass
        script = (
            "import os, sys, mountcache.backing.probing as room\n"
            "from tests.test_probing import mounted\n"
            "from pathlib import Path\n"
            "from mountcache import sync\n"
            "room.Probe._refuses = lambda *all: os.kill(os.getpid(), 9)\n"
            "sync.probe(mounted(sys.argv[1], Path(sys.argv[2])).__enter__())\n"
        )
        command = [sys.executable, "-c", script, server.url, str(here)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
        assert any(SCRATCH in path for path in server.files)
        with mounted(server.url, here) as store:
            assert sync.grading(store).enforced is None
            assert sync.probe(store).enforced == Enforced(create=True)
        assert not server.files


def test_own_server_is_asked_and_not_written_to(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "origin") as repository, Origin(repository) as origin:
        heard: list[object] = []
        repository.event_manager.connect(StoreModificationEvent, heard.append)
        with mounted(origin.url, tmp_path / "here", probe=True) as store:
            assert sync.probe(store).grade == "A"
            assert not heard
            store.set("a", StringValue(b"mine", {}))
            assert sync.push(store)["a"].grade == "A"


def test_server_that_cant_be_written_is_not_probed(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    backing = StaticURLStore(scripted.url)
    with MountedStore("", DiskCacheStore(tmp_path / "here"), backing) as store:
        assert sync.grading(store).grade is None
        with pytest.raises(ReadOnlyStoreError):
            sync.probe(store)
    sidecars = StaticURLStore(scripted.url, write="put", metadata="sidecar")
    with (
        MountedStore("", DiskCacheStore(tmp_path / "there"), sidecars) as store,
        pytest.raises(ConfigurationError, match="two files"),
    ):
        sync.probe(store)
    assert not [each for each in scripted.requests if each.method in ("PUT", "DELETE")]


@pytest.mark.parametrize("status", [401, 403, 405, 500])
def test_refused_probe_is_not_remembered(
    scripted: ScriptedServer, tmp_path: Path, status: int
) -> None:
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    refused = ByRequest(lambda request: Reply(404 if request.method in ("GET", "HEAD") else status))
    scripted.script_for = lambda request: (  # type: ignore[method-assign]
        Reply(200, b"{}") if request.path == "/index.json" else refused
    )
    with mounted(scripted.url, tmp_path / "here") as store:
        with pytest.raises(StoreError, match=str(status)):
            sync.probe(store)
        assert sync.grading(store).enforced is None
