"""Bundles on their way in: read and compared as a whole, then staged or kept.

Next door: `bundle` (the way out), `archive` (the file), `mountcache.local.importing` (what becomes
of an edit or a copy here).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreError,
    StoreFullError,
)
from mountcache.events import BaseEvent, StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
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
from mountcache.local.records import BaseOf, Clean, Edit, EditKind, Row
from mountcache.local.staging import check_group
from mountcache.sync.archive import Archive, Fields, Kind, opened
from mountcache.sync.bundle import Bundled, Paced, Progress, identity_of
from mountcache.sync.mount import Mount

__all__ = ["BundleConflictError", "BundleImport", "import_bundle"]

_IN_MEMORY: Final = 16 * 1048576
"""Bytes of small values that are held in memory before they go to a file, or are kept."""
_BATCH: Final = 500
"""How many copies are kept in one commit, at most."""
_SHOWN: Final = 3


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
            store.staged()
            report = _import_edits(mount, archive, edits, again=again, progress=progress)
            store.staged()
            return report
        return _import_copies(mount, archive, list(_copies_from(mount, archive)), progress)


def _check_origin(mount: Mount, head: Fields, path: str | os.PathLike[str]) -> None:
    for name, theirs, mine in (
        ("upstream", head.text("upstream"), identity_of(mount)),
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
            held=min(1, said.whole("held")),
        )  # fmt: skip
        if key in found:
            raise archive.damaged(f"its manifest has {mount.full(key)!r} twice")
        group = said.text_or_none("group_name")
        try:
            found[key] = Foreign(edit, store, None if group is None else check_group(group))
        except ConfigurationError as error:
            raise archive.damaged(str(error)) from None
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
    total = Paced(progress, sum(sizes.values()) * 2)
    archive.check(sizes, lambda done, _: total.at(done))
    _refuse_conflicts(mount, found)
    needed = {str(each.edit.sha256) for each in new if each.edit.kind == "put"}
    _refuse_too_much(mount, new, sum(sizes[sha256] for sha256 in needed))
    with _Spools(mount) as spools:
        for sha256 in sorted(needed):
            spools.take(archive, sha256, sizes[sha256])
            total.step(sizes[sha256])
        if new:
            found = stage_all(catalog, edits, spools.taken, found, again=again, prefix=mount.prefix)
    new = [each for each in new if found[each.edit.key][1] is Fate.NEW]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
    total = Paced(progress, sum(sizes.values()) + sum(each.clean.size for each in copies))
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
                [
                    (replace(each.clean, body=taken[each.clean.sha256], over=row), each.checked)
                    for each, row in batch
                ],
            )
        kept += len(done)
        for each, _ in batch:
            if each.clean.key not in done:
                size -= each.clean.size
                left_out[mount.full(each.clean.key)] = "more is known of it here meanwhile"
    total.end()
    return BundleImport("cached", kept, already, size, left_out=left_out)


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
