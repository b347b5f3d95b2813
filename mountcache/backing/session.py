"""Sessions of requests, and how the bulk goes past them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_netrc_auth, select_proxy

from mountcache import __version__
from mountcache.backing.connection import Adapter
from mountcache.backing.credentials import Bearer, Login
from mountcache.backing.tls import TLS
from mountcache.backing.urls import origin_of, shown

__all__ = ["OwnSession", "environment_proxies", "plain_session"]

_LOOPBACK: Final = re.compile(r"(.*\.)?localhost|127(\.\d+){3}|::1")


class OwnSession:
    """A requests session with what is needed to go past it.

    Parameters
    ----------
    login
        Who asks.
    homes
        The origins of the store.
    tls
        How they prove who they are, and we to them.
    """

    def __init__(self, login: Login, homes: Collection[str], tls: TLS) -> None:
        self.login = login
        # Given with each request: else the environment counts more than a session's own.
        self.verify = tls.verify
        self.cert = tls.cert
        for origin in homes:
            tls.warn(shown(origin))
        self.pid = os.getpid()
        self._auth_is_header = _is_header(login.auth)
        self._mounted: list[str] = []
        self._pools: dict[str, Any] = {}
        if login.session is None:
            self.session = plain_session()
            self.session.auth = _silent if login.auth is None else login.auth
        else:
            self.session = login.session
            for origin in homes:
                # An adapter of another make does what its author wants; a stock one has the fault
                # that `connection` mends.
                stock = self.session.get_adapter(f"{origin}/")
                if type(stock) in (requests.adapters.HTTPAdapter, Adapter):
                    self.session.mount(f"{origin}/", Adapter())
                    self._mounted.append(f"{origin}/")

    def close(self) -> None:
        if self.pid != os.getpid():
            return
        for prefix in self._mounted:
            self.session.adapters.pop(prefix).close()
        if self.login.session is None:
            self.session.close()

    def pool(self, url: str) -> Any:
        """Return the urllib3 pool for a URL; None if requests has to carry the request."""
        session, origin = self.session, origin_of(url)
        if self.login.session is not None and not self._is_plain(url):
            return None
        if origin not in self._pools:
            proxies = environment_proxies(url)
            settings: Any = session.merge_environment_settings(
                url, proxies, None, self.verify, self.cert
            )
            adapter = session.get_adapter(url)
            pool = None
            if isinstance(adapter, Adapter) and not select_proxy(url, settings["proxies"]):
                verify, cert = settings["verify"], settings["cert"]
                asked = requests.Request("GET", url).prepare()
                pool = adapter.get_connection_with_tls_context(asked, verify, cert=cert)
                _set_certificates(adapter, pool, url, verify, cert)
            self._pools[origin] = pool
        return self._pools[origin] if self._auth_is_header else None

    def _is_plain(self, url: str) -> bool:
        """Whether the user's session adds nothing but headers."""
        session = self.session
        return (
            type(session) is requests.Session
            and _is_header(session.auth)
            and not any(session.hooks.values())
            and not session.params
            and not len(session.cookies)
            and not (session.auth is None and session.trust_env and get_netrc_auth(url))
        )

    def fields(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return the header fields of a request that goes past the session."""
        given = {name: str(value) for name, value in self.session.headers.items() if value}
        auth = self.session.auth
        if auth is not None and auth is not _silent:
            asked = requests.Request("GET", "http://h/", auth=auth).prepare()
            given["Authorization"] = asked.headers["Authorization"]
        return {**given, **fields}


def environment_proxies(url: str) -> dict[str, str]:
    """Return what a request is given as its proxies: what leads to this machine goes past those
    of the environment, as in browsers.
    """
    host = urlsplit(url).hostname or ""
    return {"no_proxy": host} if _LOOPBACK.fullmatch(host) else {}


def _is_header(auth: object) -> bool:
    """Whether an auth comes to nothing, or to one header that is always the same."""
    return auth is None or isinstance(auth, tuple) or type(auth) in (HTTPBasicAuth, Bearer)


def _set_certificates(adapter: Any, pool: Any, url: str, verify: Any, cert: Any) -> None:
    adapter.cert_verify(pool, url, verify, cert)


def _silent(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Say nothing: without an auth, requests would look into ~/.netrc unasked."""
    return request


def plain_session() -> requests.Session:
    session = requests.Session()
    session.auth = _silent
    session.headers["User-Agent"] = f"mountcache/{__version__}"
    for prefix in ("http://", "https://"):
        session.mount(prefix, Adapter())
    return session
