"""What a push would do, without doing it: a plan that others can read, approve and apply.

Each step names the edit that it is about and what upstream showed, by digests. Applying a plan
does exactly that; what has changed since, here or there, is refused key by key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, cast

from mountcache.abc import SupportsIdentity
from mountcache.errors import ConfigurationError, StoreError
from mountcache.jsonform import normal_form, parse
from mountcache.local.records import Edit, StagedEdit, StagedPermissions
from mountcache.sync import permissions as rights
from mountcache.sync.conflicts import merged_by_name
from mountcache.sync.judge import Theirs, Verdict, judge
from mountcache.sync.look import Progress, looked_at
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.push import brake, by_key, chosen, named, push_mount, refusing
from mountcache.sync.report import (
    POLICIES,
    Conflict,
    GroupResult,
    PushReport,
    PushResult,
    Side,
    policy_of,
)

__all__ = ["LARGEST", "Action", "Plan", "Step", "apply", "plan", "read_plan"]

Action = Literal[
    "create", "replace", "metadata", "delete", "nothing", "discard", "keep both", "merge metadata",
    "permissions", "conflict", "held", "wait", "refused", "unknown",
]  # fmt: skip

_SENT: Final = frozenset(
    {
        "create", "replace", "metadata", "delete", "nothing", "discard", "keep both",
        "merge metadata", "permissions",
    }
)  # fmt: skip
_VERSION: Final = 1
_NOT_PLANNED: Final = "the plan doesn't name it"
LARGEST: Final = 256 * 2**20
"""Bytes of a plan that is read: it names up to a million keys."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a push would do about one key."""

    key: str
    action: Action
    edit: str
    """Names the edit and its base beyond doubt: a hash over their digests."""
    upstream: str
    """Names what upstream showed beyond doubt; "absent" if nothing."""
    size: int | None
    """Bytes of the data that would be sent; None for metadata and deletes."""
    sha256: str | None
    version: str | None
    """Upstream's version now."""
    author: str
    at: float
    """When the edit was made."""
    group: str
    """What it belongs to: the name of a group, or a number."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push of some edits would do."""

    upstream: str | None
    """The identity of the backing store."""
    mount_point: str
    made: float
    """When, in seconds since 1970."""
    policy: str
    """What is done with conflicts."""
    steps: tuple[Step, ...]
    permissions: tuple[Step, ...] = ()
    """What it would do about permissions after that, if they are to be pushed."""

    @property
    def conflicts(self) -> tuple[Step, ...]:
        """The steps that stand for a conflict which nothing resolves."""
        steps = (*self.steps, *self.permissions)
        return tuple(step for step in steps if step.action == "conflict")

    def to_json(self) -> str:
        """Return the plan as a JSON document, a step a line."""
        head = {
            "mountcache": "plan",
            "format": _VERSION,
            "upstream": self.upstream,
            "mount_point": self.mount_point,
            "made": self.made,
            "policy": self.policy,
        }
        text = json.dumps(head, ensure_ascii=False)[:-1]
        for name in ("steps", "permissions"):
            steps = (json.dumps(asdict(step), ensure_ascii=False) for step in getattr(self, name))
            lines = ",\n".join(steps)
            text += f', "{name}": [\n{lines}\n]'
        return text + "}\n"


