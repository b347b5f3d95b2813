"""The commands that are about upstream: doctor, remote, config, offline, login."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail
from keyring.credentials import SimpleCredential

import mountcache
from mountcache import sync
from mountcache.cli.setup import HEAD
from mountcache.config import Settings
from mountcache.errors import StoreUnavailableError
from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin as Repository
from mountcache.testing import Origin
from mountcache.values import StringValue
from tests.command import ROOT, TIME, Ended, Inside, environment, words
from tests.servers import CLOSE, Nginx, Reply, ScriptedServer, nginx, scripted

__all__ = ["nginx", "scripted"]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"k": (b"theirs", {})}) as server:
        yield server


def shell_at(folder: Path, *lines: str) -> Inside:
    """Return a shell in a folder with a mountcache.toml of these lines."""
    folder.mkdir(exist_ok=True)
    (folder / "mountcache.toml").write_text("".join(f"{line}\n" for line in lines))
    return Inside(folder)


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    return shell_at(tmp_path / "here", f'url = "{origin.url}"')


def one_sentence(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended
    assert ended.err.startswith("mountcache: ")
    assert ended.err.count("\n") == 1, ended.err
    for each in said:
        assert each in ended.err, ended.err


def at_terminal(folder: Path, typed: str, *args: str, **env: str) -> tuple[int, str]:
    """Run ``mountcache ARGS`` at a real terminal; return its exit code and what was seen."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.execvpe(words()[0], [*words(), *args], environment(PYTHONPATH=str(ROOT), **env))
        finally:
            os._exit(127)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(int(TIME))
    seen = b""
    try:
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
            if typed and seen.rstrip().endswith((b"]:", b"?", b":")):
                os.write(master, typed.encode())
                typed = ""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()
    finally:
        signal.alarm(0)
        os.close(master)


# -- doctor ----------------------------------------------------------------------------------


def test_doctor_tells_of_directory_upstream_and_grade(shell: Inside, origin: Origin) -> None:
    new = shell("doctor")
    assert (new.code, "isn't there yet" in new.text, "grade A" in new.text) == (0, True, True)
    assert not (shell.folder / ".mountcache").exists()
    shell("cat", "k")
    told = shell("doctor")
    assert told.code == 0
    assert [line.split(":")[0] for line in told.text.splitlines()] == [
        "directory", "upstream", "grade",
    ]  # fmt: skip
    facts = {each["kind"]: each for each in shell("doctor", "--json").documents}
    assert facts["grade"]["grade"] == "A"
    assert facts["upstream"]["what"] == f"{origin.url} answers"


def test_doctor_names_every_setting_that_isnt_known(tmp_path: Path, origin: Origin) -> None:
    shell = shell_at(
        tmp_path / "here", f'url = "{origin.url}"', 'ofline = "auto"', "max_age = -1", 'aut = "x"'
    )
    told = shell("doctor")
    assert told.code == 3
    for said in ("'ofline'; did you mean 'offline'?", "max_age is a number", "'aut'"):
        assert said in told.text
    assert len(told.text.splitlines()) == 3
    (shell.folder / "mountcache.toml").write_text("url = ")
    assert (shell("doctor").code, "isn't TOML" in shell("doctor").text) == (3, True)


@pytest.mark.parametrize(
    ("line", "severity", "said"),
    [
        ('mount_point = "runs"', "note", "without a / at its end"),
        ('metadata = "sidecar"', "note", "does nothing with layout = 'dynamic'"),
        ('write = "put"', "note", "does nothing with layout = 'dynamic'"),
        ("insecure_skip_tls_verify = true", "warning", "can pass for upstream"),
        ('ca = "nowhere.pem"', "error", "isn't there"),
        ('client_key = "mountcache.toml"', "note", "does nothing without client_cert"),
        ('auth = "command:true"', "warning", "chmod go-w"),
        ('offline = "prefer"', "note", "offline is 'prefer'"),
    ],
)
def test_doctor_tells_of_dubious_settings(
    tmp_path: Path, origin: Origin, line: str, severity: str, said: str
) -> None:
    shell = shell_at(tmp_path / "here", f'url = "{origin.url}"', line)
    (shell.folder / "mountcache.toml").chmod(0o666)
    told = shell("doctor", "--offline", "--json")
    (found,) = [each for each in told.documents if each["kind"] == "configuration"]
    assert (found["severity"], said in found["what"]) == (severity, True), found
    assert told.code == (3 if severity == "error" else 0)


