"""What a change makes of a key: pure functions over the records, no I/O.

`base_for` says what the author of a change had seen; `stage` what becomes of the key's edit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from mountcache.abc import ABSENT, Base
from mountcache.errors import ConflictError
from mountcache.jsonform import content_version, parse
from mountcache.local.records import (
    ABSENT_BASE,
    NO_BASE,
    UNKNOWN_BASE,
    BaseOf,
    Clean,
    Copy,
    EditKind,
    Entry,
    Row,
    Seen,
    Taken,
)

__all__ = [
    "EMPTY_SHA",
    "Draft",
    "Token",
    "base_for",
    "base_of_seen",
    "copy_version",
    "hides_nothing",
    "is_outdated",
    "merged_meta",
    "same_token",
    "stage_again",
    "stage_delete",
    "stage_write",
    "token_of",
]

EMPTY_SHA = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Draft:
    """What a change makes of a key's edit, before it has a place in the catalog."""

    key: str
    kind: EditKind
    meta: str
    version: str | None = None
    sha256: str | None = None
    size: int | None = None
    content: str | None = None
    """Bytes that are in the store already; None with kind "put": new ones come with it."""
    base: BaseOf | None = None
    """The base that the caller named (``base=``); None: what the author had seen."""
    partner: str | None = None


def base_for(row: Row, handed: Seen | None, *, mounted: bool) -> BaseOf:
    """Return the base of a new edit of the key.

    1. While a push of the edit is in flight, its result is the base.
    2. An edit over an edit keeps its base; one that was set past the mount has none yet.
    3. What was handed out last, here or before a replacement that nobody asked for. An edit of
       one's own counts: it has been pushed since, or given up, perhaps by another process.
    4. The clean copy, then the index entry.
    5. Absent if the catalog is complete; else nobody knows.
    """
    if row.op is not None and (row.edit is None or row.op.edit_seq == row.edit.seq):
        return BaseOf("op", op_id=row.op.op_id)
    if row.edit is not None and (row.edit.base.kind != "none" or not mounted):
        return row.edit.base
    if not mounted:
        return NO_BASE
    if handed is not None:
        return _base_of_handed(row, handed)
    for known in (row.copy, row.entry):
        if known is not None and known.seen is not None:
            return base_of_seen(known.seen)
    if row.copy is not None:
        return base_of_seen(seen_of_copy(row.copy))
    if row.entry is not None:
        return base_of_seen(seen_of_entry(row.entry))
    return ABSENT_BASE if row.complete else UNKNOWN_BASE


def _base_of_handed(row: Row, handed: Seen) -> BaseOf:
    """Return the base of who was handed this, if nothing is staged or in flight any more."""
    copy, entry, over = row.copy, row.entry, handed.edit_over
    if over is None:
        return base_of_seen(handed)
    sights = [
        *((seen_of_copy(copy), copy.seen) if copy is not None else ()),
        *((seen_of_entry(entry), entry.seen) if entry is not None else ()),
    ]
    known = [each for each in sights if each is not None]
    for each in known:
        if _is_same(handed, each):
            return base_of_seen(each)  # pushed: upstream's version of it is known, or was
    known = [each for each in known if each.version is not ABSENT]
    if handed.version is ABSENT and not known:
        return ABSENT_BASE
    created = over.version is None and over.sha256 is None
    given_up = not known if created else any(_is_of(over, each) for each in known)
    return over if given_up else base_of_seen(handed)


def _is_same(handed: Seen, known: Seen) -> bool:
    """Return whether what was handed out of an edit is what upstream has, or had."""
    if handed.version is ABSENT or known.version is ABSENT:
        return handed.version is known.version
    return handed.sha256 is not None and handed[1:3] == known[1:3]


def _is_of(base: BaseOf, known: Seen) -> bool:
    """Return whether a base names what is, or was, known of upstream."""
    if base.version is not None:
        return base.version == known.version
    return base.sha256 is not None and (base.sha256, base.meta) == (known.sha256, known.meta)


def base_of_seen(seen: Seen) -> BaseOf:
    """Return the base that names what was handed out."""
    match seen:
        case Seen(version=version) if version is ABSENT:
            return ABSENT_BASE
        case Seen(version=str() as version):
            return BaseOf("version", version, seen.sha256, seen.meta, seen.entry)
        case Seen(sha256=str()):
            return BaseOf("digest", None, seen.sha256, seen.meta, seen.entry)
        case Seen(entry=str()) | Seen(meta=str()):
            return BaseOf("entry", None, None, seen.meta, seen.entry)
        case _:
            return UNKNOWN_BASE


