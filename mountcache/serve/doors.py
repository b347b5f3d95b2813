"""Who may come in: by which name of the server, from which page, and who may write."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mountcache.errors import ConfigurationError
from mountcache.serve.wire import Problem, is_loopback_host

__all__ = ["TOKEN_VARIABLE", "Doors", "doors_at", "read_token"]

TOKEN_VARIABLE: Final = "MOUNTCACHE_SERVE_TOKEN"  # noqa: S105 - the name of one
"""The environment variable that the token of writers is taken from."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
"""RFC 6750 2.1, and too long to be guessed."""

_READS: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Doors:
    """What a server asks of each request before it looks at the rest."""

    loopback: bool = True
    """Whether it is bound to this machine alone."""
    names: frozenset[str] = frozenset()
    """Under which names it answers besides, in lower case; addresses are names of nobody."""
    token: str | None = field(default=None, repr=False)
    """What writers send as a bearer token; None: whoever reaches the server may write."""
    writable: bool = True

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raise the Problem of a request that may not come in."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Problem(
                421,
                "wrong-host",
                "The server has another name",
                f"this server answers to localhost and 127.0.0.1, not to {host!r}; bind it to "
                "an address of its own to let others in"
                if self.loopback
                else f"this server answers to its addresses, and to {', '.join(sorted(self.names))}"
                f", not to {host!r}; start it with --name if that is one of its names",
            )
        if method in _READS:
            return
        # A page whose name was made to resolve here comes with its own; one of another site
        # that sends to us as we are called says where it is from.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(
                403,
                "cross-site",
                "A page of another site can't write here",
                f"the request comes from a page of {origin}",
            )
        if not self.writable:
            raise Problem(
                403, "read-only", "This server is read only", "it was started with --read-only"
            )
        if self.token is not None:
            self._check_token(headers.get("authorization", ""))

    def _check_token(self, said: str) -> None:
        scheme, _, token = said.partition(" ")
        assert self.token is not None
        # In a time that doesn't tell how much of it was right.
        right = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if scheme.lower() == "bearer" and right:
            return
        raise Problem(
            401,
            "no-token",
            "Writing needs the server's token",
            "the token isn't the one that this server was started with"
            if said
            else "this server lets in writers who send its token: Authorization: Bearer ...; "
            'with mountcache that is auth = "env:NAME" in mountcache.toml',
            headers={"WWW-Authenticate": 'Bearer realm="mountcache"'},
        )

    def _is_ours(self, host: str) -> bool:
        if is_loopback_host(host):
            return True
        if self.loopback:
            return False
        name = re.sub(r":\d*$", "", host.strip()).lower()
        if name in self.names:
            return True
        try:
            # Only names can be made to resolve to another machine than their owner's.
            ipaddress.ip_address(name[1:-1] if name.startswith("[") else name)
        except ValueError:
            return False
        return True


def doors_at(
    listening: socket.socket,
    token: str | None = None,
    names: Iterable[str] = (),
    *,
    read_only: bool = False,
) -> Doors:
    """Return the doors of a server on a socket.

    Parameters
    ----------
    listening
        The socket.
    token
        What writers have to send.
    names
        Names of the machine in the network, besides those that it has for itself.
    read_only
        Whether nobody may write.

    Raises
    ------
    ConfigurationError
        If others could write without a token.
    """
    host: str = listening.getsockname()[0]
    loopback = host == "::1" or host.startswith("127.")
    if not (loopback or read_only or token):
        raise ConfigurationError(
            f"whoever reaches {host} could write: set {TOKEN_VARIABLE}, or say --token-file FILE, "
            "for a token that writers have to send; or serve with --read-only"
        )
    own = {socket.gethostname(), socket.getfqdn()} - {""}
    return Doors(loopback, frozenset(name.lower() for name in {*own, *names}), token, not read_only)


def read_token(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the token of writers; None if there is none.

    Parameters
    ----------
    path
        The file whose first line it is; None: it is in ``MOUNTCACHE_SERVE_TOKEN``. It is no
        argument of a command, where other users of the machine could see it.

    Raises
    ------
    ConfigurationError
        If it can't be one.
    """
    if path is None:
        where, text = TOKEN_VARIABLE, environ.get(TOKEN_VARIABLE)
        if text is None:
            return None
    else:
        where = os.fspath(path)
        try:
            with Path(path).open(encoding="ascii") as file:
                text = file.readline(4096)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it isn't ASCII"
            raise ConfigurationError(f"the token can't be read from {where}: {reason}") from None
    if _TOKEN.fullmatch(text.strip()) is None:
        raise ConfigurationError(
            f"what {where} has is no token: 16 or more letters, digits and characters of -._~+/, "
            "such as `openssl rand -hex 32` prints"
        )
    return text.strip()
