"""Commands of the user around a push, and the table ``[push]`` of mountcache.toml that names them.

Only the command line and the background pusher run them: a program that calls `push` brings
functions of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from mountcache.errors import ConfigurationError
from mountcache.local.records import StagedEdit
from mountcache.sync.pusher import MODES, Mode, Pushing
from mountcache.sync.report import PushReport, PushResult
from mountcache.sync.unattended import Check

__all__ = ["PushSettings", "checked_by", "push_settings", "pushing_by", "told_to"]

_logger = logging.getLogger("mountcache")

_SAID: Final = 2000
"""How many bytes of what a command says are looked at."""
_SECRET: Final = ("MOUNTCACHE_SERVE_TOKEN",)


@dataclass(frozen=True, slots=True)
class PushSettings:
    """What mountcache.toml says of pushing: ``push = "auto"``, or the table ``[push]``."""

    mode: Mode = "manual"
    """As of `Pushing`, like the next two."""
    quiet: float = 2.0
    late: float = 3600.0
    check: str | None = None
    """A command that gets each edit as JSON before it is sent; what it says refuses that one."""
    after: str | None = None
    """A command that gets the report of a push as JSON."""
    time_limit: float = 60.0
    """Seconds for which a command may run."""
    folder: Path | None = None
    """Where commands run: the folder of mountcache.toml."""


_NAMES: Final = tuple(
    field.name for field in dataclasses.fields(PushSettings) if field.name != "folder"
)


def push_settings(value: object, where: str) -> PushSettings:
    """Return what a value of `push` in mountcache.toml comes to.

    Parameters
    ----------
    value
        A mode, the table, or the settings themselves.
    where
        What the user calls it.

    Raises
    ------
    ConfigurationError
        If it is none, or has what can't be used.
    """
    if isinstance(value, PushSettings):
        return value
    if not isinstance(value, Mapping):
        return PushSettings(_mode(value, f"{where}: push"))
    where = f"{where}: [push]"
    for name in value:
        if name not in _NAMES:
            near = difflib.get_close_matches(str(name).lower(), _NAMES, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_NAMES)}"
            raise ConfigurationError(f"{where}: unknown key {name!r}; {hint}")
    found: dict[str, Any] = dict(value)
    for name in found.keys() & {"quiet", "late", "time_limit"}:
        seconds, least = found[name], "from 0 up" if name == "quiet" else "more than 0"
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not (0 <= seconds < 1e9) or (seconds == 0 and name != "quiet"):
            raise ConfigurationError(
                f"{where}: {name} is a number of seconds, {least}, not {seconds!r}"
            )
    for name in found.keys() & {"check", "after"}:
        if not isinstance(found[name], str) or not found[name].strip():
            raise ConfigurationError(
                f"{where}: {name} is the line of a command, not {found[name]!r}"
            )
    if "mode" in found:
        found["mode"] = _mode(found["mode"], f"{where}: mode")
    return PushSettings(**found)


def _mode(value: object, name: str) -> Mode:
    if value == "auto":
        return "auto"
    if value == "manual":
        return "manual"
    near = difflib.get_close_matches(str(value).lower(), MODES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{name} is one of {', '.join(MODES)}, not {value!r}{hint}")


def pushing_by(settings: PushSettings | None) -> Pushing:
    """Return how a mount is pushed by settings."""
    if settings is None:
        return Pushing()
    return Pushing(
        settings.mode, settings.quiet, settings.late, checked_by(settings), told_to(settings)
    )


def checked_by(settings: PushSettings) -> Check | None:
    """Return what runs the command that checks edits; None if there is none."""
    return None if settings.check is None else partial(_check, settings, settings.check)


def told_to(settings: PushSettings) -> Callable[[PushReport], None] | None:
    """Return what runs the command that hears of pushes; None if there is none."""
    return None if settings.after is None else partial(_tell, settings, settings.after)


def _check(settings: PushSettings, command: str, edit: StagedEdit) -> str | None:
    document = {**asdict(edit), "metadata": edit.metadata}
    del document["meta"]
    why = _run(command, document, settings, {"MOUNTCACHE_KEY": edit.key})
    return None if why is None else f"{why} (by the check {command!r})"


def _tell(settings: PushSettings, command: str, report: PushReport) -> None:
    document = {
        "results": [_result(each) for each in report.results],
        "groups": [asdict(each) for each in report.groups],
    }
    why = _run(command, document, settings, {}, speaks=True)
    if why is not None:
        # What was pushed is pushed.
        _logger.warning("after the push, %r failed: %s", command, why)


def _result(result: PushResult) -> dict[str, Any]:
    names = ("key", "outcome", "message", "grade", "enforced", "verified", "race", "version")
    return {name: getattr(result, name) for name in names}


def _run(
    command: str,
    document: Mapping[str, Any],
    settings: PushSettings,
    more: Mapping[str, str],
    *,
    speaks: bool = False,
) -> str | None:
    """Run a command with a document on its standard input; return what is wrong, None if nothing.

    Its output goes to a file, so that what it starts and leaves behind keeps nobody waiting.

    Parameters
    ----------
    speaks
        Whether its output says nothing that counts.
    """
    environment = {name: text for name, text in os.environ.items() if name not in _SECRET}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
    ):
        given.write(json.dumps(document, ensure_ascii=False).encode())
        given.seek(0)
        try:
            # The shell gets what the user wrote, and no name from elsewhere.
            running = subprocess.Popen(  # noqa: S602
                command, shell=True, cwd=settings.folder, env={**environment, **more},
                stdin=given, stdout=said, stderr=complained, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"it can't be run: {error.strerror or error}"
        try:
            code = running.wait(settings.time_limit)
        except subprocess.TimeoutExpired:
            return f"it took longer than {settings.time_limit:g} s"
        finally:
            if running.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        message = "" if speaks and not code else _text(said)
        if code == 0:
            return message or None
        ended = f"it ended with {code}" if code > 0 else f"it was ended by signal {-code}"
        return message or _text(complained) or ended


def _text(file: Any) -> str:
    """Return what a command said, on one line."""
    file.seek(0)
    return " ".join(file.read(_SAID).decode(errors="replace").split())
