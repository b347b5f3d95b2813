"""``python -m tests.crash``: kill many processes, cut the power often, and say what came of it."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from tests.crash import powercut
from tests.crash.nursery import Nursery
from tests.crash.points import KINDS, MAKING
from tests.crash.powercut import Cut, Traced
from tests.crash.upstream import Upstream
from tests.crash.walks import LIVES, Verdict, walk

LENGTH = 30
"""Calls in a life that is traced."""


class _Run:
    """What was tried, and what failed."""

    def __init__(self) -> None:
        self.failed = 0
        self._begun = time.monotonic()

    def __call__(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - it is told, and the next one is another
            traceback.print_exc()
            self.failed += 1

    def say(self, what: str, counts: dict[str, Counter[str]]) -> None:
        seconds = time.monotonic() - self._begun
        print(f"{datetime.now(UTC):%Y-%m-%d}: {what}, {seconds:.0f} s; failed: {self.failed}")
        for name, each in counts.items():
            print(f"  {name}: {', '.join(f'{kind} {n:,}' for kind, n in each.most_common())}")


def _kill(first: int, count: int, upstream: Upstream) -> int:
    run, verdict = _Run(), Verdict()
    with Nursery() as nursery:
        for seed in range(first, first + count):
            run(lambda seed=seed: walk(seed, nursery, upstream, verdict))  # type: ignore[misc]
    kills, last = verdict.kills.total(), first + count - 1
    run.say(f"{kills:,} kills in walks {first} to {last}", verdict.counts)
    unmet = {*KINDS, *MAKING} - verdict.points.keys()
    print(f"  points never met: {', '.join(sorted(unmet)) or 'none'}")
    return run.failed


def _cut(traced: Traced, upstream: Upstream) -> int:
    run, kept = _Run(), Counter[str]()
    for cut in powercut.every(traced):
        run(lambda cut=cut: powercut.check(traced, cut, upstream))  # type: ignore[misc]
        kept[cut.keeps] += 1
    plan = traced.plan
    run.say(
        f"{kept.total():,} power cuts, at each of {len(traced.steps):,} steps of trace "
        f"{plan.seed} of {plan.length} calls, durability {plan.durability}",
        {
            "the disk kept of what wasn't synced": kept,
            "steps": Counter(s.verb for s in traced.steps),
        },
    )
    return run.failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at least as many; 200")
    parser.add_argument(
        "--traces", type=int, default=0, help="cut the power at each step of as many lives; 0"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first walk and trace; 1")
    parser.add_argument("--walk", type=int, help="this walk alone")
    parser.add_argument(
        "--cut",
        nargs=6,
        metavar=("SEED", "LENGTH", "DURABILITY", "AT", "KEEPS", "WHIM"),
        help="this cut alone",
    )
    given = parser.parse_args()
    with Upstream() as upstream:
        if given.cut is not None:
            seed, length, durability, at, keeps, whim = given.cut
            traced = powercut.record(int(seed), int(length), upstream, durability=durability)
            powercut.check(traced, Cut(int(at), keeps, int(whim)), upstream)
            return 0
        if given.walk is not None:
            return _kill(given.walk, 1, upstream)
        failed = _kill(given.seed, -(-given.kills // LIVES), upstream) if given.kills else 0
        for seed in range(given.seed, given.seed + given.traces):
            durability = "normal" if (seed - given.seed) % 2 else "full"
            traced = powercut.record(seed, LENGTH, upstream, durability=durability)
            failed += _cut(traced, upstream)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
