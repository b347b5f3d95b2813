"""What is staged, without asking upstream unless somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from mountcache.abc import SupportsIndex
from mountcache.errors import StoreError
from mountcache.local.pinning import is_pinned, pinned_under_edits
from mountcache.local.records import CONFLICT, Edit, Row, StagedEdit, StagedPermissions
from mountcache.local.view import matcher
from mountcache.sync import permissions as rights
from mountcache.sync.judge import Theirs, Verdict, against_base, judge
from mountcache.sync.look import looked_at
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pausing import pace
from mountcache.sync.schedule import schedule

__all__ = ["Status", "staged", "staged_edit", "status"]

Standing = Literal["same", "changed", "gone", "unknown"]

_DAY: Final = 86400.0
"""Seconds for which it counts what upstream said, where nobody says how long."""


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
            found[key] = _beside(found[key], edit, sights[edit.key], mount.clock())
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
    pinned = pinned_under_edits(mount.catalog)
    listed = mount.catalog.state("index_checked")
    for edit in mount.edits():
        shown = _staged(
            mount, edit, names.get(edit.group), in_flight=edit.key in in_flight,
            pinned=edit.key in pinned, listed=listed,
        )  # fmt: skip
        old = renamed.get(edit.key)
        yield replace(
            shown,
            renamed_from=None if old is None else mount.full(old),
            next_try=times.get(edit.key),
        )


def staged_edit(mount: Mount, edit: Edit) -> StagedEdit:
    """Return an edit as users see it."""
    return _staged(
        mount, edit, mount.catalog.group_names().get(edit.group), in_flight=False,
        pinned=is_pinned(mount.catalog, edit.key), listed=mount.catalog.state("index_checked"),
    )  # fmt: skip


def _staged(
    mount: Mount,
    edit: Edit,
    name: str | None,
    *,
    in_flight: bool,
    pinned: bool,
    listed: float | None,
) -> StagedEdit:
    row = mount.catalog.row(edit.key)
    upstream, checked = _upstream(row, edit), _checked(row, edit, listed)
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
        upstream=upstream,
        tried=edit.tried,
        held=bool(edit.held),
        held_why=mount.why_held(edit.key) if edit.held else None,
        sha256=edit.sha256,
        meta=edit.meta,
        group_name=name,
        partner=None if edit.partner is None else mount.full(edit.partner),
        pinned=pinned,
        stale=upstream != "unknown" and _is_stale(mount, row, edit, checked),
        checked=checked,
    )


def _checked(row: Row, edit: Edit, listed: float | None) -> float | None:
    """Return when upstream was asked about a key last, as far as that is written down."""
    found = [row.copy.checked] if row.copy is not None else []
    if listed is not None and (row.complete or (row.entry and row.entry.entry is not None)):
        found.append(listed)
    if edit.tried is not None and (edit.error or "").startswith(CONFLICT):
        found.append(edit.tried)
    return max(found, default=None)


def _is_stale(mount: Mount, row: Row, edit: Edit, checked: float | None) -> bool:
    """Return whether upstream was asked longer ago than its answer counts."""
    now, backing = mount.clock(), mount.backing
    # Of what has no time of its own the author knew when the edit was made, or before.
    age = now - (edit.at if checked is None else checked)
    limit = None if mount.rules is None else mount.rules.max_age(mount.full(edit.key))
    limit = mount.max_age if limit is None else limit
    if limit is None and isinstance(backing, SupportsIndex):
        limit = backing.poll or None
    copy = row.copy
    if limit is None and copy is not None and copy.expires is not None and copy.expires > 0:
        limit = copy.expires - copy.checked
    return not 0 <= age <= (_DAY if limit is None else limit)


def _beside(shown: StagedEdit, edit: Edit, theirs: Theirs | StoreError, now: float) -> StagedEdit:
    """Return an edit beside what upstream shows now."""
    if isinstance(theirs, StoreError) or edit.base.kind == "op":
        return replace(shown, upstream="unknown", stale=False)
    created = edit.base.kind in ("none", "unknown", "absent")
    conflict = judge(edit, theirs) in (Verdict.CONFLICT, Verdict.UNSURE)
    standing: Standing = "changed"
    if not theirs.present:
        standing = "same" if created else "gone"
    elif not created and against_base(theirs, edit.base) == "base":
        standing = "same"
    return replace(shown, upstream=standing, conflicts_now=conflict, stale=False, checked=now)


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
