"""Sending staged edits upstream.

A plan says what goes in which order. Each edit is copied into the journal, sent as a
conditional write, and its answer settled in one commit. A lost reply is not a conflict: what
upstream shows decides. One failing key stops no other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from mountcache.abc import SupportsConditionalWrite, SupportsWrite
from mountcache.errors import (
    AuthorizationError,
    ConfigurationError,
    ReadOnlyKeyError,
    ReadOnlyStoreError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.events import StoreConflictEvent, StorePushEvent
from mountcache.local.decide import merged_meta
from mountcache.local.records import REFUSED, Edit, StagedEdit, StagedPermissions
from mountcache.stopping import stopped_by, stopper
from mountcache.sync import permissions as rights
from mountcache.sync.batch import EDITED_SINCE, GroupSender, Together
from mountcache.sync.look import Progress
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.pacing import Width, at_most
from mountcache.sync.probing import enforced, probe_if_wanted
from mountcache.sync.remote import Patience
from mountcache.sync.report import (
    ARRIVED,
    STOPPED,
    GroupResult,
    Policy,
    PushReport,
    PushResult,
    policy_of,
)
from mountcache.sync.status import staged_edit
from mountcache.sync.switch import refuse_offline

__all__ = [
    "brake",
    "by_key",
    "chosen",
    "named",
    "push",
    "push_mount",
    "refusing",
    "too_many",
    "unasked_deletes",
]

_HALVED = "not sent: it belongs to what was refused"
_EVERY = 0.1
_EACH = 0.002
"""Seconds that to push a small key takes this machine, its two commits among them."""
_SMALL = 65536
"""Bytes up to which the time of a push tells how long an answer is on its way."""
_MANY_DELETES = 100
_SOME_DELETES = 10
_STOPPED = PushResult("", "skipped", STOPPED)


def push(
    store: Mounted,
    keys: Iterable[str] | None = None,
    *,
    on_conflict: Policy = "fail",
    workers: int | None = None,
    progress: Progress | None = None,
    allow_blind: bool = False,
    max_delete: int | None = None,
    permissions: bool = False,
    check: Callable[[StagedEdit], str | None] | None = None,
    marker: str | None = None,
    bwlimit: str | float | None = None,
    after_push: Callable[[PushReport], object] | None = None,
) -> PushReport:
    """Push staged edits upstream.

    One that is asked to end early (`mountcache.stopping`) ends the keys in flight, and says
    "skipped" of those that it didn't begin.

    Parameters
    ----------
    store
        A MountedStore.
    keys
        The keys to push, with the mount point; all that is staged if None.
    on_conflict
        "fail" leaves the edit staged; "ours" replaces exactly what the conflict named;
        "theirs" discards the edit; "keep-both" pushes mine under a new name;
        "merge-metadata" merges by name where the bytes agree. Or what is called with the
        `Conflict` and returns one of these.
    workers
        How many edits are on their way at once; None: 8, or up to 64 where answers take long.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second.
    allow_blind
        Write without a look where upstream can't compare.
    max_delete
        How many keys may be deleted upstream. By default a push of all that is staged
        deletes at most 10, or a tenth of what upstream holds, or 100.
    permissions
        Push what is staged of permissions, too, of each key after its value: one more result
        each. They stay staged otherwise.
    check
        Called with each edit before anything is sent; a message refuses that one, and no
        background pusher tries it again until it is edited.
    marker
        A staged key that is sent after all the others, and only once all of them are upstream:
        who finds it there finds the others. It belongs to `keys` in any case.
    bwlimit
        Bytes a second, or text such as "512k" or "08:00,512k 18:00,off"; None: as the limits of
        the backing store say.
    after_push
        Called with the report, if there is a result in it.

    Returns
    -------
    PushReport
        One result a key, and one a group.

    Raises
    ------
    KeyError
        If nothing is staged for a key that is named, nor anything known of it here.
    ConfigurationError
        If the marker is half of a rename.
    ReadOnlyKeyError
        If a key lies outside the mount point.
    ReadOnlyStoreError
        If upstream can't be written.
    StoreBusyError
        If another process is pushing this directory.
    """
    mount = store.mount
    with at_most(mount, bwlimit):
        report = push_mount(
            mount,
            None if keys is None else [named(mount, key) for key in keys],
            on_conflict=on_conflict,
            workers=workers,
            progress=progress,
            allow_blind=allow_blind,
            max_delete=max_delete,
            permissions=permissions,
            refuse=None if check is None else refusing(mount, check),
            marker=None if marker is None else named(mount, marker),
        )
    if after_push is not None and report.results:
        after_push(report)
    return report


def refusing(
    mount: Mount, check: Callable[[StagedEdit], str | None]
) -> Callable[[Edit], str | None]:
    """Return what refuses the edits that a check refuses, and notes why."""

    def refuse(edit: Edit) -> str | None:
        why = check(staged_edit(mount, edit))
        if why is not None:
            mount.journal.failed(edit, REFUSED + why)
        return why

    return refuse


def push_mount(
    mount: Mount,
    keys: Sequence[str] | None,
    *,
    on_conflict: Policy = "fail",
    workers: int | None = None,
    progress: Progress | None = None,
    allow_blind: bool = False,
    max_delete: int | None = None,
    permissions: bool | Callable[[StagedPermissions], str | None] = False,
    marker: str | None = None,
    take_unbased: bool = False,
    refuse: Callable[[Edit], str | None] | None = None,
) -> PushReport:
    """Push edits of a catalog; see `push`.

    Parameters
    ----------
    keys, marker
        Keys of the catalog.
    take_unbased
        An edit that was set past the mount replaces what upstream shows now.
    permissions
        Whether staged permissions are pushed, or what says of which they aren't.
    refuse
        Says why an edit isn't to be sent, before any is; None for one that is.
    """
    mount.staging.refuse_in_transaction("push")
    mount.refuse_frozen("push")
    if isinstance(on_conflict, str):
        policy_of(on_conflict)
    if workers is not None and workers < 1:
        raise ValueError(f"a push has at least 1 worker, not {workers}")
    width = Width(mount, workers, _EACH)
    nothing = next(mount.catalog.edits(), None) is None and not mount.catalog.ops()
    if keys is None and nothing and not (permissions and rights.chosen(mount, None)):
        # Nothing to ask anybody about.
        return PushReport(
            tuple(_unsent(mount, filter(None, (marker,)), (), permissions=bool(permissions)))
        )
    refuse_offline(mount)
    _check_writable(mount)
    with mount.journal.pushing():
        probe_if_wanted(mount)
        sender = GroupSender(
            mount, on_conflict=on_conflict, allow_blind=allow_blind, take_unbased=take_unbased,
            probed=enforced(mount),
        )  # fmt: skip
        mount.journal.abandon_dead()
        wanted = keys if keys is None or marker is None else [*keys, marker]
        found = chosen(mount, wanted)
        planned, names = _whole_groups(mount, found, wanted), mount.catalog.group_names()
        edits = [edit for edit in found if not edit.held]
        last = _last(mount, edits, marker)
        reasons = _refused(mount, edits, keys, max_delete, refuse)
        # A change set isn't sent without what belongs to it.
        halved = {edit.group for edit in edits if edit.key in reasons}
        results = [
            PushResult(mount.full(edit.key), "refused", reasons[edit.key])
            if edit.key in reasons
            else PushResult(mount.full(edit.key), "skipped", _HALVED)
            for edit in edits
            if edit.group in halved
        ]
        results += [
            PushResult(mount.full(each.key), "held", mount.why_held(each.key))
            for each in found
            if each.held
        ]
        asked = [*(wanted or ()), *filter(None, (marker,))]
        results += _unsent(mount, asked, found, permissions=bool(permissions))
        edits = [edit for edit in edits if edit.group not in halved]
        run = _Run(mount, sender, len(edits), width, progress)
        results += run.all(_groups(edit for edit in edits if edit is not last))
        if last is not None and last in edits:
            results += run.last(last, results)
        groups = _group_results(mount, names, planned, results, run.together)
        if permissions:
            refuse_one = None if permissions is True else permissions
            created = frozenset(each.key for each in results if each.created)
            after_values = rights.push(
                mount,
                keys,
                created,
                on_conflict=on_conflict,
                workers=width.first,
                refuse=refuse_one,
            )
            for result in after_values:
                announce(mount, result)
            results += after_values
    return PushReport(tuple(sorted(results, key=by_key)), groups)


def by_key(result: PushResult) -> tuple[str, bool]:
    return result.key, result.part == "permissions"


def _refused(
    mount: Mount,
    edits: Sequence[Edit],
    keys: Sequence[str] | None,
    max_delete: int | None,
    refuse: Callable[[Edit], str | None] | None,
) -> dict[str, str]:
    """Return why some edits aren't sent, by key: too many deletes, and what `refuse` says."""
    stopped = brake(mount, edits, max_delete) if keys is None or max_delete is not None else []
    reasons = {edit.key: too_many(len(stopped)) for edit in stopped}
    if refuse is not None:
        for edit in edits:
            if edit.key not in reasons and (why := refuse(edit)) is not None:
                reasons[edit.key] = why
    return reasons


