"""Exit codes, which are an interface, and what each error is among them."""

from __future__ import annotations

from enum import IntEnum

from mountcache.errors import ConflictError, StoreError, StoreUnavailableError

__all__ = ["TABLE", "Code", "NoSuchKeyError", "code_of", "one_line", "sentence"]


class NoSuchKeyError(Exception):
    """A key on the command line isn't there."""


class Code(IntEnum):
    """What the command says to the shell when it ends."""

    DONE = 0
    STAGED = 1
    MISSING = 1
    DIFFERENT = 1
    CONFLICT = 2
    ERROR = 3
    UNREACHABLE = 4
    USAGE = 64
    BUG = 70
    INTERRUPTED = 130
    UNREAD = 141


TABLE = (
    (Code.DONE, "done; status: nothing is staged"),
    (
        Code.STAGED,
        "something is staged (status), isn't here (prefetch --check) or differs (verify)",
    ),
    (Code.CONFLICT, "conflict: upstream isn't what an edit was made from"),
    (Code.ERROR, "error; a key that isn't there, a pattern that matches nothing"),
    (Code.UNREACHABLE, "can't know: upstream is out of reach"),
    (Code.USAGE, "the command line is wrong"),
    (Code.BUG, "a bug of mountcache"),
    (Code.INTERRUPTED, "interrupted"),
    (Code.UNREAD, "nobody reads the output any more, as in `mountcache ls | head`"),
)


def code_of(error: BaseException) -> Code:
    """Return the exit code that an error ends the command with."""
    match error:
        case KeyboardInterrupt():
            return Code.INTERRUPTED
        case ConflictError():
            return Code.CONFLICT
        case StoreUnavailableError():
            return Code.UNREACHABLE
        case StoreError() | OSError():
            return Code.ERROR
        case NoSuchKeyError():
            return Code.ERROR
        case _:
            return Code.BUG


def sentence(error: BaseException) -> str:
    """Return an error as one line for people."""
    match error:
        case OSError() if error.strerror and error.filename is not None:
            said = f"{error.filename}: {error.strerror}"
        case _:
            said = str(error) or type(error).__name__
    return one_line(said)


def one_line(text: str) -> str:
    """Return text on one line, without what a terminal would take for a command."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1]
        for char in text.strip()
    )
