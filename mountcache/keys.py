"""Keys: which strings can name a value, and the one way a key becomes part of a URL."""

from __future__ import annotations

import re
from urllib.parse import quote

from mountcache.errors import InvalidKeyError

__all__ = ["MAX_KEY_BYTES", "check_http_key", "check_key", "quote_key"]

MAX_KEY_BYTES = 4096

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
# RFC 3986 pchar less the percent-encoded, and "/": what may stand in a path as it is.
_SAFE = "/~!$&'()*+,;=:@"


def check_key(key: str) -> str:
    """Return `key` if it can name a value.

    Keys are 1 to 4,096 bytes of UTF-8 without control characters. They are compared as they
    are: two Unicode spellings of one word are two keys.

    Raises
    ------
    InvalidKeyError
        If it can't.
    """
    # Neither control characters nor surrogates are printable, and no character takes more
    # than four bytes: most keys need no closer look.
    if isinstance(key, str) and 0 < len(key) <= MAX_KEY_BYTES // 4 and key.isprintable():
        return key
    if not isinstance(key, str):
        raise InvalidKeyError(f"a key is a str, not {type(key).__name__}")
    if not key:
        raise InvalidKeyError("a key has at least one character; this one is empty")
    found = _CONTROL.search(key)
    if found:
        raise InvalidKeyError(
            f"key {_short(key)} has the control character {found.group()!r}; leave it out"
        )
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKeyError(
            f"key {_short(key)} has half of a surrogate pair, which UTF-8 can't express"
        ) from None
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"key {_short(key)} is {size:,} bytes long; the limit is {MAX_KEY_BYTES:,}"
        )
    return key


def check_http_key(key: str) -> str:
    """Return `key` if it can be a path under a URL.

    Clients and servers fold empty, "." and ".." segments away, so that a PUT to ``a/../b``
    overwrites ``b``: such keys are refused.

    Raises
    ------
    InvalidKeyError
        If it can't.
    """
    check_key(key)
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            shown = repr(segment) if segment else "an empty"
            raise InvalidKeyError(
                f"key {_short(key)} has {shown} path segment, which web servers fold away; "
                "choose another key"
            )
    return key


def quote_key(key: str) -> str:
    """Return `key` percent-encoded for the path of a URL, "/" kept."""
    return quote(check_http_key(key), safe=_SAFE)


def _short(key: str) -> str:
    return repr(key) if len(key) <= 60 else f"{key[:57]!r}..."
