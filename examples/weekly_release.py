"""A weekly release by two people: two directories, one repository, and a conflict resolved.

Ada collects the tables of the week and releases them together, Ben checks them. Both work
offline on their own copies; who pushes second hears of what the other did, and nothing of either
is lost.

    python examples/weekly_release.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue
from mountcache.serve import Origin
from mountcache.sync import prefetch, push, status


def main() -> None:
    """Go through two weeks."""
    with tempfile.TemporaryDirectory() as scratch:
        origin = Origin(Path(scratch, "repository")).start()
        url = origin.url

        def mount(author: str) -> MountedStore:
            remote = DynamicURLStore(f"{url}keys", f"{url}query")
            return MountedStore(
                "weekly/", DiskCacheStore(Path(scratch, author)), remote, author=author
            )

        with mount("ada") as ada, mount("ben") as ben:
            # Monday: Ada stages the week as one change, looks at it, and sends it.
            with ada.transaction("week 31"):
                for table in ("births", "rain", "traffic"):
                    ada.set(f"weekly/31/{table}.csv", StringValue(b"n\n1\n", {"state": "draft"}))
                ada.set("weekly/latest", StringValue(b"31", {}))
            print("ada stages:", ", ".join(edit.key for edit in status(ada).edits))
            assert push(ada).ok

            # Tuesday: Ben takes all of it along.
            ben.update_index()
            print("ben takes along:", prefetch(ben, "weekly/31/*").fetched, "tables")
            ben.to_bytes("weekly/latest")

        origin.stop()
        with mount("ben") as ben:
            # On the train he corrects a table, and marks what he has checked.
            ben.from_bytes("weekly/31/rain.csv", b"n\n2\n")
            for key in sorted(ben.glob("weekly/31/*")):
                ben.update_metadata(key, {"state": "checked", "by": "ben"})
            print("ben, offline:", len(status(ben).edits), "edits staged")

        origin.start()
        with mount("ada") as ada, mount("ben") as ben:
            # Meanwhile Ada has found a fault in the same table, and noted where it is from.
            ada.get("weekly/31/rain.csv")
            ada.from_bytes("weekly/31/rain.csv", b"n\n3\n")
            ada.update_metadata("weekly/31/births.csv", {"source": "register"})
            assert push(ada).ok

            for result in push(ben).results:
                print(f"ben pushes: {result.key} {result.outcome}")
            # What says different things of the same key can be merged name by name ...
            merged = push(ben, on_conflict="merge-metadata")
            # ... but whose rain it was, they have to ask each other. Both versions are there.
            (left,) = status(ben).edits
            print("left to decide:", left.key)
            assert not merged.ok
            assert push(ben, on_conflict="keep-both").ok
            kept = list(ben.glob("weekly/31/rain.csv.conflict-*"))
            theirs, mine = ben.to_bytes("weekly/31/rain.csv"), ben.to_bytes(kept[0])
            print("both kept:", theirs.decode().split()[1], "and", mine.decode().split()[1])

            # They agree on Ben's; Ada releases it under its name, and takes the other away.
            ada.set(
                "weekly/31/rain.csv", ada.get(kept[0]), base=ada.get("weekly/31/rain.csv").version
            )
            ada.delete(kept[0])
            assert push(ada).ok
            print("released:", ben.to_bytes("weekly/31/rain.csv").decode().split()[1])
            print("births:", ben.get_metadata("weekly/31/births.csv"))
            print("keys:", len(list(ben.glob("weekly/*"))))
        origin.stop()


if __name__ == "__main__":
    main()