def _check_writable(mount: Mount) -> None:
    backing = mount.backing
    if isinstance(backing, SupportsConditionalWrite):
        try:
            # Who enforces conditions can be written, though it may not have been known before.
            writable = not backing.info().get("readonly") or backing.enforces()
        except (StoreUnavailableError, AuthorizationError, UpstreamError):
            writable = True  # each key will say why nobody knows
    else:
        writable = isinstance(backing, SupportsWrite) and not backing.info().get("readonly")
    if not writable:
        raise ReadOnlyStoreError(
            f"upstream ({type(backing).__name__}) can only be read; the edits stay staged"
        )


def named(mount: Mount, key: str) -> str:
    """Return the catalog's name of a key that was named to be pushed."""
    if not key.startswith(mount.prefix):
        raise ReadOnlyKeyError(f"{key!r} lies outside the mount point {mount.prefix!r}")
    short = key.removeprefix(mount.prefix)
    row = mount.catalog.row(short)
    known = row.op is not None or row.edit is not None or merged_meta(row) is not None
    if not known and not rights.chosen(mount, [short]):
        raise KeyError(key)
    return short


def _unsent(
    mount: Mount, keys: Iterable[str], edits: Iterable[Edit], *, permissions: bool
) -> list[PushResult]:
    """Return the results of keys that were named though nothing is staged for them."""
    staged = {edit.key for edit in edits}
    rest = [key for key in dict.fromkeys(keys) if key not in staged]
    apart = {one.key for one in rights.chosen(mount, rest)}
    return [
        PushResult(
            mount.full(key),
            "already there",
            f"its value is; {rights.NOT_ASKED}" if key in apart else "nothing is staged for it",
        )
        for key in rest
        if not (permissions and key in apart)
    ]


