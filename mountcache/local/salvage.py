"""A damaged database made anew from what can be read of it.

1. The database is copied into ``damaged-<UTC>/``, where it stays.
2. A new store is made in ``mending/``, and gets each row that can be read there.
3. That is named ``mended/``: from here on it is only put in its place.
4. What belongs to the old database goes, the new one takes its name, ``mended/`` goes.

So whoever is killed in it leaves the old one, or a copy of it and the new one whole.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mountcache.local import directory as places
from mountcache.local import schema
from mountcache.local.cache import DATABASE, filename_of, likely_filename
from mountcache.local.catalog import Catalog
from mountcache.local.content import RAW
from mountcache.local.diskcontent import DiskContent
from mountcache.local.planted import value_opener
from mountcache.local.rights import create, is_shared, make_folder

__all__ = ["LOST", "Lost", "Salvaged", "rebuild", "unfinished"]

LOST: Final = "lost+found"
"""Where what nobody can place goes, in the directory of a store."""

_MENDING, _MENDED, _DAMAGED = "mending", "mended", "damaged-"
_PIECE: Final = 1048576
_STEP: Final = 256
_LAST: Final = 2**62
_FAILURES: Final = 20_000
"""How many readings of a table may fail: a damaged root would fail at each of 2^62 numbers."""

_WITHOUT_NUMBERS: Final = ("state", "upstream")
"""Tables WITHOUT ROWID."""

_README: Final = """\
What a repair of this store found and couldn't place. Each folder holds the bytes ("data", or a
file with the last part of the key's name) and, in metadata.json, what is known of them. In
"nameless" are bytes of which nothing is known: staged values whose row is lost, and copies.
Nothing here is used or removed by mountcache: take what is yours, for example with
`mountcache put KEY FILE`, and delete the rest.
"""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What became of the rows of a table."""

    what: str
    where: str


class Lost:
    """A folder for finds, in ``lost+found/``; made when there is one."""

    def __init__(self, path: Path) -> None:
        self._store = path
        self._folder: Path | None = None
        self._count = 0
        self.kept: set[str] = set()
        """The ids of the bytes that are kept with a row."""

    @property
    def folder(self) -> Path:
        """The folder of this repair."""
        if self._folder is None:
            make_folder(self._store / LOST)
            self._folder = self._store / LOST / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            make_folder(self._folder)
            if not (self._folder / "README.txt").exists():
                _write(self._folder / "README.txt", [_README.encode()])
        return self._folder

    def keep(self, content: str, data: bytes | Path) -> None:
        """Keep bytes of which nothing but their id is known."""
        room = self.folder / "nameless"
        make_folder(room)
        self._place(room / content, data)
        self._count += 1

    def keep_row(self, row: dict[str, Any], data: bytes | Path | None) -> None:
        """Keep a row that has no place, and its bytes."""
        key = str(row.get("key", ""))
        room = self.folder / f"{self._count:04d}"
        self._count += 1
        make_folder(room)
        if data is not None:
            self.kept.add(str(row["content"]))
            name = quote(key.rpartition("/")[2], safe=" ")[:200]
            self._place(
                room / (name if name not in ("", ".", "..", "metadata.json") else "data"), data
            )
        told = {name: value for name, value in row.items() if not isinstance(value, bytes)}
        with suppress(ValueError, TypeError):
            told["meta"] = json.loads(told["meta"])
        text = json.dumps(told, indent=2, ensure_ascii=False)
        _write(room / "metadata.json", [text.encode("utf-8", errors="backslashreplace")])

    def _place(self, there: Path, data: bytes | Path) -> None:
        if there.exists():
            return  # of a repair that was killed
        if isinstance(data, bytes):
            _write(there, [data])
            return
        with open(data, "rb", opener=value_opener) as source:
            _write(there, iter(lambda: source.read(_PIECE), b""))

    def close(self) -> None:
        """Make it durable."""
        if self._folder is not None:
            for room in (*self._folder.glob("*/"), self._folder, self._store / LOST, self._store):
                places.sync(room)


def _write(path: Path, data: Iterable[bytes]) -> None:
    with open(create(path), "wb") as out:
        out.writelines(data)
        out.flush()
        os.fsync(out.fileno())


def unfinished(path: Path) -> bool:
    """Return whether a repair of a store was begun and not finished."""
    return any((path / name).exists() for name in (_MENDING, _MENDED))


