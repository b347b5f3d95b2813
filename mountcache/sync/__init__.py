"""Moving data between the two ends of a mount, or a mount and a folder.

It works on a catalog and a backing store, and knows no MountedStore; its public verbs take one
by asking it for the two.
"""

from __future__ import annotations

from mountcache.sync.diff import MISSING, Difference, Shown, diff, side
from mountcache.sync.prefetch import PrefetchReport, prefetch
from mountcache.sync.push import push
from mountcache.sync.report import Conflict, PushReport, PushResult, Side
from mountcache.sync.status import Status, status
from mountcache.sync.trees import ExportReport, ImportReport, export_tree, import_tree

__all__ = [
    "MISSING",
    "Conflict",
    "Difference",
    "ExportReport",
    "ImportReport",
    "PrefetchReport",
    "PushReport",
    "PushResult",
    "Shown",
    "Side",
    "Status",
    "diff",
    "export_tree",
    "import_tree",
    "prefetch",
    "push",
    "side",
    "status",
]
