"""URLs: which can be asked, where they lead, and what of them may be shown."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from mountcache.errors import ConfigurationError

_USER: Final = re.compile(r"^[^/?#]*@|(?<=//)[^/?#]*@")
_HOST: Final = re.compile(r"[A-Za-z0-9._%:-]+")
_IGNORED: Final = re.compile(r"[\t\r\n]")
"""What urllib takes out of a URL before it reads it."""

__all__ = ["PORTS", "check_url", "origin_of", "shown", "target_of"]

PORTS: Final = {"http": 80, "https": 443}
"""The schemes of the web, and their ports."""


def check_url(url: str, name: str, *, schemes: Collection[str] = PORTS) -> tuple[str, object]:
    """Return a URL without its user, and that user's credentials, if it names one.

    Raises
    ------
    ConfigurationError
        If no store can be there.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"{name} is a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        # What urllib says of it may quote the user.
        said = "its host or port" if "@" in url else error
        raise ConfigurationError(f"{name} can't be read as a URL: {said}") from None
    # Of what is wrong nobody can tell where its user ends.
    text = shown(url).rpartition("@")[2]
    wanted = ", ".join(f"{each}:" for each in schemes)
    if not parts.scheme or (not parts.netloc and parts.scheme not in ("file", "ftp")):
        raise ConfigurationError(f"{name} {text!r} has no scheme; write it with one of {wanted}")
    if parts.scheme not in schemes:
        raise ConfigurationError(
            f"{name} {text!r} has the scheme {parts.scheme!r}; only {wanted} can be read"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{name} {text!r} has a query or fragment; leave it out")
    if parts.scheme == "file":
        if parts.hostname not in (None, "localhost"):
            raise ConfigurationError(
                f"{name} {text!r} names the host {parts.hostname!r}; a file is on this machine: "
                "write file:///"
            )
        return urlunsplit(parts._replace(netloc="")), None
    if not parts.hostname:
        raise ConfigurationError(f"{name} {text!r} names no host")
    user = None
    if parts.username is not None:
        user = (
            unquote(parts.username),
            unquote(parts.password or ""),
        )
    try:
        netloc = _netloc(parts, port)
    except UnicodeError:
        raise ConfigurationError(f"{name} {text!r} names a host that can be none") from None
    found = urlunsplit(parts._replace(netloc=netloc))
    try:
        again = urlsplit(found).hostname
    except ValueError:
        again = None
    if again is None or not _HOST.fullmatch(again):
        raise ConfigurationError(f"{name} {text!r} names a host that can be none")
    return found, user


def _netloc(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    return host if port is None or port == PORTS.get(parts.scheme) else f"{host}:{port}"


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.scheme}://{_netloc(parts, port)}"


def target_of(url: str) -> str:
    """Return what stands in the request line."""
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path or "/", parts.query, ""))


def shown(url: str) -> str:
    """Return a URL without what is nobody's business: user, password, query."""
    return re.split("[?#]", _USER.sub("", _IGNORED.sub("", url)), maxsplit=1)[0]
