"""Changing one value in a mountcache.toml, and nothing else: comments and order stay."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from mountcache.config import toml_text
from mountcache.errors import ConfigurationError

__all__ = ["with_value"]

_VALUE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'')


def with_value(text: str, mount: str, name: str, value: str) -> str:
    """Return the text of a mountcache.toml in which one setting of a mount is another text.

    Parameters
    ----------
    text
        What the file says.
    mount
        The name of the mount; "" where there is one without a name.
    name
        The setting. It is in the file.
    value
        Its new value.

    Raises
    ------
    ConfigurationError
        If it isn't on a line of its own, so that only a person can change it.
    """
    wanted = tomllib.loads(text)
    _mount(wanted, mount)[name] = value
    lines = text.splitlines(keepends=True)
    key = re.compile(rf'\s*(?:{name}|"{name}"|\'{name}\')\s*=\s*')
    for number, line in enumerate(lines):
        found = key.match(line)
        old = None if found is None else _VALUE.match(line, found.end())
        if old is None:
            continue
        new = toml_text({name: value}).partition(" = ")[2].rstrip("\n")
        changed = [*lines[:number], f"{line[: old.start()]}{new}{line[old.end() :]}"]
        made = "".join([*changed, *lines[number + 1 :]])
        # Whatever else the line may have been (of another table, in a text), this tells.
        if _parsed(made) == wanted:
            return made
    raise ConfigurationError(
        f"{name} isn't on a line of its own that could be changed here; change it in the file"
    )


def _mount(document: dict[str, Any], mount: str) -> dict[str, Any]:
    found: dict[str, Any] = document["mount"][mount] if mount else document
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
