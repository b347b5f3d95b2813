"""docs/conflicts.md, cell by cell: what a push makes of mine, of upstream, and of a policy.

The page is the one place where the expected results are written down; here each of its cells is
tried by a real push to a server of ours (grade A) and to others (grade C).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mountcache.abc import AbstractReadOnlyStore
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import PushReport, plan, push, resolve
from mountcache.sync.report import POLICIES
from mountcache.testing import Origin
from tests.command import ROOT
from tests.foreignserver import ForeignServer
from tests.webservers import Nginx

PAGE = (ROOT / "docs" / "conflicts.md").read_text()
NEW = "-new"
"""What a renaming adds to the key."""

Entry = tuple[bytes, dict[str, Any]]
Keys = dict[str, Entry]
"""Data and metadata, by what the name has more than the key of the row."""

BASE: Entry = (b"base\n", {"by": "lab"})
VALUE: Entry = (b"mine\n", {"by": "me"})
THEIRS = b"from others\n"


# -- what is staged, and what others do ------------------------------------------------------------


@dataclass(frozen=True)
class Mine:
    """An edit: what it starts from, how it is staged, and what upstream would have of it."""

    stage: Callable[[MountedStore, str], object]
    wanted: Keys
    base: Entry | None = BASE
    looks: bool = True


def _put(data: bytes, metadata: Mapping[str, Any]) -> Callable[[MountedStore, str], object]:
    return lambda store, key: store.set(key, (io.BytesIO(data), metadata))


MINE = {
    "added": Mine(_put(*VALUE), {"": VALUE}, base=None),
    "added unseen": Mine(_put(*VALUE), {"": VALUE}, base=None, looks=False),
    "data": Mine(
        lambda store, key: store.set_data(key, io.BytesIO(b"mine\n")), {"": (b"mine\n", BASE[1])}
    ),
    "data and metadata": Mine(_put(*VALUE), {"": VALUE}),
    "put again": Mine(_put(*BASE), {"": BASE}),
    "metadata": Mine(
        lambda store, key: store.update_metadata(key, {"by": "me", "mine": 1}),
        {"": (BASE[0], {"by": "me", "mine": 1})},
    ),
    "metadata again": Mine(
        lambda store, key: (
            store.update_metadata(key, {"by": "me"}),
            store.update_metadata(key, {"by": "lab"}),
        ),
        {"": BASE},
    ),
    "deleted": Mine(lambda store, key: store.delete(key), {}),
    "renamed": Mine(lambda store, key: store.mv(key, key + NEW), {NEW: BASE}),
}

UPSTREAM: dict[str, Callable[[Mine], Keys]] = {
    "as base": lambda mine: {"": BASE},
    "absent": lambda mine: {},
    "gone": lambda mine: {},
    "other data": lambda mine: {"": (THEIRS, BASE[1])},
    "another value": lambda mine: {"": (THEIRS, {"by": "others"})},
    "same as mine": lambda mine: mine.wanted,
    "mine and a new name": lambda mine: {"": (VALUE[0], {**VALUE[1], "unit": "m"})},
    "same data, other metadata": lambda mine: {"": (VALUE[0], {"unit": "m"})},
    "same data, a name of mine": lambda mine: {"": (VALUE[0], {"by": "others"})},
    "a new name": lambda mine: {"": (BASE[0], {**BASE[1], "unit": "m"})},
    "a name of mine": lambda mine: {"": (BASE[0], {"by": "others"})},
    "the old name has other data": lambda mine: {"": (THEIRS, BASE[1])},
    "the old name is gone": lambda mine: {},
    "the old name has a new name in its metadata": lambda mine: {
        "": (BASE[0], {**BASE[1], "unit": "m"})
    },
    "the new name has another value": lambda mine: {"": BASE, NEW: (THEIRS, {})},
    "the new name is same as mine": lambda mine: {"": BASE, NEW: BASE},
}


# -- what the words say ----------------------------------------------------------------------------


def _theirs_and_mine(base: Entry, theirs: Entry, mine: Entry) -> Entry:
    """Both changes: mine where it differs from the base."""
    data = mine[0] if mine[0] != base[0] else theirs[0]
    changed = {name: value for name, value in mine[1].items() if base[1].get(name) != value}
    return data, {**theirs[1], **changed}


AFTER: dict[str, Callable[[Mine, Keys], Keys]] = {
    "mine": lambda mine, before: mine.wanted,
    "as it was": lambda mine, before: before,
    "as it was, and mine beside it": lambda mine, before: {
        # Of a renaming the old name goes.
        **{name: entry for name, entry in before.items() if name or NEW not in mine.wanted},
        **{f"{name}.conflict": entry for name, entry in mine.wanted.items()},
    },
    "the changes of both": lambda mine, before: {
        "": _theirs_and_mine(mine.base or (b"", {}), before[""], mine.wanted[""])
    },
    "the new name, and the old one as it was": lambda mine, before: {**before, **mine.wanted},
}

PLANNED: dict[str, set[str]] = {
    "sent": {"create", "replace", "metadata", "delete"},
    "there": {"nothing"},
    "conflict": {"conflict"},
    "given up": {"discard"},
    "both": {"keep both"},
    "merged": {"replace", "metadata", "merge metadata"},
    "two names": {"discard"},
    "half": {"conflict"},
}
"""What a plan may call each."""

STAGED: dict[str, Callable[[Mine], set[str]]] = {
    "nothing": lambda mine: set(),
    "mine": lambda mine: {"", NEW} if NEW in mine.wanted else {""},
    "the delete": lambda mine: {""},
}


def _rows(title: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


WORDS = {word: (said, then, left) for word, said, then, left in _rows("The words of the table")[2:]}
HEAD, _, *ROWS = _rows("The table")


def _words(cell: str, grade: str) -> list[str]:
    """Return the word of a cell, or those that it leaves open."""
    at_a, _, at_c = cell.partition("; C: ")
    return (at_c if at_c and grade == "C" else at_a).split(" or ")


# -- the servers -----------------------------------------------------------------------------------


class Lab:
    """A server, and what others do there."""

    grade = "C"
    has_metadata = True

    def backing(self) -> AbstractReadOnlyStore:
        raise NotImplementedError

    def now(self, key: str) -> Keys:
        """Return what is there of a key and of all whose names begin with it."""
        raise NotImplementedError

    def put(self, key: str, entry: Entry) -> None:
        raise NotImplementedError

    def remove(self, key: str) -> None:
        raise NotImplementedError

    def become(self, key: str, wanted: Keys) -> None:
        """Change what differs, and nothing else."""
        now = self.now(key)
        for name in now.keys() - wanted.keys():
            self.remove(key + name)
        for name, entry in wanted.items():
            if now.get(name) != entry:
                self.put(key + name, entry)


class Ours(Lab):
    grade = "A"

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def backing(self) -> AbstractReadOnlyStore:
        return DynamicURLStore(f"{self._origin.url}keys", f"{self._origin.url}query")

    def now(self, key: str) -> Keys:
        store = self._origin.store
        names = [name for name in store.query_keys() if name.startswith(key)]
        return {
            name.removeprefix(key): (store.to_bytes(name), store.get_metadata(name))
            for name in names
        }

    def put(self, key: str, entry: Entry) -> None:
        self._origin.change(key, *entry)

    def remove(self, key: str) -> None:
        self._origin.remove(key)


class Foreign(Lab):
    def __init__(self, server: ForeignServer) -> None:
        self._server = server

    def backing(self) -> AbstractReadOnlyStore:
        return DynamicURLStore(*self._server.urls)

    def now(self, key: str) -> Keys:
        return {
            name.removeprefix(key): (parts["data"], json.loads(parts["metadata"]))
            for name, parts in self._server.keys.items()
            if name.startswith(key)
        }

    def put(self, key: str, entry: Entry) -> None:
        parts = self._server.keys.get(key, {})
        if parts.get("data") != entry[0]:
            self._server.put(key, data=entry[0])
        if "metadata" not in parts or json.loads(parts["metadata"]) != entry[1]:
            self._server.put(key, metadata=entry[1])

    def remove(self, key: str) -> None:
        self._server.remove(key)


class Plain(Lab):
    """nginx with its dav module; metadata in files beside the data, or nowhere."""

    SIDE = ".metadata.json"

    def __init__(self, server: Nginx, metadata: Literal["local", "sidecar"]) -> None:
        self._url, self._data = server.url, server.root / "data"
        self._metadata = metadata
        self.has_metadata = metadata == "sidecar"
        self._index()

    def backing(self) -> AbstractReadOnlyStore:
        return StaticURLStore(self._url, write="put", metadata=self._metadata, poll=0)

    def now(self, key: str) -> Keys:
        names = [name for name in self._names() if name.startswith(key)]
        return {
            name.removeprefix(key): ((self._data / name).read_bytes(), self._said(name))
            for name in names
        }

    def put(self, key: str, entry: Entry) -> None:
        (self._data / key).parent.mkdir(parents=True, exist_ok=True)
        (self._data / key).write_bytes(entry[0])
        (self._data / f"{key}{self.SIDE}").write_text(json.dumps(entry[1]))
        self._index()

    def remove(self, key: str) -> None:
        (self._data / key).unlink()
        (self._data / f"{key}{self.SIDE}").unlink(missing_ok=True)
        self._index()

    def _names(self) -> list[str]:
        found = (
            str(each.relative_to(self._data)) for each in self._data.rglob("*") if each.is_file()
        )
        return [name for name in found if not name.endswith(self.SIDE)]

    def _said(self, name: str) -> dict[str, Any]:
        beside = self._data / f"{name}{self.SIDE}"
        found: dict[str, Any] = json.loads(beside.read_text()) if beside.exists() else {}
        return found

    def _index(self) -> None:
        index = {name: self._said(name) for name in self._names()}
        made = self._data.parent / "index.new"
        made.write_text(json.dumps(index))
        made.rename(self._data.parent / "index.json")


SERVERS = ("ours", "foreign", "nginx", "nginx, data alone")


@pytest.fixture(scope="module", params=SERVERS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if request.param == "ours":
        with Origin() as origin:
            yield Ours(origin)
    elif request.param == "foreign":
        with ForeignServer(conditions=False) as server:
            yield Foreign(server)
    else:
        root = tmp_path_factory.mktemp("site")
        (root / "data").mkdir()
        with Nginx(root, dav=True) as served:
            yield Plain(served, "sidecar" if request.param == "nginx" else "local")


@pytest.fixture(scope="module")
def store(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedStore]:
    here = DiskCacheStore(tmp_path_factory.mktemp("here") / "store")
    with MountedStore("", here, lab.backing()) as mounted:
        yield mounted


# -- a row -----------------------------------------------------------------------------------------


def _staged(store: MountedStore, lab: Lab, key: str, mine: Mine, theirs: Keys) -> Keys:
    """Let me stage an edit, and others do something after that; return what upstream has then."""
    if mine.base is not None:
        lab.put(key, mine.base)
    if isinstance(lab, Plain):
        store.update_index()
    if mine.looks and mine.base is not None:
        assert store.to_bytes(key) == mine.base[0]
    elif mine.looks:
        assert not store.exists(key)
    mine.stage(store, key)
    lab.become(key, theirs)
    return lab.now(key)


def _left(store: MountedStore, key: str) -> set[str]:
    return {each.key.removeprefix(key) for each in store.staged() if each.key.startswith(key)}


def _outcome(report: PushReport, key: str) -> str:
    """Return what the push says of the edit; of a renaming the half that counts."""
    said = {each.key.removeprefix(key): each.outcome for each in report.results}
    if "conflict" in said.values():
        return "conflict"
    if said.keys() == {"", NEW} and "pushed" in said.values():
        return "pushed"
    return said.get("", said.get(NEW, "nothing"))


def _seen(keys: Keys) -> Keys:
    """Return keys without what is unique in the names that keep-both gives."""
    return {re.sub(r"\.conflict-.*", ".conflict", name): entry for name, entry in keys.items()}


def _data_alone(keys: Keys) -> dict[str, bytes]:
    return {name: data for name, (data, _) in keys.items()}


def _key(row: list[str], policy: str, how: str) -> str:
    return re.sub(r"[^a-z/-]+", "-", f"{how}/{row[0]}/{row[1]}/{policy}/k")


def _about_metadata(row: list[str]) -> bool:
    """Whether a row can't be told from another where there are no metadata."""
    return (
        row[0] == "metadata"
        or "name of mine" in row[1]
        or "metadata" in row[1]
        or ("a new name" in row[1])
    )


