"""Lost updates: many writers count and append by read, edit and push, again after a conflict.

``python -m tests.many.updates ours --rounds 100000`` says what came of it, and "nginx" and
"rclone" in the place of "ours" how many updates two servers lose that don't compare. Each round
has a mark of its own: two edits that are the same count as one wherever they meet, so that
writers who all write "5" over "4" can't be told apart.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mountcache import sync
from mountcache.abc import ABSENT, Base
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import (
    ChangedWhileReadingError,
    ConflictError,
    IntegrityError,
    StoreBusyError,
    StoreUnavailableError,
    UpstreamError,
)
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.faultserver import PATIENCE, listening
from tests.many.loser import Loser
from tests.webservers import Nginx

__all__ = ["Tally", "Verdict", "count"]

COUNTERS = [f"count/{number}" for number in range(8)]
LISTED = 4
"""Each round of so many appends to a list; the others count."""
LONGEST = 25
"""Of how many rounds of a thread the marks go to the same list."""


@dataclass(frozen=True)
class Order:
    """What one process is to do."""

    url: str
    server: str
    folder: str
    name: str
    rounds: int
    """Of each of its threads."""
    threads: int
    together: bool
    """Whether all processes have one directory, rather than one each."""


@dataclass
class Tally:
    """What came of the rounds of some writers."""

    counted: Counter[str] = field(default_factory=Counter)
    """How often it was acknowledged that a key counts one more."""
    marks: dict[str, list[str]] = field(default_factory=dict)
    """What was acknowledged to be appended, by key."""
    told: Counter[str] = field(default_factory=Counter)
    """What else was said, and how often."""
    races: list[float] = field(default_factory=list)
    """How long it was, as results said, that a write of others would have gone unseen."""

    def add(self, other: Tally) -> None:
        """Take in what came of others."""
        self.counted.update(other.counted)
        self.told.update(other.told)
        self.races += other.races
        for key, marks in other.marks.items():
            self.marks.setdefault(key, []).extend(marks)


# -- one process -----------------------------------------------------------------------------


class Writer:
    """One thread, which counts and appends.

    Parameters
    ----------
    order
        What its process does.
    store
        The mounted store.
    locks
        One for each key. The threads of one directory edit and push a key one at a time where
        they don't tell each other by `base=` or a transaction what they have read.
    number
        Which thread it is.
    """

    def __init__(
        self, order: Order, store: MountedStore, locks: dict[str, threading.Lock], number: int
    ) -> None:
        self._order, self._store, self._locks = order, store, locks
        self._name = f"{order.name}.{number}"
        self._chance = random.Random(self._name)
        self._seen = (
            store.with_options(offline="prefer") if order.together
            else store.with_options(max_age=0.0, offline="never")
        )  # fmt: skip
        self._edit = self._edit_apart
        if order.together:
            self._edit = self._edit_with_base if number % 2 else self._edit_in_transaction
        self.tally = Tally()

    def run(self) -> None:
        """Do all rounds."""
        for number in range(self._order.rounds):
            mark = f"{self._name}.{number}"
            if number % LISTED == LISTED - 1:
                key = f"list/{number // LONGEST}"
                if self._edit(key, lambda old, mark=mark: [*(old or []), mark]):
                    self.tally.marks.setdefault(key, []).append(mark)
            else:
                key = self._chance.choice(COUNTERS)
                if self._edit(key, lambda old, mark=mark: [old[0] + 1 if old else 1, mark]):
                    self.tally.counted[key] += 1

    def _read(self, key: str) -> tuple[Any, Base]:
        while True:
            try:
                value = self._seen.fetch(key)
                return json.loads(value.data.read()), value.version
            except KeyError:
                return None, ABSENT
            except (StoreUnavailableError, IntegrityError, ChangedWhileReadingError):
                self.tally.told["reads that failed"] += 1
            except json.JSONDecodeError:
                # rclone writes into the file that it shows.
                if self._order.server != "rclone":
                    raise
                self.tally.told["reads that came torn"] += 1

    def _set(self, key: str, content: Any, **others: Any) -> None:
        self._store.set(key, StringValue(json.dumps(content).encode(), {}), **others)

    def _edit_with_base(self, key: str, edit: Callable[[Any], Any]) -> bool:
        while True:
            old, version = self._read(key)
            assert version is not None
            try:
                self._set(key, edit(old), base=version)
            except ConflictError:
                self.tally.told["conflicts here"] += 1
            else:
                return True

    def _edit_in_transaction(self, key: str, edit: Callable[[Any], Any]) -> bool:
        while True:
            try:
                with self._store.transaction("one more"):
                    self._set(key, edit(self._read(key)[0]))
            except ConflictError:
                self.tally.told["conflicts here"] += 1
            else:
                return True

    def _edit_apart(self, key: str, edit: Callable[[Any], Any]) -> bool:
        with self._locks.setdefault(key, threading.Lock()):
            while True:
                self._set(key, edit(self._read(key)[0]))
                if (known := self._pushed(key)) is not None:
                    return known

    def _pushed(self, key: str) -> bool | None:
        """Push; return whether it is acknowledged, None if the edit has to be made again."""
        while True:
            try:
                result = self._store.push(key)
            except ConflictError:
                self.tally.told["conflicts upstream"] += 1
                return self._reverted(key)
            except StoreUnavailableError:
                self.tally.told["replies that didn't come"] += 1
            except UpstreamError as error:
                if error.status != 423:  # rclone locks what somebody else writes
                    raise
                self.tally.told["answers that the key is locked"] += 1
            else:
                if result.race is not None:
                    self.tally.races.append(result.race)
                if result.outcome == "stored differently":
                    self.tally.told["results that say another may have written"] += 1
                    return False
                return True

    def _reverted(self, key: str) -> None:
        while True:
            try:
                self._store.revert(key)
            except StoreUnavailableError:
                self.tally.told["reads that failed"] += 1
            else:
                return


def backing(url: str, server: str) -> DynamicURLStore | StaticURLStore:
    """Return the remote end, as one would use it with this server."""
    if server == "ours":
        return DynamicURLStore(f"{url}keys", f"{url}query", retries=0)
    # An index that nobody writes would hide what others create.
    return StaticURLStore(url, "data/", None, write="put", metadata="sidecar", retries=0)


def work(order: Order) -> Tally:
    """Do what one process is to do."""
    local = DiskCacheStore(order.folder, min_free=0)
    tally = Tally()
    with MountedStore("", local, backing(order.url, order.server)) as store:
        locks: dict[str, threading.Lock] = {}
        writers = [Writer(order, store, locks, number) for number in range(order.threads)]
        with ThreadPoolExecutor(order.threads) as pool:
            runs = [pool.submit(writer.run) for writer in writers]
            while order.together and not all(run.done() for run in runs):
                push(store, tally)
            for run in runs:
                run.result()
        for writer in writers:
            tally.add(writer.tally)
    return tally


def push(store: MountedStore, tally: Tally) -> bool:
    """Push all of a directory; return whether nothing is left."""
    try:
        report = sync.push(store, workers=2)
    except StoreBusyError:
        tally.told["pushes that another process kept waiting"] += 1
        return False
    for result in report.results:
        tally.told[f"pushes together: {result.outcome}"] += 1
    return report.ok


# -- all of them -----------------------------------------------------------------------------


@dataclass
class Verdict:
    """What upstream shows in the end, beside what was acknowledged."""

    server: str
    together: bool
    seed: int
    acknowledged: int = 0
    lost: int = 0
    """Acknowledged, and not there."""
    twice: int = 0
    """There more than once, or there and not acknowledged nor told as doubtful."""
    told: dict[str, int] = field(default_factory=dict)
    race: float | None = None
    """Seconds of the median race that results named; None where there is none."""
    losses: str = ""
    """What the network lost."""
    seconds: float = 0.0

    def __str__(self) -> str:
        share = self.lost / max(1, self.acknowledged)
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.told.items()))
        race = "" if self.race is None else f" Each names its race, {self.race * 1000:.1f} ms."
        return (
            f"{self.server}, {'one directory' if self.together else 'several directories'}: "
            f"{self.acknowledged:,} updates acknowledged, {self.lost:,} of them lost "
            f"({share:.2%}), {self.twice:,} too many; {self.acknowledged / self.seconds:.0f}/s."
            f"{race} "
            f"Told: {told}. Lost on the way: {self.losses}. Seed {self.seed}."
        )


@contextmanager
def served(server: str, folder: Path) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Run a server; give its URL, and what shows the content of a key to a stranger."""
    if server == "ours":
        with MemoryStore() as repository, Origin(repository) as origin:
            yield (
                origin.url,
                lambda key: (
                    json.loads(repository.to_bytes(key)) if repository.exists(key) else None
                ),
            )
        return
    (folder / "data").mkdir(parents=True)

    def look(key: str) -> Any:
        path = folder / "data" / key
        return json.loads(path.read_bytes()) if path.exists() else None

    if server == "nginx":
        with Nginx(folder, dav=True) as nginx:
            yield nginx.url, look
    else:
        with rclone(folder) as url:
            yield url, look


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """Run ``rclone serve webdav`` on a folder; give its URL."""
    program = Path(sys.executable).parent / "rclone"
    with listening() as free:
        port = free.getsockname()[1]
    command = [program, "serve", "webdav", folder, "--addr", f"127.0.0.1:{port}"]
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen([*command, "--config", "/dev/null"], stderr=log, stdout=log)
        try:
            ends = time.monotonic() + PATIENCE
            while running.poll() is None and time.monotonic() < ends:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
                except OSError:
                    time.sleep(0.02)
                else:
                    yield f"http://127.0.0.1:{port}/"
                    return
            log.seek(0)
            raise AssertionError(f"rclone didn't start: {log.read().decode()}")
        finally:
            running.terminate()
            running.wait()