def plan(
    store: Mounted,
    keys: Iterable[str] | None = None,
    *,
    on_conflict: str = "fail",
    max_delete: int | None = None,
    permissions: bool = False,
    workers: int = 8,
    progress: Progress | None = None,
) -> Plan:
    """Say what `push` would do, after a look at upstream; nothing is sent or changed.

    Parameters
    ----------
    store
        A MountedStore.
    keys, on_conflict, max_delete, permissions, workers, progress
        As of `push`; a policy has to have a name here.

    Raises
    ------
    KeyError
        If nothing is known here of a key that is named.
    StoreUnavailableError
        If upstream is out of reach.
    """
    mount = store.mount
    on_conflict = policy_of(on_conflict)
    short = None if keys is None else [named(mount, key) for key in keys]
    edits = chosen(mount, short)
    stopped = {edit.key for edit in brake(mount, edits, max_delete)} if short is None else set()
    sights = looked_at(mount, [edit for edit in edits if not edit.held], workers, progress)
    names = mount.catalog.group_names()
    steps = [
        _step(
            mount, edit, sights.get(edit.key), on_conflict, names.get(edit.group, str(edit.group)),
            stopped=edit.key in stopped,
        )
        for edit in edits
    ]  # fmt: skip
    return Plan(
        _identity(mount), mount.prefix, mount.clock(), on_conflict,
        tuple(sorted(steps, key=lambda step: step.key)),
        _of_permissions(mount, short, on_conflict, workers) if permissions else (),
    )  # fmt: skip


def _of_permissions(
    mount: Mount, keys: Sequence[str] | None, policy: str, workers: int
) -> tuple[Step, ...]:
    steps = []
    for one, action, theirs, message in rights.outlook(mount, keys, policy, workers):
        step = Step(
            key=mount.full(one.key), action=action, edit=rights.fingerprint(one),
            upstream="" if theirs is None else f"permissions {theirs}", size=None, sha256=None,
            version=None, author=one.author, at=one.at, group="", message=message,
        )  # fmt: skip
        steps.append(step)
    return tuple(sorted(steps, key=lambda step: step.key))


def _step(
    mount: Mount,
    edit: Edit,
    theirs: Theirs | StoreError | None,
    policy: str,
    group: str,
    *,
    stopped: bool,
) -> Step:
    action, message = _action(mount, edit, theirs, policy)
    if stopped and action == "delete":
        action, message = "refused", "one of more deletes than a push does unasked (--max-delete)"
    seen = theirs if isinstance(theirs, Theirs) else None
    return Step(
        key=mount.full(edit.key),
        action=action,
        edit=fingerprint(edit),
        upstream="" if seen is None else _sight(seen, parse(seen.meta)),
        size=edit.size if edit.kind == "put" else None,
        sha256=edit.sha256,
        version=None if seen is None else seen.version,
        author=edit.author,
        at=edit.at,
        group=group,
        message=message,
    )


def _action(
    mount: Mount, edit: Edit, theirs: Theirs | StoreError | None, policy: str
) -> tuple[Action, str]:
    if edit.held:
        return "held", mount.why_held(edit.key)
    if edit.base.kind == "op" or mount.catalog.row(edit.key).op is not None:
        return "unknown", "an earlier push of it has had no answer: the next push asks for that"
    if theirs is None or isinstance(theirs, StoreError):
        return "unknown", str(theirs or "")
    if edit.kind == "del" and edit.partner is not None:
        waits = mount.catalog.row(edit.partner).edit
        if waits is not None and mount.ruled(waits).held:
            return "wait", f"half of a rename: {mount.full(edit.partner)!r} is held back"
    match judge(edit, theirs):
        case Verdict.DONE:
            return "nothing", "upstream has it already"
        case Verdict.YIELD:
            return "discard", "the edit changes nothing; upstream's change stays"
        case Verdict.CONFLICT | Verdict.UNSURE:
            what = "upstream isn't what it was made from"
            if not theirs.present:
                what = "it was deleted upstream"
            return _of_conflict(edit, theirs, policy), f"conflict: {what}"
    return _sends(edit, theirs), ""


def _of_conflict(edit: Edit, theirs: Theirs, policy: str) -> Action:
    """Return what a policy makes of a conflict; not each has an answer to each."""
    match policy:
        case "ours" if edit.kind == "meta" and not theirs.present:
            return "conflict"
        case "ours":
            return _sends(edit, theirs)
        case "keep-both" if edit.kind == "put":
            return "keep both"
        case "theirs":
            return "discard"
        case "keep-both" if edit.kind == "del":
            return "discard"
        case "merge-metadata" if merged_by_name(edit, theirs) is not None:
            return "merge metadata"
    return "conflict"


