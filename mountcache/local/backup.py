"""A copy of a store's directory that is whole, made while others use it.

1. While no other can commit, the files of staged values get a second name in the store's ``tmp/``,
   and a snapshot of the database is begun: what they say belongs together.
2. Others go on. The snapshot is written out, and the files are copied beside it; a clean copy
   that was evicted meanwhile is left out, a staged value can't have gone.
3. All is synced, the database gets its name, then the folder its own: who is killed before that
   leaves a folder that is no store.

A copy is a store of its own: another incarnation, in which no push is under way.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mountcache.errors import DirectoryError, ReadOnlyStoreError
from mountcache.local import directory as places
from mountcache.local.cache import DATABASE, checked_filename
from mountcache.local.diskcontent import DiskContent
from mountcache.local.liveness import living
from mountcache.local.planted import open_own, value_opener
from mountcache.local.rights import GROUP, create, is_shared, set_rights

__all__ = ["Saved", "backup", "restore"]

_UNFINISHED: Final = "unfinished.db"
"""What the database is called until all is there: a folder without ``cache.db`` is no store."""

_PIECE: Final = 1048576

_STAGED: Final = """
SELECT content FROM edit UNION SELECT content FROM op UNION SELECT content FROM undo
UNION SELECT content FROM copy WHERE key IN (SELECT key FROM edit UNION SELECT key FROM op)
"""
"""Ids of what is staged, of what undo has, and of what staged edits were made from."""

_STAGED_ONLY: Final = f"""
DELETE FROM copy WHERE content NOT IN (SELECT content FROM ({_STAGED}) WHERE content NOTNULL);
DELETE FROM upstream WHERE NOT masked AND key NOT IN
    (SELECT key FROM edit UNION SELECT key FROM op UNION SELECT key FROM undo
     UNION SELECT key FROM permission);
DELETE FROM field_name; DELETE FROM field; DELETE FROM field_new;
UPDATE state SET value = 0 WHERE name IN ('complete', 'index_size');
UPDATE state SET value = NULL WHERE name IN
    ('index_checked', 'index_validators', 'index_doubted', 'loading')
"""
"""The last two: of upstream's index nothing is known any more that a poll could build on."""

_NAMELESS: Final = (
    "DELETE FROM Cache WHERE key NOT IN (SELECT content FROM (SELECT content FROM edit"
    " UNION SELECT content FROM op UNION SELECT content FROM undo UNION SELECT content FROM copy)"
    " WHERE content NOTNULL)"
)


@dataclass(frozen=True, slots=True)
class Saved:
    """What is in a copy of a store."""

    edits: int
    """How many staged edits."""
    copies: int
    """How many clean copies."""
    size: int
    """Bytes of all values."""
    missing: tuple[str, ...]
    """Keys whose staged data had gone from the store before: all else of them is there."""


def backup(
    directory: str | os.PathLike[str], dest: str | os.PathLike[str], *, staged_only: bool = False
) -> Saved:
    """Copy a store while it is in use.

    Parameters
    ----------
    directory
        Of a `DiskCacheStore`. Others may read and write it meanwhile; writers wait only while
        files are named, not while they are copied.
    dest
        The directory to be made; it may be there if it is empty. It is a store, too: one to be
        opened, or to be restored.
    staged_only
        Leave the clean copies out, but for those that staged edits were made from.

    Raises
    ------
    DirectoryError
        If there is no store, or `dest` has something in it or can't be written.
    ReadOnlyStoreError
        If the store can't be written here: then nobody can be kept from changing it meanwhile.
    StoreFullError
        If there is no room.
    """
    source = _store_at(directory)
    with closing(DiskContent(source)) as content:
        if content.readonly:
            raise ReadOnlyStoreError(
                f"{source} can only be read here, so that others may change it while it is copied; "
                "take the backup as its owner, or `mountcache restore` it elsewhere once it is idle"
            )
        with _snapshot(content) as (con, find):
            return _copy(source, con, find, dest, staged_only=staged_only)


def restore(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> Saved:
    """Make a store out of a backup, or of another copy of a store that nobody uses.

    The backup stays as it is. What was being pushed when it was taken is asked after by the next
    push, so that nothing is sent twice.

    Parameters
    ----------
    source
        The backup; it needn't be writable.
    directory
        The directory to be made; it may be there if it is empty.

    Raises
    ------
    DirectoryError
        If there is no store in `source`, or it is in use, or `directory` has something in it.
    StoreFullError
        If there is no room.
    """
    path = _store_at(source)
    with suppress(PermissionError):
        if living(path / "live"):
            raise DirectoryError(f"the store in {path} is in use: `mountcache backup` copies it")
    mode = places.reading_mode(path)
    if not places.look(path, mode).whole:
        raise DirectoryError(f"the store in {path} isn't finished, so there is nothing to restore")
    with _connected(path, mode) as con:
        return _copy(path, con, lambda filename: path / filename, directory, staged_only=False)


def _store_at(directory: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(directory)))
    if not (path / DATABASE).exists():
        raise DirectoryError(f"there is no store in {path}")
    return path


def _connected(path: Path, mode: places.Mode) -> closing[sqlite3.Connection]:
    uri = places.database_uri(path, mode)
    con = sqlite3.connect(uri, timeout=5.0, uri=True, isolation_level=None)
    con.execute("PRAGMA trusted_schema = OFF")
    return closing(con)


