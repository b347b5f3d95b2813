"""What Ctrl-C does to work on many keys: it ends in good order, or at once when pressed again."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mountcache.cli.session import note
from mountcache.stopping import stopped_by

__all__ = ["interruptible"]


@contextmanager
def interruptible(
    said: str, cut: Callable[[], object], *, at_once: bool = False
) -> Iterator[threading.Event]:
    """Let Ctrl-C end the calls in this block early instead of raising KeyboardInterrupt.

    Gives the event that it sets. A third one raises after all.

    Parameters
    ----------
    said
        What is told at the first Ctrl-C.
    cut
        Ends what is in flight, at the second Ctrl-C; called in a thread.
    at_once
        Whether there is nothing in flight that is worth waiting for: cut at the first.
    """
    stop = threading.Event()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        with stopped_by(stop):
            yield stop
        return
    presses: queue.SimpleQueue[int] = queue.SimpleQueue()
    count = 0

    def pressed(signum: int, frame: object) -> None:
        # In the midst of whatever the main thread does: no output here, and no lock.
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        stop.set()
        presses.put(count)

    def watch() -> None:
        while press := presses.get():
            note(said if press == 1 else "interrupted again: ending at once")
            if at_once or press == 2:
                cut()

    watching = threading.Thread(target=watch, name="mountcache-interrupts", daemon=True)
    watching.start()
    before = signal.signal(signal.SIGINT, pressed)
    try:
        with stopped_by(stop):
            yield stop
    finally:
        signal.signal(signal.SIGINT, before)
        presses.put(0)
        watching.join()
