"""What the tests of the local end have in common: contents, and processes beside this one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from mountcache.local import schema
from mountcache.local.content import DatabaseContent, Spool
from mountcache.local.diskcontent import DiskContent

SMALL = b"twenty-nine bytes of something"
LARGE = b"more than fits in a row " * 5000

ROOT = str(Path(__file__).parents[1])


def ready(content: DatabaseContent) -> None:
    with content.write() as con:
        schema.create(con)


def spooled(content: DatabaseContent, data: bytes, *, durable: bool = True) -> Spool:
    spool: Spool = content.spool()
    for start in range(0, len(data), 10_000):
        spool.write(data[start : start + 10_000])
    spool.finish(durable)
    return spool


def keep(content: DatabaseContent, data: bytes, key: str = "key") -> str:
    """Adopt bytes and name them by a row of the catalog."""
    spool = spooled(content, data)
    with content.write() as con:
        adopted = content.adopt(con, spool)
        name(con, key, adopted)
    return adopted


def name(con: sqlite3.Connection, key: str, content_id: str) -> None:
    con.execute(
        "INSERT INTO edit (key, seq, grp, author, at, notes, kind, content, meta, base_kind)"
        " SELECT ?, coalesce(max(seq), 0) + 1, 0, '', 0, '', 'put', ?, '{}', 'none' FROM edit",
        (key, content_id),
    )


def stored(content: DatabaseContent, content_id: str) -> Any:
    return (
        content.connection()
        .execute(
            "SELECT mode, filename, value, size, store_time FROM Cache WHERE key = ? AND raw = 1",
            (content_id,),
        )
        .fetchone()
    )


def read(content: DatabaseContent, content_id: str) -> bytes:
    with content.open(stored(content, content_id)) as stream:
        return stream.read()


def files(content: DiskContent) -> list[Path]:
    return sorted(
        path
        for path in content.directory.glob("*/*")
        if path.is_file() and path.parent.name != "live"
    )


def script(text: str, *arguments: object, after: str = "") -> str:
    """Run Python in a process of its own, which has to end well; return what it printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(text) + textwrap.dedent(after),
            *map(str, arguments),
        ],
        env=_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, sys.path)])}


class Running:
    """Python in a process of its own, which says a line and waits for one."""

    def __init__(self, text: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
            env=_environment(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
