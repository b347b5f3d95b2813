"""Makes the ``index.json`` of a folder that a web server gives as it is.

Next door: `index`, which reads it.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import mimetypes
import os
import sqlite3
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mountcache.backing.index import entries_of_object
from mountcache.backing.pages import precise_moment
from mountcache.backing.plain import SIDECAR
from mountcache.errors import (
    ConfigurationError,
    IndexUnreadableError,
    InvalidKeyError,
    InvalidMetadataError,
    StoreError,
)
from mountcache.jsonform import parse, spelling
from mountcache.keys import check_http_key

__all__ = ["Indexed", "write_index"]

_OF_THE_BYTES: Final = ("size", "modified", "sha256", "md5")
_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a change of a file has surely given it another time."""
_LOSS: Final = 100
_TRIES: Final = 3

_logger = logging.getLogger("mountcache")


@dataclass(slots=True)
class Indexed:
    """What came of making an index."""

    target: Path
    keys: int = 0
    hashed: int = 0
    """Files whose digest was computed."""
    gone: int = 0
    """Keys of the index before whose files aren't there any more."""
    left_out: int = 0
    """Files whose names can't be keys."""
    changed: bool = True
    """False if the index before says the same: then it wasn't touched."""


def write_index(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    sha256: bool = False,
    force: bool = False,
    progress: Callable[[int, str], None] = lambda count, key: None,
) -> Indexed:
    """Write the index of all files in a folder, hidden ones and the index itself left out.

    An entry has ``size``, ``modified`` (UTC) and, where it can be told, ``mimetype``; all else that
    an index before says of a key stays. A file with a sidecar, ``<name>.metadata.json``, has what
    that says, and no more. The new index takes the place of the one before in one step, at the
    end; if anything fails, the one before stays.

    Parameters
    ----------
    folder
        The folder; keys are paths under it.
    target
        The index; None: ``index.json`` in the folder.
    sha256
        Whether entries promise a digest. Files that haven't changed since the index before aren't
        read again.
    force
        Write it even if it loses more than half of the keys, and over 100.
    progress
        Called with the number of keys so far and the next one.

    Raises
    ------
    ConfigurationError
        If the folder can't be read.
    IndexUnreadableError
        If what is at `target` isn't an index.
    StoreError
        If it would lose too many keys.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigurationError(f"{root} isn't a folder; give the one that the web server gives")
    path = root / "index.json" if target is None else Path(target)
    made = Indexed(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with closing(_Before(path)) as before, aside.open("x", encoding="utf-8") as file:
            if before.written is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(before.written.st_mode))
            for entry in _entries(root, before, made, sha256=sha256, progress=progress):
                file.write(entry)
            made.gone = before.count - before.found
            if made.gone > _LOSS and made.gone * 2 > before.count and not force:
                raise StoreError(
                    f"{made.gone:,} of the {before.count:,} keys in {path} have no file any more, "
                    "and would lose their metadata; is this the right folder? Nothing was written; "
                    "say --force if they are meant to go"
                )
            file.flush()
            os.fsync(file.fileno())
        made.changed = before.written is None or not (filecmp.cmp(aside, path, shallow=False))
        if made.changed:
            aside.replace(path)
            _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)
    return made


class _Before:
    """The index before, on disk beside its making: neither is ever in memory.

    Attributes
    ----------
    written
        The file; None if there is none.
    count, found
        Its keys, and those that `take` asked for.
    """

    def __init__(self, path: Path) -> None:
        self.written: os.stat_result | None = None
        self.count = self.found = 0
        self._entries = sqlite3.connect("")
        self._entries.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, meta) WITHOUT ROWID")
        try:
            with path.open("rb") as file:
                self.written = os.fstat(file.fileno())
                self._entries.executemany(
                    "INSERT OR REPLACE INTO entry VALUES (?, ?)",
                    ((key, meta) for key, meta, *_ in entries_of_object(file, str(path))),
                )
        except FileNotFoundError:
            return
        except IndexUnreadableError as error:
            self.close()
            raise IndexUnreadableError(
                f"{error}; its metadata would be lost: mend it, or move it away"
            ) from None
        (self.count,) = self._entries.execute("SELECT count(*) FROM entry").fetchone()

    def take(self, key: str) -> dict[str, Any]:
        """Return what it says of a key."""
        found = self._entries.execute("SELECT meta FROM entry WHERE key = ?", (key,)).fetchone()
        if found is None:
            return {}
        self.found += 1
        return parse(found[0])

    def close(self) -> None:
        self._entries.close()


def _entries(
    root: Path,
    before: _Before,
    made: Indexed,
    *,
    sha256: bool,
    progress: Callable[[int, str], None],
) -> Iterator[str]:
    """Iterate over the text of an index."""
    separator = "{"
    for name in _files(root, (), made.target.absolute()):
        key = name.relative_to(root).as_posix()
        try:
            check_http_key(key)
        except InvalidKeyError as error:
            made.left_out += 1
            _logger.warning("a file is left out: %s", error)
            continue
        progress(made.keys, key)
        known = before.take(key)
        try:
            entry = _sidecar(name)
            if entry is None:
                entry = _entry(name, known, before, made, sha256=sha256)
        except FileNotFoundError:
            continue  # removed meanwhile
        yield f"{separator}\n{json.dumps(key, ensure_ascii=False)}:{spelling(entry)}"
        separator = ","
        made.keys += 1
    yield "{}\n" if separator == "{" else "\n}\n"


def _files(folder: Path, above: tuple[tuple[int, int], ...], target: Path) -> Iterator[Path]:
    """Iterate over the files in a folder and all beneath it, in order."""
    told = folder.stat()
    here = (told.st_dev, told.st_ino)
    if here in above:
        _logger.warning("%s leads back to a folder above it", folder)
        return
    for each in sorted(os.scandir(folder), key=lambda each: each.name):
        path = folder / each.name
        if each.name.startswith("."):
            continue
        if each.is_dir():
            yield from _files(path, (*above, here), target)
        elif each.is_file() and path.absolute() != target and not _is_sidecar(path):
            yield path


def _is_sidecar(path: Path) -> bool:
    return path.name.endswith(SIDECAR) and path.with_name(path.name[: -len(SIDECAR)]).is_file()


def _sidecar(name: Path) -> dict[str, Any] | None:
    """Return what the sidecar of a file says; None if it has none."""
    path = name.with_name(name.name + SIDECAR)
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        spelling(found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, InvalidMetadataError) as error:
        raise StoreError(f"{path} isn't a JSON object of metadata: {error}; mend it") from None
    return found


def _entry(
    name: Path, known: dict[str, Any], before: _Before, made: Indexed, *, sha256: bool
) -> dict[str, Any]:
    told = name.stat()
    facts = {"size": told.st_size, "modified": precise_moment(told.st_mtime_ns)}
    entry = {each: value for each, value in known.items() if each not in _OF_THE_BYTES}
    mimetype = mimetypes.guess_type(name.name)[0]
    if mimetype is not None:
        entry.setdefault("mimetype", mimetype)
    same = before.written is not None and (
        all(known.get(each) == facts[each] for each in facts)
        and before.written.st_mtime_ns - told.st_mtime_ns > _SETTLED
    )
    if same:
        facts |= {each: known[each] for each in ("sha256", "md5") if each in known}
    if sha256 and "sha256" not in facts:
        facts = _hashed(name)
        made.hashed += 1
    return {**entry, **facts}


def _hashed(name: Path) -> dict[str, Any]:
    """Return size, time and digest of a file, of one and the same state of it."""
    for _ in range(_TRIES):
        with name.open("rb") as file:
            begun = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            ended = os.fstat(file.fileno())
        if (begun.st_size, begun.st_mtime_ns) == (ended.st_size, ended.st_mtime_ns):
            when = precise_moment(ended.st_mtime_ns)
            return {"size": ended.st_size, "modified": when, "sha256": digest}
    raise StoreError(f"{name} is being written all the time; try again when it is at rest")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
