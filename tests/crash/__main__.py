"""``python -m tests.crash``: kill many processes, and say what came of it."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from datetime import UTC, datetime

from tests.crash.nursery import Nursery
from tests.crash.upstream import Upstream
from tests.crash.walks import LIVES, Verdict, walk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="the first walk")
    parser.add_argument("--walk", type=int, help="only this one")
    given = parser.parse_args()
    first = given.seed if given.walk is None else given.walk
    count = -(-given.kills // LIVES) if given.walk is None else 1
    verdict, failures = Verdict(), []
    begun = time.monotonic()
    with Nursery() as nursery, Upstream() as upstream:
        for seed in range(first, first + count):
            try:
                walk(seed, nursery, upstream, verdict)
            except Exception:  # noqa: BLE001 - each is told, and the next walk is another one
                traceback.print_exc()
                failures.append(seed)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}: {verdict.kills.total()} kills in walks {first} to "
        f"{first + count - 1}, {time.monotonic() - begun:.0f} s; failed: {failures or 'none'}"
    )
    for what, counts in verdict.counts.items():
        print(f"{what}: {', '.join(f'{kind} {n:,}' for kind, n in counts.most_common())}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
