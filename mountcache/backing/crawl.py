"""A walk through a tree of folders, several at once, which gives what is in them as it comes.

Next door: `pages` (what one folder holds), `listing` (the store that is made of it).
"""

from __future__ import annotations

import hashlib
import logging
import queue
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from mountcache.backing.pages import Item, NoListingError
from mountcache.deadline import end_of_call, within
from mountcache.errors import (
    AuthorizationError,
    IndexUnreadableError,
    InvalidKeyError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.keys import check_http_key

__all__ = ["Bounds", "Crawl"]

_BATCH: Final = 10_000
_ALIKE: Final = 4
_GONE: Final = (404, 410)

_logger = logging.getLogger("mountcache")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a crawl goes."""

    depth: int = 32
    """Folders in one another; what lies deeper is left out."""
    folders: int = 50_000
    """More than that is an error, as with `keys`."""
    keys: int = 5_000_000
    workers: int = 16
    """How many folders are read at once."""


@dataclass(frozen=True, slots=True)
class _Folder:
    prefix: str
    """Of its keys: "", or what ends in "/"."""
    depth: int = 0
    above: tuple[bytes, ...] = ()
    """The signatures of the folders that it is in."""


@dataclass(slots=True)
class _Read:
    """What came of reading a folder, or a part of it."""

    folder: _Folder
    files: list[tuple[str, Item]] = field(default_factory=list)
    below: list[_Folder] = field(default_factory=list)
    ended: bool = False
    error: StoreError | None = None


class Crawl:
    """One walk. Use up `entries`, or close it.

    A folder that can't be listed (it may not be seen, or has a page of its own) says nothing of
    its keys, and stops nothing. Anything else that goes wrong ends the walk.

    Parameters
    ----------
    names
        Gives what is in a folder, named by the prefix of its keys.
    bounds
        How far to go.

    Attributes
    ----------
    withheld
        The folders so far of whose keys nothing can be said.

    Raises
    ------
    StoreError
        By the constructor, if the root can't be listed.
    """

    def __init__(self, names: Callable[[str], Generator[Item]], bounds: Bounds) -> None:
        self.withheld: list[str] = []
        self._names = names
        self._bounds = bounds
        self._until = end_of_call()
        self._came: queue.Queue[_Read] = queue.Queue(2 * bounds.workers)
        self._stopped = False
        self._odd: list[str] = []
        # Whoever asks for the listing hears whether there is one. The walk reads the root again:
        # what is in it has to be later than what was known when the walk began.
        with closing(names("")) as root:
            next(root, None)
        self.entries = self._walk()

    def close(self) -> None:
        """End the walk."""
        self.entries.close()

    def _walk(self) -> Generator[tuple[str, Item]]:
        pool = ThreadPoolExecutor(self._bounds.workers, "mountcache-listing")
        try:
            pool.submit(self._read, _Folder(""))
            folders = unread = 1
            keys = 0
            while unread:
                read = self._came.get()
                keys += len(read.files)
                if keys > self._bounds.keys:
                    raise self._too_many("keys", self._bounds.keys)
                yield from read.files
                if not read.ended:
                    continue
                unread -= 1
                if read.error is not None:
                    self._judge(read.folder.prefix, read.error)
                for folder in read.below:
                    folders += 1
                    unread += 1
                    if folders > self._bounds.folders:
                        raise self._too_many("folders", self._bounds.folders)
                    pool.submit(self._read, folder)
        finally:
            self._stopped = True
            # Who waits for room in the queue gets it, and then sees that it is over.
            while not self._came.empty():
                self._came.get()
            pool.shutdown(cancel_futures=True)
        if self._odd:
            _logger.warning(
                "%d names in the listing can't be keys, and are left out: %r is one",
                len(self._odd), self._odd[0],
            )  # fmt: skip

    def _read(self, folder: _Folder) -> None:
        """Read a folder, in a thread of the pool."""
        left = None if self._until is None else max(0.001, self._until - time.monotonic())
        end = _Read(folder, ended=True)
        try:
            with within(left):
                self._read_names(folder, end)
        except StoreError as error:
            end.error = error
        except Exception as error:  # noqa: BLE001 - it is told by the thread that waits
            end.error = IndexUnreadableError(
                f"the folder {folder.prefix!r} can't be listed: {type(error).__name__}: {error}"
            )
        if not self._stopped:
            self._came.put(end)

    def _read_names(self, folder: _Folder, end: _Read) -> None:
        seen = hashlib.sha256()
        below: list[str] = []
        has_files = False
        for item in self._names(folder.prefix):
            if self._stopped:
                return
            key = folder.prefix + item.name
            try:
                check_http_key(key)
            except InvalidKeyError:
                self._odd.append(key)
                continue
            seen.update(repr(item).encode("utf-8", "surrogatepass"))
            if item.folder:
                below.append(f"{key}/")
                continue
            has_files = True
            end.files.append((key, item))
            if len(end.files) == _BATCH:
                self._came.put(_Read(folder, end.files))
                end.files = []
        signature = seen.digest()
        # Without files and their times, folders may look alike by chance; one in another does no
        # harm, but several in each would be read without end.
        alike = folder.above.count(signature)
        if (alike and has_files) or (alike >= _ALIKE and len(below) > 1):
            end.files.clear()
            _logger.warning("%r leads back to a folder above it", folder.prefix)
        elif folder.depth >= self._bounds.depth and below:
            self._withhold(below, f"it lies more than {self._bounds.depth} folders deep")
        else:
            above = (*folder.above, signature)
            end.below = [_Folder(prefix, folder.depth + 1, above) for prefix in below]

    def _judge(self, prefix: str, error: StoreError) -> None:
        """Tell what an error at one folder means for the walk; raise it if it ends it."""
        status = error.status if isinstance(error, UpstreamError) else 0
        match error:
            case _ if not prefix:
                pass
            case UpstreamError() if status in _GONE:
                return  # a link to nowhere, or removed just now
            case NoListingError() | AuthorizationError():
                return self._withhold([prefix], str(error))
            case UpstreamError() if 300 <= status < 500 and status != 429:
                return self._withhold([prefix], str(error))
        if isinstance(error, StoreUnavailableError | IndexUnreadableError):
            raise error
        raise IndexUnreadableError(f"{error}; what was known stays in force") from error

    def _withhold(self, prefixes: list[str], why: str) -> None:
        self.withheld += prefixes
        _logger.warning("%r can't be listed, its keys are left as they were: %s", prefixes[0], why)

    def _too_many(self, what: str, count: int) -> IndexUnreadableError:
        return IndexUnreadableError(
            f"there are more than {count:,} {what}, which is no longer a listing to be polled; "
            "give the URL of a folder further down, or make an index.json with `mountcache index`"
        )
