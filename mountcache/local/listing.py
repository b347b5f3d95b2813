"""A whole index taken into the catalog, as a new generation.

It is loaded in batches, so that a `set` never waits for a million rows, and shown by one
commit that flips the generation. Rows that didn't change aren't written.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import lt
from typing import Any, Literal

from mountcache.capabilities import IndexEntry, IndexReading, IndexWindow
from mountcache.errors import IndexUnreadableError
from mountcache.local import history
from mountcache.local.catalog import Catalog, get_state, set_state
from mountcache.local.rows import VISIBLE, norm_of
from mountcache.local.view import PAGE

__all__ = [
    "ALL_IS_HERE",
    "Change",
    "Known",
    "load",
    "note_index_checked",
    "note_index_outdated",
    "with_known",
]

_logger = logging.getLogger("mountcache")

ALL_IS_HERE = 2
"""What "complete" is once an index had no key outside the mount point."""

_BATCH = 20_000
GONE_KEPT = 10_000
"""How many keys that upstream's index has lost are remembered at least."""
_CHECKPOINT_WHILE_LOADING = 20_000
_LOSS_BELIEVED = 100
_TEMPORARY_KIB = 32 * 1024
RECORDED = 1_000
"""How many changes of one index are recorded key by key."""


_UNSEEN_BY_SQLITE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""Escapes that it doesn't decode, or not as they should be."""

_MEMBERS = "SELECT key, iif(type = 'object', value, json_quote(value)) FROM json_each(?)"

_Known = tuple[str, str | None, str | None]
_ENTRY = "u.key, iif(u.masked, u.mask_entry, u.entry), u.version"
"""A key, what the index said of it, behind any mask, and its version."""

_KNOWN_OF = f"""
SELECT {_ENTRY} FROM json_each(?) j JOIN upstream u ON u.key = j.value AND {{visible}}
"""

_INTO = "INSERT INTO {table} SELECT value FROM json_each(?)"

_ANY_OF = "SELECT 1 FROM json_each(?) j JOIN upstream u ON u.key = j.value AND {visible} LIMIT 1"

_NEW = """
INSERT INTO upstream (key, gen_from, present, meta, norm, entry, version, sha, size, learned, seen)
VALUES (?1, ?7, 1, ?2, ?3, ?2, ?4, ?5, ?6, ?8, ?9)
"""

_LOADED = """
INSERT INTO loaded
SELECT DISTINCT u.key FROM upstream u
WHERE u.key <= :last AND u.key NOT IN (SELECT key FROM lacking)
  AND (u.gen_from = :new AND u.learned = :load OR {visible} AND u.learned < :load)
"""
"""The keys that came in order: they are those that weren't lacking."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key that a new index shows in another way than the one before."""

    action: Literal["set", "update", "delete"]
    key: str
    meta: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a key, as the merged view shows it; all of one moment."""

    staged: bool
    meta: str
    size: int | None
    sha256: str | None
    version: str | None
    """The edit's, else upstream's."""
    modified: float | None


_KNOWN = f"""
SELECT e.key, 1, e.meta, e.size, e.sha, e.version, e.at FROM edit e
WHERE e.kind != 'del' AND e.key BETWEEN :low AND :high
UNION ALL
SELECT u.key, 0, u.meta, coalesce(c.size, u.size), coalesce(c.sha, u.sha),
       coalesce(c.version, u.version), c.modified
FROM upstream u
LEFT JOIN copy c ON c.key = u.key
     AND (c.version = u.version OR c.sha = u.sha OR c.entry = u.entry)
WHERE {VISIBLE.format(gen="(SELECT value FROM state WHERE name = 'gen')")}
  AND u.present AND u.key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM edit x WHERE x.key = u.key)
