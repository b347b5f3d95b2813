"""The commands that read: ls, get, cat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from mountcache.cli.advice import asking_for
from mountcache.cli.codes import one_line
from mountcache.cli.keeping import residents_of_all, show_resident
from mountcache.cli.naming import (
    assignments,
    exact_option,
    is_pattern,
    nothing_matches,
    pattern_of,
)
from mountcache.cli.session import (
    amount,
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
)

if TYPE_CHECKING:
    from mountcache.abc import Readable
    from mountcache.mounted import MountedStore
    from mountcache.sync import Resident

__all__ = ["cat", "found", "get", "ls"]

_ALL = "*"
_PIECE = 1048576


@click.command()
@click.argument("pattern", default=_ALL)
@click.option(
    "-l", "--long", "long", is_flag=True, help="State, size, version, age, metadata beside the key."
)
@click.option(
    "--meta",
    "meta",
    metavar="NAME=TEXT",
    multiple=True,
    help="Only keys with this metadata; NAME:=JSON for other values than text.",
)
@click.option("--cached", is_flag=True, help="Only clean copies that are here.")
@click.option("--staged", is_flag=True, help="Only staged edits, removals among them.")
@click.option("--pinned", is_flag=True, help="Only pinned copies.")
@click.option("--missing", is_flag=True, help="Only what upstream has and what isn't here.")
@exact_option
@config_option
@json_option
def ls(
    pattern: str, long: bool, meta: tuple[str, ...], exact: bool, as_json: bool, **kinds: bool
) -> None:
    """List the keys that match PATTERN ("*" crosses "/"), one a line.

    Staged edits count: what is deleted here isn't listed, what is added is. --cached, --staged,
    --pinned and --missing ask nobody: they are about what is here, and known here of upstream.

    -l shows the state (cached; outdated: upstream is known to have another version; gone: upstream
    lost the key; remote: not here; added, modified, deleted: staged), "pin" if it is pinned, size,
    the beginning of the version, how long ago it was staged or upstream confirmed it, the key and
    its metadata.
    """
    where = assignments(meta, "--meta")
    which = [name for name, given in kinds.items() if given]
    if len(which) > 1:
        raise click.UsageError(f"--{which[0]} and --{which[1]} are two lists; ask for one")
    count = 0
    with opened() as store:
        for key, metadata, resident in _lines(store, pattern, where, which, long, exact=exact):
            count += 1
            if long or (which and as_json):
                show_resident(key, metadata, resident, as_json=as_json)
            elif as_json:
                show({"key": key, "metadata": metadata})
            else:
                tell(key)
        if not count and which:
            _tell_that_none_is(which[0], pattern)
        elif not count and where:
            note("no key has this metadata")
        elif not count and pattern != _ALL:
            raise nothing_matches(pattern, is_key=store.exists)
        elif not count:
            note("no keys are there yet; next: `mountcache put KEY FILE` stages one")


def _lines(
    store: MountedStore, word: str, where: dict[str, Any], which: list[Any], long: bool,
    *, exact: bool,
) -> Iterator[tuple[str, dict[str, Any], Resident | None]]:  # fmt: skip
    """Iterate over keys, their metadata and, where that is asked for, where their data are."""
    if which:
        from mountcache.sync import residents

        wanted = pattern_of(word, exact=exact)
        for each in residents(store, which[0], wanted):
            if _has(each.metadata, where):
                yield each.key, each.metadata, each
    elif long:
        yield from residents_of_all(store, _listed(store, word, where, exact=exact))
    else:
        for key, metadata in _listed(store, word, where, exact=exact):
            yield key, metadata, None


def _tell_that_none_is(which: str, pattern: str) -> None:
    like = "" if pattern == _ALL else f" that matches {pattern!r}"
    match which:
        case "cached":
            note(one_line(f"no copy{like} is here; next: `mountcache prefetch PATTERN`"))
        case "staged":
            note(one_line(f"nothing{like} is staged"))
        case "pinned":
            note(one_line(f"nothing{like} is pinned; next: `mountcache pin KEY`"))
        case _:
            note(one_line(f"nothing{like} that upstream is known to have is missing here"))


def _listed(
    store: MountedStore, word: str, where: dict[str, Any], *, exact: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    if is_pattern(word, exact=exact):
        yield from found(store, word, where)
        return
    with asking_for(word, store):
        metadata = store.get_metadata(word)
    # A key that was named is there, or an error; its metadata may be other than asked for.
    yield from ((key, each) for key, each in [(word, metadata)] if _has(each, where))


def _has(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    from mountcache.local.view import matcher

    return matcher(where, None)("", metadata)


def found(
    store: MountedStore, pattern: str, where: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the keys, with their metadata, that match a pattern and have some metadata."""
    from mountcache.local.view import matcher

    matches = matcher(where, pattern)
    # These two names are parameters of `query` itself.
    asked = {name: value for name, value in where.items() if name not in ("self", "select")}
    return (pair for pair in store.query(**asked) if matches(*pair))


