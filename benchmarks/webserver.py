"""nginx, which gives files to us and to our peers, and is a peer of our proxy itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.surroundings import NotHere, program

__all__ = ["files", "nginx", "repository"]


def repository(root: Path, contents: Mapping[str, bytes]) -> None:
    """Write keys as files under ``data/`` with an ``index.json``, as a static layout has them.

    They are an hour old: of what was changed this minute no time says that it is current.
    """
    hour_ago = time.time() - 3600
    for key, data in contents.items():
        path = root / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (hour_ago, hour_ago))
    index = {key: {"n": number} for number, key in enumerate(contents)}
    path = root / "index.json"
    path.write_text(json.dumps(index))
    os.utime(path, (hour_ago, hour_ago))


@contextmanager
def files(root: Path, expires: str = "1h") -> Iterator[str]:
    """Give the URL of an nginx with the files of a folder, which it lists and lets be kept.

    Parameters
    ----------
    expires
        For how long; "-1": to be asked about before each use.
    """
    with nginx(f'root "{root}"; autoindex on; expires {expires};') as url:
        yield url


@contextmanager
def nginx(location: str, http: str = "") -> Iterator[str]:
    """Run nginx with one worker and no logs of requests, at a free port; give its URL.

    Parameters
    ----------
    location
        Directives for "/".
    http
        Directives for all of it; "FOLDER" is one of its own.

    Raises
    ------
    NotHere
        If there is no nginx.
    """
    path = program("nginx")
    if path is None:
        raise NotHere("nginx isn't installed")
    # It inherits a socket that listens already: nobody else can take the port in between.
    with (
        tempfile.TemporaryDirectory(prefix="nginx-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
    ):
        port = listening.getsockname()[1]
        listening.set_inheritable(True)
        config = Path(folder) / "nginx.conf"
        config.write_text(_written(folder, port, location, http.replace("FOLDER", folder)))
        process = subprocess.Popen(
            [path, "-p", folder, "-c", str(config), "-e", f"{folder}/error.log"],
            env={**os.environ, "NGINX": f"{listening.fileno()};"},
            pass_fds=(listening.fileno(),),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
                wire.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
                assert wire.recv(1), Path(folder, "error.log").read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


def _written(folder: str, port: int, location: str, http: str) -> str:
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root it would give up its rights, and with them our files.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
        daemon off;
        {user}
        worker_processes 1;
        pid {folder}/nginx.pid;
        events {{ worker_connections 1024; }}
        http {{
            {temporary}
            default_type application/octet-stream;
            access_log off;
            sendfile on;
            tcp_nodelay on;
            keepalive_requests 1000000;
            {http}
            server {{
                listen 127.0.0.1:{port};
                location / {{ {location} }}
            }}
        }}
    """
