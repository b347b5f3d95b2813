"""What happened to the keys of a mount: a log to read, and tokens to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mountcache.errors import ExpiredTokenError
from mountcache.local import history
from mountcache.local.history import Logged
from mountcache.sync.mount import Mount

__all__ = ["changes", "of_mount"]


def of_mount(
    mount: Mount, after: int, key: str | None = None, last: int | None = None
) -> Iterator[Logged]:
    """Iterate over the records after a number, or the last ones: of one key, or of all."""
    con = mount.catalog.content.connection()
    if last is not None:
        after = max(after, history.before_last(con, last, key))
    found = history.entries(con, after, key)
    return (_full(mount, each) for each in found)


def changes(mount: Mount, since: str | None) -> tuple[list[Logged], str]:
    """Return the records after the moment of a token, and the token of now.

    Raises
    ------
    ExpiredTokenError
        If there may be more than is known, or the token is none of this store's.
    """
    con = mount.catalog.content.connection()
    store = mount.catalog.content.incarnation
    if since is None:
        return [], f"{store}:{history.last(con)}"
    named, _, number = since.rpartition(":")
    after = int(number) if number.isascii() and number.isdigit() else -1
    if named != store or after < 0:
        raise ExpiredTokenError(
            f"the token {since[:80]!r} isn't of this store as it is now; look at all keys, and "
            "begin with a new one"
        )
    found = list(of_mount(mount, after))
    if after < history.oldest(con) - 1 or (not found and after > history.last(con)):
        raise ExpiredTokenError(
            "more has happened since then than is recorded; look at all keys, and begin with a "
            "new token"
        )
    return found, f"{store}:{found[-1].seq if found else after}"


def _full(mount: Mount, each: Logged) -> Logged:
    return each if each.key is None else replace(each, key=mount.full(each.key))
