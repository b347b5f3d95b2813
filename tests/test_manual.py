"""Examples in --help, and manual pages made of the same texts."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from mountcache.cli.app import app
from mountcache.cli.completing import commands
from mountcache.cli.examples import EXAMPLES
from mountcache.cli.manual import pages
from tests.command import TIME, Inside

EVERY = dict(commands(app))


def test_each_command_has_an_example_and_each_example_a_command() -> None:
    assert set(EXAMPLES) == set(EVERY), "mountcache/cli/examples.py"
    for name, command in EVERY.items():
        helped = command.get_help(click.Context(command, info_name=name))
        for line in EXAMPLES[name]:
            assert f"  {line}" in helped


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_a_command_line_that_can_be(name: str) -> None:
    for line in EXAMPLES[name]:
        found = 0
        inside = re.search(r"\$\((.*)\)", line)
        for part in re.split(r" && | \| ", inside[1] if inside else line):
            words = shlex.split(part)
            if words[0] != "mountcache":
                continue
            found += 1
            command: click.Command = app
            rest = words[1:]
            while isinstance(command, click.Group):
                command = command.commands[rest.pop(0)]
            command.make_context("mountcache", rest)  # a usage error is raised
        assert found, line


def test_each_command_has_a_page_with_all_that_click_knows_of_it() -> None:
    made = dict(pages(app))
    assert set(made) == {
        "mountcache.1",
        *(f"mountcache-{name.replace(' ', '-')}.1" for name in EVERY),
    }
    for name, command in EVERY.items():
        text = made[f"mountcache-{name.replace(' ', '-')}.1"].replace("\\-", "-")
        context = click.Context(command)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option in text for option in parameter.opts), (name, parameter)
            elif isinstance(parameter, click.Argument):
                assert parameter.make_metavar(context) in text.replace("\\(ha", "^")
        above, _, word = f"mountcache {name}".rpartition(" ")
        above_page = made[f"{above.replace(' ', '-')}.1"].replace("\\-", "-")
        assert f"{above.replace(' ', '-')}-{word}" in above_page


def test_pages_are_written_and_are_well_formed(tmp_path: Path) -> None:
    ended = Inside(tmp_path)("man", "man1")
    assert ended.code == 0, ended.err
    written = sorted((tmp_path / "man1").iterdir())
    assert len(written) == len(EVERY) + 1
    if shutil.which("groff"):
        ended_ = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", *map(str, written)],
            capture_output=True, text=True, timeout=TIME, check=False,
        )  # fmt: skip
        assert (ended_.returncode, ended_.stderr) == (0, "")
    if shutil.which("mandoc"):
        ended_ = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "warning", *map(str, written)],
            capture_output=True, text=True, timeout=TIME, check=False,
        )  # fmt: skip
        # That a page has no date is meant: it would change with each day.
        found = [line for line in ended_.stdout.splitlines() if "date" not in line]
        assert found == []
