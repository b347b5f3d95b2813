"""The power goes at some steps of some lives; ``tox -e crash`` cuts it at each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash import powercut
from tests.crash.disks import KEEPING
from tests.crash.model import Call
from tests.crash.powercut import Cut
from tests.crash.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_a_power_cut(upstream: Upstream, seed: int) -> None:
    traced = powercut.record(seed, 25, upstream)
    for cut in powercut.some(traced, 84):
        powercut.check(traced, cut, upstream)


def test_store_that_was_being_made_at_a_power_cut_is_made_on(upstream: Upstream) -> None:
    traced = powercut.record(3, 0, upstream)
    for cut in powercut.some(traced, 70):
        powercut.check(traced, cut, upstream)


def test_normal_durability_loses_the_last_moments_and_tears_nothing(upstream: Upstream) -> None:
    traced = powercut.record(4, 30, upstream, durability="normal")
    for cut in powercut.some(traced, 140):
        powercut.check(traced, cut, upstream)


def test_bytes_are_removed_once_it_is_on_disk_that_no_row_names_them(upstream: Upstream) -> None:
    # What was staged durably, then pushed and dropped in the last moments, may be staged again.
    script: list[Call] = [
        {"do": "set", "key": "a", "size": 40_000, "n": 1},
        {"do": "reopen"},
        {"do": "push", "key": "a", "n": 2},
        {"do": "drop", "key": "a", "n": 3},
    ]
    traced = powercut.record(5, 0, upstream, durability="normal", script=script)
    removed = [step.verb == "name" and step.name.endswith(".val") for step in traced.steps]
    last = max(number for number, found in enumerate(removed) if found)
    for keeps in KEEPING:
        powercut.check(traced, Cut(last + 1, keeps), upstream)


def test_push_of_what_was_pushed_and_edited_since_is_a_conflict(upstream: Upstream) -> None:
    script: list[Call] = [
        {"do": "set", "key": "a", "size": 100, "n": 1},
        {"do": "reopen"},
        {"do": "push", "key": "a", "n": 2},
        {"do": "set_data", "key": "a", "size": 100, "n": 3},
        {"do": "push", "key": "a", "n": 4},
    ]
    traced = powercut.record(6, 0, upstream, durability="normal", script=script)
    for keeps in KEEPING:
        powercut.check(traced, Cut(len(traced.steps), keeps), upstream)
