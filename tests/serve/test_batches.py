"""Several writes at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from mountcache import StringValue
from mountcache.abc import ABSENT, Pushed
from mountcache.local.memory import MemoryStore
from mountcache.local.store import LocalStore
from mountcache.serve import Origin, batch
from tests.serve.client import JSON, RELATED, Client, Reply, multipart, tag, version

# What HTTP alone decides needs no second store.
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


def _batch(*operations: dict[str, Any], data: tuple[bytes, ...] = ()) -> dict[str, Any]:
    document = json.dumps({"operations": operations}).encode()
    parts = [("application/octet-stream", each) for each in data]
    return {"body": multipart((JSON, document), *parts), "Content_Type": RELATED}


def _post(call: Client, *operations: dict[str, Any], data: tuple[bytes, ...] = ()) -> Reply:
    sent = _batch(*operations, data=data)
    return call("POST", "/batch", sent["body"], Content_Type=sent["Content_Type"])


def test_a_batch_does_all_in_one_commit(call: Client, store: LocalStore) -> None:
    call.put("old", b"old", {"a": 1})
    call.put("gone", b"gone", {})
    call.put("kept", b"kept", {"k": 1})
    reply = _post(
        call,
        {"op": "put", "key": "new", "part": 2, "metadata": {"n": 1}, "if_none_match": True},
        {"op": "put", "key": "kept", "part": 1},
        {"op": "put-metadata", "key": "old", "metadata": {}, "if_match": version(b"old", {"a": 1})},
        {"op": "delete", "key": "gone", "if_match": version(b"gone", {})},
        data=(b"one", b"two"),
    )
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "results": [
            {"key": "new", "version": version(b"two", {"n": 1})},
            {"key": "kept", "version": version(b"one", {"k": 1})},
            {"key": "old", "version": version(b"old", {})},
            {"key": "gone", "version": None},
        ]
    }
    assert call.get("new").body == b"two"
    assert call.get("new").headers["etag"] == tag(b"two", {"n": 1})
    assert call.get("kept").body == b"one"
    assert call.get("gone").status == 404


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ({"op": "put", "key": "k", "part": 2, "metadata": {}, "if_match": "other"}, 412),
        ({"op": "put", "key": "k", "part": 2, "if_none_match": True}, 412),
        ({"op": "delete", "key": "none"}, 404),
        ({"op": "put", "key": "a//b", "part": 2}, 400),
        ({"op": "put", "key": "b", "part": 3}, 400),
        ({"op": "put", "key": "b", "part": 1}, 400),
        ({"op": "put", "key": "b"}, 400),
        ({"op": "put", "key": "new", "part": 2}, 400),
        ({"op": "put", "key": "b", "part": 2, "iff_match": "x"}, 400),
        ({"op": "put", "key": "b", "part": 2, "if_match": "x", "if_none_match": True}, 400),
        ({"op": "put", "key": "b", "part": 2, "metadata": []}, 400),
        ({"op": "put", "key": 7, "part": 2}, 400),
        ({"op": "move", "key": "b"}, 400),
        ({"op": "put-metadata", "key": "b"}, 400),
        ("delete everything", 400),
    ],
)
def test_a_batch_of_which_one_is_refused_does_nothing(call: Client, last: Any, status: int) -> None:
    call.put("k", b"theirs", {})
    reply = _post(
        call,
        {"op": "put", "key": "new", "part": 1, "metadata": {}},
        {"op": "put-metadata", "key": "x", "metadata": {}},
        last,
        data=(b"one", b"two") if isinstance(last, dict) and "part" in last else (b"one",),
    )
    assert reply.status == status
    if status != 400:
        assert (reply.problem["key"], reply.problem["operation"]) == (last["key"], 2)
    if status == 412:
        assert reply.problem["found"] == version(b"theirs", {})
    assert json.loads(call("GET", "/index.json").body) == {"k": {}}


def test_of_batches_over_one_version_exactly_one_wins(call: Client) -> None:
    call.put("a", b"base", {})
    base = version(b"base", {})
    barrier = threading.Barrier(8)

    def post(number: int) -> int:
        barrier.wait()
        data = b"%d" % number
        return _post(
            call,
            {"op": "put", "key": "a", "part": 1, "metadata": {}, "if_match": base},
            {"op": "put", "key": f"b{number}", "part": 2, "metadata": {}},
            data=(data, data),
        ).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(post, range(8)))
    assert sorted(statuses) == [200] + [412] * 7
    assert len(json.loads(call("GET", "/index.json").body)) == 2


@in_memory
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{}", JSON, 400),
        (b'{"operations": []}', JSON, 400),
        (b"[1]", JSON, 400),
        (b"{", JSON, 400),
        (b"", RELATED, 400),
        (b"{}", "multipart/related", 400),
    ],
)
def test_what_is_no_batch_is_refused(call: Client, body: bytes, kind: str, status: int) -> None:
    assert call("POST", "/batch", body, Content_Type=kind).status == status


def test_a_batch_without_data_can_be_plain_json(call: Client) -> None:
    body = '{"operations": [{"op": "put-metadata", "key": "k", "metadata": {"a": 1}}]}'
    assert call("POST", "/batch", body, Content_Type=JSON).status == 200
    assert call("GET", "/keys/k/metadata").body == b'{"a":1}'


def test_a_batch_has_a_limit(call: Client) -> None:
    said = call.raw(
        b"POST /batch HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: 67108865\r\n\r\n"
    )
    assert b" 413 " in said.split(b"\r\n")[0]


def _named(data: bytes = b"one") -> tuple[dict[str, Any], ...]:
    return (
        {"op": "put", "key": "a", "part": 1, "metadata": {}, "if_none_match": True, "id": "id-a"},
        {"op": "put-metadata", "key": "b", "metadata": {"n": 1}, "id": "id-b"},
        {"op": "delete", "key": "c", "if_match": version(b"gone", {}), "id": "id-c"},
    )


def test_a_batch_that_comes_again_is_answered_as_the_first_time(
    call: Client, store: LocalStore
) -> None:
    call.put("c", b"gone", {})
    first = _post(call, *_named(), data=(b"one",))
    assert first.status == 200
    assert "idempotency-replayed" not in first.headers
    call.put("a", b"others", {})
    call.put("c", b"others", {})
    again = _post(call, *_named(), data=(b"one",))
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert call.get("a").body == call.get("c").body == b"others"


def test_a_write_of_a_batch_is_known_when_it_comes_again_alone(call: Client) -> None:
    call.put("c", b"gone", {})
    _post(call, *_named(), data=(b"one",))
    call.put("a", b"others", {})
    call.put("c", b"others", {})
    put = call.put("a", b"one", {}, Idempotency_Key="id-a", If_None_Match="*")
    meta = call("PUT", "/keys/b/metadata", b'{"n": 1}', Content_Type=JSON, Idempotency_Key="id-b")
    gone = call("DELETE", "/keys/c", Idempotency_Key="id-c")
    for reply in (put, meta, gone):
        assert reply.headers["idempotency-replayed"] == "true"
    assert call.get("a").body == call.get("c").body == b"others"


def test_of_a_batch_that_is_refused_nothing_is_remembered(call: Client) -> None:
    refused = _post(
        call,
        {"op": "put", "key": "a", "part": 1, "metadata": {}, "id": "id-a"},
        {"op": "delete", "key": "c", "if_match": "other", "id": "id-c"},
        data=(b"one",),
    )
    assert refused.status in (404, 412)
    put = call.put("a", b"one", {}, Idempotency_Key="id-a")
    assert put.status == 201
    assert "idempotency-replayed" not in put.headers


def test_what_of_a_batch_was_applied_before_is_left_alone(call: Client) -> None:
    call.put("a", b"one", {}, Idempotency_Key="id-a")
    call.put("a", b"others", {})
    call.put("c", b"gone", {})
    assert _post(call, *_named(), data=(b"one",)).status == 200
    assert call.get("a").body == b"others"
    assert call.get("b").status == 200
    assert call.get("c").status == 404


def test_many_repeats_at_once_are_applied_once(call: Client) -> None:
    call.put("c", b"gone", {})
    barrier = threading.Barrier(8)

    def post(_: int) -> Reply:
        barrier.wait()
        return _post(call, *_named(), data=(b"one",))

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(post, range(8)))
    assert {(reply.status, reply.body) for reply in replies} == {(200, replies[0].body)}
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1


def test_a_batch_whose_repeat_was_quicker_is_answered_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MemoryStore() as store, ThreadPoolExecutor(1) as elsewhere:
        store.set("c", StringValue(b"gone"))
        operations = [
            batch.Operation("put", "a", ABSENT, {}, b"one", op_id="id-a"),
            batch.Operation("delete", "c", store.version_of("c"), None, None, op_id="id-c"),
        ]
        repeats: list[tuple[list[dict[str, Any]], bool]] = []
        looked = []

        def overtaken(op_id: str) -> Pushed | None:
            found = done(op_id)
            looked.append(op_id)
            if looked.count("id-c") == 2 and not repeats:  # for the last time
                repeats.append(([], False))
                repeats[0] = elsewhere.submit(batch.apply_batch, store, operations).result()
            return found

        done = store.staging.done
        monkeypatch.setattr(store.staging, "done", overtaken)
        results, replayed = batch.apply_batch(store, operations)
    assert repeats == [(results, False)]
    assert replayed


@in_memory
@pytest.mark.parametrize(
    ("operation", "status", "name"),
    [
        ({"sha256": "00"}, 400, "wrong-digest"),
        ({"sha256": 7}, 400, "wrong-digest"),
        ({"id": 7}, 400, "bad-request"),
        ({"id": "a b"}, 400, "bad-request"),
        ({"id": "used"}, 422, "operation-reused"),
    ],
)
def test_a_batch_with_a_wrong_digest_or_id_does_nothing(
    call: Client, operation: dict[str, Any], status: int, name: str
) -> None:
    call.put("k", b"other", {}, Idempotency_Key="used")
    call("DELETE", "/keys/k")
    put = {"op": "put", "key": "k", "part": 1, "metadata": {}}
    reply = _post(call, put | operation, data=(b"one",))
    assert reply.status == status
    assert reply.problem["type"].endswith(f":{name}")
    assert call.get("k").status == 404


class Raced(MemoryStore):
    """A store in which somebody else comes first, once, when a transaction is about to end."""

    rival: Callable[[], object] | None = None

    @contextmanager
    def transaction(self, notes: str) -> Iterator[object]:
        with super().transaction(notes):
            yield
            if self.rival is not None:
                thread, self.rival = threading.Thread(target=self.rival), None
                thread.start()
                thread.join()


def test_a_repeat_that_is_quicker_is_the_answer_to_both() -> None:
    body = json.dumps({"operations": [_named()[1]]}).encode()
    with Raced() as store, Origin(store) as origin:
        call = Client(origin.url)
        quicker: list[Reply] = []
        store.rival = lambda: quicker.append(call("POST", "/batch", body, Content_Type=JSON))
        slower = call("POST", "/batch", body, Content_Type=JSON)
        assert [reply.status for reply in (slower, *quicker)] == [200, 200]
        assert slower.body == quicker[0].body
        assert slower.headers["idempotency-replayed"] == "true"
        assert store.catalog.state("seq") == 1


@in_memory
def test_a_batch_has_only_so_many_operations(call: Client) -> None:
    asked = [{"op": "put-metadata", "key": f"k{n}", "metadata": {}} for n in range(10_001)]
    reply = call("POST", "/batch", json.dumps({"operations": asked}), Content_Type=JSON)
    assert reply.status == 413
    assert reply.problem["type"].endswith(":too-large")
    assert call("GET", "/index.json").body.strip() == b"{}"
