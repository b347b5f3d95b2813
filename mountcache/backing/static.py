"""StaticURLStore: files on a web server, and an index.json that lists them."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

from mountcache.abc import (
    ABSENT,
    AbstractReadOnlyStore,
    Base,
    BatchLimits,
    Enforced,
    IndexReading,
    NotModified,
    Pushed,
    Value,
    Write,
    select_from,
)
from mountcache.backing.batch import BATCH_IDS, BATCH_LIMIT, BATCH_WRITES, Batches
from mountcache.backing.credentials import made_anew
from mountcache.backing.files import FileTransport
from mountcache.backing.freshness import Validators, validators_from
from mountcache.backing.http import Answer, Transport
from mountcache.backing.index import entries_of_windows, windows_of_object
from mountcache.backing.limits import Limits
from mountcache.backing.plain import SIDECAR, BareWriter, Sidecars
from mountcache.backing.resource import Data, RemoteValue, ask_again
from mountcache.backing.tls import TLS
from mountcache.backing.uploads import UPLOAD_FROM, UPLOADS, Uploads
from mountcache.backing.urls import check_url
from mountcache.backing.wire import decode_metadata, is_ours, parse_object
from mountcache.backing.writing import Writer
from mountcache.errors import (
    ConfigurationError,
    IndexUnreadableError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreError,
    UpstreamError,
)
from mountcache.events import EventManager, StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
from mountcache.jsonform import METADATA_LIMIT, normal_form, normal_value, parse
from mountcache.keys import check_http_key, quote_key
from mountcache.locks import Lock

__all__ = ["StaticURLStore"]

_SCHEMES: Final = ("http", "https", "file")
_BOTH: Final = frozenset({"data", "metadata"})
_NEW_ENOUGH: Final = 2.0
"""Seconds for which an index is today's: the race that a checked push has in any case."""

_logger = logging.getLogger("mountcache")


