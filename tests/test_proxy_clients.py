"""The proxy as a command, and the clients that people have."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import requests

from mountcache.testing import Origin
from tests.command import Shell
from tests.servers import Nginx, nginx

__all__ = ["nginx"]

TABLE = b"year,height\n2023,3.5\n2024,3.7\n"
PAGE = b"<!doctype html><title>t</title><p id=said>read through the cache</p>"


@dataclass
class Proxy:
    url: str
    site: Nginx
    shell: Shell
    process: subprocess.Popen[bytes]


@pytest.fixture
def proxy(nginx: Callable[..., Nginx], tmp_path: Path) -> Iterator[Proxy]:
    """``mountcache serve`` in front of files under nginx."""
    root, here = tmp_path / "site", tmp_path / "here"
    (root / "data").mkdir(parents=True)
    here.mkdir()
    index = {}
    for key, data in (("t.csv", TABLE), ("page.html", PAGE), ("big.bin", bytes(3_000_000))):
        (root / "data" / key).write_bytes(data)
        os.utime(root / "data" / key, (1_600_000_000, 1_600_000_000))
        index[key] = {"size": len(data)}
    (root / "index.json").write_text(json.dumps(index))
    site = nginx(root)
    shell = Shell(here)
    assert shell("init", site.url).code == 0
    process = shell.start("serve", "--port", "0", "--json")
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert said["upstream"] == site.url
    yield Proxy(said["url"], site, shell, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b""), err.decode()


def test_curl_urllib_requests_and_pandas_share_one_cache(proxy: Proxy, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl isn't installed"

    def run(*arguments: str) -> str:
        command = [curl, "-sS", "--max-time", "30", "-w", "%{http_code}", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()

    url = f"{proxy.url}data/t.csv"
    got, kept = tmp_path / "got", tmp_path / "etag"
    assert run("-o", str(got), "--etag-save", str(kept), url) == "200"
    assert got.read_bytes() == TABLE
    assert run("-o", str(got), "--etag-compare", str(kept), url) == "304"
    assert pd.read_csv(url)["height"].tolist() == [3.5, 3.7]
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == TABLE
    with requests.Session() as session:
        assert session.get(url, timeout=30).content == TABLE
        with ThreadPoolExecutor(8) as threads:
            big = f"{proxy.url}data/big.bin"
            for each in threads.map(lambda _: requests.get(big, timeout=30).content, range(8)):
                assert each == bytes(3_000_000)
    wanted = [line for line in proxy.site.requests if "GET /data/t.csv" in line]
    assert len(wanted) == 1, proxy.site.requests
    proxy.site.stop()
    assert pd.read_csv(url)["height"].tolist() == [3.5, 3.7]
    assert run("-r", "0-3", url) == "year206"
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(f"{proxy.url}data/page.html", timeout=30)
    assert found.value.code == 504
    # What is written is staged, and shows.
    here = tmp_path / "more.csv"
    pd.DataFrame({"year": [2025]}).to_csv(here, index=False)
    assert run("-T", str(here), "-H", "Mountcache-Metadata: e30", f"{proxy.url}data/") == "201"
    assert pd.read_csv(f"{proxy.url}data/more.csv")["year"].tolist() == [2025]
    assert run("-X", "DELETE", url) == "204"
    assert run("-o", os.devnull, url) == "404"
    status = proxy.shell("status", "--json")
    assert {each["key"] for each in status.documents[0]["staged"]} == {"more.csv", "t.csv"}


def test_a_browser_reads_through_the_cache(proxy: Proxy, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser is not None, "chromium isn't installed"
    command = [
        browser,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", f"--user-data-dir={tmp_path / 'profile'}", "--no-proxy-server"),
    ]
    shown = subprocess.run(
        [*command, "--dump-dom", f"{proxy.url}data/page.html"],
        capture_output=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    ).stdout
    assert b"read through the cache" in shown
    assert any("GET /data/page.html" in line for line in proxy.site.requests)
    digest = hashlib.sha256(PAGE).hexdigest()
    proxy.site.stop()
    again = requests.get(f"{proxy.url}data/page.html", timeout=30)
    assert hashlib.sha256(again.content).hexdigest() == digest


def test_each_mount_of_a_file_is_served_under_its_name(tmp_path: Path) -> None:
    with Origin({"a": (b"1", {})}) as one, Origin({"a": (b"2", {})}) as two:
        shell = Shell(tmp_path)
        for name, origin in (("one", one), ("two", two)):
            assert shell("init", origin.url, "--name", name).code == 0
        process = shell.start("serve", "--port", "0")
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(2)]
        assert "mountcache --mount two push" in lines[1]
        urls = [line.partition(" at ")[2].partition(",")[0] for line in lines]
        assert [requests.get(f"{url}data/a", timeout=30).text for url in urls] == ["1", "2"]
        assert requests.put(f"{urls[1]}data/new", b"x", timeout=30).ok
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
        (line,) = shell("--mount", "two", "status", "--json").documents
        assert [each["key"] for each in line["staged"]] == ["new"]
        only = shell.start("--mount", "one", "serve", "--port", "0", "--json")
        assert only.stdout is not None
        said = json.loads(only.stdout.readline())
        assert said["url"].endswith("/one/")
        only.terminate()
        only.communicate(timeout=60)


def test_a_proxy_without_a_configuration_says_what_to_do(tmp_path: Path) -> None:
    ended = Shell(tmp_path)("serve")
    assert ended.code == 3
    assert "mountcache init URL" in ended.err
