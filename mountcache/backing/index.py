"""Indexes as streams of entries: a million keys are never in memory at once.

Two forms: ``{key: metadata}`` as one JSON object, and one JSON object a line.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final, TypeVar

from mountcache.abc import Readable
from mountcache.capabilities import IndexEntry, IndexWindow
from mountcache.errors import (
    IndexUnreadableError,
    IntegrityError,
    InvalidKeyError,
    InvalidMetadataError,
)
from mountcache.jsonform import spelling
from mountcache.keys import check_http_key

__all__ = [
    "Broken",
    "JSONWindow",
    "entries_of_lines",
    "entries_of_object",
    "entries_of_windows",
    "windows_of_object",
]

_T = TypeVar("_T")
_Members = tuple[tuple[str, Any], ...]

_WINDOW: Final = 1048576
_LONGEST: Final = 16 * _WINDOW
"""Characters of one entry."""
_LONGEST_IN_ALL: Final = 4096 * _WINDOW
"""Bytes of an index, or listing: tens of millions of entries."""
_LONGEST_GAP: Final = _WINDOW
"""Characters of space between two values."""
_LONGEST_DATA: Final = 10**18
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_SHA256: Final = re.compile("[0-9a-fA-F]{64}")

_logger = logging.getLogger("mountcache")


class Broken(Exception):
    """What is read isn't what it should be."""


def _no_constant(name: str) -> Any:
    raise Broken(f"it has {name}, which isn't JSON")


_decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(
    parse_constant=_no_constant
).raw_decode

# Objects become tuples of pairs, so that a key which is there twice stays so.
_decode_pairs: Callable[[str], Any] = json.JSONDecoder(
    parse_constant=_no_constant, object_pairs_hook=tuple
).decode
_CUTS: Final = 4


