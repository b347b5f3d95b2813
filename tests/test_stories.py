"""Stories of two people, told through the command line: each a page of what they type and see.

Ada and Ben have a directory each and one repository: a server of ours, or a plain nginx that takes
PUT and whose owner writes the index now and then.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountcache.testing import Origin
from tests.command import Ended, Inside, Shell
from tests.faultserver import Reply, Request, Script, ScriptedServer
from tests.servers import Nginx, nginx

__all__ = ["nginx"]

FIRST = {"surveys/2024.csv": b"site,count\nnorth,12\n", "surveys/readme.txt": b"Counts of 2024\n"}


class Repository:
    """What both share; and what its owner sees of it."""

    url: str
    settings = ""

    def has(self, key: str) -> bytes | None:
        raise NotImplementedError

    def names(self) -> list[str]:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def start(self) -> object:
        raise NotImplementedError

    def index(self) -> None:
        """Let the index say what there is now."""


class Ours(Repository):
    def __init__(self) -> None:
        self.origin = Origin({key: (data, {"by": "the lab"}) for key, data in FIRST.items()})
        self.origin.start()
        self.url, self.stop, self.start = self.origin.url, self.origin.stop, self.origin.start  # type: ignore[method-assign]

    def has(self, key: str) -> bytes | None:
        return self.origin.store.to_bytes(key) if self.origin.store.exists(key) else None

    def names(self) -> list[str]:
        return sorted(self.origin.store.query_keys())


class Plain(Repository):
    settings = 'layout = "static"\nwrite = "put"\n'

    def __init__(self, root: Path, serve: Callable[..., Nginx]) -> None:
        self.root = root
        for key, data in FIRST.items():
            (root / "data" / key).parent.mkdir(parents=True, exist_ok=True)
            (root / "data" / key).write_bytes(data)
        self.index()
        self.server = serve(root, dav=True)
        self.url, self.stop, self.start = self.server.url, self.server.stop, self.server.start  # type: ignore[method-assign]

    def has(self, key: str) -> bytes | None:
        path = self.root / "data" / key
        return path.read_bytes() if path.is_file() else None

    def names(self) -> list[str]:
        data = self.root / "data"
        return sorted(str(each.relative_to(data)) for each in data.rglob("*") if each.is_file())

    def index(self) -> None:
        owner = Inside(self.root)
        assert owner("index", "data", "-o", "index.json", "--sha256", "--force").code == 0


@pytest.fixture(params=["ours", "nginx"])
def lab(
    request: pytest.FixtureRequest, tmp_path: Path, nginx: Callable[..., Nginx]
) -> Iterator[Repository]:
    made: Repository = Ours() if request.param == "ours" else Plain(tmp_path / "lab", nginx)
    yield made
    made.stop()


@pytest.fixture
def ours() -> Iterator[Ours]:
    made = Ours()
    yield made
    made.stop()


Desk = Callable[..., Inside]


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    """Where somebody works: a folder with a mountcache.toml."""
    name = "lab" if "lab" in request.fixturenames else "ours"
    repository: Repository = request.getfixturevalue(name)

    def sit(who: str, more: str = "") -> Inside:
        folder = tmp_path / who
        folder.mkdir()
        settings = f'url = "{repository.url}"\nauthor = "{who}"\n{repository.settings}{more}'
        (folder / "mountcache.toml").write_text(settings)
        return Inside(folder)

    return sit


def shown(ended: Ended) -> list[str]:
    """Return the lines of a result, without times and sizes in parentheses."""
    return [line.partition("  (")[0] for line in ended.text.splitlines()]


def went(ended: Ended, code: int = 0) -> Ended:
    assert ended.code == code, ended
    return ended


def edit(who: Inside, key: str, data: bytes) -> None:
    """Look at a key, if it is there, and stage other data."""
    who("cat", key)
    went(who("put", key, given=data))


def publish(who: Inside, lab: Repository, key: str, data: bytes) -> None:
    edit(who, key, data)
    went(who("push", key))
    lab.index()


# -- 1 to 5: alone, and too late ----------------------------------------------------------------


def test_the_train(lab: Repository, desk: Desk) -> None:
    """Ada takes the surveys along, works without the network, and publishes at home."""
    ada = desk("ada")
    went(ada("prefetch", "surveys/*"))
    lab.stop()
    assert went(ada("cat", "surveys/2024.csv")).out == FIRST["surveys/2024.csv"]
    went(ada("put", "surveys/2025.csv", given=b"site,count\nnorth,14\n"))
    went(ada("put", "surveys/readme.txt", given=b"Counts of 2024 and 2025\n"))
    status = went(ada("status"), 1)
    assert [line[3:] for line in shown(status)] == ["surveys/2025.csv", "surveys/readme.txt"]
    assert [line[0] for line in shown(status)] == ["A", "M"]
    went(ada("push"), 4)  # out of reach: nothing is lost, nothing hangs
    assert went(ada("status"), 1).text.count("\n") >= 2
    lab.start()
    pushed = went(ada("push"))
    assert pushed.text.count("pushed: ") == 2
    assert lab.has("surveys/2025.csv") == b"site,count\nnorth,14\n"
    assert lab.has("surveys/readme.txt") == b"Counts of 2024 and 2025\n"
    went(ada("status"), 0)


def test_the_colleague_who_was_faster(lab: Repository, desk: Desk) -> None:
    """Both change a key; Ben publishes first. Ada is told, looks, and decides."""
    ada, ben = desk("ada"), desk("ben")
    edit(ada, "surveys/readme.txt", b"Ada's words\n")
    publish(ben, lab, "surveys/readme.txt", b"What Ben wrote\n")
    refused = went(ada("push"), 2)
    assert "nothing was overwritten" in refused.text
    assert "mine (staged by ada" in refused.text
    assert "mountcache resolve surveys/readme.txt --mine" in refused.err
    assert lab.has("surveys/readme.txt") == b"What Ben wrote\n"
    assert shown(went(ada("status"), 2))[0].startswith("MC surveys/readme.txt")
    difference = went(ada("diff", "--upstream")).text
    assert "-What Ben wrote" in difference
    assert "+Ada's words" in difference
    went(ada("resolve", "surveys/readme.txt", "--mine"))
    assert lab.has("surveys/readme.txt") == b"What Ben wrote\n"  # nothing is sent before a push
    went(ada("push"))
    assert lab.has("surveys/readme.txt") == b"Ada's words\n"
    told = went(ada("log", "surveys/readme.txt")).text
    assert [line.split()[2] for line in told.splitlines()] == [
        "pushed", "resolved", "failed", "staged",
    ]  # fmt: skip


def test_faster_twice(lab: Repository, desk: Desk) -> None:
    """Ada decides for hers, but Ben publishes once more before she pushes: she is told again."""
    ada, ben = desk("ada"), desk("ben")
    edit(ada, "surveys/readme.txt", b"Ada's words\n")
    publish(ben, lab, "surveys/readme.txt", b"What Ben wrote\n")
    went(ada("push"), 2)
    went(ada("resolve", "surveys/readme.txt", "--mine"))
    went(ben("pull"))
    publish(ben, lab, "surveys/readme.txt", b"What Ben wrote, once more\n")
    went(ada("push"), 2)
    assert lab.has("surveys/readme.txt") == b"What Ben wrote, once more\n"
    went(ada("resolve", "surveys/readme.txt", "--upstream"))
    went(ada("status"), 0)
    assert went(ada("cat", "surveys/readme.txt")).out == b"What Ben wrote, once more\n"
    went(ada("undo", "surveys/readme.txt"))
    assert went(ada("cat", "surveys/readme.txt")).out == b"Ada's words\n"


def test_the_typo_that_was_reverted(lab: Repository, desk: Desk) -> None:
    """Ada sees in the diff that she has broken a line, and takes it back; then she wants it."""
    ada = desk("ada")
    edit(ada, "surveys/2024.csv", b"site,count\nnroth,12\n")
    difference = went(ada("diff", "surveys/2024.csv")).text
    assert "-north,12" in difference
    assert "+nroth,12" in difference
    went(ada("revert", "surveys/2024.csv"))
    assert went(ada("cat", "surveys/2024.csv")).out == FIRST["surveys/2024.csv"]
    went(ada("status"), 0)
    assert "surveys/2024.csv" in went(ada("undo")).text
    went(ada("undo", "surveys/2024.csv"))
    assert went(ada("cat", "surveys/2024.csv")).out == b"site,count\nnroth,12\n"
    assert lab.has("surveys/2024.csv") == FIRST["surveys/2024.csv"]


def test_what_came_meanwhile(lab: Repository, desk: Desk) -> None:
    """Ada pulls before she goes on: copies are renewed, her edit stays, and she is warned."""
    ada, ben = desk("ada"), desk("ben")
    went(ada("prefetch"))
    edit(ada, "surveys/readme.txt", b"Ada's words\n")
    publish(ben, lab, "surveys/readme.txt", b"What Ben wrote\n")
    publish(ben, lab, "surveys/2024.csv", b"site,count\nnorth,12\nsouth,3\n")
    pulled = went(ada("pull"), 2)
    assert "updated: surveys/2024.csv" in pulled.text
    assert "changed upstream, and staged here: surveys/readme.txt" in pulled.text
    lab.stop()
    assert went(ada("cat", "surveys/2024.csv")).out == b"site,count\nnorth,12\nsouth,3\n"
    assert went(ada("cat", "surveys/readme.txt")).out == b"Ada's words\n"


# -- 6 to 10: both at once ------------------------------------------------------------------------


def test_both_added_the_same_bytes(lab: Repository, desk: Desk) -> None:
    """Both copied the same file in: that is no conflict."""
    ada, ben = desk("ada"), desk("ben")
    for each in (ada, ben):
        went(each("ls"))
        went(each("put", "surveys/2025.csv", given=b"site,count\nnorth,14\n"))
    went(ben("push"))
    assert went(ada("push")).text.startswith("already there: surveys/2025.csv")
    went(ada("status"), 0)


def test_both_added_the_same_name(lab: Repository, desk: Desk) -> None:
    """Both used the same name for different things: both are kept."""
    ada, ben = desk("ada"), desk("ben")
    for each, data in ((ada, b"from Ada\n"), (ben, b"by Ben alone\n")):
        went(each("ls"))
        went(each("put", "notes.txt", given=data))
    went(ben("push"))
    lab.index()
    went(ada("push"), 2)
    assert lab.has("notes.txt") == b"by Ben alone\n"
    went(ada("resolve", "notes.txt", "--keep-both"))
    went(ada("push"))
    assert lab.has("notes.txt") == b"by Ben alone\n"
    (other,) = (key for key in lab.names() if key.startswith("notes.txt.conflict-"))
    assert lab.has(other) == b"from Ada\n"


def test_deleted_there_and_edited_here(lab: Repository, desk: Desk) -> None:
    """Ben deletes what Ada is editing: her edit stays here until she has decided."""
    ada, ben = desk("ada"), desk("ben")
    edit(ada, "surveys/2024.csv", b"site,count\nnorth,13\n")
    went(ben("cat", "surveys/2024.csv"))
    went(ben("rm", "surveys/2024.csv"))
    went(ben("push"))
    lab.index()
    refused = went(ada("push"), 2)
    assert "deleted" in refused.text
    assert lab.has("surveys/2024.csv") is None
    assert went(ada("cat", "surveys/2024.csv")).out == b"site,count\nnorth,13\n"
    went(ada("resolve", "surveys/2024.csv", "--mine"))
    went(ada("push"))
    assert lab.has("surveys/2024.csv") == b"site,count\nnorth,13\n"


def test_edited_there_and_deleted_here(lab: Repository, desk: Desk) -> None:
    """Ada deletes what Ben has just improved: his change stays."""
    ada, ben = desk("ada"), desk("ben")
    went(ada("cat", "surveys/2024.csv"))
    went(ada("rm", "surveys/2024.csv"))
    publish(ben, lab, "surveys/2024.csv", b"site,count\nnorth,12\nsouth,3\n")
    went(ada("push"), 2)
    assert lab.has("surveys/2024.csv") == b"site,count\nnorth,12\nsouth,3\n"
    went(ada("resolve", "surveys/2024.csv", "--upstream"))
    assert went(ada("cat", "surveys/2024.csv")).out == b"site,count\nnorth,12\nsouth,3\n"
    went(ada("status"), 0)


def test_the_rename(lab: Repository, desk: Desk) -> None:
    """Ada renames a key. The old name goes once the new one is there, and Ben finds that."""
    ada, ben = desk("ada"), desk("ben")
    went(ben("prefetch"))
    went(ada("mv", "surveys/2024.csv", "surveys/counts-2024.csv"))
    lines = shown(went(ada("status"), 1))
    assert [line[0] for line in lines if line[1:2] in "=U?X"] == ["R", "D"]
    assert any(line.endswith("surveys/2024.csv -> surveys/counts-2024.csv") for line in lines)
    went(ada("push"))
    lab.index()
    assert lab.names() == ["surveys/counts-2024.csv", "surveys/readme.txt"]
    assert "gone upstream: surveys/2024.csv" in went(ben("pull")).text
    assert went(ben("cat", "surveys/counts-2024.csv")).out == FIRST["surveys/2024.csv"]
    went(ben("cat", "surveys/2024.csv"), 3)


def test_the_rename_of_what_ben_improved(lab: Repository, desk: Desk) -> None:
    """Ben improves what Ada renames: his change isn't deleted with the old name."""
    ada, ben = desk("ada"), desk("ben")
    went(ada("cat", "surveys/2024.csv"))
    went(ada("mv", "surveys/2024.csv", "surveys/counts-2024.csv"))
    publish(ben, lab, "surveys/2024.csv", b"site,count\nnorth,12\nsouth,3\n")
    assert ada("push").code == 2
    assert lab.has("surveys/2024.csv") == b"site,count\nnorth,12\nsouth,3\n"


