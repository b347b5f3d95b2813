"""The command that freezes inputs, and the half of prefetch that is about them: lock."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from mountcache.cli.codes import Code, one_line
from mountcache.cli.naming import exact_option, nothing_matches, pattern_of
from mountcache.cli.prefetching import tell_prefetched
from mountcache.cli.session import (
    bwlimit_option,
    config_option,
    json_option,
    note,
    opened,
    progress,
    show,
    tell,
)

if TYPE_CHECKING:
    from mountcache.sync import Lockfile

__all__ = ["lock", "prefetch_frozen"]

_ALL = "*"


@click.command()
@click.argument("pattern", default=_ALL)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="mountcache.lock",
    show_default=True,
    help='The file; "-" for standard output.',
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="At once."
)
@bwlimit_option
@exact_option
@config_option
@json_option
def lock(
    pattern: str, output: str, workers: int, bwlimit: str | None, exact: bool, as_json: bool
) -> None:
    """Write down which bytes upstream has now under the keys that match PATTERN.

    FILE has a line a key with size, sha256 and version, in the order of the keys: keep it in git
    beside a paper or a program. What isn't here is fetched. `prefetch --from FILE --frozen` and,
    in Python, `mountcache.open(lock=FILE)` then give these bytes or say what is different.

    \b
    Examples:
      mountcache lock 'runs/2025/*' -o runs.lock
      mountcache prefetch --from runs.lock --frozen
    """
    from mountcache.sync import lock as look
    from mountcache.sync import write_lock

    if as_json and output == "-":
        raise click.UsageError("--json and -o - would share standard output; say -o FILE")
    before = _before(output)
    with opened() as store:
        with progress("lock") as step:
            wanted = pattern_of(pattern, exact=exact)
            found = look(store, wanted, workers=workers, progress=step, bwlimit=bwlimit)
        if not found.keys:
            raise nothing_matches(pattern, is_key=store.exists)
    if output == "-":
        click.echo(found.text(), nl=False)
        return
    write_lock(found, output)
    old = before.keys if before is not None else {}
    new = [key for key in found.keys if key not in old]
    gone = [key for key in old if key not in found.keys]
    changed = [
        key for key, locked in found.keys.items() if key in old and old[key].sha256 != locked.sha256
    ]
    if as_json:
        show(
            {
                "file": output,
                "keys": len(found.keys),
                "new": new,
                "changed": changed,
                "gone": gone,
            }
        )
        return
    since = f" ({len(changed):,} changed, {len(new):,} new, {len(gone):,} gone)" if old else ""
    count = f"{len(found.keys):,} key{'' if len(found.keys) == 1 else 's'}"
    tell(one_line(f"{count} in {output}{since}"))
    note(one_line(f"next: `mountcache prefetch --from {shlex.quote(output)} --frozen`"))


def _before(output: str) -> Lockfile | None:
    """Return the lock that is to be replaced; anything else isn't."""
    from mountcache.sync import read_lock

    if output == "-":
        return None
    try:
        return read_lock(output)
    except FileNotFoundError:
        return None


def prefetch_frozen(
    file: str,
    named: list[str] | Lockfile,
    *,
    workers: int | None,
    bwlimit: str | None,
    as_json: bool,
) -> Code:
    """Fetch exactly what a lock names; return the exit code."""
    from mountcache.errors import ConfigurationError
    from mountcache.sync import prefetch_locked

    if isinstance(named, list):
        raise ConfigurationError(
            f"{file} is a list of keys, and --frozen needs their digests; `mountcache lock` makes "
            "a file that has them"
        )
    with opened() as store, progress("prefetch") as step:
        report = prefetch_locked(store, named, workers=workers, progress=step, bwlimit=bwlimit)
    return tell_prefetched(report, as_json=as_json)
