"""The listings of web servers as stores: what a page says, the walk, and the store."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mountcache
from mountcache import sync
from mountcache.backing.crawl import Bounds
from mountcache.backing.http import Answer
from mountcache.backing.listing import ListingURLStore
from mountcache.backing.pages import Item, NoListingError, items_of
from mountcache.errors import (
    AuthorizationError,
    ConflictError,
    IndexUnreadableError,
    ReadOnlyStoreError,
    StoreUnavailableError,
)
from mountcache.events import StoreKeyEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.testing.suite import ODD_KEYS
from mountcache.values import StringValue
from tests.servers import (
    CLOSE,
    Apache,
    Nginx,
    Reply,
    ScriptedServer,
    apache,
    chunked,
    nginx,
    scripted,
)

__all__ = ["apache", "nginx", "scripted"]

URL = "http://127.0.0.1/a%20b/"
HTML = {"Content-Type": "text/html", "Content-Length": "1"}
JSON = {"Content-Type": "application/json"}


def html(*names: str, title: str = "Index of /") -> bytes:
    """Return a page as nginx writes it, all files of 5 bytes and one minute."""
    rows = "".join(
        f'<a href="{name}">{name}</a>      25-Nov-2026 22:25   {"-" if name[-1] == "/" else 5}\n'
        for name in names
    )
    return f"<html><head><title>{title}</title></head><pre>{rows}</pre></html>".encode()


def items(page: bytes | str, headers: dict[str, str] = HTML) -> list[Item]:
    body = io.BytesIO(page.encode() if isinstance(page, str) else page)
    return list(items_of(Answer(200, headers, body), URL, "the listing"))


# -- what a page says ----------------------------------------------------------------------

WHEN = "2026-11-25T22:25"


@pytest.mark.parametrize(
    ("row", "item"),
    [
        ('<a href="f">f</a>      25-Nov-2026 22:25      13', Item("f", False, 13, None, WHEN)),
        ('<a href="f">f</a>      25-Nov-2026 22:25    1.2M', Item("f", False, None, "1.2M", WHEN)),
        ('<img src="x"> <a href="f">f</a>  2026-11-25 22:25  973   13 of 2024',
         Item("f", False, 973, None, WHEN)),
        ('<tr><td><a href="f">f</a> </td><td>2026-11-25 22:25  </td><td> 1.2K</td><td>\xa0</tr>',
         Item("f", False, None, "1.2K", WHEN)),
        ('<a href="f"><img></a> <a href="f">f</a>  2026-11-25 22:25:07   0  ',
         Item("f", False, 0, None, f"{WHEN}:07")),
        ('<a href="f">f</a>  2026-11-25 22:25', Item("f", modified=WHEN)),
        ('<td class="n"><a href="f">f</a></td><td>2026-Nov-25 22:25:07</td><td>0.1K</td><td>text',
         Item("f", False, None, "0.1K", f"{WHEN}:07")),
        ('<a href="f">f</a>  25-Foo-2026 22:25  1', Item("f", size=1)),
        ('<a href="f">f</a>  25-11-26 22:25  1', Item("f", size=1)),
        ('<li><a href="f">f</a></li>', Item("f")),
        ('<a href="f">f</a>  tomorrow', Item("f")),
        ('<a href="d/">d/</a>  25-Nov-2026 22:25   -', Item("d", folder=True)),
        ('<a href="./a:b">a:b</a>', Item("a:b")),
        ('<a href="/a%20b/f">f</a>', Item("f")),
        ('<a href="/a%20b/d/">d</a>', Item("d", folder=True)),
        ('<a href="/%61%20b/f">f</a>', Item("f")),
        ('<a href="http://127.0.0.1/a%20b/f">f</a>', Item("f")),
        ('<a href="caf%C3%A9%3F%23">x</a>', Item("caf\xe9?#")),
        ('<a href="x&amp;y">x&amp;y</a>', Item("x&y")),
        ('<a href="%FF">x</a>', Item("\udcff")),
        ("<A HREF='f'>f</A>", Item("f")),
    ],
)  # fmt: skip
def test_row_gives_name_and_what_is_certain_of_it(row: str, item: Item) -> None:
    assert items(f"<title>Index of /</title><pre>{row}\n") == [item]


@pytest.mark.parametrize(
    "href",
    [
        "../", "..", "/", "./", "", "?C=N;O=D", "?C=N&amp;O=D", "#top", "f#part", "f?query",
        "/elsewhere/f", "//127.0.0.2/a%20b/f", "http://127.0.0.1:81/a%20b/f", "d/f", "d/../../f",
        "https://127.0.0.1/a%20b/f", "mailto:ada@example.org", "javascript:void(0)", "a%2Fb",
        "http://[::1/", "/a%20b",
    ],
)  # fmt: skip
def test_link_that_leads_elsewhere_is_no_name(href: str) -> None:
    assert items(f'<h1>Index of /</h1><a href="{href}">f</a>\n<a>no link</a>') == []


def test_name_that_comes_twice_counts_once() -> None:
    page = '<h1>Index of /</h1><a href="f">f</a>  1\n<a href="g">g</a>\n<a href="f">f</a>  2\n'
    assert items(page) == [Item("f", size=1), Item("g")]


@pytest.mark.parametrize(
    "page",
    [
        "<title>Welcome</title><a href='f'>f</a>",
        "<h1>Log in</h1><p>to see the Index of all</p>",
        "<title>Report</title><script>" + "x" * 3_000_000,
        "",
    ],
)
def test_page_for_people_is_no_listing(page: str) -> None:
    with pytest.raises(NoListingError, match="a page of its own"):
        items(page)


def test_links_that_sort_make_a_listing_without_a_title() -> None:
    assert items('<a href="?C=S;O=A">Size</a>\n<a href="f">f</a>\n') == [Item("f")]


def test_page_without_length_has_to_show_its_end() -> None:
    page = html("f", "g")
    assert [each.name for each in items(page, {"Content-Type": "text/html"})] == ["f", "g"]
    with pytest.raises(IndexUnreadableError, match="ends in the middle"):
        items(page.removesuffix(b"</html>"), {"Content-Type": "text/html"})


def test_endless_tag_is_given_up() -> None:
    with pytest.raises(IndexUnreadableError, match="no end"):
        items(b"<h1>Index of /</h1><a href='" + b"x" * 2_000_000)


NGINX = [
    {"name": "d", "type": "directory", "mtime": "Wed, 25 Nov 2026 22:25:08 GMT"},
    {"name": "f", "type": "file", "mtime": "Wed, 25 Nov 2026 22:25:08 GMT", "size": 13},
    {"name": "pipe", "type": "other", "mtime": "Wed, 25 Nov 2026 22:25:08 GMT"},
]


def test_json_gives_seconds_and_sizes() -> None:
    assert items(json.dumps(NGINX), JSON) == [
        Item("d", folder=True), Item("f", False, 13, None, f"{WHEN}:08Z"),
    ]  # fmt: skip
    assert items("[\r\n]", JSON) == []


@pytest.mark.parametrize("text", ['{"a": {}}', '[{"id": 1}]', "[1]", '"text"', ""])
def test_other_json_is_no_listing(text: str) -> None:
    with pytest.raises(NoListingError, match="another JSON document"):
        items(text, JSON)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_json_that_breaks_off_is_no_whole_listing(cut: int) -> None:
    with pytest.raises(IndexUnreadableError):
        items(json.dumps(NGINX)[:-cut], JSON)


def test_other_types_are_no_listings() -> None:
    with pytest.raises(NoListingError, match="text/plain"):
        items("Index of /", {"Content-Type": "text/plain"})


# -- real servers --------------------------------------------------------------------------


def tree(root: Path) -> dict[str, bytes]:
    """Fill a folder with odd names; return what is to be found."""
    kept = {}
    for number, key in enumerate(ODD_KEYS):
        if "name/" in key or key == "a/b" or "/" in key.replace("deep/", "").replace("語/", ""):
            continue
        kept[key] = b"%d" % number
    kept["big"] = b"x" * 5000
    for key, data in kept.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "empty").mkdir()
    return kept


@pytest.fixture
def by_python() -> Iterator[Callable[[Path], str]]:
    running = []

    def serve(root: Path) -> str:
        handler = partial(_Quiet, directory=str(root))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *said: object) -> None:
        """Say nothing."""


SERVERS = {
    "nginx": "autoindex on;",
    "nginx JSON": "autoindex on; autoindex_format json;",
    "nginx, rounded": "autoindex on; autoindex_exact_size off;",
    "Apache": "",
    "Apache, fancy": "IndexOptions FancyIndexing",
    "Apache, table": "IndexOptions FancyIndexing HTMLTable IconsAreLinks",
    "http.server": "",
    "file:": "",
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_file_is_found_and_read(
    server: str,
    nginx: Callable[..., Nginx],
    apache: Callable[..., Apache],
    by_python: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    root = tmp_path / "site"
    kept = tree(root)
    if server.startswith("nginx"):
        url = nginx(root, config=SERVERS[server]).url
        kept = {key: data for key, data in kept.items() if not key.startswith(".")}
    elif server.startswith("Apache"):
        url = apache(root, config=SERVERS[server]).url
    else:
        url = by_python(root) if server == "http.server" else root.as_uri()
    with ListingURLStore(url) as store:
        found = dict(store.query())
        assert found.keys() == kept.keys()
        for key, data in kept.items():
            assert store.to_bytes(key) == data
            assert found[key].get("size", len(data)) == len(data)
        if "rounded" not in server and not server.startswith("Apache") and server != "http.server":
            assert found["big"]["size"] == 5000
        if server == "Apache, fancy":
            assert found["big"]["size_about"] == "4.9K"
        assert ("modified" in found["big"]) == (server not in ("Apache", "http.server"))


# -- the walk ------------------------------------------------------------------------------


def page(server: ScriptedServer, path: str, *names: str) -> None:
    server.on("GET", path, Reply(200, html(*names), {"Content-Type": "text/html"}))


def keys(server: ScriptedServer, **options: Any) -> list[str]:
    with ListingURLStore(server.url, retries=0, **options) as store:
        return sorted(store.query_keys())


def test_folders_are_read_at_once(scripted: ScriptedServer) -> None:
    page(scripted, "/", *(f"{n}/" for n in range(8)))
    together = threading.Barrier(8)
    for n in range(8):
        reply = Reply(200, html("f"), {"Content-Type": "text/html"})
        scripted.on("GET", f"/{n}/", [lambda: together.wait(20), reply])
    assert keys(scripted) == [f"{n}/f" for n in range(8)]


def test_link_back_is_followed_once(scripted: ScriptedServer) -> None:
    page(scripted, "/", "a/", "f")
    page(scripted, "/a/", "up/", "g")
    page(scripted, "/a/up/", "a/", "f")
    assert keys(scripted) == ["a/g", "f"]


def test_depth_is_bounded(scripted: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    for depth in range(6):
        page(scripted, "/" + "d/" * depth, "d/", f"f{depth}")
    assert keys(scripted, bounds=Bounds(depth=2)) == ["d/d/f2", "d/f1", "f0"]
    assert "more than 2 folders deep" in caplog.text


def test_rings_without_files_come_to_an_end(scripted: ScriptedServer) -> None:
    for depth in range(6):
        for path in itertools.product("ab", repeat=depth):
            page(scripted, "/" + "".join(f"{each}/" for each in path), "a/", "b/")
    assert keys(scripted, bounds=Bounds(folders=100)) == []


@pytest.mark.parametrize(
    ("bounds", "said"),
    [(Bounds(keys=3), "more than 3 keys"), (Bounds(folders=3), "more than 3 folders")],
)
def test_too_much_is_an_error_that_says_what_to_do(
    scripted: ScriptedServer, bounds: Bounds, said: str
) -> None:
    page(scripted, "/", *(f"{n}/" for n in range(8)), *(f"f{n}" for n in range(8)))
    for n in range(8):
        page(scripted, f"/{n}/", "f")
    with pytest.raises(IndexUnreadableError, match=f"{said}.*mountcache index"):
        keys(scripted, bounds=bounds)


def test_names_that_are_no_keys_are_left_out(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    page(scripted, "/", "%FF", "%0a", "%2e%2e", "%2e%2e/", "%2e/", "k" * 5000, "good")
    assert keys(scripted) == ["good"]
    assert "6 names in the listing can't be keys" in caplog.text


def test_compressed_pages_are_read(scripted: ScriptedServer) -> None:
    fields = {"Content-Type": "text/html", "Content-Encoding": "gzip"}
    scripted.on("GET", "/", Reply(200, gzip.compress(html("f")), fields))
    assert keys(scripted) == ["f"]


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(404), IndexUnreadableError, "no folder"),
        (Reply(403), AuthorizationError, "403"),
        (Reply(401), AuthorizationError, "401"),
        (Reply(500), StoreUnavailableError, "500"),
        (Reply(200, b"<h1>Log in</h1>", {"Content-Type": "text/html"}), IndexUnreadableError,
         "a page of its own"),
    ],
)  # fmt: skip
def test_root_that_cannot_be_listed_says_so(
    scripted: ScriptedServer, reply: Reply, error: type[Exception], said: str
) -> None:
    scripted.on("GET", "/", reply)
    with pytest.raises(error, match=said):
        keys(scripted)


# -- in a mount ----------------------------------------------------------------------------

Mount = Callable[..., MountedStore]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    opened: list[MountedStore] = []

    def open_(url: str, name: str = "here", **options: Any) -> MountedStore:
        offline = options.pop("offline", "auto")
        backing = ListingURLStore(url, poll=0, retries=0, **options)
        local = DiskCacheStore(tmp_path / name, min_free=0)
        store = MountedStore("", local, backing, offline=offline)
        store.connect()
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.disconnect()


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(500),
        Reply(429, headers={"Retry-After": "100"}),
        CLOSE,
        [chunked(html("f")[:-30], end=False, Content_Type="text/html"), CLOSE],
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9000\r\n\r\n", html("f"),
         CLOSE],
        [b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n", html("f")[:-20], CLOSE],
        Reply(200, b'[{"name": "f", "type": "file"},', {"Content-Type": "application/json"}),
    ],
)  # fmt: skip
def test_walk_that_breaks_off_changes_nothing(
    scripted: ScriptedServer, mount: Mount, trouble: Any
) -> None:
    page(scripted, "/", "a/", "b/", "f")
    page(scripted, "/a/", "f", "g")
    page(scripted, "/b/", "f")
    store = mount(scripted.url)
    before = sorted(store.query_keys())
    assert before == ["a/f", "a/g", "b/f", "f"]
    heard: list[StoreKeyEvent] = []
    store.event_manager.connect(StoreKeyEvent, heard.append)
    page(scripted, "/", "a/", "new")
    scripted.on("GET", "/a/", trouble)
    with pytest.raises((IndexUnreadableError, StoreUnavailableError)):
        store.update_index()
    assert sorted(store.with_options(offline="always").query_keys()) == before
    assert heard == []


@pytest.mark.parametrize(
    "answer",
    [
        Reply(403),
        Reply(401),
        Reply(200, b"<h1>Welcome</h1>", {"Content-Type": "text/html"}),
        Reply(302, headers={"Location": "ftp://127.0.0.1/"}),
    ],
)
def test_folder_that_cannot_be_listed_any_more_keeps_its_keys(
    scripted: ScriptedServer, mount: Mount, answer: Reply
) -> None:
    page(scripted, "/", "a/", "b/", "f")
    page(scripted, "/a/", "f", "deep/")
    page(scripted, "/a/deep/", "f")
    page(scripted, "/b/", "f")
    store = mount(scripted.url)
    alone = ListingURLStore(scripted.url)
    assert sorted(store.query_keys()) == sorted(alone.query_keys())
    scripted.on("GET", "/a/", answer)
    page(scripted, "/", "a/", "g")
    for each in (store, alone):
        each.update_index()
        assert sorted(each.query_keys()) == ["a/deep/f", "a/f", "g"]
    scripted.on("GET", "/a/", Reply(404))
    for each in (store, alone):
        each.update_index()
        assert sorted(each.query_keys()) == ["g"]
    alone.disconnect()


def test_folders_beyond_the_mount_point_are_withheld_too(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    page(scripted, "/", "m/", "other/")
    page(scripted, "/m/", "a/", "f")
    page(scripted, "/m/a/", "f")
    page(scripted, "/other/", "f")
    backing = ListingURLStore(scripted.url, poll=0, retries=0)
    with MountedStore("m/", DiskCacheStore(tmp_path / "here", min_free=0), backing) as store:
        before = ["m/a/f", "m/f", "other/f"]
        assert sorted(store.query_keys()) == before
        for path in ("/m/a/", "/other/", "/m/"):
            scripted.on("GET", path, Reply(403))
            store.update_index()
            assert sorted(store.query_keys()) == before


class Files:
    """A folder that is given by nginx; each file has a time of its own, long ago."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.when = 1_600_000_000
        root.mkdir()

    def put(self, key: str, data: bytes, *, when: float | None = None) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.root.with_name("aside")
        aside.write_bytes(data)
        self.when += 100
        os.utime(aside, (when or self.when,) * 2)
        aside.replace(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "site")


