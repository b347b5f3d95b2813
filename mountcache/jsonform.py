"""Metadata as JSON: what is allowed, how it is kept, and its normal form.

The normal form is what versions, equality and queries use; a read gives the spelling that was
set.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from mountcache.errors import DirectoryError, InvalidMetadataError

__all__ = ["METADATA_LIMIT", "content_version", "normal_form", "normal_value", "parse", "spelling"]

METADATA_LIMIT = 16 * 1048576
"""Bytes of JSON beyond which nothing that is read from others is the metadata of a key."""
_WHOLE = 2**53
_INT64 = 2**63
_decode = json.JSONDecoder().raw_decode


def _encoder(*, sort_keys: bool) -> Callable[[object], str]:
    """Return what writes JSON; json.dumps makes such an encoder anew at each call."""
    plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    text: Any = getattr(json.encoder, "encode_basestring")  # noqa: B009 - typeshed lacks it
    pieces = make(None, plain.default, text, None, ":", ",", sort_keys, False, True)
    return lambda value: "".join(pieces(value, 0))


_encode, _dump = _encoder(sort_keys=False), _encoder(sort_keys=True)


def spelling(metadata: object) -> str:
    """Return `metadata` as JSON text in the order and spelling it was given in.

    Tuples become lists.

    Raises
    ------
    InvalidMetadataError
        If it isn't a dict with str keys of JSON values: NaN and infinities, bytes, lone
        surrogates and integers beyond 64 bits are refused.
    """
    if type(metadata) is dict and _is_flat(metadata):
        text = _encode(metadata)
        if text.isascii():
            return text
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError(f"metadata is a dict, not {type(metadata).__name__}")
    _check(metadata, "metadata")
    return _encode(_plain(metadata))


def normal_form(metadata: Mapping[str, Any]) -> str:
    """Return the one JSON text of all spellings of `metadata`.

    Names are sorted; a float that is a whole number within 2**53 counts as that integer.
    """
    if type(metadata) is dict and _is_flat(metadata):
        return _dump(metadata)
    return _dump(_normal(metadata))


def normal_value(value: object) -> str:
    """Return the normal form of one metadata value, as queries compare it."""
    _check(value, "a value in a query")
    return _dump(_normal(value))


def parse(text: str) -> dict[str, Any]:
    """Return the metadata that `text` of the store spells, which begins with its brace.

    Raises
    ------
    DirectoryError
        If it isn't as `spelling` wrote it.
    """
    try:
        result: dict[str, Any] = _decode(text)[0]
    except (TypeError, ValueError, RecursionError):
        result = None  # type: ignore[assignment]
    if type(result) is not dict:
        raise DirectoryError(
            f"the database of the store has metadata that are none ({text[:40]!r}...); another "
            "program wrote into it: restore the directory from a backup"
        )
    return result


def content_version(sha256: str, metadata: Mapping[str, Any]) -> str:
    """Return the version of data and metadata: a content hash, never racy.

    Parameters
    ----------
    sha256
        Digest of the data, 64 hex digits; for an edit of metadata alone, any other string
        that names the data.
    metadata
        The metadata.
    """
    try:
        data = bytes.fromhex(sha256)
    except ValueError:
        data = b""
    if len(data) != 32:
        data = hashlib.sha256(sha256.encode()).digest()
    return hashlib.sha256(data + normal_form(metadata).encode()).hexdigest()


def _is_flat(metadata: dict[Any, Any]) -> bool:
    """Return whether all there is are names and text, integers of 64 bits, true, false and null.

    That is so of most, and such are in normal form but for their order.
    """
    for name, value in metadata.items():
        kind = type(value)
        if type(name) is not str or not (
            kind is str
            or (kind is int and -_INT64 <= value < _INT64)
            or value is None
            or kind is bool
        ):
            return False
    return True


def _normal(value: Any) -> Any:
    match value:
        case bool() | None | str() | int():
            return value
        case float():
            return int(value) if value.is_integer() and abs(value) <= _WHOLE else value
        case Mapping():
            return {name: _normal(each) for name, each in value.items()}
        case _:
            return [_normal(each) for each in value]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _check(value: object, where: str, depth: int = 0) -> None:
    if depth > 100:
        raise InvalidMetadataError(f"{where[:60]}... is nested more than 100 levels deep")
    match value:
        case bool() | None:
            return
        case str():
            _check_text(value, where)
        case int():
            if not -_INT64 <= value < _INT64:
                raise InvalidMetadataError(f"{where} is {value}, which 64 bits can't hold")
        case float():
            if not math.isfinite(value):
                raise InvalidMetadataError(f"{where} is {value}, which JSON can't express")
        case Mapping():
            for name, each in value.items():
                if not isinstance(name, str):
                    raise InvalidMetadataError(
                        f"{where} has the name {name!r}; names are str, not {type(name).__name__}"
                    )
                _check_text(name, f"a name in {where}")
                _check(each, f"{where}[{name!r}]", depth + 1)
        case list() | tuple():
            for number, each in enumerate(value):
                _check(each, f"{where}[{number}]", depth + 1)
        case _:
            raise InvalidMetadataError(
                f"{where} is of type {type(value).__name__}, which JSON can't express"
            )


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMetadataError(
            f"{where} has half of a surrogate pair, which UTF-8 can't express"
        ) from None
