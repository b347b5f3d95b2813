"""The pages in which web servers list a folder: what they name, and what they say of it.

Understood are nginx (``autoindex``, as HTML and as JSON), Apache's mod_autoindex in all its forms,
and ``python -m http.server``. Only what is in the folder itself counts: links that lead up, deeper,
to another host, or to the same page in another order aren't names.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

from mountcache.backing.freshness import MONTHS, parse_date
from mountcache.backing.http import Answer
from mountcache.backing.index import Broken, JSONWindow
from mountcache.errors import IndexUnreadableError

__all__ = ["Item", "NoListingError", "items_of", "precise_moment"]

_PIECE: Final = 65536
_LONGEST_PAGE: Final = 256 * 1048576
_LONGEST_HEAD: Final = 1048576
"""Bytes within which a page shows that it is a listing: a report may be any length."""
_LONGEST_TAG: Final = 1048576
_LONGEST_ROW: Final = 400
_TITLES: Final = ("index of", "directory listing for")
_SORTED: Final = re.compile(r"C=[NMSD]([;&]O=[AD])?")
_PLAIN: Final = re.compile(r"[^\s:/?#.][^\s:/?#]*/?")
"""Links as most are, that need no closer look: a name alone."""
_ROW_TAGS: Final = frozenset({"br", "hr", "li", "pre", "table", "tr", "ul", "body", "html"})
_FACTS: Final = re.compile(
    r"""\s*
    (?: (?P<date>\d{2,4}-(?:\d\d|[A-Z][a-z]{2})-\d{2,4})\ (?P<time>\d\d:\d\d(?::\d\d)?)
        (?=\s|$) \s* )?
    (?: (?P<size>\d{1,18}) | (?P<about>\d+(?:\.\d+)?[KMGTPE]) | - )? (?=\s|$)
    """,
    re.VERBOSE,
)


class NoListingError(IndexUnreadableError):
    """What is there isn't the listing of a folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """A name in a folder."""

    name: str
    folder: bool = False
    size: int | None = None
    """In bytes, if the listing is exact."""
    size_about: str | None = None
    """The size as the listing has it, if that is rounded: "1.2K"."""
    modified: str | None = None
    """When it was changed last, as far as the listing says: UTC with a "Z" at its end, in the
    server's own zone without; seconds may be missing."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the listing says of it."""
        said = {
            "modified": self.modified, "size": self.size, "size_about": self.size_about,
        }  # fmt: skip
        return {name: value for name, value in said.items() if value is not None}


def items_of(answer: Answer, url: str, what: str) -> Iterator[Item]:
    """Iterate over the names on a page, as it comes.

    Parameters
    ----------
    answer
        The page; it is closed at the end.
    url
        Where it is, ending in "/".
    what
        What it is, for messages.

    Raises
    ------
    NoListingError
        If it is another page. Nothing was given then.
    IndexUnreadableError
        If it breaks half way.
    """
    try:
        kind = answer.headers.get("Content-Type", "")
        if "json" in kind:
            yield from _of_json(answer, what)
        elif "html" in kind:
            yield from _of_html(answer, url, what)
        else:
            raise NoListingError(f"{what} isn't a listing, but {kind or 'of no known type'}")
    finally:
        answer.body.close()


