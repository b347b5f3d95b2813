"""Downloads into the store: shared by all who read the same version of a key.

What is here lies in a partial (`mountcache.local.partial`). Whoever needs a byte that isn't here
moves the download on, and reads from the network under no lock: a reader that stops half way
keeps nobody waiting. One whose bytes another thread is just asking for waits for that answer;
one whose bytes another process is asking for waits as long as the partial grows.

The last missing block is held back until all is verified and committed, so that no reader
finishes on wrong bytes.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Final

from mountcache.errors import ChangedWhileReadingError, IntegrityError, StoreError
from mountcache.local import partial as partials
from mountcache.local.content import Content
from mountcache.local.partial import BLOCK, Partial
from mountcache.sync.keeping import NOT_KEPT, Keeping, drop_quietly, make_room
from mountcache.sync.passing import Body, OutOfRoomError, Passing
from mountcache.sync.source import Digests, Feed, Source

__all__ = ["PATIENCE", "Download", "join"]

PATIENCE: Final = 5.0
"""Seconds for which a partial of another process may stand still."""

_LOOK_AGAIN: Final = 0.05
_IDLE_FEEDS: Final = 2
_SCRATCH: Final = 65536

_ALL: Final = -1
"""Stands for all blocks, among those that a thread is at work on."""


class Download:
    """The download of one version of a key, for all its readers in this process.

    Parameters
    ----------
    source
        Where the bytes come from.
    partial
        Where they go.
    asked
        Whether somebody asked for this value itself.
    """

    def __init__(self, source: Source, partial: Partial, *, asked: bool) -> None:
        assert partial.size is not None
        self._size = partial.size
        self._source = source
        self._partial = partial
        self._old: list[Partial] = []
        self._keeping = Keeping(source, asked=asked)
        self._turn = threading.Condition()
        """Guards the state below; nobody waits for the network while holding it."""
        self._readers = 1
        self._busy: set[int] = set()
        """The blocks that a thread is at work on in this moment."""
        self._filled: dict[int, int] = {}
        """How many bytes of a block are here from its beginning, of those begun."""
        self._feeds: list[Feed] = []
        """Streams that nobody is reading from in this moment."""
        self._settled = False
        self._error: StoreError | None = None
        self._full = False
        self._growth = (0, 0.0)
        """The time stamp of another process's partial, and when it was seen to change."""
        self._pid = os.getpid()

    @property
    def size(self) -> int:
        return self._size

    # -- readers ---------------------------------------------------------------------------

    def enter(self, source: Source, *, asked: bool) -> bool:
        """Take in another reader; return False if this download has come to its end."""
        with self._turn:
            if not self._readers or self._settled or self._full or self._error is not None:
                return False
            self._readers += 1
            self._keeping.also(source, asked=asked)
        source.let_go()
        return True

    def release(self) -> None:
        if self._pid != os.getpid():
            return  # all of it is the parent's
        with self._turn:
            self._readers -= 1
            if self._readers:
                return
            feeds, self._feeds = self._feeds, []
        _forget(self)
        for feed in feeds:
            feed.close()
        self._source.let_go()
        for partial in (self._partial, *self._old):
            partial.close()

    def has(self, start: int, end: int) -> bool:
        """Whether bytes can be had without waiting for another process."""
        with self._turn:
            partial = self._partial
            blocks = partial.here[start // BLOCK : -(-end // BLOCK)]
            return partial.mine or all(blocks)

    def begins_with(self, source: Source) -> bool:
        """Whether its first bytes are to come from what `source` was given with."""
        return source is self._source and not self._partial.here[0]

    def readinto(self, view: memoryview, at: int) -> int:
        if at >= self._size:
            return 0
        if self._pid != os.getpid():
            return self._readinto_in_child(view, at)
        while True:
            task = None
            with self._turn:
                partial = self._partial
                ready = self._ready(at, len(view))
                if not ready:
                    task = self._claim(at)
            if ready:
                return partial.read(view[:ready], at)
            if task is not None and (count := self._work(task, view, at)):
                return count

    def _readinto_in_child(self, view: memoryview, at: int) -> int:
        """Read what was here at the fork. The file's lock, and what is under way, stay behind."""
        block = at // BLOCK
        if not (self._settled or (self._partial.missing and self._partial.here[block])):
            raise OutOfRoomError
        return self._partial.read(view[: min((block + 1) * BLOCK, self._size) - at], at)

    def _ready(self, at: int, length: int) -> int:
        """Return how many bytes at `at` can be given out."""
        if self._settled:
            return min(length, self._size - at)
        here, block = self._partial.here, at // BLOCK
        if not self._partial.missing:
            return 0  # left whole by somebody, and not verified yet
        if here[block]:
            end = block + 1
            while end * BLOCK < at + length and end < len(here) and here[end]:
                end += 1
            return min(length, min(end * BLOCK, self._size) - at)
        if self._partial.missing == 1:
            return 0
        return max(0, min(length, block * BLOCK + self._filled.get(block, 0) - at))

    # -- moving on -------------------------------------------------------------------------

    def _claim(self, at: int) -> int | None:
        """Return the block to work on, to come nearer to `at`; None after a wait."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._full:
            raise OutOfRoomError
        wait = None
        if self._partial.missing and not (self._partial.mine or self._got_the_lock()):
            task = _ALL
            if not self._has_stopped():
                wait = _LOOK_AGAIN
        elif not self._partial.missing:
            task = _ALL
        elif self._source.gives_parts:
            task = at // BLOCK
        else:
            task = self._partial.here.find(0)
        busy = self._busy if task == _ALL else self._busy & {task, _ALL}
        if wait is None and not busy:
            self._busy.add(task)
            return task
        self._turn.wait(wait)
        return None

    def _got_the_lock(self) -> bool:
        if not self._partial.lock():
            return False
        self._partial.look()
        return True

    def _has_stopped(self) -> bool:
        """Whether the process that has the partial hasn't written to it for a while."""
        self._partial.look()
        now, written = time.monotonic(), self._partial.written
        if written != self._growth[0]:
            self._growth = (written, now)
        return now - self._growth[1] > PATIENCE

    def _work(self, task: int, view: memoryview, at: int) -> int:
        """Do what was claimed; return how many bytes at `at` are in `view` by it."""
        try:
            if task != _ALL:
                return self._fetch(task, view, at)
            if self._partial.missing:
                self._take_over()
            else:
                self._settle()
            return 0
        except ChangedWhileReadingError as error:
            self._condemn(error)
            raise
        finally:
            with self._turn:
                self._busy.discard(task)
                self._turn.notify_all()

    def _fetch(self, block: int, view: memoryview, at: int) -> int:
        start = block * BLOCK + self._filled.get(block, 0)
        end = min((block + 1) * BLOCK, self._size)
        given = 0
        if start < end:
            feed = self._feed_at(start)
            direct = start == at and len(view) >= _SCRATCH
            target = view if direct else memoryview(bytearray(_SCRATCH))
            try:
                piece = target[: feed.into(target[: end - start])]
                self._write(feed, piece, start)
                if feed.at == self._size:
                    self._finish(feed)
            except BaseException:
                if feed not in self._feeds:
                    feed.close()
                raise
            given = len(piece) if direct else 0
            start = feed.at
            self._lay_aside(feed)
        with self._turn:
            last = self._partial.missing == 1
            self._filled[block] = start - block * BLOCK
            if start == end and not last:
                self._note(block)
        if last and start == end:
            self._settle()
        return 0 if last else given

    def _feed_at(self, at: int) -> Feed:
        with self._turn:
            for feed in self._feeds:
                if feed.at == at:
                    self._feeds.remove(feed)
                    return feed
        feed = self._source.feed(at)
        try:
            feed.skip_to(at)
        except BaseException:
            feed.close()
            raise
        return feed

    def _lay_aside(self, feed: Feed) -> None:
        """Keep a stream for whoever goes on from there, if somebody may."""
        with self._turn:
            useful = (
                self._readers and feed.at < self._size
                and not self._partial.here[feed.at // BLOCK]
            )  # fmt: skip
            if useful:
                self._feeds.append(feed)
            surplus = self._feeds.pop(0) if len(self._feeds) > _IDLE_FEEDS else None
        if not useful:
            feed.close()
        if surplus is not None:
            surplus.close()

    def _write(self, feed: Feed, piece: memoryview, at: int) -> None:
        try:
            self._partial.write(piece, at)
        except OSError as error:
            feed.give_back(piece)
            with self._turn:
                self._full = True
                self._feeds.append(feed)
            drop_quietly(self._source.mount.catalog, self._source.key, self._partial.name)
            raise OutOfRoomError from error
        self._keeping.digests.update(piece, at)

    def _note(self, block: int) -> None:
        try:
            self._partial.note(block)
        except OSError:
            self._full = True
        else:
            del self._filled[block]

    def _finish(self, feed: Feed) -> None:
        try:
            feed.finish()
        except IntegrityError as error:
            self._condemn(error)
            raise

    def _settle(self) -> None:
        try:
            self._keeping.settle(self._partial, self._size)
        except IntegrityError as error:
            self._condemn(error)
            raise
        with self._turn:
            self._settled = True

    def _condemn(self, error: StoreError) -> None:
        """Let nobody go on with these bytes."""
        with self._turn:
            self._error = error
        drop_quietly(self._source.mount.catalog, self._source.key, self._partial.name)

    def _take_over(self) -> None:
        """Go on in a file of our own, where another process holds the lock and stands still."""
        source, old = self._source, self._partial
        content = source.mount.catalog.content
        try:
            new = partials.create(content, self._size)
            try:
                old.copy_to(new)
                bound = _register(source, new, over=old.name)
            except BaseException:
                new.close()
                raise
        except NOT_KEPT as error:
            with self._turn:
                self._full = True
            raise OutOfRoomError from error
        with self._turn:
            # Others may be reading from it.
            self._old.append(old)
            self._partial = bound

    def passing(self, at: int) -> Body:
        digests = None
        feed = None
        if self._pid == os.getpid():
            with self._turn:
                feed = next((feed for feed in self._feeds if feed.at == at), None)
                if feed is not None:
                    self._feeds.remove(feed)
                block = at // BLOCK
                reach = block * BLOCK + self._filled.get(block, 0)
        else:
            block = at // BLOCK
            reach = block * BLOCK
        if self._settled or (all(self._partial.here[:block]) and at <= reach):
            digests = Digests(md5=self._keeping.digests.md5 is not None)
            digests.catch_up(self._partial, at)
        return Passing(self._source, feed, digests, at=at)


# -- joining -------------------------------------------------------------------------------

_Name = tuple[str, str, int]

_joining = threading.RLock()
_downloads: weakref.WeakKeyDictionary[Content, dict[_Name, Download]] = weakref.WeakKeyDictionary()


def _leave_to_parent() -> None:
    global _joining
    _joining = threading.RLock()
    _downloads.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _place(source: Source) -> tuple[dict[_Name, Download], _Name]:
    assert source.version is not None and source.size is not None
    running = _downloads.setdefault(source.mount.catalog.content, {})
    return running, (source.key, source.version, source.size)


def _forget(download: Download) -> None:
    with _joining:
        running, name = _place(download._source)
        if running.get(name) is download:
            del running[name]


def join(source: Source, *, asked: bool) -> Download | None:
    """Return the download of a version of a key, begun or resumed if nobody reads it now.

    Parameters
    ----------
    source
        The value; its version and size are known.
    asked
        Whether somebody asked for this value itself.

    Returns
    -------
    Download or None
        None if it can't be kept.
    """
    with _joining:
        running, name = _place(source)
        found = running.get(name)
    if found is not None and found.enter(source, asked=asked):
        return found
    partial = _obtain(source)
    if partial is None:
        return None
    download = Download(source, partial, asked=asked)
    with _joining:
        found = running.get(name)
        if found is None or not found.enter(source, asked=asked):
            running[name] = found = download
    if found is not download:
        partial.close()
    elif partial.here[0]:
        source.let_go()
    return found


def _obtain(source: Source) -> Partial | None:
    """Return what is here of a value, or a new partial; None if there can be none."""
    catalog = source.mount.catalog
    content = catalog.content
    assert source.version is not None and source.size is not None
    if content.readonly:
        return None
    try:
        partial = partials.find(content, source.key, source.version, source.size)
        if partial is not None:
            return partial
        if not make_room(catalog, source.size):
            return None
        partial = partials.create(content, source.size)
        try:
            return _register(source, partial)
        except BaseException:
            partial.close()
            raise
    except NOT_KEPT:
        return None


def _register(source: Source, partial: Partial, *, over: str | None = None) -> Partial:
    assert source.version is not None
    content = source.mount.catalog.content
    bound = partials.register(content, source.key, source.version, partial, over=over)
    if bound is not partial:
        partial.close()
    return bound
