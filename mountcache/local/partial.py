"""Partials: values that are here, but not whole.

One file each, in ``partial/``: the bytes, where they belong, with holes for what is missing, and
behind them the map, one byte for each block of 1 MiB. So a block is noted without a commit, and
counts only after its bytes were written; a process that is killed leaves at worst the end of one
block to be fetched again. A file without its map is whole, and is adopted by rename; a process
that is killed in the midst of that leaves a row without a file, and all is fetched again.

A row in the table ``partial`` binds the file to a key and a strong version. Only who holds the
lock of a file writes to it; others read what its map notes. Files of an earlier boot of the
machine are dropped: they were never synced.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mountcache.errors import DirectoryError
from mountcache.local.content import Content
from mountcache.local.planted import open_own
from mountcache.local.rights import create as create_file
from mountcache.local.rights import make_folder
from mountcache.local.view import PAGE, past_prefix

__all__ = [
    "BLOCK",
    "Begun",
    "Partial",
    "begun",
    "create",
    "drop",
    "drop_idle",
    "drop_torn",
    "find",
    "is_begun",
    "register",
]

BLOCK: Final = 1048576
"""Bytes in a block."""

_HERE: Final = b"\1"
_NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]+")


class _Room(Protocol):
    """Where the files of partials are."""

    def create(self, name: str) -> int:
        """Return a descriptor of a new file."""

    def open(self, name: str) -> int:
        """Return a descriptor of a file; FileNotFoundError if there is none."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def path(self, name: str) -> Path | None:
        """Return where a file is; None if it has no name on a disk."""


class _Directory:
    """The subdirectory ``partial/`` of a store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "partial"

    def create(self, name: str) -> int:
        try:
            return create_file(self.path(name))
        except FileNotFoundError:
            # A stranger's clear() removes directories that are empty.
            make_folder(self._directory)
            return create_file(self.path(name))

    def open(self, name: str) -> int:
        return open_own(self.path(name), os.O_RDWR)

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        if type(name) is not str or _NAME.fullmatch(name) is None:
            raise DirectoryError(
                f"the database in {self._directory.parent} names an incomplete download "
                f"{str(name)[:80]!r} that mountcache doesn't write; another program wrote into it"
            )
        return self._directory / name


class _Nameless:
    """Files without a name, which end with this process."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def create(self, name: str) -> int:
        with tempfile.TemporaryFile() as file:
            self._files[name] = os.dup(file.fileno())
        return self.open(name)

    def open(self, name: str) -> int:
        kept = self._files.get(name)
        if kept is None:
            raise FileNotFoundError(name)
        return _reopened(kept)

    def remove(self, name: str) -> None:
        kept = self._files.pop(name, None)
        if kept is not None:
            os.close(kept)

    def path(self, name: str) -> None:
        return None

    def __del__(self) -> None:
        for name in list(self._files):
            self.remove(name)


