"""The command about who may do what with a key: permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.codes import NoSuchKeyError, one_line
from mountcache.cli.session import config_option, json_option, note, opened, show, spelled, tell

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore

__all__ = ["permissions"]


@click.command()
@click.argument("key")
@click.argument("given", nargs=-1, metavar="[NAME=TAG[,TAG...]]...")
@click.option("--unset", metavar="NAME", multiple=True, help="Take this permission away.")
@click.option("--upstream", is_flag=True, help="Show those upstream, whatever is staged.")
@config_option
@json_option
def permissions(
    key: str, given: tuple[str, ...], unset: tuple[str, ...], upstream: bool, as_json: bool
) -> None:
    """Stage changes to the permissions of KEY; show them if none are given.

    Where the server keeps permissions: names, and tags of users and groups that have them. What
    isn't named stays; NAME= leaves nobody. They are staged apart from the value, and sent by
    `mountcache push --permissions` alone.
    """
    names = _names(given)
    if both := next((name for name in unset if name in names), None):
        raise click.UsageError(f"{both!r} is both set and unset")
    changes = bool(names or unset)
    if changes and upstream:
        raise click.UsageError("--upstream shows, and changes nothing")
    from mountcache.sync.permissions import upstream as theirs

    with opened() as store, asking_for(key, store):
        if upstream:
            found = theirs(store.mount, key.removeprefix(store.mount.prefix))
        else:
            found = store.get_permissions(key)
            if changes:
                found = _changed(store, key, found, names, unset)
    if as_json:
        show({"key": key, "permissions": found, "staged": changes})
        return
    for name, tags in found.items():
        tell(f"{one_line(name)}={_spelled(tags)}")
    if changes:
        note(one_line(f"staged {key}; next: `mountcache push --permissions`"))
    elif not found:
        note(one_line(f"{key} has no permissions"))


def _names(given: tuple[str, ...]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for word in given:
        name, equals, tags = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{word!r} isn't NAME=TAG[,TAG...]")
        if name in names:
            raise click.UsageError(f"{name!r} is given twice")
        names[name] = [tag for tag in tags.split(",") if tag]
    return names


def _changed(
    store: MountedStore,
    key: str,
    there: dict[str, Any],
    names: dict[str, list[str]],
    unset: tuple[str, ...],
) -> dict[str, Any]:
    """Stage changes, made from what was shown just now; return what there is then."""
    for name in unset:
        if name not in there:
            raise NoSuchKeyError(
                f"{key!r} has no permission {name!r} to unset; nothing was changed"
            )
    kept = {name: tags for name, tags in there.items() if name not in unset}
    store.set_permissions(key, {**kept, **names})
    return store.get_permissions(key)


def _spelled(tags: Any) -> str:
    """Return what is listed under a name as this command takes it, where that can be."""
    if isinstance(tags, list) and all(isinstance(tag, str) and "," not in tag for tag in tags):
        return one_line(",".join(tags))
    return spelled(tags)
