"""Who hears of which event, in which order, and what a listener may do."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import Any

import pytest

from mountcache import events as names
from mountcache.events import (
    BaseEvent,
    EventManager,
    ProgressEndEvent,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
    StoreConflictEvent,
    StoreDeleteEvent,
    StoreEvent,
    StoreKeyEvent,
    StoreModificationEvent,
    StoreOfflineEvent,
    StoreProgress,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StorePushEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)


class Animal(BaseEvent):
    pass


class Dog(Animal):
    pass


class Puppy(Dog):
    pass


class Ear:
    """Something with a method that listens."""

    def __init__(self) -> None:
        self.heard: list[BaseEvent] = []

    def hear(self, event: BaseEvent) -> None:
        self.heard.append(event)


class Shop:
    """Something that announces, as stores do."""

    def __init__(self) -> None:
        self.event_manager = EventManager()
        self.heard: list[Any] = []
        self.event_manager.connect(BaseEvent, self.heard.append)


@pytest.fixture
def manager() -> EventManager:
    return EventManager()


def test_listener_hears_the_class_and_its_subclasses_only(manager: EventManager) -> None:
    heard: list[BaseEvent] = []
    manager.connect(Dog, heard.append)
    animal, dog, puppy = Animal(), Dog(), Puppy()
    for event in (animal, dog, puppy):
        manager.emit(event)
    assert heard == [dog, puppy]


def test_listener_of_the_root_hears_everything(manager: EventManager) -> None:
    heard: list[BaseEvent] = []
    manager.connect(BaseEvent, heard.append)
    manager.emit(Puppy())
    manager.emit(StoreSetEvent())
    assert len(heard) == 2


def test_event_without_listeners_is_no_error(manager: EventManager) -> None:
    manager.emit(Dog())


def test_higher_priority_first_and_then_order_of_connection_across_classes(
    manager: EventManager,
) -> None:
    order: list[str] = []
    manager.connect(Puppy, lambda _: order.append("puppy 0"))
    manager.connect(BaseEvent, lambda _: order.append("base 0"))
    manager.connect(Dog, lambda _: order.append("dog 5"), priority=5)
    manager.connect(Animal, lambda _: order.append("animal -1"), priority=-1)
    manager.connect(Dog, lambda _: order.append("dog 0"))
    manager.connect(BaseEvent, lambda _: order.append("base 9"), priority=9)
    manager.emit(Puppy())
    assert order == ["base 9", "dog 5", "puppy 0", "base 0", "dog 0", "animal -1"]


def test_connecting_later_is_heard_though_the_class_was_emitted_before(
    manager: EventManager,
) -> None:
    manager.emit(Puppy())
    heard: list[BaseEvent] = []
    manager.connect(Animal, heard.append)
    manager.emit(Puppy())
    assert len(heard) == 1


def test_function_connected_to_two_classes_is_called_for_each(manager: EventManager) -> None:
    heard: list[BaseEvent] = []
    manager.connect(Animal, heard.append)
    manager.connect(Dog, heard.append)
    manager.emit(Dog())
    assert len(heard) == 2


def test_reconnecting_replaces_filter_priority_and_place(manager: EventManager) -> None:
    order: list[str] = []

    def first(_: Dog) -> None:
        order.append("first")

    def second(_: Dog) -> None:
        order.append("second")

    manager.connect(Dog, first, filter={"name": "Rex"}, priority=3)
    manager.connect(Dog, second)
    manager.emit(Dog(name="Bob"))
    assert order == ["second"]
    manager.connect(Dog, first)
    manager.emit(Dog(name="Bob"))
    assert order == ["second", "second", "first"]


def test_methods_of_two_objects_are_two_listeners(manager: EventManager) -> None:
    left, right = Ear(), Ear()
    manager.connect(Dog, left.hear)
    manager.connect(Dog, right.hear)
    manager.connect(Dog, right.hear)
    manager.emit(Dog())
    assert (len(left.heard), len(right.heard)) == (1, 1)


def test_equal_lists_are_two_listeners(manager: EventManager) -> None:
    left: list[BaseEvent] = []
    right: list[BaseEvent] = []
    manager.connect(Dog, left.append)
    manager.connect(Dog, right.append)
    manager.disconnect(Dog, left.append)
    manager.emit(Dog())
    assert (len(left), len(right)) == (0, 1)


class TestFilter:
    def test_all_attributes_must_equal(self, manager: EventManager) -> None:
        heard: list[Dog] = []
        manager.connect(Dog, heard.append, filter={"name": "Rex", "age": 3})
        manager.emit(Dog(name="Rex", age=4))
        manager.emit(Dog(name="Bob", age=3))
        wanted = Dog(name="Rex", age=3)
        manager.emit(wanted)
        assert heard == [wanted]

    def test_names_with_dots_are_attributes_of_attributes(self, manager: EventManager) -> None:
        heard: list[Dog] = []
        manager.connect(Dog, heard.append, filter={"source.home.town": "Ulm"})
        home = type("Home", (), {"town": "Ulm"})()
        manager.emit(Dog(source=type("Owner", (), {"home": home})()))
        manager.emit(Dog(source=type("Owner", (), {"home": None})()))
        assert len(heard) == 1

    def test_missing_attribute_is_no_match(self, manager: EventManager) -> None:
        heard: list[Dog] = []
        manager.connect(Dog, heard.append, filter={"name": None})
        manager.emit(Dog())
        assert heard == []
        manager.emit(Dog(name=None))
        assert len(heard) == 1

    def test_comparison_that_fails_is_logged_and_stops_nobody(
        self, manager: EventManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Odd:
            def __eq__(self, other: object) -> bool:
                raise ValueError("can't compare")

        heard: list[BaseEvent] = []
        manager.connect(Dog, heard.append, filter={"name": Odd()}, priority=1)
        manager.connect(Animal, heard.append)
        manager.emit(Dog(name="Rex"))
        assert len(heard) == 1
        assert "can't compare" in caplog.text

    def test_later_changes_to_the_dict_given_change_nothing(self, manager: EventManager) -> None:
        heard: list[Dog] = []
        wanted = {"name": "Rex"}
        manager.connect(Dog, heard.append, filter=wanted)
        wanted["name"] = "Bob"
        manager.emit(Dog(name="Rex"))
        assert len(heard) == 1


class TestDisconnect:
    def test_disconnected_listener_hears_no_more(self, manager: EventManager) -> None:
        ear = Ear()
        manager.connect(Dog, ear.hear)
        manager.emit(Dog())
        manager.disconnect(Dog, ear.hear)
        manager.emit(Dog())
        assert len(ear.heard) == 1

    def test_unconnected_function_is_a_key_error_that_names_the_class(
        self, manager: EventManager
    ) -> None:
        with pytest.raises(KeyError, match="isn't connected to Dog"):
            manager.disconnect(Dog, print)

    def test_connection_to_a_superclass_is_another_connection(self, manager: EventManager) -> None:
        manager.connect(Animal, print)
        with pytest.raises(KeyError):
            manager.disconnect(Dog, print)

    def test_second_disconnect_is_a_key_error(self, manager: EventManager) -> None:
        manager.connect(Dog, print)
        manager.disconnect(Dog, print)
        with pytest.raises(KeyError):
            manager.disconnect(Dog, print)


class TestDisable:
    @pytest.mark.parametrize("cls", [BaseEvent, Animal, Dog])
    def test_disabled_class_and_its_subclasses_are_silent(
        self, manager: EventManager, cls: type[BaseEvent]
    ) -> None:
        heard: list[BaseEvent] = []
        manager.connect(BaseEvent, heard.append)
        manager.disable(cls)
        manager.emit(Puppy())
        manager.emit(Dog())
        assert heard == []
        manager.enable(cls)
        manager.emit(Puppy())
        assert len(heard) == 1

    def test_superclass_of_a_disabled_class_is_heard(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []
        manager.connect(BaseEvent, heard.append)
        manager.disable(Dog)
        manager.emit(Animal())
        assert len(heard) == 1
        assert manager.is_enabled(Animal)
        assert not manager.is_enabled(Dog)
        assert not manager.is_enabled(Puppy)

    def test_enabling_a_superclass_leaves_a_disabled_class_off(self, manager: EventManager) -> None:
        manager.disable(Animal)
        manager.disable(Dog)
        manager.enable(Animal)
        assert manager.is_enabled(Animal)
        assert not manager.is_enabled(Dog)

    def test_connections_made_while_disabled_count_afterwards(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []
        manager.disable(Dog)
        manager.connect(Dog, heard.append)
        manager.enable(Dog)
        manager.emit(Dog())
        assert len(heard) == 1


class TestReferences:
    def test_lambda_that_nothing_else_keeps_is_called(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []
        manager.connect(Dog, lambda event: heard.append(event))
        gc.collect()
        manager.emit(Dog())
        assert len(heard) == 1

    def test_method_of_an_object_that_nothing_else_keeps_is_called(
        self, manager: EventManager
    ) -> None:
        heard = []
        ear = Ear()
        heard = ear.heard
        manager.connect(Dog, ear.hear)
        del ear
        gc.collect()
        manager.emit(Dog())
        assert len(heard) == 1

    def test_weak_method_lives_as_long_as_its_object(self, manager: EventManager) -> None:
        ear = Ear()
        heard = ear.heard
        manager.connect(Dog, ear.hear, weak=True)
        gc.collect()
        manager.emit(Dog())
        assert len(heard) == 1
        del ear
        gc.collect()
        manager.emit(Dog())
        assert len(heard) == 1

    def test_weak_function_lives_as_long_as_the_function(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []

        def listen(event: BaseEvent) -> None:
            heard.append(event)

        manager.connect(Dog, listen, weak=True)
        manager.emit(Dog())
        del listen
        gc.collect()
        manager.emit(Dog())
        assert len(heard) == 1

    def test_dead_weak_listener_counts_as_not_connected(self, manager: EventManager) -> None:
        ear = Ear()
        manager.connect(Dog, ear.hear, weak=True)
        manager.disconnect(Dog, ear.hear)
        manager.connect(Dog, ear.hear, weak=True)
        del ear
        gc.collect()
        with pytest.raises(KeyError):
            manager.disconnect(Dog, Ear().hear)

    def test_what_has_no_weak_references_is_told(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []
        with pytest.raises(TypeError, match="connect it without weak=True"):
            manager.connect(Dog, heard.append, weak=True)

        class Slotted:
            __slots__ = ()

            def __call__(self, event: BaseEvent) -> None: ...

        with pytest.raises(TypeError, match="connect it without weak=True"):
            manager.connect(Dog, Slotted(), weak=True)


class TestListenersThatMisbehave:
    def test_error_is_logged_and_the_rest_are_called(
        self, manager: EventManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[BaseEvent] = []

        def fail(_: Dog) -> None:
            raise RuntimeError("the listener's own fault")

        manager.connect(Dog, fail, priority=1)
        manager.connect(Dog, heard.append)
        with caplog.at_level(logging.ERROR, logger="mountcache"):
            manager.emit(Dog())
        assert len(heard) == 1
        (record,) = caplog.records
        assert record.name == "mountcache"
        assert "Dog" in record.getMessage()
        assert "the listener's own fault" in caplog.text

    def test_interrupt_of_the_program_is_no_listener_error(self, manager: EventManager) -> None:
        def stop(_: Dog) -> None:
            raise KeyboardInterrupt

        manager.connect(Dog, stop)
        with pytest.raises(KeyboardInterrupt):
            manager.emit(Dog())

    def test_handled_event_is_kept_from_those_after(self, manager: EventManager) -> None:
        order: list[str] = []

        def veto(event: BaseEvent) -> None:
            order.append("veto")
            event.mark_as_handled()

        manager.connect(BaseEvent, veto, priority=1)
        manager.connect(Dog, lambda _: order.append("before"), priority=2)
        manager.connect(Dog, lambda _: order.append("after"))
        manager.emit(Dog())
        assert order == ["before", "veto"]

    def test_handled_and_then_failed_is_handled(self, manager: EventManager) -> None:
        heard: list[BaseEvent] = []

        def veto(event: Dog) -> None:
            event.mark_as_handled()
            raise RuntimeError("after the veto")

        manager.connect(Dog, veto, priority=1)
        manager.connect(Dog, heard.append)
        manager.emit(Dog())
        assert heard == []

    def test_listener_may_connect_disconnect_and_emit(self, manager: EventManager) -> None:
        order: list[str] = []

        def late(_: BaseEvent) -> None:
            order.append("late")

        def last(_: BaseEvent) -> None:
            order.append("last")

        def busy(_: Dog) -> None:
            order.append("busy")
            manager.disconnect(Dog, busy)
            manager.disconnect(Dog, last)
            manager.connect(Dog, late)
            manager.emit(Animal())

        manager.connect(Dog, busy)
        manager.connect(Dog, last)
        manager.connect(Animal, lambda event: order.append(type(event).__name__), priority=-1)
        manager.emit(Dog())
        # Who was disconnected meanwhile still hears of this one; who was connected doesn't.
        assert order == ["busy", "Animal", "last", "Dog"]
        order.clear()
        manager.emit(Dog())
        assert order == ["late", "Dog"]


class TestArguments:
    def test_only_classes_of_events_can_be_listened_to(self, manager: EventManager) -> None:
        for wrong in (int, Dog(), "Dog"):
            with pytest.raises(TypeError, match="connected to a class of events"):
                manager.connect(wrong, print)  # type: ignore[arg-type,type-var]

    def test_only_functions_can_listen(self, manager: EventManager) -> None:
        with pytest.raises(TypeError, match="a listener is a function"):
            manager.connect(Dog, 3)  # type: ignore[arg-type]


def test_threads_that_connect_emit_and_disconnect_lose_nothing(manager: EventManager) -> None:
    constant: list[BaseEvent] = []
    manager.connect(Dog, constant.append)
    ready = threading.Barrier(4)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ready.wait()
            for _ in range(300):
                ear = Ear()
                manager.connect(Dog, ear.hear)
                manager.emit(Dog())
                manager.disconnect(Dog, ear.hear)
                assert ear.heard
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(constant) == 4 * 300


def test_listener_that_waits_for_another_thread_does_not_block_it(
    manager: EventManager,
) -> None:
    arrived = threading.Event()

    def connect_elsewhere(_: Dog) -> None:
        thread = threading.Thread(target=lambda: manager.connect(Animal, lambda _: None))
        thread.start()
        thread.join(timeout=30)
        if not thread.is_alive():
            arrived.set()

    manager.connect(Dog, connect_elsewhere)
    manager.emit(Dog())
    assert arrived.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_can_emit_though_another_thread_was_connecting() -> None:
    manager = EventManager()
    manager.connect(Dog, lambda _: os._exit(7))
    with manager._lock:  # as if another thread held it at the moment of the fork
        child = os.fork()
        if child == 0:
            manager.emit(Dog())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


class TestTree:
    @pytest.mark.parametrize(
        ("cls", "above"),
        [
            (StoreEvent, BaseEvent),
            (StoreTransactionEvent, StoreEvent),
            (StoreTransactionStartEvent, StoreTransactionEvent),
            (StoreTransactionEndEvent, StoreTransactionEvent),
            (StoreKeyEvent, StoreEvent),
            (StoreModificationEvent, StoreKeyEvent),
            (StoreSetEvent, StoreModificationEvent),
            (StoreUpdateEvent, StoreModificationEvent),
            (StoreDeleteEvent, StoreModificationEvent),
            (ProgressEvent, BaseEvent),
            (ProgressStartEvent, ProgressEvent),
            (ProgressStepEvent, ProgressEvent),
            (ProgressEndEvent, ProgressEvent),
            (StoreProgressEvent, ProgressEvent),
            (StoreProgressEvent, StoreKeyEvent),
            (StoreProgressStartEvent, ProgressStartEvent),
            (StoreProgressStartEvent, StoreProgressEvent),
            (StoreProgressStepEvent, ProgressStepEvent),
            (StoreProgressStepEvent, StoreProgressEvent),
            (StoreProgressEndEvent, ProgressEndEvent),
            (StoreProgressEndEvent, StoreProgressEvent),
            (StoreOfflineEvent, StoreEvent),
            (StorePushEvent, StoreKeyEvent),
            (StoreConflictEvent, StoreKeyEvent),
        ],
    )
    def test_class_is_below(self, cls: type[BaseEvent], above: type[BaseEvent]) -> None:
        assert issubclass(cls, above)

    @pytest.mark.parametrize("name", [name for name in names.__all__ if name.endswith("Event")])
    def test_every_event_takes_its_source_first_and_any_attribute(self, name: str) -> None:
        event = getattr(names, name)("the store", colour="red")
        assert event.source == "the store"
        assert event.colour == "red"
        assert name in repr(event)
        assert "colour='red'" in repr(event)

    @pytest.mark.parametrize(
        ("cls", "action"),
        [(StoreSetEvent, "set"), (StoreUpdateEvent, "update"), (StoreDeleteEvent, "delete")],
    )
    def test_action_of_a_modification(self, cls: type[StoreModificationEvent], action: str) -> None:
        event = cls(key="k", metadata={"a": 1})
        assert (event.action, event.key, event.metadata) == (action, "k", {"a": 1})

    def test_metadata_of_an_event_is_its_own(self) -> None:
        metadata = {"a": 1}
        event = StoreSetEvent(key="k", metadata=metadata)
        metadata["a"] = 2
        assert event.metadata == {"a": 1}

    def test_store_progress_events_have_both_parents_attributes(self) -> None:
        event = StoreProgressEndEvent(
            "s", operation_id="o", message="m", key="k", metadata={"a": 1}, step=4,
            exit_state="warning", state="done",
        )  # fmt: skip
        assert (event.operation_id, event.message, event.step) == ("o", "m", 4)
        assert (event.exit_state, event.state) == ("warning", "done")
        assert (event.key, event.metadata) == ("k", {"a": 1})


class TestStoreProgress:
    def test_start_steps_and_end_of_one_operation(self) -> None:
        shop = Shop()
        now = [0.0]
        with StoreProgress(
            shop, "Packing", steps=30, key="k", metadata={"a": 1}, clock=lambda: now[0]
        ) as progress:
            progress.step(10)
            now[0] = 0.2
            progress.step(20, "Still packing")
        start, first, second, end = shop.heard
        assert [type(each) for each in shop.heard] == [
            StoreProgressStartEvent,
            StoreProgressStepEvent,
            StoreProgressStepEvent,
            StoreProgressEndEvent,
        ]
        assert len({each.operation_id for each in shop.heard}) == 1
        assert all(each.source is shop and each.key == "k" for each in shop.heard)
        assert all(each.metadata == {"a": 1} for each in shop.heard)
        assert (start.message, start.steps) == ("Packing", 30)
        assert (first.step, first.message) == (10, "Packing")
        assert (second.step, second.message) == (20, "Still packing")
        assert (end.exit_state, end.state, end.step) == ("normal", "done", 20)

    def test_steps_come_at_most_ten_times_a_second_and_the_first_always(self) -> None:
        shop = Shop()
        now = [100.0]
        with StoreProgress(shop, "Packing", clock=lambda: now[0]) as progress:
            for number in range(101):
                now[0] = 100 + number / 100
                progress.step(number)
        steps = [each.step for each in shop.heard if isinstance(each, StoreProgressStepEvent)]
        assert steps[0] == 0
        assert 9 <= len(steps) <= 11
        assert shop.heard[-1].step == 100

    @pytest.mark.parametrize("error", [OSError("no paper left"), KeyboardInterrupt(), KeyError()])
    def test_end_comes_when_the_operation_fails(self, error: BaseException) -> None:
        shop = Shop()
        with pytest.raises(type(error)), StoreProgress(shop, "Packing"):
            raise error
        end = shop.heard[-1]
        assert isinstance(end, StoreProgressEndEvent)
        assert (end.exit_state, end.state) == ("exception", "failed")
        assert end.message == (str(error) or type(error).__name__)

    def test_two_operations_have_two_ids(self) -> None:
        shop = Shop()
        for _ in range(2):
            with StoreProgress(shop, "Packing"):
                pass
        assert len({each.operation_id for each in shop.heard}) == 2

    def test_another_event_manager_can_announce(self) -> None:
        shop, street = Shop(), Shop()
        with StoreProgress(shop, "Packing", event_manager=street.event_manager) as progress:
            progress.step(1)
        assert shop.heard == []
        assert [each.source for each in street.heard] == [shop] * 3
