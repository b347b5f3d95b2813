"""How the command line names keys, folders and metadata, and what it says next."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mountcache
from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import Ended, Inside
from tests.servers import Nginx


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        store.set("a.txt", StringValue(b"one\n", {"kind": "text"}))
        store.set("runs/1.csv", StringValue(b"1\n", {"kind": "run", "n": 1, "tags": ["x"]}))
        store.set("runs/2.csv", StringValue(b"2\n", {"kind": "run", "n": 2}))
        yield store


@pytest.fixture
def origin(repository: DiskCacheStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    """A shell in a folder with a mountcache.toml."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\nauthor = "ada"\n')
    return Inside(folder)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Nginx]:
    """nginx with data/ and an index.json."""
    root = tmp_path / "site"
    (root / "data").mkdir(parents=True)
    (root / "data" / "k").write_bytes(b"static\n")
    (root / "index.json").write_text('{"k": {"n": 1}}')
    server = Nginx(root).start()
    yield server
    server.stop()


def _one_sentence(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended
    assert ended.err.startswith("mountcache: ")
    assert ended.err.count("\n") == 1, ended.err
    for each in said:
        assert each in ended.err, ended.err


# -- keys and patterns -----------------------------------------------------------------------


def test_one_rule_for_patterns_in_every_command(shell: Inside) -> None:
    assert shell("ls", "runs/*").text.split() == ["runs/1.csv", "runs/2.csv"]
    assert shell("ls", "runs/[!1].csv").text.split() == ["runs/2.csv"]
    assert shell("query", "--pattern", "*.txt").text.split() == ["a.txt"]
    assert shell("prefetch", "runs/?.csv", "--json").documents[0]["fetched"] == 2
    assert shell("get", "runs/*", "-o", "out").code == 0
    assert (shell.folder / "out" / "runs" / "2.csv").read_bytes() == b"2\n"
    assert shell("drop", "*1.csv").text == "dropped runs/1.csv\n"
    assert shell("rm", "runs/*").text == "deleted runs/1.csv\ndeleted runs/2.csv\n"
    # Patterns of these two are about what is staged, deletes among it.
    assert shell("revert", "*/1*").text == "reverted runs/1.csv\n"
    assert shell("push", "r*").text == "pushed: runs/2.csv\n"
    assert shell("ls").text.split() == ["a.txt", "runs/1.csv"]


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "z*"), ("get", "z*", "-o", "out"), ("prefetch", "z*"), ("push", "z*"),
        ("revert", "z*"), ("drop", "z*"), ("rm", "z*"), ("rm", "a*", "z*"),
        ("query", "--pattern", "z*"),
    ],
)  # fmt: skip
def test_pattern_that_matches_nothing_is_an_error_that_changes_nothing(
    shell: Inside, args: tuple[str, ...]
) -> None:
    _one_sentence(shell(*args), 3, "matches 'z*'", "`mountcache ")
    assert shell("status").code == 0


def test_key_that_looks_like_a_pattern_is_named_exactly(
    shell: Inside, repository: DiskCacheStore
) -> None:
    odd = "data[1].csv"
    repository.set(odd, StringValue(b"odd"))
    repository.set("data1.csv", StringValue(b"other"))
    assert shell("ls", odd).text == "data1.csv\n"
    for words in (["--exact", odd], ["data[[]1].csv"]):
        assert shell("ls", *words).text == f"{odd}\n"
        assert shell("prefetch", *words, "--json").code == 0
        assert shell("drop", *words).text == f"dropped {odd}\n"
    assert shell("get", "--exact", odd, "-o", "-").out == b"odd"
    assert shell("rm", "--exact", odd).text == f"deleted {odd}\n"
    assert shell("revert", "--exact", odd).text == f"reverted {odd}\n"
    assert shell("rm", "--exact", odd).code == 0
    assert shell("push", "--exact", odd).text == f"pushed: {odd}\n"
    repository.delete("data1.csv")
    repository.set(odd, StringValue(b"odd"))
    _one_sentence(shell("ls", odd), 3, "it is a key as it stands: say --exact")


