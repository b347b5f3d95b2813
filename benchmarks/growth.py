"""How does cost grow, from a thousand keys to a million and from a kibibyte to a gibibyte?"""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.catalogs import catalog, index_of, key, made, mounted, write_index
from benchmarks.timing import Row, interleaved
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue, sync
from mountcache.serve import OriginProcess

__all__ = ["plots", "run"]

_MIB = 1048576
_KEYS, _BYTES = ", by keys", ", by bytes"
_LINEAR = "what is linear"
_SIZES = {"KiB": 1024, "MiB": _MIB, "GiB": 1024 * _MIB}


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return what each thing takes at several sizes, and by how much it grows at each tenfold.

    What is flat grows 1 time, what is linear 10 times. The growth is that of the line of least
    squares through the logarithms.
    """
    counts = (100, 1000) if quick else (1000, 10_000, 100_000, 1_000_000)
    sizes = (1024, 128 * 1024) if quick else (1024, 32 * 1024, _MIB, 32 * _MIB, 1024 * _MIB)
    with ExitStack() as stack:
        rows = [
            *_by_keys(folder, counts, stack, quick=quick),
            *_by_staged(folder, (10, 100) if quick else (100, 1000, 10_000), stack),
            *_by_bytes(folder, sizes, stack),
        ]
    for what, many in ((_KEYS, "keys"), (_BYTES, "bytes")):
        grown = {row.question: [grows(row)] for row in rows if row.question.endswith(what)}
        rows.append(
            Row(f"growth at ten times as many {many}", {_LINEAR: [10.0], **grown}, _LINEAR, "times")
        )
    return rows


def grows(row: Row) -> float:
    """Return by how much a row grows where its size grows tenfold."""
    points = [(math.log10(at), math.log10(row.median(name))) for name, at in _at(row)]
    middle = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    up = sum((x - middle[0]) * (y - middle[1]) for x, y in points)
    return float(10 ** (up / sum((x - middle[0]) ** 2 for x, _ in points)))


def _at(row: Row) -> Iterator[tuple[str, int]]:
    """Iterate over the contenders of a row and the sizes that they name."""
    for name in row.runs:
        count, _, unit = name.partition(" ")
        yield name, int(count.replace(",", "")) * _SIZES.get(unit, 1)


def _by_keys(folder: Path, counts: Sequence[int], stack: ExitStack, *, quick: bool) -> list[Row]:
    lines: dict[str, dict[str, Callable[[], int]]] = {}
    loads: dict[str, list[float]] = {}
    for count in counts:
        name = f"{count:,} keys"
        source = index_of(folder.parent, count)
        directory, loads[name] = catalog(folder.parent, count), [made(folder.parent, count)[1]]
        own = folder / f"own {count}"
        shutil.copytree(directory, own)
        (folder / f"source {count}").mkdir()
        store = stack.enter_context(mounted(directory, source))
        polled = stack.enter_context(mounted(own, source))
        for what, work in {
            "open and look one key up": _opened(directory, source),
            "look one key up": _looked_up(store),
            "glob of 10 keys with a literal prefix": _globbed(
                store, f"{key(count // 2)[:-5]}*", 10
            ),
            "glob of 1 key without": _globbed(store, f"*/{count // 2:07}.*", 1),
            "query that one key matches": _queried(store, count // 2),
            "list all keys": _listed(store, count),
            "poll that finds nothing new": _polled(polled),
        }.items():
            lines.setdefault(what + _KEYS, {})[name] = work
    rows = [
        interleaved(what, line, reference=next(iter(line)), repeats=2 if quick else 3)
        for what, line in lines.items()
    ]
    first = f"{counts[0]:,} keys"
    rows.append(Row(f"take an index in{_KEYS}", loads, first))
    # A million keys take most of a minute a poll: `loading` has them.
    rows.append(_changed(folder, counts[:3]))
    return rows


def _changed(folder: Path, counts: Sequence[int]) -> Row:
    """Return polls that find one key in a thousand changed."""
    runs: dict[str, list[float]] = {}
    for count in counts:
        source = index_of(folder.parent, count)
        with mounted(folder / f"own {count}", source) as store:
            # Each is another index than the one before, and the last is the first again.
            runs[f"{count:,} keys"] = [
                _timed(store.update_index)
                for _ in _each_index(source, count, [range(0, count, 1000), ()])
            ]
    return Row(f"poll that finds 0.1 % changed{_KEYS}", runs, f"{counts[0]:,} keys")


def _each_index(source: Path, count: int, changes: Sequence[Any]) -> Iterator[None]:
    index = source / "index.json"
    before = index.stat().st_mtime
    for number, changed in enumerate(changes, 1):
        write_index(source / "aside", count, changed).replace(index)
        os.utime(index, (before + number, before + number))
        yield


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _opened(directory: Path, source: Path) -> Callable[[], int]:
    def again() -> int:
        for _ in range(5):
            with mounted(directory, source) as store:
                store.mount.catalog.row("nothing")
        return 5

    return again


def _looked_up(store: MountedStore) -> Callable[[], int]:
    def again() -> int:
        for number in range(50):
            assert store.get_metadata(key(number))["n"] == number
        return 50

    return again


def _globbed(store: MountedStore, pattern: str, matching: int) -> Callable[[], int]:
    def again() -> int:
        assert len(list(store.glob(pattern))) == matching
        return 1

    return again


def _queried(store: MountedStore, number: int) -> Callable[[], int]:
    def again() -> int:
        assert list(store.query_keys(n=number)) == [key(number)]
        return 1

    return again


def _listed(store: MountedStore, count: int) -> Callable[[], int]:
    def again() -> int:
        assert sum(1 for _ in store.query_keys()) == count
        return 1

    return again


def _polled(store: MountedStore) -> Callable[[], int]:
    def again() -> int:
        for _ in range(5):
            store.update_index()
        return 5

    store.update_index()
    return again


def _by_staged(folder: Path, counts: Sequence[int], stack: ExitStack) -> list[Row]:
    """Return what is staged in one transaction, told by status, planned and pushed."""
    server = stack.enter_context(OriginProcess(folder / "origin of keys"))
    runs: dict[str, dict[str, list[float]]] = {}
    for count in counts:
        with _mounted(folder / f"staged {count}", server.url) as store:

            def stage(store: MountedStore = store, count: int = count) -> None:
                with store.transaction("all"):
                    for number in range(count):
                        store.set(f"{count}/{number}", StringValue(b"x" * 100, {"n": number}))

            for what, work in {
                "stage in a transaction": stage,
                "status": lambda store=store: sync.status(store),
                "plan": lambda store=store: sync.plan(store),
                "push": lambda store=store: sync.push(store),
                "fetch": lambda store=store: _fetched(folder, server.url, store),
            }.items():
                runs.setdefault(what, {})[f"{count:,} keys"] = [_timed(work)]
    return [Row(what + _KEYS, line, next(iter(line))) for what, line in runs.items()]


def _fetched(folder: Path, url: str, pushed: MountedStore) -> None:
    keys = sum(1 for _ in pushed.cached())
    with _mounted(folder / f"fetched {keys}", url) as store:
        report = sync.prefetch(store, f"{keys}/*")
        assert (report.fetched, report.failed) == (keys, {})


@contextmanager
def _mounted(directory: Path, url: str) -> Iterator[MountedStore]:
    local = DiskCacheStore(directory, size_limit=2**40, min_free=0)
    with MountedStore("", local, DynamicURLStore(f"{url}keys", f"{url}query")) as store:
        yield store


def _by_bytes(folder: Path, sizes: Sequence[int], stack: ExitStack) -> list[Row]:
    server = stack.enter_context(OriginProcess(folder / "origin of bytes"))
    runs: dict[str, dict[str, list[float]]] = {}
    for size in sizes:
        name = _sized(size)
        data = os.urandom(min(size, _MIB)) * max(1, size // _MIB)
        for turn in range(3 if size <= _MIB else 1):
            at = f"{size} {turn}"
            with (
                _mounted(folder / f"staged {at}", server.url) as store,
                _mounted(folder / f"fetched {at}", server.url) as other,
            ):
                store.mount.catalog.row(at)  # they are opened at their first use
                other.mount.catalog.row(at)
                for what, work in {
                    "stage": lambda store=store, at=at, data=data: store.set(
                        at, (io.BytesIO(data), {})
                    ),
                    "read what is staged": lambda store=store, at=at: _read(store, at),
                    "push": lambda store=store, at=at: store.push(at),
                    "fetch": lambda other=other, at=at: _read(other, at),
                    "read what is cached": lambda other=other, at=at: _read(other, at),
                }.items():
                    line = runs.setdefault(f"{what}{_BYTES}", {})
                    line.setdefault(name, []).append(_timed(work))
            for each in ("staged", "fetched"):
                shutil.rmtree(folder / f"{each} {at}")
    return [Row(what, line, next(iter(line))) for what, line in runs.items()]


def _sized(size: int) -> str:
    unit = next(unit for unit in ("GiB", "MiB", "KiB") if size >= _SIZES[unit])
    return f"{size // _SIZES[unit]:,} {unit}"


def _read(store: MountedStore, name: str) -> None:
    with store.get_data(name) as stream:
        while stream.read(_MIB):
            pass


def plots(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the rows as lines over logarithms: ``performance-keys.svg`` and ``-bytes.svg``."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    drawn = []
    # Without it each drawing has other ids and another date.
    with mpl.rc_context({"svg.hashsalt": "mountcache"}):
        for ending, named, label in (
            (_KEYS, "keys", "keys"),
            (_BYTES, "bytes", "bytes of the value"),
        ):
            figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
            for number, row in enumerate(r for r in rows if r.question.endswith(ending)):
                points = [(at, row.median(name)) for name, at in _at(row)]
                told = f"{row.question.removesuffix(ending)} ({grows(row):.1f}x)"
                axes.plot(
                    *zip(*points, strict=True),
                    marker="osD^v*"[number % 6], markersize=4, label=told,
                    linestyle="-" if number < 10 else "--",
                )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
            axes.grid(which="major", alpha=0.3)
            figure.legend(loc="outside right upper", fontsize=8, title="growth at tenfold")
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"performance-{named}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
            drawn.append(path)
    return drawn
