"""Many at once: threads and processes on one directory read, write, push, evict, collect, verify.

``python -m tests.many.hammer --seconds 300`` says what came of it. What was acknowledged has to
be upstream in the end, and nobody may hear of anything but of conflicts and of other pushes.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mountcache import sync
from mountcache.abc import ABSENT
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import (
    ChangedWhileReadingError,
    ConflictError,
    PinnedError,
    StoreBusyError,
    StoreFullError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.doctor import examine
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.scripted import pattern

__all__ = ["Outcome", "hammer"]

GIVEN = {f"given/{number}": 700 if number % 2 else 1_300_000 for number in range(8)}
"""What is upstream at first, and stays: keys and sizes."""
SHARED = [f"shared/{number}" for number in range(4)]
LIMIT = 3_000_000
"""Less than what is read: some of it is always being evicted."""
SLACK = 60.0
"""Seconds that a process may take longer than it was told, before it counts as hanging."""


def given(key: str) -> bytes:
    """Return what is upstream under a key that nobody changes."""
    return pattern(GIVEN[key], int(key.rpartition("/")[2]))


class Life:
    """What one process does, and what was acknowledged to it."""

    def __init__(self, store: MountedStore, folder: str, name: str, ends: float) -> None:
        self.acknowledged: dict[str, int | None] = {}
        """What each of its own keys has to hold in the end; None: it is deleted."""
        self.counted: Counter[str] = Counter()
        self.did: Counter[str] = Counter()
        self._store, self._folder, self._name, self._ends = store, folder, name, ends

    def thread(self, number: int) -> None:
        """Do one thing again and again."""
        chance = random.Random(f"{self._name}.{number}")
        works: list[Callable[[random.Random, int], object]] = [
            self._write, self._write_together, self._count, self._read, self._read_parts,
            self._push, self._evict, self._look_after, self._pin, self._prune,
        ]  # fmt: skip
        # Each process begins elsewhere, so that together they do all of them.
        work = works[(number + 4 * int(self._name)) % len(works)]
        for step in itertools.count():
            if time.monotonic() > self._ends:
                return
            work(chance, step)
            self.did[work.__name__.strip("_")] += 1

    def _own(self, key: str, step: int, chance: random.Random) -> None:
        if chance.random() < 0.1 and self.acknowledged.get(key) is not None:
            self._store.delete(key)
            self.acknowledged[key] = None
            assert not self._store.exists(key)
            return
        data = json.dumps([step]).encode().ljust(chance.choice((10, 10, 50_000)))
        self._store.set(key, StringValue(data, {"n": step}))
        self.acknowledged[key] = step

    def _write(self, chance: random.Random, step: int) -> None:
        key = f"own/{self._name}.{chance.randrange(5)}"
        self._own(key, step, chance)
        value = self._here(key)
        assert value is None or value == self.acknowledged[key], key

    def _write_together(self, chance: random.Random, step: int) -> None:
        keys = [f"twin/{self._name}.{half}" for half in "ab"]
        with self._store.transaction("both or none"):
            for key in keys:
                self._store.set(key, StringValue(json.dumps([step]).encode(), {"n": step}))
        self.acknowledged.update(dict.fromkeys(keys, step))

    def _here(self, key: str) -> int | None:
        try:
            value = self._store.get(key)
            number = json.loads(value.data.read())[0]
            assert value.metadata == {"n": number}
        except (KeyError, ChangedWhileReadingError):
            return None  # deleted, or pushed between two questions
        return int(number)

    def _count(self, chance: random.Random, step: int) -> None:
        key = chance.choice(SHARED)
        while True:
            try:
                value = self._store.with_options(offline="prefer").fetch(key)
                old, base = int(value.data.read()), value.version
                assert base is not None
            except KeyError:
                old, base = 0, ABSENT
            try:
                self._store.set(key, StringValue(b"%d" % (old + 1), {}), base=base)
            except ConflictError:
                continue
            self.counted[key] += 1
            return

    def _read(self, chance: random.Random, step: int) -> None:
        key = chance.choice(list(GIVEN))
        assert self._store.to_bytes(key) == given(key), key

    def _read_parts(self, chance: random.Random, step: int) -> None:
        key = chance.choice(list(GIVEN))
        start = chance.randrange(GIVEN[key])
        with self._store.get(key).range(start, start + 300_000) as stream:
            assert stream.read() == given(key)[start : start + 300_000], key
        assert set(GIVEN) <= set(self._store.query_keys())

    def _push(self, chance: random.Random, step: int) -> None:
        try:
            report = sync.push(self._store, workers=2)
        except StoreBusyError:
            self.did["waited for another push"] += 1
            return
        for result in report.results:
            assert result.outcome in ("pushed", "already there", "skipped"), result

    def _evict(self, chance: random.Random, step: int) -> None:
        for key in list(self._store.cached("given/*"))[:2]:
            with suppress(KeyError, PinnedError):  # others drop, pin, evict
                self._store.drop(key)
        time.sleep(0.02)  # a moment in which others fetch it again

    def _pin(self, chance: random.Random, step: int) -> None:
        key = f"given/{chance.choice((1, 3, 5, 7))}"
        with suppress(KeyError, StoreFullError):  # unpinned by another; what is large had the room
            self._store.pin(key)
            assert self._store.to_bytes(key) == given(key), key
            self._store.unpin(key)

    def _prune(self, chance: random.Random, step: int) -> None:
        for _ in sync.prune(self._store, to=chance.randrange(LIMIT)):
            pass
        for flaw in sync.verify(self._store, repair=True).flaws:
            raise AssertionError(flaw)

    def _look_after(self, chance: random.Random, step: int) -> None:
        sync.gc(self._store)
        for finding in examine(self._folder):
            assert finding.severity != "error", finding


def live(url: str, folder: str, name: str, seconds: float, threads: int) -> dict[str, Any]:
    """Do what one process does; return what came of it."""
    faulthandler.dump_traceback_later(seconds + SLACK, exit=True)
    backing = DynamicURLStore(f"{url}keys", f"{url}query")
    local = DiskCacheStore(folder, min_free=0, size_limit=LIMIT)
    with MountedStore("", local, backing) as store, ThreadPoolExecutor(threads) as pool:
        life = Life(store, folder, name, time.monotonic() + seconds)
        for each in [pool.submit(life.thread, number) for number in range(threads)]:
            each.result()
    return {"acknowledged": life.acknowledged, "counted": life.counted, "did": life.did}


@dataclass
class Outcome:
    """What came of it."""

    processes: int
    threads: int
    seconds: float
    did: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    """Keys that don't hold upstream what was acknowledged last."""
    heard: list[str] = field(default_factory=list)
    """What processes died of."""

    @property
    def good(self) -> bool:
        """Whether all is as it has to be."""
        return not self.lost and not self.heard

    def __str__(self) -> str:
        did = ", ".join(f"{count:,} {what}" for what, count in sorted(self.did.items()))
        return (
            f"{self.processes} processes of {self.threads} threads on one directory, "
            f"{self.seconds:.0f} s: {did}; {self.acknowledged:,} keys compared, "
            f"lost: {', '.join(self.lost) or 'none'}, errors: {' '.join(self.heard) or 'none'}"
        )


