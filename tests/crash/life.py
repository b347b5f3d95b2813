"""A process that is to be killed: it makes calls on a mounted store and says which.

On the pipe, one JSON array a line: ``["point", KIND]`` before each point, ``["begin", CALL]``
before a call, ``["done", WHAT IT GAVE]`` or ``["raised", NAME]`` after it returned.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.errors import ConflictError, StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.crash import points
from tests.crash.model import Call, Held, payload

__all__ = ["BEGUN", "BIG", "KEYS", "LOCAL", "VERBS", "Plan", "calls", "live", "mounted"]

KEYS = ("a", "b", "c", "u0", "u1", "u2", "big")
"""The last four are upstream from the beginning."""

BIG = 2_600_000
"""Bytes of ``big``: three blocks of a partial."""

BEGUN = {f"u{n}": Held(-n - 1, 1000 + 30_000 * n, '{"n": 0}') for n in range(3)}
BEGUN["big"] = Held(-9, BIG, '{"n": 0}')
"""What is upstream from the beginning."""

_LIMIT = 4_000_000
"""Bytes of clean copies: ``big`` and some others, so that there is always eviction."""


@dataclass(frozen=True)
class Plan:
    """What a life is to be."""

    directory: str
    url: str
    prefix: str
    seed: str
    first: int
    """The number of its first value: no other life has it."""
    length: int
    target: points.Target | None
    """Where it is killed."""
    small: bool = False
    """Whether its values are of 100,000 bytes at most."""
    durability: Any = "full"
    workers: int = 1
    """How many threads a push or prefetch has: with several, no two lives are the same."""
    script: Sequence[Call] = ()
    """Its calls, rather than those of its seed."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        plan = cls(**json.loads(text))
        return replace(plan, target=plan.target and points.Target(**cast(Any, plan.target)))


def mounted(plan: Plan) -> MountedStore:
    local = DiskCacheStore(
        plan.directory, size_limit=_LIMIT, min_free=0, durability=plan.durability
    )
    backing = DynamicURLStore(plan.url + "keys", plan.url + "query")
    return MountedStore(plan.prefix, local, backing, author="a life")


def calls(plan: Plan) -> Iterator[Call]:
    """Return the calls of a life, the same ones for the same seed."""
    if plan.script:
        yield from plan.script
        return
    chance = random.Random(plan.seed)
    weights = {**VERBS, **LOCAL}
    if (target := plan.target) is not None:
        leading = [verbs for kind, verbs in _LEADING.items() if kind in target.kind]
        for verb in itertools.chain([target.call] if target.call else [], *leading):
            weights[verb] = 15
    for number in range(plan.first, plan.first + plan.length):
        verb = chance.choices(list(weights), list(weights.values()))[0]
        yield _call(chance, number, verb, small=plan.small)


VERBS = {
    "set": 5, "set_data": 2, "set_metadata": 2, "update_metadata": 2, "delete": 2, "mv": 3,
    "transaction": 3, "get": 4, "range": 3, "push": 3, "push_all": 1, "prefetch": 1,
}  # fmt: skip
"""Calls that may ask upstream, and how often each is made."""

LOCAL = {"revert": 2, "drop": 2, "gc": 1, "reopen": 1, "evict": 1}
"""Those that don't."""

_LEADING = {
    "partial": ("range", "drop", "evict"),
    "unlink val": ("set", "drop", "evict"),
    "ROLLBACK": ("delete", "transaction"),
    "unlink wal": ("reopen",),
    "live": ("reopen",),
}
"""What makes rare points less rare."""

_INSIDE = ("set", "set_data", "update_metadata", "delete", "mv", "get")


def _call(chance: random.Random, number: int, verb: str, *, small: bool = False) -> Call:
    call: Call = {"do": verb}
    if verb in ("gc", "reopen", "prefetch", "evict", "push_all"):
        return call
    if verb == "transaction":
        return call | {
            "calls": _inside(chance, number),
            "fail": chance.random() < 0.2,
            "inner": False,
        }
    call["key"] = chance.choice(KEYS)
    if verb == "mv":
        call["to"] = chance.choice([key for key in KEYS if key != call["key"]])
    if verb in ("set", "set_data"):
        kind = chance.choices(("small", "file", "large"), (6, 4, 0 if small else 0.4))[0]
        low, high = {"small": (32, 5_000), "file": (32_768, 70_000), "large": (1 << 20, 3 << 20)}[
            kind
        ]
        call["size"] = chance.randrange(low, high)
    if verb == "range":
        call["key"] = chance.choice(("big", "big", call["key"]))
        call["start"] = chance.randrange(BIG)
        call["end"] = call["start"] + chance.choice((10, 5_000, 1 << 20))
    call["n"] = number
    return call


