"""What to do next, where an error of the library can't know what the command line can.

The library speaks to programs; here its sentences get the half that names a command, a file or
an environment variable.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mountcache.cli.codes import NoSuchKeyError
from mountcache.errors import (
    AuthorizationError,
    DirectoryError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)

if TYPE_CHECKING:
    from mountcache.config import Settings
    from mountcache.mounted import MountedStore

__all__ = ["advice", "asking_for", "with_advice"]


@contextmanager
def with_advice(path: Path, settings: Settings) -> Iterator[None]:
    """Add to an error what the user of a mountcache.toml can do about it."""
    try:
        yield
    except (AuthorizationError, UpstreamError) as error:
        if not (more := advice(error, path, settings)):
            raise
        raise type(error)(f"{error}; {more}", status=error.status) from error
    except (DirectoryError, ReadOnlyStoreError, StoreUnavailableError) as error:
        if not (more := advice(error, path, settings)):
            raise
        raise type(error)(f"{error}; {more}") from error


def advice(error: BaseException | None, path: Path, settings: Settings) -> str:
    """Return what to do about an error; "" if its own sentence says it."""
    match error:
        case AuthorizationError(status=403):
            who = f"those of auth = {settings.auth!r} in {path}" if settings.auth else "none"
            return f"the credentials are {who}; ask whoever runs the server for access"
        case AuthorizationError() if settings.auth is None:
            return (
                f"say in {path} how to log in: "
                'auth = "netrc", "keyring", "env:NAME" or "command:CMD"'
            )
        case AuthorizationError():
            return f"renew what auth = {settings.auth!r} in {path} names"
        case UpstreamError(status=404 | 405 | 410):
            return (
                f"{path} says url = {settings.url!r} and layout = {settings.layout!r}: if one is "
                "wrong, `mountcache init URL` in an empty folder finds out what is there"
            )
        case ReadOnlyStoreError() if settings.layout != "dynamic" and settings.write is None:
            return f'if the server takes PUT, say write = "put" in {path}'
        case DirectoryError() if "belongs to upstream" in str(error):
            return "on the command line: `mountcache rebind`, or another dir"
        case DirectoryError() if "choose another" in str(error):
            return f"name it with dir in {path}, or with MOUNTCACHE_DIR"
        case StoreUnavailableError() if settings.offline == "always":
            if os.environ.get("MOUNTCACHE_OFFLINE"):
                return "here: unset MOUNTCACHE_OFFLINE"
            return f"here: change offline in {path}"
    return ""


@contextmanager
def asking_for(key: str, store: MountedStore | None = None) -> Iterator[None]:
    """Say of a key that isn't there what people understand.

    A store raises ``KeyError(key)``, and so does a look-up of our own that fails; the one
    names the key that was asked for, the other is a bug.
    """
    try:
        yield
    except InvalidKeyError:
        if not (key.endswith("/") and (below := _below(key, store))):
            raise
        raise NoSuchKeyError(f"no such key: {key!r}; {below}") from None
    except KeyError as error:
        if isinstance(error, StoreError) or error.args != (key,):
            raise
        instead = _below(key, store) or "`mountcache ls` lists the keys"
        raise NoSuchKeyError(f"no such key: {key!r}; {instead}") from None


def _below(key: str, store: MountedStore | None) -> str:
    """Return the pattern of the keys below what isn't one; "" if there are none."""
    if store is None or not key.strip("/"):
        return ""
    pattern = f"{glob.escape(key.rstrip('/'))}/*"
    with suppress(StoreError):  # no hint is worth an error
        known = store.with_options(
            offline="always" if store.is_offline() else "prefer", partial=True
        )
        if next(known.glob(pattern), None) is not None:
            return f"the keys below it are {shlex.quote(pattern)}"
    return ""
