"""Events: who hears of what, in which order, and what a listener may do."""

from __future__ import annotations

import io
from typing import Any

import pytest

from mountcache.abc import ABSENT, AbstractStore
from mountcache.errors import ConflictError
from mountcache.events import (
    BaseEvent,
    ProgressEvent,
    StoreDeleteEvent,
    StoreEvent,
    StoreKeyEvent,
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from mountcache.testing.suite import (
    BrokenStream,
    Interrupted,
    StoreSuite,
    in_threads,
    needs,
    noise,
)
from mountcache.values import StringValue

__all__ = ["StoreEventTests"]


class Heard(list[Any]):
    """The events that a store has announced since this was made or cleared."""

    def __init__(self, store: AbstractStore, cls: type[BaseEvent] = StoreEvent) -> None:
        super().__init__()
        store.event_manager.connect(cls, self.append)

    def changes(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """Return (action, key, metadata) of the changes among them."""
        return [
            (each.action, each.key, each.metadata)
            for each in self
            if isinstance(each, StoreModificationEvent)
        ]

    def kinds(self) -> list[str]:
        """Return what came, in short, runs of progress as one."""
        kinds: list[str] = []
        for each in self:
            match each:
                case StoreTransactionStartEvent():
                    kinds.append("start")
                case StoreTransactionEndEvent():
                    kinds.append(f"end {each.state}")
                case StoreModificationEvent():
                    kinds.append(f"{each.action} {each.key}")
                case ProgressEvent() if kinds[-1:] != ["progress"]:
                    kinds.append("progress")
        return kinds


class StoreEventTests(StoreSuite):
    """Who hears of what. Needs ``store``."""

    @pytest.fixture
    def noisy(self, store: AbstractStore) -> AbstractStore:
        """The store with two keys."""
        store.set("one", StringValue(b"first", {"n": 1}))
        store.set("two", StringValue(b"second", {"n": 2}))
        return store

    # -- what is announced ---------------------------------------------------------------

    def test_every_change_is_announced_with_key_and_metadata(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        noisy.set("new", StringValue(b"new", {"n": 3}))
        noisy.set("new", StringValue(b"newer", {"n": 4}))
        noisy.set_data("one", io.BytesIO(b"changed"))
        noisy.set_metadata("one", {"m": 1})
        noisy.update_metadata("one", {"n": 5})
        noisy.delete("two")
        assert heard.changes() == [
            ("set", "new", {"n": 3}),
            ("update", "new", {"n": 4}),
            ("update", "one", {"n": 1}),
            ("update", "one", {"m": 1}),
            ("update", "one", {"m": 1, "n": 5}),
            ("delete", "two", {"n": 2}),
        ]

    def test_events_are_of_their_classes_and_name_the_store(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy, StoreModificationEvent)
        noisy.set("new", StringValue(b""))
        noisy.set("new", StringValue(b"x"))
        noisy.delete("new")
        assert [type(each) for each in heard] == [
            StoreSetEvent,
            StoreUpdateEvent,
            StoreDeleteEvent,
        ]
        assert all(each.source is noisy for each in heard)

    @pytest.mark.parametrize("verb", ["set_data", "set_metadata", "update_metadata", "from_bytes"])
    def test_partial_setter_of_a_missing_key_is_announced_as_set(
        self, store: AbstractStore, verb: str
    ) -> None:
        heard = Heard(store)
        argument: Any = {"n": 1} if "metadata" in verb else b"data"
        getattr(store, verb)("k", io.BytesIO(b"data") if verb == "set_data" else argument)
        expected = {"n": 1} if "metadata" in verb else {}
        assert heard.changes() == [("set", "k", expected)]

    def test_key_set_again_after_it_was_deleted_is_announced_as_set(
        self, noisy: AbstractStore
    ) -> None:
        heard = Heard(noisy)
        noisy.delete("one")
        noisy.set("one", StringValue(b"again"))
        assert [each[:2] for each in heard.changes()] == [("delete", "one"), ("set", "one")]

    def test_setters_of_several_keys_announce_each(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        noisy.multiset(["one", "new"], [StringValue(b"a", {"n": 7}), StringValue(b"b")])
        assert heard.changes() == [("update", "one", {"n": 7}), ("set", "new", {})]

    def test_reading_announces_no_change(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        noisy.to_bytes("one")
        noisy.get_metadata("two")
        list(noisy.query())
        noisy.exists("missing")
        assert heard.changes() == []

    def test_metadata_of_an_event_is_the_listeners_own(self, noisy: AbstractStore) -> None:
        metadata = {"list": [1]}

        def spoil(event: StoreKeyEvent) -> None:
            event.metadata["list"].append(2)
            event.metadata["more"] = 3

        noisy.event_manager.connect(StoreSetEvent, spoil)
        noisy.set("new", StringValue(b"", metadata))
        assert noisy.get_metadata("new") == {"list": [1]}
        assert metadata == {"list": [1]}

    # -- failures ------------------------------------------------------------------------

    def test_failed_change_announces_none(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        with pytest.raises(Interrupted):
            noisy.set("one", (BrokenStream(3_000_000), {}))
        with pytest.raises(KeyError):
            noisy.delete("missing")
        with pytest.raises(ValueError, match="dict"):
            noisy.set_metadata("one", None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="empty"):
            noisy.set("", StringValue(b""))
        if self.has_versions:
            with pytest.raises(ConflictError):
                noisy.set("one", StringValue(b""), base=ABSENT)
        assert heard.changes() == []

    def test_end_of_progress_comes_though_the_change_fails(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        with pytest.raises(Interrupted):
            noisy.set("one", (BrokenStream(3_000_000), {}))
        starts = [each for each in heard if isinstance(each, StoreProgressStartEvent)]
        ends = [each for each in heard if isinstance(each, StoreProgressEndEvent)]
        assert len(starts) == 1
        assert [(each.exit_state, each.state) for each in ends] == [("exception", "failed")]
        assert starts[0].operation_id == ends[0].operation_id

    # -- order ---------------------------------------------------------------------------

    def test_progress_of_a_set_comes_before_its_event(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        noisy.set("large", StringValue(noise(self.large)))
        progress = [each for each in heard if isinstance(each, StoreProgressEvent)]
        assert isinstance(progress[0], StoreProgressStartEvent)
        assert isinstance(progress[-1], StoreProgressEndEvent)
        assert (progress[-1].exit_state, progress[-1].state) == ("normal", "done")
        steps = [each for each in progress if isinstance(each, StoreProgressStepEvent)]
        assert steps
        assert all(0 <= each.step <= self.large for each in steps)
        assert {each.operation_id for each in progress} == {progress[0].operation_id}
        assert all(each.key == "large" and each.source is noisy for each in progress)
        assert heard.kinds()[-1] == "set large"

    def test_transaction_announces_start_progress_end_and_then_the_changes(
        self, noisy: AbstractStore
    ) -> None:
        heard = Heard(noisy)
        with noisy.transaction("three changes"):
            noisy.set("new", StringValue(b"new", {"n": 3}))
            noisy.set("one", StringValue(b"changed", {"n": 4}))
            noisy.delete("two")
        assert heard.kinds() == [
            "start",
            "progress",
            "end done",
            "set new",
            "update one",
            "delete two",
        ]
        assert [each.message for each in (heard[0], heard[-4])] == ["three changes"] * 2
        assert all(each.source is noisy for each in heard)

    @needs(rolls_back=True)
    def test_failed_transaction_announces_its_end_and_no_changes(
        self, noisy: AbstractStore
    ) -> None:
        heard = Heard(noisy)
        with pytest.raises(Interrupted), noisy.transaction("fails"):
            noisy.set_metadata("one", {"n": 3})
            noisy.delete("two")
            raise Interrupted
        kinds = [each for each in heard.kinds() if each != "progress"]
        assert kinds == ["start", "end failed"]

    @needs(rolls_back=True)
    def test_inner_transactions_are_part_of_the_outer_one(self, noisy: AbstractStore) -> None:
        heard = Heard(noisy)
        with noisy.transaction("outer"):
            noisy.set_metadata("one", {"n": 3})
            with noisy.transaction("inner"):
                noisy.set_metadata("new", {"n": 4})
            with pytest.raises(Interrupted), noisy.transaction("taken back"):
                noisy.delete("two")
                raise Interrupted
        kinds = [each for each in heard.kinds() if each != "progress"]
        assert kinds == ["start", "end done", "update one", "set new"]

    def test_last_of_several_changes_of_a_key_tells_what_is_there(
        self, noisy: AbstractStore
    ) -> None:
        heard = Heard(noisy)
        with noisy.transaction("several changes"):
            noisy.update_metadata("one", {"n": 3})
            noisy.update_metadata("one", {"n": 4})
            noisy.delete("two")
            noisy.set("two", StringValue(b"again", {"n": 5}))
        changes = heard.changes()
        assert [each for each in changes if each[1] == "one"][-1] == ("update", "one", {"n": 4})
        assert [each for each in changes if each[1] == "two"][-1][2] == {"n": 5}

    # -- listeners -----------------------------------------------------------------------

    def test_listener_that_raises_breaks_nothing(
        self, noisy: AbstractStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(event: StoreEvent) -> None:
            raise Interrupted(f"no wish to hear of {type(event).__name__}")

        noisy.event_manager.connect(StoreEvent, fail, priority=10)
        heard = Heard(noisy)
        with noisy.transaction("heard by one that raises"):
            noisy.set("new", StringValue(b"new", {"n": 3}))
        noisy.delete("one")
        assert heard.changes() == [("set", "new", {"n": 3}), ("delete", "one", {"n": 1})]
        assert noisy.to_bytes("new") == b"new"
        assert not noisy.exists("one")
        assert "no wish to hear of StoreSetEvent" in caplog.text

    def test_listener_sees_what_was_committed(self, noisy: AbstractStore) -> None:
        seen: list[Any] = []

        def look(event: StoreModificationEvent) -> None:
            key = event.key or ""
            seen.append((key, noisy.exists(key)))
            elsewhere: list[bool] = []
            in_threads(lambda: elsewhere.append(noisy.exists(key)))
            seen.extend(elsewhere)

        noisy.event_manager.connect(StoreModificationEvent, look)
        noisy.set("new", StringValue(b"new"))
        noisy.delete("one")
        with noisy.transaction("two changes"):
            noisy.set("newer", StringValue(b"newer"))
            noisy.delete("two")
        assert seen == [
            ("new", True), True,
            ("one", False), False,
            ("newer", True), True,
            ("two", False), False,
        ]  # fmt: skip

    def test_listener_may_change_the_store(self, noisy: AbstractStore) -> None:
        def count(event: StoreModificationEvent) -> None:
            if event.key == "log":
                return
            try:
                log = noisy.to_bytes("log")
            except KeyError:
                log = b""
            noisy.from_bytes("log", log + f"{event.action} {event.key}\n".encode())

        noisy.event_manager.connect(StoreModificationEvent, count)
        noisy.set("new", StringValue(b"new"))
        with noisy.transaction("two changes"):
            noisy.set_metadata("one", {"n": 3})
            noisy.delete("two")
        assert noisy.to_bytes("log") == b"set new\nupdate one\ndelete two\n"

    def test_listener_may_open_a_transaction(self, noisy: AbstractStore) -> None:
        def mirror(event: StoreModificationEvent) -> None:
            if event.key and not event.key.startswith("mirror/"):
                with noisy.transaction("mirror"):
                    noisy.set(f"mirror/{event.key}", noisy.get(event.key))

        noisy.event_manager.connect(StoreSetEvent, mirror)
        with noisy.transaction("one change"):
            noisy.set("new", StringValue(b"new", {"n": 3}))
        assert noisy.to_bytes("mirror/new") == b"new"
        assert noisy.get_metadata("mirror/new") == {"n": 3}

    def test_listener_to_progress_may_read_the_store(self, noisy: AbstractStore) -> None:
        seen: list[bytes] = []

        def look(_: StoreProgressStepEvent) -> None:
            in_threads(lambda: seen.append(noisy.to_bytes("one")))
            seen.append(noisy.to_bytes("two"))

        noisy.event_manager.connect(StoreProgressStepEvent, look, filter={"key": "large"})
        noisy.set("large", StringValue(noise(self.large)))
        assert set(seen) == {b"first", b"second"}

    def test_filter_takes_the_events_of_one_key(self, noisy: AbstractStore) -> None:
        heard: list[StoreKeyEvent] = []
        noisy.event_manager.connect(StoreModificationEvent, heard.append, filter={"key": "one"})
        noisy.set_metadata("one", {})
        noisy.set_metadata("two", {})
        assert [each.key for each in heard] == ["one"]

    def test_veto_keeps_an_event_from_others_and_not_the_change(self, noisy: AbstractStore) -> None:
        noisy.event_manager.connect(
            StoreSetEvent, lambda event: event.mark_as_handled(), priority=1
        )
        heard = Heard(noisy)
        noisy.set("new", StringValue(b"new"))
        assert heard.changes() == []
        assert noisy.to_bytes("new") == b"new"

    def test_disconnected_and_disabled_events_are_not_heard(self, noisy: AbstractStore) -> None:
        heard: list[StoreEvent] = []
        manager = noisy.event_manager
        manager.connect(StoreModificationEvent, heard.append)
        manager.disable(StoreSetEvent)
        noisy.set("new", StringValue(b""))
        noisy.set("new", StringValue(b"x"))
        assert [type(each) for each in heard] == [StoreUpdateEvent]
        manager.enable(StoreSetEvent)
        manager.disconnect(StoreModificationEvent, heard.append)
        noisy.set("newer", StringValue(b""))
        assert len(heard) == 1
