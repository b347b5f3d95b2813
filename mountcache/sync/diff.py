"""What a staged edit changes: beside what it was made from, or beside what upstream has now.

Looking is no reading: no base moves, and nothing is kept of what upstream sends.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mountcache.abc import SupportsVersions, facts_of
from mountcache.jsonform import normal_form, parse
from mountcache.local.records import BaseOf, Edit, EditKind, Row
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.switch import refuse_offline

__all__ = ["Difference", "Shown", "Which", "diff", "side"]

_TEXT_LIMIT = 1048576
"""Bytes of each side up to which text is compared line by line."""

Which = Literal["mine", "base", "upstream"]


@dataclass(frozen=True, slots=True)
class Shown:
    """One side of a key: what is staged, what it was made from, or what upstream has."""

    which: Which
    present: bool | None
    """Whether the key is there; None if nobody knows."""
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    """None if nobody knows, or there is none."""
    size: int | None = None
    sha256: str | None = None
    version: str | None = None
    open: Callable[[], io.BufferedIOBase] | None = field(default=None, compare=False, repr=False)
    """Opens the bytes; None if they aren't here, or there are none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A staged edit beside another side."""

    key: str
    kind: EditKind
    """put: data and metadata are compared; meta: metadata alone; del: the key is to go."""
    mine: Shown
    other: Shown
    same_data: bool | None
    """Whether both have the same bytes; None if nobody knows. True for an edit of metadata."""
    lines: tuple[str, ...] | None
    """A unified diff of the text, without line ends; None if it isn't text, is more than 1 MiB,
    or isn't here."""
    metadata: Mapping[str, tuple[Any, Any]] = field(hash=False)
    """The names that differ, each with the other's value and mine; `MISSING` where it has none.
    Empty if nobody knows the other's."""

    @property
    def added(self) -> int:
        """How many lines are mine alone."""
        return sum(line.startswith("+") for line in (self.lines or ())[2:])

    @property
    def removed(self) -> int:
        """How many lines are the other's alone."""
        return sum(line.startswith("-") for line in (self.lines or ())[2:])


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
"""Stands for a name that metadata don't have; None is a value."""


def diff(
    store: Mounted,
    keys: Iterable[str] | None = None,
    *,
    against: Literal["base", "upstream"] = "base",
) -> Iterator[Difference]:
    """Iterate over what the staged edits change, in the order of their making.

    Parameters
    ----------
    store
        A MountedStore.
    keys
        Only these keys, of which those that aren't staged are left out; all that are staged
        if None.
    against
        "base": what each edit was made from, which asks nobody; bytes are compared if they are
        still here. "upstream": what upstream has now, which is asked, and up to 1 MiB of each
        text read.

    Raises
    ------
    StoreUnavailableError
        If upstream can't be asked.
    """
    mount = store.mount
    wanted = None if keys is None else set(keys)
    for edit in mount.catalog.edits():
        if wanted is None or mount.full(edit.key) in wanted:
            mine, other = (_side(mount, edit.key, which) for which in ("mine", against))
            yield _difference(mount.full(edit.key), edit.kind, mine, other)


def side(store: Mounted, key: str, which: Which) -> Shown:
    """Return one side of a key.

    Parameters
    ----------
    store
        A MountedStore.
    key
        A key under its mount point.
    which
        "mine", what is staged; "base", what that was made from; "upstream", what is there now.
        Where nothing is staged, "mine" and "base" are the clean copy.

    Raises
    ------
    KeyError
        If the key isn't under the mount point.
    StoreUnavailableError
        If upstream can't be asked.
    """
    mount = store.mount
    if not key.startswith(mount.prefix):
        raise KeyError(key)
    return _side(mount, key.removeprefix(mount.prefix), which)


def _side(mount: Mount, key: str, which: Which) -> Shown:
    if which == "upstream":
        return _upstream(mount, key)
    row = mount.catalog.row(key)
    if row.edit is None:
        return _copy(mount, row, which)
    return _mine(mount, row, row.edit) if which == "mine" else _base(mount, row, row.edit.base)


def _mine(mount: Mount, row: Row, edit: Edit) -> Shown:
    if edit.kind == "del":
        return Shown("mine", False)
    metadata = parse(edit.meta)
    if edit.kind == "meta":
        below = _base(mount, row, edit.base)
        return Shown("mine", True, metadata, below.size, below.sha256, edit.version, below.open)
    return Shown(
        "mine", True, metadata, edit.size, edit.sha256, edit.version,
        lambda: mount.staging.open_edit(edit),
    )  # fmt: skip


