"""Old events read as those of today: changed, renamed, retired; and what is refused beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Rejected,
    Retired,
    Row,
    StoreRefused,
    StreamUnreadable,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
    upcasts,
)
from engine.errors import ProjectionLag
from engine.model.codec import EventRegistry, schema_hash
from engine.model.schema import Sample, check_samples, check_types
from engine.model.stored import EventData, EventType, StoredEvent
from engine.model.upcasting import Upcasting
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.memory import MemoryStore


class GuestMade(Event, name="guest-made", version=1):
    """The first name; it became `guest-booked`."""

    name: str


class GuestBookedV1(Event, name="guest-booked", version=1):
    name: str
    nights: int = 1


class GuestBookedV2(Event, name="guest-booked", version=2):
    first: str
    last: str
    nights: int


class GuestBooked(Event, name="guest-booked", version=3):
    first: str
    last: str
    nights: int
    extras: dict[str, int] = {}


class GuestLeft(Event, name="guest-left"):
    pass


class GuestWaved(Event, name="guest-waved"):
    """Retired in what follows."""


@upcasts
def made_to_booked(event: GuestMade) -> GuestBookedV1:
    return GuestBookedV1(event.name)


@upcasts
def booked_1_to_2(event: GuestBookedV1) -> GuestBookedV2:
    first, _, last = event.name.partition(" ")
    if not last:
        raise ValueError(f"no last name in {event.name}")
    return GuestBookedV2(first, last, event.nights)


EXTRAS = {"towels": 1}


@upcasts
def booked_2_to_3(event: GuestBookedV2) -> GuestBooked:
    return GuestBooked(event.first, event.last, event.nights, EXTRAS)


UPCASTERS = (made_to_booked, booked_1_to_2, booked_2_to_3)


class Book(Command):
    guest_id: Id
    first: str
    last: str


class Show(Command):
    guest_id: Id


class Guest(Aggregate, kind="guest"):
    booked: list[str] = []
    extras: dict[str, int] = {}
    left: bool = False

    @handles
    def book(self, command: Book) -> GuestBooked:
        return GuestBooked(command.first, command.last, 1)

    @handles
    def show(self, command: Show) -> None:
        shown = f"{self.booked} {self.extras} {self.left} at {self.version}"
        raise Rejected("shown", shown)

    @applies
    def was_booked(self, event: GuestBooked) -> None:
        self.booked.append(f"{event.last}, {event.first} x{event.nights}")
        event.extras["counted"] = event.extras.get("counted", 0) + 1
        self.extras = event.extras

    @applies
    def has_left(self, event: GuestLeft) -> None:
        self.left = True


class GuestRow(Row, key="guest_id"):
    guest_id: str
    last: str
    position: int


class Guests(Projection, name="guests"):
    rows: Table[GuestRow]

    @projects
    def booked(self, event: GuestBooked, meta: Meta) -> None:
        self.rows.put(GuestRow(meta.id, event.last, meta.position))


class GetGuest(Query[GuestRow | None]):
    guest_id: str


@answers
async def get_guest(query: GetGuest, views: Views) -> GuestRow | None:
    return await views.get(Guests.rows, query.guest_id)


async def written(*events: tuple[str, Event]) -> MemoryStore:
    """Give a log in which earlier releases have written these events."""
    store = MemoryStore()
    async with Engine([Guest], store=store, retired=[Retired("guest-waved")]):
        versions: dict[str, int] = {}
        for stream, event in events:
            version = versions.get(stream, 0)
            kind = EventType(event.event_name, event.event_version, schema_hash(type(event)))
            data = EventData(kind, msgspec.json.encode(event))
            await store.append(Batch([AppendRequest([Write(stream, version, [data])])], 1))
            versions[stream] = version + 1
    return store


def hotel(store: Any, **options: Any) -> Engine:
    options.setdefault("upcasters", UPCASTERS)
    return Engine([Guest], projections=[Guests], answers=[get_guest], store=store, **options)


async def shown(engine: Engine, guest: str) -> str:
    try:
        await engine.execute(Show(guest))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Show always rejects")


LAST = ("Lee", "Ray", "Fox", "Orr")


async def test_every_old_version_and_name_is_folded_as_that_of_today() -> None:
    store = await written(
        ("guest:a", GuestMade("Ann Lee")),
        ("guest:b", GuestBookedV1("Bob Ray", 2)),
        ("guest:c", GuestBookedV2("Cy", "Fox", 3)),
        ("guest:d", GuestBooked("Di", "Orr", 4)),
    )
    async with hotel(store) as engine:
        assert await shown(engine, "a") == "['Lee, Ann x1'] {'towels': 1, 'counted': 1} False at 1"
        assert await shown(engine, "b") == "['Ray, Bob x2'] {'towels': 1, 'counted': 1} False at 1"
        assert await shown(engine, "c") == "['Fox, Cy x3'] {'towels': 1, 'counted': 1} False at 1"
        assert await shown(engine, "d") == "['Orr, Di x4'] {'counted': 1} False at 1"
        for number, (guest, last) in enumerate(zip("abcd", LAST, strict=True)):
            row = await engine.query(GetGuest(guest), at=4)
            assert row == GuestRow(guest, last, number + 1)
        receipt = await engine.execute(Book("a", "Ann", "Lee"))
        assert (receipt.version, receipt.position) == (2, 5)

    # What an upcaster shares between its events is not shared by the states.
    assert EXTRAS == {"towels": 1}
    events = await store.read_feed(0, events_max=10, bytes_max=10_000)
    assert [(e.name, e.event_version) for e in events] == [
        ("guest-made", 1),
        ("guest-booked", 1),
        ("guest-booked", 2),
        ("guest-booked", 3),
        ("guest-booked", 3),
    ]


async def test_an_upcaster_that_fails_stops_whoever_needs_the_event_and_nobody_else() -> None:
    store = await written(
        ("guest:a", GuestBookedV1("Ann Lee")),
        ("guest:b", GuestBookedV1("Secretname")),
        ("guest:c", GuestBookedV1("Cy Fox")),
    )
    async with hotel(store) as engine:
        assert "Lee, Ann" in await shown(engine, "a")
        with pytest.raises(StreamUnreadable, match="position 2.*booked_1_to_2.*ValueError") as e:
            await engine.execute(Show("b"))
        assert "Secretname" not in str(e.value)
        assert "Fox, Cy" in await shown(engine, "c")
        with pytest.raises(ProjectionLag, match=r"at 1 \(stopped\)"):
            await engine.query(GetGuest("c"), at=3)
        failure = engine.statistics().projectors["guests"].failure
        assert failure is not None
        assert failure.position == 2


@pytest.mark.parametrize("wrong", ["class", "types"])
async def test_an_upcaster_that_gives_something_else_is_found_at_the_event(wrong: str) -> None:
    @upcasts
    def lying(event: GuestBookedV2) -> GuestBooked:
        if wrong == "class":
            return event  # type: ignore[return-value]
        return GuestBooked(event.first, event.last, "three")  # type: ignore[arg-type]

    store = await written(("guest:c", GuestBookedV2("Cy", "Fox", 3)))
    async with hotel(store, upcasters=[made_to_booked, booked_1_to_2, lying]) as engine:
        with pytest.raises(StreamUnreadable, match="cannot make a GuestBooked of guest-booked"):
            await engine.execute(Show("c"))


async def test_a_retired_event_counts_and_changes_nothing() -> None:
    store = await written(
        ("guest:a", GuestBooked("Ann", "Lee", 1)),
        ("guest:a", GuestWaved()),
        ("guest:a", GuestLeft()),
    )
    async with hotel(store, retired=[Retired("guest-waved")]) as engine:
        assert (await shown(engine, "a")).endswith("True at 3")
        receipt = await engine.execute(Book("a", "Ann", "Lee"))
        assert (receipt.version, receipt.position) == (4, 4)
        assert await engine.query(GetGuest("a"), at=receipt) == GuestRow("a", "Lee", 4)


async def test_looking_back_shows_old_events_as_those_of_today_and_retired_ones_by_name() -> None:
    store = await written(
        ("guest:a", GuestMade("Ann Lee")), ("guest:a", GuestWaved()), ("guest:a", GuestLeft())
    )
    async with hotel(store, retired=[Retired("guest-waved")]) as engine:
        found = [(logged.name, logged.event) async for logged in engine.history(Guest, "a")]
        fed = [(logged.name, logged.event) async for logged in engine.feed()]
        assert (
            found
            == fed
            == [
                ("guest-made", GuestBooked("Ann", "Lee", 1, {"towels": 1})),
                ("guest-waved", None),
                ("guest-left", GuestLeft()),
            ]
        )
        assert (await engine.state(Guest, "a", version=2)).left is False
        assert (await engine.state(Guest, "a")).version == 3


async def test_a_feed_of_a_name_has_the_older_events_that_lead_to_it() -> None:
    store = await written(
        *(("guest:a", GuestMade("Ann Lee")), ("guest:a", GuestWaved()), ("guest:a", GuestLeft())),
        ("guest:b", GuestBookedV1("Bob May")),
    )
    async with hotel(store, retired=[Retired("guest-waved")]) as engine:

        async def fed(*names: str | type[Event]) -> list[int]:
            return [logged.meta.position async for logged in engine.feed(names=names)]

        assert await fed(GuestBooked) == await fed("guest-booked") == [1, 4]
        assert await fed("guest-made") == [1]
        assert await fed("guest-waved", GuestLeft) == [2, 3]


async def test_one_version_of_a_name_can_be_retired() -> None:
    class Waved(Event, name="guest-waved", version=2):
        pass

    class Waving(Aggregate, kind="guest"):
        waves: int = 0

        @handles
        def show(self, command: Show) -> Waved:
            return Waved()

        @applies
        def waved(self, event: Waved) -> None:
            self.waves += 1

    store = await written(("guest:a", GuestWaved()))
    async with Engine(
        [Waving], store=store, retired=[Retired("guest-waved", versions=(1,))]
    ) as engine:
        assert (await engine.execute(Show("a"))).version == 2


async def test_a_projection_passes_over_what_became_something_it_does_not_handle() -> None:
    """A version of a name that it handles was led away to another name."""

    class GuestCheckedIn(Event, name="guest-checked-in"):
        pass

    @upcasts
    def to_checked_in(event: GuestBookedV1) -> GuestCheckedIn:
        return GuestCheckedIn()

    class Checked(Guest, kind="guest"):
        @applies
        def checked_in(self, event: GuestCheckedIn) -> None:
            self.left = True

    store = await written(
        ("guest:a", GuestBookedV1("Ann Lee")), ("guest:b", GuestBooked("Bo", "Ray", 1))
    )
    engine = Engine(
        [Checked],
        projections=[Guests],
        answers=[get_guest],
        store=store,
        upcasters=[to_checked_in],
    )
    async with engine:
        assert await engine.query(GetGuest("a"), at=2) is None
        assert await engine.query(GetGuest("b"), at=2) == GuestRow("b", "Ray", 2)


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
