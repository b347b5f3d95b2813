"""A file to write to, whose bytes become the data of a key."""

from __future__ import annotations

import io
import tempfile
import warnings
from types import TracebackType
from typing import Any, Final

from mountcache.abc import AbstractStore

__all__ = ["Writer"]

_IN_MEMORY: Final = 1048576


class Writer(io.BufferedIOBase):
    """Collects what is written in a temporary file, and stages it when it is closed.

    Left by an exception, or never closed, it stages nothing.
    """

    def __init__(self, store: AbstractStore, key: str) -> None:
        self._store = store
        self._key = key
        self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by `close`

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._spool.write(data)

    def close(self) -> None:
        if not self.closed:
            with self._spool as spool:
                super().close()
                spool.seek(0)
                self._store.set_data(self._key, spool)

    def __del__(self) -> None:
        # What was never closed may be half of what was meant.
        if not self.closed:
            warnings.warn(
                f"what was written to {self._key!r} was never closed, and isn't staged",
                ResourceWarning,
                stacklevel=2,
            )
            self._spool.close()
            super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self._spool.close()
            super().close()
        else:
            self.close()
