"""Answers, before they are sent, and the problem that each error of a store is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from mountcache.errors import (
    AuthorizationError,
    ChangedWhileReadingError,
    ConflictError,
    IndexUnreadableError,
    IntegrityError,
    InvalidKeyError,
    InvalidMetadataError,
    PushInProgressError,
    ReadOnlyKeyError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.serve.wire import Problem, conflict, problem_document

__all__ = ["Answer", "absent", "answer_to", "problem_of"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: io.BufferedIOBase | None = None
    """The body instead, `length` bytes of it."""
    length: int = 0
    blocks: Iterator[bytes] | None = None
    """The body instead, of a length that isn't known before."""
    waits: bool = False
    """Whether the body may wait for upstream."""


def answer_to(problem: Problem) -> Answer:
    """Return the answer that a problem is told by."""
    body = problem_document(problem)
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        **problem.headers,
    }
    return Answer(problem.status, headers, body)


def problem_of(error: Exception, key: str, *, proxied: bool = False) -> Problem | None:
    """Return the problem that an error of the store is; None for what is a bug.

    Parameters
    ----------
    error
        The error.
    key
        The key that was asked for.
    proxied
        Whether the store is a mount: what is damaged then is what upstream sent.
    """
    match error:
        case Problem():
            return error
        case ConflictError():
            return conflict(error.key or key, error.expected, error.found)
        case InvalidKeyError():
            return Problem(400, "bad-key", "This can't be a key", str(error), key=key)
        case InvalidMetadataError():
            return Problem(400, "bad-metadata", "This can't be metadata", str(error), key=key)
        case IntegrityError() if proxied:
            return _bad_upstream(error, key)
        case IntegrityError():
            return Problem(500, "damaged", "The data is damaged", str(error), key=key)
        case StoreBusyError():
            return Problem(
                503, "busy", "The store is busy", str(error), headers={"Retry-After": "1"}
            )
        case StoreFullError():
            return Problem(507, "full", "The store is full", str(error))
        case ReadOnlyStoreError() | ReadOnlyKeyError():
            return Problem(403, "read-only", "The store can only be read", str(error))
        case PushInProgressError():
            return Problem(409, "in-flight", "The key is being pushed", str(error), key=key)
        case StoreUnavailableError() if proxied:
            return Problem(504, "unavailable", "Upstream is out of reach", str(error), key=key)
        case StoreUnavailableError():
            return Problem(503, "unavailable", "The data isn't here", str(error), key=key)
        case ChangedWhileReadingError():
            return Problem(
                503,
                "changed",
                "The value was replaced meanwhile",
                str(error),
                headers={"Retry-After": "0"},
                key=key,
            )
        case AuthorizationError():
            return Problem(
                502,
                "not-let-in",
                "Upstream asks this server for a login",
                f"{error}; the one who runs this server gives it one with auth in mountcache.toml",
                key=key,
            )
        case UpstreamError() | IndexUnreadableError():
            return _bad_upstream(error, key)
        case KeyError():
            return absent(key)
        case _:
            return None


def _bad_upstream(error: Exception, key: str) -> Problem:
    return Problem(502, "bad-upstream", "Upstream's answer can't be used", str(error), key=key)


def absent(key: str) -> Problem:
    """Return the problem of a key that isn't there."""
    return Problem(404, "no-such-key", "The key isn't there", f"there is no key {key!r}", key=key)