def chosen(mount: Mount, keys: Sequence[str] | None) -> list[Edit]:
    if keys is None:
        return list(mount.edits())
    rows = (mount.catalog.row(key) for key in dict.fromkeys(keys))
    edits = (mount.ruled(row.edit) for row in rows if row.edit is not None)
    return sorted(edits, key=lambda edit: edit.seq)


def _groups(edits: Iterable[Edit]) -> list[list[Edit]]:
    """Put edits in groups: in order within one, in parallel between them."""
    groups: dict[int, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit.group, []).append(edit)
    return list(groups.values())


def _whole_groups(
    mount: Mount, edits: Sequence[Edit], keys: Sequence[str] | None
) -> dict[int, list[Edit]]:
    """Return the groups of edits, with those of their edits that aren't to be pushed."""
    if keys is None:
        return {edits[0].group: edits for edits in _groups(edits)}
    groups = {edit.group for edit in edits}
    whole = _groups(edit for edit in mount.catalog.edits() if edit.group in groups)
    return {edits[0].group: edits for edits in whole}


def _last(mount: Mount, edits: Iterable[Edit], marker: str | None) -> Edit | None:
    """Return the edit of the marker; None if it isn't staged, or there is none."""
    found = next((edit for edit in edits if edit.key == marker), None)
    if found is not None and (found.partner is not None or mount.journal.waiting_for(found.key)):
        raise ConfigurationError(
            f"{mount.full(found.key)!r} can't be the marker: it is half of a rename, whose halves "
            "go together; choose another key"
        )
    return found


def _in_order(edits: Iterable[Edit]) -> list[Edit]:
    """Put the edits of a group in the order of sending: deletes come last."""
    return sorted(edits, key=lambda each: (each.kind == "del", each.seq))


def _group_results(
    mount: Mount,
    names: Mapping[int, str],
    planned: Mapping[int, Sequence[Edit]],
    results: Iterable[PushResult],
    together: Mapping[int, Together],
) -> tuple[GroupResult, ...]:
    """Say of each group of more than one edit what became of it."""
    outcomes = {result.key: result.outcome for result in results}
    found = []
    for group, edits in planned.items():
        if len(edits) == 1:
            continue
        keys = [mount.full(edit.key) for edit in _in_order(edits)]
        done = [outcomes.get(key) in ARRIVED for key in keys]
        sent = together.get(group)
        found.append(
            GroupResult(
                group,
                names.get(group),
                tuple(key for key in keys if key in outcomes),
                "complete" if all(done) else "partial" if any(done) else "none",
                sent is not None and not sent.one_by_one,
                "" if sent is None else sent.message,
            )
        )
    return tuple(found)


