"""The command that has back what was taken away: undo."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.codes import one_line
from mountcache.cli.naming import chosen, exact_option, like
from mountcache.cli.session import amount, config_option, json_option, note, opened, show, tell

if TYPE_CHECKING:
    from mountcache.local.records import Taken

__all__ = ["undo"]


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
@click.option(
    "--number", type=int, metavar="N", help="Which of those listed for KEY; the last if not told."
)
@exact_option
@config_option
@json_option
def undo(words: tuple[str, ...], number: int | None, exact: bool, as_json: bool) -> None:
    """Stage again what a later edit, rm, revert or a conflict took away; list it without KEY.

    The last 10 of each key are kept for 14 days. What is staged for a key now is kept in its
    place, so that a second undo has that back. Nothing is sent, and the edit is made from what it
    was made from then: a push of it overwrites nobody else's change.
    """
    with opened() as store:
        if not words:
            if number is not None:
                raise click.UsageError("--number is about one key: name it")
            _list(store.taken(), as_json=as_json)
            return
        kept = store.taken()
        keys = chosen(
            words, lambda word: like(dict.fromkeys(each.key for each in kept), word),
            exact=exact, what="nothing that can be had back", listing="undo", is_key=store.exists,
        )  # fmt: skip
        if number is not None and len(keys) != 1:
            raise click.UsageError(f"--number is about one key, not {len(keys)}")
        for key in keys:
            taken = _undone(store, key, number)
            if as_json:
                show(_document(taken))
            else:
                tell(one_line(f"staged again: {key} ({_what(taken)}, {taken.why} {_at(taken)})"))
    if not as_json:
        note("next: `mountcache status`")


def _undone(store: Any, key: str, number: int | None) -> Taken:
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.errors import StoreError

    try:
        taken: Taken = store.undo(key, number)
    except KeyError as error:
        if isinstance(error, StoreError) or error.args != (key,):
            raise
        named = "" if number is None else f" under number {number}"
        if any(each.key == key and number in (None, each.seq) for each in store.taken(key)):
            said = f"{key!r} is gone, and only its metadata were edited: there is nothing to edit"
        else:
            said = f"nothing of {key!r} can be had back{named}; `mountcache undo` lists what can"
        raise NoSuchKeyError(said) from None
    return taken


def _list(kept: Sequence[Taken], *, as_json: bool) -> None:
    if as_json:
        for taken in kept:
            show(_document(taken))
        return
    if not kept:
        tell("nothing was taken away")
        return
    rows = [(str(each.seq), _at(each), each.why, _what(each), one_line(each.key)) for each in kept]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        tell("  ".join((*cells, row[4])))
    note(f"next: `mountcache undo {shlex.quote(kept[0].key)}` stages the last one of a key again")


def _at(taken: Taken) -> str:
    return datetime.datetime.fromtimestamp(taken.taken).astimezone().strftime("%Y-%m-%d %H:%M")


def _what(taken: Taken) -> str:
    if taken.kind == "perm":
        return "permissions"
    return "metadata" if taken.content is None else amount(taken.size)


def _document(taken: Taken) -> dict[str, Any]:
    from mountcache.jsonform import parse

    return {
        "number": taken.seq,
        "key": taken.key,
        "what": _what(taken) if taken.content is None else "data",
        "size": taken.size,
        "sha256": taken.sha256,
        "permissions" if taken.kind == "perm" else "metadata": parse(taken.meta),
        "author": taken.author,
        "when": taken.at,
        "taken": taken.taken,
        "why": taken.why,
        "base": str(taken.base),
    }
