"""The commands about upstream itself: remote show, remote set-url."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.doctoring import doubt_of_clock
from mountcache.cli.session import (
    config_option,
    configured,
    json_option,
    named_mount,
    note,
    show,
    tell,
    write_whole,
)
from mountcache.cli.status import ago

if TYPE_CHECKING:
    from mountcache.config import Settings
    from mountcache.local.disk import DiskCacheStore
    from mountcache.mounted import MountedStore
    from mountcache.sync import About

__all__ = ["login_of", "remote", "unpolled"]


@click.group()
def remote() -> None:
    """What this is a cache of: show it, or follow it to another URL."""


def login_of(settings: Settings) -> str | None:
    """Return where credentials come from, without what a command line may hold."""
    if settings.auth is None or not settings.auth.startswith("command:"):
        return settings.auth
    return "command:" + settings.auth.removeprefix("command:").split()[0]


@contextmanager
def unpolled(settings: Settings) -> Iterator[MountedStore]:
    """Give the mounted store, connected to no upstream: nobody is asked unless somebody asks."""
    from mountcache.config import mounted_store

    store = mounted_store(settings)
    with store.mount_store:
        yield store


@remote.command("show")
@click.option("--offline", is_flag=True, help="Leave the network alone.")
@config_option
@json_option
@click.pass_context
def show_remote(ctx: click.Context, offline: bool, as_json: bool) -> None:
    """Show what this is a cache of, whether it answers, and how sure pushes are.

    Ends with 4 if it is out of reach, 3 if it isn't what it should be.
    """
    from mountcache import sync
    from mountcache.cli.advice import advice, with_advice
    from mountcache.errors import StoreError

    path, settings = configured()
    with with_advice(path, settings), unpolled(settings) as store:
        backing = store.backing_store
        error: StoreError | None = None
        ask = not offline and not store.is_offline()
        try:
            if ask:
                backing.connect(settings.auth)
            found = sync.about(store, ask=ask)
        except StoreError as failed:
            if store.mount.backing.is_connected():
                raise
            error, found = failed, sync.about(store, ask=False)  # the login can't be had
        finally:
            if backing.is_connected():
                backing.disconnect()
        way = store.info()["offline"]
    if found.reach is not None and found.reach.error is not None:
        error = found.reach.error
    document = _document(settings, found, way, error)
    if as_json:
        show(document)
    else:
        for name, value in document.items():
            if value is not None and name not in ("enforced", "probed", "complete"):
                tell(f"{f'{name}:':<13}{one_line(_said(name, value, document))}")
        for each in () if found.reach is None else doubt_of_clock(found.reach):
            note(each.what)
        if error is not None and (more := advice(error, path, settings)):
            note(one_line(f"next: {more}"))
    reached = document["reachable"]
    ctx.exit(Code.UNREACHABLE if reached is False else Code.ERROR if error else Code.DONE)


def _document(
    settings: Settings, found: About, way: str, error: Exception | None
) -> dict[str, Any]:
    seen = found.grading.enforced
    return {
        "url": settings.url,
        "layout": settings.layout,
        "mount_point": settings.mount_point,
        "identity": found.identity,
        "auth": login_of(settings),
        "offline": way,
        "reachable": None if found.reach is None else found.reach.answers,
        "error": None if error is None else str(error),
        "grade": found.grading.grade,
        "why": f"it {found.grading.why}",
        "enforced": None if seen is None else dataclasses.asdict(seen),
        "probed": found.grading.probed,
        "known": found.known_keys,
        "complete": found.complete,
        "polled": found.index_checked,
    }


def _said(name: str, value: Any, document: dict[str, Any]) -> str:
    match name:
        case "known":
            return f"{value:,} keys{', which are all' if document['complete'] else ''}"
        case "polled":
            return f"{ago(time.time() - value)}"
        case "reachable":
            return "yes" if value else "no"
        case "mount_point":
            return repr(value)
    return str(value)


@remote.command("set-url")
@click.argument("url")
@config_option
@json_option
def set_url(url: str, as_json: bool) -> None:
    """Follow upstream to URL: writes it into mountcache.toml, and does what `rebind` does.

    What is staged stays staged; what it was made from counts as unknown at the new URL, unless
    its digest says that the same is there. Refused while a push is under way or without an answer.
    """
    from mountcache import sync
    from mountcache.cli.advice import with_advice
    from mountcache.config import check_root, find_file, read_settings
    from mountcache.errors import ConfigurationError
    from mountcache.sync.switch import read_switch

    path, before = configured()
    root = check_root(url, "URL")
    mount = named_mount() or _only_mount(path)
    text = _with_url(path, mount, root)
    settings = dataclasses.replace(before, url=root)
    with ExitStack() as held:
        held.enter_context(with_advice(path, settings))
        store = held.enter_context(unpolled(settings))
        local = cast("DiskCacheStore", store.mount_store)
        held.enter_context(local.journal.pushing())
        _refuse_unanswered(local, path)
        backing = store.backing_store
        found = None
        if "always" not in (settings.offline, read_switch(local.catalog)):
            try:
                backing.connect(settings.auth)
                found = sync.reach(backing)
            finally:
                if backing.is_connected():
                    backing.disconnect()
        if found is not None and found.answers and found.error is not None:
            raise ConfigurationError(f"{root} isn't what is mounted here: {found.error}")
        # The file first: a rebind that doesn't come to pass is asked for by the next command.
        write_whole(str(path.resolve()), text)
        assert read_settings(find_file(path), mount=mount or None).url == root
        store.rebind(_identity(store))
        staged = sum(1 for _ in store.staged())
    reached = None if found is None else found.answers
    if as_json:
        show({"url": root, "before": before.url, "staged": staged, "reachable": reached})
        return
    tell(one_line(f"{path} says {root} now, and {settings.dir} belongs to it."))
    if not reached:
        note("it wasn't asked" if found is None else f"it is out of reach now: {found.error}")
    if staged:
        note(
            f"{staged:,} staged, all kept; next: `mountcache push`; where upstream can't be told "
            "from before it's a conflict"
        )
    else:
        note("next: `mountcache ls`")


def _only_mount(path: Path) -> str:
    from mountcache.config import read_mounts

    (mount,) = read_mounts(path)
    return mount


def _with_url(path: Path, mount: str, url: str) -> str:
    from mountcache.cli.rewriting import with_value
    from mountcache.errors import ConfigurationError

    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    try:
        return with_value(text, mount, "url", url)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}, and say `mountcache rebind`") from None


def _identity(store: MountedStore) -> str:
    from mountcache.abc import SupportsIdentity
    from mountcache.errors import ConfigurationError

    backing = store.backing_store
    identity = backing.identity if isinstance(backing, SupportsIdentity) else None
    if identity is None:
        raise ConfigurationError("this upstream has no name that could be told again")
    return identity


def _refuse_unanswered(local: DiskCacheStore, path: Path) -> None:
    """Refuse to leave an upstream that was sent what it may or may not have taken."""
    from mountcache.errors import PushInProgressError

    if (count := len(local.catalog.ops())) > 0:
        raise PushInProgressError(
            f"{count:,} push{'' if count == 1 else 'es'} without an answer: "
            "`mountcache push` asks after them; if that upstream is gone for good, change url in "
            f"{path} and say `mountcache rebind`"
        )
