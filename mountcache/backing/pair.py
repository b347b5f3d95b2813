"""Keys whose data and metadata are two resources, as any REST server but ours has them.

The version of such a key is the pair of both entity tags, if both are strong: one string, data's
first. Each request carries its half. A key is fresh if both are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from mountcache.abc import ABSENT, Base, Facts, NotModified, Pushed, Value
from mountcache.backing.freshness import (
    Validators,
    conditions,
    facts_from,
    facts_of_304,
    strong_version,
    validators_from,
)
from mountcache.backing.http import Answer
from mountcache.backing.resource import Data, RemoteValue, ask_again
from mountcache.backing.wire import parse_object
from mountcache.backing.writing import json_payload, opened, send
from mountcache.errors import StoreError
from mountcache.jsonform import METADATA_LIMIT, normal_form

__all__ = ["KeyMetadata", "Pairs"]

_TRIES: Final = 4
_NONE: Final = "-"
"""Stands for the tag of metadata that isn't there."""


class KeyMetadata:
    """The metadata of a key at one moment."""

    def __init__(self, metadata: dict[str, Any], headers: Mapping[str, str] | None) -> None:
        self.metadata = metadata
        self.validators = Validators() if headers is None else validators_from(headers)
        self.version = _NONE if headers is None else strong_version(headers)
        self.headers = headers

    def agrees(self, other: KeyMetadata) -> bool:
        """Whether it is the same as at another moment, as far as can be told."""
        if self.version is not None and other.version is not None:
            return self.version == other.version
        return normal_form(self.metadata) == normal_form(other.metadata)


