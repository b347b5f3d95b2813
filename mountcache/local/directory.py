"""A store's directory: whose it is, whether it can be used, and how a new one is made."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from mountcache.errors import DirectoryError, StoreFullError
from mountcache.local.cache import DATABASE, SETTINGS, check_settings
from mountcache.local.connection import damaged, newer_format, store_error
from mountcache.local.content import full
from mountcache.local.planted import PLACE, check_entries, check_schema, check_state
from mountcache.local.rights import OWNER, create, make_folder
from mountcache.local.schema import APPLICATION_ID, FORMAT

__all__ = [
    "FileSystem",
    "Found",
    "Mode",
    "check_file_system",
    "check_names",
    "claim",
    "database_uri",
    "file_system_of",
    "fill",
    "has_log",
    "look",
    "make",
    "name_again",
    "reading_mode",
    "sync",
    "translated",
]

_SHARED: Final = re.compile(
    r"nfs[34]?|cifs|smb3|smbfs|ncpfs|afs|ceph|lustre|gpfs|glusterfs|9p|davfs"
    r"|fuse\.(sshfs|glusterfs|rclone|s3fs|gcsfuse|davfs2?)"
)
"""File systems of other machines: the memory that SQLite's readers share isn't shared there."""

_ROOMS: Final = (*(f"{number:02x}" for number in range(256)), "tmp", "partial")

_IGNORED: Final = frozenset({"open.lock", "lost+found"})

Mode = Literal["mode=rw", "mode=ro", "immutable=1"]
"""How SQLite opens a database."""

FileSystem = Callable[[Path], str]
"""Tells the type of the file system that a path is on; "" if it can't."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a directory that is ours, or may become ours."""

    exists: bool
    """Whether there is a database that was finished."""
    whole: bool = False
    """Whether its subdirectories were made."""
    settled: bool = False
    """Whether diskcache's settings are ours."""
    incarnation: str = ""
    moved: bool = False
    """Whether the database was in another place when it was named."""
    named: float = 0.0
    """When that was: who copied it wrote its files anew."""
    format: int = FORMAT
    """The format of its tables; 0 if they weren't made."""

    @property
    def outdated(self) -> bool:
        """Whether its tables are of an older format."""
        return self.exists and 0 < self.format < FORMAT


def file_system_of(path: Path) -> str:
    """Return the type of the file system that `path` is on; "" where that can't be told."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, found = -1, ""
    for line in text.splitlines():
        fields = line.split(" ")
        point = _unescaped(fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one is seen.
        if inside and len(point) >= best:
            best, found = len(point), fields[fields.index("-", 6) + 1]
    return found


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def claim(path: Path, file_system: FileSystem = file_system_of) -> bool:
    """Make the directory if it isn't there; return whether it can be written.

    Raises
    ------
    DirectoryError
        If it can't hold a store.
    """
    try:
        nearest = _nearest(path)
        if not nearest.is_dir():
            raise DirectoryError(f"{nearest} is a file, and a store needs a directory of its own")
        check_file_system(path, file_system(nearest))
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=OWNER, exist_ok=True)
        os.listdir(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and full(error):
            raise StoreFullError(f"the disk of {path} is full: the store can't be made") from error
        raise DirectoryError(
            f"the directory {path} can't be used: {_reason(error)}; choose another one"
        ) from error
    return os.access(path, os.W_OK | os.X_OK) and (
        not (path / DATABASE).exists() or os.access(path / DATABASE, os.W_OK)
    )


def check_file_system(path: Path, kind: str) -> None:
    """Refuse a file system, by its type, that can't hold a database.

    Raises
    ------
    DirectoryError
        If it lies on another machine.
    """
    if _SHARED.fullmatch(kind):
        raise DirectoryError(
            f"{path} is on a file system of the type {kind}, which lies on another machine; "
            "the database of a store needs a local disk: choose a directory on one"
        )


def check_names(path: Path) -> set[str]:
    """Return the names in a directory; DirectoryError if one that a store uses leads elsewhere."""
    return check_entries(path, (*_ROOMS, "live", "uploads"))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _nearest(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def reading_mode(path: Path) -> Mode:
    """Return how SQLite reads a database that can't be written.

    Raises
    ------
    DirectoryError
        If its last changes would be missed.
    """
    uri = database_uri(path, "mode=ro")
    try:
        with closing(sqlite3.connect(uri, timeout=5.0, uri=True)) as con:
            con.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        # Without the files beside the database SQLite reads it only if it is told that nobody
        # changes it; what is in a log would be missed then.
        if not has_log(path):
            return "immutable=1"
        raise DirectoryError(
            f"{path} can't be written, and the last changes of its database are in a log "
            f"({DATABASE}-wal) that has to be read in first: open the store once where it can "
            "be written"
        ) from None
    except sqlite3.DatabaseError:
        pass  # not one at all, which is told when it is looked at
    return "mode=ro"


def has_log(path: Path) -> bool:
    """Return whether there are changes that aren't in the database file itself."""
    try:
        return os.stat(path / f"{DATABASE}-wal").st_size > 0
    except FileNotFoundError:
        return False


