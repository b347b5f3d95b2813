"""The rows of the catalog as small frozen records.

Keys here are the mount store's own: without the mount point. Times are seconds since 1970 by
the wall clock; nothing is decided by comparing those of two machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mountcache.abc import ABSENT, Base
from mountcache.jsonform import parse

if TYPE_CHECKING:
    from pathlib import Path

    from mountcache.local.content import Spool

__all__ = [
    "CONFLICT",
    "REFUSED",
    "BaseKind",
    "BaseOf",
    "Clean",
    "Copy",
    "Edit",
    "EditKind",
    "Entry",
    "Limits",
    "Op",
    "Row",
    "Seen",
    "StagedEdit",
    "StagedPermissions",
    "StoredRecord",
    "Taken",
    "Why",
]

EditKind = Literal["put", "meta", "del"]
Why = Literal["replaced", "deleted", "reverted", "given up"]
BaseKind = Literal["none", "unknown", "absent", "version", "digest", "entry", "op"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that a store may take of the disk, each None for what was in force before."""

    size: int | None = None
    """Clean copies. A new directory: a tenth of the free disk, at most 10 GiB."""
    staged: int | None = None
    """Staged values. A new store: no limit."""
    undo: int | None = None
    """What was taken away and is kept for undo. A new store: a quarter of `size`."""


@dataclass(frozen=True, slots=True)
class BaseOf:
    """What the author of an edit had seen of the key."""

    kind: BaseKind
    """none: set past the mount; unknown: not looked at; absent; version: `version` names it;
    digest: only `sha256` and `meta` do; entry: `entry` of the index does; op: what the push in
    flight makes of it."""
    version: str | None = None
    sha256: str | None = None
    meta: str | None = None
    entry: str | None = None
    op_id: str | None = None

    @property
    def as_base(self) -> Base:
        """What a conditional write is given for it; None where only a comparison can tell."""
        if self.kind in ("none", "unknown", "absent"):
            return ABSENT
        return self.version if self.kind == "version" else None

    def __str__(self) -> str:
        return self.version or self.kind if self.kind == "version" else self.kind


NO_BASE = BaseOf("none")
UNKNOWN_BASE = BaseOf("unknown")
ABSENT_BASE = BaseOf("absent")


CONFLICT = "conflict: "
"""What the error of an edit begins with if its push found upstream changed by somebody else."""

REFUSED = "refused: "
"""What it begins with if it was refused, here or by upstream: trying again changes nothing."""


class Seen(NamedTuple):
    """What was handed out for a key."""

    version: Base
    sha256: str | None = None
    meta: str | None = None
    entry: str | None = None
    edit_over: BaseOf | None = None
    """If it was a staged edit: the base of that."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One staged edit."""

    key: str
    seq: int
    kind: EditKind
    content: str | None
    sha256: str | None
    size: int | None
    meta: str
    version: str | None
    base: BaseOf
    group: int
    partner: str | None
    author: str
    at: float
    notes: str
    tries: int = 0
    error: str | None = None
    held: int = 0
    """Whether it isn't to be pushed for now."""
    tried: float | None = None
    """When a push of it failed last."""