def seen_of_copy(copy: Copy) -> Seen:
    """Return what a read of the copy hands out."""
    return Seen(copy.version, copy.sha256, copy.meta, copy.entry)


def seen_of_entry(entry: Entry) -> Seen:
    """Return what a read of the index entry hands out."""
    if not entry.present:
        return Seen(ABSENT)
    return Seen(entry.version, entry.sha256, entry.meta, entry.entry)


def is_outdated(clean: Clean, before: Row, now: Row) -> bool:
    """Return whether a download was overtaken: something else is known since it was asked for.

    Parameters
    ----------
    before, now
        What was known of the key then, and is now.
    """
    copy, entry = now.copy, now.entry
    if copy is not None and (before.copy is None or before.copy.content != copy.content):
        return True
    if entry is None or (before.entry is not None and _told(entry) == _told(before.entry)):
        return False
    versions = {entry.version, clean.version} - {None}
    return not entry.present or entry.meta != clean.meta or len(versions) > 1


def _told(entry: Entry) -> tuple[bool, str | None, str]:
    return entry.present, entry.version, entry.meta


def copy_version(copy: Copy) -> str:
    """Return the version by which users know the copy: upstream's, or its content hash."""
    return copy.version or content_version(copy.sha256, parse(copy.meta))


def merged_meta(row: Row) -> str | None:
    """Return the metadata of the key in the merged view, None if the key isn't in it."""
    if row.edit is not None:
        return None if row.edit.kind == "del" else row.edit.meta
    if row.entry is not None:
        return row.entry.meta if row.entry.present else None
    return row.copy.meta if row.copy is not None else None


def stage_write(
    row: Row,
    *,
    name: str,
    base: Base,
    mounted: bool,
    data: tuple[str, int] | None,
    meta: str | None,
    merge: dict[str, Any] | None = None,
    content: str | None = None,
) -> Draft:
    """Return what a set, set_data, set_metadata or update_metadata makes of the key.

    Parameters
    ----------
    row
        What is known of the key. For a bare store, its edit alone counts.
    name
        What the caller calls the key, for messages.
    base
        The version that the caller wants to replace.
    mounted
        Whether the change comes through a mount.
    data
        sha256 and size of the new data; None leaves the data as it is.
    meta
        New metadata as JSON text; None leaves it as it is.
    merge
        Names to change in the metadata there is.
    content
        The id of the new data where the store holds it already.

    Raises
    ------
    ConflictError
        If `base` isn't what is there.
    """
    named = _named_base(row, name, base, mounted=mounted)
    edit = row.edit
    current = merged_meta(row if mounted else replace(row, copy=None, entry=None))
    if meta is None:
        meta = current if current is not None else "{}"
    if merge is not None:
        meta = json.dumps({**parse(meta), **merge}, ensure_ascii=False, separators=(",", ":"))
    if data is not None:
        sha, size = data
        kind: EditKind = "put"
    elif edit is not None and edit.kind == "put":
        kind, content, sha, size = "put", edit.content, edit.sha256 or "", edit.size or 0
    elif current is not None:
        return _metadata_edit(row, meta, named)
    else:
        kind, sha, size = "put", EMPTY_SHA, 0
    version = content_version(sha, parse(meta))
    partner = edit.partner if edit is not None and edit.kind != "del" else None
    return Draft(row.key, kind, meta, version, sha, size, content, named, partner)


def _metadata_edit(row: Row, meta: str, named: BaseOf | None) -> Draft:
    """Return an edit of the metadata of a key whose bytes are upstream's business."""
    seen = named or base_for(row, None, mounted=True)
    data = seen.sha256 or (row.copy.sha256 if row.copy else None) or seen.version or ""
    return Draft(row.key, "meta", meta, content_version(data, parse(meta)), base=named)


