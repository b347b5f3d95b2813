"""Credentials in each form that a store takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from mountcache.backing.credentials import Bearer, login_of
from mountcache.errors import ConfigurationError

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
