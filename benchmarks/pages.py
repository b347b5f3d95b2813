"""Tables of a run in a page of the documents, between markers; what is around them stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmarks.timing import Row, shown

__all__ = ["written"]

_MARKED = re.compile(
    r"(<!-- benchmark (?P<name>[\w-]+) -->\n).*?(<!-- end of benchmark -->)", re.DOTALL
)


def written(page: str, document: Mapping[str, Any]) -> str:
    """Return a page with the figures of a run.

    Between ``<!-- benchmark NAME -->`` and ``<!-- end of benchmark -->`` there
    come the tables of that benchmark, or for the name ``machine`` what the run
    was made with. A benchmark that the run has not made stays as it was.

    Raises
    ------
    ValueError
        The page has no marker for a benchmark of the run.
    """
    benchmarks = document["benchmarks"]
    there = {found["name"] for found in _MARKED.finditer(page)}
    if unmarked := [name for name in benchmarks if name not in there]:
        raise ValueError(f"the page has no <!-- benchmark NAME --> for {', '.join(unmarked)}")

    def filled(found: re.Match[str]) -> str:
        if found["name"] == "machine":
            body = _machine(document)
        elif found["name"] in benchmarks:
            rows = [Row.of_json(row) for row in benchmarks[found["name"]]["rows"]]
            body = "\n".join(_table(row) for row in rows)
        else:
            return found[0]
        return f"{found[1]}{body}{found[3]}"

    return _MARKED.sub(filled, page)


def _machine(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in document["versions"].items() if version
    )
    return (
        f"{document['date'][:10]}, {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory'] / 2**30:.0f} GiB, {machine['system']} {machine['kernel']}, "
        f"{machine['file system']}. {versions}.\n"
    )


def _table(row: Row) -> str:
    lines = [
        f"**{row.question}**",
        "",
        "| | median | quartiles | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name in row.runs:
        median = row.median(name)
        low, high = (shown(each, row.unit, median) for each in row.spread(name))
        lines.append(
            f"| {_cell(name)} | {shown(median, row.unit)} | {low} to {high} "
            f"| {row.ratio(name):.2f} |"
        )
    lines.append("")
    if row.goals:
        lines += [f"Goal {_verdict(row.met(goal))}: {goal}.  " for goal in row.goals]
        lines.append("")
    if row.missing:
        lines += [f"Not installed: {', '.join(row.missing)}.", ""]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "not measured"}[met]
