"""How records become rows and rows become records: the one statement that reads a key."""

from __future__ import annotations

import json
from typing import Any

from mountcache.abc import ABSENT
from mountcache.errors import DirectoryError
from mountcache.jsonform import normal_form, parse
from mountcache.local.records import BaseOf, Copy, Edit, Entry, Op, Row, Seen
from mountcache.local.schema import FORMAT, edit_key

__all__ = ["ROW", "VISIBLE", "VISIBLE_NOW", "base_columns", "norm_of", "row_from", "seen_text"]

_EDIT = [
    "seq",
    "kind",
    "content",
    "sha",
    "size",
    "meta",
    "version",
    "base_kind",
    "base",
    "base_sha",
    "base_meta",
    "base_entry",
    "base_op",
    "grp",
    "partner",
    "author",
    "at",
    "notes",
    "tries",
    "error",
    "held",
    "tried",
]
_OP = [
    "op_id",
    "edit_seq",
    "kind",
    "content",
    "sha",
    "size",
    "meta",
    "base_kind",
    "base",
    "base_sha",
    "base_meta",
    "base_entry",
    "base_op",
    "state",
    "owner",
    "at",
]
_COPY = [
    "content",
    "version",
    "sha",
    "size",
    "meta",
    "modified",
    "checked",
    "expires",
    "validators",
    "entry",
    "boot",
    "seen",
]
_ENTRY = ["present", "meta", "entry", "version", "sha", "size", "seen", "masked"]

_NUMBERS = ("seq", "size", "grp", "at", "tries", "edit_seq", "modified", "checked", "expires",
            "present", "masked", "held", "tried")  # fmt: skip


def _types(names: list[str]) -> tuple[tuple[type, ...], ...]:
    return tuple((int, float) if name in _NUMBERS else (str,) for name in names)


_EDIT_TYPES, _OP_TYPES, _COPY_TYPES, _ENTRY_TYPES = map(_types, (_EDIT, _OP, _COPY, _ENTRY))


def _checked(
    key: str, columns: tuple[Any, ...], types: tuple[tuple[type, ...], ...]
) -> tuple[Any, ...]:
    """Return the columns of a record whose types are those that we write.

    The tables take any type in any column, and others may have written into them.
    """
    for value, allowed in zip(columns, types, strict=True):
        if value is not None and type(value) not in allowed:
            raise DirectoryError(
                f"the database of the store has {type(value).__name__} where a "
                f"{allowed[0].__name__} belongs, in what it knows of {key!r}; another program "
                "wrote into it: restore the directory from a backup"
            )
    return columns


VISIBLE = "u.gen_from <= {gen} AND (u.gen_to IS NULL OR u.gen_to >= {gen})"
"""Which rows of ``upstream u`` the generation in force shows."""


def _columns(table: str, names: list[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


VISIBLE_NOW = VISIBLE.format(gen="(SELECT value FROM state WHERE name = 'gen')")

ROW = f"""
SELECT k.key, {_columns("e", _EDIT)}, {_columns("o", _OP)}, {_columns("c", _COPY)},
       {_columns("u", _ENTRY)}, (SELECT value FROM state WHERE name = 'complete')
FROM (SELECT ? AS key) k
LEFT JOIN edit e INDEXED BY {edit_key(FORMAT)} ON e.key = k.key
LEFT JOIN op o ON o.key = k.key
LEFT JOIN copy c ON c.key = k.key
LEFT JOIN upstream u ON u.key = k.key AND {VISIBLE_NOW}
"""
"""All that is known of one key; `row_from` reads its answer."""

_AT_OP = 1 + len(_EDIT)
_AT_COPY = _AT_OP + len(_OP)
_AT_ENTRY = _AT_COPY + len(_COPY)


def row_from(columns: tuple[Any, ...]) -> Row:
    """Return the record of an answer to `ROW`."""
    key = columns[0]
    return Row(
        key,
        None if columns[1] is None else edit_from(key, columns[1:_AT_OP]),
        None if columns[_AT_OP] is None else op_from(key, columns[_AT_OP:_AT_COPY]),
        None if columns[_AT_COPY] is None else _copy_from(key, columns[_AT_COPY:_AT_ENTRY]),
        None if columns[_AT_ENTRY] is None else _entry_from(key, columns[_AT_ENTRY:-1]),
        bool(columns[-1]),
    )


EDIT_ROWS = f"SELECT e.key, {_columns('e', _EDIT)} FROM edit e"
OP_ROWS = f"SELECT o.key, {_columns('o', _OP)} FROM op o"
COPY_ROWS = f"SELECT c.key, {_columns('c', _COPY)} FROM copy c"


def edit_from(key: str, c: tuple[Any, ...]) -> Edit:
    """Return the record of the columns of an edit."""
    c = _checked(key, c, _EDIT_TYPES)
    base = BaseOf(*c[7:13])
    return Edit(*(key, *c[:7], base, *c[13:]))


def op_from(key: str, c: tuple[Any, ...]) -> Op:
    """Return the record of the columns of an op."""
    c = _checked(key, c, _OP_TYPES)
    return Op(*(c[0], key, *c[1:7], BaseOf(*c[7:13]), *c[13:]))


def _copy_from(key: str, c: tuple[Any, ...]) -> Copy:
    c = _checked(key, c, _COPY_TYPES)
    return Copy(*(key, *c[:-1], _seen_from(c[-1])))


def _entry_from(key: str, c: tuple[Any, ...]) -> Entry:
    c = _checked(key, c, _ENTRY_TYPES)
    return Entry(*(key, bool(c[0]), *c[1:6], _seen_from(c[6]), bool(c[7])))


def base_columns(base: BaseOf) -> tuple[Any, ...]:
    """Return the six columns of a base."""
    return (base.kind, base.version, base.sha256, base.meta, base.entry, base.op_id)


def seen_text(seen: Seen) -> str:
    """Return the column of what was handed out."""
    return json.dumps(
        {
            "absent": seen.version is ABSENT,
            "version": None if seen.version is ABSENT else seen.version,
            "sha256": seen.sha256,
            "meta": seen.meta,
            "entry": seen.entry,
        }
    )


def _seen_from(text: str | None) -> Seen | None:
    if text is None:
        return None
    said = parse(text)
    version = ABSENT if said.get("absent") else said.get("version")
    return Seen(version, said.get("sha256"), said.get("meta"), said.get("entry"))


def norm_of(meta: str) -> str | None:
    """Return the normal form of metadata where it differs from its spelling."""
    norm = normal_form(parse(meta))
    return None if norm == meta else norm
