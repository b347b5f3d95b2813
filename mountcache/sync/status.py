"""What is staged, without asking upstream unless somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mountcache.errors import StoreError
from mountcache.local.records import Edit, Row, StagedEdit, StagedPermissions
from mountcache.local.view import matcher
from mountcache.sync import permissions as rights
from mountcache.sync.judge import Theirs, Verdict, against_base, judge
from mountcache.sync.look import looked_at
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pausing import pace
from mountcache.sync.schedule import schedule

__all__ = ["Status", "staged", "staged_edit", "status"]

Standing = Literal["same", "changed", "gone", "unknown"]


@dataclass(frozen=True, slots=True)
class Status:
    """What is staged in a store."""

    edits: tuple[StagedEdit, ...]
    staged_bytes: int
    oldest: float | None
    """When the oldest edit was made, in seconds since 1970."""
    permissions: tuple[StagedPermissions, ...] = ()
    """What is staged of permissions, apart from that: `push` sends it with ``permissions=True``."""

    @property
    def conflicts(self) -> tuple[StagedEdit, ...]:
        """The edits whose last push, or a look at upstream just now, met somebody else's change."""
        return tuple(edit for edit in self.edits if edit.in_conflict)


def status(
    store: Mounted, pattern: str = "*", *, group: str | None = None, remote: bool = False
) -> Status:
    """Return what is staged; costs what the staged edits cost.

    Parameters
    ----------
    store
        A MountedStore.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    group
        The name of a group: only what belongs to it.
    remote
        Look at upstream, key by key. What edits were made from stays as it is. Otherwise nobody
        is asked: what is known here of upstream counts.

    Raises
    ------
    StoreUnavailableError
        If upstream is to be looked at, and is out of reach.
    """
    mount = store.mount
    found = {edit.key: edit for edit in staged(mount) if group in (None, edit.group_name)}
    matches = matcher({}, pattern)
    if pattern != "*":
        found = {key: edit for key, edit in found.items() if matches(key, {})}
    if remote:
        rows = [edit for edit in mount.edits() if mount.full(edit.key) in found]
        sights = looked_at(mount, rows)
        for edit in rows:
            key = mount.full(edit.key)
            found[key] = _beside(found[key], edit, sights[edit.key])
    edits = tuple(found.values())
    apart = tuple(one for one in rights.staged(mount) if group is None and matches(one.key, {}))
    return Status(
        edits,
        sum(edit.size or 0 for edit in edits),
        min([*(edit.when for edit in edits), *(one.at for one in apart)], default=None),
        apart,
    )


def staged(mount: Mount) -> Iterator[StagedEdit]:
    """Iterate over the staged edits of a mount, in the order of their making."""
    in_flight = {op.key for op in mount.catalog.ops()}
    names = mount.catalog.group_names()
    renamed = mount.catalog.renamed()
    times = schedule(mount.edits(), mount.clock(), pace(mount.catalog, mount.quiet))
    for edit in mount.edits():
        shown = staged_edit(mount, edit, names.get(edit.group), in_flight=edit.key in in_flight)
        old = renamed.get(edit.key)
        yield replace(
            shown,
            renamed_from=None if old is None else mount.full(old),
            next_try=times.get(edit.key),
        )


def staged_edit(
    mount: Mount, edit: Edit, name: str | None = None, *, in_flight: bool = False
) -> StagedEdit:
    """Return an edit as users see it."""
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
        held_why=mount.why_held(edit.key) if edit.held else None,
        sha256=edit.sha256,
        meta=edit.meta,
        group_name=name,
        partner=None if edit.partner is None else mount.full(edit.partner),
    )


def _beside(shown: StagedEdit, edit: Edit, theirs: Theirs | StoreError) -> StagedEdit:
    """Return an edit beside what upstream shows now."""
    if isinstance(theirs, StoreError) or edit.base.kind == "op":
        return replace(shown, upstream="unknown")
    created = edit.base.kind in ("none", "unknown", "absent")
    conflict = judge(edit, theirs) in (Verdict.CONFLICT, Verdict.UNSURE)
    standing: Standing = "changed"
    if not theirs.present:
        standing = "same" if created else "gone"
    elif not created and against_base(theirs, edit.base) == "base":
        standing = "same"
    return replace(shown, upstream=standing, conflicts_now=conflict)


def _upstream(row: Row, edit: Edit) -> Standing:
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