def test_the_metadata_of_both(ours: Ours, desk: Desk) -> None:
    """Ada and Ben add metadata to one key, under different names: both are kept."""
    ada, ben = desk("ada"), desk("ben")
    for each, name in ((ada, "checked_by=ada"), (ben, "unit=birds")):
        went(each("meta", "surveys/2024.csv", name))
    went(ben("push"))
    went(ada("push"), 2)
    went(ada("resolve", "surveys/2024.csv", "--merge-metadata"))
    went(ada("push"))
    assert ours.origin.store.get_metadata("surveys/2024.csv") == {
        "by": "the lab", "checked_by": "ada", "unit": "birds",
    }  # fmt: skip


def test_the_words_of_both(
    lab: Repository, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ada puts her words and Ben's together in her editor."""
    ada, ben = desk("ada"), desk("ben")
    edit(ada, "surveys/readme.txt", b"Counts of 2024\nAda was here\n")
    publish(ben, lab, "surveys/readme.txt", b"Counts of 2024\nBen helped\n")
    went(ada("push"), 2)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i '/^[<=>]\\{7\\}/d' \"$1\"\n")
    editor.chmod(0o700)
    went(ada("resolve", "surveys/readme.txt", "--edit", EDITOR="true", VISUAL="true"), 3)
    went(ada("resolve", "surveys/readme.txt", "--edit", EDITOR=str(editor), VISUAL=str(editor)))
    went(ada("push"))
    assert lab.has("surveys/readme.txt") == b"Counts of 2024\nAda was here\nBen helped\n"


