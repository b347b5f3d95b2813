"""``mountcache.toml``: what is mounted where, and the stores that it makes.

A file describes one mount, or several in tables ``[mount.NAME]``. Scripts, notebooks, the command
line and the proxy all open what it describes, and so share one cache.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mountcache.errors import ConfigurationError

if TYPE_CHECKING:
    from mountcache.abc import AbstractReadOnlyStore
    from mountcache.backing.limits import Limits
    from mountcache.mounted import MountedStore
    from mountcache.sync.commands import PushSettings
    from mountcache.sync.rules import Rule

__all__ = [
    "DIRECTORY",
    "FILE_NAME",
    "Settings",
    "backing_store",
    "bytes_of",
    "check_mount_name",
    "check_root",
    "find_file",
    "mounted_store",
    "open",
    "open_store",
    "problems",
    "read_mounts",
    "read_settings",
    "toml_key",
    "toml_text",
]

FILE_NAME = "mountcache.toml"
DIRECTORY = ".mountcache"
"""Where the local store is unless `dir` says otherwise: beside mountcache.toml."""

Layout = Literal["static", "dynamic", "listing"]
Durability = Literal["full", "normal"]

_LAYOUTS = ("static", "dynamic", "listing")
_OFFLINE = ("auto", "always", "never", "prefer")
_DURABILITY = ("full", "normal")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)\s*", re.IGNORECASE)
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")
_MOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a mountcache.toml says. Each field is one of its keys, under the same name."""

    url: str
    """The root of the remote store, ending in "/"."""
    layout: Layout = "dynamic"
    """"static": ``data/`` and ``index.json`` under `url`; "dynamic": ``keys`` and ``query``;
    "listing": files, as the server's own pages list them."""
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
    staged_limit: int | None = None
    """Bytes for staged values, likewise; None: no limit."""
    undo_limit: int | None = None
    """Bytes of what is kept for undo, likewise; None: a quarter of `size_limit`."""
    durability: Durability = "full"
    """"full": a staged edit survives a power cut once the command ends; "normal": a crash."""
    shared: Literal["group"] | None = None
    """"group": the local store is made for the group of its directory; None: for its owner."""
    author: str | None = None
    """Who makes the edits; None: the user's name at the host."""
    data_path: str = "data/"
    """static: where the data lies under `url`."""
    query_path: str = "index.json"
    """static: where the index lies under `url`."""
    write: Literal["put"] | None = None
    """static and listing: "put" if the server takes PUT and DELETE."""
    metadata: Literal["local", "sidecar"] = "local"
    """static, with write = "put": where metadata go, "local" or "sidecar"."""
    ca: Path | None = None
    """A file of the certificates that vouch for the server; these three paths start at the folder
    of mountcache.toml."""
    client_cert: Path | None = None
    """A file with the certificate that is shown to the server."""
    client_key: Path | None = None
    """A file with its key; None: it is in `client_cert`."""
    insecure_skip_tls_verify: bool = False
    """Take any server for the right one; each use says so."""
    probe: Literal["never", "ask", "auto"] = "ask"
    """Whether upstream is written to, to find out which conditional writes it enforces: "never",
    "ask" (`mountcache doctor --probe`), or "auto", at the first push."""
    push: PushSettings | None = None
    """How staged edits go upstream; in the file "manual", "auto", or the table [push], with `mode`,
    `quiet`, `late`, `check`, `after` and `time_limit`; None: when somebody says so."""
    rule: tuple[Rule, ...] = ()
    """What goes for the keys of some patterns alone; in the file tables [[rule]]."""
    limits: Limits | None = None
    """How fast upstream may be asked; in the file the table [limits], with `requests` and `bytes`
    a second, and `connections`."""


_TLS_FILES = {"ca", "client_cert", "client_key"}
_NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def find_file(
    start: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the mountcache.toml to use.

    Parameters
    ----------
    start
        The file itself, or a folder; None: what ``MOUNTCACHE_CONFIG`` names, else the working
        directory. Of a folder it is the nearest, there or above.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    named = environ.get("MOUNTCACHE_CONFIG") if start is None else None
    path = Path(start or named or ".").expanduser().absolute()
    if named and not path.exists():
        raise ConfigurationError(
            f"MOUNTCACHE_CONFIG names {path}, and there is no such file; unset it, or make the "
            "file with `mountcache init URL`"
        )
    if not path.is_dir():
        return path
    for folder in (path, *path.parents):
        candidate = folder / FILE_NAME
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        f"no {FILE_NAME} in {path} or a folder above it; go to the folder that has one, or make "
        "one here with `mountcache init URL`"
    )


