"""The commands that are about upstream: doctor, remote, config, offline, login."""

from __future__ import annotations

import json
import os
import pty
import signal
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from mountcache.local.disk import DiskCacheStore
from mountcache.serve import Origin
from mountcache.values import StringValue
from tests.command import ROOT, TIME, Ended, Inside, environment, words
from tests.servers import Nginx, Reply, ScriptedServer, nginx, scripted

__all__ = ["nginx", "scripted"]


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    with DiskCacheStore(tmp_path / "origin", min_free=0) as repository:
        repository.set("k", StringValue(b"theirs", {}))
        with Origin(repository) as server:
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
