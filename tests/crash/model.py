"""What may be true of a mounted store after a number of calls: plain data, no I/O.

A call is a dict, as it goes over the pipe. `Model.after` says what it makes of what was there,
or that it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from mountcache.jsonform import content_version

__all__ = [
    "Call",
    "Change",
    "Edit",
    "Held",
    "Model",
    "RefusedError",
    "digest",
    "is_whole",
    "payload",
]

Call = dict[str, Any]


@lru_cache(64)
def payload(number: int, size: int) -> bytes:
    """Return bytes that are no others', and that carry their own digest in front."""
    if size < 32:
        return b""
    body = hashlib.shake_128(str(number).encode()).digest(size - 32)
    return hashlib.sha256(body).digest() + body


def is_whole(data: bytes) -> bool:
    """Return whether bytes are those of a `payload`, all of them and no others."""
    return not data or data[:32] == hashlib.sha256(data[32:]).digest()


@lru_cache(4096)
def digest(number: int, size: int, start: int = 0, end: int | None = None) -> str:
    return hashlib.sha256(payload(number, size)[start:end]).hexdigest()


@dataclass(frozen=True)
class Held:
    """A value: its bytes by what they are made of, and its metadata as JSON."""

    number: int
    size: int
    meta: str

    @property
    def sha(self) -> str:
        return digest(self.number, self.size)

    @property
    def version(self) -> str:
        return content_version(self.sha, json.loads(self.meta))

    @property
    def shown(self) -> list[Any]:
        """What a read of it gives."""
        return [self.sha, json.loads(self.meta)]


@dataclass(frozen=True)
class Edit:
    """What is staged for a key."""

    value: Held | None
    """None: a whiteout."""
    metadata_only: bool = False
    partner: str | None = None
    arrived: bool = False
    """Upstream has applied it, and nobody here knows."""


@dataclass(frozen=True)
class Change:
    """A version that came upstream, None for a delete."""

    version: str | None
    sure: bool
    """False if it is what was there already: such an edit is sent once, or not at all."""


class RefusedError(Exception):
    """A call raises, and nothing is changed; the argument is the name of the error."""