@dataclass(frozen=True, slots=True)
class Op:
    """One request in flight, or one whose answer never came (``unknown``)."""

    op_id: str
    key: str
    edit_seq: int
    kind: EditKind
    content: str | None
    sha256: str | None
    size: int | None
    meta: str
    base: BaseOf
    state: Literal["sending", "unknown"]
    owner: str
    at: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A clean copy."""

    key: str
    content: str
    version: str | None
    sha256: str
    size: int
    meta: str
    modified: float | None
    checked: float
    expires: float | None
    validators: str
    entry: str | None
    boot: str
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What upstream is known to hold for a key."""

    key: str
    present: bool
    meta: str
    entry: str | None
    """Metadata as polled from an index; None if it was learned from a value."""
    version: str | None
    sha256: str | None
    size: int | None
    seen: Seen | None = None
    masked: bool = False
    """A push of ours that the polled index doesn't show yet."""


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known of one key."""

    key: str
    edit: Edit | None
    op: Op | None
    copy: Copy | None
    entry: Entry | None
    complete: bool
    """What the catalog lacks, upstream lacks."""


@dataclass(frozen=True, slots=True)
class Clean:
    """A verified download, to be kept as a clean copy."""

    key: str
    body: Spool | Path | None
    """A finished spool, or a finished file under ``partial/``, adopted by rename; None if the
    store has the bytes already."""
    sha256: str
    size: int
    meta: str
    """Metadata as JSON text, as upstream spelled it."""
    version: str | None
    validators: str = ""
    lifetime: float | None = None
    modified: float | None = None
    entry: str | None = None
    """The index entry that was current when the bytes were asked for."""
    over: Row | None = None
    """What was known of the key before they were: of what is known since, they are no part."""


@dataclass(frozen=True, slots=True)
class StagedEdit:
    """A staged edit as users see it."""

    key: str
    state: Literal["added", "modified", "deleted"]
    what: Literal["data", "metadata", "delete"]
    base: str
    """"absent", "unknown", or the version that it replaces."""
    size: int | None
    when: float
    author: str
    notes: str
    group: int
    in_flight: bool = False
    tries: int = 0
    error: str | None = None
    """Why its last push failed."""
    upstream: Literal["same", "changed", "gone", "unknown"] = "unknown"
    """What is known here of upstream, beside the base: a later push asks anew."""
    tried: float | None = None
    """When its last push failed."""
    held: bool = False
    """Whether no push sends it for now."""
    held_why: str | None = None
    """What holds it, and what to do."""
    group_name: str | None = None
    """The name of its group; None if it has none."""
    partner: str | None = None
    """Of the delete that is half of a rename: the new name."""
    renamed_from: str | None = None
    """Of the other half: the old name."""
    conflicts_now: bool | None = None
    """Whether a look at upstream just now found it changed by somebody else; None: no look."""
    next_try: float | None = None
    """When a background pusher sends it, in seconds since 1970; None: not before somebody does
    something about it, or about what belongs to it."""
    sha256: str | None = None
    """The digest of its data; None if there is none in it."""
    meta: str = "{}"
    """Its metadata as JSON text."""
    pinned: bool = False
    """Whether the copy of the key that is here is pinned; what is pushed will be, too."""
    stale: bool = False
    """Whether `upstream` is out of date, perhaps: it was asked longer ago than what it says counts
    (`max_age`, else its own word, else how often its index is read, else a day)."""
    checked: float | None = None
    """When upstream was asked about the key last, as far as that is written down."""

    @property
    def failed(self) -> bool:
        """Whether its last push failed: `error` says why."""
        return self.error is not None

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata."""
        return parse(self.meta)

    @property
    def in_conflict(self) -> bool:
        """Whether a look just now, or else its last push, found upstream changed by somebody."""
        if self.conflicts_now is not None:
            return self.conflicts_now
        return self.error is not None and self.error.startswith(CONFLICT)


@dataclass(frozen=True, slots=True)
class StagedPermissions:
    """The permissions that are staged for a key, beside whatever else is."""

    key: str
    seq: int
    text: str
    """What is to be upstream, as JSON text in normal form."""
    base: str | None
    """What their author had seen upstream, in normal form; None: nothing."""
    created: bool
    """Whether the key was new then, and had none."""
    author: str
    at: float
    """When they were staged, in seconds since 1970."""
    tries: int = 0
    error: str | None = None
    """Why their last push failed."""

    @property
    def permissions(self) -> dict[str, Any]:
        """The permissions."""
        return parse(self.text)

    @property
    def in_conflict(self) -> bool:
        """Whether their last push found that somebody else had changed them upstream."""
        return self.error is not None and self.error.startswith(CONFLICT)


@dataclass(frozen=True, slots=True)
class Taken:
    """A staged value that was taken away, and can be had back."""

    seq: int
    key: str
    kind: EditKind | Literal["perm"]
    """perm: permissions, in the place of the metadata."""
    content: str | None
    """Its bytes, for `Catalog.open_content`; None if only metadata or permissions were staged."""
    sha256: str | None
    size: int | None
    meta: str
    author: str
    at: float
    """When it was staged."""
    base: BaseOf
    """What its author had seen."""
    taken: float
    """When it was taken away."""
    why: Why


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What a listing tells of a key."""

    key: str
    metadata: dict[str, object] = field(hash=False)
    size: int | None
    sha256: str | None
    version: str | None
    modified: float