def test_doctor_tells_of_mounts_in_one_directory_and_of_passwords_in_the_open(
    tmp_path: Path,
) -> None:
    shell = shell_at(
        tmp_path / "here", "[mount.a]", 'url = "http://a.example/"', 'auth = "netrc"', 'dir = "x"',
        "[mount.b]", 'url = "https://b.example/"', 'auth = "netrc"', 'dir = "x"',
    )  # fmt: skip
    told = shell("doctor", "--offline", MOUNTCACHE_AUTHOR="ada")
    assert told.code == 3
    assert "the mounts a and b have the same dir" in told.text
    assert told.text.count("unencrypted") == 1
    assert "MOUNTCACHE_AUTHOR=ada" in told.text


@pytest.mark.parametrize(("ahead", "said"), [(3600, "60 min behind"), (-3600, "60 min ahead of")])
def test_doctor_tells_of_a_clock_that_is_off(
    scripted: ScriptedServer, tmp_path: Path, ahead: int, said: str
) -> None:
    shell = shell_at(tmp_path / "here", f'url = "{scripted.url}"', 'layout = "static"')
    then = formatdate(time.time() + ahead, usegmt=True)
    scripted.on("GET", "/index.json", Reply(200, b"{}", {"Date": then}))
    told = shell("doctor")
    assert (told.code, said in told.text) == (0, True), told
    now = formatdate(time.time(), usegmt=True)
    scripted.on("GET", "/index.json", Reply(200, b"{}", {"Date": now}))
    assert "the clock here" not in shell("doctor").text


def test_doctor_offline_leaves_the_network_alone(scripted: ScriptedServer, tmp_path: Path) -> None:
    url = f'url = "{scripted.url}"'
    shell = shell_at(tmp_path / "here", url, 'layout = "static"')
    told = shell("doctor", "--offline")
    assert (told.code, "wasn't asked" in told.text) == (0, True)
    (shell.folder / "mountcache.toml").write_text(f'{url}\nlayout = "static"\noffline = "always"\n')
    assert shell("doctor").code == 0
    assert not scripted.requests


def test_doctor_ends_as_documented_where_upstream_isnt_as_it_should_be(
    shell: Inside, origin: Origin, scripted: ScriptedServer, tmp_path: Path
) -> None:
    wrong = shell_at(tmp_path / "wrong", f'url = "{scripted.url}"', 'layout = "static"')
    told = wrong("doctor")
    assert (told.code, "there is no index" in told.text) == (3, True)
    scripted.on("GET", "/index.json", Reply(401))
    told = wrong("doctor")
    assert (told.code, "how to log in" in told.text) == (3, True)
    assert shell("cat", "k").code == 0
    origin.stop()
    told = shell("doctor")
    assert (told.code, "out of reach" in told.text) == (4, True)
    assert shell("doctor", "--offline").code == 0


def test_doctor_of_a_directory_of_another_upstream_says_what_to_do(
    shell: Inside, scripted: ScriptedServer
) -> None:
    assert shell("cat", "k").code == 0
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    (shell.folder / "mountcache.toml").write_text(f'url = "{scripted.url}"\nlayout = "static"\n')
    told = shell("doctor")
    assert (told.code, "mountcache rebind" in told.text) == (3, True), told


@pytest.fixture
def plain(nginx: Callable[..., Nginx], tmp_path: Path) -> tuple[Inside, Path]:
    """A shell whose upstream is nginx with its dav module, and the folder that it gives."""
    root = tmp_path / "site"
    (root / "data").mkdir(parents=True)
    (root / "index.json").write_text("{}")
    server = nginx(root, dav=True)
    lines = (f'url = "{server.url}"', 'layout = "static"', 'write = "put"')
    return shell_at(tmp_path / "here", *lines), root


