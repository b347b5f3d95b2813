"""An index is read a window at a time: what it says doesn't depend on where the windows end."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import unittest.mock
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountcache import MemoryStore, MountedStore, StaticURLStore
from mountcache.backing.index import entries_of_object
from mountcache.errors import IndexUnreadableError
from mountcache.events import StoreDeleteEvent, StoreKeyEvent, StoreSetEvent, StoreUpdateEvent
from mountcache.jsonform import normal_form, spelling
from mountcache.local.rows import VISIBLE_NOW


def entries(text: str, piece: int = 10**9) -> list[tuple[str, str]]:
    stream = io.BytesIO(text.encode())
    read = stream.read
    stream.read = lambda n=-1: read(min(piece, n))  # type: ignore[method-assign,assignment,misc]
    return [(key, meta) for key, meta, *_ in entries_of_object(stream, "it")]


_TEXT = st.text(st.sampled_from('{},:"\\ab é\n[]'), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-9, 9) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.text("ab,}{é", min_size=1, max_size=6), st.dictionaries(_TEXT, _JSON, max_size=4)
    ),
    st.sampled_from([None, 1]),
    st.integers(1, 80),
)
def test_index_is_the_same_however_it_is_cut(
    index: dict[str, Any], indent: int | None, piece: int
) -> None:
    text = json.dumps(index, indent=indent, ensure_ascii=False)
    expected = [(key, spelling(metadata)) for key, metadata in index.items()]
    with unittest.mock.patch("mountcache.backing.index._WINDOW", 40):
        assert entries(text, piece) == expected
    assert entries(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{,"a":{}}', "where a key in quotes was expected"),
        ('{"a":{},,"b":{}}', "where a key in quotes was expected"),
        ('{"a":{},"b":5,"c":{}}', "metadata is a dict, not int"),
        ('{"a":{},"b":[{}],"c":{}}', "metadata is a dict, not list"),
        ('{"a":{},"b":{"x":NaN},"c":{}}', "NaN, which isn't JSON"),
        ('{"a":{},"b":{"x":1e999},"c":{}}', "b"),
        ('{"a":{},"b":{"x":"\\ud800"},"c":{}}', "b"),
        ('{"a":{},"b":{} "c":{},"d":{}}', "after the key 'b'"),
        ('{"a":{},"b":{},"c":{}', "it ends after the key 'c'"),
        ('{"a":{},"b":{},}', "where a key in quotes was expected"),
        ('{"a":{},"b":{}}}', "after its end"),
    ],
)
def test_index_that_is_broken_between_entries_is_told_of(text: str, said: str) -> None:
    with pytest.raises(IndexUnreadableError, match=re.escape(said)):
        entries(text)


def test_key_that_an_index_names_twice_in_a_window_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"a":{"n":1},"a":{"n":2},"b":{}}')
    url = tmp_path.absolute().as_uri() + "/"
    store = MountedStore("", MemoryStore(), StaticURLStore(url, "", poll=0))
    with store, pytest.raises(IndexUnreadableError, match="'a' twice"):
        store.update_index()


_SHOWN = f"SELECT u.key FROM upstream u WHERE {VISIBLE_NOW} AND u.present"

_KEYS = st.text("ab,}{é\U0001f600\x7f", min_size=1, max_size=3)
_INDEX = st.dictionaries(_KEYS, st.dictionaries(_TEXT, _JSON, max_size=2), max_size=12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(_INDEX, st.booleans()), min_size=2, max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from([12, 40, 10**6]),
    st.sampled_from(["", "a"]),
)
def test_one_index_after_the_other_shows_what_it_says(
    indexes: list[tuple[dict[str, Any], bool]],
    indent: int | None,
    ascii_only: bool,
    window: int,
    prefix: str,
) -> None:
    """Whatever it was before, in order or not, and however its text is cut and spelled."""
    with (
        tempfile.TemporaryDirectory() as folder,
        unittest.mock.patch("mountcache.backing.index._WINDOW", window),
        unittest.mock.patch("mountcache.local.listing._BATCH", 3),
        unittest.mock.patch("mountcache.local.listing.PAGE", 2),
        # A list that loses more than half of its keys isn't believed at once.
        unittest.mock.patch("mountcache.local.listing._LOSS_BELIEVED", 10**6),
    ):
        file = Path(folder) / "index.json"
        backing = StaticURLStore(Path(folder).absolute().as_uri() + "/", "", poll=0)
        with MountedStore(prefix, MemoryStore(), backing) as store:
            before: dict[str, Any] | None = None
            heard: list[tuple[type[StoreKeyEvent], str]] = []
            store.event_manager.connect(
                StoreKeyEvent, lambda event: heard.append((type(event), event.key))
            )
            for turn, (index, ordered) in enumerate(indexes):
                items = sorted(index.items()) if ordered else list(index.items())
                text = json.dumps(dict(items), indent=indent, ensure_ascii=ascii_only)
                file.write_text(text, encoding="utf-8")
                os.utime(file, (10**9 + turn, 10**9 + turn))
                store.update_index()
                ours = {
                    key: metadata
                    for key, metadata in index.items()
                    # No URL names those with a control character.
                    if key.startswith(prefix) and key != prefix and "\x7f" not in key
                }
                view = store.with_options(offline="always", partial=True).query()
                assert {key: found for key, found in view if key in ours} == ours
                assert len(list(store.mount.catalog.content.connection().execute(_SHOWN))) == len(
                    ours
                )
                if before is not None:
                    assert sorted(heard, key=str) == sorted(_events(before, ours), key=str)
                heard.clear()
                before = ours


def _events(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[type[StoreKeyEvent], str]]:
    deleted = [(StoreDeleteEvent, key) for key in before.keys() - now.keys()]
    new = [(StoreSetEvent, key) for key in now.keys() - before.keys()]
    changed = [
        (StoreUpdateEvent, key)
        for key in now.keys() & before.keys()
        if normal_form(now[key]) != normal_form(before[key])
    ]
    return [*deleted, *new, *changed]


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["b", "c", "a", "b"], ["c", "b", "a", "a"]])
@pytest.mark.parametrize("batch", [1, 2, 10**6])
@pytest.mark.parametrize("known", [True, False])
def test_key_that_an_index_names_twice_is_told_of_wherever(
    tmp_path: Path, keys: list[str], batch: int, known: bool
) -> None:
    file = tmp_path / "index.json"
    backing = StaticURLStore(tmp_path.absolute().as_uri() + "/", "", poll=0)
    twice = next(key for number, key in enumerate(keys) if key in keys[:number])
    with (
        unittest.mock.patch("mountcache.backing.index._WINDOW", 8),
        unittest.mock.patch("mountcache.local.listing._BATCH", batch),
        MountedStore("", MemoryStore(), backing) as store,
    ):
        if known:
            file.write_text('{"a":{},"b":{},"z":{}}')
            os.utime(file, (10**9, 10**9))
            store.update_index()
        members = ",".join(f'"{key}":{{}}' for key in keys)
        file.write_text(f"{{{members}}}")
        with pytest.raises(IndexUnreadableError, match=f"{twice!r} twice"):
            store.update_index()
        if known:
            shown = store.with_options(offline="always").query_keys()
            assert sorted(shown) == ["a", "b", "z"]
