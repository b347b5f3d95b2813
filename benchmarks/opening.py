"""What does opening cost, with a million keys in the catalog and 10,000 of them staged?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.catalogs import catalog, index_of, mounted
from benchmarks.timing import Row, at_most, interleaved
from mountcache import StringValue

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return opening and a first look-up, by what is known and by what is staged."""
    few, many = (1000, 10_000) if quick else (10_000, 1_000_000)
    staged = 100 if quick else 10_000
    contenders: dict[str, Callable[[], int]] = {}
    for keys in (0, few, many):
        for edits in (10, staged):
            directory = folder / f"{keys} {edits}"
            shutil.copytree(catalog(folder.parent, keys), directory)
            _stage(directory, index_of(folder.parent, keys), edits)
            name = f"{keys:,} keys, {edits:,} staged"
            contenders[name] = _opened(directory, index_of(folder.parent, keys))
    return [
        interleaved(
            "open, ask whether a key is there, close",
            contenders,
            reference="0 keys, 10 staged",
            repeats=3 if quick else 9,
            goals=(at_most(f"{many:,} keys, {staged:,} staged", 1.5, "0 keys, 10 staged"),),
        )
    ]


def _stage(directory: Path, folder: Path, edits: int) -> None:
    with mounted(directory, folder) as store, store.transaction("staged"):
        for number in range(edits):
            store.set(f"mine/{number}", StringValue(b"mine", {"n": number}))


def _opened(directory: Path, folder: Path) -> Callable[[], int]:
    def again() -> int:
        for _ in range(5):
            with mounted(directory, folder) as store:
                assert store.exists("mine/0")
        return 5

    return again