def read_settings(
    path: Path,
    environ: Mapping[str, str] = os.environ,
    *,
    mount: str | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Return what a mountcache.toml says of one mount.

    Parameters
    ----------
    path
        The file.
    environ
        Where ``MOUNTCACHE_DIR``, ``MOUNTCACHE_OFFLINE`` and ``MOUNTCACHE_AUTHOR`` come from, which
        count more than the file.
    mount
        Which mount; None: the only one.
    overrides
        What counts more than both.

    Raises
    ------
    ConfigurationError
        If the file is missing, isn't TOML, has an unknown key or a value that can't be used, or
        has no such mount.
    """
    tables = _tables(path)
    if mount is None:
        if len(tables) > 1:
            raise ConfigurationError(
                f"{path} has the mounts {', '.join(tables)}; say which (mount=, or --mount NAME)"
            )
        (mount,) = tables
    elif mount not in tables:
        raise ConfigurationError(f"{path} has no mount {mount!r}; {_hint(mount, tables, 'mounts')}")
    return _settings(path, mount, tables[mount], environ, overrides or {})


def read_mounts(path: Path, environ: Mapping[str, str] = os.environ) -> dict[str, Settings]:
    """Return all mounts of a mountcache.toml by name; a single one may have the name ""."""
    return {
        name: _settings(path, name, table, environ, {}) for name, table in _tables(path).items()
    }


def problems(path: Path, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return all that is wrong with a mountcache.toml, a sentence each."""
    try:
        tables = _tables(path)
    except ConfigurationError as error:
        return [str(error)]
    found: list[str] = []
    for mount, table in tables.items():
        try:
            before = len(found)
            for name, value in table.items():
                try:
                    _all_checked(_where(path, mount), {name: value})
                except ConfigurationError as error:
                    found.append(str(error))
            if len(found) == before:
                _settings(path, mount, table, environ, {})
        except ConfigurationError as error:
            found.append(str(error))
    return found


def _where(path: Path, mount: str) -> str:
    return f"{path}: [mount.{mount}]" if mount else str(path)


def _tables(path: Path) -> dict[str, dict[str, Any]]:
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
    except RecursionError:
        raise ConfigurationError(f"{path}: is nested too deeply") from None
    if "mount" not in document:
        return {"": document}
    tables = document.pop("mount")
    if document:
        raise ConfigurationError(
            f"{path}: {next(iter(document))!r} stands outside of a [mount.NAME]; move it into one"
        )
    if not isinstance(tables, dict) or not tables:
        raise ConfigurationError(f"{path}: mount isn't a table; write [mount.NAME]")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigurationError(f"{path}: mount has the key {name!r}; write [mount.NAME]")
        check_mount_name(name, str(path))
    return tables


def check_mount_name(name: str, where: str) -> None:
    """Raise ConfigurationError unless a mount can have this name."""
    if not _MOUNT.fullmatch(name):
        raise ConfigurationError(
            f"{where}: a mount is named by up to 64 letters, digits, '_', '-' and '.', not {name!r}"
        )


def _settings(
    path: Path,
    mount: str,
    table: Mapping[str, Any],
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
) -> Settings:
    where = _where(path, mount)
    values = _all_checked(where, table)
    values["dir"] = (
        path.absolute().parent / Path(values.get("dir", Path(DIRECTORY, mount))).expanduser()
    )
    for name in _TLS_FILES & values.keys():
        values[name] = path.absolute().parent / Path(values[name]).expanduser()
    if "push" in values:
        values["push"] = dataclasses.replace(values["push"], folder=path.absolute().parent)
    return _made(where, values, mount, environ, overrides)


def _made(
    where: str,
    values: dict[str, Any],
    mount: str,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
) -> Settings:
    if environ.get("MOUNTCACHE_DIR"):
        values["dir"] = Path(environ["MOUNTCACHE_DIR"]).expanduser().absolute() / mount
    offline = environ.get("MOUNTCACHE_OFFLINE")
    if offline is not None:
        values["offline"] = _offline_of(offline, values.get("offline", "auto"))
    if environ.get("MOUNTCACHE_AUTHOR"):
        values["author"] = environ["MOUNTCACHE_AUTHOR"]
    given = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in overrides.items()
        if value is not None
    }
    values |= _all_checked("mountcache.open()", given)
    for name in {"dir", *_TLS_FILES} & given.keys():
        values[name] = Path(values[name]).expanduser().absolute()
    if "url" not in values:
        raise ConfigurationError(f'{where}: has no url; add one: url = "https://..."')
    if values.get("rule"):
        from mountcache.sync.rules import rules_of

        rules_of(values["rule"], where, values.get("mount_point", ""))
    return Settings(**values)


