"""How long does a read take of a large value that is here, and of parts of it?"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import diskcache

from benchmarks.readers import mounted
from benchmarks.surroundings import installed
from benchmarks.timing import Row, at_least, interleaved
from benchmarks.webserver import files, repository

__all__ = ["run"]

_MIB = 1048576
_PART = 65536
Open = Callable[[], BinaryIO]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return the reading of all of it, and of parts, opened once or anew for each."""
    size = (16 if quick else 256) * _MIB
    repository(folder / "files", {"large": os.urandom(_MIB) * (size // _MIB)})
    repeats = 2 if quick else 9
    with ExitStack() as stack:
        url = stack.enter_context(files(folder / "files"))
        opens = _opens(folder, url, stack)
        ranges = {**opens, "fsspec blockcache": _fsspec("blockcache", folder, url)}
        return [
            interleaved(
                f"warm read of {size // _MIB} MiB, a MiB",
                {name: open_ and _whole(open_, size) for name, open_ in opens.items()},
                reference="plain file",
                repeats=repeats,
                goals=[at_least("mountcache", 0.95, "plain file")],
            ),
            interleaved(
                f"64 KiB anywhere in a warm value of {size // _MIB} MiB that is open",
                {name: open_ and _parts(open_(), size) for name, open_ in ranges.items()},
                reference="plain file",
                repeats=repeats,
            ),
            interleaved(
                f"64 KiB anywhere in a warm value of {size // _MIB} MiB, opened for each",
                {name: open_ and _parts_anew(open_, size) for name, open_ in ranges.items()},
                reference="plain file",
                repeats=repeats,
            ),
        ]


def _opens(folder: Path, url: str, stack: ExitStack) -> dict[str, Open | None]:
    path = folder / "files" / "data" / "large"
    store = stack.enter_context(mounted(folder / "ours", url))
    raw = stack.enter_context(diskcache.Cache(folder / "diskcache"))
    with path.open("rb") as file:
        raw.set("large", file, read=True)
    return {
        "plain file": lambda: path.open("rb"),
        "mountcache": lambda: store.get_data("large"),  # type: ignore[dict-item, return-value]
        "raw diskcache.get": lambda: raw.get("large", read=True),
        "fsspec filecache": _fsspec("filecache", folder, url),
    }


def _fsspec(protocol: str, folder: Path, url: str) -> Open | None:
    if not installed("fsspec", "aiohttp"):
        return None
    import fsspec

    system = fsspec.filesystem(
        protocol,
        target_protocol="http",
        cache_storage=str(folder / protocol),
        skip_instance_cache=True,
    )
    return lambda: system.open(f"{url}data/large")


def _whole(open_: Open, size: int) -> Callable[[], int]:
    def work() -> int:
        done = 0
        with open_() as file:
            while piece := file.read(_MIB):
                done += len(piece)
        assert done == size
        return size // _MIB

    return work


def _parts(file: BinaryIO, size: int) -> Callable[[], int]:
    """Return reads in one open file, which ends with the process."""
    places = _places(size)
    file.seek(0)
    while file.read(_MIB):  # what is kept by blocks is whole before it counts as warm
        pass

    def work() -> int:
        for place in places:
            file.seek(place)
            assert len(file.read(_PART)) == _PART
        return len(places)

    return work


def _parts_anew(open_: Open, size: int) -> Callable[[], int]:
    places = _places(size)

    def work() -> int:
        for place in places:
            with open_() as file:
                file.seek(place)
                assert len(file.read(_PART)) == _PART
        return len(places)

    return work


def _places(size: int) -> list[int]:
    return [random.Random(number).randrange(size - _PART) for number in range(100)]
