"""The journal of pushes: what was sent, and what became of it.

What is sent is copied into an op row in the commit that starts it, so that later edits of the
key are ordinary edits whose base is that op. Each answer is one commit for its op.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mountcache.errors import PushInProgressError, StoreBusyError, StoreError
from mountcache.jsonform import content_version, parse
from mountcache.local import history
from mountcache.local.catalog import Catalog, get_state, set_state
from mountcache.local.history import What
from mountcache.local.records import ABSENT_BASE, BaseOf, Clean, Copy, Edit, Op, Row, Why
from mountcache.local.rows import OP_ROWS, base_columns, norm_of, op_from
from mountcache.local.staging import Staging, next_seq, result_base
from mountcache.locks import Lock

__all__ = ["EditedMeanwhileError", "Journal", "Settled"]


class EditedMeanwhileError(StoreError):
    """An edit was made anew, or begun by somebody else, since it was read.

    Parameters
    ----------
    key
        Its key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r} was edited again, or is being pushed already")
        self.key = key


@dataclass(frozen=True, slots=True)
class Settled:
    """What upstream holds once an op was applied."""

    version: str | None
    """The version, if a reply to the write named it or a look at our very bytes did."""
    meta: str
    """Metadata as upstream has it."""
    validators: str = ""
    lifetime: float | None = None
    grade: str | None = None
    """How sure it is that nobody else wrote meanwhile, for the record."""


