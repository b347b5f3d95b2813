"""The command that shows what staged edits change: diff."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import click

from mountcache.cli.codes import one_line
from mountcache.cli.naming import exact_option, group_option
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    note,
    opened,
    show,
    spelled,
    tell,
)

if TYPE_CHECKING:
    from mountcache.sync import Difference, Shown

__all__ = ["diff"]

_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
@click.option("--stat", is_flag=True, help="One line a key: how much of it changes.")
@click.option(
    "--base", "against", flag_value="base", default="base",
    help="Beside what each edit was made from; asks nobody.  [default]",
)  # fmt: skip
@click.option("--upstream", "against", flag_value="upstream", help="Beside what upstream has now.")
@click.option("--theirs", "against", flag_value="upstream", hidden=True)
@group_option
@exact_option
@config_option
@json_option
def diff(
    words: tuple[str, ...],
    stat: bool,
    against: Literal["base", "upstream"],
    group: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Show what is staged beside what it was made from, or beside what upstream has now.

    Text line by line, metadata name by name, all other data by size and digest. A PATTERN is
    about what is staged.
    """
    from mountcache.cli.shipping import in_group, staged_ones
    from mountcache.sync import diff as compare

    with opened() as store:
        named = staged_ones(store, words, exact=exact) if words else None
        if group is not None:
            named = in_group(store, group, named)
        found = compare(store, named, against=against)
        if as_json:
            for each in found:
                show(_document(each))
        elif stat:
            _tell_stat(list(found))
        else:
            lines = (line for each in found for line in _lines(each))
            first = next(lines, None)
            if first is None:
                note("nothing is staged" if not words else "nothing differs")
            elif sys.stdout.isatty():
                # As git has it: what fits on the terminal needs no key to be pressed.
                os.environ.setdefault("LESS", "-FRX")
                click.echo_via_pager(f"{line}\n" for line in _again(first, lines))
            else:
                for line in _again(first, lines):
                    tell(line)


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _lines(found: Difference) -> Iterator[str]:
    other, mine = found.other.which, found.mine.which
    what = {"put": "", "meta": " (metadata)", "del": " (deleted)"}[found.kind]
    yield click.style(one_line(f"{other} -> {mine}: {found.key}{what}"), bold=True)
    if found.lines:
        yield from (click.style(_safe(line), fg=_COLORS.get(line[:1])) for line in found.lines)
    elif not found.same_data:
        yield click.style(f"-{_bytes(found.other)}", fg="red")
        yield click.style(f"+{_bytes(found.mine)}", fg="green")
    if found.other.metadata is None and found.other.present is not False:
        yield "the metadata that this was made from aren't known here"
    for name, pair in found.metadata.items():
        for sign, value in zip("-+", pair, strict=True):
            if not _missing(value):
                yield click.style(one_line(f"{sign}{name}: {spelled(value)}"), fg=_COLORS[sign])


def _safe(line: str) -> str:
    """Return a line of somebody's text in which nothing is a command to a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line
    )


def _bytes(shown: Shown) -> str:
    if shown.present is None:
        return "not known here: `mountcache diff --upstream` asks"
    if not shown.present:
        return "not there"
    digest = "digest unknown" if shown.sha256 is None else f"sha256 {shown.sha256[:12]}"
    return f"{amount(shown.size)}, {digest}"


def _missing(value: object) -> bool:
    from mountcache.sync import MISSING

    return value is MISSING


def _tell_stat(found: list[Difference]) -> None:
    width = max((len(one_line(each.key)) for each in found), default=0)
    for each in found:
        said = []
        if each.lines:
            said.append(
                f"{click.style(f'+{each.added}', fg='green')} "
                f"{click.style(f'-{each.removed}', fg='red')}"
            )
        elif not each.same_data:
            said.append(f"{_size(each.other)} -> {_size(each.mine)}")
        if each.metadata:
            count = len(each.metadata)
            said.append(f"{count} name{'' if count == 1 else 's'} of metadata")
        tell(f"{one_line(each.key).ljust(width)} | {', '.join(said) or 'the same'}")
    note(f"{len(found):,} staged")


def _size(shown: Shown) -> str:
    return "?" if shown.present is None else amount(shown.size) if shown.present else "nothing"


def _document(found: Difference) -> dict[str, Any]:
    return {
        "key": found.key,
        "kind": found.kind,
        "same_data": found.same_data,
        "lines": None if found.lines is None else list(found.lines),
        "metadata": {
            name: {
                side: value
                for side, value in zip((found.other.which, "mine"), pair, strict=True)
                if not _missing(value)
            }
            for name, pair in found.metadata.items()
        },
        found.other.which: _side(found.other),
        "mine": _side(found.mine),
    }


def _side(shown: Shown) -> dict[str, Any]:
    return {
        "present": shown.present,
        "size": shown.size,
        "sha256": shown.sha256,
        "version": shown.version,
        "metadata": None if shown.metadata is None else dict(shown.metadata),
    }
