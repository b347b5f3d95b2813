"""The commands about what is beside the data: meta, info and query."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.codes import NoSuchKeyError, one_line
from mountcache.cli.keeping import is_pinned
from mountcache.cli.naming import assignments, into_group_option, nothing_matches
from mountcache.cli.reading import found
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    note,
    opened,
    show,
    spelled,
    tell,
)

if TYPE_CHECKING:
    from mountcache.abc import Value
    from mountcache.local.records import StagedEdit
    from mountcache.mounted import MountedStore

__all__ = ["info", "meta", "query"]

_GIVEN = "NAME=TEXT"


@click.command()
@click.argument("key")
@click.argument("given", nargs=-1, metavar="[NAME=TEXT|NAME:=JSON]...")
@click.option("--unset", metavar="NAME", multiple=True, help="Take this name away.")
@into_group_option
@config_option
@json_option
def meta(
    key: str, given: tuple[str, ...], unset: tuple[str, ...], group: str | None, as_json: bool
) -> None:
    """Stage changes to the metadata of KEY; show it if none are given.

    What isn't named stays. NAME=TEXT sets text; NAME:=JSON a number, true, a list and so on.
    """
    names = assignments(given, _GIVEN)
    if both := next((name for name in unset if name in names), None):
        raise click.UsageError(f"{both!r} is both set and unset")
    with opened() as store, asking_for(key, store):
        changes = bool(names or unset)
        metadata = _changed(store, key, names, unset, group) if changes else store.get_metadata(key)
    if as_json:
        show({"key": key, "metadata": metadata, "staged": changes})
        return
    for name, value in metadata.items():
        tell(_assignment(name, value))
    if changes:
        note(one_line(f"staged {key}"))
    elif not metadata:
        note(one_line(f"{key} has no metadata; next: `mountcache meta KEY NAME=TEXT` sets some"))


def _changed(
    store: MountedStore,
    key: str,
    names: dict[str, Any],
    unset: tuple[str, ...],
    group: str | None,
) -> dict[str, Any]:
    """Stage changes of metadata; return what there is then."""
    with store.transaction(f"meta {key}", group=group):
        there = store.get_metadata(key)
        for name in unset:
            if name not in there:
                raise NoSuchKeyError(
                    f"{key!r} has no metadata {name!r} to unset; nothing was changed"
                )
        if unset:
            kept = {name: value for name, value in there.items() if name not in unset}
            store.set_metadata(key, {**kept, **names})
        else:
            store.update_metadata(key, names)
        return store.get_metadata(key)


def _assignment(name: str, value: Any) -> str:
    """Return a name and its value as `meta` takes them, on one line."""
    if isinstance(value, str) and value.isprintable():
        return f"{one_line(name)}={value}"
    return f"{one_line(name)}:={spelled(value)}"


@click.command()
@click.argument("key")
@config_option
@json_option
def info(key: str, as_json: bool) -> None:
    """Show what is known of KEY: where its data is, how large, how old, and its metadata."""
    with opened() as store:
        edit = next((edit for edit in store.staged() if edit.key == key), None)
        if edit is not None and edit.state == "deleted":
            raise NoSuchKeyError(
                f"{key!r} is deleted here, by {edit.author}; `mountcache push` deletes it "
                "upstream, `mountcache revert` brings it back"
            )
        with asking_for(key, store):
            value = store.get(key)
        known = _known(key, value, edit) | {"pinned": is_pinned(store, key)}
    if as_json:
        show(known)
        return
    lines = {
        "key": key,
        "state": _STATES[known["state"]],
        "size": "not known before it is read" if value.size is None else _size(value.size),
        "version": value.version or "none",
        "sha256": known["sha256"] or "not known before it is read",
        "modified": _time(value.modified),
    }
    if known["pinned"]:
        lines["pinned"] = "yes; `mountcache unpin` lets the copy go like others"
    if edit is not None:
        lines["staged by"] = f"{edit.author}, {_time(edit.when)}"
    elif value.source == "cached":
        age = datetime.timedelta(seconds=round(value.age))
        stale = ", and upstream couldn't be asked" if value.stale else ""
        lines["confirmed"] = f"{age} ago{stale}"
    for name, text in lines.items():
        tell(f"{name + ':':<11}{one_line(text)}")
    for name, given in value.metadata.items():
        tell(f"{'metadata:':<11}{_assignment(name, given)}")


_STATES = {
    "remote": "remote: upstream's, no copy is here",
    "cached": "cached: upstream's, a copy is here",
    "added": "added: staged here, not upstream yet",
    "modified": "modified: staged here, upstream has an earlier version",
}


def _known(key: str, value: Value, edit: StagedEdit | None) -> dict[str, Any]:
    from mountcache.abc import facts_of

    state = "cached" if value.source == "cached" else "remote"
    return {
        "key": key,
        "state": state if edit is None else edit.state,
        "size": value.size,
        "version": value.version,
        "sha256": facts_of(value).sha256,
        "modified": value.modified,
        "age": value.age,
        "stale": value.stale,
        "author": None if edit is None else edit.author,
        "base": None if edit is None else edit.base,
        "metadata": value.metadata,
    }


def _size(size: int) -> str:
    return amount(size) if size < 1000 else f"{amount(size)} ({size:,} bytes)"


def _time(when: float | None) -> str:
    if when is None:
        return "not known"
    return datetime.datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


@click.command()
@click.argument("given", nargs=-1, metavar="[NAME=TEXT|NAME:=JSON]...")
@click.option("--pattern", metavar="PATTERN", help="Only keys that match, or this key.")
@click.option(
    "--select", metavar="NAME", multiple=True, help="Show this of the metadata beside each key."
)
@config_option
@json_option
def query(
    given: tuple[str, ...], pattern: str | None, select: tuple[str, ...], as_json: bool
) -> None:
    """List the keys whose metadata has all of these values, one a line.

    NAME=TEXT asks for text; NAME:=JSON for a number, true, a list and so on. That no key has
    them is an answer, and no error.
    """
    where = assignments(given, _GIVEN)
    count = 0
    with opened() as store:
        for key, metadata in found(store, pattern or "*", where):
            count += 1
            shown = {name: metadata[name] for name in select if name in metadata}
            if as_json:
                show({"key": key, "metadata": shown if select else metadata})
            elif select:
                tell(f"{key}\t{spelled(shown)}")
            else:
                tell(key)
        if not count and pattern is not None and next(store.glob(pattern or "*"), None) is None:
            raise nothing_matches(pattern)
    if not count:
        note("no key has this metadata" if given else "no keys are there yet")
