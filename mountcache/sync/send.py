"""One edit on its way upstream: look where that is needed, send, settle.

Where upstream compares and writes as one step (grade A) the request itself is the comparison.
Elsewhere what upstream shows is compared just before, and what was written verified after
(grade C); between the two lies a short race, which the result names. Where a probe has shown that
upstream itself compares, if perhaps in two steps, there is no look before, and the race is as long
as the request.
"""

from __future__ import annotations

import io
import time
import uuid
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mountcache.abc import (
    ABSENT,
    Base,
    Enforced,
    Grade,
    Pushed,
    SupportsConditionalWrite,
    SupportsIndex,
    SupportsWrite,
)
from mountcache.errors import (
    AuthorizationError,
    ChangedWhileReadingError,
    ConflictError,
    IntegrityError,
    StoreError,
    StoreUnavailableError,
)
from mountcache.jsonform import parse
from mountcache.local.journal import Settled
from mountcache.local.records import BaseOf, Edit, Op
from mountcache.local.value import Snapshot
from mountcache.sync.conflicts import Resolution, conflict_of, resolve
from mountcache.sync.judge import Theirs, Verdict, base_of, judge
from mountcache.sync.look import look
from mountcache.sync.mount import Mount
from mountcache.sync.report import Policy, PushResult

if TYPE_CHECKING:
    from mountcache.abc import Value

__all__ = ["Sender", "unbased"]

_ROUNDS = 4
_DATA = frozenset({"data"})
_LOOKED = ("A", "B", "C")
"""The grades of writes that came after a look at what was there."""
_METADATA = frozenset({"metadata"})
_BOTH = _DATA | _METADATA
_NOTHING = Enforced()


