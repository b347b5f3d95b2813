"""The commands about pushing that nobody looks on at: flush, and its pause."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.session import config_option, configured, json_option, note, opened, show, tell

if TYPE_CHECKING:
    from mountcache.errors import NotPushedError

__all__ = ["commands", "flush", "pause_or_resume"]


def commands() -> dict[str, Any]:
    """Return the commands of mountcache.toml around a push, as its parameters."""
    from mountcache.sync.commands import checked_by, told_to

    settings = configured()[1].push
    if settings is None:
        return {}
    return {"check": checked_by(settings), "after_push": told_to(settings)}


@click.command()
@click.option("--wait", is_flag=True, help="Go on until nothing is left.")
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="S", help="Go on for at most S seconds."
)
@config_option
@json_option
@click.pass_context
def flush(ctx: click.Context, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Push until nothing is left, or say what is.

    Tries each edit once; with --wait or --timeout what failed again, later and later. What waits
    for somebody isn't tried: conflicts, and what was refused. What is held back doesn't count.
    Ends with 0 if nothing is left, 2 if there are conflicts, 4 if upstream is out of reach, else 3.
    """
    from mountcache.cli.interrupting import interruptible
    from mountcache.errors import NotPushedError

    with opened() as store:
        said = "interrupted: ending what is in flight (again: at once)"
        with interruptible(said, store.backing_store.disconnect) as stop:
            left: NotPushedError | None = None
            try:
                store.flush(timeout if wait or timeout is not None else 0.0)
            except NotPushedError as error:
                left = error
    if as_json:
        keys, conflicts = ((), ()) if left is None else (left.left, left.conflicts)
        show({"left": list(keys), "conflicts": list(conflicts)})
    if left is None:
        if not as_json:
            tell("nothing is left to push")
        ctx.exit(Code.DONE)
    if not as_json:
        for key in left.left:
            tell(one_line(f"left: {key}"))
    note(one_line(str(left)))
    note(_next(left))
    ctx.exit(Code.INTERRUPTED if stop.is_set() else _code(left))


def _next(left: NotPushedError) -> str:
    if left.conflicts:
        named = shlex.quote(left.conflicts[0]) if len(left.conflicts) == 1 else "KEY"
        return one_line(f"next: `mountcache resolve {named}`, or `mountcache push`")
    return "next: `mountcache status` says why, `mountcache push` tries all of them"


def _code(left: NotPushedError) -> Code:
    from mountcache.errors import StoreUnavailableError

    if left.conflicts:
        return Code.CONFLICT
    if isinstance(left.__cause__, StoreUnavailableError):
        return Code.UNREACHABLE
    return Code.ERROR


def pause_or_resume(which: str, *, as_json: bool) -> None:
    """Pause background pushing for all processes of the directory, or end that."""
    with opened() as store:
        if which == "pause":
            store.pause_push()
        else:
            store.resume_push()
        paused = store.push_paused
    if as_json:
        show({"paused": None if paused is None else {"by": paused.by, "at": paused.at}})
        return
    if paused is None:
        tell("nothing holds background pushing up")
        return
    tell("no process of this directory pushes in the background now")
    note("next: `mountcache push --resume` ends that; `mountcache push` goes on by hand")
