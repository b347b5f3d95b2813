"""The tables of the catalog, inside diskcache's own database.

Staged and cached never share a row, so that no path of the code can turn one into the other by
mistake. INSERT OR REPLACE fires no delete trigger: writers use ON CONFLICT DO UPDATE.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

__all__ = ["APPLICATION_ID", "FORMAT", "MIGRATIONS", "STATE", "create", "edit_key", "raise_format"]

FORMAT: Final = 3
"""``PRAGMA user_version`` of the database."""


def edit_key(version: int) -> str:
    """Return the name of the index of staged edits by key, in which a format has its number.

    The statements that read a key ask for it by name. So they fail, at no cost until then, in a
    process that has the store open while another brings it to a newer format.
    """
    return f"edit_key_{version}"


APPLICATION_ID = 0x6D6F756E
"""``PRAGMA application_id``: "moun"."""

_EDIT_COLUMNS = """
    kind TEXT NOT NULL CHECK (kind IN ('put', 'meta', 'del')),
    content TEXT,
    sha TEXT,
    size INTEGER,
    meta TEXT NOT NULL,
    base_kind TEXT NOT NULL
        CHECK (base_kind IN ('none', 'unknown', 'absent', 'version', 'digest', 'entry', 'op')),
    base TEXT,
    base_sha TEXT,
    base_meta TEXT,
    base_entry TEXT,
    base_op TEXT,
    CHECK ((kind = 'put') = (content IS NOT NULL)),
    CHECK ((base_kind = 'op') = (base_op IS NOT NULL))