def test_catalog_is_there_offline_and_after_a_restart(
    files: Files, nginx: Callable[..., Nginx], mount: Mount
) -> None:
    files.put("runs/1.csv", b"one")
    files.put("runs/2.csv", b"three")
    server = nginx(files.root, config="autoindex on; autoindex_format json;")
    store = mount(server.url)
    assert store.to_bytes("runs/1.csv") == b"one"
    store.disconnect()
    server.stop()
    store = mount(server.url)
    assert sorted(store.glob("runs/*")) == ["runs/1.csv", "runs/2.csv"]
    assert list(store.query_keys(size=5)) == ["runs/2.csv"]
    assert store.get_metadata("runs/1.csv") == {"modified": "2020-09-13T12:28:20Z", "size": 3}
    assert store.exists("runs/2.csv")
    assert not store.exists("runs/3.csv")
    assert store.to_bytes("runs/1.csv") == b"one"
    with pytest.raises(StoreUnavailableError):
        store.to_bytes("runs/2.csv")


def test_changes_are_announced_and_fetched(
    files: Files, nginx: Callable[..., Nginx], mount: Mount
) -> None:
    for key in ("same", "other", "gone"):
        files.put(key, b"first")
    server = nginx(files.root, config="autoindex on;")
    store = mount(server.url)
    for key in ("same", "other", "gone"):
        assert store.to_bytes(key) == b"first"
    heard: list[StoreKeyEvent] = []
    store.event_manager.connect(StoreKeyEvent, heard.append)
    files.put("other", b"OTHER")  # its size is the same, its time isn't
    files.put("new", b"new")
    (files.root / "gone").unlink()
    store.update_index()
    assert sorted((type(each).__name__, each.key) for each in heard) == [
        ("StoreDeleteEvent", "gone"), ("StoreSetEvent", "new"), ("StoreUpdateEvent", "other"),
    ]  # fmt: skip
    assert store.to_bytes("other") == b"OTHER"
    assert not store.exists("gone")
    asked = server.requests
    for _ in range(2):
        assert store.to_bytes("same") == b"first"
    assert server.requests == asked