# -- 11 on: machines, disks, servers ---------------------------------------------------------------


def test_the_crash_during_a_push(lab: Repository, desk: Desk) -> None:
    """Ada's machine dies in the middle of a push; the next one ends it, each edit once."""
    ada = desk("ada")
    for n in range(40):
        went(ada("put", f"many/{n}", given=b"%d" % n * 1000))
    running = Shell(ada.folder).start("push", "--workers", "1")
    while not any(key.startswith("many/") for key in lab.names()):
        assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGKILL)
    running.communicate()
    went(ada("push"))
    went(ada("status"), 0)
    assert {key: lab.has(key) for key in lab.names() if key.startswith("many/")} == {
        f"many/{n}": b"%d" % n * 1000 for n in range(40)
    }
    lab.index()
    went(ada("doctor", "--offline"))


def test_the_plan_that_a_second_person_approved(lab: Repository, desk: Desk) -> None:
    """Ben approves Ada's plan. By then she has edited on, and somebody else has published."""
    ada, ben = desk("ada"), desk("ben")
    edit(ada, "surveys/2024.csv", b"site,count\nnorth,13\n")
    edit(ada, "surveys/readme.txt", b"Ada's words\n")
    went(ada("put", "surveys/2025.csv", given=b"site,count\n"))
    plan = ada.folder / "release.json"
    planned = went(ada("push", "--plan", str(plan)))
    assert sorted(line.split()[0] for line in shown(planned)) == ["create", "replace", "replace"]
    assert lab.has("surveys/2025.csv") is None
    steps = {step["key"]: step["action"] for step in json.loads(plan.read_text())["steps"]}
    assert steps["surveys/2025.csv"] == "create"
    # Meanwhile:
    went(ada("put", "surveys/2024.csv", given=b"site,count\nnorth,not sure\n"))
    went(ada("put", "later.txt", given=b"not in the plan\n"))
    publish(ben, lab, "surveys/readme.txt", b"What Ben wrote\n")
    applied = went(ada("apply", str(plan)), 2)
    told = dict(line.split(": ", 1)[::-1] for line in shown(applied) if ": surveys/" in line)
    assert {key.split(" (")[0]: outcome for key, outcome in told.items()} == {
        "surveys/2024.csv": "refused", "surveys/2025.csv": "pushed",
        "surveys/readme.txt": "conflict",
    }  # fmt: skip
    assert lab.has("surveys/2024.csv") == FIRST["surveys/2024.csv"]
    assert lab.has("surveys/readme.txt") == b"What Ben wrote\n"
    assert lab.has("surveys/2025.csv") == b"site,count\n"
    assert lab.has("later.txt") is None


