"""The catalog: what is staged here, what is cached here, and what upstream is known to hold.

Reads take no lock. Each change is one commit through `Content.write`. Next door: `staging`
(edits and transactions), `journal` (pushes), `listing` (a whole index at once).
"""

from __future__ import annotations

import hashlib
import io
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mountcache.abc import ABSENT, chunks
from mountcache.errors import DirectoryError, PinnedError, StoreError, StoreFullError
from mountcache.local import history, schema, undo
from mountcache.local.content import AlteredError, Content
from mountcache.local.decide import is_outdated, seen_of_copy, seen_of_entry
from mountcache.local.records import (
    BaseOf,
    Clean,
    Copy,
    Edit,
    EditKind,
    Entry,
    Limits,
    Op,
    Row,
    Seen,
    Taken,
    Why,
)
from mountcache.local.rows import (
    EDIT_ROWS,
    OP_ROWS,
    ROW,
    VISIBLE,
    VISIBLE_NOW,
    edit_from,
    norm_of,
    op_from,
    row_from,
    seen_text,
)
from mountcache.local.view import PAGE

__all__ = [
    "HIT",
    "HIT_INDEXED",
    "Catalog",
    "StagedLimitError",
    "get_state",
    "set_state",
]

_AS_BEFORE = Limits()
_HANDED = 65_536
_AT_A_TIME = 128
"""The part of the limit that goes at once, where copies have to go."""
_UNDO_WITHOUT_LIMIT = 64 * 2**20
_USES_EVERY = 60.0
_LAST_WAIT = 0.5

_logger = logging.getLogger("mountcache")

_MINE = """
SELECT e.kind, iif(e.kind IS NULL, {meta}, e.meta), iif(e.kind IS NULL, c.version, e.version),
       iif(e.kind IS NULL, c.size, e.size), iif(e.kind IS NULL, c.sha, e.sha),
       iif(e.kind IS NULL, c.modified, e.at), c.checked, c.expires,
       b.mode, b.filename, b.value, b.store_time{more}
FROM {start}
LEFT JOIN edit e INDEXED BY {index} ON e.key = ?1
LEFT JOIN copy c ON c.key = ?1
{known}CROSS JOIN Cache b ON b.key = coalesce(e.content, c.content) AND b.raw = 1
WHERE e.kind = 'put' OR e.kind IS NULL AND c.boot = ?2
  AND typeof(c.checked) = 'real' AND typeof(c.expires) IN ('real', 'null') {good}
"""

_HIT_META, _HIT_DATA = 1, 10
"""The columns of `HIT` that hold metadata, and data that lie in the row."""

_KEY = schema.edit_key(schema.FORMAT)

HIT = _MINE.format(index=_KEY, meta="c.meta", more="", start="(SELECT 1) k", known="", good="")
"""What a warm read needs of a key, its bytes included, in one statement: of its staged value if
there is one, of its clean copy otherwise. No row: the read isn't warm."""

HIT_INDEXED = _MINE.format(
    index=_KEY,
    meta="u.meta",
    more=", u.entry, (SELECT value FROM state WHERE name = 'index_checked')",
    start="(SELECT value AS gen FROM state WHERE name = 'gen') s",
    known="LEFT JOIN upstream u ON u.key = ?1 AND u.gen_from <= s.gen"
    " AND (u.gen_to IS NULL OR u.gen_to >= s.gen)\n",
    good="AND u.present AND (c.entry IS u.entry OR c.sha = u.sha)",
)
"""The same where upstream's index is polled: the copy is what the index lists, and has the
metadata that stand there."""

_UPSERT_COPY = """
INSERT INTO copy (key, content, version, sha, size, meta, modified, checked, expires,
                  validators, entry, boot, used, seen)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    content = excluded.content, version = excluded.version, sha = excluded.sha,
    size = excluded.size, meta = excluded.meta, modified = excluded.modified,
    checked = excluded.checked, expires = excluded.expires, validators = excluded.validators,
    entry = excluded.entry, boot = excluded.boot, used = excluded.used, seen = excluded.seen
"""

