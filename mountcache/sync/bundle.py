"""Bundles: staged edits, or copies, on their way to another machine in one file.

For a machine without the network: an edit that is staged there keeps what it was made from, so
that a push from there is as safe as from here, and one from both sends nothing twice. Next door:
`archive` (the file), `mountcache.local.importing` (what becomes of it here).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from mountcache.abc import SupportsIdentity
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    DirectoryError,
    IntegrityError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from mountcache.events import (
    BaseEvent,
    StoreDeleteEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import parse
from mountcache.keys import check_key
from mountcache.local.content import Shelf, Spool
from mountcache.local.decide import merged_meta
from mountcache.local.importing import (
    CopyFate,
    Fate,
    Foreign,
    copy_fate_of,
    fates,
    keep_all,
    stage_all,
)
from mountcache.local.records import BaseOf, Clean, Copy, Edit, EditKind, Row
from mountcache.local.view import matcher
from mountcache.sync.archive import FORMAT, VERSION, Archive, Fields, Kind, Writer, opened, written
from mountcache.sync.mount import Mount

__all__ = [
    "BundleConflictError",
    "BundleExport",
    "BundleImport",
    "Bundled",
    "export_bundle",
    "import_bundle",
]

Progress = Callable[[int, int, str], object]

_EVERY: Final = 0.1
_TRIES: Final = 3
_IN_MEMORY: Final = 16 * 1048576
"""Bytes of small values that are held in memory before they go to a file, or are kept."""
_SHOWN: Final = 3


class Bundled(Protocol):
    """A store that can be asked for its two ends."""

    @property
    def mount(self) -> Mount:
        """The two ends."""


class BundleConflictError(ConflictError):
    """Something else is staged here for keys of a bundle. Nothing was imported.

    Parameters
    ----------
    conflicts
        The keys, and what is in the way of each.
    """

    def __init__(self, message: str, conflicts: Mapping[str, str]) -> None:
        super().__init__(message, key=next(iter(conflicts)))
        self.conflicts = conflicts


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


@dataclass(frozen=True, slots=True)
class BundleImport:
    """What came out of a bundle."""

    kind: Kind
    imported: int
    """Edits that were staged, or copies that were kept."""
    already: int
    """Those that were here."""
    bytes: int
    """Length of the data of what was imported."""
    before: tuple[str, ...] = ()
    """Edits that were staged here before, and aren't any more: pushed or reverted since."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Copies that weren't kept, and why."""


# -- out ---------------------------------------------------------------------------------


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
    upstream = _identity(mount)
    wanted = _wanted(pattern)
    for left in reversed(range(_TRIES)):
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(17, "it exists; choose another name, or replace it", str(target))
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


def _identity(mount: Mount) -> str:
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
    total = _Paced(progress, report.bytes)
    with written(target) as writer:
        for edit in edits:
            if edit.content is not None:
                _add(mount, writer, edit, total)
        now = {edit.key: edit.seq for edit in mount.catalog.edits()}
        if {key: edit.seq for key, edit in every.items() if key in chosen} != {
            key: seq for key, seq in now.items() if key in chosen
        }:
            raise _ChangedError
        _finish(mount, writer, "staged", upstream, [_edit_said(mount, edit) for edit in edits])
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
    total = _Paced(progress, sum({copy.sha256: copy.size for copy in copies}.values()))
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


def _add(mount: Mount, writer: Writer, known: Edit | Copy, total: _Paced) -> None:
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
            advice = "drop" if isinstance(known, Copy) else "doctor"
            raise IntegrityError(
                f"the data of {name!r} isn't what it was when it was stored; no bundle was "
                f"written: `mountcache {advice}` is the way on"
            )
    total.step(size, name)


def _edit_said(mount: Mount, edit: Edit) -> dict[str, Any]:
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


# -- in ----------------------------------------------------------------------------------


def import_bundle(
    store: Bundled,
    path: str | os.PathLike[str],
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> BundleImport:
    """Stage the edits of a bundle here, or keep its copies.

    All of it is read and compared with its digests first, and nothing is imported of a bundle
    that isn't whole. Edits are then staged in one commit, all or, if one of them can't be, none.
    They keep what they were made from, who made them, when, and with whom they belong; what was
    staged here before isn't again. Copies count as not asked for, and the next read of one asks
    upstream, if that can be reached.

    Nothing proves who made a bundle: import those of people whose edits you would push.

    Parameters
    ----------
    store
        A mounted store, of the same upstream and mount point.
    path
        The file.
    again
        Whether to stage also what was staged here before and isn't any more.
    progress
        Called as ``progress(done, total, key)``, at most ten times a second and at the end.

    Raises
    ------
    BundleConflictError
        If something else is staged here for one of the keys; it names all of them.
    IntegrityError
        If the bundle is cut or damaged.
    StoreError
        If it is of another upstream or mount point, or of a later format.
    StoreFullError
        Beforehand, if it can't fit.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("bundle import")
    mount.refuse_frozen("bundle import")
    if mount.catalog.content.readonly:
        raise ReadOnlyStoreError("this store can only be read here, so nothing was imported")
    with opened(Path(path)) as archive:
        head = archive.manifest
        kind = head.one_of("kind", ("staged", "cached"))
        _check_origin(mount, head, path)
        if kind == "staged":
            edits = list(_edits_from(mount, archive))
            return _import_edits(mount, archive, edits, again=again, progress=progress)
        return _import_copies(mount, archive, list(_copies_from(mount, archive)), progress)