def test_folder_that_is_no_key_is_answered_with_its_pattern(shell: Inside) -> None:
    shell("ls")
    for word in ("runs", "runs/"):
        for verb in ("ls", "cat", "info", "rm"):
            _one_sentence(shell(verb, word), 3, "no such key", "'runs/*'")
    _one_sentence(shell("get", "runs/"), 3, "-o DIR")
    _one_sentence(shell("get", "runs/*"), 64, "-o DIR")


def test_query_that_finds_nothing_is_an_answer(shell: Inside) -> None:
    for args in (("query", "kind=nothing"), ("ls", "--meta", "kind=nothing")):
        ended = shell(*args)
        assert (ended.code, ended.text) == (0, "")
        assert "no key has this metadata" in ended.err


def test_empty_store_says_how_to_begin(shell: Inside) -> None:
    shell("rm", "*")
    ended = shell("ls")
    assert ended.code == 0
    assert "mountcache put KEY FILE" in ended.err


# -- metadata --------------------------------------------------------------------------------


def test_meta_shows_sets_and_unsets(shell: Inside, repository: DiskCacheStore) -> None:
    assert shell("meta", "runs/1.csv").text == 'kind=run\nn:=1\ntags:=["x"]\n'
    ended = shell("meta", "runs/1.csv", "by=a=b", "n:=2.5", "done:=true", "--unset", "tags")
    assert ended.code == 0, ended.err
    assert ended.text == "kind=run\nn:=2.5\nby=a=b\ndone:=true\n"
    staged = shell("status", "--json").documents[0]["staged"][0]
    assert (staged["key"], staged["what"]) == ("runs/1.csv", "metadata")
    assert shell("push").code == 0
    assert repository.get_metadata("runs/1.csv") == {
        "kind": "run", "n": 2.5, "by": "a=b", "done": True,
    }  # fmt: skip
    assert repository.to_bytes("runs/1.csv") == b"1\n"
    # What it shows, it takes.
    again = shell("meta", "runs/2.csv", *shell("meta", "runs/1.csv").text.splitlines())
    assert again.code == 0
    assert shell("meta", "runs/2.csv", "--json").documents[0]["metadata"]["done"] is True


def test_meta_changes_nothing_if_a_part_of_it_is_wrong(shell: Inside) -> None:
    _one_sentence(shell("meta", "a.txt", "x=1", "--unset", "nope"), 3, "no metadata 'nope'")
    _one_sentence(shell("meta", "a.txt", "x:=one"), 64, "NAME=TEXT")
    _one_sentence(shell("meta", "a.txt", "x"), 64, "NAME:=JSON")
    _one_sentence(shell("meta", "a.txt", "x=1", "--unset", "x"), 64, "both")
    _one_sentence(shell("meta", "nope", "x=1"), 3, "no such key: 'nope'")
    assert shell("status").code == 0


def test_query_compares_values_not_their_spelling(shell: Inside) -> None:
    assert shell("query", "n:=1").text == "runs/1.csv\n"
    assert shell("query", "n:=1.0").text == "runs/1.csv\n"
    assert shell("query", "n=1").text == ""
    assert shell("query", 'tags:=["x"]').text == "runs/1.csv\n"
    assert shell("query", "kind=run", "--select", "n").text == (
        'runs/1.csv\t{"n": 1}\nruns/2.csv\t{"n": 2}\n'
    )
    documents = shell("query", "kind=run", "--select", "tags", "--json").documents
    assert documents == [
        {"key": "runs/1.csv", "metadata": {"tags": ["x"]}},
        {"key": "runs/2.csv", "metadata": {}},
    ]


def test_metadata_may_have_any_name(shell: Inside, repository: DiskCacheStore) -> None:
    repository.set("odd", StringValue(b"", {"select": "s", "self": 1}))
    assert shell("query", "select=s", "self:=1").text == "odd\n"
    assert shell("ls", "--meta", "select=x").text == ""


