"""A proxy shared by curl and pandas: one cache for programs that know nothing of mountcache.

``mountcache serve`` runs where a mountcache.toml is; everything on this machine that speaks HTTP
reads through it, also when the network is gone. What is written is staged, and one of us pushes
it. It wants pandas and the command curl.

    python examples/shared_proxy.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from mountcache import DiskCacheStore, StringValue
from mountcache.serve import Origin

ROWS = "station,mm\nNorth,3.5\nSouth,7.25\n"


def mountcache(folder: Path, *words: str) -> str:
    """Run the command in a folder, and return what it prints."""
    command = [sys.executable, "-m", "mountcache", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@contextmanager
def proxy(folder: Path) -> Iterator[str]:
    """Serve what is mounted in a folder, and give the URL."""
    command = [sys.executable, "-m", "mountcache", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def curl(*words: str) -> str:
    """Run curl, and return what it prints."""
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Fill the cache with curl, read it with pandas, lose the network, write, and push."""
    with tempfile.TemporaryDirectory() as scratch:
        repository, desk = Path(scratch, "repository"), Path(scratch, "desk")
        desk.mkdir()
        with DiskCacheStore(repository) as store:
            store.set("rain/2024.csv", StringValue(ROWS.encode(), {"unit": "mm"}))
        origin = Origin(repository).start()
        mountcache(desk, "init", origin.url)
        with proxy(desk) as url:
            table = f"{url}data/rain/2024.csv"
            curl("--output", str(desk / "2024.csv"), table)

            origin.stop()
            print("curl:", curl("--head", table).split("cache-status: ")[1].splitlines()[0])
            rain = pd.read_csv(table)
            print("pandas, without a network:", rain["mm"].sum(), "mm")

            rain["inches"] = rain["mm"] / 25.4
            rain.to_csv(desk / "inches.csv", index=False)
            curl("--upload-file", str(desk / "inches.csv"), f"{url}data/rain/inches.csv")
            print("pandas, what curl wrote:", list(pd.read_csv(f"{url}data/rain/inches.csv")))

            origin.start()
            # Nothing was sent by itself: whoever answers for it looks, and pushes.
            (staged,) = json.loads(
                subprocess.run(
                    [sys.executable, "-m", "mountcache", "status", "--json"],
                    cwd=desk,
                    check=False,  # exit code 1: something is staged
                    capture_output=True,
                    text=True,
                ).stdout
            )["staged"]
            print("staged:", staged["key"])
            mountcache(desk, "push")
        origin.stop()
        with DiskCacheStore(repository) as store:
            print("in the repository:", ", ".join(sorted(store.query_keys())))


if __name__ == "__main__":
    main()
