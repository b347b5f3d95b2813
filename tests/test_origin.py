"""The server for the tests of others, and what docs/testing.md promises of it."""

from __future__ import annotations

import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from mountcache.local.disk import DiskCacheStore
from mountcache.mounted import MountedStore
from mountcache.testing import Origin
from tests.command import ROOT
from tests.serve.proxies import client_of

PAGE = (ROOT / "docs" / "testing.md").read_text()
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", EXAMPLE))
def test_example_on_the_page_runs(name: str, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(compile(EXAMPLE, "testing.md", "exec"), scope)
    scope[name](tmp_path)


def test_every_public_name_of_it_is_on_the_page() -> None:
    names = {name for name in dir(Origin) if not name.startswith("_")}
    names |= {name for name in vars(Origin()) if not name.startswith("_")}
    for name in names:
        assert f"`{name}" in PAGE or f", `{name}" in PAGE, name


def test_counts_on_the_page_are_those_of_a_store(tmp_path: Path) -> None:
    with Origin({"a": (b"12345", {})}) as origin:
        upstream = client_of(origin.url, "dynamic")
        with MountedStore("", DiskCacheStore(tmp_path), upstream, max_age=60) as store:
            section = PAGE.partition("## Counts")[2]
            assert set(re.findall(r"`(\w+_\w+|hits|misses)`", section)) == set(store.stats())
            for _ in range(3):
                store.to_bytes("a")
            store.from_bytes("b", b"mine")
            store.to_bytes("b")
            found = store.stats()
            assert (found["hits"], found["misses"], found["fetched_bytes"]) == (3, 1, 5)
            assert (found["staged_keys"], found["cached_keys"]) == (1, 1)


def test_failures_and_delays_are_those_that_were_asked_for() -> None:
    with Origin({"a": (b"1", {})}) as origin:
        url = f"{origin.url}data/a"
        origin.fail(2, 500)
        origin.fail(status=404)
        assert [requests.get(url, timeout=20).status_code for _ in range(4)] == [500, 500, 404, 200]
        assert requests.head(url, timeout=20).status_code == 200
        assert {(each.method, each.path) for each in origin.requests} == {
            ("GET", "/data/a"),
            ("HEAD", "/data/a"),
        }
        origin.delay = 0.2
        begun = time.monotonic()
        requests.get(url, timeout=20)
        assert time.monotonic() - begun >= 0.2


def test_a_stop_frees_who_is_made_to_wait() -> None:
    with Origin({"a": (b"1", {})}) as origin, ThreadPoolExecutor(1) as threads:
        origin.delay = 3600.0
        asked = threads.submit(requests.get, f"{origin.url}data/a", timeout=60)
        while not origin.requests:
            pass
        origin.stop()
        assert asked.exception() is not None or asked.result().status_code
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{origin.url}data/a", timeout=20)
        origin.delay = 0.0
        url = origin.url
        origin.start()
        assert origin.url == url
        assert requests.get(f"{url}data/a", timeout=20).content == b"1"


@pytest.mark.parametrize("layout", ["dynamic", "static"])
def test_freshness_goes_by_the_clock_that_was_given(layout: str, tmp_path: Path) -> None:
    now = [4_000_000_000.0]
    with Origin({"a": (b"1", {})}) as origin:
        upstream = client_of(origin.url, layout)
        mount = MountedStore(
            "", DiskCacheStore(tmp_path), upstream, max_age=60, clock=lambda: now[0]
        )
        with mount as store:
            store.to_bytes("a")
            origin.requests.clear()
            now[0] += 59
            assert store.get("a").age == pytest.approx(59)
            assert origin.requests == []
            now[0] += 2
            store.get("a")
            assert len(origin.requests) == 1
            now[0] -= 500  # a clock that was put back makes nothing fresher
            store.get("a")
            assert len(origin.requests) > 1


def test_the_log_has_no_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Origin() as origin:
        upstream = client_of(origin.url, "static")
        with (
            caplog.at_level(logging.DEBUG, "mountcache"),
            MountedStore("", DiskCacheStore(tmp_path), upstream) as store,
        ):
            store.backing_store.connect(("ada", "opensesame"))
            store.update_index()
            origin.stop()
            with pytest.raises(Exception, match="a"):
                store.with_options(max_age=0).to_bytes("a")
            assert any("out of reach" in each.message for each in caplog.records)
    assert "opensesame" not in caplog.text
    assert {each.name for each in caplog.records if "mountcache" in each.name} == {"mountcache"}
