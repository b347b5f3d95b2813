"""Staged edits: how a change becomes one, alone or in a transaction.

A transaction is a buffer of drafts that belongs to the context that opened it. Its own reads
see it; others don't. It remembers what it read, and commits nothing if any of that has changed
here meanwhile. A change outside a transaction is one commit that reads, decides and writes.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from mountcache.abc import ABSENT, AbstractStore, Base, Pushed, Readable, chunks
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    PushInProgressError,
    StoreError,
    StoreFullError,
    TransactionError,
)
from mountcache.events import (
    BaseEvent,
    StoreDeleteEvent,
    StoreProgress,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import parse
from mountcache.local import history, permissions, undo
from mountcache.local.catalog import Catalog, StagedLimitError, get_state, set_state
from mountcache.local.content import Content, Shelf, Spool
from mountcache.local.decide import (
    Draft,
    Token,
    base_for,
    hides_nothing,
    merged_meta,
    same_token,
    stage_again,
    stage_delete,
    stage_write,
    token_of,
)
from mountcache.local.records import ABSENT_BASE, BaseOf, Edit, Op, Row, Taken, Why
from mountcache.local.rows import base_columns, norm_of
from mountcache.local.uploads import Arrived
from mountcache.local.view import matcher, view

__all__ = [
    "Announce",
    "AppliedMeanwhileError",
    "Staging",
    "check_group",
    "named_group",
    "next_seq",
    "remember",
    "result_base",
]

_UPSERT_EDIT = """
INSERT INTO edit (key, seq, norm, version, grp, partner, author, at, notes,
                  held, kind, content, sha, size, meta,
                  base_kind, base, base_sha, base_meta, base_entry, base_op)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    seq = excluded.seq, norm = excluded.norm, version = excluded.version, grp = excluded.grp,
    partner = excluded.partner, author = excluded.author, at = excluded.at,
    notes = excluded.notes, kind = excluded.kind, content = excluded.content,
    sha = excluded.sha, size = excluded.size, meta = excluded.meta,
    base_kind = excluded.base_kind, base = excluded.base, base_sha = excluded.base_sha,
    base_meta = excluded.base_meta, base_entry = excluded.base_entry,
    base_op = excluded.base_op, tries = 0, error = NULL, tried = NULL
"""
"""What is held back stays so."""


class AppliedMeanwhileError(StoreError):
    """A write of a transaction was applied by a repeat of it, which was quicker."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Who announces a change, and under which key."""

    store: AbstractStore
    key: str
    mounted: bool
    author: str


@dataclass(slots=True)
class _Staged:
    """A draft in a transaction, with the bytes that come with it."""

    draft: Draft
    spool: Spool | None
    announce: Announce
    before: str | None
    """The metadata that the key had, as JSON text; None if it wasn't there."""
    over: BaseOf | None = None
    """What it was committed over; of a push in flight what that makes."""
    op_id: str | None = None
    """Names the write, for a caller who may repeat it."""


_IN_MEMORY = 16 * 1048576
"""How many bytes of small values a transaction holds in memory."""


@dataclass(slots=True)
class _Transaction:
    notes: str
    prefix: str = ""
    """What the caller's keys have before those of the catalog."""
    group: str | None = None
    """The name of the group that it belongs to."""
    staged: dict[str, _Staged] = field(default_factory=dict)
    read: dict[str, tuple[Token, bool]] = field(default_factory=dict)
    passed: list[tuple[str, str | None]] = field(default_factory=list)
    """Deleted keys, and for which other one who waited for them is to wait."""
    spools: list[Spool] = field(default_factory=list)
    in_memory: int = 0
    """How many bytes of the spools are in memory."""
    shelf: Shelf | None = None

    def take(self, spool: Spool, content: Content) -> None:
        """Hold a spool until the end; more than some of them not in memory."""
        self.spools.append(spool)
        self.in_memory += spool.in_memory
        if self.in_memory <= _IN_MEMORY:
            return
        self.shelf = self.shelf or content.shelf()
        if self.shelf is not None:
            self.in_memory -= spool.in_memory
            spool.shelve(self.shelf)

    def discard(self) -> None:
        """Let go of what wasn't adopted."""
        for spool in self.spools:
            spool.discard()
        if self.shelf is not None:
            self.shelf.close()

    def pass_on(self, key: str, partner: str | None) -> None:
        """Let whiteouts that wait for a key wait for another, or for none."""
        self.passed = [*self.passed, (key, partner)]
        for name, other in self.staged.items():
            if other.draft.partner == key:
                draft = replace(other.draft, partner=partner)
                self.staged[name] = replace(other, draft=draft)