class Pairs:
    """Reads and writes keys that are two resources.

    Parameters
    ----------
    data
        The data of keys.
    metadata_url
        Gives the URL of a key's metadata.
    key_url
        Gives the URL of a key, for DELETE.
    """

    def __init__(
        self, data: Data, metadata_url: Callable[[str], str], key_url: Callable[[str], str]
    ) -> None:
        self._data = data
        self._metadata_url = metadata_url
        self._key_url = key_url

    # -- reading ---------------------------------------------------------------------------

    def get(self, key: str, headers: Mapping[str, str]) -> Value:
        """Return the value of a key whose data answered HEAD with `headers`."""
        for _ in range(_TRIES):
            found = self._metadata(key)
            again = self._data.head(key)
            if _tags(again) == _tags(headers):
                return self._value(key, headers, found, None)
            headers = again
        raise self._data.changed(key)

    def fetch(self, key: str) -> Value:
        """Return the value of a key, its download begun.

        Metadata, data and metadata are asked for in this order until they agree.
        """
        before = self._metadata(key)
        for _ in range(_TRIES):
            answer = self._data.ask("GET", key)
            try:
                after = self._metadata(key)
            except BaseException:
                answer.body.close()
                raise
            if before.agrees(after):
                return self._value(key, answer.headers, after, answer)
            answer.body.close()
            before = after
        raise self._data.changed(key)

    def _metadata(self, key: str) -> KeyMetadata:
        try:
            answer = self._data.ask("GET", key, url=self._metadata_url(key))
        except KeyError:
            # The data tells whether the key is there.
            return KeyMetadata({}, None)
        metadata = parse_object(answer.read(METADATA_LIMIT), f"the metadata of {key!r}")
        return KeyMetadata(metadata, answer.headers)

    def _value(
        self, key: str, headers: Mapping[str, str], found: KeyMetadata, answer: Answer | None
    ) -> Value:
        def facts_of(headers: Mapping[str, str]) -> Facts:
            facts = self._data.facts(key, headers)
            version = _joined(facts.version, found.version)
            lifetime = facts.lifetime
            if found.headers is not None:
                other = facts_from(found.headers, now=self._data.clock())
                lifetime = min(lifetime or 0.0, other.lifetime or 0.0) or None
            both = _both(validators_from(headers), found.validators)
            return replace(facts, version=version, validators=both, lifetime=lifetime)

        facts = facts_of(headers)
        return RemoteValue(self._data, key, facts, found.metadata, answer, facts_of)

    @staticmethod
    def are(validators: str) -> bool:
        """Whether validators are those of a pair."""
        return validators.startswith("{")

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        """Return NotModified if both halves still hold, else the value that is there now."""
        halves = json.loads(validators)
        of_data, of_metadata = (Validators.load(halves[name]) for name in ("data", "metadata"))
        if conditions(of_data) and conditions(of_metadata):
            url, metadata_url = self._data.url_of(key), self._metadata_url(key)
            answer = self._still(key, url, of_data)
            if answer.status == 304 and self._still(key, metadata_url, of_metadata).status == 304:
                facts = facts_of_304(answer.headers, now=time.time())
                return NotModified(replace(facts, version=None, validators=""))
        return self.fetch(key)

    def _still(self, key: str, url: str, validators: Validators) -> Answer:
        answer = ask_again(
            lambda headers, accept: self._data.ask(
                "HEAD", key, headers=headers, accept=accept, url=url
            ),
            validators,
        )
        answer.body.close()
        return answer

    # -- writing ---------------------------------------------------------------------------

    def condition(self, base: Base, part: str) -> dict[str, str]:
        """Return the header by which a write of a part is bound to its half of `base`."""
        if base is None:
            return {}
        if base is ABSENT:
            return {"If-None-Match": "*"}
        halves = base.split(" ") if isinstance(base, str) else []
        half = halves[-1 if part == "metadata" else 0]
        return {} if half == _NONE else {"If-Match": f'"{half}"'}

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, parts: frozenset[str]
    ) -> Pushed:
        """See `SupportsConditionalWrite`. The data goes first."""
        answer = None
        if "data" in parts:
            answer = self._send(
                "PUT", self._data.url_of(key), key, base, op_id, self.condition(base, "data"),
                payload=opened(value, key), headers={"Content-Type": "application/octet-stream"},
            )  # fmt: skip
            if "metadata" not in parts:
                return Pushed(None, enforced=False)
        # A server may make empty metadata with the data, or give both one tag: then the
        # condition on the metadata would be refused for the sake of our own write.
        alone = answer is None or (isinstance(base, str) and len(set(base.split(" "))) > 1)
        condition = self.condition(base, "metadata") if alone and base is not ABSENT else {}
        try:
            other = self._put_metadata(key, value.metadata, base, op_id, condition)
        except StoreError as error:
            error.maybe_applied = error.maybe_applied or answer is not None
            raise
        if answer is None:
            return Pushed(None, enforced=False)
        version = _joined(strong_version(answer.headers), strong_version(other.headers))
        if version is None:
            return Pushed(None, enforced=False)
        both = _both(validators_from(answer.headers), validators_from(other.headers))
        return Pushed(version, enforced=False, validators=both)

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """See `SupportsConditionalWrite`."""
        self._put_metadata(key, metadata, base, op_id, self.condition(base, "metadata"))
        return Pushed(None, enforced=False)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """See `SupportsConditionalWrite`."""
        condition = {} if base is ABSENT else self.condition(base, "data")
        self._send("DELETE", self._key_url(key), key, base, op_id, condition)
        return Pushed(None, enforced=False)

    def _put_metadata(
        self,
        key: str,
        metadata: Mapping[str, Any],
        base: Base,
        op_id: str,
        condition: Mapping[str, str],
    ) -> Answer:
        return self._send(
            "PUT", self._metadata_url(key), key, base, op_id, condition,
            payload=json_payload(metadata), headers={"Content-Type": "application/json"},
        )  # fmt: skip

    def _send(
        self,
        method: str,
        url: str,
        key: str,
        base: Base,
        op_id: str,
        condition: Mapping[str, str],
        **others: Any,
    ) -> Answer:
        headers = {"Idempotency-Key": op_id, **others.pop("headers", {})}
        return send(
            self._data.transport, method, url, key, base, condition=condition, headers=headers,
            **others,
        )  # fmt: skip


def _both(data: Validators, metadata: Validators) -> str:
    return json.dumps({"data": data.dump(), "metadata": metadata.dump()})


def _tags(headers: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length"))


def _joined(data: str | None, metadata: str | None) -> str | None:
    return None if data is None or metadata is None else f"{data} {metadata}"
