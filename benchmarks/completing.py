"""How long does a shell wait at Tab, with a million keys, beside `mountcache --help`?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.catalogs import catalog
from benchmarks.timing import Row, interleaved
from mountcache.cli.known import known_keys

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return the completion of a key, as a process and in one, among 1,000,000 keys."""
    keys = 10_000 if quick else 1_000_000
    (folder / "mountcache.toml").write_text('url = "http://127.0.0.1:1/"\n')
    place = folder / ".mountcache"
    shutil.copytree(catalog(folder.parent, keys), place)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    asking = {**environ, "_MOUNTCACHE_COMPLETE": "zsh"}

    def started(env: dict[str, str], *words: str) -> int:
        ended = subprocess.run(
            [sys.executable, "-m", "mountcache", *words],
            cwd=folder, env=env, capture_output=True, check=True,
        )  # fmt: skip
        assert ended.stdout.count(b"\n") > 10
        return 1

    def looked(prefix: str) -> int:
        for _ in range(10):
            assert len(known_keys(str(place), "all", prefix)) > 10
        return 10

    return [
        interleaved(
            f"Tab, {keys:,} keys",
            {
                "mountcache --help": lambda: started(environ, "--help"),
                "an empty Python": lambda: _empty(folder),
                "a key": lambda: started(asking, "cat", "stations/0009/"),
                "its look-up alone": lambda: looked("stations/0009/"),
            },
            reference="mountcache --help",
            repeats=3 if quick else 15,
        )
    ]


def _empty(folder: Path) -> int:
    subprocess.run([sys.executable, "-c", "pass"], cwd=folder, check=True)
    return 1
