"""Each fault of a network or server against each kind of push: the edit arrives, or stays staged.

Whatever went wrong, a stranger's change is never overwritten, and pushing again ends it.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.events import StoreModificationEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.faultserver import CLOSE, RESET, Reply, Request, Script, ScriptedServer, Steps
from tests.foreignserver import ForeignServer
from tests.webservers import Nginx

_WRITES = ("PUT", "POST", "DELETE")


class Between(ScriptedServer):
    """Passes requests on to a server, but for the next write, which meets a fault.

    Parameters
    ----------
    url
        The server.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._port = int(url.rstrip("/").rpartition(":")[2])
        self.fault: Callable[[Between, Request], Steps] | None = None

    def script_for(self, request: Request) -> Script:
        fault = self.fault
        if fault is None or request.method not in _WRITES:
            return self.passed_on(request)
        self.fault = None
        steps = fault(self, request)
        return list(steps) if isinstance(steps, Iterator) else steps

    def passed_on(self, request: Request) -> Reply:
        """Return what the server answers."""
        asking = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {name: text for name, text in request.headers.items() if name != "connection"}
        asking.request(request.method, request.path, request.body or None, headers)
        answer = asking.getresponse()
        body = answer.read()
        asking.close()
        left_out = ("transfer-encoding", "connection", "content-length")
        fields = {
            name.title(): text
            for name, text in answer.getheaders()
            if name.lower() not in left_out or request.method == "HEAD"
        }
        return Reply(answer.status, body, fields)


def refused(status: int, **fields: str) -> Callable[[Between, Request], Steps]:
    named = {name.replace("_", "-"): text for name, text in fields.items()}
    return lambda between, request: Reply(status, b"no", {"Mountcache": "1", **named})


def applied(*steps: Any) -> Callable[[Between, Request], Steps]:
    def answer(between: Between, request: Request) -> Steps:
        assert between.passed_on(request).status < 300
        return list(steps)

    return answer


def cut_in_head(between: Between, request: Request) -> Steps:
    return [between.passed_on(request).render(request.method)[:20], CLOSE]


def hints_first(between: Between, request: Request) -> Steps:
    return [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3, between.passed_on(request)]


OURS = {"Mountcache": "1"}
FAULTS: dict[str, Callable[[Between, Request], Steps]] = {
    "request lost": lambda between, request: RESET,
    "reply lost": applied(RESET),
    "reply cut in its head": cut_in_head,
    "412 for one's own write": applied(Reply(412, b"", OURS)),
    "500 after applying": applied(Reply(500, b"", OURS)),
    "503 after applying": applied(Reply(503, b"", OURS)),
    "504 of a gateway after applying": applied(Reply(504, b"<html>")),
    "409 after applying": applied(Reply(409, b"", OURS)),
    "a page after applying": applied(Reply(200, b"<html>", {"Content-Type": "text/html"})),
    **{f"refused with {status}": refused(status) for status in (401, 403, 409, 413, 423, 500, 507)},
    "refused with 412": refused(412),
    "refused with 429": refused(429, Retry_After="0"),
    "a page, not applied": lambda between, request: Reply(
        200, b"<html>log in</html>", {"Content-Type": "text/html"}
    ),
    "a redirect to elsewhere": refused(307, Location="http://192.0.2.1/"),
    "a redirect to itself": lambda between, request: Reply(
        303, headers={**OURS, "Location": request.path}
    ),
    "early hints first": hints_first,
}
# A server that says "done" as ours do is believed: what it shows later is another matter.
BELIEVED = "said to be done, not applied"
SAID = {BELIEVED: refused(204, ETag='"v"')}


@dataclass
class Upstream:
    """A server, and what a stranger sees and does there."""

    url: str
    backing: Callable[[str], Any]
    look: Callable[[str], Any]
    put: Callable[[str, bytes, dict[str, Any]], object]
    writes: list[str] | None = None
    """The keys that were written, in their order, where that is told."""


def of_ours(running: ExitStack, folder: Path) -> Upstream:
    repository = running.enter_context(MemoryStore())
    origin = running.enter_context(Origin(repository))
    writes: list[str] = []

    def look(key: str) -> Any:
        if not repository.exists(key):
            return None
        return repository.to_bytes(key), repository.get_metadata(key)

    repository.set("old", StringValue(b"first", {"n": 1}))
    repository.event_manager.connect(StoreModificationEvent, lambda event: writes.append(event.key))
    return Upstream(
        origin.url,
        lambda url: DynamicURLStore(f"{url}keys", f"{url}query", retries=0),
        look,
        lambda key, data, metadata: repository.set(key, StringValue(data, metadata)),
        writes,
    )


