"""How calls of a mount go about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from mountcache.errors import ConfigurationError

__all__ = ["OFFLINE", "Offline", "Options", "check_offline"]

Offline = Literal["auto", "always", "never", "prefer"]
OFFLINE = ("auto", "always", "never", "prefer")


@dataclass(frozen=True, slots=True)
class Options:
    """How calls of a mount go about it."""

    max_age: float | None = None
    """Seconds for which a copy is used without asking; None: as upstream says."""
    max_age_insists: bool = False
    """Whether `max_age` counts more than a rule."""
    offline: Offline = "auto"
    deadline: float | None = None
    """Seconds that upstream may take to answer one call."""
    fill: bool = True
    """Whether what is read is kept."""
    partial: bool = False
    """Whether a query may leave out what can't be known."""
    indexes: bool = True
    """Whether a query may make an index for itself."""
    insists: bool = False
    """Whether `offline` counts more than the switch of the directory."""


def check_offline(offline: str) -> Offline:
    """Return `offline` if it is one of the ways to work offline."""
    if offline not in OFFLINE:
        raise ConfigurationError(
            f"{offline!r} is no way to work offline; choose one of {', '.join(OFFLINE)}"
        )
    return cast("Offline", offline)