def test_put_takes_metadata_that_is_no_text(shell: Inside) -> None:
    assert shell("put", "k", "--meta", "n:=3", "--meta", "t=3", given=b"x").code == 0
    assert shell("meta", "k", "--json").documents[0]["metadata"] == {"n": 3, "t": "3"}


def test_info_tells_where_the_data_is(shell: Inside, origin: Origin) -> None:
    assert shell("info", "runs/1.csv", "--json").documents[0]["state"] == "remote"
    shell("cat", "runs/1.csv")
    cached = shell("info", "runs/1.csv")
    assert "cached: upstream's, a copy is here" in cached.text
    assert "n:=1" in cached.text
    shell("put", "runs/1.csv", given=b"changed")
    modified = shell("info", "runs/1.csv")
    assert "staged by: ada" in modified.text
    assert shell("info", "runs/1.csv", "--json").documents[0]["size"] == 7
    shell("put", "new", given=b"n")
    assert "not upstream yet" in shell("info", "new").text
    shell("rm", "a.txt")
    _one_sentence(shell("info", "a.txt"), 3, "is deleted here, by ada", "mountcache revert")
    origin.stop()
    assert shell("info", "runs/1.csv").code == 0


# -- folders ---------------------------------------------------------------------------------


def test_folder_is_staged_by_one_command_and_comes_back_by_one(
    shell: Inside, repository: DiskCacheStore
) -> None:
    source = shell.folder / "results"
    for number in range(400):
        path = source / f"day{number % 5}" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    (source / ".hidden").write_text("")
    ended = shell("put", "-r", "results", "lab", "--meta", "by=ada", "--meta", "n:=1")
    assert ended.code == 0, ended.err
    assert ended.text.startswith("staged 400 (")
    assert "left out .hidden: hidden" in ended.err
    assert "mountcache push" in ended.err
    assert shell("put", "-r", "results", "lab/").text == "staged 0 (0 bytes), 400 unchanged\n"
    assert shell("push").code == 0
    assert repository.get_metadata("lab/day3/3.csv") == {"by": "ada", "n": 1}
    got = shell("get", "lab/*", "-o", "back", "--json").documents[0]
    assert (got["written"], got["already"], got["failed"]) == (400, 0, {})
    assert (shell.folder / "back" / "lab" / "day4" / "399.csv").read_text() == "399\n"
    assert shell("get", "lab/*", "-o", "back").text.endswith("400 there already\n")


def test_get_of_a_pattern_overwrites_no_file_of_mine(shell: Inside) -> None:
    mine = shell.folder / "out" / "a.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    ended = shell("get", "*", "-o", "out")
    assert ended.code == 3
    assert ended.text.startswith("2 written to out")
    assert "--force" in ended.err
    assert mine.read_text() == "mine"
    assert shell("get", "*", "-o", "out", "--force").code == 0
    assert mine.read_text() == "one\n"


def test_put_of_a_folder_leaves_out_our_own_files_and_refuses_nothing_quietly(
    shell: Inside,
) -> None:
    (shell.folder / "data.csv").write_text("d")
    ended = shell("put", "-r", ".", "x", "--json")
    assert ended.documents[0]["staged"] == 1
    assert shell("ls", "x/*").text == "x/data.csv\n"
    shell("revert", "*")
    _one_sentence(shell("put", "-r", "nowhere"), 64, "is no folder")
    _one_sentence(shell("put", "-r", ".", "--include", "*.nc"), 3, "no file in '.'")
    _one_sentence(shell("put", "k", "--include", "*.nc", given=b"x"), 64, "say -r")
    (shell.folder / "sub").mkdir()
    _one_sentence(shell("put", "k", "sub"), 3, "mountcache put -r sub k")
    (shell.folder / "sub" / "bad\nname").write_text("")
    _one_sentence(shell("put", "-r", "sub"), 3, "can't be keys", "nothing was staged")
    assert shell("status").code == 0