def _reopened(descriptor: int) -> int:
    """Return another opening of a file: a lock belongs to an opening, not to a process."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)


_nameless: weakref.WeakKeyDictionary[Content, _Nameless] = weakref.WeakKeyDictionary()


def _room(content: Content) -> _Room:
    directory: Path | None = getattr(content, "directory", None)
    if directory is not None:
        return _Directory(directory)
    return _nameless.setdefault(content, _Nameless())


class Partial:
    """The bytes of one value that are here.

    Parameters
    ----------
    room
        Where the file is.
    name
        Its name there.
    descriptor
        The open file.
    size
        Length of the whole value in bytes; None if it isn't known: then no block is noted.
    """

    def __init__(self, room: _Room, name: str, descriptor: int, size: int | None) -> None:
        self.name = name
        self.size = size
        self.here = bytearray(0 if size is None else -(-size // BLOCK))
        """For each block whether it is here: 1 or 0."""
        self.missing = len(self.here)
        """How many blocks aren't."""
        self.registered = False
        """Whether a row names it, so that it outlives those who use it now."""
        self._room = room
        self._descriptor = descriptor
        self.mine = False
        """Whether its lock is held here, so that it can be written."""
        self._pid = os.getpid()
        self._counting = threading.Lock()

    @property
    def path(self) -> Path | None:
        """Where the file is; None if it has no name on a disk."""
        return self._room.path(self.name)

    @property
    def length(self) -> int:
        """Length of the file in bytes, its map included."""
        return os.fstat(self._descriptor).st_size

    @property
    def written(self) -> int:
        """When somebody last wrote to the file; only good for seeing that it changed."""
        return os.fstat(self._descriptor).st_mtime_ns

    def read(self, view: memoryview, at: int) -> int:
        """Read bytes from `at` on into `view`; return how many."""
        return os.preadv(self._descriptor, [view], at)

    def write(self, view: memoryview, at: int) -> None:
        """Write bytes to where they belong."""
        while view:
            done = os.pwrite(self._descriptor, view, at)
            view, at = view[done:], at + done

    def note(self, block: int) -> None:
        """Note that a block was written."""
        assert self.size is not None
        os.pwrite(self._descriptor, _HERE, self.size + block)
        with self._counting:
            self.missing -= 1 - self.here[block]
            self.here[block] = 1

    def look(self) -> bool:
        """Look which blocks are noted by now; return whether there are more than before."""
        assert self.size is not None
        here = bytearray(os.pread(self._descriptor, len(self.here), self.size))
        if len(here) < len(self.here):
            here = bytearray(_HERE * len(self.here))
        missing = len(here) - sum(here)
        with self._counting:
            grown = missing < self.missing
            if grown:
                self.here, self.missing = here, missing
        return grown

    def lock(self) -> bool:
        """Take the lock of the file if it is free; return whether it is held here."""
        if not self.mine:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.mine = True
        return True

    def finish(self, size: int) -> None:
        """Cut the map off: all bytes are here."""
        os.ftruncate(self._descriptor, size)

    def copy_to(self, other: Partial) -> None:
        """Give another partial of the same value the blocks that are here."""
        assert self.size is not None
        buffer = memoryview(bytearray(BLOCK))
        for block in range(len(self.here)):
            if self.here[block]:
                at = block * BLOCK
                view = buffer[: min(BLOCK, self.size - at)]
                other.write(view[: self.read(view, at)], at)
                other.note(block)

    def remove(self) -> None:
        """Remove the name of the file; who has it open goes on reading."""
        self._room.remove(self.name)

    def close(self) -> None:
        """Let go of the file, and remove it unless a row names it. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        # In a forked child, name and lock are still its parent's.
        if self._pid == os.getpid():
            if not self.registered:
                self.remove()
            if self.mine:
                # Said aloud: closing alone frees nothing while a child has a duplicate.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def create(content: Content, size: int | None) -> Partial:
    """Return a new partial, locked, that no row names yet.

    Parameters
    ----------
    content
        The store.
    size
        Length of the value in bytes, if it is known.

    Raises
    ------
    OSError
        If there is no room, or the directory can't be written.
    """
    # An id that no other byte string of the store has; nothing is written under it.
    name = content.spool().content_id
    room = _room(content)
    partial = Partial(room, name, room.create(name), size)
    try:
        partial.lock()
        if size is not None:
            partial.finish(size + len(partial.here))
    except BaseException:
        partial.close()
        raise
    return partial


_COLUMNS: Final = "version, CAST(size AS INTEGER), name, boot"
_Columns = tuple[str, int, str, str]


def _row(con: sqlite3.Connection, key: str) -> _Columns | None:
    columns: _Columns | None = con.execute(
        f"SELECT {_COLUMNS} FROM partial WHERE key = ?", (key,)
    ).fetchone()
    return columns


def _opened(content: Content, columns: _Columns) -> Partial | None:
    """Open the file that a row names; None if it has gone or may be torn."""
    _, size, name, boot = columns
    if boot != content.boot:
        return None
    room = _room(content)
    try:
        descriptor = room.open(name)
    except FileNotFoundError:
        return None
    # Before memory is taken for its map.
    if os.fstat(descriptor).st_size not in (size, size + -(-size // BLOCK)):
        os.close(descriptor)
        return None
    partial = Partial(room, name, descriptor, size)
    partial.registered = True
    partial.lock()
    partial.look()
    return partial


def is_begun(content: Content, key: str) -> bool:
    """Whether a part of some version of a key is here."""
    return _row(content.connection(), key) is not None


def find(content: Content, key: str, version: str, size: int) -> Partial | None:
    """Return what is here of one version of a key; None if nothing is.

    It is locked if its lock was free. One that may be torn is dropped.
    """
    columns = _row(content.connection(), key)
    if columns is None or columns[:2] != (version, size):
        return None
    partial = _opened(content, columns)
    if partial is None:
        drop(content, key, name=columns[2])
    return partial


def register(
    content: Content, key: str, version: str, partial: Partial, *, over: str | None = None
) -> Partial:
    """Bind a partial to a version of a key, so that it outlives its users; drop an older one.

    Parameters
    ----------
    content
        The store.
    key, version
        What the bytes are.
    partial
        The partial.
    over
        The name of one of the same version that it replaces.

    Returns
    -------
    Partial
        The one that was bound before by somebody else, if it is of the same version.

    Raises
    ------
    StoreError
        If the row can't be written.
    """
    with content.write(durable=False) as con:
        columns = _row(con, key)
        if columns is not None and columns[:2] == (version, partial.size) and columns[2] != over:
            theirs = _opened(content, columns)
            if theirs is not None:
                return theirs
        con.execute(
            "INSERT INTO partial (key, version, size, name, boot) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET version = excluded.version, size = excluded.size,"
            " name = excluded.name, boot = excluded.boot",
            (key, version, partial.size, partial.name, content.boot),
        )
    partial.registered = True
    if columns is not None and columns[2] != partial.name:
        _room(content).remove(columns[2])
    return partial


def drop(content: Content, key: str, *, name: str | None = None, but: str | None = None) -> None:
    """Drop what is here of a key.

    Parameters
    ----------
    content
        The store.
    key
        The key.
    name
        Only the partial of this name.
    but
        A version that stays.

    Raises
    ------
    StoreError
        If the row can't be written.
    """
    columns = _row(content.connection(), key)
    if columns is None or columns[0] == but or name not in (None, columns[2]):
        return
    with content.write(durable=False) as con:
        con.execute("DELETE FROM partial WHERE key = ? AND name = ?", (key, columns[2]))
    _room(content).remove(columns[2])


@dataclass(frozen=True, slots=True)
class Begun:
    """How much of a key is here that isn't here as a whole."""

    key: str
    version: str
    size: int
    """Length of the whole value in bytes."""
    here: int
    """Bytes of it that can be gone on with; none after the machine was started again."""


