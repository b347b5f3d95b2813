"""Where the bytes of a download come from: the answer under way, and how to go on after it.

Next door: `download` (into the store), `passing` (past it).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from mountcache.abc import Facts, SupportsRanges, Value, facts_of
from mountcache.errors import (
    ChangedWhileReadingError,
    IntegrityError,
    InvalidValueError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
)
from mountcache.jsonform import normal_form, parse, spelling
from mountcache.local import listing
from mountcache.local.partial import BLOCK, Partial
from mountcache.local.records import Row, Seen
from mountcache.sync.mount import Mount
from mountcache.sync.promise import Promise

__all__ = ["Digests", "Feed", "Source", "begin", "verify"]

_PIECE: Final = 262144
_CRUMB: Final = 16384
_CRUMBS: Final = 3
"""How often in a row a stream may break off after less than `_CRUMB` bytes, and be gone on with."""

_logger = logging.getLogger("mountcache")


def begin(backing: Any, key: str) -> Value:
    """Begin the download of a key, in one request where the store can."""
    value: Value = backing.fetch(key) if hasattr(backing, "fetch") else backing.get(key)
    return value


class Source:
    """Upstream's value of a key, at one version.

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
    """

    def __init__(self, mount: Mount, row: Row, value: Value, promise: Promise) -> None:
        self.mount = mount
        self.row = row
        self.key = row.key
        self.name = mount.full(row.key)
        self.promise = promise
        self.facts: Facts = self._ruled(facts_of(value))
        self._value = value
        self._stream: Any = None
        self._used = False
        self._taking = threading.RLock()
        self._pid = os.getpid()
        self._gives_parts = isinstance(mount.backing, SupportsRanges)

    def _ruled(self, facts: Facts) -> Facts:
        """Return facts with what a rule says of keeping."""
        rules = self.mount.rules
        if rules is None or (said := rules.store(self.name)) == "auto":
            return facts
        return replace(facts, storable=said == "always")

    @property
    def version(self) -> str | None:
        """Names the bytes beyond doubt; None if they can be had only once."""
        return self.facts.version

    @property
    def size(self) -> int | None:
        """Length of the data in bytes, if anybody said."""
        return self.promise.size if self.facts.size is None else self.facts.size

    @property
    def gives_parts(self) -> bool:
        """Whether a stream can begin in the middle."""
        return self._gives_parts and self.version is not None

    @property
    def promised(self) -> tuple[int | None, str | None, str | None, str | None, str | None]:
        """What was promised of the bytes, by the index and by the answer."""
        promise, facts = self.promise, self.facts
        return promise.size, promise.sha256, promise.md5, facts.sha256, facts.md5

    def meta(self) -> str:
        """Return the metadata to keep, as JSON text."""
        if self.promise.entry is not None:
            return self.promise.entry
        if self.promise.meta is not None:
            return self.promise.meta
        return spelling(self._value.metadata)

    def check_index(self) -> None:
        """Make sure that the index isn't behind what upstream shows.

        A version that names the metadata too, kept with those of an older entry, would let an
        edit overwrite what nobody here has seen.

        Raises
        ------
        ChangedWhileReadingError
            If it is; the next read asks for the index again.
        """
        entry = self.promise.entry
        if entry is None or not self.facts.names_metadata:
            return
        if normal_form(self._value.metadata) != normal_form(parse(entry)):
            self.let_go()
            self.doubt_index()
            raise ChangedWhileReadingError(
                f"{self.name!r} has other metadata upstream than the index says; read it again"
            )

    def doubt_index(self) -> None:
        """Let the next read ask for the index again, if there is one."""
        if self.promise.entry is not None:
            try:
                listing.note_index_outdated(self.mount.catalog)
            except (StoreBusyError, StoreFullError, ReadOnlyStoreError) as error:
                _logger.info("the index stays in force for now: %s", error)

    def hand_out(self, sha256: str) -> None:
        """Note that a reader has seen the bytes: the base of a later edit."""
        seen = Seen(self.version, sha256, self.meta(), self.promise.entry)
        self.mount.catalog.hand_out(self.key, seen)

    def begin(self) -> None:
        """Ask for the data; `facts` are those of the answer then."""
        if self._stream is not None or self._used:
            return
        named = self.version
        self._stream = self._value.data
        self.facts = self._ruled(facts_of(self._value))
        if named is not None and self.version != named:
            self.let_go()
            raise self.changed()

    def let_go(self) -> None:
        """Close the answer that came with the value, if nothing of it was used."""
        self._leave_to_parent()
        with self._taking:
            used, self._used = self._used, True
        if not used:
            _close(self._value if self._stream is None else self._stream)

    def _leave_to_parent(self) -> None:
        """In a forked child, leave the answer that came with the value to its parent."""
        if self._pid != os.getpid():
            _left_alone.append((self._value, self._stream))
            self._pid, self._taking, self._used = os.getpid(), threading.RLock(), True

    def feed(self, at: int) -> Feed:
        """Return a stream from byte `at` on, or from one before it where there are no parts.

        Raises
        ------
        ChangedWhileReadingError
            If upstream has replaced the value.
        """
        self._leave_to_parent()
        if at == 0 or not self.gives_parts:
            with self._taking:
                first = not self._used
                if first:
                    self.begin()
                    self._used = True
            if first:
                return Feed(self, self._stream, 0)
        else:
            self.let_go()
        try:
            return Feed(self, *self._open(at))
        except KeyError:
            raise ChangedWhileReadingError(
                f"{self.name!r} was deleted upstream while it was being read"
            ) from None

    def _open(self, at: int) -> tuple[Any, int]:
        backing, version = self.mount.backing, self.version
        if version is None:
            raise StoreUnavailableError(
                f"upstream doesn't say which version of {self.name!r} it gives, so what is left "
                "of it can't be asked for by itself; read it again"
            )
        if self._gives_parts and at and isinstance(backing, SupportsRanges):
            try:
                return backing.open_range(self.name, at, version), at
            except ChangedWhileReadingError:
                # It has another version, or gives no parts: the whole of it tells which.
                self._gives_parts = False
        value = begin(backing, self.name)
        stream = value.data
        if facts_of(value).version != version:
            _close(stream)
            raise self.changed()
        return stream, 0

    def anew(self) -> Source:
        """Return what upstream shows now; whether it is the same value is another matter."""
        return Source(self.mount, self.row, begin(self.mount.backing, self.name), self.promise)

    def changed(self) -> ChangedWhileReadingError:
        """Return the error that tells of another version."""
        return ChangedWhileReadingError(
            f"{self.name!r} was replaced upstream while it was being read; read it again"
        )


class Feed:
    """A stream of a source's bytes, at the place where it is now.

    After a broken connection it goes on where it was, as long as it gets on. Where nobody said
    how long the value is, it doesn't: of a broken body in chunks nobody can tell whether its last
    bytes were data or the frame of the next chunk.

    Parameters
    ----------
    source
        Where it comes from.
    stream
        The bytes.
    at
        Where they begin.
    """

    def __init__(self, source: Source, stream: Any, at: int) -> None:
        self.at = at
        self._source = source
        self._stream = stream
        self._given = 0
        """Bytes of this stream, since it was opened."""
        self._crumbs = 0
        """How many streams in a row gave hardly anything."""
        self._returned = memoryview(b"")
        self._readinto = _readinto(stream)
        self._pid = os.getpid()

    def into(self, view: memoryview) -> int:
        """Read some bytes into `view`, as soon as there are any; return how many, 0 at the end."""
        if self._returned:
            count = min(len(view), len(self._returned))
            view[:count] = self._returned[:count]
            self._returned = self._returned[count:]
            self.at += count
            return count
        if self._pid != os.getpid():
            self._leave_to_parent()
        size = self._source.size
        if size is not None:
            view = view[: max(0, size - self.at)]
        while view:
            try:
                count = self._readinto(view)
                if count == 0 and size is not None:
                    raise IntegrityError(
                        f"{self._source.name!r} ended after {self.at} of {size} bytes; read it "
                        "again to get the rest"
                    )
            except (StoreUnavailableError, IntegrityError):
                if size is None or not self._source.gives_parts or not self._gets_on():
                    raise
                self._go_on()
                continue
            self._given += count
            self.at += count
            self._source.mount.counts.fetched_bytes += count
            return count
        return 0

    def _gets_on(self) -> bool:
        self._crumbs = self._crumbs + 1 if self._given < _CRUMB else 0
        return self._given > 0 and self._crumbs <= _CRUMBS

    def _go_on(self) -> None:
        """Ask for the rest after a broken connection."""
        self.close()
        other = self._source.feed(self.at)
        other.skip_to(self.at)
        self._stream, self._readinto, self._given = other._stream, other._readinto, 0

    def _leave_to_parent(self) -> None:
        """Open a stream of its own in a forked child: the connection is its parent's."""
        _left_alone.append(self._stream)
        other = self._source.feed(self.at)
        other.skip_to(self.at)
        self._stream, self._readinto, self._pid = other._stream, other._readinto, other._pid

    def skip_to(self, at: int) -> None:
        """Read on to byte `at`."""
        scratch = memoryview(bytearray(_PIECE))
        while self.at < at:
            if not self.into(scratch[: at - self.at]):
                raise self._source.changed()

    def give_back(self, data: memoryview) -> None:
        """Take the last bytes back; they are given again."""
        self._returned = memoryview(bytes(data) + bytes(self._returned))
        self.at -= len(data)

    def finish(self) -> None:
        """Make sure that nothing follows, and close.

        Raises
        ------
        IntegrityError
            If the value is longer than promised.
        """
        more: int = 0
        try:
            more = len(self._returned) or int(self._readinto(memoryview(bytearray(1))))
        except StoreUnavailableError:
            # What was promised has come; how the connection ends is another matter.
            if self._source.size is None:
                raise
        finally:
            self.close()
        if more:
            raise IntegrityError(
                f"{self._source.name!r} is longer than the {self.at} bytes that were promised; "
                "nothing of it was kept: ask the owner of upstream to mend it"
            )

    def close(self) -> None:
        """Release the connection."""
        if self._pid == os.getpid():
            _close(self._stream)
        else:
            _left_alone.append(self._stream)


