"""DynamicURLStore: a REST server with resources for the data and the metadata of each key.

Two kinds of server: ours, whose version of a key covers data and metadata and whose writes are
one change; and any other, where the two are two resources (`pair`).
"""

from __future__ import annotations

import io
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from urllib.parse import urlencode

from mountcache.abc import (
    ABSENT,
    AbstractAuthorizingStore,
    Base,
    BatchLimits,
    IndexReading,
    NotModified,
    Pushed,
    Readable,
    Value,
    Write,
    chunks,
    select_from,
    unpack,
)
from mountcache.backing.batch import BATCH_IDS, BATCH_LIMIT, BATCH_WRITES, Batches
from mountcache.backing.credentials import made_anew
from mountcache.backing.freshness import Validators, facts_of_304, validators_from
from mountcache.backing.http import Answer, Transport
from mountcache.backing.index import entries_of_lines
from mountcache.backing.limits import Limits
from mountcache.backing.pair import Pairs
from mountcache.backing.resource import Data, RemoteValue, ask_again
from mountcache.backing.tls import TLS
from mountcache.backing.uploads import UPLOAD_FROM, UPLOADS, Uploads
from mountcache.backing.urls import check_url
from mountcache.backing.wire import decode_metadata, is_ours, parse_object
from mountcache.backing.writing import Writer, json_payload, send
from mountcache.errors import (
    ConfigurationError,
    IndexUnreadableError,
    InvalidMetadataError,
    UpstreamError,
)
from mountcache.events import (
    EventManager,
    StoreDeleteEvent,
    StoreProgress,
    StoreSetEvent,
    StoreUpdateEvent,
)
from mountcache.jsonform import METADATA_LIMIT, normal_value, parse, spelling
from mountcache.keys import check_http_key, quote_key

__all__ = ["DynamicURLStore"]

_BOTH: Final = frozenset({"data", "metadata"})
_DATA: Final = frozenset({"data"})
_IN_MEMORY: Final = 1048576
_FORMATS: Final = ("{base}/{key}/{part}", "{base}/{key}")
_PARTS: Final = {"data": "data", "metadata": "metadata", "permissions": "auth"}


