"""Commits that threads share.

A durable commit waits for the disk, and while one waits, others come. What has come by the time
the next one begins is done in that one: the disk is flushed once for all of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, TypeVar, cast

__all__ = ["GroupCommit"]

_T = TypeVar("_T")
_Write = Callable[[float], AbstractContextManager[sqlite3.Connection]]


class _Fate(Enum):
    """What becomes of work that waits."""

    WAITS = "waits"
    LEADS = "leads"
    """Its thread makes the next commit."""
    DONE = "done"
    FAILED = "failed"
    ALONE = "alone"
    """It is to be done in a commit of its own: something of what came together failed."""


class _Job:
    """Work that waits for a commit, and the thread that waits for it."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any], until: float) -> None:
        self.work = work
        self.until = until
        self.fate = _Fate.WAITS
        self.result: Any = None
        self._woken = threading.Lock()
        self._woken.acquire()

    def wake(self, fate: _Fate) -> None:
        self.fate = fate
        self._woken.release()

    def wait(self) -> None:
        self._woken.acquire()


class GroupCommit:
    """Does the work of several threads in one commit.

    Parameters
    ----------
    wait
        For how many seconds work waits for other writers.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self.forget()

    def forget(self) -> None:
        """Start anew in a forked child: who waits is its parent's."""
        self._lock = threading.Lock()
        self._waiting: list[_Job] = []
        self._led = False

    def run(self, write: _Write, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do work inside a commit, perhaps beside that of others; return what it returns.

        It may be done twice, the first time in vain, and in another thread. What it raises undoes
        it alone. Errors of the commit are told to all whose work was in it.

        Parameters
        ----------
        write
            Makes one commit, as `Content.write` does.
        """
        if threading.current_thread() is threading.main_thread():
            with write(self._wait) as con:  # an interrupt mustn't meet the work of others
                return work(con)
        job = _Job(work, time.monotonic() + self._wait)
        with self._lock:
            self._waiting.append(job)
            leads, self._led = not self._led, True
        if not leads:
            job.wait()
        if leads or job.fate is _Fate.LEADS:
            self._lead(write, job)
        result, job.result = job.result, None
        match job.fate:
            case _Fate.DONE:
                return cast("_T", result)
            case _Fate.FAILED:
                try:
                    raise result
                finally:
                    del result  # it holds this frame
            case _:
                with write(self._wait) as con:
                    return work(con)

    def _lead(self, write: _Write, own: _Job) -> None:
        """Make a commit of all that waits; then somebody who came meanwhile leads."""
        batch, worked = [own], False
        try:
            with write(max(0.0, own.until - time.monotonic())) as con:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                for job in batch:
                    job.result = job.work(con)
                worked = True
            fate = _Fate.DONE
        except BaseException as error:  # noqa: BLE001 - each thread raises it, or its own
            fate = _Fate.FAILED if worked or len(batch) == 1 else _Fate.ALONE
            for job in batch:
                job.result = error
        finally:
            self._hand_on(own)
        own.fate = fate
        for job in batch:
            if job is not own:
                job.wake(fate)

    def _hand_on(self, own: _Job) -> None:
        with self._lock:
            if own in self._waiting:
                self._waiting.remove(own)  # its commit couldn't even begin
            self._led = bool(self._waiting)
            if self._waiting:
                self._waiting[0].wake(_Fate.LEADS)
