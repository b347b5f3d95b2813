"""What a proxy shows: a value under the names by which its clients know it.

The names are content hashes wherever the bytes are known, as those of an origin are. What a
plain upstream is about to send is named after its own version; both names are good for one
value, so that a copy which has arrived meanwhile doesn't change what a client holds.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any, Literal

from mountcache.abc import Base, Facts, Source, Value, facts_of
from mountcache.errors import ChangedWhileReadingError
from mountcache.jsonform import content_version, normal_form

__all__ = ["IN_MEMORY", "How", "Shown", "names_of", "told", "version_of"]

IN_MEMORY = 1048576
"""Bytes of a value that is read whole before it is answered with."""

How = Literal["warm", "asked", "collapsed"]
"""How a value was come by: it was here; upstream was asked; somebody else's question served."""


class Shown(Value):
    """A value under the names by which clients know it.

    Parameters
    ----------
    value
        The value.
    names
        Its names, the best one first; none if nothing tells its bytes from others.
    base
        What the mount's setters call it.
    stream
        Its data, if that is on its way.
    size
        Its length in bytes, if that is known.
    expected
        Upstream's version of the bytes, if it has one.
    """

    def __init__(
        self,
        value: Value,
        names: tuple[str, ...],
        base: Base = None,
        *,
        stream: io.BufferedIOBase | None = None,
        size: int | None = None,
        expected: str | None = None,
    ) -> None:
        self.names = names
        self.base = base
        self.fetched = False
        """Whether a copy has just come from upstream."""
        self._value = value
        self._size = value.size if size is None else size
        self._expected = expected
        self._metadata = value.metadata
        self._facts: Facts | None = None
        self._bytes: bytes | None = None
        self._streams = [] if stream is None else [stream]
        if stream is not None and self._size is not None and self._size <= IN_MEMORY:
            with stream:
                self._bytes = stream.read()
            self._streams.clear()

    @property
    def data(self) -> io.BufferedIOBase:
        if self._bytes is not None:
            return io.BytesIO(self._bytes)
        try:
            return self._streams.pop()
        except IndexError:
            return self._checked(self._value.data)

    def range(self, start: int | None = None, end: int | None = None) -> io.BufferedIOBase:
        if self._bytes is not None:
            return super().range(start, end)
        return self._checked(self._value.range(start, end))

    def _checked(self, stream: io.BufferedIOBase) -> io.BufferedIOBase:
        found = version_of(stream)
        if self._expected is not None and found is not None and found != self._expected:
            stream.close()
            raise ChangedWhileReadingError(
                "the value was replaced upstream while it was being read; ask for it again"
            )
        return stream

    @property
    def metadata(self) -> dict[str, Any]:
        return self._metadata

    @property
    def version(self) -> str | None:
        return self.names[0] if self.names else None

    @property
    def size(self) -> int | None:
        return self._size

    @property
    def modified(self) -> float | None:
        return self._value.modified

    @property
    def source(self) -> Source:
        return "upstream" if self.fetched else self._value.source

    @property
    def age(self) -> float:
        return self._value.age

    @property
    def stale(self) -> bool:
        return self._value.stale

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            self._facts = facts_of(self._value)
        return self._facts


def told(value: Value, how: How) -> dict[str, str]:
    """Return the header fields that say where a value comes from.

    Age is RFC 9111 5.1; Cache-Status is RFC 9211.
    """
    match value.source, how:
        case "staged", _:
            return {"Cache-Status": "mountcache; hit; detail=staged"}
        case "cached", _ if value.stale:
            status = "hit; detail=offline"
        case "cached", "warm":
            status = "hit"
        case "cached", _:
            status = "fwd=stale"
        case _:
            status = "fwd=uri-miss"
    if how == "collapsed" and not value.stale:
        status += "; collapsed"
    found = {"Cache-Status": f"mountcache; {status}"}
    if value.source == "cached":
        found["Age"] = str(int(value.age))
    return found


def names_of(
    sha256: str | None, version: str | None, metadata: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of a value, the best one first.

    Parameters
    ----------
    sha256
        The digest of its data, if it is known.
    version
        Upstream's version of it, if there is one.
    metadata
        Its metadata.
    """
    found = []
    if sha256 is not None:
        found.append(content_version(sha256, metadata))
    if version is not None and version not in found:
        # Upstream's own may leave the metadata out.
        text = f"{version}\n{normal_form(metadata)}"
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return tuple(found)


def version_of(stream: io.BufferedIOBase) -> str | None:
    """Return upstream's version of the bytes that a stream brings."""
    version: str | None = getattr(getattr(stream, "raw", None), "version", None)
    return version
