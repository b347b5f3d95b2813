"""What is wrong with a store's directory, and the mending of it.

`examine` looks and writes nothing. `repair` mends what it can: it never deletes a staged edit, and
what it can't place goes to ``lost+found/``. How a damaged database is made anew is next door, in
`mountcache.local.salvage`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mountcache.errors import DirectoryError
from mountcache.local import directory as places
from mountcache.local import schema
from mountcache.local.cache import (
    DATABASE,
    check_settings,
    checked_filename,
    filename_of,
    likely_filename,
)
from mountcache.local.connection import is_damage, store_error
from mountcache.local.content import BINARY, RAW, WAIT
from mountcache.local.diskcontent import DiskContent
from mountcache.local.liveness import FileLock, living
from mountcache.local.planted import check_schema, check_state, missing, value_opener
from mountcache.local.rights import GROUP, OWNER, is_shared
from mountcache.local.salvage import LOST, Lost, rebuild, unfinished

__all__ = ["Finding", "examine", "repair"]

Severity = Literal["error", "warning", "note"]

Kind = Literal[
    "rights", "owner", "place", "stranger", "room", "database", "rebuilt", "counter", "clock",
    "push", "staged bytes", "undo bytes", "copied bytes", "row of bytes", "nameless bytes",
    "file",
]  # fmt: skip

_PIECE: Final = 1048576
_NAMING: Final = ("edit", "op", "undo", "copy")
_COUNTED: Final = {"edit": "staged_bytes", "copy": "clean_bytes", "undo": "undo_bytes"}
_TOMORROW: Final = 86400.0
_ROW_LOST: Final = "has lost its row in the database"
_LOW: Final = 64 * 1048576


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a directory that its owner should know."""

    kind: Kind
    severity: Severity
    """error: something is lost, or will be; warning: it is mended by `repair`, or harmless; note:
    how things are."""
    what: str
    """One sentence."""
    mend: str = ""
    """What `repair` does, or did, about it; "" if there is nothing to do, or it can't."""
    key: str | None = None
    file: str | None = None


def examine(directory: str | os.PathLike[str]) -> Iterator[Finding]:
    """Iterate over what is wrong with the directory of a store; write nothing.

    Every byte string that a row names is read, and compared with its digest.

    Parameters
    ----------
    directory
        Of a `DiskCacheStore`. Others may use it meanwhile: then what is wrong is looked at twice,
        so that nothing is called lost which they have just replaced.

    Raises
    ------
    DirectoryError
        If there is no store.
    """
    path = _place_of(directory)
    if not living(path / "live"):
        yield from _findings(path)
        return
    found = list(_findings(path))
    if all(each.severity == "note" for each in found):
        yield from found
        return
    # Ids of byte strings are never used again: what is found under the same one stays so.
    again = set(_findings(path))
    yield from (each for each in found if each.severity == "note" or each in again)


def _findings(path: Path) -> Iterator[Finding]:
    yield from _of_directory(path)
    stranger = _stranger(path)
    if stranger is not None:
        yield stranger
        return  # what it leads to is nobody's business here
    unsound = _unsound(path)
    if unsound is not None and living(path / "live"):
        unsound = _unsound(path)  # perhaps who came while it was looked at wrote meanwhile
    if unsound is not None:
        yield unsound
        return
    if not (path / "live").exists():
        return  # nobody has finished making it; whoever opens it does
    with _reading(path) as con:
        yield from _of_rows(con)
        for each in _of_bytes(con, path):
            yield each.finding
        yield from _of_files(con, path)


