"""Lives without the cost of starting Python: a process with one thread that forks them.

``python -m tests.crash.nursery`` reads a line for each life, a `Plan` and after how many seconds
to kill it at the latest, and answers with a line: what the life said, and the signal that ended
it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash.life import Plan, live

__all__ = ["Ended", "Nursery"]

ROOT = Path(__file__).resolve().parents[2]
_TOO_LONG = 60.0


@dataclass(frozen=True)
class Ended:
    """How a life ended."""

    said: list[list[Any]]
    signal: int
    """0: it ended by itself, which is an error of its own."""
    failure: str

    @property
    def points(self) -> list[str]:
        return [words[1] for words in self.said if words[0] == "point"]


class Nursery:
    """A process that forks lives; as a context manager it ends with the block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            cwd=ROOT,
            env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, plan: Plan, seconds: float | None = None) -> Ended:
        """Let a life be lived to its end.

        Parameters
        ----------
        seconds
            When to kill it, if its target doesn't come first.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps([plan.as_json(), seconds])}\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()


def _preload() -> None:
    import mountcache

    for module in pkgutil.walk_packages(mountcache.__path__, "mountcache."):
        if module.name.split(".")[1] in ("backing", "local", "sync", "mounted", "overlay"):
            importlib.import_module(module.name)
    assert threading.active_count() == 1
    gc.freeze()


def _lived(plan: Plan, seconds: float | None) -> Ended:
    """Fork a life and hear it; kill it in time."""
    reading, writing = os.pipe()
    failing, failed = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.close(failing)
            live(plan, writing)
        except BaseException:  # noqa: BLE001 - it is told on the other pipe
            os.write(failed, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(1)
    os.close(writing)
    os.close(failed)
    until = time.monotonic() + (_TOO_LONG if seconds is None else seconds)
    heard, hangs = b"", ""
    while True:
        left = max(0.0, until - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            hangs = "" if seconds is not None else f"it isn't at its end after {_TOO_LONG} seconds"
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until = time.monotonic() + _TOO_LONG
            continue
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        heard += piece
    failure = os.read(failing, 8000).decode() or hangs
    os.close(reading)
    os.close(failing)
    _, status = os.waitpid(pid, 0)
    # A line that is cut off was never said.
    said = [json.loads(line) for line in heard.split(b"\n")[:-1]]
    return Ended(said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, failure)


def main() -> None:
    _preload()
    for line in sys.stdin:
        text, seconds = json.loads(line)
        ended = _lived(Plan.from_json(text), seconds)
        print(json.dumps([ended.said, ended.signal, ended.failure]), flush=True)


if __name__ == "__main__":
    main()
