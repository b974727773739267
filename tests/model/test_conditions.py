"""Ranges and lists of values in `views.find`: the same rows everywhere, and watched exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    InvalidInput,
    Limits,
    Onlooker,
    Projection,
    Query,
    Row,
    Table,
    UsageError,
    Views,
    above,
    answers,
    applies,
    at_least,
    at_most,
    below,
    between,
    handles,
    one_of,
    projects,
)
from engine.model.conditions import Filter, OneOf, Range
from engine.queries.interest import Interest
from engine.stores.sqlite.views.store import SqliteViews
from engine.stores.sqlite.views.tables import TableSql


class Kind(Enum):
    SINGLE = "single"
    DOUBLE = "double"


class Night(Row, key="id", index=["day", ("kind", "day"), "pence"], search=["words"]):
    id: str
    room: str
    day: date
    pence: int
    kind: Kind = Kind.SINGLE
    rate: float = 0.0
    until: datetime | None = None
    guest: str | None = None
    token: UUID = UUID(int=0)
    smoking: bool = False
    notes: dict[str, str] = {}
    size: Literal[1, 2] = 1
    words: str = "a night"


class Put(Command):
    hotel: Id
    nights: list[Night]
    gone: list[str] = []


class Changed(Event, name="changed", version=1):
    nights: list[Night]
    gone: list[str]


class Hotel(Aggregate, kind="hotel"):
    @handles
    def put(self, command: Put) -> Changed:
        return Changed(command.nights, command.gone)

    @applies
    def changed(self, event: Changed) -> None: ...


class Nights(Projection, name="nights", version=1):
    rows: Table[Night]

    @projects
    def changed(self, event: Changed) -> None:
        for night in event.nights:
            self.rows.put(night)
        for key in event.gone:
            self.rows.delete(key)


class Find(Query[list[str]]):
    """Which rows the named way of asking finds."""

    how: str
    limit: int | None = None
    order_by: str | None = None
    after: str | None = None
    offset: int = 0


class Count(Query[int]):
    how: str


D = date(2026, 5, 1)


def day(n: int) -> date:
    return D + timedelta(days=n)


MOMENT = datetime(2026, 5, 1, 12, tzinfo=UTC)

WAYS: dict[str, tuple[dict[str, Any], Callable[[Night], bool]]] = {
    "from": ({"day": at_least(day(3))}, lambda n: n.day >= day(3)),
    "behind": ({"day": above(day(3))}, lambda n: n.day > day(3)),
    "to": ({"pence": at_most(300)}, lambda n: n.pence <= 300),
    "before": ({"pence": below(300)}, lambda n: n.pence < 300),
    "between": ({"pence": between(200, 500)}, lambda n: 200 <= n.pence <= 500),
    "half-open": (
        {"day": at_least(day(2)) & below(day(5))},
        lambda n: day(2) <= n.day < day(5),
    ),
    "turned": ({"day": below(day(5)) & above(day(2))}, lambda n: day(2) < n.day < day(5)),
    "text": ({"room": between("101", "102")}, lambda n: "101" <= n.room <= "102"),
    "float": ({"rate": at_least(1.0) & below(2.5)}, lambda n: 1 <= n.rate < 2.5),
    "moment": (
        {"until": at_most(MOMENT.astimezone())},
        lambda n: n.until is not None and n.until <= MOMENT,
    ),
    "list": (
        {"room": one_of(["101", "103", "999"])},
        lambda n: n.room in ("101", "103", "999"),
    ),
    "many": (
        {"pence": one_of(range(0, 500, 100))},
        lambda n: n.pence in (0, 100, 200, 300, 400),
    ),
    "one": ({"room": one_of({"102"})}, lambda n: n.room == "102"),
    "none-too": (
        {"guest": one_of([None, "ann", "bob", "ed"])},
        lambda n: n.guest in (None, "ann", "bob", "ed"),
    ),
    "only-none": ({"guest": one_of([None])}, lambda n: n.guest is None),
    "enums": ({"kind": one_of([Kind.DOUBLE])}, lambda n: n.kind is Kind.DOUBLE),
    "tokens": ({"token": one_of([UUID(int=1), UUID(int=2)])}, lambda n: n.token.int in (1, 2)),
    "no-values": ({"room": one_of([]), "pence": at_least(0)}, lambda n: False),
    "flags": ({"smoking": one_of([True])}, lambda n: n.smoking),
    "plain": ({"room": "101", "smoking": False}, lambda n: n.room == "101" and not n.smoking),
    "all-of-them": (
        {"room": one_of(["101", "102"]), "day": at_least(day(1)) & below(day(4)), "guest": None},
        lambda n: n.room in ("101", "102") and day(1) <= n.day < day(4) and n.guest is None,
    ),
}

NIGHTS = [
    Night(
        f"{room}-{n}",
        room,
        day(n),
        (n * 7 + int(room)) % 8 * 100,
        Kind.DOUBLE if n % 2 else Kind.SINGLE,
        n / 2,
        MOMENT + timedelta(hours=n - 3) if n % 3 else None,
        (None, "ann", "zoë")[n % 3],
        UUID(int=n % 4),
        n % 4 == 0,
    )
    for room in ("101", "102", "103")
    for n in range(8)
]


@answers
async def find(query: Find, views: Views) -> list[str]:
    found = await views.find(
        Nights.rows,
        where=WAYS[query.how][0],
        order_by=query.order_by,
        limit=query.limit,
        offset=query.offset,
        after=query.after,
    )
    return [night.id for night in found]


@answers
async def count(query: Count, views: Views) -> int:
    found = await views.count(Nights.rows, where=WAYS[query.how][0])
    searched = await views.search(Nights.rows, "night", where=WAYS[query.how][0], limit=100)
    assert len(searched) == found
    return found


def hotel(store: str, **limits: int) -> Engine:
    return Engine(
        [Hotel],
        projections=[Nights],
        answers=[find, count],
        store=store,
        limits=Limits(**limits),
    )


async def put(engine: Engine, *nights: Night, gone: tuple[str, ...] = ()) -> None:
    receipt = await engine.execute(Put("h", list(nights), list(gone)))
    await engine.query(Count("from"), at=receipt)


@pytest.fixture(params=["memory", "file"])
def store(request: Any, tmp_path: Any) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/log.db"


# -- what is found ---------------------------------------------------------------------------


async def test_every_way_finds_what_python_would(store: str) -> None:
    async with hotel(store) as engine:
        await put(engine, *NIGHTS)
        async with engine.past() as past:
            for how, (_, holds) in WAYS.items():
                expected = sorted(night.id for night in NIGHTS if holds(night))
                assert expected or how == "no-values", f"{how} finds something"
                assert await engine.query(Find(how)) == expected
                assert await past.query(Find(how)) == expected
                assert await engine.query(Count(how)) == len(expected)


async def test_an_onlooker_finds_the_same(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    looking = Onlooker(projections=[Nights], answers=[find, count], store=store)
    async with hotel(store) as engine, looking as onlooker:
        await put(engine, *NIGHTS)
        for how in WAYS:
            assert await onlooker.query(Find(how)) == await engine.query(Find(how))
            assert await onlooker.query(Count(how)) == await engine.query(Count(how))


@pytest.mark.parametrize("order_by", [None, "day", "pence"])
async def test_pages_go_on_inside_a_range(order_by: str | None) -> None:
    async with hotel("memory:") as engine:
        await put(engine, *NIGHTS)
        for how in ("half-open", "between", "list", "many", "all-of-them"):
            whole = await engine.query(Find(how, order_by=order_by))
            pages: list[str] = []
            while page := await engine.query(
                Find(how, 3, order_by, after=pages[-1] if pages else None)
            ):
                pages += page
            assert pages == whole


@pytest.mark.parametrize(
    ("where", "order_by"),
    [
        ({"day": at_least(day(2)) & below(day(5))}, "day"),
        ({"pence": between(200, 500)}, "pence"),
        ({"kind": Kind.DOUBLE, "day": above(day(2))}, "day"),
        ({"id": one_of(["101-1", "102-2", "103-3"])}, None),
    ],
)
async def test_ordered_pages_of_a_range_use_the_index(
    where: dict[str, Any], order_by: str | None
) -> None:
    async with hotel("memory:") as engine:
        await put(engine, *NIGHTS)
        plans: list[str] = []
        views = engine._views
        assert isinstance(views, SqliteViews)
        assert views._connection is not None
        connection, taken = views._connection, TableSql.find

        def explained(self: TableSql, selection: Any) -> Any:
            statement, values = taken(self, selection)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            plans.extend(str(row[-1]) for row in plan)
            return statement, values

        found = Views(views, {Nights.rows.definition.name: Nights.rows.definition}, Limits())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TableSql, "find", explained)
            await found.find(Nights.rows, where=where, order_by=order_by, limit=2)
        assert any("SEARCH" in plan for plan in plans), plans
        assert not any("TEMP B-TREE" in plan for plan in plans), plans


async def test_any_of_no_values_is_no_row_and_changes_with_none(store: str) -> None:
    async with hotel(store) as engine:
        await put(engine, *NIGHTS)
        assert await engine.query(Find("no-values")) == []
        assert await engine.query(Count("no-values")) == 0


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: at_least(None), "a range has None for a bound"),
        (lambda: between(1, None), "a range has None for a bound"),
        (lambda: one_of("abc"), r"not a str: write `one_of\(\[...\]\)`"),
        (lambda: one_of(n for n in range(3)), "not a generator"),  # type: ignore[arg-type]
        (lambda: at_least(1) & above(2), "one has a lower bound and the other an upper one"),
        (lambda: between(1, 2) & below(3), "one has a lower bound and the other an upper one"),
    ],
)
def test_what_makes_no_sense_is_refused_as_it_is_made(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_a_range_is_joined_with_a_range_alone() -> None:
    with pytest.raises(TypeError):
        at_least(1) & 2  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"pence": between(2, 1)}, InvalidInput, "nights_rows.pence ends before it begins"),
        ({"pence": at_least(2) & below(2)}, InvalidInput, "holds no value"),
        ({"pence": above(2) & at_most(2)}, InvalidInput, "holds no value"),
        ({"pence": at_least("2")}, InvalidInput, "Night.pence is an int, not str"),
        ({"pence": at_least(2.0)}, InvalidInput, "Night.pence is an int, not float"),
        ({"pence": at_least(True)}, InvalidInput, "Night.pence is an int, not bool"),
        ({"day": at_least(MOMENT)}, InvalidInput, "Night.day is a date, not datetime"),
        ({"until": below(datetime(2026, 5, 1))}, InvalidInput, "without a time zone"),
        ({"rate": below(float("nan"))}, InvalidInput, "finite numbers only"),
        ({"room": one_of(["101", 102])}, InvalidInput, "Night.room is a str, not int"),
        ({"kind": between(Kind.DOUBLE, Kind.SINGLE)}, InvalidInput, "has no order"),
        ({"smoking": at_least(False)}, InvalidInput, "has no order"),
        ({"token": at_least(UUID(int=1))}, InvalidInput, "has no order"),
        ({"size": at_least(1)}, InvalidInput, "has no order"),
        ({"notes": one_of([{}])}, UsageError, "'notes' is no field of nights_rows to look up"),
        ({"colour": at_least(1)}, UsageError, "'colour' is no field"),
        ({"pence": one_of(range(21))}, InvalidInput, r"21 values, above Limits.query_values at 20"),
    ],
)
async def test_what_the_field_cannot_have_is_refused(
    where: dict[str, Any], error: type[Exception], message: str
) -> None:
    class Nothing(Query[int]):
        pass

    @answers
    async def ask(query: Nothing, views: Views) -> int:
        return len(await views.find(Nights.rows, where=where))

    engine = Engine([Hotel], projections=[Nights], answers=[ask], limits=Limits(query_values=20))
    async with engine:
        with pytest.raises(error, match=message):
            await engine.query(Nothing())


# -- who watches -----------------------------------------------------------------------------


async def asks_after(engine: Engine, *nights: Night, gone: tuple[str, ...] = ()) -> int:
    """Give how often those who watch are asked because of a change."""
    before = engine.statistics().live.asks
    await put(engine, *nights, gone=gone)
    live = engine._wiring.live
    for _ in range(20):
        await asyncio.sleep(0)
    while live._due or any(question.asking for question in live._questions.values()):
        await asyncio.sleep(0)
    return engine.statistics().live.asks - before


def night(room: str, n: int, pence: int = 100, guest: str | None = None) -> Night:
    return Night(f"{room}-{n}", room, day(n), pence, guest=guest)


async def test_only_what_touches_the_range_asks_again() -> None:
    async with hotel("memory:") as engine, aclosing(engine.watch(Find("half-open"))) as watched:
        await put(engine, night("101", 2), night("101", 6))
        assert await anext(watched) == ["101-2"]
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        assert await asks_after(engine, night("101", 1), night("101", 5), night("102", 9)) == 0
        assert await asks_after(engine, night("101", 6, 700), gone=("102-9", "101-1")) == 0
        assert await asks_after(engine, night("103", 4)) == 1
        assert await waiting == ["101-2", "103-4"]


async def test_a_row_that_leaves_the_range_or_goes_asks_again() -> None:
    async with hotel("memory:") as engine, aclosing(engine.watch(Find("before"))) as watched:
        await put(engine, night("101", 1, 100), night("101", 2, 200), night("101", 3, 900))
        assert await anext(watched) == ["101-1", "101-2"]
        for change, expected in (
            ({"nights": [night("101", 1, 300)]}, ["101-2"]),
            ({"gone": ("101-2",)}, []),
            ({"nights": [night("101", 3, 299)]}, ["101-3"]),
        ):
            waiting = asyncio.ensure_future(anext(watched))
            await asyncio.sleep(0)
            nights: Any = change.get("nights", ())
            gone: Any = change.get("gone", ())
            assert await asks_after(engine, *nights, gone=gone) == 1
            assert await waiting == expected


async def test_single_values_are_watched_exactly_too() -> None:
    async with hotel("memory:") as engine, aclosing(engine.watch(Find("plain"))) as watched:
        await put(engine, night("101", 1))
        assert await anext(watched) == ["101-1"]
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        assert await asks_after(engine, night("102", 1), night("103", 3)) == 0
        assert await asks_after(engine, night("101", 4)) == 1
        assert await waiting == ["101-1", "101-4"]


async def test_a_full_page_is_asked_again_when_one_comes_into_it() -> None:
    query = Find("to", 2, "pence")
    async with hotel("memory:") as engine, aclosing(engine.watch(query)) as watched:
        await put(engine, *[night("101", n, 100 + n) for n in range(4)])
        assert await anext(watched) == ["101-0", "101-1"]
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        assert await asks_after(engine, gone=("101-3",)) == 0  # it was not on the page
        assert await asks_after(engine, gone=("101-1",)) == 1
        assert await waiting == ["101-0", "101-2"]


async def test_what_is_passed_over_by_an_offset_asks_again_when_it_leaves() -> None:
    query = Find("to", 2, "pence", offset=1)
    async with hotel("memory:") as engine, aclosing(engine.watch(query)) as watched:
        await put(engine, *[night("101", n, 100 + n) for n in range(4)])
        assert await anext(watched) == ["101-1", "101-2"]
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        assert await asks_after(engine, gone=("101-0",)) == 1
        assert await waiting == ["101-2", "101-3"]


async def test_more_rows_than_are_noted_one_by_one_are_watched_as_a_table() -> None:
    async with hotel("memory:", watched_rows=3) as engine:
        async with aclosing(engine.watch(Find("from"))) as watched:
            await put(engine, *[night("101", n) for n in range(3, 8)])
            assert len(await anext(watched)) == 5
            waiting = asyncio.ensure_future(anext(watched))
            await asyncio.sleep(0)
            assert await asks_after(engine, gone=("101-7",)) == 1
            assert len(await waiting) == 4
        assert engine._wiring.live._notes._interest.is_empty


def test_interest_is_forgotten_as_it_was_noted() -> None:
    interest: Interest[str] = Interest()
    equal = (Filter("a", 0, ("x",)), Filter("b", 1, (None,)))
    ranges = (Filter("b", 1, low=3, with_high=False),)
    for reader in ("one", "two"):
        interest.note_some(reader, "t", equal)
        interest.note_some(reader, "t", ranges)
    assert sorted(interest.in_table("t")) == ["one", "one", "two", "two"]
    assert sorted(interest.in_rows("t", {1: ("x", None)})) == ["one", "two"]
    assert sorted(interest.in_rows("t", {1: ("y", 3)})) == ["one", "two"]
    assert list(interest.in_rows("t", {1: ("y", 2), 2: None, 3: ("y", None)})) == []
    for reader in ("one", "two"):
        interest.drop_some(reader, "t", equal)
        interest.drop_some(reader, "t", ranges)
        interest.drop_some(reader, "t", ranges)
    assert interest.is_empty


def test_many_rows_and_ranges_are_not_compared_one_by_one() -> None:
    interest: Interest[int] = Interest()
    for n in range(200):
        interest.note_some(n, "t", (Filter("a", 0, low=n, high=n),))
    few: dict[Any, Any] = {1: (7,), 2: (300,)}
    assert list(interest.in_rows("t", few)) == [7]
    many: dict[Any, Any] = dict.fromkeys(range(500), (1000,))
    assert sorted(interest.in_rows("t", many)) == list(range(200))


def test_ranges_are_values_that_can_be_kept_and_compared() -> None:
    assert at_least(1) & below(3) == Range(1, 3, with_high=False)
    assert below(3) & at_least(1) == Range(1, 3, with_high=False)
    assert between(1, 3) == Range(1, 3)
    assert one_of([1, 2]) == OneOf((1, 2))
