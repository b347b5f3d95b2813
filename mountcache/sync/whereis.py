"""Where the bytes of one key are, all the places of them; asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mountcache.abc import SupportsIndex
from mountcache.local import partial, undo
from mountcache.local.pinning import is_pinned
from mountcache.local.records import Copy, Edit, EditKind, Entry, Row, Why
from mountcache.sync.mount import Mount, Mounted

__all__ = [
    "Begun",
    "Cached",
    "InFlight",
    "Kept",
    "Known",
    "Staged",
    "Whereabouts",
    "whereis",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Staged:
    """An edit."""

    kind: EditKind
    size: int | None
    sha256: str | None
    file: str | None
    """Path of its bytes; "" if they are in the database, None if there are none, or none left."""
    author: str
    when: float
    base: str
    """The version that it was made from, or absent, unknown, ..."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A push of the key that has had no answer."""

    state: Literal["sending", "unknown"]
    kind: EditKind
    when: float


@dataclass(frozen=True, slots=True)
class Cached:
    """A clean copy."""

    size: int
    sha256: str
    version: str | None
    file: str | None
    """As of `Staged`."""
    pinned: bool
    verified: bool
    """Whether it was stored, or compared with its digest, since the machine was started."""
    checked: float
    """When upstream gave or confirmed it last."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A download that isn't complete."""

    version: str
    here: int
    """Bytes that are here."""
    size: int
    """Bytes of the whole."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What `undo` can have back."""

    number: int
    kind: EditKind | Literal["perm"]
    size: int | None
    file: str | None
    """As of `Staged`."""
    why: Why
    taken: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of upstream."""

    present: bool
    version: str | None
    sha256: str | None
    size: int | None
    ours: bool
    """It is what was pushed from here, and upstream's index hasn't said so yet."""
    asked: float | None
    """When upstream was asked last, by its index or after the copy; None if that isn't known."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All that is here of a key, and known here of upstream. Times are seconds since 1970."""

    key: str
    staged: Staged | None
    in_flight: InFlight | None
    cached: Cached | None
    begun: Begun | None
    kept: tuple[Kept, ...]
    """The last first."""
    upstream: Known | None


def whereis(store: Mounted, key: str) -> Whereabouts:
    """Return where the bytes of a key are.

    Parameters
    ----------
    store
        A mounted store.
    key
        A full key.

    Raises
    ------
    KeyError
        If nothing of it is here, and upstream isn't known to have, or have had, it.
    """
    mount = store.mount
    short = key[len(mount.prefix) :]
    if not key.startswith(mount.prefix) or not short:
        raise KeyError(key)
    catalog = mount.catalog
    row = catalog.row(short)
    begun = next(partial.begun(catalog.content, short), None)
    found = Whereabouts(
        key=key,
        staged=None if row.edit is None else _staged(mount, row.edit),
        in_flight=None if row.op is None else InFlight(row.op.state, row.op.kind, row.op.at),
        cached=None if row.copy is None else _cached(mount, row.copy),
        begun=None
        if begun is None or begun.key != short
        else Begun(begun.version, begun.here, begun.size),
        kept=tuple(
            Kept(each.seq, each.kind, each.size, _file(mount, each.content), each.why, each.taken)
            for each in undo.entries(catalog.content.connection(), short)
        ),
        upstream=None if row.entry is None else _known(mount, row, row.entry),
    )
    if found == Whereabouts(key, None, None, None, None, (), None):
        raise KeyError(key)
    return found


def _staged(mount: Mount, edit: Edit) -> Staged:
    file = _file(mount, edit.content)
    return Staged(
        edit.kind, edit.size, edit.sha256, file, edit.author, edit.at, str(edit.base)
    )  # fmt: skip


def _cached(mount: Mount, copy: Copy) -> Cached:
    return Cached(
        size=copy.size,
        sha256=copy.sha256,
        version=copy.version,
        file=_file(mount, copy.content),
        pinned=is_pinned(mount.catalog, copy.key),
        verified=copy.boot == mount.catalog.content.boot,
        checked=copy.checked,
    )


def _known(mount: Mount, row: Row, entry: Entry) -> Known:
    backing = mount.backing
    polled = isinstance(backing, SupportsIndex) and backing.poll is not None
    times = [mount.catalog.state("index_checked") if polled else None]
    times.append(row.copy.checked if row.copy is not None else None)
    return Known(
        present=entry.present,
        version=entry.version,
        sha256=entry.sha256,
        size=entry.size,
        ours=entry.masked,
        asked=max((each for each in times if each is not None), default=None),
    )


def _file(mount: Mount, content: str | None) -> str | None:
    if content is None:
        return None
    try:
        path = mount.catalog.file_of(content)
    except FileNotFoundError:
        return None
    if path is None:
        return ""
    return str(path) if path.exists() else None
