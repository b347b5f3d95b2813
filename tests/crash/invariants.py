"""What is true of every store's directory, whatever happened to it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

from mountcache.local.catalog import Catalog
from mountcache.local.content import RAW
from mountcache.local.diskcontent import DiskContent
from mountcache.local.memory import MemoryStore
from mountcache.local.partial import BLOCK

__all__ = ["check"]

_NAMING = ("edit", "op", "copy", "undo")
_COUNTED = {"edit": "staged_bytes", "copy": "clean_bytes", "undo": "undo_bytes"}

_NONE_OF = {
    "an edit over an op that isn't there": (
        "SELECT key FROM edit WHERE base_op IS NOT NULL AND base_op NOT IN (SELECT op_id FROM op)"
    ),
    "a number of an edit that is yet to be given": (
        "SELECT key FROM edit WHERE seq > (SELECT value FROM state WHERE name = 'seq')"
    ),
    "a whiteout that waits for what isn't staged": (
        "SELECT key FROM edit WHERE partner IS NOT NULL"
        " AND (kind != 'del' OR partner NOT IN (SELECT key FROM edit WHERE kind != 'del'))"
    ),
    "two rows of a key in one generation": (
        "SELECT u.key FROM upstream u, state s WHERE s.name = 'gen' AND u.gen_from <= s.value"
        " AND (u.gen_to IS NULL OR u.gen_to >= s.value) GROUP BY u.key HAVING count(*) > 1"
    ),
    "bytes that no row names": "SELECT key FROM Cache EXCEPT SELECT content FROM ("
    + " UNION ALL ".join(f"SELECT content FROM {table}" for table in _NAMING)
    + ")",
    **{
        f"bytes that only {table} names": (
            f"SELECT content FROM {table} WHERE content IS NOT NULL"
            " AND content NOT IN (SELECT key FROM Cache WHERE raw = 1)"
        )
        for table in _NAMING
    },
}


def check(catalog: Catalog, *, torn_copies: bool = False) -> None:
    """Check a directory that no other process has open, after its gc.

    Parameters
    ----------
    torn_copies
        Clean copies and partials of an earlier boot may be torn: they are checked when read.
    """
    content = catalog.content
    assert isinstance(content, DiskContent)
    con = content.connection()
    assert con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    _check_schema(con)
    for what, sql in _NONE_OF.items():
        assert con.execute(sql).fetchall() == [], what
    for table, name in _COUNTED.items():
        (total,) = con.execute(f"SELECT coalesce(sum(size), 0) FROM {table}").fetchone()
        assert catalog.state(name) == total, name
    _check_bytes(con, content.directory, torn_copies=torn_copies)
    _check_files(con, content, torn_copies=torn_copies)
    if not torn_copies:
        _check_partials(con, content.directory)


def _check_schema(con: sqlite3.Connection) -> None:
    """Check that all tables, indexes and triggers are there as they were made."""
    fresh = MemoryStore().catalog.content.connection()
    sql = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'Cache'"
    found = dict(con.execute(sql).fetchall())
    made = dict(fresh.execute(sql).fetchall())
    assert {name: found.get(name) for name in made} == made
    names = "SELECT name FROM state ORDER BY name"
    assert con.execute(names).fetchall() == fresh.execute(names).fetchall()
    for pragma in ("user_version", "application_id"):
        of = f"PRAGMA {pragma}"
        assert con.execute(of).fetchone() == fresh.execute(of).fetchone()


def _check_bytes(con: sqlite3.Connection, directory: Path, *, torn_copies: bool) -> None:
    """Check the digest of all bytes that a row names."""
    for table in _NAMING:
        if table == "copy" and torn_copies:
            continue
        for key, sha, size, mode, filename, value in con.execute(
            f"SELECT t.key, t.sha, t.size, c.mode, c.filename, c.value FROM {table} t"
            " JOIN Cache c ON c.key = t.content AND c.raw = 1"
        ).fetchall():
            data = value if mode == RAW else (directory / filename).read_bytes()
            assert len(data) == size, (table, key)
            assert hashlib.sha256(data).hexdigest() == sha, (table, key)


def _check_files(con: sqlite3.Connection, content: DiskContent, *, torn_copies: bool) -> None:
    directory = content.directory
    files = {
        path.relative_to(directory).as_posix()
        for path in directory.glob("*/*")
        if path.parent.name != "live"
    }
    named = {name for (name,) in con.execute("SELECT filename FROM Cache").fetchall() if name}
    parts = {f"partial/{name}" for (name,) in con.execute("SELECT name FROM partial").fetchall()}
    nobodys = sorted(files - named - parts)
    alive = os.listdir(directory / "live")
    assert not nobodys, f"files that no row names: {nobodys}, alive: {alive}"
    assert torn_copies or named <= files, "files that aren't there"
    assert os.listdir(directory / "live") == [content.token]
    assert len(os.listdir(directory)) <= 256 + 10


def _check_partials(con: sqlite3.Connection, directory: Path) -> None:
    """Check the sizes of partials; who was killed while adopting one has left a row without it."""
    for name, size in con.execute("SELECT name, size FROM partial").fetchall():
        path = directory / "partial" / name
        assert not path.exists() or path.stat().st_size in (size, size + -(-size // BLOCK)), name
