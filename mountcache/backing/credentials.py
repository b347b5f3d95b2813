"""Who asks: credentials in each form that a store takes, never kept by us.

Those that are only named are looked up when they are needed.
"""

from __future__ import annotations

import netrc
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from requests import Session
from requests.auth import AuthBase, HTTPBasicAuth

from mountcache.errors import ConfigurationError

if TYPE_CHECKING:
    from requests import PreparedRequest

    from mountcache.abc import AbstractReadOnlyStore

__all__ = [
    "Bearer", "Login", "keep_in_keyring", "login_of", "made_anew", "may_change",
    "remove_from_keyring",
]  # fmt: skip

_COMMAND_SECONDS: Final = 60.0


class Bearer(AuthBase):
    """Sends a bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "Bearer(...)"


@dataclass(frozen=True, slots=True)
class Login:
    """How requests say who asks."""

    auth: AuthBase | None = None
    session: Session | None = None
    """A session of the user's own."""
    user_tag: str | None = None
    """The name under which permissions know the user."""


def may_change(credentials: object) -> bool:
    """Return whether asking for the login again, after a 401, can bring another one."""
    return isinstance(credentials, str) or (
        callable(credentials) and not isinstance(credentials, AuthBase)
    )


def made_anew(
    make: Callable[..., AbstractReadOnlyStore], settings: dict[str, Any], named: str | None
) -> AbstractReadOnlyStore:
    """Return a store like one of another process, which kept its secrets to itself.

    Parameters
    ----------
    make, settings
        The store's class, and what it is made with.
    named
        The credentials that only name where they are found; None if it had others, or none.
    """
    store = make(**settings)
    if named is not None:
        store.connect(named)
    return store


def login_of(credentials: object, url: str) -> Login:
    """Return the login that credentials come to.

    Parameters
    ----------
    credentials
        ``(user, password)``; a dict with ``username`` and ``password``; a requests AuthBase or
        Session; ``(user_tag, session)``; "netrc", "keyring", "env:NAME" or "command:CMD"; or
        what returns one of these when called.
    url
        The remote store; its host names the entry in netrc or keyring.

    Raises
    ------
    ConfigurationError
        If they are of no such kind, or name what isn't there.
    """
    match credentials:
        case None:
            return Login()
        case AuthBase():
            return Login(credentials)
        case Session():
            return Login(session=credentials)
        case (str() | None as tag, Session() as session):
            return Login(session=session, user_tag=tag)
        case (str() as user, str() as password):
            return Login(HTTPBasicAuth(user.encode(), password.encode()), user_tag=user)
        case Mapping() if {"username", "password"} <= set(credentials):
            return login_of((credentials["username"], credentials["password"]), url)
        case str():
            return login_of(_named(credentials, url), url)
        case _ if callable(credentials):
            return login_of(credentials(), url)
    raise ConfigurationError(
        "credentials are (user, password), a dict with username and password, a requests AuthBase "
        'or Session, (user_tag, session), "netrc", "keyring", "env:NAME" or '
        f'"command:CMD", or a callable that returns one of these; not {type(credentials).__name__}'
    )


_Found = tuple[str, str] | Bearer


def _named(name: str, url: str) -> _Found:
    host = urlsplit(url).hostname or ""
    kind, _, rest = name.partition(":")
    match kind:
        case "netrc" if not rest:
            return _from_netrc(host)
        case "keyring" if not rest:
            return _from_keyring(host)
        case "env" if rest:
            return _from_environment(rest)
        case "command" if rest:
            return _from_command(rest)
    raise ConfigurationError(
        f'credentials are named "netrc", "keyring", "env:NAME" or "command:CMD", not {kind!r}'
    )


def _spoken(text: str) -> _Found:
    """Read ``USER:PASSWORD``, or a token."""
    user, colon, password = text.partition(":")
    return (user, password) if colon else Bearer(text)


def _from_netrc(host: str) -> _Found:
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


@contextmanager
def _keyring() -> Iterator[Any]:
    """Give the package keyring; what it raises is told in one sentence."""
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        raise ConfigurationError(
            'auth is keyring, which needs the package: pip install "mountcache[keyring]"'
        ) from None
    try:
        yield keyring
    except NoKeyringError:
        raise ConfigurationError(
            "this system has no keyring that could be used: install one, or say auth = "
            '"netrc", "env:NAME" or "command:CMD" in mountcache.toml instead'
        ) from None
    except KeyringError as error:
        said = str(error) or type(error).__name__
        raise ConfigurationError(f"the keyring doesn't do it: {said}; unlock it") from None


def _from_keyring(host: str) -> _Found:
    with _keyring() as keyring:
        found = keyring.get_credential(host, None)
    if found is None:
        raise ConfigurationError(
            f"auth is keyring, which has nothing for the service {host}; `mountcache login` asks "
            "for it"
        )
    return found.username, found.password


def keep_in_keyring(host: str, user: str, password: str) -> None:
    """Keep a password in the system's keyring, in the place of any other of that host.

    Raises
    ------
    ConfigurationError
        If there is no keyring, or it doesn't take it.
    """
    with _keyring() as keyring:
        before = keyring.get_credential(host, None)
        keyring.set_password(host, user, password)
        now = keyring.get_credential(host, None)
        if now is None:
            keyring.delete_password(host, user)
            raise ConfigurationError(
                f"this system's keyring ({type(keyring.get_keyring()).__name__}) gives passwords "
                'out by user alone; say auth = "netrc", "env:NAME" or "command:CMD" instead'
            )
        if before is not None and before.username != user:
            # Which of two is given out isn't said anywhere.
            keyring.delete_password(host, before.username)


def remove_from_keyring(host: str) -> str:
    """Remove a host's password from the system's keyring, and return whose it was.

    Raises
    ------
    ConfigurationError
        If there is none, or no keyring.
    """
    with _keyring() as keyring:
        found = keyring.get_credential(host, None)
        if found is not None:
            user: str = found.username
            keyring.delete_password(host, user)
            return user
    raise ConfigurationError(f"the keyring has nothing for the service {host}")


def _from_environment(name: str) -> _Found:
    text = os.environ.get(name)
    if not text:
        raise ConfigurationError(f"auth is env:{name}, but the variable {name} isn't set")
    return _spoken(text)


def _from_command(command: str) -> _Found:
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
