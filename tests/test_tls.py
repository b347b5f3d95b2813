"""Who vouches for a server, what we show it, and what is said where nobody vouches."""

from __future__ import annotations

import gc
import logging
import pickle
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.auth import AuthBase

import mountcache
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.tls import TLS
from mountcache.errors import ConfigurationError, UpstreamError
from tests.servers import Reply, ScriptedServer, self_signed
from tests.test_backing_http import A, static


class Own(AuthBase):
    """An auth that isn't always the same, so that requests itself has to carry what is asked."""

    def __call__(self, request: Any) -> Any:
        return request


WAYS = pytest.mark.parametrize("credentials", [None, Own()], ids=["pool", "session"])


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    folder.mkdir()
    return self_signed(folder, *names)


@pytest.fixture(autouse=True)
def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return tmp_path / "server" / "certificate.pem"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[ScriptedServer]:
    context, _ = certificate(tmp_path / "server")
    with ScriptedServer(context) as server:
        yield server.on("GET", "/a", A)


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A folder with certificate and key of a client."""
    certificate(tmp_path / "client", "DNS:client")
    return tmp_path / "client"


@pytest.fixture
def mutual(tmp_path: Path, client: Path) -> Iterator[ScriptedServer]:
    """A server that lets nobody in but the client."""
    context, _ = certificate(tmp_path / "server")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client / "certificate.pem")
    with ScriptedServer(context) as server:
        yield server.on("GET", "/a", A)


def shown(client: Path) -> dict[str, str]:
    return {
        "client_cert": str(client / "certificate.pem"),
        "client_key": str(client / "key.pem"),
    }


@WAYS
def test_an_authority_of_ones_own_is_believed_and_no_other(
    secure: ScriptedServer, ca: Path, tmp_path: Path, credentials: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, other = certificate(tmp_path / "other")
    # What is named for the store counts more than what the environment says.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with static(secure.url, tls=TLS(ca=str(ca))) as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"A"
    for tls in (None, TLS(ca=str(other))):
        with static(secure.url, tls=tls) as store:
            store.connect(credentials)
            with pytest.raises(UpstreamError, match="certificate"):
                store.fetch("a")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
    with static(secure.url) as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"A"


@WAYS
@pytest.mark.parametrize("files", ["two files", "one file"])
def test_a_client_shows_its_certificate(
    mutual: ScriptedServer, ca: Path, client: Path, credentials: Any, files: str
) -> None:
    given = shown(client)
    if files == "one file":
        both = client / "both.pem"
        both.write_bytes(b"".join(Path(path).read_bytes() for path in given.values()))
        given = {"client_cert": str(both)}
    with static(mutual.url, tls=TLS(ca=str(ca), **given)) as store:
        store.connect(credentials)
        assert store.to_bytes("a") == b"A"
    with static(mutual.url, tls=TLS(ca=str(ca)), retries=0) as store:
        store.connect(credentials)
        with pytest.raises(mountcache.StoreError):
            store.fetch("a")
    assert len(mutual.requests) == 1


def test_a_session_brings_its_own_certificates(
    mutual: ScriptedServer, ca: Path, client: Path
) -> None:
    session = requests.Session()
    session.verify, session.cert = str(ca), tuple(shown(client).values())  # type: ignore[assignment]
    with static(mutual.url) as store:
        store.connect(session)
        assert store.to_bytes("a") == b"A"


def test_a_key_with_a_passphrase_asks_no_terminal(
    mutual: ScriptedServer, ca: Path, client: Path
) -> None:
    both = client / "both.pem"
    locked = subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", client / "key.pem"],
        capture_output=True,
        check=True,
    ).stdout
    both.write_bytes((client / "certificate.pem").read_bytes() + locked)
    with (
        static(mutual.url, tls=TLS(ca=str(ca), client_cert=str(both)), retries=0) as store,
        pytest.raises(mountcache.StoreError, match="encrypted"),
    ):
        store.fetch("a")


def test_mountcache_toml_names_the_files(
    mutual: ScriptedServer, ca: Path, client: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "mountcache.toml"
    toml.write_text(
        f'url = "{mutual.url}"\nlayout = "static"\ndata_path = "/"\nca = "server/certificate.pem"\n'
        'client_cert = "client/certificate.pem"\nclient_key = "client/key.pem"\n'
    )
    mutual.on("GET", "/index.json", Reply(200, b'{"a": {}}'))
    with mountcache.open(toml) as store:
        assert store.get_data("a").read() == b"A"


def test_stores_take_it_to_another_process(secure: ScriptedServer, ca: Path) -> None:
    with pickle.loads(pickle.dumps(static(secure.url, tls=TLS(ca=str(ca))))) as store:
        assert store.to_bytes("a") == b"A"
    other = DynamicURLStore(f"{secure.url}keys", f"{secure.url}query", tls=TLS(ca=str(ca)))
    assert pickle.loads(pickle.dumps(other))._transport._tls == TLS(ca=str(ca))


# -- to another server -----------------------------------------------------------------------


@WAYS
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_where_a_redirect_leads_none_of_it_counts(
    tmp_path: Path, secure: ScriptedServer, ca: Path, client: Path, credentials: Any
) -> None:
    context, _ = certificate(tmp_path / "elsewhere", "DNS:localhost", "IP:127.0.0.1")
    with ScriptedServer(context) as elsewhere:
        elsewhere.on("GET", "/a", A)
        secure.on("GET", "/b", Reply(302, headers={"Location": f"{elsewhere.url}a"}))
        for tls in (TLS(ca=str(ca), **shown(client)), TLS(insecure_skip_tls_verify=True)):
            with static(secure.url, tls=tls) as store:
                store.connect(credentials)
                with pytest.raises(UpstreamError, match="certificate"):
                    store.fetch("b")
        # The frames of what was raised hold the stream of the answer that redirects.
        gc.collect()
        assert elsewhere.requests == []


# -- without -----------------------------------------------------------------------------------


@WAYS
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_to_verify_nothing_is_warned_of_at_each_use(
    secure: ScriptedServer, credentials: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for uses in (1, 2):
        with static(secure.url, tls=TLS(insecure_skip_tls_verify=True)) as store:
            store.connect(credentials)
            assert store.to_bytes("a") == b"A"
        said = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert len([each for each in said if "insecure_skip_tls_verify" in each.message]) == uses
    assert secure.origin in said[-1].message


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"client_key": "KEY"}, "names? the certificate too"),
        ({"ca": "/no/such/file"}, "ca names /no/such/file, which isn't there"),
        ({"client_cert": "/no/such/file"}, "client_cert names /no/such/file"),
        ({"ca": "KEY", "insecure_skip_tls_verify": True}, "of no use"),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: Path, given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    given = {
        name: str(client / "key.pem") if each == "KEY" else each for name, each in given.items()
    }
    with pytest.raises(ConfigurationError, match=says):
        TLS(**given)
    with pytest.raises(ConfigurationError, match=says):
        mountcache.open(url="https://127.0.0.1:1/", dir=tmp_path / "store", **given)


@pytest.mark.parametrize("value", ["yes", 1, 0, "true"])
def test_the_switch_is_true_or_false(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigurationError, match="true or false"):
        mountcache.open(url="https://h/", dir=tmp_path, insecure_skip_tls_verify=value)


@WAYS
@pytest.mark.parametrize("name", ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PYTHONHTTPSVERIFY"])
def test_no_variable_turns_it_off(
    monkeypatch: pytest.MonkeyPatch, secure: ScriptedServer, name: str, credentials: Any
) -> None:
    for value in ("", "0", "false"):
        monkeypatch.setenv(name, value)
        with static(secure.url) as store:
            store.connect(credentials)
            # A bundle that isn't there is no reason to do without.
            with pytest.raises((UpstreamError, ConfigurationError), match="certificate"):
                store.fetch("a")
    assert secure.requests == []
