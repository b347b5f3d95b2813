"""``mountcache index``: for those who own the server."""

from __future__ import annotations

import click

from mountcache.cli.session import json_option, note, progress, show, tell

__all__ = ["index"]


@click.command()
@click.argument("folder", metavar="DIR")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where the index is written; DIR/index.json if not told.",
)
@click.option(
    "--sha256", is_flag=True, help="Promise digests; files that didn't change aren't read again."
)
@click.option("--force", is_flag=True, help="Write it even if most keys of the one before go.")
@json_option
def index(folder: str, output: str | None, sha256: bool, force: bool, as_json: bool) -> None:
    """Write the index.json of a folder that a web server gives.

    With it the folder can be mounted as a static store: keys are paths under DIR. Metadata that an
    index before has are kept. Run it again whenever files have changed.
    """
    from mountcache.backing.indexing import write_index

    with progress("index") as step:
        made = write_index(
            folder, output, sha256=sha256, force=force,
            progress=lambda count, key: step(count, -1, key),
        )  # fmt: skip
    if as_json:
        show(
            {
                "index": str(made.target), "keys": made.keys, "hashed": made.hashed,
                "gone": made.gone, "left_out": made.left_out, "changed": made.changed,
            }
        )  # fmt: skip
        return
    if made.gone:
        note(f"{made.gone:,} keys of the index before are gone, as their files are")
    if made.left_out:
        note(f"{made.left_out:,} files are left out: their names can't be keys")
    if not made.changed:
        tell(f"{made.target} is up to date: {made.keys:,} keys")
        return
    hashed = f", {made.hashed:,} digests computed" if sha256 else ""
    tell(f"Wrote {made.target}: {made.keys:,} keys{hashed}.")
    tell("Next: `mountcache init URL`, where URL is that of the folder with the index.")
