"""Credentials in each form that a store takes."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import keyring
import pytest
import requests
from keyring.backend import KeyringBackend
from keyring.credentials import SimpleCredential
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

import mountcache
from mountcache import sync
from mountcache.backing.credentials import Bearer, login_of
from mountcache.backing.static import StaticURLStore
from mountcache.errors import AuthorizationError, ConfigurationError, StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from tests.servers import ByRequest, Reply, Request, ScriptedServer, scripted

__all__ = ["scripted"]

URL = "http://127.0.0.1/"


def header(auth: AuthBase | None) -> str:
    """Return what a login says in the Authorization of a request."""
    return requests.Request("GET", URL, auth=auth).prepare().headers["Authorization"]


def basic(user: str, password: str) -> str:
    return header(HTTPBasicAuth(user.encode(), password.encode()))


@pytest.mark.parametrize(
    "credentials",
    [
        ("ada", "pass:wörd"),
        {"username": "ada", "password": "pass:wörd"},
        lambda: ("ada", "pass:wörd"),
        HTTPBasicAuth(b"ada", "pass:wörd".encode()),
    ],
    ids=["pair", "dict", "callable", "auth"],
)
def test_each_form_says_the_same(credentials: object) -> None:
    assert header(login_of(credentials, URL).auth) == basic("ada", "pass:wörd")


def test_a_user_is_the_tag_of_permissions() -> None:
    session = requests.Session()
    assert login_of(("ada", "secret"), URL).user_tag == "ada"
    assert login_of(("ada", session), URL).user_tag == "ada"
    assert login_of(("ada", session), URL).session is session
    assert login_of(session, URL).session is session
    assert login_of(None, URL).auth is None


def test_an_auth_of_requests_is_taken_as_it_is() -> None:
    auth = HTTPDigestAuth("ada", "secret")
    assert login_of(auth, URL).auth is auth


@pytest.mark.parametrize("wrong", [3, ("a", "b", "c"), {"user": "a"}, ("a", 3)], ids=repr)
def test_anything_else_is_refused_without_showing_it(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="credentials are ") as raised:
        login_of(wrong, URL)
    assert str(raised.value).endswith(f"not {type(wrong).__name__}")


def test_an_unknown_name_is_refused_without_showing_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="credentials are named") as raised:
        login_of("token:hunter2", URL)
    assert "hunter2" not in str(raised.value)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    with pytest.raises(ConfigurationError, match="the variable SECRET isn't set"):
        login_of("env:SECRET", URL)
    monkeypatch.setenv("SECRET", "ada:pass:word")
    assert header(login_of("env:SECRET", URL).auth) == basic("ada", "pass:word")
    monkeypatch.setenv("SECRET", "token")
    auth = login_of("env:SECRET", URL).auth
    assert isinstance(auth, Bearer)
    assert header(auth) == "Bearer token"
    assert "token" not in repr(auth)


def test_a_command(tmp_path: Path) -> None:
    script = tmp_path / "secret.py"
    command = f"command:{sys.executable} {script}"
    script.write_text("print('ada:secret'); print('more')")
    assert header(login_of(command, URL).auth) == basic("ada", "secret")
    script.write_text("print('ada:secret'); raise SystemExit(3)")
    with pytest.raises(ConfigurationError, match="ended with 3") as raised:
        login_of(command, URL)
    assert "secret'" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="can't be run"):
        login_of(f"command:{tmp_path}/nope", URL)


def test_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", os.fspath(file))
    url = "https://data.example.org:8443/x"
    with pytest.raises(ConfigurationError, match="isn't there"):
        login_of("netrc", url)
    file.write_text("machine data.example.org login ada password secret\n")
    file.chmod(0o600)
    assert header(login_of("netrc", url).auth) == basic("ada", "secret")
    with pytest.raises(ConfigurationError, match="nothing for the host other"):
        login_of("netrc", "https://other/")


# -- from where they are kept to the wire, and nowhere else ------------------------------------


class Vault(KeyringBackend):
    """A keyring of the system, as the keyring package sees it."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.password = ""

    def get_password(self, service: str, username: str) -> str | None:
        return self.password if (service, username) == ("127.0.0.1", "ada") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        self.password = password

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        return SimpleCredential("ada", self.password) if service == "127.0.0.1" else None


Keep = Callable[[str], None]


def _kept(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Keep]:
    """Return the name of credentials, and what changes the password where they are kept."""
    folder.mkdir()
    match kind:
        case "netrc":
            file = folder / "netrc"
            monkeypatch.setenv("NETRC", os.fspath(file))

            def keep(password: str) -> None:
                file.write_text(f"machine 127.0.0.1 login ada password {password}\n")
                file.chmod(0o600)

            return "netrc", keep
        case "keyring":
            vault = Vault()
            keyring.set_keyring(vault)
            return "keyring", lambda password: vault.set_password("127.0.0.1", "ada", password)
        case "env":
            return "env:LAB", lambda password: monkeypatch.setenv("LAB", f"ada:{password}")
        case _:
            said = folder / "said"
            command = f"command:{sys.executable} -c \"print(open('{said}').read())\""
            return command, lambda password: (said.write_text(f"ada:{password}"), None)[1]


