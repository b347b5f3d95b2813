"""Indexes as streams of entries: a million keys are never in memory at once.

Two forms: ``{key: metadata}`` as one JSON object, and one JSON object a line.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from mountcache.abc import Readable
from mountcache.errors import (
    IndexUnreadableError,
    IntegrityError,
    InvalidKeyError,
    InvalidMetadataError,
)
from mountcache.jsonform import spelling
from mountcache.keys import check_http_key

__all__ = ["Broken", "Entry", "JSONWindow", "entries_of_lines", "entries_of_object"]

Entry = tuple[str, str, str | None, int | None, str | None]
"""(key, metadata as JSON text, version, size, sha256)."""

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

    def members(self) -> list[tuple[str, Any]]:
        """Take the members of an object that are whole in the window, or none where that is hard.

        They are followed by a comma, which isn't taken. Objects in them are tuples of pairs.
        """
        end = len(self.text)
        for _ in range(_CUTS if self._cut else 0):
            end = self.text.rfind("},", self.at, end)
            if end < 0:
                break
            # What is JSON with a brace about it was cut between two members: within a string its
            # quotes don't come out even, within a value its braces.
            with suppress(ValueError, Broken):
                found: tuple[tuple[str, Any], ...] = _decode_pairs(
                    f"{{{self.text[self.at : end + 1]}}}"
                )
                self.at = end + 1
                return list(found)
        self._cut = False
        return []

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


def entries_of_object(stream: Readable, what: str) -> Iterator[Entry]:
    """Iterate over the entries of ``{key: metadata}``.

    Raises
    ------
    IndexUnreadableError
        Where it is anything else.
    """
    try:
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
                members, key = text.members(), ""
                for key, pairs in members:
                    entry = _entry(key, _object(pairs))
                    if entry is not None:
                        yield entry
                if not members:
                    if text.next() != '"':
                        raise Broken(f"there is {text.next()!r} where a key in quotes was expected")
                    key = text.value()
                    if text.next() != ":":
                        raise Broken(f"the key {key[:60]!r} has no metadata")
                    text.at += 1
                    entry = _entry(key, text.value())
                    if entry is not None:
                        yield entry
                separator = text.next()
                if separator not in (",", "}"):
                    raise Broken(
                        f"there is {separator!r} after the key {key[:60]!r}" if separator
                        else f"it ends after the key {key[:60]!r}"
                    )  # fmt: skip
                text.at += 1
                if separator == "}":
                    break
        if text.next():
            raise Broken(f"there is {text.next()!r} after its end")
    except (Broken, IntegrityError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(what, error) from None


def entries_of_lines(stream: Readable, what: str) -> Iterator[Entry]:
    """Iterate over the entries of a listing: one object a line, with key and metadata at least.

    Raises
    ------
    IndexUnreadableError
        Where it is anything else.
    """
    try:
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
    except (Broken, IntegrityError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(what, error) from None


def _entry(key: str, metadata: Any) -> Entry | None:
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


def _unreadable(what: str, error: Exception) -> IndexUnreadableError:
    if isinstance(error, UnicodeDecodeError):
        error = Broken("it isn't UTF-8")
    if isinstance(error, RecursionError):
        error = Broken("it is nested too deeply")
    return IndexUnreadableError(f"{what} can't be read: {error}; the index before stays in force")
