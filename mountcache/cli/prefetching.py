"""The command that fetches beforehand, or says whether that was done: prefetch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import exact_option, is_pattern, nothing_matches, pattern_of
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

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore
    from mountcache.sync import PrefetchReport, Readiness, Wanted

__all__ = ["prefetch", "tell_prefetched"]

_ALL = "*"

_ENDING = "interrupted: what is here by now stays, and a further prefetch goes on"


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option(
    "--from", "source", metavar="FILE", help="The keys in FILE, one a line, or those of a lock."
)
@click.option(
    "--frozen", is_flag=True, help="With a lock: exactly the bytes that it names, or an error."
)
@click.option("--pin", is_flag=True, help="Pin the copies, those that are here already as well.")
@click.option("--check", is_flag=True, help="Only say whether all is here; fetch nothing.")
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
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
def prefetch(
    ctx: click.Context,
    patterns: tuple[str, ...],
    source: str | None,
    frozen: bool,
    pin: bool,
    check: bool,
    dry_run: bool,
    workers: int | None,
    bwlimit: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Fetch all keys that match any PATTERN, for reading offline.

    What doesn't fit is refused before anything is fetched.

    --check asks "am I ready to leave?": it ends with 0 if all can be read without upstream, with 1
    if something can't, and names it. No data is asked for.
    """
    from mountcache.cli.interrupting import interruptible
    from mountcache.sync import prefetch as fetch_all

    _refuse_odd_options(patterns, source, frozen=frozen, pin=pin, check=check, dry_run=dry_run)
    # Patterns, or the keys themselves.
    wanted: list[str | list[str]] = [pattern_of(each, exact=exact) for each in patterns or (_ALL,)]
    if source is not None:
        from mountcache.cli.freezing import prefetch_frozen
        from mountcache.sync.frozen import Lockfile, read_keys

        named = read_keys(source)
        if frozen:
            code = prefetch_frozen(source, named, workers=workers, bwlimit=bwlimit, as_json=as_json)
            ctx.exit(code)
        wanted = [list(named.keys) if isinstance(named, Lockfile) else named]
    first, *more = wanted
    others = [str(each) for each in more]
    with opened() as store:
        if check or dry_run:
            found = _look(store, first, others, check=check, as_json=as_json)
            _refuse_vain_patterns(store, patterns, exact=exact)
            if check:
                ctx.exit(Code.DONE if found.ready else Code.MISSING)
            ctx.exit(Code.DONE if found.fits else Code.ERROR)
        cut = store.backing_store.disconnect
        with progress("prefetch") as step, interruptible(_ENDING, cut, at_once=True):
            report = fetch_all(
                store, first, *others, workers=workers, pin=pin, progress=step, bwlimit=bwlimit
            )
        if not (report.fetched or report.already or report.failed):
            _refuse_vain_patterns(store, patterns, exact=exact)
        code = tell_prefetched(report, as_json=as_json)
        _refuse_vain_patterns(store, patterns, exact=exact)
    ctx.exit(code)


def _refuse_odd_options(
    patterns: tuple[str, ...],
    source: str | None,
    *,
    frozen: bool,
    pin: bool,
    check: bool,
    dry_run: bool,
) -> None:
    if source is None and frozen:
        raise click.UsageError("--frozen is about a lock: say --from FILE")
    if source is not None and patterns:
        raise click.UsageError("PATTERN and --from FILE both say which keys; give one of them")
    if check and dry_run:
        raise click.UsageError("--check and --dry-run are two questions; ask one")
    if pin and (check or dry_run):
        raise click.UsageError("--pin goes with a prefetch that fetches")
    if frozen and (pin or check or dry_run):
        raise click.UsageError("--frozen compares bytes, and goes with none of these options")


def tell_prefetched(report: PrefetchReport, *, as_json: bool) -> Code:
    """Tell what a prefetch brought; return the exit code."""
    if as_json:
        show(asdict(report))
    else:
        tell(
            f"{report.fetched:,} fetched ({amount(report.bytes)}), "
            f"{report.already:,} here already, {len(report.failed):,} failed"
        )
        for key, why in report.failed.items():
            note(one_line(f"mountcache: {key}: {why}"))
        for key, why in report.unpinned.items():
            note(one_line(f"{key} isn't pinned: {why}"))
    return Code.ERROR if report.failed else Code.DONE


def _refuse_vain_patterns(store: MountedStore, patterns: Iterable[str], *, exact: bool) -> None:
    """Raise the error of a pattern that matches nothing."""
    known = store.with_options(offline="prefer")
    for word in patterns:
        if word == _ALL or next(known.glob(pattern_of(word, exact=exact)), None) is not None:
            continue
        if is_pattern(word, exact=exact):
            raise nothing_matches(word, is_key=store.exists)
        with asking_for(word, store):
            raise KeyError(word)


def _look(
    store: MountedStore, first: str | list[str], more: list[str], *, check: bool, as_json: bool
) -> Readiness:
    """Say what of some keys is here and what would be fetched, line by line as it is found."""
    from mountcache.sync import readiness

    def tell_of(each: Wanted) -> None:
        if each.here:
            return
        if as_json:
            show({"key": each.key, "size": each.size})
        else:
            gone = "" if each.there else " (upstream has no such key)"
            tell(f"{amount(each.size):>12}  {one_line(each.key)}{gone}")

    found = readiness(store, first, *more, each=tell_of)
    if as_json:
        show({**asdict(found), "ready": found.ready, "fits": found.fits})
        return found
    if not found.here and not found.missing:
        return found
    unsized = f" and {found.unsized:,} of unknown size" if found.unsized else ""
    missing = f"{found.missing:,} missing ({amount(found.missing_bytes)}{unsized})"
    tell(f"{found.here:,} here ({amount(found.here_bytes)}), {missing}")
    if not found.fits:
        note(
            f"they don't fit: there is room for {amount(found.room)} beside what is here; prefetch "
            "less, or set a larger size_limit"
        )
    elif not found.ready:
        note("next: `mountcache prefetch` with the same words")
    elif check and store.is_offline():
        note("upstream is out of reach: this is as it was known last")
    return found
