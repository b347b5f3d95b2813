"""Many keys at once: ``get PATTERN -o DIR`` and ``put -r DIR``."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mountcache.cli.codes import Code, NoSuchKeyError, one_line
from mountcache.cli.naming import nothing_matches
from mountcache.cli.session import amount, configured, note, opened, progress, show, tell

__all__ = ["get_tree", "put_tree"]

_SHOWN = 10


def get_tree(pattern: str, directory: str, *, force: bool, as_json: bool) -> Code:
    """Write the keys that match a pattern as files below a folder; return the exit code."""
    from mountcache.cli.interrupting import interruptible
    from mountcache.sync import export_tree

    with opened() as store:
        cut = store.backing_store.disconnect
        said = "interrupted: files that are whole stay, and a further get goes on"
        with progress("get") as step, interruptible(said, cut, at_once=True):
            report = export_tree(store, pattern, directory, force=force, progress=step)
        if not (report.written or report.already or report.failed):
            raise nothing_matches(pattern, is_key=store.exists)
    if as_json:
        show(
            {
                "directory": directory,
                "written": report.written,
                "already": report.already,
                "bytes": report.bytes,
                "failed": dict(report.failed),
            }
        )
    else:
        there = f", {report.already:,} there already" if report.already else ""
        failed = f", {len(report.failed):,} failed" if report.failed else ""
        tell(
            f"{report.written:,} written to {one_line(directory)} "
            f"({amount(report.bytes)}){there}{failed}"
        )
        _tell_some(f"{key}: {why}" for key, why in report.failed.items())
        if any("with other bytes" in why for why in report.failed.values()):
            note("next: --force replaces files that have other bytes")
    return Code.ERROR if report.failed else Code.DONE


def _tell_some(lines: Iterable[str]) -> None:
    """Print the first of some lines, and how many more there are."""
    every = list(lines)
    for line in every[:_SHOWN]:
        note(one_line(f"mountcache: {line}"))
    if len(every) > _SHOWN:
        note(f"mountcache: and {len(every) - _SHOWN:,} more; --json names all")


def put_tree(
    directory: str,
    prefix: str,
    metadata: Mapping[str, Any],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    hidden: bool,
    group: str | None,
    as_json: bool,
) -> None:
    """Stage the files below a folder, in one commit."""
    from mountcache.sync import import_tree

    if not Path(directory).is_dir():
        raise click.UsageError(f"{directory!r} is no folder; without -r: mountcache put KEY FILE")
    left: dict[str, str] = {}
    with opened() as store, ExitStack() as stack:
        bar: list[Callable[[int, int, str], None]] = []

        def step(done: int, total: int, key: str) -> None:
            if not bar:
                # All that is left out is known by now, and nothing is written yet.
                if not as_json:
                    _tell_left_out(left)
                bar.append(stack.enter_context(progress("put")))
            bar[0](done, total, key)

        stack.enter_context(store.transaction(f"put -r {directory}", group=group))
        report = import_tree(
            store,
            directory,
            prefix,
            metadata,
            include=include,
            exclude=[*exclude, *_own(Path(directory))],
            hidden=hidden,
            progress=step,
            left_out=left.__setitem__,
        )
    if as_json:
        show(
            {
                "directory": directory,
                "staged": report.staged,
                "unchanged": report.unchanged,
                "bytes": report.bytes,
                "left_out": left,
            }
        )
    if not (report.staged or report.unchanged):
        _tell_left_out(left)
        raise NoSuchKeyError(f"no file in {directory!r} is to be staged; nothing was")
    if as_json:
        return
    same = f", {report.unchanged:,} unchanged" if report.unchanged else ""
    tell(f"staged {report.staged:,} ({amount(report.bytes)}){same}")
    if report.staged:
        note("next: `mountcache status` shows them, `mountcache push` sends them")


def _tell_left_out(left: Mapping[str, str]) -> None:
    _tell_some(f"left out {path}: {why}" for path, why in left.items())
    if "hidden" in left.values():
        note("next: --hidden takes hidden files too")


def _own(directory: Path) -> list[str]:
    """Return the pattern of our configuration, if it lies there: it is no data."""
    path, _ = configured()
    try:
        below = path.resolve().relative_to(directory.resolve())
    except ValueError:
        return []
    return [glob.escape(str(below))]
