"""Is all here that will be read offline? The question before a prefetch, and before leaving."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mountcache.local.records import Row
from mountcache.local.residence import rows_of
from mountcache.local.view import matcher
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.residence import is_here, size_of

__all__ = ["Readiness", "Wanted", "listed", "readiness", "survey"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that is to be read offline."""

    key: str
    there: bool
    """False if it was named, and neither upstream has it nor an edit."""
    here: bool
    """Whether its data are here, and whole as far as a look at them tells."""
    staged: bool
    """Whether an edit of it is staged."""
    copied: bool
    """Whether there is a clean copy, of whatever version."""
    pinned: bool
    size: int | None
    """Length in bytes, if that is known."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What of the keys that match is here, and what a prefetch would bring."""

    here: int
    """Keys that can be read without upstream, staged ones among them."""
    here_bytes: int
    clean: int
    """Those of them that nothing is staged for."""
    missing: int
    """Keys that can't."""
    missing_bytes: int
    """Of those whose size is known."""
    unsized: int
    """How many of them are of a size that nobody knows."""
    room: int | None
    """Bytes that could be added without letting go of any of what is here; None: no limit."""

    @property
    def ready(self) -> bool:
        """Whether all is here."""
        return self.missing == 0

    @property
    def fits(self) -> bool:
        """Whether there is room for what is missing, as far as its size is known."""
        return self.missing == 0 or self.room is None or self.missing_bytes <= self.room


def readiness(
    store: Mounted,
    pattern: str | Iterable[str] = "*",
    *more: str,
    each: Callable[[Wanted], object] | None = None,
) -> Readiness:
    """Look what of some keys is here; no data is asked for, and nothing is changed.

    Copies from before the machine's last start are compared with their digests, once.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/". Upstream is asked which there are; while it is
        out of reach, what is known of it counts. Or the keys themselves: those that upstream
        doesn't have are missing.
    more
        Further patterns.
    each
        Called with each key.

    Raises
    ------
    StoreUnavailableError
        If upstream is out of reach, and nobody knows which keys there are.
    """
    mount = store.mount
    here = here_bytes = clean = missing = missing_bytes = unsized = loose = 0
    found = (
        survey(mount, _keys(store, (pattern, *more)))
        if isinstance(pattern, str)
        else _named(store, dict.fromkeys(pattern))
    )
    for wanted in found:
        size = wanted.size or 0
        if wanted.here:
            here, here_bytes = here + 1, here_bytes + size
            clean += not wanted.staged
            loose += size if not (wanted.staged or wanted.pinned) else 0
        else:
            missing, missing_bytes = missing + 1, missing_bytes + size
            unsized += wanted.size is None
        if each is not None:
            each(wanted)
    room = mount.catalog.available()
    if room is not None:
        room = max(0, room - loose)
    return Readiness(here, here_bytes, clean, missing, missing_bytes, unsized, room)


def survey(mount: Mount, keys: Iterable[str]) -> Iterator[Wanted]:
    """Iterate over what is here of keys of the catalog, a page of them at a time."""
    for row, pinned in rows_of(mount.catalog.content, keys):
        yield Wanted(
            key=mount.full(row.key),
            there=True,
            here=is_here(row) and _is_whole(mount, row),
            staged=row.edit is not None,
            copied=row.copy is not None,
            pinned=pinned,
            size=size_of(row),
        )


def _is_whole(mount: Mount, row: Row) -> bool:
    if row.edit is not None and row.edit.kind == "put":
        return True
    return row.copy is not None and mount.catalog.is_sound(row.copy)


def _keys(store: Mounted, patterns: tuple[str, ...]) -> Iterator[str]:
    """Iterate over the keys of the catalog that match any of the patterns, each once."""
    mount = store.mount
    skip = len(mount.prefix)
    asking = store.with_options(max_age=0.0)
    before: list[Callable[[str, Any], bool]] = []
    for pattern in patterns:
        for key in asking.glob(pattern):
            inside = key.startswith(mount.prefix) and len(key) > skip
            if inside and not any(matches(key, {}) for matches in before):
                yield key[skip:]
        before.append(matcher({}, pattern))


def _named(store: Mounted, named: dict[str, None]) -> Iterator[Wanted]:
    """Iterate over what is here of keys that were named."""
    mount = store.mount
    left = dict(named)
    there = (key for key in _keys(store, ("*",)) if mount.full(key) in named)
    for wanted in survey(mount, there):
        left.pop(wanted.key, None)
        yield wanted
    for key in left:
        yield Wanted(
            key, there=False, here=False, staged=False, copied=False, pinned=False, size=None
        )


def listed(store: Mounted, pattern: str) -> list[str]:
    """Return the keys of the catalog that match a pattern, as upstream lists them now."""
    return list(_keys(store, (pattern,)))
