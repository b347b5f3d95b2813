"""The power goes at each step of a life: what the disk held by then has to be enough.

``python -m tests.crash.powercut PLAN SAID`` is the life that is traced.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from mountcache.local import directory as places
from mountcache.local import diskcontent
from tests.crash.disks import KEEPING, Disk, Step, trace
from tests.crash.judge import Heard, history, judge, judge_staged, staged
from tests.crash.life import BEGUN, Plan, live, mounted
from tests.crash.model import Call, Model
from tests.crash.nursery import Ended
from tests.crash.upstream import Upstream

__all__ = ["Cut", "Traced", "check", "every", "record", "some"]

_PLACE = {"device": 1, "directory": 2, "database": 3}
"""Where a database says that it is: a disk that is made anew has other numbers."""


@dataclass(frozen=True)
class Traced:
    """A life, and what it asked of the disk."""

    plan: Plan
    steps: Sequence[Step]


def record(
    seed: int,
    length: int,
    upstream: Upstream,
    *,
    durability: str = "full",
    script: Sequence[Call] = (),
) -> Traced:
    """Let a life be lived under strace.

    Parameters
    ----------
    length
        How many calls it makes.
    """
    room = Path(tempfile.mkdtemp())
    base, said = room / "disk", room / "said"
    base.mkdir()
    prefix = f"cut{seed}/"
    upstream.reset(prefix, BEGUN)
    # Directories above the store are made, too.
    plan = Plan(
        f"{base}/some/where/store", upstream.url, prefix, str(seed), 1, length, None,
        small=True, durability=durability, script=script,
    )  # fmt: skip
    try:
        steps = trace(
            [sys.executable, "-m", "tests.crash.powercut", plan.as_json(), str(said)],
            base, said, PYTHONDONTWRITEBYTECODE="1", NO_PROXY="127.0.0.1",
        )  # fmt: skip
    finally:
        shutil.rmtree(room)
        upstream.reset(prefix, {})
    return Traced(plan, steps)


@dataclass(frozen=True)
class Cut:
    """A moment at which the power goes, and what the disk keeps of what wasn't synced."""

    at: int
    keeps: str
    seed: int = 0


def every(traced: Traced) -> Iterator[Cut]:
    """Return all cuts of a trace, with all that a disk may keep."""
    for at in range(len(traced.steps) + 1):
        yield from (Cut(at, keeps, at) for keeps in KEEPING)


def some(traced: Traced, count: int) -> Iterator[Cut]:
    """Return some cuts of a trace, as many of each kind."""
    chance = random.Random(traced.plan.seed)
    for number, keeps in zip(range(count), itertools.cycle(KEEPING), strict=False):
        yield Cut(chance.randrange(len(traced.steps) + 1), keeps, number)


def check(traced: Traced, cut: Cut, upstream: Upstream) -> None:
    """Cut the power, open what is left, and judge it.

    Raises
    ------
    AssertionError
        If anything isn't as promised.
    """
    disk = Disk(traced.steps[: cut.at], cut.keeps, cut.seed)
    room = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    plan = replace(traced.plan, directory=f"{room}/some/where/store")
    said = [json.loads(line) for line in disk.said.splitlines()]
    try:
        disk.write_to(room)
        with _another_boot():
            _judge(plan, history(Model(BEGUN), Ended(said, 9, "")), upstream, cut)
            with mounted(plan) as store:
                store.set(plan.prefix + "after", (io.BytesIO(b"the cut"), {}))
                assert store.to_bytes(plan.prefix + "after") == b"the cut"
    except Exception as error:
        error.add_note(_told(traced, cut, said))
        raise
    finally:
        shutil.rmtree(room)


def _judge(plan: Plan, lived: list[Heard], upstream: Upstream, cut: Cut) -> None:
    heard = lived[-1]
    if plan.durability != "full":
        upstream.reset(plan.prefix, heard.model.upstream)
        judge_staged(plan, lived, upstream)
        return
    heard = Heard(replace(heard.model, changes={}), heard.hand)
    sent = heard.model
    if heard.hand is not None and heard.hand["do"] in ("push", "push_all"):
        # What isn't staged here any more has arrived; of the rest any may have.
        here, whim = staged(plan), random.Random(cut.seed)
        keys = sent.edits if heard.hand["do"] == "push_all" else [heard.hand["key"]]
        for key in sorted(sent.edits.keys() & set(keys)):
            if key not in here or whim.random() < 0.5:
                sent = sent.sent(key, acknowledged=False)
    upstream.reset(plan.prefix, sent.upstream)
    for key, changed in sent.changes.items():
        upstream.note(plan.prefix + key, [change.version for change in changed])
    judge(plan, heard, upstream, push=True, torn_copies=True)


def _told(traced: Traced, cut: Cut, said: list[object]) -> str:
    plan = traced.plan
    asked = (
        f"{each.verb} {each.inode} {each.name or each.at} {each.other or len(each.data)}"
        for each in traced.steps[max(0, cut.at - 12) : cut.at]
    )
    again = f"{plan.seed} {plan.length} {plan.durability} {cut.at} {cut.keeps} {cut.seed}"
    return "\n".join(
        [
            f"{plan.prefix} {plan.durability}, {cut}; the last it said:",
            *map(json.dumps, said[-6:]),
            "the last it asked of the disk:",
            *asked,
            f"again: python -m tests.crash --cut {again}",
        ]
    )


@contextmanager
def _another_boot() -> Iterator[None]:
    with (
        mock.patch.object(diskcontent, "_boot", return_value="the boot after the cut"),
        mock.patch.object(places, "_place", return_value=_PLACE),
    ):
        yield


def main() -> None:
    plan, said = Plan.from_json(sys.argv[1]), sys.argv[2]
    with mock.patch.object(places, "_place", return_value=_PLACE):
        live(plan, os.open(said, os.O_WRONLY | os.O_CREAT, 0o600), armed=False)


if __name__ == "__main__":
    main()
