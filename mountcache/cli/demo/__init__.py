"""``mountcache demo``: the main job in a few seconds, on a real server, checked at each step."""

from __future__ import annotations

from mountcache.cli.demo.walk import run_demo

__all__ = ["run_demo"]
