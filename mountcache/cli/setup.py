"""``mountcache init``: finds out what a URL is and writes mountcache.toml."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mountcache.cli.session import json_option, show, tell

if TYPE_CHECKING:
    from mountcache.abc import AbstractReadOnlyStore
    from mountcache.config import Settings

__all__ = ["init"]

_HEAD = """\
# What is mounted here. Other keys: max_age, offline, auth, size_limit,
# durability, author, data_path, query_path.
"""


@click.command()
@click.argument("url")
@click.option(
    "--layout",
    type=click.Choice(["static", "dynamic"]),
    help="What is under URL: data/ and index.json (static), or keys and query (dynamic). "
    "Found out if it isn't told.",
)
@click.option(
    "--mount-point",
    metavar="PREFIX",
    default="",
    help="Only keys that begin with it can be written, and only they are cached.",
)
@click.option(
    "--dir", "directory", metavar="DIR", help="Where the local store is; .mountcache if not told."
)
@click.option(
    "--name", metavar="NAME", help="One of several mounts: writes, or adds, the table [mount.NAME]."
)
@json_option
def init(
    url: str,
    layout: str | None,
    mount_point: str,
    directory: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Mount the store at URL here: write mountcache.toml."""
    from mountcache.config import (
        DIRECTORY,
        FILE_NAME,
        Settings,
        backing_store,
        check_root,
        toml_key,
        toml_text,
    )

    path = Path.cwd() / FILE_NAME
    _check_free(path, name)
    settings = Settings(check_root(url, "URL"), mount_point=mount_point)
    if layout is None:
        settings, how = _found_out(settings)
    else:
        settings, how = _as(settings, layout), "as told"
        # Refuses now what no such store can be made of.
        backing_store(settings)
    values = {"url": settings.url, "layout": settings.layout}
    if mount_point:
        values["mount_point"] = mount_point
    if directory is not None:
        values["dir"] = directory
    table = f"[mount.{toml_key(name)}]\n" if name else ""
    there = _check_free(path, name)
    with path.open("a" if there else "x", encoding="utf-8") as file:
        file.write(("\n" if there else _HEAD) + table + toml_text(values))
    directory = directory or str(Path(DIRECTORY, name or ""))
    if as_json:
        show({"config": str(path), "dir": directory, **values})
        return
    tell(f"{settings.url} has the {settings.layout} layout ({how}).")
    tell(f"Wrote {path}; the local store will be in {directory}.")
    tell("Next: `mountcache ls` lists the keys, `mountcache get KEY` fetches one.")


def _check_free(path: Path, name: str | None) -> bool:
    """Return whether the file is there, and can take another mount of this name."""
    from mountcache.config import check_mount_name, read_mounts
    from mountcache.errors import ConfigurationError

    if name is not None:
        check_mount_name(name, "--name")
    if not path.exists():
        return False
    mounts = read_mounts(path)
    if name is None or "" in mounts:
        raise ConfigurationError(
            f"{path} is there already; edit it, or remove it first; several mounts in one file "
            "have names: --name NAME"
        )
    if name in mounts:
        raise ConfigurationError(f"{path} has a mount {name!r} already; choose another name")
    return True


def _as(settings: Settings, layout: str) -> Settings:
    return replace(settings, layout="static" if layout == "static" else "dynamic")


def _found_out(settings: Settings) -> tuple[Settings, str]:
    """Return settings with the layout that the URL has, and what says so.

    The dynamic one comes first: where both are served, as by `mountcache serve`, it tells
    more of a key.
    """
    from mountcache.config import backing_store
    from mountcache.errors import (
        AuthorizationError,
        ConfigurationError,
        StoreError,
        StoreUnavailableError,
    )

    tried: list[str] = []
    for layout, how in (("dynamic", "it answers at query"), ("static", "it has an index.json")):
        so = _as(settings, layout)
        try:
            with backing_store(so) as store:
                _list(store)
            return so, how
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"{error}; to write mountcache.toml all the same say --layout static or dynamic"
            ) from None
        except AuthorizationError as error:
            raise AuthorizationError(
                f"{error}; say --layout static or dynamic, and how to log in with auth in "
                "mountcache.toml",
                status=error.status,
            ) from None
        except (StoreError, KeyError) as error:
            tried.append(f"{layout}: {error}")
    raise ConfigurationError(
        f"{settings.url} shows neither layout ({'; '.join(tried)}); say --layout static or dynamic"
    )


def _list(store: AbstractReadOnlyStore) -> None:
    """Read the beginning of a store's listing; raise if it has none."""
    from mountcache.abc import SupportsIndex
    from mountcache.errors import IndexUnreadableError

    assert isinstance(store, SupportsIndex)
    try:
        reading = store.read_index()
    except IndexUnreadableError:
        # A server of another make may list keys alone. A page for people isn't a key of its own.
        first = next(iter(store.query_keys()), "")
        if not first or first.startswith("<") or not store.exists(first):
            raise
        return
    if reading is not None:
        next(iter(reading.entries), None)
        reading.close()
