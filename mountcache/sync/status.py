"""What is staged, without asking upstream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mountcache.local.records import Edit, Row, StagedEdit
from mountcache.sync.judge import Theirs, against_base
from mountcache.sync.mount import Mount, Mounted

__all__ = ["Status", "staged", "status"]


@dataclass(frozen=True, slots=True)
class Status:
    """What is staged in a store."""

    edits: tuple[StagedEdit, ...]
    staged_bytes: int
    oldest: float | None
    """When the oldest edit was made, in seconds since 1970."""


def status(store: Mounted) -> Status:
    """Return what is staged; costs what the staged edits cost, and asks nobody."""
    edits = tuple(staged(store.mount))
    return Status(
        edits,
        sum(edit.size or 0 for edit in edits),
        min((edit.when for edit in edits), default=None),
    )


def staged(mount: Mount) -> Iterator[StagedEdit]:
    """Iterate over the staged edits of a mount, in the order of their making."""
    in_flight = {op.key for op in mount.catalog.ops()}
    names = mount.catalog.group_names()
    for edit in mount.catalog.edits():
        yield _shown(mount, edit, names.get(edit.group), in_flight=edit.key in in_flight)


def _shown(mount: Mount, edit: Edit, name: str | None, *, in_flight: bool) -> StagedEdit:
    deleted = edit.kind == "del"
    added = edit.base.kind in ("none", "unknown", "absent")
    base = edit.base.version if edit.base.version is not None else edit.base.kind
    return StagedEdit(
        key=mount.full(edit.key),
        state="deleted" if deleted else "added" if added else "modified",
        what="delete" if deleted else "metadata" if edit.kind == "meta" else "data",
        base=base,
        size=edit.size,
        when=edit.at,
        author=edit.author,
        notes=edit.notes,
        group=edit.group,
        in_flight=in_flight,
        tries=edit.tries,
        error=edit.error,
        upstream=_upstream(mount.catalog.row(edit.key), edit),
        tried=edit.tried,
        held=bool(edit.held),
        group_name=name,
        partner=None if edit.partner is None else mount.full(edit.partner),
    )


def _upstream(row: Row, edit: Edit) -> Literal["same", "changed", "gone", "unknown"]:
    """Compare what is known of upstream with the base of an edit."""
    entry, base = row.entry, edit.base
    if base.kind == "op" or (entry is None and not row.complete):
        return "unknown"
    created = base.kind in ("none", "unknown", "absent")
    if entry is None or not entry.present:
        return "same" if created else "gone"
    if created:
        return "changed"
    if base.entry is not None and base.entry == entry.entry:
        return "same"
    theirs = Theirs(True, entry.version, entry.meta, entry.sha256)
    found = against_base(theirs, base)
    return "same" if found == "base" else "unknown" if found == "unsure" else "changed"
