"""``mountcache demo`` shows what is true, and says so when it isn't."""

from __future__ import annotations

import hashlib
import json
import runpy
from importlib.resources import files
from pathlib import Path

import pytest

from mountcache.cli.demo import run_demo, walk
from tests.command import ROOT, Shell


def test_demo_walks_through_the_main_job_in_a_pipe_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    ended = Shell(tmp_path)("demo", TMPDIR=str(scratch), HOME=str(tmp_path))
    assert ended.code == 0, ended.text + ended.err
    assert ended.err == ""
    for said in ("cold read", "warm read", "conflict", "keep both", "nothing was left behind"):
        assert said in ended.text
    assert "\x1b" not in ended.text
    assert list(scratch.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["tmp"]


def test_demo_asks_no_proxy(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1"
    ended = Shell(tmp_path)("demo", HTTP_PROXY=nobody, http_proxy=nobody, NO_PROXY="example.org")
    assert ended.code == 0, ended.text + ended.err


def test_demo_fails_if_a_step_is_not_true(monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrites(*args: object, **kwargs: object) -> None:
        raise walk._NotTrueError("planets.csv was refused")

    monkeypatch.setattr(walk, "_push", overwrites)
    told: list[str] = []
    assert not run_demo(told.append)
    assert told[-1] == "   NOT TRUE: planets.csv was refused"


def test_shipped_data_is_what_its_index_promises() -> None:
    root = files("mountcache.cli.demo") / "data"
    index = json.loads((root / "index.json").read_text("utf-8"))
    total = 0
    for key, metadata in index.items():
        data = (root / "data").joinpath(*key.split("/")).read_bytes()
        assert hashlib.sha256(data).hexdigest() == metadata["sha256"], key
        assert metadata["units"]
        assert metadata["source"]
        total += len(data)
    assert 200_000 < total < 500_000


def test_shipped_data_is_made_by_the_tool(tmp_path: Path) -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_demo_data.py"))["tables"]()
    root = files("mountcache.cli.demo") / "data" / "data"
    for key, (text, _) in made.items():
        assert root.joinpath(*key.split("/")).read_text("utf-8") == text, key


def test_sun_of_the_tool_agrees_with_the_almanac() -> None:
    """Known events of 2024: equinox 20 March 03:06 UTC, solstice 20 June 20:51 UTC."""
    rows = {
        row.split(",")[0]: [float(field) for field in row.split(",")[1:]]
        for row in (files("mountcache.cli.demo") / "data" / "data" / "sun" / "2024.csv")
        .read_text("utf-8")
        .splitlines()[1:]
    }
    assert len(rows) == 366
    assert rows["2024-03-19"][0] < 0 < rows["2024-03-20"][0]
    assert max(rows, key=lambda day: rows[day][0]) == "2024-06-20"
    assert rows["2024-06-20"][0] == pytest.approx(23.44, abs=0.01)
    # Least in mid-February, greatest in early November; nearest to the Sun in early January.
    assert min(rows, key=lambda day: rows[day][1])[:7] == "2024-02"
    assert max(rows, key=lambda day: rows[day][1])[:7] == "2024-11"
    assert min(rows, key=lambda day: rows[day][2])[:7] == "2024-01"
