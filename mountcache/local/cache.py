"""The diskcache Cache in a store's directory.

All that mountcache knows of diskcache's inside stands here, as of one version; a test compares
it with the version that is installed. Of its code, what makes a database and what looks values
up is used; its setters aren't, since they write the row and the bytes in an order of their own,
nor are check, clear, cull, expire and evict, which would remove staged bytes.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import diskcache

from mountcache.errors import DirectoryError

__all__ = [
    "DATABASE",
    "DISKCACHE",
    "SETTINGS",
    "StoreCache",
    "StoreDisk",
    "check_settings",
    "checked_filename",
    "filename_of",
    "likely_filename",
    "write_settings",
]

DISKCACHE: Final = "5.6.3"
"""The version of diskcache whose inside is known here."""

DATABASE: Final = "cache.db"

_NEVER: Final = 2**62

SETTINGS: Final[dict[str, int | str]] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": _NEVER,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 8192,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 2**26,
    "sqlite_synchronous": 2,
    "disk_min_file_size": 32768,
    "disk_pickle_protocol": 4,
}
"""What stands in diskcache's table ``Settings``, so that a stranger's Cache on the directory
evicts nothing and writes as durably as we do."""

_COUNTERS: Final = ("count", "size", "hits", "misses")

_POLICIES: Final = (
    "none",
    "least-recently-stored",
    "least-recently-used",
    "least-frequently-used",
)


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


_counted = _whole(-(2**63), 2**63 - 1)

_ALLOWED: Final[dict[str, Callable[[object], bool]]] = {
    "statistics": _whole(0, 1),
    "tag_index": _whole(0, 1),
    "eviction_policy": lambda value: value in _POLICIES,
    "size_limit": lambda value: type(value) in (int, float),
    "cull_limit": _whole(0, 2**31),
    "sqlite_auto_vacuum": _whole(0, 2),
    "sqlite_cache_size": _whole(-(2**31), 2**31),
    "sqlite_journal_mode": lambda value: value == "wal",
    "sqlite_mmap_size": _whole(0, 2**47),
    "sqlite_synchronous": _whole(0, 3),
    "disk_min_file_size": _whole(0, 2**31),
    "disk_pickle_protocol": _whole(0, 5),
    **dict.fromkeys(_COUNTERS, _counted),
}

_FILENAME: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}-[0-9a-f]+\.val")


def check_settings(con: sqlite3.Connection, directory: Path) -> bool:
    """Check diskcache's settings before a Cache reads them.

    A Cache makes PRAGMAs and attributes of whatever stands in that table.

    Returns
    -------
    bool
        Whether they are the ones that we write.

    Raises
    ------
    DirectoryError
        If there is one that diskcache itself wouldn't write.
    """
    found = dict(con.execute("SELECT key, value FROM Settings"))
    for name, value in found.items():
        if name not in _ALLOWED or not _ALLOWED[name](value):
            raise DirectoryError(
                f"the database in {directory} has the setting {_short(name)} = {_short(value)}, "
                "which neither "
                "mountcache nor diskcache writes; somebody has tampered with it, so it isn't "
                "opened"
            )
    return all(found.get(name) == value for name, value in SETTINGS.items())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def write_settings(con: sqlite3.Connection) -> None:
    """Write the settings that differ from ours, inside a commit."""
    con.executemany(
        "INSERT INTO Settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE"
        " SET value = excluded.value WHERE value IS NOT excluded.value",
        SETTINGS.items(),
    )


class StoreDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """diskcache's Disk without pickle, whose files lie one level deep in 256 directories."""

    new_id: Callable[[], str]
    """Makes a name that a dead process's can't be taken for; set by `StoreCache`."""

    def put(self, key: Any) -> tuple[Any, bool]:
        if type(key) is not str:
            raise TypeError(f"a key of a store's cache is str, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw or type(key) is not str:
            raise DirectoryError(
                f"the cache in {self._directory} has a key that mountcache doesn't write; "
                "another program wrote into it"
            )
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if not read and type(value) is not bytes:
            raise TypeError(f"a value of a store's cache is bytes, not {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY):
            raise DirectoryError(
                f"the cache in {self._directory} has a value that mountcache doesn't write (mode "
                f"{mode}); another program wrote into it"
            )
        if filename is not None:
            checked_filename(filename, self._directory)
        return super().fetch(mode, filename, value, read)

    def filename(self, key: Any = diskcache.UNKNOWN, value: Any = None) -> tuple[str, str]:
        filename = filename_of(self.new_id())
        return filename, os.path.join(self._directory, filename)

    def remove(self, file_path: str) -> None:
        # Unlike diskcache's own it leaves the directories, which were synced when made.
        Path(self._directory, checked_filename(file_path, self._directory)).unlink(missing_ok=True)


def filename_of(content_id: str) -> str:
    """Return the file's name of a byte string, relative to the directory."""
    return f"{int(content_id.rpartition('-')[2], 16) & 0xFF:02x}/{content_id}.val"


def likely_filename(content_id: object) -> str:
    """Return the file's name that an id from a damaged row leads to; "" if it is no id of ours."""
    try:
        return checked_filename(filename_of(str(content_id)), "")
    except (ValueError, DirectoryError):
        return ""


def checked_filename(filename: str, directory: str | os.PathLike[str]) -> str:
    """Return a file's name in a row if it is one of ours; DirectoryError if it leads elsewhere."""
    if type(filename) is not str or _FILENAME.fullmatch(filename) is None:
        raise DirectoryError(
            f"the database in {directory} names a file {_short(filename)} that mountcache doesn't "
            "write; another program wrote into it"
        )
    return filename


class StoreCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache's Cache on connections of ours.

    diskcache's own sends every setting to the database each time it is opened, each in a commit
    of its own, and expands ``$NAME`` and ``~`` in the directory's name.

    Parameters
    ----------
    directory
        The store's.
    connect
        Gives this thread's connection.
    new_id
        Makes the id of a new byte string.
    create
        Make diskcache's tables and settings, in the transaction that is open.
    """

    def __init__(
        self,
        directory: str,
        connect: Callable[[], sqlite3.Connection],
        new_id: Callable[[], str],
        *,
        create: bool = False,
    ) -> None:
        self._connect = connect
        if create:
            super().__init__(os.curdir, timeout=0, disk=StoreDisk, **SETTINGS)
        else:
            self._local = threading.local()
            self._txn_id = None
            ((self._page_size,),) = connect().execute("PRAGMA page_size").fetchall()
            check_settings(connect(), Path(directory))
            for name, value in connect().execute("SELECT key, value FROM Settings").fetchall():
                setattr(self, name, value)
        self._timeout = 5
        self._directory = directory
        self._disk = StoreDisk(
            directory,
            min_file_size=SETTINGS["disk_min_file_size"],
            pickle_protocol=SETTINGS["disk_pickle_protocol"],
        )
        self._disk.new_id = new_id

    @property
    def _con(self) -> sqlite3.Connection:
        return self._connect()

    def close(self) -> None:
        """Do nothing: the connections belong to who gave them."""

    def __reduce__(self) -> Any:
        raise TypeError("the cache of a store can't be pickled; pickle the store")
