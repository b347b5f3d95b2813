"""The commands that stage edits and take them back: put, rm, mv, revert, drop."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.codes import one_line
from mountcache.cli.naming import (
    assignments,
    chosen,
    exact_option,
    group_option,
    into_group_option,
    like,
)
from mountcache.cli.session import (
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
)

__all__ = ["cp", "drop", "mv", "put", "revert", "rm"]


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
@click.argument("key", metavar="KEY|DIR")
@click.argument("file", required=False, metavar="[FILE|PREFIX]")
@click.option(
    "--meta",
    metavar="NAME=TEXT",
    multiple=True,
    help="Metadata to set beside what is there; NAME:=JSON for other values than text.",
)
@click.option("--meta-json", metavar="OBJECT", help="The same, as a JSON object.")
@click.option(
    "-r",
    "--recursive",
    is_flag=True,
    help="Stage all files in the folder DIR, and in those in it, in one commit.",
)
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="With -r: only files that match, by their paths below DIR, or lie in a folder that does.",
)
@click.option(
    "--exclude", metavar="GLOB", multiple=True, help="With -r: no files that match, likewise."
)
@click.option("--hidden", is_flag=True, help='With -r: files that begin with "." too.')
@into_group_option
@config_option
@json_option
def put(
    key: str,
    file: str | None,
    meta: tuple[str, ...],
    meta_json: str | None,
    recursive: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    hidden: bool,
    group: str | None,
    as_json: bool,
) -> None:
    """Stage the data of KEY, from FILE or standard input, or with -r the files in DIR.

    Standard input is read without FILE, or with "-". With -r, the file a/b in DIR becomes the
    key a/b, or PREFIX/a/b. Nothing is sent before `mountcache push`.
    """
    from mountcache.errors import ConfigurationError, StoreUnavailableError

    metadata = {**_object(meta_json), **assignments(meta, "--meta")}
    if recursive:
        from mountcache.cli.trees import put_tree

        put_tree(
            key, file or "", metadata,
            include=include, exclude=exclude, hidden=hidden, group=group, as_json=as_json,
        )  # fmt: skip
        return
    if include or exclude or hidden:
        raise click.UsageError("--include, --exclude and --hidden are about folders: say -r")
    with ExitStack() as stack:
        if file is None or file == "-":
            source: IO[bytes] = _standard_input(key, told=file == "-")
            total = -1
        elif Path(file).is_dir():
            raise ConfigurationError(
                f"{file!r} is a folder; `mountcache put -r {shlex.join([file, key])}` stages what "
                "is in it"
            )
        else:
            source = stack.enter_context(Path(file).open("rb"))
            total = os.fstat(source.fileno()).st_size
        store = stack.enter_context(opened())
        step = stack.enter_context(progress(f"put {key}", in_bytes=True))
        data = _Counted(source, lambda done: step(done, total, ""))
        try:
            with store.transaction(f"put {key}", group=group):
                store.set_data(key, data)
                if metadata:
                    store.update_metadata(key, metadata)
        except StoreUnavailableError:
            # Whether the key is upstream, and with what metadata, can't be known now. The edit
            # only creates: if the key is there after all, push says conflict.
            if data.done:
                raise
            with store.transaction(f"put {key}", group=group):
                store.set(key, (data, metadata))
        size = store.get(key).size
    if as_json:
        show({"key": key, "staged": True, "size": size})
    else:
        tell(one_line(f"staged {key}"))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False  # a key may be longer than a file's name


def _standard_input(key: str, *, told: bool) -> IO[bytes]:
    """Return standard input, unless nobody meant it."""
    from mountcache.errors import ConfigurationError

    # Python has no object for a closed one, whatever its types say.
    if getattr(sys, "stdin", None) is None:
        raise ConfigurationError("standard input is closed; name a FILE")
    if told:
        return sys.stdin.buffer
    named = shlex.join([key, Path(key).name]) if _is_file(key) else f"{shlex.quote(key)} FILE"
    if sys.stdin.isatty():
        raise click.UsageError(
            f"no FILE is named: `mountcache put {named}` stages a file, - what you type"
        )
    source = cast("io.BufferedReader", sys.stdin.buffer)
    if not source.peek(1):
        raise ConfigurationError(
            f"standard input is empty, so nothing was staged; `mountcache put {named}` stages a "
            "file, and - even an empty value"
        )
    return source


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


_named = click.argument("words", nargs=-1, required=True, metavar="KEY|PATTERN...")


@click.command()
@_named
@into_group_option
@exact_option
@config_option
@json_option
def rm(words: tuple[str, ...], group: str | None, exact: bool, as_json: bool) -> None:
    """Stage the removal of keys, all or none.

    They are gone here at once; `mountcache push` removes them upstream.
    """
    with opened() as store:
        keys = chosen(words, store.glob, exact=exact, is_key=store.exists)
        with store.transaction(f"rm {' '.join(words)}", group=group):
            for key in keys:
                with asking_for(key, store):
                    store.delete(key)
    for key in keys:
        show({"key": key, "deleted": True}) if as_json else tell(one_line(f"deleted {key}"))


@click.command()
@click.argument("old")
@click.argument("new")
@into_group_option
@config_option
@json_option
def mv(old: str, new: str, group: str | None, as_json: bool) -> None:
    """Stage the renaming of a key; NEW must be free."""
    with (
        opened() as store,
        asking_for(old, store),
        store.transaction(f"mv {old} {new}", group=group),
    ):
        store.mv(old, new)
    if as_json:
        show({"old": old, "new": new})
    else:
        tell(one_line(f"renamed {old} to {new}"))


@click.command()
@click.argument("old")
@click.argument("new")
@into_group_option
@config_option
@json_option
def cp(old: str, new: str, group: str | None, as_json: bool) -> None:
    """Stage a copy of a key under another name; NEW must be free.

    Bytes that are here are shared, not copied.
    """
    with (
        opened() as store,
        asking_for(old, store),
        store.transaction(f"cp {old} {new}", group=group),
    ):
        store.cp(old, new)
    if as_json:
        show({"old": old, "new": new})
    else:
        tell(one_line(f"copied {old} to {new}"))


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY|PATTERN...]")
@group_option
@exact_option
@config_option
@json_option
def revert(words: tuple[str, ...], group: str | None, exact: bool, as_json: bool) -> None:
    """Discard the staged edits of keys: they are upstream's again.

    A PATTERN is about what is staged.
    """
    from mountcache.cli.shipping import in_group

    if not words and group is None:
        raise click.UsageError("name what is meant: KEY, PATTERN or --group NAME")
    with opened() as store:
        keys = chosen(
            words, lambda word: like((edit.key for edit in store.staged()), word),
            exact=exact, what="nothing staged", listing="status", is_key=store.exists,
        )  # fmt: skip
        if group is not None:
            keys = in_group(store, group, keys if words else None)
        asked = set(keys)
        done: dict[str, None] = {}
        for key in keys:
            if key in done:
                continue
            with asking_for(key, store):
                try:
                    reverted = store.revert(key)
                except KeyError as error:
                    raise _nothing_staged(store, key, error) from None
            done |= dict.fromkeys(reverted)
            for each in reverted:
                if as_json:
                    show({"key": each, "asked": each in asked})
                else:
                    also = "" if each in asked else f" (the other half of the renaming of {key})"
                    tell(one_line(f"reverted {each}{also}"))
        if not as_json and any(store.taken(key) for key in done):
            note("`mountcache undo KEY` has a reverted edit back, for 14 days")


def _nothing_staged(store: Any, key: str, error: KeyError) -> Exception:
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.errors import StoreError

    if isinstance(error, StoreError) or error.args != (key,):
        return error
    return NoSuchKeyError(f"nothing is staged for {key!r}; `mountcache status` lists what is")


@click.command()
@_named
@exact_option
@config_option
@json_option
def drop(words: tuple[str, ...], exact: bool, as_json: bool) -> None:
    """Forget the copies of keys that are here, and what `mountcache path` made of them.

    Upstream keeps them. A staged edit is no copy: `mountcache revert` discards those. A PATTERN
    is about the copies that are here and not pinned; a KEY that is pinned is refused.
    """
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.cli.keeping import is_pinned
    from mountcache.cli.paths import forget, with_paths
    from mountcache.errors import StoreError

    with opened() as store:
        keys = chosen(
            words, lambda word: [*store.cached(word), *like(with_paths(store), word)],
            exact=exact, what="no copy that is here", is_key=store.exists,
        )  # fmt: skip
        pinned = {key for key in keys if is_pinned(store, key)}
        refused = next((word for word in words if word in pinned), None)
        if refused is not None:
            raise StoreError(
                f"{refused!r} is pinned, so that it stays here; `mountcache unpin` first. Nothing "
                "was dropped"
            )
        for key in keys:
            if key in pinned:
                # A pattern found the files that `mountcache path` made.
                forget(store, key)
                continue
            try:
                store.drop(key)
                forget(store, key)
            except KeyError as error:
                if isinstance(error, StoreError) or error.args != (key,):
                    raise
                if not forget(store, key):
                    raise NoSuchKeyError(f"no copy of {key!r} is here") from None
            show({"key": key, "dropped": True}) if as_json else tell(one_line(f"dropped {key}"))
