"""Conditional requests and ranges (RFC 9110, 13 and 14) as pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mountcache.abc import ABSENT, Base
from mountcache.serve.wire import bad, conflict, etag

__all__ = ["Conditions", "Span", "Tags", "base_of", "read_verdict", "span_of"]

_ETAGS = re.compile(r'(?:[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$))+[ \t,]*')
_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


@dataclass(frozen=True, slots=True)
class Tags:
    """The entity tags of an If-Match or If-None-Match."""

    any: bool
    """The field is ``*``."""
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Conditions:
    """The preconditions of a request."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None
    if_modified_since: float | None = None
    if_unmodified_since: float | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Conditions:
        """Read the conditions of a request; header names in lower case."""
        return cls(
            _tags(headers.get("if-match"), "If-Match"),
            _tags(headers.get("if-none-match"), "If-None-Match"),
            _date(headers.get("if-modified-since")),
            _date(headers.get("if-unmodified-since")),
        )


def _tags(text: str | None, name: str) -> Tags | None:
    if text is None:
        return None
    if text.strip() == "*":
        return Tags(any=True)
    if not _ETAGS.fullmatch(text):
        raise bad(f'{name} is * or a list of entity tags such as "abc", not {text[:80]!r}')
    found = _ETAG.findall(text)
    return Tags(
        False,
        frozenset(tag for weak, tag in found if not weak),
        frozenset(tag for weak, tag in found if weak),
    )


def read_verdict(
    conditions: Conditions, version: str | None, modified: float | None
) -> Literal["send", "not modified", "failed"]:
    """Return what the conditions of a GET or HEAD come to, in the order of RFC 9110 13.2.2.

    Parameters
    ----------
    conditions
        The conditions.
    version
        The version that is there; None if it has no name, and matches nothing.
    modified
        When it was made, in seconds since 1970, if that is known.
    """
    since = None if modified is None else int(modified)
    if conditions.if_match is not None:
        # Strong comparison: a weak tag matches nothing.
        if not conditions.if_match.any and version not in conditions.if_match.strong:
            return "failed"
    elif (
        conditions.if_unmodified_since is not None
        and since is not None
        and since > conditions.if_unmodified_since
    ):
        return "failed"
    if conditions.if_none_match is not None:
        return "not modified" if _named(conditions.if_none_match, version) else "send"
    if conditions.if_modified_since is not None and since is not None:
        return "send" if since > conditions.if_modified_since else "not modified"
    return "send"


def base_of(
    conditions: Conditions, key: str, current: Callable[[], tuple[Base, float | None]]
) -> Base:
    """Return the version that a write may replace; None if that is any.

    A single strong tag, or ``If-None-Match: *``, is left to the store, which compares and
    writes as one step. What takes more than that is decided by what is there now, and the
    store is told to replace exactly that.

    Parameters
    ----------
    conditions
        The conditions.
    key
        The key.
    current
        Gives the version that is there (`ABSENT` if none) and when it was made.

    Raises
    ------
    Problem
        412 if the conditions don't hold.
    """
    match, none = conditions.if_match, conditions.if_none_match
    base: Base = None
    if match is not None:
        if len(match.strong) == 1 and not match.any:
            (base,) = match.strong
        else:
            base, _ = current()
            if base is ABSENT or not (match.any or base in match.strong):
                raise conflict(key, None, base)
    elif conditions.if_unmodified_since is not None:
        found, modified = current()
        if found is not ABSENT and modified is not None:
            if int(modified) > conditions.if_unmodified_since:
                raise conflict(key, None, found)
            base = found
    if none is None:
        return base
    if base is None:
        if none.any:
            return ABSENT
        base, _ = current()
    if isinstance(base, str) and _named(none, base):
        raise conflict(key, ABSENT if none.any else None, base)
    return base


def _named(tags: Tags, version: str | None) -> bool:
    """Weak comparison (RFC 9110 8.8.3.2)."""
    return tags.any or version in tags.strong or version in tags.weak


def _date(text: str | None) -> float | None:
    """Return a date in seconds since 1970; None for what isn't one, as RFC 9110 13.1 asks."""
    if text is None:
        return None
    for form in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None


# -- ranges (RFC 9110, 14) ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the data: the bytes from `start` up to but not with `end`."""

    start: int
    end: int


def span_of(
    ranges: str | None, if_range: str | None, version: str | None, size: int
) -> Span | Literal["whole", "unsatisfiable"]:
    """Return which bytes a GET asks for.

    What isn't a single range of bytes is ignored, as RFC 9110 14.2 allows; so is one whose
    If-Range names another version. A date in If-Range never matches: seconds are too coarse.

    Parameters
    ----------
    ranges, if_range
        The header fields, None where they aren't given.
    version
        The version that is there; None if it has no name, so that no two parts of it would
        surely fit.
    size
        Length of its data in bytes.
    """
    if ranges is None or version is None:
        return "whole"
    if if_range is not None and if_range.strip() != etag(version):
        return "whole"
    found = re.fullmatch(
        r"bytes[ \t]*=[ \t,]*(?:(\d+)-(\d*)|-(\d+))[ \t,]*", ranges, re.IGNORECASE | re.ASCII
    )
    if found is None:
        return "whole"
    first, last, suffix = (_offset(text) for text in found.groups())
    if first is None:
        length = min(suffix or 0, size)
        return Span(size - length, size) if length else "unsatisfiable"
    if last is not None and last < first:
        return "whole"
    if first >= size:
        return "unsatisfiable"
    return Span(first, size if last is None else min(last + 1, size))


def _offset(text: str | None) -> int | None:
    # No value is as long as 10**18 bytes, and int() refuses thousands of digits.
    return (int(text) if len(text) < 19 else 10**18) if text else None