def repair(directory: str | os.PathLike[str]) -> list[Finding]:
    """Mend what `examine` finds; return what was found, with what was done about it.

    A database that is damaged, gone or tampered with is made anew from all that can be read of
    it; it is itself kept in ``damaged-<UTC>/``. Bytes of which nobody knows the key go to
    ``lost+found/``. Killed half way, it can be begun again.

    Raises
    ------
    DirectoryError
        If there is no store, or another process has it open.
    """
    path = _place_of(directory)
    done = list(_of_directory(path))
    stranger = _stranger(path)
    if stranger is not None:
        return [*done, stranger]
    for each in done:
        if each.file is not None and each.mend:
            _set_mode(path / each.file)
    lock = FileLock(path / "open.lock")
    if not lock.acquire(WAIT):
        raise DirectoryError(f"the store in {path} is being opened by {lock.holder()}; try again")
    try:
        # Whoever comes after this waits for the lock.
        if (others := living(path / "live")) > 0:
            raise DirectoryError(
                f"{others} other process{'' if others == 1 else 'es'} "
                f"ha{'s' if others == 1 else 've'} the store in {path} open; end them, and "
                "repair it then"
            )
        unsound = _unsound(path)
        if unsound is not None:
            done.append(unsound)
            done += [Finding("rebuilt", "warning", each.what, each.where) for each in rebuild(path)]
    finally:
        lock.release()
    if not (path / "live").exists():
        return done
    with _reading(path) as con:
        # Before it is opened: then those of the dead are removed.
        done += [each for each in _of_files(con, path) if each.kind == "file"]
    with closing(DiskContent(path)) as content:
        done += _mend_rows(content)
    return done


def _place_of(directory: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(directory)))
    if not path.is_dir():
        raise DirectoryError(f"{path} is no directory, so there is no store in it")
    if not any((path / name).exists() for name in (DATABASE, "live")):
        raise DirectoryError(f"there is no store in {path}")
    return path


# -- the directory -----------------------------------------------------------------------------


def _stranger(path: Path) -> Finding | None:
    """Return what somebody else put in the place of something of the store's."""
    try:
        places.check_names(path)
    except DirectoryError as error:
        return Finding("stranger", "error", str(error))
    return None


def _of_directory(path: Path) -> Iterator[Finding]:
    folders, files = (GROUP, 0o660) if is_shared(path) else (OWNER, 0o600)
    owner = path.stat().st_uid
    try:
        places.check_file_system(path, places.file_system_of(path))
    except DirectoryError as error:
        yield Finding("place", "error", str(error))
    for place in (path, *sorted(path.glob("*")), *sorted(path.glob("*/*"))):
        try:
            found = place.lstat()
        except FileNotFoundError:
            continue  # of somebody who is at work here
        name = place.relative_to(path).as_posix()
        if _is_ours_to_judge(name):
            mode = stat.S_IMODE(found.st_mode)
            allowed = folders if stat.S_ISDIR(found.st_mode) else files
            if found.st_uid != owner and folders == OWNER:
                yield Finding(
                    "owner", "error",
                    f"{name!r} belongs to the user {found.st_uid}, and the directory to {owner}: "
                    "a program that ran as another user made it; chown it", file=name,
                )  # fmt: skip
            if not stat.S_ISLNK(found.st_mode) and mode & ~allowed:
                yield Finding(
                    "rights",
                    "error",
                    f"others than its owner{' and group' if folders == GROUP else ''} may use "
                    f"{name!r} (mode {mode:04o})",
                    f"its mode becomes {allowed:04o}",
                    file=name,
                )
    free = shutil.disk_usage(path).free
    if free < _LOW:
        yield Finding("room", "warning", f"only {free:,} bytes are free on the disk of {path}")


def _is_ours_to_judge(name: str) -> bool:
    top = name.partition("/")[0]
    return top != LOST and not top.startswith("damaged-") and top != "paths"


def _set_mode(place: Path) -> None:
    folders, files = (GROUP, 0o660) if is_shared(place.parent) else (OWNER, 0o600)
    os.chmod(place, folders if place.is_dir() else files, follow_symlinks=False)


# -- the database ------------------------------------------------------------------------------


