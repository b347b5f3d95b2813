"""The walk through the main job that ``mountcache demo`` makes.

A real server on a free loopback port serves the small data set that ships with the package; a
mount over it is read, taken offline, edited and pushed. What each step claims is checked, and
the first claim that isn't true ends the walk.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import ConflictError, StoreError, StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.local.memory import MemoryStore
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import push, status
from mountcache.values import StringValue

__all__ = ["run_demo"]

_TABLE = "sun/2024.csv"
_OTHER = "sun/2025.csv"
_UNREAD = "sun/2010.csv"
_SHARED = "planets.csv"
_MINE = "notes/longest-day.txt"

_VALUES = " recommended values; the exact ones define the SI (BIPM"

_READS = 20
_FRESH = 60.0
"""Seconds for which a copy is used without asking the server, which would be 304 each time."""


class _NotTrueError(Exception):
    """A step didn't do what the narration says."""


class _Walk:
    """The steps, in their order; each tells what it does and checks it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._steps = 0

    def title(self, text: str) -> None:
        self._steps += 1
        self._tell("")
        self._tell(f"{self._steps}. {text}")

    def say(self, text: str) -> None:
        self._tell(f"   {text}")

    def check(self, is_true: bool, claim: str) -> None:
        """Tell what is claimed once it is known to be true."""
        if not is_true:
            raise _NotTrueError(claim)
        self.say(f"ok: {claim}")


def run_demo(tell: Callable[[str], None]) -> bool:
    """Walk through the main job.

    Parameters
    ----------
    tell
        Is given each line of the narration.

    Returns
    -------
    bool
        Whether every step did what it was to do.
    """
    walk = _Walk(tell)
    try:
        with tempfile.TemporaryDirectory(prefix="mountcache-demo-") as scratch:
            _walk_through(walk, Path(scratch))
        walk.check(not Path(scratch).exists(), "nothing was left behind")
    except _NotTrueError as error:
        tell(f"   NOT TRUE: {error}")
        return False
    except (StoreError, KeyError, OSError) as error:
        tell(f"   FAILED: {type(error).__name__}: {error}")
        return False
    return True


def _walk_through(walk: _Walk, scratch: Path) -> None:
    tables = _shipped()
    with ExitStack() as stack:
        with _timed() as passed:
            repository = stack.enter_context(DiskCacheStore(scratch / "origin"))
            with repository.transaction("the data set that ships with mountcache"):
                for key, (data, metadata) in tables.items():
                    repository.set(key, StringValue(data, metadata))
            origin = stack.enter_context(Origin(repository))
        walk.title("A remote repository, and a mount over it")
        total = sum(len(data) for data, _ in tables.values())
        walk.say(f"A server at {origin.url} holds {len(tables)} tables, {total / 1000:,.0f} kB:")
        walk.say("elements, constants, planets, and the Sun's path in each year.")
        walk.say(f"(filled and started in {passed()})")
        mounted = stack.enter_context(
            MountedStore(
                "",
                DiskCacheStore(scratch / "cache"),
                _remote(origin),
                max_age=_FRESH,
                author="you",
            )
        )
        walk.check(set(mounted.query_keys()) == set(tables), "the mount shows all of its keys")
        _read(walk, mounted, tables)
        origin.stop()
        _edit_offline(walk, mounted, tables)
        origin.start()
        _somebody_else(walk, origin, tables)
        _push(walk, mounted, origin)
        _resolve(walk, mounted, origin)


def _remote(origin: Origin) -> DynamicURLStore:
    return DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")


def _shipped() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return data and metadata of the tables in the package."""
    root = files("mountcache.cli.demo") / "data"
    index: dict[str, dict[str, Any]] = json.loads((root / "index.json").read_text("utf-8"))
    found = {}
    for key, metadata in index.items():
        path: Traversable = root / "data"
        for part in key.split("/"):
            path = path / part
        # A digest in the metadata is a promise about the data, and these will be edited.
        del metadata["sha256"]
        found[key] = (path.read_bytes(), metadata)
    return found


@contextmanager
def _timed() -> Iterator[Callable[[], str]]:
    """Give what says how long the block took."""
    begun = time.perf_counter()
    ended = begun
    yield lambda: f"{(ended - begun) * 1000:,.2f} ms"
    ended = time.perf_counter()


def _read(
    walk: _Walk, mounted: MountedStore, tables: dict[str, tuple[bytes, dict[str, Any]]]
) -> None:
    walk.title("Read: the first time from the server, then from here")
    with _timed() as cold:
        data = mounted.to_bytes(_TABLE)
    times = []
    for _ in range(_READS):
        begun = time.perf_counter()
        again = mounted.to_bytes(_TABLE)
        times.append(time.perf_counter() - begun)
    walk.say(f"cold read of {_TABLE}, {len(data):,} bytes: {cold()}")
    walk.say(f"warm read, median of {_READS}: {sorted(times)[_READS // 2] * 1000:,.2f} ms")
    walk.check(data == again == tables[_TABLE][0], "both gave the bytes that the server has")
    walk.check(mounted.get(_TABLE).source == "cached", "the warm one came from the local copy")
    for key in (_OTHER, _SHARED):
        mounted.to_bytes(key)

    walk.title("Query the metadata")
    found = list(mounted.query(kind="measured"))
    for key, metadata in found:
        source = metadata["source"].split(",")[0].removesuffix(_VALUES)
        walk.say(f"{key}: {metadata['title']} ({source})")
    walk.check(
        {key for key, _ in found} == {"constants.csv", "elements.csv", "planets.csv"},
        "kind=measured finds three tables",
    )