def _check_origin(mount: Mount, head: Fields, path: str | os.PathLike[str]) -> None:
    for name, theirs, mine in (
        ("upstream", head.text("upstream"), _identity(mount)),
        ("mount point", head.text("mount_point"), mount.prefix),
    ):
        if theirs != mine:
            raise StoreError(
                f"{os.fspath(path)} is a bundle of {name} {theirs!r}, and this store has {mine!r}; "
                f"nothing was imported: import it where the {name} is the same"
            )


def _short(mount: Mount, archive: Archive, key: str) -> str:
    check: Callable[[str], str] = getattr(mount.backing, "check_key", check_key)
    try:
        check(key)
    except InvalidKeyError as error:
        raise archive.damaged(str(error)) from None
    if not key.startswith(mount.prefix) or key == mount.prefix:
        raise archive.damaged(f"{key!r} lies outside its mount point")
    return key[len(mount.prefix) :]


_BASES: Final = ("none", "unknown", "absent", "version", "digest", "entry")


def _edits_from(mount: Mount, archive: Archive) -> Iterator[Foreign]:
    """Iterate over the edits that a bundle tells of, in the order of their making."""
    store = archive.manifest.text("store")
    found: dict[str, Foreign] = {}
    for said in archive.manifest.each("entries"):
        key = _short(mount, archive, said.text("key"))
        kind: EditKind = said.one_of("kind", ("put", "meta", "del"))  # type: ignore[assignment]
        base = said.fields("base")
        partner = said.text_or_none("partner")
        put = kind == "put"
        edit = Edit(
            key, said.whole("number"), kind, None,
            said.digest("sha256") if put else None, said.whole("size") if put else None,
            said.metadata("metadata"), None,
            BaseOf(
                base.one_of("kind", _BASES),  # type: ignore[arg-type]
                base.text_or_none("version"),
                None if base.text_or_none("sha256") is None else base.digest("sha256"),
                base.metadata_or_none("metadata"), base.metadata_or_none("entry"),
            ),
            said.whole("group"), None if partner is None else _short(mount, archive, partner),
            said.text("author"), said.time("at"), said.text("notes"),
        )  # fmt: skip
        if key in found:
            raise archive.damaged(f"its manifest has {mount.full(key)!r} twice")
        found[key] = Foreign(edit, store)
    yield from sorted(found.values(), key=lambda foreign: foreign.edit.seq)


