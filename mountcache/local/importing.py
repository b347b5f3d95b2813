"""What was staged or cached in another store becomes so here, in one commit.

`fate_of` decides key by key; `stage_all` and `keep_all` write. What an edit was made from comes
along as it is, so that a push from here overwrites no more than one from there. Next door:
`mountcache.sync.bundle` (the file in which it travels).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mountcache.errors import ConflictError
from mountcache.jsonform import content_version, normal_form, parse
from mountcache.local import history
from mountcache.local.catalog import Catalog, get_state
from mountcache.local.content import Spool
from mountcache.local.records import Clean, Copy, Edit, EditKind, Row
from mountcache.local.rows import base_columns, norm_of
from mountcache.local.staging import named_group, next_seq, remember

__all__ = [
    "CopyFate",
    "Fate",
    "Foreign",
    "copy_fate_of",
    "fate_of",
    "fates",
    "keep_all",
    "stage_all",
]

_INSERT_EDIT = """
INSERT INTO edit (key, seq, norm, version, grp, partner, author, at, notes,
                  held, kind, content, sha, size, meta,
                  base_kind, base, base_sha, base_meta, base_entry, base_op)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class Foreign:
    """An edit that was staged in another store."""

    edit: Edit
    """As it was there; its group and number are those of that store."""
    store: str
    """The incarnation of that store."""
    group: str | None = None
    """The name of its group, if that has one."""

    @property
    def op_id(self) -> str:
        """Names the edit beyond doubt: this one of that store, with these bytes."""
        edit = self.edit
        said = [self.store, edit.seq, edit.key, edit.kind, edit.sha256, edit.meta]
        return "bundle:" + hashlib.sha256(json.dumps(said).encode()).hexdigest()


class Fate(Enum):
    """What becomes of an edit that is to be imported."""

    NEW = "staged"
    ALREADY = "the same is staged here"
    BEFORE = "it was staged here before, and isn't any more"
    OTHER = "something else is staged here"
    IN_FLIGHT = "a push of this key is under way here, or had no answer"


def fate_of(row: Row, edit: Edit, *, before: bool) -> Fate:
    """Return what becomes of an edit.

    1. What was staged here before stays away: an import that is repeated changes nothing.
    2. The same edit is there: nothing to do, whoever made it. Equal content is no conflict.
    3. Another edit, or a push whose end isn't known, is in the way.

    Parameters
    ----------
    row
        What is known of its key here.
    before
        Whether this very edit was staged here at some time.
    """
    mine = row.edit
    if mine is not None and _same(mine, edit):
        return Fate.ALREADY
    if before:
        return Fate.BEFORE
    if mine is not None:
        return Fate.OTHER
    return Fate.NEW if row.op is None else Fate.IN_FLIGHT


def _same(mine: Edit, other: Edit) -> bool:
    if (mine.kind, mine.sha256) != (other.kind, other.sha256):
        return False
    return mine.kind == "del" or _same_meta(mine.meta, other.meta)


def _same_meta(one: str, other: str) -> bool:
    return one == other or normal_form(parse(one)) == normal_form(parse(other))


def fates(
    catalog: Catalog,
    edits: Sequence[Foreign],
    con: sqlite3.Connection | None = None,
    *,
    again: bool = False,
) -> dict[str, tuple[Row, Fate]]:
    """Return by key what is known here, and what becomes of each edit.

    Parameters
    ----------
    again
        Take those that were staged here before for new ones.
    """
    con = catalog.content.connection() if con is None else con
    last = get_state(con, "seq")
    found: dict[str, tuple[Row, Fate]] = {}
    for foreign in edits:
        edit = foreign.edit
        row = catalog.row(edit.key, con)
        own = foreign.store == catalog.content.incarnation and edit.seq <= last
        before = not again and (own or _is_remembered(con, foreign.op_id))
        found[edit.key] = (row, fate_of(row, edit, before=before))
    return found


def _is_remembered(con: sqlite3.Connection, op_id: str) -> bool:
    return con.execute("SELECT 1 FROM done WHERE op_id = ?", (op_id,)).fetchone() is not None


