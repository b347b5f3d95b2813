"""What a push says of each key, and of each side of a conflict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mountcache.abc import Base, Grade
from mountcache.errors import ConfigurationError, StoreError
from mountcache.sync.judge import merge_metadata

__all__ = [
    "ARRIVED",
    "POLICIES",
    "STOPPED",
    "Conflict",
    "GroupResult",
    "Outcome",
    "Policy",
    "PushReport",
    "PushResult",
    "Side",
    "policy_of",
]

Outcome = Literal[
    "pushed",
    "already there",
    "stored differently",
    "conflict",
    "failed",
    "refused",
    "blocked",
    "skipped",
    "held",
]

Part = Literal["value", "permissions"]

STOPPED = "the push was stopped before this key"
"""The message of a result that is "skipped" since the push was asked to end early."""

POLICIES = ("fail", "ours", "theirs", "keep-both", "merge-metadata")

_ALSO = {"mine": "ours", "upstream": "theirs"}
"""Other names of policies: those of the sides."""


def policy_of(name: str) -> str:
    """Return the policy of a name.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    found = _ALSO.get(name, name)
    if found not in POLICIES:
        raise ConfigurationError(
            f"{name!r} is no policy for conflicts; choose one of {', '.join(POLICIES)}"
        )
    return found


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a conflict."""

    label: str
    """"mine (staged by AUTHOR at TIME)" or "upstream (VERSION, TIME)"."""
    present: bool
    """False if this side deleted the key."""
    version: str | None
    metadata: Mapping[str, Any] = field(hash=False)
    sha256: str | None
    size: int | None
    at: float | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """An edit and an upstream that neither the edit nor its base explains."""

    key: str
    base: Base
    """The version the edit was made from; None if nobody knows."""
    mine: Side
    upstream: Side
    base_metadata: Mapping[str, Any] | None = None
    """The metadata that the edit was made from; {} if it made the key, None if nobody knows."""
    part: Part = "value"
    """permissions: those of the key, which stand in the place of the metadata of both sides."""

    @property
    def merged_metadata(self) -> dict[str, Any] | None:
        """The changes that both sides made of the metadata; None if they can't be put together."""
        if self.base_metadata is None or not (self.mine.present and self.upstream.present):
            return None
        return merge_metadata(self.mine.metadata, self.base_metadata, self.upstream.metadata)


Policy = str | Callable[[Conflict], str]
"""One of `POLICIES` ("mine" and "upstream" are taken for "ours" and "theirs"), or what chooses
one for a conflict."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of one staged edit."""

    key: str
    outcome: Outcome
    message: str = ""
    """What to know, and what to do next."""
    grade: Grade | None = None
    """A: compared and written as one step; C: compared just before and verified after, with a
    short race; D: written without a look."""
    enforced: bool = False
    """Upstream itself compared: as one step with the write at grade A; at grade C because a probe
    has shown that it does, in what may be two steps."""
    verified: bool = False
    """What was written was read back, or upstream is known to compare and write as one step."""
    race: float | None = None
    """Seconds from the look at upstream to the answer of the write, at grade C, and the length of
    the request where upstream itself compares: what somebody else wrote in between was perhaps
    overwritten unseen. None where nothing can come in between."""
    version: str | None = None
    conflict: Conflict | None = None
    created: bool = False
    """Whether the key is upstream since this push made it; False, too, where that isn't known."""
    part: Part = "value"
    """What of the key it is about: its data and metadata, or its permissions."""
    error: StoreError | OSError | None = field(default=None, compare=False, repr=False)
    """What stood in the way, for outcomes "failed" and "blocked"."""


ARRIVED: Final = frozenset({"pushed", "already there", "stored differently"})
"""The outcomes of which nothing stays staged."""

_DONE: Final = ARRIVED | {"held"}


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What became of edits that belong together, such as those of one transaction."""

    group: int
    """Its number: `StagedEdit.group`."""
    name: str | None
    """Its name, if it was given one."""
    keys: tuple[str, ...]
    """Those that this push was about, in the order of sending."""
    outcome: Literal["complete", "partial", "none"]
    """Complete: nothing of the group is staged any more; none: nothing of it went upstream."""
    together: bool = False
    """Whether it was sent as one change, which is applied as a whole or not at all."""
    message: str = ""
    """Why it wasn't, though upstream takes such changes."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """One result for each key, and one more where its permissions were pushed, too."""

    results: tuple[PushResult, ...] = ()
    groups: tuple[GroupResult, ...] = ()
    """One result for each group of more than one key."""

    @property
    def ok(self) -> bool:
        """Whether nothing is left that was to be pushed."""
        return all(each.outcome in _DONE for each in self.results)

    @property
    def conflicts(self) -> tuple[PushResult, ...]:
        """The results that are conflicts."""
        return tuple(each for each in self.results if each.outcome == "conflict")

    def __getitem__(self, key: str) -> PushResult:
        for each in self.results:
            if each.key == key:
                return each
        raise KeyError(key)
