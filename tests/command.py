"""Running the command as a shell would."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from mountcache.cli import main

ROOT = Path(__file__).resolve().parent.parent
TIME = 120.0
_LEFT_OUT = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "PAGER", "LESS")


def words() -> list[str]:
    """Return what starts the command: the installed one, else the module."""
    script = shutil.which("mountcache", path=str(Path(sys.executable).parent))
    return [script] if script is not None else [sys.executable, "-m", "mountcache"]


def environment(**more: str) -> dict[str, str]:
    """Return the environment without what would change the command's ways."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MOUNTCACHE_") and name not in _LEFT_OUT
    }
    if len(words()) > 1:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return {**kept, "NO_PROXY": "127.0.0.1", **more}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


@dataclass
class Shell:
    """A shell in a folder."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, *args: str, given: bytes = b"", **env: str) -> Ended:
        """Run ``mountcache ARGS`` to its end."""
        ended = subprocess.run(
            [*words(), *args],
            cwd=self.folder,
            env=environment(**{**self.env, **env}),
            input=given,
            capture_output=True,
            timeout=TIME,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr.decode())

    def start(self, *args: str, **env: str) -> subprocess.Popen[bytes]:
        """Start ``mountcache ARGS``."""
        return subprocess.Popen(
            [*words(), *args],
            cwd=self.folder,
            env=environment(**{**self.env, **env}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@dataclass
class Inside(Shell):
    """A shell in a folder whose commands run in this process, which takes a tenth of the time.

    What it starts is a process of its own.
    """

    def __call__(self, *args: str, given: bytes = b"", **env: str) -> Ended:
        """Run ``mountcache ARGS`` to its end."""
        out, err = io.BytesIO(), io.BytesIO()
        with (
            mock.patch.dict(os.environ, environment(**{**self.env, **env}), clear=True),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(given)))),
            mock.patch.object(sys, "stdout", io.TextIOWrapper(out, "utf-8")),
            mock.patch.object(sys, "stderr", io.TextIOWrapper(err, "utf-8")),
            chdir(self.folder),
        ):
            code = main(list(args))
            sys.stdout.flush()
            sys.stderr.flush()
            return Ended(int(code), out.getvalue(), err.getvalue().decode())
