"""How long does it take until a key that isn't here is read and kept, and until its first byte?"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import requests
import urllib3

from benchmarks.readers import chosen, mounted
from benchmarks.surroundings import program
from benchmarks.timing import Row, at_least, at_most, interleaved
from benchmarks.webserver import files, repository

__all__ = ["run"]

_MIB = 1048576
_CACHES = ("mountcache", "pooch, no hash checked", "fsspec simplecache", "requests-cache, sqlite")
Work = Callable[[], int | float]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return small keys one after another, one large value, and the first bytes of values."""
    mebibytes = 8 if quick else 256
    small = [f"small/{number}" for number in range(20 if quick else 100)]
    firsts = [f"first/{number}" for number in range(5 if quick else 20)]
    large = os.urandom(_MIB) * mebibytes
    contents = {
        **{key: os.urandom(4096) for key in small},
        **dict.fromkeys(firsts, large[: 8 * _MIB]),
        "large": large,
    }
    repository(folder / "files", contents)
    repeats = 2 if quick else 7
    fresh = Fresh(folder / "cold")
    with files(folder / "files") as url:
        return [
            interleaved(
                "cold read of 4 KiB, one after another",
                _whole(fresh, url, small),
                reference="curl -o", repeats=repeats, between=fresh.clear,
            ),
            interleaved(
                f"cold read of {mebibytes} MiB",
                _whole(fresh, url, ["large"]),
                reference="curl -o", repeats=2 if quick else 3, between=fresh.clear,
                goals=[at_least("mountcache", 0.9, "curl -o")],
            ),
            interleaved(
                "first byte of a cold value of 8 MiB, by the clock of each",
                _first(fresh, url, firsts),
                reference="curl's time_starttransfer", repeats=repeats, between=fresh.clear,
                goals=[at_most("mountcache", 2.0, "curl's time_starttransfer")],
            ),
        ]  # fmt: skip


class Fresh:
    """A folder that is empty at the beginning of each run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Empty it, and let the disk come to rest."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        os.sync()


def _whole(fresh: Fresh, url: str, keys: list[str]) -> dict[str, Work | None]:
    """Return who reads keys and keeps them, each with a cache of its own that is empty."""
    contenders: dict[str, Work | None] = {
        "curl -o": _curl(fresh, url, keys) if program("curl") else None,
        "requests to a file": _requests(fresh, url, keys),
    }

    def caching(name: str) -> Work | None:
        reader = chosen(name)[name]
        if reader is None:
            return None

        def work() -> int:
            with reader(fresh.path / "cache", url) as read:
                for key in keys:
                    assert read(key)
            return len(keys)

        return work

    return {**contenders, **{name: caching(name) for name in _CACHES}}


def _curl(fresh: Fresh, url: str, keys: list[str]) -> Work:
    def work() -> int:
        words = [word for key in keys for word in ("-o", key.replace("/", "-"), f"{url}data/{key}")]
        subprocess.run(["curl", "-sS", "--fail", *words], cwd=fresh.path, check=True)
        return len(keys)

    return work


def _requests(fresh: Fresh, url: str, keys: list[str]) -> Work:
    def work() -> int:
        with requests.Session() as session:
            for number, key in enumerate(keys):
                with (
                    session.get(f"{url}data/{key}", stream=True) as answer,
                    (fresh.path / str(number)).open("wb") as file,
                ):
                    for piece in answer.iter_content(_MIB):
                        file.write(piece)
        return len(keys)

    return work


def _first(fresh: Fresh, url: str, keys: list[str]) -> dict[str, Work | None]:
    """Return who asks for values, on a connection that is there, until the first byte."""
    turn = count()

    def curl() -> float:
        words = [word for key in keys for word in ("-o", "/dev/null", f"{url}data/{key}")]
        told = subprocess.run(
            ["curl", "-sS", "--fail", "-w", "%{time_starttransfer}\n", *words],
            capture_output=True, check=True,
        )  # fmt: skip
        return statistics.median(map(float, told.stdout.split()))

    def bare() -> float:
        with urllib3.PoolManager() as pool:
            return _median(
                keys, lambda key: pool.request("GET", f"{url}data/{key}", preload_content=False)
            )

    def ours() -> float:
        with ExitStack() as stack:
            store = stack.enter_context(mounted(fresh.path / str(next(turn)), url))
            return _median(keys, store.get_data)

    return {
        "curl's time_starttransfer": curl if program("curl") else None,
        "urllib3, first read": bare,
        "mountcache": ours,
    }


def _median(keys: list[str], opened: Callable[[str], object]) -> float:
    """Return the seconds until the first byte; what is left is read outside of them."""
    took = []
    for key in keys:
        begun = time.perf_counter()
        with opened(key) as stream:  # type: ignore[attr-defined]
            assert len(stream.read(1)) == 1
            took.append(time.perf_counter() - begun)
            while stream.read(_MIB):
                pass
    return statistics.median(took)
