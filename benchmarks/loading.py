"""What does an index of a million keys cost to take in, and to ask for again?"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

from benchmarks.catalogs import index_of, made, mounted, write_index
from benchmarks.surroundings import installed
from benchmarks.timing import Row, at_most, interleaved
from mountcache import MountedStore

__all__ = ["run"]


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return the first load, and polls, beside what json and orjson take for the same file.

    The index is a file that our store reads with validators, as from a web server: a poll that
    finds nothing new is one answer 304 of no bytes.
    """
    keys = 10_000 if quick else 1_000_000
    source = index_of(folder.parent, keys)
    text = (source / "index.json").read_bytes()

    parsed = None
    if installed("orjson"):
        import orjson

        def parsed() -> int:
            assert len(orjson.loads(text)) == keys
            return 1

    def parsed_slowly() -> int:
        assert len(json.loads(text)) == keys
        return 1

    directory, took = made(folder.parent, keys)
    loaded = interleaved(
        f"an index of {keys:,} keys, for the first time",
        {"orjson.loads": parsed, "json.loads": parsed_slowly},
        reference="orjson.loads",
        repeats=3,
        goals=(at_most("mountcache", 5, "orjson.loads"),),
    ).beside("mountcache", took)
    # The others want the catalog as it was.
    shutil.copytree(directory, folder / "polled")
    versions = [
        write_index(folder / "as it was.json", keys),
        write_index(folder / "changed.json", keys, range(0, keys, 1000)),
    ]
    index, turn = source / "index.json", itertools.count(1)
    before = index.stat()
    with mounted(folder / "polled", source) as store:
        written: list[tuple[int, int]] = []

        def unchanged() -> int:
            for _ in range(10):
                store.update_index()
            return 10

        def changed() -> int:
            at = _written()
            store.update_index()
            written.append((_written() - at, _rows(store)))
            return 1

        def replaced() -> None:
            number = next(turn) // 2  # it is called for both contenders
            aside = source / "aside"
            shutil.copyfile(versions[number % 2], aside)
            os.utime(aside, (before.st_mtime + number, before.st_mtime + number))
            aside.replace(index)

        store.update_index()
        still = interleaved(
            f"a poll of an index of {keys:,} keys, unchanged",
            {"orjson.loads": parsed, "mountcache": unchanged},
            reference="orjson.loads",
            repeats=5,
        )
        polls = interleaved(
            f"a poll of an index of {keys:,} keys, 0.1 % of them changed",
            {"orjson.loads": parsed, "mountcache": changed},
            reference="orjson.loads",
            repeats=2,
            warm=False,
            goals=(at_most("mountcache", 3, "orjson.loads"),),
            between=replaced,
        )
    write_index(index, keys)
    return [
        loaded,
        still,
        polls,
        Row(
            f"what a poll writes where {keys // 1000:,} of {keys:,} keys have changed",
            {
                "the index itself": [float(len(text))],
                "written to files": [float(each) for each, _ in written],
            },
            "the index itself",
            "B",
            (at_most("written to files", 0.5, "the index itself"),),
        ),
        Row(
            f"which rows a poll writes where {keys // 1000:,} of {keys:,} keys have changed",
            {
                "keys that changed": [float(keys // 1000)],
                "rows of the catalog": [float(max(each, 1)) for _, each in written],
            },
            "keys that changed",
            "rows",
        ),
    ]


def _written() -> int:
    """Return how many bytes this process has written to files so far."""
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["wchar"])


def _rows(store: MountedStore) -> int:
    """Return how many rows the index polled last has written."""
    con = store.mount.catalog.content.connection()
    sql = "SELECT count(*) FROM upstream WHERE gen_from = (SELECT value FROM state WHERE name = ?)"
    return int(con.execute(sql, ("gen",)).fetchone()[0])
