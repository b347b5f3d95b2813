"""How servers prove who they are, and we to them, where the defaults don't do."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from mountcache.errors import ConfigurationError

__all__ = ["TLS"]

_logger = logging.getLogger("mountcache")


@dataclass(frozen=True, slots=True)
class TLS:
    """What goes for the connections to one remote store; a redirect to another has none of it.

    Raises
    ------
    ConfigurationError
        If a file isn't there, or a key has no certificate.
    """

    ca: str | None = None
    """A file, or a folder, of the certificates that vouch for servers; None: those of
    ``REQUESTS_CA_BUNDLE``, else those that requests comes with."""
    client_cert: str | None = None
    """A file with the certificate that is shown to the server."""
    client_key: str | None = None
    """A file with its private key, without a passphrase; None: it is in `client_cert`."""
    insecure_skip_tls_verify: bool = False
    """Take any server for the right one. Whoever is in between can read and change all."""

    def __post_init__(self) -> None:
        if self.client_key is not None and self.client_cert is None:
            raise ConfigurationError("client_key goes with client_cert; name the certificate too")
        if self.ca is not None and self.insecure_skip_tls_verify:
            raise ConfigurationError(
                "ca is of no use with insecure_skip_tls_verify; leave one of them out"
            )
        for name in ("ca", "client_cert", "client_key"):
            path = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigurationError(f"{name} names {path}, which isn't there or can't be read")

    @property
    def verify(self) -> str | bool | None:
        """What requests takes for it; None: as the environment says."""
        return False if self.insecure_skip_tls_verify else self.ca

    @property
    def cert(self) -> tuple[str, str] | None:
        """What requests takes for it."""
        if self.client_cert is None:
            return None
        # Named twice, since a key in the same file could else ask the terminal for a passphrase.
        return self.client_cert, self.client_key or self.client_cert

    def warn(self, where: str) -> None:
        """Say what isn't verified, each time that it is used."""
        if self.insecure_skip_tls_verify:
            _logger.warning(
                "the TLS certificate of %s isn't verified (insecure_skip_tls_verify): anybody in "
                "between can read and change what is sent, credentials too",
                where,
            )