def test_put_without_a_file_and_without_input_stages_nothing(shell: Inside) -> None:
    (shell.folder / "a.csv").write_text("a")
    _one_sentence(shell("put", "a.csv"), 3, "standard input is empty", "put a.csv a.csv")
    assert shell("status").code == 0
    assert shell("put", "empty", "-").code == 0


# -- path ------------------------------------------------------------------------------------


def test_path_stays_usable_whatever_becomes_of_the_key(
    shell: Inside, origin: Origin, repository: DiskCacheStore
) -> None:
    first = Path(shell("path", "runs/1.csv").text.rstrip("\n"))
    assert first.name == "1.csv"
    assert first.read_bytes() == b"1\n"
    assert not first.stat().st_mode & 0o222
    assert shell("path", "runs/1.csv", "--json").documents[0]["path"] == str(first)
    shell("put", "runs/1.csv", given=b"changed")
    second = Path(shell("path", "runs/1.csv").text.rstrip("\n"))
    assert second != first
    assert second.read_bytes() == b"changed"
    assert first.read_bytes() == b"1\n"
    origin.stop()
    assert shell("path", "runs/1.csv").text.rstrip("\n") == str(second)
    assert shell("path", "runs/2.csv").code == 4


def test_path_that_somebody_wrote_to_is_made_again_and_the_cache_is_untouched(
    shell: Inside, repository: DiskCacheStore
) -> None:
    repository.set("large.bin", StringValue(bytes(500_000)))
    path = Path(shell("path", "large.bin").text.rstrip("\n"))
    assert path.stat().st_nlink == 1
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with path.open("r+b") as file:
        file.write(b"broken")
    assert shell("cat", "large.bin").out == bytes(500_000)
    assert shell("path", "large.bin").text.rstrip("\n") == str(path)
    assert path.read_bytes() == bytes(500_000)


def test_drop_forgets_the_files_of_path_too(shell: Inside) -> None:
    paths = [Path(shell("path", f"runs/{n}.csv").text.rstrip("\n")) for n in (1, 2)]
    assert shell("drop", "runs/1.csv").code == 0
    assert [path.exists() for path in paths] == [False, True]
    assert shell("drop", "*").text == "dropped runs/2.csv\n"
    assert not paths[1].exists()
    assert shell("drop", "runs/2.csv").code == 3


@pytest.mark.parametrize("key", ["..", "a/..b", ".hidden", "+", "x/" + "n" * 300 + ".nc", "ü/ä.ö"])
def test_path_of_any_key_lies_in_the_store(
    shell: Inside, repository: DiskCacheStore, key: str
) -> None:
    if key == "..":
        # No key of a web server; a store by itself may have it.
        from mountcache.cli.paths import _folder_of, _name_of

        assert (_folder_of(key), _name_of(key)) == ("%2E%2E", "data")
        return
    repository.set(key, StringValue(b"data"))
    path = Path(shell("path", key).text.rstrip("\n"))
    assert path.read_bytes() == b"data"
    assert path.resolve().is_relative_to(shell.folder / ".mountcache" / "paths")
    # Programs look at what a name ends in.
    assert path.name.endswith(os.path.splitext(key.rpartition("/")[2])[1])
    assert shell("drop", "--exact", key).code == 0
    assert not path.exists()


# -- what to do next -------------------------------------------------------------------------


def test_status_and_push_end_with_the_next_command(
    shell: Inside, origin: Origin, repository: DiskCacheStore
) -> None:
    assert "mountcache put KEY FILE" in shell("status").err
    assert "mountcache put KEY FILE" in shell("push").err
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"mine")
    assert shell("status").err.splitlines()[-1] == "next: `mountcache push`"
    repository.from_bytes("a.txt", b"theirs")
    for verb in ("push", "status"):
        last = shell(verb).err.splitlines()[-1]
        assert "`mountcache resolve a.txt --mine`" in last
    assert shell("push", "a.txt", "--on-conflict", "keep-both").err.startswith("next: ")
    shell("put", "new", given=b"n")
    origin.stop()
    failed = shell("push")
    assert failed.code == 4
    assert failed.err == "next: `mountcache push`: 1 stay staged\n"
    for verb in ("status", "push"):
        assert shell(verb, "--json").err == ""