def _unsound(path: Path) -> Finding | None:
    """Return why the database has to be made anew; None if it hasn't."""
    mend = "it is made anew from what can be read of it, and kept aside"
    whole = (path / "live").exists()
    if unfinished(path):
        return Finding("database", "error", "a repair was begun and not ended", "it is ended")
    if not (path / DATABASE).exists() and whole:
        return Finding(
            "database", "error", f"the database {DATABASE} is gone",
            f"an empty one is made, and all files go to {LOST}/", file=DATABASE,
        )  # fmt: skip
    wrong = ""
    try:
        with _reading(path) as con:
            (owner,) = con.execute("PRAGMA application_id").fetchone()
            (version,) = con.execute("PRAGMA user_version").fetchone()
            if (version > schema.FORMAT and owner == schema.APPLICATION_ID) or not whole:
                places.look(path, places.reading_mode(path))  # it says what is there instead
                return None
            said = con.execute("PRAGMA integrity_check(3)").fetchall()
            if said != [("ok",)]:
                wrong = "it is damaged: " + "; ".join(str(line) for (line,) in said)
            elif lacking := missing(con):
                wrong = f"it has lost {', '.join(lacking)}"
            else:
                wrong = _tampered(con, path)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise store_error(error, str(path)) or error from error
        wrong = f"it is damaged: {error}"
    return Finding("database", "error", f"the database: {wrong}", mend) if wrong else None


def _tampered(con: sqlite3.Connection, path: Path) -> str:
    """Return why the database isn't opened, though it is sound; "" if it is."""
    try:
        check_schema(con, path)
        check_state(con, path)
        check_settings(con, path)
    except DirectoryError as error:
        return str(error)
    return ""


def _reading(path: Path) -> closing[sqlite3.Connection]:
    """Return a connection that changes nothing, in a block that closes it."""
    quiet = not places.has_log(path) and not living(path / "live")
    uri = places.database_uri(path, "immutable=1" if quiet else "mode=ro")
    con = sqlite3.connect(uri, timeout=5.0, uri=True, isolation_level=None)
    con.execute("PRAGMA trusted_schema = OFF")
    return closing(con)


# -- rows --------------------------------------------------------------------------------------


def _of_rows(con: sqlite3.Connection) -> Iterator[Finding]:
    for table, name in _COUNTED.items():
        (total,) = con.execute(f"SELECT coalesce(sum(size), 0) FROM {table}").fetchone()
        (counted,) = con.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        if counted != total:
            yield Finding(
                "counter", "warning", f"the counter {name} says {counted:,}, and it is {total:,}",
                "it is counted anew",
            )  # fmt: skip
    (latest,) = con.execute("SELECT max(checked) FROM copy").fetchone()
    if latest is not None and latest > time.time() + _TOMORROW:
        when = time.strftime("%Y-%m-%d", time.gmtime(latest))
        yield Finding(
            "clock", "note", f"the clock has shown {when} before: copies of then are asked after"
        )
    for key, state in con.execute("SELECT key, state FROM op"):
        yield Finding(
            "push",
            "note",
            f"a push of {key!r} is {'under way' if state == 'sending' else 'without an answer'}; "
            "the next push finds out what became of it",
            key=key,
        )


@dataclass(frozen=True, slots=True)
class _Bad:
    """Bytes that a row names and that aren't as they were."""

    table: str
    key: str
    content: str
    finding: Finding


def _of_bytes(con: sqlite3.Connection, path: Path) -> Iterator[_Bad]:
    """Compare the bytes of all rows with their digests."""
    checked: dict[str, str] = {}
    for table in _NAMING:
        for key, content, sha, size in con.execute(
            f"SELECT key, content, sha, size FROM {table} WHERE content IS NOT NULL"
        ).fetchall():
            if content not in checked:
                checked[content] = _wrong(con, path, content, sha, size)
            if checked[content]:
                yield _Bad(table, key, content, _bad(table, key, content, checked[content]))


def _bad(table: str, key: str, content: str, wrong: str) -> Finding:
    file = likely_filename(content)
    if wrong == _ROW_LOST:
        return Finding("row of bytes", "error", f"the data of {key!r} {wrong}", "it gets one again",
                       key, file)  # fmt: skip
    match table:
        case "copy":
            return Finding(
                "copied bytes", "warning", f"the clean copy of {key!r} {wrong}",
                "it is dropped, and fetched again", key, file,
            )  # fmt: skip
        case "undo":
            return Finding(
                "undo bytes",
                "warning",
                f"what was kept for undo of {key!r} {wrong}",
                "it is let go",
                key,
                file,
            )
        case _:
            return Finding(
                "staged bytes",
                "error",
                f"what is staged for {key!r} {wrong}; it isn't sent: stage it again, or revert it",
                "", key, file,
            )  # fmt: skip


