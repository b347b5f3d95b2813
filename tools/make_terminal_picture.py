"""Make the pictures of the README: a terminal, and where data lives.

The terminal shows what the real command says: each line is run on a terminal of its own, in an
empty folder, against a real server on this machine. Only what differs from run to run is put
in other words: the server's address, the folder, times, and what the cursor did.

Run it as ``python tools/make_terminal_picture.py``; it writes docs/images/terminal.svg and
docs/images/where-data-lives.svg, or below the folder that is named.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.text import Text

from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin
from mountcache.values import StringValue

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH, HEIGHT = 96, 40
ADDRESS = "https://data.example.org/"
FOLDER = "/home/ada/lab"
TABLES = ("sun/2024.csv", "sun/2025.csv", "planets.csv")

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d UTC)?")
_CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]|\r(?!\n)")
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def session(folder: Path) -> list[tuple[str, str]]:
    """Return what was typed and what came, line by line; a line of "#" is told, not typed."""
    shown: list[tuple[str, str]] = []
    root = files("mountcache.cli.demo") / "data" / "data"
    with ExitStack() as stack:
        repository = stack.enter_context(DiskCacheStore(folder / "origin"))
        for key in TABLES:
            data = root.joinpath(*key.split("/")).read_bytes()
            repository.set(key, StringValue(data, {"kind": "table"}))
        origin = stack.enter_context(Origin(repository))
        here = folder / "lab"
        here.mkdir()
        (here / "notes.txt").write_text("2024-06-20: the Sun stands highest\n")
        (here / "planets.csv").write_text("planet,mass\nMercury,0.330\n")

        def run(line: str) -> None:
            said = _typed(line.replace(ADDRESS, origin.url), here)
            plain = said.replace(origin.url, ADDRESS).replace(origin.url.rstrip("/"), ADDRESS[:-1])
            plain = _TIME.sub(_at_noon, plain.replace(str(here), FOLDER))
            shown.append((line, plain))

        def tell(line: str, happens: Callable[[], object]) -> None:
            happens()
            shown.append((line, ""))

        run(f"mountcache init {ADDRESS}")
        run("mountcache ls")
        run("mountcache get planets.csv -o old.csv")
        tell("# the network is gone", origin.stop)
        run("mountcache cat planets.csv | head -n 1")
        run("mountcache put planets.csv planets.csv")
        run("mountcache put notes/sun.txt notes.txt --meta by=ada")
        run("mountcache status")
        theirs = StringValue(b"planet,mass\n", {"kind": "table"})
        repository.set("planets.csv", theirs)
        tell("# the network is back, and a colleague has changed planets.csv", origin.start)
        run("mountcache push")
    return shown


def _at_noon(found: re.Match[str]) -> str:
    return "2026-03-20 12:00" + (":00 UTC" if found[1] else "")


def _typed(line: str, folder: Path) -> str:
    """Return what a line shows on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    kept = {name: text for name, text in os.environ.items() if not name.startswith("MOUNTCACHE_")}
    process = subprocess.Popen(
        ["/bin/sh", "-c", line.replace("mountcache", '"$MOUNTCACHE_PYTHON" -m mountcache', 1)],
        cwd=folder,
        env={
            **kept,
            "MOUNTCACHE_PYTHON": sys.executable,
            "MOUNTCACHE_AUTHOR": "ada",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TERM": "dumb",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while piece := _read(ours):
        said += piece
    os.close(ours)
    process.wait()
    return _CURSOR.sub("", said.decode()).replace("\r\n", "\n").strip("\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Nobody has the other end any more.
        return b""


def terminal(shown: Iterable[tuple[str, str]]) -> str:
    """Return the picture of a session."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for line, said in shown:
        told = line.startswith("#")
        console.print(Text(line if told else f"$ {line}", style="dim" if told else "bold"))
        if said:
            console.print(Text.from_ansi(said))
    svg = console.export_svg(title="mountcache", unique_id="terminal")
    # Pictures of the README load nothing from elsewhere.
    return _FONT.sub("", svg).replace("Fira Code", "ui-monospace")


def where_data_lives() -> str:
    """Return the picture of the two stores and what goes between them."""
    boxes = (
        (20, 20, 760, 56, "#f6f8fa", ["your script, notebook or shell"]),
        (20, 150, 330, 150, "#ddf4ff", [
            "MountedStore", "one directory of yours:", "staged edits: kept, never evicted",
            "clean copies: least recently used go first", "upstream's index",
        ]),
        (560, 150, 220, 150, "#fff8c5", [
            "remote HTTP store", "files that are listed,", "files + index.json,",
            "or a keys/query API",
        ]),
    )  # fmt: skip
    arrows = (
        (110, 76, 110, 148, "get, query: staged here, else cached here, else upstream", 122, 104),
        (95, 148, 95, 78, "set, delete: staged here", 122, 128),
        (558, 190, 354, 190, "first read: one GET,", 364, 182),
        (352, 255, 556, 255, "push: replace what I saw,", 364, 247),
    )
    lines = [_HEAD]
    for x, y, width, height, colour, texts in boxes:
        lines.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" '
            'stroke="#57606a"/>'
        )
        for number, text in enumerate(texts):
            weight = ' font-weight="bold"' if number == 0 else ""
            lines.append(_text(x + 16, y + 33 + 26 * number, text, weight))
    for x1, y1, x2, y2, text, x, y in arrows:
        lines.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#57606a" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
        lines.append(_text(x, y, text, ' font-size="12"'))
    for y, text in ((209, "checked, then kept"), (274, "and nothing else")):
        lines.append(_text(364, y, text, ' font-size="12"'))
    return "\n".join([*lines, "</svg>", ""])


_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 320" font-size="14"
     font-family="system-ui, sans-serif">
<title>Where data lives</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
  orient="auto"><path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>
<rect width="800" height="320" fill="#ffffff"/>"""


def _text(x: int, y: int, text: str, more: str) -> str:
    return f'<text x="{x}" y="{y}" fill="#1f2328"{more}>{escape(text)}</text>'


def main(target: Path = TARGET) -> None:
    """Write both pictures."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mountcache-picture-") as scratch:
        shown = session(Path(scratch))
    (target / "terminal.svg").write_text(terminal(shown), "utf-8")
    (target / "where-data-lives.svg").write_text(where_data_lives(), "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