"""


_CHANGED = """
FROM changed d
JOIN upstream n ON n.key = d.key AND n.gen_from = ?
LEFT JOIN upstream o ON o.key = d.key AND o.gen_to = ?
WHERE NOT coalesce(
    n.present AND o.present
    AND CASE WHEN n.version IS NOT NULL AND o.version IS NOT NULL THEN n.version = o.version
             ELSE o.entry IS NULL AND coalesce(n.norm, n.meta) = coalesce(o.norm, o.meta)
                  AND (n.sha IS NULL OR o.sha IS NULL OR n.sha = o.sha)
        END,
    0)
"""
"""What a load has changed. A key whose index entry is new here, but not the value that it is of,
isn't changed: it was pushed from here, or read, since the index before."""


_Pair = tuple[str, dict[str, Any]]


def with_known(catalog: Catalog, pairs: Iterator[_Pair]) -> Iterator[tuple[_Pair, Known | None]]:
    """Iterate over keys and metadata, by key, and what is known of each, if anything is."""
    while page := list(islice(pairs, PAGE)):
        bounds = {"low": page[0][0], "high": page[-1][0]}
        rows = catalog.content.connection().execute(_KNOWN, bounds).fetchall()
        known = {key: Known(bool(staged), *found) for key, staged, *found in rows}
        for pair in page:
            yield pair, known.get(pair[0])


def note_index_checked(catalog: Catalog) -> None:
    """Note that upstream confirmed the index just now."""
    with catalog.content.write(durable=False) as con:
        set_state(con, "index_checked", catalog.clock())


def note_index_outdated(catalog: Catalog) -> None:
    """Note that upstream showed something else than its index: the next read asks for it again."""
    with catalog.content.write(durable=False) as con:
        set_state(con, "index_checked", None)


def load(
    catalog: Catalog, reading: IndexReading, *, prefix: str = "", announce: bool = True
) -> Iterator[Change]:
    """Take an index in, then iterate over what it changed in the merged view.

    The index is in force before the first change is given out. Changes of keys that an edit
    hides are left out.

    Parameters
    ----------
    catalog
        Where to.
    reading
        The index, closed at the end in any case.
    prefix
        The mount point: other keys are left out, these lose it.
    announce
        False if nobody listens, so that there is no need to find the changes out.

    Raises
    ------
    IndexUnreadableError
        If it breaks half way; the index before stays in force.
    """
    content = catalog.content
    con = content.connection()
    (before,) = con.execute("PRAGMA wal_autocheckpoint").fetchone()
    con.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_WHILE_LOADING}")
    try:
        try:
            loading = _Loading(catalog, con)
            loading.take_in(reading, prefix)
            loading.withhold(reading.withheld, prefix)
            first, believed = loading.finish(reading.validators)
        finally:
            reading.close()
        if believed:
            if announce and not first:
                yield from loading.changes()
            loading.clear()
    finally:
        for table in _TEMPORARY:
            con.execute(f"DROP TABLE IF EXISTS temp.{table}")
        con.execute(f"PRAGMA wal_autocheckpoint = {before}")


