"""How long does it take to fetch many keys that aren't here, near by and far away?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import sockets
from benchmarks.cold_read import Fresh
from benchmarks.delayed import delayed
from benchmarks.readers import mounted
from benchmarks.surroundings import program
from benchmarks.timing import Goal, Row, at_least, interleaved
from benchmarks.webserver import files, repository
from mountcache import sync

__all__ = ["run"]

_AT_ONCE = 16
_OURS = f"mountcache prefetch, {_AT_ONCE} workers"
_RCLONE = f"rclone copy, {_AT_ONCE} transfers"
_BARE = f"{_AT_ONCE} bare sockets, nothing kept"
_ALLOWED = "what the delay allows (computed)"


@dataclass(frozen=True, slots=True)
class Load:
    """How many keys of which size are fetched over which delay."""

    keys: int
    size: int
    delay: float
    repeats: int

    def __str__(self) -> str:
        size = f"{self.size // 1048576} MiB" if self.size >= 1048576 else f"{self.size // 1024} KiB"
        return (
            f"bulk fetch of {self.keys:,} cold keys of {size}, {1000 * self.delay:.0f} ms away, "
            "a key"
        )


# The fewer the longer each takes, so that all of them end.
LOADS = (
    Load(10_000, 4096, 0.0, 2),
    Load(1_500, 4096, 0.02, 2),
    Load(640, 4096, 0.1, 2),
    Load(200, 8 * 1048576, 0.0, 2),
    Load(32, 8 * 1048576, 0.02, 2),
    Load(32, 8 * 1048576, 0.1, 2),
)
QUICK = (
    Load(50, 4096, 0.0, 1),
    Load(50, 4096, 0.02, 1),
    Load(4, 1048576, 0.0, 1),
    Load(4, 1048576, 0.02, 1),
)


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return prefetches beside rclone and curl, with as many connections."""
    return [_fetched(folder, load) for load in (QUICK if quick else LOADS)]


def _fetched(folder: Path, load: Load) -> Row:
    root, fresh = folder / str(load), Fresh(folder / "fetched")
    random = os.urandom(load.size)
    contents = {f"dir/key{number:05}": b"%08d" % number + random[8:] for number in range(load.keys)}
    repository(root, contents)
    with files(root) as near, delayed(near, load.delay) as url:
        row = interleaved(
            str(load),
            {
                _RCLONE: _rclone(fresh, url, load) if program("rclone") else None,
                f"{_RCLONE}, no HEAD": (
                    _rclone(fresh, url, load, "--http-no-head") if program("rclone") else None
                ),
                "curl -Z -o, 16 at once": (
                    _curl(fresh, url, list(contents)) if program("curl") else None
                ),
                _BARE: lambda: sockets.fetched(
                    url, [f"data/{key}" for key in contents], load.size, _AT_ONCE
                ),
                _OURS: _ours(fresh, url, load, workers=_AT_ONCE),
                "mountcache prefetch": _ours(fresh, url, load),
            },
            reference=_RCLONE,
            repeats=load.repeats,
            goals=_goals(load),
            between=fresh.clear,
            warm=False,
        )
    if load.delay and load.size == 4096:
        row = row.beside(_ALLOWED, load.delay / _AT_ONCE)
    return row


def _goals(load: Load) -> list[Goal]:
    if load.size > 4096:
        return [at_least(_OURS, 1.0, _RCLONE)]
    # What the delay allows is measured, since to open connections and to ask takes time, too.
    return [at_least(_OURS, 0.9, _BARE) if load.delay else at_least(_OURS, 1.5, _RCLONE)]


def _ours(fresh: Fresh, url: str, load: Load, **options: Any) -> Callable[[], int]:
    def work() -> int:
        with mounted(fresh.path / "store", url) as store:
            report = sync.prefetch(store, **options)
        assert (report.fetched, report.bytes) == (load.keys, load.keys * load.size)
        return load.keys

    return work


def _rclone(fresh: Fresh, url: str, load: Load, *more: str) -> Callable[[], int]:
    command = [
        *("rclone", "copy", "--config", "/dev/null", "--http-url", f"{url}data/dir/"),
        *(":http:", str(fresh.path), "--transfers", str(_AT_ONCE), "--checkers", str(_AT_ONCE)),
        *more,
    ]

    def work() -> int:
        subprocess.run(command, check=True, capture_output=True)
        assert len(list(fresh.path.iterdir())) == load.keys
        return load.keys

    return work


def _curl(fresh: Fresh, url: str, keys: list[str]) -> Callable[[], int]:
    def work() -> int:
        listed = fresh.path / "urls"
        listed.write_text(
            "".join(
                f'url = "{url}data/{key}"\noutput = "{key.rpartition("/")[2]}"\n' for key in keys
            )
        )
        command = ["curl", "-sS", "--fail", "-Z", "--parallel-max", str(_AT_ONCE), "-K", "urls"]
        subprocess.run(command, cwd=fresh.path, check=True, capture_output=True)
        assert len(list(fresh.path.iterdir())) == len(keys) + 1
        return len(keys)

    return work
