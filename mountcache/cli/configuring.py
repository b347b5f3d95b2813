"""The commands about how things are set: config, offline, login, logout."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from mountcache.cli.codes import one_line
from mountcache.cli.remoting import login_of, unpolled
from mountcache.cli.session import config_option, configured, json_option, note, show, tell

if TYPE_CHECKING:
    from mountcache.config import Settings

__all__ = ["config", "login", "logout", "offline"]

_VARIABLES: Final = {
    "dir": "MOUNTCACHE_DIR", "offline": "MOUNTCACHE_OFFLINE", "author": "MOUNTCACHE_AUTHOR",
}  # fmt: skip
_POSITIONS: Final = {"on": "always", "off": None, "auto": "auto", "prefer": "prefer"}


# -- config ------------------------------------------------------------------------------------


@click.command()
@config_option
@json_option
def config(as_json: bool) -> None:
    """Show the settings in force, and where each comes from; asks nobody, and shows no secrets."""
    from mountcache.config import read_settings
    from mountcache.sync.switch import read_switch

    path, settings = configured()
    switch = None
    if settings.dir.exists():
        with unpolled(settings) as store:
            switch = read_switch(store.mount_store.catalog)  # type: ignore[attr-defined]
    alone = read_settings(path, {}, mount=_mount())
    standard = type(settings)(settings.url, dir=path.parent / settings.dir.name)
    found = {
        field.name: _setting(field.name, settings, alone, standard)
        for field in dataclasses.fields(settings)
    }
    found["offline"] = _of_switch(found["offline"], switch)
    if as_json:
        show({"file": str(path), "settings": found})
        return
    tell(one_line(f"# {path}"))
    width = max(map(len, found))
    for name, each in found.items():
        value = "none" if each["value"] in (None, ()) else str(each["value"])
        tell(one_line(f"{name:<{width}}  {value}  ({each['source']})"))


def _mount() -> str | None:
    from mountcache.cli.session import named_mount

    return named_mount()


def _setting(name: str, settings: Settings, alone: Settings, standard: Settings) -> dict[str, Any]:
    """Return the value of a setting, and where it comes from.

    Parameters
    ----------
    alone
        What the file says without the environment.
    standard
        What is without both.
    """
    value = getattr(settings, name)
    variable = _VARIABLES.get(name)
    if variable is not None and os.environ.get(variable) and value != getattr(alone, name):
        source = variable
    elif name in ("url",) or value != getattr(standard, name):
        source = "file"
    else:
        source = "default"
    if name == "auth":
        value = login_of(settings)
    elif name == "limits" and value is not None:
        value = dataclasses.asdict(value)
    elif name == "push" and value is not None:
        value = {each: said for each, said in dataclasses.asdict(value).items() if each != "folder"}
    elif name == "rule":
        said = [dataclasses.asdict(rule).items() for rule in value]
        value = [{each: what for each, what in rule if what is not None} for rule in said] or None
    elif isinstance(value, Path):
        value = str(value)
    return {"value": value, "source": source}


def _of_switch(said: Mapping[str, Any], switch: str | None) -> dict[str, Any]:
    if switch is None or said["source"] == _VARIABLES["offline"]:
        return dict(said)
    return {"value": switch, "source": "mountcache offline"}


# -- offline -----------------------------------------------------------------------------------


@click.command()
@click.argument(
    "how", required=False, type=click.Choice(list(_POSITIONS)), metavar="[on|off|auto|prefer]"
)
@config_option
@json_option
def offline(how: str | None, as_json: bool) -> None:
    """Say for all commands and processes of this directory whether they work offline.

    on: nobody asks upstream, and nothing is pushed. auto: copies are served while it is out of
    reach. prefer: any copy there is comes first. off: as mountcache.toml says. Without a word it
    says how it is. It stays so until it is turned again; MOUNTCACHE_OFFLINE counts more.
    """
    _, settings = configured()
    with unpolled(settings) as store:
        if how is not None:
            store.set_offline(_POSITIONS[how])
        switch, way = store.offline_switch, store.info()["offline"]
    if as_json:
        show({"switch": switch, "offline": way})
        return
    said = "not switched" if switch is None else f"switched to {switch}"
    tell(f"offline: {way} ({said})")
    if switch is not None and way != switch:
        note("MOUNTCACHE_OFFLINE counts more here")
    if way == "always":
        note("next: `mountcache offline off` before the next push")


# -- login and logout --------------------------------------------------------------------------


@click.command()
@click.option("--user", metavar="NAME", help="Who logs in; asked for at a terminal if not told.")
@config_option
@json_option
def login(user: str | None, as_json: bool) -> None:
    """Keep a user and password for upstream in the system's keyring.

    The password is asked for at a terminal, where it isn't shown, or else is the first line of
    standard input: never a word of the command line, which others can see.
    """
    from mountcache.backing.credentials import keep_in_keyring
    from mountcache.errors import ConfigurationError

    path, settings = configured()
    host = _host(settings)
    at_terminal = sys.stdin.isatty()
    if user is None and not at_terminal:
        raise ConfigurationError("there is no terminal to ask at who logs in; say --user NAME")
    user = user or click.prompt(f"User at {host}", err=True)
    if at_terminal:
        password = click.prompt(f"Password of {user} at {host}", hide_input=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigurationError("an empty password was given, and nothing kept")
    assert user is not None
    keep_in_keyring(host, user, password)
    if as_json:
        show({"host": host, "user": user})
    else:
        tell(one_line(f"the keyring has the password of {user} at {host}"))
    if settings.auth != "keyring":
        note(one_line(f'next: say auth = "keyring" in {path}, so that it is used'))


@click.command()
@config_option
@json_option
def logout(as_json: bool) -> None:
    """Remove what `login` kept for upstream from the system's keyring."""
    from mountcache.backing.credentials import remove_from_keyring

    _, settings = configured()
    host = _host(settings)
    user = remove_from_keyring(host)
    if as_json:
        show({"host": host, "user": user})
    else:
        tell(one_line(f"the keyring has no password of {user} at {host} any more"))


def _host(settings: Settings) -> str:
    from mountcache.errors import ConfigurationError

    host = urlsplit(settings.url).hostname
    if not host:
        raise ConfigurationError(f"{settings.url} is on no host that could be logged in to")
    return host
