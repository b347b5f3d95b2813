"""``mountcache path``: files of keys whose paths stay usable.

They are copies under ``paths/`` in the local store's directory, of one version each, which are
never changed: another version of a key is another file. They take room of their own until
``mountcache drop`` forgets them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.session import config_option, json_option, opened, show, tell

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore

__all__ = ["forget", "path", "with_paths"]

_LONGEST = 200
"""Bytes that are sure to fit into the name of a file."""
_HASHED = "+"
"""What the folder of a key with a long name begins with; quoting leaves none in the others."""


@click.command()
@click.argument("key")
@config_option
@json_option
def path(key: str, as_json: bool) -> None:
    """Print the path of a read-only file with the data of KEY.

    For programs that want a file: python plot.py "$(mountcache path KEY)". The file stays, and
    stays as it is, also when the key changes: then another call prints another path. It is a
    copy that takes room outside of size_limit; `mountcache drop KEY` forgets it.
    """
    with opened() as store, asking_for(key, store):
        file = _kept(store, key)
    if as_json:
        show({"key": key, "path": str(file)})
    else:
        tell(str(file))


def _kept(store: MountedStore, key: str) -> Path:
    """Return the file of a key's version, made if it isn't there or was changed."""
    from mountcache.sync.folders import Beneath
    from mountcache.sync.trees import poured_file

    with store.local_path(key) as lent:
        with lent.open("rb") as data:
            sha = hashlib.file_digest(data, "sha256").hexdigest()
        below = f"{_folder_of(key)}/{sha[:16]}/{_name_of(key)}"
        with Beneath(_room(store)) as room:
            there = room.read(below)
            if there is not None:
                with there:
                    if hashlib.file_digest(there, "sha256").hexdigest() == sha:
                        return room.folder / below
            room.write(below, lambda file: poured_file(lent, file), replace=True, mode=0o444)
            return room.folder / below


def _room(store: MountedStore) -> Path:
    directory: Path = store.mount.catalog.content.directory  # type: ignore[attr-defined]
    return directory / "paths"


def _folder_of(key: str) -> str:
    quoted = quote(key, safe="")
    if len(quoted) <= _LONGEST:
        # "." and ".." lead elsewhere, and quoting leaves points alone.
        return quoted if quoted.strip(".") else quoted.replace(".", "%2E")
    return _HASHED + hashlib.sha256(key.encode()).hexdigest()


def _name_of(key: str) -> str:
    """Return the last name of a key, which programs look at for its suffix."""
    name = key.rpartition("/")[2]
    if name in ("", ".", "..") or len(os.fsencode(name)) > _LONGEST:
        suffix = os.path.splitext(name)[1]
        return "data" + (suffix if len(os.fsencode(suffix)) < _LONGEST else "")
    return name


def forget(store: MountedStore, key: str) -> bool:
    """Remove the files of a key; False if there are none."""
    folder = _room(store) / _folder_of(key)
    if not folder.is_dir():
        return False
    shutil.rmtree(folder)
    return True


def with_paths(store: MountedStore) -> Iterator[str]:
    """Iterate over the keys that have files, but for those with very long names."""
    room = _room(store)
    if room.is_dir():
        for folder in sorted(os.listdir(room)):
            if not folder.startswith(_HASHED):
                yield unquote(folder)