def brake(
    mount: Mount, edits: Sequence[Edit], max_delete: int | None, before: int = 0
) -> list[Edit]:
    """Return the deletes that are too many to be meant, `before` of them sent already."""
    deletes = [edit for edit in edits if edit.kind == "del" and edit.partner is None]
    if max_delete is not None:
        return deletes if len(deletes) > max_delete else []
    many = len(deletes) + before
    if many <= _SOME_DELETES:
        return []
    known = mount.catalog.count_upstream() + before
    if many > _MANY_DELETES or many * 10 > known:
        return deletes
    return []


def unasked_deletes(store: Mounted, keys: Iterable[str] | None = None) -> int:
    """Return how many deletes are too many to be meant, of all that is staged or of some keys.

    Nobody is asked. A push of named keys counts none by itself.
    """
    mount = store.mount
    short = None if keys is None else [key.removeprefix(mount.prefix) for key in keys]
    return len(brake(mount, [edit for edit in chosen(mount, short) if not edit.held], None))


def too_many(count: int) -> str:
    return (
        f"one of {count} deletes, more than a push does unasked; allow them with "
        f"max_delete={count} (--max-delete {count})"
    )


def announce(mount: Mount, result: PushResult) -> None:
    """Make a result known to those who listen."""
    if result.conflict is not None and result.outcome == "conflict":
        mount.emit(StoreConflictEvent(key=result.key, conflict=result.conflict))
    mount.emit(
        StorePushEvent(
            key=result.key, outcome=result.outcome, version=result.version, grade=result.grade
        )
    )


