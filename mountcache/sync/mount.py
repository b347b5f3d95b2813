"""What a mount joins: the local end and the remote end, as `mountcache.sync` needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from mountcache.abc import AbstractReadOnlyStore
from mountcache.errors import ReadOnlyStoreError
from mountcache.events import BaseEvent
from mountcache.local.catalog import Catalog
from mountcache.local.journal import Journal
from mountcache.local.records import Edit
from mountcache.local.staging import Announce, Staging
from mountcache.locks import Lock

if TYPE_CHECKING:
    from mountcache.sync.rules import Rules

__all__ = ["HELD", "Counts", "Mount", "Mounted"]

HELD: Final = "it is held back; `unhold` lets it go"


@dataclass(slots=True)
class Counts:
    """What a mount has done in this process since it was connected."""

    hits: int = 0
    """Values given from what is here, staged or cached, upstream's confirmation or none."""
    misses: int = 0
    """Values, and parts of values, for which upstream was asked."""
    fetched_bytes: int = 0
    """Bytes of values that upstream sent."""


def _nobody(event: BaseEvent) -> None:
    """Take an event that nobody announces."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """The two ends of a mount."""

    catalog: Catalog
    """The local end. Its keys lack the mount point."""
    staging: Staging
    """The edits of `catalog`."""
    journal: Journal
    """The pushes of `catalog`."""
    backing: AbstractReadOnlyStore
    """The remote end. Its keys have it."""
    announce: Callable[[str], Announce]
    """Who announces a change of a key of the catalog."""
    prefix: str = ""
    """The mount point."""
    clock: Callable[[], float] = time.time
    emit: Callable[[BaseEvent], None] = _nobody
    """Announces an event of the MountedStore, with full keys."""
    may_probe: bool = False
    """Whether a push may find out by trying what upstream enforces."""
    quiet: float = 2.0
    """Seconds for which an edit rests before a background pusher sends it."""
    rules: Rules | None = None
    """What goes for some keys alone; None: nothing."""
    max_age: float | None = None
    """Seconds for which a copy is used without asking; None: as upstream says."""
    counts: Counts = field(default_factory=Counts)
    probing: Lock = field(default_factory=Lock, compare=False, repr=False)
    """Held by who probes."""
    seen_permissions: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What permissions were given out in this process, by key of the catalog, in normal form."""
    frozen: str = ""
    """What is in force, if a lock is: then its bytes alone are given, and nothing changes."""

    def refuse_frozen(self, verb: str) -> None:
        """Raise ReadOnlyStoreError if a lock is in force."""
        if self.frozen:
            raise ReadOnlyStoreError(
                f"{self.frozen} is in force in this store, which gives what it names and changes "
                f"nothing; open it without a lock for {verb}"
            )

    def edits(self) -> Iterator[Edit]:
        """Iterate over what is staged, in the order of its making; what a rule holds is held."""
        edits = self.catalog.edits()
        return edits if self.rules is None else map(self.ruled, edits)

    def ruled(self, edit: Edit) -> Edit:
        """Return an edit as it stands under the rules."""
        if self.rules is None or self.rules.why_unpushed(self.full(edit.key)) is None:
            return edit
        return replace(edit, held=1)

    def why_held(self, key: str) -> str:
        """Return why an edit that is held isn't sent, a key of the catalog."""
        why = None if self.rules is None else self.rules.why_unpushed(self.full(key))
        return HELD if why is None else f"never pushed: {why}"

    def full(self, key: str) -> str:
        """Return the backing store's name of a key of the catalog."""
        return self.prefix + key


class Mounted(Protocol):
    """A store that can be asked for its two ends."""

    @property
    def mount(self) -> Mount:
        """The two ends."""

    def with_options(self, *, max_age: float | None = None) -> Mounted:
        """Return a view of the store with other settings."""

    def update_index(self) -> None:
        """Read upstream's index now, if it has one."""

    def glob(self, pattern: str) -> Iterator[str]:
        """Iterate over the keys that match a shell pattern."""
