"""The commands about what stays here: pin, unpin, and the table that `ls -l` shows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import Code, NoSuchKeyError, one_line
from mountcache.cli.naming import chosen, exact_option
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    spelled,
    tell,
)

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore
    from mountcache.sync import Resident

__all__ = ["age", "is_pinned", "pin", "residents_of_all", "short_version", "show_resident", "unpin"]

_named = click.argument("words", nargs=-1, required=True, metavar="KEY|PATTERN...")
_BATCH = 500
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (float("inf"), 86400, "d"))


@click.command()
@_named
@exact_option
@config_option
@json_option
@click.pass_context
def pin(ctx: click.Context, words: tuple[str, ...], exact: bool, as_json: bool) -> None:
    """Keep the copies of keys here until they are unpinned; fetch what isn't here.

    A pinned copy isn't evicted, pruned or dropped. A newer version of the key takes its place and
    stays pinned, also after a push.
    """
    from mountcache.sync import pin_keys

    with opened() as store:
        keys = chosen(words, store.glob, exact=exact, is_key=store.exists)
        outside = next((key for key in keys if not key.startswith(store.mount_point)), None)
        if outside is not None:
            raise NoSuchKeyError(
                f"{outside!r} lies outside the mount point {store.mount_point!r}, so it isn't kept"
            )
        with progress("pin") as step:
            report = pin_keys(store, keys, progress=step)
    wrong = {**report.failed, **report.unpinned}
    for key in keys:
        if as_json:
            show({"key": key, "pinned": key not in wrong, "error": wrong.get(key)})
        elif key not in wrong:
            tell(one_line(f"pinned {key}"))
    for key, why in wrong.items():
        click.echo(one_line(f"mountcache: {key} isn't pinned: {why}"), err=True)
    if not as_json and report.fetched:
        note(f"{report.fetched:,} fetched ({amount(report.bytes)})")
    ctx.exit(Code.ERROR if wrong else Code.DONE)


@click.command()
@_named
@exact_option
@config_option
@json_option
def unpin(words: tuple[str, ...], exact: bool, as_json: bool) -> None:
    """Let the copies of keys go like any others again; nothing is removed.

    A PATTERN is about what is pinned.
    """
    from mountcache.errors import StoreError
    from mountcache.sync import residents

    with opened() as store:
        keys = chosen(
            words, lambda word: [each.key for each in residents(store, "pinned", word)],
            exact=exact, what="nothing pinned", listing="ls --pinned", is_key=store.exists,
        )  # fmt: skip
        for key in keys:
            try:
                store.unpin(key)
            except KeyError as error:
                if isinstance(error, StoreError) or error.args != (key,):
                    raise
                raise NoSuchKeyError(
                    f"{key!r} isn't pinned; `mountcache ls --pinned` lists what is"
                ) from None
            show({"key": key, "pinned": False}) if as_json else tell(one_line(f"unpinned {key}"))


def is_pinned(store: MountedStore, key: str) -> bool:
    """Return whether the copy of a key is pinned."""
    from mountcache.local.pinning import is_pinned as is_pinned_there

    point = store.mount_point
    return key.startswith(point) and is_pinned_there(store.mount.catalog, key[len(point) :])


# -- the table of ls -l ------------------------------------------------------------------------


def residents_of_all(
    store: MountedStore, listed: Iterable[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any], Resident | None]]:
    """Iterate over keys, their metadata, and where their data are; None outside the mount."""
    from mountcache.sync import residents_of

    point, todo = store.mount_point, iter(listed)
    while batch := list(islice(todo, _BATCH)):
        inside = [key for key, _ in batch if key.startswith(point) and key != point]
        found = {each.key: each for each in residents_of(store, inside)}
        for key, metadata in batch:
            yield key, metadata, found.get(key)


def show_resident(
    key: str, metadata: dict[str, Any], each: Resident | None, *, as_json: bool
) -> None:
    """Print a line of `ls -l`: state, pin, size, version, age, key, metadata."""
    if as_json:
        known = {"state": "outside"} if each is None else asdict(each)
        show({**known, "key": key, "metadata": metadata})
        return
    cells = ["outside", "", "", "", ""]
    if each is not None:
        since = "" if each.since is None else age(time.time() - each.since)
        size = "?" if each.size is None else amount(each.size).replace(" bytes", " B")
        cells = [
            each.state, "pin" if each.pinned else "", size.replace(" byte", " B"),
            short_version(each.version), since,
        ]  # fmt: skip
    state, pinned, size, version, since = cells
    said = f"\t{spelled(metadata)}" if metadata else ""
    tell(f"{state:<8}  {pinned:<3}  {size:>8}  {version:<8}  {since:>6}  {key}{said}")


def short_version(version: str | None) -> str:
    """Return the beginning of a version, which tells it from others."""
    return "-" if version is None else one_line(version.removeprefix("W/").strip('"'))[:8]


def age(seconds: float) -> str:
    """Return how long ago something was, in one unit; what lies ahead is just now."""
    seconds = max(0.0, seconds)
    _, unit, name = next(each for each in _AGES if seconds < each[0])
    return f"{seconds / unit:.0f} {name}"
