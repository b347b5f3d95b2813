"""The statements on the way of a read look keys up; none reads a table from end to end."""

from __future__ import annotations

import pytest

from mountcache.local.catalog import HIT, HIT_INDEXED
from mountcache.local.memory import MemoryStore
from mountcache.local.rows import ROW
from mountcache.mounted import MountedStore


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [(HIT, ("k", "boot")), (HIT_INDEXED, ("k", "boot")), (ROW, ("k",))],
    ids=["hit", "hit of an index", "row"],
)
def test_each_look_up_of_a_read_is_a_search_by_key(sql: str, parameters: tuple[str, ...]) -> None:
    with MountedStore("", MemoryStore(), MemoryStore()) as store:
        con = store.mount.catalog.content.connection()
        plan = [row[-1] for row in con.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    # The constant row that the tables are joined to is no table.
    steps = [step for step in plan if step not in ("SCAN CONSTANT ROW", "SCAN k")]
    tables = [step.split()[1] for step in steps if step.startswith(("SEARCH", "SCAN"))]
    assert tables, plan
    assert [step for step in steps if step.startswith("SCAN")] == [], plan