def rebuild(path: Path) -> list[Salvaged]:
    """Make the database of a directory anew; see the module. Nobody else may have it open."""
    told: list[Salvaged] = []
    if not (path / _MENDED).exists():
        damaged = _set_aside(path)
        shutil.rmtree(path / _MENDING, ignore_errors=True)
        told = _make_anew(path, damaged)
        os.rename(path / _MENDING, path / _MENDED)
        places.sync(path)
    if (path / _MENDED / DATABASE).exists():
        for end in ("-wal", "-shm", "-journal"):
            (path / f"{DATABASE}{end}").unlink(missing_ok=True)
        places.sync(path)
        os.rename(path / _MENDED / DATABASE, path / DATABASE)
        places.sync(path)
    shutil.rmtree(path / _MENDED)
    return told


def _set_aside(path: Path) -> Path | None:
    """Copy the database to where it stays; return the folder, None if there is no database."""
    if (path / _MENDING).exists():
        kept = sorted(each for each in path.glob(f"{_DAMAGED}*") if not each.name.endswith("~"))
        return kept[-1] if kept else None
    if not (path / DATABASE).exists():
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    damaged = next(
        each
        for number in range(1000)
        if not (each := path / f"{_DAMAGED}{stamp}{f'.{number}' if number else ''}").exists()
    )
    aside = damaged.with_name(f"{damaged.name}~")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    for end in ("", "-wal"):
        source = path / f"{DATABASE}{end}"
        if source.exists() and not source.is_symlink():
            with source.open("rb") as old:
                _write(aside / source.name, iter(lambda: old.read(_PIECE), b""))
    places.sync(aside)
    os.rename(aside, damaged)
    places.sync(path)
    return damaged


def _make_anew(path: Path, damaged: Path | None) -> list[Salvaged]:
    """Make a store in ``mending/`` of what can be read of a database."""
    make_folder(path / _MENDING)
    lost = Lost(path)
    told: Counter[tuple[str, bool]] = Counter()
    content = DiskContent(path / _MENDING, shared="group" if is_shared(path) else None)
    catalog = Catalog(content)
    try:
        with content.write() as con:
            if damaged is not None:
                # SQLite reads its log in, and so writes: to a copy of the copy.
                work = path / _MENDING / "tmp" / "damaged"
                shutil.copytree(damaged, work)
                try:
                    _pour(path, work / DATABASE, con, lost, told)
                finally:
                    shutil.rmtree(work)
            _adopt_files(path, con, lost)
    finally:
        catalog.close()
    lost.close()
    return [
        Salvaged(f"table {table}: {count:,} rows couldn't be placed", f"they are in {LOST}/")
        if astray
        else Salvaged(f"table {table}: {count:,} rows were read", "they are in the new database")
        for (table, astray), count in sorted(told.items())
    ]


_TABLES: Final = (
    "Cache", "edit", "op", "undo", "copy", "upstream", "done", "grp", "log",
    "permission", "state",
)  # fmt: skip
"""In this order, so that bytes are there before who names them. Not ``partial``, which is fetched
again, nor the place of the directory."""

_SINCE: Final = {
    "edit": {"held": 2, "tried": 2}, "grp": {"grp": 2}, "log": {"seq": 2}, "permission": {"key": 3},
}  # fmt: skip
"""Which columns came with which format: one that the database lacks isn't asked for."""


def _pour(
    path: Path,
    database: Path,
    con: sqlite3.Connection,
    lost: Lost,
    told: Counter[tuple[str, bool]],
) -> None:
    """Insert each row that can be read of a damaged database of `path` into a new one."""
    uri = f"file:{quote(os.fsencode(database))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as old:
        with suppress(sqlite3.DatabaseError):
            old.execute("PRAGMA trusted_schema = OFF")
            old.execute("PRAGMA wal_checkpoint")
        version = _format_of(old)
        for table in _TABLES:
            names = [row[1] for row in con.execute(f"PRAGMA table_info({table})")]
            since = _SINCE.get(table, {})
            if any(since.get(name, 1) > version for name in names[:1]):
                continue
            names = [name for name in names if name != "rowid" and since.get(name, 1) <= version]
            if table == "state":
                _pour_state(old, con)
                continue
            bytes_of = _bytes_in(con, path)
            for row in _rows(old, table, names):
                record = dict(zip(names, row, strict=True))
                try:
                    _insert(con, table, record)
                    told[table, False] += 1
                except sqlite3.Error:
                    told[table, True] += 1
                    if table in ("edit", "op", "undo", "permission"):
                        lost.keep_row(record, bytes_of(record.get("content")))


