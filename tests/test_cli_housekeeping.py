"""The housework from the shell: what it prints, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import Inside

EACH = 40_960


@pytest.fixture
def repository() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        for number in range(4):
            store.set(f"runs/{number}", StringValue(bytes([number]) * EACH, {"n": number}))
        store.set("plan.txt", StringValue(b"go", {}))
        yield store


@pytest.fixture
def origin(repository: MemoryStore) -> Iterator[Origin]:
    with Origin(repository) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    folder = tmp_path / "shell"
    folder.mkdir()
    (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\nsize_limit = "2 MB"\n')
    return Inside(folder)


def files(shell: Inside) -> list[Path]:
    return sorted((shell.folder / ".mountcache").glob("[0-9a-f][0-9a-f]/*"))


def test_whereis_says_each_place_and_asks_nobody(shell: Inside, origin: Origin) -> None:
    shell("pin", "runs/0")
    shell("put", "runs/0", given=b"mine")
    shell("put", "runs/0", given=b"mine again")
    origin.stop()
    ended = shell("whereis", "runs/0")
    assert ended.code == 0
    said = {line.split()[0]: line for line in ended.text.splitlines()}
    assert "data, 10 bytes by" in said["staged:"]
    assert "in the database" in said["staged:"]
    assert "pinned, verified" in said["copy:"]
    assert str(files(shell)[0]) in said["copy:"]
    assert "replaced" in said["undo:"]
    assert "version" in said["upstream:"]
    (found,) = shell("whereis", "--json", "runs/0").documents
    assert found["cached"]["pinned"] is True
    assert found["staged"]["size"] == 10
    nothing = shell("whereis", "nowhere")
    assert nothing.code == 3
    assert "nothing of 'nowhere' is here" in nothing.err


def test_du_and_stats_are_tables_and_documents(shell: Inside) -> None:
    assert "nothing is here" in shell("du").err
    shell("prefetch")
    shell("put", "new", given=b"mine")
    lines = shell("du").text.splitlines()
    assert lines[0].split() == ["total", "cached", "staged", "undo", "partial", "folder"]
    assert len({len(line) - len(line.split()[-1]) for line in lines}) == 1
    assert [line.split()[-1] for line in lines[1:]] == [".", "runs/", "(all)"]
    by_folder = {each["folder"]: each for each in shell("du", "--json").documents}
    assert by_folder["runs/"]["cached"] == 4 * EACH
    assert by_folder[""]["staged"] == 4
    assert len(shell("du", "--depth", "0", "--json").documents) == 1
    said = shell("stats").text
    assert "cached:   5 keys, 164 kB, 0 bytes of them pinned" in said
    assert "limit 2 MB, 8 % full" in said
    (counts,) = shell("stats", "--json").documents
    assert counts["cached_keys"] == 5
    assert counts["limits"]["size"] == 2_000_000
    assert counts["database"] > 0
    assert "hits" not in counts


def test_prune_names_what_would_go_and_says_what_went(shell: Inside) -> None:
    shell("prefetch")
    shell("pin", "runs/3")
    dry = shell("prune", "--to", "50kB", "--dry-run")
    assert dry.code == 0
    assert "copies" in dry.text.splitlines()[-1]
    assert "without --dry-run" in dry.err
    assert shell("stats", "--json").documents[0]["cached_keys"] == 5
    ended = shell("prune", "--to", "0")
    assert ended.text == "pruned 4 copies (123 kB)\n"
    assert "41 kB of copies are left, 41 kB of them pinned" in ended.err
    assert shell("ls", "--cached").text == "runs/3\n"
    shell("prefetch", "runs/0")
    assert shell("prune", "--older-than", "1h").text == "pruned 0 copies (0 bytes)\n"
    assert shell("prune", "--older-than", "0s", "--json").documents == [
        {"key": "runs/0", "size": EACH, "pruned": True}
    ]
    for wrong in ([], ["--to", "1", "--older-than", "1d"], ["--to", "much"],
                  ["--older-than", "30"]):  # fmt: skip
        assert shell("prune", *wrong).code == 64


def test_gc_says_how_much_was_freed(shell: Inside) -> None:
    shell("prefetch")
    ended = shell("gc")
    assert (ended.code, ended.text) == (
        0, "freed 0 bytes: 0 files that nothing named, 0 entries of undo\n",
    )  # fmt: skip
    assert shell("gc", "--json").documents == [{"files": 0, "bytes": 0, "undo": 0}]


def test_verify_ends_with_what_it_found(
    shell: Inside, origin: Origin, repository: MemoryStore
) -> None:
    shell("prefetch", "runs/[01]")
    ended = shell("verify", "--remote")
    assert ended.code == 0
    assert "2 compared (81.9 kB), 0 not as said" in ended.text
    assert "2 compared with upstream" in ended.text
    repository.set("runs/1", StringValue(b"newer", {}))
    ended = shell("verify", "--remote")
    assert ended.code == 1
    assert "runs/1 has other bytes upstream" in ended.text or "another version" in ended.text
    files(shell)[0].unlink()
    ended = shell("verify")
    assert ended.code == 3
    assert "the copy is gone" in ended.text
    assert "mountcache verify --repair" in ended.err
    ended = shell("verify", "--repair", "--json")
    assert ended.code == 0
    assert ended.documents[0]["where"] == "cached"
    assert ended.documents[-1]["values"] == 2
    assert shell("verify").code == 0
    origin.stop()
    assert shell("verify", "--remote").code == 4


def test_a_staged_value_that_rotted_is_named_and_kept(shell: Inside) -> None:
    shell("put", "mine", given=os.urandom(EACH))
    (file,) = files(shell)
    file.write_bytes(bytes(EACH))
    ended = shell("verify", "--repair")
    assert ended.code == 3
    assert "mine: staged is lost" in ended.text or "mine: staged isn't what it was" in ended.text
    assert "stage it again, or revert it" in ended.text
    assert shell("ls", "--staged").text == "mine\n"
    assert files(shell) == [file]