def of_foreign(running: ExitStack, folder: Path) -> Upstream:
    server = running.enter_context(ForeignServer())
    server.put("old", b"first", {"n": 1})
    return Upstream(
        server.url,
        lambda url: DynamicURLStore(f"{url}keys", f"{url}query", retries=0),
        lambda key: (
            (server.keys[key].get("data"), json.loads(server.keys[key].get("metadata", b"{}")))
            if key in server.keys else None
        ),
        server.put,
    )  # fmt: skip


def of_nginx(running: ExitStack, folder: Path) -> Upstream:
    root = folder / "site"
    root.mkdir()

    def put(key: str, data: bytes, metadata: dict[str, Any]) -> None:
        (root / key).write_bytes(data)
        (root / f"{key}.metadata.json").write_text(json.dumps(metadata))

    def look(key: str) -> Any:
        beside = root / f"{key}.metadata.json"
        if not (root / key).exists():
            return None
        return (root / key).read_bytes(), json.loads(
            beside.read_text() if beside.exists() else "{}"
        )

    put("old", b"first", {"n": 1})
    return Upstream(
        running.enter_context(Nginx(root, dav=True)).url,
        lambda url: StaticURLStore(url, "", None, write="put", metadata="sidecar", retries=0),
        look,
        put,
    )


UPSTREAMS = {"ours": of_ours, "a foreign server": of_foreign, "nginx": of_nginx}
EDITS: dict[str, tuple[str, Callable[[MountedStore], object], Any]] = {
    "create": ("new", lambda store: store.set("new", StringValue(b"mine", {"n": 2})),
               (b"mine", {"n": 2})),
    "replace": ("old", lambda store: store.set("old", StringValue(b"mine", {"n": 2})),
                (b"mine", {"n": 2})),
    "delete": ("old", lambda store: store.delete("old"), None),
    "metadata": ("old", lambda store: store.set_metadata("old", {"n": 2}), (b"first", {"n": 2})),
}  # fmt: skip
THEIRS = (b"theirs", {"n": 3})
LEFT_TO_PEOPLE = {
    ("nginx", "delete", "a page, not applied"),
    ("nginx", "delete", BELIEVED),
    ("nginx", "create", "409 after applying"),
    ("a foreign server", "create", "409 after applying"),
    ("nginx", "create", "412 for one's own write"),
    ("a foreign server", "create", "412 for one's own write"),
}
"""Where a server does half of what it was asked, and says of it what isn't so: what it shows then
may be somebody's change, and stays a conflict until a person decides.
"""


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", UPSTREAMS)
def test_edit_arrives_or_stays(tmp_path: Path, kind: str, edit: str) -> None:
    with ExitStack() as running:
        upstream = UPSTREAMS[kind](running, tmp_path)
        between = running.enter_context(Between(upstream.url))
        for number, (name, fault) in enumerate({**FAULTS, **SAID}.items()):
            for stranger in (False, True):
                folder = tmp_path / f"{number} {stranger}"
                check(kind, upstream, between, folder, edit, name, fault, stranger=stranger)


def check(
    kind: str, upstream: Upstream, between: Between, folder: Path, edit: str, name: str,
    fault: Callable[[Between, Request], Steps], *, stranger: bool,
) -> None:  # fmt: skip
    key, make, mine = EDITS[edit]
    if key == "new":
        forget(upstream, folder, key)
    else:
        upstream.put("old", b"first", {"n": 1})
    local = DiskCacheStore(folder, min_free=0, durability="normal")
    with MountedStore("", local, upstream.backing(between.url)) as store:
        before = store.to_bytes("old") if key == "old" else store.exists("new")
        assert before in (b"first", False)
        make(store)
        if upstream.writes is not None:
            upstream.writes.clear()
        between.fault = fault
        (first,) = sync.push(store).results
        assert "\n" not in first.message
        assert between.fault is None, "the fault wasn't met"
        arrived = upstream.look(key) == mine
        if stranger:
            upstream.put(key, *THEIRS)
        if name == BELIEVED and upstream.writes is not None:
            assert first.outcome == "pushed"
            return
        assert arrived or list(store.staged()), (name, first)
        report = sync.push(store)
        if (kind, edit, name) in LEFT_TO_PEOPLE and not stranger:
            assert [each.outcome for each in report.results] == ["conflict"]
        elif not stranger:
            report = report if report.ok else sync.push(store)
            assert (report.ok, list(store.staged())) == (True, []), (name, first, report)
            assert upstream.look(key) == mine, (name, first, report)
            if upstream.writes is not None:
                assert upstream.writes == [key], (name, "written more than once")
        else:
            shown = upstream.look(key)
            kept = edit == "metadata" and shown == (THEIRS[0], {"n": 2})
            assert shown == THEIRS or kept, (name, first, report, shown)


def forget(upstream: Upstream, folder: Path, key: str) -> None:
    """Let a key be absent upstream."""
    with MountedStore("", MemoryStore(), upstream.backing(upstream.url)) as store:
        if store.exists(key):
            store.delete(key)
            assert sync.push(store).ok
