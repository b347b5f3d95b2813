"""The command that looks whether all is well, and mends: doctor."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from mountcache.cli.checking import dubious
from mountcache.cli.codes import Code, one_line
from mountcache.cli.session import (
    config_option,
    configured,
    json_option,
    named_file,
    note,
    show,
    tell,
)

if TYPE_CHECKING:
    from mountcache.config import Settings
    from mountcache.local.disk import DiskCacheStore
    from mountcache.mounted import MountedStore
    from mountcache.sync import Grading, Reach

__all__ = ["doctor", "doubt_of_clock"]

_COLORS: Final = {"error": "red", "warning": "yellow", "note": "cyan"}
_ORDER: Final = ("error", "warning", "note")
_CLOCKS: Final = 180.0
"""Seconds by which clocks differ that somebody should know of."""


@dataclass(frozen=True, slots=True)
class _Remark:
    """What is found outside of the directory; its fields are those of a `Finding`."""

    kind: str
    severity: str
    what: str
    mend: str = ""
    key: str | None = None
    file: str | None = None


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended; no staged edit is deleted.")
@click.option(
    "--probe", is_flag=True,
    help="Find out which conditional writes upstream enforces: writes a scratch key there, and "
    "removes it.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="With --probe: don't ask whether it may.")
@click.option("--offline", is_flag=True, help="Leave the network alone.")
@config_option
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, repair: bool, probe: bool, yes: bool, offline: bool, as_json: bool
) -> None:
    """Look whether all is well: the configuration, the local store, the clock, upstream.

    Every byte of the local store is read and compared. With --repair, counters are counted anew,
    damaged copies dropped, a damaged database is made anew of what can be read of it (itself it is
    kept in damaged-...), and what has no place goes to lost+found in the local store.

    Of upstream it says whether it answers, and of which grade pushes are. Ends with 0 if nothing is
    wrong (any more), 3 if something is, 4 if that can't be known of upstream alone.
    """
    from mountcache.errors import StoreUnavailableError

    if yes and not probe:
        raise click.UsageError("--yes goes with --probe")
    if probe and offline:
        raise click.UsageError("--probe asks upstream, and --offline doesn't")
    told = _Told(as_json=as_json)
    remarks = list(_of_configuration(named_file()))
    told.all(remarks)
    if any(each.severity == "error" for each in remarks):
        note("next: correct mountcache.toml; the rest is looked at then")
        ctx.exit(Code.ERROR)
    path, settings = configured()
    if probe:
        _ask_whether(path, settings, yes=yes)
    left = _of_directory(told, settings, repair=repair)
    unreached = False
    if offline or settings.offline == "always" or _is_switched_off(settings, sound=not left):
        if probe:
            raise StoreUnavailableError(
                "nothing was probed, since this directory is set to work offline; `mountcache "
                f"offline off`, MOUNTCACHE_OFFLINE or offline in {path} changes that"
            )
        told.fact("upstream", f"{settings.url} wasn't asked")
    else:
        with _store(settings, make=probe, sound=not left) as store:
            unreached = _of_upstream(told, path, settings, store, probe=probe)
    wrong = left or any(each.severity == "error" for each in told.remarks)
    ctx.exit(Code.ERROR if wrong else Code.UNREACHABLE if unreached else Code.DONE)


class _Told:
    """What was told so far, in one of two ways."""

    def __init__(self, *, as_json: bool) -> None:
        self.remarks: list[_Remark] = []
        self.as_json = as_json

    def all(self, remarks: Iterable[Any], *, repaired: bool = False) -> None:
        """Tell what somebody should know, the worst first."""
        for each in sorted(remarks, key=lambda each: _ORDER.index(each.severity)):
            if isinstance(each, _Remark):
                self.remarks.append(each)
            if self.as_json:
                show(dataclasses.asdict(each))
                continue
            severity = click.style(each.severity.ljust(7), fg=_COLORS[each.severity])
            tell(f"{severity} {one_line(each.what)}")
            if each.mend:
                tell(f"        {'done' if repaired else 'repair'}: {one_line(each.mend)}")

    def fact(self, kind: str, what: str, **more: object) -> None:
        """Tell how something is that is as it should be."""
        if self.as_json:
            show(dataclasses.asdict(_Remark(kind, "note", what)) | more)
        else:
            tell(one_line(f"{kind}: {what}"))


# -- the configuration -------------------------------------------------------------------------


def _of_configuration(path: Path) -> Iterator[_Remark]:
    from mountcache.config import problems, read_mounts

    wrong = problems(path)
    yield from (_Remark("configuration", "error", each, file=str(path)) for each in wrong)
    if wrong:
        return
    mounts = read_mounts(path)
    for severity, said in dubious(path, mounts):
        yield _Remark("configuration", severity, said, file=str(path))


# -- the local store ---------------------------------------------------------------------------


def _of_directory(told: _Told, settings: Settings, *, repair: bool) -> bool:
    """Tell what is wrong with the local store; return whether something still is."""
    from mountcache.local import doctor as room

    if not settings.dir.exists():
        told.fact("directory", f"{settings.dir} isn't there yet; what uses it first makes it")
        return False
    found = room.repair(settings.dir) if repair else list(room.examine(settings.dir))
    wrong = [each for each in found if each.severity != "note"]
    told.all(found, repaired=repair)
    if not wrong:
        told.fact("directory", f"{settings.dir}: nothing is wrong")
    elif repair:
        note("next: `mountcache doctor` looks again, `mountcache status` shows what is staged")
    elif any(each.mend for each in wrong):
        note("next: `mountcache doctor --repair`, while nobody else has the store open")
    return any(not (repair and each.mend) for each in wrong)


@contextmanager
def _store(settings: Settings, *, make: bool, sound: bool) -> Iterator[MountedStore | None]:
    """Give the mounted store, if its directory can be opened; None if only upstream can be asked.

    It isn't connected, so that it polls nobody.
    """
    from mountcache.config import mounted_store

    if not sound or not (make or settings.dir.exists()):
        yield None
        return
    store = mounted_store(settings)
    with store.mount_store:
        yield store


def _is_switched_off(settings: Settings, *, sound: bool) -> bool:
    """Whether the directory is switched to work offline."""
    from mountcache.sync.switch import read_switch

    with _store(settings, make=False, sound=sound) as store:
        if store is None or os.environ.get("MOUNTCACHE_OFFLINE"):
            return False
        local = cast("DiskCacheStore", store.mount_store)
        return read_switch(local.catalog) == "always"


# -- upstream ----------------------------------------------------------------------------------


def _of_upstream(
    told: _Told, path: Path, settings: Settings, store: MountedStore | None, *, probe: bool
) -> bool:
    """Tell about upstream; return whether it is out of reach."""
    from mountcache import sync
    from mountcache.cli.advice import advice, with_advice
    from mountcache.config import backing_store
    from mountcache.errors import DirectoryError, StoreError

    backing = backing_store(settings) if store is None else store.backing_store
    try:
        backing.connect(settings.auth)
        found = sync.reach(backing)
    except StoreError as error:
        found = sync.Reach(True, error)  # the login can't be had
    try:
        if found.error is not None:
            more = advice(found.error, path, settings)
            said = f"{settings.url}: {found.error}{f'; {more}' if more else ''}"
            if found.answers:
                told.all([_Remark("upstream", "error", said)])
            else:
                told.fact("upstream", f"{settings.url} is out of reach now: {found.error}")
            return not found.answers
        told.fact("upstream", f"{settings.url} answers")
        told.all(doubt_of_clock(found))
        if store is None:
            _tell_grade(told, settings, sync.grading_of(backing))
        else:
            with with_advice(path, settings):
                grading = sync.probe(store) if probe else sync.grading(store)
            _tell_grade(told, settings, grading)
    except DirectoryError as error:
        told.all([_Remark("directory", "error", str(error))])
    finally:
        if backing.is_connected():
            backing.disconnect()
    return False


def doubt_of_clock(found: Reach) -> Iterator[_Remark]:
    """Iterate over what there is to say of the clocks: something if they differ by minutes."""
    ahead = found.clock_ahead
    if ahead is None or abs(ahead) < _CLOCKS:
        return
    minutes = abs(ahead) / 60
    yield _Remark(
        "clock", "note",
        f"the clock here is {minutes:,.0f} min {'behind' if ahead > 0 else 'ahead of'} "
        "upstream's: ages of copies and times of edits are off by that; nothing is decided by "
        "comparing clocks",
    )  # fmt: skip


def _tell_grade(told: _Told, settings: Settings, found: Grading) -> None:
    seen = found.enforced
    when = None
    if found.probed is not None:
        when = time.strftime("%Y-%m-%d", time.gmtime(found.probed))
    told.fact(
        "grade", f"{settings.url} {found.why}{f' (probed on {when})' if when else ''}",
        grade=found.grade, enforced=None if seen is None else dataclasses.asdict(seen),
        probed=found.probed,
    )  # fmt: skip
    if found.can_probe and seen is None and settings.probe != "never":
        note("next: `mountcache doctor --probe` finds out whether the server itself compares")


def _ask_whether(path: Path, settings: Settings, *, yes: bool) -> None:
    """Have the user's consent, or refuse."""
    from mountcache.errors import ConfigurationError

    if settings.probe == "never":
        raise ConfigurationError(
            f'probe = "never" in {path} forbids to write there; change it, and say --probe again'
        )
    if yes or settings.probe == "auto":
        return
    question = (
        f"Write a scratch key under {settings.url} (mount point {settings.mount_point!r}), replace "
        "it and delete it again, to find out what the server enforces?"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(
            "--probe writes a scratch key upstream, and there is no terminal to ask at whether it "
            "may: say --yes"
        )
    if not click.confirm(one_line(question), err=True):
        raise click.Abort
