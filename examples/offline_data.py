"""Offline data caching: read a remote data set once, and go on with it when the network is gone.

Run it as ``python examples/offline_data.py``. It starts a server of its own on loopback to have
something to read from; with a repository of yours, only `URL` would be different.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mountcache import (
    DiskCacheStore,
    DynamicURLStore,
    MountedStore,
    StoreUnavailableError,
    StringValue,
)
from mountcache.serve import Origin
from mountcache.sync import prefetch


def fill(directory: Path) -> None:
    """Put a few tables into the directory that the server serves."""
    with DiskCacheStore(directory) as store:
        for year in (2023, 2024, 2025):
            rows = "".join(f"{year}-{month:02d},{month * 7 % 5}\n" for month in range(1, 13))
            store.set(
                f"surveys/{year}.csv", StringValue(rows.encode(), {"year": year, "unit": "mm"})
            )


def main() -> None:
    """Read online, then offline, then after a restart without network."""
    with tempfile.TemporaryDirectory() as scratch:
        fill(Path(scratch, "origin"))
        origin = Origin(Path(scratch, "origin")).start()
        url = origin.url

        def mount() -> MountedStore:
            return MountedStore(
                "surveys/",
                DiskCacheStore(Path(scratch, "cache")),
                DynamicURLStore(f"{url}keys", f"{url}query"),
            )

        with mount() as store:
            first = store.to_bytes("surveys/2024.csv")
            print("read 2024:", store.get("surveys/2024.csv").source)
            store.update_index()
            report = prefetch(store, "surveys/*")
            print("prefetched:", report.fetched, "here already:", report.already)

        origin.stop()
        with mount() as store:
            value = store.get("surveys/2024.csv")
            with value.data as data:
                assert data.read() == first
            print("offline:", value.source, value.metadata["unit"])
            print("query:", ", ".join(store.query_keys(year=2025)))
            store.drop("surveys/2023.csv")
            try:
                store.to_bytes("surveys/2023.csv")
            except StoreUnavailableError:
                print("2023 isn't here: upstream can't be asked")


if __name__ == "__main__":
    main()
