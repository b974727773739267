"""The kit with which users test their aggregates and projections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Context,
    Delivery,
    Event,
    HandlerFailed,
    Id,
    Ports,
    Projection,
    Sink,
    Table,
    UsageError,
    applies,
    handles,
    projects,
)
from engine.testing.scenario import Folded, ManualClock, SequentialIds, deliveries, given
from tests.support.counters import Add, Added, Counter, Emptied, Empty, Look, Spoil, Touch, counters
from tests.support.held_store import HeldStore
from tests.support.shelf import Bought, CountsInSql, Lent
from tests.support.tallies import AILING, Tallies, Tally


def refused(message: str) -> Any:
    return pytest.raises(AssertionError, match=message)


begin: Any = given  # as who has no type checker calls them
fold: Any = Folded
add: Any = Add
SLIPS: dict[str, tuple[Callable[[], object], str]] = {
    "an instance": (lambda: begin(Counter(), Added(5)), "takes a class .* not a Counter"),
    "a name": (lambda: begin("counter"), "takes a class of aggregates first, and not a str"),
    "a projection": (lambda: begin(Tallies), "not the class Tallies: a projection is tested with"),
    "a list of events": (lambda: begin(Counter, [Added(5)]), "each by itself, .* not a list"),
    "a class of events": (lambda: begin(Counter, Added), "and not the class Added"),
    "a class of commands": (lambda: begin(Counter).when(Add), "takes a command, .*the class Add"),
    "an id that is empty": (lambda: begin(Counter).when(Add("", 1)), "an id has 1 to 255"),
    "an id that is a number": (lambda: begin(Counter).when(add(5, 1)), "not an int"),
    "an aggregate": (lambda: fold(Counter), "takes a class of projections, .*the class Counter"),
    "a class of rows": (lambda: fold(Tallies).rows(Tally), r"as Tallies\.\w+, .*the class Tally"),
}


@pytest.mark.parametrize("what", SLIPS)
def test_a_slip_in_a_test_is_told_by_what_was_meant(what: str) -> None:
    slip, told = SLIPS[what]
    with pytest.raises(UsageError, match=told):
        slip()


def test_a_table_of_another_projection_is_none_of_this_one() -> None:
    class Others(Projection, name="others", version=1):
        rows: Table[Tally]

        @projects
        def added(self, event: Added) -> None: ...

    with pytest.raises(UsageError, match="a Table named others_rows"):
        Folded(Tallies).rows(Others.rows)


def test_a_command_leads_to_events() -> None:
    given(Counter).when(Add("test", 5)).then(Added(5))
    given(Counter, Added(5)).when(Empty("test"), principal="ann").then(Emptied("ann"))
    given(Counter, Added(5)).when(Add("test", 1, 2)).then(Added(1), Added(1))


def test_a_command_may_lead_to_nothing() -> None:
    given(Counter).when(Touch("test")).then()
    with refused(r"other events came\n\+ Added\(amount=5.*\n\(- expected, \+ found\)"):
        given(Counter).when(Add("test", 5)).then()


def test_a_command_is_rejected_with_a_code_and_details() -> None:
    given(Counter).when(Add("test", -1)).then_rejected("negative").then_rejected(
        "negative", amount=-1
    )
    with refused("expected: rejected as 'other'\nfound:    rejected as 'negative': an amount"):
        given(Counter).when(Add("test", -1)).then_rejected("other")
    with refused("negative has other details"):
        given(Counter).when(Add("test", -1)).then_rejected("negative", amount=-2)
    with refused("expected: rejected as 'negative'\nfound:    Added"):
        given(Counter).when(Add("test", 1)).then_rejected("negative")
    with refused("the command was rejected\nexpected: Added"):
        given(Counter).when(Add("test", -1)).then(Added(-1))


def test_a_difference_shows_what_is_the_same_and_what_is_not() -> None:
    with pytest.raises(AssertionError) as failed:
        given(Counter).when(Add("test", 1, 2)).then(Added(1), Added(2), Added(3))

    assert str(failed.value).splitlines() == [
        "other events came",
        "  Added(amount=1, tags={})",
        "- Added(amount=2, tags={})",
        "+ Added(amount=1, tags={})",
        "- Added(amount=3, tags={})",
        "(- expected, + found)",
    ]


def test_a_scenario_goes_on_and_can_be_shared() -> None:
    begun = given(Counter, Added(1), aggregate_id="c-7")
    one = begun.when(Add("c-7", 2)).when(Add("c-7", 3))
    two = begun.when(Empty("c-7"))

    assert (one.state.total, one.state.version, one.state.id) == (6, 3, "c-7")
    assert one.history == (Added(1), Added(2), Added(3))
    assert (two.state.total, begun.state.total) == (0, 1)
    one.when(Look("c-7")).then_rejected("looked")


def test_a_handler_that_changes_the_state_is_caught() -> None:
    with refused("Counter.spoil changed the state; .*\n~ total: 0 -> 1000000$"):
        given(Counter).when(Spoil("test", "unapplied"))


class Take(Command):
    calendar_id: Id
    day: date
    careless: bool = False


class Taken(Event, name="taken"):
    day: date


class Calendar(Aggregate, kind="calendar"):
    """Its state is by day: JSON has an order for keys that are texts only."""

    days: dict[date, str] = {}

    @handles
    def take(self, command: Take) -> Taken:
        if command.careless:
            self.days[command.day] = "taken"
        return Taken(command.day)

    @applies
    def taken(self, event: Taken) -> None:
        self.days[event.day] = "taken"


def test_a_state_by_day_is_watched_too() -> None:
    first, second = date(2027, 1, 4), date(2027, 1, 5)
    calendar = given(Calendar, Taken(first))

    assert calendar.when(Take("c", second)).then(Taken(second)).state.days.keys() == {first, second}
    with pytest.raises(AssertionError, match="Calendar.take changed the state"):
        calendar.when(Take("c", second, careless=True))


def test_state_and_events_share_nothing() -> None:
    tags = {"x": [1]}
    decision = given(Counter).when(Add("test", 1, 1, tags))
    tags["x"].append(2)

    assert decision.state.tags == {"x": [1]}


def test_time_and_ids_are_the_tests() -> None:
    class Stamped(Event, name="stamped"):
        at: int
        by: str
        ids: list[str]

    class Stamp(Command):
        letter_id: Id

    class Letter(Aggregate, kind="letter"):
        @handles
        def stamp(self, command: Stamp, ctx: Context) -> Stamped:
            return Stamped(ctx.now, ctx.key or "", [ctx.new_id(), ctx.new_id()])

        @applies
        def stamped(self, event: Stamped) -> None: ...

    given(Letter).when(Stamp("test"), now=7, key="k").then(Stamped(7, "k", ["id-1", "id-2"]))
    noon = datetime(1970, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    at_noon = Stamped(12 * 3_600_000_000, "", ["id-1", "id-2"])
    given(Letter).when(Stamp("test"), now=noon).then(at_noon)
    with pytest.raises(UsageError, match="1970-01-01 13:00:00 has no time zone"):
        given(Letter).when(Stamp("test"), now=noon.replace(tzinfo=None))


def test_wrong_use_is_told() -> None:
    class Stray(Command):
        stray_id: Id

    class Strayed(Event, name="strayed"): ...

    with pytest.raises(UsageError, match="Counter handles no Stray"):
        given(Counter).when(Stray("test"))
    with pytest.raises(UsageError, match="nothing in Counter applies Strayed: .* its upcaster"):
        given(Counter, Strayed())


def test_a_projection_is_folded_from_events_of_many_streams() -> None:
    tallies = Folded(Tallies)
    tallies.fold(Added(1), Added(2), stream="counter:a").fold(Added(5), stream="counter:b")
    tallies.fold(Added(9), Emptied("ann"), stream="counter:c")

    assert tallies.row(Tallies.rows, "a") == Tally("a", 3, 2)
    assert tallies.row(Tallies.rows, "c") is None
    assert tallies.rows(Tallies.rows) == [Tally("a", 3, 2), Tally("b", 5, 1)]


def test_a_projection_in_sql_is_folded_and_asked_in_sql() -> None:
    counts = Folded(CountsInSql).fold(Bought("b"), Lent("b", "ann"), stream="shelf:1")
    counts.fold(Bought("b"))

    assert counts.sql("SELECT * FROM counts_totals ORDER BY name") == [("all", 3), ("ann", 1)]
    assert counts.sql("SELECT books FROM counts_totals WHERE name = ?", ("ann",)) == [(1,)]
    with pytest.raises(UsageError, match="look at `row` and `rows`"):
        Folded(Tallies).sql("SELECT 1")


def test_a_sink_is_called_and_not_folded() -> None:
    class Outside(Sink, name="outside", version=1):
        async def deliver(self, batch: Sequence[Delivery[Added]]) -> None: ...

    with pytest.raises(UsageError, match=r"await Outside\(\).deliver\(deliveries\("):
        Folded(Outside)


def test_what_a_projection_raises_comes_through() -> None:
    AILING.add("a")
    try:
        with pytest.raises(ValueError, match="ailing"):
            Folded(Tallies).fold(Added(1), stream="counter:a")
    finally:
        AILING.clear()


async def test_an_engine_takes_the_tests_clock_and_ids() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    store = HeldStore()
    async with counters(store, ports=Ports(clock=clock, ids=SequentialIds("log"))) as engine:
        await engine.execute(Add("a", 1))
        clock.advance(1.5)
        await engine.execute(Add("a", 1))
        assert clock.time == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
        clock.advance(-60)
        await engine.execute(Add("a", 1))
        recorded = [event.recorded for event in await store.events()]

    first = 1_767_225_600_000_000
    assert recorded == [first, first + 1_500_000, first + 1_500_000]
    assert store.log_id == "log-1"


def test_a_failed_expectation_shows_the_line_of_the_test_alone() -> None:
    expectations: list[Callable[[], object]] = [
        lambda: given(Counter).when(Add("1", 2)).then(Added(3)),
        lambda: given(Counter).when(Add("1", 2)).then_rejected("no"),
        lambda: given(Counter).when(Spoil("test", "unapplied")),
    ]
    for expect in expectations:
        with pytest.raises(AssertionError) as failed:
            expect()
        frames = [entry for entry in failed.traceback if "/engine/testing/" in str(entry.path)]
        assert frames
        assert all(entry.ishidden(failed) for entry in frames)


def test_an_event_that_would_come_back_changed_fails_the_test() -> None:
    class Timed(Event, name="timed"):
        at: datetime

    class Run(Command):
        runner: Id

    class Runner(Aggregate, kind="runner"):
        @handles
        def run(self, command: Run) -> Timed:
            return Timed(datetime(1890, 1, 1, tzinfo=timezone(timedelta(seconds=75))))

        @applies
        def timed(self, event: Timed) -> None: ...

    with pytest.raises(HandlerFailed, match=r"Timed\.at would be read back as another time"):
        given(Runner).when(Run("r"))


async def test_a_sink_is_called_with_events_as_they_would_be_delivered() -> None:
    got: list[Delivery[Added]] = []

    class Mails(Sink, name="mails", version=1):
        async def deliver(self, batch: Sequence[Delivery[Added]]) -> None:
            got.extend(batch)

    events = [Added(1, tags={"a": [1]}), Added(2)]
    noon = datetime(1970, 1, 1, 12, tzinfo=UTC)
    await Mails().deliver(deliveries(*events, stream="counter:a", recorded=noon, principal="ann"))

    assert [delivery.event for delivery in got] == events
    assert got[0].event.tags is not events[0].tags
    assert [(d.position, d.meta.version, d.meta.event_id) for d in got] == [
        (1, 1, "counter:a@1"),
        (2, 2, "counter:a@2"),
    ]
    assert {(d.meta.time, d.meta.principal, d.log_id) for d in got} == {(noon, "ann", "test")}
