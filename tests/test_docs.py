"""The documents: their links lead somewhere, their code is code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from mountcache.cli.app import app
from mountcache.cli.config import read_settings
from tests.command import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (path.name, code)
        for path in DOCUMENTS
        for found, code in FENCED.findall(path.read_text())
        if found == language
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if not re.match(r"https?://|#|mailto:", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize(("name", "code"), _blocks("python"))
def test_python_compiles_and_names_what_there_is(name: str, code: str) -> None:
    tree = ast.parse(code, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mountcache"):
            module = __import__(node.module or "", fromlist=["_"])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize(("name", "code"), _blocks("toml"))
def test_toml_is_a_configuration(name: str, code: str, tmp_path: Path) -> None:
    tomllib.loads(code)
    path = tmp_path / "mountcache.toml"
    path.write_text(code)
    read_settings(path, {})


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^    mountcache (\w+)", readme, re.MULTILINE))
    assert named
    assert named <= set(app.commands)
