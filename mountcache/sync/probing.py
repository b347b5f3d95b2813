"""What upstream itself compares as it takes a write, and the grade of pushes that follows.

Found out once for each upstream, with the user's consent, since it writes there: a scratch key
under the mount point is written, replaced and deleted again. The answer is kept in the local store,
for the upstream that it was given by.
"""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from mountcache.abc import (
    AbstractReadOnlyStore,
    Enforced,
    Grade,
    SupportsConditionalWrite,
    SupportsIdentity,
    SupportsProbing,
    SupportsWrite,
)
from mountcache.errors import ConfigurationError, StoreError
from mountcache.local.remembered import recall, remember
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.switch import refuse_offline

__all__ = ["SCRATCH", "Grading", "enforced", "grading", "grading_of", "probe", "probe_if_wanted"]

SCRATCH: Final = "mountcache-probe-"
"""How a scratch key begins, after the mount point; 32 hex digits follow."""

_FOUND: Final = "probed"
_SCRATCH: Final = "probing"
_VERBS: Final = {"create": "creating", "replace": "replacing", "delete": "deleting"}

_logger = logging.getLogger("mountcache")


@dataclass(frozen=True, slots=True)
class Grading:
    """How sure pushes are at an upstream, as far as is known."""

    grade: Grade | None
    """A: it compares and writes as one step; C: it doesn't, or nobody knows that it does; None:
    it can't be written, or wasn't asked."""
    enforced: Enforced | None = None
    """Which conditional writes it enforces, by itself or in a probe; None: it wasn't probed."""
    probed: float | None = None
    """When it was probed, in seconds since 1970."""
    can_probe: bool = False
    """Whether a probe could find out more."""
    asked: bool = True
    """False if upstream wasn't asked, and what it is isn't known here."""

    @property
    def why(self) -> str:
        """The sentence that explains it, about an upstream that is named before."""
        if not self.asked:
            return "wasn't asked how it compares: a push says of which grade it is"
        if self.grade is None:
            return "is read only"
        if self.grade == "A":
            return "compares and writes as one step: pushes are of grade A"
        otherwise = "compared just before and verified after, with a short race"
        if self.enforced is None:
            return f"can't be told to compare as it writes: pushes are of grade C, {otherwise}"
        found = asdict(self.enforced)
        does = _listed([_VERBS[name] for name in _VERBS if found[name]])
        not_so = _listed([_VERBS[name] for name in _VERBS if not found[name]])
        if not does:
            return (
                f"was seen to ignore what a write is bound to: pushes are of grade C, {otherwise}"
            )
        said = (
            f"itself compares when {does}, as a probe has shown, but perhaps not as one step with "
            "the write: pushes are of grade C, with a race as long as the request"
        )
        return f"{said}; when {not_so} it doesn't, these are {otherwise}" if not_so else said


def enforced(mount: Mount) -> Enforced:
    """Return which conditional writes upstream was seen to enforce; none if it wasn't probed."""
    if _remembered(mount) is None:
        return Enforced()
    backing = mount.backing
    try:
        if isinstance(backing, SupportsConditionalWrite):
            backing.enforces()  # so that it is known who answers now
    except StoreError:
        return Enforced()
    found = _remembered(mount)
    return Enforced() if found is None else found[0]


def grading(store: Mounted, *, ask: bool = True) -> Grading:
    """Return how sure pushes are.

    Parameters
    ----------
    ask
        Ask upstream whether it is one of ours, if that isn't known; False leaves it alone, and
        says what is known here.

    Raises
    ------
    StoreUnavailableError, AuthorizationError, UpstreamError
        If it is asked in vain.
    """
    mount = store.mount
    if ask and isinstance(mount.backing, SupportsConditionalWrite):
        mount.backing.enforces()  # so that it is known who answers now
    found = _remembered(mount)
    seen, at = (None, None) if found is None else found
    return grading_of(mount.backing, seen, at, ask=ask)


