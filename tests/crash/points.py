"""The moments of a process at which it can be killed, each with a name.

Everything that changes a file goes through here: the calls of `os`, the files of spools, the
statements of the database, the writes that SQLite makes for them, and the requests to upstream.
A point is what is done and to which kind of file, such as "rename val" or "sqlite write wal".
Product code knows nothing of it.
"""

from __future__ import annotations

import _sqlite3
import builtins
import ctypes
import http.client
import io
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mountcache.local import diskcontent
from mountcache.local.connection import GuardedConnection

__all__ = ["KINDS", "MAKING", "TORN", "WITHIN", "Points", "Target", "install"]

KINDS = {
    "BEGIN": 30, "COMMIT": 30, "ROLLBACK": 1, "answer": 20, "create live": 1, "create lock": 1,
    "create partial": 1, "create tmp": 3, "fsync dir": 4, "fsync val": 3, "rename val": 3,
    "request": 20, "sqlite create wal": 3, "sqlite truncate db": 5, "sqlite truncate wal": 2,
    "sqlite unlink wal": 2, "sqlite write db": 60, "sqlite write wal": 400,
    "truncate partial": 1, "unlink live": 1, "unlink partial": 1,
    "unlink val": 2, "write lock": 2, "write partial": 2, "write tmp": 3,
}  # fmt: skip
"""The points of a store that is there, and about how often a life of 40 calls meets each."""

MAKING = {
    "create db": 1, "mkdir": 257, "sqlite create journal": 2, "sqlite create wal": 1,
    "sqlite unlink journal": 2, "sqlite write db": 20, "sqlite write journal": 7,
    "sqlite write wal": 60, "fsync dir": 2, "create live": 1, "BEGIN": 2, "COMMIT": 2,
}  # fmt: skip
"""Those of one that is being made."""

WITHIN = {"BEGIN": 4, "COMMIT": 4, "sqlite write wal": 60, "request": 4, "answer": 4}
"""Those of nearly every call, and about how often a life meets them in calls of one name."""

TORN = frozenset(kind for kind in (*KINDS, *MAKING) if "write" in kind)
"""Points at which half of what is written may have arrived."""

_CLASSES = (
    (r"cache\.db-wal", "wal"),
    (r"cache\.db-shm", "shm"),
    (r"cache\.db-journal", "journal"),
    (r"cache\.db", "db"),
    (r"[0-9a-f]{2}/[^/]*\.val", "val"),
    (r"tmp/[^/]*", "tmp"),
    (r"partial/[^/]*", "partial"),
    (r"live/[^/]*", "live"),
    (r"[a-z]*\.lock", "lock"),
)