def _import_edits(
    mount: Mount,
    archive: Archive,
    edits: Sequence[Foreign],
    *,
    again: bool,
    progress: Progress | None,
) -> BundleImport:
    catalog = mount.catalog
    sizes = _sizes(archive, [(each.edit.sha256, each.edit.size) for each in edits])
    found = fates(catalog, edits, again=again)
    new = [each for each in edits if found[each.edit.key][1] is Fate.NEW]
    total = _Paced(progress, sum(sizes.values()) * 2)
    archive.check(sizes, lambda done, _: total.at(done))
    _refuse_conflicts(mount, found)
    needed = {str(each.edit.sha256) for each in new if each.edit.kind == "put"}
    _refuse_too_much(mount, new, sum(sizes[sha256] for sha256 in needed))
    with _Spools(mount) as spools:
        for sha256 in sorted(needed):
            spools.take(archive, sha256, sizes[sha256])
            total.step(sizes[sha256])
        if new:
            stage_all(catalog, edits, spools.taken, found, again=again, prefix=mount.prefix)
    total.end()
    for each in new:
        if (event := _event(mount, each.edit, found[each.edit.key][0])) is not None:
            mount.emit(event)
    kept = [fate for _, fate in found.values()]
    return BundleImport(
        "staged", len(new), kept.count(Fate.ALREADY), sum(each.edit.size or 0 for each in new),
        tuple(mount.full(key) for key, (_, fate) in found.items() if fate is Fate.BEFORE),
    )  # fmt: skip


def _sizes(archive: Archive, said: Iterable[tuple[str | None, int | None]]) -> dict[str, int]:
    """Return the length of each byte string that a manifest names."""
    sizes: dict[str, int] = {}
    for sha256, size in said:
        if sha256 is not None and size is not None and sizes.setdefault(sha256, size) != size:
            raise archive.damaged("its manifest gives one byte string two lengths")
    return sizes


def _refuse_conflicts(mount: Mount, found: Mapping[str, tuple[Row, Fate]]) -> None:
    conflicts = {
        mount.full(key): fate.value
        for key, (_, fate) in found.items()
        if fate in (Fate.OTHER, Fate.IN_FLIGHT)
    }
    if conflicts:
        shown = ", ".join(map(repr, list(conflicts)[:_SHOWN]))
        more = f" and {len(conflicts) - _SHOWN:,} more" if len(conflicts) > _SHOWN else ""
        raise BundleConflictError(
            f"something else is staged here, or being pushed, for {len(conflicts):,} of the "
            f"{len(found):,} keys of the bundle ({shown}{more}); nothing was imported: push or "
            "revert what is here, then import it",
            conflicts,
        )


def _refuse_too_much(mount: Mount, new: Sequence[Foreign], size: int) -> None:
    catalog = mount.catalog
    staged = sum(each.edit.size or 0 for each in new)
    room = catalog.staged_room(new[0].edit.key) if new else None
    if room is not None and staged > room:
        raise catalog.too_much_staged(catalog.state("staged_bytes"))
    if size > catalog.content.free_bytes():
        raise StoreFullError(
            f"the bundle has {size:,} bytes to be staged, and there is room for "
            f"{catalog.content.free_bytes():,}; nothing was imported: make room first"
        )


class _Spools:
    """The byte strings of a bundle on their way in, by sha256; what isn't adopted goes."""

    def __init__(self, mount: Mount) -> None:
        self._content = mount.catalog.content
        self._shelf: Shelf | None = None
        self._in_memory = 0
        self.taken: dict[str, Spool] = {}

    def __enter__(self) -> _Spools:
        return self

    def __exit__(self, *_: object) -> None:
        for spool in self.taken.values():
            spool.discard()
        if self._shelf is not None:
            self._shelf.close()

    def take(self, archive: Archive, sha256: str, size: int, *, durable: bool = True) -> None:
        """Read one; IntegrityError if it isn't what it was a moment ago."""
        self.taken[sha256] = spool = self._content.spool()
        for chunk in archive.chunks(sha256):
            spool.write(chunk)
        spool.finish(durable)
        if (spool.sha256, spool.size) != (sha256, size):
            raise archive.damaged("it changed while it was read")
        self._in_memory += spool.in_memory
        if self._in_memory > _IN_MEMORY and durable:
            self._shelf = self._shelf or self._content.shelf()
            if self._shelf is not None:
                self._in_memory -= spool.in_memory
                spool.shelve(self._shelf)

    @property
    def in_memory(self) -> int:
        """How many bytes of them are in memory."""
        return self._in_memory


