"""A directory that was copied is pushed from both copies: nothing twice, no edit lost."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, sync
from mountcache.local.backup import backup, restore
from mountcache.serve import Origin
from tests.local_parts import Running

_PUSHING = """
    import io, sys
    from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, sync
    path, url = sys.argv[1:]
    remote = DynamicURLStore(url + "keys", url + "query")
    with MountedStore("", DiskCacheStore(path, min_free=0), remote) as store:
        store.to_bytes("there")
        store.set("there", (io.BytesIO(b"edited " * 10_000), {"by": "both"}))
        store.set("other", (io.BytesIO(b"other"), {}))
        print("ready", flush=True)
        sync.push(store, ["there"])
"""


class _Held:
    """Holds the answer of the first write back, before it is applied or after."""

    def __init__(self, *, applied: bool) -> None:
        self._applied = applied
        self.came = threading.Event()
        self.released = threading.Event()

    def around(self, app: Any) -> Any:
        async def held(scope: Any, receive: Any, send: Any) -> None:
            async def nowhere(message: Any) -> None:
                pass

            if scope.get("method") != "PUT" or self.came.is_set():
                await app(scope, receive, send)
                return
            if self._applied:
                await app(scope, receive, nowhere)
            self.came.set()
            await asyncio.to_thread(self.released.wait)
            raise ConnectionError("nobody is there any more")

        return held


def _cp(source: Path, copy: Path) -> None:
    shutil.copytree(source, copy)


def _by_backup(source: Path, copy: Path) -> None:
    backup(source, copy.with_name("saved"))
    restore(copy.with_name("saved"), copy)


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "lost"])
@pytest.mark.parametrize("copying", [_cp, _by_backup], ids=["cp", "backup"])
def test_copy_while_a_write_is_under_way_and_its_reply_is_lost(
    tmp_path: Path, copying: Callable[[Path, Path], None], applied: bool
) -> None:
    held = _Held(applied=applied)
    first, second = tmp_path / "first", tmp_path / "second"
    with DiskCacheStore(tmp_path / "origin") as repository:
        repository.from_bytes("there", b"as it was")
        with Origin(repository, around=held.around, grace=1.0) as origin:
            with Running(_PUSHING, first, origin.url) as pusher:
                assert pusher.hear() == "ready"
                assert held.came.wait(30)
                copying(first, second)
                pusher.kill()
            held.released.set()

            def opened(path: Path) -> MountedStore:
                remote = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
                return MountedStore("", DiskCacheStore(path, min_free=0), remote, author=path.name)

            before = repository.get("there").version
            with opened(first) as one, opened(second) as two:
                incarnations = {store.mount.catalog.content.incarnation for store in (one, two)}
                assert len(incarnations) == 2
                for store in (one, two):
                    assert {edit.key for edit in store.staged()} == {"there", "other"}
                one.from_bytes("mine", b"of the first")
                two.from_bytes("theirs", b"of the second")
                told = []
                for store in (one, two):
                    results = sync.push(store).results
                    told.append({each.key: each.outcome for each in results})
                    assert list(store.staged()) == []
            assert set(told[0].values()) | set(told[1].values()) <= {"pushed", "already there"}
            assert told[1]["other"] == "already there"
            assert (repository.get("there").version == before) is applied
            assert repository.to_bytes("there") == b"edited " * 10_000
            assert repository.to_bytes("mine") == b"of the first"
            assert repository.to_bytes("theirs") == b"of the second"
            # Each write was applied once: what is there has been set once since it began.
            (seq,) = (
                repository.catalog.content.connection()
                .execute("SELECT value FROM state WHERE name = 'seq'")
                .fetchone()
            )
            assert seq == 5


def test_later_edits_of_both_copies_are_one_push_and_one_conflict(tmp_path: Path) -> None:
    held = _Held(applied=True)
    first, second = tmp_path / "first", tmp_path / "second"
    with DiskCacheStore(tmp_path / "origin") as repository:
        repository.from_bytes("there", b"as it was")
        with Origin(repository, around=held.around, grace=1.0) as origin:
            with Running(_PUSHING, first, origin.url) as pusher:
                assert pusher.hear() == "ready"
                assert held.came.wait(30)
                _cp(first, second)
                pusher.kill()
            held.released.set()
            outcomes = []
            for path in (first, second):
                remote = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
                with MountedStore("", DiskCacheStore(path, min_free=0), remote) as store:
                    store.from_bytes("there", path.name.encode())
                    outcomes.append(sync.push(store, ["there"])["there"].outcome)
                    assert store.to_bytes("there") == path.name.encode()
            assert outcomes == ["pushed", "conflict"]
            assert repository.to_bytes("there") == b"first"