_UPSERT_ENTRY = """
INSERT INTO upstream (key, gen_from, present, meta, norm, entry, version, sha, size,
                      seen, masked, mask_entry, learned)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT value FROM state WHERE name = 'loads'))
ON CONFLICT (key, gen_from) DO UPDATE SET
    gen_to = NULL, present = excluded.present, meta = excluded.meta, norm = excluded.norm,
    entry = excluded.entry, version = excluded.version, sha = excluded.sha,
    size = excluded.size, learned = excluded.learned, seen = excluded.seen,
    masked = excluded.masked, mask_entry = excluded.mask_entry
"""

_NOTHING = Seen("")

_USE_COPY = """
UPDATE copy SET used = ?1, seen = iif(coalesce(version, 'None') = ?3 AND sha = ?4, NULL, seen)
WHERE key = ?2
"""
"""Notes a use, and that a reader was given this version of it: it ends what was seen before."""

_SEE_COPY = """
UPDATE copy SET seen = NULL WHERE key = ?1 AND seen IS NOT NULL
AND coalesce(version, 'None') = ?2 AND sha = ?3
"""

_SEE_ENTRY = """
UPDATE upstream SET seen = NULL WHERE key = ?1 AND seen IS NOT NULL
AND (version = ?2 OR (version IS NULL AND entry = ?3))
"""


class StagedLimitError(StoreFullError):
    """More would be staged than the store's `staged_limit`."""