def _where(wanted: Callable[[list[str]], bool], *, data_alone: bool) -> pytest.MarkDecorator:
    """Run a test for rows of the table, on each server that tells them apart.

    Parameters
    ----------
    data_alone
        Whether only on servers that keep no metadata, and of rows that are about metadata.
    """
    cells = [
        pytest.param(server, row, id=f"{server}-{row[0]}, {row[1]}")
        for server in SERVERS
        for row in ROWS
        if wanted(row) and (server == SERVERS[-1] and _about_metadata(row)) == data_alone
    ]
    return pytest.mark.parametrize(("lab", "row"), cells, indirect=["lab"])


@_where(lambda row: True, data_alone=False)
def test_push_does_what_the_row_says(row: list[str], lab: Lab, store: MountedStore) -> None:
    mine, theirs = MINE[row[0]], UPSTREAM[row[1]](MINE[row[0]])
    for policy, cell in zip(HEAD[2:], row[2:], strict=True):
        key = _key(row, policy, "push")
        before = _staged(store, lab, key, mine, theirs)
        keys = [key + name for name in _left(store, key)]
        planned = {step.action for step in plan(store, keys, on_conflict=policy).steps}
        assert (policy, lab.now(key), _left(store, key)) == (policy, before, STAGED["mine"](mine))
        report = push(store, keys, on_conflict=policy)
        words = _words(cell, lab.grade)
        assert (policy, _outcome(report, key)) in [(policy, WORDS[word][0]) for word in words]
        _, then, left = WORDS[words[0]]
        after, wanted = _seen(lab.now(key)), AFTER[then](mine, before)
        if lab.has_metadata:
            assert (policy, after) == (policy, wanted)
        else:
            assert (policy, _data_alone(after)) == (policy, _data_alone(wanted))
        assert (policy, _left(store, key)) == (policy, STAGED[left](mine))
        # A plan looks at upstream at grade A, too.
        expected = {action for word in _words(cell, "C") for action in PLANNED[word]}
        assert planned & expected, (policy, planned)
        assert row[0] != "deleted" or planned <= {"delete", "nothing", "discard", "conflict"}
        assert {each.grade for each in report.results if each.grade is not None} <= {lab.grade}