class _Loading:
    def __init__(self, catalog: Catalog, con: sqlite3.Connection) -> None:
        self._catalog = catalog
        self._con = con
        self._beyond = False
        self._size = 0
        self._last: str | None = ""
        """The last key, as long as they come in order; None: those that came are in `loaded`."""
        self._changed: list[IndexEntry] = []
        # What is there for a batch alone needn't be written to a file.
        con.execute(f"PRAGMA temp.cache_size = {-_TEMPORARY_KIB}")
        for table, columns in _TEMPORARY.items():
            con.execute(f"DROP TABLE IF EXISTS temp.{table}")
            con.execute(f"CREATE TEMP TABLE {table} ({columns}) WITHOUT ROWID")
        with catalog.content.write(durable=False) as writing:
            self._gen: int = get_state(writing, "gen")
            self._complete: int = get_state(writing, "complete")
            if get_state(writing, "loading"):
                _undo_unfinished(writing, self._gen)
            set_state(writing, "loading", 1)
            # What is learned from now on is later than this index.
            self._load: int = get_state(writing, "loads") + 1
            set_state(writing, "loads", self._load)
        self._visible = VISIBLE.format(gen=self._gen)
        self._anew = con.execute("SELECT 1 FROM upstream LIMIT 1").fetchone() is None

    def take_in(self, reading: IndexReading, prefix: str) -> None:
        """Take in all entries, and note which keys they name."""
        if reading.windows is None:
            while entries := list(islice(reading.entries, _BATCH)):
                self._take(entries, prefix)
        found: list[IndexEntry] = []
        for window in reading.windows or ():
            text = None if self._anew else window.text(self._is_json)
            if text is None:
                found += window.entries()
                if len(found) < _BATCH:
                    continue
            self._take(found, prefix)
            found = []
            if text is not None:
                self._compare(window, text, prefix)
        self._take(found, prefix)
        self._write_changed()

    def _is_json(self, text: str) -> bool:
        found: int = self._con.execute("SELECT json_valid(?)", (text,)).fetchone()[0]
        return found == 1

    def _take(self, entries: Sequence[IndexEntry], prefix: str) -> None:
        """Take in entries that may have changed."""
        ours = self._under(prefix, entries)
        if not ours:
            return
        keys = [key for key, *_ in ours]
        found, all_of_them = self._known(keys)
        known = {key: (entry, version) for key, entry, version in found}
        self._pass(keys, known if all_of_them else None)
        self._write_later(
            each for each in ours if not _is_same(known.get(each[0]), each[1], each[2])
        )

    def _under(self, prefix: str, found: Sequence[Any]) -> Sequence[Any]:
        """Return what is under the mount point, named as in the catalog."""
        skip = len(prefix)
        if not skip:
            return found
        ours = [
            (each[0][skip:], *each[1:])
            for each in found
            if each[0].startswith(prefix) and len(each[0]) > skip
        ]
        self._beyond = self._beyond or len(ours) < len(found)
        return ours

    def _compare(self, window: IndexWindow, text: str, prefix: str) -> None:
        """Take in the text of an object: SQLite reads it, and only what has changed is parsed.

        What is spelled in another way than the catalog does counts as that.
        """
        if _UNSEEN_BY_SQLITE.search(text):
            self._take(window.parsed(text), prefix)
            return
        members = self._under(prefix, self._con.execute(_MEMBERS, (text,)).fetchall())
        if not members:
            return
        keys = [key for key, _ in members]
        found, all_of_them = self._known(keys)
        known = {key: entry for key, entry, _ in found}
        changed = {key: value for key, value in members if known.get(key) != value}
        pairs = (f"{json.dumps(prefix + key)}:{value}" for key, value in changed.items())
        entries = self._under(prefix, window.parsed(f"{{{','.join(pairs)}}}"))
        if len(entries) < len(changed):
            refused = changed.keys() - {key for key, *_ in entries}
            keys = [key for key in keys if key not in refused]
            all_of_them = False  # perhaps of more: the last one may have been refused
        self._pass(keys, known if all_of_them else None)
        self._write_later(entries)

    def _goes_on(self, keys: list[str]) -> bool:
        """Return whether all keys up to these came in order."""
        last = self._last
        return last is not None and all(map(lt, chain((last,), keys), keys)) and keys != []

    def _known(self, keys: list[str]) -> tuple[list[_Known], bool]:
        """Return what is known of keys, and whether that is all that is known up to the last one.

        Keys in order are read as a range, unless there is much in it that they don't name.
        """
        if self._goes_on(keys):
            most = 2 * len(keys) + PAGE
            sql = f"SELECT {_ENTRY} {self._between()} LIMIT ?"
            found = self._con.execute(sql, (self._last, keys[-1], most)).fetchall()
            if len(found) < most:
                return found, True
        sql = _KNOWN_OF.format(visible=self._visible)
        return self._con.execute(sql, (_json(keys),)).fetchall(), False

    def _between(self) -> str:
        return f"FROM upstream u WHERE {self._visible} AND u.key > ? AND u.key <= ?"

    def _pass(self, keys: list[str], known: Iterable[str] | None) -> None:
        """Note which keys the index has, and which of ours it lacks between them.

        Most indexes are in order, and then it takes no list of a million keys to find out.

        Parameters
        ----------
        known
            All keys that are known up to the last one, unless they are too many.
        """
        self._size += len(keys)
        if self._goes_on(keys):
            lacking = (
                f"SELECT u.key {self._between()} AND u.key NOT IN (SELECT value FROM json_each(?))"
            )
            if known is None:
                self._con.execute(
                    f"INSERT INTO lacking {lacking}", (self._last, keys[-1], _json(keys))
                )
            elif left := set(known).difference(keys):
                self._con.execute(_INTO.format(table="lacking"), (_json(list(left)),))
            self._last = keys[-1]
            return
        if self._last is not None and keys:
            self._write_changed()
            self._con.execute(_LOADED.format(visible=self._visible), self._names(last=self._last))
            self._last = None
        try:
            self._con.execute(_INTO.format(table="loaded"), (_json(keys),))
        except sqlite3.IntegrityError:
            raise IndexUnreadableError(
                f"the index names the key {self._twice(keys)!r} twice; the index before stays in "
                "force"
            ) from None

    def _write_later(self, entries: Iterable[IndexEntry]) -> None:
        self._changed += entries
        if len(self._changed) >= _BATCH:
            self._write_changed()

    def _twice(self, keys: list[str]) -> str:
        seen: set[str] = set()
        for key in keys:
            sql = "SELECT 1 FROM loaded WHERE key = ?"
            if key in seen or self._con.execute(sql, (key,)).fetchone():
                return key
            seen.add(key)
        return "?"

    def _names(self, **more: object) -> dict[str, object]:
        return {"new": self._gen + 1, "load": self._load, "complete": self._complete, **more}

    def withhold(self, withheld: Sequence[str], prefix: str) -> None:
        """Note of which keys the index says nothing."""
        known = [
            (each[len(prefix) :] if each.startswith(prefix) else "",)
            for each in withheld
            if each.startswith(prefix) or prefix.startswith(each)
        ]
        self._con.executemany("INSERT OR IGNORE INTO withheld VALUES (?)", known)

    def _check_alone(self, con: sqlite3.Connection) -> None:
        if get_state(con, "gen") != self._gen:
            raise IndexUnreadableError("another index was taken in at the same time")

    def _write_changed(self) -> None:
        """Write the entries that may not be as they were, all in one commit."""
        batch, self._changed = self._changed, []
        if not batch:
            return
        gen = self._gen
        rows = [
            (key, meta, norm_of(meta), version, sha, size)
            for key, meta, version, size, sha in batch
        ]
        keys = (_json([key for key, *_ in batch]),)
        with self._catalog.content.write(durable=False) as con:
            self._check_alone(con)
            if con.execute(_ANY_OF.format(visible=self._visible), keys).fetchone() is None:
                seen = None
                if self._complete:  # else the first index is no change
                    con.execute(_INTO.format(table="changed"), keys)
                    seen = _SEEN_ABSENT
                con.executemany(_NEW, ((*row, gen + 1, self._load, seen) for row in rows))
                return
            con.execute("DELETE FROM incoming")
            con.executemany("INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?)", rows)
            con.execute(
                f"""
                INSERT INTO changed
                SELECT i.key FROM incoming i
                LEFT JOIN upstream u ON u.key = i.key AND {self._visible}
                WHERE u.key IS NULL
                   OR (u.masked AND u.mask_entry IS NOT i.meta)
                   OR (NOT u.masked AND (u.entry IS NOT i.meta
                       OR (i.version IS NOT NULL AND u.version IS NOT i.version)))
                """
            )
            con.execute(
                f"""
                INSERT INTO upstream (key, gen_from, present, meta, norm, entry, version, sha,
                                      size, learned, seen)
                SELECT i.key, :new, 1, i.meta, i.norm, i.meta, i.version, i.sha, i.size, :load,
                       CASE WHEN u.key IS NOT NULL THEN {_SEEN_OF_U}
                            WHEN :complete THEN '{_SEEN_ABSENT}' END
                FROM incoming i
                LEFT JOIN upstream u ON u.key = i.key AND {self._visible}
                WHERE i.key IN (SELECT key FROM changed)
                """,
                self._names(),
            )
            con.execute(
                f"UPDATE upstream AS u SET gen_to = ? WHERE {self._visible} AND u.key IN"
                " (SELECT i.key FROM incoming i WHERE i.key IN (SELECT key FROM changed))",
                (gen,),
            )

    def finish(self, validators: str | None) -> tuple[bool, bool]:
        """Flip the generation; tell whether it is the first one, and whether it is believed."""
        self._hide_vanished()
        size = self._size
        with self._catalog.content.write(durable=False) as con:
            self._check_alone(con)
            before = get_state(con, "index_size") or 0
            lost = before - size
            if lost > _LOSS_BELIEVED and lost * 2 > before and not get_state(con, "index_doubted"):
                _undo_unfinished(con, self._gen)
                set_state(con, "loading", None)
                set_state(con, "index_doubted", 1)
                set_state(con, "index_checked", self._catalog.clock())
                _logger.warning(
                    "the index of upstream went from %d keys to %d; that is believed if the "
                    "next poll says so again",
                    before,
                    size,
                )
                return False, False
            if self._complete:
                self._record_changes(con)
            set_state(con, "gen", self._gen + 1)
            set_state(con, "complete", 1 if self._beyond else ALL_IS_HERE)
            set_state(con, "index_checked", self._catalog.clock())
            set_state(con, "index_validators", validators)
            set_state(con, "index_size", size)
            set_state(con, "index_doubted", None)
            set_state(con, "loading", None)
        return not self._complete, True

    def _record_changes(self, con: sqlite3.Connection) -> None:
        """Record what changed upstream, key by key unless that is too much."""
        now = self._catalog.clock()
        gens = (self._gen + 1, self._gen)
        (many,) = con.execute(f"SELECT count(*) {_CHANGED}", gens).fetchone()
        if many > RECORDED:
            history.record(con, now, "upstream", None, note=f"{many:,} keys")
            return
        for key, present, version, size, was in con.execute(
            f"SELECT n.key, n.present, n.version, n.size, coalesce(o.present, 0) {_CHANGED}"
            " ORDER BY d.key",
            gens,
        ).fetchall():
            if present or was:
                kind = "delete" if not present else "update" if was else "set"
                history.record(con, now, "upstream", key, kind=kind, size=size, version=version)

    def _hide_vanished(self) -> None:
        """Give what the index no longer has a row that says so.

        What was learned since the load began is later than the index; what we pushed stays
        as long as the index says what it said before.
        """
        lacking = "u.key NOT IN (SELECT key FROM loaded)"
        if self._last is not None:
            self._con.execute(
                "INSERT INTO lacking"
                f" SELECT u.key FROM upstream u WHERE {self._visible} AND u.key > ?",
                (self._last,),
            )
            lacking = "u.key IN (SELECT key FROM lacking)"
        after = ""
        while True:
            page = self._con.execute(
                f"""
                SELECT u.key FROM upstream u
                WHERE u.key > ? AND u.gen_to IS NULL AND {self._visible}
                  AND (u.present OR u.masked) AND u.learned < ?
                  AND (NOT u.masked OR u.mask_entry IS NOT NULL)
                  AND {lacking}
                  AND NOT EXISTS (SELECT 1 FROM withheld w
                                  WHERE substr(u.key, 1, length(w.key)) = w.key)
                ORDER BY u.key LIMIT ?
                """,
                (after, self._load, PAGE),
            ).fetchall()
            if not page:
                return
            with self._catalog.content.write(durable=False) as con:
                self._check_alone(con)
                con.executemany("INSERT OR IGNORE INTO changed VALUES (?)", page)
                for key in page:
                    con.execute(
                        f"""
                        INSERT INTO upstream (key, gen_from, present, meta, learned, seen)
                        SELECT u.key, ?, 0, '{{}}', ?, {_SEEN_OF_U} FROM upstream u
                        WHERE u.key = ? AND {self._visible}
                        """,
                        (self._gen + 1, self._load, *key),
                    )
                    con.execute(
                        f"UPDATE upstream AS u SET gen_to = ? WHERE u.key = ? AND {self._visible}",
                        (self._gen, *key),
                    )
            (after,) = page[-1]

    def changes(self) -> Iterator[Change]:
        after = ""
        while True:
            page = self._con.execute(
                f"""
                SELECT n.key, n.present, n.meta, coalesce(o.present, 0), o.meta {_CHANGED}
                  AND d.key > ? AND NOT EXISTS (SELECT 1 FROM edit e WHERE e.key = n.key)
                ORDER BY d.key LIMIT ?
                """,
                (self._gen + 1, self._gen, after, PAGE),
            ).fetchall()
            for key, present, meta, was_present, old_meta in page:
                if present:
                    yield Change("update" if was_present else "set", key, meta)
                elif was_present:
                    yield Change("delete", key, old_meta)
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def clear(self) -> None:
        """Remove the rows that no generation shows any more."""
        while True:
            with self._catalog.content.write(durable=False) as con:
                gone = con.execute(
                    "DELETE FROM upstream WHERE (key, gen_from) IN"
                    " (SELECT key, gen_from FROM upstream WHERE gen_to <= ? LIMIT ?)",
                    (self._gen, _BATCH),
                ).rowcount
            if gone < _BATCH:
                break
        self._forget_gone()

    def _forget_gone(self) -> None:
        """Forget the keys that have been gone for longest, where more are gone than are there.

        Of such a key nobody knows any more that it was there once; it is as one that never was.
        """
        with self._catalog.content.write(durable=False) as con:
            (gone,) = con.execute(
                "SELECT count(*) FROM upstream WHERE NOT present AND gen_to IS NULL"
            ).fetchone()
            too_many = gone - max(GONE_KEPT, get_state(con, "index_size") or 0)
            if too_many > 0:
                con.execute(
                    """
                    DELETE FROM upstream WHERE (key, gen_from) IN (
                        SELECT key, gen_from FROM upstream u
                        WHERE NOT present AND gen_to IS NULL AND NOT masked
                          AND NOT EXISTS (SELECT 1 FROM edit e WHERE e.key = u.key)
                          AND NOT EXISTS (SELECT 1 FROM op o WHERE o.key = u.key)
                          AND NOT EXISTS (SELECT 1 FROM copy c WHERE c.key = u.key)
                        ORDER BY learned LIMIT ?)
                    """,
                    (too_many,),
                )