_left_alone: list[Any] = []
"""Streams that a forked child inherited: to end them in good order could disturb its parent."""


def _close(stream: Any) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        close()


def _readinto(stream: Any) -> Callable[[memoryview], int]:
    """Return what reads from a stream into a buffer, without waiting for more than there is."""
    direct = getattr(stream, "readinto1", None)
    at_once = getattr(stream, "read1", None)

    def readinto(view: memoryview) -> int:
        nonlocal direct, at_once
        if direct is not None:
            try:
                count: int = direct(view)
            except (io.UnsupportedOperation, NotImplementedError):
                direct = None
            else:
                return count
        if at_once is not None:
            try:
                return _placed(at_once(min(len(view), _PIECE)), view)
            except (io.UnsupportedOperation, NotImplementedError):
                at_once = None
        return _placed(stream.read(min(len(view), _PIECE)), view)

    return readinto


def _placed(piece: object, view: memoryview) -> int:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise InvalidValueError(
            f"upstream's stream gave {type(piece).__name__} where bytes were expected"
        )
    view[: len(piece)] = piece
    return len(piece)


class Digests:
    """The digests of a byte string, from its beginning as far as it went by in order.

    Parameters
    ----------
    md5
        Whether MD5 is wanted too.
    """

    def __init__(self, *, md5: bool = False) -> None:
        self.upto = 0
        """How many bytes are in them."""
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, data: memoryview | bytes, at: int) -> None:
        """Take in bytes that begin at `at`, as far as they are the next."""
        if not at <= self.upto <= at + len(data):
            return
        data = memoryview(data)[self.upto - at :]
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)
        # Last: another thread's bytes count as the next ones only when these are in.
        self.upto += len(data)

    def catch_up(self, partial: Partial, size: int) -> None:
        """Take in what didn't go by in order from the file."""
        buffer = memoryview(bytearray(min(BLOCK, max(1, size - self.upto))))
        while self.upto < size:
            count = partial.read(buffer[: size - self.upto], self.upto)
            if not count:
                return
            self.update(buffer[:count], self.upto)

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str | None:
        """32 hex digits; None if it wasn't wanted."""
        return None if self._md5 is None else self._md5.hexdigest()


def verify(source: Source, size: int, sha256: str | None, md5: str | None) -> None:
    """Compare length and digests with what upstream and its index promised.

    Parameters
    ----------
    source
        Where the bytes came from.
    size
        How many there were.
    sha256, md5
        Their digests; None if they weren't computed, and are not compared then.

    Raises
    ------
    IntegrityError
        If one of them differs.
    """
    promise, facts = source.promise, source.facts
    for what, wanted, found in (
        ("length", promise.size, size),
        ("length", facts.size, size),
        ("sha256", promise.sha256, sha256),
        ("sha256", facts.sha256, sha256),
        ("md5", promise.md5, md5),
        ("md5", facts.md5, md5),
    ):
        if wanted is not None and found is not None and wanted != found:
            source.doubt_index()
            raise IntegrityError(
                f"{source.name!r} has {what} {found}, but {wanted} was promised; nothing of it "
                "was kept: read it again; if that is no help, ask the owner of upstream to mend it"
            )
