"""The commands that stage edits and take them back: put, rm, mv, revert, drop."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import click

from mountcache.cli.codes import asking_for, one_line
from mountcache.cli.session import (
    config_option,
    json_option,
    opened,
    pairs,
    progress,
    show,
    tell,
)

__all__ = ["drop", "mv", "put", "revert", "rm"]


class _Counted(io.RawIOBase):
    """A stream that tells how much of it was read."""

    def __init__(self, stream: IO[bytes], told: Callable[[int], None]) -> None:
        self._stream = stream
        self._told = told
        self.done = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(size)
        self.done += len(piece)
        self._told(self.done)
        return piece


@click.command()
@click.argument("key")
@click.argument("file", required=False)
@click.option(
    "--meta", metavar="NAME=TEXT", multiple=True, help="Metadata to set beside what is there."
)
@click.option("--meta-json", metavar="OBJECT", help="The same, as a JSON object.")
@config_option
@json_option
def put(
    key: str, file: str | None, meta: tuple[str, ...], meta_json: str | None, as_json: bool
) -> None:
    """Stage the data of KEY, from FILE or standard input.

    Standard input is read without FILE, or with "-". Nothing is sent before `mountcache push`.
    """
    from mountcache.errors import ConfigurationError, StoreUnavailableError

    metadata = {**_object(meta_json), **pairs(meta, "--meta")}
    with ExitStack() as stack:
        if file is None or file == "-":
            # Python has no object for a closed one, whatever its types say.
            if getattr(sys, "stdin", None) is None:
                raise ConfigurationError("standard input is closed; name a FILE")
            source: IO[bytes] = sys.stdin.buffer
            total = -1
        else:
            source = stack.enter_context(Path(file).open("rb"))
            total = os.fstat(source.fileno()).st_size
        store = stack.enter_context(opened())
        step = stack.enter_context(progress(f"put {key}", in_bytes=True))
        data = _Counted(source, lambda done: step(done, total, ""))
        try:
            with store.transaction(f"put {key}"):
                store.set_data(key, data)
                if metadata:
                    store.update_metadata(key, metadata)
        except StoreUnavailableError:
            # Whether the key is upstream, and with what metadata, can't be known now. The edit
            # only creates: if the key is there after all, push says conflict.
            if data.done:
                raise
            store.set(key, (data, metadata))
        size = store.get(key).size
    if as_json:
        show({"key": key, "staged": True, "size": size})
    else:
        tell(one_line(f"staged {key}"))


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"isn't JSON: {error}", param_hint="--meta-json") from None
    if not isinstance(found, dict):
        raise click.BadParameter("isn't a JSON object", param_hint="--meta-json")
    return cast("dict[str, Any]", found)


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@config_option
@json_option
def rm(keys: tuple[str, ...], as_json: bool) -> None:
    """Stage the removal of keys, all or none.

    They are gone here at once; `mountcache push` removes them upstream.
    """
    with opened() as store, store.transaction(f"rm {' '.join(keys)}"):
        for key in dict.fromkeys(keys):
            with asking_for(key):
                store.delete(key)
    for key in dict.fromkeys(keys):
        show({"key": key, "deleted": True}) if as_json else tell(one_line(f"deleted {key}"))


@click.command()
@click.argument("old")
@click.argument("new")
@config_option
@json_option
def mv(old: str, new: str, as_json: bool) -> None:
    """Stage the renaming of a key; NEW must be free."""
    with opened() as store, asking_for(old):
        store.mv(old, new)
    if as_json:
        show({"old": old, "new": new})
    else:
        tell(one_line(f"renamed {old} to {new}"))


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@config_option
@json_option
def revert(keys: tuple[str, ...], as_json: bool) -> None:
    """Discard the staged edits of keys: they are upstream's again."""
    with opened() as store:
        done: list[str] = []
        for key in keys:
            if key in done:
                continue
            with asking_for(key):
                try:
                    reverted = store.revert(key)
                except KeyError as error:
                    raise _nothing_staged(store, key, error) from None
            done += reverted
            for each in reverted:
                if as_json:
                    show({"key": each, "asked": each in keys})
                else:
                    also = "" if each in keys else f" (the other half of the renaming of {key})"
                    tell(one_line(f"reverted {each}{also}"))


def _nothing_staged(store: Any, key: str, error: KeyError) -> Exception:
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.errors import StoreError

    if isinstance(error, StoreError) or error.args != (key,):
        return error
    return NoSuchKeyError(f"nothing is staged for {key!r}")


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@config_option
@json_option
def drop(keys: tuple[str, ...], as_json: bool) -> None:
    """Forget the copies of keys that are here.

    Upstream keeps them. A staged edit is no copy: `mountcache revert` discards those.
    """
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.errors import StoreError

    with opened() as store:
        for key in dict.fromkeys(keys):
            try:
                store.drop(key)
            except KeyError as error:
                if isinstance(error, StoreError) or error.args != (key,):
                    raise
                raise NoSuchKeyError(f"no copy of {key!r} is here") from None
            show({"key": key, "dropped": True}) if as_json else tell(one_line(f"dropped {key}"))