@dataclass(frozen=True)
class Sender:
    """Sends edits of a mount upstream.

    Parameters
    ----------
    mount
        The two ends.
    on_conflict
        What to do with a conflict.
    allow_blind
        Write without a look where upstream can't compare.
    take_unbased
        An edit that was set past the mount replaces what upstream shows now.
    probed
        Which conditional writes upstream was seen to enforce.
    """

    mount: Mount
    on_conflict: Policy = "fail"
    allow_blind: bool = False
    take_unbased: bool = False
    probed: Enforced = _NOTHING

    @cached_property
    def _conditional(self) -> SupportsConditionalWrite | None:
        """Upstream, if it has conditional writes: whether it compares shows with the first."""
        backing = self.mount.backing
        return backing if isinstance(backing, SupportsConditionalWrite) else None

    @property
    def _enforces(self) -> bool:
        return self._conditional is not None and self._conditional.enforces()

    def _compares(self, kind: str, base: Base) -> bool:
        """Whether upstream itself refuses a write of this kind whose base isn't there."""
        return base is not None and (self._enforces or self.probed.covers(kind, base))

    # -- one edit ------------------------------------------------------------------------

    def send(self, edit: Edit) -> PushResult:
        """Push one edit; the result says what became of it.

        Raises
        ------
        StoreUnavailableError, AuthorizationError, UpstreamError, OSError
            If it couldn't be sent. It is staged as before, or its op is `unknown`.
        """
        key = self.mount.full(edit.key)
        said = ""
        resolved: Resolution | None = None
        base = edit.base
        theirs = self._look_before(edit)
        for _ in range(_ROUNDS):
            if base.kind == "op":
                return PushResult(key, "skipped", "an earlier edit of it is still being pushed")
            if base.kind == "none" and self.take_unbased:
                theirs = theirs or self._look(edit)
                base = base_of(theirs)
                said = unbased(theirs)
            if theirs is None:
                expected = base.as_base
                attempt = self._attempt(edit, base, expected, _BOTH)
            else:
                if judge(edit, theirs, base) is Verdict.UNSURE:
                    theirs = look(self.mount, edit.key, digest=True, size=theirs.size)
                verdict = judge(edit, theirs, base)
                match verdict:
                    case Verdict.DONE:
                        return self._already_there(edit, base, theirs)
                    case Verdict.YIELD:
                        return self._yield(edit, theirs, "the edit changed nothing")
                    case Verdict.CONFLICT | Verdict.UNSURE:
                        conflict = conflict_of(self.mount, edit, theirs)
                        resolved = resolve(self.mount, self.on_conflict, conflict, edit, theirs)
                        if resolved.result is not None:
                            return replace(resolved.result, conflict=conflict)
                        assert resolved.edit is not None
                        edit, base = resolved.edit, resolved.edit.base
                        if edit.key != conflict.key.removeprefix(self.mount.prefix):
                            theirs = self._look_before(edit)
                        said = resolved.message
                        continue
                    case _:
                        parts = _parts(verdict)
                expected = theirs.as_base
                attempt = self._attempt(edit, base, expected, parts, theirs.looked)
            if isinstance(attempt, PushResult):
                creates = edit.kind != "del" and expected is ABSENT
                return replace(
                    attempt,
                    message=" ".join(filter(None, (said, attempt.message))),
                    created=creates and attempt.outcome == "pushed" and attempt.grade in _LOOKED,
                )
            theirs = attempt
        return PushResult(key, "failed", "upstream changes faster than it can be compared with")

    def _look_before(self, edit: Edit) -> Theirs | None:
        """Look at upstream first where the request itself can't compare."""
        if self._compares(edit.kind, edit.base.as_base):
            return None
        if self.allow_blind and not self._enforces:
            return None
        return self._look(edit)

    def _look(self, edit: Edit) -> Theirs:
        theirs = look(self.mount, edit.key)
        if judge(edit, theirs) is Verdict.UNSURE:
            return look(self.mount, edit.key, digest=True, size=theirs.size)
        return theirs

    def _attempt(
        self,
        edit: Edit,
        base: BaseOf,
        expected: Base,
        parts: frozenset[str],
        looked: float | None = None,
    ) -> PushResult | Theirs:
        """Send one request; return the result, or what upstream shows if it refused."""
        mount = self.mount
        op = mount.journal.begin(edit, base, uuid.uuid4().hex)
        key = mount.full(edit.key)
        if op is None:
            return PushResult(key, "skipped", "it was edited again, or is being pushed already")
        pushed: Pushed | None = None
        compared = self._compares(op.kind, expected)
        if compared:
            looked = None if self._enforces else time.monotonic()
        try:
            pushed = self._request(op, expected, parts)
        except ConflictError:
            pass  # perhaps our own write refused us: what upstream shows decides
        except KeyError:
            pushed = Pushed(None, enforced=self._enforces)
        except (FileNotFoundError, IntegrityError) as error:
            mount.journal.refused(op)
            return PushResult(
                key, "failed", f"the staged bytes of {key!r} can't be read: {error}; set it again"
            )
        except StoreError as error:
            if not error.maybe_applied:
                mount.journal.refused(op)
                raise
            mount.journal.unknown(op)
            if isinstance(error, AuthorizationError):
                raise
            return self._after_lost_reply(op, error)
        except BaseException:
            # Interrupted in mid-request: the next push asks upstream what became of it.
            mount.journal.unknown(op)
            raise
        try:
            if pushed is not None:
                race = None if looked is None else time.monotonic() - looked
                return self._settle_pushed(op, pushed, race, compared=compared)
            theirs = look(mount, edit.key, digest=True)
        except BaseException:
            mount.journal.unknown(op)
            raise
        mount.journal.refused(op)
        return theirs

    def _request(self, op: Op, expected: Base, parts: frozenset[str]) -> Pushed:
        backing, key = self._conditional, self.mount.full(op.key)
        if backing is None:
            assert isinstance(self.mount.backing, SupportsWrite)
            return self._plain_request(self.mount.backing, op, key)
        base = None if self.allow_blind and not self._compares(op.kind, expected) else expected
        if op.kind == "del":
            return backing.delete_if(key, base, op.op_id)
        if op.kind == "meta" and (self._enforces or expected is not ABSENT):
            return backing.set_metadata_if(key, parse(op.meta), base, op.op_id)
        return backing.set_if(key, self._value(op), base, op.op_id, parts=parts)

    def _plain_request(self, backing: SupportsWrite, op: Op, key: str) -> Pushed:
        if op.kind == "del":
            backing.delete(key)
        elif op.kind == "meta":
            backing.set_metadata(key, parse(op.meta))
        else:
            backing.set(key, self._value(op))
        return Pushed(None, enforced=False)

    def _value(self, op: Op) -> Value:
        if op.kind == "meta":
            # Of a key that is nowhere: it is made without data, for most servers would keep
            # metadata of nothing.
            return Snapshot(op.key, op.meta, stream=io.BytesIO(), size=0, modified=op.at)
        assert op.content is not None
        return Snapshot(
            op.key,
            op.meta,
            stream=self.mount.catalog.open_content(op.content, op.sha256),
            size=op.size,
            sha256=op.sha256,
            modified=op.at,
        )

    # -- what came of it -----------------------------------------------------------------

    def _settle_pushed(
        self, op: Op, pushed: Pushed, race: float | None, *, compared: bool
    ) -> PushResult:
        key = self.mount.full(op.key)
        blind = self.allow_blind and not compared
        grade: Grade = "A" if pushed.enforced else "D" if blind else "C"
        if pushed.enforced:
            self._applied(op, Settled(pushed.version, op.meta, pushed.validators, grade=grade))
            return PushResult(
                key, "pushed", "", grade, enforced=True, verified=True, version=pushed.version
            )
        if blind:
            self._applied(op, Settled(None, op.meta, grade=grade))
            return PushResult(key, "pushed", "written without a look at upstream", grade)
        theirs = self._verify(op)
        if theirs is None:
            self._applied(op, Settled(None, op.meta, grade=grade))
            message = "upstream couldn't be read back to verify it"
            return PushResult(key, "pushed", message, grade, enforced=compared, race=race)
        return replace(self._verified(op, theirs, grade), enforced=compared, race=race)

    def _verify(self, op: Op) -> Theirs | None:
        try:
            return look(self.mount, op.key, digest=op.kind == "put", size=op.size)
        except (StoreUnavailableError, ChangedWhileReadingError):
            return None

    def _verified(self, op: Op, theirs: Theirs, grade: Grade) -> PushResult:
        mount, key = self.mount, self.mount.full(op.key)
        verdict = judge(op, theirs)
        if verdict is Verdict.DONE:
            # Only a look at our very bytes says that this version is ours.
            certain = op.kind != "put" or theirs.sha256 == op.sha256
            version = theirs.version if certain and op.kind != "meta" else None
            meta = _meta_of(op, theirs)
            validators = theirs.validators if version else ""
            self._applied(op, Settled(version, meta, validators, grade=grade))
            said = ["not in upstream's index yet"] if self._polled and self._lags else []
            if not theirs.keeps_metadata and op.meta != "{}":
                said.append(
                    "upstream keeps no metadata: yours are seen here until its index has news of it"
                )
            message = "; ".join(said)
            return PushResult(
                key, "pushed", message, grade, verified=certain, version=theirs.version
            )
        if op.kind == "put" and theirs.present and verdict is Verdict.UNSURE:
            self._applied(op, Settled(None, _meta_of(op, theirs), grade=grade))
            return PushResult(key, "pushed", "too large to read back", grade)
        if op.kind == "put" and theirs.present and verdict is Verdict.CONFLICT:
            self._applied(op, Settled(None, op.meta), altered=True)
            return PushResult(
                key,
                "stored differently",
                "upstream shows other bytes or metadata than were sent: it changes what it is "
                "given, or someone else wrote at the same moment; compare before you go on",
                grade,
                version=theirs.version,
            )
        # Half of it, perhaps: the next push sends the other half.
        half = base_of(theirs) if verdict in (Verdict.SEND_DATA, Verdict.SEND_METADATA) else None
        mount.journal.refused(op, "upstream took the request but doesn't show it", half=half)
        return PushResult(
            key, "failed", "upstream took the request but doesn't show what was sent", grade
        )

    def _already_there(self, edit: Edit, base: BaseOf, theirs: Theirs) -> PushResult:
        mount, key = self.mount, self.mount.full(edit.key)
        op = mount.journal.begin(edit, base, uuid.uuid4().hex)
        if op is None:
            return PushResult(key, "skipped", "it was edited again, or is being pushed already")
        self._applied(op, self._settled(op, theirs))
        said = "upstream has it already"
        if edit.kind == "meta" and not theirs.keeps_metadata:
            said = "upstream keeps no metadata: they stay here until its index has others"
        return PushResult(key, "already there", said, verified=True, version=theirs.version)

    def _settled(self, op: Op, theirs: Theirs) -> Settled:
        """Return what upstream holds, its version only if it is known to be of our bytes."""
        certain = op.kind != "put" or theirs.sha256 == op.sha256
        version = theirs.version if certain else None
        meta = _meta_of(op, theirs)
        return Settled(version, meta, theirs.validators if version else "", None)

    def _yield(self, edit: Edit, theirs: Theirs, message: str) -> PushResult:
        if not self.mount.journal.yield_to_upstream(edit):
            return PushResult(self.mount.full(edit.key), "skipped", "it was edited again meanwhile")
        what = "change" if theirs.present else "deletion"
        return PushResult(
            self.mount.full(edit.key),
            "already there",
            f"{message}; upstream's {what} stays",
            version=theirs.version,
        )

    def _after_lost_reply(self, op: Op, error: StoreError) -> PushResult:
        key = self.mount.full(op.key)
        message = f"{error}; the next push asks upstream whether it arrived"
        self.mount.journal.failed_op(op, message)
        return PushResult(key, "failed", message, error=error)

    # -- an op whose answer never came -----------------------------------------------------

    def settle(self, op: Op, *, send: bool = True) -> None:
        """Find out what became of an op, and note it.

        1. Upstream shows it: applied.
        2. Upstream shows its base: it never arrived.
        3. Others have written since. A server that remembers operation ids tells when it is
           asked again: what was applied isn't again, and what wasn't is refused, since its
           base is gone.

        Parameters
        ----------
        send
            Whether the third case may repeat the request.

        Raises
        ------
        StoreUnavailableError
            If upstream can't be asked.
        """
        mount = self.mount
        theirs = look(mount, op.key)
        if judge(op, theirs) is Verdict.UNSURE:
            theirs = look(mount, op.key, digest=True, size=theirs.size)
        match judge(op, theirs):
            case Verdict.DONE:
                self._applied(op, self._settled(op, theirs))
            case Verdict.CONFLICT | Verdict.YIELD if (
                send and self._enforces and op.base.as_base is not None
            ):
                self._ask_again(op)
            case Verdict.SEND_DATA | Verdict.SEND_METADATA:
                mount.journal.refused(op, half=base_of(theirs))
            case _:
                mount.journal.refused(op)

    @property
    def _polled(self) -> bool:
        backing = self.mount.backing
        return isinstance(backing, SupportsIndex) and backing.poll is not None

    def _applied(self, op: Op, settled: Settled, *, altered: bool = False) -> None:
        self.mount.journal.applied(
            op, settled, masked=self._polled, lags=self._lags, altered=altered
        )

    @property
    def _lags(self) -> bool:
        lags: bool = self.mount.backing.info().get("index_lags", True)
        return lags

    def _ask_again(self, op: Op) -> None:
        mount = self.mount
        try:
            pushed = self._request(op, op.base.as_base, _BOTH)
        except (ConflictError, KeyError):
            mount.journal.refused(op)
        else:
            self._applied(op, Settled(pushed.version, op.meta, pushed.validators))


def _meta_of(op: Op, theirs: Theirs) -> str:
    """Return the metadata that hold from now on."""
    return theirs.meta if theirs.keeps_metadata else op.meta


def _parts(verdict: Verdict) -> frozenset[str]:
    return {Verdict.SEND_DATA: _DATA, Verdict.SEND_METADATA: _METADATA}.get(verdict, _BOTH)


def unbased(theirs: Theirs) -> str:
    """Say what an edit without a base replaced."""
    if not theirs.present:
        return ""
    return (
        "it was set past the mount, so that nothing says what it was made from: it replaced "
        f"what upstream showed ({theirs.version or 'no version'})."
    )