def stage_again(row: Row, name: str, taken: Taken) -> Draft:
    """Return what staging again what was taken away makes of the key: see `Staging.restore`.

    Raises
    ------
    KeyError
        If only metadata were staged, and the key is in the merged view no more.
    """
    # An edit or a push that is there now says what comes before; else it is what came before then.
    fresh = row.edit is None and row.op is None
    if taken.content is None and merged_meta(row) is None:
        raise KeyError(name)
    if taken.content is None and fresh:
        data = taken.base.sha256 or taken.base.version or ""
        version = content_version(data, parse(taken.meta))
        return Draft(row.key, "meta", taken.meta, version, base=taken.base)
    bytes_of = None if taken.content is None else (taken.sha256 or "", taken.size or 0)
    draft = stage_write(
        row,
        name=name,
        base=None,
        mounted=True,
        data=bytes_of,
        meta=taken.meta,
        content=taken.content,
    )
    return replace(draft, base=taken.base if fresh else None)


def stage_delete(row: Row, *, name: str, base: Base, mounted: bool) -> Draft:
    """Return what a delete makes of the key: a whiteout, unless it `hides_nothing`.

    Raises
    ------
    KeyError
        If the key isn't in the merged view.
    ConflictError
        If `base` isn't what is there.
    """
    view = row if mounted else replace(row, copy=None, entry=None)
    named = _named_base(row, name, base, mounted=mounted)
    if merged_meta(view) is None:
        raise KeyError(row.key)
    return Draft(row.key, "del", "{}", base=named)


def hides_nothing(row: Row, base: BaseOf, *, mounted: bool) -> bool:
    """Return whether a whiteout of the key isn't needed: without its edit it is nowhere.

    A bare store has no upstream to hide. Through a mount the base has to be absent: a request
    in flight may yet make the key, and what is only hidden here has to stay hidden.
    """
    if not mounted:
        return True
    return base.kind == "absent" and merged_meta(replace(row, edit=None)) is None


def _named_base(row: Row, name: str, base: Base, *, mounted: bool) -> BaseOf | None:
    """Return the base that the caller named, None if the author's own sight counts."""
    if base is None:
        return None
    found: Base
    edit, copy, entry = row.edit, row.copy, row.entry
    if edit is not None:
        found = ABSENT if edit.kind == "del" else edit.version
        if found == base:
            return None
    elif not mounted:
        found = ABSENT
        if base is ABSENT:
            return None
    else:
        if copy is not None and base in (copy_version(copy), _content_of(copy)):
            return base_of_seen(seen_of_copy(copy))
        # Upstream may have shown a later one than the copy that is here.
        if entry is not None and entry.present and base in (entry.version, _content_of(entry)):
            return base_of_seen(seen_of_entry(entry))
        if copy is None:
            return ABSENT_BASE if base is ABSENT else BaseOf("version", str(base))
        found = copy_version(copy)
    wanted = "to be created" if base is ABSENT else f"to be version {_short(base)}"
    shown = "is absent" if found is ABSENT else f"is version {_short(found)}"
    raise ConflictError(
        f"{name!r} was {wanted} but {shown} here; read it again and redo the change",
        key=name,
        expected=base,
        found=found,
    )


def _content_of(known: Copy | Entry) -> str | None:
    """Return the content hash of a copy or an index entry, None if its digest isn't known."""
    return content_version(known.sha256, parse(known.meta)) if known.sha256 else None


def _short(version: Base) -> str:
    text = str(version)
    return text if len(text) <= 16 else text[:12] + "..."


@dataclass(frozen=True, slots=True)
class Token:
    """What a transaction remembers of a key that it read."""

    edit_seq: int | None
    present: bool
    version: str | None = None
    sha256: str | None = None
    entry: str | None = None
    known: bool = True
    """False if nothing was known of the key here: what is learned later is no change."""


def token_of(row: Row, *, mounted: bool) -> Token:
    """Return what names the key's state now, the loss of a copy left out."""
    if row.edit is not None or not mounted:
        edit = row.edit
        return Token(edit.seq if edit else None, edit is not None and edit.kind != "del")
    if row.entry is not None:
        entry = row.entry
        return Token(None, entry.present, entry.version, entry.sha256, entry.entry)
    if row.copy is not None:
        return Token(None, True, row.copy.version, row.copy.sha256, row.copy.entry)
    return Token(None, False, known=row.complete)


def same_token(then: Token, now: Token) -> bool:
    """Return whether the key is as it was read.

    What was unknown then may be known now: a fill learns digests and versions.
    """
    if then.edit_seq != now.edit_seq:
        return False
    if not then.known:
        return True
    if then.present != now.present:
        return False
    pairs = zip(
        (then.version, then.sha256, then.entry), (now.version, now.sha256, now.entry), strict=True
    )
    return all(a is None or b is None or a == b for a, b in pairs)