def test_push_to_a_server_that_can_only_be_read_says_what_to_change(
    tmp_path: Path, site: Nginx
) -> None:
    shell = Inside(tmp_path)
    assert shell("init", site.url).code == 0
    # What there is nothing of can be sent anywhere.
    assert shell("push").text == "nothing is staged\n"
    shell("put", "k", given=b"mine")
    _one_sentence(shell("push"), 3, "stay staged", 'write = "put"', "mountcache.toml")


def test_wrong_layout_is_said_with_the_file_that_says_it(tmp_path: Path, site: Nginx) -> None:
    shell = Inside(tmp_path)
    assert shell("init", site.url, "--layout", "dynamic").code == 0
    _one_sentence(shell("ls"), 3, "layout = 'dynamic'", "mountcache.toml", "mountcache init URL")


def test_refused_and_expired_credentials_say_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "site" / "data").mkdir(parents=True)
    (tmp_path / "site" / "index.json").write_text('{"k": {}}')
    (tmp_path / "site" / "data" / "k").write_bytes(b"secret\n")
    users = tmp_path / "users"
    users.write_text("ada:{PLAIN}good\n")
    locked = Nginx(
        tmp_path / "site", dav=True,
        config=f"auth_basic x; auth_basic_user_file {users}; limit_except GET HEAD {{ deny all; }}",
    )  # fmt: skip
    locked.start()
    try:
        shell = Inside(tmp_path)
        _one_sentence(shell("init", locked.url), 3, "401", "auth in mountcache.toml")
        assert shell("init", locked.url, "--layout", "static").code == 0
        _one_sentence(shell("ls"), 3, "401", 'auth = "netrc"')
        toml = tmp_path / "mountcache.toml"
        toml.write_text(toml.read_text() + 'auth = "env:LAB"\nwrite = "put"\n')
        _one_sentence(shell("ls"), 3, "LAB isn't set")
        _one_sentence(shell("ls", LAB="ada:expired"), 3, "401", "auth = 'env:LAB'")
        assert shell("cat", "k", LAB="ada:good").out == b"secret\n"
        # What is here is read without a password where nobody is asked, or where it has expired.
        assert shell("cat", "k", MOUNTCACHE_OFFLINE="1").out == b"secret\n"
        assert shell("cat", "k", LAB="ada:expired").out == b"secret\n"
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password good\n")
        (tmp_path / "netrc").chmod(0o600)
        for auth in ("netrc", "command:echo ada:good"):
            other = toml.read_text().replace("env:LAB", auth) + f'dir = "of-{auth[:5]}"\n'
            (tmp_path / "other.toml").write_text(other)
            named = {"MOUNTCACHE_CONFIG": "other.toml", "NETRC": str(tmp_path / "netrc")}
            assert shell("cat", "k", **named).out == b"secret\n"
        shell("put", "k", given=b"mine", LAB="ada:good")
        expired = shell("push", LAB="ada:expired")
        assert expired.code == 3
        assert "auth = 'env:LAB'" in expired.err
        refused = shell("push", LAB="ada:good")
        assert refused.code == 3
        assert "ask whoever runs the server" in refused.err
        assert shell("status", LAB="ada:good").code == 1
    finally:
        locked.stop()


