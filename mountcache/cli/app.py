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
from mountcache.cli.flushing import flush
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
from mountcache.cli.permitting import permissions
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


class _InSections(click.Group):
    """A group that lists its commands by what they are for, in the order of a working day."""

    sections: dict[str, dict[click.Command, str]]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{each.name:<{longest}}", short) for each, short in commands.items()]
                )


@click.group(
    cls=_InSections,
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


assert isinstance(app, _InSections)
app.sections = {
    "Begin": {
        init: "Mount the store at a URL here.",
        demo: "Show the main job in a few seconds.",
    },
    "Read": {
        ls: "List keys.",
        query: "List the keys whose metadata has some values.",
        info: "Show what is known of a key.",
        cat: "Write the data of a key to standard output.",
        get: "Write the data of keys to files.",
        path: "Print the path of a read-only file of a key.",
    },
    "Stage": {
        put: "Stage data, or a folder of it.",
        meta: "Show or stage metadata.",
        permissions: "Show or stage who may do what.",
        rm: "Stage the removal of keys.",
        mv: "Stage a renaming.",
        cp: "Stage a copy under another name.",
        revert: "Discard staged edits.",
        undo: "Stage again what was taken away.",
    },
    "Publish": {
        status: "Show what is staged.",
        diff: "Show what staged edits change.",
        push: "Send staged edits, or plan to.",
        flush: "Push until nothing is left.",
        apply: "Do what a plan says, and no more.",
        resolve: "Resolve conflicts before the next push.",
        hold: "Hold staged edits back.",
        unhold: "Let them go.",
        pull: "Bring the copies here up to date.",
        log: "Show what happened here.",
        watch: "Show what happens, as it does.",
    },
    "Leave": {
        prefetch: "Fetch what will be read offline.",
        pin: "Keep copies here.",
        unpin: "Let them go like any others.",
        drop: "Forget copies.",
        lock: "Write down which bytes keys have.",
        bundle: "Carry edits, or copies, to another machine.",
        offline: "Work offline, or not, by choice.",
    },
    "Look after the store": {
        whereis: "Say where the bytes of keys are.",
        du: "Say what takes how much room.",
        stats: "Count what is here.",
        prune: "Let old copies go.",
        gc: "Collect what nobody needs.",
        verify: "Compare bytes with their digests.",
        doctor: "Look whether all is well, and mend it.",
        backup: "Copy the store while it is in use.",
        restore: "Make a store of such a copy.",
        migrate: "Bring the store to the newest format.",
    },
    "Servers": {
        remote: "Show upstream, or follow it to another URL.",
        rebind: "Follow upstream to the URL in mountcache.toml.",
        login: "Keep a password in the keyring.",
        logout: "Remove it.",
        config: "Show the settings in force.",
        serve: "Serve what is mounted here, or a repository.",
        index: "Write the index.json of a folder.",
    },
    "This command": {
        completion: "Print what lets Tab complete commands and keys.",
        man: "Write manual pages.",
    },
}
for _section in app.sections.values():
    for _command, _short in _section.items():
        _command.short_help = _short
        app.add_command(_command)
with_examples(app)
