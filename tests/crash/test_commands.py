"""The command, killed while it pushes with several workers, or reads its input."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.events import StoreModificationEvent
from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import TIME, Shell, environment, words

ROUNDS = range(3)
KEYS = 24


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DiskCacheStore]:
    with DiskCacheStore(tmp_path / "origin") as store:
        for number in range(KEYS):
            store.set(f"old/{number}", StringValue(b"old", {"n": number}))
        yield store


@pytest.fixture
def shell(tmp_path: Path, repository: DiskCacheStore) -> Iterator[Shell]:
    with Origin(repository) as origin:
        folder = tmp_path / "here"
        folder.mkdir()
        (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
        yield Shell(folder)


@pytest.mark.parametrize("seed", ROUNDS)
def test_push_killed_at_any_moment_and_repeated_writes_each_edit_once(
    shell: Shell, repository: DiskCacheStore, seed: int
) -> None:
    chance = random.Random(seed)
    assert shell("ls").code == 0
    (shell.folder / "new").write_bytes(chance.randbytes(50_000))
    from mountcache.config import open_store, read_settings

    with open_store(read_settings(shell.folder / "mountcache.toml", {})) as store:
        for number in range(KEYS):
            store.get_metadata(f"old/{number}")
            if number % 3 == 0:
                store.delete(f"old/{number}")
            elif number % 3 == 1:
                store.from_bytes(f"old/{number}", b"new")
            else:
                store.from_file(f"new/{number}", shell.folder / "new")
    writes: Counter[str] = Counter()
    moment = chance.randrange(1, KEYS)
    reached = threading.Event()

    def count(event: StoreModificationEvent) -> None:
        assert event.key is not None
        writes[event.key] += 1
        if sum(writes.values()) >= moment:
            reached.set()

    repository.event_manager.connect(StoreModificationEvent, count)
    with shell.start("push", "--workers", "3", "--max-delete", str(KEYS)) as pushing:
        assert reached.wait(TIME)
        pushing.kill()
        pushing.wait(TIME)
    again = shell("push", "--max-delete", str(KEYS))
    assert again.code == 0, again.text + again.err
    assert shell("status").code == 0
    assert set(writes.values()) == {1}
    assert len(writes) == KEYS
    for number in range(KEYS):
        assert repository.exists(f"old/{number}") == (number % 3 != 0)
        if number % 3 == 1:
            assert repository.to_bytes(f"old/{number}") == b"new"
        if number % 3 == 2:
            assert repository.to_bytes(f"new/{number}") == (shell.folder / "new").read_bytes()


@pytest.mark.parametrize("seed", ROUNDS)
def test_put_killed_at_any_moment_stages_all_or_nothing(shell: Shell, seed: int) -> None:
    chance = random.Random(seed)
    assert shell("put", "k", given=b"before").code == 0
    with subprocess.Popen(
        [*words(), "put", "k"],
        cwd=shell.folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as putting:
        assert putting.stdin is not None
        for _ in range(chance.randrange(1, 40)):
            putting.stdin.write(bytes(65536))
        putting.stdin.flush()
        putting.kill()
        putting.communicate(timeout=TIME)
    assert shell("cat", "k").out == b"before"
    assert shell("put", "k", given=b"after").code == 0
    assert shell("cat", "k").out == b"after"
    assert not list((shell.folder / ".mountcache" / "tmp").iterdir())