def test_the_bundle_on_a_stick(lab: Repository, desk: Desk, tmp_path: Path) -> None:
    """Ada has no network in the field. Ben publishes from the stick that she gives him."""
    ada, ben = desk("ada"), desk("ben")
    went(ada("prefetch"))
    lab.stop()
    went(ada("put", "surveys/readme.txt", given=b"From the field\n"))
    went(ada("put", "field/notes.txt", given=b"rain\n"))
    stick = tmp_path / "stick.bundle"
    went(ada("bundle", "export", str(stick)))
    lab.start()
    went(ben("bundle", "import", str(stick)))
    went(ben("bundle", "import", str(stick)))  # twice changes nothing
    went(ben("push"))
    assert lab.has("surveys/readme.txt") == b"From the field\n"
    assert lab.has("field/notes.txt") == b"rain\n"
    lab.index()
    again = went(ada("push"))  # back at home
    assert [line for line in shown(again) if line.startswith("pushed")] == []
    assert again.text.count("already there: ") == 2
    stick.write_bytes(stick.read_bytes()[:-100])
    went(ben("bundle", "import", str(stick)), 3)
    went(ben("status"), 0)


def test_the_full_disk(lab: Repository, desk: Desk) -> None:
    """There is room for so much and no more: one sentence, and what was staged is there."""
    ada = desk("ada", 'staged_limit = "100 kB"\n')
    went(ada("put", "small", given=b"x" * 60_000))
    refused = went(ada("put", "large", given=b"x" * 60_000), 3)
    assert refused.err.startswith("mountcache: ")
    assert refused.err.count("\n") == 1
    assert "nothing of it was staged" in refused.err
    assert [line[3:] for line in shown(went(ada("status"), 1))] == ["small"]
    went(ada("push"))
    went(ada("put", "large", given=b"x" * 60_000))
    went(ada("push"))
    assert lab.has("large") == b"x" * 60_000


