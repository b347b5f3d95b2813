"""An event-driven progress bar: the store announces, and whoever listens draws.

Stores know nothing of terminals. They emit events; what listens here draws a bar for each
operation and a line for each change, with the standard library alone.

    python examples/progress_events.py
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
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
)

WIDTH = 30


class Bars:
    """Draws a bar for each operation that a store announces."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def __call__(self, event: StoreProgressEvent) -> None:
        """Draw what the event says; operations are told apart by their ids."""
        if isinstance(event, StoreProgressStartEvent):
            self._steps[event.operation_id] = event.steps
        elif isinstance(event, StoreProgressStepEvent):
            self._draw(event.step, self._steps[event.operation_id], event.message)
        elif isinstance(event, StoreProgressEndEvent):
            self._draw(event.step, self._steps.pop(event.operation_id), event.message)
            print(f" {event.state}")

    def _draw(self, done: int, steps: int, message: str) -> None:
        if steps > 0:
            full = min(WIDTH, done * WIDTH // steps)
            bar = f"[{'#' * full}{'.' * (WIDTH - full)}] "
        else:
            # How long it will be isn't known.
            bar = ""
        # On a terminal each bar is drawn over the one before.
        start = "\r" if sys.stdout.isatty() else "\n"
        print(f"{start}{bar}{max(done, 0):,} bytes, {message}", end="", flush=True)


def main() -> None:
    """Store 8 MB, save them to a file, and watch."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        DiskCacheStore(Path(scratch, "store")) as store,
    ):
        store.event_manager.connect(StoreProgressEvent, Bars())
        store.event_manager.connect(
            StoreModificationEvent, lambda event: print(f"{event.action}: {event.key}")
        )
        store.set("big.bin", (io.BytesIO(bytes(8_000_000)), {"kind": "zeros"}))
        store.to_file("big.bin", Path(scratch, "copy.bin"))


if __name__ == "__main__":
    main()
