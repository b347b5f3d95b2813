"""``mountcache.toml``: what is mounted where, and the store that it makes."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mountcache.errors import ConfigurationError

if TYPE_CHECKING:
    from mountcache.abc import AbstractReadOnlyStore
    from mountcache.mounted import MountedStore

__all__ = [
    "DIRECTORY",
    "FILE_NAME",
    "Settings",
    "backing_store",
    "check_root",
    "find_file",
    "open_store",
    "read_settings",
    "toml_text",
]

FILE_NAME = "mountcache.toml"
DIRECTORY = ".mountcache"
"""Where the local store is unless `dir` says otherwise: beside mountcache.toml."""

Layout = Literal["static", "dynamic"]
Durability = Literal["full", "normal"]

_LAYOUTS = ("static", "dynamic")
_OFFLINE = ("auto", "always", "never", "prefer")
_DURABILITY = ("full", "normal")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)\s*", re.IGNORECASE)
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a mountcache.toml says. Each field is one of its keys, under the same name."""

    url: str
    """The root of the remote store, ending in "/"."""
    layout: Layout = "dynamic"
    """"static": ``data/`` and ``index.json`` under `url`; "dynamic": ``keys`` and ``query``."""
    mount_point: str = ""
    """The prefix of the keys that can be written; "" is all of them."""
    dir: Path = Path(DIRECTORY)
    """The local store; a relative path starts at the folder of mountcache.toml."""
    max_age: float | None = None
    """Seconds for which a copy is used without asking; None: as upstream says."""
    offline: str = "auto"
    """"auto", "always", "never" or "prefer"."""
    auth: str | None = None
    """Where credentials come from: "netrc", "keyring", "env:NAME" or "command:CMD"."""
    size_limit: int | None = None
    """Bytes for clean copies; in the file a number, or text such as "10 GiB"."""
    durability: Durability = "full"
    """"full": a staged edit survives a power cut once the command ends; "normal": a crash."""
    author: str | None = None
    """Who makes the edits; None: the user's name at the host."""
    data_path: str = "data/"
    """static: where the data lies under `url`."""
    query_path: str = "index.json"
    """static: where the index lies under `url`."""


_NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def find_file(start: Path) -> Path:
    """Return the nearest mountcache.toml, in `start` or a folder above it.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        candidate = folder / FILE_NAME
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        f"no {FILE_NAME} in {start} or a folder above it; make one with `mountcache init URL`"
    )


def read_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read a mountcache.toml; ``MOUNTCACHE_OFFLINE`` and ``MOUNTCACHE_AUTHOR`` come first.

    Raises
    ------
    ConfigurationError
        If the file is missing, isn't TOML, has an unknown key or a value that can't be used.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: there is no such file; make one with `mountcache init URL`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: isn't TOML: {error}") from None
    for name in document:
        if name not in _NAMES:
            raise ConfigurationError(f"{path}: {_unknown(name)}")
    if "url" not in document:
        raise ConfigurationError(f'{path}: has no url; add one: url = "https://..."')
    values = {name: _checked(path, name, value) for name, value in document.items()}
    values["dir"] = path.absolute().parent / Path(values.get("dir", DIRECTORY)).expanduser()
    offline = environ.get("MOUNTCACHE_OFFLINE")
    if offline is not None:
        values["offline"] = _offline_of(offline, values.get("offline", "auto"))
    if environ.get("MOUNTCACHE_AUTHOR"):
        values["author"] = environ["MOUNTCACHE_AUTHOR"]
    return Settings(**values)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _NAMES, 1, 0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_NAMES)}"
    return f"unknown key {name!r}; {hint}"


def _offline_of(given: str, otherwise: str) -> str:
    given = given.strip().lower()
    if given in _OFFLINE:
        return given
    if given in _TRUE:
        return "always"
    if given in _FALSE:
        return otherwise
    raise ConfigurationError(
        f"MOUNTCACHE_OFFLINE is 1, 0 or one of {', '.join(_OFFLINE)}, not {given!r}"
    )


def _checked(path: Path, name: str, value: object) -> Any:
    """Return the value of one key in the form that `Settings` has it."""
    wrong = ConfigurationError
    match name:
        case "url":
            return check_root(value, f"{path}: url")
        case "layout":
            return _one_of(path, name, value, _LAYOUTS)
        case "offline":
            return _one_of(path, name, value, _OFFLINE)
        case "durability":
            return _one_of(path, name, value, _DURABILITY)
        case "size_limit":
            return _size(path, value)
        case "max_age":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise wrong(f"{path}: max_age is a number of seconds from 0 up, not {value!r}")
            return float(value)
        case "auth":
            if not isinstance(value, str) or not _is_auth(value):
                raise wrong(
                    f'{path}: auth is "netrc", "keyring", "env:NAME" or "command:CMD", '
                    f"not {value!r}; secrets themselves don't belong here"
                )
            return value
        case _:
            if not isinstance(value, str):
                raise wrong(f"{path}: {name} is text, not {value!r}")
            if not value and name != "mount_point":
                raise wrong(f"{path}: {name} is empty")
            return value


def check_root(url: object, name: str) -> str:
    """Return the root of a remote store, ending in "/".

    Parameters
    ----------
    url
        What was given.
    name
        What the user calls it.

    Raises
    ------
    ConfigurationError
        If no store can be there, or a user stands in it: secrets aren't written down.
    """
    from mountcache.backing.urls import PORTS, check_url, shown

    if not isinstance(url, str):
        raise ConfigurationError(f"{name} is text, not {url!r}")
    _, user = check_url(url, name, schemes=(*PORTS, "file"))
    if user is not None:
        raise ConfigurationError(
            f"{name} {shown(url)!r} has a user in it; leave that out, and say how to log in with "
            f"auth in {FILE_NAME}"
        )
    return url.rstrip("/") + "/"


def _is_auth(value: str) -> bool:
    kind, _, rest = value.partition(":")
    try:
        words = shlex.split(rest)
    except ValueError:
        # A quote that doesn't end.
        return False
    return value in ("netrc", "keyring") or (kind in ("env", "command") and bool(words))


def _one_of(path: Path, name: str, value: object, choices: tuple[str, ...]) -> str:
    if value in choices:
        return str(value)
    near = difflib.get_close_matches(str(value).lower(), choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{path}: {name} is one of {', '.join(choices)}, not {value!r}{hint}")


def _size(path: Path, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigurationError(
            f'{path}: size_limit is a number of bytes, or text such as "10 GiB", not {value!r}'
        )
    unit = found[2].upper()
    base = 1024 if "I" in unit else 1000
    power = "BKMGT".index(unit[0]) if unit else 0
    return int(float(found[1]) * base**power)


def toml_text(values: Mapping[str, str]) -> str:
    """Return TOML of names and texts."""
    return "".join(f"{name} = {_quoted(text)}\n" for name, text in values.items())


def _quoted(text: str) -> str:
    marks = {'"': '\\"', "\\": "\\\\"}
    return '"{}"'.format(
        "".join(
            marks.get(char, char if char.isprintable() else f"\\U{ord(char):08x}") for char in text
        )
    )


def backing_store(settings: Settings) -> AbstractReadOnlyStore:
    """Return the remote end that settings describe; it isn't connected."""
    if settings.layout == "static":
        from mountcache.backing.static import StaticURLStore

        return StaticURLStore(settings.url, settings.data_path, settings.query_path)
    from mountcache.backing.dynamic import DynamicURLStore

    return DynamicURLStore(f"{settings.url}keys", f"{settings.url}query")


def open_store(settings: Settings) -> MountedStore:
    """Return the mounted store that settings describe, connected."""
    from mountcache.local.disk import DiskCacheStore
    from mountcache.mounted import MountedStore

    store = MountedStore(
        settings.mount_point,
        DiskCacheStore(
            settings.dir, size_limit=settings.size_limit, durability=settings.durability
        ),
        backing_store(settings),
        max_age=settings.max_age,
        offline=settings.offline,
        author=settings.author,
    )
    store.connect(settings.auth)
    return store
