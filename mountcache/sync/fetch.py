"""Downloads: upstream's bytes on their way to a reader and into the store.

Small values are read at once, verified, kept, and given from memory. Larger ones are given while
they come. What can't be kept passes through. Next door: `download` (shared by all readers of a
version), `keeping` (what no version names), `passing` (past the store).
"""

from __future__ import annotations

import hashlib
import io

from mountcache.abc import Value
from mountcache.errors import ChangedWhileReadingError
from mountcache.local import partial as partials
from mountcache.local.content import Spool
from mountcache.local.partial import BLOCK
from mountcache.local.records import Clean, Row
from mountcache.sync.download import Download, join
from mountcache.sync.keeping import NOT_KEPT, Single, kept, make_room
from mountcache.sync.mount import Mount
from mountcache.sync.passing import Body, Passing, Reader, Whole, buffered
from mountcache.sync.promise import Promise, promise_for
from mountcache.sync.source import Digests, Source, begin, verify

__all__ = ["begin", "begin_or_join", "discard", "fill", "open_range", "whole"]

_TRIES = 3


def begin_or_join(mount: Mount, key: str) -> Value:
    """Begin the download of a key of the catalog, or ask what it is where a part of it is here."""
    name = mount.full(key)
    if partials.is_begun(mount.catalog.content, key):
        return mount.backing.get(name)
    return begin(mount.backing, name)


def fill(
    mount: Mount,
    row: Row,
    value: Value,
    promise: Promise,
    *,
    asked: bool = True,
    keep: bool = True,
    anew: bool = False,
) -> io.BufferedReader:
    """Return a stream of upstream's data, kept here once it is verified.

    Parameters
    ----------
    mount
        The two ends.
    row
        What was known of the key before upstream was asked.
    value
        What upstream shows, its download begun or not.
    promise
        What the index says that the bytes are.
    asked
        Whether somebody asked for this value itself.
    keep
        Whether it is to be kept at all.
    anew
        Whether to begin again if upstream has replaced it meanwhile.

    Raises
    ------
    IntegrityError
        If the data isn't what was promised; the stream raises it too, before its last bytes.
    ChangedWhileReadingError
        If upstream has replaced the value; the stream raises it too.
    """
    source = Source(mount, row, value, promise)
    for left in reversed(range(_TRIES if anew else 1)):
        try:
            return _opened(source, asked=asked, keep=keep)
        except ChangedWhileReadingError:
            if not left:
                raise
            source = source.anew()
    raise AssertionError("unreachable")


def _opened(source: Source, *, asked: bool, keep: bool) -> io.BufferedReader:
    try:
        source.check_index()
        if not keep:
            source.begin()
        body = _body(source, asked=asked) if keep else Passing(source)
        return buffered(Reader(body, version=source.version))
    except BaseException:
        source.let_go()
        raise


def open_range(
    mount: Mount, row: Row, value: Value, start: int, end: int | None
) -> io.BufferedIOBase:
    """Return a stream of a part of upstream's data.

    Of a large value only the blocks asked for are fetched. They stay here, and are verified when
    all of them are.

    Parameters
    ----------
    mount
        The two ends.
    row
        What was known of the key before upstream was asked.
    value
        What upstream shows.
    start, end
        The part: from `start` up to but not with `end`; None, or past the end, is the end.
    """
    entry = mount.catalog.row(row.key).entry
    source = Source(mount, row, value, promise_for(mount, entry))
    source.check_index()
    size = source.size
    body: Body | None = None
    if source.facts.storable and size is not None:
        if size <= BLOCK:
            body = _body(source, asked=True)
        elif source.gives_parts and (download := join(source, asked=True)) is not None:
            last = size if end is None else min(end, size)
            if download.has(start, last):
                body = download
            else:
                download.release()
    if body is not None:
        return buffered(Reader(body, start=start, end=end, version=source.version))
    # Some stores put the size of the whole on what they give for a range past its end.
    return value.range(start, end)


def _body(source: Source, *, asked: bool) -> Body:
    """Return the bytes of a value, in the way that suits it."""
    if not _is_shared(source):
        source.begin()
    if _is_shared(source):
        if (download := join(source, asked=asked)) is not None:
            return _begun(download, source)
        source.begin()
        return Passing(source)
    catalog, size = source.mount.catalog, source.size
    if not source.facts.storable:
        return Passing(source)
    if size is not None and size <= BLOCK:
        return _small(source, asked=asked)
    if not make_room(catalog, size or BLOCK):
        return Passing(source)
    try:
        return Single(source, partials.create(catalog.content, size), asked=asked)
    except NOT_KEPT:
        return Passing(source)


def _begun(download: Download, source: Source) -> Download:
    """Ask for the beginning of the data now, if it isn't here: errors come with the stream."""
    try:
        if download.begins_with(source):
            source.begin()
    except BaseException:
        download.release()
        raise
    return download


def _is_shared(source: Source) -> bool:
    return (
        source.facts.storable
        and source.version is not None
        and source.size is not None
        and source.size > BLOCK
    )


def _small(source: Source, *, asked: bool) -> Body:
    """Read a value that fits into memory at once, and keep it."""
    catalog = source.mount.catalog
    data, clean = whole(source)
    if asked:
        source.hand_out(hashlib.sha256(data).hexdigest() if clean is None else clean.sha256)
    if clean is None or not make_room(catalog, len(data)):
        return Whole(data)
    try:
        with kept(source.name):
            catalog.keep([clean], asked=asked)
            partials.drop(catalog.content, source.key)
    finally:
        discard(clean)
    return Whole(data)


def discard(clean: Clean) -> None:
    """Let go of a spool that wasn't kept."""
    if isinstance(clean.body, Spool):
        clean.body.discard()


def whole(source: Source) -> tuple[bytes, Clean | None]:
    """Read and verify a value that fits into memory.

    Parameters
    ----------
    source
        The value; its size is known.

    Returns
    -------
    data
        The bytes.
    clean
        What to keep of it, its spool to be discarded by the caller; None if that can't be.

    Raises
    ------
    IntegrityError
        If it isn't what was promised.
    """
    size = source.size
    assert size is not None
    source.check_index()
    view = memoryview(bytearray(size))
    feed = source.feed(0)
    try:
        while feed.at < size:
            feed.into(view[feed.at :])
        feed.finish()
    finally:
        feed.close()
    data = bytes(view)
    digests = Digests(md5=(source.promise.md5 or source.facts.md5) is not None)
    digests.update(data, 0)
    verify(source, size, digests.sha256, digests.md5)
    content, facts = source.mount.catalog.content, source.facts
    if content.readonly or not facts.storable:
        return data, None
    spool = content.spool()
    try:
        with kept(source.name):
            spool.write(data)
            spool.finish(False)
            return data, Clean(
                source.key, spool, digests.sha256, size, source.meta(), facts.version,
                facts.validators or "", facts.lifetime, facts.modified, source.promise.entry,
                source.row,
            )  # fmt: skip
    except BaseException:
        spool.discard()
        raise
    spool.discard()
    return data, None
