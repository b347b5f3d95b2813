"""``mountcache init``: finds out what a URL is and writes mountcache.toml."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from mountcache.cli.session import json_option, show, tell

__all__ = ["init"]


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
@json_option
def init(
    url: str, layout: str | None, mount_point: str, directory: str | None, as_json: bool
) -> None:
    """Mount the store at URL here: write mountcache.toml."""
    from mountcache.cli.config import DIRECTORY, FILE_NAME, Settings, toml_text
    from mountcache.errors import ConfigurationError

    path = Path.cwd() / FILE_NAME
    taken = ConfigurationError(f"{path} is there already; edit it, or remove it first")
    if path.exists():
        raise taken
    how = "as told"
    settings = Settings(url.rstrip("/") + "/", mount_point=mount_point)
    if layout is None:
        layout, how = _look(settings)
    elif layout == "static":
        settings = replace(settings, layout="static")
    _check(settings)
    values = {"url": settings.url, "layout": layout}
    if mount_point:
        values["mount_point"] = mount_point
    if directory is not None:
        values["dir"] = directory
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(
                "# What is mounted here. Other keys: max_age, offline, auth, size_limit,\n"
                "# durability, author, data_path, query_path.\n" + toml_text(values)
            )
    except FileExistsError:
        raise taken from None
    if as_json:
        show({"config": str(path), "dir": directory or DIRECTORY, **values})
        return
    tell(f"{settings.url} has the {layout} layout ({how}).")
    tell(f"Wrote {path}; the local store will be in {directory or DIRECTORY}.")
    tell("Next: `mountcache ls` lists the keys, `mountcache get KEY` fetches one.")


def _check(settings: object) -> None:
    """Refuse a URL that no store can be made of."""
    from mountcache.cli.config import Settings, backing_store

    assert isinstance(settings, Settings)
    backing_store(settings)


def _look(settings: object) -> tuple[str, str]:
    """Return which layout a URL has, and what says so.

    The dynamic one comes first: where both are served, as by `mountcache serve`, it tells
    more of a key.
    """
    from mountcache.abc import SupportsIndex
    from mountcache.cli.config import Settings, backing_store
    from mountcache.errors import (
        AuthorizationError,
        ConfigurationError,
        StoreError,
        StoreUnavailableError,
    )

    assert isinstance(settings, Settings)
    found: list[str] = []
    shows = {"dynamic": "it answers at query", "static": "it has an index.json"}
    for layout, how in (("dynamic", shows["dynamic"]), ("static", shows["static"])):
        store = backing_store(
            replace(settings, layout="static" if layout == "static" else "dynamic")
        )
        assert isinstance(store, SupportsIndex)
        try:
            reading = store.read_index()
            if reading is not None:
                next(iter(reading.entries), None)
                reading.close()
            return layout, how
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
            found.append(f"{layout}: {error}")
        finally:
            store.disconnect()
    raise ConfigurationError(
        f"{settings.url} shows neither layout ({'; '.join(found)}); say --layout static or dynamic"
    )