class DynamicURLStore(AbstractAuthorizingStore):
    """Keys on a REST server: data, metadata and permissions of each at URLs of their own.

    Parameters
    ----------
    base_url
        What keys are under.
    query_url
        Answers ``?name=<json>`` with the matching keys, one a line.
    url_format
        The URL of a part of a key, of ``{base}``, ``{key}`` and ``{part}``.
    url_format_no_part
        The URL of a key, for DELETE.
    parts
        What the server calls "data", "metadata" and "permissions".
    timeout
        Seconds to wait for a connection and for the next bytes, one number or two.
    deadline
        Seconds that a call may take in all; None: as long as bytes come.
    retries
        How often what is safe to repeat is repeated.
    tls
        How the server proves who it is, and we to it; None: as the environment says.
    limits
        How fast the server may be asked; None: as fast as it answers.
    event_manager
        Who hears of changes made through this store; one of its own unless given.

    Raises
    ------
    ConfigurationError
        If no store can be at these URLs.
    """

    poll: float | None = None
    """None: a listing ages as a value does."""

    def __init__(
        self,
        base_url: str,
        query_url: str,
        url_format: str = "{base}/{key}/{part}",
        url_format_no_part: str = "{base}/{key}",
        parts: Mapping[str, str] | None = None,
        *,
        timeout: float | tuple[float, float] = (10.0, 30.0),
        deadline: float | None = None,
        retries: int = 3,
        tls: TLS | None = None,
        limits: Limits | None = None,
        event_manager: EventManager | None = None,
    ) -> None:
        super().__init__(event_manager)
        base, self._user = check_url(base_url, "base_url")
        self._query_url, user = check_url(query_url, "query_url")
        self._user = self._user or user
        self._settings = {
            "base_url": base, "query_url": self._query_url, "url_format": url_format,
            "url_format_no_part": url_format_no_part, "parts": parts and dict(parts),
            "timeout": timeout, "deadline": deadline, "retries": retries,
            "tls": tls, "limits": limits,
        }  # fmt: skip
        self._base = base.rstrip("/")
        self._formats = (url_format, url_format_no_part)
        self._parts = {**_PARTS, **(parts or {})}
        self._check_formats()
        self._transport = Transport(
            self._base, self._query_url, timeout=timeout, deadline=deadline, retries=retries,
            tls=tls, limits=limits,
        )  # fmt: skip
        self._transport.open(self._user)
        self._data = Data(self._transport, lambda key: self._url(key, "data"), time.time)
        self._writer = Writer(
            self._transport,
            lambda key: self._url(key, "data"),
            lambda key: self._url(key, "metadata"),
            self._url,
            self._uploads_there,
        )
        root = self._root()
        self._batches = (
            None if root is None else Batches(self._transport, f"{root}batch", self._uploads_there)
        )
        self._uploads = None if root is None else Uploads(self._transport, f"{root}-/uploads/")
        self._pairs = Pairs(self._data, lambda key: self._url(key, "metadata"), self._url)

    def __reduce__(self) -> tuple[Any, ...]:
        return made_anew, (type(self), self._settings, self._transport.named)

    # -- where it is -----------------------------------------------------------------------

    def _check_formats(self) -> None:
        for name, text in zip(("url_format", "url_format_no_part"), self._formats, strict=True):
            try:
                one = text.format(base="http://host", key="a/b", part="data")
                other = text.format(base="http://host", key="c/d", part="data")
            except (KeyError, IndexError, ValueError):
                one = other = ""
            if not one.startswith("http://host") or one == other:
                raise ConfigurationError(
                    f"{name} is made of {{base}}, {{key}} and {{part}}, such as "
                    f"'{{base}}/{{key}}/{{part}}', not {text!r}"
                )
        unknown = set(self._parts) - set(_PARTS)
        if unknown:
            raise ConfigurationError(
                f"parts names {', '.join(_PARTS)}; it can't have {sorted(unknown)[0]!r}"
            )

    def _uploads_there(self) -> Uploads | None:
        return self._uploads if UPLOADS in self._data.features else None

    def _root(self) -> str | None:
        """Return what a server of ours has all its URLs under; None if these aren't its URLs."""
        root = self._base.removesuffix("keys")
        usual = self._formats == _FORMATS and self._parts == _PARTS
        return root if usual and f"{root}query" == self._query_url else None

    def _url(self, key: str, part: str | None = None) -> str:
        quoted = quote_key(key)
        if part is None:
            return self._formats[1].format(base=self._base, key=quoted)
        return self._formats[0].format(base=self._base, key=quoted, part=self._parts[part])

    def connect(self, credentials: Any = None) -> None:
        """Ask with `credentials` from now on; nothing is sent yet.

        Parameters
        ----------
        credentials
            ``(user_tag, requests.Session)``; ``(user, password)``; a dict with ``username`` and
            ``password``; a requests AuthBase or Session; "netrc", "keyring", "env:NAME" or
            "command:CMD"; or what returns one of these when called, which is asked again after
            a 401.
        """
        self._transport.open(self._user if credentials is None else credentials)
        self._data.ours = None
        super().connect(credentials)

    def disconnect(self) -> None:
        self._transport.close()
        super().disconnect()

    def at_most(self, rate: str | float | None) -> AbstractContextManager[None]:
        """See `SupportsPace`."""
        return self._transport.pace.at_most(rate)

    @property
    def connections(self) -> int | None:
        """See `SupportsPace`."""
        return self._transport.pace.limits.connections

    @property
    def clock_ahead(self) -> float | None:
        """See `SupportsClock`."""
        return self._transport.clock_ahead

    @property
    def identity(self) -> str:
        """The URL that keys are under, without credentials."""
        return f"{self._base}/"

    @property
    def user_tag(self) -> str | None:
        return self._transport.user_tag

    @staticmethod
    def check_key(key: str) -> str:
        """Return `key` if it can be part of a URL; InvalidKeyError if not."""
        return check_http_key(key)

    # -- values ----------------------------------------------------------------------------

    def get(self, key: str) -> Value:
        headers = self._data.head(key)
        if not is_ours(headers):
            return self._pairs.get(key, headers)
        return self._of(key, headers, None)

    def fetch(self, key: str) -> Value:
        """Return the value of `key`, its download begun, in as few requests as can be."""
        if self._data.ours is False:
            return self._pairs.fetch(key)
        return self._begun(key, self._data.ask("GET", key))

    def _begun(self, key: str, answer: Answer) -> Value:
        if is_ours(answer.headers):
            return self._of(key, answer.headers, answer)
        answer.body.close()
        return self._pairs.fetch(key)

    def _of(self, key: str, headers: Mapping[str, str], answer: Answer | None) -> Value:
        """Return what our own server shows."""
        metadata = decode_metadata(headers)
        facts = self._data.facts(key, headers)
        return RemoteValue(
            self._data,
            key,
            facts,
            (lambda: self._long_metadata(key, headers)) if metadata is None else metadata,
            answer,
        )

    def _long_metadata(self, key: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return metadata that is too long for a header, of the version that `headers` name."""
        answer = self._data.ask("GET", key, url=self._url(key, "metadata"))
        if answer.headers.get("ETag") != headers.get("ETag"):
            answer.body.close()
            raise self._data.changed(key)
        return parse_object(answer.read(METADATA_LIMIT), f"the metadata of {key!r}")

    def get_data(self, key: str) -> io.BufferedIOBase:
        # Whoever wants data alone is spared the requests for metadata.
        return RemoteValue(self._data, key, facts_of_304({}, now=0.0), {}).data

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> dict[str, Any]:
        answer = self._data.ask("GET", key, url=self._url(key, "metadata"))
        metadata = parse_object(answer.read(METADATA_LIMIT), f"the metadata of {key!r}")
        return select_from(metadata, select)

    def exists(self, key: str) -> bool:
        try:
            self._data.head(key)
        except KeyError:
            return False
        return True

    def version_of(self, key: str) -> Base:
        """Return the version that upstream shows now, `ABSENT`, or None if it names none."""
        try:
            headers = self._data.head(key)
            if is_ours(headers):
                return self._data.facts(key, headers).version
            return self._pairs.get(key, headers).version
        except KeyError:
            return ABSENT

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        """Return NotModified if a copy still holds, else the value that is there now."""
        if Pairs.are(validators):
            return self._pairs.revalidate(key, validators)
        answer = self._data.again(key, Validators.load(validators))
        if answer.status == 304:
            return NotModified(facts_of_304(answer.headers, now=time.time()))
        return self._begun(key, answer)

    def open_range(self, key: str, start: int, version: str) -> io.BufferedIOBase:
        """Return a stream of `version` of the data from byte `start` on."""
        return self._data.part(key, start, version.split(" ")[0])

    # -- listings --------------------------------------------------------------------------

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        """Return a listing of all keys, or None if `validators` still hold.

        Raises
        ------
        IndexUnreadableError
            If the server gives no listings with metadata.
        """
        answer = self._ask_query({}, listing=True, validators=Validators.load(validators))
        if answer.status == 304:
            return None
        if not _is_listing(answer):
            answer.body.close()
            raise IndexUnreadableError(
                f"{self._query_url} gives no listing with metadata (application/x-ndjson)"
            )
        return IndexReading(
            entries_of_lines(answer.body, "the listing"),
            validators_from(answer.headers).dump(),
            answer.body.close,
        )

    def _ask_query(
        self, where: Mapping[str, Any], *, listing: bool, validators: Validators | None = None
    ) -> Answer:
        params = {name: normal_value(value) for name, value in where.items()}
        url = f"{self._query_url}?{urlencode(params)}" if params else self._query_url
        fields = {"Accept-Encoding": "gzip"}
        if listing:
            fields["Accept"] = "application/x-ndjson, text/plain;q=0.5"
        answer = ask_again(
            lambda headers, accept: self._transport.request(
                "GET", url, "the query", headers={**fields, **headers}, accept=accept
            ),
            validators or Validators(),
        )
        if "html" in answer.headers.get("Content-Type", ""):
            answer.body.close()
            raise UpstreamError(
                f"{self._query_url} answered with a page of HTML where keys were expected; log in "
                "to the network or server, or set query_url"
            )
        return answer

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        names = None if select is None else list(select)
        answer = self._ask_query(kwargs, listing=True)
        return self._found(answer, names)

    def _found(
        self, answer: Answer, names: list[str] | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            if _is_listing(answer):
                for key, meta, *_ in entries_of_lines(answer.body, "the listing"):
                    yield key, select_from(parse(meta), names)
                return
            for key in _key_lines(answer):
                try:
                    yield key, {} if names == [] else self.get_metadata(key, names)
                except KeyError:
                    continue  # deleted since the query was answered
        finally:
            answer.body.close()

    # -- writing ---------------------------------------------------------------------------

    def enforces(self) -> bool:
        """Whether the server is one of ours: it then compares and writes as one step."""
        if self._data.ours is None:
            answer = self._transport.request(
                "HEAD", self._query_url, "the store",
                accept=(200, 204, 400, 403, 404, 405, 501),
            )  # fmt: skip
            answer.body.close()
            self._data.note(answer.headers)
        return bool(self._data.ours)

    def batch_limits(self) -> BatchLimits | None:
        """Return how large a batch may be; None if the server takes none; asks it."""
        takes = self._batches is not None and self.enforces() and BATCH_IDS in self._data.features
        ahead = UPLOAD_FROM if self._uploads_there() is not None else None
        return BatchLimits(BATCH_LIMIT, BATCH_WRITES, ahead) if takes else None

    def write_batch(self, writes: Sequence[Write]) -> list[Pushed]:
        """Write several keys, all or none; see `SupportsBatch`."""
        assert self._batches is not None
        return self._batches.write(writes)

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, *, parts: frozenset[str] = _BOTH
    ) -> Pushed:
        """Write a key; see `SupportsConditionalWrite`."""
        if self.enforces():
            return self._writer.set_if(key, value, base, op_id, parts)
        return self._pairs.set_if(key, value, base, op_id, parts)

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """Write metadata alone; see `SupportsConditionalWrite`."""
        if self.enforces():
            return self._writer.set_metadata_if(key, metadata, base, op_id)
        return self._pairs.set_metadata_if(key, metadata, base, op_id)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """Delete a key; see `SupportsConditionalWrite`."""
        if self.enforces():
            return self._writer.delete_if(key, base, op_id)
        return self._pairs.delete_if(key, base, op_id)

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        buffer_size: int = 1048576,
        *,
        base: Base = None,
    ) -> None:
        data, metadata = unpack(value)
        self._put(key, data, metadata, buffer_size, base, _BOTH)

    def set_data(
        self, key: str, data: Readable, buffer_size: int = 1048576, *, base: Base = None
    ) -> None:
        self._put(key, data, {}, buffer_size, base, _DATA)

    def _put(
        self,
        key: str,
        data: Readable,
        metadata: Mapping[str, Any],
        buffer_size: int,
        base: Base,
        parts: frozenset[str],
    ) -> None:
        check_http_key(key)
        meta = spelling(metadata)
        # A length has to be sent first, and a repeat begins anew: a stream promises neither.
        with (
            StoreProgress(self, f"Setting {key}", key=key) as progress,
            tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool,
        ):
            for chunk in chunks(data, buffer_size):
                spool.write(chunk)
                progress.step(spool.tell())
            value = _Spooled(spool, spool.tell(), meta)
            known = self.exists(key)
            self.set_if(key, value, base, uuid.uuid4().hex, parts=parts)
        self._announce(key, known=known)

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        spelling(metadata)
        known = self.exists(key)
        self.set_metadata_if(key, metadata, base, uuid.uuid4().hex)
        self._announce(key, known=known)

    def update_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        known = self.exists(key)
        if known:
            condition = {} if base is None else self._pairs.condition(base, "metadata")
            send(
                self._transport, "POST", self._url(key, "metadata"), key, base,
                condition=condition, headers={"Content-Type": "application/json"},
                payload=json_payload(metadata),
            )  # fmt: skip
        else:
            self.set_metadata_if(key, metadata, base, uuid.uuid4().hex)
        self._announce(key, known=known)

    def delete(self, key: str, *, base: Base = None) -> None:
        metadata = self.get_metadata(key)
        self.delete_if(key, base, uuid.uuid4().hex)
        self.announce(StoreDeleteEvent(self, key=key, metadata=metadata))

    def _announce(self, key: str, *, known: bool) -> None:
        event = StoreUpdateEvent if known else StoreSetEvent
        self.announce(event(self, key=key, metadata=self.get_metadata(key)))

    # -- permissions -----------------------------------------------------------------------

    def get_permissions(self, key: str) -> dict[str, Any]:
        answer = self._data.ask("GET", key, url=self._url(key, "permissions"))
        return parse_object(answer.read(METADATA_LIMIT), f"the permissions of {key!r}")

    def set_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        self._send_permissions("PUT", key, permissions)

    def update_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        self._send_permissions("POST", key, permissions)

    def _send_permissions(self, method: str, key: str, permissions: Mapping[str, Any]) -> None:
        try:
            payload = json_payload(permissions)
        except InvalidMetadataError as error:
            raise InvalidMetadataError(f"permissions: {error}") from None
        send(
            self._transport, method, self._url(key, "permissions"), key, None, condition={},
            headers={"Content-Type": "application/json"}, payload=payload,
        )  # fmt: skip


class _Spooled(Value):
    """Data that lies in a temporary file."""

    def __init__(self, spool: Any, size: int, meta: str) -> None:
        self._spool = spool
        self._size = size
        self._meta = meta

    @property
    def data(self) -> io.BufferedIOBase:
        self._spool.seek(0)
        stream: io.BufferedIOBase = self._spool
        return stream

    @property
    def metadata(self) -> dict[str, Any]:
        return parse(self._meta)

    @property
    def size(self) -> int:
        return self._size


def _is_listing(answer: Answer) -> bool:
    return answer.headers.get("Content-Type", "").split(";")[0].strip() == "application/x-ndjson"


def _key_lines(answer: Answer) -> Iterator[str]:
    """Iterate over keys that come one a line, split at LF only."""
    left = b""
    for chunk in chunks(answer.body):
        *lines, left = (left + chunk).split(b"\n")
        yield from map(_key_in, filter(None, lines))
        if len(left) > METADATA_LIMIT:
            raise UpstreamError("the query was answered with a line that doesn't end")
    if left:
        yield _key_in(left)


def _key_in(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        shown = line[:40].decode("utf-8", "replace")
        raise UpstreamError(f"the query was answered with {shown!r}, which isn't UTF-8") from None