class Journal:
    """The ops of one catalog."""

    def __init__(self, catalog: Catalog, staging: Staging) -> None:
        self._catalog = catalog
        self._staging = staging
        self._lock = catalog.content.lock("push")
        self._sharing = Lock()
        self._pushers: Counter[str] = Counter()

    @contextmanager
    def pushing(self, wait: float = 5.0) -> Iterator[None]:
        """Hold the right to push this directory, which the threads of one process share.

        Raises
        ------
        StoreBusyError
            If another process holds it for longer than `wait` seconds.
        """
        lock, mine = self._lock, self._catalog.content.token
        with self._sharing:
            if not self._pushers[mine] and not lock.acquire(wait):
                raise StoreBusyError(
                    f"another process ({lock.holder()}) is pushing from this directory; "
                    "try again when it has ended"
                )
            self._pushers[mine] += 1
        try:
            yield
        finally:
            # A forked child has another token: what its parent holds isn't its own.
            if mine == self._catalog.content.token:
                with self._sharing:
                    self._pushers[mine] -= 1
                    if not self._pushers[mine]:
                        lock.release()

    def begin(self, edit: Edit, base: BaseOf, op_id: str) -> Op | None:
        """Copy an edit into a new op; None if the edit has changed, or is being sent.

        Parameters
        ----------
        base
            What the request will replace; the edit takes it too.
        """
        return self._catalog.content.together(lambda con: self._begin(con, edit, base, op_id))

    def begin_all(self, sent: Sequence[tuple[Edit, BaseOf, str]]) -> list[Op]:
        """Copy edits into new ops, all in one commit, or none of them.

        Raises
        ------
        EditedMeanwhileError
            If an edit has changed, or is being sent.
        """
        begun = []
        with self._catalog.content.write() as con:
            for edit, base, op_id in sent:
                op = self._begin(con, edit, base, op_id)
                if op is None:
                    raise EditedMeanwhileError(edit.key)
                begun.append(op)
        return begun

    def _begin(self, con: sqlite3.Connection, edit: Edit, base: BaseOf, op_id: str) -> Op | None:
        catalog = self._catalog
        row = catalog.row(edit.key, con)
        if row.edit is None or row.edit.seq != edit.seq or row.op is not None:
            return None
        self._rebase(con, edit.key, base)
        con.execute(
            "INSERT INTO op (op_id, key, edit_seq, mask_entry, state, owner, at,"
            " kind, content, sha, size, meta,"
            " base_kind, base, base_sha, base_meta, base_entry, base_op)"
            " VALUES (?, ?, ?, ?, 'sending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                op_id, edit.key, edit.seq, catalog.index_entry(con, row),
                catalog.content.token, catalog.clock(), edit.kind, edit.content,
                edit.sha256, edit.size, edit.meta,
                *base_columns(base),
            ),
        )  # fmt: skip
        columns = con.execute(OP_ROWS + " WHERE o.op_id = ?", (op_id,)).fetchone()
        return op_from(columns[0], columns[1:])

    def applied(
        self,
        op: Op,
        settled: Settled,
        *,
        masked: bool = False,
        lags: bool = True,
        altered: bool = False,
    ) -> None:
        """Note that upstream applied an op.

        The edit it was made of is gone; one made since has the result for its base. The bytes
        stay as a clean copy.

        Parameters
        ----------
        masked
            Upstream's index is polled: what was pushed stays in force until the index says
            something else than it did when the request was sent.
        lags
            The index may go on not naming a new key for a while; otherwise one that it doesn't
            name is gone.
        altered
            Upstream shows something else than was sent: no copy is kept, and the edit goes where
            it can be had back from.
        """
        self.applied_all([(op, settled)], masked=masked, lags=lags, altered=altered)

    def applied_all(
        self,
        done: Sequence[tuple[Op, Settled]],
        *,
        masked: bool = False,
        lags: bool = True,
        altered: bool = False,
    ) -> None:
        """Note in one commit that upstream applied several ops, each as `applied` does."""

        def note(con: sqlite3.Connection) -> None:
            for op, settled in done:
                self._applied(con, op, settled, masked=masked, lags=lags, altered=altered)
                if op.kind != "del":
                    self._staging.pass_on(con, op.key, None)

        self._catalog.content.together(note)
        for op, _ in done:
            self._catalog.forget_handed(op.key)

    def _applied(
        self,
        con: sqlite3.Connection,
        op: Op,
        settled: Settled,
        *,
        masked: bool,
        lags: bool,
        altered: bool,
    ) -> None:
        catalog = self._catalog
        row = self._end(con, op)
        if row is None:
            return
        catalog.write_entry(
            con, get_state(con, "gen"), row.row,
            meta=None if op.kind == "del" else settled.meta,
            version=settled.version, sha256=op.sha256, size=op.size,
            asked=True, masked=masked and (lags or row.mask_entry is not None),
            mask_entry=row.mask_entry,
        )  # fmt: skip
        # The copy takes the bytes over before edit and op let go of them.
        self._write_copy(con, row.row, op, settled, altered=altered)
        if row.edit is not None and row.edit.seq == op.edit_seq:
            if altered:
                catalog.take_away(con, row.edit, "given up")
            self._staging.forget(con, row.row)
        elif row.edit is not None and row.edit.base.op_id == op.op_id:
            sha = op.sha256 or op.base.sha256
            self._rebase(con, op.key, result_base(op.kind, settled.version, sha, settled.meta))
        if op.content is not None:
            catalog.content.release(con, [op.content])
        con.execute("UPDATE copy SET seen = NULL WHERE key = ?", (op.key,))
        history.record(
            con, catalog.clock(), "pushed", op.key, kind=op.kind, size=op.size,
            version=settled.version, grade=settled.grade,
            author=_author_of(row.edit, op),
            note="stored differently" if altered else "",
        )  # fmt: skip

    def refused(self, op: Op, message: str | None = None, *, half: BaseOf | None = None) -> None:
        """Note that upstream didn't apply an op; what was staged is staged as before.

        Parameters
        ----------
        message
            Why, for status.
        half
            What upstream shows, if it applied the op in part: the new base.
        """
        self._catalog.content.together(lambda con: self._refused(con, op, message, half))

    def refused_all(self, ops: Sequence[Op]) -> None:
        """Note in one commit that upstream applied none of several ops."""
        with self._catalog.content.write() as con:
            for op in ops:
                self._refused(con, op, None, None)

    def _refused(
        self, con: sqlite3.Connection, op: Op, message: str | None, half: BaseOf | None
    ) -> None:
        row = self._end(con, op)
        if row is None:
            return
        edit = row.edit
        if edit is not None and edit.base.op_id == op.op_id:
            self._rebase(con, op.key, half or op.base)
        elif edit is not None and edit.seq == op.edit_seq and half is not None:
            self._rebase(con, op.key, half)
        if message is not None and edit is not None:
            self._failed(con, edit, message)
        if op.content is not None:
            self._catalog.content.release(con, [op.content])

    def unknown(self, op: Op) -> None:
        """Note that the answer to an op never came."""
        self.unknown_all([op])

    def unknown_all(self, ops: Sequence[Op], message: str | None = None) -> None:
        """Note in one commit that the answer to several ops never came, and why."""
        with self._catalog.content.write() as con:
            for op in ops:
                con.execute("UPDATE op SET state = 'unknown' WHERE op_id = ?", (op.op_id,))
                edit = self._catalog.row(op.key, con).edit
                if message is not None and edit is not None:
                    self._failed(con, edit, message)

    def abandon_dead(self) -> None:
        """Take the ops of pushers that are gone for unknown; only who holds the lock may."""
        content = self._catalog.content
        if content.connection().rows("SELECT 1 FROM op WHERE state = 'sending' LIMIT 1"):
            with content.write() as con:
                con.execute(
                    "UPDATE op SET state = 'unknown' WHERE state = 'sending' AND owner != ?",
                    (content.token,),
                )

    def failed(self, edit: Edit, message: str) -> None:
        """Note why an edit couldn't be pushed."""
        with self._catalog.content.write() as con:
            now = self._catalog.row(edit.key, con).edit
            if now is not None and now.seq == edit.seq:
                self._failed(con, now, message)

    def failed_op(self, op: Op, message: str) -> None:
        """Note why nobody knows yet whether an op was applied."""
        with self._catalog.content.write() as con:
            now = self._catalog.row(op.key, con).edit
            if now is not None:
                self._failed(con, now, message)

    def _failed(self, con: sqlite3.Connection, edit: Edit, message: str) -> None:
        at = self._catalog.clock()
        con.execute(
            "UPDATE edit SET tries = tries + 1, error = ?, tried = ? WHERE key = ?",
            (message, at, edit.key),
        )
        # Who tries again and again meets the same thing.
        if message != edit.error:
            self._record(con, "failed", edit, message)

    def _record(self, con: sqlite3.Connection, what: What, edit: Edit, note: str = "") -> None:
        history.record(
            con, self._catalog.clock(), what, edit.key, kind=edit.kind, author=edit.author,
            size=edit.size, version=edit.version, note=note,
        )  # fmt: skip

    def keep_under(self, edit: Edit, key: str) -> Edit | None:
        """Give an edit another key, where it only creates; None if it has changed meanwhile."""
        with self._catalog.content.write() as con:
            row = self._catalog.row(edit.key, con)
            if row.edit is None or row.edit.seq != edit.seq or row.op is not None:
                return None
            con.execute(
                "UPDATE edit SET key = ?, partner = NULL, base_kind = ?, base = ?, base_sha = ?,"
                " base_meta = ?, base_entry = ?, base_op = ?,"
                " tries = 0, error = NULL, tried = NULL WHERE key = ?",
                (key, *base_columns(ABSENT_BASE), edit.key),
            )
            self._staging.pass_on(con, edit.key, key)
            self._record(con, "resolved", row.edit, f"mine goes to {key}")
            return self._catalog.row(key, con).edit

    def replace_metadata(self, edit: Edit, meta: str) -> bool:
        """Give an edit other metadata; False if it has changed meanwhile."""
        data = edit.sha256 or edit.base.sha256 or edit.base.version or ""
        version = content_version(data, parse(meta))
        with self._catalog.content.write() as con:
            row = self._catalog.row(edit.key, con)
            if row.edit is None or row.edit.seq != edit.seq or row.op is not None:
                return False
            con.execute(
                "UPDATE edit SET meta = ?, norm = ?, version = ? WHERE key = ?",
                (meta, norm_of(meta), version, edit.key),
            )
            return True

    def rebase(self, edit: Edit, base: BaseOf, note: str = "") -> bool:
        """Give an edit a new base; False if it has changed meanwhile.

        Parameters
        ----------
        note
            How a conflict was resolved by that.
        """
        with self._catalog.content.write() as con:
            row = self._catalog.row(edit.key, con)
            if row.edit is None or row.edit.seq != edit.seq:
                return False
            self._rebase(con, edit.key, base)
            con.execute(
                "UPDATE edit SET tries = 0, error = NULL, tried = NULL WHERE key = ?", (edit.key,)
            )
            self._record(con, "resolved", row.edit, note)
            return True

    def yield_to_upstream(self, edit: Edit) -> bool:
        """Discard an edit in favour of what upstream has; False if it has changed meanwhile."""
        with self._catalog.content.write() as con:
            row = self._catalog.row(edit.key, con)
            rows = [row, *self._waiting_for(con, edit.key)]
            if row.edit is None or row.edit.seq != edit.seq or any(each.op for each in rows):
                return False
            for each in rows:
                self._discard(con, each, "given up")
            return True

    def revert(self, key: str) -> list[str]:
        """Discard the edit of a key; return the keys that are upstream's again.

        A whiteout that waits for the key, as the other half of its rename, goes with it.

        Raises
        ------
        KeyError
            If nothing is staged there.
        PushInProgressError
            If a request for it is in flight, or its answer never came.
        """
        with self._catalog.content.write() as con:
            row = self._catalog.row(key, con)
            if row.edit is None:
                raise KeyError(key)
            rows = [row, *self._waiting_for(con, key)]
            for each in rows:
                if each.op is not None:
                    raise PushInProgressError(
                        f"{each.key!r} is being pushed; wait for the push to end, then revert"
                    )
            for each in rows:
                next_seq(con)
                self._discard(con, each, "reverted")
            return [each.key for each in rows]

    def waiting_for(self, key: str) -> list[str]:
        """Return the keys of the whiteouts that are the other halves of renames to a key."""
        found = self._catalog.content.connection().rows(
            "SELECT key FROM edit WHERE partner = ?", (key,)
        )
        return [name for (name,) in found]

    def _waiting_for(self, con: sqlite3.Connection, key: str) -> list[Row]:
        """Return the whiteouts that are the other halves of renames to a key."""
        found = con.execute("SELECT key FROM edit WHERE partner = ?", (key,)).fetchall()
        return [self._catalog.row(name, con) for (name,) in found]

    def _discard(self, con: sqlite3.Connection, row: Row, why: Why) -> None:
        """Take an edit away; its key is upstream's again, which the next read asks."""
        if row.edit is not None:
            self._catalog.take_away(con, row.edit, why)
            self._record(con, "reverted" if why == "reverted" else "given up", row.edit)
        self._staging.forget(con, row)
        con.execute("UPDATE copy SET expires = 0 WHERE key = ?", (row.key,))
        # Where an index says what is there, that is asked: who gave an edit up wants what is now.
        set_state(con, "index_checked", None)

    def _rebase(self, con: sqlite3.Connection, key: str, base: BaseOf) -> None:
        con.execute(
            "UPDATE edit SET base_kind = ?, base = ?, base_sha = ?, base_meta = ?,"
            " base_entry = ?, base_op = ? WHERE key = ?",
            (*base_columns(base), key),
        )

    def _end(self, con: sqlite3.Connection, op: Op) -> _Ended | None:
        found = con.execute("SELECT mask_entry FROM op WHERE op_id = ?", (op.op_id,)).fetchone()
        if found is None:
            return None
        row = self._catalog.row(op.key, con)
        con.execute("DELETE FROM op WHERE op_id = ?", (op.op_id,))
        return _Ended(row, row.edit, found[0])

    def _write_copy(
        self, con: sqlite3.Connection, row: Row, op: Op, settled: Settled, *, altered: bool
    ) -> None:
        catalog = self._catalog
        now = catalog.clock()
        used = get_state(con, "used")
        if op.kind == "del" or altered or (catalog.keeps is not None and not catalog.keeps(op.key)):
            if row.copy is not None:
                con.execute("DELETE FROM copy WHERE key = ?", (op.key,))
                catalog.content.release(con, [row.copy.content])
        elif op.kind == "put" and op.content is not None:
            clean = Clean(
                op.key, None, op.sha256 or "", op.size or 0, settled.meta,
                settled.version, settled.validators, settled.lifetime, now,
            )  # fmt: skip
            catalog.write_copy(con, row, clean, op.content, now, used, asked=True)
        elif row.copy is not None:
            self._update_copy_metadata(con, row.copy, op, settled)

    def _update_copy_metadata(
        self, con: sqlite3.Connection, copy: Copy, op: Op, settled: Settled
    ) -> None:
        """Give a copy the pushed metadata if its bytes are known to be upstream's still."""
        meta = settled.meta
        if settled.version == content_version(copy.sha256, parse(meta)):
            version, validators = settled.version, settled.validators
        elif copy.version is not None and copy.version == op.base.version:
            # Two resources: whether the bytes are the same is asked at the next read.
            version, validators = None, ""
        else:
            return
        con.execute(
            "UPDATE copy SET version = ?, validators = ?, meta = ?, entry = NULL, expires = NULL"
            " WHERE key = ?",
            (version, validators, meta, copy.key),
        )


def _author_of(edit: Edit | None, op: Op) -> str | None:
    """Return who made what was sent; None if an edit made since has taken its place."""
    return edit.author if edit is not None and edit.seq == op.edit_seq else None


@dataclass(frozen=True, slots=True)
class _Ended:
    row: Row
    edit: Edit | None
    mask_entry: str | None
