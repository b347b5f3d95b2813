"""The switch of a directory: what `offline` is for all of its processes, until somebody turns it.

It is kept in the local store, so that each command and each process that has the directory open
heeds it, within a second.
"""

from __future__ import annotations

import time
from typing import Final

from mountcache.errors import StoreUnavailableError
from mountcache.local.catalog import Catalog
from mountcache.local.remembered import recall, remember
from mountcache.sync.mount import Mount
from mountcache.sync.options import Offline, check_offline

__all__ = ["Switch", "read_switch", "refuse_offline", "turn_switch"]

_NAME: Final = "offline"
_EVERY: Final = 1.0


def read_switch(catalog: Catalog) -> Offline | None:
    """Return what the switch says now; None if nobody has turned it."""
    match recall(catalog, _NAME):
        case "auto" | "always" | "never" | "prefer" as how:
            return how
    return None


def turn_switch(catalog: Catalog, how: str | None) -> None:
    """Say for all processes of the directory what `offline` is; None: as each was told."""
    remember(catalog, _NAME, None if how is None else check_offline(how))


def refuse_offline(mount: Mount) -> None:
    """Raise StoreUnavailableError if the directory is switched to work offline."""
    if read_switch(mount.catalog) == "always":
        raise StoreUnavailableError(
            "this directory is switched to work offline; `mountcache offline off` ends that"
        )


class Switch:
    """The switch as a process sees it that looks often.

    Parameters
    ----------
    catalog
        That of the directory.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._due = 0.0
        self._says: Offline | None = None

    @property
    def says(self) -> Offline | None:
        """What it said at most a second ago."""
        now = time.monotonic()
        if now >= self._due:
            self._says = read_switch(self._catalog)
            self._due = now + _EVERY
        return self._says

    def look_again(self) -> None:
        """Look at the next question."""
        self._due = 0.0
