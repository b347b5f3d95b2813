"""When a staged edit is sent by a background pusher: decided here, with no I/O.

The pusher goes by it, and status shows it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mountcache.local.records import CONFLICT, REFUSED, Edit

__all__ = ["LONGEST", "Pace", "backed_off", "next_try", "schedule", "waits_for_somebody"]

FIRST: Final = 5.0
"""Seconds after a first failure."""
LONGEST: Final = 300.0
"""Seconds after many of them; with what chance adds, a quarter more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What goes for all edits of a directory."""

    quiet: float = 2.0
    """Seconds for which an edit rests, so that one that is soon edited again goes once."""
    paused: bool = False
    rests_until: float = 0.0
    """Until when upstream is left alone since it was out of reach, in seconds since 1970."""


def backed_off(failures: int, name: str) -> float:
    """Return how many seconds to wait after so many failures in a row, from 1 up.

    Twice as long after each. By the name of who waits it is up to a quarter less or more, so that
    not all come back at once; the same name and number always give the same.
    """
    chance: float = zlib.crc32(f"{failures} {name}".encode(errors="surrogatepass")) / 2**32
    return min(FIRST * 2.0 ** min(failures - 1, 30), LONGEST) * (0.75 + chance / 2)


def waits_for_somebody(edit: Edit) -> bool:
    """Whether trying again would change nothing: it is held, in conflict, or was refused."""
    return bool(edit.held) or (edit.error or "").startswith((CONFLICT, REFUSED))


def next_try(edit: Edit, now: float, pace: Pace) -> float | None:
    """Return when an edit by itself is to be sent; None: not until somebody does something.

    A clock that was set back holds nothing up for longer than it was to wait.
    """
    if pace.paused or waits_for_somebody(edit):
        return None
    if edit.tries and edit.tried is not None:
        begins, wait = edit.tried, backed_off(edit.tries, f"{edit.key} {edit.seq}")
    else:
        begins, wait = edit.at, pace.quiet
    due = begins + wait if begins <= now else now
    if pace.rests_until <= now + LONGEST * 1.25:
        due = max(due, pace.rests_until)
    return due


def schedule(edits: Iterable[Edit], now: float, pace: Pace) -> Mapping[str, float | None]:
    """Return when each edit is to be sent, by key; those that are held aren't among them.

    What belongs together goes together: when the last of it is ready, and not at all as long as
    one waits for somebody. What a rule holds keeps none of the others, as in a push by hand.
    """
    groups: dict[int, float | None] = {}
    members = [(edit.key, edit.group, next_try(edit, now, pace)) for edit in edits if not edit.held]
    for _, group, due in members:
        before = groups.get(group, 0.0)
        groups[group] = None if due is None or before is None else max(due, before)
    return {key: groups[group] for key, group, _ in members}
