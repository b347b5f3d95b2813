"""The command that shows what is staged: status."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import exact_option, group_option, nothing_matches, pattern_of
from mountcache.cli.session import amount, config_option, json_option, note, opened, show, tell

if TYPE_CHECKING:
    from mountcache.local.records import StagedEdit, StagedPermissions
    from mountcache.sync import Status

__all__ = ["ago", "letters", "next_for_conflicts", "next_for_permissions", "status"]

_COLORS = {"P": "magenta", "A": "green", "M": "yellow", "m": "yellow", "D": "red", "R": "cyan"}
_BESIDE = {"same": "=", "changed": "U", "gone": "X", "unknown": "?"}


@click.command()
@click.argument("pattern", required=False)
@group_option
@click.option("--remote", is_flag=True, help="Look at upstream, key by key.")
@click.option("--porcelain", is_flag=True, help="One line a key for scripts: XY, a blank, the key.")
@exact_option
@config_option
@json_option
@click.pass_context
def status(
    ctx: click.Context,
    pattern: str | None,
    group: str | None,
    remote: bool,
    porcelain: bool,
    exact: bool,
    as_json: bool,
) -> None:
    """Show what is staged: asks nobody, works offline, unless told to look at upstream.

    Two letters a key. Here: A added, M modified, m modified in its metadata alone, D deleted, R
    renamed; P, on a line of its own: permissions, which `push --permissions` sends. Upstream, as
    far as is known here: = as what it was made from, U changed since, X gone, C in conflict, ?
    not known. Beside them: held back; pinned; stale, if upstream was asked longer ago than its
    answer counts; why the last push failed, and when it is tried again. Ends with 0 if nothing is
    staged, 1 if something is, 2 if there are conflicts, 4 if upstream was to be looked at and is
    out of reach.
    """
    from mountcache.sync import status as staged
    from mountcache.sync.pusher import pusher_of

    with opened() as store:
        wanted = "*" if pattern is None else pattern_of(pattern, exact=exact)
        found = staged(store, wanted, group=group, remote=remote)
        switch, paused = store.offline_switch, store.push_paused
        pusher = pusher_of(store.mount)
        none = not found.edits and not found.permissions
        if none and pattern is not None and next(store.staged(), None) is not None:
            raise nothing_matches(pattern, "nothing staged", "status", store.exists)
    conflicts = [edit.key for edit in found.conflicts]
    disputed = [one.key for one in found.permissions if one.in_conflict]
    if switch is not None:
        note(f"offline is switched to {switch} here; `mountcache offline off` ends that")
    if paused is not None:
        said = (
            f"pushing in the background was paused by {paused.by}, {ago(time.time() - paused.at)}"
        )
        note(one_line(f"{said}; `mountcache push --resume` ends that"))
    if as_json:
        show(
            {
                "staged": [_document(edit) for edit in found.edits],
                "permissions": [_permissions(one) for one in found.permissions],
                "staged_bytes": found.staged_bytes,
                "oldest": found.oldest,
                "conflicts": conflicts,
                "offline": switch,
                "paused": None if paused is None else {"by": paused.by, "at": paused.at},
                "pusher": pusher or None,
            }
        )
    elif porcelain:
        for edit in found.edits:
            tell(f"{letters(edit)} {edit.key}")
        for one in found.permissions:
            tell(f"P{'C' if one.in_conflict else '?'} {one.key}")
    elif none:
        tell("nothing is staged" if group is None else one_line(f"nothing is staged in {group}"))
        note("next: `mountcache put KEY FILE` stages an edit")
    else:
        _tell_all(found, pushed=bool(pusher))
        if pusher:
            note(one_line(f"{pusher} pushes in the background"))
        asked = "next: `mountcache push`" + (" --permissions" if found.permissions else "")
        note(next_for_conflicts(conflicts) or next_for_permissions(disputed) or asked)
    ctx.exit(Code.CONFLICT if conflicts or disputed else Code.DONE if none else Code.STAGED)


def next_for_permissions(keys: Sequence[str]) -> str:
    """Return the command that resolves conflicts of permissions; "" if there are none."""
    if not keys:
        return ""
    named = shlex.quote(keys[0]) if len(keys) == 1 else "KEY"
    return (
        f"next: `mountcache permissions --upstream {named}` shows theirs; `mountcache resolve "
        f"{named} --permissions --mine`, --upstream or --merge-metadata"
    )


def next_for_conflicts(keys: Sequence[str]) -> str:
    """Return the command that resolves conflicts; "" if there are none."""
    if not keys:
        return ""
    named = shlex.quote(keys[0]) if len(keys) == 1 else "KEY"
    return (
        f"next: `mountcache resolve {named} --mine`, --upstream, --keep-both, --merge-metadata or "
        "--edit; `mountcache diff --upstream` shows both sides"
    )


def letters(edit: StagedEdit) -> str:
    """Return the two letters of a key: what is staged, and upstream beside it."""
    if edit.renamed_from is not None:
        here = "R"
    elif edit.state == "modified":
        here = "m" if edit.what == "metadata" else "M"
    else:
        here = edit.state[0].upper()
    return here + ("C" if edit.in_conflict else _BESIDE[edit.upstream])


def _flags(edit: StagedEdit) -> dict[str, bool]:
    """Return what else is to be said of a key, by name."""
    return {"held": edit.held, "pinned": edit.pinned, "stale": edit.stale, "failed": edit.failed}


def ago(seconds: float) -> str:
    """Return how long ago something was, as people say it."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _tell_all(found: Status, *, pushed: bool) -> None:
    now = time.time()
    groups: dict[int, list[StagedEdit]] = {}
    for edit in found.edits:
        groups.setdefault(edit.group, []).append(edit)
    # The lone ones first; a group is one because of its name, or because it has several.
    together = [each for each in groups.values() if each[0].group_name or len(each) > 1]
    named = {each[0].group for each in together}
    _tell((edit for edit in found.edits if edit.group not in named), now, pushed=pushed)
    for edits in together:
        told = [edits[0].group_name or "", *dict.fromkeys(e.notes for e in edits if e.notes)]
        name = ": ".join(filter(None, (told[0], "; ".join(told[1:])))) or "together"
        tell(click.style(one_line(name), bold=True))
        _tell(edits, now, pushed=pushed)
    for one in found.permissions:
        there = "C" if one.in_conflict else "?"
        color = "red" if one.in_conflict else None
        tell(
            f"{click.style('P', fg=_COLORS['P'])}{click.style(there, fg=color)} "
            f"{one_line(one.key)}  ({one_line(one.author)}, {ago(now - one.at)}, permissions)"
        )
        if one.error:
            tell(f"   {one_line(one.error)}")
    count = f"{len(found.edits) + len(found.permissions):,} staged, {amount(found.staged_bytes)}"
    oldest = "" if found.oldest is None else f", the oldest {ago(now - found.oldest)}"
    note(count + oldest)
    asked = [edit.checked or edit.when for edit in found.edits if edit.stale]
    if asked:
        note(
            f"stale: upstream was asked last {ago(now - min(asked))}; `mountcache status --remote` "
            "looks now"
        )