def begun(content: Content, prefix: str = "") -> Iterator[Begun]:
    """Iterate by key over the downloads that aren't complete, of keys that begin with a prefix."""
    after, until, comparison = prefix, past_prefix(prefix), ">="
    while True:
        found = (
            content.connection()
            .execute(
                f"SELECT key, {_COLUMNS} FROM partial WHERE key {comparison} ?1"
                " AND key < ?2 ORDER BY key LIMIT ?3",
                (after, until, PAGE),
            )
            .fetchall()
        )
        for key, version, size, name, boot in found:
            here = _noted(content, name, size) if boot == content.boot else 0
            yield Begun(key, version, size, here)
        if len(found) < PAGE:
            return
        after, comparison = found[-1][0], ">"


def _noted(content: Content, name: str, size: int) -> int:
    """Return how many bytes the map of a file notes, without taking its lock."""
    try:
        descriptor = _room(content).open(name)
    except OSError:
        return 0  # it has just become whole, or may not be looked at
    try:
        blocks = -(-size // BLOCK)
        here = os.pread(descriptor, blocks, size)
    finally:
        os.close(descriptor)
    if len(here) < blocks:
        return size  # whole: it is being adopted
    last = size - (blocks - 1) * BLOCK if blocks else 0
    return sum(here[:-1]) * BLOCK + (last if here[-1:] == _HERE else 0)


def drop_torn(content: Content) -> int:
    """Drop the downloads of before the machine's last start; return how many bytes they took.

    Nobody can go on with them.
    """
    con = content.connection()
    rows = con.execute(
        f"SELECT key, {_COLUMNS} FROM partial WHERE boot IS NOT ?", (content.boot,)
    ).fetchall()
    freed = 0
    for key, _, _, name, _ in rows:
        path = _room(content).path(name)
        with suppress(OSError):
            if path is not None:
                freed += path.lstat().st_blocks * 512
        drop(content, key, name=name)
    return freed


def drop_idle(content: Content) -> bool:
    """Drop the partials that nobody is at work on; return whether there were any."""
    rows = content.connection().execute(f"SELECT key, {_COLUMNS} FROM partial")
    dropped = False
    for key, version, size, name, boot in rows.fetchall():
        partial = _opened(content, (version, size, name, boot))
        if partial is None or partial.lock():
            drop(content, key, name=name)
            dropped = True
        if partial is not None:
            partial.close()
    return dropped
