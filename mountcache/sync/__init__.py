"""Moving data between the two ends of a mount, or a mount and a folder.

It works on a catalog and a backing store, and knows no MountedStore; its public verbs take one
by asking it for the two.
"""

from __future__ import annotations

from mountcache.sync.about import About, Reach, about, reach
from mountcache.sync.bundle import BundleExport, export_bundle
from mountcache.sync.diff import MISSING, Difference, Shown, diff, side
from mountcache.sync.frozen import Locked, Lockfile, lock, prefetch_locked, read_lock, write_lock
from mountcache.sync.housekeeping import Collected, Pruned, Room, Usage, du, gc, prune, room
from mountcache.sync.plan import Plan, Step, apply, plan, read_plan
from mountcache.sync.prefetch import PrefetchReport, pin_keys, prefetch
from mountcache.sync.probing import Grading, grading, grading_of, probe
from mountcache.sync.pull import PullReport, pull
from mountcache.sync.push import push
from mountcache.sync.pusher import Pushing
from mountcache.sync.readiness import Readiness, Wanted, readiness
from mountcache.sync.report import Conflict, GroupResult, PushReport, PushResult, Side
from mountcache.sync.residence import Resident, residents, residents_of
from mountcache.sync.resolving import Resolved, in_conflict, resolve
from mountcache.sync.rules import Rule
from mountcache.sync.status import Status, status
from mountcache.sync.trees import ExportReport, ImportReport, export_tree, import_tree
from mountcache.sync.unbundle import BundleConflictError, BundleImport, import_bundle
from mountcache.sync.verify import Flaw, VerifyReport, verify
from mountcache.sync.whereis import Whereabouts, whereis

__all__ = [
    "MISSING",
    "About",
    "BundleConflictError",
    "BundleExport",
    "BundleImport",
    "Collected",
    "Conflict",
    "Difference",
    "ExportReport",
    "Flaw",
    "Grading",
    "GroupResult",
    "ImportReport",
    "Locked",
    "Lockfile",
    "Plan",
    "PrefetchReport",
    "Pruned",
    "PullReport",
    "PushReport",
    "PushResult",
    "Pushing",
    "Reach",
    "Readiness",
    "Resident",
    "Resolved",
    "Room",
    "Rule",
    "Shown",
    "Side",
    "Status",
    "Step",
    "Usage",
    "VerifyReport",
    "Wanted",
    "Whereabouts",
    "about",
    "apply",
    "diff",
    "du",
    "export_bundle",
    "export_tree",
    "gc",
    "grading",
    "grading_of",
    "import_bundle",
    "import_tree",
    "in_conflict",
    "lock",
    "pin_keys",
    "plan",
    "prefetch",
    "prefetch_locked",
    "probe",
    "prune",
    "pull",
    "push",
    "reach",
    "read_lock",
    "read_plan",
    "readiness",
    "residents",
    "residents_of",
    "resolve",
    "room",
    "side",
    "status",
    "verify",
    "whereis",
    "write_lock",
]
