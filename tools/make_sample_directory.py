"""Make the sample of a store's directory that the tests open: tests/samples/formatN.tar.gz.

N is the format that this version writes. It has each kind of row: clean copies in rows and files,
a pinned one, edits of data and of metadata, whiteouts, a rename, a group, an op without its
answer, what undo keeps, permissions, a partial download, the generations of an index, and masks.

Run it as ``python tools/make_sample_directory.py`` once a format has changed that was never
released. **A sample that was released is never made again, changed or removed**: each later
version has to open it, and a newer format gets a sample of its own.

Nothing of the machine that it is made on is in it: no path, user, host, boot, device or port.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from mountcache import DiskCacheStore, MountedStore, StaticURLStore, sync
from mountcache.local import permissions
from mountcache.local.schema import FORMAT
from mountcache.serve import Origin

TARGET = Path(__file__).resolve().parent.parent / "tests" / "samples"
UPSTREAM = "http://upstream.example/"
AUTHOR = "a sample"
LARGE = 40_000
HUGE = 3 * 2**20

UPSTREAM_HAS: dict[str, tuple[bytes, dict[str, Any]]] = {
    **{f"small/{n}": (b"small %d" % n, {"n": n}) for n in range(6)},
    **{f"large/{n}": (b"large %d" % n * (LARGE // 7), {"n": n}) for n in range(3)},
    "huge": (bytes(range(256)) * (HUGE // 256), {"kind": "huge"}),
    "old name": (b"renamed " * 10_000, {"n": 7}),
}
"""What upstream holds at first: ``{key: (data, metadata)}``."""


def stage(store: MountedStore) -> None:
    """Stage one edit of each kind, over what is cached."""
    _set(store, "new", b"new", {"added": True})
    _set(store, "small/1", b"modified once", {"n": 1})
    _set(store, "small/1", b"modified twice", {"n": 11})
    _set(store, "large/1", b"modified" * (LARGE // 8), {"n": 1})
    store.update_metadata("small/2", {"edited": "metadata alone"})
    store.delete("small/3")
    store.mv("old name", "new name")
    with store.transaction("two that belong together"):
        _set(store, "group/a", b"a", {})
        _set(store, "group/b", b"b" * LARGE, {})
    _set(store, "reverted", b"to be had back" * 4_000, {"was": "reverted"})
    store.revert("reverted")
    # This upstream keeps no permissions.
    _permit(store, "small/0", '{"read":["somebody"]}')
    _permit(store, "small/0", '{"read":["ada"]}')


def _permit(store: MountedStore, key: str, text: str) -> None:
    permissions.stage(
        store.mount.catalog, key, lambda _: text, base='{"read":[]}', created=False, author=AUTHOR
    )


def _set(store: MountedStore, key: str, data: bytes, metadata: Mapping[str, Any]) -> None:
    store.set(key, (io.BytesIO(data), metadata))


class _Upstream:
    """An origin whose answers to writes can be lost once they are applied."""

    losing = False

    def around(self, app: Any) -> Any:
        async def losing(scope: Any, receive: Any, send: Any) -> None:
            async def nowhere(message: Any) -> None:
                pass

            if self.losing and scope.get("method") in ("PUT", "DELETE"):
                await app(scope, receive, nowhere)
                raise ConnectionError("the answer is lost")
            await app(scope, receive, send)

        return losing


def make(place: Path) -> Path:
    """Make the directory below a folder."""
    upstream = _Upstream()
    repository = DiskCacheStore(place / "origin")
    for key, (data, metadata) in UPSTREAM_HAS.items():
        repository.set(key, (io.BytesIO(data), metadata))
    with Origin(repository, around=upstream.around) as origin:
        remote = StaticURLStore(origin.url, poll=0, retries=0)
        local = DiskCacheStore(place / "store", size_limit=2**30, min_free=0)
        with MountedStore("", local, remote, author=AUTHOR) as store:
            for key in UPSTREAM_HAS:
                if key != "huge":
                    store.to_bytes(key)
            with store.get("huge").range(0, 10) as begin:
                assert begin.read() == UPSTREAM_HAS["huge"][0][:10]
            _set(store, "pushed", b"pushed", {"masked": True})
            sync.push(store, ["pushed"])
            # A second generation of the index, in which a key has gone and one has changed.
            repository.delete("small/5")
            repository.set("small/4", (io.BytesIO(b"changed there"), {"n": 44}))
            store.update_index()
            _set(store, "unanswered", b"unanswered", {})
            _set(store, "masked", b"masked, too", {})
            sync.push(store, ["masked"])
            upstream.losing = True
            sync.push(store, ["unanswered"])
            upstream.losing = False
            stage(store)
        _anonymise(place / "store", origin.url)
    repository.disconnect()
    return place / "store"


def _anonymise(directory: Path, url: str) -> None:
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as con:
        con.execute("UPDATE state SET value = replace(value, ?, ?) WHERE name = 'identity'",
                    (url, UPSTREAM))  # fmt: skip
        con.execute("UPDATE edit SET error = NULL")
        con.execute("UPDATE copy SET pinned = 1 WHERE key = 'large/2'")
        # What undo keeps expires, and the sample doesn't: 2100-01-01.
        con.execute("UPDATE undo SET taken = 4102444800.0")
        con.execute("UPDATE place SET value = 0 WHERE name != 'incarnation'")
        for table in ("copy", "partial"):
            con.execute(f"UPDATE {table} SET boot = 'an earlier boot'")
        con.execute("VACUUM")


def pack(directory: Path, target: Path) -> None:
    """Write an archive of a directory."""
    with (
        open(target, "wb") as out,
        gzip.GzipFile("", "wb", mtime=0, fileobj=out) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(directory.rglob("*")):
            name = path.relative_to(directory).as_posix()
            if path.is_dir() or not name.endswith((".lock", "-wal", "-shm")):
                entry = archive.gettarinfo(path, name)
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                entry.mtime = 0
                archive.addfile(entry, path.open("rb") if path.is_file() else None)


def main() -> None:
    """Make the sample of this version's format."""
    target = TARGET / f"format{FORMAT}.tar.gz"
    with tempfile.TemporaryDirectory() as place:
        directory = make(Path(place))
        TARGET.mkdir(exist_ok=True)
        pack(directory, target)
    data = target.read_bytes()
    sys.stdout.write(f"{target}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n")


if __name__ == "__main__":
    main()
