"""Commands around a push: what they refuse isn't published, and they can break nothing else."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountcache import sync
from mountcache.config import open_store, read_settings
from mountcache.errors import ConfigurationError
from mountcache.local.records import REFUSED
from mountcache.sync.commands import PushSettings, checked_by, push_settings, told_to
from mountcache.sync.report import PushReport
from mountcache.testing import Origin
from tests.command import Inside, Shell

PATIENCE = 60.0


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"a": (b"first", {"n": 1})}) as running:
        yield running


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    never = threading.Event()
    while not true():
        assert time.monotonic() < deadline
        never.wait(0.02)


@pytest.fixture
def desk(origin: Origin, tmp_path: Path) -> Callable[[str], Inside]:
    def sit(push: str) -> Inside:
        folder = tmp_path / "desk"
        folder.mkdir()
        (folder / "mountcache.toml").write_text(f'url = "{origin.url}"\n{push}\n')
        return Inside(folder)

    return sit


CHECK = """
[push]
check = '''
cat > last.json
case "$MOUNTCACHE_KEY" in
  draft/*) echo "drafts   stay\nhere" ;;
  bad) echo "not this one" >&2; exit 3 ;;
  dead) kill -9 $$ ;;
  noisy) echo "a warning" >&2 ;;
esac
'''
after = "cat > report.json"
"""


def test_what_the_check_says_refuses_that_edit_alone(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk(CHECK)
    for key in ("draft/1", "bad", "dead", "noisy", "good"):
        assert me("put", key, "--meta", "by=me", given=b"x").code == 0
    pushed = me("push", "--json")
    assert pushed.code == 3
    found = {each["key"]: each for each in pushed.documents}
    assert {key: each["outcome"] for key, each in found.items()} == {
        "draft/1": "refused", "bad": "refused", "dead": "refused",
        "noisy": "pushed", "good": "pushed",
    }  # fmt: skip
    assert found["draft/1"]["message"].startswith("drafts stay here (by the check ")
    assert found["bad"]["message"].startswith("not this one (")
    assert found["dead"]["message"].startswith("it was ended by signal 9")
    assert [origin.store.exists(key) for key in ("good", "noisy", "bad")] == [True, True, False]
    report = json.loads((me.folder / "report.json").read_text())
    assert {each["key"]: each["outcome"] for each in report["results"]} == {
        key: each["outcome"] for key, each in found.items()
    }
    assert "not this one" in me("status").text


def test_check_is_told_the_edit(origin: Origin, desk: Callable[[str], Inside]) -> None:
    me = desk('[push]\ncheck = "cat > last.json"\n')
    me("put", "k", "--meta", "by=mé\nx", given=b"data")
    assert me("push").code == 0
    told = json.loads((me.folder / "last.json").read_text())
    assert told["key"] == "k"
    assert told["metadata"] == {"by": "mé\nx"}
    assert len(told["sha256"]) == 64
    assert (told["state"], told["what"], told["size"]) == ("added", "data", 4)


def test_key_of_the_check_is_no_word_of_its_shell(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk('[push]\ncheck = \'test "$MOUNTCACHE_KEY" = "a;touch b"\'\n')
    assert me("put", "a;touch b", given=b"x").code == 0
    assert me("push").code == 0
    assert not (me.folder / "b").exists()


def test_group_isnt_published_without_what_the_check_refuses(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk(CHECK)
    for key in ("bad", "good"):
        me("put", key, "--group", "both", given=b"x")
    me("push")
    assert not origin.store.exists("good")


def test_apply_and_flush_are_checked_too(origin: Origin, desk: Callable[[str], Inside]) -> None:
    me = desk(CHECK)
    me("put", "bad", given=b"x")
    assert me("push", "--plan", "plan.json").code == 0
    applied = me("apply", "plan.json", "--json")
    assert [each["outcome"] for each in applied.documents] == ["refused"]
    assert me("flush").code == 3
    me("put", "bad", given=b"y")
    flushed = me("flush", "--json")
    assert (flushed.code, flushed.documents) == (3, [{"left": ["bad"], "conflicts": []}])
    assert not origin.store.exists("bad")


def test_functions_of_a_program_are_its_own(origin: Origin, desk: Callable[[str], Inside]) -> None:
    me = desk(CHECK)
    me("put", "bad", given=b"x")
    heard: list[PushReport] = []
    with open_store(read_settings(me.folder / "mountcache.toml", {})) as store:
        report = sync.push(store, check=lambda edit: str(edit.metadata), after_push=heard.append)
        assert report["bad"].message == "{}"
        assert heard == [report]
        (edit,) = store.staged()
        assert edit.error == REFUSED + "{}"
        sync.push(store, after_push=heard.append)
        assert heard[1]["bad"].outcome == "pushed"
        sync.push(store, after_push=heard.append)
        assert len(heard) == 2


@pytest.mark.parametrize(
    "command", ["sleep 60", "sleep 60 & sleep 60", "trap '' TERM; sleep 60", "cat /dev/zero"]
)
def test_command_that_hangs_is_ended_with_all_it_started(
    origin: Origin, tmp_path: Path, command: str
) -> None:
    settings = PushSettings(check=command, time_limit=0.5, folder=tmp_path)
    check = checked_by(settings)
    assert check is not None
    edit = _an_edit(origin, tmp_path)
    begun = time.monotonic()
    assert (check(edit) or "").startswith("it took longer than 0.5 s")
    assert time.monotonic() - begun < 30


def _an_edit(origin: Origin, tmp_path: Path) -> Any:
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\n')
    with open_store(read_settings(tmp_path / "mountcache.toml", {})) as store:
        store.from_bytes("k", b"x")
        return next(store.staged())


def test_what_a_command_started_is_killed_with_it(origin: Origin, tmp_path: Path) -> None:
    line = "sleep 600 & echo $! > child; wait"
    check = checked_by(PushSettings(check=line, time_limit=1.0, folder=tmp_path))
    assert check is not None and check(_an_edit(origin, tmp_path)) is not None
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "cmdline")
    # Of a zombie nothing is left to read.
    until(lambda: not child.exists() or not child.read_bytes())


def test_what_a_command_leaves_running_keeps_nobody_waiting(origin: Origin, tmp_path: Path) -> None:
    check = checked_by(PushSettings(check="sleep 20 & exit 0", folder=tmp_path))
    assert check is not None
    begun = time.monotonic()
    assert check(_an_edit(origin, tmp_path)) is None
    assert time.monotonic() - begun < 15


def test_command_that_isnt_there_refuses(origin: Origin, tmp_path: Path) -> None:
    check = checked_by(PushSettings(check="no-such-command-here", folder=tmp_path))
    assert check is not None and "not found" in (check(_an_edit(origin, tmp_path)) or "")
    gone = checked_by(PushSettings(check="true", folder=tmp_path / "gone"))
    assert gone is not None and "can't be run" in (gone(_an_edit(origin, tmp_path)) or "")


def test_secret_of_a_server_isnt_in_the_environment_of_commands(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUNTCACHE_SERVE_TOKEN", "s3cret")
    check = checked_by(PushSettings(check="env | grep s3cret; true", folder=tmp_path))
    assert check is not None and check(_an_edit(origin, tmp_path)) is None


def test_failing_command_after_a_push_changes_nothing(
    origin: Origin, desk: Callable[[str], Inside], caplog: pytest.LogCaptureFixture
) -> None:
    me = desk("[push]\nafter = 'echo sorry >&2; exit 4'\n")
    me("put", "k", given=b"x")
    assert me("push").code == 0
    assert origin.store.exists("k")
    assert any("sorry" in each.message for each in caplog.records)


def test_settings_with_commands_go_to_another_process(tmp_path: Path) -> None:
    settings = PushSettings("auto", check="true", after="true", folder=tmp_path)
    again = pickle.loads(pickle.dumps((checked_by(settings), told_to(settings))))
    assert all(callable(each) for each in again)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("atuo", "did you mean 'auto'"),
        (True, "manual, auto, not True"),
        ({"chek": "true"}, "unknown key 'chek'; did you mean 'check'"),
        ({"mode": "always"}, "mode is one of"),
        ({"quiet": -1}, "quiet is a number of seconds, from 0 up"),
        ({"quiet": True}, "quiet is a number"),
        ({"late": 0}, "late is a number of seconds, more than 0"),
        ({"late": float("nan")}, "late is a number"),
        ({"time_limit": "soon"}, "time_limit is a number"),
        ({"check": ""}, "check is the line of a command"),
        ({"after": ["a", "b"]}, "after is the line of a command"),
        ({"folder": "/"}, "unknown key 'folder'"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        push_settings(value, "m.toml")
    assert str(caught.value).startswith("m.toml: ") and said in str(caught.value)


# -- by itself, and the words of the command line -----------------------------------------------


def test_serve_pushes_by_itself_what_other_commands_stage(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk(CHECK.replace("[push]", "[push]\nquiet = 0.1"))
    serving = Shell(me.folder).start("serve", "--port", "0", "--push", "auto")
    try:
        assert serving.stdout is not None
        assert b"goes by itself" in serving.stdout.readline()
        me("put", "good", given=b"x")
        me("put", "bad", given=b"x")
        until(lambda: origin.store.exists("good"))
        until(lambda: "not this one" in me("status").text)
        shown = me("status", "--json").documents[0]
        assert f"pid {serving.pid} on" in shown["pusher"]
        assert [each["next_try"] for each in shown["staged"]] == [None]
        assert me("push", "--pause").code == 0
        assert "was paused by" in me("status").err
        me("put", "later", given=b"x")
        assert me("flush").code == 3
        assert not origin.store.exists("later")
        assert me("push", "--resume", "--json").documents == [{"paused": None}]
        until(lambda: origin.store.exists("later"))
        assert not origin.store.exists("bad")
    finally:
        serving.send_signal(signal.SIGTERM)
        try:
            assert serving.wait(PATIENCE) == 0
        except subprocess.TimeoutExpired:
            serving.kill()
            raise


def test_command_that_is_soon_over_pushes_nothing_unasked(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk('push = "auto"')
    (config,) = me("config", "--json").documents
    assert config["settings"]["push"]["value"]["mode"] == "auto"
    me("put", "k", given=b"x")
    assert me("status").code == 1
    assert not origin.store.exists("k")
    flushed = me("flush")
    assert (flushed.code, flushed.text) == (0, "nothing is left to push\n")
    assert origin.store.exists("k")
    assert me("flush", "--wait", "--timeout", "9").code == 0


def test_flush_says_by_its_code_what_stands_in_the_way(
    origin: Origin, desk: Callable[[str], Inside]
) -> None:
    me = desk("")
    me("cat", "a")
    me("put", "a", given=b"mine")
    origin.change("a", b"theirs", {})
    conflict = me("flush", "--wait")
    assert conflict.code == 2
    assert "mountcache resolve a" in conflict.err
    me("revert", "a")
    me("put", "b", "--meta-json", "{}", given=b"mine")
    origin.stop()
    assert me("flush").code == 4
    assert me("flush", "--timeout", "0.2").code == 4
    assert me("push", "--pause", "k").code == 64
