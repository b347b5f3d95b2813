"""The commands about a local store as a whole: backup, restore, migrate."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.session import (
    amount,
    config_option,
    configured,
    json_option,
    note,
    show,
    tell,
)

if TYPE_CHECKING:
    from mountcache.local.backup import Saved

__all__ = ["backup", "migrate", "restore"]


@click.command()
@click.argument("dest")
@click.option("--staged-only", is_flag=True, help="Leave the clean copies out.")
@config_option
@json_option
@click.pass_context
def backup(ctx: click.Context, dest: str, staged_only: bool, as_json: bool) -> None:
    """Copy the local store to the new directory DEST, while others may use it.

    DEST is a store, too. It appears when all of it is there and on disk.
    """
    from mountcache.local.backup import backup as save

    _, settings = configured()
    saved = save(settings.dir, dest, staged_only=staged_only)
    _say(ctx, f"saved in {dest}", saved, as_json=as_json)
    if not as_json:
        note(one_line(f"next: `mountcache restore {shlex.quote(dest)} DIR` makes a store of it"))


@click.command()
@click.argument("src")
@click.argument("dir")
@json_option
@click.pass_context
def restore(ctx: click.Context, src: str, dir: str, as_json: bool) -> None:  # noqa: A002
    """Make the new local store DIR out of the backup SRC, which stays.

    What was being pushed when it was taken is asked after by the next push, so that nothing is
    sent twice.
    """
    from mountcache.local.backup import restore as bring_back

    _say(ctx, f"restored in {dir}", bring_back(src, dir), as_json=as_json)
    if not as_json:
        note("next: name it as `dir` in mountcache.toml, then `mountcache status`")


@click.command()
@click.option("--dry-run", is_flag=True, help="Try it, and change nothing.")
@config_option
def migrate(dry_run: bool) -> None:
    """Bring the local store to the newest format, which earlier versions can't read."""
    from mountcache.local.migrating import migrate as bring

    _, settings = configured()
    found, newest = bring(settings.dir, dry_run=dry_run)
    if found == newest:
        tell(one_line(f"{settings.dir} is of format {newest}, the newest"))
    else:
        done = "can be brought" if dry_run else "was brought"
        tell(one_line(f"{settings.dir} {done} from format {found} to format {newest}"))


def _say(ctx: click.Context, done: str, saved: Saved, *, as_json: bool) -> None:
    if as_json:
        show(dataclasses.asdict(saved))
    else:
        edits = f"{saved.edits:,} staged edit{'' if saved.edits == 1 else 's'}"
        copies = f"{saved.copies:,} clean cop{'y' if saved.copies == 1 else 'ies'}"
        tell(one_line(f"{done}: {edits}, {copies}, {amount(saved.size)}"))
    for key in saved.missing:
        note(one_line(f"the staged data of {key!r} had gone before: stage it again, or revert it"))
    if saved.missing:
        ctx.exit(Code.ERROR)