class JSONWindow:
    """A window that moves over the JSON text of a stream.

    Parameters
    ----------
    stream
        UTF-8.
    errors
        What becomes of bytes that aren't, as for `bytes.decode`.
    """

    def __init__(self, stream: Readable, errors: str = "strict") -> None:
        self.text = ""
        self.at = 0
        self._stream = stream
        # With a signature at its beginning or without: both are found in the wild.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors)
        self._ended = False
        self._taken = 0
        self._cut = True

    def more(self) -> bool:
        """Take in more text, dropping what lies behind; False at the end."""
        if self._ended:
            return False
        self.text = self.text[self.at :]
        self.at = 0
        if len(self.text) > _LONGEST:
            raise Broken(f"it has one entry of more than {_LONGEST:,} characters")
        data = self._read()
        self._ended = not data
        self._taken += len(data)
        if self._taken > _LONGEST_IN_ALL:
            raise Broken(f"it is longer than {_LONGEST_IN_ALL:,} bytes")
        self.text += self._decoder.decode(data, final=self._ended)
        self._cut = True
        return True

    def _read(self) -> bytes:
        """Read a good part of what there is: what comes in drops isn't looked at drop by drop."""
        wanted, pieces = max(_WINDOW, len(self.text) // 4), []
        while wanted > 0 and (piece := self._stream.read(min(wanted, _WINDOW))):
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def next(self) -> str:
        """Return the next character that isn't space, without taking it; "" at the end."""
        gap = 0
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            gap += found.end() - self.at
            if gap > _LONGEST_GAP:
                raise Broken(f"it has more than {_LONGEST_GAP:,} characters of space in a row")
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def whole(self, read: Callable[[str], _T | None]) -> _T | None:
        """Take the members of an object that are whole in the window; None where that is hard.

        They are followed by a comma, which isn't taken.

        Parameters
        ----------
        read
            Returns what the text of an object comes to, None if that isn't JSON.
        """
        end = len(self.text)
        for _ in range(_CUTS if self._cut else 0):
            end = self.text.rfind("},", self.at, end)
            if end < 0:
                break
            # What is JSON with a brace about it was cut between two members: within a string its
            # quotes don't come out even, within a value its braces.
            found = read(f"{{{self.text[self.at : end + 1]}}}")
            if found is not None:
                self.at = end + 1
                return found
        self._cut = False
        return None

    def value(self) -> Any:
        """Take the next JSON value."""
        self.next()
        while True:
            try:
                value, end = _decode(self.text, self.at)
                # A number or word at the end of the window may go on behind it.
                if end < len(self.text) or self._ended:
                    self.at = end
                    return value
            except ValueError as error:
                if self._ended:
                    raise Broken(f"it isn't JSON: {error}") from None
            if not self.more() and self._ended and self.at >= len(self.text):
                raise Broken("it ends too early")


class _Window:
    """A part of ``{key: metadata}``, as `IndexWindow` says."""

    def __init__(self, reader: JSONWindow, what: str) -> None:
        self._reader = reader
        self._what = what
        self._taken = False
        self.last = ""
        """The key that was taken last, where that is known."""

    def text(self, is_json: Callable[[str], bool]) -> str | None:
        found = self._reader.whole(lambda text: text if is_json(text) else None)
        self._taken = found is not None
        return found

    def entries(self) -> list[IndexEntry]:
        if self._taken:
            return []
        self._taken = True
        with _told(self._what):
            return self._take(self._reader)

    def _take(self, reader: JSONWindow) -> list[IndexEntry]:
        if members := reader.whole(_members):
            self.last = members[-1][0]
            return _entries(members)
        if reader.next() != '"':
            raise Broken(f"there is {reader.next()!r} where a key in quotes was expected")
        self.last = reader.value()
        if reader.next() != ":":
            raise Broken(f"the key {self.last[:60]!r} has no metadata")
        reader.at += 1
        entry = _entry(self.last, reader.value())
        return [] if entry is None else [entry]

    def parsed(self, text: str) -> list[IndexEntry]:
        with _told(self._what):
            return _entries(_decode_pairs(text))


def windows_of_object(stream: Readable, what: str) -> Iterator[_Window]:
    """Iterate over the windows of ``{key: metadata}``.

    Raises
    ------
    IndexUnreadableError
        Where it is anything else.
    """
    with _told(what):
        text = JSONWindow(stream)
        first = text.next()
        if first != "{":
            shown = text.text[text.at : text.at + 20]
            raise Broken(
                "it is empty" if not first else f"it begins {shown!r} where {{ was expected"
            )
        text.at += 1
        if text.next() == "}":
            text.at += 1
        else:
            while True:
                window = _Window(text, what)
                yield window
                window.entries()  # if nobody has taken it
                separator = text.next()
                if separator not in (",", "}"):
                    after = f"the key {window.last[:60]!r}"
                    raise Broken(
                        f"there is {separator!r} after {after}" if separator
                        else f"it ends after {after}"
                    )  # fmt: skip
                text.at += 1
                if separator == "}":
                    break
        if text.next():
            raise Broken(f"there is {text.next()!r} after its end")


def entries_of_object(stream: Readable, what: str) -> Iterator[IndexEntry]:
    """Iterate over the entries of ``{key: metadata}``, which breaks as its windows do."""
    return entries_of_windows(windows_of_object(stream, what))


def entries_of_windows(windows: Iterable[IndexWindow]) -> Iterator[IndexEntry]:
    """Iterate over the entries of windows."""
    return chain.from_iterable(window.entries() for window in windows)


def entries_of_lines(stream: Readable, what: str) -> Iterator[IndexEntry]:
    """Iterate over the entries of a listing: one object a line, with key and metadata at least.

    Raises
    ------
    IndexUnreadableError
        Where it is anything else.
    """
    with _told(what):
        text = JSONWindow(stream)
        while text.next():
            record = text.value()
            if not isinstance(record, dict) or not isinstance(record.get("key"), str):
                raise Broken("it has a line that isn't an object with a key")
            entry = _entry(record["key"], record.get("metadata"))
            if entry is None:
                continue
            key, meta, *_ = entry
            version, size = record.get("version"), record.get("size")
            yield (
                key,
                meta,
                version if isinstance(version, str) else None,
                size if type(size) is int and 0 <= size < _LONGEST_DATA else None,
                _digest(record.get("sha256")),
            )


def _entry(key: str, metadata: Any) -> IndexEntry | None:
    """Return an entry; None for a key that no URL can name, and so nobody can read."""
    try:
        check_http_key(key)
    except InvalidKeyError as error:
        _logger.warning("an entry of the index is left out: %s", error)
        return None
    try:
        return key, spelling(metadata), None, None, _digest(metadata.get("sha256"))
    except InvalidMetadataError as error:
        raise Broken(f"of the key {key[:60]!r} the {error}") from None


def _members(text: str) -> _Members | None:
    """Return the members of an object, objects in it as tuples of pairs; None if it isn't one."""
    with suppress(ValueError, Broken):
        members: _Members = _decode_pairs(text)
        return members
    return None


def _entries(members: _Members) -> list[IndexEntry]:
    found = (_entry(key, _object(pairs)) for key, pairs in members)
    return [entry for entry in found if entry is not None]


def _object(value: Any) -> Any:
    """Return JSON whose objects are tuples of pairs as such with dicts."""
    if type(value) is tuple:
        made = dict(value)
        if any(type(each) in (tuple, list) for each in made.values()):
            made = {name: _object(each) for name, each in made.items()}
        return made
    return [_object(each) for each in value] if type(value) is list else value


def _digest(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and _SHA256.fullmatch(value) else None


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say of what is read here that it can't be."""
    try:
        yield
    except (Broken, IntegrityError, UnicodeDecodeError, RecursionError) as error:
        said = str(error)
        if isinstance(error, UnicodeDecodeError):
            said = "it isn't UTF-8"
        if isinstance(error, RecursionError):
            said = "it is nested too deeply"
        raise IndexUnreadableError(
            f"{what} can't be read: {said}; the index before stays in force"
        ) from None
