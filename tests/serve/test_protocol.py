"""docs/protocol.md says what the code does, where that can be compared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mountcache.serve
from mountcache.serve.wire import target_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "protocol.md"


def _raised() -> set[tuple[str, int]]:
    """Return name and status of each problem that the code makes."""
    found = set()
    for path in Path(mountcache.serve.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem" and node.args:
                status, name = (ast.literal_eval(each) for each in node.args[:2])
                found.add((name, status))
    return found


def test_the_page_lists_each_problem_with_its_status() -> None:
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \| (\d{3}) \|", PAGE.read_text())
    listed = {(name, int(status)) for name, status in rows}
    assert len(listed) == len(rows)
    assert listed == _raised()


def test_the_page_lists_each_path_with_its_methods() -> None:
    rows = re.findall(r"(?m)^\| `(/[^`?]*)[^`]*` \| ([A-Z ]+) \|", PAGE.read_text())
    assert len(rows) == 10
    for path, methods in rows:
        raw = path.replace("<key>", "k").replace("<sha256>", "a" * 64).encode()
        for method in methods.split():
            assert set(target_of(raw, method).methods) == set(methods.split())
