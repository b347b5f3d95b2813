"""The command that brings what is here up to date: pull."""

from __future__ import annotations

import dataclasses

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import exact_option, pattern_of
from mountcache.cli.session import (
    amount,
    bwlimit_option,
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
)
from mountcache.cli.status import next_for_conflicts

__all__ = ["pull"]


@click.command()
@click.argument("pattern", default="*")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    show_default="8, more where answers take long",
    help="At once.",
)
@bwlimit_option
@exact_option
@config_option
@json_option
@click.pass_context
def pull(
    ctx: click.Context,
    pattern: str,
    workers: int | None,
    bwlimit: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Bring the index, and the copies that are here, up to date.

    Staged edits stay as they are, and so does what they were made from: those that upstream has
    changed since are named.
    """
    from mountcache.cli.interrupting import interruptible
    from mountcache.sync import pull as bring

    said = "interrupted: what is here by now stays, and a further pull goes on"
    with (
        opened() as store,
        progress("pull") as step,
        interruptible(said, store.backing_store.disconnect, at_once=True),
    ):
        wanted = pattern_of(pattern, exact=exact)
        found = bring(store, wanted, workers=workers, progress=step, bwlimit=bwlimit)
    if as_json:
        show(dataclasses.asdict(found))
    else:
        for key in found.updated:
            tell(f"updated: {one_line(key)}")
        for key in found.gone:
            tell(f"gone upstream: {one_line(key)}")
        for key in found.behind:
            tell(f"changed upstream, and staged here: {one_line(key)}")
        for key, why in found.failed.items():
            tell(f"failed: {one_line(key)}: {one_line(why)}")
        note(
            f"{len(found.updated):,} updated ({amount(found.bytes)}), {found.current:,} as they "
            f"were, {len(found.gone):,} gone"
        )
        if found.behind:
            note(next_for_conflicts(found.behind))
    ctx.exit(Code.ERROR if found.failed else Code.CONFLICT if found.behind else Code.DONE)
