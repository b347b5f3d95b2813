"""What the commands share: the configuration, output for people and for scripts, progress."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mountcache.cli.codes import one_line

if TYPE_CHECKING:
    from mountcache.config import Settings
    from mountcache.mounted import MountedStore

__all__ = [
    "amount",
    "bwlimit_option",
    "by_hand",
    "color",
    "config_option",
    "configured",
    "configured_mounts",
    "json_option",
    "named_file",
    "named_mount",
    "note",
    "opened",
    "progress",
    "show",
    "spelled",
    "tell",
    "write_whole",
]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_CONFIG = "mountcache.config"
_SOON = 2.0
_MOUNT = "mountcache.mount"


def _remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[f"mountcache.{parameter.name}"] = value


def config_option(function: _Decorated) -> _Decorated:
    """Give a command ``--config FILE`` and ``--mount NAME``."""
    mount = click.option(
        "--mount",
        metavar="NAME",
        expose_value=False,
        callback=_remember,
        help="Which of several mounts in the file.",
    )
    return click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="Use this file, not the nearest mountcache.toml here or above.",
    )(mount(function))


def json_option(function: _Decorated) -> _Decorated:
    """Give a command ``--json``, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a line.")(
        function
    )


def configured_mounts() -> dict[str, Settings]:
    """Return the mounts of mountcache.toml by name, or the one that ``--mount`` names."""
    from mountcache.config import find_file, read_mounts, read_settings

    meta = click.get_current_context().meta
    path, mount = find_file(meta.get(_CONFIG)), meta.get(_MOUNT)
    return read_mounts(path) if mount is None else {mount: read_settings(path, mount=mount)}


def _rate(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        from mountcache.backing.limits import parse_rate
        from mountcache.errors import ConfigurationError

        try:
            parse_rate(value, "RATE")
        except ConfigurationError as error:
            raise click.BadParameter(str(error)) from None
    return value


def bwlimit_option(function: _Decorated) -> _Decorated:
    """Give a command ``--bwlimit RATE``, as the parameter `bwlimit`."""
    return click.option(
        "--bwlimit",
        metavar="RATE",
        callback=_rate,
        help='Bytes a second: "512k", "10M", "off", or a timetable "08:00,512k 18:00,off".',
    )(function)


def named_file() -> Path:
    """Return the mountcache.toml to use, which nobody has read yet."""
    from mountcache.config import find_file

    return find_file(click.get_current_context().meta.get(_CONFIG))


def named_mount() -> str | None:
    """Return the mount that ``--mount`` names."""
    mount: str | None = click.get_current_context().meta.get(_MOUNT)
    return mount


def configured() -> tuple[Path, Settings]:
    """Return the mountcache.toml to use, and what it says of the mount that was named."""
    from mountcache.config import find_file, read_settings

    meta = click.get_current_context().meta
    path = find_file(meta.get(_CONFIG))
    return path, read_settings(path, mount=meta.get(_MOUNT))


def by_hand(settings: Settings) -> Settings:
    """Return settings with which nothing is pushed in the background."""
    if settings.push is None:
        return settings
    return replace(settings, push=replace(settings.push, mode="manual"))


@contextmanager
def opened() -> Iterator[MountedStore]:
    """Open the store that mountcache.toml describes; its errors say what to do here."""
    from mountcache.cli.advice import with_advice
    from mountcache.config import open_store

    path, settings = configured()
    with with_advice(path, settings):
        # A command that is soon over pushes nothing unasked.
        store = open_store(by_hand(settings))
        try:
            yield store
        finally:
            store.disconnect()


def color() -> bool | None:
    """Return whether the environment wants colours; None: on terminals.

    NO_COLOR (no-color.org) counts more than CLICOLOR_FORCE (bixense.com/clicolors).
    """
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("CLICOLOR_FORCE", "0") != "0" else None


def tell(line: str) -> None:
    """Print a line of the result."""
    click.echo(line)


def show(document: object) -> None:
    """Print a JSON document on a line of its own."""
    click.echo(spelled(document))


def spelled(document: object) -> str:
    """Return JSON on one line, in which nothing is a command to a terminal."""
    text = json.dumps(document, ensure_ascii=False)
    # JSON itself asks for an escape below U+0020 only.
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def write_whole(file: str, text: str) -> None:
    """Write a file so that it is there whole, or as it was before."""
    path = Path(file)
    there = path.with_name(f".{path.name}.{os.getpid()}~")
    try:
        with open(there, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileNotFoundError):
            there.chmod(path.stat().st_mode & 0o7777)
        os.replace(there, path)
    finally:
        there.unlink(missing_ok=True)


def note(line: str) -> None:
    """Print a line that isn't the result, on standard error."""
    click.echo(line, err=True)


def amount(size: float | None) -> str:
    """Return a number of bytes as people say it."""
    if size is None:
        return "? bytes"
    if size < 1000:
        return f"{size:.0f} byte{'' if size == 1 else 's'}"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:,.3g} TB"


@contextmanager
def progress(what: str, *, in_bytes: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """Show how far something is: a bar on a terminal, a line each tenth in a pipe.

    Gives what is called as ``(done, total, key)``, from any thread; `total` is -1 if it isn't
    known.
    """
    if not sys.stderr.isatty():
        yield _Tenths(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    # One line, however narrow the terminal is: of a long key the beginning is shown.
    text = TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
    )
    width = Column(min_width=4, max_width=40, ratio=1)
    columns = (text, BarColumn(None, table_column=width), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(what, total=None)

        def step(done: int, total: int, key: str) -> None:
            shown = one_line(f"{what} {key}") if key else what
            bar.update(
                task, completed=done, total=None if total < 0 else total, description=shown[:60]
            )

        yield step


class _Tenths:
    """Progress for a pipe."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = 0
        self._begun = time.monotonic()

    def __call__(self, done: int, total: int, key: str) -> None:
        tenth = done * 10 // total if total > 0 else 0
        # What is soon over needs no lines.
        if tenth > self._told and time.monotonic() - self._begun > _SOON:
            self._told = tenth
            note(f"{self._what}: {done:,} of {total:,}")
