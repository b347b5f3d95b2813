"""How fast mountcache is beside what it stands on: ``python -m benchmarks [--quick]``."""
