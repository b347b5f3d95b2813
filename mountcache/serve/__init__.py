"""``mountcache serve`` as a library: an origin out of a directory, or a caching proxy.

``wire``, ``conditions`` and ``body`` know HTTP and no store; ``reading``, ``writing``,
``batch`` and ``listing`` know the store and no socket; ``mounts`` and ``shown`` make a mount
such a store; ``app`` brings them together, ``flights`` saves it questions, ``threads`` do its
work, and ``run`` and ``process`` put it on a port.
"""

from __future__ import annotations

from mountcache.serve.mounts import ServedMount
from mountcache.serve.process import OriginProcess
from mountcache.serve.run import Origin, run_origin, run_stores

__all__ = ["Origin", "OriginProcess", "ServedMount", "run_origin", "run_stores"]