def stage_all(
    catalog: Catalog,
    edits: Sequence[Foreign],
    spools: Mapping[str, Spool],
    expected: Mapping[str, tuple[Row, Fate]],
    *,
    again: bool = False,
    prefix: str = "",
) -> dict[str, tuple[Row, Fate]]:
    """Stage edits of another store, all in one commit; return what became of them.

    Parameters
    ----------
    edits
        In the order of their making.
    spools
        The finished bytes of the new ones, by sha256.
    expected
        What `fates` said of them before their bytes were read.
    prefix
        What the caller's keys have before those of the catalog.

    Raises
    ------
    ConflictError
        If one of the keys was changed here meanwhile.
    StoreFullError
        If that would be more than may be staged.
    """
    with catalog.content.write() as con:
        now = fates(catalog, edits, con, again=again)
        groups: dict[int, tuple[int, int]] = {}
        for foreign in edits:
            edit = foreign.edit
            row, fate = now[edit.key]
            # What another process has imported meanwhile is here: that is all that was wanted.
            surprise = fate is Fate.NEW and expected[edit.key][1] is not Fate.NEW
            if surprise or fate in (Fate.OTHER, Fate.IN_FLIGHT):
                name = prefix + edit.key
                raise ConflictError(
                    f"{name!r} was changed here meanwhile; nothing was imported: do it again",
                    key=name,
                )
            if fate is Fate.ALREADY and row.edit is not None and foreign.group is None:
                # The others of its group join it.
                groups.setdefault(edit.group, (row.edit.group, 0))
        named = {foreign.edit.key for foreign in edits}
        grown = 0
        for foreign in edits:
            edit = foreign.edit
            if now[edit.key][1] is Fate.NEW:
                content = None
                if edit.kind == "put":
                    content = catalog.content.adopt(con, spools[str(edit.sha256)])
                partner = edit.partner if edit.partner in named else None
                if foreign.group is not None and edit.group not in groups:
                    groups[edit.group] = named_group(con, foreign.group, edit.notes)
                group, held = groups.get(edit.group, (0, 0))
                edit = replace(edit, partner=partner, group=group, held=max(edit.held, held))
                group = _insert(con, edit, content)
                groups[foreign.edit.group] = (group, held)
                grown += edit.size or 0
                history.record(
                    con, catalog.clock(), "staged", edit.key, kind=edit.kind, author=edit.author,
                    size=edit.size, version=_version(edit), note="imported from a bundle",
                )  # fmt: skip
            if now[edit.key][1] in (Fate.NEW, Fate.ALREADY) and not _is_remembered(
                con, foreign.op_id
            ):
                remember(con, foreign.op_id, edit.key, None, catalog.clock())
        for group, _ in groups.values():
            # A group is held as a whole, or not at all.
            con.execute(
                "UPDATE edit SET held = 1 WHERE grp = ?"
                " AND EXISTS (SELECT 1 FROM edit x WHERE x.grp = edit.grp AND x.held)",
                (group,),
            )
        catalog.refuse_too_much(con, grown)
    return now


def _insert(con: sqlite3.Connection, edit: Edit, content: str | None) -> int:
    """Write an edit inside a commit; return its group, one of its own if it has none."""
    seq = next_seq(con)
    group = edit.group or seq
    con.execute(
        _INSERT_EDIT,
        (
            edit.key, seq, norm_of(edit.meta), _version(edit), group, edit.partner, edit.author,
            edit.at, edit.notes, edit.held, edit.kind, content, edit.sha256, edit.size, edit.meta,
            *base_columns(edit.base),
        ),
    )  # fmt: skip
    return group


def _version(edit: Edit) -> str | None:
    """Return the version of an edit, which names its bytes and metadata."""
    kind: EditKind = edit.kind
    if kind == "del":
        return None
    base = edit.base
    data = edit.sha256 if kind == "put" else base.sha256 or base.version
    return content_version(data or "", parse(edit.meta))


class CopyFate(Enum):
    """What becomes of a copy that is to be imported."""

    NEW = "kept"
    ALREADY = "it is here"
    STAGED = "an edit of it is staged here"
    GONE = "upstream was seen here not to have it any more"
    OTHER = (
        "another version of it is here, which isn't known to be older; `mountcache drop` that to "
        "have this one"
    )


def copy_fate_of(row: Row, version: str | None, sha256: str, modified: float | None) -> CopyFate:
    """Return what becomes of a copy, given what upstream calls it.

    Which of two versions is the newer is told by upstream's own dates alone: no clock of one
    machine is compared with that of another.

    Parameters
    ----------
    row
        What is known of its key here.
    modified
        When upstream changed it last, by upstream's clock.
    """
    mine = row.copy
    if row.edit is not None or row.op is not None:
        return CopyFate.STAGED
    if mine is not None and mine.sha256 == sha256 and version in (None, mine.version):
        return CopyFate.ALREADY
    if row.entry is not None and not row.entry.present:
        return CopyFate.GONE
    if mine is None or _is_newer(mine, modified):
        return CopyFate.NEW
    return CopyFate.OTHER


def _is_newer(mine: Copy, modified: float | None) -> bool:
    return mine.modified is not None and modified is not None and mine.modified < modified


def keep_all(catalog: Catalog, cleans: Sequence[tuple[Clean, float]]) -> list[str]:
    """Keep verified copies of another store, all in one commit; return the keys that were.

    They count as not asked for: what they replace stays as seen. However young they are said to
    be, the next read asks upstream, if that can be reached: another clock says nothing here.

    Parameters
    ----------
    cleans
        Each with the time at which upstream was asked for it last, in seconds since 1970. Its
        `over` is what was known of the key when this was decided.
    """
    kept = []
    with catalog.content.write() as con:
        gen, used, now = get_state(con, "gen"), get_state(con, "used"), catalog.clock()
        for clean, checked in cleans:
            row = catalog.row(clean.key, con)
            if row != clean.over or not isinstance(clean.body, Spool):
                continue  # more is known by now than when this was decided
            content = catalog.content.adopt(con, clean.body)
            never_fresh = replace(clean, lifetime=0.0)
            catalog.write_copy(con, row, never_fresh, content, min(checked, now), used, asked=False)
            if row.entry is None:
                # So that it is listed. What is known of upstream here isn't overruled.
                catalog.write_entry(
                    con, gen, row, meta=clean.meta, version=clean.version, sha256=clean.sha256,
                    size=clean.size, asked=False,
                )  # fmt: skip
            kept.append(clean.key)
    return kept
