"""Bundles: staged edits, or copies, on their way to another machine in one file.

For a machine without the network: an edit that is staged there keeps what it was made from, so
that a push from there is as safe as from here, and one from both sends nothing twice. Next door:
`unbundle` (the way in), `archive` (the file).
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from mountcache.abc import SupportsIdentity
from mountcache.errors import ConfigurationError, DirectoryError, IntegrityError, StoreBusyError
from mountcache.local.records import Copy, Edit, StagedEdit
from mountcache.local.view import matcher
from mountcache.sync.archive import FORMAT, VERSION, Kind, Writer, written
from mountcache.sync.mount import Mount

__all__ = ["BundleExport", "Bundled", "Paced", "Progress", "export_bundle", "identity_of"]

Progress = Callable[[int, int, str], object]

_EVERY: Final = 0.1
_TRIES: Final = 3


class Bundled(Protocol):
    """A store that can be asked for its two ends."""

    @property
    def mount(self) -> Mount:
        """The two ends."""

    def staged(self) -> Iterator[StagedEdit]:
        """Iterate over what is staged; a mount store of another make is in step with it then."""


@dataclass(frozen=True, slots=True)
class BundleExport:
    """What went into a bundle."""

    keys: int
    """How many keys; with 0 of them no file was written."""
    bytes: int
    """Length of their data, each byte string counted once."""
    added: tuple[str, ...] = ()
    """Other halves of renames, which weren't asked for and came along."""
    unknown: tuple[str, ...] = ()
    """Keys in it of whose push from here nobody knows whether it was applied. A push from there
    compares, and sends nothing twice."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Keys that were asked for and aren't in it, and why."""


