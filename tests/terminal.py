"""A terminal in memory, with a real pty and a real process at its other end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

from tests.command import environment, words

__all__ = ["Terminal"]

PATIENCE = 30.0


class Terminal:
    """A terminal on which one command runs.

    Parameters
    ----------
    folder
        Where it runs.
    *command
        Its words; those after ``mountcache`` unless `whole` says that they are all.
    """

    def __init__(
        self,
        folder: Path,
        *command: str,
        whole: bool = False,
        columns: int = 80,
        lines: int = 24,
        stdin: int | None = None,
        **env: str,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._ours, theirs = pty.openpty()
        self._resize(columns, lines)
        self.process = subprocess.Popen(
            command if whole else [*words(), *command],
            cwd=folder,
            env=environment(**{"TERM": "xterm-256color", **env}),
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            # It leads a session whose terminal this is, so that Ctrl-C reaches it.
            preexec_fn=lambda: _take(theirs),
        )
        os.close(theirs)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size; the kernel sends SIGWINCH."""
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("\x03")

    @property
    def shown(self) -> Sequence[str]:
        """The lines that are in sight."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """All that is in sight."""
        return "\n".join(self.shown)

    def until(self, seen: Callable[[Terminal], object], patience: float = PATIENCE) -> None:
        """Read on until something is seen."""
        end = time.monotonic() + patience
        while not seen(self):
            if not self._more(end - time.monotonic()):
                raise AssertionError(f"never seen: {self.text!r}")

    def _more(self, patience: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, patience))[0]:
            return False
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self.raw += piece
        self._stream.feed(piece)
        return bool(piece)

    def ended(self, patience: float = PATIENCE) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + patience
        while self._more(end - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


def _take(terminal: int) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
