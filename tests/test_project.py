"""Promises of the project's frame: light imports, public names, commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mountcache
from tests.command import ROOT, TIME, Shell, environment

HEAVY = ("requests", "urllib3", "diskcache", "rich", "granian", "starlette", "sqlite3", "asyncio")


def _loaded_by(code: str) -> set[str]:
    """Return the modules that code loads in a new interpreter."""
    told = "print(*(set(sys.modules) - before), file=sys.__stdout__)"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\nbefore = set(sys.modules)\n{code}\n{told}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIME,
        check=True,
    )
    return set(ended.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    loaded = _loaded_by("from mountcache.cli import main; main(['--help'])")
    assert "mountcache.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_import_of_the_package_loads_no_room() -> None:
    loaded = _loaded_by("import mountcache")
    assert {name for name in loaded if name.startswith("mountcache")} == {"mountcache"}


def test_errors_load_nothing_heavy() -> None:
    assert _loaded_by("from mountcache import StoreError").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", mountcache.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(mountcache, name) is not None
    assert name in dir(mountcache)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        mountcache.Nope  # noqa: B018


def test_readme_and_ci_run_the_same_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in (
        "python -m pip install . && mountcache demo",
        "python -m pip install tox && tox",
    ):
        assert f"    {command}\n" in readme
        assert f"'{command}'" in script


def test_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert mountcache.__version__ in Shell(ROOT)("--version").text


def test_module_is_the_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mountcache", "status"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=TIME,
        check=False,
    )
    assert ended.returncode == 3
    assert "mountcache init URL" in ended.stderr


def test_every_dependency_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for each in project["dependencies"]:
        assert ">=" in each or "==" in each, each


def test_package_is_typed() -> None:
    assert (ROOT / "mountcache" / "py.typed").exists()


def test_the_page_on_security_names_tests_and_dependencies_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    there = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert {name for name in named if f"def {name}(" not in there} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split("[<>=]", each)[0] for each in project["dependencies"]}
    optional = {re.split("[<>=]", each)[0] for each in project["optional-dependencies"]["keyring"]}
    assert set(re.findall(r"(?m)^\| ([a-z0-9-]+)(?: \(optional\))? \| ", page)) - {
        "package", "what",
    } == needed | optional  # fmt: skip
