"""A whole session with marked secrets, and then a look through everything that was written.

The session is a process of its own, logs all there is at DEBUG to a file, and ends with a
traceback. What the directory, the log, the output and another host got is searched for each
spelling of each secret; only the server that they are for is to have them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mountcache.backing.urls import check_url
from mountcache.errors import ConfigurationError
from tests.command import Shell
from tests.local_parts import ROOT
from tests.servers import ByRequest, Reply, Request, ScriptedServer, scripted

__all__ = ["scripted"]

PASSWORD = "hunter2/p+ss w\u00f6rd"
TOKEN = "tok3n-0123456789abcdef"
COOKIE = "c00kie-0123456789"
QUERY = "s1gnature-0123456789"

SESSION = r"""
import logging, os, pickle, sys, traceback
from pathlib import Path
import requests
here, kind, url = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
logging.basicConfig(filename=here / "log.txt", level=logging.DEBUG)
from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, sync
from mountcache.errors import StoreError
from mountcache.values import StringValue
secret = os.environ.get("SECRET", "")
session = requests.Session()
session.cookies.set("login", os.environ["COOKIE"])
session.headers["X-Api-Key"] = secret
class Call:
    def __call__(self): return ("ada", secret)
credentials = {
    "tuple": ("ada", secret), "dict": {"username": "ada", "password": secret}, "session": session,
    "basic": "env:ADA", "token": "env:TOKEN", "netrc": "netrc", "callable": Call(), "url": None,
    "command": "command:sh -c 'echo \"ada:$SECRET\"'",
}[kind]
backing = DynamicURLStore(url + "keys", url + "query", retries=0)
store = MountedStore("", DiskCacheStore(here / "store", min_free=0), backing)
store.connect(credentials)
def tried(work):
    try:
        print(repr(work()))
    except (StoreError, KeyError) as error:
        traceback.print_exc()
        print(repr(error), error, vars(error))
for key in ("a", "moved", "refused", "echo", "broken"):
    tried(lambda: store.get(key).data.read())
    tried(lambda: store.get_metadata(key))
    tried(lambda: backing._transport.request("GET", f"{backing._base}/{key}/data", repr(key)))
    tried(lambda: store.set(key, StringValue("mine")))
