"""The command line: the group, and what its commands share."""

from __future__ import annotations

import click

from mountcache import __version__
from mountcache.cli.bundling import bundle
from mountcache.cli.codes import TABLE
from mountcache.cli.comparing import diff
from mountcache.cli.completion import completion
from mountcache.cli.configuring import config, login, logout, offline
from mountcache.cli.doctoring import doctor
from mountcache.cli.editing import cp, drop, mv, put, revert, rm
from mountcache.cli.examples import with_examples
from mountcache.cli.freezing import lock
from mountcache.cli.history import hold, log, unhold, watch
from mountcache.cli.housekeeping import du, gc, prune, stats, verify
from mountcache.cli.indexing import index
from mountcache.cli.keeping import pin, unpin
from mountcache.cli.locating import whereis
from mountcache.cli.manual import man
from mountcache.cli.metadata import info, meta, query
from mountcache.cli.moving import rebind
from mountcache.cli.paths import path
from mountcache.cli.prefetching import prefetch
from mountcache.cli.pulling import pull
from mountcache.cli.reading import cat, get, ls
from mountcache.cli.remoting import remote
from mountcache.cli.resolving import resolve
from mountcache.cli.saving import backup, migrate, restore
from mountcache.cli.session import color, config_option
from mountcache.cli.setup import init
from mountcache.cli.shipping import apply, push
from mountcache.cli.starting import demo, serve
from mountcache.cli.status import status
from mountcache.cli.undoing import undo

__all__ = ["app"]

_CODES = "\n".join(f"  {code:3d}  {meaning}" for code, meaning in TABLE)


class _InOrder(click.Group):
    """A group that lists its commands in the order of a working day."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit codes:\n{_CODES}",
)
@click.version_option(__version__, prog_name="mountcache", message="%(prog)s %(version)s")
@config_option
@click.pass_context
def app(ctx: click.Context) -> None:
    """A local, writable cache over a remote HTTP store.

    Reads fill the cache and work offline afterwards. Edits are staged here, and `push` sends
    them when you say so, without overwriting what somebody else changed.
    """
    ctx.color = color()


for _command in (
    init, ls, query, info, meta, get, cat, path, put, rm, mv, cp, status, diff, push, apply,
    resolve, revert, undo, pull, hold, unhold, log, watch, drop, pin, unpin, prefetch, lock, bundle,
    whereis, du, stats, prune, gc, verify, offline, remote, rebind, login, logout, config, backup,
    restore, migrate, doctor, index, serve, completion, man, demo,
):  # fmt: skip
    app.add_command(_command)
with_examples(app)