def _is_same(known: tuple[str | None, str | None] | None, meta: str, version: str | None) -> bool:
    """Return whether an entry says what is known of its key."""
    return known is not None and known[0] == meta and version in (None, known[1])


def _json(keys: list[str]) -> str:
    return json.dumps(keys, ensure_ascii=False)


_TEMPORARY = {
    "loaded": "key TEXT PRIMARY KEY",
    "lacking": "key TEXT PRIMARY KEY",
    "incoming": "key TEXT PRIMARY KEY, meta, norm, version, sha, size",
    "changed": "key TEXT PRIMARY KEY",
    "withheld": "key TEXT PRIMARY KEY",
}

_SEEN_OF_U = """coalesce(u.seen, json_object(
    'absent', json(CASE WHEN u.present THEN 'false' ELSE 'true' END), 'version', u.version,
    'sha256', u.sha, 'meta', u.meta, 'entry', u.entry))"""
_SEEN_ABSENT = '{"absent":true,"version":null,"sha256":null,"meta":null,"entry":null}'


def _undo_unfinished(con: sqlite3.Connection, gen: int) -> None:
    """Take back a load that ended before its flip."""
    con.execute("DELETE FROM upstream WHERE gen_from > ?", (gen,))
    con.execute("UPDATE upstream SET gen_to = NULL WHERE gen_to = ?", (gen,))
