"""Folders of the user's: what is in one, and writing beneath one and nowhere else.

Next door, `trees` makes keys of the files of a folder and files of keys.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["Beneath", "Folder", "look", "open_file", "parts"]


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found in a folder."""

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    """Where each file is, by its path below the folder, in which "/" separates."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What isn't among them although nobody excluded it, and why."""


def look(
    root: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
    avoid: Path | None = None,
) -> Folder:
    """Return what is in a folder, and in those in it; reads no file.

    No link is followed out of the folder, and none to a folder.

    Parameters
    ----------
    include
        Shell patterns, of which a file's path below the folder, or that of a folder it lies in,
        has to match one; "*" crosses "/". None given: all.
    exclude
        Shell patterns of which none may.
    hidden
        Whether files and folders whose names begin with "." are taken too.
    avoid
        A folder that is never looked into.
    """
    found = Folder(root)
    included, excluded = _any_of(include), _any_of(exclude)
    real = os.path.realpath(root)
    never = None if avoid is None else os.path.realpath(avoid)
    todo = _entries(root, "", inside=not include)
    while todo:
        path, entry, inside = todo.pop()
        if excluded(path):
            continue
        wanted = inside or included(path)
        if entry.name.startswith(".") and not hidden:
            if wanted:
                found.left_out[path] = "hidden"
        elif not entry.is_dir(follow_symlinks=False):
            if wanted:
                _take(found, path, entry, real, never)
        elif os.path.realpath(entry.path) == never:
            found.left_out[path] = "the local store itself"
        else:
            todo += _entries(Path(entry.path), f"{path}/", inside=wanted)
    return found


_Entry = tuple[str, os.DirEntry[str], bool]


def _entries(folder: Path, before: str, *, inside: bool) -> list[_Entry]:
    """Return what is in one folder, the first name last."""
    with os.scandir(folder) as entries:
        return [
            (f"{before}{entry.name}", entry, inside)
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True)
        ]


def _take(found: Folder, path: str, entry: os.DirEntry[str], root: str, never: str | None) -> None:
    """Note a file, or why it is left out."""
    if not entry.is_symlink():
        if entry.is_file(follow_symlinks=False):
            found.files[path] = Path(entry.path)
        else:
            found.left_out[path] = "neither a file nor a folder"
        return
    target = os.path.realpath(entry.path)
    if not target.startswith(root.rstrip("/") + "/") or _lies_in(target, never):
        found.left_out[path] = "a link out of the folder"
    elif os.path.isfile(target):
        found.files[path] = Path(target)
    else:
        found.left_out[path] = "a link to what is no file"


def _lies_in(path: str, folder: str | None) -> bool:
    return folder is not None and path.startswith(folder + "/")


def _any_of(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a path matches one of some shell patterns."""
    texts = [fnmatch.translate(pattern.rstrip("/")) for pattern in patterns]
    if not texts:
        return lambda path: False
    matches = re.compile("|".join(texts)).match
    return lambda path: matches(path) is not None


def open_file(path: Path) -> io.BufferedReader:
    """Open a file that `look` found, if it still is one and no link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file any more", str(path))
    return open(fd, "rb")


class Beneath:
    """A folder in which files are written, and outside of which nothing is.

    Each file is written aside and renamed. No link below the folder is followed, whoever puts
    one there while this goes on: every step on the way is made from the folder before it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write(
        self, path: str, fill: Callable[[BinaryIO], object], *, replace: bool, mode: int = 0o666
    ) -> None:
        """Write a file, whole or not at all.

        Parameters
        ----------
        path
            Its path below the folder.
        fill
            Writes its bytes.
        replace
            Whether one that is there already may be replaced.
        mode
            Its permissions, less the umask.

        Raises
        ------
        FileExistsError
            If one is there already.
        """
        *folders, name = parts(path)
        aside = f".{uuid.uuid4().hex}.part"
        with self._inner(folders) as fd:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(aside, flags, mode, dir_fd=fd), "wb") as file:
                    fill(file)
                if replace:
                    os.rename(aside, name, src_dir_fd=fd, dst_dir_fd=fd)
                else:
                    _rename_onto_nothing(aside, name, fd)
            except OSError as error:
                _remove(aside, fd)
                if error.filename == aside:
                    # The file that it is about, not the one beside it.
                    raise OSError(error.errno, error.strerror, path) from error
                raise
            except BaseException:
                _remove(aside, fd)
                raise

    def read(self, path: str) -> io.BufferedReader | None:
        """Open a file below the folder; None if nothing is there.

        Raises
        ------
        OSError
            If something else than a file is.
        """
        *folders, name = parts(path)
        try:
            with self._inner(folders, make=False) as fd:
                there = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISREG(there.st_mode):
                    kind = "folder" if stat.S_ISDIR(there.st_mode) else "link, or other than a file"
                    raise FileExistsError(errno.EEXIST, f"a {kind} is there already", path)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                return open(os.open(name, flags, dir_fd=fd), "rb")
        except FileNotFoundError:
            return None

    @contextmanager
    def _inner(self, folders: Sequence[str], *, make: bool = True) -> Iterator[int]:
        """Give the descriptor of a folder below this one."""
        fd = os.dup(self._fd)
        try:
            for number, name in enumerate(folders):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inner = os.open(name, flags, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    here = "/".join(folders[: number + 1])
                    raise NotADirectoryError(
                        errno.ENOTDIR, "is a link or a file where a folder is needed", here
                    ) from None
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)


def parts(path: str) -> list[str]:
    """Return the segments of a path below a folder.

    Raises
    ------
    ValueError
        If it would lead elsewhere.
    """
    found = path.split("/")
    for part in found:
        if part in ("", ".", ".."):
            what = repr(part) if part else "an empty name"
            raise ValueError(f"{path!r} has {what} between its slashes, so no file can have it")
    return found


def _rename_onto_nothing(aside: str, name: str, fd: int) -> None:
    try:
        # A second name is refused where a rename would replace.
        os.link(aside, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "is there already", aside) from None
    except OSError:
        # A file system without second names.
        if _is_there(name, fd):
            raise FileExistsError(errno.EEXIST, "is there already", aside) from None
        os.rename(aside, name, src_dir_fd=fd, dst_dir_fd=fd)
    else:
        os.unlink(aside, dir_fd=fd)


def _is_there(name: str, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(name: str, fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)
