"""Staged uploads: collect results in one transaction, look at them, and push them when ready.

Two people write to one repository here. What both changed is a conflict, which is shown and
then resolved; nothing is overwritten unseen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mountcache import DiskCacheStore, DynamicURLStore, MountedStore, StringValue
from mountcache.serve import Origin
from mountcache.sync import push, status


def main() -> None:
    """Stage, push, meet a conflict, resolve it."""
    with tempfile.TemporaryDirectory() as scratch, Origin(Path(scratch, "origin")) as origin:

        def mount(author: str) -> MountedStore:
            return MountedStore(
                "runs/",
                DiskCacheStore(Path(scratch, author)),
                DynamicURLStore(f"{origin.url}keys", f"{origin.url}query"),
                author=author,
            )

        with mount("ada") as ada, mount("ben") as ben:
            with ada.transaction("the runs of Monday"):
                for number in range(3):
                    ada.set(f"runs/{number}.txt", StringValue(b"42\n", {"by": "ada"}))
            for edit in status(ada).edits:
                print(f"staged: {edit.key} ({edit.notes})")
            print("pushed:", sum(each.outcome == "pushed" for each in push(ada).results))

            ben.update_metadata("runs/1.txt", {"checked": True})
            ada.from_bytes("runs/0.txt", b"43\n")
            ben.from_bytes("runs/0.txt", b"41\n")
            push(ada)
            for result in push(ben).results:
                print(f"ben: {result.key} {result.outcome}")
            conflict = status(ben).edits[0]
            print("still staged:", conflict.key)
            report = push(ben, on_conflict="keep-both")
            assert report.ok
            print("ada reads:", ada.to_bytes("runs/0.txt").decode().strip())
            print("kept:", sum("conflict" in key for key in ben.query_keys()))


if __name__ == "__main__":
    main()
