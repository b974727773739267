"""What an enum's numbers stand for: a stored number never becomes another member in silence."""

from __future__ import annotations

from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Meta,
    Ports,
    Projection,
    Query,
    Rejected,
    Row,
    StoreRefused,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.model.codec import EventRegistry, schema_hash
from engine.model.numbers import with_names
from engine.model.schema import check_types
from engine.model.shape import event_type
from engine.model.stored import EventType
from engine.model.timers import TimedCommands
from engine.stores.contract import known_builds
from engine.stores.contract.builds import definition_hash
from engine.stores.contract.outside import Found
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.scenario import ManualClock
from tests.support.postgres import Server
from tests.support.waiting import until


class Open(IntEnum):
    NEW = auto()
    PAID = auto()
    SHIPPED = auto()


class WithoutNew(IntEnum):
    """The same numbers, and each is another member."""

    PAID = auto()
    SHIPPED = auto()
    LOST = auto()


class WithNew(IntEnum):
    """The same members by other numbers."""

    SHIPPED = auto()
    NEW = auto()
    PAID = auto()


class Text(StrEnum):
    PAID = "1"


class Renamed(IntEnum):
    NEW = 1
    PAID = 2
    SETTLED = 2
    SHIPPED = 3


def moved(states: type[Enum]) -> Any:
    class Moved(Event, name="moved", version=1):
        to: states  # type: ignore[valid-type]

    return Moved


def fits(stored: type[Enum], declared: type[Enum]) -> bool:
    """Tell whether a log with the one is gone on from with the other."""
    there = event_type(moved(stored))
    bare = EventType(there.name, there.version, there.schema_hash)
    return not check_types(EventRegistry([moved(declared)]), [bare])


def test_a_number_that_stands_for_another_member_is_another_schema() -> None:
    assert not fits(Open, WithoutNew)
    assert not fits(WithoutNew, Open)


def test_a_member_with_a_number_gets_another_name_behind_its_old_one() -> None:
    assert fits(Open, Renamed)
    assert fits(Renamed, Open)


def test_a_member_with_a_text_may_get_another_name() -> None:
    class Other(StrEnum):
        SETTLED = "1"

    assert fits(Text, Other)


def test_a_number_that_becomes_a_text_is_another_schema() -> None:
    class Number(IntEnum):
        PAID = 1

    assert not fits(Number, Text)


def test_a_log_of_a_release_that_did_not_look_at_names_is_gone_on_from() -> None:
    class State(IntEnum):
        OPEN = 1
        PAID = 2

    class Moved(Event, name="moved", version=1):
        to: State

    # The first is of release 0.2; the log has the second with the next event.
    assert event_type(Moved).renews("b5015f71f5d751b7") is True
    assert event_type(Moved).schema_hash == "5878bab517d64d40"
    assert schema_hash(Moved) == "b5015f71f5d751b7", "as in the tables of a former release"


def test_names_that_python_itself_gives_are_passed_over() -> None:
    """Python 3.13 has other names than 3.11 for four of these."""

    class Answered(Event, name="answered", version=1):
        status: HTTPStatus

    assert event_type(Answered).schema_hash == schema_hash(Answered)


class Order(Command):
    order_id: Id


class Show(Command):
    order_id: Id


def shop(states: type[IntEnum], kept: type[IntEnum] = Open) -> Any:
    """Give an aggregate whose event has the one enum, and whose state the other."""
    ordered = moved(states)

    class Shop(Aggregate, kind="order", snapshot_every=1):
        state: kept = kept(1)  # type: ignore[valid-type]

        @handles
        def order(self, command: Order) -> ordered:  # type: ignore[valid-type]
            return ordered(states(2))  # type: ignore[no-any-return]

        @handles
        def show(self, command: Show) -> None:
            raise Rejected("shown", self.state.name)  # type: ignore[attr-defined]

        @applies
        def moved(self, event: ordered) -> None:  # type: ignore[valid-type]
            self.state = kept[event.to.name]  # type: ignore[attr-defined]

    return Shop


