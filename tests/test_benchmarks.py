"""Promises of the benchmarks: that they run, not what they come to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import named
from benchmarks.pages import written
from benchmarks.surroundings import program
from benchmarks.timing import Row, at_least, at_most, interleaved, table
from tests.command import ROOT, environment

BENCHMARKS = sorted(named())


def test_each_benchmark_runs_quickly_and_tells_its_figures(tmp_path: Path) -> None:
    told = tmp_path / "figures.json"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--dir", tmp_path, "--json", told],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    document = json.loads(told.read_text())
    assert document["failed"] == {}
    assert document["quick"] is True
    assert document["machine"]["cores"] >= 1
    assert {"mountcache", "Python", "SQLite", "diskcache"} <= document["versions"].keys()
    # Some need nginx, and say so.
    assert sorted(document["benchmarks"].keys() | document["left_out"].keys()) == BENCHMARKS
    assert all("nginx" in why for why in document["left_out"].values())
    assert program("nginx") is None or not document["left_out"]
    for name, ran in document["benchmarks"].items():
        assert ran["question"].endswith("?"), f"{name} doesn't ask a question"
        assert ran["rows"], f"{name} gave no row"
        for row in ran["rows"]:
            assert row["question"] in ended.stdout
            assert row["reference"] in row["contenders"]
            assert Row.of_json(row).as_json() == row
            for contender in row["contenders"].values():
                assert contender["runs"]
                assert contender["median"] > 0
            known = {*row["contenders"], *row["missing"], None}
            for goal in row["goals"]:
                assert {goal["contender"], goal["reference"]} <= known
    assert list(tmp_path.iterdir()) == [told], "a benchmark left something behind"


def test_benchmarks_load_without_the_peers() -> None:
    """What is installed here isn't everywhere: a peer is imported where it is run."""
    peers = {
        "aiohttp", "cachecontrol", "encore", "fsspec", "hishel", "matplotlib", "orjson", "pooch",
        "requests_cache", "zarr",
    }  # fmt: skip
    code = (
        "import sys\nfrom benchmarks.__main__ import named\nnamed()\n"
        f"print(*(set(sys.modules) & {peers!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == ""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_asks_a_question(name: str) -> None:
    assert named()[name].__doc__.partition("\n")[0].endswith("?")


def test_the_page_has_a_place_for_each_benchmark() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    marked = re.findall(r"<!-- benchmark (\w+) -->", page)
    assert sorted(marked) == sorted([*BENCHMARKS, "machine"])


def test_goals_are_judged_by_medians_and_fail_nothing() -> None:
    row = Row(
        "work",
        {"peer": [1.0, 2.0, 9.0], "ours": [3.0, 3.0, 3.0]},
        "peer",
        goals=(
            at_most("ours", 1.5, "peer"),
            at_most("ours", 1.4, "peer"),
            at_least("ours", 0.6, "peer"),
            at_least("ours", 0.7, "peer"),
            at_most("ours", 3.0),
            at_most("ours", 2.9),
            at_most("ours", 1.0, "absent"),
        ),
    )
    verdicts = [row.met(goal) for goal in row.goals]
    assert verdicts == [True, False, True, False, True, False, None]
    assert table([row]).count("MISSED") == 3


def test_peers_that_are_not_installed_are_named_and_not_run() -> None:
    row = interleaved(
        "work", {"absent": None, "ours": lambda: 1}, reference="absent", repeats=2
    ).beside("the least", 1e-9)
    assert (row.reference, row.missing) == ("ours", ["absent"])
    assert len(row.runs["ours"]) == 2
    assert "absent" in table([row])


def test_bytes_are_told_as_bytes() -> None:
    assert "1.50 MB" in table([Row("peak", {"ours": [1.5e6]}, "ours", "B")])


def test_figures_come_between_markers_and_prose_stays() -> None:
    page = (
        "# Speed\nWritten by hand.\n<!-- benchmark one -->\nold\n<!-- end of benchmark -->\n"
        "More words.\n<!-- benchmark other -->\nkept\n<!-- end of benchmark -->\nThe end.\n"
    )
    row = Row("A question?", {"a | b": [1.0], "c": [0.5]}, "c", goals=(at_most("c", 1, "a | b"),))
    document = {"benchmarks": {"one": {"rows": [row.as_json()]}}}
    new = written(page, document)
    assert "old" not in new
    assert "| a \\| b | 1.00 s |" in new
    assert "Goal met: c: at most 1x a | b." in new
    for kept in ("Written by hand.", "More words.", "kept", "The end."):
        assert kept in new
    assert written(new, document) == new


def test_figures_without_a_place_on_the_page_are_an_error() -> None:
    with pytest.raises(ValueError, match="no <!-- benchmark NAME --> for one"):
        written("# Speed\n", {"benchmarks": {"one": {"rows": []}}})
