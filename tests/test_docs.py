"""The documents: their links lead somewhere, their code is code."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import sqlite3
import tarfile
import tomllib
import zipfile
from contextlib import closing
from pathlib import Path

import click
import h5py
import numpy
import pandas
import pytest
import xarray
from PIL import Image

from mountcache.abc import AbstractStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.cli.app import app
from mountcache.config import Settings, read_mounts
from mountcache.local.disk import DiskCacheStore
from mountcache.local.schema import create
from mountcache.mounted import MountedStore
from mountcache.serve import Origin
from mountcache.sync import prefetch
from mountcache.values import StringValue
from tests.command import ROOT, Inside

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_EVERYWHERE = ("config", "mount", "as_json")
"""Options that most commands have; the text says so once."""
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (path.name, code)
        for path in DOCUMENTS
        for found, code in FENCED.findall(path.read_text())
        if found == language
    ]


def _readme() -> str:
    return (ROOT / "README.md").read_text()


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
    read_mounts(path, {})


def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands there, beside a mountcache.toml."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (code,) = [code for name, code in _blocks("python") if name == "README.md"]
    with DiskCacheStore(tmp_path / "origin") as repository, Origin(repository) as origin:
        repository.set("surveys/2024.csv", StringValue(b"a,b\n", {"year": 2024}))
        (here / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
        exec(code, {})
        assert repository.to_bytes("surveys/2025.csv") == b"a,b\n"
        assert repository.get_metadata("surveys/2025.csv") == {"year": 2025}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "staged: ['surveys/2025.csv']"
    assert said[1].startswith("surveys/2025.csv pushed")
    assert (here / ".mountcache").is_dir()


def _fill_for_libraries(store: AbstractStore, folder: Path) -> None:
    """Give a repository what the page on libraries reads."""
    noise = numpy.random.default_rng(1)
    days = pandas.date_range("2024-01-01", periods=366)
    table = pandas.DataFrame({"day": days, "mm": noise.normal(size=366)})
    heat = noise.normal(size=(2_000, 100))
    packed = xarray.Dataset({"heat": (("day", "place"), heat)})
    packed.to_netcdf(folder / "heat.nc", engine="netcdf4")
    store.from_file("grid/heat.nc", folder / "heat.nc")
    with store.open("rain/2024.csv", "wb") as file:
        table.to_csv(file, index=False)
    with store.open("rain/all.parquet", "wb") as file:
        table.to_parquet(file)
    with store.open("grid/height.npy", "wb") as file:
        numpy.save(file, heat)
    with store.open("grid/heat.h5", "wb") as file, h5py.File(file, "w") as data:
        data["heat"] = heat
    with store.open("runs.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.bin", noise.bytes(500_000))
    with store.open("runs.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    with store.open("sky.png", "wb") as file:
        Image.fromarray(noise.integers(0, 255, (100, 100, 3), numpy.uint8)).save(file)


def test_python_of_the_libraries_page_runs_and_again_offline(tmp_path: Path) -> None:
    snippets = [code for name, code in _blocks("python") if name == "libraries.md"]
    with DiskCacheStore(tmp_path / "origin") as repository, Origin(repository) as origin:
        _fill_for_libraries(repository, tmp_path)

        def mount() -> MountedStore:
            backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
            return MountedStore("", DiskCacheStore(tmp_path / "here"), backing)

        with mount() as store:
            for code in snippets:
                exec(code, {"store": store, "__name__": "page"})
            written = {edit.key for edit in store.staged()}
            prefetch(store, "*")
        origin.stop()
        with mount() as store:
            for code in snippets:
                exec(code, {"store": store, "__name__": "page"})
    assert written == {
        "rain/2024.parquet", "rain/days.csv", "grid/copy.h5", "log.gz", "small.jpg",
    }  # fmt: skip


def test_shell_lines_of_the_readme_run(tmp_path: Path) -> None:
    """As they stand there, but for the address of the server; the last meets a conflict."""
    lines = re.findall(r"^    (mountcache .*?)(?:  +# .*)?$", _readme(), re.MULTILINE)
    here = tmp_path / "here"
    here.mkdir()
    (here / "results.csv").write_bytes(b"c,d\n")
    (here / "figures").mkdir()
    (here / "figures" / "1.svg").write_bytes(b"<svg/>")
    with DiskCacheStore(tmp_path / "origin") as repository, Origin(repository) as origin:
        repository.set("surveys/2024.csv", StringValue(b"a,b\n", {"year": 2024}))
        codes = []
        for line in lines:
            verb, *rest = shlex.split(line.replace("https://data.example.org/", origin.url))[1:]
            if verb == "push" and not rest:
                repository.from_bytes("surveys/2025.csv", b"theirs\n")
            codes.append((verb, Inside(here)(verb, *rest).code))
        assert codes == [
            ("init", 0), ("get", 0), ("ls", 0), ("put", 0), ("put", 0), ("status", 1), ("push", 2),
            ("resolve", 0), ("push", 0),
        ]  # fmt: skip
        assert repository.to_bytes("surveys/2025.csv") == b"theirs\n"
        assert repository.to_bytes("surveys/figures/1.svg") == b"<svg/>"
        assert len(list(repository.glob("surveys/2025.csv.conflict-*"))) == 1
    assert (here / "2024.csv").read_bytes() == b"a,b\n"


def _all_commands() -> dict[str, click.Command]:
    """Return the commands by what is typed; those of a group have two words."""
    found: dict[str, click.Command] = {}
    for name, command in app.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": each for sub, each in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", _all_commands())
def test_row_of_a_command_says_all_of_its_words_and_no_others(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text().partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{name}\b(.*?)` \|", text.replace("\\|", "¦"), re.MULTILINE)
    row = row.replace("¦", "|")
    parameters = [each for each in _all_commands()[name].params if each.name not in _EVERYWHERE]
    options = {
        max(each.opts, key=len)
        for each in parameters
        if isinstance(each, click.Option) and not each.hidden
    }
    shorts = {"-o": "--output", "-l": "--long", "-r": "--recursive"}
    said = {shorts.get(each, each) for each in re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", row)}
    assert said == options
    for each in parameters:
        if isinstance(each, click.Argument):
            assert each.human_readable_name.strip("[].") in row


def test_table_of_the_configuration_says_all_keys_and_their_defaults() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = text.partition("## mountcache.toml")[2].partition("\n### ")[0]
    said: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`.*?`) \|.*\| (.*?) \|$", section, re.MULTILINE):
        values = re.findall(r'`"(.*?)"`', default)
        for number, name in enumerate(re.findall(r"`(\w+)`", names)):
            said[name] = values[number] if values else ""
    there = {each.name: each.default for each in dataclasses.fields(Settings)}
    assert set(said) == set(there)
    for name, default in there.items():
        if isinstance(default, str | Path):
            assert said[name] == str(default), name


def test_tables_of_the_architecture_are_those_of_the_schema() -> None:
    with closing(sqlite3.connect(":memory:")) as con:
        con.execute("CREATE TABLE Cache (key)")
        create(con)
        there = {
            name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## On disk")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == there


def test_rooms_of_the_architecture_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## Rooms")[2].partition("\n## ")[0]
    package = ROOT / "mountcache"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    named = set(re.findall(r"[`/](\w+(?:\.py|/))`", section))
    assert named == {f"{room}/" for room in rooms} | files


def test_commands_in_the_readme_exist() -> None:
    named = set(re.findall(r"^    mountcache (\w+)", _readme(), re.MULTILINE))
    assert named
    assert named <= set(app.commands)