class Catalog:
    """The tables of one store.

    Parameters
    ----------
    content
        Where the bytes are, and the database.
    limits
        Bytes that it may take of the disk; incomplete downloads count with the clean copies.
    min_free
        Bytes of the disk that copies leave free.
    clock
        The wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        content: Content,
        *,
        limits: Limits = _AS_BEFORE,
        min_free: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.content = content
        self.clock = clock
        self._min_free = min_free
        self._handed: dict[str, Seen] = {}
        self._uses: set[str] = set()
        self._uses_written = 0.0
        self.pins_to_come: set[str] = set()
        """Keys whose pinned copy turned out to be damaged: the next one is pinned again."""
        self.pins: Callable[[str], bool] | None = None
        """Whether the first copy of a key is pinned."""
        self.keeps: Callable[[str], bool] | None = None
        """Whether what was pushed stays as a copy."""
        self._create()
        self._size_limit = self._limit_in_force("size_limit", limits.size)
        self._staged_limit = self._limit_in_force("staged_limit", limits.staged)
        self._undo_limit = self._limit_in_force("undo_limit", limits.undo)

    def _limit_in_force(self, name: str, asked: int | None) -> int | None:
        """Return a limit of the store; one that is asked for replaces it."""
        found: int | None = self.state(name)
        if asked is None:
            return found
        if asked != found and not self.content.readonly:
            with self.content.write() as con:
                set_state(con, name, asked)
        return asked

    def _create(self) -> None:
        found = self.content.connection().execute("PRAGMA user_version").fetchone()[0]
        if found == schema.FORMAT:
            return
        with self.content.write() as con:
            if not con.execute("PRAGMA user_version").fetchone()[0]:
                schema.create(con)
                set_state(con, "size_limit", self.content.default_limit())

    def close(self) -> None:
        """Write what is only in memory, if that can be done now, and close the database."""
        try:
            if self._uses and not self.content.readonly:
                with self.content.write(_LAST_WAIT, durable=False) as con:
                    self._write_uses(con, self.clock(), now_too=True)
        except StoreError as error:
            _logger.info("what was used last isn't noted: %s", error)
        finally:
            self.content.close()

    # -- looking -------------------------------------------------------------------------

    def row(self, key: str, con: sqlite3.Connection | None = None) -> Row:
        """Return all that is known of a key."""
        if con is None:
            return row_from(self.content.connection().rows(ROW, (key,))[0])
        return row_from(con.execute(ROW, (key,)).fetchone())

    def hit(self, key: str, sql: str) -> tuple[Any, ...] | None:
        """Return the row of `HIT` or `HIT_INDEXED` for a key, None if there is none."""
        content = self.content
        return content.connection().row(sql, key, content.boot, text=_HIT_META, data=_HIT_DATA)

    def state(self, name: str) -> Any:
        """Return a counter or setting."""
        con = self.content.connection()
        return con.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()[0]

    def edits(self) -> Iterator[Edit]:
        """Iterate over the staged edits in the order of their making."""
        after = -1
        while True:
            found = (
                self.content.connection()
                .execute(EDIT_ROWS + " WHERE seq > ? ORDER BY seq LIMIT ?", (after, PAGE))
                .fetchall()
            )
            for columns in found:
                edit = edit_from(columns[0], columns[1:])
                after = edit.seq
                yield edit
            if len(found) < PAGE:
                return

    def copies(self) -> Iterator[str]:
        """Iterate over the keys that have a clean copy and no edit."""
        after = ""
        while True:
            found = (
                self.content.connection()
                .execute(
                    "SELECT key FROM copy WHERE key > ? AND key NOT IN (SELECT key FROM edit)"
                    " ORDER BY key LIMIT ?",
                    (after, PAGE),
                )
                .fetchall()
            )
            for (key,) in found:
                yield key
            if len(found) < PAGE:
                return
            after = found[-1][0]

    def ops(self) -> list[Op]:
        """Return the requests in flight, and those whose answer never came."""
        found = self.content.connection().execute(OP_ROWS + " ORDER BY edit_seq").fetchall()
        return [op_from(columns[0], columns[1:]) for columns in found]

    def group_names(self) -> dict[int, str]:
        """Return the names of the groups that have one, by number."""
        con = self.content.connection()
        return dict(con.execute("SELECT grp, name FROM grp").fetchall())

    def renamed(self) -> dict[str, str]:
        """Return the old names of renamed keys, by their new ones."""
        con = self.content.connection()
        sql = "SELECT partner, key FROM edit WHERE partner IS NOT NULL"
        return dict(con.execute(sql).fetchall())

    def count_upstream(self) -> int:
        """Return how many keys upstream is known to hold."""
        con = self.content.connection()
        sql = f"SELECT count(*) FROM upstream u WHERE {VISIBLE_NOW} AND u.present"
        count: int = con.execute(sql).fetchone()[0]
        return count

    def open_content(self, content: str, sha256: str | None) -> io.BufferedIOBase:
        """Return a stream of bytes that are in the store.

        Parameters
        ----------
        sha256
            What they are: compared if their file was written again since they were stored.

        Raises
        ------
        FileNotFoundError
            If they have gone, or are others now.
        """
        found = (
            self.content.connection()
            .execute(
                "SELECT mode, filename, value, size, store_time FROM Cache"
                " WHERE key = ? AND raw = 1",
                (content,),
            )
            .fetchone()
        )
        if found is None:
            raise FileNotFoundError(content)
        try:
            return self.content.open(found)
        except AlteredError as error:
            stream = self.content.open(found, altered=True)
            digest = hashlib.sha256()
            for chunk in chunks(stream):
                digest.update(chunk)
            if digest.hexdigest() == sha256:
                stream.seek(0)
                return stream
            stream.close()
            raise FileNotFoundError(f"{error}, and isn't what it was") from None

    def file_of(self, content: str) -> Path | None:
        """Return the file of bytes that are in the store; None if they are in its database.

        FileNotFoundError if they have gone.
        """
        con = self.content.connection()
        found = con.execute(
            "SELECT filename FROM Cache WHERE key = ? AND raw = 1", (content,)
        ).fetchone()
        if found is None:
            raise FileNotFoundError(content)
        return None if found[0] is None else self.content.path(found[0])

    def wrong_with(self, content: str, sha256: str | None, size: int | None) -> str:
        """Read bytes that are in the store and compare them; return what is wrong, "" if nothing.

        Parameters
        ----------
        sha256, size
            What they are.
        """
        try:
            with self.open_content(content, sha256) as stream:
                digest, found = hashlib.sha256(), 0
                for chunk in chunks(stream):
                    digest.update(chunk)
                    found += len(chunk)
        except FileNotFoundError as error:
            return "is gone" if error.args == (content,) or error.errno else f"is lost: {error}"
        except (DirectoryError, OSError) as error:
            return f"can't be read: {error}"
        if size is not None and found != size:
            return f"has {found:,} bytes, not its {size:,}"
        return "" if digest.hexdigest() == sha256 else "isn't what it was: its digest is another"

    def open_copy(self, copy: Copy) -> io.BufferedIOBase:
        """Return a stream of a clean copy; FileNotFoundError if its bytes have gone."""
        return self.open_content(copy.content, copy.sha256)

    # -- what was handed out -------------------------------------------------------------

    def hand_out(self, key: str, seen: Seen) -> None:
        """Note in memory what a reader was given, as the base of a later edit."""
        handed = self._handed
        if len(handed) >= _HANDED and key not in handed:
            # Dicts keep their order: this is the one handed out first. Where another thread
            # comes in between, that one makes the room.
            with suppress(RuntimeError):
                handed.pop(next(iter(handed)), None)
        handed[key] = seen

    def hand_out_edit(
        self, key: str, kind: EditKind, meta: str, sha256: str | None, over: BaseOf | None
    ) -> None:
        """Note in memory a staged edit that was made or read, as the base of one to come.

        That is when this one has been pushed, by whatever process; an edit over an edit keeps
        its base. `over`, the base of it, is what counts if it was given up.
        """
        seen = Seen(ABSENT if kind == "del" else None, sha256, meta, None, over)
        before = self._handed.get(key)
        if before is None or before[:4] != seen[:4]:
            self.hand_out(key, seen)

    def handed(self, key: str) -> Seen | None:
        """Return what was handed out last for a key in this process."""
        return self._handed.get(key)

    def has_handed(self, key: str) -> bool:
        """Return whether a reader was told in this process what upstream has under a key."""
        seen = self._handed.get(key)
        return seen is not None and seen.edit_over is None

    def hand_out_entry(self, entry: Entry) -> None:
        """Note that a reader was given what the index says of a key."""
        self.hand_out(entry.key, seen_of_entry(entry))
        if entry.seen is not None:
            self.use(entry.key)

    def write_read(self, con: sqlite3.Connection, key: str) -> None:
        """Write inside a commit what the author of an edit was given last, if anything was.

        What came unasked and wasn't read stays unseen: also for an edit after a revert.
        """
        seen = self._handed.get(key)
        if seen is not None:
            con.execute(_SEE_COPY, (key, str(seen.version), seen.sha256))
            con.execute(_SEE_ENTRY, (key, str(seen.version), seen.entry))

    def forget_handed(self, key: str) -> None:
        """Forget what was handed out: a newer state of the key is the author's own."""
        self._handed.pop(key, None)

    def forget_all_handed(self) -> None:
        """Forget all that was handed out: it was another upstream's."""
        self._handed.clear()

    def use(self, key: str) -> None:
        """Count a use of a copy, or a read that ends a `seen`; written with a later commit."""
        self._uses.add(key)

    # -- copies and entries --------------------------------------------------------------

    def keep(self, cleans: Sequence[Clean], *, asked: bool = True) -> None:
        """Keep verified downloads as clean copies, all in one commit.

        One is left out if more is known by now than when it was asked for: a push of ours, or
        another's download, has overtaken it.

        Parameters
        ----------
        cleans
            The downloads.
        asked
            False if nobody asked for these values themselves (prefetch, pull): what they
            replace stays as `seen`, so that an edit based on it is a conflict.
        """
        now = self.clock()
        content = self.content
        with content.write(durable=False) as con:
            gen = get_state(con, "gen")
            used = self._write_uses(con, now)
            for clean in cleans:
                row = self.row(clean.key, con)
                if clean.over is not None and is_outdated(clean, clean.over, row):
                    continue
                new = self._adopt(con, clean)
                # Adopted by rename: nothing is left of it to go on with.
                con.execute("DELETE FROM partial WHERE name = ?", (_name_of(clean),))
                self.write_copy(con, row, clean, new, now, used, asked=asked)
                known = row.entry
                self._record_change(con, row, clean)
                if known is not None and known.entry is not None and known.entry != clean.entry:
                    continue  # the index has moved on since these bytes were asked for
                entry = known.entry if known is not None else None
                self.write_entry(
                    con, gen, row, meta=clean.meta, entry=entry, version=clean.version,
                    sha256=clean.sha256, size=clean.size, asked=asked,
                )  # fmt: skip
            # Others may have been given the same room.
            self._let_go(con, self._over_limit(con))
        self.pins_to_come.difference_update(clean.key for clean in cleans)

    def _record_change(self, con: sqlite3.Connection, row: Row, clean: Clean) -> None:
        """Record that upstream has another value than before, unless its index said so."""
        old, known = row.copy, row.entry
        if old is None or (known is not None and known.entry not in (None, old.entry)):
            return
        if (old.sha256, old.meta) != (clean.sha256, clean.meta):
            history.record(
                con, self.clock(), "upstream", clean.key, kind="update", size=clean.size,
                version=clean.version,
            )  # fmt: skip

    def _adopt(self, con: sqlite3.Connection, clean: Clean) -> str:
        match clean.body:
            case Path() as path:
                return self.content.adopt_file(con, path, clean.size)
            case None:
                raise ValueError("a download to be kept has a body")
            case spool:
                return self.content.adopt(con, spool)

    def write_copy(
        self,
        con: sqlite3.Connection,
        row: Row,
        clean: Clean,
        content: str,
        now: float,
        used: int,
        *,
        asked: bool,
    ) -> None:
        """Write the row of a clean copy inside a commit, and let go of the one before."""
        old = row.copy
        seen = None
        if old is not None and not asked:
            same = old.sha256 == clean.sha256 and old.meta == clean.meta
            seen = old.seen if same else old.seen or seen_of_copy(old)
        expires = expires_after(now, clean.lifetime)
        con.execute(
            _UPSERT_COPY,
            (
                clean.key, content, clean.version, clean.sha256, clean.size, clean.meta,
                clean.modified, now, expires, clean.validators, clean.entry, self.content.boot,
                used, None if seen is None else seen_text(seen),
            ),
        )  # fmt: skip
        if clean.key in self.pins_to_come or (
            old is None and self.pins is not None and self.pins(clean.key)
        ):
            con.execute("UPDATE copy SET pinned = 1 WHERE key = ?", (clean.key,))
        if old is not None and old.content != content:
            self.content.release(con, [old.content])

    def write_entry(
        self,
        con: sqlite3.Connection,
        gen: int,
        row: Row,
        *,
        meta: str | None,
        entry: str | None = None,
        version: str | None = None,
        sha256: str | None = None,
        size: int | None = None,
        asked: bool,
        mask_entry: str | None = None,
        masked: bool = False,
    ) -> None:
        """Write what upstream holds for a key inside a commit.

        Parameters
        ----------
        meta
            Its metadata; None: the key is absent.
        asked
            Whether somebody asked for it; if not, what it replaces stays as `seen`.
        masked
            It is a push of ours: it stays until the index says something else than
            `mask_entry`.
        """
        old = row.entry
        seen = None
        if old is not None and old.masked and not masked:
            # What upstream shows is later than an index that doesn't even know of our push.
            masked, mask_entry = True, self.index_entry(con, row)
        if old is not None and not asked:
            same = old.present == (meta is not None) and (old.version, old.meta) == (version, meta)
            seen = old.seen if same else old.seen or seen_of_entry(old)
        if meta is None:
            # The next read of the copy asks: a warm one looks at no entry.
            con.execute("UPDATE copy SET expires = 0 WHERE key = ?", (row.key,))
        # A load of an index that is under way may have its own row for the generation to
        # come: what we know now is later than that.
        con.execute("DELETE FROM upstream WHERE key = ? AND gen_from > ?", (row.key, gen))
        text = "{}" if meta is None else meta
        con.execute(
            _UPSERT_ENTRY,
            (
                row.key, gen if old is None else self._gen_from(con, row.key, gen),
                int(meta is not None), text, norm_of(text), entry, version, sha256, size,
                None if seen is None else seen_text(seen), int(masked), mask_entry,
            ),
        )  # fmt: skip

    @staticmethod
    def index_entry(con: sqlite3.Connection, row: Row) -> str | None:
        """Return what the index polled last says of a key, behind any mask."""
        entry = row.entry
        if entry is None or not entry.masked:
            return None if entry is None else entry.entry
        found = con.execute(
            "SELECT mask_entry FROM upstream WHERE key = ? AND masked ORDER BY gen_from DESC",
            (row.key,),
        ).fetchone()
        text: str | None = found[0]
        return text

    def _gen_from(self, con: sqlite3.Connection, key: str, gen: int) -> int:
        found: int = con.execute(
            f"SELECT u.gen_from FROM upstream u WHERE u.key = ? AND {VISIBLE.format(gen=gen)}",
            (key,),
        ).fetchone()[0]
        return found

    def note_entry(
        self,
        key: str,
        *,
        meta: str | None,
        version: str | None = None,
        sha256: str | None = None,
        size: int | None = None,
        asked: bool = True,
    ) -> None:
        """Write what an answer of upstream told of a key without its bytes; None: absent."""
        known = self.row(key)
        entry = known.entry
        if entry is None and meta is None and known.copy is None:
            # Absence is remembered in memory alone: names that don't exist are without end.
            self.hand_out(key, Seen(ABSENT))
            return
        if entry is not None and (
            (entry.present, entry.version, entry.meta, entry.seen)
            == (meta is not None, version, meta if meta is not None else "{}", None)
        ):
            return
        with self.content.write(durable=False) as con:
            row = self.row(key, con)
            if meta is None and row.entry is not None and row.entry.present:
                history.record(con, self.clock(), "upstream", key, kind="delete")
            self.write_entry(
                con, get_state(con, "gen"), row, meta=meta, version=version, sha256=sha256,
                size=size, asked=asked,
                entry=row.entry.entry if row.entry is not None and meta is not None else None,
            )  # fmt: skip

    def note_checked(
        self, copy: Copy, *, lifetime: float | None, validators: str, version: str | None,
        entry: str | None, meta: str,
    ) -> None:  # fmt: skip
        """Note that upstream confirmed a copy just now, under this entry of the index."""
        now = self.clock()
        with self.content.write(durable=False) as con:
            self._write_uses(con, now)
            con.execute(
                "UPDATE copy SET checked = ?, expires = ?, validators = ?, version = ?,"
                " entry = ?, meta = ? WHERE key = ? AND content = ? AND version IS ? AND meta = ?",
                (now, expires_after(now, lifetime), validators, version,
                 entry, meta, copy.key, copy.content, copy.version, copy.meta),
            )  # fmt: skip

    def is_sound(self, copy: Copy) -> bool:
        """Whether the bytes of a copy are here and, after a restart, whole.

        Clean bytes aren't synced: a copy of an earlier boot is compared with its digest, once.
        """
        try:
            stream = self.open_copy(copy)
        except FileNotFoundError:
            return False
        with stream:
            if copy.boot == self.content.boot:
                return True
            found = hashlib.sha256()
            for chunk in chunks(stream):
                found.update(chunk)
        if found.hexdigest() != copy.sha256:
            return False
        if not self.content.readonly:
            self.note_sound(copy)
        return True

    def note_sound(self, *copies: Copy) -> None:
        """Note that copies of an earlier boot were checked and are whole."""
        with self.content.write(durable=False) as con:
            con.executemany(
                "UPDATE copy SET boot = ? WHERE key = ? AND content = ?",
                [(self.content.boot, each.key, each.content) for each in copies],
            )

    def drop_copy(self, key: str, *, content: str | None = None) -> bool:
        """Forget the clean copy of a key; tell if there was one.

        Parameters
        ----------
        content
            Only the one with these bytes, since they are damaged. If it is pinned, so is what
            this process fetches in its place.

        Raises
        ------
        PinnedError
            If it is pinned, and nothing is wrong with it.
        """
        with self.content.write(durable=False) as con:
            copy = self.row(key, con).copy
            if copy is None or content not in (None, copy.content):
                return False
            if con.execute("SELECT pinned FROM copy WHERE key = ?", (key,)).fetchone()[0]:
                if content is None:
                    raise PinnedError(f"{key!r} is pinned; unpin it first")
                self.pins_to_come.add(key)
            con.execute("DELETE FROM copy WHERE key = ?", (key,))
            self.content.release(con, [copy.content])
            return True

    # -- room ----------------------------------------------------------------------------

    def room_for(self, size: int) -> bool:
        """Make room for a copy of `size` bytes; False if there can be none.

        What was kept for undo goes first, then clean copies, least recently used first; never a
        pinned one or one that a staged edit is based on.
        """
        limit = self._size_limit
        if self.content.readonly or (limit is not None and size > limit):
            return False
        while (short := self._shortage(size)) > 0:
            if not self._evict(short):
                return False
        return True

    def available(self) -> int | None:
        """Return how many bytes of copies could be kept if all evictable ones went."""
        con = self.content.connection()
        stays, clean, undone = con.execute(
            "SELECT (SELECT coalesce(sum(size), 0) FROM copy WHERE pinned)"
            " + (SELECT coalesce(sum(c.size), 0) FROM edit e CROSS JOIN copy c ON c.key = e.key"
            " WHERE NOT c.pinned),"
            " (SELECT value FROM state WHERE name = 'clean_bytes'),"
            " (SELECT value FROM state WHERE name = 'undo_bytes')"
        ).fetchone()
        free: int = self.content.free_bytes() - self._min_free + clean - stays + undone
        return free if self._size_limit is None else min(free, self._size_limit - stays)

    @property
    def limits(self) -> Limits:
        """The limits in force; None where there is none."""
        return Limits(self._size_limit, self._staged_limit, self._undo_room())

    def _undo_room(self) -> int:
        if self._undo_limit is not None:
            return self._undo_limit
        return _UNDO_WITHOUT_LIMIT if self._size_limit is None else self._size_limit // 4

    def _shortage(self, size: int) -> int:
        short = size + self._min_free - self.content.free_bytes()
        return max(short, size + self._over_limit(self.content.connection()))

    def _over_limit(self, con: sqlite3.Connection) -> int:
        """Return how many bytes there are above the limit; less than 0 if there is room."""
        if self._size_limit is None:
            return -(2**62)
        taken: int = con.execute(
            "SELECT (SELECT sum(value) FROM state WHERE name IN ('clean_bytes', 'undo_bytes'))"
            " + (SELECT coalesce(sum(size), 0) FROM partial)"
        ).fetchone()[0]
        return taken - self._size_limit

    def _evict(self, amount: int) -> bool:
        """Let go of about `amount` bytes; tell if there was anything to go."""
        with self.content.write(durable=False) as con:
            self._write_uses(con, self.clock(), now_too=True)
            return self._let_go(con, amount)

    def _let_go(self, con: sqlite3.Connection, amount: int) -> bool:
        undone = undo.drop(con, self.content, amount, self.clock())
        amount -= undone
        gone: list[tuple[str, str]] = []
        if amount > 0:
            # A little more than is short: else each value that comes has to make room first.
            amount = max(amount, (self._size_limit or 0) // _AT_A_TIME)
            for key, content, size in con.execute(
                "SELECT key, content, size FROM copy WHERE NOT pinned"
                " AND key NOT IN (SELECT key FROM edit) ORDER BY used"
            ):
                gone.append((key, content))
                amount -= size
                if amount <= 0:
                    break
        con.executemany("DELETE FROM copy WHERE key = ?", [(key,) for key, _ in gone])
        self.content.release(con, [content for _, content in gone])
        return bool(gone) or undone > 0

    def take_away(self, con: sqlite3.Connection, edit: Edit, why: Why) -> None:
        """Keep an edit for undo inside the commit that takes it away."""
        undo.keep(con, self.content, edit, why, self.clock(), self._undo_room())

    def keep_for_undo(self, con: sqlite3.Connection, taken: Taken) -> None:
        """Keep something else for undo, inside the commit that takes it away."""
        undo.keep_taken(con, self.content, taken, self._undo_room())

    def staged_room(self, key: str) -> int | None:
        """Return how many bytes may be staged for a key; None without a limit."""
        if self._staged_limit is None:
            return None
        edit, staged = self.row(key).edit, self.state("staged_bytes")
        room: int = self._staged_limit - staged + ((edit.size or 0) if edit is not None else 0)
        return room

    def refuse_too_much(self, con: sqlite3.Connection, grown: int) -> None:
        """Raise StoreFullError inside a commit that stages more than may be.

        Parameters
        ----------
        grown
            By how many bytes it does.
        """
        if grown <= 0 or self._staged_limit is None:
            return
        staged: int = get_state(con, "staged_bytes")
        if staged > self._staged_limit:
            raise self.too_much_staged(staged - grown)

    def too_much_staged(self, staged: int) -> StagedLimitError:
        """Return the error of who stages more than may be beside what is staged."""
        return StagedLimitError(
            f"that is more than the {self._staged_limit:,} bytes that may be staged here, of which "
            f"{staged:,} are; nothing of it was staged: push or revert what is, or set a larger "
            "staged_limit"
        )

    def empty_undo(self) -> bool:
        """Let go of all that was kept for undo, since space is short; tell if that was any."""
        with self.content.write() as con:
            return undo.drop(con, self.content, 2**62, self.clock()) > 0

    def write_uses(self, con: sqlite3.Connection) -> None:
        """Write the uses noted in memory inside a commit that goes by them."""
        self._write_uses(con, self.clock(), now_too=True)

    def _write_uses(self, con: sqlite3.Connection, now: float, *, now_too: bool = False) -> int:
        """Write the uses noted in memory, at most once a minute; return the count of uses."""
        used: int = get_state(con, "used") + 1
        set_state(con, "used", used)
        if now_too or not 0 <= now - self._uses_written < _USES_EVERY:
            self._uses_written = now
            uses, self._uses = self._uses, set()
            # Copied in one step: other threads may still be at the set.
            read = [(used, key, self._handed.get(key, _NOTHING)) for key in tuple(uses)]
            con.executemany(_USE_COPY, [(n, k, str(s.version), s.sha256) for n, k, s in read])
            con.executemany(_SEE_ENTRY, [(k, str(s.version), s.entry) for _, k, s in read])
        return used


def _name_of(clean: Clean) -> str | None:
    """Return the name of the partial that a download came in, if it was one."""
    return clean.body.name if isinstance(clean.body, Path) else None


def expires_after(now: float, lifetime: float | None) -> float | None:
    """Return until when a copy is fresh; one of no lifetime at all is asked after in any case."""
    return now + lifetime if lifetime else lifetime


def get_state(con: sqlite3.Connection, name: str) -> Any:
    """Return a counter or setting inside a commit."""
    return con.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()[0]


def set_state(con: sqlite3.Connection, name: str, value: object) -> None:
    """Write a counter or setting inside a commit."""
    con.execute("UPDATE state SET value = ? WHERE name = ?", (value, name))