class Hotel(ScriptedServer):
    """Gives the same page wherever one asks."""

    def script_for(self, request: Request) -> Script:
        page = b"<html><title>Hotel</title>Please log in</html>"
        return Reply(200, page, {"Content-Type": "text/html"})


def test_the_wrong_server(lab: Repository, desk: Desk) -> None:
    """In the hotel every address gives its log-in page: nothing of it is taken for data."""
    ada = desk("ada")
    went(ada("cat", "surveys/2024.csv"))
    went(ada("put", "surveys/2024.csv", given=b"mine\n"))
    settings = ada.folder / "mountcache.toml"
    before = settings.read_text()
    with Hotel() as hotel:
        settings.write_text(before.replace(lab.url, hotel.url))
        refused = went(ada("push"), 3)  # another address is another upstream
        assert "rebind" in refused.err
        settings.write_text(before)
        went(ada("remote", "set-url", hotel.url), 3)  # and not what is meant
    assert settings.read_text() == before
    went(ada("push"))
    assert lab.has("surveys/2024.csv") == b"mine\n"


def test_the_password_that_expired(desk: Desk, tmp_path: Path, ours: Ours) -> None:
    """The server wants a token that Ada no longer has: all stays staged until she has one."""
    store = tmp_path / "repository"
    server = Shell(tmp_path).start(
        "serve", "--store", str(store), "--port", "0", MOUNTCACHE_SERVE_TOKEN="a" * 32
    )
    try:
        assert server.stdout is not None
        assert server.stderr is not None
        url = _url_of(server.stdout.readline() + server.stderr.readline())
        ada = desk("ada", 'auth = "env:LAB_TOKEN"\n')
        settings = ada.folder / "mountcache.toml"
        settings.write_text(settings.read_text().replace(ours.url, url))
        went(ada("put", "k", given=b"mine", LAB_TOKEN="b" * 32))
        refused = ada("push", LAB_TOKEN="b" * 32)
        assert refused.code == 3
        assert "blocked: k" in refused.text
        assert "b" * 32 not in refused.text + refused.err
        went(ada("status", LAB_TOKEN="b" * 32), 1)
        went(ada("push", LAB_TOKEN="a" * 32))
        went(ada("status", LAB_TOKEN="a" * 32), 0)
    finally:
        server.terminate()
        server.communicate()