def open(  # noqa: A001 - as `mountcache.open`
    path: str | os.PathLike[str] | None = None,
    *,
    mount: str | None = None,
    credentials: Any = None,
    lock: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> MountedStore:
    """Open the store that a mountcache.toml describes.

    Parameters
    ----------
    path
        The file, or a folder in or above which the nearest one is looked for; None: the one that
        ``MOUNTCACHE_CONFIG`` names, else the nearest to the working directory.
    mount
        Which of several mounts.
    credentials
        As for the backing store's `connect`; None: those that `auth` names.
    lock
        A file that `mountcache lock` made: the store gives exactly the bytes that it names, and
        can't be changed; see `mountcache.frozen.FrozenStore`.
    **overrides
        Keys of mountcache.toml. With `url`, and no `path`, no file is needed.

    Returns
    -------
    MountedStore
        Connected; ``with`` disconnects it. Upstream may be out of reach.

    Raises
    ------
    ConfigurationError
        If there is no such file, or it can't be used.
    DirectoryError
        If the local store can't be.
    """
    if path is None and "url" in overrides and mount is None:
        here = {"dir": Path(DIRECTORY).absolute()}
        settings = _made("mountcache.open()", here, "", os.environ, overrides)
    else:
        settings = read_settings(find_file(path), mount=mount, overrides=overrides)
    insist = overrides.get("offline") is not None
    return open_store(settings, credentials, lock, insist_offline=insist)


def _all_checked(where: str, table: Mapping[str, object]) -> dict[str, Any]:
    for name in table:
        if name not in _NAMES:
            raise ConfigurationError(
                f"{where}: unknown key {name!r}; {_hint(name, _NAMES, 'keys')}"
            )
    return {name: _checked(where, name, value) for name, value in table.items()}


def _hint(name: str, known: Iterable[str], what: str) -> str:
    near = difflib.get_close_matches(name.lower(), known, 1, 0.4)
    return f"did you mean {near[0]!r}?" if near else f"the {what} are {', '.join(known)}"


def _is_said(offline: str | None) -> bool:
    """Whether MOUNTCACHE_OFFLINE says something: 0 leaves it to others."""
    return offline is not None and offline.strip().lower() not in _FALSE


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


def _checked(where: str, name: str, value: object) -> Any:
    """Return the value of one key in the form that `Settings` has it."""
    wrong = ConfigurationError
    match name:
        case "url":
            return check_root(value, f"{where}: url")
        case "layout":
            return _one_of(where, name, value, _LAYOUTS)
        case "offline":
            return _one_of(where, name, value, _OFFLINE)
        case "durability":
            return _one_of(where, name, value, _DURABILITY)
        case "probe":
            return _one_of(where, name, value, ("never", "ask", "auto"))
        case "shared":
            return _one_of(where, name, value, ("group",))
        case "write":
            return _one_of(where, name, value, ("put",))
        case "metadata":
            return _one_of(where, name, value, ("local", "sidecar"))
        case "size_limit" | "staged_limit" | "undo_limit":
            return _size(where, name, value)
        case "max_age":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise wrong(f"{where}: max_age is a number of seconds from 0 up, not {value!r}")
            return float(value)
        case "push":
            from mountcache.sync.commands import push_settings

            return push_settings(value, where)
        case "rule":
            from mountcache.sync.rules import rules_of

            return rules_of(value, where)
        case "limits":
            from mountcache.backing.limits import limits_of

            return limits_of(value, f"{where}: [limits]")
        case "insecure_skip_tls_verify":
            if not isinstance(value, bool):
                raise wrong(f"{where}: {name} is true or false, not {value!r}")
            return value
        case "auth":
            if not isinstance(value, str) or not _is_auth(value):
                raise wrong(
                    f'{where}: auth is "netrc", "keyring", "env:NAME" or "command:CMD", '
                    f"not {value!r}; secrets themselves don't belong here"
                )
            return value
        case _:
            if not isinstance(value, str):
                raise wrong(f"{where}: {name} is text, not {value!r}")
            if not value and name != "mount_point":
                raise wrong(f"{where}: {name} is empty")
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


def _one_of(where: str, name: str, value: object, choices: tuple[str, ...]) -> str:
    if value in choices:
        return str(value)
    near = difflib.get_close_matches(str(value).lower(), choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{where}: {name} is one of {', '.join(choices)}, not {value!r}{hint}")


def _size(where: str, name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = bytes_of(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigurationError(
            f'{where}: {name} is a number of bytes, or text such as "10 GiB", not {value!r}'
        )
    return found


def bytes_of(text: str) -> int | None:
    """Return how many bytes text such as "10 GiB" means; None if it isn't such."""
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    unit = found[2].upper()
    base = 1024 if "I" in unit else 1000
    power = "BKMGT".index(unit[0]) if unit else 0
    return int(float(found[1]) * base**power)


def toml_key(name: str) -> str:
    """Return a name as the key of a TOML table."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _quoted(name)


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
    from mountcache.backing.tls import TLS

    ca, cert, key = (
        None if path is None else str(path)
        for path in (settings.ca, settings.client_cert, settings.client_key)
    )
    tls = TLS(ca, cert, key, settings.insecure_skip_tls_verify)
    if settings.layout == "static":
        from mountcache.backing.static import StaticURLStore

        return StaticURLStore(
            settings.url, settings.data_path, settings.query_path, write=settings.write,
            metadata=settings.metadata, tls=tls, limits=settings.limits,
        )  # fmt: skip
    if settings.layout == "listing":
        from mountcache.backing.listing import ListingURLStore

        if settings.metadata == "sidecar":
            raise ConfigurationError(
                'metadata = "sidecar" is for the static layout: a listing would show the sidecars '
                "as keys; make an index.json with `mountcache index`"
            )
        return ListingURLStore(settings.url, write=settings.write, tls=tls, limits=settings.limits)
    from mountcache.backing.dynamic import DynamicURLStore

    return DynamicURLStore(
        f"{settings.url}keys", f"{settings.url}query", tls=tls, limits=settings.limits
    )


def mounted_store(
    settings: Settings,
    lock: str | os.PathLike[str] | None = None,
    *,
    insist_offline: bool = False,
) -> MountedStore:
    """Return the mounted store that settings describe; it isn't connected.

    Parameters
    ----------
    settings
        What the file and the environment say.
    lock
        A lock file that names the bytes of keys, see `mountcache.open`.
    insist_offline
        Let their `offline` count more than the switch of the directory, as it does in any case
        where ``MOUNTCACHE_OFFLINE`` says something.
    """
    from mountcache.local.disk import DiskCacheStore
    from mountcache.mounted import MountedStore
    from mountcache.sync.commands import pushing_by

    make: Callable[..., MountedStore] = MountedStore
    if lock is not None:
        from mountcache.frozen import FrozenStore
        from mountcache.sync.frozen import read_lock

        make = partial(FrozenStore, read_lock(lock))
    return make(
        settings.mount_point,
        DiskCacheStore(
            settings.dir,
            size_limit=settings.size_limit,
            staged_limit=settings.staged_limit,
            undo_limit=settings.undo_limit,
            durability=settings.durability,
            shared=settings.shared,
        ),
        backing_store(settings),
        max_age=settings.max_age,
        offline=settings.offline,
        insist_offline=insist_offline or _is_said(os.environ.get("MOUNTCACHE_OFFLINE")),
        author=settings.author,
        probe=settings.probe == "auto",
        push=pushing_by(settings.push),
        rules=settings.rule,
    )


def open_store(
    settings: Settings,
    credentials: Any = None,
    lock: str | os.PathLike[str] | None = None,
    *,
    insist_offline: bool = False,
) -> MountedStore:
    """Return the mounted store that settings describe, connected; see `mounted_store`."""
    store = mounted_store(settings, lock, insist_offline=insist_offline)
    store.connect(settings.auth if credentials is None else credentials)
    return store
