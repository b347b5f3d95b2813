"""How a value is kept once all of it is here: verified first, then adopted in one commit."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mountcache.errors import (
    DirectoryError,
    IntegrityError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from mountcache.local import partial as partials
from mountcache.local.catalog import Catalog
from mountcache.local.content import Spool
from mountcache.local.partial import BLOCK, Partial
from mountcache.local.records import Clean
from mountcache.sync.passing import Body, OutOfRoomError, Passing
from mountcache.sync.source import Digests, Feed, Source, verify

__all__ = ["NOT_KEPT", "Keeping", "Single", "drop_quietly", "kept", "make_room"]

NOT_KEPT: Final = (StoreBusyError, StoreFullError, ReadOnlyStoreError, DirectoryError, OSError)
"""What keeps a value from being kept, and fails no read: what comes over the network raises
nothing of it."""

_SCRATCH: Final = 65536

_logger = logging.getLogger("mountcache")


def make_room(catalog: Catalog, size: int) -> bool:
    """Make room for a value of `size` bytes; return whether it can be kept."""
    if catalog.content.readonly:
        return False
    try:
        if catalog.room_for(size):
            return True
        limit = catalog.available()
        if limit is not None and size > limit:
            return False
        return partials.drop_idle(catalog.content) and catalog.room_for(size)
    except NOT_KEPT as error:
        _logger.info("no room was made: %s", error)
        return False


class Keeping:
    """What is to be done with the bytes of a value.

    Parameters
    ----------
    source
        Where they come from.
    asked
        Whether somebody asked for this value itself.
    """

    def __init__(self, source: Source, *, asked: bool) -> None:
        self._source = source
        self._sources = [source]
        self._asked = asked
        self._meta = source.meta()
        self._begun = time.monotonic()
        self.digests = self._fresh_digests()

    def _fresh_digests(self) -> Digests:
        wanted = any(source.promise.md5 or source.facts.md5 for source in self._sources)
        return Digests(md5=wanted)

    def also(self, source: Source, *, asked: bool) -> None:
        """Hold the bytes to what another reader was promised, too."""
        self._asked = self._asked or asked
        if all(known.promised != source.promised for known in self._sources):
            self._sources.append(source)

    def settle(self, partial: Partial, size: int) -> None:
        """Verify the bytes, then keep them if that can be.

        Raises
        ------
        IntegrityError
            If they aren't what was promised.
        """
        digests = self.digests
        if digests.md5 is None and self._fresh_digests().md5 is not None:
            digests = self._fresh_digests()
        digests.catch_up(partial, size)
        for source in self._sources:
            verify(source, size, digests.sha256, digests.md5)
        if self._asked:
            self._source.hand_out(digests.sha256)
        # Who only follows another process leaves that to it.
        if partial.lock():
            self._keep(partial, size, digests.sha256)

    def _keep(self, partial: Partial, size: int, sha256: str) -> None:
        source, catalog = self._source, self._source.mount.catalog
        facts = source.facts
        lifetime = facts.lifetime
        if lifetime:
            lifetime = max(0.001, lifetime - (time.monotonic() - self._begun))
        with kept(source.name):
            partial.finish(size)
            body = partial.path or _spooled(catalog, partial, size)
            clean = Clean(
                source.key, body, sha256, size, self._meta, facts.version,
                facts.validators or "", lifetime, facts.modified, source.promise.entry, source.row,
            )  # fmt: skip
            catalog.keep([clean], asked=self._asked)
            partials.drop(catalog.content, source.key, name=partial.name)


@contextmanager
def kept(name: str) -> Iterator[None]:
    """Let a value that can't be kept pass, with a word in the log."""
    try:
        yield
    except FileNotFoundError:
        _logger.info("%r was dropped while it was being downloaded", name)
    except NOT_KEPT as error:
        _logger.info("%r isn't kept: %s", name, error)