@click.command()
@click.argument("key", metavar="KEY|PATTERN")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help='Where to write: a file, a folder, or "-" for standard output. '
    "A file of the key's last name here if it isn't told; a folder for a PATTERN.",
)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Overwrite: the file whose name wasn't told; with a PATTERN, files with other bytes.",
)
@exact_option
@config_option
@json_option
@click.pass_context
def get(
    ctx: click.Context, key: str, output: str | None, force: bool, exact: bool, as_json: bool
) -> None:
    """Write the data of KEY to a file, or that of the keys that match PATTERN to a folder.

    With a PATTERN, the key a/b becomes the file a/b below the folder that -o names. Nothing is
    ever written outside of it.
    """
    if is_pattern(key, exact=exact):
        from mountcache.cli.trees import get_tree

        if output in (None, "-"):
            raise click.UsageError(f"{key!r} is a pattern; say which folder to write to: -o DIR")
        ctx.exit(get_tree(key, str(output), force=force, as_json=as_json))
    if output == "-":
        if as_json:
            raise click.UsageError("--json and -o - would share standard output; say -o FILE")
        _to_stdout(key)
        return
    target = _target(key, output, force=force)
    with (
        opened() as store,
        asking_for(key, store),
        progress(f"get {key}", in_bytes=True) as step,
    ):
        from mountcache.events import StoreProgressStepEvent

        value = store.get(key)
        total = -1 if value.size is None else value.size
        store.event_manager.connect(
            StoreProgressStepEvent, lambda event: step(event.step, total, "")
        )
        told = {
            "key": key,
            "file": str(target),
            "source": value.source,
            "stale": value.stale,
            "version": value.version,
            "metadata": value.metadata,
        }
        store.to_file(key, target)
    size = target.stat().st_size
    if as_json:
        show({**told, "size": size})
    else:
        tell(one_line(f"{key} -> {target} ({amount(size)})"))


def _target(key: str, output: str | None, *, force: bool) -> Path:
    """Return the file to write; one whose name wasn't told isn't overwritten."""
    from mountcache.errors import ConfigurationError

    if output is not None and not Path(output).is_dir():
        if not Path(output).parent.is_dir():
            raise ConfigurationError(f"{output!r}: there is no folder {str(Path(output).parent)!r}")
        return Path(output)
    name = key.rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise ConfigurationError(
            f"{key!r} ends in no name for a file; say -o FILE, or a pattern such as '{key}*' and "
            "-o DIR"
        )
    target = Path(output or "", name)
    if output is None and target.exists() and not force:
        raise ConfigurationError(
            f"{str(target)!r} is there already; say --force to overwrite it, or -o FILE"
        )
    return target


_ALSO: Final[dict[str, Literal["mine", "upstream"]]] = {"ours": "mine", "theirs": "upstream"}


class _Side(click.Choice[str]):
    """The sides by the names that are shown; others are taken, too."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[mine|base|upstream]"


@click.command()
@click.argument("key")
@click.option(
    "--side",
    type=_Side(["mine", "base", "upstream", *_ALSO]),
    default="mine",
    show_default=True,
    help="What is read here; what a staged edit was made from; what upstream has now.",
)
@config_option
def cat(key: str, side: Literal["mine", "base", "upstream"]) -> None:
    """Write the data of KEY to standard output."""
    side = _ALSO.get(side, side)
    if side == "mine":
        _to_stdout(key)
        return
    from mountcache.cli.codes import NoSuchKeyError
    from mountcache.sync import side as look

    with opened() as store, asking_for(key, store):
        shown = look(store, key, side)
        if shown.open is not None:
            with shown.open() as data:
                _write_out(data)
        elif side == "upstream":
            raise NoSuchKeyError(f"{key!r} isn't upstream")
        elif shown.present is False:
            raise NoSuchKeyError(f"{key!r} is new here: it was made from nothing")
        else:
            raise NoSuchKeyError(
                f"the data that {key!r} was made from isn't kept here; `--side upstream` gives "
                "what is there now"
            )


def _to_stdout(key: str) -> None:
    with opened() as store, asking_for(key, store), store.get_data(key) as data:
        _write_out(data)


def _write_out(data: Readable) -> None:
    out = sys.stdout.buffer
    while piece := data.read(_PIECE):
        out.write(piece)
    out.flush()
