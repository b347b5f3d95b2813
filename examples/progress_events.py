"""An event-driven progress bar: the store announces, and whoever listens draws.

Stores know nothing of terminals. They emit events; this listens to progress, and to what was
set, and draws with the standard library.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from mountcache import DiskCacheStore
from mountcache.events import (
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
)

_WIDTH = 30


class Bar:
    """Draws a bar for each operation that a store announces."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self.drawn = 0

    def start(self, event: StoreProgressStartEvent) -> None:
        """An operation begins: remember how long it is."""
        self._steps[event.operation_id] = event.steps
        print(event.message)

    def step(self, event: StoreProgressStepEvent) -> None:
        """It moved on."""
        total = self._steps.get(event.operation_id, -1)
        if total > 0:
            done = min(_WIDTH, event.step * _WIDTH // total)
            end = "\r" if sys.stdout.isatty() else "\n"
            print(f"[{'#' * done}{'.' * (_WIDTH - done)}]", end=end)
            self.drawn += 1

    def end(self, event: StoreProgressEndEvent) -> None:
        """It ended, well or not: `exit_state` tells."""
        self._steps.pop(event.operation_id, None)
        print(f"{event.exit_state}{' ' * _WIDTH}")


def main() -> None:
    """Save a value to a file and watch it."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        DiskCacheStore(Path(scratch, "store")) as store,
    ):
        bar = Bar()
        events = store.event_manager
        events.connect(StoreProgressStartEvent, bar.start)
        events.connect(StoreProgressStepEvent, bar.step)
        events.connect(StoreProgressEndEvent, bar.end)
        events.connect(
            StoreModificationEvent, lambda event: print(f"{type(event).__name__}: {event.key}")
        )
        store.set("big.bin", (io.BytesIO(bytes(8_000_000)), {"kind": "zeros"}))
        store.to_file("big.bin", Path(scratch, "copy.bin"))


if __name__ == "__main__":
    main()
