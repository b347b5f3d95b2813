"""What is known of upstream: whether it answers, what time it is there, how sure pushes are."""

from __future__ import annotations

from dataclasses import dataclass, field

from mountcache.abc import (
    AbstractReadOnlyStore,
    SupportsClock,
    SupportsConditionalWrite,
    SupportsIdentity,
    SupportsIndex,
)
from mountcache.errors import IndexUnreadableError, StoreError, StoreUnavailableError
from mountcache.sync.mount import Mounted
from mountcache.sync.probing import Grading, grading

__all__ = ["About", "Reach", "about", "reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether an upstream answers, and as what it should be."""

    answers: bool
    """False if it is out of reach."""
    error: StoreError | None = field(default=None, compare=False)
    """Why it doesn't, or what is wrong with its answer: a login that is missing, a URL that
    leads to something else."""
    clock_ahead: float | None = None
    """Seconds by which its clock is ahead of ours; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of the upstream of a mount."""

    identity: str | None
    """What names it; None if nothing does."""
    reach: Reach | None
    """None: it wasn't asked."""
    grading: Grading
    known_keys: int
    """Keys that it is known to hold."""
    complete: bool
    """Whether these are all, as far as its last index or listing tells."""
    index_checked: float | None
    """When its index was asked for last, in seconds since 1970."""


def reach(backing: AbstractReadOnlyStore) -> Reach:
    """Ask upstream whether it is there, and for the beginning of its index; raises nothing of it.

    Parameters
    ----------
    backing
        The remote end, connected.
    """
    error: StoreError | None = None
    try:
        if isinstance(backing, SupportsConditionalWrite):
            backing.enforces()
        if isinstance(backing, SupportsIndex):
            _look_at_index(backing)
    except StoreError as failed:
        error = failed
    answers = not isinstance(error, StoreUnavailableError)
    ahead = backing.clock_ahead if isinstance(backing, SupportsClock) else None
    return Reach(answers, error, ahead)


def _look_at_index(backing: SupportsIndex) -> None:
    try:
        reading = backing.read_index()
    except IndexUnreadableError:
        if backing.poll is not None:
            raise
        return  # it has none, or lists keys alone
    if reading is not None:
        reading.close()


def about(store: Mounted, *, ask: bool = True) -> About:
    """Return what is known of the upstream of a mount; out of reach is an answer, no error.

    Parameters
    ----------
    store
        A MountedStore.
    ask
        False to leave the network alone, and tell what is known here.
    """
    mount = store.mount
    catalog, backing = mount.catalog, mount.backing
    found = reach(backing) if ask else None
    sure = found is not None and found.error is None
    return About(
        backing.identity if isinstance(backing, SupportsIdentity) else None,
        found,
        grading(store, ask=sure),
        catalog.count_upstream(),
        bool(catalog.state("complete")),
        catalog.state("index_checked"),
    )
