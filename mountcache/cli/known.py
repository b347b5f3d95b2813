"""Keys that begin with some letters, out of a store's database, for a shell that waits.

A shell asks at each press of Tab, so this opens the database by itself, read-only, makes
nothing, and asks nobody. It imports what it needs and no more of the package.
"""

from __future__ import annotations

import os
import sqlite3

__all__ = ["CAP", "known_keys", "statement"]

CAP = 100
"""How many keys and folders are offered at most, and the last of them."""

_WAIT = 0.05
_STAGED = "SELECT key FROM edit WHERE {range}"
_CACHED = (
    "SELECT key FROM copy c WHERE {range} AND NOT EXISTS (SELECT 1 FROM edit e WHERE e.key = c.key)"
)
_UPSTREAM = (
    "SELECT key FROM upstream u WHERE {range} AND u.present"
    " AND u.gen_from <= (SELECT value FROM state WHERE name = 'gen')"
    " AND (u.gen_to IS NULL OR u.gen_to >= (SELECT value FROM state WHERE name = 'gen'))"
    " AND NOT EXISTS (SELECT 1 FROM edit e WHERE e.key = u.key)"
)
_TABLES = {
    "all": (_STAGED + " AND kind != 'del'", _CACHED, _UPSTREAM),
    "staged": (_STAGED,),
    "cached": (_CACHED,),
    "undone": ("SELECT key FROM undo WHERE {range}",),
}


def statement(kind: str, *, last: bool = False) -> str:
    """Return the statement that gives the first key of a range, or the last.

    Its parameters are the bounds, the first inside the range and the second outside.
    """
    order = "DESC" if last else "ASC"
    one = f"ORDER BY key {order} LIMIT 1"
    parts = (
        f"SELECT * FROM ({part.format(range='key >= ?1 AND key < ?2')} {one})"
        for part in _TABLES[kind]
    )
    return f"{' UNION ALL '.join(parts)} ORDER BY 1 {order} LIMIT 1"


def known_keys(directory: str, kind: str, prefix: str) -> list[str]:
    """Return keys that begin with `prefix`, in their order; of a folder its name alone.

    If there are more than `CAP` the last of all is there as well, so that what all have in
    common is what these have in common.

    Parameters
    ----------
    directory
        The local store.
    kind
        "all", "staged", "cached" or "undone".
    prefix
        The beginning. What follows its last "/" up to the next one is offered, as a shell does
        with folders.
    """
    file = os.path.join(directory, "cache.db")
    if not os.path.exists(file):
        return []
    try:
        logged = os.stat(f"{file}-wal").st_size > 0
    except FileNotFoundError:
        logged = False
    # Without a log nothing is made beside the database, with one it isn't either.
    mode = "mode=ro&readonly_shm=1" if logged else "immutable=1"
    for letter in "%?#":  # urllib.parse, which has this as well, takes longer than the rest
        file = file.replace(letter, f"%{ord(letter):02x}")
    con = sqlite3.connect(f"file:{file}?{mode}", uri=True, timeout=_WAIT)
    try:
        return _folders(con, kind, prefix)
    except sqlite3.Error:
        return []
    finally:
        con.close()


def _folders(con: sqlite3.Connection, kind: str, prefix: str) -> list[str]:
    found: list[str] = []
    low, high = prefix, _past(prefix)
    first, last = statement(kind), statement(kind, last=True)
    while len(found) < CAP:
        row = con.execute(first, (low, high)).fetchone()
        if row is None:
            return found
        found.append(_folder(row[0], prefix))
        # "0" is what comes after "/".
        low = found[-1][:-1] + "0" if found[-1].endswith("/") else found[-1] + "\x01"
    row = con.execute(last, (low, high)).fetchone()
    return found if row is None else [*found, _folder(row[0], prefix)]


def _folder(key: str, prefix: str) -> str:
    end = key.find("/", len(prefix))
    return key if end < 0 else key[: end + 1]


def _past(prefix: str) -> str:
    """Return a bound above all keys that begin with `prefix`; they hold no U+10FFFF here."""
    return prefix + "\U0010ffff"
