"""Uploads that go on where they were: what came counts once it is whole, and not before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mountcache.local import uploads
from mountcache.local.backup import backup
from mountcache.local.disk import DiskCacheStore
from mountcache.local.doctor import examine
from mountcache.local.memory import MemoryStore
from mountcache.serve import Origin, OriginProcess
from tests.serve.client import JSON, Client, Reply, tag, version

on_disk = pytest.mark.parametrize("store", ["disk"], indirect=True)
pytestmark = on_disk

DATA = random.Random(0).randbytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
HALF = 1_234_567


def _path(sha256: str = SHA) -> str:
    return f"/-/uploads/{sha256}"


def send(
    call: Client,
    data: Any,
    offset: int = 0,
    length: int = len(DATA),
    sha256: str = SHA,
    **more: Any,
) -> Reply:
    fields = {
        "Content_Type": "application/partial-upload",
        "Upload_Offset": str(offset),
        "Upload_Length": str(length),
    }
    return call("PATCH", _path(sha256), data, **{**fields, **more})


def offset_of(reply: Reply) -> int:
    return int(reply.headers["upload-offset"])


def name(call: Client, key: str, sha256: str = SHA, **fields: str) -> Reply:
    """Let a key have an upload for its data."""
    return call("PUT", f"/data/{key}", b"", Mountcache_Upload=sha256, **fields)


def kept(tmp_path: Path) -> list[str]:
    folder = tmp_path / "store" / "uploads"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_an_upload_in_pieces_becomes_a_value(call: Client, tmp_path: Path) -> None:
    first = send(call, DATA[:HALF])
    assert (first.status, offset_of(first)) == (204, HALF)
    looked = call("HEAD", _path())
    assert (looked.status, offset_of(looked)) == (204, HALF)
    assert looked.headers["upload-length"] == str(len(DATA))
    assert "uploads" in looked.headers["mountcache-features"]
    assert offset_of(send(call, DATA[HALF:], HALF)) == len(DATA)
    put = name(call, "k", If_None_Match="*")
    assert (put.status, put.headers["etag"]) == (201, tag(DATA, {}))
    assert call.get("k").body == DATA
    assert kept(tmp_path) == []
    assert call("HEAD", _path()).status == 404


def test_what_is_there_in_part_is_no_value_and_in_no_list(call: Client) -> None:
    before = call("GET", "/index.json")
    send(call, DATA[:HALF])
    assert call("GET", "/index.json").headers["etag"] == before.headers["etag"]
    for path in (_path(), f"/data/{SHA}", f"/data/-/uploads/{SHA}"):
        assert call("GET", path).status in (404, 405)
    refused = name(call, "k")
    assert (refused.status, offset_of(refused)) == (409, HALF)
    assert refused.problem["type"].endswith(":upload-offset")
    assert call.get("k").status == 404


@pytest.mark.parametrize("offset", [0, HALF - 1, HALF + 1])
def test_a_piece_for_another_place_is_told_the_right_one(call: Client, offset: int) -> None:
    send(call, DATA[:HALF])
    refused = send(call, DATA[offset : offset + 100], offset)
    assert (refused.status, offset_of(refused)) == (409, HALF)
    assert refused.problem["offset"] == HALF
    assert offset_of(call("HEAD", _path())) == HALF


def test_a_body_that_breaks_off_leaves_what_came(call: Client) -> None:
    head = (
        f"PATCH {_path()} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/partial-upload\r\nUpload-Length: {len(DATA)}\r\n"
        f"Content-Length: {len(DATA)}\r\n\r\n"
    ).encode()
    call.raw(head + DATA[:HALF], half=True)
    found = 0
    while found < HALF:  # the server takes it in as it comes
        found = offset_of(call("HEAD", _path()))
    assert found == HALF
    assert offset_of(send(call, DATA[HALF:], HALF)) == len(DATA)
    assert name(call, "k").headers["etag"] == tag(DATA, {})


def test_what_isnt_what_its_digest_says_never_counts(call: Client, tmp_path: Path) -> None:
    wrong = send(call, DATA[:-1] + b"?")
    assert wrong.status == 400
    assert wrong.problem["type"].endswith(":wrong-digest")
    assert kept(tmp_path) == []
    assert name(call, "k").status == 409


def test_what_isnt_what_its_digest_says_is_found_after_a_restart_too(
    store: DiskCacheStore, tmp_path: Path
) -> None:
    with Origin(store) as origin:
        send(Client(origin.url), b"?" + DATA[1:HALF])
    store.disconnect()
    with DiskCacheStore(tmp_path / "store") as again, Origin(again) as origin:
        call = Client(origin.url)
        assert offset_of(send(call, DATA[HALF:], HALF)) == len(DATA)
        refused = name(call, "k")
        assert refused.status == 400
        assert call.get("k").status == 404
        assert kept(tmp_path) == []


def test_another_file_in_its_place_is_compared_anew(call: Client, tmp_path: Path) -> None:
    send(call, DATA)
    (path,) = (tmp_path / "store" / "uploads").iterdir()
    path.unlink()
    path.write_bytes(bytes(len(DATA)))
    assert name(call, "k").status == 400


def test_a_killed_server_goes_on_where_it_was(store: DiskCacheStore, tmp_path: Path) -> None:
    store.disconnect()
    with OriginProcess(tmp_path / "store") as origin:
        send(Client(origin.url), DATA[:HALF])
        origin.kill()
        origin.start()
        call = Client(origin.url)
        assert offset_of(call("HEAD", _path())) == HALF
        send(call, DATA[HALF:], HALF)
        origin.kill()
        origin.start()
        call = Client(origin.url)
        assert name(call, "k").headers["etag"] == tag(DATA, {})
        assert call.get("k").body == DATA


@pytest.mark.parametrize("data", [b"", b"small", DATA], ids=len)
def test_an_upload_of_any_length_brings_its_metadata(call: Client, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    send(call, data, 0, len(data), sha256)
    long = {"text": "x" * 5000}
    put = call(
        "PUT", "/keys/k/data", b'{"text": "%s"}' % (b"x" * 5000), Mountcache_Upload=sha256,
        Content_Type=JSON,
    )  # fmt: skip
    assert (put.status, put.headers["etag"]) == (201, tag(data, long))
    send(call, data, 0, len(data), sha256)
    assert name(call, "k", sha256, Mountcache_Metadata="eyJuIjoxfQ").headers["etag"] == tag(
        data, {"n": 1}
    )
    send(call, data, 0, len(data), sha256)
    assert name(call, "k", sha256).headers["etag"] == tag(data, {"n": 1})
    assert call.get("k").body == data


def test_a_write_that_is_refused_leaves_the_upload(call: Client, tmp_path: Path) -> None:
    call.put("k", b"theirs", {})
    send(call, DATA)
    refused = name(call, "k", If_None_Match="*")
    assert (refused.status, refused.problem["found"]) == (412, version(b"theirs", {}))
    assert call.get("k").body == b"theirs"
    assert kept(tmp_path) == [f"{SHA}.{len(DATA)}"]
    assert name(call, "k", If_Match=tag(b"theirs", {})).status == 204
    assert call.get("k").body == DATA


def test_a_repeat_is_answered_though_the_upload_has_gone(call: Client) -> None:
    send(call, DATA)
    first = name(call, "k", Idempotency_Key="one", If_None_Match="*", Mountcache_Metadata="e30")
    assert first.status == 201
    call.put("k", b"others", {})
    again = name(call, "k", Idempotency_Key="one", If_None_Match="*", Mountcache_Metadata="e30")
    assert (again.status, again.headers["etag"]) == (201, first.headers["etag"])
    assert again.headers["idempotency-replayed"] == "true"
    assert call.get("k").body == b"others"
    other = hashlib.sha256(b"other").hexdigest()
    reused = name(call, "k", other, Idempotency_Key="one", Mountcache_Metadata="e30")
    assert reused.status == 422


def test_two_who_send_the_same_bytes_at_once_dont_disturb_each_other(
    call: Client, tmp_path: Path
) -> None:
    barrier = threading.Barrier(4)

    def upload(number: int) -> None:
        barrier.wait()
        offset, tries = 0, 0
        while offset < len(DATA):
            tries += 1
            assert tries < 100
            offset = offset_of(send(call, DATA[offset:], offset))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, range(4)))
    assert kept(tmp_path) == [f"{SHA}.{len(DATA)}"]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda number: name(call, f"k{number}"), range(4)))
    # One has it; the others are told to send it again.
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]
    assert {offset_of(reply) for reply in replies if reply.status == 409} == {0}
    (won,) = (number for number, reply in enumerate(replies) if reply.status == 201)
    assert call.get(f"k{won}").body == DATA


def test_bytes_that_come_twice_are_passed_over(store: DiskCacheStore) -> None:
    """A connection that was given up may still bring what another one brings, too."""
    place = store.uploads
    assert place is not None

    class Between:
        """Gives two pieces; another sender brings the first and more before that."""

        def __init__(self) -> None:
            self.pieces = [DATA[:1000], DATA[1000:2000], b""]

        def read(self, size: int = -1) -> bytes:
            if len(self.pieces) == 3:
                place.append(SHA, len(DATA), 0, io.BytesIO(DATA[:1500]))
            return self.pieces.pop(0)

    assert place.append(SHA, len(DATA), 0, Between()).offset == 2000
    place.append(SHA, len(DATA), 2000, io.BytesIO(DATA[2000:]))
    with place.open(SHA) as arrived:
        assert arrived.read() == DATA


def test_delete_lets_go_of_an_upload(call: Client, tmp_path: Path) -> None:
    send(call, DATA[:HALF])
    assert call("DELETE", _path()).status == 204
    assert kept(tmp_path) == []
    assert call("DELETE", _path()).status == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Upload_Offset": None}, 400),
        ({"Upload_Offset": "-1"}, 400),
        ({"Upload_Offset": "\u0661"}, 400),
        ({"Upload_Length": "1" * 19}, 400),
        ({"Upload_Length": "10"}, 400),
        ({"Content_Type": "application/octet-stream"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
    ],
)
def test_what_makes_no_sense_is_refused(
    call: Client, tmp_path: Path, fields: dict[str, Any], status: int
) -> None:
    fields = {name: text and text.encode() for name, text in fields.items()}
    assert send(call, DATA[:HALF], **fields).status == status


def test_another_length_for_the_same_digest_is_refused(call: Client) -> None:
    send(call, DATA[:HALF])
    assert send(call, DATA[HALF:], HALF, len(DATA) + 1).status == 400
    assert offset_of(call("HEAD", _path())) == HALF


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"Mountcache_Upload": SHA.upper()}, b""),
        ({"Mountcache_Upload": "../" + SHA[3:]}, b""),
        ({"Mountcache_Upload": SHA}, b"a body as well"),
        ({"Mountcache_Upload": SHA, "Content_Type": JSON, "Mountcache_Metadata": "e30"}, b"{}"),
        ({"Mountcache_Upload": SHA, "Repr_Digest": f"sha-256=:{'A' * 43}=:"}, b""),
        ({"Mountcache_Upload": SHA, "Content_Encoding": "gzip"}, b""),
    ],
)
def test_a_put_that_names_an_upload_wrongly_is_refused(
    call: Client, fields: dict[str, str], body: bytes
) -> None:
    send(call, DATA)
    assert call("PUT", "/data/k", body, **fields).status in (400, 415)
    assert call.get("k").status == 404


@pytest.mark.parametrize("path", ["/-/uploads/", "/-/uploads/abc", f"/-/uploads/{SHA.upper()}"])
def test_only_a_digest_names_an_upload(call: Client, path: str) -> None:
    assert call("HEAD", path).status == 404


# -- bounds ------------------------------------------------------------------------------------


def test_an_upload_that_nobody_goes_on_with_goes_after_a_day(call: Client, tmp_path: Path) -> None:
    send(call, DATA[:HALF])
    (path,) = (tmp_path / "store" / "uploads").iterdir()
    nearly = time.time() - uploads.AGE + 600
    os.utime(path, (nearly, nearly))
    assert offset_of(call("HEAD", _path())) == HALF
    past = time.time() - uploads.AGE - 1
    os.utime(path, (past, past))
    assert call("HEAD", _path()).status == 404
    assert kept(tmp_path) == []


def test_there_are_only_so_many_uploads(
    call: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "MOST", 2)
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(3)]
    statuses = [send(call, b"x", 0, 2, sha256).status for sha256 in digests]
    assert statuses == [204, 204, 507]
    assert send(call, b"y", 1, 3, digests[0]).status == 400
    assert len(kept(tmp_path)) == 2


def test_uploads_take_only_so_much_room(
    call: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "LIMIT", len(DATA) + 10)
    send(call, DATA)
    refused = send(call, b"x" * 11, 0, 11, hashlib.sha256(b"x" * 11).hexdigest())
    assert refused.status == 507
    assert refused.problem["type"].endswith(":full")
    monkeypatch.setattr(uploads, "LIMIT", 10**18)
    assert send(call, b"x", 0, 10**17, hashlib.sha256(b"x").hexdigest()).status == 507
    assert kept(tmp_path) == [f"{SHA}.{len(DATA)}"]


# -- who may -----------------------------------------------------------------------------------

TOKEN = "0123456789abcdef"


@pytest.fixture
def guarded(store: DiskCacheStore) -> Iterator[Client]:
    with Origin(store, token=TOKEN) as origin:
        yield Client(origin.url)


def test_who_may_not_write_is_told_nothing_of_uploads(guarded: Client) -> None:
    token = f"Bearer {TOKEN}"
    assert send(guarded, DATA[:HALF], Authorization=token).status == 204
    for method in ("HEAD", "DELETE"):
        assert guarded(method, _path()).status == 401
        assert guarded(method, _path().replace("-", "%2D")).status == 401
    assert send(guarded, DATA[HALF:], HALF).status == 401
    assert guarded("HEAD", _path(), Authorization=token).status == 204


def test_a_link_in_place_of_an_upload_is_never_written(call: Client, tmp_path: Path) -> None:
    send(call, DATA[:HALF])
    (path,) = (tmp_path / "store" / "uploads").iterdir()
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.symlink_to(victim)
    assert send(call, DATA).status >= 400
    assert victim.read_bytes() == b""


def test_a_store_without_a_directory_takes_none(store: DiskCacheStore) -> None:
    with MemoryStore() as memory, Origin(memory) as origin:
        call = Client(origin.url)
        looked = call("HEAD", _path())
        assert looked.status == 501
        assert "uploads" not in looked.headers["mountcache-features"]
        assert send(call, DATA).status == 501
        assert name(call, "k").status == 501
        assert call.get("k").status == 404


def test_an_old_upload_goes_when_the_store_is_opened(
    call: Client, store: DiskCacheStore, tmp_path: Path
) -> None:
    send(call, DATA[:HALF])
    (path,) = (tmp_path / "store" / "uploads").iterdir()
    past = time.time() - uploads.AGE - 1
    os.utime(path, (past, past))
    with DiskCacheStore(tmp_path / "store"):
        assert kept(tmp_path) == []


def test_an_upload_is_no_damage_and_no_part_of_a_backup(
    call: Client, store: DiskCacheStore, tmp_path: Path
) -> None:
    call.put("k", b"data", {})
    send(call, DATA[:HALF])
    backup(tmp_path / "store", tmp_path / "saved")
    assert not (tmp_path / "saved" / "uploads").exists()
    assert list(examine(tmp_path / "store")) == []
    assert offset_of(call("HEAD", _path())) == HALF


# -- in batches --------------------------------------------------------------------------------


def batch(call: Client, *operations: dict[str, Any]) -> Reply:
    return call("POST", "/batch", json.dumps({"operations": operations}), Content_Type=JSON)


def test_a_batch_takes_the_data_of_its_puts_from_uploads(call: Client, tmp_path: Path) -> None:
    small = b"small"
    digest = hashlib.sha256(small).hexdigest()
    send(call, DATA)
    send(call, small, 0, len(small), digest)
    operations = (
        {"op": "put", "key": "large", "upload": SHA, "metadata": {"n": 1}, "id": "one"},
        {"op": "put", "key": "small", "upload": digest, "if_none_match": True, "id": "two"},
        {"op": "put-metadata", "key": "other", "metadata": {}, "id": "three"},
    )
    done = batch(call, *operations)
    assert done.status == 200
    assert call.get("large").headers["etag"] == tag(DATA, {"n": 1})
    assert call.get("small").body == small
    assert f"{SHA}.{len(DATA)}" not in kept(tmp_path)
    again = batch(call, *operations)
    assert (again.status, again.body) == (200, done.body)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_batch_that_is_refused_leaves_its_uploads(call: Client, tmp_path: Path) -> None:
    send(call, DATA)
    put = {"op": "put", "key": "large", "upload": SHA, "metadata": {}}
    refused = batch(call, put, {"op": "delete", "key": "nowhere"})
    assert refused.status == 404
    assert call.get("large").status == 404
    assert kept(tmp_path) == [f"{SHA}.{len(DATA)}"]
    assert batch(call, put).status == 200


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ([{"op": "put", "key": "a", "upload": hashlib.sha256(b"none").hexdigest()}], 409),
        ([{"op": "put", "key": key, "upload": SHA} for key in ("a", "b")], 409),
        ([{"op": "put", "key": "a", "upload": "abc"}], 400),
        ([{"op": "put", "key": "a", "upload": 7}], 400),
        ([{"op": "put", "key": "a", "upload": SHA, "part": 1}], 400),
        ([{"op": "put", "key": "a", "upload": SHA, "sha256": SHA}], 400),
        ([{"op": "delete", "key": "a", "upload": SHA}], 400),
    ],
    ids=range(7),
)
def test_a_batch_that_names_an_upload_wrongly_does_nothing(
    call: Client, tmp_path: Path, operations: list[dict[str, Any]], status: int
) -> None:
    send(call, DATA)
    assert batch(call, *operations).status == status
    assert call("GET", "/index.json").body.strip() == b"{}"
    assert kept(tmp_path) == [f"{SHA}.{len(DATA)}"]
