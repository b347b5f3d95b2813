"""An index is read a window at a time: what it says doesn't depend on where the windows end."""

from __future__ import annotations

import io
import json
import re
import unittest.mock
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcache import MemoryStore, MountedStore, StaticURLStore
from mountcache.backing.index import entries_of_object
from mountcache.errors import IndexUnreadableError
from mountcache.jsonform import spelling


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
