"""An example or two of each command, for its --help and its manual page."""

from __future__ import annotations

import click

__all__ = ["EXAMPLES", "with_examples"]

EXAMPLES = {
    "init": ("mountcache init https://data.example.org/",),
    "ls": ("mountcache ls 'runs/*'", "mountcache ls -l --missing"),
    "query": ("mountcache query kind=text n:=3",),
    "info": ("mountcache info runs/1.csv",),
    "meta": ("mountcache meta runs/1.csv", "mountcache meta runs/1.csv done:=true --unset draft"),
    "permissions": (
        "mountcache permissions runs/1.csv",
        "mountcache permissions runs/1.csv read=ada,bob",
    ),
    "get": ("mountcache get runs/1.csv -o 1.csv", "mountcache get 'runs/*' -o runs"),
    "cat": ("mountcache cat runs/1.csv | head", "mountcache cat runs/1.csv --side upstream"),
    "path": ('python plot.py "$(mountcache path runs/1.csv)"',),
    "put": ("mountcache put runs/2.csv 2.csv --meta by=me", "mountcache put -r results runs"),
    "rm": ("mountcache rm runs/1.csv", "mountcache rm 'old/*'"),
    "mv": ("mountcache mv runs/1.csv runs/first.csv",),
    "cp": ("mountcache cp runs/1.csv runs/1-copy.csv",),
    "status": ("mountcache status", "mountcache status --remote"),
    "diff": ("mountcache diff", "mountcache diff runs/1.csv --upstream"),
    "push": ("mountcache push", "mountcache push 'runs/*' --dry-run"),
    "flush": ("mountcache flush", "mountcache flush --wait --timeout 600"),
    "apply": ("mountcache push --plan plan.json && mountcache apply plan.json",),
    "resolve": ("mountcache resolve runs/1.csv --keep-both",),
    "revert": ("mountcache revert runs/1.csv",),
    "undo": ("mountcache undo", "mountcache undo runs/1.csv"),
    "pull": ("mountcache pull", "mountcache pull 'runs/*'"),
    "hold": ("mountcache hold runs/1.csv",),
    "unhold": ("mountcache unhold runs/1.csv",),
    "log": ("mountcache log runs/1.csv",),
    "watch": ("mountcache watch 'runs/*' --json",),
    "drop": ("mountcache drop 'old/*'",),
    "pin": ("mountcache pin 'runs/*'",),
    "unpin": ("mountcache unpin 'runs/*'",),
    "prefetch": ("mountcache prefetch 'runs/*' --pin", "mountcache prefetch 'runs/*' --check"),
    "whereis": ("mountcache whereis runs/1.csv",),
    "du": ("mountcache du", "mountcache du 'runs/*' --depth 2"),
    "stats": ("mountcache stats",),
    "prune": ("mountcache prune --to 5GiB --dry-run", "mountcache prune 'old/*' --older-than 30d"),
    "gc": ("mountcache gc",),
    "verify": ("mountcache verify --repair", "mountcache verify 'runs/*' --remote"),
    "lock": ("mountcache lock 'runs/*' -o mountcache.lock",),
    "bundle": ("mountcache bundle export stick.bundle",),
    "bundle export": ("mountcache bundle export /media/stick/edits.bundle",),
    "bundle import": ("mountcache bundle import /media/stick/edits.bundle",),
    "offline": ("mountcache offline on", "mountcache offline auto"),
    "remote": ("mountcache remote show",),
    "remote show": ("mountcache remote show",),
    "remote set-url": ("mountcache remote set-url https://new.example.org/",),
    "rebind": ("mountcache rebind",),
    "login": ("mountcache login --user ada",),
    "logout": ("mountcache logout",),
    "config": ("mountcache config",),
    "backup": ("mountcache backup /media/disk/surveys",),
    "restore": ("mountcache restore /media/disk/surveys .mountcache",),
    "migrate": ("mountcache migrate --dry-run",),
    "doctor": ("mountcache doctor", "mountcache doctor --repair"),
    "index": ("mountcache index /srv/data --sha256",),
    "serve": ("mountcache serve", "mountcache serve --store /srv/team --port 8765"),
    "completion": ('eval "$(mountcache completion bash)"',),
    "man": ("mountcache man ~/.local/share/man/man1 && man mountcache-push",),
    "demo": ("mountcache demo",),
}


def with_examples(group: click.Group, above: str = "") -> None:
    """Add examples to the help of all commands of a group."""
    for name, command in group.commands.items():
        examples = EXAMPLES.get(above + name, ())
        if examples and command.epilog is None:
            lines = "\n".join(f"  {line}" for line in examples)
            command.epilog = f"\b\nExample{'s' if len(examples) > 1 else ''}:\n{lines}"
        if isinstance(command, click.Group):
            with_examples(command, f"{above}{name} ")