def database_uri(path: Path, mode: Mode) -> str:
    """Return what SQLite opens the database of the directory `path` by."""
    return f"file:{quote(os.fsencode(path / DATABASE))}?{mode}"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the disk as those of a store."""
    try:
        yield
    except sqlite3.Error as error:
        if (meant := store_error(error, str(path))) is None:
            raise
        raise meant from error
    except UnicodeDecodeError as error:
        raise damaged(error, str(path)) from error
    except OSError as error:
        if full(error):
            raise StoreFullError(f"the disk of {path} is full; make room") from error
        raise DirectoryError(f"the directory {path} can't be used: {_reason(error)}") from error


def look(path: Path, mode: Mode) -> Found:
    """Find out what is in a directory, by a plain connection that trusts nothing.

    Raises
    ------
    DirectoryError
        If it isn't ours, or is damaged, or of a newer format.
    """
    with translated(path):
        entries = check_names(path) - _IGNORED
    if DATABASE not in entries:
        if not entries:
            return Found(exists=False)
        raise DirectoryError(
            f"{path} is a store without its database {DATABASE}: `mountcache doctor --repair` "
            "saves what is left"
            if "live" in entries
            else f"{path} isn't empty and isn't a store of mountcache; choose an empty directory"
        )
    # Not a guarded connection: it is closed before anything else is opened.
    uri = database_uri(path, mode)
    with (
        translated(path),
        closing(sqlite3.connect(uri, timeout=5.0, uri=True, isolation_level=None)) as con,
    ):
        return _look(con, path, whole="live" in entries)


def _look(con: sqlite3.Connection, path: Path, *, whole: bool) -> Found:
    con.execute("PRAGMA trusted_schema = OFF")
    # All of one moment: another may be bringing it to a newer format.
    con.execute("BEGIN")
    (owner,) = con.execute("PRAGMA application_id").fetchone()
    (version,) = con.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in con.execute("SELECT name FROM sqlite_master")}
    if not tables and not owner and not version:
        if whole:
            raise DirectoryError(
                f"the database in {path} is damaged (it is empty): `mountcache doctor --repair` "
                "saves what is left"
            )
        return Found(exists=False)  # somebody was killed while making it
    if owner != APPLICATION_ID:
        kind = "a diskcache Cache" if {"Cache", "Settings"} <= tables else "an SQLite database"
        raise DirectoryError(
            f"{path} belongs to another program, which has {kind} in it; choose an empty directory"
        )
    if version > FORMAT:
        raise newer_format(version, str(path))
    check_schema(con, path)
    if version:
        check_state(con, path)
    settled = check_settings(con, path)
    named = dict(con.execute("SELECT name, value FROM place"))
    incarnation, at = str(named.pop("incarnation")), float(named.pop("named", 0.0))
    return Found(True, whole, settled, incarnation, named != _place(path), at, version)


def _place(path: Path) -> dict[str, int]:
    """Return what tells a database from a copy of it, and from one restored in its place."""
    directory, database = os.stat(path), os.stat(path / DATABASE)
    return {
        "device": directory.st_dev,
        "directory": directory.st_ino,
        "database": database.st_ino,
    }


def make(path: Path) -> None:
    """Make an empty database."""
    # SQLite gives its other files the rights of this one. No process has it open yet: closing
    # a descriptor of it later would drop the locks of this process.
    with suppress(FileExistsError):
        os.close(create(path / DATABASE))
    with closing(sqlite3.connect(database_uri(path, "mode=rw"), timeout=5.0, uri=True)) as con:
        # Counts only before the first page is written.
        con.execute(f"PRAGMA auto_vacuum = {SETTINGS['sqlite_auto_vacuum']}")
        con.execute("PRAGMA journal_mode = wal")


def fill(path: Path) -> None:
    """Make the subdirectories, ``live`` last: it says that all are there, whatever happens."""
    for room in _ROOMS:
        make_folder(path / room)
    # Their names are on disk after this; each is synced itself when a file comes into it.
    sync(path)
    # Those above may be as new, and made by somebody who was killed since.
    device = path.stat().st_dev
    for above in path.parents:
        if above.stat().st_dev != device:
            break
        with suppress(PermissionError):
            sync(above)
    make_folder(path / "live")


def sync(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_again(con: sqlite3.Connection, path: Path) -> str:
    """Give a store a new incarnation, inside a commit; return it."""
    incarnation = secrets.token_hex(16)
    con.execute(PLACE.replace("TABLE", "TABLE IF NOT EXISTS"))
    con.executemany(
        "INSERT INTO place VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        {"incarnation": incarnation, "named": time.time(), **_place(path)}.items(),
    )
    return incarnation
