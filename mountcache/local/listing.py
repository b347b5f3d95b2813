"""A whole index taken into the catalog, as a new generation.

It is loaded in batches, so that a `set` never waits for a million rows, and shown by one
commit that flips the generation. Rows that didn't change aren't written.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from mountcache.abc import IndexReading
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


_Incoming = tuple[str, str, str | None, int | None, str | None]


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

    def take_in(self, reading: IndexReading, prefix: str) -> None:
        entries = self._under(prefix, reading)
        while batch := list(islice(entries, _BATCH)):
            self._take_batch(batch)

    def withhold(self, withheld: Sequence[str], prefix: str) -> None:
        """Note of which keys the index says nothing."""
        known = [
            (each[len(prefix) :] if each.startswith(prefix) else "",)
            for each in withheld
            if each.startswith(prefix) or prefix.startswith(each)
        ]
        self._con.executemany("INSERT OR IGNORE INTO withheld VALUES (?)", known)

    def _under(self, prefix: str, reading: IndexReading) -> Iterator[_Incoming]:
        skip = len(prefix)
        for key, meta, version, size, sha in reading.entries:
            if key.startswith(prefix) and len(key) > skip:
                yield key[skip:], meta, version, size, sha
            else:
                self._beyond = True

    def _take_batch(self, batch: list[_Incoming]) -> None:
        gen = self._gen
        with self._catalog.content.write(durable=False) as con:
            if get_state(con, "gen") != gen:
                raise IndexUnreadableError("another index was taken in at the same time")
            con.execute("DELETE FROM incoming")
            try:
                con.executemany("INSERT INTO incoming VALUES (?, ?, ?, ?, ?, NULL)", batch)
                con.execute("INSERT INTO loaded SELECT key FROM incoming")
            except sqlite3.IntegrityError:
                raise IndexUnreadableError(
                    f"the index names the key {_twice(con, batch)!r} twice; the index before "
                    "stays in force"
                ) from None
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
            changed = con.execute(
                "SELECT i.key, i.meta FROM incoming i WHERE i.key IN (SELECT key FROM changed)"
            ).fetchall()
            norms = ((norm_of(meta), key) for key, meta in changed)
            con.executemany(
                "UPDATE incoming SET norm = ? WHERE key = ?",
                (pair for pair in norms if pair[0] is not None),
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
                {"new": gen + 1, "load": self._load, "complete": self._complete},
            )
            con.execute(
                f"UPDATE upstream AS u SET gen_to = ? WHERE {self._visible} AND u.key IN"
                " (SELECT i.key FROM incoming i WHERE i.key IN (SELECT key FROM changed))",
                (gen,),
            )

    def finish(self, validators: str | None) -> tuple[bool, bool]:
        """Flip the generation; tell whether it is the first one, and whether it is believed."""
        self._hide_vanished()
        (size,) = self._con.execute("SELECT count(*) FROM loaded").fetchone()
        with self._catalog.content.write(durable=False) as con:
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
        after = ""
        while True:
            page = self._con.execute(
                f"""
                SELECT u.key FROM upstream u
                WHERE u.key > ? AND u.gen_to IS NULL AND {self._visible}
                  AND (u.present OR u.masked) AND u.learned < ?
                  AND (NOT u.masked OR u.mask_entry IS NOT NULL)
                  AND u.key NOT IN (SELECT key FROM loaded)
                  AND NOT EXISTS (SELECT 1 FROM withheld w
                                  WHERE substr(u.key, 1, length(w.key)) = w.key)
                ORDER BY u.key LIMIT ?
                """,
                (after, self._load, PAGE),
            ).fetchall()
            if not page:
                return
            with self._catalog.content.write(durable=False) as con:
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


_TEMPORARY = {
    "loaded": "key TEXT PRIMARY KEY",
    "incoming": "key TEXT PRIMARY KEY, meta, version, size, sha, norm",
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


def _twice(con: sqlite3.Connection, batch: list[_Incoming]) -> str:
    seen: set[str] = set()
    for key, *_ in batch:
        if key in seen or con.execute("SELECT 1 FROM loaded WHERE key = ?", (key,)).fetchone():
            return key
        seen.add(key)
    return "?"
