"""The examples run, and show what their documents say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.command import ROOT, TIME, environment

SAID = {
    "offline_data.py": ["read 2024: cached", "offline: cached mm", "query: surveys/2025.csv"],
    "staged_uploads.py": ["pushed: 3", "ben: runs/0.txt conflict", "ada reads: 43", "kept: 1"],
    "library_with_workers.py": [
        "cached by the workers: 20",
        "staged: {'means of 20 tables'}",
        "pushed: 21",
        "the same without a network: 21 staged",
    ],
    "plot_cached.py": ["366 days from sun/2024.csv (upstream) -> sun.svg"],
    "two_weeks_offline.py": [
        "before: 37 files",
        "away: plotted 36 files -> stations.svg",
        "away: 401 edits",
        "back: 400 pushed and verified, grade C",
        "stations/README.txt was changed at home",
        "back: 400 files of the trip",
    ],
    "shared_proxy.py": [
        "curl: mountcache; hit; detail=offline",
        "pandas, without a network: 10.75 mm",
        "staged: rain/inches.csv",
        "in the repository: rain/2024.csv, rain/inches.csv",
    ],
    "weekly_release.py": [
        "ben takes along: 3 tables",
        "ben, offline: 3 edits staged",
        "left to decide: weekly/31/rain.csv",
        "both kept: 3 and 2",
        "released: 2",
        "births: {'by': 'ben', 'source': 'register', 'state': 'checked'}",
    ],
    "progress_events.py": ["8,000,000 bytes, Setting big.bin done", "set: big.bin", "[####"],
}


def _run(name: str, folder: Path) -> str:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=folder,
        env=environment(HOME=str(folder)),
        capture_output=True,
        text=True,
        timeout=TIME,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_example_shows_what_it_says(name: str, tmp_path: Path) -> None:
    shown = _run(name, tmp_path)
    for said in SAID[name]:
        assert said in shown, shown


def test_plot_is_drawn_and_needs_no_upstream_the_second_time(tmp_path: Path) -> None:
    _run("plot_cached.py", tmp_path)
    drawn = ElementTree.parse(tmp_path / "sun.svg")
    texts = [text for each in drawn.iter() for text in [each.text or ""] if text.strip()]
    assert "The Sun at 12:00 UTC on each day of 2024" in texts
    assert "(cached)" in _run("plot_cached.py", tmp_path)
