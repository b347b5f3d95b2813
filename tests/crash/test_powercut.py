"""The power goes at some steps of some lives; ``tox -e crash`` cuts it at each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash import powercut
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
