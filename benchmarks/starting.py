"""How long does a shell wait for `mountcache --help`, and a script for `import mountcache`?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Row, at_most, interleaved

__all__ = ["run"]

_EMPTY = "python -c pass"


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return new processes of ours beside one that does nothing, and one that imports click."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

    def started(*words: str) -> Callable[[], int]:
        def again() -> int:
            subprocess.run(
                [sys.executable, *words],
                cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            return 1

        return again

    return [
        interleaved(
            "start",
            {
                _EMPTY: started("-c", "pass"),
                "import click": started("-c", "import click"),
                "import requests": started("-c", "import requests"),
                "import diskcache": started("-c", "import diskcache"),
                "import mountcache": started("-c", "import mountcache"),
                "a store, made and used": started("-c", _USED),
                "mountcache --help": started("-m", "mountcache", "--help"),
                "mountcache --version": started("-m", "mountcache", "--version"),
            },
            reference=_EMPTY,
            repeats=3 if quick else 15,
            goals=(at_most("mountcache --help", 0.15),),
        )
    ]


_USED = """
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore
with MountedStore("", DiskCacheStore("used", min_free=0), DynamicURLStore(
        "http://127.0.0.1:1/keys", "http://127.0.0.1:1/query")) as store:
    store.mount.catalog.row("k")
"""
