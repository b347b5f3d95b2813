"""mountcache.toml: what it may say, and what is said of what it may not."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from mountcache.config import find_file, read_settings, toml_text
from mountcache.errors import ConfigurationError

URL = 'url = "http://127.0.0.1:1/"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mountcache.toml"


def test_defaults(path: Path) -> None:
    path.write_text(URL)
    settings = read_settings(path, {})
    assert settings.layout == "dynamic"
    assert settings.dir == path.parent / ".mountcache"
    assert (settings.mount_point, settings.offline, settings.durability) == ("", "auto", "full")
    assert settings.max_age is settings.size_limit is settings.author is settings.auth is None


def test_all_keys(path: Path) -> None:
    path.write_text(
        URL + 'layout = "static"\nmount_point = "a/"\ndir = "../cache"\nmax_age = 60\n'
        'offline = "prefer"\nauth = "env:TOKEN"\nsize_limit = "10 GiB"\n'
        'durability = "normal"\nauthor = "ada"\ndata_path = "d/"\nquery_path = "i.json"\n'
    )
    settings = read_settings(path, {})
    assert settings.dir == path.parent / "../cache"
    assert settings.size_limit == 10 * 2**30
    assert settings.max_age == 60.0
    assert settings.author == "ada"


def test_settings_cannot_be_changed(path: Path) -> None:
    path.write_text(URL)
    settings = read_settings(path, {})
    with pytest.raises(FrozenInstanceError):
        settings.url = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ('"10 GiB"', 10 * 2**30),
        ('"1.5MB"', 1_500_000),
        ('"2 kb"', 2000),
        ('"7"', 7),
        ('"7 B"', 7),
        ("123", 123),
    ],
)
def test_sizes(path: Path, text: str, size: int) -> None:
    path.write_text(URL + f"size_limit = {text}\n")
    assert read_settings(path, {}).size_limit == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ulr = 1", "unknown key 'ulr'; did you mean 'url'?"),
        ("max-age = 1", "did you mean 'max_age'?"),
        ('mountpoint = "x"', "did you mean 'mount_point'?"),
        ("zzzz = 1", "the keys are url, layout,"),
        ("[offline]\na = 1", "offline is one of auto, always, never, prefer"),
        ('offline = "alway"', "did you mean 'always'?"),
        ('layout = "dynamik"', "did you mean 'dynamic'?"),
        ("max_age = -1", "max_age is a number of seconds from 0 up"),
        ("max_age = nan", "max_age is a number of seconds from 0 up"),
        ("max_age = true", "max_age is a number of seconds from 0 up"),
        ('size_limit = "ten"', "size_limit is a number of bytes"),
        ("size_limit = -1", "size_limit is a number of bytes"),
        ('auth = "user:secret"', "secrets themselves don't belong here"),
        ('auth = "env:"', "auth is"),
        ("auth = 'command:pass \"show'", "auth is"),
        ("author = 3", "author is text"),
        ('dir = ""', "dir is empty"),
        ("data_path = []", "data_path is text"),
        ("max_age = ", "isn't TOML"),
    ],
)
def test_what_cannot_be_used_is_named(path: Path, text: str, said: str) -> None:
    path.write_text(URL + text + "\n")
    with pytest.raises(ConfigurationError) as raised:
        read_settings(path, {})
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_url_is_needed(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigurationError, match="has no url"):
        read_settings(path, {})


def test_url_with_a_user_is_refused_without_showing_the_password(path: Path) -> None:
    path.write_text('url = "http://ada:secret@127.0.0.1:1/"\n')
    with pytest.raises(ConfigurationError, match="has a user in it") as raised:
        read_settings(path, {})
    assert "secret" not in str(raised.value)


def test_url_ends_in_a_slash(path: Path) -> None:
    path.write_text('url = "http://127.0.0.1:1/team"\n')
    assert read_settings(path, {}).url == "http://127.0.0.1:1/team/"


def test_file_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_settings(path, {})


def test_missing_file(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such file; make one with `mountcache init"):
        read_settings(path, {})
    with pytest.raises(ConfigurationError, match=r"no mountcache\.toml in"):
        find_file(path.parent)


def test_environment_comes_first(path: Path) -> None:
    path.write_text(URL + 'offline = "never"\nauthor = "ada"\n')
    settings = read_settings(path, {"MOUNTCACHE_OFFLINE": "1", "MOUNTCACHE_AUTHOR": "ben"})
    assert (settings.offline, settings.author) == ("always", "ben")
    assert read_settings(path, {"MOUNTCACHE_OFFLINE": "0"}).offline == "never"
    assert read_settings(path, {"MOUNTCACHE_OFFLINE": "prefer"}).offline == "prefer"
    with pytest.raises(ConfigurationError, match="MOUNTCACHE_OFFLINE is 1, 0 or one of"):
        read_settings(path, {"MOUNTCACHE_OFFLINE": "maybe"})


@pytest.mark.parametrize("text", ["plain", 'quote " and \\', "ünï", "tab\t and \x7f", "a\nb"])
def test_what_init_writes_is_read_back(path: Path, text: str) -> None:
    path.write_text(URL + toml_text({"mount_point": text}), "utf-8")
    assert read_settings(path, {}).mount_point == text


def test_nesting_beyond_sense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mountcache.toml"
    path.write_text(f"url = {'[' * 5000}")
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        read_settings(path, {})