@contextmanager
def _snapshot(
    content: DiskContent,
) -> Iterator[tuple[sqlite3.Connection, Callable[[str], Path]]]:
    """Give a database that stays as it is, and what finds the files that its rows name."""
    links: dict[str, Path] = {}
    with _connected(content.directory, "mode=rw") as con:
        try:
            with content.write() as writing:
                con.execute("BEGIN")
                con.execute("SELECT 1 FROM state").fetchone()  # this begins it
                for (filename,) in writing.execute(
                    f"SELECT filename FROM Cache WHERE filename NOTNULL AND key IN ({_STAGED})"
                ):
                    links[filename] = _link(content, filename)
            yield con, lambda filename: links.get(filename) or content.directory / filename
        finally:
            for link in links.values():
                link.unlink(missing_ok=True)


def _link(content: DiskContent, filename: str) -> Path:
    path, link = content.path(filename), content.directory / "tmp" / content.new_id()
    with suppress(FileNotFoundError):  # it is told when it is to be copied
        os.close(value_opener(str(path), os.O_RDONLY))
        os.link(path, link, follow_symlinks=False)
    return link


# -- the copy ----------------------------------------------------------------------------------


def _copy(
    source: Path,
    con: sqlite3.Connection,
    find: Callable[[str], Path],
    dest: str | os.PathLike[str],
    *,
    staged_only: bool,
) -> Saved:
    path = Path(os.path.abspath(os.path.expanduser(dest)))
    with places.translated(path):
        _check_empty(path, source)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{path.name}.unfinished-", dir=path.parent))
        try:
            if is_shared(source):
                with suppress(PermissionError):  # else it is for its maker alone
                    os.chown(aside, -1, source.stat().st_gid)
                    set_rights(aside, GROUP)
            places.fill(aside)
            saved = _fill(con, find, aside, staged_only=staged_only)
            os.rename(aside / _UNFINISHED, aside / DATABASE)
            places.sync(aside)
            os.rename(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        places.sync(path.parent)
    return saved


def _check_empty(path: Path, source: Path) -> None:
    if path == source or source in path.parents:
        raise DirectoryError(f"{path} is in the store itself; choose a directory outside of it")
    try:
        there = os.listdir(path)
    except FileNotFoundError:
        return
    if there:
        raise DirectoryError(f"{path} isn't empty; choose a directory that is, or a new one")


def _fill(
    con: sqlite3.Connection, find: Callable[[str], Path], aside: Path, *, staged_only: bool
) -> Saved:
    database = aside / _UNFINISHED
    os.close(create(database))
    with closing(sqlite3.connect(database, isolation_level=None)) as made:
        made.execute("PRAGMA trusted_schema = OFF")
        made.execute("PRAGMA synchronous = OFF")  # it is synced as a whole
        con.backup(made)
        made.execute("PRAGMA journal_mode = MEMORY")
        made.execute("BEGIN")
        if staged_only:
            for statement in _STAGED_ONLY.split(";"):
                made.execute(statement)
        made.execute("DELETE FROM partial")
        made.execute("UPDATE op SET state = 'unknown'")
        # No directory is numbered so: whoever opens it finds that it was moved, and names it anew.
        made.execute("UPDATE place SET value = -1")
        made.execute(
            "UPDATE place SET value = ? WHERE name = 'incarnation'", (secrets.token_hex(16),)
        )
        made.execute(_NAMELESS)
        missing = _copy_files(made, find, aside)
        saved = Saved(
            _number(made, "SELECT count(*) FROM edit"),
            _number(made, "SELECT count(*) FROM copy"),
            _number(made, "SELECT sum(iif(filename IS NULL, length(value), size)) FROM Cache"),
            missing,
        )
        made.execute("COMMIT")
        made.execute("PRAGMA journal_mode = WAL")
    with open(database, "rb") as file:
        os.fsync(file.fileno())
    return saved


def _number(con: sqlite3.Connection, sql: str) -> Any:
    return con.execute(sql).fetchone()[0] or 0


def _copy_files(
    made: sqlite3.Connection, find: Callable[[str], Path], aside: Path
) -> tuple[str, ...]:
    """Copy the files that rows name; return the keys whose staged data aren't whole.

    Those of clean copies aren't synced, as they never are: they are of no later boot, so they
    are compared before they are used after a power cut.
    """
    staged = {content for (content,) in made.execute(_STAGED)}
    gone: list[str] = []
    rooms = set()
    for content, filename, size in made.execute(
        "SELECT key, filename, size FROM Cache WHERE filename NOTNULL"
    ).fetchall():
        checked_filename(filename, aside)
        try:
            found = _copy_file(find(filename), aside / filename, durably=content in staged)
        except FileNotFoundError:
            found = -1
        if found != size:
            gone.append(content)
        elif content in staged:
            rooms.add((aside / filename).parent)
    for room in rooms:
        places.sync(room)
    made.executemany("DELETE FROM copy WHERE content = ?", [(each,) for each in gone])
    missing = {
        key
        for content in gone
        for table in ("edit", "op")
        for (key,) in made.execute(f"SELECT key FROM {table} WHERE content = ?", (content,))
    }
    # A row that undo or an edit names is kept by the database itself.
    made.execute(_NAMELESS)
    return tuple(sorted(missing))


def _copy_file(path: Path, there: Path, *, durably: bool) -> int:
    """Copy a file of a store; return how many bytes it had."""
    in_tmp = path.parent.name == "tmp"  # a second name that was checked when it was given
    opener = _opener_of_a_link if in_tmp else value_opener
    with open(path, "rb", opener=opener) as old, open(create(there), "wb") as new:
        shutil.copyfileobj(old, new, _PIECE)
        if durably:
            new.flush()
            os.fsync(new.fileno())
        size = new.tell()
    if in_tmp:
        path.unlink()  # the fewer there are, the quicker others find that it is only lent
    return size


def _opener_of_a_link(path: str, flags: int) -> int:
    return open_own(path, flags, alone=False)
