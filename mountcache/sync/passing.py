"""What a reader of a download holds, and bytes that pass through without being kept."""

from __future__ import annotations

import io
import os
import tempfile
from typing import Any, BinaryIO, Final, Protocol

from mountcache.local.partial import BLOCK
from mountcache.sync.source import Digests, Feed, Source, verify

__all__ = ["Body", "OutOfRoomError", "Passing", "Reader", "Whole", "buffered"]

_PIECE: Final = 65536


class OutOfRoomError(Exception):
    """There is no room to keep any more of a value; `Body.passing` goes on without."""


class Body(Protocol):
    """The bytes of a value as its readers see them."""

    @property
    def size(self) -> int | None:
        """Length in bytes, if it is known yet."""

    def readinto(self, view: memoryview, at: int) -> int:
        """Read some of the bytes from `at` on; return how many, 0 at the end."""

    def passing(self, at: int) -> Body:
        """Return what goes on from `at` without keeping anything, after `OutOfRoomError`."""

    def release(self) -> None:
        """Say that one reader less needs it."""


class Whole:
    """A value that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        return len(self._data)

    def readinto(self, view: memoryview, at: int) -> int:
        piece = self._data[at : at + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def passing(self, at: int) -> Body:
        return self

    def release(self) -> None:
        """Do nothing."""


class Passing:
    """A value that isn't kept: it comes from upstream each time.

    Read in order from its beginning it is verified, and its last piece held back until then.
    Read in another order, where upstream gives no parts, it is laid down in a file without a name
    first.

    Parameters
    ----------
    source
        Where it comes from.
    feed
        A stream of it that is under way.
    digests
        The digests of all bytes before the stream, if there are any.
    at
        Where it goes on.
    """

    def __init__(
        self,
        source: Source,
        feed: Feed | None = None,
        digests: Digests | None = None,
        *,
        at: int = 0,
    ) -> None:
        self._source = source
        self._feed = feed
        self._at = at
        self._digests = digests
        self._size = source.size
        self._ready = memoryview(b"")
        self._held = b""
        self._laid_down: BinaryIO | None = None

    @property
    def size(self) -> int | None:
        return self._size

    def readinto(self, view: memoryview, at: int) -> int:
        if self._size is not None and at >= self._size:
            return 0
        feed = self._feed
        if self._laid_down is None and at != self._at and not self._source.gives_parts:
            self._laid_down = self._lay_down()
        if self._laid_down is not None:
            return os.preadv(self._laid_down.fileno(), [view], at)
        if feed is None or at != self._at:
            feed = self._move(at)
        count = self._unmeasured(feed, view) if self._size is None else self._next(feed, view)
        self._at += count
        return count

    def _move(self, at: int) -> Feed:
        if self._feed is not None:
            self._feed.close()
        # What is read from the middle can't be verified.
        if self._digests is None or self._digests.upto != at:
            self._digests = _digests_for(self._source) if at == 0 else None
        self._ready, self._held = memoryview(b""), b""
        self._feed = feed = self._source.feed(at)
        feed.skip_to(at)
        self._at = at
        return feed

    def _next(self, feed: Feed, view: memoryview) -> int:
        start = feed.at
        count = feed.into(view)
        if self._digests is not None:
            self._digests.update(view[:count], start)
        if feed.at == self._size:
            self._end(feed)
        return count

    def _unmeasured(self, feed: Feed, view: memoryview) -> int:
        """Read with one piece held back: each may be the last."""
        while not self._ready:
            buffer = memoryview(bytearray(_PIECE))
            start = feed.at
            piece = buffer[: feed.into(buffer)]
            if self._digests is not None:
                self._digests.update(piece, start)
            if not piece:
                self._size = feed.at
                self._end(feed)
                self._ready, self._held = memoryview(self._held), b""
                break
            self._ready, self._held = memoryview(self._held), bytes(piece)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _lay_down(self) -> BinaryIO:
        """Bring all of it into a file that ends with this reader.

        Raises
        ------
        ChangedWhileReadingError
            If it doesn't begin with what was given out already.
        """
        given = self._digests if self._at else None
        if self._at and self._source.version is None:
            self.release()
            self._source = self._source.anew()
        elif self._feed is not None:
            self._feed.close()
        self._feed = feed = self._source.feed(0)
        self._digests = digests = _digests_for(self._source)
        self._size = self._source.size
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `release`
        buffer = memoryview(bytearray(BLOCK))
        try:
            while feed.at != self._size:
                left = given.upto - feed.at if given is not None else 0
                piece = buffer[: feed.into(buffer[:left] if left > 0 else buffer)]
                digests.update(piece, file.tell())
                file.write(piece)
                if given is not None and feed.at == given.upto and given.sha256 != digests.sha256:
                    raise self._source.changed()
                if not piece:
                    self._size = feed.at
            if given is not None and feed.at < given.upto:
                raise self._source.changed()
            self._end(feed)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _end(self, feed: Feed) -> None:
        self._feed = None
        feed.finish()
        digests = self._digests
        if digests is not None and digests.upto == feed.at:
            verify(self._source, feed.at, digests.sha256, digests.md5)
            self._source.hand_out(digests.sha256)

    def passing(self, at: int) -> Body:
        return self

    def release(self) -> None:
        if self._laid_down is not None:
            self._laid_down.close()
        if self._feed is not None:
            self._feed.close()
        else:
            self._source.let_go()


def _digests_for(source: Source) -> Digests:
    return Digests(md5=(source.promise.md5 or source.facts.md5) is not None)


class Reader(io.RawIOBase):
    """One reader of a body, or of a part of it.

    Parameters
    ----------
    body
        The bytes; released at the end.
    start, end
        The part: from `start` up to but not with `end`.
    version
        Names the bytes beyond doubt; None if upstream gave no such name.
    """

    def __init__(
        self,
        body: Body,
        *,
        start: int = 0,
        end: int | None = None,
        version: str | None = None,
    ) -> None:
        self.version = version
        self._body: Body | None = body
        self._start = start
        self._end = end
        self._at = start

    @property
    def size(self) -> int | None:
        """Length of the whole value in bytes, if it is known yet."""
        return self._open_body().size

    def _open_body(self) -> Body:
        if self._body is None:
            raise ValueError("I/O operation on closed file")
        return self._body

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._open_body() is not None

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._end is not None:
            view = view[: max(0, self._end - self._at)]
        while view:
            body = self._open_body()
            try:
                count = body.readinto(view, self._at)
            except OutOfRoomError:
                self._body = body.passing(self._at)
                body.release()
            else:
                self._at += count
                return count
        return 0

    def readall(self) -> bytes:
        return _rest(self)

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        match whence:
            case io.SEEK_SET:
                at = self._start + offset
            case io.SEEK_CUR:
                at = self._at + offset
            case _:
                at = self._length() + offset
        if at < self._start:
            raise ValueError(f"can't seek to {at - self._start}")
        self._at = at
        return at - self._start

    def _length(self) -> int:
        """Return where the part ends, reading on if that isn't known."""
        size = self._open_body().size
        if size is None:
            at, scratch = self._at, bytearray(_PIECE)
            while self.readinto(scratch):
                pass
            size = self._open_body().size
            self._at = at
        assert size is not None
        return size if self._end is None else max(self._start, min(self._end, size))

    def close(self) -> None:
        if not self.closed:
            body, self._body = self._body, None
            if body is not None:
                body.release()
        super().close()


class _Stream(io.BufferedReader):
    """The stream that users get.

    The base class copies all of a value to put what it has buffered before it.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return _rest(self) if size is None or size < 0 else super().read(size)


def _rest(stream: io.RawIOBase | io.BufferedReader) -> bytes:
    """Return all that is left of a stream, which is in memory once, and not as pieces too."""
    whole, piece = io.BytesIO(), memoryview(bytearray(BLOCK))
    while count := stream.readinto(piece):
        whole.write(piece[:count])
    return whole.getvalue()


def buffered(reader: Reader) -> io.BufferedReader:
    """Return the stream that users get."""
    return _Stream(reader, _PIECE)
