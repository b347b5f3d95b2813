"""The commands that start something: serve and demo."""

from __future__ import annotations

import click

from mountcache.cli.codes import Code
from mountcache.cli.session import json_option, show, tell

__all__ = ["demo", "serve"]


@click.command()
@click.option(
    "--store", "directory", metavar="DIR", required=True, help="The directory to keep it in."
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Whoever reaches it can read and write.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 takes a free one.",
)
@json_option
def serve(directory: str, host: str, port: int, as_json: bool) -> None:
    """Serve a remote store out of a directory, until interrupted."""
    from mountcache.local.disk import DiskCacheStore
    from mountcache.serve import run_origin

    def ready(url: str) -> None:
        if as_json:
            show({"url": url, "store": directory})
        else:
            tell(f"serving {directory} at {url}")

    run_origin(DiskCacheStore(directory), host, port, ready)


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Show the main job in a few seconds, on this machine alone.

    Starts a real server with a small data set on a free port, reads it, edits it offline,
    pushes, meets a conflict and resolves it. Checks itself at each step; leaves nothing behind.
    """
    from mountcache.cli.demo import run_demo

    ctx.exit(Code.DONE if run_demo(tell) else Code.ERROR)
