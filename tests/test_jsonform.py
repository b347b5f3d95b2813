"""What metadata may be, and that all spellings of it have one normal form."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountcache.errors import InvalidMetadataError, StoreError
from mountcache.jsonform import content_version, normal_form, normal_value, parse, spelling

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(text, inner, max_size=4)
    ),
    max_leaves=12,
)
metadatas = st.dictionaries(text, values, max_size=5)


def shuffled(value: Any, random_: random.Random) -> Any:
    """Return the same dicts with their names in another order."""
    if isinstance(value, dict):
        names = list(value)
        random_.shuffle(names)
        return {name: shuffled(value[name], random_) for name in names}
    if isinstance(value, (list, tuple)):
        return [shuffled(each, random_) for each in value]
    return value


def same(left: Any, right: Any) -> bool:
    """Return whether two values are one to a query: an independent statement of the rule."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right and (type(left) is type(right) or abs(left) <= 2**53)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_lists(each) for name, each in value.items()}
    return [as_lists(each) for each in value] if isinstance(value, (list, tuple)) else value


@given(metadatas)
def test_spelling_gives_back_what_was_set(metadata: dict[str, Any]) -> None:
    back = parse(spelling(metadata))
    assert repr(back) == repr(as_lists(metadata))


@given(metadatas)
def test_spelling_is_idempotent_utf8_json(metadata: dict[str, Any]) -> None:
    once = spelling(metadata)
    once.encode()
    assert spelling(parse(once)) == once


@given(metadatas)
def test_normal_form_is_idempotent(metadata: dict[str, Any]) -> None:
    once = normal_form(metadata)
    assert normal_form(parse(once)) == once
    assert normal_form(parse(spelling(metadata))) == once


@given(metadatas, st.randoms(use_true_random=False))
def test_normal_form_knows_no_order_of_names(
    metadata: dict[str, Any], random_: random.Random
) -> None:
    assert normal_form(shuffled(metadata, random_)) == normal_form(metadata)


@given(metadatas)
def test_normal_form_is_json_that_says_the_same(metadata: dict[str, Any]) -> None:
    assert same(json.loads(normal_form(metadata)), as_lists(metadata))


@given(values, values)
def test_normal_values_are_equal_exactly_when_the_values_are(left: Any, right: Any) -> None:
    assert (normal_value(left) == normal_value(right)) == same(left, right)


@given(values)
def test_normal_value_is_the_part_of_the_normal_form(value: Any) -> None:
    assert normal_form({"x": value}) == f'{{"x":{normal_value(value)}}}'


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (2.0, 2),
        (-0.0, 0),
        (float(2**53), 2**53),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"c": 1.0, "d": 2}}, OrderedDict(a={"d": 2, "c": 1})),
        ("\u00e9", "é"),
    ],
)
def test_values_that_are_one(left: Any, right: Any) -> None:
    assert normal_value(left) == normal_value(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (True, 1),
        (False, 0),
        (None, False),
        (None, "null"),
        (["a"], '["a"]'),
        (["a"], "a"),
        ({}, []),
        ({"a": None}, {}),
        (1, "1"),
        (1.5, 1),
        (2.0**60, 2**60),
        ("\u00e9", "e\u0301"),
        ("a", "A"),
        ([1, 2], [2, 1]),
    ],
)
def test_values_that_are_two(left: Any, right: Any) -> None:
    assert normal_value(left) != normal_value(right)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "metadata is a dict, not NoneType"),
        ([("a", 1)], "metadata is a dict, not list"),
        ("{}", "metadata is a dict, not str"),
        (b"{}", "metadata is a dict, not bytes"),
        (3, "metadata is a dict, not int"),
        ({"a": math.nan}, r"metadata\['a'\] is nan, which JSON can't express"),
        ({"a": [1, math.inf]}, r"metadata\['a'\]\[1\] is inf, which JSON can't express"),
        ({"a": -math.inf}, "is -inf"),
        ({"a": b"x"}, r"metadata\['a'\] is of type bytes, which JSON can't express"),
        ({"a": {1, 2}}, "is of type set"),
        ({"a": 1j}, "is of type complex"),
        ({"a": object}, "is of type type"),
        ({"a": {"b": [{"c": b""}]}}, r"metadata\['a'\]\['b'\]\[0\]\['c'\] is of type bytes"),
        ({1: "a"}, "metadata has the name 1; names are str, not int"),
        ({"a": {None: 1}}, r"metadata\['a'\] has the name None; names are str, not NoneType"),
        ({True: 1}, "names are str, not bool"),
        ({b"a": 1}, "names are str, not bytes"),
        ({"a": 2**63}, "which 64 bits can't hold"),
        ({"a": -(2**63) - 1}, "which 64 bits can't hold"),
        ({"a": "\ud800"}, r"metadata\['a'\] has half of a surrogate pair"),
        ({"\udfff": 1}, "a name in metadata has half of a surrogate pair"),
    ],
)
def test_what_is_no_metadata_is_refused_in_one_sentence(metadata: Any, message: str) -> None:
    with pytest.raises(InvalidMetadataError, match=message) as caught:
        spelling(metadata)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, StoreError)


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"a": value}


def test_nesting_is_limited_rather_than_running_out_of_stack() -> None:
    assert parse(spelling(nested(99))) == nested(99)
    for depth in (101, 100_000):
        with pytest.raises(InvalidMetadataError, match="nested more than 100 levels"):
            spelling(nested(depth))


def test_metadata_that_contains_itself_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    with pytest.raises(InvalidMetadataError, match="nested more than 100 levels"):
        spelling(circle)


@pytest.mark.parametrize("value", [math.nan, b"x", "\ud800", 2**64, {1: 2}])
def test_query_for_what_no_metadata_can_be_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMetadataError, match="a value in a query"):
        normal_value(value)


class TestContentVersion:
    EMPTY = hashlib.sha256(b"").hexdigest()

    def test_is_the_sha256_over_the_digest_and_the_normal_form(self) -> None:
        expected = hashlib.sha256(bytes.fromhex(self.EMPTY) + b'{"a":2,"b":"x"}').hexdigest()
        assert content_version(self.EMPTY, {"b": "x", "a": 2.0}) == expected

    @given(metadatas, metadatas)
    def test_differs_exactly_when_the_metadata_does(
        self, left: dict[str, Any], right: dict[str, Any]
    ) -> None:
        versions = content_version(self.EMPTY, left), content_version(self.EMPTY, right)
        assert (versions[0] == versions[1]) == (normal_form(left) == normal_form(right))

    def test_differs_when_the_data_does(self) -> None:
        other = hashlib.sha256(b"x").hexdigest()
        assert content_version(self.EMPTY, {}) != content_version(other, {})

    @pytest.mark.parametrize("name", ["", '"etag"', "not hex", "ab", "\u00e9"])
    def test_any_other_name_of_the_data_will_do(self, name: str) -> None:
        version = content_version(name, {"a": 1})
        assert len(version) == 64
        assert version == content_version(name, {"a": 1})
        assert version != content_version(name + "x", {"a": 1})