def test_copy_of_a_file_just_changed_is_asked_after_again(
    files: Files, nginx: Callable[..., Nginx], mount: Mount
) -> None:
    now = time.time()
    files.put("log", b"first", when=now - 20)
    store = mount(nginx(files.root, config="autoindex on;").url)
    assert store.to_bytes("log") == b"first"
    # Within the minute that the listing shows, and of one size: no poll could tell.
    files.put("log", b"later", when=now - 10)
    assert store.to_bytes("log") == b"later"
    assert store.with_options(offline="always").to_bytes("log") == b"later"


# -- writing -------------------------------------------------------------------------------


@pytest.fixture(params=["nginx", "Apache"])
def dav(
    request: pytest.FixtureRequest,
    files: Files,
    nginx: Callable[..., Nginx],
    apache: Callable[..., Apache],
) -> Nginx | Apache:
    """A server that lists its files and takes PUT."""
    if request.param == "nginx":
        return nginx(files.root, dav=True, config="autoindex on; autoindex_format json;")
    return apache(files.root, dav=True, config="IndexOptions FancyIndexing")


def test_edits_go_up_by_put_and_the_listing_shows_them(
    dav: Nginx | Apache, files: Files, mount: Mount
) -> None:
    for key in ("read", "unread", "gone"):
        files.put(key, b"first")
    store = mount(dav.url, write="put")
    assert store.to_bytes("read") == b"first"
    for key in ("read", "unread", "runs/new/a"):
        store.set(key, StringValue(b"mine", {"by": "me"}))
    store.delete("gone")
    report = sync.push(store)
    assert {each.key: (each.outcome, each.grade) for each in report.results} == dict.fromkeys(
        ("gone", "read", "runs/new/a", "unread"), ("pushed", "C")
    )
    assert not any(each.enforced for each in report.results)
    assert store.get_metadata("read") == {"by": "me"}
    store.update_index()
    for key in ("read", "unread", "runs/new/a"):
        assert (files.root / key).read_bytes() == b"mine"
        assert store.to_bytes(key) == b"mine"
        assert store.get_metadata(key)["size"] == 4
    assert sorted(store.query_keys()) == ["read", "runs/new/a", "unread"]


