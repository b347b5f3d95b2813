"""What an index entry promises of its data.

`sha256` (64 hex digits) and `md5` (32) are the only promises an entry can make; `size` counts
beside one of them. All its other fields are the user's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mountcache.jsonform import parse
from mountcache.local.records import Entry
from mountcache.sync.mount import Mount

__all__ = ["Promise", "promise_for", "promise_of"]

_SHA256 = re.compile("[0-9a-fA-F]{64}")
_MD5 = re.compile("[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Promise:
    """What the data of a key has to be."""

    size: int | None = None
    """Length in bytes."""
    sha256: str | None = None
    md5: str | None = None
    entry: str | None = None
    """The index entry that says so, as JSON text."""
    meta: str | None = None
    """The metadata that hold though the index doesn't know them yet, as JSON text."""

    @property
    def digest(self) -> bool:
        """Whether it names a digest, so that a copy which has it needs no other question."""
        return self.sha256 is not None or self.md5 is not None


def promise_of(entry: str | None) -> Promise:
    """Return what an index entry, as JSON text, promises."""
    if entry is None:
        return Promise()
    if '"sha256"' not in entry and '"md5"' not in entry:
        return Promise(entry=entry)
    metadata = parse(entry)
    sha256 = _hex(metadata.get("sha256"), _SHA256)
    md5 = _hex(metadata.get("md5"), _MD5)
    size = metadata.get("size")
    counts = (sha256 is not None or md5 is not None) and type(size) is int and size >= 0
    return Promise(size if counts else None, sha256, md5, entry)


def promise_for(mount: Mount, entry: Entry | None) -> Promise:
    """Return what is promised of a key's data by what upstream is known to hold."""
    if entry is None:
        return Promise()
    if entry.masked and not mount.backing.info().get("keeps_metadata", True):
        # Pushed, and kept by nobody but us.
        return Promise(meta=entry.meta)
    return promise_of(entry.entry)


def _hex(value: object, pattern: re.Pattern[str]) -> str | None:
    return value.lower() if isinstance(value, str) and pattern.fullmatch(value) else None
