"""The commands about what happened, and what is held back: log, watch, hold, unhold."""

from __future__ import annotations

import datetime
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from mountcache.cli.codes import one_line
from mountcache.cli.naming import exact_option, group_option, like, pattern_of
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
    from mountcache.local.history import Logged
    from mountcache.mounted import MountedStore

__all__ = ["hold", "log", "unhold", "watch"]

_COLORS: Final = {
    "pushed": "green", "failed": "red", "upstream": "cyan", "reverted": "yellow",
    "given up": "yellow", "resolved": "yellow",
}  # fmt: skip
_LOOK: Final = 0.5
"""Seconds between two looks for what others did."""


@click.command()
@click.argument("key", required=False)
@click.option(
    "--number", "-n", type=click.IntRange(1), default=50, show_default=True,
    help="How many of the latest.",
)  # fmt: skip
@config_option
@json_option
def log(key: str | None, number: int, as_json: bool) -> None:
    """Show what happened here, the latest first: to KEY, or to all.

    What was staged, reverted, resolved and pushed, by whom, and what is known to have changed
    upstream. The last 100,000 records are kept.
    """
    with opened() as store:
        # Others may add to it meanwhile.
        found = deque(store.log(key, last=number), maxlen=number)
    for each in reversed(found):
        if as_json:
            show(asdict(each))
        else:
            tell(_line(each))
    if not found and not as_json:
        tell("nothing happened yet" if key is None else one_line(f"nothing happened to {key}"))


def _line(each: Logged) -> str:
    when = datetime.datetime.fromtimestamp(each.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    what = click.style(f"{each.what:<8}", fg=_COLORS.get(each.what))
    told = [each.kind or "", "" if each.size is None else amount(each.size), each.author or ""]
    if each.grade is not None:
        told.append(f"grade {each.grade}")
    if each.what in ("pushed", "upstream") and each.version is not None:
        told.append(f"version {each.version[:12]}")
    more = ", ".join(filter(None, told))
    said = f"  {one_line(each.note)}" if each.note else ""
    key = "" if each.key is None else f" {one_line(each.key)}"
    return f"{when}  {what}{key}  {f'({one_line(more)})' if more else ''}{said}"


@click.command()
@click.argument("pattern", default="*")
@click.option(
    "--exec", "command", metavar="CMD",
    help="Run CMD with the shell for each, which is JSON on its input and MOUNTCACHE_KEY.",
)  # fmt: skip
@exact_option
@config_option
@json_option
def watch(pattern: str, command: str | None, exact: bool, as_json: bool) -> None:
    """Show what happens to keys that match PATTERN, by any process, until interrupted."""
    wanted = pattern_of(pattern, exact=exact)
    with opened() as store:
        if not as_json:
            note("watching; Ctrl-C ends it")
        for each in _happening(store, threading.Event()):
            if each.key is not None and not like([each.key], wanted):
                continue
            if as_json:
                show(asdict(each))
            else:
                tell(_line(each))
            if command is not None:
                _run(command, each)


def _run(command: str, each: Logged) -> None:
    # The shell gets what the user typed, and no name from elsewhere.
    subprocess.run(  # noqa: S602
        command,
        shell=True,
        check=False,
        text=True,
        input=spelled(asdict(each)),
        env={**os.environ, "MOUNTCACHE_KEY": each.key or ""},
    )


def _happening(store: MountedStore, stop: threading.Event) -> Iterable[Logged]:
    _, token = store.changes()
    while not stop.wait(_LOOK):
        found, token = store.changes(token)
        yield from found


def _held(verb: str, said: str) -> Callable[..., None]:
    def act(words: tuple[str, ...], group: str | None, exact: bool, as_json: bool) -> None:
        from mountcache.cli.shipping import in_group, staged_ones

        if not words and group is None:
            raise click.UsageError("name what is meant: KEY, PATTERN or --group NAME")
        with opened() as store:
            keys = staged_ones(store, words, exact=exact) if words else None
            keys = keys or [] if group is None else in_group(store, group, keys)
            found = getattr(store, verb)(*keys)
        named = set(keys)
        for key in found:
            if as_json:
                show({"key": key, "held": verb == "hold"})
            else:
                with_it = "" if key in named else " (it belongs to what was named)"
                tell(one_line(f"{said}: {key}{with_it}"))

    return act


def _command(verb: str, said: str, text: str) -> click.Command:
    function: Callable[..., None] = _held(verb, said)
    function.__doc__ = text
    for option in (json_option, config_option, exact_option, group_option):
        function = option(function)
    function = click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")(function)
    return click.command(name=verb)(function)


hold = _command(
    "hold",
    "held back",
    """Hold staged edits back: no push sends them until `mountcache unhold`.

    What belongs together is held together: one key of a group holds all of it. What is edited
    again stays held, and so does what comes into a group that is.
    """,
)
unhold = _command(
    "unhold",
    "to be pushed",
    "Let staged edits go that `mountcache hold` holds back, and what belongs to them.",
)
