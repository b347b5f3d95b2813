"""What does a query cost, or a glob, among 10,000 keys, 100,000 and 1,000,000?"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.catalogs import catalog, entries, index_of, key, mounted, rows_of
from benchmarks.timing import Row, at_most, interleaved
from mountcache import MountedStore

__all__ = ["contenders", "run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return queries and globs beside a scan of a dict, and one indexed SELECT."""
    rows = []
    for keys in (1000, 10_000) if quick else (10_000, 100_000, 1_000_000):
        known = dict(entries(keys))
        con = rows_of(folder.parent, keys)
        repeats = 3 if quick or keys > 100_000 else 7
        with ExitStack() as stack:
            directory = catalog(folder.parent, keys)
            store = stack.enter_context(mounted(directory, index_of(folder.parent, keys)))
            chosen = keys * 2 // 3

            def scanned(known: dict = known, chosen: int = chosen) -> int:  # type: ignore[type-arg]
                found = [name for name, meta in known.items() if meta.get("n") == chosen]
                assert len(found) == 1
                return 1

            def selected(con=con, chosen: int = chosen) -> int:  # type: ignore[no-untyped-def]
                for _ in range(100):
                    sql = "SELECT key, meta FROM entry WHERE json_extract(meta, '$.n') = ?"
                    found = [(name, json.loads(meta)) for name, meta in con.execute(sql, (chosen,))]
                    assert len(found) == 1
                return 100

            rows.append(
                interleaved(
                    f"query of {keys:,} keys",
                    {
                        "one indexed SELECT": selected,
                        "a scan of a dict": scanned,
                        **contenders(store, keys),
                    },
                    reference="one indexed SELECT",
                    repeats=repeats,
                    goals=(at_most("exact match", 1e-3),) if keys == 1_000_000 else (),
                )
            )
            rows.append(_globs(store, known, keys, repeats))
    return rows


def contenders(store: MountedStore, keys: int) -> dict[str, Callable[[], int]]:
    """Return the queries of a store with so many keys."""
    chosen = keys * 2 // 3
    times = max(1, 20_000 // keys)
    kind = next(meta["kind"] for name, meta in entries(chosen + 1) if name == key(chosen))

    def exact() -> int:
        for _ in range(times):
            assert [name for name, _ in store.query(n=chosen)] == [key(chosen)]
        return times

    def two() -> int:
        for _ in range(times):
            assert [name for name, _ in store.query(n=chosen, kind=kind)] == [key(chosen)]
        return times

    def select() -> int:
        for _ in range(times):
            ((_, metadata),) = store.query(select=["kind"], n=chosen)
            assert metadata == {"kind": kind}
        return times

    return {"exact match": exact, "of two fields": two, "select": select}


def _globs(store: MountedStore, known: dict, keys: int, repeats: int) -> Row:  # type: ignore[type-arg]
    def globbed(pattern: str, matching: int, times: int) -> Callable[[], int]:
        def again() -> int:
            for _ in range(times):
                assert len(list(store.glob(pattern))) == matching
            return times

        return again

    folder = key(keys // 2).rpartition("/")[0]
    everywhere = f"*/{keys // 2:07}.*"

    def scanned() -> int:
        like = re.compile(fnmatch.translate(everywhere)).match
        assert len([name for name in known if like(name)]) == 1
        return 1

    return interleaved(
        f"glob of {keys:,} keys",
        {
            "a scan of a dict": scanned,
            "with a literal prefix, 1 matches": globbed(key(keys // 2)[:-1] + "?", 1, 100),
            "with a literal prefix, 10 match": globbed(key(keys // 2)[:-5] + "*", 10, 100),
            "with a literal prefix, all of 1,000 match": globbed(
                f"{folder}/*", min(1000, keys - keys // 2 // 1000 * 1000), 5
            ),
            "with none, 1 matches": globbed(everywhere, 1, 1),
        },
        reference="a scan of a dict",
        repeats=repeats,
    )
