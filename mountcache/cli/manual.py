"""Manual pages, made of what the commands say of themselves: man."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator

import click

from mountcache import __version__
from mountcache.cli.codes import TABLE
from mountcache.cli.completing import commands
from mountcache.cli.examples import EXAMPLES
from mountcache.cli.session import note, tell

__all__ = ["man", "pages"]


@click.command()
@click.argument("folder", metavar="DIR")
def man(folder: str) -> None:
    """Write manual pages of all commands into DIR: mountcache.1, mountcache-push.1 and so on."""
    from mountcache.cli.app import app

    os.makedirs(folder, exist_ok=True)
    count = 0
    for name, text in pages(app):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        count += 1
    tell(f"{count} pages in {folder}")
    note("next: `man mountcache`, if `manpath` names the folder above")


def pages(app: click.Group) -> Iterator[tuple[str, str]]:
    """Iterate over the names and texts of the pages, the one of `app` first."""
    every = dict(commands(app))
    yield "mountcache.1", _page("", app, [name for name in every if " " not in name])
    for name, command in every.items():
        below = [each for each in every if each.startswith(f"{name} ")]
        yield f"{_dashed(name)}.1", _page(name, command, below)


def _dashed(name: str) -> str:
    return "-".join(["mountcache", *name.split()])


def _page(name: str, command: click.Command, below: list[str]) -> str:
    """Return the page of a command in man(7)."""
    context = click.Context(command, info_name=f"mountcache {name}".strip())
    said = inspect.cleandoc(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    first = re.split(r"\.\s|\.$|:\s", said.partition("\n\n")[0].replace("\n", " "))[0]
    lines = [
        f'.TH "{_dashed(name).upper()}" 1 "" "mountcache {__version__}" "mountcache"',
        ".SH NAME",
        f"{_dashed(name)} \\- {_text(first[0].lower() + first[1:])}",
        ".SH SYNOPSIS",
        f"\\fB{_text(context.info_name or '')}\\fR {_text(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(said),
    ]
    options = [
        record
        for each in command.get_params(context)
        if isinstance(each, click.Option) and (record := each.get_help_record(context)) is not None
    ]
    if options:
        lines.append(".SH OPTIONS")
        for option, help_text in options:
            lines += [".TP", f"\\fB{_text(option)}\\fR", _text(help_text)]
    if below:
        lines.append(".SH COMMANDS")
        for each in below:
            lines += [".TP", f"\\fB{_text(_dashed(each))}\\fR(1)", _text(_summary(context, each))]
    if examples := EXAMPLES.get(name, ()):
        lines += [".SH EXAMPLES", ".EX", *(f"$ {_text(each)}" for each in examples), ".EE"]
    if not name:
        lines.append(".SH EXIT STATUS")
        for code, meaning in TABLE:
            lines += [".TP", f"\\fB{int(code)}\\fR", _text(meaning)]
        lines += [".SH FILES", ".TP", "mountcache.toml", _FILE]
    else:
        lines += [".SH SEE ALSO", "\\fBmountcache\\fR(1), which names the exit codes"]
    return "\n".join(lines) + "\n"


_FILE = (
    "what is mounted; the nearest one, in the folder or above, unless \\-\\-config names another"
)


def _summary(context: click.Context, name: str) -> str:
    found = context.command
    for word in name.split()[len((context.info_name or "").split()) - 1 :]:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found.get_short_help_str(200)


def _paragraphs(said: str) -> Iterator[str]:
    """Iterate over the lines of a help text; what \\b stands before keeps its own."""
    for number, paragraph in enumerate(said.split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield ".EX"
            yield from (_text(line) for line in paragraph[2:].splitlines())
            yield ".EE"
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Return text as roff has it."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    text = text.replace('"', "\\(dq").replace("~", "\\(ti").replace("^", "\\(ha")
    # A line that begins so is a request.
    return f"\\&{text}" if text.startswith(".") else text