def test_rebind_follows_an_upstream_that_moved_and_keeps_what_is_staged(
    shell: Inside, repository: DiskCacheStore, origin: Origin
) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"mine")
    origin.stop()
    with Origin(repository) as moved:
        toml = shell.folder / "mountcache.toml"
        toml.write_text(toml.read_text().replace(origin.url, moved.url))
        _one_sentence(shell("status"), 3, "belongs to upstream", "`mountcache rebind`")
        ended = shell("rebind")
        assert ended.code == 0, ended.err
        assert "1 staged, all kept" in ended.text
        assert "mountcache push" in ended.err
        assert shell("cat", "a.txt").out == b"mine"
        assert shell("push").code == 0
        assert repository.to_bytes("a.txt") == b"mine"
        toml.write_text(toml.read_text() + 'mount_point = "runs/"\n')
        _one_sentence(shell("rebind"), 3, "mount point")


def test_folder_that_cannot_be_written_is_named_with_the_way_out(
    tmp_path: Path, site: Nginx
) -> None:
    # Not even root makes files there.
    nowhere = Inside(Path("/proc"))
    _one_sentence(nowhere("init", site.url), 3, "/proc/mountcache.toml", "a folder of your own")
    toml = f'url = "{site.url}"\nlayout = "static"\ndir = "/proc/no-store"\n'
    (tmp_path / "mountcache.toml").write_text(toml)
    _one_sentence(Inside(tmp_path)("ls"), 3, "/proc/no-store", "dir in", "MOUNTCACHE_DIR")


# -- the environment -------------------------------------------------------------------------


