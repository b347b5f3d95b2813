"""Statements on the way of a verb look keys up; none reads a table from end to end unasked."""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.local import connection
from mountcache.local.catalog import HIT, HIT_INDEXED
from mountcache.local.connection import GuardedConnection
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.local.partial import begun
from mountcache.local.residence import rows_where, sizes
from mountcache.local.rows import ROW
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue

Plans = dict[str, list[str]]
"""The plans of statements, by the statement as it stands in the code."""


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


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    """Note the plan of each statement that our connections run, as it is run first.

    As it stands in the code: SQLite makes another plan where it knows what stands for "?".
    """
    found: Plans = {}
    execute = sqlite3.Connection.execute

    def note(con: sqlite3.Connection, sql: str, parameters: Any) -> None:
        text = " ".join(sql.split())
        if text not in found and re.match("SELECT|INSERT|UPDATE|DELETE|WITH", text):
            with con.guard if isinstance(con, GuardedConnection) else nullcontext():
                plan = execute(con, f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            found[text] = [step for *_, step in plan]

    rows, many = GuardedConnection.rows, GuardedConnection.executemany

    def noting_rows(self: GuardedConnection, sql: str, parameters: Any = (), /) -> list[Any]:
        note(self, sql, parameters)
        return rows(self, sql, parameters)

    def noting_many(self: GuardedConnection, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        given = list(parameters)
        if given:
            note(self, sql, given[0])
        return many(self, sql, given)

    def noting(con: sqlite3.Connection, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        note(con, sql, parameters)
        return execute(con, sql, parameters)

    monkeypatch.setattr(GuardedConnection, "rows", noting_rows)
    monkeypatch.setattr(GuardedConnection, "executemany", noting_many)
    monkeypatch.setattr(connection, "_execute", noting)
    return found


_SMALL = ("state", "Settings", "sqlite_master", "field_name")
"""Tables of a few dozen rows at most, however much a store holds."""

_LOAD = "once a load of an index, which reads as many rows anyway"
_TOLD = "a verb that shows all of it asks for all of it"
_ALLOWED: Final = {
    "SELECT 1 FROM upstream LIMIT 1": "the first row of all",
    "INSERT INTO changed SELECT i.key FROM incoming i": _LOAD,
    "FROM withheld w WHERE substr(u.key": f"{_LOAD}; the folders that it says nothing of",
    "SELECT count(*) FROM changed": _LOAD,
    "SELECT count(*) FROM upstream WHERE NOT present": _LOAD,
    "SELECT n.key, n.present, n.version, n.size, coalesce(o.present, 0) FROM changed d": (
        f"{_LOAD}; at most 1,000 of what has changed"
    ),
    "+ (SELECT coalesce(sum(size), 0) FROM partial)": (
        "downloads that broke off: they take up to hundreds of megabytes each, so they are few"
    ),
    "DELETE FROM partial WHERE name = ?": "as above; once a download of a large value",
    "SELECT name FROM partial": "as above; once a gc",
    "FROM partial WHERE boot IS NOT ?": "as above; once an opening",
    "SELECT key, version, CAST(size AS INTEGER), name, boot FROM partial": (
        "as above; where room is short"
    ),
    "FROM undo WHERE key = ? OR seq IN (SELECT seq FROM undo ORDER BY seq LIMIT 2)": (
        "the first two rows, in their order"
    ),
    "FROM undo WHERE 1 ORDER BY seq": "once for a quarter of the room for undo, or a gc",
    "base_entry, taken, why FROM undo ORDER BY seq DESC": _TOLD,
    "DELETE FROM done WHERE seq IN (SELECT seq FROM done ORDER BY seq LIMIT 100)": (
        "the first hundred rows, in their order"
    ),
    "DELETE FROM grp WHERE grp NOT IN (SELECT grp FROM edit)": (
        "the groups that users gave a name, where they name another"
    ),
    "SELECT grp, name FROM grp": "the groups that users gave a name",
    "LIMIT 1 OFFSET 1000": "the first thousand rows, once a query that has no index",
    "FROM op o ORDER BY edit_seq": "once a push or a status: the requests under way",
    "SELECT 1 FROM op WHERE state = 'sending' LIMIT 1": "once a push: the requests under way",
    "SELECT key FROM edit WHERE grp IN (SELECT value FROM json_each(?))": "sorts some groups",
    "SELECT e.key FROM edit e CROSS JOIN copy c ON c.key = e.key": "once a status: the edits",
    "FROM permission ORDER BY seq": "once a push or a status: the permissions that are staged",
    "coalesce(c.pinned, 0) FROM (SELECT": "sorts a page of 1,000 keys",
    "SELECT (SELECT count(*) FROM edit), (SELECT value": _TOLD,
    "SELECT count(*) FROM upstream u WHERE": f"{_TOLD}; and a push of more than 10 deletes",
    "FROM edit e CROSS JOIN copy c ON c.key = e.key WHERE c.pinned": f"{_TOLD}: what is staged",
    "SELECT key FROM edit WHERE grp IN (SELECT value FROM json_each(?)) ORDER BY seq": (
        "once a hold, and sorts the keys of some groups"
    ),
    "tries, error FROM permission ORDER BY seq": f"{_TOLD}: what is staged of permissions",
    "WHERE NOT c.pinned),": (
        "once a prefetch, and once for each value above 1 MiB of it: what is staged and pinned"
    ),
    "(SELECT coalesce(sum(size), 0) FROM copy WHERE pinned)": _TOLD,
    "SELECT key, content, size FROM copy WHERE NOT pinned AND key NOT IN": (
        "read in the order of an index, until there is room enough"
    ),
}
"""What statements may scan or sort, by a part of each, and why."""


def _scans(sql: str, plan: list[str]) -> list[str]:
    """Return the steps of a plan that read a whole table or index, or sort one."""
    # What stands for rows that the statement itself makes or is given.
    made = set(re.findall(r"\) (?:AS )?(\w+)\b", sql)) | {"CONSTANT", "json_each"}
    return [
        step
        for step in plan
        if "AUTOMATIC" in step
        or step.startswith("USE TEMP B-TREE")
        or (step.startswith("SCAN") and step.split()[1] not in {*made, *_SMALL})
    ]


def _put(store: Any, key: str, data: bytes, **metadata: Any) -> None:
    store.set(key, StringValue(data, metadata))


def _live(store: MountedStore, origin: Any, folder: Path) -> None:
    """Do with a store whatever can be done with one."""
    _read(store)
    _edit(store)
    _look(store)
    # Somebody else changes what is staged here, and what isn't.
    _put(origin, "dir/6", b"theirs", n=6)
    _put(origin, "dir/1", b"theirs", n=1)
    report = sync.push(store)
    assert {each.outcome for each in report.results} == {"pushed", "conflict"}, report
    assert sync.in_conflict(store, "dir/6") is not None
    sync.resolve(store, "dir/6", "theirs")
    origin.delete("dir/2")
    sync.pull(store)
    sync.prefetch(store, "dir/*")
    sync.prefetch_locked(store, sync.lock(store, "dir/*"))
    sync.pin_keys(store, [key for key in store.glob("dir/1*") if key != "dir/1"])
    sync.verify(store)
    _put(store, "bundled", b"bundled", n=1)
    sync.export_bundle(store, folder / "bundle")
    store.revert("bundled")
    sync.import_bundle(store, folder / "bundle", again=True)
    sync.export_tree(store, "dir/*", folder / "tree")
    sync.import_tree(store, folder / "tree", "imported/")
    assert store.push("bundled").outcome == "pushed"
    list(sync.prune(store, to=0))
    sync.gc(store)


def _read(store: MountedStore) -> None:
    store.update_index()
    for number in range(12):
        store.to_bytes(f"dir/{number}")
    store.to_bytes("large")
    store.get_data_range("large", 10, 20).read()
    store.get("late/2").range(10, 20).read()
    list(store.multiget_metadata(["dir/1", "dir/2"]))
    assert store.exists("dir/1")
    assert not store.exists("nowhere")
    assert list(store.query_keys(n=3)) == ["dir/3"]
    assert list(store.query(select=["n"], n=3, kind="a")) == [("dir/3", {"n": 3})]
    assert len(list(store.glob("dir/*"))) == 30
    assert len(list(store.cached())) == 13


def _edit(store: MountedStore) -> None:
    _put(store, "mine", b"mine", n=1)
    _put(store, "mine", b"mine again", n=2)
    _put(store, "large", b"y" * 100_000, n=2)
    with store.transaction("several", group="named"):
        store.get_metadata("dir/3")
        for number in range(3):
            _put(store, f"new/{number}", b"new", n=number)
        store.delete("dir/3")
    store.update_metadata("dir/4", {"n": 44})
    store.set_metadata("dir/5", {"n": 55})
    store.set_data("dir/6", io.BytesIO(b"six"))
    store.mv("dir/7", "moved/7")
    store.cp("dir/8", "copied/8")
    store.delete("dir/9")
    store.revert("dir/9")
    _put(store, "taken", b"taken", n=1)
    store.revert("taken")
    store.undo("taken")
    store.hold("taken")
    store.unhold("taken")
    store.pin("dir/10")
    store.unpin("dir/10")
    store.drop("dir/10")


def _look(store: MountedStore) -> None:
    assert list(store.staged())
    assert list(store.taken())
    assert list(store.log())
    assert list(store.log("mine"))
    store.changes()
    store.stats()
    assert sync.status(store).edits
    sync.status(store, group="named")
    sync.status(store, remote=True)
    assert sync.plan(store).steps
    assert list(sync.diff(store))
    assert list(sync.diff(store, against="upstream"))
    sync.whereis(store, "dir/1")
    for which in ("cached", "staged", "pinned", "missing"):
        list(sync.residents(store, which))
    list(sync.residents_of(store, ["mine"]))
    sync.readiness(store)
    sync.du(store)
    sync.room(store)
    sync.about(store)


@pytest.fixture
def lived(plans: Plans, tmp_path: Path) -> Iterator[Plans]:
    """Give the plans of all statements of the lives of two stores."""
    with ExitStack() as stack:
        for name in ("dynamic", "static"):
            folder = tmp_path / name
            origin = stack.enter_context(DiskCacheStore(folder / "origin", min_free=0))
            for number in range(30):
                _put(origin, f"dir/{number}", b"%d" % number, n=number, kind="a")
            for number in range(3):
                _put(origin, f"late/{number}", b"x" * 3_000_000, n=1)
            _put(origin, "large", b"x" * 100_000, n=1)
            url = stack.enter_context(Origin(origin)).url
            backing = (
                StaticURLStore(url)
                if name == "static"
                else DynamicURLStore(f"{url}keys", f"{url}query")
            )
            # What is read last doesn't fit beside what was read first.
            local = DiskCacheStore(folder / "local", size_limit=4_000_000, min_free=0)
            store = stack.enter_context(MountedStore("", local, backing))
            _live(store, origin, folder)
            store.to_bytes("late/0")
            store.to_bytes("late/1")
            assert "late/0" not in store.cached()
        yield plans


def test_no_statement_scans_unasked(lived: Plans) -> None:
    assert len(lived) > 100
    scanning = {sql: plan for sql, plan in lived.items() if _scans(sql, plan)}
    unasked = {
        sql: plan
        for sql, plan in scanning.items()
        if not any(allowed in sql for allowed in _ALLOWED)
    }
    assert unasked == {}
    # What doesn't scan any more leaves the list.
    assert [each for each in _ALLOWED if not any(each in sql for sql in scanning)] == []


@pytest.mark.parametrize("prefix", ["dir/", "", "\U0010ffff"])
def test_keys_of_a_prefix_are_looked_up_between_two_bounds(plans: Plans, prefix: str) -> None:
    with MountedStore("", MemoryStore(), MemoryStore()) as store:
        for key in ("a", "dir/1", "dir/2", "e", "\U0010ffff\U0010ffff"):
            _put(store, key, b"x")
        content = store.mount.catalog.content
        plans.clear()
        wanted = [key for key in sorted(store.query_keys()) if key.startswith(prefix)]
        assert list(store.glob(f"{prefix}*")) == wanted
        assert [row.key for row, _ in rows_where(content, "staged", prefix=prefix)] == wanted
        assert [key for key, _ in sizes(content, "edit", prefix)] == wanted
        assert list(begun(content, prefix)) == []
    bounded = {sql: plan for sql, plan in plans.items() if "key < " in sql}
    assert len(bounded) >= 4
    assert {sql: plan for sql, plan in bounded.items() if "(key>?)" in "".join(plan)} == {}


def test_what_was_taken_away_of_a_key_is_looked_up_by_it(plans: Plans) -> None:
    with MountedStore("", MemoryStore(), MemoryStore()) as store:
        _put(store, "k", b"x")
        store.revert("k")
        plans.clear()
        assert [taken.key for taken in store.taken("k")] == ["k"]
    (plan,) = (plan for sql, plan in plans.items() if "FROM undo" in sql)
    assert plan == ["SEARCH undo USING INDEX undo_key (key=?)"]