def test_file_that_others_removed_after_its_push_is_gone(
    dav: Nginx | Apache, files: Files, mount: Mount
) -> None:
    store = mount(dav.url, write="put")
    assert not store.exists("runs/a")
    store.set("runs/a", StringValue(b"mine", {"by": "me"}))
    result = store.push("runs/a")
    assert result.message.startswith("upstream keeps no metadata: yours are seen here until")
    assert store.to_bytes("runs/a") == b"mine"
    assert store.get_metadata("runs/a") == {"by": "me"}
    (files.root / "runs" / "a").unlink()
    store.update_index()
    assert not store.exists("runs/a")
    with pytest.raises(KeyError):
        store.to_bytes("runs/a")


def test_what_others_changed_is_kept(dav: Nginx | Apache, files: Files, mount: Mount) -> None:
    for key in ("read", "unread", "gone"):
        files.put(key, b"first")
    store = mount(dav.url, write="put")
    assert store.to_bytes("read") == b"first"
    assert not store.exists("new")
    store.set("read", StringValue(b"mine"))
    store.set("unread", StringValue(b"mine"))
    store.set("new", StringValue(b"mine"))
    store.delete("gone")
    for key in ("read", "unread", "gone", "new"):
        files.put(key, b"other")
    report = sync.push(store)
    assert [each.outcome for each in report.results] == ["conflict"] * 4
    assert {(files.root / key).read_bytes() for key in ("read", "unread", "gone", "new")} == {
        b"other"
    }
    with pytest.raises(ConflictError):
        store.push("unread")
    assert len(list(store.staged())) == 4