def grading_of(
    backing: AbstractReadOnlyStore,
    seen: Enforced | None = None,
    at: float | None = None,
    *,
    ask: bool = True,
) -> Grading:
    """Return how sure pushes are to a remote end, of which `seen` was found `at` a time.

    Raises as `grading` does.
    """
    if not isinstance(backing, SupportsConditionalWrite):
        writable = isinstance(backing, SupportsWrite) and not backing.info().get("readonly")
        return Grading("C" if writable else None)
    if ask and backing.enforces():
        return Grading("A", Enforced(create=True, replace=True, delete=True))
    if not ask and seen is None:
        return Grading(None, asked=False)
    if backing.info().get("readonly"):
        return Grading(None)
    return Grading("C", seen, at, isinstance(backing, SupportsProbing))


def probe(store: Mounted) -> Grading:
    """Find out which conditional writes upstream enforces, and remember it.

    Calling it is the consent: a scratch key under the mount point, ``mountcache-probe-...``, is
    written, replaced and deleted there. A server of ours is only asked.

    Raises
    ------
    ReadOnlyStoreError
        If upstream can't be written.
    ConfigurationError
        If it can't be probed, or nothing would follow from it.
    StoreBusyError
        If another process is pushing this directory.
    StoreError
        If upstream is out of reach, or refuses. Nothing is remembered then.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("probe")
    refuse_offline(mount)
    with mount.journal.pushing():
        _probe(mount)
    return grading(store)


def probe_if_wanted(mount: Mount) -> None:
    """Probe upstream before a push, where the user said so and it is of use; never fails."""
    if not mount.may_probe or _remembered(mount) is not None:
        return
    backing = mount.backing
    if not isinstance(backing, SupportsProbing):
        return
    try:
        if not (isinstance(backing, SupportsConditionalWrite) and backing.enforces()):
            _probe(mount)
    except StoreError as error:
        _logger.info("upstream couldn't be probed: %s", error)


def _probe(mount: Mount) -> None:
    backing = mount.backing
    if isinstance(backing, SupportsConditionalWrite) and backing.enforces():
        return
    if not isinstance(backing, SupportsProbing) or not isinstance(backing, SupportsIdentity):
        raise ConfigurationError(
            f"upstream ({type(backing).__name__}) can't be probed: what it enforces follows from "
            "no single request"
        )
    with mount.probing:
        _remove_scratch(mount)
        key = mount.full(f"{SCRATCH}{uuid.uuid4().hex}")
        # Known before it is written: whoever is killed on the way leaves no key that is forgotten.
        remember(mount.catalog, _SCRATCH, key)
        found = backing.probe(key)
        remember(
            mount.catalog,
            _FOUND,
            json.dumps(
                {
                    "identity": backing.identity,
                    "software": backing.software,
                    "at": mount.clock(),
                    **asdict(found),
                }
            ),
        )
        remember(mount.catalog, _SCRATCH, None)


def _remove_scratch(mount: Mount) -> None:
    """Remove the scratch key of a probe that didn't come to its end."""
    left = recall(mount.catalog, _SCRATCH)
    backing = mount.backing
    if left is None or not left.startswith(mount.full(SCRATCH)):
        return
    assert isinstance(backing, SupportsConditionalWrite)
    with suppress(KeyError):
        backing.delete_if(left, None, uuid.uuid4().hex)


def _remembered(mount: Mount) -> tuple[Enforced, float] | None:
    """Return what was found at this upstream, and when; None if another server answers now."""
    backing = mount.backing
    text = recall(mount.catalog, _FOUND)
    if text is None or not isinstance(backing, SupportsIdentity):
        return None
    try:
        match found := json.loads(text):
            case {
                "identity": backing.identity, "software": _,
                "create": bool(create), "replace": bool(replace), "delete": bool(delete),
                "at": float(at) | int(at),
            }:  # fmt: skip
                if not isinstance(backing, SupportsProbing):
                    return None
                # As far as that is known: nobody may have asked yet.
                if backing.software not in (None, found["software"]):
                    return None
                return Enforced(create, replace, delete), at
    except ValueError:
        pass  # who can't read it doesn't know it
    return None


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
