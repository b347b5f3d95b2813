"""The commands that start something: serve and demo."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypedDict

import click

from mountcache.cli.codes import Code
from mountcache.cli.session import configured_mounts, json_option, note, show, tell

if TYPE_CHECKING:
    from mountcache.config import Settings

__all__ = ["demo", "serve"]


@click.command()
@click.option(
    "--store",
    "directory",
    metavar="DIR",
    help="Serve a remote store of its own out of this directory.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Whoever reaches it can read.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Writers have to send the token in this file, else the one in MOUNTCACHE_SERVE_TOKEN.",
)
@click.option("--read-only", is_flag=True, help="Nobody may write.")
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="A name of this machine that others ask by, besides its own. May be repeated.",
)
@click.option(
    "--push",
    "mode",
    type=click.Choice(("manual", "auto")),
    help="auto: what is staged goes upstream by itself, a moment later. As the file says if not"
    " told.",
)
@json_option
def serve(
    directory: str | None,
    host: str,
    port: int,
    token_file: str | None,
    read_only: bool,
    names: tuple[str, ...],
    mode: Literal["manual", "auto"] | None,
    as_json: bool,
) -> None:
    """Serve what is mounted here to any HTTP client, until interrupted.

    Reads go through the cache and work offline; what clients write is staged, until `push`
    sends it, or by itself with --push auto. Several mounts are at /NAME/. With --store it is no
    proxy but a repository.
    On an address that others reach, writers need a token.
    """
    from mountcache.serve.doors import read_token

    doors = _Doors(token=read_token(token_file), read_only=read_only, names=names)
    if directory is None:
        _proxy(host, port, doors, mode, as_json)
        return
    if mode is not None:
        raise click.UsageError("a repository of its own pushes nowhere; leave --push out")
    from mountcache.local.disk import DiskCacheStore
    from mountcache.serve import run_origin

    def ready(url: str) -> None:
        if as_json:
            show({"url": url, "store": directory})
        else:
            tell(f"serving {directory} at {url}")
            note(f"next: `mountcache init {url}` in another folder")

    run_origin(DiskCacheStore(directory), host, port, ready, **doors)


class _Doors(TypedDict):
    token: str | None
    read_only: bool
    names: tuple[str, ...]


def _proxy(
    host: str, port: int, doors: _Doors, mode: Literal["manual", "auto"] | None, as_json: bool
) -> None:
    from mountcache.config import open_store
    from mountcache.serve import ServedMount, run_stores
    from mountcache.sync.commands import PushSettings

    mounts = configured_mounts()
    if mode is not None:
        mounts = {
            name: replace(each, push=replace(each.push or PushSettings(), mode=mode))
            for name, each in mounts.items()
        }

    def ready(url: str) -> None:
        for name, settings in mounts.items():
            _tell_of(f"{url}{name}/" if name else url, name, settings, as_json)

    with ExitStack() as opened:
        stores = {}
        for name, settings in mounts.items():
            stores[name] = ServedMount(opened.enter_context(open_store(settings)))
        run_stores(stores, host, port, ready, **doors)


def _tell_of(at: str, name: str, settings: Settings, as_json: bool) -> None:
    if as_json:
        named = {"mount": name} if name else {}
        show({"url": at, **named, "upstream": settings.url, "dir": str(settings.dir)})
        return
    if settings.push is not None and settings.push.mode == "auto":
        tell(f"serving {settings.url} at {at}, e.g. {at}data/KEY; what is staged goes by itself")
        return
    push = f"mountcache --mount {name} push" if name else "mountcache push"
    tell(f"serving {settings.url} at {at}, e.g. {at}data/KEY; `{push}` sends what is staged")


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Show the main job in a few seconds, on this machine alone.

    Starts a real server with a small data set on a free port, reads it, edits it offline,
    pushes, meets a conflict and resolves it. Checks itself at each step; leaves nothing behind.
    """
    from mountcache.cli.demo import run_demo

    done = run_demo(tell)
    if done:
        tell("Next: `mountcache init URL` mounts a server of your own, in a folder of your own.")
    ctx.exit(Code.DONE if done else Code.ERROR)