def _event(mount: Mount, edit: Edit, before: Row) -> BaseEvent | None:
    key, was = mount.full(edit.key), merged_meta(before)
    if edit.kind == "del":
        return None if was is None else StoreDeleteEvent(key=key, metadata=parse(was))
    kind = StoreSetEvent if was is None else StoreUpdateEvent
    return kind(key=key, metadata=parse(edit.meta))


@dataclass(frozen=True, slots=True)
class _CopySaid:
    """A copy that a bundle tells of."""

    clean: Clean
    checked: float


def _copies_from(mount: Mount, archive: Archive) -> Iterator[_CopySaid]:
    found: set[str] = set()
    for said in archive.manifest.each("entries"):
        key = _short(mount, archive, said.text("key"))
        if key in found:
            raise archive.damaged(f"its manifest has {mount.full(key)!r} twice")
        found.add(key)
        clean = Clean(
            key, None, said.digest("sha256"), said.whole("size"), said.metadata("metadata"),
            said.text_or_none("version"), said.text("validators"), 0.0,
            said.time_or_none("modified"), said.metadata_or_none("entry"),
        )  # fmt: skip
        yield _CopySaid(clean, said.time("checked"))


def _import_copies(
    mount: Mount, archive: Archive, copies: Sequence[_CopySaid], progress: Progress | None
) -> BundleImport:
    catalog = mount.catalog
    sizes = _sizes(archive, [(each.clean.sha256, each.clean.size) for each in copies])
    total = _Paced(progress, sum(sizes.values()) + sum(each.clean.size for each in copies))
    archive.check(sizes, lambda done, _: total.at(done))
    new: list[tuple[_CopySaid, Row]] = []
    left_out: dict[str, str] = {}
    already = size = 0
    for each in copies:
        clean, row = each.clean, catalog.row(each.clean.key)
        fate = copy_fate_of(row, clean.version, clean.sha256, clean.modified)
        if fate is CopyFate.NEW:
            new.append((each, row))
            size += clean.size
        elif fate is CopyFate.ALREADY:
            already += 1
        else:
            left_out[mount.full(clean.key)] = fate.value
    room = catalog.available()
    if new and ((room is not None and size > room) or not catalog.room_for(size)):
        raise StoreFullError(
            f"{len(new):,} copies of {size:,} bytes don't fit: there is room for {room or 0:,} "
            "bytes; nothing was imported: import fewer, or make a store with a larger size_limit"
        )
    kept = 0
    todo = iter(new)
    while batch := _batch(todo):
        with _Spools(mount) as spools:
            for each, _ in batch:
                if each.clean.sha256 not in spools.taken:
                    spools.take(archive, each.clean.sha256, each.clean.size, durable=False)
                total.step(each.clean.size, mount.full(each.clean.key))
            taken = spools.taken
            done = keep_all(
                catalog,
                [(_filled(each.clean, taken, row), each.checked) for each, row in batch],
            )
        kept += len(done)
        for each, _ in batch:
            if each.clean.key not in done:
                size -= each.clean.size
                left_out[mount.full(each.clean.key)] = "more is known of it here meanwhile"
    total.end()
    return BundleImport("cached", kept, already, size, left_out=left_out)


_BATCH: Final = 500


def _batch(todo: Iterator[tuple[_CopySaid, Row]]) -> list[tuple[_CopySaid, Row]]:
    """Return the next copies that are kept in one commit."""
    batch: list[tuple[_CopySaid, Row]] = []
    size = 0
    for each in todo:
        batch.append(each)
        size += each[0].clean.size
        if len(batch) == _BATCH or size > _IN_MEMORY:
            break
    return batch


def _filled(clean: Clean, taken: Mapping[str, Spool], row: Row) -> Clean:
    return Clean(
        clean.key, taken[clean.sha256], clean.sha256, clean.size, clean.meta, clean.version,
        clean.validators, clean.lifetime, clean.modified, clean.entry, row,
    )  # fmt: skip


class _Paced:
    """Progress in bytes, told at most ten times a second and at the end."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._base = 0
        self._told = 0.0

    def at(self, done: int) -> None:
        """Note that so many bytes are done."""
        self._done = self._base = done
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