async def test_an_engine_does_not_start_where_numbers_stand_for_others(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    async with Engine([shop(Open)], store=store) as engine:
        await engine.execute(Order("o-1"))

    with pytest.raises(StoreRefused, match="or the name of an enum's number"):
        async with Engine([shop(WithoutNew)], store=store):
            pass

    renamed = shop(Renamed)
    async with Engine([renamed], store=store) as engine:
        assert (await engine.state(renamed, "o-1")).state is Open.PAID


async def test_a_snapshot_whose_numbers_stand_for_others_is_not_used(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    async with Engine([shop(Open)], store=store) as engine:
        await engine.execute(Order("o-1"))

    async with Engine([shop(Open, kept=WithNew)], store=store) as engine:
        with pytest.raises(Rejected, match="PAID"):
            await engine.execute(Show("o-1"))


class CountShops(Query[int]):
    """Asks how many rows there are."""


def late(states: Any, **options: Any) -> Any:
    """Give an aggregate whose timer's command has an enum, and a projection with it in a row."""

    class Follow(Command, **options):
        order_id: Id
        to: list[states]

    class Asked(Event, name="asked", version=1):
        to: str

    class Shop(Aggregate, kind="order"):
        last: str = ""

        @handles
        def order(self, command: Order) -> Decision[Asked]:
            when = After(Follow(self.id, [states(2)]), "follow", minutes=1)
            return Decision(Asked(states(2).name), timers=[when])

        @handles
        def follow(self, command: Follow) -> Asked:
            return Asked(f"{command.to[0].name}, late")

        @applies
        def asked(self, event: Asked) -> None:
            self.last = event.to

    class Shown(Row, key="id"):
        id: str
        to: list[states]

    class Shops(Projection, name="shops", version=1):
        rows: Table[Shown]

        @projects
        def asked(self, event: Asked, meta: Meta) -> None:
            self.rows.put(Shown(meta.id, [states[event.to.partition(",")[0]]]))

    @answers
    async def count_shops(query: CountShops, views: Views) -> int:
        return await views.count(Shops.rows)

    def engine(store: str) -> Engine:
        return Engine([Shop], projections=[Shops], answers=[count_shops], store=store)

    return SimpleNamespace(Shop=Shop, Shops=Shops, Follow=Follow, engine=engine)


def counts(engine: Engine) -> tuple[int, int]:
    timers = engine.statistics().timers
    return timers.fired, timers.failed


@pytest.mark.parametrize("forbid", [False, True], ids=["known-fields", "no-other-fields"])
async def test_a_timers_command_is_not_run_with_another_member(
    tmp_path: Path, forbid: bool
) -> None:
    store, clock = f"sqlite:{tmp_path / 'shop.db'}", ManualClock()
    first = late(Open, forbid_unknown_fields=forbid)
    async with Engine([first.Shop], store=store, ports=Ports(clock=clock)) as engine:
        await engine.execute(Order("o-1"))

    clock.advance(60)
    other = late(WithoutNew, forbid_unknown_fields=forbid).Shop
    async with Engine([other], store=store, ports=Ports(clock=clock)) as engine:
        await until(lambda: any(counts(engine)))
        assert (*counts(engine), (await engine.state(other, "o-1")).last) == (0, 1, "PAID")
    with SqliteLogReader(f"{tmp_path}/shop.db") as log:
        [waiting] = log.read_timers(timers_max=10)
    assert "number 2 of an enum, which was called PAID and is SHIPPED today" in waiting.cause

    clock.advance(60)
    renamed = late(Renamed, forbid_unknown_fields=forbid).Shop
    async with Engine([renamed], store=store, ports=Ports(clock=clock)) as engine:
        await until(lambda: engine.statistics().timers.fired == 1)
        assert (await engine.state(renamed, "o-1")).last == "PAID, late"


def test_a_timers_command_of_a_release_that_kept_no_names_is_run() -> None:
    first, other = (
        TimedCommands([(late(states).Follow, lambda command: [command.order_id])])
        for states in (Open, WithoutNew)
    )
    name, payload = "follow", b'{"order_id":"o-1","to":[2]}'
    assert first.decode(name, payload) == first.decode(name, with_names(payload, [(2, "PAID")]))
    assert str(other.decode(name, payload)).count("SHIPPED") == 1
    with pytest.raises(HandlerFailed, match="called PAID and is SHIPPED"):
        other.decode(name, with_names(payload, [(2, "PAID")]))


class Rights(IntFlag):
    READ = auto()
    WRITE = auto()
    ADMIN = auto()
    ALL = 7


class Swapped(IntFlag):
    """The same bits, and two of them are others."""

    WRITE = auto()
    READ = auto()
    ADMIN = auto()


class Strict(Flag):
    READ = auto()
    WRITE = auto()


_COMBINED = [
    Rights(0),
    Rights(3),
    Rights(6),
    Rights.ALL,
    Rights(8),
    Rights(9),
    Strict(0),
    Strict(3),
]


@pytest.mark.parametrize(
    "given", _COMBINED, ids=[f"{type(f).__name__}{f.value}" for f in _COMBINED]
)
def test_a_timers_command_has_flags_that_are_combined_by_no_name(given: Flag) -> None:
    """Python names a combination by its flags, or not at all, and no member is called so."""
    follow = late(type(given)).Follow
    known = TimedCommands([(follow, lambda command: [command.order_id])])
    name, payload = known.encode("a test", follow("o-1", [given]))
    assert known.decode(name, payload) == follow("o-1", [given])


def test_a_timers_command_whose_combined_flags_are_others_today_is_not_run() -> None:
    given, taken = late(Rights).Follow, late(Swapped).Follow
    first, other = (
        TimedCommands([(follow, lambda command: [command.order_id])]) for follow in (given, taken)
    )
    stored = first.encode("a test", given("o-1", [Rights.WRITE | Rights.ADMIN]))
    with pytest.raises(HandlerFailed, match="has the number 2 of an enum, which was called WRITE"):
        other.decode(*stored)


async def test_rows_are_not_shown_with_another_member(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    first, other, renamed = late(Open), late(WithoutNew), late(Renamed)
    async with Engine([first.Shop], projections=[first.Shops], store=store) as engine:
        await engine.execute(Order("o-1"))

    with pytest.raises(StoreRefused, match="'shops' are declared otherwise than they were stored"):
        async with Engine([other.Shop], projections=[other.Shops], store=store):
            pass
    async with Engine([renamed.Shop], projections=[renamed.Shops], store=store) as engine:
        assert (await engine.projections.status("shops")).state in ("live", "catching-up")


@pytest.mark.parametrize("server", [False, True], ids=["sqlite", "postgresql"])
async def test_tables_of_a_release_that_did_not_look_at_names_are_gone_on_with(
    server: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    if server:
        postgres: Server = request.getfixturevalue("postgres")
        store = postgres.url(postgres.new_schema())
    app = late(Open)

    async def one_more(count: int) -> None:
        async with app.engine(store) as engine:
            receipt = await engine.execute(Order(f"o-{count}"))
            assert await engine.query(CountShops(), at=receipt) == count

    with monkeypatch.context() as former:
        bare = definition_hash(app.Shops.__definition__).partition(".")[0]
        former.setattr(known_builds, "definition_hash", lambda _: bare)
        await one_more(1)
    await one_more(2)
    async with app.engine(store) as engine:
        await engine.projections.rebuild("shops")
        await until(lambda: not engine.statistics().projectors["shops"].building)
    await one_more(3)
    with pytest.raises(StoreRefused, match="'shops' are declared otherwise than they were stored"):
        async with late(WithoutNew).engine(store):
            pass


def test_tables_of_a_release_that_did_not_look_at_names_are_believed() -> None:
    names = definition_hash(late(Open).Shops.__definition__)
    bare, _, meaning = names.partition(".")
    assert len(bare) == len(meaning) == 16
    assert bare == definition_hash(late(WithoutNew).Shops.__definition__).partition(".")[0]
    build = Found("shops", 1, 1, bare, 1, "log", ["rows"], "serving", {})
    assert build.has(names)
    assert not structs.replace(build, definition=f"{bare}.{'0' * 16}").has(names)
