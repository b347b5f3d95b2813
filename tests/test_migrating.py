"""docs/migrating-from-encore.md leaves out no name that encore has."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import encore.events
import encore.storage
import pytest
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.sqlite_store import SqliteStore

from mountcache.errors import InvalidMetadataError
from mountcache.local.disk import DiskCacheStore
from tests.command import ROOT

PAGE = (ROOT / "docs" / "migrating-from-encore.md").read_text()
_ROW = re.compile(r"^\| `([a-z_]+\.\w+)` \| (?:`([\w.]+)`|dropped) \| (.*?) ?\|$", re.MULTILINE)


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if ".tests" not in found.name:
            yield importlib.import_module(found.name)


def _names(package: ModuleType) -> set[str]:
    """Return what each module of a package makes, as ``module.Name``."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in _modules(package)
        for name, found in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(found)
        and (
            getattr(found, "__module__", None) == module.__name__
            or (name.isupper() and isinstance(found, dict))
        )
    }


def _rows(section: str) -> dict[str, tuple[str | None, str]]:
    text = PAGE.partition(f"\n## encore.{section}\n")[2].partition("\n## ")[0]
    rows = {name: (here or None, said) for name, here, said in _ROW.findall(text)}
    assert len(rows) == text.count("\n|") - 2, "a row isn't of the form that is looked for"
    return rows


def _found(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("package", [encore.storage, encore.events], ids=["storage", "events"])
def test_every_name_of_encore_is_on_the_page_and_no_other(package: ModuleType) -> None:
    rows = _rows(package.__name__.rpartition(".")[2])
    assert set(rows) == _names(package)


@pytest.mark.parametrize("package", [encore.storage, encore.events], ids=["storage", "events"])
def test_what_is_said_to_be_here_is(package: ModuleType) -> None:
    for name, (here, _) in _rows(package.__name__.rpartition(".")[2]).items():
        if here is None:
            continue
        ours = _found(here)
        module, _, theirs_name = name.partition(".")
        theirs = getattr(importlib.import_module(f"{package.__name__}.{module}"), theirs_name)
        methods = {
            each
            for each in dir(theirs)
            if not each.startswith("_") and not hasattr(BaseException, each)
        }
        missing = {each for each in methods if not hasattr(ours, each)}
        # Of a class that became another, the page says what to do instead.
        renamed = here.rpartition(".")[2] != theirs_name
        unsaid = {each for each in missing if f"`{each}" not in PAGE}
        assert renamed or not unsaid, (name, unsaid)


def test_all_names_of_encores_api_are_in_our_events_or_dropped() -> None:
    api = importlib.import_module("encore.events.api")
    rows = {name.partition(".")[2] for name in _rows("events")}
    assert {name for name in vars(api) if not name.startswith("_") and name[0].isupper()} <= rows


def _move() -> Any:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    return scope["move"]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "files"])
def test_stores_of_encore_are_moved_as_the_page_says(kind: str, tmp_path: Path) -> None:
    old: Any
    if kind == "memory":
        old = DictMemoryStore()
    elif kind == "sqlite":
        old = SqliteStore(str(tmp_path / "old.sqlite"))
    else:
        (tmp_path / "old").mkdir()
        init_shared_store(str(tmp_path / "old"))
        old = FileSystemStore(str(tmp_path / "old"))
    old.connect()
    for number in range(3):
        old.set(f"k{number}", (io.BytesIO(b"data"), {"n": number, "list": ["a"]}))
    with DiskCacheStore(tmp_path / "new") as new:
        assert _move()(old, new) == 3
        assert sorted(new.query_keys()) == ["k0", "k1", "k2"]
        assert list(new.query_keys(n=1)) == ["k1"]
        assert new.to_bytes("k2") == b"data"


def test_what_json_cant_spell_moves_nothing(tmp_path: Path) -> None:
    old = DictMemoryStore()
    old.connect()
    old.set("a", (io.BytesIO(b"data"), {}))
    old.set("b", (io.BytesIO(b"data"), {"when": object()}))
    with DiskCacheStore(tmp_path / "new") as new:
        with pytest.raises(InvalidMetadataError):
            _move()(old, new)
        assert list(new.query_keys()) == []
