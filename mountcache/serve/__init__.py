"""The origin: ``mountcache serve`` as a library.

``wire``, ``conditions`` and ``body`` know HTTP and no store; ``reading``, ``writing``,
``batch`` and ``listing`` know the store and no socket; ``origin`` brings them together and
``run`` and ``process`` put them on a port.
"""

from __future__ import annotations

from mountcache.serve.process import OriginProcess
from mountcache.serve.run import Origin, run_origin

__all__ = ["Origin", "OriginProcess", "run_origin"]
