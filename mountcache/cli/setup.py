"""``mountcache init``: finds out what a URL is and writes mountcache.toml."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mountcache.cli.session import json_option, show, tell

if TYPE_CHECKING:
    from mountcache.abc import AbstractReadOnlyStore
    from mountcache.backing.listing import ListingURLStore
    from mountcache.config import Settings

__all__ = ["HEAD", "init"]

HEAD = """\
# What is mounted here. Other keys: mount_point, dir, max_age, offline, auth,
# size_limit, staged_limit, undo_limit, durability, shared, author, data_path,
# query_path, write, metadata, ca, client_cert, client_key, probe, push, limits,
# rule, insecure_skip_tls_verify.
"""
_GRADES = {
    "A": "Edits are pushed at grade A: the server compares and writes as one step.",
    "C": "Edits are pushed at grade C: compared just before and verified after, with a short race "
    "between.",
    None: "It can be read, not written; if the server takes PUT and DELETE, say --write put.",
}
_SAMPLE = 1000
_BESIDE = "/"
"""The data_path of data that lie beside the index."""


@click.command()
@click.argument("url")
@click.option(
    "--layout",
    type=click.Choice(["static", "dynamic", "listing"]),
    help="What is under URL: data/ and index.json (static), keys and query (dynamic), or files "
    "that the server lists by itself (listing). Found out if it isn't told.",
)
@click.option(
    "--write",
    type=click.Choice(["put"]),
    help="A plain web server takes PUT and DELETE, as nginx and Apache with dav do.",
)
@click.option(
    "--metadata",
    type=click.Choice(["local", "sidecar"]),
    help="Where metadata go with --write put: they stay here, or go to KEY.metadata.json.",
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
    write: str | None,
    metadata: str | None,
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
    from mountcache.errors import ConfigurationError

    path = Path.cwd() / FILE_NAME
    _check_free(path, name)
    given: dict[str, Any] = {"write": write, "metadata": metadata or "local"}
    settings = Settings(check_root(url, "URL"), mount_point=mount_point, **given)
    if layout is None:
        found = _found_out(settings)
    else:
        found = _Found(_as(settings, layout), "as told")
        # Refuses now what no such store can be made of.
        backing_store(found.settings)
    settings = found.settings
    _check_write(settings, metadata)
    values = {"url": settings.url, "layout": settings.layout}
    if settings.data_path == _BESIDE:
        values["data_path"] = settings.data_path
    if write is not None:
        values |= {"write": write, "metadata": settings.metadata}
    if mount_point:
        values["mount_point"] = mount_point
    if directory is not None:
        values["dir"] = directory
    table = f"[mount.{toml_key(name)}]\n" if name else ""
    there = _check_free(path, name)
    try:
        with path.open("a" if there else "x", encoding="utf-8") as file:
            file.write(("\n" if there else HEAD) + table + toml_text(values))
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be written: {error.strerror}; go to a folder of your own, and say it "
            "there again"
        ) from None
    directory = directory or str(Path(DIRECTORY, name or ""))
    if as_json:
        show({"config": str(path), "dir": directory, **values, "grade": found.grade})
        return
    tell(f"{settings.url} has the {settings.layout} layout ({found.how}).")
    for line in found.said:
        tell(line)
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


def _as(settings: Settings, layout: Any) -> Settings:
    return replace(settings, layout=layout)


def _check_write(settings: Settings, metadata: str | None) -> None:
    from mountcache.errors import ConfigurationError

    if settings.write is None and metadata is not None:
        raise ConfigurationError("--metadata goes with --write put")
    if settings.write is not None and settings.layout == "dynamic":
        raise ConfigurationError(
            "--write put is for plain web servers; the dynamic layout says itself how it is written"
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at a URL."""

    settings: Settings
    how: str
    """What says so."""
    grade: str | None = None
    """That of pushes; None: it can't be written, or nobody looked."""
    said: tuple[str, ...] = ()
    """What can and can't be done there."""


def _found_out(settings: Settings) -> _Found:
    """Return settings with the layout that the URL has, and what can be done there.

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
    for layout in ("dynamic", "static", "listing"):
        so = _as(settings, layout)
        try:
            with backing_store(so) as store:
                return _look(store, so)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"{error}; to write mountcache.toml all the same say --layout static, dynamic or "
                "listing"
            ) from None
        except AuthorizationError as error:
            if layout == "listing" and error.status == 403:
                tried.append(f"{layout}: the server doesn't list its folders (403)")
                continue
            raise AuthorizationError(
                f"{error}; say --layout static, dynamic or listing, and how to log in with auth "
                "in mountcache.toml",
                status=error.status,
            ) from None
        except (StoreError, KeyError) as error:
            tried.append(f"{layout}: {error}")
    raise ConfigurationError(
        f"{settings.url} shows no layout that is known ({'; '.join(tried)}); is it the right URL? "
        "Otherwise say --layout static, dynamic or listing"
    )


def _look(store: AbstractReadOnlyStore, settings: Settings) -> _Found:
    """Return what a store shows; raise if that isn't its layout."""
    from mountcache.abc import SupportsConditionalWrite

    how = {"dynamic": "it answers at query", "static": "it has an index.json"}
    said: list[str] = []
    if settings.layout == "listing":
        how["listing"] = _look_at_listing(store, said)
    else:
        first = _list(store)
        if settings.layout == "static" and first is not None:
            settings = _where_data_is(settings, first)
    grade = None
    if isinstance(store, SupportsConditionalWrite):
        ours = settings.url.startswith("http") and store.enforces()
        if ours or settings.layout == "dynamic" or settings.write is not None:
            grade = "A" if ours else "C"
    said.append(_GRADES[grade])
    if grade == "C" and settings.write is not None and settings.metadata == "local":
        shown = "listing" if settings.layout == "listing" else "index"
        said.append(
            f"It keeps no metadata: what you push with a file is seen here until its {shown} has "
            "something new of that file."
        )
    return _Found(settings, how[settings.layout], grade, tuple(said))


def _look_at_listing(store: AbstractReadOnlyStore, said: list[str]) -> str:
    """Return what a listing shows at its root."""
    listing: ListingURLStore = store  # type: ignore[assignment]
    items = list(islice(listing.names(), _SAMPLE))
    files = [each for each in items if not each.folder]
    if files and not any(each.modified for each in files):
        said.append(
            "It shows no times: that a file was changed is noticed at the daily check of its copy."
        )
    more = "more than " if len(items) == _SAMPLE else ""
    return (
        f"its root lists {more}{_counted(len(files), 'file')} and "
        f"{_counted(len(items) - len(files), 'folder')}; what it doesn't list isn't there"
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _where_data_is(settings: Settings, key: str) -> Settings:
    """Return settings that find the data of a key: under data/, else beside the index."""
    from mountcache.config import backing_store
    from mountcache.errors import StoreError

    for so in (settings, replace(settings, data_path=_BESIDE)):
        # Some servers forbid what isn't there, or HEAD: what can't be told stays as it was.
        with suppress(KeyError, StoreError), backing_store(so) as store:
            store.get(key)
            return so
    return settings


def _list(store: AbstractReadOnlyStore) -> str | None:
    """Read the beginning of a store's listing, and return its first key; raise if it has none."""
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
        return first
    if reading is None:
        return None
    try:
        return next((key for key, *_ in reading.entries), None)
    finally:
        reading.close()