def export_bundle(
    store: Bundled,
    path: str | os.PathLike[str],
    pattern: str | Iterable[str] = "*",
    *,
    kind: Kind = "staged",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BundleExport:
    """Write staged edits, or cached copies, to a file that `import_bundle` reads elsewhere.

    The file is there when all of it is; nothing changes here. Memory doesn't grow with the
    values. Whoever can read the file can read what is in it.

    Parameters
    ----------
    store
        A mounted store.
    path
        The file.
    pattern
        A shell pattern of keys, in which ``*`` crosses "/"; or the keys themselves. The other
        half of a rename comes along.
    kind
        "staged": edits, with what they were made from, their authors, notes and groups.
        "cached": the clean copies of keys that have no edit.
    overwrite
        Whether a file that is there is replaced.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.

    Raises
    ------
    FileExistsError
        If there is a file, and it isn't to be replaced.
    IntegrityError
        If data that is here isn't what it was; no file is written.
    ConfigurationError
        If nothing names upstream, so that it couldn't be told again.
    StoreFullError
        If there is no room for the file.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("bundle export")
    target = Path(path)
    upstream = identity_of(mount)
    wanted = _wanted(pattern)
    store.staged()
    for left in reversed(range(_TRIES)):
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(
                errno.EEXIST, "it exists; choose another name, or replace it", str(target)
            )
        try:
            if kind == "staged":
                return _export_edits(mount, target, upstream, wanted, progress)
            return _export_copies(mount, target, upstream, wanted, progress)
        except _ChangedError:
            if not left:
                raise StoreBusyError(
                    "what was to be exported changes all the time, so no bundle was written; "
                    "try again"
                ) from None
    raise AssertionError("unreachable")


class _ChangedError(Exception):
    """What is being exported was changed meanwhile."""


def identity_of(mount: Mount) -> str:
    """Return what names the upstream of a mount; ConfigurationError if nothing does."""
    backing = mount.backing
    identity = backing.identity if isinstance(backing, SupportsIdentity) else None
    if identity is None:
        raise ConfigurationError(
            f"nothing names the upstream of this mount ({type(backing).__name__} has no identity), "
            "so that a bundle of it would mean nothing elsewhere"
        )
    return identity


def _wanted(pattern: str | Iterable[str]) -> Callable[[str], bool]:
    if isinstance(pattern, str):
        matches = matcher({}, pattern)
        return lambda key: matches(key, {})
    return set(pattern).__contains__


def _export_edits(
    mount: Mount,
    target: Path,
    upstream: str,
    wanted: Callable[[str], bool],
    progress: Progress | None,
) -> BundleExport:
    every = {edit.key: edit for edit in mount.catalog.edits()}
    halves = _halves(every)
    asked = {key for key in every if wanted(mount.full(key))}
    chosen = _with_halves(halves, asked)
    left_out: dict[str, str] = {}
    unknown: list[str] = []
    for op in mount.catalog.ops():
        if op.key not in chosen:
            continue
        edit = every[op.key]
        if op.state == "sending" or edit.base.kind == "op":
            left_out[op.key] = (
                "what was sent of it had no answer yet: `push` finds out what became of that, "
                "then export it"
            )
        else:
            unknown.append(mount.full(op.key))
    # Half of a rename alone would be another change than the one that was made.
    for key in _with_halves(halves, set(left_out)) - left_out.keys():
        left_out[key] = "half of a rename whose other half is left out"
    edits = [edit for key, edit in every.items() if key in chosen and key not in left_out]
    report = BundleExport(
        len(edits),
        sum({edit.sha256: edit.size or 0 for edit in edits}.values()),
        tuple(mount.full(edit.key) for edit in edits if edit.key not in asked),
        tuple(key for key in unknown if key[len(mount.prefix) :] not in left_out),
        {mount.full(key): why for key, why in left_out.items()},
    )
    if not edits:
        return report
    total = Paced(progress, report.bytes)
    with written(target) as writer:
        for edit in edits:
            if edit.content is not None:
                _add(mount, writer, edit, total)
        now = {edit.key: edit.seq for edit in mount.catalog.edits()}
        if {key: edit.seq for key, edit in every.items() if key in chosen} != {
            key: seq for key, seq in now.items() if key in chosen
        }:
            raise _ChangedError
        names = mount.catalog.group_names()
        entries = [_edit_said(mount, edit, names.get(edit.group)) for edit in edits]
        _finish(mount, writer, "staged", upstream, entries)
    return report


def _halves(every: Mapping[str, Edit]) -> dict[str, set[str]]:
    """Return for each key that is half of a rename the other halves."""
    found: dict[str, set[str]] = {}
    for edit in every.values():
        if edit.partner is not None and edit.partner in every:
            found.setdefault(edit.key, set()).add(edit.partner)
            found.setdefault(edit.partner, set()).add(edit.key)
    return found


def _with_halves(halves: Mapping[str, set[str]], asked: set[str]) -> set[str]:
    """Return keys, and all that are the other halves of their renames."""
    chosen, todo = set(asked), list(asked)
    while todo:
        more = halves.get(todo.pop(), set()) - chosen
        chosen |= more
        todo += more
    return chosen


def _export_copies(
    mount: Mount,
    target: Path,
    upstream: str,
    wanted: Callable[[str], bool],
    progress: Progress | None,
) -> BundleExport:
    rows = (mount.catalog.row(key) for key in mount.catalog.copies() if wanted(mount.full(key)))
    copies = [row.copy for row in rows if row.copy is not None]
    if not copies:
        return BundleExport(0, 0)
    total = Paced(progress, sum({copy.sha256: copy.size for copy in copies}.values()))
    left_out: dict[str, str] = {}
    there: list[Copy] = []
    with written(target) as writer:
        for copy in copies:
            try:
                _add(mount, writer, copy, total)
                there.append(copy)
            except FileNotFoundError:
                left_out[mount.full(copy.key)] = "its copy was evicted meanwhile"
        if not there:
            raise _ChangedError
        _finish(mount, writer, "cached", upstream, [_copy_said(mount, copy) for copy in there])
    size = sum({copy.sha256: copy.size for copy in there}.values())
    return BundleExport(len(there), size, left_out=left_out)


def _add(mount: Mount, writer: Writer, known: Edit | Copy, total: Paced) -> None:
    """Add the bytes of an edit or a copy, unless they are in it already."""
    sha256, size, name = str(known.sha256), known.size or 0, mount.full(known.key)
    if writer.has(sha256) or known.content is None:
        return
    try:
        stream = mount.catalog.open_content(known.content, sha256)
    except FileNotFoundError:
        if isinstance(known, Copy):
            raise
        row = mount.catalog.row(known.key)
        if row.edit is None or row.edit.seq != known.seq:
            raise _ChangedError from None
        raise DirectoryError(
            f"the staged data of {name!r} has gone, or was altered; no bundle was written: "
            "`mountcache doctor` says what is wrong"
        ) from None
    with stream:
        if not writer.add(sha256, size, stream):
            way_on = (
                "drop that copy, or leave it out"
                if isinstance(known, Copy)
                else "set it again, or revert it; `mountcache doctor` says what else is wrong"
            )
            raise IntegrityError(
                f"the data of {name!r} isn't what it was when it was stored; no bundle was "
                f"written: {way_on}"
            )
    total.step(size, name)


def _edit_said(mount: Mount, edit: Edit, group: str | None) -> dict[str, Any]:
    base = edit.base
    return {
        "key": mount.full(edit.key),
        "kind": edit.kind,
        "sha256": edit.sha256,
        "size": edit.size,
        "metadata": edit.meta,
        "base": {
            "kind": base.kind,
            "version": base.version,
            "sha256": base.sha256,
            "metadata": base.meta,
            "entry": base.entry,
        },
        "partner": None if edit.partner is None else mount.full(edit.partner),
        "number": edit.seq,
        "group": edit.group,
        "group_name": group,
        "held": edit.held,
        "author": edit.author,
        "at": edit.at,
        "notes": edit.notes,
    }


def _copy_said(mount: Mount, copy: Copy) -> dict[str, Any]:
    return {
        "key": mount.full(copy.key),
        "sha256": copy.sha256,
        "size": copy.size,
        "metadata": copy.meta,
        "version": copy.version,
        "validators": copy.validators,
        "modified": copy.modified,
        "checked": copy.checked,
        "entry": copy.entry,
    }


def _finish(
    mount: Mount, writer: Writer, kind: Kind, upstream: str, entries: Sequence[Mapping[str, Any]]
) -> None:
    head = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "upstream": upstream,
        "mount_point": mount.prefix,
        "store": mount.catalog.content.incarnation,
        "made": mount.clock(),
    }
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    text = json.dumps(head, ensure_ascii=False)[:-1]
    writer.finish(f'{text}, "entries": [\n{lines}\n]}}\n'.encode())


class Paced:
    """Progress in bytes, told at most ten times a second and at the end."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._told = 0.0

    def at(self, done: int) -> None:
        """Note that so many bytes are done."""
        self._done = done
        self._tell("")

    def step(self, size: int, key: str = "") -> None:
        """Note that so many more are."""
        self._done += size
        self._tell(key)

    def end(self) -> None:
        """Note that all are."""
        self._done, self._told = self._total, 0.0
        self._tell("")

    def _tell(self, key: str) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._told >= _EVERY or self._done >= self._total:
            self._told = now
            self._progress(self._done, self._total, key)
