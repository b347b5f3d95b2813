"""What is dubious about a mountcache.toml that can be read: what does nothing, or harm."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mountcache.config import Settings

__all__ = ["dubious"]

_HERE: Final = ("localhost", "127.0.0.1", "::1")
_VARIABLES: Final = ("MOUNTCACHE_DIR", "MOUNTCACHE_OFFLINE", "MOUNTCACHE_AUTHOR")
_OF_LAYOUT: Final = {
    "data_path": ("static",), "query_path": ("static",), "write": ("static", "listing"),
    "metadata": ("static", "listing"),
}  # fmt: skip


def dubious(
    path: Path, mounts: Mapping[str, Settings], environ: Mapping[str, str] = os.environ
) -> Iterator[tuple[str, str]]:
    """Iterate over what is dubious: "error" (it can't work), "warning" or "note", and a sentence.

    Parameters
    ----------
    path
        The mountcache.toml.
    mounts
        What it says.
    environ
        The environment, some of which comes before the file.
    """
    places: dict[Path, str] = {}
    for name, settings in mounts.items():
        who = f"mount {name}: " if name else ""
        for severity, said in _of_mount(path, settings):
            yield severity, f"{who}{said}"
        other = places.setdefault(settings.dir.resolve(), name)
        if other != name:
            yield "error", f"the mounts {other} and {name} have the same dir, {settings.dir}"
    for name in _VARIABLES:
        if environ.get(name):
            yield "note", f"{name}={environ[name]} in the environment comes before the file"


def _of_mount(path: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    parts = urlsplit(settings.url)
    if settings.insecure_skip_tls_verify:
        yield (
            "warning",
            (
                "insecure_skip_tls_verify: whoever is on the line can pass for upstream; name its "
                "certificates with ca instead"
            ),
        )
    if settings.auth and parts.scheme == "http" and parts.hostname not in _HERE:
        yield "warning", f"auth with {settings.url}: the password crosses the net unencrypted"
    if settings.auth and settings.auth.startswith("command:"):
        try:
            mode = path.stat().st_mode
        except OSError:
            mode = 0
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield (
                "warning",
                (
                    f"others may write {path}, and auth in it names a command that is run; "
                    f"take that right away: chmod go-w {path}"
                ),
            )
    for name in ("ca", "client_cert", "client_key"):
        file: Path | None = getattr(settings, name)
        if file is not None and not file.exists():
            yield "error", f"{name} names {file}, which isn't there"
    if settings.client_key is not None and settings.client_cert is None:
        yield "note", "client_key does nothing without client_cert"
    if settings.mount_point and not settings.mount_point.endswith("/"):
        yield (
            "note",
            (
                f"mount_point is {settings.mount_point!r}, without a / at its end: it is a plain "
                f"prefix, and takes keys such as {settings.mount_point + 'x'!r} in"
            ),
        )
    standard = type(settings)(settings.url)
    for name, layouts in _OF_LAYOUT.items():
        if settings.layout not in layouts and getattr(settings, name) != getattr(standard, name):
            yield "note", f"{name} does nothing with layout = {settings.layout!r}"
    files = settings.layout != "dynamic"
    if files and settings.metadata == "sidecar" and settings.write is None:
        yield "note", 'metadata does nothing without write = "put"'
    if files and settings.probe != "ask" and settings.write is None:
        yield "note", 'probe does nothing without write = "put"'
    if settings.offline != "auto":
        yield "note", f"offline is {settings.offline!r}"