def _wrong(con: sqlite3.Connection, path: Path, content: str, sha: str, size: int) -> str:
    """Return what is wrong with a byte string; "" if nothing is."""
    row = con.execute(
        "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (content,)
    ).fetchone()
    if row is None:
        try:
            whole = _digest(path / likely_filename(content)) == (sha, size)
        except (DirectoryError, OSError):
            whole = False
        return _ROW_LOST if whole else "is gone"
    mode, filename, value = row
    if mode == RAW:
        found = (hashlib.sha256(value).hexdigest(), len(value))
    else:
        try:
            found = _digest(path / checked_filename(filename, path))
        except FileNotFoundError:
            return "has lost its file"
        except (DirectoryError, OSError) as error:
            return f"can't be read: {error}"
    if found[1] != size:
        return f"has {found[1]:,} bytes, not its {size:,}"
    return "" if found[0] == sha else "isn't what it was: its digest is another"


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", opener=value_opener) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _of_files(con: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    for content, filename in con.execute(
        "SELECT b.key, b.filename FROM Cache b WHERE b.key NOT IN ("
        + " UNION ALL ".join(
            f"SELECT content FROM {table} WHERE content IS NOT NULL" for table in _NAMING
        )
        + ")"
    ):
        yield Finding(
            "nameless bytes", "warning", f"nothing names the bytes {content}",
            f"they go to {LOST}/", key=content, file=filename or DATABASE,
        )  # fmt: skip
    if living(path / "live"):
        return  # files of those who are at work have no rows yet
    named = {name for (name,) in con.execute("SELECT filename FROM Cache") if name}
    named |= {f"partial/{name}" for (name,) in con.execute("SELECT name FROM partial")}
    rooms = [f"{number:02x}" for number in range(256)] + ["tmp", "partial"]
    for room in rooms:
        for file in sorted(path.glob(f"{room}/*")):
            name = file.relative_to(path).as_posix()
            if name not in named:
                yield Finding(
                    "file", "warning", f"no row names the file {name}", "it is removed", file=name
                )


def _mend_rows(content: DiskContent) -> list[Finding]:
    """Mend what a sound database says that isn't so; return what was found."""
    path, con = content.directory, content.connection()
    rows, bad = list(_of_rows(con)), list(_of_bytes(con, path))
    files = list(_of_files(con, path))
    staged = {each.content for each in bad if each.table in ("edit", "op")}
    lost = Lost(path)
    with content.write() as writing:
        for each in bad:
            if each.finding.kind == "row of bytes":
                _name_file(writing, path, each.content)
            elif each.table in ("copy", "undo"):
                writing.execute(
                    f"DELETE FROM {each.table} WHERE key = ? AND content = ?",
                    (each.key, each.content),
                )
                if each.content not in staged:
                    content.release(writing, [each.content])
        for finding in files:
            if finding.kind == "nameless bytes" and finding.key is not None:
                mode, filename, value = writing.execute(
                    "SELECT mode, filename, value FROM Cache WHERE key = ?", (finding.key,)
                ).fetchone()
                with suppress(FileNotFoundError):  # there is nothing left to keep
                    lost.keep(finding.key, value if mode == RAW else content.path(filename))
                content.release(writing, [finding.key])
        for table, name in _COUNTED.items():
            writing.execute(
                f"UPDATE state SET value = (SELECT coalesce(sum(size), 0) FROM {table})"
                " WHERE name = ?",
                (name,),
            )
        # On disk before what it lets go of is removed.
        lost.close()
    content.gc()
    return [*rows, *(each.finding for each in bad), *(f for f in files if f.kind != "file")]


def _name_file(con: sqlite3.Connection, path: Path, content: str) -> None:
    filename = filename_of(content)
    con.execute(
        "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, filename)"
        " VALUES (?, 1, ?, 0, ?, ?, ?) ON CONFLICT DO NOTHING",
        (content, time.time(), (path / filename).stat().st_size, BINARY, filename),
    )
