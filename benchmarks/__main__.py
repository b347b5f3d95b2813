"""Run benchmarks, and print what they came to. Each is a file of this folder with its question."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.pages import written
from benchmarks.surroundings import NotHere, surroundings
from benchmarks.timing import Row, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def named() -> dict[str, Any]:
    """Return all benchmarks by name: the modules of this folder that have a `run`."""
    found = {}
    for each in pkgutil.iter_modules(benchmarks.__path__):
        if each.name != "__main__":
            module = importlib.import_module(f"benchmarks.{each.name}")
            if hasattr(module, "run"):
                found[each.name] = module
    return found


def main() -> int:
    """Run what the command line asks for."""
    there = named()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less work: only to see that it runs")
    parser.add_argument(
        "--only", nargs="+", choices=sorted(there), metavar="NAME",
        help=f"these only, of {', '.join(there)}",
    )  # fmt: skip
    parser.add_argument("--dir", help="where to work; a real disk, not tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument(
        "--write-docs", action="store_true",
        help="put the tables into docs/performance.md; with --read, those of an earlier run",
    )  # fmt: skip
    parser.add_argument("--read", type=Path, metavar="FILE", help="run nothing, read such a file")
    asked = parser.parse_args()

    if asked.read is not None:
        document = json.loads(asked.read.read_text())
        for ran in document["benchmarks"].values():
            print(table([Row.of_json(row) for row in ran["rows"]]))
    else:
        names = asked.only or list(there)
        chosen = {name: there[name] for name in names}
        document = _run(chosen, asked.dir, asked.json, quick=asked.quick)
    if asked.write_docs:
        try:
            page = written(PAGE.read_text(), document)
        except (OSError, ValueError) as error:
            print(f"docs/performance.md is as it was: {error}", file=sys.stderr)
            return 1
        PAGE.write_text(page)
        for name, ran in document["benchmarks"].items():
            if hasattr(there[name], "plots"):
                rows = [Row.of_json(row) for row in ran["rows"]]
                there[name].plots(rows, PAGE.parent / "images")
    return 1 if document["failed"] else 0


def _run(
    chosen: dict[str, Any], place: str | None, told: Path | None, *, quick: bool
) -> dict[str, Any]:
    """Run benchmarks; return what they came to as a JSON object, which is also in the file."""
    ran: dict[str, Any] = {}
    failed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=place, prefix="benchmarks-") as top:
        document: dict[str, Any] = {
            **surroundings(Path(top)),
            "quick": quick,
            "benchmarks": ran,
            "left_out": left_out,
            "failed": failed,
        }
        for name, benchmark in chosen.items():
            folder = Path(top) / name
            folder.mkdir()
            try:
                ran[name] = _ran(name, benchmark, folder, quick=quick)
            except NotHere as error:
                left_out[name] = str(error)
            except Exception as error:  # noqa: BLE001 - the others are still worth their time
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}"
            shutil.rmtree(folder, ignore_errors=True)  # they take gigabytes
            if told is not None:  # a run that is interrupted has something to show
                told.write_text(json.dumps(document, indent=1) + "\n")
    if absent := [name for name, version in document["versions"].items() if version is None]:
        print(f"not installed, so left out: {', '.join(absent)}", file=sys.stderr)
    for name, why in left_out.items():
        print(f"{name} was left out: {why}", file=sys.stderr)
    for name, why in failed.items():
        print(f"{name} failed: {why}", file=sys.stderr)
    return document


def _ran(name: str, benchmark: Any, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark."""
    question = (benchmark.__doc__ or "").partition("\n")[0]
    print(f"{name}: {question}", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    rows = benchmark.run(folder, quick=quick)
    took = time.perf_counter() - begun
    print(table(rows), flush=True)
    print(f"    {took:.1f} s in all", file=sys.stderr, flush=True)
    return {
        "question": question,
        "took": round(took, 3),
        "rows": [row.as_json() for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