def _format_of(old: sqlite3.Connection) -> int:
    """Return the format of a damaged database; the newest where nothing says so."""
    with suppress(sqlite3.DatabaseError):
        (version,) = old.execute("PRAGMA user_version").fetchone()
        if 0 < version < schema.FORMAT:
            return int(version)
    return schema.FORMAT


def _insert(con: sqlite3.Connection, table: str, record: dict[str, Any]) -> None:
    if any(type(value) is bytes and name != "value" for name, value in record.items()):
        raise sqlite3.IntegrityError("bytes where text belongs")
    marks = ", ".join("?" * len(record))
    con.execute(
        f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks})", tuple(record.values())
    )


def _bytes_in(con: sqlite3.Connection, path: Path) -> Callable[[object], bytes | Path | None]:
    """Return what finds bytes by their id, in a new database or in the folders of the old one."""

    def find(content: object) -> bytes | Path | None:
        found = con.execute(
            "SELECT value FROM Cache WHERE key = ? AND raw = 1 AND mode = ?", (content, RAW)
        ).fetchone()
        if found is not None and type(found[0]) is bytes:
            return found[0]
        name = likely_filename(content)
        file = path / name
        return file if name and file.is_file() and not file.is_symlink() else None

    return find


def _pour_state(old: sqlite3.Connection, con: sqlite3.Connection) -> None:
    """Take over settings, and counters that don't count rows; numbers of edits only go up."""
    counted = {"clean_bytes", "staged_bytes", "undo_bytes"}
    said = dict(_rows(old, "state", ["name", "value"]))
    for name, value in said.items():
        default = schema.STATE.get(name)
        fits = type(value) is int if type(default) is int else type(value) in (str, int, float)
        if name in schema.STATE and name not in counted and fits:
            con.execute("UPDATE state SET value = ? WHERE name = ?", (value, name))
    if type(said.get("gen")) is not int:
        # Which rows of the index counted isn't known any more.
        con.execute("DELETE FROM upstream")
    con.execute(
        "UPDATE state SET value = max(value, coalesce((SELECT max(seq) FROM edit), 0),"
        " coalesce((SELECT max(grp) FROM edit), 0)) WHERE name = 'seq'"
    )
    # What the index said is read again.
    con.execute(
        "UPDATE state SET value = NULL WHERE name IN ('index_checked', 'index_validators',"
        " 'index_doubted', 'loading')"
    )
    con.execute("UPDATE state SET value = 0 WHERE name = 'complete'")


def _adopt_files(path: Path, con: sqlite3.Connection, lost: Lost) -> None:
    """Name the files again whose row of bytes is lost; keep those that no row names."""
    named = {
        content
        for table in ("edit", "op", "undo", "copy")
        for (content,) in con.execute(f"SELECT content FROM {table} WHERE content IS NOT NULL")
    }
    con.executemany("DELETE FROM Cache WHERE key = ?", [(each,) for each in lost.kept - named])
    here = {content for (content,) in con.execute("SELECT key FROM Cache")}
    for file in sorted(path.glob("[0-9a-f][0-9a-f]/*.val")):
        content = file.name.removesuffix(".val")
        if content in here or content in lost.kept or file.is_symlink():
            continue
        if likely_filename(content) != f"{file.parent.name}/{file.name}":
            continue
        if content in named:
            con.execute(
                "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename)"
                " VALUES (?, 1, ?, 0, ?, 2, ?)",
                (content, time.time(), file.stat().st_size, filename_of(content)),
            )
        else:
            lost.keep(content, file)
    con.execute("DELETE FROM copy WHERE content NOT IN (SELECT key FROM Cache WHERE raw = 1)")


def _rows(con: sqlite3.Connection, table: str, names: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows of a table that can be read, past damaged pages."""
    columns = ", ".join(names)
    if table in _WITHOUT_NUMBERS:
        # What comes before the first damage is all there is to have.
        with suppress(sqlite3.DatabaseError):
            yield from con.execute(f"SELECT {columns} FROM {table}")
        return
    sql = f"SELECT rowid, {columns} FROM {table} WHERE rowid >= ? AND rowid < ? ORDER BY rowid"
    ranges, failures = [(0, _LAST)], 0
    while ranges and failures < _FAILURES:
        low, high = ranges.pop()
        try:
            found = con.execute(f"{sql} LIMIT {_STEP}", (low, high)).fetchall()
        except sqlite3.DatabaseError:
            failures += 1
            if high - low > 1:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]
            continue
        if len(found) == _STEP:
            ranges.append((found[-1][0] + 1, high))
        yield from (row[1:] for row in found)
