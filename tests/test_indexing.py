"""Making the index.json of a folder that a web server gives."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mountcache.backing import indexing
from mountcache.backing.indexing import write_index
from mountcache.backing.static import StaticURLStore
from mountcache.errors import ConfigurationError, IndexUnreadableError, StoreError
from tests.command import Shell

OLD = 1_600_000_000


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    for name, text in {
        "a.csv": "first",
        "deep/b.bin": "second",
        ".hidden": "",
        "w x/é": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (OLD, OLD))
    return root


def read(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site / "index.json").read_text("utf-8"))
    return found


def test_index_names_each_file_but_hidden_ones_and_itself(site: Path) -> None:
    for _ in range(2):
        made = write_index(site)
        assert made.keys == 3
        assert read(site) == {
            "a.csv": {
                "mimetype": "text/csv", "size": 5, "modified": "2020-09-13T12:26:40.000000000Z",
            },
            "deep/b.bin": {
                "mimetype": "application/octet-stream", "size": 6,
                "modified": "2020-09-13T12:26:40.000000000Z",
            },
            "w x/é": {"size": 0, "modified": "2020-09-13T12:26:40.000000000Z"},
        }  # fmt: skip
    assert sorted(each.name for each in site.iterdir()) == [
        ".hidden", "a.csv", "deep", "index.json", "w x",
    ]  # fmt: skip


def test_index_is_what_a_static_store_reads(site: Path) -> None:
    write_index(site, sha256=True)
    with StaticURLStore(site.as_uri(), "") as store:
        assert sorted(store.query_keys(size=5)) == ["a.csv"]
        assert store.to_bytes("deep/b.bin") == b"second"
        assert store.get_metadata("a.csv")["sha256"] == hashlib.sha256(b"first").hexdigest()


def test_metadata_of_people_stay_and_those_of_the_bytes_follow_the_bytes(site: Path) -> None:
    write_index(site, sha256=True)
    entries = read(site)
    entries["a.csv"] |= {"unit": "m", "mimetype": "text/x-mine", "md5": "0" * 32}
    (site / "index.json").write_text(json.dumps(entries))
    write_index(site)
    assert read(site)["a.csv"] == entries["a.csv"]
    (site / "a.csv").write_text("other!")
    write_index(site)
    changed = read(site)["a.csv"]
    assert (changed["unit"], changed["mimetype"], changed["size"]) == ("m", "text/x-mine", 6)
    # A digest that no longer holds would be a promise broken at each read.
    assert "sha256" not in changed
    assert "md5" not in changed


def test_only_what_changed_is_hashed_again(site: Path) -> None:
    assert write_index(site, sha256=True).hashed == 3
    assert write_index(site, sha256=True).hashed == 0
    (site / "a.csv").write_text("FIRST")
    made = write_index(site, sha256=True)
    assert made.hashed == 1
    assert read(site)["a.csv"]["sha256"] == hashlib.sha256(b"FIRST").hexdigest()
    # Changed within the grain of the clock, it could have changed again unnoticed.
    assert write_index(site, sha256=True).hashed == 1


def test_index_that_says_the_same_is_not_touched(site: Path) -> None:
    assert write_index(site).changed
    before = os.stat(site / "index.json")
    assert not write_index(site).changed
    after = os.stat(site / "index.json")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_index_keeps_its_mode(site: Path) -> None:
    write_index(site)
    (site / "index.json").chmod(0o640)
    (site / "a.csv").write_text("longer than before")
    write_index(site)
    assert (site / "index.json").stat().st_mode & 0o777 == 0o640


def test_sidecar_is_the_metadata_of_its_file_and_no_key(site: Path) -> None:
    (site / "a.csv.metadata.json").write_text('{"by": "ada"}')
    (site / "alone.metadata.json").write_text("{}")
    write_index(site)
    assert read(site)["a.csv"] == {"by": "ada"}
    assert sorted(read(site)) == ["a.csv", "alone.metadata.json", "deep/b.bin", "w x/é"]
    (site / "a.csv.metadata.json").write_text("[]")
    with pytest.raises(StoreError, match=r"a\.csv\.metadata\.json isn't a JSON object"):
        write_index(site)
    assert read(site)["a.csv"] == {"by": "ada"}


def test_names_that_are_no_keys_and_folders_in_a_ring_are_left_out(site: Path) -> None:
    (site / "deep" / "up").symlink_to("..")
    (site / "nowhere").symlink_to("gone")
    Path(os.fsdecode(os.fsencode(site) + b"/\xff")).touch()
    made = write_index(site)
    assert (made.keys, made.left_out) == (3, 1)
    assert len(read(site)) == 3


def test_what_is_no_index_is_not_overwritten(site: Path) -> None:
    (site / "index.json").write_text('{"a.csv": {"unit": "m"},')
    with pytest.raises(IndexUnreadableError, match="its metadata would be lost"):
        write_index(site)
    assert (site / "index.json").read_text() == '{"a.csv": {"unit": "m"},'
    with pytest.raises(ConfigurationError, match="isn't a folder"):
        write_index(site / "a.csv")


def test_failure_leaves_the_index_before(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(site)
    before = (site / "index.json").read_bytes()
    (site / "more").write_text("more")

    def fail(*args: object, **others: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexing.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_index(site)
    assert (site / "index.json").read_bytes() == before
    assert not [each for each in site.iterdir() if each.name.startswith(".index")]


def test_index_that_would_lose_most_of_its_keys_asks_first(site: Path) -> None:
    (site / "index.json").write_text(json.dumps({f"gone/{n}": {"n": n} for n in range(200)}))
    before = (site / "index.json").read_bytes()
    with pytest.raises(StoreError, match="200 of the 200 keys"):
        write_index(site)
    assert (site / "index.json").read_bytes() == before
    assert write_index(site, force=True).gone == 200
    assert len(read(site)) == 3


def test_empty_folder_has_an_empty_index(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert read(tmp_path) == {}


def test_command_writes_an_index_and_mounts_it(site: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    ended = shell("index", "site", "--sha256")
    assert ended.code == 0, ended.err
    assert "3 keys, 3 digests computed" in ended.text
    assert "up to date" in shell("index", "site").text
    assert shell("index", "site", "--json").documents[0]["keys"] == 3
    assert shell("init", site.as_uri()).code == 0
    assert shell("cat", "deep/b.bin").out == b"second"
    other = shell("index", "site/deep", "-o", "site/other.json", "--json")
    assert other.documents[0]["keys"] == 1
    assert shell("index", "nowhere").code == 3
