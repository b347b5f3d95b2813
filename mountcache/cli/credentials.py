"""Credentials from where mountcache.toml says: looked up when asked for, never kept in files."""

from __future__ import annotations

import netrc
import os
import shlex
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.auth import AuthBase

from mountcache.errors import ConfigurationError

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["Bearer", "Credentials", "credentials_of"]

_COMMAND_SECONDS = 60.0


class Bearer(AuthBase):
    """Sends a bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "Bearer(...)"


Credentials = tuple[str, str] | Bearer


def credentials_of(auth: str, url: str) -> Callable[[], Credentials]:
    """Return what looks the credentials up, each time it is called.

    Parameters
    ----------
    auth
        "netrc", "keyring", "env:NAME" or "command:CMD".
    url
        The remote store; its host names the entry in netrc or keyring.

    Raises
    ------
    ConfigurationError
        When called: if there are none.
    """
    host = urlsplit(url).hostname or ""
    kind, _, rest = auth.partition(":")
    match kind:
        case "netrc":
            return lambda: _from_netrc(host)
        case "keyring":
            return lambda: _from_keyring(host)
        case "env":
            return lambda: _from_environment(rest)
        case _:
            return lambda: _from_command(rest)


def _spoken(text: str) -> Credentials:
    """Read ``USER:PASSWORD``, or a token."""
    user, colon, password = text.partition(":")
    return (user, password) if colon else Bearer(text)


def _from_netrc(host: str) -> Credentials:
    path = os.environ.get("NETRC")
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"auth is netrc, but {error.filename} isn't there; make it, or change auth in "
            "mountcache.toml"
        ) from None
    except netrc.NetrcParseError as error:
        raise ConfigurationError(
            f"auth is netrc, but {error.filename} can't be read at line {error.lineno}"
        ) from None
    if found is None:
        raise ConfigurationError(f"auth is netrc, which has nothing for the host {host}")
    login, _, password = found
    return login, password or ""


def _from_keyring(host: str) -> Credentials:
    try:
        import keyring
    except ImportError:
        raise ConfigurationError(
            'auth is keyring, which needs the package: pip install "mountcache[keyring]"'
        ) from None
    found = keyring.get_credential(host, None)
    if found is None:
        raise ConfigurationError(f"auth is keyring, which has nothing for the service {host}")
    return found.username, found.password


def _from_environment(name: str) -> Credentials:
    text = os.environ.get(name)
    if not text:
        raise ConfigurationError(f"auth is env:{name}, but the variable {name} isn't set")
    return _spoken(text)


def _from_command(command: str) -> Credentials:
    words = shlex.split(command)
    try:
        ended = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"auth is command:{words[0]}, which can't be run: {error}"
        ) from None
    lines = ended.stdout.decode("utf-8", "replace").splitlines()
    if ended.returncode or not lines or not lines[0]:
        raise ConfigurationError(
            f"auth is command:{words[0]}, which printed nothing and ended with {ended.returncode}"
            if not lines
            else f"auth is command:{words[0]}, which ended with {ended.returncode}"
        )
    return _spoken(lines[0])
