"""Old events read as those of today: changed, renamed, retired."""

from __future__ import annotations

import pytest

from engine import Aggregate, Engine, Event, Retired, StreamUnreadable, applies, handles, upcasts
from engine.errors import ProjectionLag
from tests.model.guests import (
    EXTRAS,
    Book,
    GetGuest,
    Guest,
    GuestBooked,
    GuestBookedV1,
    GuestBookedV2,
    GuestLeft,
    GuestMade,
    GuestRow,
    Guests,
    GuestWaved,
    Show,
    booked_1_to_2,
    get_guest,
    hotel,
    made_to_booked,
    shown,
    written,
)

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
