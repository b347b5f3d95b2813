"""What status shows beside the two letters: held, pinned, stale, failed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountcache import sync
from mountcache.backing.dynamic import DynamicURLStore
from mountcache.backing.static import StaticURLStore
from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.sync import Rule
from mountcache.testing import Origin
from tests.command import Inside

KEYS = {"a": (b"a", {}), "b c/ü": (b"b", {"n": 1})}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(KEYS) as server:
        yield server


@pytest.fixture
def shell(tmp_path: Path, origin: Origin) -> Inside:
    (tmp_path / "mountcache.toml").write_text(f'url = "{origin.url}"\nauthor = "me"\n')
    return Inside(tmp_path)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


Opened = Callable[..., MountedStore]


@pytest.fixture
def opened(origin: Origin, tmp_path: Path) -> Iterator[Opened]:
    stores: list[MountedStore] = []

    def opens(*, static: bool = False, **more: object) -> MountedStore:
        backing: StaticURLStore | DynamicURLStore = StaticURLStore(origin.url, poll=60)
        if not static:
            backing = DynamicURLStore(f"{origin.url}keys", f"{origin.url}query")
        store = MountedStore("", DiskCacheStore(tmp_path / "here"), backing, **more)  # type: ignore[arg-type]
        store.connect()
        stores.append(store)
        return store

    yield opens
    for store in stores:
        store.disconnect()


def flags(store: MountedStore, *, remote: bool = False) -> dict[str, tuple[bool, bool]]:
    found = sync.status(store, remote=remote).edits
    return {edit.key: (edit.pinned, edit.stale) for edit in found}


def test_a_staged_key_whose_copy_is_pinned_says_so(opened: Opened) -> None:
    store = opened()
    store.pin("a")
    store.set_data("a", io.BytesIO(b"mine"))
    store.set_data("new", io.BytesIO(b"new"))
    assert flags(store) == {"a": (True, False), "new": (False, False)}
    assert store.push("a").outcome == "pushed"
    assert [each.key for each in sync.residents(store, "pinned")] == ["a"]
    store.delete("a")
    store.unpin("a")
    assert flags(store)["a"] == (False, False)


@pytest.mark.parametrize(
    ("options", "rules", "static", "limit"),
    [
        ({}, [], False, 86400.0),
        ({}, [], True, 60.0),
        ({"max_age": 600.0}, [], False, 600.0),
        ({"max_age": 600.0}, [Rule("a", max_age=30.0)], False, 30.0),
    ],
    ids=["a day", "poll", "max_age", "rule"],
)
def test_what_upstream_said_is_stale_after_its_time_and_not_before(
    opened: Opened, options: dict[str, float], rules: list[Rule], *, static: bool, limit: float
) -> None:
    clock = Clock()
    store = opened(static=static, clock=clock, rules=rules, **options)
    store.to_bytes("a")
    store.set_data("a", io.BytesIO(b"mine"))
    clock.ahead = limit - 20
    assert flags(store) == {"a": (False, False)}
    clock.ahead = limit + 1
    assert flags(store) == {"a": (False, True)}
    (edit,) = sync.status(store).edits
    assert edit.checked is not None
    assert clock() - edit.checked > limit
    # A look is one, and a day's work without one changes nothing.
    assert flags(store, remote=True) == {"a": (False, False)}
    assert flags(store) == {"a": (False, True)}


def test_what_was_never_asked_is_unknown_and_not_stale(opened: Opened, origin: Origin) -> None:
    clock = Clock()
    origin.stop()
    store = opened(clock=clock)
    store.set("new", (io.BytesIO(b"new"), {}))
    clock.ahead = 1e6
    (edit,) = sync.status(store).edits
    assert (edit.upstream, edit.stale, edit.checked) == ("unknown", False, None)


def test_flags_are_those_of_each_key(shell: Inside, origin: Origin) -> None:
    assert shell("pin", "a", "b c/ü").code == 0
    assert shell("put", "a", given=b"mine").code == 0
    assert shell("put", "new", given=b"new").code == 0
    assert shell("hold", "new").code == 0
    origin.change("a", b"theirs", {})
    assert shell("push").code == 2
    assert shell("push", "a").code == 2
    assert shell("put", "b c/ü", given=b"mine").code == 0
    assert shell("status", "--porcelain").text == "MC a\nA? new\nM= b c/ü\n"
    names = ("held", "pinned", "stale", "failed", "tries")
    edits = shell("status", "--json").documents[0]["staged"]
    assert {edit["key"]: tuple(edit[name] for name in names) for edit in edits} == {
        "a": (False, True, False, True, 2),
        "new": (True, False, False, False, 0),
        "b c/ü": (False, True, False, False, 0),
    }


def test_flags_are_words_on_the_page_and_names_in_json(shell: Inside) -> None:
    assert shell("pin", "a").code == 0
    assert shell("put", "a", given=b"mine").code == 0
    shown = shell("status", COLUMNS="40")
    assert shown.text == "M= a  (me, just now, 4 bytes, pinned)\n"
    assert "stale" not in shown.err
    (edit,) = shell("status", "--json").documents[0]["staged"]
    assert (edit["pinned"], edit["stale"], edit["failed"], edit["tries"]) == (True, False, False, 0)
    assert edit["checked"] == pytest.approx(time.time(), abs=600)
    settings = (shell.folder / "mountcache.toml").read_text()
    (shell.folder / "mountcache.toml").write_text(f"{settings}max_age = 0\n")
    shown = shell("status")
    assert shown.text == "M= a  (me, just now, 4 bytes, pinned, stale)\n"
    assert "stale: upstream was asked last just now; `mountcache status --remote`" in shown.err
