"""No update is lost or applied twice, whoever else writes and whatever gets lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.many.updates import count

ROUNDS = 150
"""``python -m tests.many.updates ours --rounds 100000`` does more."""


@pytest.mark.parametrize("together", [False, True], ids=["directories", "one-directory"])
def test_no_update_is_lost_or_done_twice(tmp_path: Path, together: bool) -> None:
    verdict = count("ours", ROUNDS, tmp_path, together=together, seed=7)
    assert verdict.acknowledged >= ROUNDS
    assert (verdict.lost, verdict.twice) == (0, 0), str(verdict)
    assert verdict.losses != "0 requests, 0 halves, 0 replies", "nothing got lost: it shows nothing"