class Guarded:
    """A server that lets nobody in without the password that counts now, and takes PUT."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.password = ""
        self.files = {"/index.json": b'{"a": {}, "b": {}, "c": {}}'}
        self.files |= {f"/data/{name}": name.encode() * 10 for name in "abc"}
        for path in (*self.files, "/data/d"):
            for method in ("GET", "HEAD", "PUT"):
                server.on(method, path, ByRequest(self._answer))

    def _answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != basic("ada", self.password):
            return Reply(401, b"who are you?")
        if request.method == "PUT":
            self.files[request.path] = request.body
            return Reply(204)
        data = self.files.get(request.path)
        if data is None:
            return Reply(404)
        return Reply(200, data, {"ETag": f'"{hash(data)}"'})


OLD, NEW, LATER = "hunter2-old", "hunter2-new", "hunter2-later"


def _spellings(password: str) -> list[bytes]:
    basic_ = base64.b64encode(f"ada:{password}".encode())
    return [password.encode(), basic_, basic_.rstrip(b"=")[:-1]]


@pytest.mark.parametrize("configured", [True, False], ids=["mountcache.open", "connect"])
@pytest.mark.parametrize("kind", ["netrc", "keyring", "env", "command"])
def test_named_credentials_are_asked_for_again_and_written_nowhere(
    scripted: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    configured: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    name, keep = _kept(kind, tmp_path / "kept", monkeypatch)
    guarded = Guarded(scripted)
    here = tmp_path / "here"
    here.mkdir()
    errors: list[BaseException] = []
    keep(OLD)
    guarded.password = OLD
    if configured:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        (here / "mountcache.toml").write_text(
            f'url = "{scripted.url}"\nlayout = "static"\nwrite = "put"\nauth = "{quoted}"\n'
        )
        store = mountcache.open(here)
    else:
        backing = StaticURLStore(scripted.url, write="put")
        store = MountedStore("", DiskCacheStore(here / "cache", min_free=0), backing)
        store.connect(name)
    assert store.to_bytes("a") == b"a" * 10
    guarded.password = NEW
    keep(NEW)
    assert store.to_bytes("b") == b"b" * 10
    assert len(scripted.asked("GET", "/data/b")) == 2
    guarded.password = LATER
    with pytest.raises(AuthorizationError, match=r"'c'.*401") as raised:
        store.to_bytes("c")
    errors.append(raised.value)
    store.from_bytes("d", b"mine")
    (blocked,) = sync.push(store, ["d"]).results
    assert blocked.outcome == "blocked"
    with pytest.raises(StoreError) as refused:
        store.push("d")
    errors.append(refused.value)
    keep(LATER)
    (pushed,) = sync.push(store, ["d"]).results
    assert (pushed.outcome, guarded.files["/data/d"]) == ("pushed", b"mine")
    shown = [
        repr(each)
        for each in (store, store.backing_store, login_of(name, scripted.url), blocked, pushed)
    ]
    shown += ["".join(traceback.format_exception(error)) for error in errors]
    packed = pickle.dumps(store)
    store.disconnect()
    written = [path.read_bytes() for path in here.rglob("*") if path.is_file()]
    output = capfd.readouterr()
    everything = b"\n".join(
        [*written, packed, *(text.encode() for text in (*shown, caplog.text, *output))]
    )
    assert len(written) > 1 and b"SQLite format 3" in everything
    for password in (OLD, NEW, LATER):
        for spelling in _spellings(password):
            assert spelling not in everything


def test_many_who_are_refused_at_once_ask_for_the_login_once(scripted: ScriptedServer) -> None:
    given = iter([("ada", OLD), ("ada", NEW)])
    together = Barrier(6)

    def answer(request: Request) -> Reply:
        if request.headers["authorization"] == basic("ada", NEW):
            return Reply(200, b"A")
        together.wait(20)
        return Reply(401)

    scripted.on("GET", "/a", ByRequest(answer))
    with StaticURLStore(scripted.url, data_path="", query_path=None) as store:
        store.connect(lambda: next(given))
        with ThreadPoolExecutor(6) as pool:
            read = list(pool.map(lambda _: store.to_bytes("a"), range(6)))
    assert read == [b"A"] * 6
    assert not list(given)


def test_login_isnt_asked_for_again_where_a_stranger_refuses(scripted: ScriptedServer) -> None:
    asked: list[None] = []
    with ScriptedServer() as stranger:
        stranger.on("GET", "/a", Reply(401))
        scripted.on("GET", "/a", Reply(302, headers={"Location": f"{stranger.url}a"}))
        with StaticURLStore(scripted.url, data_path="", query_path=None) as store:
            store.connect(lambda: (asked.append(None), ("ada", OLD))[1])
            with pytest.raises(AuthorizationError):
                store.fetch("a")
        assert "authorization" not in stranger.requests[0].headers
    assert len(asked) == 1
