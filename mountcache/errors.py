"""Every error that a store raises on purpose, in one hierarchy.

All of them are :class:`StoreError`; those that Python programs already know how to catch are
also a ``KeyError`` or a ``ValueError``. A key that isn't there is a plain ``KeyError``, as in
any mapping. Each message names the key, what was expected, what came, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mountcache.abc import Base

__all__ = [
    "AuthorizationError",
    "ChangedWhileReadingError",
    "ConfigurationError",
    "ConflictError",
    "DirectoryError",
    "ExpiredTokenError",
    "IndexUnreadableError",
    "IntegrityError",
    "InvalidKeyError",
    "InvalidMetadataError",
    "InvalidValueError",
    "NotLockedError",
    "NotPushedError",
    "PinnedError",
    "PushInProgressError",
    "ReadOnlyKeyError",
    "ReadOnlyStoreError",
    "StoreBusyError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "TransactionError",
    "UpstreamError",
]


class StoreError(RuntimeError):
    """Something a store can't or won't do."""

    maybe_applied: bool = False
    """Whether this came of a write that may have been applied all the same, if only in part."""

    def __str__(self) -> str:
        # KeyError.__str__ would show the repr of the sentence.
        return RuntimeError.__str__(self)


class AuthorizationError(StoreError):
    """Upstream asks for other credentials (401) or refuses these (403).

    Parameters
    ----------
    status
        The HTTP status: 401 or 403; 0 where there was no HTTP.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UpstreamError(StoreError):
    """Upstream answered something that makes no sense here.

    Parameters
    ----------
    status
        The HTTP status, or 0 where the fault isn't one of status.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class StoreUnavailableError(StoreError):
    """Upstream is out of reach, and what is here doesn't answer the question.

    Never a KeyError: "can't know" isn't "not there".

    Parameters
    ----------
    maybe_applied
        True if a write was sent and its answer never came, so that it may have been applied.
    answered
        True if a proxy answered that what lies behind it is out of reach: other keys may be
        there.
    status
        The HTTP status, or 0 where no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = False,
        answered: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied
        self.answered = answered
        self.status = status


class NotPushedError(StoreError):
    """Something is left to push, and stays staged.

    Parameters
    ----------
    left
        The keys that are left, in the order of their making.
    conflicts
        Those of them that are in conflict.
    """

    def __init__(
        self, message: str, *, left: tuple[str, ...] = (), conflicts: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.left = left
        self.conflicts = conflicts


class IndexUnreadableError(StoreError):
    """The index isn't an object of ``{key: {name: value}}``; the one before stays in force."""


class IntegrityError(StoreError):
    """Bytes differ from their promised length or digest. Nothing of them is kept."""


class ChangedWhileReadingError(StoreError):
    """Upstream replaced a value while it was being read; read it again."""


class ConflictError(StoreError):
    """The key isn't what the author of the change had seen. Nothing was changed.

    Parameters
    ----------
    key
        The key.
    expected
        The version that was to be replaced; ``ABSENT`` if the key was to be created.
    found
        The version that is there; ``ABSENT`` if the key is gone; None if it isn't known.
    """

    def __init__(
        self, message: str, *, key: str = "", expected: Base = None, found: Base = None
    ) -> None:
        super().__init__(message)
        self.key = key
        self.expected = expected
        self.found = found


class NotLockedError(StoreError):
    """The key isn't in the lock that is in force. Whether it is there isn't said."""


class PinnedError(StoreError):
    """The copy of a key stays here, since it is pinned; unpin it first."""


class PushInProgressError(StoreError):
    """The edit is on its way upstream; wait for the push to end."""


class TransactionError(StoreError):
    """A verb that has no meaning inside a transaction."""


class ReadOnlyStoreError(StoreError):
    """The store can only be read."""


class ReadOnlyKeyError(StoreError, KeyError):
    """The key lies outside the mount point, where nothing can be written."""


class StoreBusyError(StoreError):
    """Another process has held a lock for longer than 5 seconds."""


class StoreFullError(StoreError):
    """There is no room; the message says how much is needed and how much there is."""


class DirectoryError(StoreError):
    """The directory of a store can't be used: not ours, damaged, or of a newer format."""


class ExpiredTokenError(StoreError):
    """More has happened since a token was given than is recorded."""


class ConfigurationError(StoreError, ValueError):
    """A setting, URL or configuration file that can't be used."""


class InvalidKeyError(StoreError, ValueError):
    """The key can't name anything in this store."""


class InvalidMetadataError(StoreError, ValueError):
    """Metadata that isn't a dict of JSON values."""


class InvalidValueError(StoreError, ValueError, TypeError):
    """Data that isn't a stream of bytes."""
