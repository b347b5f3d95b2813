"""How a key is read through a mount: staged, cached, or upstream's.

A warm read is one statement. Everything else asks upstream through `Remote`, which knows when
to leave it alone, and downloads through `mountcache.sync.fetch`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mountcache.abc import (
    ABSENT,
    Facts,
    NotModified,
    SupportsIndex,
    SupportsRevalidation,
    SupportsVersions,
    Value,
    facts_of,
)
from mountcache.errors import (
    ChangedWhileReadingError,
    IndexUnreadableError,
    IntegrityError,
    StoreUnavailableError,
)
from mountcache.jsonform import content_version, parse, spelling
from mountcache.local.catalog import HIT, HIT_INDEXED
from mountcache.local.decide import copy_version, seen_of_copy
from mountcache.local.records import UNKNOWN_BASE, Copy, Edit, Entry, Row, Seen
from mountcache.local.store import reread
from mountcache.local.value import Snapshot
from mountcache.local.view import matcher
from mountcache.sync import fetch
from mountcache.sync.mount import Mount
from mountcache.sync.options import Options
from mountcache.sync.promise import promise_for, promise_of
from mountcache.sync.remote import Remote
from mountcache.sync.residence import is_base
from mountcache.sync.turns import Turns

__all__ = ["Overlay"]

_DAY = 86400.0


class Overlay:
    """The reads of one mount. Keys are the catalog's, without the mount point."""

    def __init__(self, mount: Mount, remote: Remote) -> None:
        self._mount = mount
        self._catalog = mount.catalog
        self._counts = mount.counts
        self._remote = remote
        self._turns = Turns()
        backing = mount.backing
        self._indexed = isinstance(backing, SupportsIndex) and backing.poll is not None
        self._versioned = isinstance(backing, SupportsVersions)

    # -- values --------------------------------------------------------------------------

    def warm(self, key: str, options: Options) -> Snapshot | None:
        """Return the value of a key that is here and needs no question; None otherwise."""
        hit = self._catalog.hit(key, HIT_INDEXED if self._indexed else HIT)
        if hit is None:
            return None
        (
            kind, meta, version, size, sha, modified, checked, expires,
            mode, filename, bytes_here, stored_at, *listed,
        ) = hit  # fmt: skip
        entry = None
        age = 0.0
        if kind is None:
            now = self._mount.clock()
            age = now - checked
            if listed:
                entry, polled = listed
                if not (
                    self._remote.is_current(polled, options.max_age)
                    and ((0 <= age < _DAY and expires != 0) or promise_of(entry).digest)
                ):
                    return None
            elif not (
                _is_fresh(now, checked, expires, options.max_age)
                or (options.offline == "prefer" and expires != 0)
            ):
                return None
        try:
            stored = (mode, filename, bytes_here, size, stored_at)
            stream = self._catalog.content.open(stored)
        except FileNotFoundError:
            return None  # the slow path says what is missing
        self._counts.hits += 1
        if kind is None:
            self._catalog.use(key)
            self._catalog.hand_out(key, Seen(version, sha, meta, entry))
        else:
            self._catalog.hand_out_edit(key, kind, meta, sha, UNKNOWN_BASE)
        return Snapshot(
            key, meta, stream=stream, source="staged" if kind else "cached",
            version=version or content_version(sha, parse(meta)), size=size, sha256=sha,
            modified=modified, age=max(0.0, age),
        )  # fmt: skip

    def value(self, key: str, options: Options, *, data: bool = False) -> Value:
        """Return the value of a key.

        Parameters
        ----------
        data
            Whether its data will be read in any case, so that one request can bring all.

        Raises
        ------
        KeyError
            If it isn't there.
        StoreUnavailableError
            If that can't be known now.
        """
        if self._mount.staging.current() is None:
            warm = self.warm(key, options)
            if warm is not None:
                return warm
        return reread(lambda: self._cold(key, options, data=data), key)

    def data(self, key: str, options: Options) -> io.BufferedIOBase:
        """Return the data of a key; raises as `value` does."""
        if self._mount.staging.current() is None:
            warm = self.warm(key, options)
            if warm is not None:
                return warm.data
            row = self._catalog.row(key)
            if row.edit is None and row.copy is None:
                with self._turns.first(key):
                    return self.value(key, options, data=True).data
        return self.value(key, options, data=True).data

    def _cold(self, key: str, options: Options, *, data: bool) -> Value:
        row = self._mount.staging.row(key, mounted=True)
        if row.edit is not None:
            return self._staged(row, row.edit, options)
        row = self._with_sound_copy(row)
        if self._indexed:
            return self._indexed_value(key, options, data=data)
        return self._asked_value(row, options, data=data)

    # -- staged --------------------------------------------------------------------------

    def _staged(self, row: Row, edit: Edit, options: Options) -> Value:
        self._hand_out_edit(edit)
        if edit.kind == "del":
            raise KeyError(row.key)
        self._counts.hits += 1
        if edit.kind == "put":
            return Snapshot(
                row.key, edit.meta, stream=self._mount.staging.open_edit(edit),
                version=edit.version, size=edit.size, sha256=edit.sha256, modified=edit.at,
            )  # fmt: skip
        row = self._with_sound_copy(row)
        copy = row.copy
        if copy is not None and not is_base(copy, edit):
            copy = None
        if copy is not None:
            return Snapshot(
                row.key, edit.meta, stream=self._catalog.open_copy(copy), version=edit.version,
                size=copy.size, sha256=copy.sha256, modified=edit.at,
            )  # fmt: skip
        size = row.entry.size if row.entry is not None else None
        return _Borrowed(self, row, edit, options, size)

    def _hand_out_edit(self, edit: Edit) -> None:
        if self._mount.staging.current() is None:
            sha256 = edit.sha256 or edit.base.sha256
            self._catalog.hand_out_edit(edit.key, edit.kind, edit.meta, sha256, edit.base)

    def beneath(self, key: str, options: Options) -> Value:
        """Return the value of a key as if nothing were staged; raises as `value` does."""
        row = self._mount.staging.row(key, mounted=True)
        if row.edit is None:
            return self.value(key, options)
        row = self._with_sound_copy(row)
        return reread(lambda: self._asked_value(replace_edit(row), options, data=False), key)

    def asked(self, key: str, options: Options) -> Value:
        """Return what upstream has now, whatever is staged or fresh here, its download begun."""
        row = self._with_sound_copy(self._mount.staging.row(key, mounted=True))
        if row.edit is None and row.copy is None:
            return self.value(key, options, data=True)
        return reread(lambda: self._upstream_value(replace_edit(row), options, data=True), key)

    def base_value(self, row: Row, options: Options) -> tuple[Value, bool]:
        """Return upstream's value under a metadata edit, and whether it has moved on."""
        edit = row.edit
        assert edit is not None
        value = self._upstream_value(replace_edit(row), options, data=True)
        moved = edit.base.version is not None and value.version != edit.base.version
        return value, moved

    # -- through an index ----------------------------------------------------------------

    def _indexed_value(self, key: str, options: Options, *, data: bool) -> Value:
        try:
            stale = self.refresh_index(options)
        except StoreUnavailableError:
            known = self._catalog.row(key)
            # Of a key that came here in a bundle more is known than of all the others.
            if options.offline == "never" or known.copy is None or known.entry is None:
                raise
            stale = True
        row = self._with_sound_copy(self._mount.staging.row(key, mounted=True))
        entry, copy = row.entry, row.copy
        if entry is None or not entry.present:
            self._catalog.hand_out(key, Seen(ABSENT))
            if entry is None and not row.complete:
                full = self._mount.full(key)
                raise StoreUnavailableError(
                    f"upstream can't be reached, so nobody knows whether it has {full!r}"
                )
            raise KeyError(key)
        if copy is not None and _same_bytes(copy, entry):
            age = self._mount.clock() - copy.checked
            asked_today = 0 <= age < _DAY and copy.expires != 0
            if not (promise_of(entry.entry).digest or asked_today or stale):
                copy = self._reconfirmed(row, copy, entry, options) or copy
            return self._of_copy(copy, stale=stale, entry=entry)
        unasked = options.offline == "prefer" or self._remote.is_left_alone(options)
        if copy is not None and (stale or unasked):
            return self._of_copy(copy, stale=True)
        self._catalog.hand_out_entry(entry)

        def download() -> io.BufferedIOBase:
            return self._download_indexed(row, entry, options)

        return Snapshot(
            key, entry.meta, source="upstream",
            fetch=(lambda: self._or_copy(download, copy, options)) if data else download,
            fetch_range=lambda start, end: self._range(row, None, options, start, end),
            version=entry.version, sha256=entry.sha256,
            size=entry.size or promise_of(entry.entry).size,
        )  # fmt: skip

    def _reconfirmed(self, row: Row, copy: Copy, entry: Entry, options: Options) -> Copy | None:
        """Ask after a copy that no promise of the index covers; once a day is enough."""
        try:
            answer = self._revalidate(row, copy, options)
        except StoreUnavailableError:
            if options.offline == "never":
                raise
            return None
        if isinstance(answer, NotModified):
            self._confirm(copy, facts_of(answer), entry.entry, entry.meta)
            return None
        with self._filled(row, answer, options, entry):
            pass
        return self._catalog.row(row.key).copy

    def _download_indexed(self, row: Row, entry: Entry, options: Options) -> io.BufferedIOBase:
        full = self._mount.full(row.key)
        try:
            value = self._remote.ask(lambda: fetch.begin_or_join(self._mount, row.key), options)
        except StoreUnavailableError as error:
            return self._not_here(row.key, error)
        now = self._catalog.row(row.key).entry
        if now is None or now.entry != entry.entry:
            raise ChangedWhileReadingError(
                f"{full!r} was replaced upstream before its data was read; read it again"
            )
        try:
            return self._filled(row, value, options, entry)
        except IntegrityError as error:
            # What the index promised is in doubt: it may be the one that is out of date.
            self.refresh_index(options)
            now = self._catalog.row(row.key).entry
            if now is None or now.entry != entry.entry:
                raise ChangedWhileReadingError(
                    f"{full!r} was replaced upstream; read it again"
                ) from error
            raise

    def refresh_index(self, options: Options) -> bool:
        """Read the index anew if it is due; return True if it couldn't be."""
        if options.offline in ("always", "prefer") and self._catalog.state("complete"):
            return not self._remote.index_is_current(options.max_age)
        if self._remote.index_is_current(options.max_age):
            return False
        try:
            self._remote.update_index(options, max_age=options.max_age)
        except StoreUnavailableError:
            if options.offline == "never" or not self._catalog.state("complete"):
                raise
            return True
        except IndexUnreadableError:
            if not self._catalog.state("complete"):
                raise
            return True
        return False

    # -- by asking -----------------------------------------------------------------------

    def _asked_value(self, row: Row, options: Options, *, data: bool) -> Value:
        copy = row.copy
        known = row.entry
        now = self._mount.clock()
        if known is not None and not known.present:
            copy = None
        if copy is not None and (
            options.offline == "prefer"
            or _is_fresh(now, copy.checked, copy.expires, options.max_age)
        ):
            return self._of_copy(copy)
        try:
            return self._upstream_value(row, options, data=data, instead=copy)
        except StoreUnavailableError as error:
            if options.offline == "never":
                raise
            if copy is not None:
                return self._of_copy(copy, stale=True)
            return self._offline_value(row, error)

    def _offline_value(self, row: Row, error: StoreUnavailableError) -> Value:
        """Return what can be said of a key without upstream."""
        known = row.entry
        if known is not None and known.present:
            self._catalog.hand_out_entry(known)
            return Snapshot(
                row.key, known.meta, source="upstream",
                fetch=lambda: self._not_here(row.key, error), version=known.version,
                size=known.size, sha256=known.sha256, stale=True,
            )  # fmt: skip
        if row.complete or known is not None:
            self._catalog.hand_out(row.key, Seen(ABSENT))
            raise KeyError(row.key)
        self._not_here(row.key, error)
        raise AssertionError("unreachable")

    def _not_here(self, key: str, error: StoreUnavailableError) -> io.BufferedIOBase:
        raise StoreUnavailableError(f"{self._mount.full(key)!r} isn't here, and {error}") from error

    def _upstream_value(
        self, row: Row, options: Options, *, data: bool, instead: Copy | None = None
    ) -> Value:
        """Ask upstream for the key; KeyError if it isn't there.

        Where `data` is asked for and doesn't come, that of `instead` is given.
        """
        copy, key = row.copy, row.key
        full, backing = self._mount.full(key), self._mount.backing
        try:
            if copy is not None and copy.validators:
                answer = self._revalidate(row, copy, options)
                if isinstance(answer, NotModified):
                    return self._confirmed(copy, facts_of(answer))
                value = answer
            elif data:
                value = self._remote.ask(lambda: fetch.begin_or_join(self._mount, key), options)
            else:
                value = self._remote.ask(lambda: backing.get(full), options)
        except KeyError:
            self._catalog.note_entry(key, meta=None)
            self._catalog.hand_out(key, Seen(ABSENT))
            raise
        same = copy is not None and self._is_copy(copy, value)
        if same or not data:
            # An answer that nobody may ever read would hold its connection.
            _let_go(value)
        if copy is not None and same:
            return self._confirmed(copy, facts_of(value))
        meta = spelling(value.metadata)
        facts = facts_of(value)
        version = facts.version if self._versioned else None
        if not data:
            self._catalog.note_entry(
                key, meta=meta, version=version, sha256=facts.sha256, size=value.size
            )
        self._catalog.hand_out(key, Seen(version, facts.sha256, meta))
        return _Upstream(self, row, value, meta, version, options, anew=data, instead=instead)

    def _is_copy(self, copy: Copy, value: Value) -> bool:
        """Whether upstream's value is the copy, as far as can be told without its data."""
        facts = facts_of(value)
        if self._versioned and facts.version is not None and copy.version is not None:
            return facts.version == copy.version
        return facts.sha256 == copy.sha256 and spelling(value.metadata) == copy.meta

    def _revalidate(self, row: Row, copy: Copy, options: Options) -> NotModified | Value:
        backing, full = self._mount.backing, self._mount.full(row.key)
        if isinstance(backing, SupportsRevalidation):
            return self._remote.ask(lambda: backing.revalidate(full, copy.validators), options)
        return self._remote.ask(lambda: backing.get(full), options)

    def _confirmed(self, copy: Copy, facts: Facts) -> Snapshot:
        self._confirm(copy, facts, copy.entry, copy.meta)
        return self._of_copy(replace(copy, checked=self._mount.clock()))

    def _confirm(self, copy: Copy, facts: Facts, entry: str | None, meta: str) -> None:
        self._catalog.note_checked(
            copy,
            lifetime=facts.lifetime,
            validators=facts.validators or copy.validators,
            version=facts.version if facts.version is not None else copy.version,
            entry=entry,
            meta=meta,
        )

    # -- bytes ---------------------------------------------------------------------------

    def _or_copy(
        self, fill: Callable[[], io.BufferedIOBase], copy: Copy | None, options: Options
    ) -> io.BufferedIOBase:
        """Return what `fill` does; the data of a copy if upstream turns out to be out of reach."""
        try:
            return fill()
        except StoreUnavailableError:
            if copy is not None and options.offline != "never":
                with suppress(FileNotFoundError):  # evicted meanwhile
                    return self._of_copy(copy, stale=True).data
            raise

    def _filled(
        self,
        row: Row,
        value: Value,
        options: Options,
        entry: Entry | None,
        *,
        anew: bool = False,
    ) -> io.BufferedIOBase:
        """Return a stream of upstream's data, which is kept on its way through."""
        self._counts.misses += 1
        promise = promise_for(self._mount, entry)
        facts = facts_of(value)

        def begin() -> io.BufferedIOBase:
            stream = fetch.fill(self._mount, row, value, promise, keep=options.fill, anew=anew)
            try:
                stream.peek(1)  # what stalls shows here, where a copy can still stand in
            except BaseException:
                stream.close()
                raise
            return stream

        stream = self._remote.watch(begin, options)
        if entry is not None and self._versioned and facts.version is not None:
            # Whoever reads the data has seen more than the entry.
            seen = Seen(facts.version, facts.sha256, entry.meta, entry.entry)
            self._catalog.hand_out(row.key, seen)
        return stream

    def _range(
        self,
        row: Row,
        value: Value | None,
        options: Options,
        start: int,
        end: int | None,
    ) -> io.BufferedIOBase:
        self._counts.misses += 1
        full, backing = self._mount.full(row.key), self._mount.backing
        if value is None:
            value = self._remote.ask(lambda: backing.get(full), options)
        known = value
        if not options.fill:
            return known.range(start, end)
        return self._remote.ask(
            lambda: fetch.open_range(self._mount, row, known, start, end), options
        )

    def _of_copy(self, copy: Copy, *, stale: bool = False, entry: Entry | None = None) -> Snapshot:
        """Return the value of a copy, under the metadata of an entry if one is given."""
        self._counts.hits += 1
        seen = seen_of_copy(copy)
        if entry is not None:
            seen = seen._replace(meta=entry.meta, entry=entry.entry)
        self._catalog.use(copy.key)
        self._catalog.hand_out(copy.key, seen)
        return Snapshot(
            copy.key, copy.meta if entry is None else entry.meta,
            stream=self._catalog.open_copy(copy), source="cached", version=copy_version(copy),
            size=copy.size, sha256=copy.sha256, modified=copy.modified,
            age=max(0.0, self._mount.clock() - copy.checked), stale=stale,
        )  # fmt: skip

    def _with_sound_copy(self, row: Row) -> Row:
        """Return the row less a copy whose bytes have gone or were torn by a crash.

        Clean bytes aren't synced: a copy of an earlier boot is checked at its first read.
        """
        copy = row.copy
        if copy is None:
            return row
        if self._catalog.is_sound(copy):
            return row
        self._catalog.drop_copy(copy.key, content=copy.content)
        return Row(row.key, row.edit, row.op, None, row.entry, row.complete)

    # -- metadata and listings -----------------------------------------------------------

    def metadata(self, key: str, options: Options) -> dict[str, Any]:
        """Return the metadata of a key; raises as `value` does."""
        if self._mount.staging.current() is None:
            warm = self.warm(key, options)
            if warm is not None:
                return warm.metadata
        row = self._mount.staging.row(key, mounted=True)
        if row.edit is not None:
            self._hand_out_edit(row.edit)
            if row.edit.kind == "del":
                raise KeyError(key)
            return parse(row.edit.meta)
        return self.value(key, options).metadata

    def view(
        self, where: dict[str, Any], options: Options, pattern: str | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (key, metadata) of the merged view.

        Raises
        ------
        StoreUnavailableError
            After what is known, if upstream may hold more.
        """
        backing = self._mount.backing
        if not isinstance(backing, SupportsIndex):
            yield from self._view_by_query(where, options, pattern)
            return
        missing: StoreUnavailableError | None = None
        try:
            if self._indexed:
                self.refresh_index(options)
            else:
                self._refresh_listing(options)
        except StoreUnavailableError as error:
            if options.offline == "never":
                raise
            if not self._catalog.state("complete"):
                missing = error
        except IndexUnreadableError:
            if self._indexed:
                raise
            yield from self._view_by_query(where, options, pattern)
            return
        yield from self._mount.staging.view(where, merged=True, pattern=pattern)
        if missing is not None and not options.partial:
            raise StoreUnavailableError(f"this is only what is known here: {missing}") from missing

    def _refresh_listing(self, options: Options) -> None:
        """Take a listing of upstream in, unless the one before is young enough."""
        if options.offline == "prefer" and self._catalog.state("complete"):
            return
        if options.max_age and self._remote.index_is_current(options.max_age):
            return
        self._remote.update_index(options)

    def _view_by_query(
        self, where: dict[str, Any], options: Options, pattern: str | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Merge a query of an upstream that can't list itself."""
        mount = self._mount
        matches = matcher({}, pattern)
        skip = len(mount.prefix)
        try:
            theirs = self._remote.ask(lambda: list(mount.backing.query(**where)), options)
        except StoreUnavailableError as error:
            yield from mount.staging.view(where, merged=True, pattern=pattern)
            if options.partial:
                return
            raise StoreUnavailableError(f"this is only what is known here: {error}") from error
        mine = dict(mount.staging.view(where, merged=False, pattern=pattern))
        for full, metadata in theirs:
            key = full[skip:]
            if not full.startswith(mount.prefix) or not key or not matches(key, {}):
                continue
            row = mount.staging.row(key, mounted=True)
            if row.edit is None:
                mine[key] = metadata
        yield from sorted(mine.items())


class _Upstream(Snapshot):
    """Upstream's value, whose data is kept here on its way through."""

    def __init__(
        self,
        overlay: Overlay,
        row: Row,
        value: Value,
        meta: str,
        version: str | None,
        options: Options,
        *,
        anew: bool,
        instead: Copy | None,
    ) -> None:
        facts = facts_of(value)

        def fill() -> io.BufferedIOBase:
            return overlay._filled(row, value, options, None, anew=anew)

        super().__init__(
            row.key,
            meta,
            source="upstream",
            fetch=(lambda: overlay._or_copy(fill, instead, options)) if anew else fill,
            fetch_range=lambda start, end: overlay._range(row, value, options, start, end),
            version=version,
            size=value.size if value.size is not None else facts.size,
            sha256=facts.sha256,
            modified=value.modified,
        )
        self._value = value

    @property
    def permissions(self) -> dict[str, Any]:
        return self._value.permissions

    @property
    def mimetype(self) -> str:
        return self._value.mimetype


class _Borrowed(Snapshot):
    """A metadata edit over bytes that only upstream has."""

    def __init__(
        self, overlay: Overlay, row: Row, edit: Edit, options: Options, size: int | None
    ) -> None:
        super().__init__(
            row.key, edit.meta, fetch=self._borrow, version=edit.version, size=size,
            modified=edit.at,
        )  # fmt: skip
        self._overlay = overlay
        self._row = row
        self._options = options

    def _borrow(self) -> io.BufferedIOBase:
        try:
            value, moved = self._overlay.base_value(self._row, self._options)
            self._stale = self._stale or moved
            return value.data
        except KeyError:
            raise StoreUnavailableError(
                f"the data of {self._key!r} was deleted upstream, where your edit of its metadata "
                "had left it; set it whole, or revert the edit"
            ) from None

    @property
    def stale(self) -> bool:
        return self._stale


def _let_go(value: Value) -> None:
    """Close the answer that may have come with a value; its data is asked for again then."""
    close = getattr(value, "close", None)
    if close is not None:
        close()


def replace_edit(row: Row) -> Row:
    """Return the row as if nothing were staged."""
    return Row(row.key, None, None, row.copy, row.entry, row.complete)


def _is_fresh(now: float, checked: float, expires: float | None, max_age: float | None) -> bool:
    """Whether a copy may be used without asking; one from the future may not."""
    if max_age is not None:
        return 0 <= now - checked < max_age and expires != 0
    return expires is not None and checked <= now < expires


def _same_bytes(copy: Copy, entry: Entry) -> bool:
    return entry.sha256 == copy.sha256 or entry.entry == copy.entry
