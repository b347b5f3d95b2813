"""Permissions: read from upstream, staged beside the value of a key, pushed when asked for.

They are compared as they are: what upstream shows just before is what their author had seen, or
nothing is sent. No server is known to compare and write them as one step, so each push of them
is of grade C: the look before it and the look after it leave a short race.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Literal

from mountcache.abc import SupportsPermissions
from mountcache.errors import AuthorizationError, InvalidMetadataError, StoreError
from mountcache.jsonform import normal_form, parse, spelling
from mountcache.local import permissions as staging
from mountcache.local.decide import merged_meta
from mountcache.local.records import CONFLICT, REFUSED, Row, StagedPermissions
from mountcache.stopping import stopped_by, stopper
from mountcache.sync.judge import merge_metadata, ours_and_more
from mountcache.sync.mount import Mount
from mountcache.sync.remote import Patience
from mountcache.sync.report import STOPPED, Conflict, Policy, PushResult, Side, policy_of
from mountcache.sync.switch import refuse_offline

__all__ = [
    "NOT_ASKED", "chosen", "discard", "fingerprint", "judged", "keeper", "outlook", "push", "read",
    "resolve", "set_all", "sight", "staged", "update", "upstream",
]  # fmt: skip

NOT_ASKED: Final = "permissions are staged for it, which a push sends with permissions=True alone"

_WAITING: Final = "its value is staged, and isn't upstream yet"
_SEEN: Final = 10_000
"""Of how many keys it is remembered what permissions were given out."""

Ask = Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]

Judged = Literal["done", "send", "yield", "conflict"]


def judged(
    mine: Mapping[str, Any], base: Mapping[str, Any] | None, theirs: Mapping[str, Any], *, own: bool
) -> Judged:
    """Decide what becomes of staged permissions beside those that upstream shows.

    Parameters
    ----------
    base
        What their author had seen; None: nothing.
    own
        Whether the key came upstream just now, by our own push: so nobody else has set any.

    Returns
    -------
    str
        done: upstream has them; send; yield: they change nothing, and upstream's change stays;
        conflict: upstream shows what their author hadn't seen.
    """
    before, shown = None if base is None else normal_form(base), normal_form(theirs)
    if normal_form(mine) == shown or ours_and_more(mine, base or {}, theirs):
        return "done"
    if own or before == shown:
        return "send"
    return "yield" if before == normal_form(mine) else "conflict"


# -- reading and staging -----------------------------------------------------------------------


def read(mount: Mount, key: str, ask: Ask) -> dict[str, Any]:
    """Return the permissions of a key of the catalog: what is staged, else upstream's.

    Upstream is asked each time. A key that is only here has none.

    Parameters
    ----------
    ask
        Asks upstream a question, unless it is to be left alone.

    Raises
    ------
    KeyError
        If it isn't there.
    AuthorizationError
        If upstream keeps none, or doesn't show them to this user.
    StoreUnavailableError
        If upstream is out of reach.
    """
    found = staging.staged(mount.catalog, key)
    if found is not None:
        return found.permissions
    row = _known(mount, key)
    return {} if _is_new(row) else _seen(mount, key, ask(lambda: upstream(mount, key)))


def set_all(mount: Mount, key: str, permissions: Mapping[str, Any]) -> None:
    """Stage the permissions of a key of the catalog: those upstream are to be these.

    What their author has seen is what `read` last gave in this process. Upstream isn't asked.

    Raises
    ------
    KeyError
        If the key is known not to be there.
    InvalidMetadataError
        If they aren't a JSON object.
    """
    text = _normal(permissions)
    _stage(mount, key, lambda before: text, mount.seen_permissions.get(key))


def update(mount: Mount, key: str, permissions: Mapping[str, Any], ask: Ask) -> None:
    """Stage a change of permissions by name: what isn't named stays as it is staged, or upstream.

    Raises
    ------
    KeyError, AuthorizationError, StoreUnavailableError
        As `read` does.
    InvalidMetadataError
        If they aren't a JSON object.
    """
    given = parse(_normal(permissions))
    seen = read(mount, key, ask)

    def merged(before: StagedPermissions | None) -> str:
        return normal_form({**(seen if before is None else before.permissions), **given})

    _stage(mount, key, merged, mount.seen_permissions.get(key))


def discard(mount: Mount, keys: Sequence[str]) -> list[str]:
    """Discard what is staged of the permissions of keys of the catalog; return of which."""
    return [key for key in keys if staging.discard(mount.catalog, key, "reverted")]


def staged(mount: Mount) -> list[StagedPermissions]:
    """Return all staged permissions of a mount, by full keys, in the order of their making."""
    return [replace(one, key=mount.full(one.key)) for one in staging.all_staged(mount.catalog)]


def _stage(
    mount: Mount, key: str, make: Callable[[StagedPermissions | None], str], base: str | None
) -> None:
    mount.staging.refuse_in_transaction("staging permissions")
    mount.refuse_frozen("staging permissions")
    keeper(mount)
    row = _known(mount, key)
    staging.stage(
        mount.catalog, key, make, base=None if _is_new(row) else base, created=_is_new(row),
        author=mount.announce(key).author,
    )  # fmt: skip


def _normal(permissions: Mapping[str, Any]) -> str:
    try:
        return normal_form(parse(spelling(permissions)))
    except InvalidMetadataError as error:
        raise InvalidMetadataError(f"permissions: {error}") from None


def _known(mount: Mount, key: str) -> Row:
    """Return what is known of a key; KeyError if it is known not to be there."""
    row = mount.staging.row(key, mounted=True)
    gone = row.edit is not None or row.complete or (row.entry is not None and not row.entry.present)
    if merged_meta(row) is None and gone:
        raise KeyError(mount.full(key))
    return row


def _is_new(row: Row) -> bool:
    """Return whether a key is only here, as far as its author has seen."""
    return row.edit is not None and row.edit.base.kind in ("none", "absent")


def keeper(mount: Mount) -> SupportsPermissions:
    """Return upstream; AuthorizationError if it keeps no permissions."""
    if not isinstance(mount.backing, SupportsPermissions):
        raise AuthorizationError(f"upstream ({type(mount.backing).__name__}) keeps no permissions")
    return mount.backing


def upstream(mount: Mount, key: str) -> dict[str, Any]:
    """Return what upstream shows for a key of the catalog.

    Raises
    ------
    KeyError
        If it isn't there.
    StoreError
        As upstream raises it.
    """
    there, full = keeper(mount), mount.full(key)
    try:
        return there.get_permissions(full)
    except KeyError as error:
        # Of a key that is there, none have been set.
        if isinstance(error, StoreError) or not mount.backing.exists(full):
            raise
        return {}


def _seen(mount: Mount, key: str, found: dict[str, Any]) -> dict[str, Any]:
    """Remember what was given out."""
    seen = mount.seen_permissions
    seen.pop(key, None)
    seen[key] = normal_form(found)
    while len(seen) > _SEEN:
        # Another thread may be at it, too.
        with suppress(StopIteration, KeyError, RuntimeError):
            del seen[next(iter(seen))]
    return found


# -- pushing -----------------------------------------------------------------------------------


def chosen(mount: Mount, keys: Sequence[str] | None) -> list[StagedPermissions]:
    """Return what is staged for some keys of the catalog, or for all."""
    if keys is None:
        return staging.all_staged(mount.catalog)
    found = (staging.staged(mount.catalog, key) for key in dict.fromkeys(keys))
    return [one for one in found if one is not None]


def push(
    mount: Mount,
    keys: Sequence[str] | None,
    created: frozenset[str],
    *,
    on_conflict: Policy,
    workers: int,
    refuse: Callable[[StagedPermissions], str | None] | None = None,
) -> list[PushResult]:
    """Push staged permissions, those of some keys of the catalog or all; one result a key.

    Parameters
    ----------
    created
        The full names of the keys that are upstream since this push made them.
    refuse
        Says why one isn't to be sent; None for one that is.
    """
    wanted = chosen(mount, keys)
    patience, stop = Patience(workers), stopper()
    rest: list[PushResult] = []

    def one(each: StagedPermissions) -> PushResult:
        with stopped_by(stop):
            if stop is not None and stop.is_set():
                return _result(mount, each, "skipped", STOPPED)
            if refuse is not None and (said := refuse(each)) is not None:
                return _result(mount, each, "refused", said)
            if rest or patience.lost is not None:
                why = rest[0].error if rest else patience.lost
                outcome = "blocked" if rest else "failed"
                return _result(mount, each, outcome, f"not sent: {why}", error=why)
            own = each.created and mount.full(each.key) in created
            result = _push_one(mount, each, on_conflict, own=own)
            patience.note(result.error)
            if isinstance(result.error, AuthorizationError) and result.error.status == 401:
                rest.append(result)
            return result

    with ThreadPoolExecutor(max(1, min(workers, len(wanted))), "mountcache-push") as pool:
        return list(pool.map(one, wanted))


def _push_one(
    mount: Mount, one: StagedPermissions, on_conflict: Policy, *, own: bool
) -> PushResult:
    if (never := _never(mount, one)) is not None:
        return _result(mount, one, "held", never)
    if mount.catalog.row(one.key).edit is not None:
        return _result(mount, one, "skipped", _WAITING)
    try:
        return _send(mount, one, on_conflict, own=own)
    except (StoreError, OSError) as error:  # some of them are KeyErrors, too
        forbidden = isinstance(error, AuthorizationError) and error.status != 401
        staging.failed(mount.catalog, one, f"{REFUSED}{error}" if forbidden else str(error))
        outcome = "blocked" if isinstance(error, AuthorizationError) else "failed"
        return _result(mount, one, outcome, str(error), error=error)
    except KeyError:
        why = "upstream has no such key: push its value, or revert this"
        staging.failed(mount.catalog, one, why)
        return _result(mount, one, "failed", why)


def _never(mount: Mount, one: StagedPermissions) -> str | None:
    why = None if mount.rules is None else mount.rules.why_unpushed(mount.full(one.key))
    return None if why is None else f"never pushed: {why}"


def outlook(
    mount: Mount, keys: Sequence[str] | None, policy: str, workers: int
) -> list[tuple[StagedPermissions, Any, str | None, str]]:
    """Say what a push would do about staged permissions, after a look; nothing is sent.

    Returns
    -------
    list of tuple
        Of each what is staged, an action of a plan, what names upstream's permissions (None:
        they weren't looked at), and why.
    """
    refuse_offline(mount)

    def one(each: StagedPermissions) -> tuple[StagedPermissions, Any, str | None, str]:
        if (never := _never(mount, each)) is not None:
            return each, "held", None, never
        edit = mount.catalog.row(each.key).edit
        if edit is not None:
            # A new key is seen to be new at the push; of others it depends on what that finds.
            action = "permissions" if each.created else "wait"
            return each, action, None, "after its value" if each.created else _WAITING
        try:
            theirs = upstream(mount, each.key)
        except (StoreError, KeyError) as error:
            return each, "unknown", None, str(error)
        base = None if each.base is None else parse(each.base)
        actions = {"done": "nothing", "send": "permissions", "yield": "discard"}
        decided = judged(each.permissions, base, theirs, own=False)
        why = ""
        action = actions.get(decided, "conflict")
        if decided == "conflict":
            why = f"{CONFLICT}upstream's permissions aren't what they were made from"
            resolved = {"ours": "permissions", "theirs": "discard"}
            merged = merge_metadata(each.permissions, base, theirs) if base is not None else None
            if merged is not None:
                resolved["merge-metadata"] = "permissions"
            action = resolved.get(policy, "conflict")
        return each, action, sight(theirs), why

    wanted = chosen(mount, keys)
    with ThreadPoolExecutor(max(1, min(workers, len(wanted))), "mountcache-look") as pool:
        return list(pool.map(one, wanted))


def fingerprint(one: StagedPermissions) -> str:
    """Return what names staged permissions and what they were made from, on any machine."""
    told = json.dumps([one.text, one.base, one.created])
    return hashlib.sha256(told.encode()).hexdigest()


def sight(theirs: Mapping[str, Any]) -> str:
    """Return what names the permissions that upstream shows."""
    return hashlib.sha256(normal_form(theirs).encode()).hexdigest()


def _send(mount: Mount, one: StagedPermissions, on_conflict: Policy, *, own: bool) -> PushResult:
    there, key, message = keeper(mount), mount.full(one.key), ""
    looked = time.monotonic()
    theirs = upstream(mount, one.key)
    base = None if one.base is None else parse(one.base)
    decided = judged(one.permissions, base, theirs, own=own)
    conflict = None
    if decided == "conflict":
        conflict = _conflict_of(mount, one, theirs)
        made = _by_policy(mount, one, theirs, conflict, on_conflict)
        if isinstance(made, PushResult):
            return replace(made, conflict=conflict)
        one, message = made
        decided = "send"
    if decided == "done":
        staging.settle(mount.catalog, one, normal_form(theirs))
        return _result(mount, one, "already there", "upstream has these permissions")
    if decided == "yield":
        staging.discard(mount.catalog, one.key, "given up", one.seq)
        why = "they change nothing; upstream's change stays"
        return _result(mount, one, "already there", why)
    there.set_permissions(key, one.permissions)
    race = time.monotonic() - looked
    now = there.get_permissions(key)
    altered = normal_form(now) != one.text and not ours_and_more(one.permissions, theirs, now)
    note = "stored differently" if altered else ""
    staging.settle(mount.catalog, one, normal_form(now), note=note)
    if altered:
        message = "upstream shows other permissions than were sent; `undo` has mine back"
    return _result(
        mount, one, "stored differently" if altered else "pushed", message, grade="C",
        verified=not altered, race=race, conflict=conflict,
    )  # fmt: skip


def _conflict_of(mount: Mount, one: StagedPermissions, theirs: Mapping[str, Any]) -> Conflict:
    when = dt.datetime.fromtimestamp(one.at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    mine = Side(
        f"mine (staged by {one.author} at {when})", True, None, one.permissions, None, None, one.at
    )
    upstream = Side("upstream (its permissions now)", True, None, dict(theirs), None, None, None)
    return Conflict(mount.full(one.key), None, mine, upstream, part="permissions")


def _by_policy(
    mount: Mount,
    one: StagedPermissions,
    theirs: Mapping[str, Any],
    conflict: Conflict,
    policy: Policy,
) -> PushResult | tuple[StagedPermissions, str]:
    """Return what a policy makes of a conflict: a result, or what is to be sent now."""
    chosen_one = policy_of(policy if isinstance(policy, str) else policy(conflict))
    text: str | None = None
    if chosen_one == "theirs":
        staging.discard(mount.catalog, one.key, "given up", one.seq)
        why = "upstream's permissions stay; mine were discarded"
        return _result(mount, one, "already there", why)
    if chosen_one == "ours":
        text, said = one.text, "mine replaced upstream's permissions"
    elif chosen_one == "merge-metadata" and one.base is not None:
        merged = merge_metadata(one.permissions, parse(one.base), theirs)
        text, said = None if merged is None else normal_form(merged), "both sides were merged"
    if text is not None:
        now = staging.rebase(mount.catalog, one, normal_form(theirs), text, said)
        if now is None:
            return _result(mount, one, "skipped", "they were staged anew meanwhile")
        return now, said
    what = "nobody here had seen" if one.base is None else "somebody else has changed"
    message = (
        f"{CONFLICT}{what} upstream's permissions of it; nothing was overwritten and mine stay "
        "staged: push with a policy (mine, upstream, merge-metadata), or revert them"
    )
    staging.failed(mount.catalog, one, message)
    return _result(mount, one, "conflict", message)


def resolve(mount: Mount, key: str, policy: str) -> tuple[Conflict, bool, str]:
    """Resolve the conflict of staged permissions of a key of the catalog; nothing is sent.

    Returns
    -------
    tuple of Conflict, bool and str
        What it was, whether mine are still staged, and what was done.

    Raises
    ------
    KeyError
        If none are staged.
    StoreError
        If they aren't in conflict, or the policy has no answer.
    """
    one = staging.staged(mount.catalog, key)
    if one is None:
        raise KeyError(mount.full(key))
    refuse_offline(mount)
    theirs = upstream(mount, key)
    base = None if one.base is None else parse(one.base)
    if judged(one.permissions, base, theirs, own=False) != "conflict":
        raise StoreError(
            f"the permissions of {mount.full(key)!r} aren't in conflict with upstream's: push "
            "them, or revert them"
        )
    conflict = _conflict_of(mount, one, theirs)
    made = _by_policy(mount, one, theirs, conflict, policy)
    if isinstance(made, PushResult):
        if made.outcome != "already there":
            raise StoreError(
                f"the permissions of {mount.full(key)!r} can't be resolved by {policy}: choose "
                "mine or upstream"
            )
        return conflict, False, made.message
    return conflict, True, made[1]


def _result(
    mount: Mount, one: StagedPermissions, outcome: Any, message: str = "", **told: Any
) -> PushResult:
    return PushResult(mount.full(one.key), outcome, message, part="permissions", **told)
