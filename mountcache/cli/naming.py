"""How words on the command line name keys and metadata: one rule for all commands.

A word without ``*``, ``?`` and ``[`` is a key as it stands; one with any of them is a pattern, in
which ``*`` crosses "/". docs/cli.md says it to people.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from mountcache.cli.codes import NoSuchKeyError
from mountcache.errors import StoreError

__all__ = [
    "assignments",
    "chosen",
    "exact_option",
    "group_option",
    "into_group_option",
    "is_pattern",
    "like",
    "nothing_matches",
    "pattern_of",
]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_WILD = re.compile(r"[*?\[]")


def exact_option(function: _Decorated) -> _Decorated:
    """Give a command ``--exact``."""
    return click.option(
        "--exact", is_flag=True, help="Take *, ? and [ for what they are: every word is a key."
    )(function)


def group_option(function: _Decorated) -> _Decorated:
    """Give a command ``--group NAME``."""
    return click.option(
        "--group", metavar="NAME", help="Of the group of that name: edits that belong together."
    )(function)


def into_group_option(function: _Decorated) -> _Decorated:
    """Give a command that stages ``--group NAME``."""
    return click.option(
        "--group", metavar="NAME", help="Put it into the group of that name: a change set."
    )(function)


def is_pattern(word: str, *, exact: bool = False) -> bool:
    """Return whether a word is a pattern, and not a key."""
    return not exact and _WILD.search(word) is not None


def pattern_of(word: str, *, exact: bool = False) -> str:
    """Return a word as the pattern that a function of the library takes."""
    return glob.escape(word) if exact else word


def like(keys: Iterable[str], pattern: str) -> list[str]:
    """Return those of some keys that match a pattern."""
    matches = re.compile(fnmatch.translate(pattern)).match
    return [key for key in keys if matches(key)]


def chosen(
    words: Iterable[str],
    matching: Callable[[str], Iterable[str]],
    *,
    exact: bool,
    what: str = "no key",
    listing: str = "ls",
    is_key: Callable[[str], bool] = lambda word: False,
) -> list[str]:
    """Return the keys that words name, each once.

    Parameters
    ----------
    matching
        Returns the keys that match a pattern, among those that the command is about.
    exact
        Whether all words are keys.
    what
        What a pattern that matches nothing is missing, as the beginning of a sentence.
    listing
        The command that lists what a pattern can match.
    is_key
        Whether a word is a key as it stands, for a hint.

    Raises
    ------
    NoSuchKeyError
        If a pattern matches nothing.
    """
    keys: dict[str, None] = {}
    for word in words:
        if not is_pattern(word, exact=exact):
            keys[word] = None
            continue
        found = list(matching(word))
        if not found:
            raise nothing_matches(word, what, listing, is_key)
        keys |= dict.fromkeys(found)
    return list(keys)


def nothing_matches(
    word: str,
    what: str = "no key",
    listing: str = "ls",
    is_key: Callable[[str], bool] = lambda word: False,
) -> NoSuchKeyError:
    """Return the error of a pattern that matches nothing."""
    try:
        named = is_key(word)
    except StoreError:
        named = False
    hint = (
        "it is a key as it stands: say --exact"
        if named
        else f"`mountcache {listing}` lists what there is"
    )
    return NoSuchKeyError(f"{what} matches {word!r}; {hint}")


def assignments(given: Iterable[str], option: str) -> dict[str, Any]:
    """Return what several ``NAME=TEXT`` and ``NAME:=JSON`` say."""
    found: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise click.BadParameter(
                f"{each!r} is neither NAME=TEXT nor NAME:=JSON", param_hint=option
            )
        found[name] = _json(text, each, option) if is_json else text
    return found


def _json(text: str, each: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(
            f"what follows := in {each[:60]!r} isn't JSON ({error}); for text say NAME=TEXT",
            param_hint=option,
        ) from None
