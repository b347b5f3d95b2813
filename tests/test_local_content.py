"""Byte strings and commits: what holds for a directory and for memory."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache.errors import IntegrityError, StoreBusyError, StoreError, StoreFullError
from mountcache.local.content import MIN_FILE_SIZE, DatabaseContent
from mountcache.local.diskcontent import DiskContent
from mountcache.local.memory import MemoryContent
from tests.local_parts import LARGE, SMALL, Running, files, keep, name, read, ready, spooled, stored


@pytest.fixture(params=["disk", "memory"])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseContent]:
    made = DiskContent(tmp_path / "store") if request.param == "disk" else MemoryContent()
    ready(made)
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskContent]:
    made = DiskContent(tmp_path / "store")
    ready(made)
    yield made
    made.close()


# -- byte strings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", SMALL, b"x" * (MIN_FILE_SIZE - 1), b"x" * MIN_FILE_SIZE, LARGE]
)
def test_what_was_adopted_is_read_back(content: DatabaseContent, data: bytes) -> None:
    spool = spooled(content, data)
    assert spool.size == len(data)
    assert spool.sha256 == hashlib.sha256(data).hexdigest()
    assert spool.open().read() == data
    with content.write() as con:
        adopted = content.adopt(con, spool)
    spool.discard()
    assert spool.open().read() == data
    assert read(content, adopted) == data
    assert adopted.startswith(content.token + "-")


def test_large_bytes_lie_in_a_file_of_their_own_and_small_ones_in_the_row(
    disk: DiskContent,
) -> None:
    mode, filename, value, *_ = stored(disk, keep(disk, SMALL, "small"))
    assert (mode, filename, value) == (1, None, SMALL)
    mode, filename, value, *_ = stored(disk, keep(disk, LARGE, "large"))
    assert (mode, value) == (2, None)
    assert files(disk) == [disk.path(filename)]


def test_stream_is_seekable_and_survives_the_end_of_its_bytes(content: DatabaseContent) -> None:
    for data in (SMALL, LARGE):
        adopted = keep(content, data, "k")
        stream = content.open(stored(content, adopted))
        with content.write() as con:
            con.execute("DELETE FROM edit")
            content.release(con, [adopted])
        assert stored(content, adopted) is None
        assert stream.seek(7) == 7
        assert stream.read() == data[7:]


def test_bytes_that_have_gone_are_a_file_not_found(disk: DiskContent) -> None:
    row = stored(disk, keep(disk, LARGE))
    files(disk)[0].unlink()
    with pytest.raises(FileNotFoundError):
        disk.open(row)


def test_spool_that_isnt_adopted_leaves_nothing(disk: DiskContent) -> None:
    with disk.spool() as unfinished:
        unfinished.write(LARGE)
        assert [path.parent.name for path in files(disk)] == ["tmp"]
    finished = spooled(disk, LARGE)
    assert len(files(disk)) == 1
    finished.discard()
    finished.discard()
    assert files(disk) == []


def test_one_spool_may_be_the_bytes_of_two_keys(content: DatabaseContent) -> None:
    spool = spooled(content, LARGE)
    with content.write() as con:
        first = content.adopt(con, spool)
        name(con, "a", first)
        assert content.adopt(con, spool) == first
        name(con, "b", first)
        con.execute("DELETE FROM edit WHERE key = 'a'")
        content.release(con, [first])
    assert read(content, first) == LARGE
    with content.write() as con:
        assert content.adopt(con, spool) == first
        con.execute("DELETE FROM edit")
        content.release(con, [first])
        with pytest.raises(ValueError, match="released since"):
            content.adopt(con, spool)


def test_finished_file_is_taken_over_by_rename(content: DatabaseContent, tmp_path: Path) -> None:
    for data in (SMALL, LARGE):
        file = tmp_path / "partial file"
        file.write_bytes(data)
        with content.write() as con:
            adopted = content.adopt_file(con, file, len(data))
        assert not file.exists()
        assert read(content, adopted) == data


def test_file_of_a_commit_that_failed_is_where_it_was(
    content: DatabaseContent, tmp_path: Path
) -> None:
    for data in (SMALL, LARGE):
        file = tmp_path / "partial file"
        file.write_bytes(data)
        with pytest.raises(ZeroDivisionError), content.write() as con:
            content.adopt_file(con, file, len(data))
            raise ZeroDivisionError
        assert file.read_bytes() == data


def test_file_of_another_length_is_refused(disk: DiskContent, tmp_path: Path) -> None:
    file = tmp_path / "partial file"
    file.write_bytes(LARGE)
    with pytest.raises(IntegrityError, match="has 120000 bytes where 7"), disk.write() as con:
        disk.adopt_file(con, file, 7)


def test_spools_are_used_in_their_order(content: DatabaseContent) -> None:
    spool = content.spool()
    with pytest.raises(ValueError, match="finished"):
        spool.open()
    spool.finish(durable=True)
    with pytest.raises(ValueError, match="finished"):
        spool.write(b"late")
    with pytest.raises(RuntimeError, match="inside a commit"):
        content.adopt(content.connection(), spool)


# -- commits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_exception_takes_the_commit_back(
    content: DatabaseContent, error: type[BaseException], data: bytes
) -> None:
    spool = spooled(content, data)
    with pytest.raises(error), content.write() as con:
        name(con, "key", content.adopt(con, spool))
        raise error
    assert content.connection().execute("SELECT count(*) FROM Cache").fetchone() == (0,)
    assert not content.connection().in_transaction
    # The spool is still there for another try.
    with content.write() as con:
        adopted = content.adopt(con, spool)
    assert read(content, adopted) == data


def test_bytes_of_a_failed_commit_go_with_their_spool(disk: DiskContent) -> None:
    spool = spooled(disk, LARGE)
    with pytest.raises(ZeroDivisionError), disk.write() as con:
        disk.adopt(con, spool)
        raise ZeroDivisionError
    spool.discard()
    assert files(disk) == []


def test_files_go_after_the_commit_and_never_before(disk: DiskContent) -> None:
    adopted = keep(disk, LARGE)
    with pytest.raises(ZeroDivisionError), disk.write() as con:
        con.execute("DELETE FROM edit")
        disk.release(con, [adopted])
        raise ZeroDivisionError
    assert read(disk, adopted) == LARGE
    with disk.write() as con:
        con.execute("DELETE FROM edit")
        disk.release(con, [adopted])
        assert len(files(disk)) == 1
    assert files(disk) == []


def test_bytes_that_a_row_names_arent_released(content: DatabaseContent) -> None:
    adopted = keep(content, LARGE)
    with content.write() as con:
        content.release(con, [adopted])
    assert read(content, adopted) == LARGE


def test_commits_dont_nest(content: DatabaseContent) -> None:
    with (
        content.write(),
        pytest.raises(RuntimeError, match="open already"),
        content.write(),
    ):
        pass
    with content.write():
        pass


def test_second_writer_waits_and_then_gives_up(content: DatabaseContent) -> None:
    inside, end = threading.Event(), threading.Event()

    def hold() -> None:
        with content.write():
            inside.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60)
    with pytest.raises(StoreBusyError, match="another thread"), content.write(wait=0.05):
        pass
    end.set()
    with content.write() as con:
        con.execute("SELECT 1")
    thread.join()


def test_writer_of_another_process_is_waited_for_and_then_named_busy(disk: DiskContent) -> None:
    holding = """
        import sys
        from mountcache.local.diskcontent import DiskContent
        with DiskContent(sys.argv[1]).write():
            print("held", flush=True)
            sys.stdin.readline()
    """
    with Running(holding, disk.directory) as other:
        assert other.hear() == "held"
        with pytest.raises(StoreBusyError, match="another process"), disk.write(wait=0.05):
            pass
        other.say()
        with disk.write() as con:
            con.execute("CREATE TABLE mine (x)")


def test_writer_that_was_killed_blocks_nobody(disk: DiskContent) -> None:
    holding = """
        import sys
        from mountcache.local.diskcontent import DiskContent
        with DiskContent(sys.argv[1]).write() as con:
            con.execute("CREATE TABLE theirs (x)")
            print("held", flush=True)
            sys.stdin.readline()
    """
    with Running(holding, disk.directory) as other:
        other.hear()
        other.kill()
    with disk.write() as con:
        con.execute("CREATE TABLE theirs (x)")


def test_nobody_sees_what_isnt_committed(content: DatabaseContent) -> None:
    found: list[Any] = []
    inside, looked = threading.Event(), threading.Event()

    def look() -> None:
        inside.wait(60)
        found.append(content.connection().execute("SELECT count(*) FROM edit").fetchone())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(ZeroDivisionError), content.write() as con:
        name(con, "key", content.adopt(con, spooled(content, SMALL)))
        assert content.connection() is con
        inside.set()
        looked.wait(0.1)
        raise ZeroDivisionError
    thread.join()
    assert found == [(0,)]


def test_threads_lose_no_write(content: DatabaseContent) -> None:
    with content.write() as con:
        con.execute("CREATE TABLE counter (x)")
        con.execute("INSERT INTO counter VALUES (0)")

    def add() -> None:
        for _ in range(25):
            with content.write() as con:
                (x,) = con.execute("SELECT x FROM counter").fetchone()
                con.execute("UPDATE counter SET x = ?", (x + 1,))
            content.connection().execute("SELECT x FROM counter").fetchall()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content.connection().execute("SELECT x FROM counter").fetchone() == (100,)


def test_answers_can_be_read_one_by_one_or_all_at_once(content: DatabaseContent) -> None:
    con = content.connection()
    numbers = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n"
    answer = con.execute(numbers)
    assert answer.fetchone() == (1,)
    assert answer.fetchall() == [(2,), (3,)]
    assert answer.fetchone() is None
    assert list(con.execute(numbers)) == [(1,), (2,), (3,)]


def test_half_read_query_holds_no_lock_on_the_log(disk: DiskContent) -> None:
    keep(disk, SMALL, "a")
    keep(disk, SMALL, "b")
    answer = disk.connection().execute("SELECT key FROM edit")
    answer.fetchone()
    with disk.write() as con:
        con.execute("DELETE FROM edit")
    assert disk.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def test_errors_of_the_caller_stay_what_they_are(content: DatabaseContent) -> None:
    with pytest.raises(sqlite3.IntegrityError), content.write() as con:
        con.execute("INSERT INTO state VALUES ('gen', 1)")
    with pytest.raises(sqlite3.OperationalError, match="syntax error"), content.write() as con:
        con.execute("SELEKT")


def test_database_without_room_is_a_full_store(content: DatabaseContent) -> None:
    con = content.connection()
    (pages,) = con.execute("PRAGMA page_count").fetchone()
    con.execute(f"PRAGMA max_page_count = {pages}")
    spool = spooled(content, b"x" * (MIN_FILE_SIZE - 1))
    with pytest.raises(StoreFullError, match="full"), content.write() as con:
        content.adopt(con, spool)
    con.execute(f"PRAGMA max_page_count = {2**30}")
    with content.write() as con:
        content.adopt(con, spool)


def test_commits_are_in_the_order_that_a_power_cut_cant_break(
    disk: DiskContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def noted(function: Callable[..., Any], say: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            steps.append(say(*arguments))
            return function(*arguments, **named)

        return call

    def synced(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return "sync directory" if path.is_dir() else "sync file"

    monkeypatch.setattr(os, "fsync", noted(os.fsync, synced))
    monkeypatch.setattr(os, "rename", noted(os.rename, lambda *_: "rename"))
    monkeypatch.setattr(Path, "unlink", noted(Path.unlink, lambda *_: "unlink"))
    disk.connection().set_trace_callback(
        lambda sql: steps.append(sql) if sql in ("BEGIN IMMEDIATE", "COMMIT") else None
    )
    adopted = keep(disk, LARGE)
    written = ["rename", "sync file", "sync directory", "BEGIN IMMEDIATE", "COMMIT"]
    assert steps == written
    with disk.write() as con:
        con.execute("DELETE FROM edit")
        disk.release(con, [adopted])
    assert steps == [*written, "BEGIN IMMEDIATE", "COMMIT", "unlink"]
    assert disk.connection().execute("PRAGMA synchronous").fetchone() == (2,)


def test_clean_bytes_are_synced_later_if_they_are_to_be_staged(
    disk: DiskContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd))[1])
    ids = []
    for data in (SMALL, LARGE):
        spool = spooled(disk, data, durable=False)
        with disk.write() as con:
            ids.append(disk.adopt(con, spool))
    assert synced == []
    for content_id in ids:
        disk.sync_file(content_id)
    assert len(synced) == 2  # the file and its directory
    with pytest.raises(FileNotFoundError):
        disk.sync_file("nothing")


def test_room_that_is_left_is_told(content: DatabaseContent) -> None:
    assert content.free_bytes() > 0


# -- connections -----------------------------------------------------------------------------


def test_each_thread_has_a_connection_that_ends_with_it(disk: DiskContent) -> None:
    def open_files() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(disk.directory))
            for fd in os.listdir("/proc/self/fd")
        )

    def run_a_thread() -> int:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return open_files()

    def look() -> None:
        found.append(disk.connection() is not mine)
        found.append(disk.connection() is disk.connection())

    found: list[bool] = []
    mine = disk.connection()
    after_one = run_a_thread()
    assert [run_a_thread() for _ in range(5)] == [after_one] * 5
    assert all(found)


def test_close_closes_the_connections_of_all_threads(disk: DiskContent) -> None:
    opened, closed = threading.Event(), threading.Event()
    errors: list[type[BaseException]] = []

    def look() -> None:
        con = disk.connection()
        opened.set()
        closed.wait(60)
        for ask in (lambda: con.execute("SELECT 1"), disk.connection):
            try:
                ask()
            except (sqlite3.ProgrammingError, StoreError) as error:
                errors.append(type(error))

    thread = threading.Thread(target=look)
    thread.start()
    opened.wait(60)
    disk.close()
    disk.close()
    closed.set()
    thread.join()
    assert errors == [sqlite3.ProgrammingError, StoreError]
    assert not (disk.directory / "cache.db-wal").exists()
    assert os.listdir(disk.directory / "live") == []


def test_log_stays_short(disk: DiskContent) -> None:
    for number in range(100):
        keep(disk, b"x" * 30_000, str(number))
    assert (disk.directory / "cache.db-wal").stat().st_size < 2 * 2**20
    con = disk.connection()
    con.execute("PRAGMA wal_checkpoint(RESTART)")
    keep(disk, SMALL)
    assert (disk.directory / "cache.db-wal").stat().st_size <= 2**20


def test_large_values_are_hashed_beside_and_come_out_the_same(content: DatabaseContent) -> None:
    before = threading.active_count()
    piece, whole = bytearray(3 * 2**20 + 1), hashlib.sha256()
    with content.spool() as spool:
        for number in range(9):
            # The next piece comes in the same place.
            piece[:] = bytes([number]) * len(piece)
            whole.update(piece)
            spool.write(piece)
            if number == 7:
                assert spool.sha256 == whole.hexdigest()
        spool.finish(True)
        assert spool.sha256 == whole.hexdigest()
        with spool.open() as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == whole.hexdigest()
    assert threading.active_count() == before
    with content.spool() as spool:
        for _ in range(9):
            spool.write(bytes(piece))
    assert threading.active_count() == before