@dataclass(frozen=True)
class Target:
    """Where to kill: at the nth point of a kind."""

    kind: str
    nth: int
    when: str
    """"before", "after" or "torn": when half is written."""
    call: str = ""
    """Only those in the middle of calls of this name count."""

    def __str__(self) -> str:
        where = f"in {self.call}: " if self.call else ""
        return f"{where}{self.when} {self.kind}"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """The points of this process.

    Attributes
    ----------
    call
        The name of the call that is under way.
    """

    def __init__(self, directory: str, target: Target | None, tell: Callable[[str], None]) -> None:
        self._directory = os.path.realpath(directory)
        self._target = target
        self._tell = tell
        self._met = 0
        self.call = ""

    def kind_of(self, path: Any) -> str | None:
        """Return the class of a file or an open descriptor; None if it isn't the store's."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)")
        path = os.path.abspath(os.fsdecode(path))
        if path == os.path.dirname(self._directory) or path == self._directory:
            return "dir"
        if not path.startswith(self._directory + "/"):
            return None
        inside = path[len(self._directory) + 1 :]
        for pattern, kind in _CLASSES:
            if re.fullmatch(pattern, inside):
                return kind
        return "dir"

    def around(
        self, kind: str | None, work: Callable[[], Any], half: Callable[[], Any] | None = None
    ) -> Any:
        """Do something that is a point, or be killed there."""
        if kind is None:
            return work()
        self._tell(kind)
        target = self._target
        if target is None or target.kind != kind or target.call not in ("", self.call):
            return work()
        self._met += 1
        if self._met != target.nth:
            return work()
        if target.when == "after":
            work()
        elif target.when == "torn" and half is not None:
            half()
        _die()

    def named(self, verb: str, path: Any, *, db: bool = False) -> str | None:
        kind = self.kind_of(path)
        if kind is None or kind == "shm":
            return None
        return f"sqlite {verb} {kind}" if db else f"{verb} {kind}"


def install(directory: str, target: Target | None, tell: Callable[[str], None]) -> Points:
    """Make points of all that this process does to a directory from now on.

    Parameters
    ----------
    directory
        The store's.
    target
        Where to kill; None: nowhere.
    tell
        Called with each point before it.
    """
    points = Points(directory, target, tell)
    _patch_os(points)
    _patch_files(points)
    _patch_statements(points)
    _patch_sqlite(points)
    _patch_http(points)
    return points


def _patch_os(points: Points) -> None:
    real_open, real_fsync = os.open, os.fsync
    real_pwrite, real_truncate = os.pwrite, os.ftruncate
    real_unlink, real_mkdir, real_rename = os.unlink, os.mkdir, os.rename

    def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
        kind = None
        if flags & os.O_CREAT and not os.path.lexists(path):
            kind = points.named("create", path)
        found: int = points.around(kind, lambda: real_open(path, flags, *more, **named))
        return found

    def fsync(descriptor: Any) -> None:
        points.around(points.named("fsync", descriptor), lambda: real_fsync(descriptor))

    def pwrite(descriptor: int, data: Any, at: int) -> int:
        written: int = points.around(
            points.named("write", descriptor),
            lambda: real_pwrite(descriptor, data, at),
            lambda: real_pwrite(descriptor, bytes(data)[: len(data) // 2], at),
        )
        return written

    def ftruncate(descriptor: int, size: int) -> None:
        kind = points.named("truncate", descriptor)
        kind = None if kind == "truncate lock" else kind
        points.around(kind, lambda: real_truncate(descriptor, size))

    def unlink(path: Any, **named: Any) -> None:
        kind = points.named("unlink", path) if os.path.lexists(path) else None
        points.around(kind, lambda: real_unlink(path, **named))

    def mkdir(path: Any, *more: Any, **named: Any) -> None:
        kind = None if os.path.lexists(path) or points.kind_of(path) is None else "mkdir"
        points.around(kind, lambda: real_mkdir(path, *more, **named))

    def rename(old: Any, new: Any) -> None:
        points.around(points.named("rename", new), lambda: real_rename(old, new))

    for name, made in (
        ("open", open_), ("fsync", fsync), ("pwrite", pwrite), ("ftruncate", ftruncate),
        ("unlink", unlink), ("remove", unlink), ("mkdir", mkdir), ("rename", rename),
        ("replace", rename),
    ):  # fmt: skip
        setattr(os, name, made)


def _patch_files(points: Points) -> None:
    """Make points of the writes of spools, which `open` buffers."""

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            written: int = points.around(
                points.named("write", self.fileno()),
                lambda: super(File, self).write(data),
                lambda: super(File, self).write(bytes(data)[: len(data) // 2]),
            )
            return written

    def opened(file: Any, mode: str = "r", **named: Any) -> Any:
        if mode == "w+b" and isinstance(file, int):
            return io.BufferedRandom(File(file, "r+b"))
        return builtins.open(file, mode, **named)

    setattr(diskcontent, "open", opened)  # noqa: B010 - it isn't there before


def _patch_statements(points: Points) -> None:
    real = GuardedConnection.execute

    def execute(self: GuardedConnection, sql: str, parameters: Any = (), /) -> Any:
        word = sql.partition(" ")[0]
        kind = word if word in ("BEGIN", "COMMIT", "ROLLBACK") else None
        return points.around(kind, lambda: real(self, sql, parameters))

    GuardedConnection.execute = execute  # type: ignore[method-assign]


def _patch_http(points: Points) -> None:
    send, answer = http.client.HTTPConnection.send, http.client.HTTPConnection.getresponse

    def sending(self: Any, data: Any) -> None:
        points.around("request", lambda: send(self, data))

    def answering(self: Any) -> Any:
        return points.around("answer", lambda: answer(self))

    http.client.HTTPConnection.send = sending  # type: ignore[method-assign]
    http.client.HTTPConnection.getresponse = answering  # type: ignore[method-assign]


# -- SQLite's own calls of the system --------------------------------------------------------


class _Vfs(ctypes.Structure):
    """``sqlite3_vfs``, as far as its door for those who test."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("size", ctypes.c_int),
        ("longest", ctypes.c_int),
        *((f"pointer{number}", ctypes.c_void_p) for number in range(16)),
        (
            "set_call",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
        ),
        ("get_call", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)),
        ("next_call", ctypes.c_void_p),
    )


_kept: list[Any] = []
"""What SQLite calls must live as long as it."""

_libc = ctypes.CDLL(None, use_errno=True)


def _patch_sqlite(points: Points) -> None:
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None)

    def replaced(name: str, result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], None]:
        prototype = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)

        def decorate(made: Callable[..., Any]) -> None:
            address = vfs.contents.get_call(ctypes.cast(vfs, ctypes.c_void_p), name.encode())
            if address is None:
                return  # a build that does it by another call
            real = prototype(address)
            mine = prototype(lambda *given: made(real, *given))
            _kept.extend((real, mine))
            done = vfs.contents.set_call(
                ctypes.cast(vfs, ctypes.c_void_p), name.encode(), ctypes.cast(mine, ctypes.c_void_p)
            )
            assert done == sqlite3.SQLITE_OK

        return decorate

    for name in ("pwrite", "pwrite64"):

        @replaced(
            name, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
        )
        def _write(real: Any, descriptor: int, data: int, size: int, at: int) -> Any:
            return points.around(
                points.named("write", descriptor, db=True),
                lambda: real(descriptor, data, size, at),
                lambda: real(descriptor, data, size // 2, at),
            )

    @replaced("ftruncate", ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    def _truncate(real: Any, descriptor: int, size: int) -> Any:
        return points.around(
            points.named("truncate", descriptor, db=True), lambda: real(descriptor, size)
        )

    @replaced("unlink", ctypes.c_int, ctypes.c_char_p)
    def _unlink(real: Any, path: bytes) -> Any:
        return points.around(points.named("unlink", path, db=True), lambda: real(path))

    @replaced("open", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
    def _open(real: Any, path: bytes, flags: int, mode: int) -> Any:
        kind = None
        if flags & os.O_CREAT and not os.path.lexists(path):
            kind = points.named("create", path, db=True)
        return points.around(kind, lambda: real(path, flags, mode))
