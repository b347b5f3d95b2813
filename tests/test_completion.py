"""Completion: what a shell is answered, and what real shells make of it."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest

from mountcache import DiskCacheStore, StringValue
from mountcache import open as open_mounted
from mountcache.cli.app import app
from mountcache.cli.completing import ARGUMENTS, answer, commands, split
from mountcache.cli.known import CAP, known_keys, statement
from mountcache.serve import Origin
from tests.command import TIME, environment, words
from tests.terminal import Terminal

BREAKS = " \t\n\"'@><=;|&(:"
ODD = (
    "my key.txt",
    "it's.txt",
    'a"quote',
    "time 12:30:00",
    "r\u00e9sum\u00e9 \u2713",
    "x$HOME`!",
    "b!b",
    "q'",
    'd"',
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mountcache.toml whose store knows keys of each kind; upstream is gone."""
    here = tmp_path_factory.mktemp("a #%?b")
    with DiskCacheStore(here / "origin") as store:
        for key in ("runs/1.csv", "runs/2.csv", "runs/deep/3.csv", "cached", "gone", *ODD):
            store.set(key, StringValue(b"1"))
        with Origin(store) as origin:
            (here / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
            with open_mounted(here) as mounted:
                assert len(list(mounted.glob("*"))) == 14
                mounted.to_bytes("cached")
                mounted.to_bytes("runs/2.csv")
                mounted.set("mine", StringValue(b"1"))
                mounted.from_bytes("runs/2.csv", b"2")
                mounted.delete("gone")
    shutil.rmtree(here / "origin")
    return here


def asked(folder: Path, line: str, **env: str) -> list[str]:
    """Return what bash is answered, how first."""
    given = {"_MOUNTCACHE_LINE": line, "_MOUNTCACHE_BREAKS": BREAKS, **env}
    given.setdefault("MOUNTCACHE_CONFIG", str(folder))
    return answer("bash", [], given).decode().splitlines()


# -- what is answered --------------------------------------------------------------------------


def test_keys_are_completed_by_what_the_command_is_about(folder: Path) -> None:
    assert asked(folder, "mountcache get m") == ["words", "mine", "my\\ key.txt"]
    assert asked(folder, "mountcache cat runs/") == [
        "words", "runs/1.csv", "runs/2.csv", "runs/deep/",
    ]  # fmt: skip
    assert asked(folder, "mountcache cat r") == ["words", "runs/", "r\u00e9sum\u00e9\\ \\\u2713"]
    assert asked(folder, "mountcache cat ru") == ["part", "runs/"]
    for command in ("push", "diff", "revert", "status", "hold", "resolve"):
        assert asked(folder, f"mountcache {command} ") == ["words", "gone", "mine", "runs/"]
        assert asked(folder, f"mountcache {command} runs/") == ["words", "runs/2.csv"]
    assert asked(folder, "mountcache drop ") == ["words", "cached"]
    assert "gone" not in asked(folder, "mountcache cat ")  # it is deleted here
    assert asked(folder, "mountcache mv cached r")[1] == "runs/"
    assert asked(folder, "mountcache push mine runs/") == ["words", "runs/2.csv"]
    assert asked(folder, "mountcache cat nowhere") == ["words"]


def test_commands_options_and_files_are_completed(folder: Path) -> None:
    assert asked(folder, "mountcache pu") == ["words", "put", "push", "pull"]
    assert "--on-conflict" in asked(folder, "mountcache push --on")
    assert "keep-both" in asked(folder, "mountcache push --on-conflict k")
    assert asked(folder, "mountcache push --workers 3 m") == ["words", "mine"]
    assert asked(folder, "mountcache put mine ") == ["files"]
    assert asked(folder, "mountcache get mine -o ") == ["files"]
    assert asked(folder, "mountcache index ") == ["dirs"]
    assert asked(folder, "mountcache put -r ") == ["dirs"]
    assert asked(folder, "mountcache bundle ex") == ["words", "export"]
    assert asked(folder, "mountcache bundle export ") == ["files"]
    assert asked(folder, "mountcache bundle export f.bundle m") == ["words", "mine"]
    assert asked(folder, "mountcache completion f") == ["words", "fish"]
    config = shlex.quote(str(folder))
    elsewhere = {"MOUNTCACHE_CONFIG": "/nowhere"}
    assert asked(folder, f"mountcache cat --config {config} mi", **elsewhere) == ["words", "mine"]
    assert asked(folder, f"mountcache --config={config} cat mi", **elsewhere) == ["words", "mine"]
    assert asked(folder, "mountcache cat mi", **elsewhere) == ["words"]


def test_a_key_with_the_letters_of_patterns_names_itself(tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    with open_mounted(tmp_path, offline="always") as store:
        for key in ("a*b", "a[1]", "axb"):
            store.set(key, StringValue(b"1"))
    assert asked(tmp_path, "mountcache cat a") == ["words", "a\\*b", "a\\[1\\]", "axb"]
    assert asked(tmp_path, "mountcache rm a") == ["words", "a\\[\\*\\]b", "a\\[\\[\\]1\\]", "axb"]
    assert asked(tmp_path, "mountcache rm 'a[*]") == ["words", "a[*]b"]
    assert asked(tmp_path, "mountcache rm 'a*") == ["words"]
    assert asked(tmp_path, "mountcache rm --exact 'a*") == ["words", "a*b"]


def test_keys_lie_under_the_mount_point(tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text(
        '[mount.one]\nurl = "http://127.0.0.1:1/"\nmount_point = "surveys/"\n'
        '[mount.two]\nurl = "http://127.0.0.1:1/"\n'
    )
    with open_mounted(tmp_path, mount="one", offline="always") as store:
        store.set("surveys/2024", StringValue(b"1"))
    assert asked(tmp_path, "mountcache --mount one cat ") == ["part", "surveys/"]
    assert asked(tmp_path, "mountcache cat --mount one surveys/") == ["words", "surveys/2024"]
    assert asked(tmp_path, "mountcache cat --mount one other") == ["words"]
    assert asked(tmp_path, "mountcache cat ") == ["words"]  # of which?
    assert asked(tmp_path, "mountcache cat --mount two ") == ["words"]


def test_many_keys_are_capped_and_what_they_have_in_common_stays_true(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "store") as store, store.transaction("many"):
        for number in range(1000):
            store.set(f"a{number:04}", StringValue(b""))
            store.set(f"folder/{number:04}/k", StringValue(b""))
    found = known_keys(str(tmp_path / "store"), "all", "a")
    assert len(found) == CAP + 1
    assert {key[:2] for key in found} == {"a0"}
    assert {key[2] for key in found} == {"0", "9"}
    assert found[-1] == "a0999"
    # As many folders as there are keys cost no more.
    assert known_keys(str(tmp_path / "store"), "all", "f") == ["folder/"]
    assert len(known_keys(str(tmp_path / "store"), "all", "folder/")) == CAP + 1


def test_a_prefix_is_searched_in_an_index(folder: Path) -> None:
    with closing(sqlite3.connect(folder / ".mountcache" / "cache.db")) as con:
        for kind in ("all", "staged", "cached", "undone"):
            for last in (False, True):
                plan = con.execute(
                    f"EXPLAIN QUERY PLAN {statement(kind, last=last)}", ("a", "b")
                ).fetchall()
                lines = [row[3] for row in plan]
                assert any(line.startswith("SEARCH") and "key>?" in line for line in lines)
                scans = [line for line in lines if line.startswith("SCAN")]
                # Of the statements in it one row each is taken.
                assert all("subquery" in line for line in scans), lines


def test_nothing_is_made_and_little_is_imported(folder: Path, tmp_path: Path) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")
        }

    before = everything()
    code = (
        "import sys\n"
        "from mountcache.cli import main\n"
        "sys.argv = ['mountcache', 'cat', 'm']\n"
        "main()\n"
        "heavy = {'requests', 'urllib3', 'click', 'rich', 'diskcache', 'mountcache.mounted'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=TIME,
        env=environment(_MOUNTCACHE_COMPLETE="zsh"), check=True,
    )  # fmt: skip
    assert ended.stdout == "words\nmine\nmy key.txt\n"
    assert ended.stderr == "set()\n"
    assert everything() == before
    # Where there is no store none comes to be.
    (tmp_path / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    assert asked(tmp_path, "mountcache cat ") == ["words"]
    assert [path.name for path in tmp_path.iterdir()] == ["mountcache.toml"]


def test_a_store_that_is_in_use_or_broken_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    with open_mounted(tmp_path, offline="always") as store:
        store.set("fresh", StringValue(b"1"))
        assert asked(tmp_path, "mountcache cat ") == ["words", "fresh"]
        with store.mount.catalog.content.write():
            assert asked(tmp_path, "mountcache cat ") == ["words", "fresh"]
    (tmp_path / ".mountcache" / "cache.db").write_bytes(b"no database" * 1000)
    assert asked(tmp_path, "mountcache cat ") == ["words"]
    (tmp_path / "mountcache.toml").write_text("no toml")
    assert asked(tmp_path, "mountcache cat ") == ["words"]


def test_what_a_killed_process_left_is_found_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    code = (
        "import mountcache, os\n"
        "store = mountcache.open(offline='always')\n"
        "store.set('left', mountcache.StringValue(b'1'))\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=TIME, check=False)
    before = sorted(tmp_path.rglob("*"))
    assert tmp_path / ".mountcache" / "cache.db-wal" in before
    assert asked(tmp_path, "mountcache cat ") == ["words", "left"]
    (tmp_path / ".mountcache" / "cache.db-shm").unlink()
    assert asked(tmp_path, "mountcache cat ") == ["words"]  # what is to be mended first isn't
    assert sorted(tmp_path.rglob("*")) == [each for each in before if "-shm" not in each.name]


def test_every_argument_of_every_command_has_its_kind() -> None:
    every = dict(commands(app))
    assert set(ARGUMENTS) == set(every), "mountcache/cli/completing.py: ARGUMENTS"
    for name, command in every.items():
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        kinds = ARGUMENTS[name]
        assert len(kinds) == len(arguments), name
        for kind, argument in zip(kinds, arguments, strict=True):
            assert kind.endswith("...") == (argument.nargs == -1 and kind != ""), name


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("m cat ab", (["m", "cat", "ab"], "", "")),
        ("m cat ", (["m", "cat", ""], "", "")),
        ("m cat a\\ b", (["m", "cat", "a b"], "", "")),
        ("m cat 'a b", (["m", "cat", "a b"], "'", "")),
        ('m cat "a\\"b', (["m", "cat", 'a"b'], '"', "")),
        ("m cat a:b", (["m", "cat", "a:b"], "", "a:")),
        ("m cat 'a:b", (["m", "cat", "a:b"], "'", "")),
        ("m cat a\\:b", (["m", "cat", "a:b"], "", "")),
        ("m cat ab'c d", (["m", "cat", "abc d"], "'", "ab")),
        ("m cat 'a b'", (["m", "cat", "a b"], None, "")),
        ("m cat a\\", (["m", "cat", "a"], "", "")),
        ("m '' a", (["m", "", "a"], "", "")),
    ],
)
def test_a_line_is_split_as_bash_does(line: str, found: tuple[list[str], str | None, str]) -> None:
    assert split(line, ":=") == found


# -- what real shells make of it ---------------------------------------------------------------


def _bin(folder: Path) -> str:
    """Return a PATH in which the command is."""
    command = " ".join(map(shlex.quote, words()))
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    script = place / "mountcache"
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


TYPED = (
    ("my", "my key.txt"),
    ("my\\ k", "my key.txt"),
    ("'my k", "my key.txt"),
    ('"my k', "my key.txt"),
    ("it", "it's.txt"),
    ("'it", "it's.txt"),
    ('"it', "it's.txt"),
    ("a", 'a"quote'),
    ('"a', 'a"quote'),
    ("time", "time 12:30:00"),
    ("time\\ 12:3", "time 12:30:00"),
    ("'time 12:3", "time 12:30:00"),
    ("r\u00e9", "r\u00e9sum\u00e9 \u2713"),
    ("x", "x$HOME`!"),
    ("'x", "x$HOME`!"),
    ('"x', "x$HOME`!"),
)


def _tried(terminal: Terminal, typed: str, key: str, mark: str, argument: str) -> None:
    """Complete a word, then let the shell show what it takes it for."""
    terminal.type(f"mountcache cat {typed}\t")
    # At the beginning of the line, what prints its words instead.
    terminal.type(f"\x01{argument} \x05\r")
    wanted = f"<{key}>"
    terminal.until(lambda t: wanted in t.text.replace("\n", "") and mark in t.text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_odd_keys(folder: Path) -> None:
    script = "shopt -u checkwinsize; set +o history; PS1='> '; bind 'set bell-style none'\n"
    script += 'eval "$(mountcache completion bash)"\nshown() { printf "<%s>" "${@:3}"; echo; }\n'
    (folder / "bashrc").write_text(script)
    for typed, key in TYPED:
        with Terminal(
            folder, "bash", "--noprofile", "--rcfile", str(folder / "bashrc"), "-i",
            whole=True, columns=120, PATH=_bin(folder), LC_ALL="C.UTF-8",
        ) as terminal:  # fmt: skip
            terminal.until(lambda t: t.text.rstrip().endswith(">"))
            _tried(terminal, typed, key, ">", "shown")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_odd_keys(folder: Path) -> None:
    place = folder / "zsh"
    place.mkdir()
    (place / ".zshrc").write_text(
        "autoload -Uz compinit; compinit -u -D; PS1='> '; unsetopt beep\n"
        'eval "$(mountcache completion zsh)"\nbindkey -e\n'
        'shown() { printf "<%s>" "${@:3}"; echo; }\n'
    )
    for typed, key in TYPED:
        with Terminal(
            folder, "zsh", "-i", whole=True, columns=120, PATH=_bin(folder),
            ZDOTDIR=str(place), LC_ALL="C.UTF-8",
        ) as terminal:  # fmt: skip
            terminal.until(lambda t: t.text.rstrip().endswith(">"))
            _tried(terminal, typed, key, ">", "shown")


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_is_given_the_keys_as_they_are(folder: Path) -> None:
    script = folder / "mountcache.fish"
    env = environment(PATH=_bin(folder), HOME=str(folder), LC_ALL="C.UTF-8")
    with script.open("wb") as out:
        subprocess.run(
            [*words(), "completion", "fish"], stdout=out, env=env, timeout=TIME, check=True
        )
    for typed, key in (("my", "my key.txt"), ("my\\ k", "my key.txt"), ("it", "it's.txt")):
        line = f"mountcache cat {typed}"
        asking = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(line)}"
        ended = subprocess.run(
            ["fish", "-N", "-c", asking], cwd=folder, env=env, capture_output=True, timeout=TIME,
            check=True,
        )  # fmt: skip
        assert ended.stdout.decode().splitlines() == [key], ended.stderr


def test_each_script_is_printed() -> None:
    for shell in ("bash", "zsh", "fish"):
        ended = subprocess.run(
            [*words(), "completion", shell], env=environment(), capture_output=True, text=True,
            timeout=TIME, check=True,
        )  # fmt: skip
        assert "mountcache" in ended.stdout
        if shutil.which(shell):
            checked = subprocess.run(
                [shell, "-n"], input=ended.stdout, capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, checked.stderr
