"""``mountcache rebind``: upstream has moved, and the local store follows it."""

from __future__ import annotations

import click

from mountcache.cli.session import config_option, configured, json_option, note, show, tell

__all__ = ["rebind"]


@click.command()
@config_option
@json_option
def rebind(as_json: bool) -> None:
    """Follow upstream to the url that mountcache.toml names now.

    A local store refuses another upstream than its own, since versions of one mean nothing to
    another. If upstream has moved, change url in mountcache.toml and say this: what is staged
    stays staged, and copies are compared at their next read.
    """
    from mountcache.abc import SupportsIdentity
    from mountcache.config import mounted_store
    from mountcache.errors import ConfigurationError

    _, settings = configured()
    store = mounted_store(settings)
    backing = store.backing_store
    if not isinstance(backing, SupportsIdentity) or backing.identity is None:
        raise ConfigurationError(f"{settings.url} names no upstream that could be told again")
    store.mount_store.connect()
    try:
        store.rebind(backing.identity)
        staged = sum(1 for _ in store.staged())
    finally:
        store.mount_store.disconnect()
    if as_json:
        show({"url": settings.url, "dir": str(settings.dir), "staged": staged})
        return
    tell(f"{settings.dir} belongs to {settings.url} now; {staged:,} staged, all kept.")
    if staged:
        note("next: `mountcache push`; where upstream can't be told from before it's a conflict")
    else:
        note("next: `mountcache ls`")
