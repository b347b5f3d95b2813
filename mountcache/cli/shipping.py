"""The commands that send: push, what it would do, and a plan that was approved."""

from __future__ import annotations

import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.advice import advice, asking_for
from mountcache.cli.codes import Code, NoSuchKeyError, one_line
from mountcache.cli.naming import chosen, exact_option, group_option, is_pattern, like
from mountcache.cli.session import (
    amount,
    bwlimit_option,
    config_option,
    configured,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
    write_whole,
)
from mountcache.cli.status import next_for_conflicts, next_for_permissions

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore
    from mountcache.sync import Conflict, GroupResult, Plan, PushReport, PushResult, Side

__all__ = ["apply", "push", "staged_ones"]

_POLICIES = ("fail", "mine", "upstream", "keep-both", "merge-metadata", "ours", "theirs")


_blind_option = click.option(
    "--allow-blind", is_flag=True, help="Write where upstream can't compare."
)
_workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 64),
    show_default="8, more where answers take long",
    help="At once.",
)


class _Policy(click.Choice[str]):
    """The policies by the names that are shown; others are taken, too."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[fail|mine|upstream|keep-both|merge-metadata]"


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
@click.option(
    "--on-conflict",
    type=_Policy(_POLICIES),
    default="fail",
    show_default=True,
    help="What to do where upstream isn't what an edit was made from.",
)
@click.option("--max-delete", type=click.IntRange(0), help="How many keys may be deleted upstream.")
@click.option("--permissions", is_flag=True, help="Send what is staged of permissions, too.")
@group_option
@click.option("--dry-run", "-n", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--marker", metavar="KEY", help="Send this key last, once all else is upstream.")
@click.option(
    "--plan", "plan_file", metavar="FILE", type=click.Path(allow_dash=True, path_type=str),
    help="Write what would be done to FILE, for `mountcache apply`, and do nothing.",
)  # fmt: skip
@_blind_option
@_workers_option
@bwlimit_option
@click.option("--pause", "pausing", flag_value="pause", help="Push nothing in the background.")
@click.option("--resume", "pausing", flag_value="resume", help="End that.")
@exact_option
@config_option
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    words: tuple[str, ...],
    on_conflict: str,
    max_delete: int | None,
    permissions: bool,
    group: str | None,
    dry_run: bool,
    plan_file: str | None,
    marker: str | None,
    allow_blind: bool,
    workers: int | None,
    bwlimit: str | None,
    pausing: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Send staged edits upstream: those of the keys named, or all.

    A PATTERN is about what is staged.

    An edit whose key somebody else changed meanwhile is a conflict: nothing is overwritten, and
    it stays staged. Look, then `mountcache resolve` it, or push it again with --on-conflict mine,
    upstream, keep-both or merge-metadata. One key that fails stops no other.

    What was staged together goes together, as one change where the server takes such changes:
    all of it or nothing. Elsewhere it goes key by key, and each group is told as complete,
    partial or none; who reads there can wait for the --marker.

    --pause and --resume send nothing: they are about processes that push by themselves.
    """
    from mountcache.cli.flushing import commands, pause_or_resume
    from mountcache.sync import push as send

    if pausing is not None:
        if words or group is not None:
            raise click.UsageError(f"--{pausing} is about all keys; name none")
        pause_or_resume(pausing, as_json=as_json)
        return
    with opened() as store:
        named = staged_ones(store, words, exact=exact) if words else None
        if group is not None:
            named = in_group(store, group, named)
        if dry_run or plan_file is not None:
            made = _planned(store, named, on_conflict, max_delete, workers, permissions=permissions)
            ctx.exit(_show_plan(made, plan_file, as_json=as_json))
        if marker is not None:
            staged_ones(store, [marker], exact=True)
        if max_delete is None and not _all_are_named(words, exact=exact):
            max_delete = _allowed_deletes(store, named)
        with progress("push") as step, _interruptible(store) as stop:
            report = send(
                store,
                named,
                on_conflict=on_conflict,
                workers=workers,
                progress=step,
                allow_blind=allow_blind,
                max_delete=max_delete,
                permissions=permissions,
                marker=marker,
                bwlimit=bwlimit,
                **commands(),
            )
    ctx.exit(_tell_report(report, stop, as_json=as_json))


