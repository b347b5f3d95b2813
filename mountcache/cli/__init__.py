"""The command ``mountcache``: it translates a command line, and nothing more.

`main` runs it; `mountcache.cli.codes` says with which exit code it ends. Everything but click
is imported by the command that needs it, so that ``mountcache --help`` is there at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

__all__ = ["main"]

_COMPLETION = "_MOUNTCACHE_COMPLETE"
"""What a shell sets to ask how a word goes on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its errors go to standard error, a line each.

    Parameters
    ----------
    argv
        The words after ``mountcache``; those of this process if None.

    Returns
    -------
    int
        The exit code, see `mountcache.cli.codes.Code`.
    """
    if _COMPLETION in os.environ:
        from mountcache.cli.completing import main as complete

        return complete()

    import click

    from mountcache.cli.app import app
    from mountcache.cli.codes import Code, code_of, one_line, sentence
    from mountcache.stopping import CallStopped

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Who closed it wants to hear nothing.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # open as long as we live
        # A key that this terminal has no letters for is shown, not a reason to fail.
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        # Not app.main: it answers a closed pipe with exit code 1, and Ctrl-C with an empty line.
        arguments = sys.argv[1:] if argv is None else list(argv)
        with app.make_context("mountcache", arguments) as context:
            app.invoke(context)
        sys.stdout.flush()
        return Code.DONE
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Code.USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "mountcache"
        said = one_line(error.format_message())
        _complain(f"{said}{'' if said.endswith('.') else '.'} See `{command} --help`.")
        return Code.USAGE
    except click.ClickException as error:
        _complain(one_line(error.format_message()))
        return Code.ERROR
    except (click.Abort, KeyboardInterrupt, CallStopped):
        _complain("interrupted")
        return Code.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough. Other programs are killed by SIGPIPE then.
        _empty_output()
        return Code.UNREAD
    except Exception as error:  # noqa: BLE001  # the last line of defence, and it says so
        code = code_of(error)
        _empty_output()
        if code is not Code.BUG:
            _complain(sentence(error))
            return code
        if os.environ.get("MOUNTCACHE_TRACEBACK"):
            import traceback

            traceback.print_exc()
        _complain(
            f"a bug of mountcache, please report it: {type(error).__name__}: {sentence(error)} "
            "(MOUNTCACHE_TRACEBACK=1 shows where)"
        )
        return Code.BUG


def _empty_output() -> None:
    """Flush the output; what can't be written goes nowhere, or Python would fail at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(said: str) -> None:
    # An argument that is repeated may be a URL with a password in it.
    said = re.sub(r"://[^/\s@]*@", "://", said)
    print(f"mountcache: {said}", file=sys.stderr)
