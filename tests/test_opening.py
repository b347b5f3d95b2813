"""One mountcache.toml opens the same store for scripts, notebooks and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mountcache
from mountcache.errors import ConfigurationError, DirectoryError
from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import Shell


@pytest.fixture
def origin() -> Iterator[Origin]:
    with MemoryStore() as repository:
        repository.set("a/1", StringValue(b"one", {"n": 1}))
        with Origin(repository) as running:
            yield running


@pytest.fixture
def folder(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MOUNTCACHE_CONFIG", "MOUNTCACHE_DIR", "MOUNTCACHE_OFFLINE", "MOUNTCACHE_AUTHOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    return tmp_path


def test_nearest_file_is_opened_and_its_cache_shared(folder: Path) -> None:
    with mountcache.open(author="ada") as store:
        assert store.to_bytes("a/1") == b"one"
        store.set("a/2", mountcache.StringValue(b"two", {}))
    assert not store.is_connected()
    said = Shell(folder / "deep")("status", "--json")
    assert said.documents[0]["staged"][0]["author"] == "ada"
    for path in (folder, folder / "deep", folder / "mountcache.toml", str(folder)):
        with mountcache.open(path) as store:
            assert store.to_bytes("a/2") == b"two"
            assert store.stats()["cached_keys"] == 1


def test_environment_and_overrides_come_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigurationError, match="mountcache init URL"):
        mountcache.open()
    monkeypatch.setenv("MOUNTCACHE_CONFIG", str(folder / "mountcache.toml"))
    monkeypatch.setenv("MOUNTCACHE_DIR", str(elsewhere / "cache"))
    monkeypatch.setenv("MOUNTCACHE_OFFLINE", "always")
    with mountcache.open() as store:
        assert store.is_offline()
    assert (elsewhere / "cache" / "cache.db").exists()
    assert not (folder / ".mountcache").exists()
    with mountcache.open(offline="auto", mount_point="a/", dir=elsewhere / "other") as store:
        assert (store.is_offline(), store.mount_point) == (False, "a/")
        assert store.to_bytes("a/1") == b"one"
    assert (elsewhere / "other" / "cache.db").exists()


def test_url_alone_needs_no_file(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOUNTCACHE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with mountcache.open(url=origin.url) as store:
        assert store.to_bytes("a/1") == b"one"
    assert (tmp_path / ".mountcache" / "cache.db").exists()
    with pytest.raises(
        ConfigurationError, match=r"open\(\): unknown key 'ulr'; did you mean 'url'"
    ):
        mountcache.open(url=origin.url, ulr=1)


def test_several_mounts_have_names(origin: Origin, folder: Path) -> None:
    path = folder / "mountcache.toml"
    path.write_text(
        f'[mount.whole]\nurl = "{origin.url}"\n\n'
        f'[mount.part]\nurl = "{origin.url}"\nmount_point = "a/"\nlayout = "static"\n'
    )
    with mountcache.open(mount="part") as store:
        store.set("a/2", mountcache.StringValue(b"two", {}))
    with mountcache.open(mount="whole") as store:
        assert not store.exists("a/2")
    assert sorted(each.name for each in (folder / ".mountcache").iterdir()) == ["part", "whole"]
    with pytest.raises(ConfigurationError, match="has the mounts whole, part; say which"):
        mountcache.open()
    with pytest.raises(ConfigurationError, match="no mount 'parts'; did you mean 'part'"):
        mountcache.open(mount="parts")
    assert Shell(folder)("status", "--mount", "part").code == 1
    assert Shell(folder)("status", "--mount", "whole").code == 0
    assert "--mount NAME" in Shell(folder)("status").err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "http://h/"\n[mount.a]\nurl = "http://h/"', "stands outside of a \\[mount.NAME\\]"),
        ("mount = 1", "mount isn't a table"),
        ("[mount]\nurl = 'http://h/'", "mount has the key 'url'"),
        ("[mount.'../up']\nurl = 'http://h/'", "a mount is named by"),
        ("[mount.a]\nlayout = 'dynamic'", r"\[mount.a\]: has no url"),
    ],
)
def test_what_a_file_of_mounts_cant_say(folder: Path, text: str, said: str) -> None:
    (folder / "mountcache.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        mountcache.open(mount="a")


def test_init_adds_mounts(origin: Origin, tmp_path: Path) -> None:
    assert Shell(tmp_path)("init", origin.url, "--name", "one").code == 0
    assert Shell(tmp_path)("init", origin.url, "--name", "two.x", "--layout", "static").code == 0
    assert "'one' already" in Shell(tmp_path)("init", origin.url, "--name", "one").err
    assert "--name NAME" in Shell(tmp_path)("init", origin.url).err
    assert Shell(tmp_path)("cat", "a/1", "--mount", "two.x").out == b"one"
    with pytest.raises(DirectoryError), mountcache.open(tmp_path, mount="one", dir=__file__):
        pass
