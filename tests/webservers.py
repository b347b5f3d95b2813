"""Real web servers for tests: nginx, and Apache."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.faultserver import PATIENCE, listening

__all__ = ["Apache", "Nginx", "apache", "nginx"]


class Nginx:
    """A real nginx that gives the files of a folder, at a free port of this machine.

    Started again, it is at the same port. It runs as the user of the
    tests: so it may read what they write.

    Parameters
    ----------
    root
        The folder.
    dav
        Whether it takes PUT and DELETE.
    config
        Directives for the location "/".
    """

    def __init__(self, root: Path, *, dav: bool = False, config: str = "") -> None:
        self.root = root
        self.port = 0
        self._dav = "dav_methods PUT DELETE; create_full_put_path on;" if dav else ""
        self._config = config
        self._prefix: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The root, ending in "/"."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def requests(self) -> list[str]:
        """What was asked so far: method, target, status."""
        assert self._prefix is not None
        # A line is written after its answer was sent: one more request tells that all are there.
        mark = f"/mark-{uuid.uuid4().hex}"
        with socket.create_connection(("127.0.0.1", self.port)) as asking:
            asking.sendall(f"GET {mark} HTTP/1.0\r\n\r\n".encode())
            while asking.recv(65536):
                continue
        lines: list[str] = []
        while not any(mark in line for line in lines):
            lines = (self._prefix / "access.log").read_text().splitlines()
        return [line for line in lines if "/mark-" not in line]

    def start(self) -> Self:
        """Start nginx; connections are taken when this returns."""
        assert self._process is None, "nginx is running"
        # nginx inherits a socket that listens already: no other process can have taken the
        # port in between, and connections wait until it has come up.
        with listening(self.port) as waiting:
            self.port = waiting.getsockname()[1]
            if self._prefix is None:
                self._prefix = Path(tempfile.mkdtemp(prefix="nginx-"))
            (self._prefix / "nginx.conf").write_text(self._written())
            program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
            assert program is not None, "nginx isn't installed"
            command = [program, "-p", str(self._prefix), "-c", str(self._prefix / "nginx.conf")]
            with (self._prefix / "error.log").open("ab") as said:
                self._process = subprocess.Popen(
                    [*command, "-e", str(self._prefix / "error.log")],
                    env={**os.environ, "NGINX": f"{waiting.fileno()};"},
                    pass_fds=(waiting.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stderr=said,
                )
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as wire:
                wire.sendall(b"GET /-up HTTP/1.0\r\n\r\n")
                assert wire.recv(1)
        except (OSError, AssertionError):
            log = (self._prefix / "error.log").read_text()
            self.close()
            raise AssertionError(f"nginx didn't start: {log}") from None
        return self

    def stop(self) -> None:
        """End nginx; from then on connections are refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End nginx, and remove its logs."""
        self.stop()
        if self._prefix is not None:
            shutil.rmtree(self._prefix)
            self._prefix = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _written(self) -> str:
        temporary = "\n".join(
            f"{name}_temp_path {self._prefix}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # As root it would give up its rights, and with them the tests' files.
        user = "user root;" if os.geteuid() == 0 else ""
        return f"""
            daemon off;
            {user}
            worker_processes 1;
            pid {self._prefix}/nginx.pid;
            events {{ worker_connections 512; }}
            http {{
                {temporary}
                types {{ text/html html; application/json json; text/csv csv; text/plain txt; }}
                default_type application/octet-stream;
                log_format short '$request_method $request_uri $status';
                access_log {self._prefix}/access.log short if=$logged;
                map $request_uri $logged {{ "/-up" 0; default 1; }}
                server {{
                    listen 127.0.0.1:{self.port};
                    server_name localhost;
                    client_max_body_size 0;
                    root "{self.root}";
                    location / {{ {self._dav} {self._config} }}
                    location = /-up {{ return 204; }}
                }}
            }}
        """


@pytest.fixture
def nginx() -> Iterator[Callable[..., Nginx]]:
    """Give a function that starts nginx on a folder; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda root, **others: running.enter_context(Nginx(root, **others))


class Apache:
    """A real Apache that lists and gives the files of a folder, at a free port of this machine.

    Parameters
    ----------
    root
        The folder.
    dav
        Whether it takes PUT, DELETE and MKCOL, as mod_dav does.
    config
        Directives for the folder.
    """

    def __init__(self, root: Path, *, dav: bool = False, config: str = "") -> None:
        self.root = root
        self.port = 0
        self._config = ("Dav On\n" if dav else "") + config
        self._prefix: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The root, ending in "/"."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> Self:
        """Start Apache; connections are taken when this returns."""
        assert self._process is None, "Apache is running"
        self._prefix = self._prefix or Path(tempfile.mkdtemp(prefix="apache-"))
        self._prefix.chmod(0o755)
        # It takes no socket that listens already: another process may be faster at the port.
        for _ in range(5):
            if self._runs(self._prefix):
                return self
            self.port = 0
        log = (self._prefix / "error.log").read_text()
        self.close()
        raise AssertionError(f"Apache didn't start: {log}")

    def _runs(self, prefix: Path) -> bool:
        with listening(self.port) as free:
            self.port = free.getsockname()[1]
        (prefix / "apache.conf").write_text(self._written(prefix))
        program = shutil.which("apache2", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "apache2 isn't installed"
        command = [program, "-d", str(prefix), "-f", str(prefix / "apache.conf"), "-DFOREGROUND"]
        if os.geteuid() == 0:
            # It refuses to be root. As nobody with this right it may read what the tests write.
            right = "+dac_override"
            command = [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *(f"--inh-caps={right}", f"--ambient-caps={right}", *command),
            ]
        with (prefix / "error.log").open("ab") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        ends = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self.stop()
        return False

    def stop(self) -> None:
        """End Apache; from then on connections are refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End Apache, and remove its logs."""
        self.stop()
        if self._prefix is not None:
            shutil.rmtree(self._prefix)
            self._prefix = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _written(self, prefix: Path) -> str:
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in ("mpm_event", "authz_core", "dir", "autoindex", "mime", "dav", "dav_fs")
        )
        return f"""
            ServerName localhost
            Listen 127.0.0.1:{self.port}
            PidFile {prefix}/apache.pid
            DefaultRuntimeDir {prefix}
            ErrorLog {prefix}/error.log
            {modules}
            ServerLimit 1
            StartServers 1
            ThreadsPerChild 32
            MaxRequestWorkers 32
            Timeout {PATIENCE:.0f}
            TypesConfig /dev/null
            AddType text/html .html
            AddType text/csv .csv
            DavLockDB {prefix}/locks
            DocumentRoot "{self.root}"
            <Directory "{self.root}">
                Require all granted
                Options Indexes FollowSymLinks
                {self._config}
            </Directory>
        """


@pytest.fixture
def apache() -> Iterator[Callable[..., Apache]]:
    """Give a function that starts Apache on a folder; all are stopped at the end of the test."""
    with ExitStack() as running:
        yield lambda root, **others: running.enter_context(Apache(root, **others))