def _tell(edits: Iterable[StagedEdit], now: float, *, pushed: bool) -> None:
    for edit in edits:
        here, there = letters(edit)[0], letters(edit)[1]
        color = "red" if there == "C" else "yellow" if there in "UX" else None
        key = one_line(edit.key)
        if edit.partner is not None:
            key += f" -> {one_line(edit.partner)}"
        size = f", {amount(edit.size)}" if edit.what == "data" else ""
        flags = [name for name, there in _flags(edit).items() if there and name != "failed"]
        tell(
            f"{click.style(here, fg=_COLORS[here])}{click.style(there, fg=color)} {key}  "
            f"({', '.join([one_line(edit.author), ago(now - edit.when) + size, *flags])})"
        )
        if edit.held_why is not None and edit.held_why.startswith("never"):
            tell(f"   {one_line(edit.held_why)}")
        if edit.in_flight:
            tell("   on its way upstream")
        if edit.error:
            tries = f"tried {edit.tries} times: " if edit.tries > 1 else ""
            again = ""
            if pushed and edit.next_try is not None:
                again = f"; again in {max(0.0, edit.next_try - now):.0f} s"
            tell(f"   {tries}{one_line(edit.error)}{again}")


def _permissions(one: StagedPermissions) -> dict[str, Any]:
    return {
        "key": one.key,
        "permissions": one.permissions,
        "when": one.at,
        "author": one.author,
        "tries": one.tries,
        "in_conflict": one.in_conflict,
        "error": one.error,
    }


def _document(edit: StagedEdit) -> dict[str, Any]:
    return {
        "key": edit.key,
        "letters": letters(edit),
        "state": edit.state,
        "what": edit.what,
        "base": edit.base,
        "size": edit.size,
        "when": edit.when,
        "author": edit.author,
        "notes": edit.notes,
        "group": edit.group,
        "group_name": edit.group_name,
        "partner": edit.partner,
        "renamed_from": edit.renamed_from,
        "held": edit.held,
        "held_why": edit.held_why,
        "pinned": edit.pinned,
        "stale": edit.stale,
        "checked": edit.checked,
        "failed": edit.failed,
        "in_flight": edit.in_flight,
        "tries": edit.tries,
        "tried": edit.tried,
        "next_try": edit.next_try,
        "in_conflict": edit.in_conflict,
        "error": edit.error,
        "upstream": edit.upstream,
    }