report = sync.push(store)
print(report, [vars(each) if hasattr(each, "__dict__") else repr(each) for each in report.results])
print(sync.status(store), repr(store), repr(backing), store.info(), backing.info())
(here / "pickled").write_bytes(pickle.dumps(store))
(here / "credentials").write_text(repr(backing._transport._own().login))
store.disconnect()
store.connect()
store.get("refused")
"""


def spellings(secret: str) -> set[bytes]:
    """How a secret may be written down."""
    basic = base64.b64encode(f"ada:{secret}".encode()).rstrip(b"=")
    latin = base64.b64encode(f"ada:{secret}".encode("latin-1")).rstrip(b"=")
    texts = {secret, quote(secret, ""), quote(secret), json.dumps(secret)[1:-1]}
    texts.add(repr(secret.encode())[2:-1])
    return {*(text.encode() for text in texts), secret.encode("latin-1"), basic[:-1], latin[:-1]}


def searched(everything: dict[str, bytes], *secrets: str) -> None:
    assert all(everything.values()), "what is searched is there"
    for where, text in everything.items():
        for secret in secrets:
            for spelling in spellings(secret):
                at = text.find(spelling)
                assert at < 0, f"{where} has {text[max(0, at - 60) : at + 60]!r}"


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server.on("GET", "/stolen", Reply(200, b"elsewhere")).on(
            "GET", "/meta", Reply(200, b"{}")
        )


@pytest.fixture
def upstream(scripted: ScriptedServer, other: ScriptedServer) -> ScriptedServer:
    """A server that gives back what it was told, in each of its ways to fail."""

    def echoed(status: int) -> ByRequest:
        def answer(request: Request) -> Reply:
            said = " ".join(f"{name}: {text}" for name, text in request.headers.items())
            problem = {"type": "about:blank", "title": said, "detail": said, "status": status}
            fields = {
                "Content-Type": "application/problem+json",
                "Set-Cookie": f"given={COOKIE}",
                "WWW-Authenticate": f'Basic realm="{said[:500]}"',
                "X-Echo": said[:500],
                "ETag": '"1"',
            }
            return Reply(status, json.dumps(problem).encode(), fields)

        return ByRequest(answer)

    found = {"ETag": '"1"', "Set-Cookie": f"given={COOKIE}"}
    for part, to in (("data", "stolen"), ("metadata", "meta")):
        there = {"Location": f"{other.origin}/{to}?sig={QUERY}"}
        scripted.on("GET", f"/keys/a/{part}", Reply(200, b"{}", found))
        scripted.on("GET", f"/keys/moved/{part}", Reply(302, headers=there))
        scripted.on("PUT", f"/keys/moved/{part}", Reply(307, headers=there))
        scripted.on("PUT", f"/keys/a/{part}", echoed(412))
        for key, status in (("broken", 500), ("refused", 401), ("echo", 409)):
            for method in ("GET", "PUT", "POST", "HEAD"):
                scripted.on(method, f"/keys/{key}/{part}", echoed(status))
    return scripted


@pytest.mark.parametrize(
    "kind",
    ["tuple", "dict", "session", "basic", "token", "netrc", "callable", "command", "url"],
)
def test_no_secret_is_written_anywhere(
    upstream: ScriptedServer, other: ScriptedServer, tmp_path: Path, kind: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    # netrc and commands have no way to write a space.
    password = PASSWORD if kind not in ("netrc", "command") else PASSWORD.replace(" ", "")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login ada password {password}\n")
    netrc.chmod(0o600)
    url = upstream.url
    if kind == "url":
        url = url.replace("//", f"//ada:{quote(password, '')}@")
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path]), "NETRC": str(netrc),
        "SECRET": password, "ADA": f"ada:{password}", "TOKEN": TOKEN, "COOKIE": COOKIE,
    }  # fmt: skip
    if kind == "session":
        environment["SECRET"] = TOKEN
    ended = subprocess.run(
        [sys.executable, "-c", SESSION, str(here), kind, url],
        env=environment, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert b" (host: " in ended.stderr, "upstream's repeating of what it was told is shown"
    assert b"Traceback" in ended.stderr and ended.returncode, ended.stderr.decode()
    told = [request.headers for request in upstream.requests]
    assert any({"authorization", "x-api-key"} & set(fields) for fields in told), "it was sent"
    assert other.requests, "the redirect was followed"
    strangers = "\n".join(f"{each.headers} {each.path}" for each in other.requests).encode()
    everything = {
        path.name: path.read_bytes() for path in here.rglob("*")
        if path.is_file() and path.stat().st_size and path.parent.name != "live"
    }  # fmt: skip
    assert {"cache.db", "log.txt", "pickled", "credentials"} <= set(everything)
    everything |= {"stdout": ended.stdout, "stderr": ended.stderr}
    # urllib3's own log has the request line of each request, and so the query of a redirect.
    log = everything.pop("log.txt")
    searched({**everything, "log.txt": log, "the other host": strangers}, password, TOKEN, COOKIE)
    searched(everything, QUERY)


def test_no_secret_is_shown_by_the_command(
    upstream: ScriptedServer, other: ScriptedServer, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    shell = Shell(here, {"ADA": f"ada:{PASSWORD}"})
    (here / "mountcache.toml").write_text(f'url = "{upstream.url}"\nauth = "env:ADA"\n')
    shown = b""
    for words in (
        ["get", "a"], ["cat", "moved"], ["cat", "refused"], ["info", "a", "--json"],
        ["put", "broken", "mountcache.toml"], ["put", "a", "mountcache.toml"],
        ["status", "--json"], ["push", "--json"], ["push"], ["ls", "--json"],
    ):  # fmt: skip
        ended = shell(*words)
        shown += ended.out + ended.err.encode()
    with_user = upstream.url.replace("//", f"//ada:{quote(PASSWORD, '')}@")
    for words in (["init", with_user], ["rebind", with_user], ["init", "--name", "x", with_user]):
        ended = shell(*words)
        assert ended.code
        shown += ended.out + ended.err.encode()
    written = b"".join(
        path.read_bytes() for path in here.rglob("*") if path.is_file() and "live" not in path.parts
    )
    strangers = "\n".join(str(each.headers) for each in other.requests).encode()
    assert any("authorization" in each.headers for each in upstream.requests)
    searched(
        {"output": shown, "directory": written, "the other host": strangers},
        PASSWORD, COOKIE, QUERY,
    )  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        f"http://ada:{TOKEN}@host:port/",
        f"http://ada:{TOKEN}@ho\u2100st/",
        f"http://ada:{TOKEN}@[::/",
        f"ftp://ada:{TOKEN}@host/",
        f"ada:{TOKEN}@host",
        f"http://ada:{TOKEN}@host/?token={QUERY}",
        f"http://ada:{TOKEN}@host/#{QUERY}",
        f"http://ada:{TOKEN}@/",
        f"http://ada:{TOKEN}:x@host:99999/",
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_its_user(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_url(url, "url")
    searched({"message": str(raised.value).encode()}, TOKEN, QUERY)
