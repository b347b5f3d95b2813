"""What does it cost to know that thousands of copies are still what upstream has?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import requests

from benchmarks.readers import mounted
from benchmarks.surroundings import installed, program
from benchmarks.timing import Row, at_most, interleaved
from benchmarks.webserver import files, repository
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue, sync
from mountcache.serve import OriginProcess

__all__ = ["run"]

_SIZE = 4096


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return the questions of all copies at once, and of one after another."""
    contents = {
        f"dir/key{number:05}": b"%08d" % number * (_SIZE // 8)
        for number in range(50 if quick else 10_000)
    }
    with ExitStack() as stack:
        return [
            _all_at_once(folder, contents, stack, repeats=1 if quick else 2),
            _one_by_one(folder, contents, stack, repeats=1 if quick else 3),
        ]


def _all_at_once(folder: Path, contents: dict[str, bytes], stack: ExitStack, repeats: int) -> Row:
    """Return the knowledge that nothing has changed, however it is had."""
    repository(folder / "files", contents)
    plain = stack.enter_context(files(folder / "files"))
    static = stack.enter_context(mounted(folder / "static", plain))
    assert sync.prefetch(static).fetched == len(contents)
    dynamic = _dynamic(folder, contents, stack)
    listed = stack.enter_context(
        MountedStore("", DiskCacheStore(folder / "listed", min_free=0), dynamic(), max_age=3600.0)
    )
    assert sync.prefetch(listed).fetched == len(contents)

    def index() -> int:
        static.update_index()
        return len(contents)

    def query() -> int:
        listed.update_index()
        return len(contents)

    def pulled() -> int:
        assert sync.pull(static).current == len(contents)
        return len(contents)

    def rclone() -> int:
        words = ["--http-url", f"{plain}data/", "--transfers", "16", "--checkers", "16"]
        subprocess.run(
            ["rclone", "copy", "--config", "/dev/null", *words, ":http:", str(folder / "rclone")],
            check=True, capture_output=True,
        )  # fmt: skip
        return len(contents)

    return interleaved(
        f"whether {len(contents):,} copies are current, all at once, a copy",
        {
            "rclone copy again": rclone if program("rclone") else None,
            "mountcache, static index: one 304": index,
            "mountcache, listing of /query: one 304": query,
            "mountcache pull, static": pulled,
        },
        reference="rclone copy again",
        repeats=repeats,
        goals=[at_most("mountcache, static index: one 304", 0.01, "rclone copy again")],
    )


def _one_by_one(folder: Path, contents: dict[str, bytes], stack: ExitStack, repeats: int) -> Row:
    """Return a read that asks first, of each of some keys."""
    keys = list(contents)[:500]
    plain = stack.enter_context(files(folder / "files", expires="-1"))
    dynamic = _dynamic(folder, contents, stack)
    store = stack.enter_context(
        MountedStore("", DiskCacheStore(folder / "each", min_free=0), dynamic(), max_age=0.0)
    )
    contenders: dict[str, Callable[[], int] | None] = {
        "requests, If-None-Match": _conditional(plain, keys, stack),
        "mountcache, dynamic": lambda: _read(store.to_bytes, keys),
        "requests-cache, sqlite": None,
        "CacheControl, files": None,
    }

    def through(session: requests.Session) -> Callable[[], int]:
        stack.enter_context(session)
        return lambda: _read(lambda key: session.get(f"{plain}data/{key}").content, keys)

    if installed("requests-cache"):
        import requests_cache

        contenders["requests-cache, sqlite"] = through(
            requests_cache.CachedSession(str(folder / "requests"), always_revalidate=True)
        )
    if installed("CacheControl", "filelock"):
        from cachecontrol import CacheControl
        from cachecontrol.caches import FileCache

        contenders["CacheControl, files"] = through(
            CacheControl(requests.Session(), cache=FileCache(folder / "cachecontrol"))
        )
    return interleaved(
        "read of a copy of 4 KiB that asks whether it is current, one after another",
        contenders,
        reference="requests, If-None-Match",
        repeats=repeats,
    )


def _read(read: Callable[[str], bytes], keys: list[str]) -> int:
    for key in keys:
        assert len(read(key)) == _SIZE
    return len(keys)


def _conditional(url: str, keys: list[str], stack: ExitStack) -> Callable[[], int]:
    """Return the questions alone, without a cache."""
    session = stack.enter_context(requests.Session())
    tags = {key: session.head(f"{url}data/{key}").headers["ETag"] for key in keys}

    def work() -> int:
        for key, tag in tags.items():
            answer = session.get(f"{url}data/{key}", headers={"If-None-Match": tag})
            assert answer.status_code == 304
        return len(keys)

    return work


def _dynamic(
    folder: Path, contents: dict[str, bytes], stack: ExitStack
) -> Callable[[], DynamicURLStore]:
    """Return what makes a client of a server of ours with these contents, which runs."""
    place = folder / "origin"
    if not place.exists():
        with DiskCacheStore(place, min_free=0) as origin, origin.transaction("fill"):
            for number, (key, data) in enumerate(contents.items()):
                origin.set(key, StringValue(data, {"n": number}))
    server = stack.enter_context(OriginProcess(place))
    return lambda: DynamicURLStore(f"{server.url}keys", f"{server.url}query")
