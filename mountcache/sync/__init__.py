"""Moving data between the two ends of a mount: push, prefetch, status.

It works on a catalog and a backing store, and knows no MountedStore; its public verbs take one
by asking it for the two.
"""

from __future__ import annotations

from mountcache.sync.prefetch import PrefetchReport, prefetch
from mountcache.sync.push import push
from mountcache.sync.report import Conflict, PushReport, PushResult, Side
from mountcache.sync.status import Status, status

__all__ = [
    "Conflict",
    "PrefetchReport",
    "PushReport",
    "PushResult",
    "Side",
    "Status",
    "prefetch",
    "push",
    "status",
]
