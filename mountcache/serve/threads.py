"""Threads for work that may wait for a server that never answers.

Those of `concurrent.futures` are waited for when the program ends; a stop would take as long as
the slowest time-out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Threads"]

_T = TypeVar("_T")


class Threads:
    """Up to `count` threads, made as they are needed.

    Parameters
    ----------
    count
        How many work at most at once; what comes beyond that waits.
    name
        What they are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def submit(self, work: Callable[..., _T], *given: Any) -> Future[_T]:
        """Have work done; return what will hold its result."""
        result: Future[_T] = Future()

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(work(*given))
            except BaseException as error:  # noqa: BLE001  # it goes to who waits for the result
                result.set_exception(error)

        self._waiting.put(run)
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if len(self._threads) < self._count:
                    thread = threading.Thread(
                        target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()
        return result

    def _work(self) -> None:
        while (run := self._waiting.get()) is not None:
            run()
            del run  # a result isn't kept until the next one comes
            self._idle.release()

    def end(self, patience: float) -> None:
        """Let the threads end after what has been asked of them; wait `patience` seconds."""
        until = time.monotonic() + patience
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