def _all_are_named(words: tuple[str, ...], *, exact: bool) -> bool:
    """Return whether somebody has named each key, rather than a pattern, a group or nothing."""
    return bool(words) and not any(is_pattern(word, exact=exact) for word in words)


def _allowed_deletes(store: MountedStore, keys: list[str] | None) -> int | None:
    """Ask at a terminal whether many keys may be deleted; None: they are few.

    Parameters
    ----------
    keys
        What a pattern or a group came to; None: all that is staged.
    """
    from mountcache.sync.push import unasked_deletes

    count = unasked_deletes(store, keys)
    if not count:
        return None
    # Otherwise the push refuses them, and says how they are allowed.
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    asked = f"{count:,} keys would be deleted upstream. Delete them? Otherwise they stay staged."
    return count if terminal and click.confirm(asked, err=True) else 0


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, path_type=str))
@_blind_option
@_workers_option
@config_option
@json_option
@click.pass_context
def apply(
    ctx: click.Context, file: str, allow_blind: bool, workers: int | None, as_json: bool
) -> None:
    """Do what the plan in FILE says, which `mountcache push --plan FILE` wrote, and no more.

    What was edited here since then is refused, and what was changed upstream is a conflict, key
    by key.
    """
    from mountcache.cli.flushing import commands
    from mountcache.sync import apply as do
    from mountcache.sync import read_plan
    from mountcache.sync.plan import LARGEST

    with click.open_file(file, "rb") as stream:
        made = read_plan(stream.read(LARGEST + 1))
    with opened() as store, progress("apply") as step, _interruptible(store) as stop:
        report = do(
            store, made, workers=workers, progress=step, allow_blind=allow_blind, **commands()
        )
    ctx.exit(_tell_report(report, stop, as_json=as_json))


def _planned(
    store: MountedStore,
    named: list[str] | None,
    on_conflict: str,
    max_delete: int | None,
    workers: int | None,
    *,
    permissions: bool,
) -> Plan:
    from mountcache.sync import plan

    with progress("look") as step:
        return plan(
            store, named, on_conflict=on_conflict, max_delete=max_delete, workers=workers or 8,
            permissions=permissions, progress=step,
        )  # fmt: skip


def _show_plan(made: Plan, file: str | None, *, as_json: bool) -> Code:
    """Write or show a plan; return the exit code."""
    if file == "-" or (as_json and file is None):
        click.echo(made.to_json(), nl=False)
        return Code.CONFLICT if made.conflicts else Code.DONE
    if file is not None:
        write_whole(file, made.to_json())
    color = {"conflict": "red", "delete": "red", "create": "green", "replace": "yellow"}
    steps = (*made.steps, *made.permissions)
    widest = max((len(step.action) for step in steps), default=0)
    for step in steps:
        size = "" if step.size is None else f", {amount(step.size)}"
        action = click.style(f"{step.action:<{widest}}", fg=color.get(step.action))
        tell(f"{action}  {one_line(step.key)}  ({one_line(step.author)}{size})")
        if step.message:
            tell(f"   {one_line(step.message)}")
    if not steps:
        tell("nothing is staged")
    counts = Counter(step.action for step in steps)
    note(", ".join(f"{count:,} {action}" for action, count in sorted(counts.items())))
    if made.conflicts:
        note(next_for_conflicts([step.key for step in made.conflicts]))
    elif file is not None:
        note(one_line(f"next: `mountcache apply {shlex.quote(file)}` does exactly that"))
    elif steps:
        note("nothing was sent; next: `mountcache push`")
    return Code.CONFLICT if made.conflicts else Code.DONE


def _interruptible(store: MountedStore) -> AbstractContextManager[threading.Event]:
    from mountcache.cli.interrupting import interruptible

    return interruptible(
        "interrupted: ending what is in flight (again: at once)", store.backing_store.disconnect
    )


