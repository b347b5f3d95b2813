"""Contenders on the same bytes, interleaved in one run: only their ratios mean anything."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Goal", "Row", "at_least", "at_most", "interleaved", "shown", "table"]

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (0.0, "us")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0.0, "B")),
}
_SIZES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a contender must be, beside another of its row or by itself."""

    contender: str
    bound: float
    """A ratio, or a figure in the row's unit where there is no reference."""
    reference: str | None = None
    speed: bool = False
    """Whether the bound is the least speed beside the reference, not the most time or bytes."""

    def __str__(self) -> str:
        if self.reference is None:
            return f"{self.contender}: at most {self.bound:g}"
        if self.speed:
            return f"{self.contender}: at least {self.bound:g}x the speed of {self.reference}"
        return f"{self.contender}: at most {self.bound:g}x {self.reference}"


def at_most(contender: str, bound: float, reference: str | None = None) -> Goal:
    """Return the goal that a contender takes at most so many times what another takes."""
    return Goal(contender, bound, reference)


def at_least(contender: str, bound: float, reference: str) -> Goal:
    """Return the goal that a contender is at least so many times as fast as another."""
    return Goal(contender, bound, reference, speed=True)


@dataclass(frozen=True, slots=True)
class Row:
    """What one question came to."""

    question: str
    runs: Mapping[str, Sequence[float]]
    """What a unit of work took in each repeat of each contender."""
    reference: str
    """The contender that the others are compared with."""
    unit: str = "s"
    """What the runs are in: "s" or "B", another is shown as it is."""
    goals: Sequence[Goal] = ()
    missing: Sequence[str] = ()
    """Contenders that couldn't run, as they aren't installed here."""

    def median(self, name: str) -> float:
        """Return what a contender took, in the row's unit."""
        return statistics.median(self.runs[name])

    def spread(self, name: str) -> tuple[float, float]:
        """Return the lower and the upper quartile of a contender's runs."""
        runs = self.runs[name]
        if len(runs) < 2:
            return runs[0], runs[0]
        low, _, high = statistics.quantiles(runs, n=4, method="inclusive")
        return low, high

    def ratio(self, name: str, reference: str | None = None) -> float:
        """Return the median of a contender over that of the reference."""
        return self.median(name) / self.median(reference or self.reference)

    def met(self, goal: Goal) -> bool | None:
        """Return whether a goal is met; None where a contender of it is missing."""
        if goal.contender not in self.runs:
            return None
        if goal.reference is None:
            return self.median(goal.contender) <= goal.bound
        if goal.reference not in self.runs:
            return None
        ratio = self.ratio(goal.contender, goal.reference)
        return 1 / ratio >= goal.bound if goal.speed else ratio <= goal.bound

    def beside(self, name: str, value: float) -> Row:
        """Return the row with one more line, which was computed and not run."""
        return replace(self, runs={**self.runs, name: [value]})

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {
            "question": self.question,
            "unit": self.unit,
            "reference": self.reference,
            "contenders": {
                name: {
                    "median": self.median(name),
                    "quartiles": list(self.spread(name)),
                    "ratio": self.ratio(name),
                    "runs": list(runs),
                }
                for name, runs in self.runs.items()
            },
            "goals": [
                {
                    "says": str(goal),
                    "contender": goal.contender,
                    "bound": goal.bound,
                    "reference": goal.reference,
                    "speed": goal.speed,
                    "met": self.met(goal),
                }
                for goal in self.goals
            ],
            "missing": list(self.missing),
        }

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Row:
        """Return the row that an object of `as_json` is of."""
        return cls(
            written["question"],
            {name: each["runs"] for name, each in written["contenders"].items()},
            written["reference"],
            written["unit"],
            tuple(
                Goal(each["contender"], each["bound"], each["reference"], each["speed"])
                for each in written["goals"]
            ),
            tuple(written["missing"]),
        )


def interleaved(
    question: str,
    contenders: Mapping[str, Callable[[], int | float] | None],
    *,
    reference: str,
    repeats: int,
    goals: Sequence[Goal] = (),
    between: Callable[[], object] | None = None,
    warm: bool = True,
) -> Row:
    """Run each contender in turn, again and again.

    Parameters
    ----------
    contenders
        Each does some work, and returns how many units of it, or as a float
        what a unit took by its own clock. None: it isn't installed here, and is
        named as missing.
    reference
        The contender that others are compared with; if it is missing, the
        first that isn't.
    between
        Called before each run of each contender, outside the time taken.
    warm
        Whether each contender first runs once for nothing, so that caches and
        connections are there.
    """
    print(f"    {question}: ", end="", file=sys.stderr, flush=True)
    started = time.perf_counter()
    there = {name: work for name, work in contenders.items() if work is not None}
    runs: dict[str, list[float]] = {name: [] for name in there}
    for turn in range(-1 if warm else 0, repeats):
        for name, work in there.items():
            if between is not None:
                between()
            begun = time.perf_counter()
            done = work()
            took = time.perf_counter() - begun
            if turn >= 0:
                runs[name].append(done if isinstance(done, float) else took / done)
    print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return Row(
        question,
        runs,
        reference if reference in there else next(iter(there)),
        goals=goals,
        missing=[name for name in contenders if name not in there],
    )


def shown(value: float, unit: str, at: float | None = None) -> str:
    """Return a figure with its unit, three digits or more, scaled as ``at`` is."""
    if unit not in _SCALES:
        return f"{value:,.3g} {unit}"
    at = value if at is None else at
    name = next(name for least, name in _SCALES[unit] if at >= least)
    scaled = value / _SIZES[name]
    return f"{scaled:,.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {name}"


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, one line a contender."""
    lines = []
    for row in rows:
        lines.append(row.question)
        for name in row.runs:
            median = row.median(name)
            low, high = (shown(each, row.unit, median) for each in row.spread(name))
            lines.append(
                f"    {name:<38} {shown(median, row.unit):>12} {row.ratio(name):>8.2f}x"
                f"   ({low} to {high})"
            )
        lines += [f"    {name:<38} {'missing':>12}" for name in row.missing]
        lines += [f"    goal {_verdict(row.met(goal))}: {goal}" for goal in row.goals]
    return "\n".join(lines)


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[met]
