"""The verbs of one key: push it, discard what is staged for it, have that back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mountcache.errors import (
    AuthorizationError,
    ConflictError,
    PushInProgressError,
    StoreBusyError,
    StoreError,
)
from mountcache.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import parse
from mountcache.local import permissions
from mountcache.local.decide import merged_meta
from mountcache.local.records import Row, Taken
from mountcache.local.undo import entries
from mountcache.sync.mount import Mount
from mountcache.sync.push import push_mount
from mountcache.sync.report import PushResult
from mountcache.sync.send import Sender

__all__ = ["push_one", "revert", "undo"]


def push_one(mount: Mount, short: str) -> PushResult:
    """Push the edit of one key of the catalog, over what upstream shows if it has no base.

    Raises
    ------
    ConflictError
        If upstream isn't what the edit was made from. It stays staged.
    StoreError
        If it can't be sent now. It stays staged.
    """
    (result,) = push_mount(mount, [short], workers=1, take_unbased=True).results
    match result.outcome:
        case "pushed" | "already there" | "stored differently":
            return result
        case "conflict":
            conflict = result.conflict
            raise ConflictError(
                f"{result.key!r}: {result.message}",
                key=result.key,
                expected=conflict.base if conflict else None,
                found=conflict.upstream.version if conflict else None,
            )
        case "blocked":
            raise AuthorizationError(result.message)
        case _:
            raise result.error or StoreError(f"{result.key!r}: {result.message}")


def revert(mount: Mount, short: str, then: Callable[[list[str]], object]) -> list[str]:
    """Discard what is staged for a key of the catalog; return the keys that are upstream's again.

    Parameters
    ----------
    then
        Called with them before it is announced.

    Raises
    ------
    KeyError
        If nothing is staged for it.
    PushInProgressError
        If it is being pushed.
    StoreUnavailableError
        If a push of it had no answer, and upstream can't be asked what became of it.
    """
    mount.staging.refuse_in_transaction("revert")
    for name in (short, *mount.journal.waiting_for(short)):
        _settle(mount, name)
    before = mount.catalog.row(short)
    if before.edit is None:
        raise KeyError(mount.full(short))
    reverted = mount.journal.revert(short)
    then(reverted)
    for name in reverted:
        # The other half of a rename was hidden before.
        for event in _events(mount, name, before if name == short else None):
            mount.emit(event)
    return reverted


def undo(mount: Mount, short: str, number: int | None = None) -> Taken:
    """Stage again what was last taken away of a key of the catalog, or what a number names.

    Raises
    ------
    KeyError
        If nothing of the key is kept, not under that number, or the key of a metadata edit is
        gone.
    """
    mount.staging.refuse_in_transaction("undo")
    for taken in entries(mount.catalog.content.connection(), short):
        if number in (None, taken.seq):
            if taken.kind == "perm":
                permissions.restore(mount.catalog, taken)
            else:
                mount.staging.restore(taken, mount.announce(short))
            return taken
    raise KeyError(mount.full(short))


def _settle(mount: Mount, short: str) -> None:
    """Find out what became of a push that had no answer; send nothing."""
    if mount.catalog.row(short).op is None:
        return
    in_progress = PushInProgressError(
        f"{mount.full(short)!r} is being pushed; wait for the push to end, then revert"
    )
    try:
        with mount.journal.pushing(wait=0.0):
            mount.journal.abandon_dead()
            op = mount.catalog.row(short).op
            if op is not None and op.state == "sending":
                raise in_progress
            if op is not None:
                Sender(mount).settle(op, send=False)
    except StoreBusyError:
        raise in_progress from None


def _events(mount: Mount, name: str, before: Row | None) -> Iterator[StoreModificationEvent]:
    key = mount.full(name)
    was = None if before is None else merged_meta(before)
    now = merged_meta(mount.catalog.row(name))
    if now is not None:
        kind = StoreSetEvent if was is None else StoreUpdateEvent
        yield kind(key=key, metadata=parse(now))
    elif was is not None:
        yield StoreDeleteEvent(key=key, metadata=parse(was))
