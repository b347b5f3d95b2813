"""The remote end: clients of stores behind HTTP."""
