"""Eight seconds of 32 threads on one directory; ``python -m tests.many.hammer`` takes minutes."""

from __future__ import annotations

from pathlib import Path

from tests.many.hammer import hammer


def test_nothing_is_lost_and_nobody_is_disturbed_where_many_are_at_work(tmp_path: Path) -> None:
    outcome = hammer(tmp_path, 8.0)
    assert outcome.good, str(outcome)
    assert outcome.acknowledged > 20
    # Each kind of work came to its turn.
    assert len(outcome.did) >= 8, str(outcome)
