"""What is done with a conflict: the five policies."""

from __future__ import annotations

import datetime as dt
import socket
from dataclasses import dataclass
from typing import Any

from mountcache.jsonform import normal_form, parse
from mountcache.local.records import CONFLICT, Edit
from mountcache.sync.judge import Theirs, base_of, merge_metadata
from mountcache.sync.mount import Mount
from mountcache.sync.report import Conflict, Policy, PushResult, Side, policy_of

__all__ = ["Resolution", "conflict_of", "merged_by_name", "resolve"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a policy made of a conflict: a result, or an edit to be sent now."""

    result: PushResult | None = None
    edit: Edit | None = None
    message: str = ""


def conflict_of(mount: Mount, edit: Edit, theirs: Theirs) -> Conflict:
    """Describe both sides."""
    mine = Side(
        f"mine (staged by {edit.author} at {_when(edit.at)})",
        edit.kind != "del",
        edit.version,
        parse(edit.meta),
        edit.sha256,
        edit.size,
        edit.at,
    )
    shown = "deleted" if not theirs.present else (theirs.version or "no version")[:12]
    when = "" if theirs.modified is None else f", {_when(theirs.modified)}"
    upstream = Side(
        f"upstream ({shown}{when})",
        theirs.present,
        theirs.version,
        parse(theirs.meta),
        theirs.sha256,
        theirs.size,
        theirs.modified,
    )
    base = _base_metadata(edit)
    return Conflict(
        mount.full(edit.key),
        edit.base.as_base,
        mine,
        upstream,
        None if base is None else parse(base),
    )


def resolve(
    mount: Mount, policy: Policy, conflict: Conflict, edit: Edit, theirs: Theirs
) -> Resolution:
    """Apply a policy to a conflict."""
    match policy_of(policy if isinstance(policy, str) else policy(conflict)):
        case "fail":
            return _fail(mount, conflict, edit)
        case "ours":
            return _ours(mount, conflict, edit, theirs)
        case "theirs":
            return _theirs(mount, conflict, edit)
        case "keep-both":
            return _keep_both(mount, conflict, edit)
        case "merge-metadata":
            return _merge(mount, conflict, edit, theirs)
        case other:
            raise AssertionError(other)


def _fail(mount: Mount, conflict: Conflict, edit: Edit, why: str = "") -> Resolution:
    what = {
        (True, True): "both sides changed it",
        (True, False): "it was deleted upstream and edited here",
        (False, True): "it was changed upstream and deleted here",
    }[conflict.mine.present, conflict.upstream.present]
    if edit.base.kind in ("absent", "unknown", "none") and conflict.mine.present:
        what = "upstream has a value that this edit wasn't made from"
    message = (
        f"{CONFLICT}{what}; nothing was overwritten and the edit stays staged. "
        f"{conflict.upstream.label} against {conflict.mine.label}: push it with a policy "
        "(mine, upstream, keep-both, merge-metadata), or revert it"
    )
    message = f"{CONFLICT}{why}; the edit stays staged" if why else message
    mount.journal.failed(edit, message)
    return Resolution(PushResult(conflict.key, "conflict", message))


def _ours(mount: Mount, conflict: Conflict, edit: Edit, theirs: Theirs) -> Resolution:
    if edit.kind == "meta" and not theirs.present:
        # An empty key in the place of the data that were deleted is what nobody wants.
        return _fail(
            mount, conflict, edit,
            "the key was deleted upstream, and its metadata alone are edited here: there are no "
            "data to send; put the data, too, or revert it",
        )  # fmt: skip
    return _rebased(mount, edit, theirs, "mine replaces upstream's version.")


def _rebased(mount: Mount, edit: Edit, theirs: Theirs, message: str) -> Resolution:
    """Send the edit against exactly the version that the conflict named."""
    mount.journal.rebase(edit, base_of(theirs), message)
    return _resend(mount, edit, message)


def _resend(mount: Mount, edit: Edit, message: str) -> Resolution:
    now = mount.catalog.row(edit.key).edit
    if now is None or now.seq != edit.seq:
        return _edited_meanwhile(mount.full(edit.key))
    return Resolution(edit=now, message=message)


def _edited_meanwhile(key: str) -> Resolution:
    return Resolution(PushResult(key, "skipped", "it was edited again meanwhile"))


def _theirs(mount: Mount, conflict: Conflict, edit: Edit) -> Resolution:
    if not mount.journal.yield_to_upstream(edit):
        return _edited_meanwhile(conflict.key)
    return Resolution(
        PushResult(conflict.key, "already there", "upstream's version stays; mine was discarded")
    )


def _keep_both(mount: Mount, conflict: Conflict, edit: Edit) -> Resolution:
    if edit.kind == "del":
        return _theirs(mount, conflict, edit)
    if edit.kind == "meta":
        return _fail(mount, conflict, edit)
    stamp = dt.datetime.fromtimestamp(mount.clock(), dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    key = f"{edit.key}.conflict-{socket.gethostname()}-{stamp}-{(edit.sha256 or '')[:8]}"
    kept = mount.journal.keep_under(edit, key)
    if kept is None:
        return _resend(mount, edit, "")
    return Resolution(edit=kept, message=f"mine went to {mount.full(key)!r}; upstream's stays.")


def _merge(mount: Mount, conflict: Conflict, edit: Edit, theirs: Theirs) -> Resolution:
    merged = merged_by_name(edit, theirs)
    if merged is None:
        return _fail(mount, conflict, edit)
    if not mount.journal.replace_metadata(edit, normal_form(merged)):
        return _resend(mount, edit, "")
    return _rebased(
        mount, mount.catalog.row(edit.key).edit or edit, theirs, "the metadata of both was merged."
    )


def merged_by_name(edit: Edit, theirs: Theirs) -> dict[str, Any] | None:
    """Return the metadata of both sides, None if there is no merging them."""
    base = _base_metadata(edit)
    bytes_agree = edit.kind == "meta" or (
        theirs.sha256 is not None and theirs.sha256 in (edit.sha256, edit.base.sha256)
    )
    if edit.kind == "del" or not theirs.present or base is None or not bytes_agree:
        return None
    return merge_metadata(parse(edit.meta), parse(base), parse(theirs.meta))


def _base_metadata(edit: Edit) -> str | None:
    if edit.base.kind in ("none", "unknown", "absent"):
        return "{}"  # both added it
    return edit.base.meta if edit.base.meta is not None else edit.base.entry


def _when(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