@dataclass(frozen=True)
class Model:
    """What upstream holds, what is staged, and each change that upstream has seen."""

    upstream: Mapping[str, Held] = field(default_factory=dict)
    edits: Mapping[str, Edit] = field(default_factory=dict)
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    """What came of each key."""

    def view(self, key: str) -> Held | None:
        edit = self.edits.get(key)
        return self.upstream.get(key) if edit is None else edit.value

    def __getitem__(self, key: str) -> Held:
        value = self.view(key)
        if value is None:
            raise RefusedError("KeyError")
        return value

    def knows(self, key: str) -> bool:
        """Return whether a key is upstream, or anything is staged for it."""
        return key in self.upstream or key in self.edits

    def with_edit(self, key: str, edit: Edit | None) -> Model:
        edits = {**self.edits, key: edit}
        return replace(self, edits={name: each for name, each in edits.items() if each})

    def explains(self, key: str, came: Sequence[str | None]) -> bool:
        """Return whether the versions that came of a key are those that had to."""
        left = list(came)
        for change in self.changes.get(key, ()):
            if left and left[0] == change.version:
                del left[0]
            elif change.sure:
                return False
        return not left

    # -- calls ---------------------------------------------------------------------------

    def after(self, call: Call) -> Model:
        """Return the model after a call.

        Raises
        ------
        RefusedError
            If the call has to raise.
        """
        verb = str(call["do"])
        method = getattr(self, f"_{verb}", None)
        if method is None:
            return self  # what only reads, or only touches copies
        changed: Model = method(call)
        return changed

    def _set(self, call: Call) -> Model:
        value = Held(call["n"], call["size"], json.dumps({"n": call["n"]}))
        return self.with_edit(call["key"], Edit(value))

    def _set_data(self, call: Call) -> Model:
        before = self.view(call["key"])
        meta = before.meta if before else "{}"
        return self.with_edit(call["key"], Edit(Held(call["n"], call["size"], meta)))

    def _set_metadata(self, call: Call) -> Model:
        return self._describe(call["key"], {"n": call["n"]})

    def _update_metadata(self, call: Call) -> Model:
        before = self.view(call["key"])
        old = json.loads(before.meta) if before else {}
        return self._describe(call["key"], {**old, "u": call["n"]})

    def _describe(self, key: str, metadata: dict[str, Any]) -> Model:
        before, edit = self.view(key), self.edits.get(key)
        only = before is not None and (edit is None or edit.metadata_only)
        value = replace(before or Held(0, 0, ""), meta=json.dumps(metadata))
        return self.with_edit(key, Edit(value, only))

    def _delete(self, call: Call) -> Model:
        self[call["key"]]
        return self._hidden(call["key"], None)

    def _hidden(self, key: str, partner: str | None) -> Model:
        passed = self._pass_on(key, partner)
        return passed.with_edit(key, Edit(None, False, partner) if key in self.upstream else None)

    def _pass_on(self, key: str, partner: str | None) -> Model:
        edits = {
            name: replace(edit, partner=partner) if edit.partner == key else edit
            for name, edit in self.edits.items()
        }
        return replace(self, edits=edits)

    def _mv(self, call: Call) -> Model:
        old, new = call["key"], call["to"]
        if self.view(new) is not None:
            raise RefusedError("ConflictError")
        return self.with_edit(new, Edit(self[old]))._hidden(old, new)

    def _transaction(self, call: Call) -> Model:
        model = self
        for each in call["calls"]:
            model = model.after(each)
        if call["fail"]:
            if call["inner"]:
                return self  # the block that is around it goes on
            raise RefusedError("LeftError")
        return model

    def _get(self, call: Call) -> Model:
        self[call["key"]]
        return self

    _range = _get

    def _push(self, call: Call) -> Model:
        key = call["key"]
        edit = self.edits.get(key)
        if edit is None:
            self[key]
            return self
        waits = self.edits.get(edit.partner or "")
        if waits is not None and waits.value is not None:
            raise RefusedError("StoreError")
        return self.sent(key)

    def _push_all(self, call: Call) -> Model:
        model = self
        for key in sorted(self.edits, key=lambda key: self.edits[key].value is None):
            model = model.sent(key)
        return model

    def sent(self, key: str, *, acknowledged: bool = True) -> Model:
        """Return the model once upstream has applied what is staged for a key."""
        edit, before = self.edits[key], self.upstream.get(key)
        value = edit.value
        if value is not None and edit.metadata_only:
            assert before is not None
            value = replace(before, meta=value.meta)
        upstream, changes = dict(self.upstream), dict(self.changes)
        version = None if value is None else value.version
        if not edit.arrived:
            sure = version != (None if before is None else before.version)
            changes[key] = (*changes.get(key, ()), Change(version, sure))
        if value is None:
            upstream.pop(key, None)
        else:
            upstream[key] = value
        model = replace(self, upstream=upstream, changes=changes)
        if not acknowledged:
            return model.with_edit(key, replace(edit, arrived=True))
        model = model.with_edit(key, None)
        return model if value is None else model._pass_on(key, None)

    def _revert(self, call: Call) -> Model:
        key = call["key"]
        if key not in self.edits:
            raise RefusedError("KeyError")
        gone = {key} | {name for name, edit in self.edits.items() if edit.partner == key}
        return self.without(gone)

    def without(self, gone: Iterable[str]) -> Model:
        gone = set(gone)
        return replace(self, edits={k: edit for k, edit in self.edits.items() if k not in gone})

    # -- what a call shows ---------------------------------------------------------------

    def shown(self, call: Call) -> Any:
        """Return what a call that reads has to give; None if it gives nothing."""
        match call["do"]:
            case "get":
                return self[call["key"]].shown
            case "range":
                value = self[call["key"]]
                return digest(value.number, value.size, call["start"], call["end"])
            case _:
                return None
