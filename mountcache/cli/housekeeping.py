"""The commands that look after the local store: gc, prune, verify, du and stats."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import exact_option, pattern_of
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
    from mountcache.sync import Flaw, Room, Usage, VerifyReport

__all__ = ["du", "gc", "prune", "stats", "verify"]

_ALL = "*"
_AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _seconds(ctx: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    found = None if text is None else _AGE.fullmatch(text)
    if text is not None and found is None:
        raise click.BadParameter(f"{text!r} is no age such as 90min, 12h, 30d or 8w")
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def _bytes(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    from mountcache.config import bytes_of

    found = None if text is None else bytes_of(text)
    if text is not None and found is None:
        raise click.BadParameter(f"{text!r} is no size such as 500MB or 10GiB")
    return found


@click.command()
@config_option
@json_option
def gc(as_json: bool) -> None:
    """Collect now what killed processes left, and what is kept in vain.

    Files that no row names, downloads that nobody can go on with since the machine was started
    again, and what `undo` kept for its 14 days. All of it goes by itself in time. Others may use
    the store meanwhile.
    """
    from mountcache import sync

    with opened() as store:
        found = sync.gc(store)
    if as_json:
        show(asdict(found))
        return
    files = f"{found.files:,} file{'' if found.files == 1 else 's'}"
    entries = f"{found.undo:,} entr{'y' if found.undo == 1 else 'ies'}"
    tell(f"freed {amount(found.bytes)}: {files} that nothing named, {entries} of undo")
    if not (found.bytes or found.files or found.undo):
        note("next, if there has to be room: `mountcache prune --to SIZE --dry-run`")


@click.command()
@click.argument("pattern", default=_ALL)
@click.option(
    "--older-than", metavar="AGE", callback=_seconds,
    help="Copies that upstream gave or confirmed longer ago: 90min, 12h, 30d, 8w.",
)  # fmt: skip
@click.option(
    "--to", metavar="SIZE", callback=_bytes,
    help="Until the copies have no more than SIZE: 500MB, 10GiB, 0.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say which would go.")
@exact_option
@config_option
@json_option
def prune(
    pattern: str, older_than: float | None, to: int | None, dry_run: bool, exact: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Let clean copies of keys that match PATTERN go, the least recently used first.

    What is pinned, what is staged, and what an edit was made from stays. Which copy was used when
    isn't known, only in which order: --older-than goes by when upstream gave or confirmed it.
    """
    if (older_than is None) == (to is None):
        raise click.UsageError("say --older-than AGE or --to SIZE, one of the two")
    from mountcache import sync

    count = size = 0
    with opened() as store:
        for each in sync.prune(
            store, pattern_of(pattern, exact=exact), older_than=older_than, to=to, dry_run=dry_run
        ):
            count, size = count + 1, size + each.size
            if as_json:
                show({"key": each.key, "size": each.size, "pruned": not dry_run})
            elif dry_run:
                tell(f"{amount(each.size):>12}  {one_line(each.key)}")
        left = sync.room(store)
    if as_json:
        return
    copies = f"{count:,} cop{'y' if count == 1 else 'ies'} ({amount(size)})"
    tell(f"{copies} would go" if dry_run else f"pruned {copies}")
    if to is not None and pattern == _ALL and not dry_run and left.cached > to:
        note(
            f"{amount(left.cached)} of copies are left, {amount(left.pinned)} of them pinned: what "
            "is pinned or was edited stays; next: `mountcache ls --pinned`"
        )
    elif dry_run and count:
        note("next: the same without --dry-run")


@click.command()
@click.argument("pattern", default=_ALL)
@click.option(
    "--repair", is_flag=True, help="Drop damaged copies and undo entries; what is staged stays."
)
@click.option("--remote", is_flag=True, help="Compare the copies with upstream as well.")
@exact_option
@config_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, pattern: str, repair: bool, remote: bool, exact: bool, as_json: bool
) -> None:
    """Read the bytes of keys that match PATTERN, and compare them with their digests.

    Copies, what is staged, and what undo has. --remote asks upstream for versions and digests
    too, and for no data. Ends with 0 if all is as it was, or was mended; with 3 if something isn't;
    with 1 if all is whole, and upstream has something else than a copy.
    """
    from mountcache import sync

    with opened() as store, progress("verify") as step:
        report = sync.verify(
            store, pattern_of(pattern, exact=exact), repair=repair, remote=remote,
            progress=step,
        )  # fmt: skip
    if as_json:
        for each in report.flaws:
            show(asdict(each))
        show({name: found for name, found in asdict(report).items() if name != "flaws"})
    else:
        _tell_flaws(report, repair=repair, remote=remote)
    ctx.exit(_verdict(report))


