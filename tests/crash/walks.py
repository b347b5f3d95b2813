"""Walks of several lives through one directory, each killed, each judged."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from tests.crash.judge import Heard, hear, judge
from tests.crash.life import BEGUN, KEYS, LOCAL, VERBS, Plan
from tests.crash.model import Model
from tests.crash.nursery import Ended, Nursery
from tests.crash.points import KINDS, MAKING, TORN, WITHIN, Target
from tests.crash.upstream import Upstream

__all__ = ["LIVES", "Verdict", "walk"]


@dataclass
class Verdict:
    """What a walk met."""

    kills: Counter[str] = field(default_factory=Counter)
    """Where lives were killed: when and at which kind of point, "at a time" or "at its end"."""
    points: Counter[str] = field(default_factory=Counter)
    """The points that lives passed."""
    calls: Counter[str] = field(default_factory=Counter)
    """The calls that they had acknowledged."""
    hands: Counter[str] = field(default_factory=Counter)
    """The calls that they were killed in."""

    @property
    def counts(self) -> dict[str, Counter[str]]:
        return {
            "killed": self.kills,
            "in the middle of": self.hands,
            "calls acknowledged": self.calls,
            "points passed": self.points,
        }


LIVES = 5

LENGTH = 60
"""Calls that a life makes if its target doesn't come."""


def walk(seed: int, nursery: Nursery, upstream: Upstream, verdict: Verdict) -> None:
    """Kill `LIVES` lives in one directory, one after the other, and judge after each.

    Raises
    ------
    AssertionError
        If anything isn't as promised.
    """
    chance = random.Random(f"walk {seed}")
    shm = Path("/dev/shm")
    directory = tempfile.mkdtemp(dir=shm if shm.is_dir() else None)
    prefix = f"w{seed}/"
    upstream.reset(prefix, BEGUN)
    model = Model(BEGUN)
    plan = Plan(f"{directory}/store", upstream.url, prefix, "", 1, LENGTH, None)
    unsettled: set[str] = set()
    try:
        for number in range(LIVES):
            target, seconds = _moment(chance, new=number == 0 and chance.random() < 0.3)
            plan = replace(
                plan,
                seed=f"{seed} {number}",
                first=1 + number * 1000,
                target=target,
                workers=1 if target else 3,
            )
            ended = nursery(plan, seconds)
            upstream.come_to_rest()
            try:
                heard = hear(model, ended, unsettled)
                _note(verdict, ended, heard, target, seconds)
                assert ended.signal == 9
                push = number == LIVES - 1 or chance.random() < 0.4
                if heard.hand is not None and heard.hand["do"] in ("push", "push_all"):
                    unsettled |= set(KEYS)
                model = judge(plan, heard, upstream, push=push)
                if push:
                    unsettled.clear()
            except Exception as error:
                error.add_note(_told(seed, number, plan, seconds, ended))
                raise
    finally:
        upstream.reset(prefix, {})
        shutil.rmtree(directory)


def _moment(chance: random.Random, *, new: bool) -> tuple[Target | None, float | None]:
    """Choose where or when to kill a life."""
    how = "making" if new else chance.choices(("time", "point", "call"), (2, 4, 4))[0]
    if how == "time":
        return None, chance.uniform(0.0, 0.12)
    kinds = {"making": MAKING, "point": KINDS, "call": WITHIN}[how]
    kind = chance.choice(list(kinds))
    whens = ("before", "after", "torn") if kind in TORN else ("before", "after")
    verbs = VERBS if kind in ("request", "answer") else (*VERBS, *LOCAL)
    call = chance.choice(list(verbs)) if how == "call" else ""
    return Target(kind, chance.randint(1, kinds[kind]), chance.choice(whens), call), None


def _note(
    verdict: Verdict, ended: Ended, heard: Heard, target: Target | None, seconds: float | None
) -> None:
    verdict.points.update(ended.points)
    begun = [words[1]["do"] for words in ended.said if words[0] == "begin"]
    verdict.calls.update(begun[:-1] if heard.hand else begun)
    if heard.hand is not None:
        verdict.hands[heard.hand["do"]] += 1
    if len(begun) == LENGTH and heard.hand is None:
        verdict.kills["at its end"] += 1
    elif seconds is not None:
        verdict.kills["at a time"] += 1
    else:
        assert target is not None
        verdict.kills[f"{target.when} {target.kind}"] += 1


def _told(seed: int, number: int, plan: Plan, seconds: float | None, ended: Ended) -> str:
    said = [f"{json.dumps(words)} x {len(list(same))}" for words, same in groupby(ended.said)]
    last = "\n".join(said[-30:])
    target = plan.target
    when = f"{target}, number {target.nth}" if target else f"{seconds} s after its begin"
    return (
        f"walk {seed}, life {number}, killed {when}; the last it said:\n{last}\n"
        f"again: python -m tests.crash --walk {seed}"
    )