def _sends(edit: Edit, theirs: Theirs) -> Action:
    if edit.kind == "del":
        return "delete"
    if edit.kind == "meta":
        return "metadata"
    return "replace" if theirs.present else "create"


def fingerprint(edit: Edit) -> str:
    """Return what names an edit and its base, on any machine."""
    base = edit.base
    told = [
        edit.kind, edit.sha256, normal_form(parse(edit.meta)), edit.partner,
        base.kind, base.version, base.sha256, base.meta, base.entry,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _sight(seen: Theirs | Side, metadata: Mapping[str, Any]) -> str:
    """Return what names that which upstream shows, as far as it can be told apart."""
    if not seen.present:
        return "absent"
    if seen.version is not None:
        return f"version {seen.version}"
    told = [seen.sha256, seen.size, normal_form(metadata)]
    return f"digest {hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


def _identity(mount: Mount) -> str | None:
    backing = mount.backing
    return backing.identity if isinstance(backing, SupportsIdentity) else None


# -- applying --------------------------------------------------------------------------------


def apply(
    store: Mounted,
    plan: Plan,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    allow_blind: bool = False,
    check: Callable[[StagedEdit], str | None] | None = None,
    after_push: Callable[[PushReport], object] | None = None,
) -> PushReport:
    """Do what a plan says, and nothing else.

    Parameters
    ----------
    store
        A MountedStore.
    plan
        Made here or elsewhere, of a store of the same upstream and mount point.
    workers, progress, allow_blind, check, after_push
        As of `push`.

    Returns
    -------
    PushReport
        One result a step. "refused": the edit has changed since, or is gone, or the plan has a
        conflict there. "conflict": upstream has changed since.

    Raises
    ------
    ConfigurationError
        If the plan is of another upstream.
    """
    mount = store.mount
    if (plan.upstream, plan.mount_point) != (_identity(mount), mount.prefix):
        raise ConfigurationError(
            f"the plan is for {plan.upstream!r} mounted at {plan.mount_point!r}, not for "
            f"{_identity(mount)!r} at {mount.prefix!r}"
        )
    steps = {step.key: step for step in plan.steps}
    apart = {step.key: step for step in plan.permissions}
    wanted: list[str] = []
    results: list[PushResult] = []
    groups: tuple[GroupResult, ...] = ()
    for step in plan.steps:
        if not step.key.startswith(mount.prefix):
            results.append(PushResult(step.key, "refused", "it lies outside the mount point"))
            continue
        short = step.key.removeprefix(mount.prefix)
        edit = mount.catalog.row(short).edit
        if step.action not in _SENT and (
            edit is None or mount.ruled(edit).held or step.action == "wait"
        ):
            results.append(PushResult(step.key, "refused", _unsent(step)))
        elif edit is None:
            results.append(PushResult(step.key, "refused", "nothing is staged for it any more"))
        else:
            wanted.append(short)

    for step in plan.permissions:
        short = step.key.removeprefix(mount.prefix)
        if step.key.startswith(mount.prefix) and rights.chosen(mount, [short]):
            wanted.append(short)
        else:
            why = "no permissions are staged for it any more"
            results.append(PushResult(step.key, "refused", why, part="permissions"))
    asked = None if check is None else refusing(mount, check)

    def refuse(edit: Edit) -> str | None:
        step = steps.get(mount.full(edit.key))
        if step is None:
            return _NOT_PLANNED
        if step.action not in _SENT:
            # What belongs to it isn't sent without it.
            return _unsent(step)
        if fingerprint(edit) != step.edit:
            return "it was edited since the plan was made"
        return None if asked is None else asked(edit)

    def refuse_permissions(one: StagedPermissions) -> str | None:
        step = apart.get(mount.full(one.key))
        if step is None:
            return _NOT_PLANNED
        if step.action not in _SENT:
            return _unsent(step)
        changed = rights.fingerprint(one) != step.edit
        return "its permissions were staged anew since the plan was made" if changed else None

    def policy(conflict: Conflict) -> str:
        of_value = conflict.part == "value"
        step = (steps if of_value else apart).get(conflict.key)
        if step is None or not step.message.startswith("conflict: "):
            return "fail"
        if of_value:
            now = _sight(conflict.upstream, conflict.upstream.metadata)
        else:
            now = f"permissions {rights.sight(conflict.upstream.metadata)}"
        return plan.policy if now == step.upstream else "fail"

    if wanted:
        report = push_mount(
            mount, wanted, on_conflict=policy, workers=workers, progress=progress,
            allow_blind=allow_blind, refuse=refuse,
            permissions=refuse_permissions if apart else False,
        )  # fmt: skip
        results += report.results
        groups = report.groups
    done = PushReport(tuple(sorted(results, key=by_key)), groups)
    if after_push is not None and done.results:
        after_push(done)
    return done


def _unsent(step: Step) -> str:
    why = f"the plan doesn't send it ({step.action})"
    return f"{why}: {step.message}" if step.message else why


def read_plan(text: str | bytes) -> Plan:
    """Return the plan of a JSON document.

    Raises
    ------
    ConfigurationError
        If it isn't one.
    """
    if len(text) > LARGEST:
        raise ConfigurationError(f"this is no plan: it is larger than {LARGEST:,} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"this is no plan: it isn't JSON ({error})") from None
    if not isinstance(found, dict) or found.get("mountcache") != "plan":
        raise ConfigurationError('this is no plan: it has no {"mountcache": "plan"}')
    if found.get("format") != _VERSION:
        raise ConfigurationError(
            f"the plan is of format {str(found.get('format'))[:20]}; this version of mountcache "
            f"reads format {_VERSION}"
        )
    steps = found.get("steps")
    if not isinstance(steps, list):
        raise ConfigurationError("the plan has no list of steps")
    apart = found.get("permissions", [])
    if not isinstance(apart, list):
        raise ConfigurationError("the plan has no list of permissions")
    made, others = (tuple(_read_step(each) for each in part) for part in (steps, apart))
    if any(len({step.key for step in part}) != len(part) for part in (made, others)):
        raise ConfigurationError("the plan names a key twice")
    _check(found, {"mount_point": str, "made": float, "policy": str}, "the plan")
    if found["policy"] not in POLICIES:
        raise ConfigurationError(f"the plan has no policy that is known: {found['policy'][:40]!r}")
    upstream = found.get("upstream")
    if upstream is not None and not isinstance(upstream, str):
        raise ConfigurationError("the plan has no upstream")
    return Plan(upstream, found["mount_point"], found["made"], found["policy"], made, others)


_STEP: Final[dict[str, type]] = {
    "key": str, "action": str, "edit": str, "upstream": str, "author": str, "at": float,
    "group": str, "message": str,
}  # fmt: skip
_ACTIONS: Final = _SENT | {"conflict", "held", "wait", "refused", "unknown"}


def _read_step(found: Any) -> Step:
    names = {field.name for field in fields(Step)}
    if not isinstance(found, dict) or set(found) != names:
        raise ConfigurationError(f"a step of the plan has other names than {sorted(names)}")
    _check(found, _STEP, "a step of the plan")
    for name, kind in (("size", int), ("sha256", str), ("version", str)):
        if found[name] is not None and type(found[name]) is not kind:
            raise ConfigurationError(f"a step of the plan has a {name} of another kind")
    if found["action"] not in _ACTIONS:
        raise ConfigurationError(f"a step of the plan is {found['action'][:40]!r}: unknown")
    return Step(**cast("dict[str, Any]", found))


def _check(found: Mapping[str, Any], wanted: Mapping[str, type], what: str) -> None:
    for name, kind in wanted.items():
        value = found.get(name)
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise ConfigurationError(f"{what} has no {name}")