"""

_TABLES = f"""
CREATE TABLE state (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE edit (
    key TEXT NOT NULL,
    seq INTEGER NOT NULL UNIQUE,
    norm TEXT,                 -- metadata in normal form where that differs from meta
    version TEXT,
    grp INTEGER NOT NULL,
    partner TEXT,              -- of a whiteout: the new name of a rename
    author TEXT NOT NULL,
    at REAL NOT NULL,
    notes TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    {_EDIT_COLUMNS}
);
CREATE UNIQUE INDEX {edit_key(1)} ON edit (key);
CREATE INDEX edit_content ON edit (content) WHERE content IS NOT NULL;
CREATE INDEX edit_grp ON edit (grp);

CREATE TABLE op (
    op_id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    edit_seq INTEGER NOT NULL,
    mask_entry TEXT,           -- upstream's index entry when the request was sent
    state TEXT NOT NULL CHECK (state IN ('sending', 'unknown')),
    owner TEXT NOT NULL,
    at REAL NOT NULL,
    {_EDIT_COLUMNS}
);
CREATE INDEX op_content ON op (content) WHERE content IS NOT NULL;

CREATE TABLE copy (
    key TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    version TEXT,
    sha TEXT NOT NULL,
    size INTEGER NOT NULL,
    meta TEXT NOT NULL,
    modified REAL,
    checked REAL NOT NULL,
    expires REAL,              -- NULL: revalidate each time; 0: in any case, at the next read
    validators TEXT NOT NULL,
    entry TEXT,
    boot TEXT NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    used INTEGER NOT NULL,     -- a count of uses of the store, not a time
    seen TEXT
);
CREATE INDEX copy_content ON copy (content);
CREATE INDEX copy_used ON copy (used) WHERE NOT pinned;

CREATE TABLE upstream (
    key TEXT NOT NULL,
    gen_from INTEGER NOT NULL, -- visible in the generations gen_from to gen_to
    gen_to INTEGER,
    present INTEGER NOT NULL,
    meta TEXT NOT NULL,
    norm TEXT,
    entry TEXT,                -- as polled from an index
    version TEXT,
    sha TEXT,
    size INTEGER,
    learned INTEGER NOT NULL,  -- how many loads of an index had begun by then
    seen TEXT,
    masked INTEGER NOT NULL DEFAULT 0,
    mask_entry TEXT,           -- what the index said when our push was sent
    PRIMARY KEY (key, gen_from)
) WITHOUT ROWID;

CREATE INDEX upstream_old ON upstream (gen_to) WHERE gen_to IS NOT NULL;
CREATE INDEX upstream_gone ON upstream (learned) WHERE NOT present AND gen_to IS NULL;

CREATE TABLE undo (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    content TEXT,
    sha TEXT,
    size INTEGER,
    meta TEXT NOT NULL,
    author TEXT NOT NULL,
    at REAL NOT NULL,
    base_kind TEXT NOT NULL,
    base TEXT,
    base_sha TEXT,
    base_meta TEXT,
    base_entry TEXT,
    taken REAL NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX undo_key ON undo (key, seq);
CREATE INDEX undo_content ON undo (content) WHERE content IS NOT NULL;

CREATE TABLE partial (
    key TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    boot TEXT NOT NULL
);

-- Operation ids that were applied here, for those who ask again (an origin's memory).
CREATE TABLE done (
    seq INTEGER PRIMARY KEY,
    op_id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    version TEXT,
    at REAL NOT NULL
);
"""

_NAMED = " UNION ALL ".join(
    f"SELECT 1 FROM {table} WHERE content = OLD.key" for table in ("edit", "op", "undo")
)

_TRIGGERS = f"""
CREATE TRIGGER staged_bytes_stay BEFORE DELETE ON Cache WHEN EXISTS ({_NAMED})
BEGIN SELECT RAISE(ABORT, 'these bytes are staged'); END;
CREATE TRIGGER staged_bytes_are_final BEFORE UPDATE ON Cache WHEN EXISTS ({_NAMED})
BEGIN SELECT RAISE(ABORT, 'these bytes are staged'); END;
"""

_COUNTED = {"copy": "clean_bytes", "edit": "staged_bytes", "undo": "undo_bytes"}

_COUNTERS = "".join(
    f"""
CREATE TRIGGER {table}_counts_in AFTER INSERT ON {table}
BEGIN UPDATE state SET value = value + coalesce(NEW.size, 0) WHERE name = '{name}'; END;
CREATE TRIGGER {table}_counts_out AFTER DELETE ON {table}
BEGIN UPDATE state SET value = value - coalesce(OLD.size, 0) WHERE name = '{name}'; END;
CREATE TRIGGER {table}_counts_on AFTER UPDATE OF size ON {table}
BEGIN UPDATE state SET value = value + coalesce(NEW.size, 0) - coalesce(OLD.size, 0)
      WHERE name = '{name}'; END;
"""
    for table, name in _COUNTED.items()
)

STATE = {
    "gen": 1,
    "seq": 0,
    "complete": 0,
    "clean_bytes": 0,
    "staged_bytes": 0,
    "undo_bytes": 0,
    "used": 0,
    "index_checked": None,
    "index_validators": None,
    "index_size": 0,
    "index_doubted": None,
    "loading": None,
    "loads": 0,
    "identity": None,
    "mount_point": None,
    "size_limit": None,
    "staged_limit": None,
    "undo_limit": None,
}


_SINCE_2 = """
ALTER TABLE edit ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE edit ADD COLUMN tried REAL;
CREATE INDEX edit_partner ON edit (partner) WHERE partner IS NOT NULL;

-- The edits that were given a name together: change sets.
CREATE TABLE grp (
    grp INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    notes TEXT NOT NULL
);

-- What happened to which key, the latest last; the first to go are the oldest.
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    what TEXT NOT NULL,
    key TEXT,                  -- NULL: many at once, told in the note
    kind TEXT,
    author TEXT,
    size INTEGER,
    version TEXT,
    grade TEXT,
    note TEXT NOT NULL
);
CREATE INDEX log_key ON log (key, seq);
"""


def _to_2(con: sqlite3.Connection) -> None:
    for statement in _statements(_SINCE_2):
        con.execute(statement)


_ASIDE = "".join(
    f"""
CREATE TRIGGER {table}_stands_aside_{number} AFTER {what} ON {table}
WHEN EXISTS (SELECT 1 FROM field_name)
BEGIN INSERT INTO field_new VALUES (NEW.key) ON CONFLICT DO NOTHING; END;
"""
    for table in ("upstream", "edit")
    for number, what in enumerate(("INSERT", "UPDATE OF meta, norm"), 1)
)

_SINCE_3 = f"""
-- Permissions that are staged: a third part of a key, apart from its edit.
CREATE TABLE permission (
    key TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    staged TEXT NOT NULL,
    base TEXT,                 -- what their author had seen upstream; NULL: nothing
    created INTEGER NOT NULL,  -- whether the key was new then, and had none
    author TEXT NOT NULL,
    at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    error TEXT
) WITHOUT ROWID;

CREATE INDEX copy_pinned ON copy (key) WHERE pinned;

-- Names of metadata that queries have asked for.
CREATE TABLE field_name (
    slot INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    whole INTEGER NOT NULL,    -- 0: it is being made
    taken_in INTEGER NOT NULL  -- how many keys came to it since
);

-- Keys that may have a value, by what their metadata were at some time.
CREATE TABLE field (
    slot INTEGER NOT NULL,
    value TEXT NOT NULL,       -- in normal form, its beginning
    key TEXT NOT NULL,
    PRIMARY KEY (slot, value, key)
) WITHOUT ROWID;

-- Keys whose metadata were written since, which may have any.
CREATE TABLE field_new (key TEXT PRIMARY KEY) WITHOUT ROWID;
{_ASIDE}"""


def _to_3(con: sqlite3.Connection) -> None:
    for statement in _statements(_SINCE_3):
        con.execute(statement)


MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (_to_2, _to_3)
"""The first makes a database of format 1 one of format 2, and so on, inside a transaction.

A new database is made the same way, so that no one can tell which it is. Each changes rows and
tables alone, and touches no file: a commit is all that changes then.
"""


def raise_format(
    con: sqlite3.Connection,
    found: int,
    migrations: tuple[Callable[[sqlite3.Connection], None], ...] = MIGRATIONS,
) -> int:
    """Bring a database of format `found` to the newest inside a transaction; return which."""
    newest = 1 + len(migrations)
    for step in migrations[found - 1 :]:
        step(con)
    if found < newest:
        con.execute(f"DROP INDEX {edit_key(found)}")
        con.execute(f"CREATE UNIQUE INDEX {edit_key(newest)} ON edit (key)")
    con.execute(f"PRAGMA user_version = {newest}")
    return newest


def create(con: sqlite3.Connection, version: int = FORMAT) -> None:
    """Make the tables in a database that has none of them; call it inside a transaction."""
    for statement in _statements(_TABLES + _TRIGGERS + _COUNTERS):
        con.execute(statement)
    con.executemany("INSERT INTO state VALUES (?, ?)", STATE.items())
    con.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    raise_format(con, 1, MIGRATIONS[: version - 1])


def _statements(script: str) -> list[str]:
    """Split a script where SQLite sees a whole statement.

    ``executescript`` would commit the transaction that is open.
    """
    found, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if line.strip() and sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found