class _Run:
    """One push: its workers, its progress, its results."""

    def __init__(
        self, mount: Mount, sender: GroupSender, total: int, width: Width, progress: Progress | None
    ) -> None:
        self._mount = mount
        self._sender = sender
        self._total = total
        self._width = width
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._told = 0.0
        self._patience = Patience(width.first)
        self._stop = stopper()
        self._rest: PushResult | None = None
        """What becomes of the keys that aren't begun any more."""
        self.together: dict[int, Together] = {}
        """What came of sending groups as one change, by the number of the group."""

    def all(self, groups: Sequence[Sequence[Edit]]) -> list[PushResult]:
        """Send groups in parallel, more of them at once if answers turn out to take long."""
        if len(groups) <= 1 or self._width.most == 1:
            return [result for group in groups for result in self._group(group)]
        todo, width, wanted = deque(groups), self._width, self._width.first
        workers: list[Future[list[PushResult]]] = []
        with ThreadPoolExecutor(min(width.most, len(groups)), "mountcache-push") as pool:

            def work() -> list[PushResult]:
                results: list[PushResult] = []
                while True:
                    try:
                        group = todo.popleft()
                    except IndexError:
                        return results
                    begun = time.monotonic()
                    try:
                        results += self._group(group)
                    except BaseException:
                        # The keys in flight are ended; the others aren't begun.
                        self._rest = self._rest or _STOPPED
                        todo.clear()
                        raise
                    if len(group) == 1 and (group[0].size or 0) <= _SMALL:
                        width.note(time.monotonic() - begun)
                    employ()

            def employ() -> None:
                nonlocal wanted
                with self._lock:
                    if not width.settled:
                        wanted = width.of_use() or wanted
                    more = min(wanted - len(workers), len(todo))
                    workers.extend(pool.submit(work) for _ in range(more))

            try:
                employ()
                # Each may have employed others before it came to its end.
                return [result for worker in workers for result in worker.result()]
            except BaseException:  # also an interrupt of this thread
                self._rest = _STOPPED
                todo.clear()
                raise

    def last(self, marker: Edit, before: Iterable[PushResult]) -> list[PushResult]:
        """Send the marker of what was sent before, unless some of that didn't go."""
        if all(result.outcome in ARRIVED for result in before):
            return self._group([marker])
        why = "not sent: the marker goes last, once all else is upstream"
        result = PushResult(self._mount.full(marker.key), "skipped", why)
        self._tell(result)
        return [result]

    def _group(self, edits: Sequence[Edit]) -> list[PushResult]:
        edits = _in_order(edits)
        self._stop_if_asked()
        with stopped_by(None):  # what is begun is ended
            results = self._all_at_once(edits)
        for edit in edits:
            result = results.get(edit.key)
            if result is None:
                self._stop_if_asked()
                with stopped_by(None):
                    result = self._rest or self._waiting(edit, results) or self._one(edit)
            results[edit.key] = result = replace(result, key=self._mount.full(edit.key))
            self._tell(result)
        return [results[edit.key] for edit in edits]

    def _stop_if_asked(self) -> None:
        if self._stop is not None and self._stop.is_set():
            self._rest = self._rest or _STOPPED

    def _all_at_once(self, edits: Sequence[Edit]) -> dict[str, PushResult]:
        """Send what belongs together as one change, if that can be; the others come after."""
        if len(edits) == 1 or self._rest is not None:
            return {}
        keys = {edit.key for edit in edits}
        results = {
            edit.key: waiting
            for edit in edits
            if edit.partner not in keys and (waiting := self._waiting(edit, {})) is not None
        }
        edits = [edit for edit in edits if edit.key not in results]
        if len(edits) < 2:
            return results
        sent = self._sender.send_together(edits)
        self.together[edits[0].group] = sent
        results |= sent.results
        if sent.error is not None:
            for edit in edits:
                if edit.key not in results:
                    results[edit.key] = self._not_sent(edit, sent.error)
        if not sent.one_by_one:
            # All of them met the same thing, once.
            error = next((each.error for each in results.values() if each.error), None)
            self._note(PushResult("", "failed" if error else "pushed", error=error))
        return results

    def _waiting(self, edit: Edit, before: dict[str, PushResult]) -> PushResult | None:
        """Return why a whiteout isn't sent, or not yet, if it is half of a rename."""
        if edit.kind != "del" or edit.partner is None:
            return None
        catalog, partner = self._mount.catalog, before.get(edit.partner)
        now = catalog.row(edit.key).edit
        if now is None and partner is not None:
            return PushResult(
                "", "already there", "half of a rename that was discarded: not deleted"
            )
        if now is None or now.partner is None:
            return None
        waiting = catalog.row(now.partner).edit
        if waiting is None or waiting.kind == "del":
            return None
        why = partner.message if partner is not None else "it isn't being pushed"
        return PushResult(
            "",
            "skipped",
            f"half of a rename: not deleted, since {self._mount.full(waiting.key)!r} "
            f"isn't upstream yet ({why})",
        )

    def _one(self, edit: Edit) -> PushResult:
        catalog = self._mount.catalog
        try:
            op = catalog.row(edit.key).op
            if op is not None and op.state == "unknown":
                self._sender.settle(op)
                left = catalog.row(edit.key).edit
                if left is None:
                    return PushResult("", "pushed", "an earlier push of it had arrived")
                if left.seq != edit.seq:
                    return PushResult("", "skipped", EDITED_SINCE)
                edit = left
            result = self._sender.send(edit)
        except ReadOnlyStoreError:
            self._rest = _STOPPED
            raise
        except (StoreError, OSError) as error:
            result = self._not_sent(edit, error)
        self._note(result)
        return result

    def _not_sent(self, edit: Edit, error: StoreError | OSError) -> PushResult:
        """Return the result of an edit that an error stood in the way of."""
        # Who may not write a key may not the next time, either; another login may come by itself.
        forbidden = isinstance(error, AuthorizationError) and error.status != 401
        self._mount.journal.failed(edit, f"{REFUSED}{error}" if forbidden else str(error))
        if not isinstance(error, AuthorizationError):
            return PushResult("", "failed", str(error), error=error)
        if error.status == 401:
            self._rest = PushResult("", "blocked", f"not sent: {error}", error=error)
        return PushResult("", "blocked", str(error), error=error)

    def _note(self, result: PushResult) -> None:
        """Note what stood in the way: at last the rest isn't begun any more."""
        self._patience.note(result.error)
        if self._rest is None and (lost := self._patience.lost):
            self._rest = PushResult("", "failed", f"not sent: {lost}", error=lost)

    def _tell(self, result: PushResult) -> None:
        announce(self._mount, result)
        with self._lock:
            self._done += 1
            now = time.monotonic()
            due = now - self._told >= _EVERY or self._done == self._total
            if due:
                self._told = now
            done = self._done
        if self._progress is not None and due:
            self._progress(done, self._total, result.key)