def _tell_report(report: PushReport, stop: threading.Event, *, as_json: bool) -> Code:
    """Tell what a push came to, and whether it was interrupted; return the exit code."""
    from mountcache.sync.report import STOPPED

    said = ""
    groups = {key: group for group in report.groups for key in group.keys}
    for result in report.results:
        if stop.is_set() and result.message == STOPPED and not as_json:
            continue
        if as_json:
            show(_result(result) | {"group": _group(groups.get(result.key))})
        else:
            _tell_result(result, said)
            said = result.message
    if not as_json:
        if not report.results:
            tell("nothing is staged")
        for group in report.groups:
            _tell_group(group)
        note(_next(report))
    if stop.is_set():
        left = sum(result.message == STOPPED for result in report.results)
        note(
            f"interrupted: {len(report.results) - left:,} of {len(report.results):,} were ended; "
            "the others stay staged, and `mountcache push` goes on"
        )
        return Code.INTERRUPTED
    return _code(report)


def _tell_group(group: GroupResult) -> None:
    """Tell what became of what belongs together."""
    how = "as one change" if group.together else "key by key"
    name = "a group" if group.name is None else one_line(group.name)
    tell(f"{group.outcome}: {name}: {len(group.keys):,} keys, {how} ({one_line(group.keys[0])}...)")
    if group.message:
        tell(f"   {one_line(group.message)}")


def _group(group: GroupResult | None) -> dict[str, Any] | None:
    if group is None:
        return None
    return {
        "number": group.group,
        "name": group.name,
        "outcome": group.outcome,
        "together": group.together,
        "message": group.message,
    }


def _next(report: PushReport) -> str:
    """Say what there is to do after a push."""
    conflicts = [each.key for each in report.conflicts]
    left = [each for each in report.results if each.outcome in ("failed", "refused", "blocked")]
    if conflicts and all(each.part == "permissions" for each in report.conflicts):
        return next_for_permissions(conflicts)
    if conflicts:
        return next_for_conflicts(conflicts)
    if not report.results:
        return "next: `mountcache put KEY FILE` stages an edit"
    if not left:
        return "next: `mountcache ls` lists what is there now"
    path, settings = configured()
    first = next((each.error for each in left if each.error is not None), None)
    more = advice(first, path, settings)
    return f"next: {more + '; then ' if more else ''}`mountcache push`: {len(left):,} stay staged"


def in_group(store: MountedStore, group: str, named: list[str] | None = None) -> list[str]:
    """Return the staged keys of a group, those of them that are `named` if any are."""
    keys = {edit.key: None for edit in store.staged() if edit.group_name == group}
    if not keys:
        raise NoSuchKeyError(
            f"nothing is staged in a group named {group!r}; `mountcache status` shows the groups"
        )
    return list(keys if named is None else (key for key in named if key in keys))


def staged_ones(store: MountedStore, words: Iterable[str], *, exact: bool) -> list[str]:
    """Return the named keys that are staged; say of the others that there is nothing to send."""
    from mountcache.sync.permissions import staged as staged_permissions

    staged = {edit.key: None for edit in store.staged()}
    staged.update((one.key, None) for one in staged_permissions(store.mount))
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
    of = "" if result.part == "value" else f" ({result.part})"
    tell(f"{outcome}: {one_line(result.key)}{of}{_how(result)}")
    if result.conflict is None or result.part == "permissions":
        if result.message not in ("", said):
            tell(f"   {one_line(result.message)}")
        return
    for side in (result.conflict.mine, result.conflict.upstream):
        what = "deleted" if not side.present else f"{amount(side.size)}, {_digest(side)}"
        if (
            side is result.conflict.mine
            and side.present
            and side.size is None
            and side.sha256 is None
        ):
            what = "its metadata alone"
        tell(f"   {one_line(side.label)}: {what}")
    if result.outcome == "conflict":
        why, _, _ = result.message.removeprefix("conflict: ").partition(". ")
        tell(f"   {one_line(why)}")
    elif result.message:
        tell(f"   {one_line(result.message)}")


def _how(result: PushResult) -> str:
    """Say what a push that isn't of grade A leaves open."""
    if result.outcome != "pushed" or result.grade in (None, "A"):
        return ""
    proof = "verified" if result.verified else "not verified"
    race = "" if result.race is None else f", a race of {result.race * 1000:.0f} ms"
    compared = "enforced by the server, " if result.enforced else ""
    return f" (grade {result.grade}, {compared}{proof}{race})"


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
        "part": result.part,
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
