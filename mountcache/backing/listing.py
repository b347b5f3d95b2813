"""ListingURLStore: the files of a web server, as its own pages list them.

Next door: `pages` (what a page says), `crawl` (the walk through all of them).
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mountcache.abc import Facts, IndexReading
from mountcache.backing.crawl import Bounds, Crawl
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import Validators, parse_date
from mountcache.backing.http import Transport
from mountcache.backing.limits import Limits
from mountcache.backing.pages import Item, NoListingError, items_of, precise_moment
from mountcache.backing.resource import Data
from mountcache.backing.static import StaticURLStore
from mountcache.backing.tls import TLS
from mountcache.errors import (
    AuthorizationError,
    IndexUnreadableError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.events import EventManager
from mountcache.jsonform import spelling
from mountcache.keys import quote_key

__all__ = ["ListingURLStore"]

_MINUTE: Final = 62.0
"""Seconds after a change of which a listing in minutes shows no second one, clocks being coarse."""
_TODAYS: Final = 2.0
"""Seconds for which a page counts while we push: the race that a checked push has in any case."""

_PAGES: Final = 64


class ListingURLStore(StaticURLStore):
    """All files under a URL, as the server's listing of its folders names them.

    Understood are the listings of nginx (HTML and JSON), of Apache and of
    ``python -m http.server``, and the folders of ``file:`` roots. A key is the path of a file
    under the root; its metadata are what the listing says of it: ``size`` in bytes where it is
    exact, else ``size_about``, and ``modified``. A key whose entry has changed is fetched anew.
    What the listing doesn't show isn't there; a folder that can't be listed any more keeps the
    keys it was last known to hold.

    Parameters
    ----------
    root_url
        The folder: ``http:``, ``https:`` or ``file:``. A user and password in it are credentials.
    poll
        Seconds for which a listing counts as current; 0: until `update_index`. A poll asks for
        the page of each folder.
    write
        "put": the server takes PUT and DELETE, as with nginx's dav module or mod_dav. It keeps no
        metadata: those that are pushed are seen here until the listing shows the new file.
    timeout
        Seconds to wait for a connection and for the next bytes, one number or two.
    deadline
        Seconds that a request may take in all; None: as long as bytes come.
    retries
        How often what is safe to repeat is repeated.
    tls
        How the server proves who it is, and we to it; None: as the environment says.
    limits
        How fast the server may be asked; None: as fast as it answers.
    event_manager
        Who hears of changes in the listing; one of its own unless given.
    bounds
        How deep the walk goes, and how many folders and keys are too many.

    Raises
    ------
    ConfigurationError
        If no store can be at the URL.
    """

    def __init__(
        self,
        root_url: str,
        poll: float = 300,
        *,
        write: Literal["put"] | None = None,
        timeout: float | tuple[float, float] = (10.0, 30.0),
        deadline: float | None = None,
        retries: int = 3,
        tls: TLS | None = None,
        limits: Limits | None = None,
        event_manager: EventManager | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(
            root_url, "", "", poll, write=write, timeout=timeout, deadline=deadline,
            retries=retries, tls=tls, limits=limits, event_manager=event_manager,
        )  # fmt: skip
        self._bounds = bounds or Bounds()
        placed = ("data_path", "query_path", "metadata")
        kept = {name: value for name, value in self._settings.items() if name not in placed}
        self._settings = {**kept, "bounds": self._bounds}
        self._pages: dict[str, tuple[float, dict[str, dict[str, Any]]]] = {}

    def _data_of(self, transport: Transport | FileTransport) -> Data:
        return _Listed(transport, self._url_of, time.time)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "index_lags": False}

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        """Walk through all folders, and return what is in them.

        Raises
        ------
        IndexUnreadableError
            If the root has no listing.
        AuthorizationError
            If it may not be seen.
        """
        try:
            crawl = Crawl(self.names, self._bounds)
        except UpstreamError as error:
            raise IndexUnreadableError(
                f"there is no folder at {self._data_url} ({error.status}); is the URL the right "
                "one?"
            ) from None
        entries = (
            (key, spelling(item.metadata), None, item.size, None) for key, item in crawl.entries
        )
        return IndexReading(entries, None, crawl.close, crawl.withheld)

    def names(self, prefix: str = "") -> Generator[Item]:
        """Iterate over what is in one folder, as its page lists it.

        Parameters
        ----------
        prefix
            Of the folder's keys: "", or what ends in "/".

        Raises
        ------
        IndexUnreadableError
            If the page isn't a listing.
        """
        url = self._data_url + (f"{quote_key(prefix[:-1])}/" if prefix else "")
        what = f"the listing of {url}"
        if isinstance(self._transport, FileTransport):
            yield from _in_folder(url2pathname(urlsplit(url).path), what)
            return
        answer = self._transport.request("GET", url, what, headers={"Accept-Encoding": "gzip"})
        yield from items_of(answer, url, what)

    def _told(self, key: str) -> dict[str, Any]:
        if self._plain is None:
            return super()._told(key)
        # A push compares with it: it has to be today's, but one page tells of many keys.
        folder, _, name = key.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        read, page = self._pages.get(prefix, (0.0, {}))
        now = time.monotonic()
        if not page or now - read > _TODAYS:
            try:
                page = {each.name: each.metadata for each in self.names(prefix) if not each.folder}
            except (UpstreamError, AuthorizationError, NoListingError):
                page = {}  # there is no such folder yet, or it can't be listed
            except IndexUnreadableError as error:
                raise StoreUnavailableError(f"{key!r} can't be compared now: {error}") from error
            if len(self._pages) >= _PAGES:
                self._pages.clear()
            self._pages[prefix] = (now, page)
        return page.get(name, {})


class _Listed(Data):
    """The data of keys whose index can't show each change.

    A file may change twice within the time that its listing shows, a minute as a rule. A copy
    that was fetched so soon after a change is asked after again at its next read.
    """

    def facts(self, key: str, headers: Mapping[str, str]) -> Facts:
        return self._judged(super().facts(key, headers), headers, headers.get("Last-Modified"))

    def confirmed(self, validators: Validators, headers: Mapping[str, str]) -> Facts:
        facts = super().confirmed(validators, headers)
        return self._judged(facts, headers, headers.get("Last-Modified", validators.modified))

    def _judged(self, facts: Facts, headers: Mapping[str, str], changed: str | None) -> Facts:
        then, date = parse_date(changed), parse_date(headers.get("Date"))
        if then is None or (self.clock() if date is None else date) - then >= _MINUTE:
            return facts
        return replace(facts, lifetime=0.0)


def _in_folder(path: str, what: str) -> Iterator[Item]:
    """Iterate over what is in a folder of this machine."""
    try:
        with os.scandir(path) as found:
            for each in found:
                try:
                    if each.is_dir():
                        yield Item(each.name, folder=True)
                    elif each.is_file():
                        told = each.stat()
                        when = precise_moment(told.st_mtime_ns)
                        yield Item(each.name, size=told.st_size, modified=when)
                except FileNotFoundError:
                    continue  # removed meanwhile
    except (FileNotFoundError, NotADirectoryError):
        raise UpstreamError(f"{what}: there is no such folder", status=404) from None
    except PermissionError:
        raise AuthorizationError(f"{what}: {path} may not be read", status=403) from None
    except OSError as error:
        raise StoreUnavailableError(f"{what}: {path} can't be read: {error.strerror}") from None