def _base(mount: Mount, row: Row, base: BaseOf) -> Shown:
    if base.kind == "absent":
        return Shown("base", False)
    if base.kind == "op" and row.op is not None:
        op = row.op
        if op.kind == "del":
            return Shown("base", False)
        content = op.content
        return Shown(
            "base", True, parse(op.meta), op.size, op.sha256, None,
            None if content is None else lambda: mount.catalog.open_content(content, op.sha256),
        )  # fmt: skip
    if base.kind in ("none", "unknown", "op"):
        return Shown("base", None)
    meta = base.meta if base.meta is not None else base.entry
    copy = row.copy
    is_copy = copy is not None and (
        copy.sha256 == base.sha256 or (base.version is not None and copy.version == base.version)
    )
    return Shown(
        "base", True,
        None if meta is None else parse(meta),
        copy.size if copy is not None and is_copy else _listed_size(row, base),
        copy.sha256 if copy is not None and is_copy else base.sha256,
        base.version,
        (lambda: mount.catalog.open_copy(copy)) if copy is not None and is_copy else None,
    )  # fmt: skip


def _listed_size(row: Row, base: BaseOf) -> int | None:
    """Return the size of a base that isn't here, if upstream is known to have it still."""
    entry = row.entry
    if entry is None or not entry.present:
        return None
    by_version = base.version is not None and entry.version == base.version
    by_digest = base.sha256 is not None and entry.sha256 == base.sha256
    return entry.size if by_version or by_digest else None


def _copy(mount: Mount, row: Row, which: Which) -> Shown:
    """Return the clean copy of a key that isn't edited: it is both sides."""
    copy = row.copy
    if copy is None:
        return Shown(which, None)
    return Shown(
        which, True, parse(copy.meta), copy.size, copy.sha256, copy.version,
        lambda: mount.catalog.open_copy(copy),
    )  # fmt: skip


def _upstream(mount: Mount, key: str) -> Shown:
    refuse_offline(mount)
    try:
        value = mount.backing.get(mount.full(key))
        metadata = value.metadata
    except KeyError:
        return Shown("upstream", False)
    facts = facts_of(value)
    versioned = isinstance(mount.backing, SupportsVersions)
    return Shown(
        "upstream", True, metadata, value.size, facts.sha256,
        facts.version if versioned else None, lambda: value.data,
    )  # fmt: skip


def _difference(key: str, kind: EditKind, mine: Shown, other: Shown) -> Difference:
    same, lines = (True, ()) if kind == "meta" else _compared(key, mine, other)
    if mine.metadata is None or (other.metadata is None and other.present is not False):
        changed = {}
    else:
        changed = _names(other.metadata or {}, mine.metadata)
    return Difference(key, kind, mine, other, same, lines, changed)


def _names(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the names that differ; values count in normal form, so that 1 is 1.0 and not true."""
    found = {}
    for name in sorted({*theirs, *mine}):
        pair = theirs.get(name, MISSING), mine.get(name, MISSING)
        if MISSING in pair or normal_form({"": pair[0]}) != normal_form({"": pair[1]}):
            found[name] = pair
    return found


def _compared(key: str, mine: Shown, other: Shown) -> tuple[bool | None, tuple[str, ...] | None]:
    """Compare the bytes: whether they are the same, and a unified diff if they are text."""
    if None not in (mine.sha256, other.sha256) and mine.sha256 == other.sha256:
        return True, ()
    texts = (_text(other), _text(mine))
    if texts[0] is None or texts[1] is None:
        unknown = other.present is None or None in (mine.sha256, other.sha256)
        gone = (mine.present, other.present).count(False) == 1
        return (None if unknown and not gone else False), None
    if texts[0] == texts[1] and mine.present == other.present:
        return True, ()
    names = (f"{other.which}/{key}", f"{mine.which}/{key}")
    found = difflib.unified_diff(_lines(texts[0]), _lines(texts[1]), *names, lineterm="\n")
    return False, tuple(line.rstrip("\n") for piece in found for line in _ended(piece))


def _lines(text: str) -> list[str]:
    """Return the lines, with their ends; `str.splitlines` would split at form feeds too."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _ended(line: str) -> tuple[str, ...]:
    """Return a line of a diff, and the one that says that its end is missing."""
    return (line,) if line.endswith("\n") else (line, "\\ No newline at end of file")


def _text(shown: Shown) -> str | None:
    """Return the text of a side, "" if the key isn't there; None if it is none, or too long."""
    if shown.present is False:
        return ""
    if shown.open is None or (shown.size or 0) > _TEXT_LIMIT:
        return None
    try:
        with shown.open() as stream:
            data = stream.read(_TEXT_LIMIT + 1)
    except FileNotFoundError:
        return None  # a copy that was evicted meanwhile
    if len(data) > _TEXT_LIMIT or b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
