"""Some hundred rounds of many writers; ``python -m tests.many.updates`` does any number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.many.updates import count


@pytest.mark.parametrize("together", [False, True], ids=["several directories", "one directory"])
def test_no_update_is_lost_where_the_server_compares(tmp_path: Path, together: bool) -> None:
    verdict = count("ours", 480, tmp_path, together=together, losing=0.1)
    print(verdict)
    assert verdict.acknowledged == 480
    assert (verdict.lost, verdict.twice) == (0, 0)
    assert verdict.race is None
    said = "conflicts here" if together else "conflicts upstream"
    assert verdict.told[said] > 0


@pytest.mark.parametrize("server", ["nginx", "rclone"])
def test_server_that_doesnt_compare_has_a_race_which_each_result_names(
    tmp_path: Path, server: str
) -> None:
    verdict = count(server, 150, tmp_path, losing=0.1)
    # How many were lost is a matter of luck, and is said; with no luck at all it is most of them.
    print(verdict)
    assert verdict.acknowledged > 100
    assert verdict.lost < verdict.acknowledged / 4
    assert verdict.twice == 0
    assert verdict.race is not None
    assert 0 < verdict.race < 1
