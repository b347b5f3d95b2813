"""Who may use a store's files: its owner alone, or a group. The rights of its directory say it.

Each file and folder is made with the rights that fit the folder it is in, whatever the umask, so
that who makes one needn't know whose the store is. The group of all is that of the directory,
whose set-group-ID bit hands it on.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["GROUP", "OWNER", "create", "is_shared", "make_folder", "set_rights"]

OWNER = 0o700
"""The rights of a folder for its owner alone."""

GROUP = 0o2770
"""The rights of a folder for a group."""


def is_shared(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder of a store is a group's."""
    return os.stat(folder).st_mode & GROUP == GROUP


def create(path: str | os.PathLike[str], flags: int = os.O_RDWR) -> int:
    """Make a file in a folder of a store; return its descriptor.

    Raises
    ------
    FileExistsError
        If there is one.
    """
    mode = 0o660 if is_shared(os.path.dirname(path)) else 0o600
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.fchmod(descriptor, mode)
    return descriptor


def make_folder(path: Path) -> None:
    """Make a folder in one of a store, if it isn't there."""
    with suppress(FileExistsError):
        path.mkdir(OWNER)
    set_rights(path, GROUP if is_shared(path.parent) else OWNER)


def set_rights(path: Path, mode: int) -> None:
    """Give a folder its rights, if it is ours to give and lacks them."""
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
