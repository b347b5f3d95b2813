"""A small plot over a cached data set, written as SVG with the standard library alone.

It plots the Sun's declination over a year: the table comes through a mount, so that the second
run (or a plane) needs no network. The data set is the one that ``mountcache demo`` ships, read
as a static store from its folder; ``https://...`` would do as well.

    python examples/plot_cached.py [FILE]
"""

from __future__ import annotations

import csv
import io
import sys
from importlib.resources import as_file, files
from pathlib import Path

from mountcache import MemoryStore, MountedStore, StaticURLStore

_WIDTH, _HEIGHT, _MARGIN = 720, 360, 40


def svg(points: list[tuple[float, float]], title: str) -> str:
    """Return a line through points, whose x is 0 to 1 and y -25 to 25."""

    def at(x: float, y: float) -> str:
        across = _MARGIN + x * (_WIDTH - 2 * _MARGIN)
        down = _HEIGHT / 2 - y / 25 * (_HEIGHT / 2 - _MARGIN)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(at(x, y) for x, y in points)
    ticks = "".join(
        f'<text x="4" y="{at(0, y).split(",")[1]}" font-size="12">{y}&#176;</text>'
        for y in (-20, -10, 0, 10, 20)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'<text x="{_MARGIN}" y="24" font-size="16">{title}</text>{ticks}'
        f'<polyline fill="none" stroke="#c60" stroke-width="2" points="{line}"/></svg>\n'
    )


def main(target: Path) -> None:
    """Read the table of 2024 twice and plot it."""
    with as_file(files("mountcache.cli.demo") / "data") as folder:
        remote = StaticURLStore(folder.resolve().as_uri() + "/", "data/", "index.json")
        with MountedStore("", MemoryStore(), remote) as store:
            key = next(iter(store.query_keys(year=2024)))
            text = store.to_bytes(key).decode()
            value = store.get(key)
            rows = list(csv.DictReader(io.StringIO(text)))
            points = [
                (day / len(rows), float(row["declination_deg"])) for day, row in enumerate(rows)
            ]
            target.write_text(svg(points, value.metadata["title"]), "utf-8")
            print(f"{len(points)} days from {key} ({value.source}) -> {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sun.svg"))
