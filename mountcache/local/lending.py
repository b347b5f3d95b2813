"""Files lent to libraries that want a path: read-only, and safe from eviction while in use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mountcache.abc import Value, chunks
from mountcache.local.content import Content
from mountcache.local.planted import open_own
from mountcache.local.rights import is_shared
from mountcache.local.value import Snapshot

__all__ = ["lent"]

_LONGEST_SUFFIX = 20


@contextmanager
def lent(content: Content, key: str, value: Value) -> Iterator[Path]:
    """Lend the data of a value as a file whose name ends as the key does.

    A large value that is here gets a second name, which costs nothing; others are copied, and
    all are for root, who can write to any file. The name goes at the end, or with the next `gc`
    after a crash.
    """
    suffix = os.path.splitext(key.rpartition("/")[2])[1][:_LONGEST_SUFFIX]
    room: Path | None = None if content.readonly else getattr(content, "directory", None)
    if room is None:
        with tempfile.TemporaryDirectory(prefix="mountcache-") as folder:
            path = Path(folder, f"data{suffix}")
            _copy(value, path)
            yield path
        return
    path = room / "tmp" / f"{content.spool().content_id}{suffix}"
    try:
        if not (isinstance(value, Snapshot) and _link(value, path)):
            _copy(value, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _link(value: Snapshot, path: Path) -> bool:
    """Give the file of a value another name, if it has one and wasn't evicted meanwhile."""
    if value.path is None or os.geteuid() == 0 or is_shared(path.parent):
        return False  # what nobody may write to, others of the group couldn't read either
    try:
        # No file ever takes the name of another.
        os.link(value.path, path, follow_symlinks=False)
    except OSError:
        return False
    descriptor = open_own(path, os.O_RDONLY, alone=False)
    try:
        os.fchmod(descriptor, 0o400)
    finally:
        os.close(descriptor)
    return True


def _copy(value: Value, path: Path) -> None:
    with open(path, "xb", opener=_private) as out, value.data as data:
        for piece in chunks(data):
            out.write(piece)
        os.fchmod(out.fileno(), 0o400)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
