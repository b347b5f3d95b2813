"""The examples run, and show what their documents say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, TIME, environment

SAID = {
    "offline_data.py": ["read 2024: cached", "offline: cached mm", "query: surveys/2025.csv"],
    "staged_uploads.py": ["pushed: 3", "ben: runs/0.txt conflict", "ada reads: 43", "kept: 1"],
    "plot_cached.py": ["366 days from sun/2024.csv (cached)"],
    "progress_events.py": ["Setting big.bin", "normal", "StoreSetEvent: big.bin"],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_example(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIME,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for said in SAID[name]:
        assert said in ended.stdout, ended.stdout
    if name == "plot_cached.py":
        assert (tmp_path / "sun.svg").read_text().startswith("<svg ")
