"""Mine against upstream's: is the edit there already, can it be sent, or is it a conflict?

Data and metadata are compared apart; each is ours, the base's or foreign. Only a foreign part
is a conflict; what is missing is sent. So a crash between two requests is no conflict, nor is a
lost reply. A pure function; the requests are made next door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from mountcache.abc import ABSENT, Base
from mountcache.jsonform import normal_form, parse
from mountcache.local.records import ABSENT_BASE, BaseOf, Edit, Op

__all__ = ["Theirs", "Verdict", "against_base", "base_of", "judge", "merge_metadata",
           "ours_and_more"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Theirs:
    """What upstream shows of a key."""

    present: bool
    version: str | None = None
    """Beyond doubt, or None."""
    meta: str = "{}"
    sha256: str | None = None
    """Digest of the data, if it was told or read."""
    size: int | None = None
    modified: float | None = None
    keeps_metadata: bool = True
    """Whether metadata can be sent there; `meta` is that of an index otherwise."""
    validators: str = ""
    lifetime: float | None = None
    looked: float = field(default=0.0, compare=False)
    """When the look began, on the monotonic clock."""

    @property
    def as_base(self) -> Base:
        """What a conditional write that replaces exactly this is given."""
        return self.version if self.present else ABSENT


def base_of(theirs: Theirs) -> BaseOf:
    """Return the base that says: exactly what upstream shows now."""
    if not theirs.present:
        return ABSENT_BASE
    if theirs.version is not None:
        return BaseOf("version", theirs.version, theirs.sha256, theirs.meta)
    return BaseOf("digest", None, theirs.sha256, theirs.meta)


class Verdict(Enum):
    """What is to be done with an edit."""

    DONE = "upstream has it already"
    SEND = "send it"
    SEND_DATA = "the data is missing upstream"
    SEND_METADATA = "the metadata is missing upstream"
    YIELD = "the edit changes nothing, and upstream has moved on"
    CONFLICT = "upstream has what neither we nor our base had"
    UNSURE = "the digest of upstream's data is needed to tell"


_Part = Literal["ours", "base", "foreign", "unsure"]


def judge(mine: Edit | Op, theirs: Theirs, base: BaseOf | None = None) -> Verdict:
    """Compare an edit, its base and what upstream shows.

    Parameters
    ----------
    mine
        The edit, or the op it was sent as.
    theirs
        What upstream shows now.
    base
        The base to compare with; that of `mine` unless given.
    """
    base = mine.base if base is None else base
    created = base.kind in ("none", "unknown", "absent")
    if mine.kind == "del":
        if not theirs.present:
            return Verdict.DONE
        if created:
            return Verdict.CONFLICT
        return _of_delete(against_base(theirs, base))
    if not theirs.present:
        if created:
            return Verdict.SEND
        return Verdict.YIELD if _changes_nothing(mine, base) else Verdict.CONFLICT
    metadata = _metadata_part(mine, base, theirs, created=created)
    if mine.kind == "meta":
        # Foreign data is none of a metadata edit's business.
        if metadata == "foreign" and _changes_nothing(mine, base):
            return Verdict.YIELD
        return {
            "ours": Verdict.DONE,
            "base": Verdict.SEND,
            "unsure": Verdict.UNSURE,
            "foreign": Verdict.CONFLICT,
        }[metadata]
    data = _data_part(mine, base, theirs, created=created)
    match data, metadata:
        case "unsure", _:
            return Verdict.UNSURE
        case ("ours", "ours"):
            return Verdict.DONE
        case ("base", "base"):
            return Verdict.SEND
        case ("base", "ours"):
            return Verdict.SEND_DATA
        case ("ours", "base"):
            return Verdict.SEND_METADATA
    if _changes_nothing(mine, base):
        return Verdict.YIELD
    return Verdict.CONFLICT


def _of_delete(part: _Part) -> Verdict:
    match part:
        case "base":
            return Verdict.SEND
        case "unsure":
            return Verdict.UNSURE
        case _:
            return Verdict.CONFLICT


def against_base(theirs: Theirs, base: BaseOf) -> _Part:
    """Tell whether upstream has exactly the base."""
    if base.version is not None and theirs.version is not None:
        if base.version == theirs.version:
            return "base"
        if theirs.sha256 is None or base.sha256 is None:
            return "foreign"
    if base.sha256 is None:
        # All that was seen is an entry of the index: it is its metadata.
        seen = base.entry if base.entry is not None else base.meta
        return "base" if seen is not None and _same(seen, theirs.meta) else "foreign"
    if theirs.keeps_metadata and base.meta is not None and not _same(base.meta, theirs.meta):
        return "foreign"
    if theirs.sha256 is None:
        return "unsure"
    return "base" if theirs.sha256 == base.sha256 else "foreign"


def _metadata_part(mine: Edit | Op, base: BaseOf, theirs: Theirs, *, created: bool) -> _Part:
    if not theirs.keeps_metadata or _same(mine.meta, theirs.meta):
        return "ours"
    before = base.meta if base.meta is not None else base.entry
    if created and isinstance(mine, Op):
        # Our own request may have got as far as the data: servers make the metadata empty.
        before = "{}"
    if before is not None and _same(before, theirs.meta):
        return "base"
    if before is None and base.version is not None and base.version == theirs.version:
        return "base"
    if ours_and_more(parse(mine.meta), parse(before or "{}"), parse(theirs.meta)):
        return "ours"
    return "foreign"


def ours_and_more(
    ours: Mapping[str, Any], before: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
    """Tell whether upstream has all of our names, and else only names that a server adds."""
    return (
        bool(ours)
        and all(name in theirs and _equal(theirs[name], ours[name]) for name in ours)
        and not any(name in before for name in theirs if name not in ours)
    )


def _data_part(mine: Edit | Op, base: BaseOf, theirs: Theirs, *, created: bool) -> _Part:
    if theirs.sha256 is None:
        if not created and against_base(theirs, base) == "base":
            return "base"
        return "foreign" if created and _sizes_differ(mine, theirs) else "unsure"
    if theirs.sha256 == mine.sha256:
        return "ours"
    if created:
        return "foreign"
    if base.sha256 is not None:
        return "base" if theirs.sha256 == base.sha256 else "foreign"
    return "base" if against_base(theirs, base) == "base" else "foreign"


def _sizes_differ(mine: Edit | Op, theirs: Theirs) -> bool:
    return None not in (mine.size, theirs.size) and mine.size != theirs.size


def _changes_nothing(mine: Edit | Op, base: BaseOf) -> bool:
    before = base.meta if base.meta is not None else base.entry
    if before is None or not _same(before, mine.meta):
        return False
    return mine.kind == "meta" or (base.sha256 is not None and base.sha256 == mine.sha256)


def _same(one: str, other: str) -> bool:
    return one == other or normal_form(parse(one)) == normal_form(parse(other))


def _equal(one: object, other: object) -> bool:
    return normal_form({"": one}) == normal_form({"": other})


_GONE = object()


def merge_metadata(
    ours: Mapping[str, Any], base: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Merge three ways by top-level name; None if a name was changed on both sides."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys([*theirs, *ours, *base]):
        mine, before, other = (side.get(name, _GONE) for side in (ours, base, theirs))
        if _equal_or_gone(mine, other) or _equal_or_gone(before, mine):
            value = other
        elif _equal_or_gone(before, other):
            value = mine
        else:
            return None
        if value is not _GONE:
            merged[name] = value
    return merged


def _equal_or_gone(one: object, other: object) -> bool:
    if one is _GONE or other is _GONE:
        return one is other
    return _equal(one, other)
