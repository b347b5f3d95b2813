"""The commands between here and upstream: status and push."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, NoSuchKeyError, one_line
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
    from mountcache.local.records import StagedEdit
    from mountcache.mounted import MountedStore
    from mountcache.sync import Conflict, PushReport, PushResult, Side

__all__ = ["push", "status"]

_COLORS = {"A": "green", "M": "yellow", "m": "yellow", "D": "red"}
_BESIDE = {"changed": "U", "gone": "X"}


@click.command()
@config_option
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show what is staged: asks nobody, works offline.

    A is added, M modified, m modified in its metadata alone, D deleted; U beside it: as far as
    is known here upstream has changed since, X: the key is gone there. Ends with 0 if nothing is
    staged, 1 if something is, 2 if the last push found a conflict in it.
    """
    from mountcache.sync import status as staged

    with opened() as store:
        found = staged(store)
    conflicts = [edit for edit in found.edits if edit.in_conflict]
    if as_json:
        show(
            {
                "staged": [_document(edit) for edit in found.edits],
                "staged_bytes": found.staged_bytes,
                "conflicts": [edit.key for edit in conflicts],
            }
        )
    elif not found.edits:
        tell("nothing is staged")
    else:
        for edit in found.edits:
            _tell(edit)
        count = len(found.edits)
        note(f"{count} staged, {amount(found.staged_bytes)}; send with `mountcache push`")
    ctx.exit(Code.CONFLICT if conflicts else Code.STAGED if found.edits else Code.DONE)


def _letter(edit: StagedEdit) -> str:
    if edit.state == "modified":
        return "m" if edit.what == "metadata" else "M"
    return edit.state[0].upper()


def _tell(edit: StagedEdit) -> None:
    letter = _letter(edit)
    when = datetime.datetime.fromtimestamp(edit.when).astimezone().strftime("%Y-%m-%d %H:%M")
    size = "" if edit.what != "data" else f", {amount(edit.size)}"
    beside = click.style(_BESIDE.get(edit.upstream, " "), fg="yellow")
    tell(
        f"{click.style(letter, fg=_COLORS[letter])}{beside} {one_line(edit.key)}  "
        f"({one_line(edit.author)}, {when}{size})"
    )
    if edit.in_flight:
        tell("   on its way upstream")
    if edit.error:
        tell(f"   {one_line(edit.error)}")


def _document(edit: StagedEdit) -> dict[str, Any]:
    return {
        "key": edit.key,
        "state": edit.state,
        "what": edit.what,
        "base": edit.base,
        "size": edit.size,
        "when": edit.when,
        "author": edit.author,
        "notes": edit.notes,
        "in_flight": edit.in_flight,
        "tries": edit.tries,
        "in_conflict": edit.in_conflict,
        "error": edit.error,
        "upstream": edit.upstream,
    }


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "ours", "theirs", "keep-both", "merge-metadata"]),
    default="fail",
    show_default=True,
    help="What to do where upstream isn't what an edit was made from.",
)
@click.option("--max-delete", type=click.IntRange(0), help="How many keys may be deleted upstream.")
@click.option("--allow-blind", is_flag=True, help="Write where upstream can't compare.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="At once."
)
@config_option
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    keys: tuple[str, ...],
    on_conflict: str,
    max_delete: int | None,
    allow_blind: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Send staged edits upstream: those of the keys named, or all.

    An edit whose key somebody else changed meanwhile is a conflict: nothing is overwritten, and
    it stays staged. Look, then push it again with --on-conflict ours, theirs, keep-both or
    merge-metadata. One key that fails stops no other.
    """
    from mountcache.sync import push as send

    with opened() as store:
        named = _staged_ones(store, keys) if keys else None
        with progress("push") as step:
            report = send(
                store,
                named,
                on_conflict=on_conflict,
                workers=workers,
                progress=step,
                allow_blind=allow_blind,
                max_delete=max_delete,
            )
    said = ""
    for result in report.results:
        if as_json:
            show(_result(result))
        else:
            _tell_result(result, said)
            said = result.message
    if not report.results and not keys and not as_json:
        tell("nothing is staged")
    ctx.exit(_code(report))


def _staged_ones(store: MountedStore, keys: Iterable[str]) -> list[str]:
    """Return the named keys that are staged; say of the others that there is nothing to send."""
    staged = {edit.key for edit in store.staged()}
    for key in keys:
        if key in staged:
            continue
        if not store.exists(key):
            raise NoSuchKeyError(f"no such key: {key!r}")
        note(one_line(f"{key}: nothing is staged for it"))
    return [key for key in keys if key in staged]


def _tell_result(result: PushResult, said: str) -> None:
    """Tell a result; its message only if that isn't what was `said` just before."""
    color = {"conflict": "yellow", "failed": "red", "blocked": "red", "refused": "red"}
    outcome = click.style(result.outcome, fg=color.get(result.outcome, "green"))
    tell(f"{outcome}: {one_line(result.key)}{_how(result)}")
    if result.conflict is None:
        if result.message not in ("", said):
            tell(f"   {one_line(result.message)}")
        return
    for side in (result.conflict.mine, result.conflict.upstream):
        what = "deleted" if not side.present else f"{amount(side.size)}, {_digest(side)}"
        tell(f"   {one_line(side.label)}: {what}")
    if result.outcome == "conflict":
        tell(
            "   nothing was overwritten, the edit stays staged; resolve it with "
            "--on-conflict ours, theirs, keep-both or merge-metadata, or `mountcache revert`"
        )
    elif result.message:
        tell(f"   {one_line(result.message)}")


def _how(result: PushResult) -> str:
    """Say what a push that isn't of grade A leaves open."""
    if result.outcome != "pushed" or result.grade in (None, "A"):
        return ""
    proof = "verified" if result.verified else "not verified"
    return f" (grade {result.grade}, {proof})"


def _digest(side: Side) -> str:
    return "digest unknown" if side.sha256 is None else f"sha256 {side.sha256[:12]}"


def _result(result: PushResult) -> dict[str, Any]:
    return {
        "key": result.key,
        "outcome": result.outcome,
        "message": result.message,
        "grade": result.grade,
        "enforced": result.enforced,
        "verified": result.verified,
        "version": result.version,
        "conflict": None if result.conflict is None else _conflict(result.conflict),
    }


def _conflict(conflict: Conflict) -> dict[str, Any]:
    return {name: _side(getattr(conflict, name)) for name in ("mine", "upstream")}


def _side(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "present": side.present,
        "version": side.version,
        "metadata": dict(side.metadata),
        "sha256": side.sha256,
        "size": side.size,
        "at": side.at,
    }


def _code(report: PushReport) -> Code:
    """Return what a script is to know first: a conflict needs somebody, an error a look."""
    from mountcache.errors import StoreUnavailableError

    if report.ok:
        return Code.DONE
    if report.conflicts:
        return Code.CONFLICT
    left = [each for each in report.results if each.outcome in ("failed", "refused", "blocked")]
    if left and all(isinstance(each.error, StoreUnavailableError) for each in left):
        return Code.UNREACHABLE
    return Code.ERROR