def test_store_that_is_not_told_of_put_can_only_be_read(
    dav: Nginx | Apache, files: Files, mount: Mount
) -> None:
    store = mount(dav.url)
    store.set("a", StringValue(b"mine"))
    with pytest.raises(ReadOnlyStoreError):
        sync.push(store)
    assert [each.key for each in store.staged()] == ["a"]


def test_folder_with_a_page_of_its_own_takes_files_all_the_same(
    dav: Nginx | Apache, files: Files, mount: Mount
) -> None:
    files.put("docs/index.html", b"<h1>Welcome</h1>")
    store = mount(dav.url, write="put")
    assert list(store.query_keys()) == []
    store.set("docs/a", StringValue(b"mine"))
    assert store.push("docs/a").outcome == "pushed"
    assert (files.root / "docs" / "a").read_bytes() == b"mine"
    store.update_index()
    assert store.to_bytes("docs/a") == b"mine"


def test_copy_whose_entry_has_changed_is_what_there_is_offline(
    files: Files, nginx: Callable[..., Nginx], mount: Mount
) -> None:
    files.put("a", b"first")
    server = nginx(files.root, config="autoindex on;")
    store = mount(server.url)
    assert store.to_bytes("a") == b"first"
    files.put("a", b"second")
    store.update_index()
    value = store.with_options(offline="always").get("a")
    with value.data as data:
        assert (data.read(), value.stale, value.metadata["size"]) == (b"first", True, 5)
    server.stop()
    assert store.to_bytes("a") == b"first"
    # From then on it is known that nobody can be asked.
    assert store.get("a").stale


def test_open_takes_the_layout(files: Files, nginx: Callable[..., Nginx], tmp_path: Path) -> None:
    files.put("a b", b"first")
    url = nginx(files.root, config="autoindex on;").url
    with mountcache.open(url=url, layout="listing", dir=tmp_path / "here") as store:
        assert store.to_bytes("a b") == b"first"
        assert type(store.backing_store) is mountcache.ListingURLStore


def test_store_can_be_pickled(files: Files) -> None:
    files.put("a", b"first")
    store = ListingURLStore(files.root.as_uri(), bounds=Bounds(depth=3))
    with pickle.loads(pickle.dumps(store)) as again:
        assert list(again.query_keys()) == ["a"]
        assert again.to_bytes("a") == b"first"
