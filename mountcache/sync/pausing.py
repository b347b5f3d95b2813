"""What all processes of a directory know of its background pushing: a pause, and a rest.

Somebody pauses it, for as long as they like. It rests by itself while upstream is out of reach.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from mountcache.local.catalog import Catalog
from mountcache.local.remembered import recall, remember
from mountcache.sync.schedule import Pace

__all__ = ["Pause", "pace", "pause", "read_pause", "remember_rest", "resume"]

_PAUSED: Final = "push_paused"
_RESTS: Final = "push_rests_until"
_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused background pushing."""

    by: str
    at: float
    """When, in seconds since 1970."""


def read_pause(catalog: Catalog) -> Pause | None:
    """Return who paused background pushing; None if nobody did."""
    text = recall(catalog, _PAUSED)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return Pause(str(found["by"]), float(found["at"]))
    except (ValueError, TypeError, KeyError):
        # Of another make: that it is paused counts.
        return Pause("somebody", 0.0)


def pause(catalog: Catalog, by: str) -> None:
    """Pause background pushing for all processes of the directory; who did first is kept."""
    if read_pause(catalog) is None:
        remember(catalog, _PAUSED, json.dumps({"by": by[:_NAME], "at": catalog.clock()}))


def resume(catalog: Catalog) -> None:
    """End the pause, and the rest: upstream is tried at once."""
    remember(catalog, _PAUSED, None)
    remember(catalog, _RESTS, None)


def remember_rest(catalog: Catalog, until: float | None) -> None:
    """Say until when upstream is left alone; None: it isn't."""
    remember(catalog, _RESTS, None if until is None else repr(until))


def pace(catalog: Catalog, quiet: float) -> Pace:
    """Return what goes for all edits now."""
    try:
        until = float(recall(catalog, _RESTS) or 0.0)
    except ValueError:
        until = 0.0
    return Pace(quiet, read_pause(catalog) is not None, until)