def _edit_offline(
    walk: _Walk, mounted: MountedStore, tables: dict[str, tuple[bytes, dict[str, Any]]]
) -> None:
    walk.title("The server is stopped. Go on reading and editing")
    walk.check(mounted.to_bytes(_OTHER) == tables[_OTHER][0], f"{_OTHER} is still read")
    walk.check(len(list(mounted.query_keys(kind="computed"))) == 30, "queries still work")
    try:
        mounted.to_bytes(_UNREAD)
    except StoreUnavailableError:
        unknown = True
    else:
        unknown = False
    walk.check(unknown, f'{_UNREAD} was never read: "can\'t know", not "not there"')
    longest = max(
        (line.split(",") for line in tables[_TABLE][0].decode().splitlines()[1:]),
        key=lambda row: float(row[1]),
    )
    note = f"{longest[0]}: the Sun stands highest, {longest[1]} degrees north\n"
    mounted.set(_MINE, StringValue(note.encode(), {"title": "The longest day of 2024"}))
    planets = mounted.to_bytes(_SHARED) + b"Pluto,0.0130,2376,0.7,5906.4,90560\n"
    mounted.set_data(_SHARED, io.BytesIO(planets))
    edits = status(mounted).edits
    for edit in edits:
        walk.say(f"{edit.state:9} {edit.key}")
    walk.check(
        {(edit.key, edit.state) for edit in edits} == {(_MINE, "added"), (_SHARED, "modified")},
        "two edits are staged, durably, and nothing was sent",
    )


def _somebody_else(
    walk: _Walk, origin: Origin, tables: dict[str, tuple[bytes, dict[str, Any]]]
) -> None:
    walk.title("The server is back, and somebody else changes a table that you changed too")
    theirs = tables[_SHARED][0].replace(b"Mercury,0.33,", b"Mercury,0.3301,")
    with MountedStore("", MemoryStore(), _remote(origin), author="a colleague") as colleague:
        colleague.to_bytes(_SHARED)
        colleague.set_data(_SHARED, io.BytesIO(theirs))
        colleague.push(_SHARED)
    with _remote(origin) as upstream:
        walk.check(upstream.to_bytes(_SHARED) == theirs, f"{_SHARED} is a colleague's by now")


def _push(walk: _Walk, mounted: MountedStore, origin: Origin) -> None:
    walk.title("Push: what can go through does, what would overwrite somebody's work doesn't")
    with _remote(origin) as upstream:
        before = upstream.to_bytes(_SHARED)
        report = push(mounted)
        for result in report.results:
            walk.say(f"{result.outcome:9} {result.key}")
        walk.check(report[_MINE].outcome == "pushed", f"{_MINE} went through")
        walk.check(
            upstream.to_bytes(_MINE) == mounted.to_bytes(_MINE), "the server has just its bytes"
        )
        conflict = report[_SHARED].conflict
        walk.check(
            report[_SHARED].outcome == "conflict" and conflict is not None,
            f"{_SHARED} was refused",
        )
        assert conflict is not None
        for side in (conflict.mine, conflict.upstream):
            walk.say(f"{side.label}: {side.size} bytes")
        walk.check(upstream.to_bytes(_SHARED) == before, "the colleague's version is untouched")
        walk.check(b"Pluto" in mounted.to_bytes(_SHARED), "yours is still staged")
        try:
            mounted.push(_SHARED)
        except ConflictError:
            refused = True
        else:
            refused = False
        walk.check(refused, "pushing it again is refused again")


def _resolve(walk: _Walk, mounted: MountedStore, origin: Origin) -> None:
    walk.title("Resolve it: keep both")
    report = push(mounted, on_conflict="keep-both")
    walk.check(report.ok, "the push went through")
    with _remote(origin) as upstream:
        walk.check(
            b"Mercury,0.3301," in upstream.to_bytes(_SHARED), f"{_SHARED} is the colleague's"
        )
        kept = [key for key in upstream.query_keys() if key.startswith(f"{_SHARED}.conflict-")]
        walk.check(
            len(kept) == 1 and b"Pluto" in upstream.to_bytes(kept[0]),
            f"{''.join(kept)} is yours",
        )
    walk.check(not status(mounted).edits, "nothing is staged any more")
    walk.say("That is the main job: read through, work offline, push without overwriting.")