@_where(lambda row: row[2] == "conflict" and row[0] != "renamed", data_alone=False)
def test_resolve_and_then_push_ends_the_same(row: list[str], lab: Lab, store: MountedStore) -> None:
    mine, theirs = MINE[row[0]], UPSTREAM[row[1]](MINE[row[0]])
    for policy, cell in list(zip(HEAD[2:], row[2:], strict=True))[1:]:
        key = _key(row, policy, "resolve")
        before = _staged(store, lab, key, mine, theirs)
        (word,) = _words(cell, lab.grade)
        if word == "conflict":
            with pytest.raises(StoreError):
                resolve(store, key, policy)
        else:
            resolve(store, key, policy)
            push(store, [key + name for name in _left(store, key)])
        _, then, left = WORDS[word]
        after, wanted = _seen(lab.now(key)), AFTER[then](mine, before)
        assert (policy, _data_alone(after)) == (policy, _data_alone(wanted))
        if lab.has_metadata:
            assert (policy, after) == (policy, wanted)
        assert (policy, _left(store, key)) == (policy, STAGED[left](mine))


@_where(lambda row: row[1] != "gone", data_alone=True)
def test_metadata_are_in_no_conflict_where_there_are_none(
    row: list[str], lab: Lab, store: MountedStore
) -> None:
    mine, theirs = MINE[row[0]], UPSTREAM[row[1]](MINE[row[0]])
    for policy in HEAD[2:]:
        key = _key(row, policy, "alone")
        before = _staged(store, lab, key, mine, theirs)
        report = push(store, [key + name for name in _left(store, key)], on_conflict=policy)
        assert {each.outcome for each in report.results} <= {"pushed", "already there"}
        assert _left(store, key) == set()
        if row[0] == "metadata":
            assert _outcome(report, key) == "already there"
            assert lab.now(key) == before
        elif row[0] not in ("deleted", "renamed"):
            assert lab.now(key)[""][0] == mine.wanted[""][0]