def test_probe_needs_consent(plain: tuple[Inside, Path]) -> None:
    shell, root = plain
    config = shell.folder / "mountcache.toml"
    before = config.read_text()
    told = shell("doctor")
    assert told.code == 0
    assert "doctor --probe" in told.err
    one_sentence(shell("doctor", "--probe"), 3, "no terminal", "--yes")
    assert shell("doctor", "--probe", "--offline").code == 64
    assert shell("doctor", "--yes").code == 64
    config.write_text(f'{before}probe = "never"\n')
    one_sentence(shell("doctor", "--probe", "--yes"), 3, 'probe = "never"')
    config.write_text(before)
    code, seen = at_terminal(shell.folder, "n\n", "doctor", "--probe")
    assert (code, "Write a scratch key" in seen) == (130, True)
    facts = {each["kind"]: each for each in shell("doctor", "--json").documents}
    assert facts["grade"]["enforced"] is None
    assert not list((root / "data").iterdir())


def test_probe_is_told_and_remembered(plain: tuple[Inside, Path]) -> None:
    shell, root = plain
    code, seen = at_terminal(shell.folder, "y\n", "doctor", "--probe")
    assert (code, "was seen to ignore" in seen) == (0, True), seen
    for args in (["--probe", "--yes"], []):
        told = shell("doctor", *args, "--json")
        facts = {each["kind"]: each for each in told.documents}
        assert facts["grade"]["enforced"] == {"create": False, "replace": False, "delete": False}
        assert facts["grade"]["grade"] == "C"
    assert "--probe" not in shell("doctor").err
    assert not list((root / "data").iterdir())
    assert json.loads((root / "index.json").read_text()) == {}


# -- remote ----------------------------------------------------------------------------------


def test_remote_show_tells_what_is_known(shell: Inside, origin: Origin) -> None:
    assert shell("ls").text == "k\n"
    told = shell("remote", "show", "--json")
    (found,) = told.documents
    assert told.code == 0
    assert found["url"] == origin.url
    assert found["identity"] == f"{origin.url}keys/"
    assert (found["reachable"], found["grade"], found["known"]) == (True, "A", 1)
    text = shell("remote", "show").text
    assert "grade A" in text
    assert "1 keys" in text
    origin.stop()
    told = shell("remote", "show", "--json")
    assert (told.code, told.documents[0]["reachable"], told.documents[0]["known"]) == (4, False, 1)
    told = shell("remote", "show", "--offline", "--json")
    assert (told.code, told.documents[0]["reachable"]) == (0, None)


def test_remote_show_shows_no_secrets(shell: Inside, origin: Origin) -> None:
    shell_at(shell.folder, f'url = "{origin.url}"', 'auth = "command:echo ada:s3cret-word"')
    for args in (("remote", "show"), ("remote", "show", "--json"), ("config",), ("doctor",)):
        told = shell(*args)
        assert told.code == 0, told
        assert "s3cret" not in told.text + told.err
    shell_at(shell.folder, f'url = "{origin.url}"', 'auth = "command:false s3cret-word"')
    told = shell("remote", "show")
    assert told.code == 3
    assert "s3cret" not in told.text + told.err