def _url_of(said: bytes) -> str:
    url = next(word for word in said.decode().split() if word.startswith("http://"))
    return url.rstrip(",.;")


def test_the_upstream_that_moved(ours: Ours, desk: Desk) -> None:
    """The lab has a new server with the same data: what is staged goes there."""
    ada = desk("ada")
    went(ada("prefetch"))
    went(ada("put", "surveys/readme.txt", given=b"Ada's words\n"))
    went(ada("put", "new.txt", given=b"new\n"))
    with Origin({key: (data, {"by": "the lab"}) for key, data in FIRST.items()}) as moved:
        ours.stop()
        went(ada("remote", "set-url", moved.url))
        assert moved.url in (ada.folder / "mountcache.toml").read_text()
        assert {line[3:] for line in shown(went(ada("status"), 1))} == {
            "new.txt", "surveys/readme.txt",
        }  # fmt: skip
        pushed = ada("push")
        assert pushed.code in (0, 2)
        if pushed.code == 2:  # its digest didn't say that it is the same: one look decides
            went(ada("resolve", "surveys/readme.txt", "--mine"))
            went(ada("push"))
        assert moved.store.to_bytes("surveys/readme.txt") == b"Ada's words\n"
        assert moved.store.to_bytes("new.txt") == b"new\n"


def test_what_is_held_back(lab: Repository, desk: Desk) -> None:
    """Ada publishes what is ready, and holds back what isn't."""
    ada = desk("ada")
    went(ada("put", "ready.txt", given=b"ready\n"))
    went(ada("put", "draft.txt", given=b"draft\n"))
    went(ada("hold", "draft.txt"))
    assert "held: draft.txt" in went(ada("push")).text
    assert (lab.has("ready.txt"), lab.has("draft.txt")) == (b"ready\n", None)
    went(ada("unhold", "draft.txt"))
    went(ada("push"))
    assert lab.has("draft.txt") == b"draft\n"


def test_the_change_set(lab: Repository, desk: Desk) -> None:
    """Ada prepares a release over days, looks at it as a whole, and publishes it at once."""
    ada = desk("ada")
    went(ada("put", "unrelated.txt", given=b"not of it\n"))
    went(ada("cat", "surveys/2024.csv"))
    went(ada("put", "surveys/2025.csv", "--group", "release", given=b"site,count\n"))
    went(ada("mv", "surveys/readme.txt", "surveys/README", "--group", "release"))
    went(ada("rm", "surveys/2024.csv", "--group", "release"))
    status = went(ada("status", "--group", "release"), 1).text
    assert status.startswith("release: ")
    assert "unrelated" not in status
    held = went(ada("hold", "surveys/README")).text.splitlines()
    assert "held back: surveys/README" in held
    assert "held back: surveys/2025.csv (it belongs to what was named)" in held
    went(ada("push"))
    assert lab.names() == ["surveys/2024.csv", "surveys/readme.txt", "unrelated.txt"]
    went(ada("unhold", "--group", "release"))
    assert "unrelated" not in went(ada("diff", "--stat", "--group", "release")).text
    pushed = went(ada("push", "--group", "release")).text
    how = "as one change" if isinstance(lab, Ours) else "key by key"
    assert f"complete: release: 4 keys, {how}" in pushed
    assert lab.names() == ["surveys/2025.csv", "surveys/README", "unrelated.txt"]
    went(ada("revert", "--group", "release"), 3)
    went(ada("put", "a", "--group", "next", given=b"a"))
    went(ada("meta", "a", "by=ada", "--group", "next"))
    went(ada("cp", "a", "b", "--group", "next"))
    went(ada("revert", "--group", "next"))
    went(ada("status"), 0)
