"""Queries by metadata among many keys: indexes that are made on demand, and change no answer."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountcache import DiskCacheStore, MemoryStore, MountedStore, StaticURLStore, StringValue
from mountcache.local import fields
from mountcache.local.view import matcher
from mountcache.serve.mounts import ServedMount
from tests.command import Inside

MANY = 1500


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make indexes of few keys, and take in what is aside at once."""
    monkeypatch.setattr(fields, "MANY", 3)
    monkeypatch.setattr(fields, "_ASIDE", 2)


def index(folder: Path, keys: dict[str, Any]) -> str:
    import json

    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps(keys))
    return folder.absolute().as_uri() + "/"


def mounted(path: Path, url: str) -> MountedStore:
    return MountedStore("", DiskCacheStore(path, min_free=0), StaticURLStore(url, "", poll=0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MountedStore]:
    url = index(tmp_path / "up", {f"k{n:05}": {"n": n, "odd": n % 2 == 1} for n in range(MANY)})
    with mounted(tmp_path / "here", url) as made:
        made.update_index()
        yield made


def names(store: MountedStore | DiskCacheStore) -> list[str]:
    catalog = store.mount.catalog if isinstance(store, MountedStore) else store.catalog
    found = catalog.content.connection().execute("SELECT name FROM field_name WHERE whole")
    return sorted(name for (name,) in found.fetchall())


def scanned(store: MountedStore, **where: Any) -> list[str]:
    """Return what a query finds that looks at each key."""
    matches = matcher(where, None)
    return [key for key, metadata in store.query() if matches(key, metadata)]


def test_the_first_query_makes_an_index_and_the_next_ones_read_what_it_names(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(store) == []
    assert list(store.query_keys(n=700)) == ["k00700"]
    assert names(store) == ["n"]
    content = store.mount.catalog.content
    assert fields.candidates(content, {"n": "7"}, "", b"") == ["k00007"]
    assert fields.candidates(content, {"m": "7"}, "", b"") is None
    assert list(store.query(n=7, odd=True)) == [("k00007", {"n": 7, "odd": True})]
    assert list(store.query(n=7, odd=False)) == []
    assert names(store) == ["n", "odd"]
    assert list(store.query_keys(odd=True)) == scanned(store, odd=True)


def test_few_keys_need_none(tmp_path: Path) -> None:
    url = index(tmp_path / "up", {f"k{n}": {"n": n} for n in range(50)})
    with mounted(tmp_path / "here", url) as store:
        assert list(store.query_keys(n=7)) == ["k7"]
        assert names(store) == []


@pytest.mark.usefixtures("soon")
def test_values_are_told_apart_as_ever(tmp_path: Path) -> None:
    values: list[Any] = [
        None, True, 1, 1.0, "1", "true", "null", ["a"], '["a"]', {"b": 1, "a": 2}, {"a": 2, "b": 1},
        "", "ü", 'a"b', "x" * 300, "x" * 299 + "y", 1.5, -0.0, 0, False, [], {}, "'", 2**62,
    ]  # fmt: skip
    entries = {f"k{number:02}": {"v": value} for number, value in enumerate(values)}
    entries["none"] = {}
    entries["with 'quotes'"] = {"it's": 1, 'a"b': 1}
    with mounted(tmp_path / "here", index(tmp_path / "up", entries)) as store:
        for value in values:
            assert list(store.query_keys(v=value)) == scanned(store, v=value), value
        assert list(store.query_keys(**{"it's": 1})) == ["with 'quotes'"]
        assert list(store.query_keys(**{'a"b': 1})) == ["with 'quotes'"]
        assert names(store) == ["it's", "v"]


@pytest.mark.usefixtures("soon")
def test_what_another_process_writes_shows_in_the_very_next_query(
    store: MountedStore, tmp_path: Path
) -> None:
    assert list(store.query_keys(n=5)) == ["k00005"]
    url = (tmp_path / "up").absolute().as_uri() + "/"
    with mounted(tmp_path / "here", url) as other:
        for round_ in range(4):
            other.set(f"new {round_}", StringValue(b"x", {"n": 5}))
            assert list(store.query_keys(n=5)) == scanned(store, n=5)
        other.update_metadata("k00009", {"n": 5})
        other.delete("k00005")
        assert list(store.query_keys(n=5)) == ["k00009", *(f"new {n}" for n in range(4))]
        assert list(store.query_keys(n=9)) == []
        other.revert("k00009")
        assert "k00009" not in list(store.query_keys(n=5))
        assert list(store.query_keys(n=9)) == ["k00009"]


@pytest.mark.usefixtures("soon")
def test_a_newer_index_of_upstream_shows(store: MountedStore, tmp_path: Path) -> None:
    assert list(store.query_keys(n=5)) == ["k00005"]
    index(tmp_path / "up", {f"k{n:05}": {"n": n + 1} for n in range(MANY)})
    store.update_index()
    assert list(store.query_keys(n=5)) == ["k00004"]
    assert list(store.query_keys(n=0)) == []


def test_nine_names_have_eight_indexes_and_nothing_is_left_of_the_first(
    store: MountedStore,
) -> None:
    for name in "abcdefghi":
        assert list(store.query_keys(**{name: 1})) == []
        assert list(store.query_keys(n=3)) == ["k00003"]
    con = store.mount.catalog.content.connection()
    assert len(names(store)) == fields.MOST
    assert names(store)[-2:] == ["i", "n"]
    slots = con.execute("SELECT DISTINCT slot FROM field").fetchall()
    assert set(slots) <= set(con.execute("SELECT slot FROM field_name").fetchall())


def test_many_changes_make_them_anew(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert list(store.query_keys(n=5)) == ["k00005"]
    con = store.mount.catalog.content.connection()
    monkeypatch.setattr(fields, "_WORTH", 600)
    index(tmp_path / "up", {f"k{n:05}": {"n": n + 1} for n in range(MANY)})
    store.update_index()
    assert con.execute("SELECT count(*) FROM field_new").fetchone() == (MANY,)
    assert list(store.query_keys(n=5)) == ["k00004"]
    assert con.execute("SELECT count(*) FROM field_new").fetchone() == (0,)
    assert con.execute("SELECT name, taken_in FROM field_name").fetchall() == [("n", 0)]


def test_one_that_wasnt_made_to_its_end_isnt_believed(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any) -> None:
        raise Killed

    monkeypatch.setattr(fields, "_BATCH", 100)
    content, writes = store.mount.catalog.content, []
    write = content.write

    def failing(**how: bool) -> Any:
        writes.append(1)
        if len(writes) == 4:
            raise Killed
        return write(**how)

    monkeypatch.setattr(content, "write", failing)
    with pytest.raises(Killed):
        list(store.query_keys(n=1400))
    monkeypatch.setattr(content, "write", write)
    con = content.connection()
    assert con.execute("SELECT count(*) FROM field").fetchone()[0] == 200
    assert fields.candidates(content, {"n": "1400"}, "", b"") is None
    assert list(store.query_keys(n=1400)) == ["k01400"]
    assert names(store) == ["n"]
    assert con.execute("SELECT count(*) FROM field").fetchone()[0] == MANY


def test_two_who_make_the_same_one_end_with_one(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fields, "_BATCH", 100)
    url = (tmp_path / "up").absolute().as_uri() + "/"
    content, writes = store.mount.catalog.content, []
    write = content.write
    list(store.query_keys(odd=True))
    with mounted(tmp_path / "here", url) as other:

        def overtaken(**how: bool) -> Any:
            writes.append(1)
            if len(writes) == 4:
                assert list(other.query_keys(n=1400)) == ["k01400"]
            return write(**how)

        monkeypatch.setattr(content, "write", overtaken)
        assert list(store.query_keys(n=1400)) == ["k01400"]
    assert len(writes) == 4
    monkeypatch.setattr(content, "write", write)
    assert names(store) == ["n", "odd"]
    fields._sweep(content)
    con = content.connection()
    left = con.execute("SELECT slot, count(*) FROM field GROUP BY slot").fetchall()
    assert [count for _, count in left] == [MANY, MANY]


def test_one_who_goes_on_making_what_is_no_more_completes_no_other(
    store: MountedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fields, "_BATCH", 100)
    url = (tmp_path / "up").absolute().as_uri() + "/"
    content, writes = store.mount.catalog.content, []
    write = content.write
    with mounted(tmp_path / "here", url) as other:
        theirs = other.mount.catalog.content

        def overtaken(**how: bool) -> Any:
            writes.append(1)
            if len(writes) == 3:
                # All indexes are given up, and another process begins with one of another name.
                with theirs.write() as con:
                    con.execute("DELETE FROM field_name")
                    con.execute("DELETE FROM field_new")
                monkeypatch.setattr(fields, "_is_wanted", lambda *_: False)
                fields._make(theirs, "odd", ["odd"])  # gives up after its first row
                monkeypatch.setattr(fields, "_is_wanted", wanted)
            return write(**how)

        wanted = fields._is_wanted
        monkeypatch.setattr(content, "write", overtaken)
        list(store.query_keys(n=1400))
    monkeypatch.setattr(content, "write", write)
    assert names(store) == []
    assert list(store.query_keys(odd=True)) == scanned(store, odd=True)


def test_a_store_that_is_read_only_does_without(store: MountedStore, tmp_path: Path) -> None:
    content = store.mount.catalog.content
    before = content.connection().execute("PRAGMA data_version").fetchall()
    content.readonly = True
    assert list(store.query_keys(n=5)) == ["k00005"]
    assert names(store) == []
    assert content.connection().execute("PRAGMA data_version").fetchall() == before


def test_clients_of_a_server_make_none(store: MountedStore) -> None:
    served = ServedMount(store)
    assert [record.key for record in served.records({"n": 5})] == ["k00005"]
    assert names(store) == []
    assert list(store.query_keys(n=5)) == ["k00005"]
    assert [record.key for record in served.records({"n": 5})] == ["k00005"]


def test_a_store_by_itself_has_them_too(tmp_path: Path) -> None:
    with DiskCacheStore(tmp_path / "here", min_free=0) as store:
        with store.transaction("many"):
            for n in range(MANY):
                store.set(f"k{n:05}", (io.BytesIO(b"x"), {"n": n}))
        assert [record.key for record in store.records({"n": 5})] == ["k00005"]
        assert names(store) == []
        assert list(store.query_keys(n=5)) == ["k00005"]
        assert names(store) == ["n"]
        store.set_metadata("k00006", {"n": 5})
        assert list(store.query_keys(n=5)) == ["k00005", "k00006"]


def test_they_outlive_the_process_and_are_whole_to_the_doctor(
    store: MountedStore, tmp_path: Path
) -> None:
    assert list(store.query_keys(n=5)) == ["k00005"]
    store.disconnect()
    (tmp_path / "mountcache.toml").write_text(
        f'url = "{(tmp_path / "up").absolute().as_uri()}/"\nlayout = "static"\n'
        'data_path = "/"\ndir = "here"\n'
    )
    shell = Inside(tmp_path)
    assert shell("query", "n:=6").text == "k00006\n"
    assert shell("doctor").code == 0
    with closing(sqlite3.connect(tmp_path / "here" / "cache.db")) as con:
        assert con.execute("SELECT slot FROM field_name").fetchall() == [(1,)]


_ACTS = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "revert", "poll", "ask", "ask", "two"]),
        st.integers(0, 9),
        st.sampled_from([0, 1, True, None, "1"]),
    ),
    max_size=30,
)


@pytest.mark.usefixtures("soon")
@settings(max_examples=60, deadline=None)
@given(acts=_ACTS)
def test_they_change_no_answer(acts: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    upstream = MemoryStore()
    for n in range(6):
        upstream.set(f"k{n}", StringValue(b"x", {"v": n % 3, "w": n}))
    with MountedStore("", MemoryStore(), upstream) as store:
        list(store.query_keys(v=0))
        for act, number, value in acts:
            key = f"k{number}"
            try:
                if act == "set":
                    store.set(key, StringValue(b"y", {"v": value, "w": number}))
                elif act == "delete":
                    store.delete(key)
                elif act == "revert":
                    store.revert(key)
                elif act == "poll":
                    upstream.set(key, StringValue(b"z", {"v": value}))
                    store.update_index()
            except KeyError:
                pass
            where = {"v": value, "w": number} if act == "two" else {"v": value}
            assert list(store.query_keys(**where)) == scanned(store, **where)
