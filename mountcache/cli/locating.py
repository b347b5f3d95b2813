"""The command that says where the bytes of keys are: whereis."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mountcache.cli.codes import NoSuchKeyError, one_line
from mountcache.cli.session import amount, config_option, json_option, note, opened, show, tell

if TYPE_CHECKING:
    from mountcache.sync import Whereabouts

__all__ = ["whereis"]

_DATA = {"put": "data", "meta": "metadata", "del": "removal", "perm": "permissions"}


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@config_option
@json_option
def whereis(keys: tuple[str, ...], as_json: bool) -> None:
    """Say where the bytes of keys are: all the places here, and what is known of upstream.

    Asks nobody. Files are the local store's own: read them, and change nothing in them.
    """
    from mountcache import sync

    with opened() as store:
        for number, key in enumerate(keys):
            try:
                found = sync.whereis(store, key)
            except KeyError as error:
                if error.args != (key,):
                    raise
                raise NoSuchKeyError(
                    f"nothing of {key!r} is here, nor known of it upstream; `mountcache info` asks"
                ) from None
            if as_json:
                show(asdict(found))
                continue
            if number:
                tell("")
            tell(one_line(key))
            for name, said in _lines(found):
                tell(f"  {name + ':':<10}{one_line(said)}")
            if found.staged and found.staged.kind == "put" and found.staged.file is None:
                note(one_line(f"the staged data of {key!r} are lost; `mountcache doctor`"))


def _lines(found: Whereabouts) -> Iterator[tuple[str, str]]:
    if (staged := found.staged) is not None:
        size = f", {amount(staged.size)}" if staged.kind == "put" else ""
        place = f", {_place(staged.file)}" if staged.kind == "put" else ""
        made = f"by {staged.author}, {_time(staged.when)}, made from {staged.base}"
        yield "staged", f"{_DATA[staged.kind]}{size} {made}{place}"
        if staged.sha256 is not None:
            yield "", f"sha256 {staged.sha256}"
    if (flight := found.in_flight) is not None:
        answer = "is under way" if flight.state == "sending" else "had no answer"
        yield "push", f"one of its {_DATA[flight.kind]} {answer}, begun {_time(flight.when)}"
    if (copy := found.cached) is not None:
        pinned = "pinned, " if copy.pinned else ""
        verified = "verified" if copy.verified else "not verified since the machine was started"
        yield "copy", f"{amount(copy.size)}, {pinned}{verified}, {_place(copy.file)}"
        yield "", f"version {copy.version or 'none'}, confirmed {_time(copy.checked)}"
        yield "", f"sha256 {copy.sha256}"
    if (begun := found.begun) is not None:
        yield (
            "partial",
            (f"{amount(begun.here)} of {amount(begun.size)}, of version {begun.version}"),
        )
    for kept in found.kept:
        data = "" if kept.kind != "put" else f", {amount(kept.size)}, {_place(kept.file)}"
        yield (
            "undo",
            f"number {kept.number}: {_DATA[kept.kind]}, {kept.why} {_time(kept.taken)}{data}",
        )
    yield "upstream", _upstream(found)


def _upstream(found: Whereabouts) -> str:
    known = found.upstream
    if known is None:
        return "nothing is known"
    asked = "" if known.asked is None else f"; asked last {_time(known.asked)}"
    if not known.present:
        return f"gone{asked}"
    size = "" if known.size is None else f", {amount(known.size)}"
    ours = ", as pushed from here" if known.ours else ""
    return f"version {known.version or 'none'}{size}{ours}{asked}"


def _place(file: str | None) -> str:
    if file is None:
        return "the bytes are lost"
    return file or "in the database"


def _time(when: float) -> str:
    return datetime.datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")
