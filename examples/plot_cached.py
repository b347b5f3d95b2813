"""A small plot over a cached data set; it wants matplotlib (``pip install matplotlib``).

It plots the Sun's declination over a year. The table comes through a mount with a directory of
its own, so that the second run needs no network. The data set is the one that
``mountcache demo`` ships, read as a static store from its folder; ``https://...`` would do as
well.

    python examples/plot_cached.py [FILE]
"""

from __future__ import annotations

import csv
import sys
from importlib.resources import as_file, files
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mountcache import DiskCacheStore, MountedStore, StaticURLStore

YEAR = 2024


def main(target: Path) -> None:
    """Read the table of the year, from here if it is here, and plot it."""
    with as_file(files("mountcache.cli.demo") / "data") as folder:
        remote = StaticURLStore(folder.resolve().as_uri() + "/", "data/", "index.json")
        # An hour during which a copy is used without asking.
        with MountedStore("", DiskCacheStore("sun-cache"), remote, max_age=3600) as store:
            key = next(iter(store.query_keys(year=YEAR)))
            value = store.get(key)
            with value.data as data:
                rows = list(csv.DictReader(line.decode() for line in data))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([float(row["declination_deg"]) for row in rows])
    axes.set(
        title=value.metadata["title"], xlabel="day of the year", ylabel="declination / degrees"
    )
    axes.grid(alpha=0.3)
    # Texts stay texts in an SVG, and the same table gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(target)
    print(f"{len(rows)} days from {key} ({value.source}) -> {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sun.svg"))
