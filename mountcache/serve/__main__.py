"""``python -m mountcache.serve``: the origin as a process of its own."""

from __future__ import annotations

import argparse
import os
import sys

from mountcache.errors import StoreError
from mountcache.local.disk import DiskCacheStore
from mountcache.serve.doors import read_token
from mountcache.serve.run import run_origin


def main() -> None:
    """Serve the directory that the command line names."""
    parser = argparse.ArgumentParser("python -m mountcache.serve", description=__doc__)
    parser.add_argument("--store", required=True, help="directory of the store")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-fd", type=int, help="where the URL is written, and closed")
    parser.add_argument("--lifeline-fd", type=int, help="a pipe whose end stops the server")
    given = parser.parse_args()

    def ready(url: str) -> None:
        if given.ready_fd is not None:
            os.write(given.ready_fd, url.encode())
            os.close(given.ready_fd)

    try:
        run_origin(
            DiskCacheStore(given.store), given.host, given.port, ready, lifeline=given.lifeline_fd,
            token=read_token(),
        )  # fmt: skip
    except StoreError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
