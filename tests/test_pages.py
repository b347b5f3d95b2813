"""The cheat sheet and the page for users of other tools: what they name of ours, there is."""

from __future__ import annotations

import inspect
import re
import shlex

import click
import pytest

import mountcache
from mountcache.cli.app import app
from mountcache.cli.codes import Code
from mountcache.config import Settings
from mountcache.mounted import MountedStore
from mountcache.sync.report import POLICIES
from tests.command import ROOT

PAGES = ("cheatsheet.md", "coming-from.md")
SPAN = re.compile(r"`([^`\n]+)`")


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def _spans() -> list[tuple[str, str]]:
    return [(name, span) for name in PAGES for span in dict.fromkeys(SPAN.findall(_page(name)))]


COMMANDS = [(name, span) for name, span in _spans() if span.startswith("mountcache ")]


def _parsed(line: str) -> tuple[click.Command, dict[str, object]]:
    """Parse a command line as the program does, up to where it would begin its work."""
    _, *words = shlex.split(line)
    command: click.Command = app
    while isinstance(command, click.Group):
        context = click.Context(command)
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        command = found
    options, left, _ = command.make_parser(click.Context(command)).parse_args(words)
    assert not left, f"words too many: {left}"
    for each in command.params:
        value = options.get(each.name or "")
        if isinstance(each.type, click.Choice) and isinstance(value, str) and not value.isupper():
            each.type.convert(value, each, click.Context(command))
    return command, options


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_commands_and_options_exist(name: str, line: str) -> None:
    _parsed(line)


def test_what_does_not_exist_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        _parsed("mountcache push --onconflict mine")
    with pytest.raises(click.UsageError):
        _parsed("mountcache shove KEY")
    with pytest.raises(click.UsageError):
        _parsed("mountcache offline perhaps")
    with pytest.raises(AssertionError):
        _parsed("mountcache cat one two")


def test_cheat_sheet_has_the_verbs_of_the_day() -> None:
    named = {line.split()[1] for page, line in COMMANDS if page == "cheatsheet.md"}
    rare = {
        "backup", "completion", "config", "demo", "index", "logout", "man", "migrate", "rebind",
        "restore", "unpin", "whereis",
    }  # fmt: skip
    assert named | rare == set(app.commands)
    assert not named & rare


def test_cheat_sheet_says_the_policies_and_the_exit_codes() -> None:
    page = _page("cheatsheet.md")
    for policy in POLICIES:
        name = {"ours": "mine", "theirs": "upstream"}.get(policy, policy)
        assert f"`{name}`" in page
    (codes,) = re.findall(r"^\| (0 \|.*) \|$", page, re.MULTILINE)
    assert {int(code) for code in codes.split(" | ")} < {int(code) for code in Code}


def test_names_of_python_and_of_the_file_exist() -> None:
    page = _page("coming-from.md")
    for called in re.findall(r"`store\.(\w+)\(", page):
        assert callable(getattr(MountedStore, called)), called
    for called, argument in re.findall(r"`mountcache\.(\w+)\((\w+)=", page):
        assert argument in inspect.signature(getattr(mountcache, called)).parameters
    for key in re.findall(r"`(\w+)` in `mountcache.toml`", page):
        assert hasattr(Settings, key) or key in Settings.__dataclass_fields__, key


def test_own_options_in_the_text_exist() -> None:
    """Those that stand by themselves in the third column, or in a sentence."""
    ours = {option for _, command in _all(app) for each in command.params for option in each.opts}
    ours |= {option for _, c in _all(app) for each in c.params for option in each.secondary_opts}
    for row in re.findall(r"^\|.*\|$", _page("coming-from.md"), re.MULTILINE):
        *_, third = row.strip("|").split("|")
        for span in SPAN.findall(third):
            if span.startswith("-"):
                assert span in ours, row


def _all(group: click.Group) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        found += _all(command) if isinstance(command, click.Group) else [(name, command)]
    return found
