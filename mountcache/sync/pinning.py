"""The verbs of pins: keep a copy until it is let go by name."""

from __future__ import annotations

from collections.abc import Callable

from mountcache.errors import StoreError, StoreFullError
from mountcache.local.pinning import is_pinned, set_pinned
from mountcache.sync.mount import Mount
from mountcache.sync.prefetch import fetch_keys

__all__ = ["pin", "unpin"]


def pin(mount: Mount, short: str, fetch: Callable[[], object]) -> None:
    """Pin the copy of a key of the catalog.

    Parameters
    ----------
    fetch
        Reads the key, so that it is here if it can be kept.

    Raises
    ------
    StoreFullError
        If it can't.
    StoreError
        If the key is staged and has no copy.
    """
    key = mount.full(short)
    mount.staging.refuse_in_transaction("pin")
    mount.refuse_frozen("pin")
    fetch()
    row = mount.catalog.row(short)
    if row.copy is None and row.edit is not None and row.edit.kind == "meta":
        fetch_keys(mount, [short])
    if set_pinned(mount.catalog, [short], True):
        if row.edit is not None and row.edit.kind == "put":
            raise StoreError(
                f"{key!r} is staged, and stays here without a pin; pin it once it is pushed"
            )
        raise StoreFullError(
            f"{key!r} can't be kept here, so it can't be pinned: upstream forbids it, or there is "
            "no room"
        )


def unpin(mount: Mount, short: str) -> None:
    """Unpin the copy of a key of the catalog; KeyError if it isn't pinned."""
    mount.staging.refuse_in_transaction("unpin")
    mount.refuse_frozen("unpin")
    if not is_pinned(mount.catalog, short):
        raise KeyError(mount.full(short))
    set_pinned(mount.catalog, [short], False)