def _verdict(report: VerifyReport) -> Code:
    if any(each.where != "upstream" and not each.mended for each in report.flaws):
        return Code.ERROR
    if report.unreachable:
        return Code.UNREACHABLE
    return Code.DIFFERENT if any(each.where == "upstream" for each in report.flaws) else Code.DONE


_WHERE = {
    "staged": "staged", "push": "being pushed", "cached": "the copy", "undo": "kept for undo",
    "upstream": "",
}  # fmt: skip


def _tell_flaws(report: VerifyReport, *, repair: bool, remote: bool) -> None:
    for each in report.flaws:
        tell(one_line(_sentence(each)))
        if each.mended:
            tell(f"        done: {one_line(each.mended)}")
    tell(f"{report.values:,} compared ({amount(report.bytes)}), {len(report.flaws):,} not as said")
    if remote:
        unsure = f", {report.unsure:,} of which nobody can tell" if report.unsure else ""
        tell(f"{report.compared:,} compared with upstream{unsure}")
    if report.unreachable:
        note(one_line(f"upstream couldn't be asked: {report.unreachable}"))
    kinds = {each.where for each in report.flaws}
    if not repair and kinds & {"cached", "undo"}:
        note("next: `mountcache verify --repair` drops damaged copies; they are fetched again")
    elif "upstream" in kinds:
        note("next: `mountcache prefetch` fetches what upstream has now")


def _sentence(each: Flaw) -> str:
    where = _WHERE[each.where]
    return f"{each.key}: {where} {each.what}" if where else f"{each.key} {each.what}"


@click.command()
@click.argument("pattern", default=_ALL)
@click.option(
    "--depth", type=click.IntRange(0), default=1, show_default=True,
    help="How many names make a folder; 0: one line for all.",
)  # fmt: skip
@exact_option
@config_option
@json_option
def du(pattern: str, depth: int, exact: bool, as_json: bool) -> None:
    """Say how many bytes are here of keys that match PATTERN, by folder.

    Clean copies, what is staged, what undo has, and downloads that aren't complete. Keys in no
    folder are ".".
    """
    from mountcache import sync

    with opened() as store:
        found = sync.du(store, pattern_of(pattern, exact=exact), depth=depth)
    if as_json:
        for each in found:
            show({**asdict(each), "total": each.total})
        return
    if not found:
        note("nothing is here; next: `mountcache prefetch PATTERN`")
        return
    lines: list[tuple[str, ...]] = [("total", "cached", "staged", "undo", "partial", "folder")]
    lines += [_cells(each) for each in found]
    if len(found) > 1:
        lines.append(_cells(_sum(found), "(all)"))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line[:5], widths, strict=True))
        tell("  ".join((*cells, line[5])))


def _cells(each: Usage, name: str | None = None) -> tuple[str, ...]:
    sizes = (each.total, each.cached, each.staged, each.undo, each.partial)
    said = ("-" if not size else amount(size).replace(" bytes", " B") for size in sizes)
    return (*said, one_line(each.folder) or "." if name is None else name)


def _sum(found: list[Usage]) -> Usage:
    from mountcache.sync import Usage

    columns = ("cached", "staged", "undo", "partial")
    return Usage("", *(sum(getattr(each, name) for each in found) for name in columns))


@click.command()
@config_option
@json_option
def stats(as_json: bool) -> None:
    """Count what is here, and say what takes room and how full the limits are; asks nobody."""
    from mountcache import sync

    with opened() as store:
        counts, room = store.stats(), sync.room(store)
    # These are of one process, and this one has done nothing.
    counts = {
        name: count
        for name, count in counts.items()
        if name not in ("hits", "misses", "fetched_bytes")
    }
    if as_json:
        show({**counts, **asdict(room)})
        return
    for name, said in _said(counts, room).items():
        tell(f"{name + ':':<10}{said}")


def _said(counts: dict[str, Any], room: Room) -> dict[str, str]:
    limits, kept = room.limits, room.cached + room.partial + room.undo
    return {
        "cached": f"{counts['cached_keys']:,} keys, {amount(room.cached)}, "
        f"{amount(room.pinned)} of them pinned",
        "staged": f"{counts['staged_keys']:,} keys, {amount(room.staged)}"
        + _of(room.staged, limits.staged),
        "undo": amount(room.undo) + _of(room.undo, limits.undo),
        "partial": amount(room.partial),
        "kept": f"{amount(kept)} of copies, partials and undo" + _of(kept, limits.size),
        "upstream": f"{counts['known_keys']:,} keys are known",
        "database": f"{amount(room.database)}, and {amount(room.log)} of its log",
        "disk": f"{amount(room.free)} free",
    }


def _of(taken: int, limit: int | None) -> str:
    if limit is None:
        return "; no limit"
    full = f", {100 * taken / limit:.0f} % full" if limit else ""
    return f"; limit {amount(limit)}{full}"
