"""The commands between here and upstream: status and push."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.advice import advice, asking_for
from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import chosen, exact_option, like
from mountcache.cli.session import (
    amount,
    config_option,
    configured,
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

__all__ = ["push", "staged_ones", "status"]

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
        note("next: `mountcache put KEY FILE` stages an edit")
    else:
        for edit in found.edits:
            _tell(edit)
        note(f"{len(found.edits):,} staged, {amount(found.staged_bytes)}")
        note(_next_for_conflicts([edit.key for edit in conflicts]) or "next: `mountcache push`")
    ctx.exit(Code.CONFLICT if conflicts else Code.STAGED if found.edits else Code.DONE)


def _next_for_conflicts(keys: list[str]) -> str:
    """Return the command that resolves conflicts; "" if there are none."""
    if not keys:
        return ""
    named = f" {shlex.quote(keys[0])}" if len(keys) == 1 else ""
    return (
        f"next: `mountcache push{named} --on-conflict keep-both` (or ours, theirs, merge-metadata)"
    )


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
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
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
@exact_option
@config_option
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    words: tuple[str, ...],
    on_conflict: str,
    max_delete: int | None,
    allow_blind: bool,
    workers: int,
    exact: bool,
    as_json: bool,
) -> None:
    """Send staged edits upstream: those of the keys named, or all.

    A PATTERN is about what is staged.

    An edit whose key somebody else changed meanwhile is a conflict: nothing is overwritten, and
    it stays staged. Look, then push it again with --on-conflict ours, theirs, keep-both or
    merge-metadata. One key that fails stops no other.
    """
    from mountcache.sync import push as send

    with opened() as store:
        named = staged_ones(store, words, exact=exact) if words else None
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
    if not as_json:
        if not report.results and not words:
            tell("nothing is staged")
        note(_next(report))
    ctx.exit(_code(report))


def _next(report: PushReport) -> str:
    """Say what there is to do after a push."""
    conflicts = [each.key for each in report.conflicts]
    left = [each for each in report.results if each.outcome in ("failed", "refused", "blocked")]
    if conflicts:
        return _next_for_conflicts(conflicts)
    if not report.results:
        return "next: `mountcache put KEY FILE` stages an edit"
    if not left:
        return "next: `mountcache ls` lists what is there now"
    path, settings = configured()
    first = next((each.error for each in left if each.error is not None), None)
    more = advice(first, path, settings)
    return f"next: {more + '; then ' if more else ''}`mountcache push`: {len(left):,} stay staged"


def staged_ones(store: MountedStore, words: Iterable[str], *, exact: bool) -> list[str]:
    """Return the named keys that are staged; say of the others that there is nothing to send."""
    staged = {edit.key: None for edit in store.staged()}
    keys = chosen(
        words, lambda word: like(staged, word),
        exact=exact, what="nothing staged", listing="status", is_key=store.exists,
    )  # fmt: skip
    for key in keys:
        if key in staged:
            continue
        with asking_for(key, store):
            store.get_metadata(key)
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
        tell("   nothing was overwritten, the edit stays staged")
    elif result.message:
        tell(f"   {one_line(result.message)}")


def _how(result: PushResult) -> str:
    """Say what a push that isn't of grade A leaves open."""
    if result.outcome != "pushed" or result.grade in (None, "A"):
        return ""
    proof = "verified" if result.verified else "not verified"
    race = "" if result.race is None else f", a race of {result.race * 1000:.0f} ms"
    return f" (grade {result.grade}, {proof}{race})"


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
        "race": result.race,
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
