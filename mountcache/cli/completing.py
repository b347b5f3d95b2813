"""What a shell is answered that asks how a word goes on.

The scripts of `mountcache.cli.completion` next door ask. Of keys, which are asked for most, it
answers without click: all the time goes into starting a process. The answer is a line that says
how it is meant ("words", "part" if the word isn't at its end yet, "files", "dirs"), and a line a
word.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes as long as the rest
if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

__all__ = ["ARGUMENTS", "answer", "commands", "kind_of", "split"]

VARIABLE = "_MOUNTCACHE_COMPLETE"
"""Which shell asks: "bash", "zsh" or "fish"."""

ARGUMENTS = {
    "init": ("",), "ls": ("all",), "query": ("",), "info": ("key",), "meta": ("key", ""),
    "permissions": ("key", ""),
    "get": ("all",), "cat": ("key",), "path": ("key",), "put": ("key or dir", "files"),
    "rm": ("all...",), "mv": ("key", "key"), "cp": ("key", "key"), "status": ("staged",),
    "diff": ("staged...",),
    "push": ("staged...",), "flush": (), "apply": ("files",), "resolve": ("staged key...",),
    "revert": ("staged...",), "undo": ("undone...",), "pull": ("all",), "hold": ("staged...",),
    "unhold": ("staged...",), "log": ("key",), "watch": ("all",), "drop": ("cached...",),
    "pin": ("all...",), "unpin": ("cached...",), "prefetch": ("all...",), "whereis": ("key...",),
    "du": ("all",), "stats": (), "prune": ("cached",), "gc": (), "verify": ("all",),
    "rebind": (), "backup": ("dirs",), "restore": ("dirs", "dirs"),
    "migrate": (), "doctor": (), "index": ("dirs",), "serve": (), "completion": ("",), "demo": (),
    "man": ("dirs",), "lock": ("all",), "bundle": (), "bundle export": ("files", "staged..."),
    "bundle import": ("files",), "offline": ("",), "remote": (), "remote show": (),
    "remote set-url": ("",), "login": (), "logout": (), "config": (),
}  # fmt: skip
"""What the arguments of each command are, one after another; "..." goes on. Those that say "key"
take no patterns."""

_Answer = tuple[str, list[str]]
_NOTHING: _Answer = ("words", [])


def answer(shell: str, words: list[str], environ: dict[str, str]) -> bytes:
    """Return what a shell is answered.

    Parameters
    ----------
    shell
        "bash", "zsh" or "fish".
    words
        Those after ``mountcache``, the last as far as it was typed. bash gives none, but the
        line, since what it takes for a word ends at each ":".
    """
    if shell == "bash":
        line, breaks = environ.get("_MOUNTCACHE_LINE", ""), environ.get("_MOUNTCACHE_BREAKS", "")
        words, quoting, before = split(line, breaks)
        if quoting is None or len(words) < 2:
            return b""
        kind, found = _how(words[1:], environ)
        skip = len(before)
        found = [_quoted(each[skip:], quoting) for each in found if each.startswith(before)]
    else:
        kind, found = _how(words, environ)
    text = "\n".join([kind, *found])
    return text.encode("utf-8", "surrogateescape") + b"\n"


def kind_of(command: str, at: int) -> str:
    """Return what an argument of a command is; "" if nothing is known of it."""
    arguments = ARGUMENTS.get(command, ())
    if at < len(arguments):
        return arguments[at].removesuffix("...")
    return arguments[-1].removesuffix("...") if arguments and arguments[-1][-3:] == "..." else ""


def _how(words: list[str], environ: dict[str, str]) -> _Answer:
    *before, word = words
    kind = kind_of(before[0], len(before) - 1) if before else ""
    if not kind or any(each.startswith("-") for each in words):
        return _by_click(before, word, environ)
    return _argument(kind, before, word, environ)


def _argument(kind: str, before: list[str], word: str, environ: dict[str, str]) -> _Answer:
    if kind in ("files", "dirs"):
        return kind, []
    if kind == "key or dir" and ("-r" in before or "--recursive" in before):
        return "dirs", []
    is_key = kind.startswith("key") or kind.endswith("key")
    found = _keys(kind.split()[0].replace("key", "all"), before, word, environ, plain=is_key)
    if len(found) == 1 and found[0].endswith("/"):
        return "part", found
    return "words", found


# -- keys --------------------------------------------------------------------------------------


def _keys(
    kind: str, before: list[str], word: str, environ: dict[str, str], *, plain: bool
) -> list[str]:
    """Return how a key goes on, from what is known here.

    Parameters
    ----------
    plain
        Whether the word is a key in any case, or a pattern where it has one's letters.
    """
    from mountcache.cli.known import known_keys

    place = _place(before, environ)
    plain = plain or "--exact" in before
    typed = word if plain else _without_wildcards(word)
    if place is None or typed is None or "\udc80" <= max(typed, default="") <= "\udfff":
        return []
    directory, point = place
    if point.startswith(typed) and point != typed:
        found = [point] if known_keys(directory, kind, "") else []
    elif typed.startswith(point):
        found = [point + key for key in known_keys(directory, kind, typed[len(point) :])]
    else:
        found = []
    return found if plain else [_as_pattern(key) for key in found]


def _as_pattern(key: str) -> str:
    """Return the pattern that matches a key alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in key)