def precise_moment(nanoseconds: int) -> str:
    """Return a time since 1970 as ISO 8601 in UTC, to the nanosecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_moment(seconds)[:-1]}.{rest:09}Z"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- JSON ----------------------------------------------------------------------------------


def _of_json(answer: Answer, what: str) -> Iterator[Item]:
    # A name that isn't UTF-8 stands there as it is: it is no key, but others are.
    text = JSONWindow(answer.body, "surrogateescape")
    count = 0
    try:
        if text.next() != "[":
            raise NoListingError(f"{what} isn't a listing, but another JSON document")
        text.at += 1
        if text.next() == "]":
            text.at += 1
        else:
            while True:
                item = _item_of(text.value(), what if count == 0 else None)
                count += 1
                if item is not None:
                    yield item
                separator = text.next()
                if separator not in (",", "]"):
                    raise Broken("it ends in the middle" if not separator else "it isn't JSON")
                text.at += 1
                if separator == "]":
                    break
        if text.next():
            raise Broken("something follows its end")
    except (Broken, RecursionError) as error:
        raise _broken(what, str(error)) from None


def _item_of(record: object, what: str | None) -> Item | None:
    """Return what an object is about: None if neither a file nor a folder."""
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        if what is not None:
            raise NoListingError(f"{what} isn't a listing, but another JSON document")
        raise Broken("it has an entry without a name")
    when = record.get("mtime")
    seconds = parse_date(when) if isinstance(when, str) else None
    size = record.get("size")
    match record.get("type"):
        case "directory":
            return Item(record["name"], folder=True)
        case "file":
            return Item(
                record["name"],
                size=size if type(size) is int and size >= 0 else None,
                modified=None if seconds is None else _moment(seconds),
            )
    return None


# -- HTML ----------------------------------------------------------------------------------


def _of_html(answer: Answer, url: str, what: str) -> Iterator[Item]:
    page = _Page(url)
    # Names are percent-encoded, as a rule.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    size = 0
    while piece := answer.body.read(_PIECE):
        size += len(piece)
        page.feed(decoder.decode(piece))
        if size > _LONGEST_HEAD and not page.is_listing:
            break
        if size > _LONGEST_PAGE or len(page.rawdata) > _LONGEST_TAG:
            raise _broken(what, "it has no end")
        yield from page.taken()
    else:
        page.close()
    framed = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
    if page.is_listing and not (framed or page.ended):
        raise _broken(what, "it ends in the middle")
    if not page.is_listing:
        raise NoListingError(f"{what} isn't a listing, but a page of its own")
    yield from page.taken()


class _Page(HTMLParser):
    """The rows of a page: each begins with a link, and ends with its line, list item or table row.

    Attributes
    ----------
    is_listing
        Whether the page says what it is, by its title or by links that sort it.
    ended
        Whether its end has come.
    """

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.is_listing = False
        self.ended = False
        self._url = url
        self._at = urlsplit(url)
        self._items: list[Item] = []
        self._names: set[str] = set()
        self._title: str | None = None
        self._name: str | None = None
        self._tail = ""
        self._in_link = False

    def taken(self) -> list[Item]:
        """Return what has come since, once it is clear that this is a listing."""
        if not self.is_listing:
            return []
        items, self._items = self._items, []
        return items

    def close(self) -> None:
        super().close()
        self._end_row()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            href = dict(attrs).get("href")
            name = None if href is None else self._name_in(href)
            # An icon may be a link of its own, just before that of the name.
            if name != self._name:
                self._end_row()
            self._name, self._tail, self._in_link = name, "", True
        elif tag in _ROW_TAGS:
            self._end_row()
        elif tag in ("title", "h1"):
            self._title = ""
        elif tag in ("td", "th"):
            self._tail += " "

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._in_link = False
        elif tag in ("title", "h1"):
            title = (self._title or "").strip().lower()
            self.is_listing = self.is_listing or title.startswith(_TITLES)
            self._title = None
        elif tag in _ROW_TAGS:
            self._end_row()
            self.ended = self.ended or tag == "html"

    def handle_data(self, data: str) -> None:
        if self._title is not None:
            self._title += data[:_LONGEST_ROW]
        elif self._name is not None and not self._in_link:
            line, newline, _ = data.partition("\n")
            if len(self._tail) < _LONGEST_ROW:
                self._tail += line[:_LONGEST_ROW]
            if newline:
                self._end_row()

    def _end_row(self) -> None:
        name, tail = self._name, self._tail
        self._name, self._tail, self._in_link = None, "", False
        if name is None or name in self._names:
            return
        self._names.add(name)
        if name.endswith("/"):
            self._items.append(Item(name[:-1], folder=True))
            return
        found = _FACTS.match(tail)
        if found is None:
            self._items.append(Item(name))
            return
        size = None if found["size"] is None else int(found["size"])
        self._items.append(Item(name, False, size, found["about"], _time_of(found)))

    def _name_in(self, href: str) -> str | None:
        """Return the name that a link has for something in this folder; a folder's ends in "/"."""
        rest = href.split("/") if _PLAIN.fullmatch(href) else self._rest_of(href)
        if not rest or not rest[0] or rest[1:] not in ([], [""]):
            return None
        # What isn't UTF-8 becomes half of a surrogate pair, which no key has.
        name = unquote(rest[0], errors="surrogateescape")
        # A name with "/" in it would be read as a path.
        return None if "/" in name else name + "/" * len(rest[1:])

    def _rest_of(self, href: str) -> list[str]:
        """Return the path of a link from this folder on, in parts; none if it leads elsewhere."""
        try:
            target = urlsplit(urljoin(self._url, href))
        except ValueError:
            return []
        here = self._at
        if (target.scheme, target.netloc) != (here.scheme, here.netloc) or target.fragment:
            return []
        if target.query:
            self.is_listing = self.is_listing or _SORTED.fullmatch(target.query) is not None
            return []
        above = here.path.split("/")[:-1]
        parts = target.path.split("/")
        if [unquote(each) for each in parts[: len(above)]] != [unquote(each) for each in above]:
            return []
        return parts[len(above) :]


def _time_of(found: re.Match[str]) -> str | None:
    if found["date"] is None:
        return None
    year, month, day = found["date"].split("-")
    if len(day) == 4:
        year, day = day, year
    if not month.isdigit():
        month = f"{MONTHS.index(month) + 1:02}" if month in MONTHS else ""
    if (len(year), len(month), len(day)) != (4, 2, 2):
        return None
    return f"{year}-{month}-{day}T{found['time']}"


def _broken(what: str, why: str) -> IndexUnreadableError:
    return IndexUnreadableError(f"{what} can't be read: {why}; what was known stays in force")