def test_environment_counts_for_the_command_line_and_for_open(
    shell: Inside, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Inside(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    toml, cache = str(shell.folder / "mountcache.toml"), str(tmp_path / "cache")
    named = {"MOUNTCACHE_CONFIG": toml, "MOUNTCACHE_DIR": cache, "MOUNTCACHE_AUTHOR": "ben"}
    _one_sentence(elsewhere("ls"), 3, "go to the folder that has one", "mountcache init URL")
    _one_sentence(elsewhere("ls", MOUNTCACHE_CONFIG="no.toml"), 3, "MOUNTCACHE_CONFIG names")
    assert elsewhere("cat", "a.txt", **named).out == b"one\n"
    assert elsewhere("put", "k", given=b"k", **named).code == 0
    assert not (shell.folder / ".mountcache").exists()
    origin.stop()
    offline = {**named, "MOUNTCACHE_OFFLINE": "1"}
    assert elsewhere("cat", "a.txt", **offline).out == b"one\n"
    _one_sentence(elsewhere("cat", "runs/1.csv", **offline), 4, "unset MOUNTCACHE_OFFLINE")
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    with mountcache.open() as store:
        assert store.to_bytes("a.txt") == b"one\n"
        assert [(edit.key, edit.author) for edit in store.staged()] == [("k", "ben")]
        assert store.is_offline()
        assert Path(cache).is_dir()
    assert json.loads(elsewhere("status", "--json", **offline).text)["staged"][0]["author"] == "ben"


def test_what_was_taken_away_is_listed_and_had_back(shell: Inside) -> None:
    shell("put", "a.txt", given=b"mine\n")
    shell("put", "b.txt", given=b"new\n")
    said = shell("revert", "a.txt", "b.txt")
    assert "mountcache undo" in said.err
    listed = shell("undo")
    assert [line.split()[-1] for line in listed.text.splitlines()] == ["b.txt", "a.txt"]
    assert "reverted" in listed.text
    documents = shell("undo", "--json").documents
    assert [each["key"] for each in documents] == ["b.txt", "a.txt"]
    assert shell("undo", "*.txt").code == 0
    assert shell("cat", "a.txt").out == b"mine\n"
    assert shell("status").code == 1
    _one_sentence(shell("undo", "a.txt"), 3, "a.txt", "mountcache undo")
    assert shell("undo").text == "nothing was taken away\n"


def test_one_of_several_is_had_back_by_its_number(shell: Inside) -> None:
    for text in (b"1", b"2", b"3"):
        shell("put", "k", given=text)
    first = shell("undo", "--json").documents[-1]["number"]
    _one_sentence(shell("undo", "k", "--number", "99"), 3, "99")
    assert shell("undo", "--number", "1").code == 64
    assert shell("undo", "k", "--number", str(first)).code == 0
    assert shell("cat", "k").out == b"1"


def test_diff_shows_text_metadata_and_digests(shell: Inside, repository: DiskCacheStore) -> None:
    assert shell("cat", "runs/1.csv").code == 0
    shell("put", "runs/1.csv", "--meta", "n:=2", given=b"1\n\x1b[31mred\n")
    shell("put", "b.bin", given=b"\0\1")
    said = shell("diff")
    assert said.code == 0
    assert said.text.splitlines() == [
        "base -> mine: runs/1.csv",
        "--- base/runs/1.csv",
        "+++ mine/runs/1.csv",
        "@@ -1 +1,2 @@",
        " 1",
        "+\ufffd[31mred",
        "-n: 1",
        "+n: 2",
        "base -> mine: b.bin",
        "-not there",
        "+2 bytes, sha256 " + hashlib.sha256(b"\0\1").hexdigest()[:12],
    ]
    assert shell("diff", "--stat").text.splitlines() == [
        "runs/1.csv | +1 -0, 1 name of metadata",
        "b.bin      | nothing -> 2 bytes",
    ]
    repository.from_bytes("runs/1.csv", b"9\n")
    assert "-9" in shell("diff", "--upstream", "runs/*").text.splitlines()
    document = shell("diff", "--json", "runs/1.csv").documents[0]
    assert document["metadata"] == {"n": {"base": 1, "mine": 2}}
    _one_sentence(shell("diff", "nowhere"), 3, "nowhere")


def test_cat_gives_each_side_of_an_edit(shell: Inside, repository: DiskCacheStore) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"mine\n")
    repository.from_bytes("a.txt", b"theirs\n")
    assert shell("cat", "a.txt").out == b"mine\n"
    assert shell("cat", "a.txt", "--side", "base").out == b"one\n"
    assert shell("cat", "a.txt", "--side", "upstream").out == b"theirs\n"
    shell("put", "new", given=b"x")
    _one_sentence(shell("cat", "new", "--side", "base"), 3, "made from nothing")
    _one_sentence(shell("cat", "new", "--side", "upstream"), 3, "isn't upstream")


def test_doctor_finds_mends_and_says_what_to_do_next(shell: Inside) -> None:
    shell("put", "k", given=b"mine")
    sound = shell("doctor")
    assert (sound.code, "nothing is wrong" in sound.text, "grade A" in sound.text) == (
        0,
        True,
        True,
    )
    database = shell.folder / ".mountcache" / "cache.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as con:
        con.execute("UPDATE state SET value = 99 WHERE name = 'staged_bytes'")
    found = shell("doctor")
    assert found.code == 3
    assert found.text.splitlines()[:2] == [
        "warning the counter staged_bytes says 99, and it is 4",
        "        repair: it is counted anew",
    ]
    assert "mountcache doctor --repair" in found.err
    assert shell("doctor", "--json").documents[0]["kind"] == "counter"
    mended = shell("doctor", "--repair")
    assert (mended.code, "done: it is counted anew" in mended.text) == (0, True)
    assert shell("doctor").code == 0
    assert shell("cat", "k").out == b"mine"
    database.write_bytes(b"")
    _one_sentence(shell("status"), 3, "mountcache doctor --repair")
    assert shell("doctor", "--repair").code == 0
    assert shell("status").code == 0


@pytest.mark.parametrize("key", ["k" * 4096, "a b/ü%2F#?&.txt", "-x", "100%"])
def test_a_key_of_any_form_goes_there_and_back(shell: Inside, key: str) -> None:
    assert shell("put", "--", key, given=b"mine").code == 0
    assert shell("status", "--porcelain").text.endswith(f" {key}\n")
    assert shell("push", "--", key).code == 0
    assert shell("drop", "--", key).code == 0
    assert shell("cat", "--", key).out == b"mine"
