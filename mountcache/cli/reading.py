"""The commands that read: ls, get, cat, prefetch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, asking_for, one_line
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    opened,
    pairs,
    progress,
    show,
    spelled,
    tell,
)

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore

__all__ = ["cat", "get", "ls", "prefetch"]

_PIECE = 1048576


@click.command()
@click.argument("pattern", default="*")
@click.option("-l", "--long", "long", is_flag=True, help="Metadata beside each key.")
@click.option(
    "--meta", "meta", metavar="NAME=TEXT", multiple=True, help="Only keys with this metadata."
)
@config_option
@json_option
def ls(pattern: str, long: bool, meta: tuple[str, ...], as_json: bool) -> None:
    """List the keys that match PATTERN ("*" crosses "/"), one a line.

    Staged edits count: what is deleted here isn't listed, what is added is.
    """
    where = pairs(meta, "--meta")
    with opened() as store:
        for key, metadata in _matching(store, pattern, where):
            if as_json:
                show({"key": key, "metadata": metadata})
            elif long:
                tell(f"{key}\t{spelled(metadata)}")
            else:
                tell(key)


def _matching(
    store: MountedStore, pattern: str, where: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import fnmatch
    import re

    matches = re.compile(fnmatch.translate(pattern)).match
    return (pair for pair in store.query(**where) if matches(pair[0]))


@click.command()
@click.argument("key")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help='Where to write: a file, a folder, or "-" for standard output. '
    "A file of the key's last name here if it isn't told.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite the file if its name wasn't told.")
@config_option
@json_option
def get(key: str, output: str | None, force: bool, as_json: bool) -> None:
    """Write the data of KEY to a file."""
    if output == "-":
        if as_json:
            raise click.UsageError("--json and -o - would share standard output; say -o FILE")
        _to_stdout(key)
        return
    target = _target(key, output, force=force)
    with opened() as store, asking_for(key), progress(f"get {key}", in_bytes=True) as step:
        from mountcache.events import StoreProgressStepEvent

        value = store.get(key)
        total = -1 if value.size is None else value.size
        store.event_manager.connect(
            StoreProgressStepEvent, lambda event: step(event.step, total, "")
        )
        told = {
            "key": key,
            "file": str(target),
            "source": value.source,
            "stale": value.stale,
            "version": value.version,
            "metadata": value.metadata,
        }
        store.to_file(key, target)
    size = target.stat().st_size
    if as_json:
        show({**told, "size": size})
    else:
        tell(one_line(f"{key} -> {target} ({amount(size)})"))


def _target(key: str, output: str | None, *, force: bool) -> Path:
    """Return the file to write; one whose name wasn't told isn't overwritten."""
    from mountcache.errors import ConfigurationError

    if output is not None and not Path(output).is_dir():
        if not Path(output).parent.is_dir():
            raise ConfigurationError(f"{output!r}: there is no folder {str(Path(output).parent)!r}")
        return Path(output)
    name = key.rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise ConfigurationError(f"{key!r} ends in no name for a file; say -o FILE")
    target = Path(output or "", name)
    if output is None and target.exists() and not force:
        raise ConfigurationError(
            f"{str(target)!r} is there already; say --force to overwrite it, or -o FILE"
        )
    return target


@click.command()
@click.argument("key")
@config_option
def cat(key: str) -> None:
    """Write the data of KEY to standard output."""
    _to_stdout(key)


def _to_stdout(key: str) -> None:
    with opened() as store, asking_for(key), store.get_data(key) as data:
        out = sys.stdout.buffer
        while piece := data.read(_PIECE):
            out.write(piece)
        out.flush()


@click.command()
@click.argument("pattern", default="*")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="At once."
)
@config_option
@json_option
@click.pass_context
def prefetch(ctx: click.Context, pattern: str, workers: int, as_json: bool) -> None:
    """Fetch all keys that match PATTERN, for reading offline.

    What doesn't fit is refused before anything is fetched.
    """
    from mountcache.sync import prefetch as fetch_all

    with opened() as store, progress("prefetch") as step:
        report = fetch_all(store, pattern, workers=workers, progress=step)
    if as_json:
        show(
            {
                "fetched": report.fetched,
                "already": report.already,
                "bytes": report.bytes,
                "failed": report.failed,
            }
        )
    else:
        tell(
            f"{report.fetched:,} fetched ({amount(report.bytes)}), "
            f"{report.already:,} here already, {len(report.failed):,} failed"
        )
        for key, why in report.failed.items():
            click.echo(one_line(f"mountcache: {key}: {why}"), err=True)
    ctx.exit(Code.ERROR if report.failed else Code.DONE)
