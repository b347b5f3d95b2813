"""Which strings are keys, and how a key becomes part of a URL."""

from __future__ import annotations

import unicodedata
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcache.errors import InvalidKeyError, StoreError
from mountcache.keys import MAX_KEY_BYTES, check_http_key, check_key, quote_key

letters = st.characters(exclude_categories=("Cs", "Cc"))
keys = st.text(letters, min_size=1, max_size=60)


@given(keys)
def test_any_text_without_control_characters_is_a_key_and_stays_as_it_is(key: str) -> None:
    assert check_key(key) == key


@given(keys)
def test_key_that_can_be_a_url_comes_back_from_it(key: str) -> None:
    try:
        path = quote_key(key)
    except InvalidKeyError:
        assert {"", ".", ".."} & set(key.split("/"))
        return
    assert path.isascii()
    assert unquote(path) == key
    split = urlsplit(f"http://host/data/{path}")
    assert split.path == f"/data/{path}"
    assert (split.query, split.fragment) == ("", "")


@given(keys, keys)
def test_two_keys_are_two_urls(left: str, right: str) -> None:
    try:
        paths = quote_key(left), quote_key(right)
    except InvalidKeyError:
        return
    assert (paths[0] == paths[1]) == (left == right)


def test_unicode_spellings_of_one_word_are_two_keys() -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert check_key(composed) != check_key(decomposed)
    assert quote_key(composed) == "caf%C3%A9"
    assert quote_key(decomposed) == "cafe%CC%81"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a/b", "a/b"),
        ("a%2Fb", "a%252Fb"),
        ("a?b", "a%3Fb"),
        ("a#b", "a%23b"),
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("a;b=c", "a;b=c"),
        ("a\\b", "a%5Cb"),
        ("a[b]", "a%5Bb%5D"),
        ("~a", "~a"),
        ("a...b/...", "a...b/..."),
        ("\N{SNOWMAN}", "%E2%98%83"),
    ],
)
def test_url_of_a_key(key: str, path: str) -> None:
    assert quote_key(key) == path


def test_longest_key_is_4096_bytes() -> None:
    assert MAX_KEY_BYTES == 4096
    assert check_key("k" * 4096)
    assert check_key("\u00e9" * 2048)
    with pytest.raises(InvalidKeyError, match=r"is 4,097 bytes long; the limit is 4,096"):
        check_key("k" * 4097)
    with pytest.raises(InvalidKeyError, match=r"is 4,098 bytes long"):
        check_key("\u00e9" * 2049)


def test_message_about_a_long_key_stays_short() -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check_key("k" * 1_000_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "at least one character; this one is empty"),
        ("a\x00b", r"control character '\\x00'"),
        ("a\nb", r"control character '\\n'"),
        ("a\x7fb", r"control character '\\x7f'"),
        ("a\x85b", r"control character '\\x85'"),
        ("a\ud800b", "half of a surrogate pair"),
        (b"bytes", "a key is a str, not bytes"),
        (None, "a key is a str, not NoneType"),
        (3, "a key is a str, not int"),
    ],
)
def test_what_is_no_key_is_refused_in_one_sentence(key: Any, message: str) -> None:
    for check in (check_key, check_http_key, quote_key):
        with pytest.raises(InvalidKeyError, match=message) as caught:
            check(key)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, StoreError)


@pytest.mark.parametrize(
    ("key", "segment"),
    [
        ("..", r"'\.\.'"),
        (".", r"'\.'"),
        ("a/../b", r"'\.\.'"),
        ("./a", r"'\.'"),
        ("a/.", r"'\.'"),
        ("a//b", "an empty"),
        ("/a", "an empty"),
        ("a/", "an empty"),
        ("/", "an empty"),
    ],
)
def test_segments_that_web_servers_fold_away_are_refused_for_http_alone(
    key: str, segment: str
) -> None:
    assert check_key(key) == key
    for check in (check_http_key, quote_key):
        with pytest.raises(InvalidKeyError, match=f"has {segment} path segment"):
            check(key)
