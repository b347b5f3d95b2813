"""The commands that carry edits and copies on a stick: bundle export and bundle import."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mountcache.cli.codes import Code, NoSuchKeyError, one_line
from mountcache.cli.naming import chosen, exact_option, like
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
)

if TYPE_CHECKING:
    from mountcache.sync import BundleExport

__all__ = ["bundle"]

_SHOWN = 10


class _InOrder(click.Group):
    """A group that lists its commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder)
def bundle() -> None:
    """Carry staged edits, or cached copies, to another machine in one file."""


@bundle.command("export")
@click.argument("file")
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
@click.option(
    "--staged", "kind", flag_value="staged", default="staged", help="Staged edits: the default."
)
@click.option("--cached", "kind", flag_value="cached", help="Clean copies instead.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@exact_option
@config_option
@json_option
@click.pass_context
def export_(
    ctx: click.Context,
    file: str,
    words: tuple[str, ...],
    kind: Literal["staged", "cached"],
    force: bool,
    exact: bool,
    as_json: bool,
) -> None:
    """Write staged edits to FILE, a zip archive, for `bundle import` elsewhere.

    With them goes what they were made from, who made them, and their notes and groups; they stay
    staged here, too. The other half of a renaming comes along. With --cached it is the copies
    that are here, for reading there without the network. Asks nobody.

    \b
    Examples:
      mountcache bundle export /media/stick/edits.zip
      mountcache bundle export runs.zip 'runs/2025/*'
      mountcache bundle export papers.zip --cached 'papers/*'
    """
    from mountcache.sync import export_bundle

    with opened() as store:
        names = [edit.key for edit in store.staged()] if kind == "staged" else list(store.cached())
        what, listing = (
            ("nothing staged", "status") if kind == "staged" else ("no copy that is here", "ls -l")
        )
        keys = names
        if words:
            keys = chosen(
                words, lambda word: like(names, word),
                exact=exact, what=what, listing=listing, is_key=names.__contains__,
            )  # fmt: skip
        missing = sorted(set(keys) - set(names))
        if missing:
            said = "nothing is staged for" if kind == "staged" else "there is no copy here of"
            raise NoSuchKeyError(f"{said} {missing[0]!r}; `mountcache {listing}` lists what is")
        with progress("export", in_bytes=True) as step:
            report = export_bundle(store, file, keys, kind=kind, overwrite=force, progress=step)
    if as_json:
        show(
            {
                "file": file if report.keys else None,
                "kind": kind,
                "keys": report.keys,
                "bytes": report.bytes,
                "added": list(report.added),
                "unknown": list(report.unknown),
                "left_out": dict(report.left_out),
            }
        )
    else:
        _tell_export(report, file, kind)
    ctx.exit(Code.DONE if report.keys and not report.left_out else Code.ERROR)


def _tell_export(report: BundleExport, file: str, kind: str) -> None:
    if report.keys:
        what = "edit" if kind == "staged" else "cop"
        ending = {"edit": ("", "s"), "cop": ("y", "ies")}[what][report.keys != 1]
        tell(one_line(f"{report.keys:,} {what}{ending} in {file} ({amount(report.bytes)})"))
    elif not report.left_out:
        tell("nothing is staged" if kind == "staged" else "there are no copies here")
    for key in report.added:
        note(one_line(f"{key}: comes along, as half of a renaming"))
    for key in report.unknown:
        note(
            one_line(
                f"{key}: its push from here had no answer; a push from there compares, and sends "
                "nothing twice"
            )
        )
    for key, why in report.left_out.items():
        note(one_line(f"mountcache: {key} is left out: {why}"))
    if report.keys:
        note(one_line(f"next, there: `mountcache bundle import {shlex.quote(Path(file).name)}`"))
    elif not report.left_out:
        more = "put KEY FILE` stages an edit" if kind == "staged" else "prefetch` fetches some"
        note(f"no file was written; next: `mountcache {more}")


@bundle.command("import")
@click.argument("file")
@click.option("--again", is_flag=True, help="Also what was staged here before, and isn't any more.")
@config_option
@json_option
@click.pass_context
def import_(ctx: click.Context, file: str, again: bool, as_json: bool) -> None:
    """Stage the edits in FILE here, or keep the copies in it. Asks nobody.

    All of it is compared with its digests first. Edits are staged all or, if something else is
    staged here for one of their keys, none; nothing here is overwritten. To import a file twice
    changes nothing. Take files from people whose edits you would push: nothing proves who made
    one.
    """
    from mountcache.sync import BundleConflictError, import_bundle

    with opened() as store:
        try:
            with progress("import", in_bytes=True) as step:
                report = import_bundle(store, file, again=again, progress=step)
        except BundleConflictError as error:
            if as_json:
                show({"conflicts": dict(error.conflicts)})
            else:
                for key, why in error.conflicts.items():
                    tell(f"conflict: {one_line(key)}: {why}")
            raise
    if as_json:
        show(
            {
                "kind": report.kind,
                "imported": report.imported,
                "already": report.already,
                "bytes": report.bytes,
                "before": list(report.before),
                "left_out": dict(report.left_out),
            }
        )
        return
    done = "staged" if report.kind == "staged" else "kept"
    tell(f"{report.imported:,} {done} ({amount(report.bytes)}), {report.already:,} here already")
    for key in report.before[:_SHOWN]:
        note(one_line(f"{key}: was staged here before, and isn't any more; it stays so"))
    if len(report.before) > _SHOWN:
        note(f"and {len(report.before) - _SHOWN:,} more; --json names all")
    for key, why in report.left_out.items():
        note(one_line(f"mountcache: {key} isn't kept: {why}"))
    if report.before:
        note("next: `mountcache status`; --again stages also what was staged before")
    elif report.kind == "staged":
        note("next: `mountcache status`, then `mountcache push` where upstream is in reach")
    else:
        note("next: `mountcache ls`")
    ctx.exit(Code.ERROR if report.left_out else Code.DONE)
