"""What must be true of a store after a life ended."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mountcache import sync
from mountcache.errors import StoreUnavailableError
from mountcache.local.doctor import examine
from mountcache.local.records import Edit as Row
from mountcache.mounted import MountedStore
from tests.crash import invariants
from tests.crash.life import KEYS, Plan, mounted
from tests.crash.model import Call, Model, RefusedError, is_whole
from tests.crash.nursery import Ended
from tests.crash.upstream import Upstream

__all__ = ["Heard", "hear", "history", "judge", "judge_staged", "staged"]


@dataclass
class Heard:
    """What a life said, against what it had to say."""

    model: Model
    """After all that it acknowledged."""
    hand: Call | None = None
    """The call that it was at when it was killed."""


def hear(model: Model, ended: Ended, unsettled: set[str]) -> Heard:
    """Follow the calls of a life; AssertionError if one gave what it shouldn't.

    Parameters
    ----------
    unsettled
        Keys whose push was killed, and may have arrived: a revert finds nothing then.
    """
    return history(model, ended, unsettled)[-1]


def history(model: Model, ended: Ended, unsettled: set[str] | None = None) -> list[Heard]:
    """Return what a life said, call by call; the last one is as `hear` returns."""
    assert not ended.failure, ended.failure
    unsettled = set() if unsettled is None else unsettled
    hand: Call | None = None
    heard = []
    for words in ended.said:
        match words:
            case ["begin", call]:
                hand = call
                heard.append(Heard(model, hand))
            case ["done", given]:
                assert hand is not None
                try:
                    model = _acknowledged(model, hand, given, unsettled)
                except RefusedError as error:
                    raise AssertionError(f"{hand} gave {given}, and not {error}") from None
                hand = None
            case ["raised", name, *more]:
                assert hand is not None
                model = _raised(model, hand, name, more, unsettled)
                hand = None
    return [*heard, Heard(model, hand)]


def _acknowledged(model: Model, call: Call, given: Any, unsettled: set[str]) -> Model:
    if call["do"] in ("push", "push_all"):
        unsettled -= {call["key"]} if call["do"] == "push" else set(KEYS)
    if call["do"] == "push_all":
        bad = [each for each in given if each[1] not in ("pushed", "already there")]
        assert not bad, (call, given)
    if call["do"] in ("push", "revert") and not model.knows(call["key"]):
        return model  # a whiteout that hides nothing may be there, for an op that never arrived
    shown = model.shown(call)
    assert shown is None or shown == given, (call, shown, given)
    return model.after(call)


def _raised(model: Model, call: Call, name: str, more: list[str], unsettled: set[str]) -> Model:
    if call["do"] == "drop":
        assert name in ("KeyError", "StoreError"), (call, name, more)
        return model
    if call["do"] == "revert" and call["key"] in unsettled and name == "KeyError":
        # The push had arrived, as it turned out.
        unsettled.discard(call["key"])
        return model.with_edit(call["key"], None)
    if name == "StoreUnavailableError" and "make room first" in more[0]:
        # Copies that edits are based on stay, and fill the room for a large value to be moved.
        assert '"mv"' in json.dumps(call), (call, more)
        return model
    if name == "ConflictError" and "were dropped here meanwhile" in more[0]:
        # What else the transaction fetched took the room of a copy that it moves.
        assert call["do"] == "transaction", (call, more)
        return model
    assert _refusal(model, call) == name, (call, name, more)
    return model


def _refusal(model: Model, call: Call) -> str:
    try:
        model.after(call)
    except RefusedError as error:
        return str(error)
    return ""


def candidates(heard: Heard) -> list[Model]:
    """Return what may be there once a life was killed; a push is left out."""
    found = [heard.model]
    if heard.hand is not None:
        with suppress(RefusedError):
            found.append(heard.model.after(heard.hand))
    return found


def _staged(store: MountedStore) -> dict[str, Row]:
    return {edit.key: edit for edit in store.mount.catalog.edits()}


def _is_staged(row: Row | None, model: Model, key: str) -> bool:
    """Return whether what is staged for a key is what the model says."""
    edit = model.edits.get(key)
    if row is None:
        return edit is None
    if row.kind == "del":
        # Of a key that isn't upstream a whiteout hides nothing, and may or may not be there.
        return model.view(key) is None
    if edit is None or edit.value is None:
        return False
    if (row.kind == "meta") != edit.metadata_only:
        return False
    same = json.loads(row.meta) == json.loads(edit.value.meta)
    return same and (row.kind == "meta" or row.sha256 == edit.value.sha)


def _difference(rows: Mapping[str, Row], model: Model) -> list[str]:
    return [
        f"{key}: staged is {rows.get(key)}, and was {model.edits.get(key)}"
        for key in KEYS
        if not _is_staged(rows.get(key), model, key)
    ]


def settle(store: MountedStore, heard: Heard, upstream: Upstream, prefix: str) -> Model:
    """Find out which of the states that may be there is there; AssertionError if none."""
    rows = _staged(store)
    hand, model = heard.hand, heard.model
    if hand is not None and hand["do"] in ("push", "push_all"):
        keys = [hand["key"]] if hand["do"] == "push" else list(model.edits)
        for key in keys:
            model = _after_a_push(model, key, rows.get(key), upstream.changes(prefix + key))
        heard = Heard(model)
    differences = []
    for each in candidates(heard):
        if not (difference := _difference(rows, each)):
            return each
        differences.append(difference)
    raise AssertionError(f"{hand} is neither undone nor done: {differences}")


def _after_a_push(
    model: Model, key: str, row: Row | None, changes: tuple[str | None, ...]
) -> Model:
    """Return the model once it is known whether upstream has what was being sent."""
    if key not in model.edits:
        return model
    sent = model.sent(key, acknowledged=False)
    if not model.explains(key, changes):
        assert sent.explains(key, changes), f"{key} was sent twice"
        model = sent
    # What isn't staged any more has to be there.
    if row is None and sent.explains(key, changes):
        return model.sent(key)
    return model


def judge(
    plan: Plan, heard: Heard, upstream: Upstream, *, push: bool, torn_copies: bool = False
) -> Model:
    """Open what a life left, and check all that is promised; return what is there."""
    prefix = plan.prefix
    with _opened(plan) as store:
        catalog = store.mount.catalog
        model = settle(store, heard, upstream, prefix)
        catalog.content.gc()
        invariants.check(catalog, torn_copies=torn_copies)
        _check_reads(store, model, prefix)
        for key in KEYS:
            assert model.explains(key, upstream.changes(prefix + key)), key
        if push:
            report = sync.push(store, workers=2, max_delete=len(KEYS))
            assert report.ok, report
            assert _staged(store) == {}
            assert not catalog.ops()
            model = model.after({"do": "push_all"})
            for key in KEYS:
                came = upstream.changes(prefix + key)
                assert model.explains(key, came), (key, came, model.changes.get(key))
            there = {key: value.version for key, value in model.upstream.items()}
            assert upstream.held(prefix) == there
            _check_reads(store, model, prefix)
            invariants.check(catalog, torn_copies=torn_copies)
    _check_with_doctor(plan, torn_copies=torn_copies)
    return model


def _check_with_doctor(plan: Plan, *, torn_copies: bool) -> None:
    """Let `doctor` find nothing in a store that is closed."""
    harmless = {"copied bytes"} if torn_copies else set()
    found = [each for each in examine(plan.directory) if each.severity != "note"]
    wrong = [each for each in found if each.kind not in harmless]
    assert wrong == [], wrong


def judge_staged(plan: Plan, lived: Sequence[Heard], upstream: Upstream) -> None:
    """Open what a power cut left of a store that may lose its last moments.

    What is staged is what was staged once, whole, and nothing of it is torn. A push overwrites
    nothing that was pushed since.
    """
    with _opened(plan) as store:
        catalog = store.mount.catalog
        catalog.content.gc()
        invariants.check(catalog, torn_copies=True)
        rows = _staged(store)
        may_be = [model for heard in lived for model in _states(heard)]
        assert any(not _difference(rows, model) for model in may_be), rows
        offline = store.with_options(offline="always")
        for key, row in rows.items():
            if row.kind == "put":
                assert _sha(offline.get(plan.prefix + key)) == row.sha256
        before = upstream.held(plan.prefix)
        report = sync.push(store, workers=1, max_delete=len(KEYS))
        assert {each.outcome for each in report.results} <= {"conflict", "skipped", *DONE}, report
        for key, row in rows.items():
            came = upstream.changes(plan.prefix + key)
            was, now = before.get(key), upstream.held(plan.prefix).get(key)
            assert len(came) <= 1, f"{key} was sent twice"
            if came:
                assert row.base.kind == "op" or was == row.base.version, f"{key} was overwritten"
            elif key not in _staged(store):
                assert now == (None if row.kind == "del" else row.version), f"{key} is lost"


DONE = frozenset({"pushed", "already there"})


def staged(plan: Plan) -> set[str]:
    """Open a store, and return the keys for which something is staged."""
    with _opened(plan) as store:
        return set(_staged(store))


def _states(heard: Heard) -> list[Model]:
    """Return what may be staged in the middle of a call, pushes not left out."""
    if heard.hand is None or heard.hand["do"] not in ("push", "push_all"):
        return candidates(heard)
    keys = [heard.hand["key"]] if heard.hand["do"] == "push" else sorted(heard.model.edits)
    keys = [key for key in keys if key in heard.model.edits]
    chosen = itertools.chain.from_iterable(
        itertools.combinations(keys, count) for count in range(len(keys) + 1)
    )
    found = []
    for some in chosen:
        model = heard.model
        for key in some:
            model = model.sent(key)
        found.append(model)
    return found


@contextmanager
def _opened(plan: Plan) -> Iterator[MountedStore]:
    store = mounted(plan)
    store.connect()
    try:
        yield store
    finally:
        store.disconnect()


def _check_reads(store: MountedStore, model: Model, prefix: str) -> None:
    """Check what a read of each key gives, first without upstream."""
    offline = store.with_options(offline="always")
    for key in KEYS:
        edit = model.edits.get(key)
        if edit is not None and not edit.metadata_only and edit.value is not None:
            value = offline.get(prefix + key)
            assert [_sha(value), value.metadata] == edit.value.shown, key
        else:
            # Perhaps an older one than upstream's, and perhaps none.
            with suppress(KeyError, StoreUnavailableError), offline.get(prefix + key).data as data:
                assert is_whole(data.read()), f"{key} is torn"
    for key in KEYS:
        expected = model.view(key)
        try:
            value = store.get(prefix + key)
            shown = [_sha(value), value.metadata]
        except KeyError:
            shown = None
        assert shown == (None if expected is None else expected.shown), key


def _sha(value: Any) -> str:
    with value.data as data:
        return hashlib.sha256(data.read()).hexdigest()
