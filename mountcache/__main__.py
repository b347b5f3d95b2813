"""``python -m mountcache`` is the command ``mountcache``."""

from __future__ import annotations

import sys

from mountcache.cli import main

if __name__ == "__main__":
    sys.exit(main())
