"""The command on a real terminal, and at pipes that are closed early."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache import DiskCacheStore
from mountcache import open as open_mounted
from mountcache.events import StoreSetEvent
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import TIME, Inside, Shell, environment, words
from tests.servers import Reply, ScriptedServer
from tests.terminal import Terminal

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        store.set("a.txt", StringValue(b"one\ntwo\nthree\n", {"kind": "text"}))
        store.set("r\u00e9sum\u00e9 \u2713.txt", StringValue(b"\xc3\xa9\n", {"who": "Zo\u00eb"}))
        yield store


@pytest.fixture
def origin(repository: DiskCacheStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, origin: Origin) -> Path:
    return _mounted(tmp_path / "here", origin.url)


def _mounted(folder: Path, url: str) -> Path:
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{url}"\n')
    return folder


@pytest.fixture
def shell(folder: Path) -> Shell:
    return Inside(folder)


def _staged(folder: Path, keys: int) -> None:
    with open_mounted(folder, offline="always") as store:
        for number in range(keys):
            store.set(f"new/{number:03}", StringValue(b"1"))


# -- Ctrl-C ----------------------------------------------------------------------------------


@pytest.fixture
def held(repository: DiskCacheStore) -> Iterator[tuple[Origin, threading.Event, threading.Event]]:
    """Our own server, whose repository takes a key only when it is let, unless it is free."""
    came, go = threading.Event(), threading.Event()

    def wait(event: StoreSetEvent) -> None:
        if event.key.startswith("free"):
            return
        came.set()
        assert go.wait(TIME)

    repository.event_manager.connect(StoreSetEvent, wait)
    with Origin(repository) as running:
        yield running, came, go
        go.set()


@pytest.mark.parametrize("workers", ["1", "4"])
def test_ctrl_c_in_a_push_ends_the_key_in_flight_and_says_so(
    tmp_path: Path,
    held: tuple[Origin, threading.Event, threading.Event],
    repository: DiskCacheStore,
    workers: str,
) -> None:
    origin, came, go = held
    folder = _mounted(tmp_path / "here", origin.url)
    _staged(folder, 20)
    with Terminal(folder, "push", "--workers", workers, columns=150) as terminal:
        assert came.wait(TIME)
        terminal.interrupt()
        terminal.until(lambda t: "ending what is in flight" in t.text)
        go.set()
        assert terminal.ended() == 130
    pushed = sorted(repository.glob("new/*"))
    assert 1 <= len(pushed) <= int(workers)
    assert f"{len(pushed)} of 20 were ended" in terminal.text
    assert f"pushed: {pushed[0]}" in terminal.text
    assert "skipped" not in terminal.text
    with open_mounted(folder) as store:
        left = list(store.staged())
        assert len(left) == 20 - len(pushed)
        assert not any(edit.in_flight for edit in left)
    assert Inside(folder)("push").code == 0
    assert len(list(repository.glob("new/*"))) == 20


def test_ctrl_c_twice_leaves_what_has_no_answer_unknown_and_says_so(
    tmp_path: Path,
    held: tuple[Origin, threading.Event, threading.Event],
    repository: DiskCacheStore,
) -> None:
    origin, came, go = held
    folder = _mounted(tmp_path / "here", origin.url)
    _staged(folder, 3)
    with Terminal(folder, "push", "--workers", "1", columns=150) as terminal:
        assert came.wait(TIME)
        terminal.interrupt()
        terminal.until(lambda t: "ending what is in flight" in t.text)
        terminal.interrupt()
        assert terminal.ended() == 130
    assert "the next push asks upstream whether it arrived" in " ".join(terminal.text.split())
    with open_mounted(folder, offline="always") as store:
        assert [op.state for op in store.mount.catalog.ops()] == ["unknown"]
    go.set()
    assert Inside(folder)("push").code == 0
    assert len(list(repository.glob("new/*"))) == 3
    assert Inside(folder)("status").code == 0


def test_ctrl_c_in_a_prefetch_ends_it_though_the_server_stalls(tmp_path: Path) -> None:
    came, go = threading.Event(), threading.Event()
    with ScriptedServer() as server:
        server.on("GET", "/index.json", Reply(body=b'{"k": {}}'))
        server.on("GET", "/data/k", [lambda: came.set(), go, Reply(body=b"x")])
        folder = _mounted(tmp_path / "here", server.url)
        with (folder / "mountcache.toml").open("a") as file:
            file.write('layout = "static"\n')
        with Terminal(folder, "prefetch") as terminal:
            assert came.wait(TIME)
            terminal.interrupt()
            assert terminal.ended() == 130
        go.set()
    assert "a further prefetch goes on" in terminal.text
    assert "mountcache: interrupted" in terminal.text
    assert "Traceback" not in terminal.text


# -- progress, and the size of the window ------------------------------------------------------


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_progress_bar_is_one_line_however_narrow_the_window_is(
    tmp_path: Path, held: tuple[Origin, threading.Event, threading.Event], columns: int
) -> None:
    origin, _, go = held
    folder = _mounted(tmp_path / "here", origin.url)
    with open_mounted(folder, offline="always") as store:
        store.set(f"free/{'long ' * 20}", StringValue(b"1"))
    _staged(folder, 2)
    with Terminal(folder, "push", "--workers", "1", columns=columns) as terminal:
        terminal.until(lambda t: "1/3" in t.text)
        assert len([line for line in terminal.shown if line]) == 1
        go.set()
        assert terminal.ended() == 0
    assert terminal.text.count("pushed: ") == 3
    # The bar is gone.
    assert not any("\u2501" in line or line.startswith("push ") for line in terminal.shown)


def test_a_progress_bar_follows_the_window_when_it_is_resized(
    tmp_path: Path, held: tuple[Origin, threading.Event, threading.Event]
) -> None:
    origin, _, go = held
    folder = _mounted(tmp_path / "here", origin.url)
    _staged(folder, 3)
    with Terminal(folder, "push", "--workers", "1", columns=100) as terminal:
        terminal.until(lambda t: any(len(line) > 40 for line in t.shown))
        terminal.resize(30, 24)
        before = len(terminal.raw)
        # Two refreshes later it has been drawn at the new width.
        terminal.until(lambda t: t.raw[before:].count(b"\x1b[2K") >= 3)
        last = COLOUR.sub(b"", terminal.raw[before:].rpartition(b"\x1b[2K")[2]).decode()
        assert len(last.strip()) <= 30
        go.set()
        assert terminal.ended() == 0


def test_output_that_is_no_terminal_gets_no_bar_though_errors_have_one(
    folder: Path, shell: Shell
) -> None:
    _staged(folder, 2)
    script = '"$@" > out'
    with Terminal(folder, "sh", "-c", script, "sh", *words(), "push", whole=True) as terminal:
        assert terminal.ended() == 0
    out = (folder / "out").read_bytes()
    assert out == b"pushed: new/000\npushed: new/001\n"


# -- pipes that are closed early -----------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [("ls",), ("ls", "--json"), ("ls", "-l"), ("--help",), ("cat", "big"), ("status",), ("diff",)],
    ids=" ".join,
)
def test_a_reader_that_has_had_enough_is_no_error(
    folder: Path, repository: DiskCacheStore, args: tuple[str, ...]
) -> None:
    repository.set("big", StringValue(bytes(3_000_000)))
    with repository.transaction("many"):
        for number in range(3000):
            repository.set(f"key {number:04} {'x' * 40}", StringValue(b""))
    _staged(folder, 3)
    reading, writing = os.pipe()
    with subprocess.Popen(
        [*words(), *args],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        os.close(reading)
        _, err = process.communicate(timeout=TIME)
    assert process.returncode == 141
    assert b"Traceback" not in err
    assert b"rror" not in err


def test_head_ends_as_it_does_with_git(folder: Path, repository: DiskCacheStore) -> None:
    with repository.transaction("many"):
        for number in range(3000):
            repository.set(f"key {number:04} {'x' * 40}", StringValue(b""))
    ended = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1; echo "${PIPESTATUS[@]}"', "bash", *words(), "ls"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIME,
        check=True,
    )
    assert ended.stdout == b"a.txt\n141 0\n"
    assert ended.stderr == b""


# -- colours and letters -----------------------------------------------------------------------


def test_colours_are_where_they_are_wanted(folder: Path, shell: Shell) -> None:
    shell("put", "a.txt", given=b"one\nTWO\nthree\n")
    environments: list[tuple[dict[str, str], bool]] = [
        ({}, True),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
    ]
    for env, wanted in environments:
        with Terminal(folder, "status", **env) as terminal:
            terminal.ended()
        assert bool(COLOUR.search(terminal.raw)) is wanted, env
    for command in ("status", "diff"):
        assert not COLOUR.search(shell(command).out)
        assert not COLOUR.search(shell(command, CLICOLOR_FORCE="0").out)
        assert COLOUR.search(shell(command, CLICOLOR_FORCE="1").out)
        assert not COLOUR.search(shell(command, NO_COLOR="1", CLICOLOR_FORCE="1").out)


ALL = (
    ("ls", "-l"), ("ls", "--json"), ("status",), ("diff",), ("diff", "--stat"), ("query",),
    ("info", "\u65e5\u672c"), ("undo",), ("prefetch",), ("push",),
)  # fmt: skip
LETTERS = (
    ({"LC_ALL": "C"}, [("ls",), ("info", "\u65e5\u672c")]),
    # Without Python's own way around it, which is to take UTF-8 all the same.
    ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}, ALL),
    ({"PYTHONIOENCODING": "latin-1"}, [("ls",), ("push",)]),
)


@pytest.mark.parametrize(("env", "commands"), LETTERS, ids=lambda each: str(each)[:20])
def test_no_letter_is_too_much_for_a_terminal(
    folder: Path, shell: Shell, env: dict[str, str], commands: list[tuple[str, ...]]
) -> None:
    shell("put", "\u65e5\u672c", given="\u65e5\n".encode())
    shell("put", "r\u00e9sum\u00e9 \u2713.txt", given="\u2713\n".encode())
    for args in commands:
        with Terminal(folder, *args, PAGER="cat", **env) as terminal:
            code = terminal.ended()
        assert code in (0, 1), (args, terminal.text)
        assert "Error" not in terminal.text, (args, terminal.text)
        assert "bug" not in terminal.text, (args, terminal.text)
    # Data are bytes, whatever the letters of the terminal are.
    ended = Shell(folder)("cat", "\u65e5\u672c", **env)
    assert ended.out == "\u65e5\n".encode()


def test_help_fits_into_a_narrow_window(folder: Path) -> None:
    with Terminal(folder, "ls", "--help", columns=60, lines=200) as terminal:
        assert terminal.ended() == 0
    assert max(map(len, terminal.raw.decode().splitlines())) <= 60


# -- pagers --------------------------------------------------------------------------------------


def test_a_diff_goes_through_the_pager_on_terminals_only(folder: Path, shell: Shell) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"one\nTWO\nthree\n")
    pager = folder / "pager"
    pager.write_text("#!/bin/sh\ntouch paged\nexec cat\n")
    pager.chmod(0o755)
    assert b"+TWO" in shell("diff", PAGER=str(pager)).out
    assert not (folder / "paged").exists()
    with Terminal(folder, "diff", PAGER=str(pager)) as terminal:
        assert terminal.ended() == 0
    assert "+TWO" in terminal.text
    assert (folder / "paged").exists()


def test_a_short_diff_waits_for_no_key(folder: Path, shell: Shell) -> None:
    shell("cat", "a.txt")
    shell("put", "a.txt", given=b"one\nTWO\nthree\n")
    with Terminal(folder, "diff", PAGER="less") as terminal:
        assert terminal.ended() == 0
    assert "+TWO" in terminal.text
    assert b"\x1b[32m+TWO" in terminal.raw


def test_a_pager_that_is_left_early_is_no_error(folder: Path, shell: Shell) -> None:
    shell("put", "long", given=b"".join(b"%d\n" % number for number in range(20_000)))
    with Terminal(folder, "diff", PAGER="less") as terminal:
        terminal.until(lambda t: t.shown[-1].startswith(":"))
        terminal.type("q")
        assert terminal.ended() == 0
    assert "Error" not in terminal.text


# -- questions -----------------------------------------------------------------------------------


def test_nobody_is_asked_where_there_is_no_terminal(folder: Path) -> None:
    _staged(folder, 1)
    for args in (("push",), ("put", "k"), ("status",), ("rm", "a.txt"), ("revert", "a.txt")):
        ended = subprocess.run(
            [*words(), *args],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIME,
            start_new_session=True,
            check=False,
        )
        assert ended.returncode in (0, 1, 3), (args, ended.stderr)
        assert b"?" not in ended.stderr


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 11)])
def test_a_push_that_deletes_many_keys_asks_first(
    folder: Path, shell: Shell, repository: DiskCacheStore, answer: str, left: int
) -> None:
    for number in range(11):
        repository.from_bytes(f"old/{number}", b"1")
    assert shell("rm", "old/*").code == 0
    assert shell("put", "new", given=b"new").code == 0
    with Terminal(folder, "push") as terminal:
        terminal.until(lambda t: "11 keys would be deleted upstream" in t.text)
        assert not repository.exists("new")
        terminal.type(f"{answer}\r")
        assert terminal.ended() == (3 if left else 0), terminal.text
    assert repository.exists("new")
    assert len(list(repository.glob("old/*"))) == left
    # A number that was named is no question.
    with Terminal(folder, "push", "--max-delete", "11") as terminal:
        assert terminal.ended() == 0
    assert "would be" not in terminal.text
    assert not list(repository.glob("old/*"))


@pytest.mark.parametrize("words", [[], ["old/*"], ["--group", "tidy"]])
def test_a_push_that_deletes_many_keys_refuses_that_where_nobody_can_be_asked(
    shell: Shell, repository: DiskCacheStore, words: list[str]
) -> None:
    for number in range(11):
        repository.from_bytes(f"old/{number}", b"1")
    assert shell("rm", "old/*", "--group", "tidy").code == 0
    refused = shell("push", *words)
    assert refused.code == 3
    assert "--max-delete 11" in refused.text
    assert len(list(repository.glob("old/*"))) == 11
    # Who names each key means it.
    assert shell("push", *(f"old/{number}" for number in range(11))).code == 0
    assert not list(repository.glob("old/*"))
