"""OS locks in a store's directory, and what is removed of processes that died.

flock is used directly rather than through filelock: a lock has to be dropped in a forked child
without being given back, which takes the descriptor itself, and a lock that would fall back to
a mere file where the system has none wouldn't end with its holder.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from mountcache.errors import ReadOnlyStoreError
from mountcache.local.planted import open_own
from mountcache.local.rights import create

__all__ = ["FileLock", "Liveness", "ReadOnlyLock", "collect", "living"]

_TOKEN: Final = re.compile(r"([0-9a-f]{32})-")


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_LOOK_AGAIN = 0.02


class FileLock:
    """A lock that one holder at a time has, in whatever thread or process. Not re-entrant.

    Parameters
    ----------
    path
        Its file, which stays when it is given back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._held: int | None = None
        self._open: set[int] = set()

    def acquire(self, timeout: float) -> bool:
        try:
            descriptor = create(self._path)
        except FileExistsError:
            descriptor = open_own(self._path, os.O_RDWR)
        with self._mutex:
            self._open.add(descriptor)
        if _lock(descriptor):
            self._take(descriptor)
            return True
        # flock knows no time-out, and a thread that waits in it can't be called off.
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_AGAIN))
            if _lock(descriptor):
                self._take(descriptor)
                return True
        self._drop(descriptor)
        return False

    def _take(self, descriptor: int) -> None:
        self._held = descriptor
        with suppress(OSError):  # a full disk keeps nobody from holding a lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _drop(self, descriptor: int) -> None:
        with self._mutex:
            self._open.discard(descriptor)
        # Said aloud: closing alone frees nothing while a child forked meanwhile has a duplicate.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def release(self) -> None:
        descriptor, self._held = self._held, None
        if descriptor is None:
            raise RuntimeError(f"{self._path.name} isn't held")
        self._drop(descriptor)

    def holder(self) -> str:
        try:
            descriptor = open_own(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return ""
        try:
            if _lock(descriptor):
                return ""
            return os.pread(descriptor, 300, 0).decode(errors="replace") or "a process"
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Return whether somebody holds it, without ever holding off another who asks this."""
        try:
            descriptor = open_own(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def forget(self) -> None:
        """Drop, in a forked child, what its parent holds."""
        for descriptor in self._open:
            os.close(descriptor)
        self._mutex = threading.Lock()
        self._open = set()
        self._held = None


class ReadOnlyLock:
    """The lock of a directory that can't be written: nobody can take it here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self, timeout: float) -> bool:
        raise ReadOnlyStoreError(f"{self._path.parent} can only be read here")

    def release(self) -> None:
        raise RuntimeError(f"{self._path.name} isn't held")

    def holder(self) -> str:
        return ""


class Liveness:
    """This process's own lock in ``live/``, under a name that nobody had before.

    Parameters
    ----------
    directory
        The directory of the locks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.token, self._descriptor = self._announce()

    def _announce(self) -> tuple[str, int]:
        while True:
            token = secrets.token_hex(16)
            path = self._directory / token
            descriptor = create(path)
            # Before it was locked, somebody may have taken it for a dead one's and removed it.
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                return token, descriptor
            os.close(descriptor)

    def end(self) -> None:
        """Say that this process has left nothing behind."""
        (self._directory / self.token).unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Let go of the lock, which in a forked child is its parent's and stays locked."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        # Of a store that nobody closed, as of a dead process: gc clears up after it.
        if hasattr(self, "_descriptor"):
            self.forget()


class _Dead:
    """Which tokens belong to processes that are gone; their locks are held until `end`."""

    def __init__(self, directory: Path, mine: str) -> None:
        self._directory = directory
        self._known: dict[str, int | None] = {}
        """Token: the descriptor of its lock; None: it is alive; -1: it has no lock."""
        self._known[mine] = None

    def __contains__(self, token: str) -> bool:
        if token not in self._known:
            self._known[token] = self._look(token)
        return self._known[token] is not None

    def _look(self, token: str) -> int | None:
        try:
            descriptor = open_own(self._directory / token, os.O_RDWR)
        except FileNotFoundError:
            return -1  # a process has its lock before it makes its first file
        if _lock(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def end(self) -> None:
        """Give their locks back."""
        for descriptor in self._known.values():
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)


def living(directory: Path) -> int:
    """Return how many processes have their lock in a directory of locks."""
    dead = _Dead(directory, "")
    try:
        return sum(token not in dead for token in os.listdir(directory))
    except FileNotFoundError:
        return 0
    finally:
        dead.end()


def collect(
    directory: Path,
    mine: str,
    rooms: Iterable[str],
    named: Callable[[set[str]], set[str] | None],
    *,
    anyway: bool = True,
) -> tuple[int, int]:
    """Remove files of dead processes that no row names, then forget the dead.

    Parameters
    ----------
    directory
        The store's.
    mine
        The token of this process.
    rooms
        Subdirectories to look through.
    named
        Picks, of some files, those that a row names; a dead process names no more of them. None:
        that can't be told now, so all stays as it is, the dead too, until the next look.
    anyway
        False to look only if there is one that died since the last look.

    Returns
    -------
    tuple of int
        How many files were removed, and how many bytes of the disk they took.
    """
    left: set[str] = set()
    freed = 0
    dead = _Dead(directory / "live", mine)
    try:
        found = [token for token in os.listdir(directory / "live") if token in dead]
        if found or anyway:
            left = {f"{room}/{name}" for room in rooms for name in _of_the(dead, directory / room)}
            known = named(left)
            if known is None:
                return 0, 0
            left -= known
        for filename in left:
            with suppress(FileNotFoundError):
                file = (directory / filename).lstat()
                # Of an incomplete download, the holes take nothing.
                freed += min(file.st_size, file.st_blocks * 512)
                (directory / filename).unlink()
        for token in found:
            (directory / "live" / token).unlink(missing_ok=True)
    finally:
        dead.end()
    return len(left), freed


def _of_the(dead: _Dead, room: Path) -> Iterator[str]:
    try:
        names = os.listdir(room)
    except FileNotFoundError:
        return  # a stranger's clear() removes directories that are empty
    for name in names:
        token = _TOKEN.match(name)
        if token and token[1] in dead:
            yield name