def count(
    server: str, rounds: int, folder: Path, *, together: bool = False, processes: int = 3,
    threads: int = 2, losing: float = 0.05, seed: int = 1,
) -> Verdict:  # fmt: skip
    """Let writers do `rounds` rounds in all, and return what came of it.

    Parameters
    ----------
    together
        Whether all of them have one directory.
    losing
        Of which part of the writes the request or the reply is lost.
    """
    tally = Tally()
    with served(server, folder / "upstream") as (url, look):
        begun = time.monotonic()
        # rclone keeps the half of a body that was cut off, and what it shows is no number then.
        with Loser(url, losing, seed, halves=server != "rclone") as loser:
            orders = [
                Order(
                    loser.url, server, str(folder / ("all" if together else f"own {number}")),
                    f"{seed}.{number}", -(-rounds // (processes * threads)), threads, together,
                )
                for number in range(processes)
            ]  # fmt: skip
            running = [start(order) for order in orders]
            for each in running:
                out, err = each.communicate()
                assert each.returncode == 0, err
                found = json.loads(out)
                tally.add(
                    Tally(Counter(found["counted"]), found["marks"], Counter(found["told"]),
                          found["races"])
                )  # fmt: skip
            if together:
                local = DiskCacheStore(orders[0].folder)
                with MountedStore("", local, backing(loser.url, server)) as store:
                    while not push(store, tally):
                        assert not tally.told["pushes together: conflict"], tally.told
        seconds = time.monotonic() - begun
        verdict = Verdict(
            server, together, seed, told=dict(tally.told), losses=loser.lost,
            seconds=seconds, race=statistics.median(tally.races) if tally.races else None,
        )  # fmt: skip
        doubtful = tally.told["results that say another may have written"]
        compare(tally, look, verdict, doubtful)
    return verdict


def start(order: Order) -> subprocess.Popen[str]:
    """Start a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.many.updates", "--order", json.dumps(asdict(order))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def compare(tally: Tally, look: Callable[[str], Any], verdict: Verdict, doubtful: int) -> None:
    """Put into a verdict how many updates were lost, or are there too often."""
    over = 0
    for key, often in tally.counted.items():
        shown = (look(key) or [0])[0]
        verdict.acknowledged += often
        verdict.lost += max(0, often - shown)
        over += max(0, shown - often)
    for key, marks in tally.marks.items():
        shown = Counter(look(key) or [])
        verdict.acknowledged += len(marks)
        verdict.lost += sum(mark not in shown for mark in marks)
        verdict.twice += sum(often - 1 for often in shown.values())
        over += len(set(shown) - set(marks))
    verdict.twice += max(0, over - doubtful)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser("python -m tests.many.updates", description=__doc__)
    parser.add_argument("server", nargs="?", choices=("ours", "nginx", "rclone"), default="ours")
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--losing", type=float, default=0.05, help="part of the writes (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="one directory for all")
    parser.add_argument("--json", type=Path, help="where the figures are written to, too")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.order is not None:
        print(json.dumps(vars(work(Order(**json.loads(given.order))))))
        return
    folder = Path(tempfile.mkdtemp(prefix="updates-"))
    try:
        verdict = count(
            given.server, given.rounds, folder, together=given.together, seed=given.seed,
            processes=given.processes, threads=given.threads, losing=given.losing,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    print(verdict)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(verdict), indent=2) + "\n")
    if given.server == "ours":
        sys.exit(bool(verdict.lost or verdict.twice))


if __name__ == "__main__":
    main()