def test_remote_set_url_follows_upstream_and_keeps_comments_and_edits(
    shell: Inside, origin: Origin, tmp_path: Path
) -> None:
    config = shell.folder / "mountcache.toml"
    text = (
        '# ours\n[mount.other]\nurl = "https://other.example/"  # stays\n\n'
        f'[mount."here"]\n  url=\'{origin.url}\'   # the old one\nauthor = "ada"\n'
    )
    config.write_text(text)
    config.chmod(0o640)
    assert shell("cat", "k", "--mount", "here").out == b"theirs"
    shell("put", "mine", "--mount", "here", given=b"mine")
    shell("put", "k", "--mount", "here", given=b"mine")
    with DiskCacheStore(tmp_path / "moved") as repository:
        repository.set("k", StringValue(b"theirs", {}))
        with Repository(repository) as moved:
            told = shell("remote", "set-url", moved.url.rstrip("/"), "--mount", "here", "--json")
            assert told.code == 0, told
            assert told.documents == [
                {"url": moved.url, "before": origin.url, "staged": 2, "reachable": True}
            ]
            wanted = text.replace(f"'{origin.url}'", f'"{moved.url}"')
            assert config.read_text() == wanted
            assert config.stat().st_mode & 0o777 == 0o640
            assert [each.name for each in shell.folder.glob("*toml*")] == ["mountcache.toml"]
            assert shell("push", "--mount", "here").code == 0
            assert repository.to_bytes("mine") == b"mine"
            # Its digest says that the new upstream has what the edit was made from.
            assert repository.to_bytes("k") == b"mine"


@pytest.mark.parametrize("word", ["nowhere", "ftp://h/", "http://ada:s3cret@h/"])
def test_remote_set_url_refuses_what_is_none(shell: Inside, word: str) -> None:
    before = (shell.folder / "mountcache.toml").read_text()
    told = shell("remote", "set-url", word)
    one_sentence(told, 3, "URL")
    assert "s3cret" not in told.err
    assert (shell.folder / "mountcache.toml").read_text() == before


def test_remote_set_url_refuses_what_is_something_else(
    shell: Inside, scripted: ScriptedServer
) -> None:
    config = shell.folder / "mountcache.toml"
    before = config.read_text()
    assert shell("cat", "k").code == 0
    one_sentence(shell("remote", "set-url", scripted.url), 3, "isn't what is mounted here")
    assert config.read_text() == before
    url = scripted.url
    scripted.stop()
    told = shell("remote", "set-url", url)  # out of reach: nobody can say
    assert (told.code, "out of reach" in told.err) == (0, True)
    assert url in config.read_text()
    assert shell("cat", "k").out == b"theirs"


def test_remote_set_url_leaves_to_a_person_what_it_cant_change(
    shell: Inside, origin: Origin
) -> None:
    config = shell.folder / "mountcache.toml"
    for text in (
        f'mount = {{ a = {{ url = "{origin.url}" }} }}\n',
        f'mount.a.url = "{origin.url}"\n',
        f'url = """{origin.url}"""\n',
        f'author = """\nurl = "x"\n"""\n"u\\u0072l" = "{origin.url}"\n',
    ):
        config.write_text(text)
        one_sentence(shell("remote", "set-url", "http://h/"), 3, "mountcache rebind")
        assert config.read_text() == text