def _spooled(catalog: Catalog, partial: Partial, size: int) -> Spool:
    """Return the bytes of a file without a name, for a store in memory."""
    spool = catalog.content.spool()
    buffer = memoryview(bytearray(BLOCK))
    while spool.size < size:
        spool.write(buffer[: partial.read(buffer[: size - spool.size], spool.size)].tobytes())
    spool.finish(False)
    return spool


class Single:
    """A download that one reader has for itself, since nothing names its bytes beyond doubt.

    They go to a file that is adopted at the end, or dropped. The last block is held back until
    all is verified and committed.

    Parameters
    ----------
    source
        Where they come from.
    partial
        Where they go.
    asked
        Whether somebody asked for this value itself.
    """

    def __init__(self, source: Source, partial: Partial, *, asked: bool) -> None:
        self._source = source
        self._partial = partial
        self._keeping = Keeping(source, asked=asked)
        self._feed: Feed | None = None
        self._size = source.size
        self._high = 0
        self._settled = False
        self._error: IntegrityError | None = None
        self._pid = os.getpid()

    @property
    def size(self) -> int | None:
        return self._size

    def _limit(self) -> int:
        """Return up to where bytes can be given out."""
        if self._settled:
            return self._high
        # Each piece may be the last where the length isn't known.
        end = self._high if self._size is None else self._size
        return min(self._high, max(0, end - 1) // BLOCK * BLOCK)

    def readinto(self, view: memoryview, at: int) -> int:
        while True:
            if self._size is not None and at >= self._size:
                return 0
            ready = self._limit() - at
            if ready > 0:
                return self._partial.read(view[:ready], at)
            if self._settled:
                return 0
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._pid != os.getpid():
                raise OutOfRoomError
            count = self._advance(view, at)
            if count:
                return count

    def _advance(self, view: memoryview, at: int) -> int:
        """Move the download on; return how many bytes at `at` are in `view` and can be given."""
        if self._feed is None:
            self._feed = self._source.feed(0)
        feed = self._feed
        target = view if len(view) >= _SCRATCH else memoryview(bytearray(_SCRATCH))
        start = feed.at
        piece = target[: feed.into(target)]
        if piece:
            try:
                self._check_room(start, feed.at)
                self._partial.write(piece, start)
            except OSError as error:
                feed.give_back(piece)
                raise OutOfRoomError from error
            self._keeping.digests.update(piece, start)
            self._high = feed.at
        if not piece or feed.at == self._size:
            try:
                self._end(feed)
            except IntegrityError as error:
                self._error = error
                raise
        return len(piece) if target is view and start == at and feed.at <= self._limit() else 0

    def _check_room(self, start: int, end: int) -> None:
        """Look after the room for a value whose length nobody said, block by block."""
        if self._size is not None or start // BLOCK == end // BLOCK:
            return
        if not make_room(self._source.mount.catalog, end):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _end(self, feed: Feed) -> None:
        feed.finish()
        self._size = feed.at
        self._keeping.settle(self._partial, feed.at)
        self._settled = True

    def passing(self, at: int) -> Body:
        feed = self._feed
        if feed is None or self._pid != os.getpid():
            return Passing(self._source, at=at)
        self._feed = None
        if at < feed.at:  # by less than a block: more isn't held back
            held = memoryview(bytearray(feed.at - at))
            feed.give_back(held[: self._partial.read(held, at)])
        return Passing(self._source, feed, self._keeping.digests, at=at)

    def release(self) -> None:
        if self._pid == os.getpid():
            if self._feed is not None:
                self._feed.close()
            self._source.let_go()
            self._partial.close()


def drop_quietly(catalog: Catalog, key: str, name: str | None = None) -> None:
    """Drop a partial that is of no more use, if the store can be written now."""
    try:
        partials.drop(catalog.content, key, name=name)
    except StoreError as error:
        _logger.info("what is left of %r stays for now: %s", key, error)
