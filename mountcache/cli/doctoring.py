"""The command that looks whether all is well, and mends: doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.session import config_option, configured, json_option, note, show, tell

if TYPE_CHECKING:
    from mountcache.config import Settings
    from mountcache.local.doctor import Finding

__all__ = ["doctor"]

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended; no staged edit is deleted.")
@config_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Look whether the local store is as it should be: every byte of it is read and compared.

    With --repair, counters are counted anew, damaged copies dropped, a damaged database is made
    anew of what can be read of it (itself it is kept in damaged-...), and what has no place goes to
    lost+found in the local store. Ends with 0 if nothing is wrong (any more), 3 if something is.
    """
    from mountcache.local import doctor as room

    path, settings = configured()
    found = room.repair(settings.dir) if repair else list(room.examine(settings.dir))
    wrong = [each for each in found if each.severity != "note"]
    left = [each for each in wrong if not (repair and each.mend)]
    if as_json:
        for each in found:
            show(dataclasses.asdict(each))
    else:
        _tell(found, repaired=repair)
        tell(one_line(f"{path}: {_about(settings)}"))
        if not wrong:
            tell(one_line(f"{settings.dir}: nothing is wrong"))
        elif repair:
            note("next: `mountcache doctor` looks again, `mountcache status` shows what is staged")
        elif any(each.mend for each in wrong):
            note("next: `mountcache doctor --repair`, while nobody else has the store open")
    ctx.exit(Code.ERROR if left else Code.DONE)


def _tell(found: Iterable[Finding], *, repaired: bool) -> None:
    for each in found:
        severity = click.style(each.severity.ljust(7), fg=_COLORS[each.severity])
        tell(f"{severity} {one_line(each.what)}")
        if each.mend:
            tell(f"        {'done' if repaired else 'repair'}: {one_line(each.mend)}")


def _about(settings: Settings) -> str:
    """Say whether upstream answers, and how sure a push there is."""
    from mountcache.abc import SupportsConditionalWrite
    from mountcache.config import backing_store
    from mountcache.errors import StoreError, StoreUnavailableError

    store = backing_store(settings)
    try:
        store.connect(settings.auth)
        try:
            if not isinstance(store, SupportsConditionalWrite):
                return f"{settings.url} is read only"
            sure = store.enforces()
        finally:
            store.disconnect()
    except StoreUnavailableError as error:
        return f"{settings.url} is out of reach now: {error}"
    except StoreError as error:
        return f"{settings.url}: {error}"
    if sure:
        return f"{settings.url} compares and writes as one step: pushes are of grade A"
    return (
        f"{settings.url} can't be told to compare as it writes: pushes are of grade C, compared "
        "just before and verified after, with a short race"
    )
