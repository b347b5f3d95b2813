"""kill -9 at 200 points and moments; ``tox -e crash`` does it at thousands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.nursery import Nursery
from tests.crash.points import KINDS
from tests.crash.upstream import Upstream
from tests.crash.walks import LIVES, Verdict, walk

WALKS = 5


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.mark.parametrize("first", range(1, 41, WALKS))
def test_what_was_acknowledged_survives_a_kill_and_reaches_upstream_once(
    nursery: Nursery, upstream: Upstream, first: int
) -> None:
    verdict = Verdict()
    for seed in range(first, first + WALKS):
        walk(seed, nursery, upstream, verdict)
    assert verdict.kills.total() == WALKS * LIVES
    # An SQLite whose calls of the system can't be seen would make this a lesser test.
    assert {kind for kind, often in KINDS.items() if often > 2} <= verdict.points.keys()
