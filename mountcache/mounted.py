"""MountedStore: a writable local store over a prefix of a remote one.

Reads go through (`mountcache.overlay`), changes are staged here, `push` sends them when you
say so. The backing store is read-only through the mount except for push.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from mountcache.abc import (
    ABSENT,
    AbstractAuthorizingStore,
    AbstractReadOnlyStore,
    AbstractStore,
    Base,
    Pushed,
    Readable,
    SupportsIdentity,
    Value,
    check_stream,
    chunks,
    read_again,
    select_from,
    unpack,
)
from mountcache.errors import (
    ConfigurationError,
    ConflictError,
    InvalidKeyError,
    PinnedError,
    ReadOnlyKeyError,
    StoreError,
    StoreUnavailableError,
)
from mountcache.events import (
    BaseEvent,
    EventManager,
    StorePushEvent,
)
from mountcache.jsonform import parse, spelling
from mountcache.keys import check_key
from mountcache.local import binding, fields
from mountcache.local.decide import merged_meta
from mountcache.local.history import Logged
from mountcache.local.lending import lent
from mountcache.local.listing import ALL_IS_HERE
from mountcache.local.mirror import Mirror, mirrored
from mountcache.local.pinning import is_pinned
from mountcache.local.records import UNKNOWN_BASE, Edit, Row, StagedEdit, Taken
from mountcache.local.staging import Announce
from mountcache.local.store import default_author
from mountcache.local.undo import entries
from mountcache.local.view import literal_prefix, matcher
from mountcache.locks import Lock
from mountcache.overlay import Overlay
from mountcache.sync import history, pausing, pinning, single, unattended
from mountcache.sync import permissions as rights
from mountcache.sync.mount import Mount
from mountcache.sync.options import Offline, Options, check_offline
from mountcache.sync.pausing import Pause
from mountcache.sync.pusher import Pusher, Pushing, pushing_of
from mountcache.sync.remote import Remote
from mountcache.sync.report import PushResult
from mountcache.sync.rules import Rule, Rules, apply_rules, rules_of
from mountcache.sync.status import staged
from mountcache.sync.switch import read_switch, turn_switch

__all__ = ["MountedStore"]


class MountedStore(AbstractStore):
    """A writable local store, mounted over a prefix of a remote store.

    Parameters
    ----------
    mount_point
        The prefix of the keys under which the local store lies; "" for all keys.
    mount_store
        The local store: holds staged edits and clean copies. Its keys lack the mount point.
    backing_store
        The remote store: read-only through the mount, except for `push`.
    max_age
        Seconds for which a copy is used without asking; None: as upstream says.
    offline
        "auto" serves copies while upstream is out of reach, and leaves it alone for a while;
        "always" never asks; "never" raises instead; "prefer" takes any copy there is first. What
        `set_offline` said for the directory counts more.
    insist_offline
        Let `offline` count more than that.
    author
        Who makes the edits; ``MOUNTCACHE_AUTHOR``, or the user's name at the host, if None.
    probe
        The first push may write a scratch key, to find out which conditional writes upstream
        enforces (`mountcache.sync.probe`).
    push
        "manual": staged edits go when `push` says so; "auto": by themselves, while the store is
        connected, a moment after they were made (`mountcache.sync.Pushing` says more). What
        upstream has changed meanwhile stays staged then, too.
    rules
        What goes for the keys of some patterns alone (`mountcache.sync.Rule`); of those that
        match, the last that says something of a thing counts.
    clock
        The wall clock, in seconds since 1970.
    event_manager
        Who hears of changes; one of the store's own unless given.
    """

    def __init__(
        self,
        mount_point: str,
        mount_store: AbstractStore,
        backing_store: AbstractReadOnlyStore,
        *,
        max_age: float | None = None,
        offline: str = "auto",
        insist_offline: bool = False,
        author: str | None = None,
        probe: bool = False,
        push: str | Pushing = "manual",
        rules: Iterable[Rule] = (),
        clock: Callable[[], float] = time.time,
        event_manager: EventManager | None = None,
    ) -> None:
        super().__init__(event_manager)
        self.mount_point = mount_point
        self.mount_store = mount_store
        self.backing_store = backing_store
        self._check: Callable[[str], str] = getattr(backing_store, "check_key", check_key)
        self._author = author or default_author()
        self._may_probe = probe
        self._pushing = pushing_of(push)
        checked = rules_of(rules, "rules", mount_point)
        self._rules = Rules(checked) if checked else None
        self._clock = clock
        self._chosen = Options(
            max_age=max_age, offline=check_offline(offline), insists=insist_offline
        )
        self._local = mirrored(mount_store)
        self._mirror = self._local if isinstance(self._local, Mirror) else None
        self._opening = Lock()
        self._overlay_: Overlay | None = None
        self._remote_: Remote | None = None
        self._mount_: Mount | None = None
        self._connected_here: list[AbstractReadOnlyStore] = []
        self._stop_polling = threading.Event()
        self._poller: threading.Thread | None = None
        self._pusher: Pusher | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # Another process opens both ends for itself; listeners stay here.
        ends = (self.mount_point, self.mount_store, self.backing_store)
        rules = () if self._rules is None else self._rules.rules
        settings = (self._author, self._may_probe, self._clock, self._chosen, self._pushing)
        return _again, (ends, *settings, rules)

    # -- the two ends --------------------------------------------------------------------

    @property
    def mount(self) -> Mount:
        """The two ends, as `mountcache.sync` works with them."""
        if self._mount_ is None:
            with self._opening:
                if self._mount_ is None:
                    self._open()
        assert self._mount_ is not None
        return self._mount_

    def _open(self) -> None:
        catalog = self._local.catalog
        catalog.clock = self._clock
        backing = self.backing_store
        identity = backing.identity if isinstance(backing, SupportsIdentity) else None
        binding.bind(catalog, identity, self.mount_point)
        mount = Mount(
            catalog=catalog,
            staging=self._local.staging,
            journal=self._local.journal,
            backing=backing,
            announce=self._announce,
            prefix=self.mount_point,
            clock=self._clock,
            emit=self._emit,
            may_probe=self._may_probe,
            quiet=self._pushing.quiet,
            rules=self._rules,
            max_age=self._chosen.max_age,
        )
        rules, point = self._rules, self.mount_point
        catalog.pins = None if rules is None else lambda key: rules.pins(point + key)
        catalog.keeps = None if rules is None else lambda key: rules.store(point + key) != "never"
        apply_rules(mount)
        self._remote_ = Remote(mount)
        self._overlay_ = Overlay(mount, self._remote_)
        self._mount_ = mount

    @property
    def _overlay(self) -> Overlay:
        _ = self.mount
        assert self._overlay_ is not None
        return self._overlay_

    @property
    def _remote(self) -> Remote:
        _ = self.mount
        assert self._remote_ is not None
        return self._remote_

    def _agree(self, *keys: str) -> None:
        """Bring a mount store of another make and its catalog to the same state."""
        if self._mirror is not None and self._local.staging.current() is None:
            self._mirror.agree(keys or None)

    def _emit(self, event: BaseEvent) -> None:
        if isinstance(event, StorePushEvent):
            self._agree()
        event.source = self
        self.event_manager.emit(event)

    def _announce(self, key: str) -> Announce:
        return Announce(self, self.mount_point + key, mounted=True, author=self._author)

    def connect(self, credentials: Any = None) -> None:
        """Connect what isn't connected; `credentials` are those of the backing store.

        That upstream is down is no error.
        """
        if not self.mount_store.is_connected():
            self.mount_store.connect()
            self._connected_here.append(self.mount_store)
        remote = self._remote  # from here on the directory's switch counts
        if not self.backing_store.is_connected():
            try:
                self.backing_store.connect(credentials)
            except StoreUnavailableError:
                if self._options.offline == "never":
                    raise
            except ConfigurationError:
                # Whoever asks nobody needs no credentials, and is often where there are none.
                if self._options.offline != "always":
                    raise
            self._connected_here.append(self.backing_store)
        super().connect(credentials)
        never = self._chosen.offline == "always" and self._chosen.insists
        if remote.poll and self._poller is None and not never:
            self._stop_polling.clear()
            self._poller = threading.Thread(
                target=remote.poll_until,
                args=(self._stop_polling, self._chosen),
                name="mountcache-poll",
                daemon=True,
            )
            self._poller.start()
        mount = self.mount
        auto = self._pushing.mode == "auto" and not mount.frozen
        if auto and self._pusher is None and not mount.catalog.content.readonly:
            self._pusher = Pusher(mount, self._pushing, lambda: self._options.offline == "always")
            self._pusher.start()

    def disconnect(self) -> None:
        """Disconnect what `connect` connected.

        A background pusher ends the keys in flight first; what it didn't come to stays staged,
        and `flush` tells whether there is anything of that.
        """
        super().disconnect()
        if self._pusher is not None:
            pusher, self._pusher = self._pusher, None
            pusher.stop(self._cut)
        self._stop_polling.set()
        if self.backing_store in self._connected_here:
            # First: that ends a poll which is waiting for an answer.
            self._connected_here.remove(self.backing_store)
            self.backing_store.disconnect()
        if self._poller is not None:
            self._poller.join()
            self._poller = None
        for store in self._connected_here:
            store.disconnect()
        self._connected_here.clear()
        with self._opening:
            self._mount_ = self._overlay_ = self._remote_ = None

    def _cut(self) -> None:
        """Let go of upstream, so that nobody waits for an answer any more."""
        if self.backing_store in self._connected_here:
            self._connected_here.remove(self.backing_store)
            self.backing_store.disconnect()

    def info(self) -> dict[str, Any]:
        return {
            "readonly": False,
            "authorizing": False,
            "mount_point": self.mount_point,
            "offline": self._options.offline,
        }

    def with_options(
        self,
        *,
        max_age: float | None = None,
        offline: str | None = None,
        deadline: float | None = None,
        fill: bool | None = None,
        partial: bool | None = None,
        indexes: bool | None = None,
    ) -> MountedStore:
        """Return a view of this store with other settings for some calls.

        Parameters
        ----------
        max_age
            Seconds for which a copy is used without asking.
        offline
            "auto", "always", "never" or "prefer".
        deadline
            Seconds that upstream may take to answer one call; what isn't here by then counts
            as out of reach. A large value that is coming in goes on as long as it comes.
        fill
            False to keep nothing of what is read.
        partial
            True to let a query end quietly where upstream may hold more.
        indexes
            False to let a query by metadata make no index for itself: it is for somebody else.
        """
        if deadline is not None and deadline <= 0:
            raise ConfigurationError(f"a deadline is more than 0 seconds, not {deadline}")
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        _ = self.mount
        view.__dict__.update(self.__dict__)
        options = self._chosen
        view._chosen = replace(
            options,
            max_age=options.max_age if max_age is None else max_age,
            max_age_insists=options.max_age_insists or max_age is not None,
            offline=options.offline if offline is None else check_offline(offline),
            deadline=options.deadline if deadline is None else deadline,
            fill=options.fill if fill is None else fill,
            partial=options.partial if partial is None else partial,
            indexes=options.indexes if indexes is None else indexes,
            insists=options.insists or offline is not None,
        )
        return view

    @property
    def _options(self) -> Options:
        """How calls go about it now."""
        remote = self._remote_
        return self._chosen if remote is None else remote.in_force(self._chosen)

    def _ruled(self, key: str) -> Options:
        """How calls about one key go about it now, where there are rules."""
        options = self._options
        age = None if self._rules is None or options.max_age_insists else self._rules.max_age(key)
        return options if age is None else replace(options, max_age=age)

    def set_offline(self, how: str | None) -> None:
        """Say for all processes of this directory how they work offline, until further notice.

        It counts more than what each was made with, and less than `with_options`. Those that have
        the directory open heed it within a second; a push, pull or prefetch is refused while it
        is "always".

        Parameters
        ----------
        how
            "auto", "always", "never" or "prefer"; None: as each was made.
        """
        turn_switch(self.mount.catalog, how)
        self._remote.switch.look_again()

    @property
    def offline_switch(self) -> Offline | None:
        """What `set_offline` said for this directory; None if nothing."""
        return read_switch(self.mount.catalog)

    def is_offline(self) -> bool:
        """Whether upstream is left alone now: after a failure, or because it is set so."""
        remote = self._remote
        return self._options.offline == "always" or remote.is_resting()

    # -- reading -------------------------------------------------------------------------

    def _short(self, key: str) -> str | None:
        """Return the catalog's name of a key, None if it lies outside the mount point."""
        point = self.mount_point
        return key[len(point) :] or None if key.startswith(point) else None

    def get(self, key: str) -> Value:
        return self._value(key, data=False)

    def _value(self, key: str, *, data: bool) -> Value:
        short = self._short(self._check(key))
        if short is None:
            return self.backing_store.get(key)
        if self._mirror is not None:
            self._agree(short)
        try:
            return (self._overlay_ or self._overlay).value(
                short, self._options if self._rules is None else self._ruled(key), data=data
            )
        except KeyError:
            raise KeyError(key) from None

    def _data(self, key: str) -> io.BufferedIOBase:
        short = self._short(self._check(key))
        if short is None:
            return self.backing_store.get(key).data
        if self._mirror is not None:
            self._agree(short)
        try:
            return (self._overlay_ or self._overlay).data(
                short, self._options if self._rules is None else self._ruled(key)
            )
        except KeyError:
            raise KeyError(key) from None

    def fetch(self, key: str) -> Value:
        """Return the value of `key`, its download begun if it isn't here; raises as `get` does."""
        return self._value(key, data=True)

    def warm(self, key: str) -> Value | None:
        """Return the value of `key` if it is here and upstream needs no question; else None."""
        short = self._short(self._check(key))
        return None if short is None else self._overlay.warm(short, self._ruled(key))

    def get_data(self, key: str) -> io.BufferedIOBase:
        return read_again(lambda: self._data(key))

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> dict[str, Any]:
        short = self._short(self._check(key))
        if short is None:
            return self.backing_store.get_metadata(key, select)
        if self._mirror is not None:
            self._agree(short)
        try:
            metadata = (self._overlay_ or self._overlay).metadata(
                short, self._options if self._rules is None else self._ruled(key)
            )
            return select_from(metadata, select)
        except KeyError:
            raise KeyError(key) from None

    def exists(self, key: str) -> bool:
        try:
            self.get_metadata(key, ())
        except KeyError:
            return False
        return True

    def query(
        self, select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (key, metadata) of the merged view; see `AbstractReadOnlyStore.query`.

        While upstream is out of reach, what is known comes first, then StoreUnavailableError if
        there may be more; ``with_options(partial=True)`` leaves the error out. Of keys outside the
        mount point nothing is kept here but whether there were any: `glob` of those under it
        needs no others.
        """
        names = None if select is None else list(select)
        return ((key, select_from(metadata, names)) for key, metadata in self._view(kwargs))

    def query_keys(self, **kwargs: Any) -> Iterator[str]:
        return (key for key, _ in self._view(kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        point = self.mount_point
        if literal_prefix(pattern).startswith(point) and not self._may_be_the_point(pattern):
            self._agree()
            inside = self._overlay.view({}, self._options, pattern[len(point) :])
            return (point + key for key, _ in inside)
        matches = matcher({}, pattern)
        return (key for key, _ in self._view({}) if matches(key, {}))

    def _may_be_the_point(self, pattern: str) -> bool:
        """Whether a pattern matches the mount point, and that can be a key, which lies outside."""
        try:
            return bool(self.mount_point) and matcher({}, pattern)(
                self._check(self.mount_point), {}
            )
        except InvalidKeyError:
            return False

    def _view(self, where: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        point = self.mount_point
        self._agree()
        missing: StoreUnavailableError | None = None
        if point:
            try:
                theirs = self._remote.ask(
                    lambda: list(self.backing_store.query(**where)), self._options
                )
            except StoreUnavailableError as error:
                if self._options.offline == "never":
                    raise
                theirs, missing = [], error
            for key, metadata in theirs:
                if not key.startswith(point) or key == point:
                    yield key, metadata
        if where and self._options.indexes:
            fields.provide(self.mount.catalog.content, where)
        for key, metadata in self._overlay.view(where, self._options):
            yield point + key, metadata
        known = self.mount.catalog.state("complete") == ALL_IS_HERE
        if missing is not None and not known and not self._options.partial:
            raise StoreUnavailableError(
                f"keys outside {point!r} aren't known here, and {missing}; glob({point + '*'!r}) "
                "gives those under it, with_options(partial=True) what is known"
            ) from missing

    # -- changing ------------------------------------------------------------------------

    def _mine(self, key: str) -> str:
        """Return the catalog's name of a key that is to be changed."""
        short = self._short(self._check(key))
        if short is None:
            raise ReadOnlyKeyError(
                f"{key!r} lies outside the mount point {self.mount_point!r}, where nothing can "
                "be written"
            )
        return short

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Mapping[str, Any]],
        buffer_size: int = 1048576,
        *,
        base: Base = None,
    ) -> None:
        data, metadata = unpack(value)
        meta = spelling(metadata)
        self.stage(key, data=check_stream(data), meta=meta, base=base, buffer_size=buffer_size)

    def set_data(
        self, key: str, data: Readable, buffer_size: int = 1048576, *, base: Base = None
    ) -> None:
        self.stage(key, data=check_stream(data), base=base, buffer_size=buffer_size)

    def set_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        self.stage(key, meta=spelling(metadata), base=base)

    def update_metadata(self, key: str, metadata: Mapping[str, Any], *, base: Base = None) -> None:
        self.stage(key, merge=parse(spelling(metadata)), base=base)

    def stage(
        self,
        key: str,
        *,
        data: Readable | None = None,
        meta: str | None = None,
        merge: dict[str, Any] | None = None,
        base: Base = None,
        buffer_size: int = 1048576,
        op_id: str | None = None,
    ) -> Pushed:
        """Stage new data, new metadata, or both: what all setters come to.

        Parameters
        ----------
        key
            The key.
        data
            The new data; None leaves it as it is.
        meta
            The new metadata as JSON text; None leaves it as it is.
        merge
            Names to change in the metadata there is.
        base
            The version that this replaces, or `ABSENT` to create only; None doesn't compare.
        buffer_size
            Bytes to read at a time.
        op_id
            Names the write for who may repeat it: what was staged under it isn't again.
        """
        short = self._mine(key)
        self._agree(short)
        row = self._learn(short) if data is None or meta is None else None
        if data is None and row is not None and self._mirror is not None and _is_upstream(row):
            staged = self._copy_up(key, meta=meta, merge=merge, base=base)
        else:
            staged = self.mount.staging.write(
                short,
                self._announce(short),
                data=data,
                meta=meta,
                merge=merge,
                base=base,
                buffer_size=buffer_size,
                op_id=op_id,
            )
        self._agree(short)
        return staged

    def _copy_up(
        self, key: str, *, meta: str | None, merge: dict[str, Any] | None, base: Base
    ) -> Pushed:
        """Stage metadata with upstream's bytes, for a store that knows no edits of it alone."""
        value = self.get(key)
        try:
            return self.mount.staging.write(
                self._mine(key),
                self._announce(self._mine(key)),
                data=value.data,
                meta=meta,
                merge=merge,
                base=value.version if base is None else base,
            )
        except ConflictError:
            if base is not None:
                raise
            # Another thread was first: what it staged has bytes of its own.
            return self.stage(key, meta=meta, merge=merge)

    def delete(self, key: str, *, base: Base = None) -> None:
        """Stage a delete: the key is gone here, and upstream once that is pushed.

        A key that is only here is gone outright. KeyError if it is nowhere.
        """
        self.stage_delete(key, base=base)

    def stage_delete(self, key: str, *, base: Base = None, op_id: str | None = None) -> Pushed:
        """Stage a delete, as `delete` does; `op_id` is as of `stage`."""
        short = self._mine(key)
        self._agree(short)
        self._learn(short)
        try:
            staged = self.mount.staging.delete(short, self._announce(short), base=base, op_id=op_id)
        except KeyError:
            raise KeyError(key) from None
        self._agree(short)
        return staged

    def _learn(self, short: str) -> Row:
        """Ask upstream about a key that nothing is known of here.

        What its author was given before stays what the change is made from: also of a value that
        passed by and wasn't kept.
        """
        mount, catalog = self.mount, self.mount.catalog
        row = mount.staging.row(short, mounted=True)
        if row.edit is not None or row.copy is not None or row.entry is not None:
            return row
        seen = catalog.handed(short) if catalog.has_handed(short) else None
        if seen is not None and seen.version is ABSENT:
            return row
        try:
            self._overlay.metadata(short, self._options)
        except KeyError:
            return row
        finally:
            if seen is not None:
                catalog.hand_out(short, seen)
        return mount.staging.row(short, mounted=True)

    def transaction(
        self, notes: str, *, group: str | None = None
    ) -> AbstractContextManager[object]:
        """Return a context manager in which changes are committed together, or not at all.

        It remembers what it read, and raises ConflictError at its end, with nothing
        committed, if any of that was changed here meanwhile.

        Parameters
        ----------
        notes
            What it is for.
        group
            The name of a group of edits that its own go to. Several transactions may name the
            same: what is in a group is pushed together.
        """
        if self._mirror:
            return self._agreed_transaction(notes, group)
        return self._transaction(notes, group)

    def _transaction(self, notes: str, group: str | None) -> AbstractContextManager[object]:
        return self.mount.staging.transaction(self, notes, self.mount.prefix, group)

    @contextmanager
    def _agreed_transaction(self, notes: str, group: str | None) -> Iterator[object]:
        self._agree()
        with self._transaction(notes, group) as transaction:
            yield transaction
        self._agree()

    def mv(self, old: str, new: str) -> None:
        """Stage a rename: the key under its new name, and a delete of the old one.

        The delete isn't pushed before the new name is upstream.

        Raises
        ------
        KeyError
            If `old` isn't there.
        ConflictError
            If `new` is.
        """
        mine, theirs = self._mine(old), self._mine(new)
        with self.transaction(f"Renaming {old} to {new}"):
            self._stage_under(theirs, new, mine, old)
            self.mount.staging.delete(mine, self._announce(mine), partner=theirs)

    def cp(self, old: str, new: str) -> None:
        """Stage a copy: the data and metadata of a key under another name, as `mv` does.

        Raises
        ------
        KeyError
            If `old` isn't there.
        ConflictError
            If `new` is.
        """
        mine, theirs = self._mine(old), self._mine(new)
        with self.transaction(f"Copying {old} to {new}"):
            self._stage_under(theirs, new, mine, old)

    def _stage_under(self, theirs: str, new: str, mine: str, old: str) -> None:
        """Stage what a key has under another name, inside a transaction."""
        if self.exists(new):
            raise ConflictError(f"{new!r} is there already; delete it first", key=new)
        like = self._with_bytes(mine, old)
        self.mount.staging.write_content(theirs, self._announce(theirs), like)

    def _with_bytes(self, short: str, key: str) -> Edit:
        """Return a key as an edit whose bytes are in the store for good."""
        mount = self.mount
        row = mount.staging.row(short, mounted=True)
        if row.edit is not None and row.edit.kind == "put":
            return row.edit
        if merged_meta(row) is None and row.edit is not None:
            raise KeyError(key)
        with self._value(key, data=True).data as data:
            for _ in chunks(data):
                pass
        row = mount.staging.row(short, mounted=True)
        copy = row.copy
        if copy is None or not mount.catalog.is_sound(copy):
            raise StoreUnavailableError(
                f"the data of {key!r} can't be kept here, so it gets no other name; make room first"
            )
        mount.catalog.content.sync_file(copy.content)
        meta = row.edit.meta if row.edit is not None else copy.meta
        return Edit(
            short, 0, "put", copy.content, copy.sha256, copy.size, meta, None,
            UNKNOWN_BASE, 0, None, self._author, 0.0, "",
        )  # fmt: skip

    # -- the verbs of a mount ------------------------------------------------------------

    def staged(self) -> Iterator[StagedEdit]:
        """Iterate over what is staged, in the order of its making; asks nobody."""
        self._agree()
        return staged(self.mount)

    def hold(self, *keys: str) -> list[str]:
        """Hold staged edits back: no push sends them until `unhold`. All of them, or none.

        A group is published together: to hold one of its edits holds all of it.

        Returns
        -------
        list of str
            The keys that are held by that, those that belong to the named ones among them.

        Raises
        ------
        KeyError
            If nothing is staged for one.
        """
        return self._hold(keys, held=True)

    def unhold(self, *keys: str) -> list[str]:
        """Let staged edits go that `hold` holds back; returns and raises as it does."""
        return self._hold(keys, held=False)

    def _hold(self, keys: tuple[str, ...], *, held: bool) -> list[str]:
        mount = self.mount
        mount.staging.refuse_in_transaction("hold" if held else "unhold")
        self._agree(*(self._mine(key) for key in keys))
        try:
            found = mount.staging.hold([self._mine(key) for key in keys], held=held)
        except KeyError as error:
            raise KeyError(mount.full(error.args[0])) from None
        return [mount.full(key) for key in found]

    # -- permissions ---------------------------------------------------------------------

    @property
    def user_tag(self) -> str | None:
        """The name under which upstream's permissions know the user; None if it has none."""
        backing = self.backing_store
        return backing.user_tag if isinstance(backing, AbstractAuthorizingStore) else None

    def get_permissions(self, key: str) -> dict[str, Any]:
        """Return the permissions of a key: those staged, else upstream's, which is asked.

        Names of permissions and lists of user tags. A key that is only here has none.

        Raises
        ------
        KeyError
            If the key isn't there.
        AuthorizationError
            If upstream keeps none, or doesn't show them to this user.
        StoreUnavailableError
            If upstream is out of reach.
        """
        short = self._short(self._check(key))
        if short is None:
            return rights.keeper(self.mount).get_permissions(key)
        return rights.read(self.mount, short, self._ask)

    def _ask(self, question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return self._remote.ask(question, self._options)

    def set_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        """Stage permissions: a push with ``permissions=True`` replaces upstream's by these.

        It overwrites only what this process has seen of them, by `get_permissions`; what nobody
        here has seen is a conflict. Not inside a transaction.

        Raises
        ------
        KeyError
            If the key is known not to be there.
        AuthorizationError
            If upstream keeps none.
        InvalidMetadataError
            If they aren't a JSON object.
        """
        rights.set_all(self.mount, self._mine(key), permissions)

    def update_permissions(self, key: str, permissions: Mapping[str, Any]) -> None:
        """Stage a change of permissions by name, as `set_permissions` does; the others stay.

        Raises
        ------
        StoreUnavailableError
            If none are staged, and upstream is out of reach.
        """
        rights.update(self.mount, self._mine(key), permissions, self._ask)

    def log(self, key: str | None = None, last: int | None = None) -> Iterator[Logged]:
        """Iterate over what happened here, the first first: to one key, or to all.

        What was staged, reverted, resolved and pushed, and what is known to have changed
        upstream. The last 100,000 records are kept.

        Parameters
        ----------
        key
            The key; None for all.
        last
            How many of the latest; None for all. What comes meanwhile comes besides.
        """
        short = None if key is None else self._short(self._check(key))
        if key is not None and short is None:
            return iter(())  # of what lies outside the mount point nothing is recorded
        return history.of_mount(self.mount, 0, short, last)

    def changes(self, since: str | None = None) -> tuple[list[Logged], str]:
        """Return what happened since a moment, by any process, and the token of this one.

        Parameters
        ----------
        since
            A token that an earlier call gave; None gives one, and nothing that came before.

        Raises
        ------
        ExpiredTokenError
            If what happened since then isn't all known any more, or the store was restored from
            a backup: look at all keys, and begin with a new token.
        """
        return history.changes(self.mount, since)

    def push(self, key: str) -> PushResult:
        """Push the staged edit of one key.

        Returns
        -------
        PushResult
            With outcome "already there" if nothing is staged.

        Raises
        ------
        KeyError
            If the key is nowhere, or outside the mount point.
        ConflictError
            If upstream isn't what the edit was made from. It stays staged.
        StoreError
            If it can't be sent now. It stays staged.
        """
        short = self._short(self._check(key))
        if short is None:
            raise ReadOnlyKeyError(f"{key!r} lies outside the mount point {self.mount_point!r}")
        mount = self.mount
        self._agree(short)
        row = mount.catalog.row(short)
        if row.edit is None and row.op is None:
            if not self.exists(key):
                raise KeyError(key)
            return PushResult(key, "already there", "nothing is staged for it")
        return single.push_one(mount, short)

    def flush(self, timeout: float | None = None) -> None:
        """Push until nothing is left that isn't held back.

        What failed is tried again, later and later. What waits for somebody isn't: conflicts, and
        what was refused; `push` tries those again.

        Parameters
        ----------
        timeout
            Seconds after which it is given up, 0 to try each once; None: as long as it takes.

        Raises
        ------
        NotPushedError
            If something is left: it says what, and stays staged.
        """
        self._agree()
        pushing = self._pushing
        unattended.flush(
            self.mount, unattended.Sender(self.mount, pushing.check, pushing.after), timeout
        )

    def pause_push(self) -> None:
        """Let no background pusher of this directory begin another key until `resume_push`.

        All processes that have it open heed it within a second; `push` goes on by hand.
        """
        pausing.pause(self.mount.catalog, self._author)

    def resume_push(self) -> None:
        """End `pause_push`, and a rest since upstream was out of reach."""
        pausing.resume(self.mount.catalog)

    @property
    def push_paused(self) -> Pause | None:
        """Who has paused background pushing, and when; None if nobody has."""
        return pausing.read_pause(self.mount.catalog)

    def revert(self, key: str) -> list[str]:
        """Discard what is staged of a key, its permissions too: it is upstream's again.

        Returns
        -------
        list of str
            The keys that are upstream's again: two, if the edit was half of a rename.

        Raises
        ------
        KeyError
            If nothing is staged for it.
        PushInProgressError
            If it is being pushed.
        StoreUnavailableError
            If a push of it had no answer, and upstream can't be asked what became of it.
        """
        short = self._mine(key)
        try:
            reverted = single.revert(self.mount, short, lambda names: self._agree(*names))
        except KeyError:
            if not rights.discard(self.mount, [short]):
                raise
            reverted = [short]
        rights.discard(self.mount, reverted)
        return [self.mount.full(name) for name in reverted]

    def undo(self, key: str, number: int | None = None) -> Taken:
        """Stage again what was taken away of a key: replaced, deleted, reverted or given up.

        It is made from what it was made from then, so that a push of it still overwrites
        nothing else. What is staged for the key now is kept in its place: undo that to have it
        back.

        Parameters
        ----------
        key
            The key.
        number
            The `seq` of one of `taken`; the last one of the key if None.

        Raises
        ------
        KeyError
            If nothing of the key is kept (the last 10 are, for 14 days), or only its metadata
            were edited and the key is gone.
        """
        short = self._mine(key)
        self._agree(short)
        try:
            taken = single.undo(self.mount, short, number)
        except KeyError:
            raise KeyError(key) from None
        self._agree(short)
        return replace(taken, key=key)

    def taken(self, key: str | None = None) -> list[Taken]:
        """Return what `undo` can have back, the last first: of one key, or of all."""
        short = None if key is None else self._mine(key)
        found = entries(self.mount.catalog.content.connection(), short)
        return [replace(each, key=self.mount.full(each.key)) for each in found]

    def drop(self, key: str) -> None:
        """Forget the clean copy of a key; upstream keeps it.

        Raises
        ------
        StoreError
            If it is staged: `revert` discards edits.
        PinnedError
            If it is pinned: `unpin` it first.
        KeyError
            If there is no copy.
        """
        short = self._mine(key)
        mount = self.mount
        mount.staging.refuse_in_transaction("drop")
        if mount.catalog.row(short).edit is not None:
            raise StoreError(f"{key!r} is staged, and only here; revert it or push it first")
        try:
            dropped = mount.catalog.drop_copy(short)
        except PinnedError:
            raise PinnedError(f"{key!r} is pinned, so that it stays here; unpin it first") from None
        if not dropped:
            raise KeyError(key)

    def pin(self, key: str) -> None:
        """Keep the copy of a key until it is unpinned: it isn't evicted, pruned or dropped.

        It is fetched if it isn't here. A newer version takes its place, and stays pinned.

        Raises
        ------
        KeyError
            If there is no such key.
        StoreUnavailableError
            If it isn't here, and upstream is out of reach.
        StoreFullError
            If it can't be kept here.
        StoreError
            If it is staged and there is no copy: what is staged stays here without a pin.
        """
        short = self._mine(key)
        pinning.pin(self.mount, short, lambda: read_again(lambda: self._here(key)))

    def unpin(self, key: str) -> None:
        """Let the copy of a key go like any other again; KeyError if it isn't pinned."""
        pinning.unpin(self.mount, self._mine(key))

    def cached(self, pattern: str = "*") -> Iterator[str]:
        """Iterate over the keys that match a shell pattern and can be dropped; asks nobody.

        Their data is here as clean copies that aren't pinned, and nothing is staged for them.
        """
        catalog, point = self.mount.catalog, self.mount_point
        matches = matcher({}, pattern)
        return (
            point + key
            for key in catalog.copies()
            if matches(point + key, {}) and not is_pinned(catalog, key)
        )

    def rebind(self, url: str) -> None:
        """Move the local store to another upstream.

        What is staged stays; what it was made from counts as unknown unless its digest says
        that the new upstream holds the same. Copies are compared at their next read.

        Parameters
        ----------
        url
            The identity of the backing store that this mount has now.
        """
        backing = self.backing_store
        identity = backing.identity if isinstance(backing, SupportsIdentity) else None
        if identity is None or identity.rstrip("/") != url.rstrip("/"):
            raise StoreError(
                f"this mount's backing store is {identity!r}, not {url!r}; make the mount with "
                "the new backing store first"
            )
        with self._opening:
            binding.rebind(self._local.catalog, identity, self.mount_point)
            self._mount_ = None

    def update_index(self) -> None:
        """Read upstream's index now, if it has one; raises as a read does."""
        self._remote.update_index(self._options)

    def open(self, key: str, mode: str = "rb") -> BinaryIO:
        if mode == "wb":
            self._mine(key)  # what can't be written is told of before anything is
        return super().open(key, mode)

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        """Lend the data of a key as a file, for libraries that want a path.

        Its name ends as the key does. It can't be written, is safe from eviction, and goes when
        the block ends; what is open by then stays readable.

        Raises
        ------
        KeyError
            If there is no such key.
        StoreUnavailableError
            If it isn't here, and upstream is out of reach.
        """
        value = read_again(lambda: self._here(key))
        with lent(self.mount.catalog.content, key, value) as path:
            yield path

    def _here(self, key: str) -> Value:
        """Return the value of a key, its bytes fetched if they can be kept."""
        value = self._value(key, data=True)
        if value.source == "upstream" and self._options.fill:
            with value.data as data:
                for _ in chunks(data):
                    pass
            value = self._value(key, data=True)
        return value

    def stats(self) -> dict[str, int]:
        """Return counts of what is here, and of what was done.

        Returns
        -------
        dict
            ``staged_keys`` and ``staged_bytes``; ``cached_keys`` and ``cached_bytes``, of clean
            copies; ``known_keys``, which upstream is known to hold. Of this process, since it
            connected: ``hits``, values given from what is here; ``misses``, those for which
            upstream sent data; ``fetched_bytes``, how many.
        """
        mount = self.mount
        con = mount.catalog.content.connection()
        names = ("staged_keys", "staged_bytes", "cached_keys", "cached_bytes", "known_keys")
        row = con.execute(
            "SELECT (SELECT count(*) FROM edit),"
            " (SELECT value FROM state WHERE name = 'staged_bytes'),"
            " (SELECT count(*) FROM copy),"
            " (SELECT value FROM state WHERE name = 'clean_bytes')"
        ).fetchone()
        counts = (*row, mount.catalog.count_upstream())
        return dict(zip(names, counts, strict=True)) | asdict(mount.counts)


def _is_upstream(row: Row) -> bool:
    """Whether a key's bytes are upstream's, and not staged here."""
    return merged_meta(row) is not None and (row.edit is None or row.edit.kind != "put")


def _again(
    ends: tuple[Any, ...],
    author: str,
    probe: bool,
    clock: Callable[[], float],
    options: Options,
    pushing: Pushing,
    rules: tuple[Rule, ...],
) -> MountedStore:
    """Return a store like one of another process."""
    store = MountedStore(*ends, author=author, probe=probe, clock=clock, push=pushing, rules=rules)
    store._chosen = options
    return store