def _without_wildcards(word: str) -> str | None:
    """Return the key's beginning of which a word is the pattern; None if it is one of many."""
    for letter in "*?[":
        word = word.replace(f"[{letter}]", {"*": "\x01", "?": "\x02", "[": "\x03"}[letter])
    if any(letter in word for letter in "*?["):
        return None
    return word.replace("\x01", "*").replace("\x02", "?").replace("\x03", "[")


def _place(before: list[str], environ: dict[str, str]) -> tuple[str, str] | None:
    """Return the directory of the local store and the mount point; None if nothing says."""
    import tomllib

    file = _file(_option(before, "--config") or environ.get("MOUNTCACHE_CONFIG") or ".")
    if file is None:
        return None
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except (OSError, ValueError, RecursionError):
        return None
    name = ""
    if "mount" in table:
        tables = table["mount"]
        name = _option(before, "--mount") or next(iter(tables))
        if name not in tables or (len(tables) > 1 and _option(before, "--mount") is None):
            return None
        table = tables[name]
    given = str(table.get("dir", os.path.join(".mountcache", name)))
    if environ.get("MOUNTCACHE_DIR"):
        given = os.path.abspath(os.path.join(environ["MOUNTCACHE_DIR"], name))
    here = os.path.dirname(os.path.abspath(file))
    return os.path.join(here, os.path.expanduser(given)), str(table.get("mount_point", ""))


def _file(start: str) -> str | None:
    path = os.path.abspath(os.path.expanduser(start))
    if not os.path.isdir(path):
        return path
    while True:
        candidate = os.path.join(path, "mountcache.toml")
        if os.path.isfile(candidate):
            return candidate
        above = os.path.dirname(path)
        if above == path:
            return None
        path = above


def _option(words: list[str], name: str) -> str | None:
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word[len(name) + 1 :]
    return None


# -- commands and options ----------------------------------------------------------------------


def _by_click(before: list[str], word: str, environ: dict[str, str]) -> _Answer:
    """Answer with what click knows: commands, options, and which argument comes next."""
    import click
    from click.shell_completion import CompletionItem, ShellComplete

    from mountcache.cli.app import app

    class _Said(click.types.StringParamType):
        name = "said"

        def __init__(self, kind: str) -> None:
            self._kind = kind

        def shell_complete(
            self, ctx: click.Context, param: click.Parameter, incomplete: str
        ) -> list[CompletionItem]:
            kind, found = _argument(self._kind, before, incomplete, environ)
            if kind in ("files", "dirs"):
                return [CompletionItem("", type="file" if kind == "files" else "dir")]
            return [CompletionItem(each) for each in found]

    for name, command in commands(app):
        at = 0
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                if kind := kind_of(name, at):
                    parameter.type = _Said(kind)
                at += 1
            elif parameter.metavar in ("FILE", "DIR", "FOLDER"):
                parameter.type = _Said("files" if parameter.metavar == "FILE" else "dirs")
    items = ShellComplete(app, {}, "mountcache", VARIABLE).get_completions(before, word)
    for item in items:
        if item.type in ("file", "dir"):
            return f"{item.type}s", []
    found = [str(item.value) for item in items]
    return "part" if len(found) == 1 and found[0].endswith("/") else "words", found


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Iterate over the commands of a group, and of those in it: "bundle", "bundle export"."""
    import click

    for name, command in group.commands.items():
        yield above + name, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")


# -- the quoting of bash -----------------------------------------------------------------------


def split(line: str, breaks: str) -> tuple[list[str], str | None, str]:
    """Split what was typed as bash does.

    Returns
    -------
    list of str
        The words without their quoting, the last as far as it was typed.
    str or None
        The quote that is open at its end, "" if none is; None if a quote was closed in it, after
        which readline takes nothing for a word any more.
    str
        The beginning of the last word that bash leaves as it stands.
    """
    words: list[str] = []
    word, quote, kept, closed = "", "", "", False
    begun = False
    letters = iter(line)
    for letter in letters:
        if quote == "'":
            if letter == "'":
                quote, closed = "", True
            else:
                word += letter
        elif quote == '"':
            if letter == '"':
                quote, closed = "", True
            elif letter == "\\":
                after = next(letters, "")
                word += after if after in '"\\$`' else letter + after
            else:
                word += letter
        elif letter == "\\":
            word += next(letters, "")
            begun = True
        elif letter in "'\"":
            quote, kept, begun = letter, word, True
        elif letter.isspace():
            if begun:
                words.append(word)
            word, kept, closed, begun = "", "", False, False
        else:
            word += letter
            begun = True
            if letter in breaks:
                kept = word
    return [*words, word], None if closed else quote, kept


def _quoted(text: str, quote: str) -> str:
    """Return how a word goes on in the quote that is open; readline closes it."""
    if quote and text.endswith(quote):
        # It wouldn't after the same quote, so the quote is closed before that.
        return f"{_quoted(text[:-1], quote)}{quote}\\{quote}"
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote == '"':
        said = "".join(f"\\{letter}" if letter in '"\\$`' else letter for letter in text)
        # At the end "!" means nothing, and readline is to close the quote.
        return said[:-1].replace("!", "\"'!'\"") + said[-1:]
    return "".join(
        letter if letter.isalnum() or letter in "_./,+@%-:=^" else f"\\{letter}" for letter in text
    )


def main() -> int:
    """Answer the shell that asks; whatever goes wrong, it isn't told at a prompt."""
    environ = {
        name: os.fsencode(value).decode("utf-8", "surrogateescape")
        for name, value in os.environ.items()
    }
    words = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]
    try:
        sys.stdout.buffer.write(answer(environ[VARIABLE], words, environ))
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 - there is nobody to tell
        return 1
    return 0
