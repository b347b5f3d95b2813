"""Contenders on the same bytes, interleaved in one run: only their ratios mean anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Row", "interleaved", "table"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one question came to."""

    question: str
    seconds: Mapping[str, list[float]]
    """Seconds a unit of work, each repeat of each contender."""
    reference: str
    """The contender that the others are compared with."""

    def ratio(self, name: str) -> float:
        """Return the median time of a contender over that of the reference."""
        medians = {each: statistics.median(times) for each, times in self.seconds.items()}
        return medians[name] / medians[self.reference]


def interleaved(
    question: str,
    contenders: Mapping[str, Callable[[], int]],
    *,
    reference: str,
    repeats: int,
) -> Row:
    """Run each contender in turn, again and again.

    Parameters
    ----------
    contenders
        Each does some work, and returns how many units of it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()  # once for nothing: caches and connections are there
    for _ in range(repeats):
        for name, work in contenders.items():
            begun = time.perf_counter()
            units = work()
            seconds[name].append((time.perf_counter() - begun) / units)
    return Row(question, seconds, reference)


def table(rows: list[Row]) -> str:
    """Return rows as text, one line a contender."""
    lines = []
    for row in rows:
        lines.append(row.question)
        for name, times in row.seconds.items():
            median = statistics.median(times) * 1e6
            low, high = min(times) * 1e6, max(times) * 1e6
            lines.append(
                f"    {name:<34} {median:>12,.1f} us  {row.ratio(name):>6.2f}x"
                f"   ({low:,.1f} to {high:,.1f})"
            )
    return "\n".join(lines)
