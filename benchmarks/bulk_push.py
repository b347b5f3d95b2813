"""How long does it take to send many staged keys upstream, near and far?"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import urllib3

from benchmarks.delayed import delayed
from benchmarks.timing import Row, at_least, interleaved
from mountcache import (
    DiskCacheStore,
    DynamicURLStore,
    MountedStore,
    StaticURLStore,
    StringValue,
    sync,
)
from mountcache.abc import AbstractReadOnlyStore
from mountcache.serve import OriginProcess

__all__ = ["run"]

_AT_ONCE = 16
_UNPACED, _PACED = "rclone copy, without its pacer", "rclone copy, as it is"
_A, _C, _PUT = "mountcache, grade A", "mountcache, grade C", "urllib3 PUT, 16 threads"
_TOGETHER = "mountcache, grade A, in one transaction"
_THREE = "urllib3 HEAD, PUT, GET, 16 threads"
_ALLOWED = {_A: "a round trip a key, 16 at once", _C: "three round trips a key, 16 at once"}


def run(folder: Path, *, quick: bool) -> list[Row]:
    """Return pushes of 4 KiB keys with 16 connections, to our server and to a WebDAV.

    Grade A is one conditional request a key, which the server compares and makes durable. Grade C
    is HEAD, PUT and GET on a server that compares nothing; the WebDAV is rclone's own, which rclone
    itself copies to. At a distance as many bare requests on as many connections are the measure:
    to connect and to ask takes time, too, beside what the delay allows.
    """
    data = os.urandom(4096)
    rows = []
    with ExitStack() as stack:
        origin = stack.enter_context(OriginProcess(folder / "origin"))
        (folder / "webdav").mkdir()
        (folder / "webdav" / "index.json").write_text("{}")
        program = _rclone()
        webdav = stack.enter_context(_webdav(program, folder / "webdav")) if program else None
        for seconds in (0.0, 0.01) if quick else (0.0, 0.02, 0.1):
            keys = 16 if quick else {0.0: 500, 0.02: 400}.get(seconds, 320)
            with ExitStack() as near:
                ours = near.enter_context(delayed(origin.url, seconds))
                theirs = near.enter_context(delayed(webdav, seconds)) if webdav else None
                at = folder / f"{seconds}"
                rows += _beside(at, ours, theirs, program, data, keys, seconds, quick=quick)
    return rows


def _beside(
    folder: Path, ours: str, theirs: str | None, program: str | None, data: bytes, keys: int,
    seconds: float, *, quick: bool,
) -> list[Row]:  # fmt: skip
    folder.mkdir()
    number = itertools.count()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))

        def put(url: str, *, around: bool = False) -> Callable[[], int]:
            http = stack.enter_context(urllib3.PoolManager(maxsize=_AT_ONCE, block=True))

            def one(key: str) -> None:
                if around:
                    assert http.request("HEAD", f"{url}{key}", retries=False).status == 404
                answer = http.request("PUT", f"{url}{key}", body=data, retries=False)
                assert answer.status < 300, answer.status
                if around:
                    assert http.request("GET", f"{url}{key}", retries=False).data == data

            def again() -> int:
                turn = next(number)
                list(pool.map(one, [f"put{turn}-{seconds}-{each}" for each in range(keys)]))
                return keys

            return again

        def copied(*options: str, few: int = keys) -> Callable[[], int] | None:
            if program is None or theirs is None:
                return None
            source = folder / f"source {few}"
            if not source.exists():
                source.mkdir()
                for each in range(few):
                    (source / f"{each}").write_bytes(data)

            def again() -> int:
                subprocess.run(
                    [
                        program, "copy", source, f":webdav:rclone{next(number)}-{seconds}",
                        "--webdav-url", theirs, "--config", "/dev/null", "--log-level", "ERROR",
                        "--transfers", str(_AT_ONCE), "--checkers", str(_AT_ONCE), *options,
                    ],
                    check=True,
                )  # fmt: skip
                return few

            return again

        def staged(name: str, backing: AbstractReadOnlyStore, *, together: bool = False) -> _Pushed:
            local = DiskCacheStore(folder / name, min_free=0)
            store = stack.enter_context(MountedStore("", local, backing))
            return _Pushed(store, f"{name}-{seconds}", data, keys, together=together)

        def dynamic() -> DynamicURLStore:
            return DynamicURLStore(f"{ours}keys", f"{ours}query")

        unpaced = copied("--webdav-pacer-min-sleep", "0")
        # It sends 30 a second: a few of them tell that.
        paced = copied(few=8 if quick else 32)
        alone, at_a_time = staged("A", dynamic()), staged("G", dynamic(), together=True)
        kept = f"{seconds * 1000:.0f} ms away" if seconds else "beside us"
        rows = []
        for what, pushes, url, goal in (
            ("our server", {_A: alone, _TOGETHER: at_a_time}, f"{ours}data/", 1.2),
            ("a WebDAV", None, theirs, 0.75),
        ):
            if pushes is None:
                if theirs is None:
                    continue
                backing = StaticURLStore(theirs, "", poll=0, write="put")
                pushes = {_C: staged("C", backing)}
            assert url is not None
            mine = next(iter(pushes))
            bare = _PUT if mine == _A else _THREE
            row = interleaved(
                f"push of {keys:,} staged keys of 4 KiB to {what} {kept}, a key",
                {
                    _UNPACED: unpaced,
                    bare: put(url, around=bare == _THREE),
                    **pushes,
                    _PACED: paced,
                },
                reference=_UNPACED if unpaced is not None else bare,
                repeats=1 if quick else 2 if seconds else 3,
                between=lambda pushes=pushes: [each.stage() for each in pushes.values()],
                warm=False,
                goals=(
                    at_least(mine, goal, _UNPACED),
                    *((at_least(mine, 0.9, bare),) if seconds else ()),
                ),
            )
            if seconds:
                trips = 1 if mine == _A else 3
                row = row.beside(_ALLOWED[mine], trips * seconds / _AT_ONCE)
            rows.append(row)
        return rows


class _Pushed:
    """A store whose edits are staged beforehand, and pushed when it is called."""

    def __init__(
        self, store: MountedStore, name: str, data: bytes, keys: int, *, together: bool
    ) -> None:
        self._store = store
        self._name = name
        self._data = data
        self._keys = keys
        self._together = together
        self._turn = 0
        self._ready = False

    def stage(self) -> None:
        if self._ready:
            return
        self._ready = True
        self._turn += 1
        with self._store.transaction("all") if self._together else ExitStack():
            for number in range(self._keys):
                key = f"{self._name}-{self._turn}-{number}"
                self._store.set(key, StringValue(self._data, {"n": number}))

    def __call__(self) -> int:
        report = sync.push(self._store, workers=_AT_ONCE)
        assert {each.outcome for each in report.results} == {"pushed"}, report.results[:2]
        assert len(report.results) == self._keys
        self._ready = False
        return self._keys


def _rclone() -> str | None:
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextmanager
def _webdav(program: str, folder: Path) -> Iterator[str]:
    """Run ``rclone serve webdav`` on a folder; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "serve", "webdav", folder, "--addr", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, "--config", "/dev/null", "--log-level", "ERROR"], stderr=subprocess.DEVNULL
    ) as running:
        try:
            while running.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=10).close()
                except OSError:
                    time.sleep(0.02)
                else:
                    yield f"http://127.0.0.1:{port}/"
                    return
            raise AssertionError(f"rclone serve ended with {running.returncode}")
        finally:
            running.terminate()
