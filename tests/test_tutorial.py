"""docs/tutorial.md, word for word: typed into a shell, and what is shown compared with the page."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests.command import ROOT, TIME, environment, words
from tests.faultserver import listening

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
PORT = "8800"
"""The port that the page names; another one is taken here, since it may be in use."""
HOME = "/home/you"
"""The folder in which the page begins."""

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)

VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?"), "TIME"),
    (re.compile(r"\bjust now\b|\b\d+ (minute|hour)s? ago\b"), "AGE"),
)
"""What differs from run to run, and what stands for it in the comparison; nothing else may."""


class Step(NamedTuple):
    """A command of the page, and what it says there."""

    line: int
    command: str
    shown: list[str]


def steps(page: str) -> Iterator[Step]:
    """Give the commands of the page, in their order."""
    for block in BLOCK.finditer(page):
        line = page.count("\n", 0, block.start(1)) + 1
        step: Step | None = None
        for text in block[1].splitlines():
            if text.startswith("$ "):
                if step is not None:
                    yield step
                step = Step(line, text[2:], [])
            else:
                assert step is not None, f"line {line}: a block begins with a command"
                step.shown.append(text)
            line += 1
        if step is not None:
            yield step


class Bash:
    """A shell that reads what is typed, in a folder of its own; `mountcache` is on its path."""

    def __init__(self, folder: Path) -> None:
        path = folder / "bin"
        path.mkdir(parents=True)
        program = path / "mountcache"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words())} "$@"\n')
        program.chmod(0o700)
        home = folder / "home"
        home.mkdir()
        env = environment(HOME=str(home), LC_ALL="C.UTF-8", PAGER="cat")
        env["PATH"] = f"{path}:{env['PATH']}"
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=home,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, command: str) -> list[str]:
        """Run a command to its end; return the lines that it writes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        end = f"end-{uuid.uuid4().hex}"
        # The next command may ask for the exit code of this one.
        self._process.stdin.write(f'{command}\n_code=$?; echo "{end}"; (exit $_code)\n')
        self._process.stdin.flush()
        shown: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n").endswith(end):
                last = line.rstrip("\n").removesuffix(end)
                return [*shown, last] if last else shown
            shown.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended at {command!r}: {shown}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("kill $(jobs -p) 2>/dev/null; wait\n")
        self._process.stdin.close()
        self._process.wait(TIME)
        assert self._process.stdout is not None
        self._process.stdout.close()


def normal(line: str) -> str:
    """Return a line without what differs from run to run."""
    for pattern, name in VARIES:
        line = pattern.sub(name, line)
    return line.rstrip()


def until_it_listens(port: int) -> None:
    """Wait for the server that was just started in the background."""
    ends = time.monotonic() + TIME
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=TIME).close()
        except ConnectionRefusedError:
            assert time.monotonic() < ends
            time.sleep(0.02)
        else:
            return


def played(page: str, folder: Path) -> Iterator[tuple[Step, list[str]]]:
    """Type the commands of a page; give each with what was shown."""
    with listening() as free:
        port = free.getsockname()[1]
    with Bash(folder) as shell:
        for step in steps(page):
            shown = shell(step.command.replace(PORT, str(port)))
            if step.command.endswith("&"):
                until_it_listens(port)
            yield (
                step,
                [
                    line.replace(str(port), PORT).replace(str(folder / "home"), HOME)
                    for line in shown
                ],
            )


def test_tutorial_shows_what_is_shown(tmp_path: Path) -> None:
    count = 0
    for step, shown in played(PAGE, tmp_path):
        expected = [normal(line) for line in step.shown]
        assert [normal(line) for line in shown] == expected, f"line {step.line}: {step.command}"
        count += 1
    assert count > 40


@pytest.mark.parametrize(
    "verb",
    [
        "init", "ls", "cat", "prefetch", "offline", "put", "meta", "status", "diff", "push",
        "resolve", "undo", "revert", "apply", "pull", "log", "bundle", "lock",
    ],
)  # fmt: skip
def test_tutorial_has_the_verb(verb: str) -> None:
    assert any(f"mountcache {verb}" in step.command for step in steps(PAGE))