_LONGEST_NAME = 200
_OPS_REMEMBERED = 1_000_000
_OPS_REMEMBERED_FOR = 30 * 86400.0

_Make = Callable[[Row], Draft]

_open: ContextVar[Mapping[int, _Transaction]] = ContextVar(
    "mountcache_transactions", default=MappingProxyType({})
)


class Staging:
    """The edits of one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.changed: Callable[[], None] = lambda: None
        """Called after each commit that changed what is staged; it must not wait."""

    # -- reading -------------------------------------------------------------------------

    def current(self) -> _Transaction | None:
        """Return the transaction of this context, if one is open."""
        return _open.get().get(id(self))

    def refuse_in_transaction(self, verb: str) -> None:
        """Raise TransactionError if a transaction is open here."""
        if self.current() is not None:
            raise TransactionError(f"{verb} has no meaning inside a transaction; end it first")

    def row(self, key: str, *, mounted: bool) -> Row:
        """Return what is known of a key, with this context's transaction on top."""
        row = self.catalog.row(key)
        transaction = self.current()
        if transaction is None:
            return row
        _note_read(transaction, row, mounted=mounted)
        return self._overlaid(row, transaction)

    def _overlaid(self, row: Row, transaction: _Transaction) -> Row:
        staged = transaction.staged.get(row.key)
        if staged is None:
            return row
        draft = staged.draft
        base = draft.base or base_for(
            row, self.catalog.handed(row.key), mounted=staged.announce.mounted
        )
        edit = Edit(
            row.key, -1, draft.kind, draft.content, draft.sha256, draft.size, draft.meta,
            draft.version, base, 0, draft.partner, staged.announce.author,
            self.catalog.clock(), transaction.notes,
        )  # fmt: skip
        # An op of the edit below is no op of this one.
        return replace(row, edit=edit)

    def open_edit(self, edit: Edit) -> io.BufferedIOBase:
        """Return a stream of the bytes of a staged value."""
        transaction = self.current()
        if transaction is not None:
            staged = transaction.staged.get(edit.key)
            if staged is not None and staged.spool is not None:
                return staged.spool.open()
        if edit.content is None:
            raise FileNotFoundError(edit.key)
        return self.catalog.open_content(edit.content, edit.sha256)

    def view(
        self, where: Mapping[str, Any], *, merged: bool, pattern: str | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate by key over (key, metadata), as `view` does, with the transaction on top."""
        rows = view(self.catalog.content, where, merged=merged, pattern=pattern)
        transaction = self.current()
        if transaction is None:
            return ((key, parse(meta)) for key, meta in rows)
        return self._overlaid_view(transaction, rows, where, pattern)

    def _overlaid_view(
        self,
        transaction: _Transaction,
        rows: Iterator[tuple[str, str]],
        where: Mapping[str, Any],
        pattern: str | None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        matches = matcher(where, pattern)
        mine = [
            (key, parse(staged.draft.meta))
            for key, staged in sorted(transaction.staged.items())
            if staged.draft.kind in ("put", "meta")
        ]
        mine = [(key, metadata) for key, metadata in mine if matches(key, metadata)]
        hidden = set(transaction.staged)
        for key, meta in rows:
            if key in hidden:
                continue
            while mine and mine[0][0] < key:
                yield mine.pop(0)
            yield key, parse(meta)
        yield from mine

    # -- changing ------------------------------------------------------------------------

    def write(
        self,
        key: str,
        announce: Announce,
        *,
        data: Readable | None = None,
        meta: str | None = None,
        merge: dict[str, Any] | None = None,
        base: Base = None,
        buffer_size: int = 1048576,
        op_id: str | None = None,
    ) -> Pushed:
        """Stage new data, new metadata, or both.

        Parameters
        ----------
        data
            Read to its end before anything is changed; None leaves the data as it is.
        meta
            New metadata as JSON text; None leaves it as it is.
        merge
            Names to change in the metadata there is.
        base
            The version that the caller wants to replace.
        op_id
            Names the write, for a caller who may repeat it: what was applied isn't again.
        """
        if data is None:
            make = _write(announce, base, None, meta, merge)
            return self._change(key, announce, make, None, op_id)
        spool = self.catalog.content.spool()
        try:
            message = f"Setting {announce.key}"
            with StoreProgress(announce.store, message, key=announce.key) as progress:
                # What else a transaction stages is counted at its end.
                room = self.catalog.staged_room(key)
                if isinstance(data, Arrived) and data.is_large:
                    if room is not None and data.size > room:
                        raise self.catalog.too_much_staged(self.catalog.state("staged_bytes"))
                    data.take(spool)
                else:
                    for chunk in chunks(data, buffer_size):
                        if room is not None and spool.size + len(chunk) > room:
                            raise self.catalog.too_much_staged(self.catalog.state("staged_bytes"))
                        spool.write(chunk)
                        progress.step(spool.size)
                # In any case: a row that outlives a power cut mustn't name torn bytes.
                spool.finish(True)
            make = _write(announce, base, (spool.sha256, spool.size), meta, merge)
            pushed = self._change(key, announce, make, spool, op_id, depends=base is not None)
        except BaseException as error:
            spool.discard()
            # Of room under the limit for staged values what is kept for undo takes none.
            short = isinstance(error, StoreFullError) and not isinstance(error, StagedLimitError)
            if short and self._make_room():
                raise StoreFullError(
                    f"{error}; what was kept for undo has gone, which made some: try again"
                ) from error
            raise
        if self.current() is None:
            spool.discard()
        return pushed

    def _make_room(self) -> bool:
        """Let go of what is kept for undo, the first to go; tell if that was any."""
        try:
            return self.catalog.empty_undo()
        except StoreError:
            return False  # the disk is as full as that

    def write_content(self, key: str, announce: Announce, like: Edit) -> None:
        """Stage the bytes and metadata of another key, without a copy of the bytes."""
        transaction = self.current()
        staged = transaction.staged.get(like.key) if transaction is not None else None
        spool = staged.spool if staged is not None and like.content is None else None
        data = (like.sha256 or "", like.size or 0)
        make = _write(announce, None, data, like.meta, None, like.content)
        self._change(key, announce, make, spool)

    def restore(self, taken: Taken, announce: Announce) -> None:
        """Stage again what was taken away, made from what it was made from then.

        An edit that is there now keeps its base, and is kept for undo in its place. KeyError if
        only metadata were staged, and the key is gone.
        """
        self._change(taken.key, announce, lambda row: stage_again(row, announce.key, taken), None)
        with self.catalog.content.write() as con:
            undo.forget(con, self.catalog.content, taken.seq)

    def hold(self, keys: Iterable[str], *, held: bool) -> list[str]:
        """Hold staged edits back, so that no push sends them, or let them go; all or none.

        What belongs to one goes with it, for it is to be published together. Returns the keys of
        all these edits, in the order of their making.

        Raises
        ------
        KeyError
            If nothing is staged for one.
        """
        with self.catalog.content.write() as con:
            groups = set()
            for key in keys:
                found = con.execute("SELECT grp FROM edit WHERE key = ?", (key,)).fetchone()
                if found is None:
                    raise KeyError(key)
                groups.add(found[0])
            for group in groups:
                con.execute("UPDATE edit SET held = ? WHERE grp = ?", (int(held), group))
            sql = "SELECT key FROM edit WHERE grp IN (SELECT value FROM json_each(?)) ORDER BY seq"
            found = con.execute(sql, (json.dumps(list(groups)),)).fetchall()
        self.changed()
        return [key for (key,) in found]

    def done(self, op_id: str) -> Pushed | None:
        """Return the answer to a write that was applied here before, under this id."""
        return _done(self.catalog.content.connection(), op_id)

    def delete(
        self,
        key: str,
        announce: Announce,
        *,
        base: Base = None,
        partner: str | None = None,
        op_id: str | None = None,
    ) -> Pushed:
        """Stage a whiteout, or forget what is only here; KeyError if the key isn't there.

        Parameters
        ----------
        partner
            The new name, if this is half of a rename: the whiteout isn't sent before it is.
        """

        def make(row: Row) -> Draft:
            draft = stage_delete(row, name=announce.key, base=base, mounted=announce.mounted)
            return replace(draft, partner=partner)

        return self._change(key, announce, make, None, op_id)

    def _change(
        self,
        key: str,
        announce: Announce,
        make: _Make,
        spool: Spool | None,
        op_id: str | None = None,
        *,
        depends: bool = False,
    ) -> Pushed:
        """Carry a change out, now or at the end of the transaction.

        `depends` says that a change which brings its own bytes depends, all the same, on what
        it finds.
        """
        transaction = self.current()
        if transaction is None:

            def commit(con: sqlite3.Connection) -> tuple[_Transaction, Pushed]:
                alone = _Transaction("")
                if op_id is not None and (done := _done(con, op_id)):
                    return alone, done
                row = self.catalog.row(key, con)
                staged = _Staged(make(row), spool, announce, _seen_by(row, announce))
                alone.staged[key] = staged
                if staged.draft.kind == "del":
                    alone.pass_on(key, staged.draft.partner)
                self._write_all(con, alone, row)
                version = staged.draft.version
                if op_id is not None:
                    remember(con, op_id, key, version, self.catalog.clock())
                return alone, Pushed(version, enforced=True)

            alone, pushed = self.catalog.content.together(commit)
            if alone.staged:
                self._announce(alone)
            return pushed
        if op_id is not None and (done := self.done(op_id)):
            return done
        below = self.catalog.row(key)
        row = self._overlaid(below, transaction)
        draft = make(row)
        if spool is None or depends:
            # What came out depends on what was there: it is compared again at the commit.
            _note_read(transaction, below, mounted=announce.mounted)
        before = transaction.staged.get(key)
        was = before.before if before else _seen_by(below, announce)
        if spool is not None:
            transaction.take(spool, self.catalog.content)
        elif draft.kind == "put" and draft.content is None:
            spool = before.spool if before is not None else None
            if spool is None:
                spool = _empty(self.catalog)
                transaction.spools.append(spool)
        if before is not None and draft.base is None:
            draft = replace(draft, base=before.draft.base)
        if draft.kind == "del":
            transaction.pass_on(key, draft.partner)
        transaction.staged[key] = _Staged(draft, spool, announce, was, op_id=op_id)
        return Pushed(draft.version, enforced=True)

    @contextmanager
    def transaction(
        self, store: AbstractStore, notes: str, prefix: str = "", group: str | None = None
    ) -> Iterator[None]:
        """Open a transaction, or join the one that is open.

        Parameters
        ----------
        notes
            What it is for.
        prefix
            What the caller's keys have before those of the catalog.
        group
            The name of the group that its edits go to; one of their own if None.
        """
        outer = self.current()
        if outer is not None:
            if group not in (None, outer.group):
                raise TransactionError(
                    f"the group {group!r} can't be named inside a transaction; name it for the "
                    "outermost one"
                )
            staged, passed = dict(outer.staged), outer.passed
            try:
                yield
            except BaseException:
                # What the block wrote goes; what it read may have shaped what stays.
                outer.staged, outer.passed = staged, passed
                raise
            return
        transaction = _Transaction(notes, prefix, None if group is None else check_group(group))
        store.event_manager.emit(StoreTransactionStartEvent(source=store, message=notes))
        state: Literal["done", "failed"] = "failed"
        token = _open.set({**_open.get(), id(self): transaction})
        try:
            try:
                yield
            finally:
                _open.reset(token)
            if transaction.staged:
                with self.catalog.content.write() as con:
                    _refuse_repeats(con, transaction)
                    self._check_reads(con, transaction)
                    self._write_all(con, transaction)
                    self._remember_all(con, transaction)
            state = "done"
        finally:
            transaction.discard()
            store.event_manager.emit(
                StoreTransactionEndEvent(source=store, message=notes, state=state)
            )
        self._announce(transaction)

    def _remember_all(self, con: sqlite3.Connection, transaction: _Transaction) -> None:
        for key, staged in transaction.staged.items():
            if staged.op_id is not None:
                remember(con, staged.op_id, key, staged.draft.version, self.catalog.clock())

    def _check_reads(self, con: sqlite3.Connection, transaction: _Transaction) -> None:
        for key, (then, mounted) in transaction.read.items():
            now = token_of(self.catalog.row(key, con), mounted=mounted)
            if not same_token(then, now):
                name = transaction.prefix + key
                raise ConflictError(
                    f"{name!r} was changed here since this transaction read it; nothing was "
                    "committed: run the transaction again",
                    key=name,
                    expected=then.version,
                    found=now.version if now.present else ABSENT,
                )

    # -- inside a commit -----------------------------------------------------------------

    def _write_all(
        self, con: sqlite3.Connection, transaction: _Transaction, only: Row | None = None
    ) -> None:
        """Write what is staged; `only` is what this commit has read of its one key."""
        group, held, grown = 0, 0, 0
        if transaction.group is not None and transaction.staged:
            group, held = named_group(con, transaction.group, transaction.notes)
        for key, partner in transaction.passed:
            self.pass_on(con, key, partner)
        for key, staged in transaction.staged.items():
            row = only or self.catalog.row(key, con)
            draft, mounted = staged.draft, staged.announce.mounted
            base = draft.base or base_for(row, self.catalog.handed(key), mounted=mounted)
            staged.over = base if base.kind != "op" else _result_of(row.op)
            if draft.kind == "del" and not mounted and row.op is not None:
                raise _in_flight(staged.announce.key)
            grown += (draft.size or 0) - ((row.edit.size or 0) if row.edit is not None else 0)
            held = max(held, row.edit.held if row.edit is not None else 0)
            seq = next_seq(con)
            group = group or seq
            if row.edit is not None and len(transaction.staged) == 1 and not transaction.group:
                group = row.edit.group
            elif row.edit is not None and row.edit.group != group:
                # One that has a name gives it to one that has none.
                con.execute("UPDATE edit SET grp = ? WHERE grp = ?", (group, row.edit.group))
                con.execute(
                    "UPDATE OR IGNORE grp SET grp = ? WHERE grp = ?", (group, row.edit.group)
                )
            if mounted and row.edit is not None and _loses(row.edit, draft):
                why: Why = "deleted" if draft.kind == "del" else "replaced"
                self.catalog.take_away(con, row.edit, why)
            if draft.kind == "del" and mounted:
                permissions.follow(con, self.catalog, key, draft.partner)
            if draft.kind == "del" and hides_nothing(row, base, mounted=mounted):
                self.forget(con, row)
            else:
                self._write_edit(con, row, staged, base, seq, group, held, transaction.notes)
            history.record(
                con, self.catalog.clock(), "staged", key, kind=draft.kind,
                author=staged.announce.author, size=draft.size, version=draft.version,
                note=transaction.notes,
            )  # fmt: skip
        if held:
            # What comes to be together with something that is held back is held back with it.
            con.execute("UPDATE edit SET held = 1 WHERE grp = ?", (group,))
        self.catalog.refuse_too_much(con, grown)

    def _write_edit(
        self,
        con: sqlite3.Connection,
        row: Row,
        staged: _Staged,
        base: BaseOf,
        seq: int,
        group: int,
        held: int,
        notes: str,
    ) -> None:
        catalog, draft, announce = self.catalog, staged.draft, staged.announce
        content = draft.content
        if content is not None:
            self._check_here(con, content, announce.key)
        elif draft.kind == "put":
            content = catalog.content.adopt(con, staged.spool or _empty(catalog))
        con.execute(
            _UPSERT_EDIT,
            (
                row.key, seq, norm_of(draft.meta), draft.version, group, draft.partner,
                announce.author, catalog.clock(), notes, held,
                draft.kind, content, draft.sha256, draft.size, draft.meta, *base_columns(base),
            ),
        )  # fmt: skip
        if row.edit is not None and row.edit.content not in (None, content):
            catalog.content.release(con, [str(row.edit.content)])
        if announce.mounted:
            catalog.write_read(con, row.key)

    def _check_here(self, con: sqlite3.Connection, content: str, key: str) -> None:
        """Make sure that bytes which were a clean copy's haven't been evicted meanwhile."""
        named = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
        if con.execute(named, (content,)).fetchone() is None:
            raise ConflictError(
                f"the bytes for {key!r} were dropped here meanwhile; nothing was committed: do it "
                "again",
                key=key,
            )

    @staticmethod
    def pass_on(con: sqlite3.Connection, key: str, partner: str | None) -> None:
        """Let whiteouts that wait for a key wait for another, or for none, inside a commit."""
        con.execute("UPDATE edit SET partner = ? WHERE partner = ?", (partner, key))

    def forget(self, con: sqlite3.Connection, row: Row) -> None:
        """Take an edit away inside a commit; its key is upstream's again."""
        if row.edit is None:
            return
        con.execute("DELETE FROM edit WHERE key = ?", (row.key,))
        if row.edit.content is not None:
            self.catalog.content.release(con, [row.edit.content])

    def _announce(self, transaction: _Transaction) -> None:
        """Make known what was committed; its author has seen it."""
        self.changed()
        for staged in transaction.staged.values():
            announce, draft, over = staged.announce, staged.draft, staged.over
            if announce.mounted and over is not None:
                sha256 = draft.sha256 or (over.sha256 if draft.kind == "meta" else None)
                self.catalog.hand_out_edit(draft.key, draft.kind, draft.meta, sha256, over)
            event = _event(staged, announce)
            if event is not None:
                announce.store.event_manager.emit(event)


def check_group(name: str) -> str:
    """Return the name of a group if it can be one.

    Raises
    ------
    ConfigurationError
        If it is empty, longer than 200 characters, or has control characters.
    """
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise ConfigurationError(
            f"a group's name is 1 to {_LONGEST_NAME} characters that can be printed, without "
            f"blanks around them, not {name[:40]!r}"
        )
    return name


def named_group(con: sqlite3.Connection, name: str, notes: str) -> tuple[int, int]:
    """Return the number of the group of a name, made if there is none, and whether it is held."""
    con.execute("DELETE FROM grp WHERE grp NOT IN (SELECT grp FROM edit)")
    found = con.execute("SELECT grp FROM grp WHERE name = ?", (name,)).fetchone()
    if found is None:
        found = (next_seq(con),)
        con.execute("INSERT INTO grp VALUES (?, ?, ?)", (*found, name, notes))
    held = con.execute("SELECT coalesce(max(held), 0) FROM edit WHERE grp = ?", found).fetchone()
    return found[0], held[0]


def _refuse_repeats(con: sqlite3.Connection, transaction: _Transaction) -> None:
    """Raise AppliedMeanwhileError if a write of a transaction was applied since it began."""
    for staged in transaction.staged.values():
        if staged.op_id is not None and _done(con, staged.op_id):
            raise AppliedMeanwhileError(
                f"{staged.announce.key!r} was written by a repeat of this meanwhile; nothing was "
                "committed: run the transaction again"
            )


def _note_read(transaction: _Transaction, row: Row, *, mounted: bool) -> None:
    token = token_of(row, mounted=mounted)
    before, _ = transaction.read.get(row.key, (token, mounted))
    # What was unknown at the first look may be known by now; an edit is a change all the same.
    if not before.known and before.edit_seq == token.edit_seq:
        before = token
    transaction.read[row.key] = (before, mounted)


def _loses(edit: Edit, draft: Draft) -> bool:
    """Return whether a change takes away what was staged: it isn't the same, and isn't moved."""
    same = (edit.kind, edit.sha256, edit.meta) == (draft.kind, draft.sha256, draft.meta)
    return not same and draft.partner is None


def _event(staged: _Staged, announce: Announce) -> BaseEvent | None:
    draft, before = staged.draft, staged.before
    if draft.kind in ("put", "meta"):
        kind = StoreSetEvent if before is None else StoreUpdateEvent
        return kind(source=announce.store, key=announce.key, metadata=parse(draft.meta))
    if before is not None:
        return StoreDeleteEvent(source=announce.store, key=announce.key, metadata=parse(before))
    return None


def _write(
    announce: Announce,
    base: Base,
    data: tuple[str, int] | None,
    meta: str | None,
    merge: dict[str, Any] | None,
    content: str | None = None,
) -> _Make:
    return lambda row: stage_write(
        row,
        name=announce.key,
        base=base,
        mounted=announce.mounted,
        data=data,
        meta=meta,
        merge=merge,
        content=content,
    )


def _seen_by(row: Row, announce: Announce) -> str | None:
    """Return the metadata of a key as the caller sees it; None if it isn't there."""
    return merged_meta(row if announce.mounted else replace(row, copy=None, entry=None))


def _in_flight(key: str) -> PushInProgressError:
    return PushInProgressError(f"{key!r} is being pushed; wait for the push to end")


def _empty(catalog: Catalog) -> Spool:
    spool = catalog.content.spool()
    spool.finish(False)
    return spool


def _done(con: sqlite3.Connection, op_id: str) -> Pushed | None:
    """Return the answer to a write that was applied before."""
    found = con.execute("SELECT version FROM done WHERE op_id = ?", (op_id,)).fetchone()
    return None if found is None else Pushed(found[0], enforced=True, replayed=True)


def remember(
    con: sqlite3.Connection, op_id: str, key: str, version: str | None, now: float
) -> None:
    """Remember a write that was applied, in its own commit; let the oldest go."""
    (seq,) = con.execute(
        "INSERT INTO done (op_id, key, version, at) VALUES (?, ?, ?, ?) RETURNING seq",
        (op_id, key, version, now),
    ).fetchone()
    con.execute(
        "DELETE FROM done WHERE seq IN (SELECT seq FROM done ORDER BY seq LIMIT 100)"
        " AND (seq <= ? OR at < ?)",
        (seq - _OPS_REMEMBERED, now - _OPS_REMEMBERED_FOR),
    )


def next_seq(con: sqlite3.Connection) -> int:
    """Return the next number of an edit inside a commit."""
    seq: int = get_state(con, "seq") + 1
    set_state(con, "seq", seq)
    return seq


def _result_of(op: Op | None) -> BaseOf:
    """Return what a push in flight makes of its key, as far as that is known."""
    assert op is not None
    return result_base(op.kind, None, op.sha256 or op.base.sha256, op.meta)


def result_base(kind: str, version: str | None, sha256: str | None, meta: str) -> BaseOf:
    """Return the base of an edit that was made over a push, once that was applied."""
    if kind == "del":
        return ABSENT_BASE
    if version is None:
        return BaseOf("digest", None, sha256, meta)
    return BaseOf("version", version, sha256, meta)
