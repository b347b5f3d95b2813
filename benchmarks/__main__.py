"""Runs all benchmarks and prints their table."""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import mountcache
from benchmarks import bulk_fetch, completing, planning, staged_set, start_up, warm_read
from benchmarks.timing import table


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less work: only to see that it runs")
    parser.add_argument("--dir", default=None, help="where to work; a real disk, not tmpfs")
    asked = parser.parse_args()
    print(f"mountcache {mountcache.__version__}, Python {platform.python_version()}")
    for benchmark in (warm_read, staged_set, start_up, planning, completing, bulk_fetch):
        with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
            print(table(benchmark.run(Path(folder), quick=asked.quick)), flush=True)


if __name__ == "__main__":
    main()
