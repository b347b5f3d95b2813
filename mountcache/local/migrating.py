"""Older formats of a store's directory, and the way from each to the next."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from mountcache.errors import DirectoryError
from mountcache.local import directory as places
from mountcache.local.cache import DATABASE
from mountcache.local.connection import newer_format
from mountcache.local.content import WAIT
from mountcache.local.liveness import FileLock, living
from mountcache.local.schema import APPLICATION_ID, MIGRATIONS, raise_format

__all__ = ["MIGRATIONS", "migrate"]


def migrate(
    directory: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    migrations: tuple[Callable[[sqlite3.Connection], None], ...] = MIGRATIONS,
) -> tuple[int, int]:
    """Bring a store to the newest format, in one transaction; killed in it, it is as before.

    Parameters
    ----------
    directory
        Of a `DiskCacheStore` that nobody else has open.
    dry_run
        Take it all back at the end.
    migrations
        The ways from format 1 on.

    Returns
    -------
    tuple of int
        The format that it was of, and the newest.

    Raises
    ------
    DirectoryError
        If there is no store, or it is of a newer format, or of an older one and in use.
    """
    path = Path(os.path.abspath(os.path.expanduser(directory)))
    if not (path / DATABASE).exists() or not (path / "live").exists():
        raise DirectoryError(f"there is no store in {path}")
    lock = FileLock(path / "open.lock")
    with places.translated(path):
        if not lock.acquire(WAIT):
            raise DirectoryError(f"the store in {path} is being opened by {lock.holder()}; wait")
        try:
            uri = places.database_uri(path, "mode=rw")
            with closing(sqlite3.connect(uri, timeout=5.0, uri=True, isolation_level=None)) as con:
                return _migrate(con, path, migrations, dry_run=dry_run)
        finally:
            lock.release()


def _migrate(
    con: sqlite3.Connection,
    path: Path,
    migrations: tuple[Callable[[sqlite3.Connection], None], ...],
    *,
    dry_run: bool,
) -> tuple[int, int]:
    con.execute("PRAGMA trusted_schema = OFF")
    con.execute("PRAGMA synchronous = FULL")
    newest = 1 + len(migrations)
    con.execute("BEGIN IMMEDIATE")  # all is taken back if the connection closes in it
    (owner,) = con.execute("PRAGMA application_id").fetchone()
    (version,) = con.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID or not version:
        raise DirectoryError(f"there is no store in {path}")
    if version > newest:
        raise newer_format(version, str(path))
    if version < newest:
        # Another that has just brought it there is no hindrance.
        if living(path / "live"):
            raise DirectoryError(
                f"others have the store in {path} open, which is of format {version}; end them: "
                f"it is brought to format {newest} then"
            )
        raise_format(con, version, migrations)
    con.execute("ROLLBACK" if dry_run else "COMMIT")
    return version, newest
