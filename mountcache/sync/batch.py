"""Edits that belong together on their way upstream, as one change.

What one transaction staged goes in one batch where upstream takes batches (our own server
does): all of it is applied there in one commit, or nothing is. One key that can't be written
holds the others back. The ops of a batch are begun in one commit before the request, and
settled in one commit after it. Next door: `send`, one edit by itself.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mountcache.abc import Base, BatchLimits, Pushed, SupportsBatch, Value, Write
from mountcache.errors import (
    AuthorizationError,
    ConflictError,
    IntegrityError,
    ReadOnlyStoreError,
    StoreError,
    UpstreamError,
)
from mountcache.local.journal import EditedMeanwhileError, Settled
from mountcache.local.records import BaseOf, Edit, Op
from mountcache.local.value import Snapshot
from mountcache.sync.conflicts import conflict_of, resolve
from mountcache.sync.judge import Theirs, Verdict, base_of, judge
from mountcache.sync.look import look
from mountcache.sync.report import ARRIVED, Outcome, PushResult
from mountcache.sync.send import Sender, unbased

__all__ = ["EDITED_SINCE", "GroupSender", "Together"]

EDITED_SINCE: Final = "it was edited again meanwhile; the next push sends that"
"""Said of an edit that neither a check nor whoever looked at a plan has seen."""

_ROUNDS: Final = 4
_AROUND: Final = 1024
"""Bytes that a write of a batch takes besides its key, metadata and data."""
_NO_BATCHES: Final = (404, 405, 413, 501)
"""Statuses by which a server says that it takes no batches, or none so large."""


@dataclass(frozen=True, slots=True)
class Together:
    """What became of edits that were to be sent together."""

    results: dict[str, PushResult]
    """By key of the catalog."""
    error: StoreError | OSError | None = None
    """What stood in the way of those that have no result."""
    one_by_one: bool = False
    """Those that have no result have to be sent one by one."""
    message: str = ""
    """Why they have to, though upstream takes several."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An edit that is still to be sent."""

    name: str
    """The key that it was staged under: a policy may have given it another."""
    edit: Edit
    said: str = ""
    """What a policy did with it."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """An edit, and what it replaces."""

    chosen: _Chosen
    base: BaseOf
    expected: Base

    @property
    def name(self) -> str:
        return self.chosen.name

    @property
    def edit(self) -> Edit:
        return self.chosen.edit


class _UnreadableError(IntegrityError):
    """The staged bytes of a key can't be read."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class GroupSender(Sender):
    """Sends edits of a mount upstream, those of a group together where that is possible."""

    def send_together(self, edits: Sequence[Edit]) -> Together:
        """Push edits as one change.

        Parameters
        ----------
        edits
            In the order in which they are to be sent; more than one.

        Returns
        -------
        Together
            An edit without a result is staged as before, or its op is `unknown`.
        """
        results: dict[str, PushResult] = {}
        try:
            return self._sent_together(edits, results)
        except ReadOnlyStoreError:
            raise
        except (StoreError, OSError) as error:
            return Together(results, error)

    def _sent_together(self, edits: Sequence[Edit], results: dict[str, PushResult]) -> Together:
        backing = self.mount.backing
        if not isinstance(backing, SupportsBatch) or (limits := backing.batch_limits()) is None:
            return Together({}, one_by_one=True)
        size = _size(edits, limits)
        if size > limits.size or len(edits) > limits.count:
            return Together(
                {},
                one_by_one=True,
                message=f"{len(edits):,} keys, {size:,} bytes in all: upstream takes "
                f"{limits.count:,} of {limits.size:,} bytes at once, so each was sent by itself",
            )
        left = self._settled_before(edits, results)
        theirs = {each.name: self._look_before(each.edit) for each in left}
        for _ in range(_ROUNDS):
            ready: list[_Ready] = []
            for each in left:
                found = self._decide(each, theirs[each.name])
                if isinstance(found, _Ready):
                    ready.append(found)
                else:
                    results[each.name] = found
            ready = self._still_staged(ready, results)
            if not ready or self._held_back(ready, results):
                return Together(results)
            attempt = self._send(backing, ready)
            if isinstance(attempt, Together):
                return replace(attempt, results=results | attempt.results)
            # One refusal is told of a batch: a look at all finds the others.
            left, theirs = [each.chosen for each in ready], attempt
        for each in left:
            results[each.name] = PushResult(
                "", "failed", "upstream changes faster than it can be compared with"
            )
        return Together(results)

    def _settled_before(
        self, edits: Sequence[Edit], results: dict[str, PushResult]
    ) -> list[_Chosen]:
        """Find out what became of an earlier push of the edits; return what is left."""
        left = []
        for edit in edits:
            now: Edit | None = edit
            op = self.mount.catalog.row(edit.key).op
            if op is not None and op.state == "unknown":
                self.settle(op)
                now = self.mount.catalog.row(edit.key).edit
            if now is None:
                results[edit.key] = PushResult("", "pushed", "an earlier push of it had arrived")
            elif now.seq != edit.seq:
                results[edit.key] = PushResult("", "skipped", EDITED_SINCE)
            else:
                left.append(_Chosen(edit.key, now))
        return left

    def _decide(self, chosen: _Chosen, theirs: Theirs | None) -> _Ready | PushResult:
        """Return what an edit is to replace, or its result if it isn't to be sent."""
        mount = self.mount
        edit, said = chosen.edit, chosen.said
        for _ in range(_ROUNDS):
            base = edit.base
            if base.kind == "op":
                return PushResult("", "skipped", "an earlier edit of it is still being pushed")
            if base.kind == "none" and self.take_unbased:
                theirs = theirs or self._look(edit)
                base, said = base_of(theirs), unbased(theirs)
            expected = base.as_base
            if theirs is not None:
                if judge(edit, theirs, base) is Verdict.UNSURE:
                    theirs = look(mount, edit.key, digest=True)
                match judge(edit, theirs, base):
                    case Verdict.DONE:
                        return self._already_there(edit, base, theirs)
                    case Verdict.YIELD:
                        return self._yield(edit, theirs, "the edit changed nothing")
                    case Verdict.CONFLICT | Verdict.UNSURE:
                        conflict = conflict_of(mount, edit, theirs)
                        resolved = resolve(mount, self.on_conflict, conflict, edit, theirs)
                        if resolved.result is not None:
                            return replace(resolved.result, conflict=conflict)
                        assert resolved.edit is not None
                        renamed = resolved.edit.key != edit.key
                        edit, said = resolved.edit, resolved.message
                        if renamed:
                            theirs = self._look_before(edit)
                        continue
                expected = theirs.as_base
            return _Ready(_Chosen(chosen.name, edit, said), base, expected)
        return PushResult("", "failed", "upstream changes faster than it can be compared with")

    def _still_staged(
        self, ready: Sequence[_Ready], results: dict[str, PushResult]
    ) -> list[_Ready]:
        """Leave out the whiteouts that went with the other half of their rename."""
        left = []
        for each in ready:
            now = self.mount.catalog.row(each.edit.key).edit
            if now is None and each.edit.kind == "del" and each.edit.partner is not None:
                results[each.name] = PushResult(
                    "", "already there", "half of a rename that was discarded: not deleted"
                )
            else:
                left.append(each)
        return left

    def _send(
        self, backing: SupportsBatch, ready: Sequence[_Ready]
    ) -> Together | dict[str, Theirs | None]:
        """Send one batch; return what came of it, or what upstream shows if it refused."""
        journal = self.mount.journal
        try:
            ops = journal.begin_all([(each.edit, each.base, uuid.uuid4().hex) for each in ready])
        except EditedMeanwhileError as error:
            message = "it was edited again, or is being pushed already"
            return Together(self._refused(ready, error.key, "skipped", message))
        try:
            pushed = backing.write_batch(
                [self._write(op, each.expected) for op, each in zip(ops, ready, strict=True)]
            )
        except (ConflictError, KeyError):
            journal.refused_all(ops)
            return {each.name: look(self.mount, each.edit.key, digest=True) for each in ready}
        except IntegrityError as error:
            journal.refused_all(ops)
            if not isinstance(error, _UnreadableError):
                raise
            return Together(self._refused(ready, error.key, "failed", str(error)))
        except StoreError as error:
            if not error.maybe_applied:
                journal.refused_all(ops)
                if isinstance(error, UpstreamError) and error.status in _NO_BATCHES:
                    why = f"{error}: each was sent by itself"
                    return Together({}, one_by_one=True, message=why)
                raise
            message = f"{error}; the next push asks upstream whether it arrived"
            journal.unknown_all(ops, message)
            if isinstance(error, AuthorizationError):
                raise
            return Together(
                {each.name: PushResult("", "failed", message, error=error) for each in ready}
            )
        except BaseException:
            # Interrupted in mid-request: the next push asks upstream what became of them.
            journal.unknown_all(ops)
            raise
        self._applied_all(ops, pushed)
        return Together(
            {
                each.name: PushResult(
                    "", "pushed", each.chosen.said, "A", enforced=True, verified=True,
                    version=one.version,
                )
                for each, one in zip(ready, pushed, strict=True)
            }
        )  # fmt: skip

    def _applied_all(self, ops: Sequence[Op], pushed: Sequence[Pushed]) -> None:
        try:
            self.mount.journal.applied_all(
                [
                    (op, Settled(one.version, op.meta, one.validators, grade="A"))
                    for op, one in zip(ops, pushed, strict=True)
                ],
                masked=self._polled,
                lags=self._lags,
            )
        except BaseException:
            self.mount.journal.unknown_all(ops)
            raise

    def _write(self, op: Op, base: Base) -> Write:
        key = self.mount.full(op.key)
        value = None if op.kind == "del" else self._lazy(op)
        return Write(key, op.kind, value, base, op.op_id)

    def _lazy(self, op: Op) -> Value:
        """Return the value of an op, its file opened when it is its turn: there may be many."""

        def fetch() -> io.BufferedIOBase:
            assert op.content is not None
            try:
                return self.mount.catalog.open_content(op.content, op.sha256)
            except OSError as error:
                name = self.mount.full(op.key)
                raise _UnreadableError(
                    f"the staged bytes of {name!r} can't be read: {error}", op.key
                ) from error

        return Snapshot(
            op.key, op.meta, fetch=fetch, size=op.size, sha256=op.sha256, modified=op.at
        )

    def _held_back(self, ready: Sequence[_Ready], results: dict[str, PushResult]) -> bool:
        """Hold edits back that go with one which can't be sent; tell if there is one."""
        for key, result in results.items():
            if result.outcome not in ARRIVED:
                why = self._why(key, result.outcome)
                results.update({each.name: PushResult("", "skipped", why) for each in ready})
                return True
        return False

    def _refused(
        self, ready: Sequence[_Ready], key: str, outcome: Outcome, message: str
    ) -> dict[str, PushResult]:
        """Return the results of edits of which one can't be sent."""
        why = self._why(key, message)
        return {
            each.name: PushResult("", outcome, message)
            if each.edit.key == key
            else PushResult("", "skipped", why)
            for each in ready
        }

    def _why(self, key: str, what: str) -> str:
        return f"not sent: it goes with {self.mount.full(key)!r}, all or nothing ({what})"


def _size(edits: Sequence[Edit], limits: BatchLimits) -> int:
    """Return how many bytes a batch of edits has at most."""
    size, ahead = 0, set()
    for edit in edits:
        size += len(edit.meta.encode()) + 2 * len(edit.key.encode()) + _AROUND
        data = edit.size or 0
        if limits.ahead is not None and data >= limits.ahead and edit.sha256 not in ahead:
            ahead.add(edit.sha256)
        else:
            size += data
    return size
