"""The pictures of the README are made by their tool, out of what the command really says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

from tests.command import ROOT

IMAGES = ROOT / "docs" / "images"


def _texts(path: Path) -> str:
    # The picture has spaces that don't break.
    texts = (each.text or "" for each in ElementTree.parse(path).iter())
    return " ".join(texts).replace("\xa0", " ")


def test_pictures_are_made_by_the_tool(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "tools" / "make_terminal_picture.py"))["main"](tmp_path)
    made = _texts(tmp_path / "terminal.svg")
    for said in (
        "$ mountcache init https://data.example.org/",
        "planets.csv -> old.csv",
        "# the network is gone",
        "pushed",
        "conflict",
        "nothing was overwritten",
    ):
        assert said in made, made
    assert "127.0.0.1" not in made
    assert str(tmp_path) not in made
    name = "where-data-lives.svg"
    assert (tmp_path / name).read_text() == (IMAGES / name).read_text()


def test_pictures_load_nothing_from_elsewhere() -> None:
    for path in IMAGES.glob("*.svg"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "url(http" not in text
        # Within the picture itself there are places to be drawn again.
        assert all(place.startswith("#") for place in re.findall(r'href="([^"]*)', text))
        assert "$ mountcache push" in _texts(path) or path.name != "terminal.svg"
