"""What can be seen: the keys and metadata of a store, filtered, in the order of the keys."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mountcache.jsonform import normal_value, parse
from mountcache.local.content import Content
from mountcache.local.fields import candidates, has_path, path_of
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
    odd = {name: wanted.pop(name) for name in list(wanted) if not has_path(name)}
    low = literal_prefix(pattern or "")
    until = past_prefix(low)
    matches = re.compile(fnmatch.translate(pattern)).match if pattern is not None else None
    for page in _pages(content, wanted, low, until, merged=merged):
        for key, meta in page:
            if (matches is None or matches(key)) and (not odd or has_all(parse(meta), odd)):
                yield key, meta


def _pages(
    content: Content, wanted: Mapping[str, str], low: str, until: str | bytes, *, merged: bool
) -> Iterator[list[tuple[str, str]]]:
    """Iterate over pages of keys and metadata: of those that an index names, or of all."""
    parameters: dict[str, Any] = {}
    for number, (name, value) in enumerate(wanted.items()):
        parameters |= {f"path{number}": path_of(name), f"value{number}": value}
    named = candidates(content, wanted, low, until) if wanted else None
    if named is not None:
        sql = _view_sql("IN (SELECT value FROM json_each(:keys))", len(wanted), merged=merged)
        for begin in range(0, len(named), PAGE):
            parameters["keys"] = json.dumps(named[begin : begin + PAGE])
            yield content.connection().execute(sql, parameters).fetchall()
        return
    parameters |= {"after": low, "until": until, "page": PAGE}
    # The first page takes its lower bound in, the others leave theirs out.
    comparison = ">="
    while True:
        bounds = f"{comparison} :after AND {{t}}.key < :until"
        sql = _view_sql(bounds, len(wanted), merged=merged) + " LIMIT :page"
        found = content.connection().execute(sql, parameters).fetchall()
        yield found
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


def _view_sql(keys: str, tests: int, *, merged: bool) -> str:
    """Return the statement of a page.

    Parameters
    ----------
    keys
        What its keys are compared with.
    tests
        How many names and values are.
    """

    def part(table: str, condition: str) -> str:
        tested = "".join(
            f" AND (coalesce({table}.norm, {table}.meta) -> :path{number}) = :value{number}"
            for number in range(tests)
        )
        return (
            f"SELECT {table}.key AS key, {table}.meta AS meta FROM {condition}"
            f" AND {table}.key {keys.format(t=table)}{tested}"
        )

    sql = part("e", "edit e WHERE e.kind != 'del'")
    if merged:
        sql += " UNION ALL " + part(
            "u",
            f"upstream u WHERE {VISIBLE_NOW} AND u.present"
            " AND NOT EXISTS (SELECT 1 FROM edit x WHERE x.key = u.key)",
        )
    return f"{sql} ORDER BY key"