def _inside(chance: random.Random, number: int) -> list[Call]:
    made = [
        _call(chance, number * 10 + each, chance.choice(_INSIDE))
        for each in range(chance.randrange(1, 5))
    ]
    if chance.random() < 0.5:
        inner = [
            _call(chance, number * 10 + 5 + each, chance.choice(_INSIDE))
            for each in range(chance.randrange(1, 3))
        ]
        block = {
            "do": "transaction",
            "calls": inner,
            "fail": chance.random() < 0.5,
            "inner": True,
        }
        made.insert(chance.randrange(len(made) + 1), block)
    return made


class LeftError(Exception):
    """Ends a transaction that is to fail."""


class _Life:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._store = mounted(plan)
        self._store.connect()

    def end(self) -> None:
        self._store.disconnect()

    def do(self, call: Call) -> Any:
        """Make a call; return what it gave."""
        verb = call["do"]
        if verb in ("gc", "reopen", "prefetch", "evict", "push_all"):
            return getattr(self, f"_{verb}")()
        if verb == "transaction":
            return self._transaction(call)
        return self._one(self._plan.prefix + call["key"], call)

    def _one(self, key: str, call: Call) -> Any:
        store = self._store
        match call["do"]:
            case "get":
                value = store.get(key)
                with value.data as data:
                    return [hashlib.sha256(data.read()).hexdigest(), value.metadata]
            case "range":
                value = store.get(key)
                with value.range(call["start"], call["end"]) as data:
                    return hashlib.sha256(data.read()).hexdigest()
            case "push":
                return store.push(key).outcome
            case "revert":
                return sorted(store.revert(key))
            case "drop":
                return store.drop(key)
        # An author looks first: what he hasn't seen would be a conflict.
        store.exists(key)
        data = io.BytesIO(payload(call["n"], call.get("size", 0)))
        match call["do"]:
            case "set":
                return store.set(key, (data, {"n": call["n"]}))
            case "set_data":
                return store.set_data(key, data)
            case "set_metadata":
                return store.set_metadata(key, {"n": call["n"]})
            case "update_metadata":
                return store.update_metadata(key, {"u": call["n"]})
            case "delete":
                return store.delete(key)
            case "mv":
                store.exists(self._plan.prefix + call["to"])
                return store.mv(key, self._plan.prefix + call["to"])
        raise ValueError(call["do"])

    def _transaction(self, call: Call) -> None:
        try:
            with self._store.transaction("several"):
                for each in call["calls"]:
                    self.do(each)
                if call["fail"]:
                    raise LeftError
        except LeftError:
            if not call["inner"]:
                raise

    def _push_all(self) -> list[list[str]]:
        report = sync.push(self._store, workers=self._plan.workers, max_delete=len(KEYS))
        return [[each.key, each.outcome, each.message] for each in report.results]

    def _gc(self) -> None:
        catalog = self._store.mount.catalog
        gc: Callable[[], int] = catalog.content.gc
        gc()

    def _reopen(self) -> None:
        self._store.disconnect()
        self._store.connect()

    def _prefetch(self) -> None:
        sync.prefetch(self._store, self._plan.prefix + "u*", workers=self._plan.workers)

    def _evict(self) -> None:
        self._store.mount.catalog._evict(1)


def live(plan: Plan, pipe: int, *, armed: bool = True) -> None:
    """Make the calls of a life, to be killed at its target or at its end.

    Parameters
    ----------
    pipe
        Where it says what it does.
    armed
        Whether it has points.
    """
    write = os.write

    def tell(*words: Any) -> None:
        write(pipe, json.dumps(words).encode() + b"\n")

    met = None
    if armed:
        met = points.install(plan.directory, plan.target, lambda kind: tell("point", kind))
    life = _Life(plan)
    for call in calls(plan):
        tell("begin", call)
        if met is not None:
            met.call = call["do"]
        try:
            given = life.do(call)
        except (StoreError, ConflictError, KeyError, LeftError) as error:
            tell("raised", type(error).__name__, str(error))
        else:
            tell("done", given)
    os.kill(os.getpid(), signal.SIGKILL)
