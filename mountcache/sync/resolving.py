"""Resolving a conflict here, before the next push: nothing is sent.

What stays staged is made from what upstream shows now, so that the push after it replaces exactly
that, and nothing that comes later.
"""

from __future__ import annotations

from dataclasses import dataclass

from mountcache.errors import PushInProgressError, StoreError
from mountcache.local.records import Edit
from mountcache.sync import conflicts
from mountcache.sync import permissions as rights
from mountcache.sync.judge import Theirs, Verdict, judge
from mountcache.sync.look import looked_at
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.report import Conflict, policy_of

__all__ = ["Resolved", "in_conflict", "resolve"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a conflict was resolved."""

    key: str
    staged: str | None
    """Under which key mine is staged now; None if upstream's version stays and mine was
    discarded: `MountedStore.undo` has it back."""
    message: str
    """What was done."""
    conflict: Conflict


def in_conflict(store: Mounted, key: str) -> Conflict | None:
    """Return the conflict of a staged key, after a look at upstream; None if there is none.

    Raises
    ------
    KeyError
        If nothing is staged for it.
    StoreUnavailableError
        If upstream is out of reach.
    """
    mount = store.mount
    edit, theirs = _both(mount, key)
    if not _conflicts(edit, theirs):
        return None
    return conflicts.conflict_of(mount, edit, theirs)


def resolve(
    store: Mounted,
    key: str,
    policy: str,
    *,
    seen: Conflict | None = None,
    permissions: bool = False,
) -> Resolved:
    """Resolve the conflict of a staged key by a policy; nothing is sent.

    Parameters
    ----------
    store
        A MountedStore.
    key
        The key, with the mount point.
    policy
        "ours" (or "mine"): mine stays staged, made from what upstream shows now. "theirs" (or
        "upstream"): mine is discarded. "keep-both": mine is staged under a new name.
        "merge-metadata": both sides' changes of metadata, where the bytes agree.
    seen
        The conflict that somebody looked at: nothing is done if upstream shows another by now.
        What is staged may be edited since, to whatever text.
    permissions
        Resolve that of its permissions, rather than that of its value: by "ours", "theirs" or
        "merge-metadata".

    Raises
    ------
    KeyError
        If nothing is staged for it.
    StoreError
        If it isn't in conflict, or the policy has no answer to this one; it stays as it is.
    PushInProgressError
        If it is being pushed, or a push of it had no answer.
    StoreUnavailableError
        If upstream is out of reach.
    """
    said, policy = policy, policy_of(policy)
    mount = store.mount
    mount.staging.refuse_in_transaction("resolve")
    mount.refuse_frozen("resolve")
    if permissions:
        if not key.startswith(mount.prefix):
            raise KeyError(key)
        conflict, kept, said = rights.resolve(mount, key.removeprefix(mount.prefix), policy)
        return Resolved(key, key if kept else None, said, conflict)
    edit, theirs = _both(mount, key)
    if seen is None and not _conflicts(edit, theirs):
        raise StoreError(f"{key!r} isn't in conflict with upstream: push it, or revert it")
    conflict = conflicts.conflict_of(mount, edit, theirs)
    if seen is not None and seen.upstream != conflict.upstream:
        raise StoreError(f"upstream has changed {key!r} again since it was looked at: look again")
    found = conflicts.resolve(mount, policy, conflict, edit, theirs)
    if found.edit is not None:
        return Resolved(key, mount.full(found.edit.key), found.message, conflict)
    assert found.result is not None
    if found.result.outcome == "already there":
        return Resolved(key, None, found.result.message, conflict)
    if policy == "merge-metadata":
        why = "the data, or one name of the metadata, was changed on both sides"
    else:
        why = found.result.message
    raise StoreError(f"{key!r} can't be resolved by {said}: {why}")


def _conflicts(edit: Edit, theirs: Theirs) -> bool:
    return judge(edit, theirs) in (Verdict.CONFLICT, Verdict.UNSURE)


def _both(mount: Mount, key: str) -> tuple[Edit, Theirs]:
    row = mount.catalog.row(key.removeprefix(mount.prefix))
    if not key.startswith(mount.prefix) or row.edit is None:
        raise KeyError(key)
    if row.op is not None:
        raise PushInProgressError(
            f"{key!r} is being pushed, or a push of it had no answer: push it again first"
        )
    theirs = looked_at(mount, [row.edit])[row.edit.key]
    if isinstance(theirs, StoreError):
        raise theirs
    return row.edit, theirs
