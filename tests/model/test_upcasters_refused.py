"""What an engine does not start on, and upcasters that contradict themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine import (
    Aggregate,
    DefinitionError,
    Engine,
    Event,
    Retired,
    StoreRefused,
    applies,
    handles,
    upcasts,
)
from engine.model.codec import EventRegistry, schema_hash
from engine.model.schema import Sample, check_samples, check_types
from engine.model.stored import EventType, StoredEvent
from engine.model.upcasting import Upcasting
from tests.model.guests import (
    UPCASTERS,
    GuestBooked,
    GuestBookedV1,
    GuestBookedV2,
    GuestLeft,
    GuestMade,
    GuestWaved,
    Show,
    booked_1_to_2,
    booked_2_to_3,
    hotel,
    written,
)

# -- the gate --------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Sequence[tuple[str, Event]], dict[str, Any], str]] = {
    "missing-upcaster": (
        [("guest:b", GuestBookedV1("Bob Ray", 2))],
        {"upcasters": [booked_2_to_3]},
        "'guest-booked' version 1 is stored, and no upcaster leads from it to version 2",
    ),
    "unknown": (
        [("guest:a", GuestMade("Ann Lee"))],
        {"upcasters": [booked_1_to_2, booked_2_to_3]},
        "'guest-made' version 1 is stored and nothing declares it",
    ),
    "not-retired": (
        [("guest:a", GuestWaved())],
        {"retired": [Retired("guest-waved", versions=(2,))]},
        r"pass Retired\('guest-waved'\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_engine_does_not_start_on_events_that_it_could_not_read(case: str) -> None:
    events, options, message = REFUSED[case]
    store = await written(*events)
    with pytest.raises(StoreRefused, match=message):
        async with hotel(store, **options):
            pass
    # The log is not held by the engine that was refused.
    async with hotel(store, retired=[Retired("guest-waved")]):
        pass


async def test_an_older_release_on_a_newer_log_is_told_so() -> None:
    class Old(Aggregate, kind="guest"):
        @handles
        def show(self, command: Show) -> None: ...

        @applies
        def booked(self, event: GuestBookedV1) -> None: ...

    store = await written(("guest:d", GuestBooked("Di", "Orr", 4)))
    with pytest.raises(StoreRefused, match="a newer release wrote it. Run that one"):
        async with Engine([Old], store=store):
            pass


def registry(*functions: Any, retired: Sequence[Retired] = ()) -> EventRegistry:
    return EventRegistry([GuestBooked, GuestLeft], Upcasting(functions, retired))


def test_all_findings_come_at_once_and_say_what_to_do() -> None:
    stored = [
        EventType("guest-made", 1, schema_hash(GuestMade)),
        EventType("guest-booked", 1, schema_hash(GuestBookedV1)),
        EventType("guest-booked", 2, schema_hash(GuestBookedV2)),
        EventType("guest-booked", 3, "0000000000000000"),
        EventType("guest-booked", 4, "0000000000000000"),
        EventType("guest-left", 1, schema_hash(GuestLeft)),
        EventType("guest-waved", 1, "0000000000000000"),
    ]
    found = check_types(registry(booked_2_to_3, retired=[Retired("guest-waved")]), stored)

    assert [(f.rule, f.name, f.version) for f in found] == [
        ("unknown", "guest-made", 1),
        ("missing-upcaster", "guest-booked", 1),
        ("changed", "guest-booked", 3),
        ("newer-release", "guest-booked", 4),
    ]


def sample(event: Event, **changes: Any) -> Sample:
    payload = msgspec.Raw(msgspec.json.encode(event))
    kept = Sample(event.event_name, event.event_version, schema_hash(type(event)), payload)
    return msgspec.structs.replace(kept, **changes)


def test_samples_are_read_the_way_that_stored_events_are() -> None:
    whole = registry(*UPCASTERS)
    kept = [
        sample(GuestMade("Ann Lee")),
        sample(GuestBookedV1("Bob Ray")),
        sample(GuestBookedV2("Cy", "Fox", 1)),
        sample(GuestBooked("Di", "Orr", 1)),
        sample(GuestLeft()),
    ]
    assert check_samples(whole, kept) == []

    assert [(f.rule, f.name) for f in check_samples(whole, kept[:4])] == [
        ("no-sample", "guest-left")
    ]
    # Old types that nobody kept a sample of cannot be recorded any more, and are not asked for.
    assert check_samples(whole, kept[3:]) == []
    changed = [*kept[:3], sample(GuestBooked("Di", "Orr", 1), schema="0" * 16), kept[4]]
    assert [f.rule for f in check_samples(whole, changed)] == ["changed"]
    broken = [sample(GuestMade("Ann")), *kept[1:]]
    findings = check_samples(whole, broken)
    assert [f.rule for f in findings] == ["unreadable"]
    assert "booked_1_to_2" in findings[0].message
    assert "Ann" not in findings[0].message


# -- what cannot be --------------------------------------------------------------------------


def refuse(message: str) -> Any:
    return pytest.raises(DefinitionError, match=message)


def test_an_upcaster_takes_one_event_and_gives_one() -> None:
    with refuse("one event and give the one"):

        @upcasts  # type: ignore[type-var]
        def two(event: GuestMade, other: GuestMade) -> GuestLeft: ...  # type: ignore[empty-body]

    with refuse("one event and give the one"):

        @upcasts
        def none(event: GuestMade) -> None: ...

    with refuse("one event and give the one"):

        @upcasts
        async def later(event: GuestMade) -> GuestLeft: ...  # type: ignore[empty-body]

    with refuse("to itself"):

        @upcasts
        def same(event: GuestMade) -> GuestMade:
            return event


@upcasts
def back(event: GuestBooked) -> GuestMade:
    return GuestMade(event.first)


@upcasts
def also_to_2(event: GuestBookedV1) -> GuestBookedV2:
    return GuestBookedV2("", "", 0)


@upcasts
def left_to_waved(event: GuestLeft) -> GuestWaved:
    return GuestWaved()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upcasters": [*UPCASTERS, back]}, "closes a circle of upcasters"),
        ({"upcasters": [*UPCASTERS, also_to_2]}, "keep one"),
        ({"upcasters": [lambda event: event]}, "mark it with @upcasts"),
        ({"upcasters": [booked_1_to_2]}, "no aggregate and no projection folds"),
        ({"upcasters": [*UPCASTERS, left_to_waved]}, "Guest folds GuestLeft, which"),
        ({"retired": [Retired("guest-left")]}, "is retired, and GuestLeft declares it"),
        ({"retired": [Retired("guest-booked", (1,))]}, "is retired, and GuestBookedV1 declares"),
    ],
    ids=["circle", "two", "unmarked", "leads-nowhere", "still-folded", "retired", "retired-step"],
)
def test_what_contradicts_itself_is_refused_when_the_engine_is_made(
    options: dict[str, Any], message: str
) -> None:
    with refuse(message):
        hotel("memory:", **options)


def test_retired_names_and_versions_are_checked() -> None:
    with refuse("a retired event has the name 'Guest Waved'"):
        Retired("Guest Waved")
    odds: list[Any] = [1, True, "12", (1.5,)]
    for odd in odds:
        with refuse("versions count from 1"):
            Retired("gone", odd)
    with refuse("versions count from 1"):
        Retired("guest-waved", (0,))
    with refuse("versions count from 1"):
        Retired("guest-waved", ())


def test_an_event_of_today_costs_nothing_more_to_decode() -> None:
    entry = registry(*UPCASTERS)
    event = GuestBooked("Di", "Orr", 4)
    stored = StoredEvent(
        1, "guest:d", 1, "guest-booked", 3, 1, msgspec.json.encode(event), b"", 0, 0
    )
    calls: list[str] = []
    entry._upcast = lambda *_: calls.append("upcast")  # type: ignore[method-assign, assignment]

    assert entry.decode(stored) == event
    assert calls == []
