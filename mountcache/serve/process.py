"""The origin in a process of its own, which can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Self

from mountcache.errors import StoreUnavailableError

__all__ = ["OriginProcess"]


class OriginProcess:
    """A server on loopback in another process: what a crash of it does can be tried.

    It ends with this process, however this process ends. Started again, it is at the same
    port.

    Parameters
    ----------
    directory
        The directory of the store.
    port
        The port; 0 takes a free one.
    """

    def __init__(self, directory: str | os.PathLike[str], port: int = 0) -> None:
        self._directory = os.fspath(directory)
        self._port = port
        self._url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    @property
    def url(self) -> str:
        """The root of the server, ending in "/"."""
        return self._url

    @property
    def pid(self) -> int | None:
        """The number of the process while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start the server; it takes connections when this returns.

        Raises
        ------
        StoreUnavailableError
            If it doesn't come up; the message says what it said.
        """
        if self._process is not None:
            return self
        told, ready = os.pipe()
        lifeline, self._lifeline = os.pipe()
        command = [
            *(sys.executable, "-m", "mountcache.serve", "--store", self._directory),
            *("--port", str(self._port), "--ready-fd", str(ready), "--lifeline-fd", str(lifeline)),
        ]
        with open(told, "rb") as telling, tempfile.TemporaryFile() as said:
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(ready, lifeline),
                    stdin=subprocess.DEVNULL,
                    stderr=said,
                )
            finally:
                os.close(ready)
                os.close(lifeline)
            self._url = telling.read().decode()
            if not self._url:
                self._ended()
                said.seek(0)
                raise StoreUnavailableError(
                    f"the server on {self._directory} didn't start: {said.read().decode().strip()}"
                )
        self._port = int(self._url.rstrip("/").rpartition(":")[2])
        return self

    def stop(self) -> None:
        """Stop the server; requests under way are ended first."""
        if self._process is not None:
            self._process.terminate()
            self._ended()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        os.close(self._lifeline)
