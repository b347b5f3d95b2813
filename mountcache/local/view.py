"""What can be seen: the keys and metadata of a store, filtered, in the order of the keys."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mountcache.jsonform import normal_value, parse, spelling
from mountcache.local.content import Content
from mountcache.local.rows import VISIBLE_NOW

__all__ = ["PAGE", "literal_prefix", "matcher", "past_prefix", "view"]

PAGE = 1000
"""How many rows are read at once."""


def view(
    content: Content,
    where: Mapping[str, Any],
    *,
    merged: bool,
    pattern: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Iterate by key over (key, metadata text) of what can be seen.

    Keys are shadowed first and filtered then. Pages are read and closed before their
    first row is given out, so that no half-read query holds the log of the database.

    Parameters
    ----------
    content
        The store.
    where
        Names of metadata and the values they must have.
    merged
        The view through a mount, rather than what was set into the store by itself.
    pattern
        A shell pattern that the keys must match.
    """
    wanted = {name: normal_value(value) for name, value in where.items()}
    # A JSON path can't spell a name that JSON escapes: such are looked at here.
    odd = {
        name: wanted.pop(name) for name in list(wanted) if spelling({name: 0}) != f'{{"{name}":0}}'
    }
    sql, parameters = _view_sql(wanted, merged)
    low = literal_prefix(pattern or "")
    matches = re.compile(fnmatch.translate(pattern)).match if pattern is not None else None
    parameters |= {"after": low, "until": past_prefix(low), "page": PAGE}
    # The first page takes its lower bound in, the others leave theirs out.
    comparison = ">="
    while True:
        found = (
            content.connection().execute(sql.replace("{after}", comparison), parameters).fetchall()
        )
        for key, meta in found:
            if (matches is None or matches(key)) and (not odd or has_all(parse(meta), odd)):
                yield key, meta
        if len(found) < PAGE:
            return
        parameters["after"], comparison = found[-1][0], ">"


def has_all(metadata: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Return whether metadata has names with these values, given in normal form."""
    return all(
        name in metadata and normal_value(metadata[name]) == value for name, value in wanted.items()
    )


def matcher(
    where: Mapping[str, Any], pattern: str | None
) -> Callable[[str, Mapping[str, Any]], bool]:
    """Return what tells whether a key and its metadata answer a query."""
    wanted = {name: normal_value(value) for name, value in where.items()}
    like = re.compile(fnmatch.translate("*" if pattern is None else pattern)).match
    return lambda key, metadata: like(key) is not None and has_all(metadata, wanted)


def literal_prefix(pattern: str) -> str:
    """Return what all keys that match a shell pattern begin with."""
    found = re.search(r"[*?\[]", pattern)
    return pattern if found is None else pattern[: found.start()]


def past_prefix(prefix: str) -> str | bytes:
    """Return a bound above all keys that begin with `prefix`.

    SQLite compares text by its UTF-8 bytes, whose order is that of the code points. Where no text
    is above them all it is a BLOB, which is above any text: so one and the same statement has two
    bounds in any case, and is a search between them.
    """
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            # Surrogates aren't characters: the next one after U+D7FF is U+E000.
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return b""


_RANGE = "{table}.key {{after}} :after AND {table}.key < :until"


def _view_sql(wanted: Mapping[str, str], merged: bool) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {}
    tests: list[str] = []
    for number, (name, value) in enumerate(wanted.items()):
        parameters[f"path{number}"], parameters[f"value{number}"] = f'$."{name}"', value
        tests.append(f"(coalesce({{t}}.norm, {{t}}.meta) -> :path{number}) = :value{number}")
    where = "".join(f" AND {test}" for test in tests)

    def part(table: str, condition: str) -> str:
        bounds = _RANGE.format(table=table)
        test = where.replace("{t}", table)
        return (
            f"SELECT {table}.key AS key, {table}.meta AS meta FROM {condition} AND {bounds}{test}"
        )

    sql = part("e", "edit e WHERE e.kind != 'del'")
    if merged:
        sql += " UNION ALL " + part(
            "u",
            f"upstream u WHERE {VISIBLE_NOW} AND u.present"
            " AND NOT EXISTS (SELECT 1 FROM edit x WHERE x.key = u.key)",
        )
    return sql + " ORDER BY key LIMIT :page", parameters
