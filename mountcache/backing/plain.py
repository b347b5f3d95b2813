"""Writes to a web server that knows PUT and DELETE and no more: nginx's dav module, mod_dav, ...

It keeps bytes. Metadata stay in the local store, or go to a file beside the data, a sidecar.
Such servers ignore conditions, or obey them in two steps, so that nothing here is `enforced`;
which they obey is found out by a probe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from mountcache.abc import ABSENT, Base, Enforced, Pushed, Value
from mountcache.backing.freshness import strong_version, validators_from
from mountcache.backing.http import Answer, Payload
from mountcache.backing.pair import KeyMetadata, Pairs
from mountcache.backing.probing import Probe
from mountcache.backing.resource import Data
from mountcache.backing.writing import condition, opened, send
from mountcache.errors import AuthorizationError, StoreError, UpstreamError

__all__ = ["SIDECAR", "BareWriter", "Sidecars"]

SIDECAR: Final = ".metadata.json"
"""What the name of a sidecar has more than its key's."""

_BYTES: Final = {"Content-Type": "application/octet-stream"}


class _Folders:
    """Makes the folders of new files; not all servers do that by themselves.

    Parameters
    ----------
    data
        The data of keys.
    root
        The URL that all keys are under, ending in "/".
    """

    def __init__(self, data: Data, root: str) -> None:
        self._data = data
        self._root = root
        self._made: set[str] = set()

    def put(
        self,
        url: str,
        key: str,
        base: Base,
        bound: Mapping[str, str],
        headers: Mapping[str, str],
        payload: Payload,
    ) -> Answer:
        """Send a PUT, into folders that are there."""
        if base is ABSENT or base is None:
            self._make(url)
        try:
            return send(
                self._data.transport, "PUT", url, key, base, condition=bound, headers=headers,
                payload=payload,
            )  # fmt: skip
        except StoreError:
            self._made.clear()  # somebody may have removed one
            raise

    def _make(self, url: str) -> None:
        names = url[len(self._root) :].split("/")[:-1]
        for depth in range(len(names)):
            folder = self._root + "/".join(names[: depth + 1]) + "/"
            if folder in self._made:
                continue
            # Whatever the answer (it is there, this server has no folders, it may not be): the
            # PUT will show. Servers tell of a missing folder in too many ways to wait for that.
            with contextlib.suppress(UpstreamError, AuthorizationError):
                self._data.transport.request(
                    "MKCOL", folder, f"the folder {folder}", accept=(200, 201, 204, 301, 405),
                    repeatable=True,
                ).body.close()  # fmt: skip
            self._made.add(folder)


class BareWriter:
    """Writes the data of keys; metadata aren't sent.

    Parameters
    ----------
    data
        The data of keys.
    root
        The URL that all keys are under, ending in "/".
    """

    def __init__(self, data: Data, root: str) -> None:
        self._data = data
        self._folders = _Folders(data, root)

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, parts: frozenset[str]
    ) -> Pushed:
        """See `SupportsConditionalWrite`."""
        if "data" not in parts:
            return Pushed(None, enforced=False)
        answer = self._folders.put(
            self._data.url_of(key), key, base, condition(base), _BYTES, opened(value, key)
        )
        version = strong_version(answer.headers)
        validators = "" if version is None else validators_from(answer.headers).dump()
        return Pushed(version, enforced=False, validators=validators)

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """Do nothing: this server keeps no metadata."""
        return Pushed(None, enforced=False)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """See `SupportsConditionalWrite`."""
        send(
            self._data.transport, "DELETE", self._data.url_of(key), key, base,
            condition={} if base is ABSENT else condition(base),
        )  # fmt: skip
        return Pushed(None, enforced=False)

    def probe(self, key: str) -> Enforced:
        """See `SupportsProbing`."""
        url = self._data.url_of(key)

        def put_first(condition: Mapping[str, str], payload: Payload) -> object:
            return self._folders.put(url, key, ABSENT, condition, _BYTES, payload)

        return Probe(self._data.transport, url, f"the scratch key {key!r}", put_first).run()


class Sidecars(Pairs):
    """Reads and writes keys whose metadata are a file beside their data.

    Parameters
    ----------
    data
        The data of keys.
    root
        The URL that all keys are under, ending in "/".
    otherwise
        Gives the metadata of a key that has no sidecar.
    """

    def __init__(self, data: Data, root: str, otherwise: Callable[[str], dict[str, Any]]) -> None:
        super().__init__(data, lambda key: data.url_of(key) + SIDECAR, data.url_of)
        self._folders = _Folders(data, root)
        self._otherwise = otherwise

    def _metadata(self, key: str) -> KeyMetadata:
        found = super()._metadata(key)
        return found if found.headers is not None else KeyMetadata(self._otherwise(key), None)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        pushed = super().delete_if(key, base, op_id)
        with contextlib.suppress(KeyError):  # it had none
            send(self._data.transport, "DELETE", self._metadata_url(key), key, None, condition={})
        return pushed

    def _send(
        self,
        method: str,
        url: str,
        key: str,
        base: Base,
        op_id: str,
        condition: Mapping[str, str],
        **others: Any,
    ) -> Answer:
        if method != "PUT":
            return super()._send(method, url, key, base, op_id, condition, **others)
        return self._folders.put(url, key, base, condition, others["headers"], others["payload"])