def test_remote_set_url_stays_while_a_push_is_without_an_answer(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    lines = (f'url = "{scripted.url}"', 'layout = "static"', 'write = "put"')
    shell = shell_at(tmp_path / "here", *lines)
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    scripted.on("PUT", "/data/a", CLOSE)
    shell("put", "a", given=b"mine")
    assert shell("push").code != 0
    one_sentence(shell("remote", "set-url", "http://127.0.0.1:9/"), 3, "without an answer")
    assert scripted.url in (shell.folder / "mountcache.toml").read_text()


# -- offline ---------------------------------------------------------------------------------


def test_offline_on_is_heeded_by_every_command(shell: Inside, origin: Origin) -> None:
    assert shell("cat", "k").code == 0
    assert shell("offline").text == "offline: auto (not switched)\n"
    assert shell("offline", "on").text == "offline: always (switched to always)\n"
    origin.requests.clear()
    assert shell("cat", "k").out == b"theirs"
    assert shell("put", "mine", given=b"mine").code == 0
    assert "offline is switched to always" in shell("status").err
    for args in (
        ("push",),
        ("pull",),
        ("prefetch",),
        ("push", "--dry-run"),
        ("cat", "z"),
        ("cat", "dir/"),
        ("diff", "--upstream"),
        ("status", "--remote"),
        ("doctor", "--probe", "--yes"),
    ):
        assert shell(*args).code in (3, 4), args
    one_sentence(shell("push"), 4, "`mountcache offline off`")
    assert shell("doctor").code == 0
    (found,) = shell("remote", "show", "--json").documents
    assert (found["offline"], found["reachable"]) == ("always", None)
    assert not origin.requests
    # The environment counts more, for its process.
    assert shell("info", "k", MOUNTCACHE_OFFLINE="never").code == 0
    assert origin.requests
    assert shell("offline", "off").code == 0
    assert shell("push").code == 0
    assert "switched" not in shell("status").err


def test_offline_counts_more_than_the_file_and_off_is_as_the_file_says(
    shell: Inside, origin: Origin
) -> None:
    shell_at(shell.folder, f'url = "{origin.url}"', 'offline = "always"')
    assert shell("cat", "k").code == 4
    assert shell("offline", "auto", "--json").documents == [{"switch": "auto", "offline": "auto"}]
    assert shell("cat", "k").out == b"theirs"
    assert shell("offline", "off", "--json").documents == [{"switch": None, "offline": "always"}]
    assert shell("offline", "sometimes").code == 64
    assert shell("offline", "on", MOUNTCACHE_OFFLINE="prefer").text.startswith("offline: prefer")


def test_process_that_has_the_directory_open_heeds_the_switch(
    shell: Inside, origin: Origin
) -> None:
    with mountcache.open(shell.folder) as store, mountcache.open(shell.folder) as other:
        assert store.exists("k")
        assert not store.is_offline()
        assert shell("offline", "on").code == 0
        ends = time.monotonic() + TIME
        while not store.is_offline() and time.monotonic() < ends:
            time.sleep(0.05)
        assert store.is_offline()
        with pytest.raises(StoreUnavailableError, match="offline off"):
            store.to_bytes("k")
        with pytest.raises(StoreUnavailableError, match="offline off"):
            sync.prefetch(store)
        assert store.with_options(offline="auto").to_bytes("k") == b"theirs"
        other.set_offline(None)
        assert other.offline_switch is None
        assert not other.is_offline()


def test_directory_that_is_offline_needs_no_credentials(shell: Inside, origin: Origin) -> None:
    assert shell("cat", "k").code == 0
    assert shell("offline", "on").code == 0
    shell_at(shell.folder, f'url = "{origin.url}"', 'auth = "env:NOT_SET_HERE"')
    assert shell("cat", "k").out == b"theirs"


# -- config ----------------------------------------------------------------------------------


def test_config_tells_where_each_setting_comes_from(shell: Inside, origin: Origin) -> None:
    shell_at(
        shell.folder, f'url = "{origin.url}"', "max_age = 60", 'author = "ada"', "[limits]",
        "requests = 5",
    )  # fmt: skip
    assert shell("cat", "k").code == 0
    told = shell("config", "--json", MOUNTCACHE_AUTHOR="bob")
    (found,) = told.documents
    settings = found["settings"]
    assert found["file"] == str(shell.folder / "mountcache.toml")
    assert settings["url"] == {"value": origin.url, "source": "file"}
    assert settings["max_age"] == {"value": 60.0, "source": "file"}
    assert settings["author"] == {"value": "bob", "source": "MOUNTCACHE_AUTHOR"}
    assert settings["offline"] == {"value": "auto", "source": "default"}
    assert settings["limits"]["value"]["requests"] == 5
    assert settings["dir"] == {"value": str(shell.folder / ".mountcache"), "source": "default"}
    names = {each.name for each in dataclasses.fields(Settings)}
    assert names == set(settings)
    # What `init` writes names them all.
    assert set(re.findall(r"\w+", HEAD.partition(":")[2])) == names - {"url", "layout"}
    shell("offline", "on")
    (found,) = shell("config", "--json").documents
    assert found["settings"]["offline"] == {"value": "always", "source": "mountcache offline"}
    (found,) = shell("config", "--json", MOUNTCACHE_OFFLINE="prefer").documents
    assert found["settings"]["offline"] == {"value": "prefer", "source": "MOUNTCACHE_OFFLINE"}
    assert "author" in shell("config").text


# -- login and logout ------------------------------------------------------------------------


class Vault(KeyringBackend):
    """A keyring of the system, as the keyring package sees it."""

    priority = 1.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        for (host, user), password in self.kept.items():
            if host == service and username in (None, user):
                return SimpleCredential(user, password)
        return None


class ByUserAlone(Vault):
    """One that finds a password only by its user."""

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        return None if username is None else super().get_credential(service, username)


@pytest.fixture
def vault() -> Iterator[Vault]:
    before, kept = keyring.get_keyring(), Vault()
    keyring.set_keyring(kept)
    yield kept
    keyring.set_keyring(before)


def test_login_keeps_what_is_used_and_logout_removes_it(
    shell: Inside, scripted: ScriptedServer, vault: Vault
) -> None:
    shell_at(shell.folder, f'url = "{scripted.url}"', 'layout = "static"', 'auth = "keyring"')
    scripted.on("GET", "/index.json", Reply(200, b"{}"))
    told = shell("remote", "show")
    assert (told.code, "mountcache login" in told.text) == (3, True), told
    for user, password in (("bob", b"old"), ("ada", b"s3cret word"), ("ada", b"n3w: one")):
        told = shell("login", "--user", user, given=password + b"\nmore\n")
        assert told.code == 0
        assert password.decode() not in told.text + told.err
    assert vault.kept == {("127.0.0.1", "ada"): "n3w: one"}
    assert shell("remote", "show").code == 0
    sent = scripted.requests[-1].headers["authorization"].removeprefix("Basic ")
    assert b64decode(sent) == b"ada:n3w: one"
    assert shell("logout", "--json").documents == [{"host": "127.0.0.1", "user": "ada"}]
    assert not vault.kept
    one_sentence(shell("logout"), 3, "nothing for the service 127.0.0.1")


def test_login_says_what_is_missing(shell: Inside, vault: Vault) -> None:
    one_sentence(shell("login", given=b"word\n"), 3, "--user")
    one_sentence(shell("login", "--user", "ada", given=b"\n"), 3, "empty password")
    assert shell("login", "--user", "ada", "--password", "x").code == 64
    assert not vault.kept
    told = shell("login", "--user", "ada", given=b"word")
    assert (told.code, 'auth = "keyring"' in told.err) == (0, True)
    keyring.set_keyring(ByUserAlone())
    one_sentence(shell("login", "--user", "ada", given=b"word\n"), 3, "by user alone")
    keyring.set_keyring(fail.Keyring())
    one_sentence(shell("login", "--user", "ada", given=b"word\n"), 3, "no keyring")


def test_password_at_a_terminal_isnt_shown(shell: Inside) -> None:
    env = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    code, seen = at_terminal(shell.folder, "s3cret\n", "login", "--user", "ada", **env)
    assert code == 3
    assert "Password of ada at 127.0.0.1" in seen
    assert "no keyring" in seen
    assert "s3cret" not in seen


def test_set_url_that_is_killed_half_way_is_ended_by_rebind(shell: Inside, tmp_path: Path) -> None:
    shell("put", "mine", given=b"mine")
    with Origin({"k": (b"theirs", {})}) as moved:
        script = (
            "import os, sys\n"
            "from mountcache.cli import main\n"
            "from mountcache.mounted import MountedStore\n"
            "MountedStore.rebind = lambda *all: os.kill(os.getpid(), 9)\n"
            "main(['remote', 'set-url', sys.argv[1]])\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script, moved.url],
            cwd=shell.folder, env=environment(PYTHONPATH=str(ROOT)), check=False,
        )  # fmt: skip
        assert ended.returncode == -9
        assert [each.name for each in shell.folder.glob("*toml*")] == ["mountcache.toml"]
        one_sentence(shell("status"), 3, "mountcache rebind")
        assert shell("rebind").code == 0
        assert shell("push").code == 0
        assert moved.store.to_bytes("mine") == b"mine"