def hammer(folder: Path, seconds: float, *, processes: int = 4, threads: int = 8) -> Outcome:
    """Let processes work on one directory, and compare what is upstream in the end."""
    outcome = Outcome(processes, threads, seconds)
    wanted: dict[str, int | None] = {}
    counted: Counter[str] = Counter()
    did: Counter[str] = Counter()
    with MemoryStore() as repository:
        for key in GIVEN:
            repository.set(key, StringValue(given(key), {}))
        with Origin(repository) as origin:
            place = str(folder / "here")
            running = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.many.hammer", "--live", json.dumps(
                        [origin.url, place, str(number), seconds, threads]
                    )],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
                for number in range(processes)
            ]  # fmt: skip
            for each in running:
                out, err = each.communicate()
                if each.returncode != 0:
                    outcome.heard.append(err[-1500:])
                    continue
                found = json.loads(out)
                wanted.update(found["acknowledged"])
                counted.update(found["counted"])
                did.update(found["did"])
            backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            with MountedStore("", DiskCacheStore(place), backing) as store:
                report = sync.push(store)
                outcome.heard += [str(each) for each in report.results if not report.ok]
                outcome.heard += [f"still staged: {edit.key}" for edit in store.staged()]
            outcome.heard += [str(each) for each in examine(place) if each.severity == "error"]
        for key, number in {**wanted, **counted}.items():
            there = repository.exists(key)
            shown = json.loads(repository.to_bytes(key)) if there else None
            if (shown[0] if isinstance(shown, list) else shown) != number:
                outcome.lost.append(f"{key}: {shown} for {number}")
    outcome.did, outcome.acknowledged = dict(did), len(wanted) + len(counted)
    return outcome


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser("python -m tests.many.hammer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where the figures are written to, too")
    parser.add_argument("--live", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live is not None:
        print(json.dumps(live(*json.loads(options.live))))
        return
    folder = Path(tempfile.mkdtemp(prefix="hammer-"))
    try:
        outcome = hammer(
            folder, options.seconds, processes=options.processes, threads=options.threads
        )
    finally:
        shutil.rmtree(folder)
    print(outcome)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    sys.exit(not outcome.good)


if __name__ == "__main__":
    main()