class StaticURLStore(AbstractReadOnlyStore):
    """Files on a plain web server, listed by an ``index.json`` of ``{key: metadata}``.

    It can only be read, unless the server is one of ours (its answers carry ``Mountcache: 1``).
    By itself it keeps the index in memory and reads it anew every `poll` seconds, once it was
    needed; under a mount the mount's catalog does that.

    Parameters
    ----------
    root_url
        Where it is: ``http:``, ``https:`` or ``file:``. A user and password in it are
        credentials.
    data_path
        Where the data of keys is, under `root_url`.
    query_path
        Where the index is, under `root_url`; None if there is none: then keys can be read,
        but not listed.
    poll
        Seconds for which an index counts as current; 0: until `update_index`.
    write
        "put": the server takes PUT and DELETE, as with nginx's dav module or mod_dav. A server
        of ours is found out, and needs no word.
    metadata
        Where metadata go when they are pushed to such a server. "local": nowhere, so that they
        stay in the local store until the index tells others; "sidecar": to a file beside the
        data, ``<key>.metadata.json``.
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
        Who hears of changes in the index; one of its own unless given.

    Raises
    ------
    ConfigurationError
        If no store can be at the URL.
    """

    def __init__(
        self,
        root_url: str,
        data_path: str = "data/",
        query_path: str | None = "index.json",
        poll: float = 300,
        *,
        write: Literal["put"] | None = None,
        metadata: Literal["local", "sidecar"] = "local",
        timeout: float | tuple[float, float] = (10.0, 30.0),
        deadline: float | None = None,
        retries: int = 3,
        tls: TLS | None = None,
        limits: Limits | None = None,
        event_manager: EventManager | None = None,
    ) -> None:
        super().__init__(event_manager)
        if poll < 0:
            raise ConfigurationError(f"poll is 0 or more seconds, not {poll}")
        _check_writing(write, metadata, query_path)
        root, self._user = check_url(root_url, "root_url", schemes=_SCHEMES)
        self._settings: dict[str, Any] = {
            "root_url": root, "data_path": data_path, "query_path": query_path, "poll": poll,
            "write": write, "metadata": metadata, "timeout": timeout, "deadline": deadline,
            "retries": retries, "tls": tls, "limits": limits,
        }  # fmt: skip
        self._root = root.rstrip("/") + "/"
        folder = data_path.strip("/")
        self._data_url = f"{self._root}{folder}/" if folder else self._root
        self._index_url = None if query_path is None else self._root + query_path.lstrip("/")
        self._poll = float(poll)
        self._transport: Transport | FileTransport
        if root.startswith("file:"):
            self._transport = FileTransport()
        else:
            self._transport = Transport(
                root, timeout=timeout, deadline=deadline, retries=retries, tls=tls, limits=limits
            )
            self._transport.open(self._user)
        self._data = self._data_of(self._transport)
        keys_url = f"{self._root}keys/"
        self._writer = Writer(
            self._transport,
            self._url_of,
            lambda key: f"{keys_url}{quote_key(key)}/metadata",
            self._url_of,
            self._uploads_there,
        )
        self._batches = Batches(self._transport, f"{self._root}batch", self._uploads_there)
        self._uploads = Uploads(self._transport, f"{self._root}-/uploads/")
        self._plain: BareWriter | Sidecars | None = None
        self._sidecars: Sidecars | None = None
        if write == "put" and metadata == "sidecar":
            self._plain = self._sidecars = Sidecars(self._data, self._data_url, self._told)
        elif write == "put":
            self._plain = BareWriter(self._data, self._data_url)
        self._index: dict[str, str] | None = None
        self._index_read = 0.0
        self._index_validators: str | None = None
        self._reading = Lock()
        self._polling: threading.Thread | None = None
        self._stop = threading.Event()

    def _data_of(self, transport: Transport | FileTransport) -> Data:
        return Data(transport, self._url_of, time.time)

    def __reduce__(self) -> tuple[Any, ...]:
        return made_anew, (type(self), self._settings, self._transport.named)

    # -- where it is -----------------------------------------------------------------------

    def connect(self, credentials: Any = None) -> None:
        """Ask with `credentials` from now on; nothing is sent yet.

        Parameters
        ----------
        credentials
            ``(user, password)``; a dict with ``username`` and ``password``; a requests AuthBase
            or Session; "netrc", "keyring", "env:NAME" or "command:CMD"; or what returns one of
            these when called, which is asked again after a 401.
        """
        self._transport.open(self._user if credentials is None else credentials)
        self._data.ours = None
        self._stop.clear()
        super().connect(credentials)

    def disconnect(self) -> None:
        self._stop.set()
        self._transport.close()
        thread, self._polling = self._polling, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._index = self._index_validators = None
        super().disconnect()

    def info(self) -> dict[str, Any]:
        info = {"readonly": not self._data.ours and self._plain is None, "authorizing": False}
        if self._plain is not None and not self._data.ours:
            info["keeps_metadata"] = self._sidecars is not None
        return info

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
        """The URL of its data, without credentials."""
        return self._data_url

    @property
    def poll(self) -> float | None:
        """Seconds for which an index counts as current; None if there is no index."""
        return None if self._index_url is None else self._poll

    def check_key(self, key: str) -> str:
        """Return `key` if it can be part of a URL; InvalidKeyError if not."""
        if self._sidecars is not None and key.endswith(SIDECAR):
            raise InvalidKeyError(
                f"key {key!r} is the name of a file with metadata; choose another key"
            )
        return check_http_key(key)

    def _uploads_there(self) -> Uploads | None:
        usual = self._data_url == f"{self._root}data/"
        return self._uploads if usual and UPLOADS in self._data.features else None

    def _url_of(self, key: str) -> str:
        return self._data_url + quote_key(key)

    # -- values ----------------------------------------------------------------------------

    def get(self, key: str) -> Value:
        headers = self._data.head(key)
        if self._sidecars is not None and not is_ours(headers):
            return self._sidecars.get(key, headers)
        metadata = self._metadata_in(key, headers)
        return RemoteValue(self._data, key, self._data.facts(key, headers), metadata)

    def fetch(self, key: str) -> Value:
        """Return the value of `key`, its download begun: one request, whatever the index says."""
        if self._sidecars is not None and not self._data.ours:
            return self._sidecars.fetch(key)
        return self._begun(key, self._data.ask("GET", key))

    def _begun(self, key: str, answer: Answer) -> Value:
        headers = answer.headers
        facts = self._data.facts(key, headers)
        return RemoteValue(self._data, key, facts, lambda: self._metadata_in(key, headers), answer)

    def _metadata_in(self, key: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the metadata that comes with an answer, or that the index has."""
        found = decode_metadata(headers) if is_ours(headers) else None
        if found is not None:
            return found
        if is_ours(headers) and "Mountcache-Metadata-Length" in headers:
            url = f"{self._root}keys/{quote_key(key)}/metadata"
            answer = self._data.ask("GET", key, url=url)
            if answer.headers.get("ETag") != headers.get("ETag"):
                answer.body.close()
                raise self._data.changed(key)
            return parse_object(answer.read(METADATA_LIMIT), f"the metadata of {key!r}")
        return self._told(key)

    def _told(self, key: str) -> dict[str, Any]:
        """Return the metadata that the index has of a key, whose data are there."""
        if self._index_url is None:
            return {}
        if self._plain is not None:
            # A push compares with it: it has to be today's.
            self._refresh(_NEW_ENOUGH)
        meta = self._entries().get(key)
        if meta is not None:
            return parse(meta)
        if self._plain is None:
            raise KeyError(key)
        return {}  # it was put there, and the index doesn't know yet

    def exists(self, key: str) -> bool:
        if self._index_url is None or self._data.ours or self._plain is not None:
            return super().exists(key)
        return check_http_key(key) in self._entries()

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> dict[str, Any]:
        if self._index_url is None or self._data.ours or self._sidecars is not None:
            return super().get_metadata(key, select)
        meta = self._entries().get(check_http_key(key))
        if meta is None:
            raise KeyError(key)
        return select_from(parse(meta), select)

    def get_data(self, key: str) -> io.BufferedIOBase:
        return self.fetch(key).data

    def version_of(self, key: str) -> Base:
        """Return the version that upstream shows now: a strong ETag, `ABSENT`, or None."""
        try:
            if self._sidecars is not None and not self._data.ours:
                return self.get(key).version
            return self._data.facts(key, self._data.head(key)).version
        except KeyError:
            return ABSENT

    def revalidate(self, key: str, validators: str) -> NotModified | Value:
        """Return NotModified if a copy still holds, else the value, its download begun."""
        if self._sidecars is not None and not self._data.ours:
            if not self._sidecars.are(validators):
                return self.fetch(key)
            return self._sidecars.revalidate(key, validators)
        asked = Validators.load(validators)
        answer = self._data.again(key, asked)
        if answer.status == 304:
            return NotModified(self._data.confirmed(asked, answer.headers))
        return self._begun(key, answer)

    def open_range(self, key: str, start: int, version: str) -> io.BufferedIOBase:
        """Return a stream of `version` of the data from byte `start` on."""
        return self._data.part(key, start, version.split(" ")[0])

    # -- the index -------------------------------------------------------------------------

    def read_index(self, validators: str | None = None) -> IndexReading | None:
        """Return the index, or None if `validators` still hold.

        Raises
        ------
        IndexUnreadableError
            If there is none, or what is there isn't one.
        """
        if self._index_url is None:
            raise IndexUnreadableError(
                "this store has no index (query_path is None), so it can't be listed or queried"
            )
        url = self._index_url
        try:
            answer = ask_again(
                lambda headers, accept: self._transport.request(
                    "GET", url, "the index", accept=accept,
                    headers={"Accept-Encoding": "gzip", **headers},
                ),
                Validators.load(validators),
            )  # fmt: skip
        except UpstreamError as error:
            if error.status not in (404, 410):
                raise
            raise IndexUnreadableError(
                f"there is no index at {self._index_url} ({error.status}); set query_path, or "
                "query_path=None if the server has none"
            ) from None
        if answer.status == 304:
            return None
        if "html" in answer.headers.get("Content-Type", ""):
            answer.body.close()
            raise IndexUnreadableError(
                f"at {self._index_url} there is a page of HTML where an index was expected; log in "
                "to the network or server, or set query_path"
            )
        windows = windows_of_object(answer.body, "the index")
        return IndexReading(
            entries_of_windows(windows),
            validators_from(answer.headers).dump(),
            answer.body.close,
            windows=windows,
        )

    def update_index(self) -> None:
        """Read the index anew, and emit events of what changed in it.

        Raises
        ------
        StoreUnavailableError
            If it can't be reached.
        IndexUnreadableError
            If what is there isn't one. The one before stays in force.
        """
        with self._reading:
            changes = self._read_anew()
        self._start_polling()
        for event in changes:
            self.event_manager.emit(event)

    def _refresh(self, age: float) -> None:
        """Read the index again if what is known of it is older than `age` seconds."""
        if self._index is not None and time.monotonic() - self._index_read > age:
            self.update_index()

    def _entries(self) -> dict[str, str]:
        index = self._index
        if index is None:
            with self._reading:
                if self._index is None:
                    self._read_anew()
                index = self._index
            self._start_polling()
        assert index is not None
        return index

    def _read_anew(self) -> list[StoreSetEvent | StoreUpdateEvent | StoreDeleteEvent]:
        before = self._index
        reading = self.read_index(None if before is None else self._index_validators)
        self._index_read = time.monotonic()
        if reading is None:
            return []
        now: dict[str, str] = {}
        try:
            for key, meta, *_ in reading.entries:
                if key in now:
                    raise IndexUnreadableError(
                        f"the index names the key {key!r} twice; the index before stays in force"
                    )
                now[key] = meta
        finally:
            reading.close()
        self._index, self._index_validators = now, reading.validators
        if before is None:
            return []
        if reading.withheld:
            # Of these the index says nothing: what was known of them stays.
            held = tuple(reading.withheld)
            now.update({key: meta for key, meta in before.items() if key.startswith(held)})
        events: list[StoreSetEvent | StoreUpdateEvent | StoreDeleteEvent] = []
        for key, meta in now.items():
            old = before.get(key)
            if old is None:
                events.append(StoreSetEvent(self, key=key, metadata=parse(meta)))
            elif old != meta and normal_form(parse(old)) != normal_form(parse(meta)):
                events.append(StoreUpdateEvent(self, key=key, metadata=parse(meta)))
        events += [
            StoreDeleteEvent(self, key=key, metadata=parse(meta))
            for key, meta in before.items()
            if key not in now
        ]
        return events

    def _start_polling(self) -> None:
        if self._poll and self._connected and self._polling is None:
            self._polling = threading.Thread(
                target=self._keep_polling, name="mountcache-index", daemon=True
            )
            self._polling.start()

    def _keep_polling(self) -> None:
        while not self._stop.wait(self._poll):
            try:
                self.update_index()
            except StoreError as error:
                _logger.info("the index couldn't be polled: %s", error)

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._index_url is None:
            self.read_index()
        wanted = {name: normal_value(value) for name, value in kwargs.items()}
        names = None if select is None else list(select)
        return self._matching(self._entries(), names, wanted)

    @staticmethod
    def _matching(
        entries: Mapping[str, str], names: list[str] | None, wanted: Mapping[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, meta in entries.items():
            metadata = parse(meta)
            if all(
                name in metadata and normal_value(metadata[name]) == value
                for name, value in wanted.items()
            ):
                yield key, select_from(metadata, names)

    # -- writing, where the server takes it ------------------------------------------------

    def enforces(self) -> bool:
        """Whether the server is one of ours: it then compares and writes as one step."""
        if self._data.ours is None and isinstance(self._transport, Transport):
            answer = self._transport.request(
                "HEAD", self._index_url or self._data_url, "the store",
                accept=(200, 304, 400, 403, 404, 405),
            )  # fmt: skip
            answer.body.close()
            self._data.note(answer.headers)
        return bool(self._data.ours)

    def batch_limits(self) -> BatchLimits | None:
        """Return how large a batch may be; None if the server takes none; asks it."""
        usual = self._data_url == f"{self._root}data/"
        takes = usual and self.enforces() and BATCH_IDS in self._data.features
        ahead = UPLOAD_FROM if self._uploads_there() is not None else None
        return BatchLimits(BATCH_LIMIT, BATCH_WRITES, ahead) if takes else None

    def write_batch(self, writes: Sequence[Write]) -> list[Pushed]:
        """Write several keys, all or none; see `SupportsBatch`."""
        return self._batches.write(writes)

    def set_if(
        self, key: str, value: Value, base: Base, op_id: str, *, parts: frozenset[str] = _BOTH
    ) -> Pushed:
        """Write a key; see `SupportsConditionalWrite`.

        Raises
        ------
        ReadOnlyStoreError
            If the server isn't one of ours, and `write` isn't "put".
        """
        return self._writable(key).set_if(key, value, base, op_id, parts)

    def set_metadata_if(
        self, key: str, metadata: Mapping[str, Any], base: Base, op_id: str
    ) -> Pushed:
        """Write metadata alone; raises as `set_if` does."""
        return self._writable(key).set_metadata_if(key, metadata, base, op_id)

    def delete_if(self, key: str, base: Base, op_id: str) -> Pushed:
        """Delete a key; raises as `set_if` does."""
        return self._writable(key).delete_if(key, base, op_id)

    @property
    def software(self) -> str | None:
        """See `SupportsProbing`."""
        return self._transport.software

    def probe(self, key: str) -> Enforced:
        """Find out which conditional writes the server enforces; see `SupportsProbing`."""
        writer = self._writable(key)
        if isinstance(writer, BareWriter):
            return writer.probe(key)
        if isinstance(writer, Writer):
            return Enforced(create=True, replace=True, delete=True)
        raise ConfigurationError(
            'with metadata = "sidecar" a key is two files, which no one request compares: both are '
            "looked at before a push in any case, so there is nothing to find out"
        )

    def _writable(self, key: str) -> Writer | BareWriter | Sidecars:
        if self.enforces():
            return self._writer
        if self._plain is None:
            raise ReadOnlyStoreError(
                f"{key!r} can't be written: {self._root} is a plain web server, which can only be "
                'read; if it takes PUT, say so with write="put"'
            )
        return self._plain


def _check_writing(write: str | None, metadata: str, query_path: str | None) -> None:
    if write not in (None, "put"):
        raise ConfigurationError(f'write is "put" or nothing, not {write!r}')
    if metadata not in ("local", "sidecar"):
        raise ConfigurationError(f'metadata is "local" or "sidecar", not {metadata!r}')
    if write == "put" and metadata == "local" and query_path is None:
        raise ConfigurationError(
            'without an index nothing else keeps metadata: say metadata="sidecar"'
        )
