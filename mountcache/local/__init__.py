"""The local end: what is staged and what is cached, on this machine."""