# -- the page --------------------------------------------------------------------------------------


def test_columns_are_the_policies_there_are() -> None:
    names = {"ours": "mine", "theirs": "upstream"}
    assert HEAD[2:] == [names.get(policy, policy) for policy in POLICIES]


def test_each_edit_is_tried_with_each_upstream_that_can_be() -> None:
    """A row that was left out would be a question without an answer."""
    rows = [(mine, upstream) for mine, upstream, *_ in ROWS]
    assert len(set(rows)) == len(rows)
    assert {mine for mine, _ in rows} == MINE.keys()
    assert {upstream for _, upstream in rows} == UPSTREAM.keys()
    for mine in ("data", "data and metadata", "metadata"):
        assert [upstream for each, upstream in rows if each == mine] == [
            "as base", "other data", "same as mine", "gone", "a new name", "a name of mine",
        ]  # fmt: skip


def test_each_word_is_said_and_used() -> None:
    used = {word for row in ROWS for cell in row[2:] for word in _words(cell, "A")}
    used |= {word for row in ROWS for cell in row[2:] for word in _words(cell, "C")}
    assert used == WORDS.keys()
    explained = PAGE.partition("## The table\n")[2].partition("\n| mine")[0]
    for name in MINE.keys() | {name for name in UPSTREAM if not name.startswith("the ")}:
        assert f"**{name}**" in explained, name
