"""Processes that share a directory: forks, locks, and what the dead leave behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.local.diskcontent import DiskContent
from mountcache.local.liveness import FileLock
from mountcache.local.memory import MemoryContent
from tests.local_parts import LARGE, Running, files, read, ready, script, spooled


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskContent]:
    made = DiskContent(tmp_path / "store")
    ready(made)
    yield made
    made.close()


# -- forks -----------------------------------------------------------------------------------

_FORKED = """
import os, sys, threading
from mountcache.local.diskcontent import DiskContent
from mountcache.local.memory import MemoryContent
from tests.local_parts import LARGE, SMALL, keep, read, ready, spooled

def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def join(pid):
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
"""


def forked(text: str, *arguments: object) -> None:
    script(_FORKED, *arguments, after=text)


def test_forked_child_reads_and_writes_with_everything_its_own(tmp_path: Path) -> None:
    forked(
        """
        content = DiskContent(sys.argv[1])
        ready(content)
        mine = keep(content, LARGE, "before")
        token, con = content.token, content.connection()

        def child():
            assert content.token != token
            assert content.connection() is not con
            assert read(content, mine) == LARGE
            assert keep(content, SMALL, "child").startswith(content.token)
            assert len(os.listdir(content.directory / "live")) == 2
            content.close()

        join(fork(child))
        assert content.token == token and content.connection() is con
        keep(content, SMALL, "parent")
        rows = con.execute("SELECT key FROM edit ORDER BY key").fetchall()
        assert rows == [("before",), ("child",), ("parent",)]
        assert os.listdir(content.directory / "live") == [token]
        """,
        tmp_path / "store",
    )


def test_commit_of_a_child_outlives_a_parent_that_closes_first(tmp_path: Path) -> None:
    # With a connection carried across the fork the child would hold no lock, the parent would
    # remove the log at its close, and this commit would be in no file that anybody reads.
    forked(
        """
        content = DiskContent(sys.argv[1])
        ready(content)
        closed = os.pipe()

        def child():
            keep(content, SMALL, "first")
            os.write(written[1], b"x")
            os.read(closed[0], 1)
            keep(content, SMALL, "second")
            os._exit(0)  # its log is not read in

        written = os.pipe()
        pid = fork(child)
        os.read(written[0], 1)
        content.close()
        os.write(closed[1], b"x")
        join(pid)
        again = DiskContent(sys.argv[1])
        rows = again.connection().execute("SELECT key FROM edit").fetchall()
        assert rows == [("first",), ("second",)]
        """,
        tmp_path / "store",
    )


def test_fork_waits_for_writers_and_readers_of_other_threads(tmp_path: Path) -> None:
    forked(
        """
        content = DiskContent(sys.argv[1])
        ready(content)
        mine = keep(content, SMALL, "read")
        stop = threading.Event()

        def work(number):
            while not stop.is_set():
                if number % 2:
                    keep(content, LARGE, f"{number}")
                    with content.write() as con:
                        con.execute("DELETE FROM edit WHERE key = ?", (f"{number}",))
                else:
                    assert read(content, mine) == SMALL

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for number in range(15):
            def child():
                assert read(content, mine) == SMALL
                keep(content, SMALL, f"child {number}")
            join(fork(child))
        stop.set()
        for thread in threads:
            thread.join()
        con = content.connection()
        assert con.execute("SELECT count(*) FROM edit WHERE key LIKE 'c%'").fetchone() == (15,)
        assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        """,
        tmp_path / "store",
    )


def test_child_forked_inside_a_commit_leaves_it_to_its_parent(tmp_path: Path) -> None:
    forked(
        """
        content = DiskContent(sys.argv[1])
        ready(content)
        spool = spooled(content, LARGE)
        parent = os.getpid()
        try:
            with content.write() as con:
                adopted = content.adopt(con, spool)
                con.execute("INSERT INTO state VALUES ('mine', 1)")
                pid = os.fork()
        except RuntimeError as error:
            assert os.getpid() != parent and "inside a commit" in str(error)
            try:
                content.connection()
            except RuntimeError as error:
                os._exit(0 if "fork outside of it" in str(error) else 2)
            os._exit(3)
        join(pid)
        assert read(content, adopted) == LARGE
        with content.write() as con:
            con.execute("UPDATE state SET value = 2 WHERE name = 'mine'")
        """,
        tmp_path / "store",
    )


def test_spool_of_the_parent_isnt_the_childs(tmp_path: Path) -> None:
    forked(
        """
        content = DiskContent(sys.argv[1])
        ready(content)
        spool = spooled(content, LARGE)

        def child():
            spool.discard()
            try:
                with content.write() as con:
                    content.adopt(con, spool)
            except ValueError as error:
                assert "by the process that made it" in str(error)
                os._exit(0)
            os._exit(2)

        join(fork(child))
        with content.write() as con:
            adopted = content.adopt(con, spool)
        assert read(content, adopted) == LARGE
        """,
        tmp_path / "store",
    )


def test_memory_is_a_copy_after_a_fork(tmp_path: Path) -> None:
    forked(
        """
        content = MemoryContent()
        ready(content)
        token = content.token
        lock = content.lock("push")
        mine = keep(content, SMALL, "before")
        inside, end = threading.Event(), threading.Event()

        def child():
            assert content.token != token
            assert read(content, mine) == SMALL
            keep(content, SMALL, "child")
            assert content.lock("push").acquire(0)

        def hold():
            lock.acquire(0)
            inside.set()
            end.wait(60)
            lock.release()

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(60)
        join(fork(child))
        end.set()
        thread.join()
        with content.write() as con:
            pid = fork(lambda: con.execute("SELECT 1"))
            join(pid)
        assert content.connection().execute("SELECT key FROM edit").fetchall() == [("before",)]
        """
    )


def test_lock_of_the_parent_is_neither_kept_nor_freed_by_its_child(tmp_path: Path) -> None:
    forked(
        """
        content = DiskContent(sys.argv[1])
        lock = content.lock("push")
        assert lock.acquire(0)
        looked, done = os.pipe(), os.pipe()

        def child():
            assert not content.lock("push").acquire(0)
            assert content.lock("push").holder().startswith(f"pid {os.getppid()} ")
            os.write(looked[1], b"x")
            os.read(done[0], 1)

        pid = fork(child)
        os.read(looked[0], 1)
        other = DiskContent(sys.argv[1])
        assert not other.lock("push").acquire(0)
        lock.release()
        assert other.lock("push").acquire(0)  # though the child lives on
        os.write(done[1], b"x")
        join(pid)
        """,
        tmp_path / "store",
    )


# -- locks -----------------------------------------------------------------------------------


@pytest.fixture(params=["disk", "memory"])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> DiskContent | MemoryContent:
    return DiskContent(tmp_path / "store") if request.param == "disk" else MemoryContent()


def test_lock_has_one_holder_in_whatever_thread(content: DiskContent | MemoryContent) -> None:
    lock = content.lock("push")
    assert lock.holder() == ""
    assert lock.acquire(0.0)
    assert not content.lock("push").acquire(0.0)
    assert not content.lock("push").acquire(0.01)
    assert content.lock("index").acquire(0.0)
    assert lock.holder() != ""
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.acquire(0.0)
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def test_who_waits_for_a_lock_gets_it_when_it_is_given_back(
    content: DiskContent | MemoryContent,
) -> None:
    lock = content.lock("push")
    assert lock.acquire(0.0)
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(content.lock("push").acquire(60.0)))
    thread.start()
    lock.release()
    thread.join()
    assert got == [True]
    lock.release()


def test_who_gave_up_waiting_for_a_lock_doesnt_get_it_later(tmp_path: Path) -> None:
    mine, other = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    assert mine.acquire(0.0)
    before = threading.active_count()
    assert not other.acquire(0.01)
    mine.release()
    for thread in threading.enumerate():
        if thread.name.startswith("waiting for"):
            thread.join()
    assert threading.active_count() < before + 1
    assert mine.acquire(60.0)


def test_lock_names_its_holder_and_is_free_when_that_is_killed(disk: DiskContent) -> None:
    holding = """
        import os, sys
        from mountcache.local.diskcontent import DiskContent
        lock = DiskContent(sys.argv[1]).lock("push")
        assert lock.acquire(0)
        print(os.getpid(), flush=True)
        sys.stdin.readline()
    """
    lock = disk.lock("push")
    with Running(holding, disk.directory) as other:
        pid = other.hear()
        assert not lock.acquire(0.0)
        assert lock.holder() == f"pid {pid} on {os.uname().nodename}"
        other.kill()
        assert lock.acquire(60.0)
    assert lock.holder().startswith(f"pid {os.getpid()} ")


# -- the dead --------------------------------------------------------------------------------

_LEAVING = """
    import sys
    from mountcache.local.diskcontent import DiskContent
    from tests.local_parts import LARGE, keep, ready, spooled
    content = DiskContent(sys.argv[1])
    print(keep(content, LARGE, "kept"), flush=True)
    finished = spooled(content, LARGE)
    unfinished = content.spool()
    unfinished.write(LARGE)
    (content.directory / "partial" / content.new_id()).write_bytes(b"nobody's")
    named = content.new_id()
    (content.directory / "partial" / named).write_bytes(b"somebody's")
    with content.write() as con:
        con.execute("INSERT INTO partial VALUES ('k', 'v', 10, ?, '')", (named,))
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_what_a_living_process_has_in_hand_is_left_alone(disk: DiskContent) -> None:
    mine = spooled(disk, LARGE)
    with Running(_LEAVING, disk.directory) as other:
        other.hear()
        other.hear()
        assert disk.gc() == 0
        assert len(files(disk)) == 6
        other.kill()
        assert disk.gc() == 3
    assert mine.open().read() == LARGE


def test_what_a_dead_process_left_and_no_row_names_is_removed(disk: DiskContent) -> None:
    with Running(_LEAVING, disk.directory) as other:
        kept = other.hear()
        other.hear()
        other.kill()
    assert len(files(disk)) == 5
    assert disk.gc() == 3
    assert sorted(path.parent.name for path in files(disk))[1] == "partial"
    assert read(disk, kept) == LARGE
    assert os.listdir(disk.directory / "live") == [disk.token]
    assert disk.gc() == 0


def test_what_the_dead_left_goes_when_somebody_opens_the_directory(
    disk: DiskContent,
) -> None:
    with Running(_LEAVING, disk.directory) as other:
        other.hear()
        other.hear()
        other.kill()
    DiskContent(disk.directory).close()
    assert len(files(disk)) == 2
    assert disk.gc() == 0


def test_gc_leaves_what_it_doesnt_know(disk: DiskContent) -> None:
    other = disk.directory / "tmp" / "something of the user's"
    other.touch()
    assert disk.gc() == 0
    assert other.exists()
