"""The command line, run as a shell runs it, against a real server."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import TIME, Inside, Shell, environment, words
from tests.servers import Reply, ScriptedServer


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        store.set("a.txt", StringValue(b"one\n", {"kind": "text"}))
        store.set("deep/b.txt", StringValue(b"two\n", {"kind": "text", "n": 2}))
        store.set("deep/c.bin", StringValue(bytes(100_000), {"kind": "zeros"}))
        yield store


@pytest.fixture
def origin(repository: DiskCacheStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Shell:
    """A shell in a folder with a mountcache.toml."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    return Inside(folder)


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return Inside(folder)


# -- init ------------------------------------------------------------------------------------


def test_init_finds_the_dynamic_layout_and_says_what_to_type_next(
    bare: Shell, origin: Origin
) -> None:
    ended = bare("init", origin.url)
    assert ended.code == 0, ended.err
    assert "dynamic" in ended.text
    assert "mountcache ls" in ended.text
    assert 'layout = "dynamic"' in (bare.folder / "mountcache.toml").read_text()
    assert bare("ls").text.split() == ["a.txt", "deep/b.txt", "deep/c.bin"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in the static layout."""
    folder = tmp_path / "site"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "k").write_bytes(b"static\n")
    (folder / "index.json").write_text('{"k": {}}')
    return folder


@pytest.fixture
def files_only(site: Path) -> Iterator[str]:
    """A web server that knows nothing but files."""
    with _serving(partial(SimpleHTTPRequestHandler, directory=str(site))) as url:
        yield url


def test_init_finds_the_static_layout(bare: Shell, files_only: str) -> None:
    ended = bare("init", files_only)
    assert ended.code == 0, ended.err
    assert "static" in ended.text
    assert bare("ls").text == "k\n"
    assert bare("cat", "k").out == b"static\n"


def test_init_finds_the_listing_layout(bare: Shell, files_only: str, site: Path) -> None:
    (site / "index.json").unlink()
    ended = bare("init", files_only)
    assert ended.code == 0, ended.err
    assert "the listing layout (its root lists 0 files and 1 folder;" in ended.text
    assert "say --write put" in ended.text
    assert bare("ls").text == "data/k\n"
    assert bare("cat", "data/k").out == b"static\n"


def test_init_says_that_a_server_lists_nothing(bare: Shell) -> None:
    with ScriptedServer() as server:
        server.on("GET", "/", Reply(403))
        ended = bare("init", server.url)
    assert ended.code == 3
    assert "the server doesn't list its folders (403)" in ended.err


def test_init_finds_data_that_lie_beside_their_index(
    bare: Shell, files_only: str, site: Path
) -> None:
    (site / "data" / "k").rename(site / "k")
    assert bare("init", files_only).code == 0
    assert bare("cat", "k").out == b"static\n"


def test_init_says_how_a_plain_server_is_written(bare: Shell, files_only: str) -> None:
    ended = bare("init", files_only, "--write", "put", "--json")
    assert ended.documents[0]["grade"] == "C"
    text = (bare.folder / "mountcache.toml").read_text()
    assert 'write = "put"' in text
    assert 'metadata = "local"' in text
    for wrong, said in (
        (("--metadata", "sidecar"), "goes with --write put"),
        (("--layout", "dynamic", "--write", "put"), "plain web servers"),
        (("--layout", "listing", "--write", "put", "--metadata", "sidecar"), "mountcache index"),
    ):
        (bare.folder / "mountcache.toml").unlink(missing_ok=True)
        ended = bare("init", files_only, *wrong)
        assert ended.code == 3
        assert said in ended.err
        assert not (bare.folder / "mountcache.toml").exists()


def test_init_takes_the_layout_and_the_folder_that_are_told(bare: Shell, site: Path) -> None:
    ended = bare("init", site.as_uri() + "/", "--layout", "static", "--dir", "cache")
    assert ended.code == 0, ended.err
    assert bare("cat", "k").out == b"static\n"
    assert (bare.folder / "cache").is_dir()


def test_push_to_what_can_only_be_read_is_an_error_that_keeps_the_edit(
    bare: Shell, files_only: str
) -> None:
    assert bare("init", files_only).code == 0
    assert bare("put", "k", given=b"mine\n").code == 0
    assert bare("push").code == 3
    assert bare("status").code == 1


def test_init_refuses_to_overwrite(shell: Shell, origin: Origin) -> None:
    before = (shell.folder / "mountcache.toml").read_bytes()
    ended = shell("init", origin.url)
    assert ended.code == 3
    assert "is there already" in ended.err
    assert (shell.folder / "mountcache.toml").read_bytes() == before


def test_init_of_what_is_out_of_reach_says_how_to_go_on(bare: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    ended = bare("init", url)
    assert ended.code == 4
    assert "--layout" in ended.err
    assert not (bare.folder / "mountcache.toml").exists()
    assert bare("init", url, "--layout", "dynamic").code == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "has no scheme"),
        ("data.example.org", "has no scheme"),
        ("http://", "has no scheme"),
        ("ftp://data.example.org/", "only http:, https:, file: can be read"),
        ("http://[::1/", "can't be read as a URL"),
        ("http://127.0.0.1:1/?a=b", "has a query or fragment"),
        ("http://ada:secret@127.0.0.1:1/", "has a user in it"),
    ],
)
def test_init_refuses_a_url_that_cannot_be_one(bare: Shell, url: str, said: str) -> None:
    for args in ((), ("--layout", "dynamic"), ("--layout", "static")):
        ended = bare("init", url, *args)
        assert ended.code == 3
        assert said in ended.err
        assert "secret" not in ended.err
        assert ended.err.count("\n") == 1
    assert not (bare.folder / "mountcache.toml").exists()


class _KeysAlone(BaseHTTPRequestHandler):
    """A server of the dynamic layout whose query answers with keys, one a line."""

    query = b"a\nb\n"
    rest = b"{}"

    def do_GET(self) -> None:
        body = self.query if self.path.startswith("/query") else self.rest
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # http.server calls it so

    def log_message(self, *args: object) -> None:
        pass


class _Page(_KeysAlone):
    """A server that answers everything with a page for people."""

    query = rest = b"<!doctype html>\n<p>Welcome\n"


@contextmanager
def _serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_init_knows_a_server_that_lists_keys_alone(bare: Shell) -> None:
    with _serving(_KeysAlone) as url:
        ended = bare("init", url)
        assert ended.code == 0, ended.err
        assert "dynamic" in ended.text
        assert bare("ls").text.split() == ["a", "b"]


def test_init_takes_no_page_for_a_listing(bare: Shell) -> None:
    with _serving(_Page) as url:
        ended = bare("init", url)
        assert ended.code == 3
        assert "shows no layout" in ended.err
        for layout in ("dynamic: ", "static: ", "listing: ", "--layout"):
            assert layout in ended.err


# -- reading ---------------------------------------------------------------------------------


def test_ls_lists_what_matches(shell: Shell) -> None:
    assert shell("ls", "deep/*").text.split() == ["deep/b.txt", "deep/c.bin"]
    assert shell("ls", "--meta", "kind=text").text.split() == ["a.txt", "deep/b.txt"]
    documents = shell("ls", "deep/b*", "--json").documents
    assert documents == [{"key": "deep/b.txt", "metadata": {"kind": "text", "n": 2}}]


def test_cat_and_get_give_the_bytes(shell: Shell) -> None:
    assert shell("cat", "a.txt").out == b"one\n"
    assert shell("get", "a.txt", "-o", "-").out == b"one\n"
    assert shell("get", "deep/c.bin").code == 0
    assert (shell.folder / "c.bin").read_bytes() == bytes(100_000)
    (shell.folder / "there").mkdir()
    assert shell("get", "deep/c.bin", "-o", "there").code == 0
    assert (shell.folder / "there" / "c.bin").stat().st_size == 100_000
    told = shell("get", "deep/c.bin", "-o", "copy", "--json").documents[0]
    assert told["source"] == "cached"
    assert (shell.folder / "copy").read_bytes() == bytes(100_000)


def test_get_overwrites_no_file_that_was_not_named(shell: Shell) -> None:
    (shell.folder / "a.txt").write_text("mine")
    ended = shell("get", "a.txt")
    assert ended.code == 3
    assert "--force" in ended.err
    assert (shell.folder / "a.txt").read_text() == "mine"
    assert shell("get", "a.txt", "--force").code == 0
    assert (shell.folder / "a.txt").read_text() == "one\n"


def test_key_that_is_not_there_is_an_error(shell: Shell) -> None:
    for verb in ("cat", "get", "rm"):
        ended = shell(verb, "nope")
        assert ended.code == 3
        assert ended.err == "mountcache: no such key: 'nope'; `mountcache ls` lists the keys\n"
    assert not (shell.folder / "nope").exists()


def test_cat_survives_a_reader_that_has_had_enough(shell: Shell, origin: Origin) -> None:
    assert shell("put", "large", given=bytes(3_000_000)).code == 0
    process = shell.start("cat", "large")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10) == bytes(10)
    process.stdout.close()
    assert process.wait(TIME) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_offline_reads_what_is_here_and_says_what_it_cannot_know(
    shell: Shell, origin: Origin
) -> None:
    assert shell("prefetch", "deep/*").code == 0
    assert shell("ls").code == 0
    origin.stop()
    assert shell("cat", "deep/b.txt").out == b"two\n"
    assert shell("ls", "deep/*").text.split() == ["deep/b.txt", "deep/c.bin"]
    ended = shell("cat", "a.txt")
    assert ended.code == 4
    assert ended.err.startswith("mountcache: ")
    assert "Traceback" not in ended.err


def test_prefetch_counts(shell: Shell) -> None:
    first = shell("prefetch", "--json").documents[0]
    assert (first["fetched"], first["already"], first["failed"]) == (3, 0, {})
    second = shell("prefetch", "--json").documents[0]
    assert (second["fetched"], second["already"]) == (0, 3)


def test_closed_standard_streams_are_no_bug(shell: Shell) -> None:
    def closing(redirect: str, *args: str) -> tuple[int, str]:
        ended = subprocess.run(
            ["sh", "-c", f'"$@" {redirect}', "sh", *words(), *args],
            cwd=shell.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIME,
            check=False,
        )
        return ended.returncode, ended.stderr

    assert closing(">&-", "ls") == (0, "")
    assert closing("2>&-", "ls") == (0, "")
    assert closing("<&-", "put", "k") == (
        3,
        "mountcache: standard input is closed; name a FILE\n",
    )
    assert shell("status").code == 0
    assert closing(">/dev/full", "ls")[0] == 3


def test_help_survives_a_reader_that_has_had_enough(shell: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*words(), "--help"],
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=TIME,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


# -- editing and pushing ---------------------------------------------------------------------


def test_put_status_push(shell: Shell, repository: DiskCacheStore) -> None:
    shell = Shell(shell.folder)  # each command a process of its own
    assert shell("status").code == 0
    (shell.folder / "file").write_bytes(b"new\n")
    assert shell("put", "new.txt", "file", "--meta", "by=me", "--meta", "a=b=c").code == 0
    assert shell("put", "a.txt", "-", given=b"changed\n").code == 0
    status = shell("status")
    assert status.code == 1
    assert [line[:1] for line in status.text.splitlines()] == ["A", "M"]
    assert not repository.exists("new.txt")
    assert shell("push").code == 0
    assert repository.to_bytes("new.txt") == b"new\n"
    assert repository.get_metadata("new.txt") == {"by": "me", "a": "b=c"}
    assert repository.to_bytes("a.txt") == b"changed\n"
    assert repository.get_metadata("a.txt") == {"kind": "text"}
    assert shell("status").text == "nothing is staged\n"


def test_put_after_a_read_replaces_what_was_read_not_what_came_since(
    shell: Shell, repository: DiskCacheStore
) -> None:
    shell("cat", "a.txt")
    repository.from_bytes("a.txt", b"theirs\n")
    assert shell("put", "a.txt", "--meta", "by=me", given=b"mine\n").code == 0
    assert shell("push").code == 2
    assert repository.to_bytes("a.txt") == b"theirs\n"


def test_put_offline_of_what_nothing_is_known_only_creates(
    shell: Shell, origin: Origin, repository: DiskCacheStore
) -> None:
    origin.stop()
    assert shell("put", "new.txt", "--meta", "by=me", given=b"new\n").code == 0
    assert shell("put", "a.txt", given=b"mine\n").code == 0
    origin.start()
    assert shell("push").code == 2
    assert repository.to_bytes("new.txt") == b"new\n"
    assert repository.get_metadata("new.txt") == {"by": "me"}
    assert repository.to_bytes("a.txt") == b"one\n"


def test_conflict_is_refused_shown_and_resolved(shell: Shell, repository: DiskCacheStore) -> None:
    shell = Shell(shell.folder)  # each command a process of its own
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"mine\n")
    shell("put", "new.txt", given=b"new\n")
    repository.from_bytes("a.txt", b"theirs\n")
    pushed = shell("push")
    assert pushed.code == 2
    assert "mine (staged by" in pushed.text
    assert "upstream (" in pushed.text
    assert repository.to_bytes("a.txt") == b"theirs\n"
    assert repository.to_bytes("new.txt") == b"new\n"
    status = shell("status", "--json")
    assert status.code == 2
    assert status.documents[0]["conflicts"] == ["a.txt"]
    resolved = shell("push", "a.txt", "--on-conflict", "ours", "--json")
    assert resolved.code == 0
    assert resolved.documents[0]["outcome"] == "pushed"
    assert repository.to_bytes("a.txt") == b"mine\n"


@pytest.mark.parametrize(
    ("policy", "upstream", "keys"),
    [("ours", b"mine\n", 3), ("theirs", b"theirs\n", 3), ("keep-both", b"theirs\n", 4)],
)
def test_policies_resolve_a_conflict(
    shell: Shell, repository: DiskCacheStore, policy: str, upstream: bytes, keys: int
) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"mine\n")
    repository.from_bytes("a.txt", b"theirs\n")
    refused = shell("push", "--json")
    assert refused.code == 2
    sides = refused.documents[0]["conflict"]
    assert (sides["mine"]["size"], sides["upstream"]["size"]) == (5, 7)
    assert shell("push", "--on-conflict", policy).code == 0
    assert repository.to_bytes("a.txt") == upstream
    assert len(list(repository.query_keys())) == keys
    assert shell("push").text == "nothing is staged\n"


def test_metadata_that_both_changed_in_other_names_is_merged(
    shell: Shell, repository: DiskCacheStore
) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", "--meta", "mine=1", given=b"one\n")
    repository.update_metadata("a.txt", {"theirs": "2"})
    assert shell("push").code == 2
    assert shell("push", "--on-conflict", "merge-metadata").code == 0
    assert repository.get_metadata("a.txt") == {"kind": "text", "mine": "1", "theirs": "2"}


def test_rm_is_staged_all_or_none_and_reverted(shell: Shell, repository: DiskCacheStore) -> None:
    assert shell("rm", "a.txt", "nope").code == 3
    assert shell("status").code == 0
    assert shell("rm", "a.txt", "deep/b.txt").code == 0
    assert shell("ls").text.split() == ["deep/c.bin"]
    assert shell("revert", "deep/b.txt").code == 0
    assert shell("push").code == 0
    assert not repository.exists("a.txt")
    assert repository.exists("deep/b.txt")


def test_mv_renames_upstream_at_the_push(shell: Shell, repository: DiskCacheStore) -> None:
    assert shell("mv", "a.txt", "z.txt").code == 0
    assert repository.exists("a.txt")
    assert shell("push").code == 0
    assert not repository.exists("a.txt")
    assert repository.to_bytes("z.txt") == b"one\n"


def test_mv_onto_a_key_that_is_there_is_a_conflict(shell: Shell) -> None:
    assert shell("mv", "a.txt", "deep/b.txt").code == 2


def test_revert_of_half_a_renaming_says_what_else_came_back(shell: Shell) -> None:
    shell("mv", "a.txt", "z.txt")
    ended = shell("revert", "z.txt")
    assert ended.code == 0
    assert "a.txt" in ended.text
    assert shell("status").code == 0


def test_drop_forgets_copies_and_refuses_edits(shell: Shell) -> None:
    shell("cat", "a.txt")
    assert shell("drop", "a.txt").code == 0
    assert shell("drop", "a.txt").code == 3
    shell("put", "a.txt", given=b"x")
    ended = shell("drop", "a.txt")
    assert ended.code == 3
    assert "staged" in ended.err
    assert shell("cat", "a.txt").out == b"x"


def test_push_of_named_keys_leaves_the_others_staged(shell: Shell) -> None:
    shell("put", "p", given=b"p")
    shell("put", "q", given=b"q")
    assert shell("push", "p").code == 0
    assert [edit["key"] for edit in shell("status", "--json").documents[0]["staged"]] == ["q"]
    assert "nothing is staged for it" in shell("push", "p").err
    assert shell("push", "nope").code == 3


def test_push_while_upstream_is_out_of_reach_keeps_all_staged(shell: Shell, origin: Origin) -> None:
    shell("put", "new.txt", given=b"new\n")
    origin.stop()
    assert shell("push").code == 4
    assert shell("status").code == 1
    origin.start()
    assert shell("push").code == 0


def test_json_is_a_document_a_line(bare: Shell, origin: Origin) -> None:
    init = bare("init", origin.url, "--mount-point", "deep/", "--json").documents
    assert init[0]["layout"] == "dynamic"
    assert init[0]["mount_point"] == "deep/"
    key = "deep/b.txt"
    assert bare("get", key, "-o", "copy", "--json").documents[0]["file"] == "copy"
    assert bare("drop", key, "--json").documents == [{"key": key, "dropped": True}]
    put = bare("put", key, "copy", "--meta-json", '{"n": [1]}', "--json").documents
    assert put == [{"key": key, "staged": True, "size": 4}]
    moved = {"old": "deep/c.bin", "new": "deep/d.bin"}
    assert bare("mv", *moved.values(), "--json").documents == [moved]
    reverted = bare("revert", "deep/d.bin", key, "--json").documents
    assert {each["key"]: each["asked"] for each in reverted} == {
        "deep/d.bin": True,
        "deep/c.bin": False,
        key: True,
    }
    assert bare("rm", key, "--json").documents == [{"key": key, "deleted": True}]
    assert [each["outcome"] for each in bare("push", "--json").documents] == ["pushed"]


def test_key_outside_the_mount_point_can_be_read_only(bare: Shell, origin: Origin) -> None:
    bare("init", origin.url, "--mount-point", "deep/")
    assert bare("cat", "a.txt").out == b"one\n"
    for args in (("put", "a.txt"), ("rm", "a.txt"), ("put", "deep/")):
        ended = bare(*args, given=b"x")
        assert ended.code == 3, args
        assert "deep/" in ended.err
        assert ended.err.count("\n") == 1


def test_many_deletes_are_refused_with_one_explanation(
    shell: Shell, repository: DiskCacheStore
) -> None:
    keys = [f"many/{number}" for number in range(11)]
    for key in keys:
        repository.set(key, StringValue(b""))
    shell("ls")
    assert shell("rm", *keys).code == 0
    refused = shell("push")
    assert refused.code == 3
    assert refused.text.count("refused: ") == 11
    assert refused.text.count("--max-delete 11") == 1
    assert shell("push", "--max-delete", "11").code == 0
    assert list(repository.glob("many/*")) == []


def test_author_is_named_by_the_environment(shell: Shell) -> None:
    shell("put", "k", given=b"x", MOUNTCACHE_AUTHOR="ada")
    assert shell("status", "--json").documents[0]["staged"][0]["author"] == "ada"


def test_offline_by_environment_asks_nobody(shell: Shell) -> None:
    ended = shell("cat", "a.txt", MOUNTCACHE_OFFLINE="1")
    assert ended.code == 4


# -- exit codes and errors -------------------------------------------------------------------


def test_wrong_command_lines_are_64(shell: Shell) -> None:
    bare_words = shell()
    assert bare_words.code == 64
    assert "Publish:" in bare_words.err
    for args in (
        ("bogus",),
        ("put",),
        ("ls", "--nope"),
        ("push", "--on-conflict", "win"),
        ("put", "k", "--meta", "nothing"),
        ("put", "k", "--meta-json", "[1]"),
        ("put", "k", "--meta-json", "[" * 100_000),
        ("get", "a.txt", "-o", "-", "--json"),
        ("serve", "--store", "x", "--port", "70000"),
    ):
        ended = shell(*args)
        assert ended.code == 64, (args, ended.err)
        assert ended.err.startswith("mountcache: ")
        assert ended.err.count("\n") == 1


def test_configuration_that_cannot_be_used_is_one_clear_sentence(shell: Shell, bare: Shell) -> None:
    assert "mountcache init URL" in bare("ls").err
    path = shell.folder / "mountcache.toml"
    path.write_text('url = "http://127.0.0.1:1/"\nmax-age = 3\n')
    ended = shell("ls")
    assert ended.code == 3
    assert ended.err == f"mountcache: {path}: unknown key 'max-age'; did you mean 'max_age'?\n"
    missing = shell("--config", "nowhere.toml", "ls")
    assert missing.code == 3
    assert "nowhere.toml" in missing.err


def test_nearest_configuration_upwards_is_used_and_can_be_named(shell: Shell, bare: Shell) -> None:
    below = shell.folder / "one" / "two"
    below.mkdir(parents=True)
    assert Shell(below)("cat", "a.txt").out == b"one\n"
    assert not (below / ".mountcache").exists()
    named = str(shell.folder / "mountcache.toml")
    assert bare("--config", named, "cat", "a.txt").out == b"one\n"
    assert bare("cat", "a.txt", "--config", named).out == b"one\n"


def test_bad_keys_are_refused_in_one_sentence(shell: Shell) -> None:
    for key in ("", "a/../b", "a//b", "a\nb", "x" * 5000):
        ended = shell("put", key, given=b"x")
        assert ended.code == 3, (key, ended.err)
        assert ended.err.startswith("mountcache: ")
        assert ended.err.count("\n") == 1
    assert shell("status").code == 0


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ('{"a": NaN}', "metadata['a'] is nan"),
        ('{"a": 99999999999999999999}', "64 bits"),
        ('{"a": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_metadata_is_refused_in_one_sentence(shell: Shell, meta: str, said: str) -> None:
    ended = shell("put", "k", "--meta-json", meta, given=b"x")
    assert ended.code == 3
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert shell("status").code == 0


def test_bad_directories_are_named_in_one_sentence(shell: Shell) -> None:
    here = shell.folder / ".mountcache"
    here.write_text("a file")
    ended = shell("ls")
    assert ended.code == 3
    assert str(here) in ended.err
    assert ended.err.count("\n") == 1
    here.unlink()
    assert shell("ls").code == 0
    (shell.folder / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    other = shell("ls")
    assert other.code == 3
    assert "belongs to upstream" in other.err


def test_folder_that_is_not_there_is_named(shell: Shell) -> None:
    ended = shell("get", "a.txt", "-o", "no/such/file")
    assert ended.code == 3
    assert "no folder 'no/such'" in ended.err


def test_key_named_twice_counts_once(shell: Shell) -> None:
    assert shell("rm", "a.txt", "a.txt").text == "deleted a.txt\n"
    assert shell("revert", "a.txt", "a.txt").text == "reverted a.txt\n"
    assert shell("cat", "a.txt").code == 0
    assert shell("drop", "a.txt", "a.txt").text == "dropped a.txt\n"


def test_missing_file_is_an_error_that_stages_nothing(shell: Shell) -> None:
    ended = shell("put", "k", "no-such-file")
    assert ended.code == 3
    assert "no-such-file" in ended.err
    assert shell("status").code == 0


def test_bug_of_ours_is_70(shell: Shell) -> None:
    shell = Shell(shell.folder)
    (shell.folder / "sitecustomize.py").write_text(
        "import mountcache.sync.status\n"
        "def broken(*_, **__):\n    raise AssertionError('impossible')\n"
        "import mountcache.sync\n"
        "mountcache.sync.status = broken\n"
    )
    path = os.pathsep.join(filter(None, (str(shell.folder), environment().get("PYTHONPATH"))))
    ended = shell("status", PYTHONPATH=path)
    assert ended.code == 70
    assert "a bug of mountcache" in ended.err
    assert "impossible" in ended.err
    assert "Traceback" not in ended.err
    traced = shell("status", PYTHONPATH=path, MOUNTCACHE_TRACEBACK="1")
    assert "Traceback" in traced.err
    assert traced.code == 70


def test_interrupted_is_130(shell: Shell) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(
        [*words(), "put", "k"],
        cwd=shell.folder,
        env=environment(),
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(reading)
        # Once it has read what the pipe held, it is in the middle of its work.
        block = bytes(65536)
        for _ in range(64):
            os.write(writing, block)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIME)
        os.close(writing)
    assert process.returncode == 130
    assert err == b"mountcache: interrupted\n"
    assert shell("status").code == 0


def test_exit_codes_are_in_the_help_and_in_the_documents(shell: Shell) -> None:
    from mountcache.cli.codes import TABLE
    from tests.command import ROOT

    helped = shell("--help").text
    documented = (ROOT / "docs" / "cli.md").read_text()
    for code, meaning in TABLE:
        assert f"{code:3d}  {meaning}" in helped
        assert f"| {int(code)} | " in documented


def test_every_command_has_help(shell: Shell) -> None:
    from mountcache.cli.app import app

    helped = shell("--help").text
    for name, command in app.commands.items():
        assert command.help
        assert name in helped
        assert shell(name, "--help").code == 0


# -- terminals and pipes ---------------------------------------------------------------------


def _on_terminal(shell: Shell, *args: str, **env: str) -> tuple[int, str]:
    """Run the command on a terminal; return its exit code and all that it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*words(), *args],
        cwd=shell.folder,
        env=environment(TERM="xterm-256color", **env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(TIME), shown.decode()


def test_colours_are_for_terminals_that_want_them(shell: Shell) -> None:
    shell("put", "k", given=b"x")
    assert "\x1b[" not in shell("status").text
    code, shown = _on_terminal(shell, "status")
    assert code == 1
    assert "\x1b[32mA" in shown
    _, plain = _on_terminal(shell, "status", NO_COLOR="1")
    assert "\x1b[" not in plain


def test_put_on_a_terminal_waits_for_nothing_that_was_not_asked_for(shell: Shell) -> None:
    (shell.folder / "a.csv").write_text("a")
    code, shown = _on_terminal(shell, "put", "a.csv")
    assert code == 64
    assert "`mountcache put a.csv a.csv` stages a file" in shown


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_pipe(shell: Shell) -> None:
    assert shell("put", "many/00", given=b"x").code == 0
    piped = shell("prefetch")
    assert "\x1b" not in piped.text + piped.err
    code, shown = _on_terminal(shell, "push")
    assert code == 0
    assert "many/00\r\n" in shown
    assert "\x1b[" in shown


def test_metadata_and_messages_send_no_commands_to_the_terminal(
    shell: Shell, repository: DiskCacheStore
) -> None:
    metadata = {"title": "\x1b[2Jgone\x9b2J\u2028"}
    repository.set_metadata("a.txt", metadata)
    for shown in (shell("ls", "-l", "a.txt").text, shell("ls", "--json", "a.txt").text):
        assert not set("\x1b\x9b\u2028") & set(shown)
    assert shell("ls", "--json", "a.txt").documents[0]["metadata"] == metadata


# -- serve -----------------------------------------------------------------------------------


def test_serve_is_a_remote_repository(bare: Shell, tmp_path: Path) -> None:
    process = bare.start("serve", "--store", str(tmp_path / "team"), "--port", "0", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        assert bare("init", url).code == 0
        assert bare("put", "k", given=b"shared").code == 0
        assert bare("push").code == 0
        assert bare("drop", "k").code == 0
        assert bare("cat", "k").out == b"shared"
    finally:
        process.terminate()
        assert process.wait(TIME) == 0
        process.stdout.close()
        process.stderr.close()


def test_serve_on_a_taken_port_is_an_error(bare: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = bare("serve", "--store", str(tmp_path / "team"), "--port", port)
    assert ended.code == 3
    assert port in ended.err
