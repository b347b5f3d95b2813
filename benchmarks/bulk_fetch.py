"""How long does it take to fetch many small keys that aren't here?"""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from pathlib import Path

from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue, sync
from mountcache.serve import OriginProcess

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return a prefetch of 4 KiB keys beside curl, which keeps and checks nothing."""
    keys = 200 if quick else 2000
    with DiskCacheStore(folder / "origin", min_free=0) as origin, origin.transaction("fill"):
        for number in range(keys):
            origin.set(f"dir/{number}", StringValue(os.urandom(4096), {"n": number}))
    round_ = count()
    with OriginProcess(folder / "origin") as server:
        listed = folder / "urls"
        listed.write_text(
            "".join(
                f'url = "{server.url}data/dir/{number}"\noutput = "/dev/null"\n'
                for number in range(keys)
            )
        )

        def ours() -> int:
            local = DiskCacheStore(folder / f"cold {next(round_)}", min_free=0)
            backing = DynamicURLStore(f"{server.url}keys", f"{server.url}query")
            with MountedStore("", local, backing) as store:
                store.update_index()
                report = sync.prefetch(store, workers=8)
                assert report.fetched == keys
            return keys

        contenders = {"mountcache prefetch": ours}
        if shutil.which("curl"):

            def curl() -> int:
                command = [
                    "curl",
                    "-s",
                    "--no-progress-meter",
                    "-Z",
                    "--parallel-max",
                    "8",
                    "-K",
                    str(listed),
                ]
                subprocess.run(command, check=True, capture_output=True)
                return keys

            contenders["curl -Z"] = curl
        return [
            interleaved(
                f"bulk fetch of {keys:,} cold keys of 4 KiB, a key",
                contenders,
                reference=next(reversed(contenders)),
                repeats=3,
            )
        ]
