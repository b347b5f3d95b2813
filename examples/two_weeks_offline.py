"""Two weeks without a network: take a server's files along, work on them, bring the new ones back.

The server is what a group often has, an nginx that lists its folders and takes PUT (``autoindex``
and ``dav_methods``), with no index and nothing of ours. This script starts one of its own, so
nginx has to be installed, as has matplotlib for the plot:

    python examples/two_weeks_offline.py [PLOT]
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mountcache import DiskCacheStore, ListingURLStore, MountedStore, StringValue
from mountcache.sync import prefetch, push

STATIONS = ("north", "south", "west")
FILES = 400


class Nginx:
    """The server, on loopback; `stop` is the day when the network goes."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            sys.exit("this example wants nginx: apt install nginx-light")
        self._command = [found, "-p", str(folder), "-e", "error.log", "-c", "nginx.conf"]
        self.files = folder / "files"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        (folder / "nginx.conf").write_text(f"""
            daemon off; pid nginx.pid;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{}}
            http {{
                access_log off;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                server {{
                    listen {self.url[7:-1]};
                    root "{self.files}";
                    autoindex on; autoindex_format json;
                    dav_methods PUT DELETE; create_full_put_path on;
                }}
            }}
        """)

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self._running = subprocess.Popen(self._command)
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(self.url[17:-1]))).close()
            except ConnectionRefusedError:
                if self._running.poll() is not None:
                    sys.exit("nginx didn't start; its error.log says why")
            else:
                return

    def stop(self) -> None:
        """End it."""
        self._running.terminate()
        self._running.wait()


def fill(files: Path) -> None:
    """Put a year of temperatures onto the server."""
    for number, station in enumerate(STATIONS):
        (files / "stations" / station).mkdir(parents=True)
        for month in range(1, 13):
            rows = "".join(
                f"{month},{day},{9 - 12 * math.cos(month / 6 * math.pi) + number + day % 5:.1f}\n"
                for day in range(1, 29)
            )
            (files / "stations" / station / f"{month:02}.csv").write_text(f"month,day,t\n{rows}")
    (files / "stations" / "README.txt").write_text("Temperatures, degrees Celsius.\n")


def analyse(store: MountedStore, target: Path) -> None:
    """Plot the monthly means, as a notebook would."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for station in STATIONS:
        means = []
        for key in sorted(store.glob(f"stations/{station}/*.csv")):
            with store.open(key) as file:
                rows = list(csv.DictReader(line.decode() for line in file))
            means.append(sum(float(row["t"]) for row in rows) / len(rows))
        axes.plot(range(1, 13), means, marker="o", label=station)
    axes.set(title="Monthly means", xlabel="month", ylabel="degrees Celsius")
    axes.legend()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stations"}):
        figure.savefig(target)


def main(target: Path) -> None:
    """Go away with the files, and come back with new ones."""
    with tempfile.TemporaryDirectory() as scratch:
        server = Nginx(Path(scratch))
        fill(server.files)
        server.start()

        def mount() -> MountedStore:
            return MountedStore(
                "",
                DiskCacheStore(Path(scratch, "cache")),
                ListingURLStore(server.url, write="put"),
                author="ada",
            )

        with mount() as store:
            taken = prefetch(store, "stations/*")
            print(f"before: {taken.fetched} files are here now")

        server.stop()
        with mount() as store:
            analyse(store, target)
            print(f"away: plotted {len(list(store.glob('*.csv')))} files -> {target.name}")
            with store.transaction("the field trip"):
                for number in range(FILES):
                    rows = "".join(f"{second},{number * second % 7}\n" for second in range(60))
                    store.set(f"trip/{number // 30:02}/{number:03}.csv", StringValue(rows.encode()))
            with store.open("stations/README.txt", "wb") as file:
                file.write(b"Temperatures, degrees Celsius. The trip is under trip/.\n")
        # Meanwhile, at home.
        readme = server.files / "stations" / "README.txt"
        readme.write_text("Temperatures at 2 m, degrees Celsius.\n")

        with mount() as store:
            print(f"away: {len(list(store.staged()))} edits are staged, and survive a restart")
        server.start()
        with mount() as store:
            sent = push(store)
            pushed = [each for each in sent.results if each.outcome == "pushed"]
            grades = {each.grade for each in pushed if each.verified}
            print(f"back: {len(pushed)} pushed and verified, grade {', '.join(map(str, grades))}")
            for result in sent.conflicts:
                print(f"back: {result.key} was changed at home too; nothing was overwritten")
            store.update_index()
            print(f"back: {len(list(store.glob('trip/*')))} files of the trip are on the server")
        server.stop()
        assert len(list(server.files.glob("trip/*/*.csv"))) == FILES
        assert "2 m" in readme.read_text()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "stations.svg"))
