"""Decisions by tags where several own a log: on all events with them, whoever appended these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Rejected,
    StoreFailed,
    StoreRefused,
    applies,
    handles,
)
from engine.stores.contract.membership import slot_of
from engine.stores.contract.tags import TagRead
from engine.stores.postgres.address import read_address
from engine.stores.postgres.line import Line
from engine.stores.postgres.log import spread, tags
from engine.stores.postgres.log.schema import lock_key
from engine.stores.postgres.log.spread_writer import SpreadWriter
from engine.testing.conformance import ALL
from tests.members.shops import Price, Shop
from tests.members.spreading import is_settled
from tests.support.postgres import Server, asked, connected
from tests.support.waiting import until
from tests.write.courses import (
    Course,
    Desk,
    Enrol,
    Enrolled,
    Issue,
    Leave,
    Move,
    Offer,
    Seize,
    school,
)


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


@asynccontextmanager
async def owners(log: str, count: int = 2) -> AsyncGenerator[list[Any]]:
    async with AsyncExitStack() as stack:
        makes = [school(store=log, join="spread") for _ in range(count)]
        engines: list[Any] = [*await asyncio.gather(*map(stack.enter_async_context, makes))]
        await until(lambda: all(is_settled(engine, count) for engine in engines))
        yield engines


def decides(engine: Any, stream: str) -> bool:
    """Tell whether a process decides for a stream."""
    return bool(engine._joined._router._ready[slot_of(stream)])


async def test_no_seat_is_given_twice_and_no_number(log: str) -> None:
    async with owners(log, 3) as engines:
        await engines[0].execute(Offer("math", 10))

        async def enrol(n: int) -> str:
            try:
                await engines[n % 3].execute(Enrol("math", f"s{n}"), key=f"k{n}")
            except Rejected as rejected:
                return rejected.code
            return "enrolled"

        told = await asyncio.gather(*map(enrol, range(40)))
        numbers = await asyncio.gather(*(engines[n % 3].execute(Issue()) for n in range(30)))

        assert (told.count("enrolled"), told.count("full")) == (10, 30)
        assert sorted(receipt.reply for receipt in numbers) == list(range(1, 31))
        found = [logged.event async for logged in engines[1].feed()]
        assert sum(isinstance(event, Enrolled) for event in found) == 10


async def test_a_boundary_in_memory_is_never_believed(log: str) -> None:
    """Others free seats, take them and add notes, behind the back of the owner of the course."""
    async with owners(log) as [first, second]:
        course = next(f"c{n}" for n in range(99) if decides(first, f"course:c{n}"))
        student = next(f"s{n}" for n in range(99) if decides(second, f"enrolment:{course}/s{n}"))
        await first.execute(Offer(course, 1))
        await first.execute(Offer("other", 9))
        for turn in range(3):
            assert (await second.execute(Enrol(course, student))).reply == 0
            with pytest.raises(Rejected, match="full"):
                await second.execute(Enrol(course, f"late{turn}"))
            await first.execute(Leave(course, student))
            assert (await second.execute(Leave(course, student))).versions
            await first.execute(Offer(f"more{turn}", 1))
            # It has a seat, and the first one has appended behind what freed it.
            assert (await first.execute(Enrol(course, f"quick{turn}"))).reply == 0
            await second.execute(Leave(course, f"quick{turn}"))
            await second.execute(Enrol("other", student))
            await second.execute(Move(student, "other", course))
            with pytest.raises(Rejected, match="full"):
                await first.execute(Enrol(course, f"later{turn}"))
            await first.execute(Leave(course, student))
        await second.execute(Seize("d", course, "hello"))
        state = await first.state(Course, course)
        assert (state.taken, state.notes) == (0, 1)
        assert (await second.state(Desk, "d")).notes == 1


class Tick(Command):
    box_id: Id
    who: str


def box(*tags: str) -> type[Aggregate]:
    """Give an aggregate that decides by its own events, which others find by these tags."""

    class Ticked(Event, name="spread-ticked", tags=tags):
        who: str

    class Box(Aggregate, kind="spread-box"):
        count: int = 0

        @handles
        def tick(self, command: Tick) -> Ticked:
            return Ticked(command.who)

        @applies
        def ticked(self, _event: Ticked) -> None:
            self.count += 1

    return Box


async def test_the_index_never_misses_what_several_owners_append(log: str) -> None:
    async with Engine([box()], store=log, join="spread") as engine:
        await engine.execute(Tick("b", "ann"))
        with pytest.raises(StoreRefused, match="may append meanwhile"):
            await Engine([box("who")], store=log, join="spread").__aenter__()
    async with Engine([box("who")], store=log, join="spread") as engine:
        await engine.execute(Tick("b", "bob"))
        with pytest.raises(StoreRefused, match="may append meanwhile"):
            await Engine([box()], store=log, join="spread").__aenter__()
        async with Engine([box("who")], store=log, join="spread") as other:
            await asyncio.gather(*(other.execute(Tick(f"b{n}", "bob")) for n in range(9)))
    async with Engine([box("who")], store=log) as alone:
        store: Any = alone._wiring.store  # pyright: ignore[reportPrivateUsage]
        reads = [TagRead((f"who:{who}",), ("spread-ticked",)) for who in ("ann", "bob")]
        ann, bob = await store.read_tagged(reads, events_max=99, bytes_max=ALL)
        assert [event.position for event in ann.events] == [1]
        assert [event.position for event in bob.events] == list(range(2, 12))


async def test_who_leads_may_leave_between_an_append_and_its_index(
    log: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is given back without the lock that an append has."""
    schema, append, left = read_address(log).schema, vars(SpreadWriter)["_append_once"], list[Any]()
    leave = f"SELECT {schema}.end_session_1(session) FROM {schema}.sessions WHERE live"

    async def appended(*given: Any) -> Any:
        done = await append(*given)
        if not left:
            left.extend(await asked(postgres, leave))
        return done

    async with Engine([box("who")], store=log, join="spread") as engine:
        await engine.execute(Tick("b", "ann"))
        monkeypatch.setattr(SpreadWriter, "_append_once", appended)
        assert (await engine.execute(Tick("b", "bob"))).version == 2
        assert len(left) == 1
        rows = await asked(postgres, f"SELECT tag FROM {schema}.tags ORDER BY position")
        assert rows == [("who:ann",), ("who:bob",)]


async def test_leases_are_renewed_and_who_leads_may_leave_while_the_index_is_made(
    log: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, fetch, left = read_address(log).schema, vars(Line)["fetch"], list[Any]()
    renew = f"SELECT {schema}.renew_member_1(member, 0, 60) FROM {schema}.members WHERE decides"
    leave = f"SELECT {schema}.end_session_1(session) FROM {schema}.sessions WHERE live"

    async def indexed(line: Line, query: str, *values: Any) -> Any:
        if "add_tags_1" in query and not left:
            assert await asked(postgres, renew) == [(True,)]
            left.extend(await asked(postgres, leave))
        return await fetch(line, query, *values)

    async with Engine([box()], store=log) as engine:
        await engine.execute(Tick("b", "ann"))
    monkeypatch.setattr(Line, "fetch", indexed)
    async with Engine([box("who")], store=log, join="spread"):
        assert len(left) == 1
        rows = await asked(postgres, f"SELECT tag FROM {schema}.tags ORDER BY position")
        assert rows == [("who:ann",)]


async def test_an_owner_that_stands_still_in_an_append_keeps_the_others_for_a_moment(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock, and its events are there but not committed."""
    append, stands, goes_on = vars(SpreadWriter)["_append_once"], asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> Any:
        done = await append(*given)
        if not stands.is_set():
            stands.set()
            await goes_on.wait()
        return done

    async with owners(log) as [first, second]:
        mine = next(f"c{n}" for n in range(99) if decides(first, f"course:c{n}"))
        others = next(f"c{n}" for n in range(99) if decides(second, f"course:c{n}"))
        monkeypatch.setattr(SpreadWriter, "_append_once", slowly)
        offering = asyncio.ensure_future(first.execute(Offer(mine, 1)))
        await stands.wait()
        assert (await second.execute(Offer(others, 1))).position == 1
        goes_on.set()
        assert (await offering).position == 2
        rows = [logged.meta.stream async for logged in second.feed()]
        assert rows == [f"course:{others}", f"course:{mine}"]


@pytest.mark.parametrize("join", [False, "spread"])
async def test_a_process_that_stands_still_as_it_makes_the_index_keeps_nobody_from_the_log(
    log: str, postgres: Server, monkeypatch: pytest.MonkeyPatch, join: Any
) -> None:
    module = f"engine.stores.postgres.log.{'spread' if join else 'tags'}"
    make, stands, goes_on = vars(tags)["index_within"], asyncio.Event(), asyncio.Event()

    async def standing(*given: Any) -> Any:
        done = await make(*given)
        stands.set()
        await goes_on.wait()
        return done

    limit = "SET LOCAL idle_in_transaction_session_timeout = 99"
    monkeypatch.setattr(f"{module}.LIMITS", limit)
    monkeypatch.setattr(f"{module}.index_within", standing)
    starting = asyncio.ensure_future(Engine([box("who")], store=log, join=join).__aenter__())
    await stands.wait()
    outside = await connected(postgres)
    await outside.fetch("SELECT pg_advisory_lock($1, $2)", *lock_key(read_address(log).schema))
    await outside.close()
    goes_on.set()
    with pytest.raises(StoreFailed, match="its tags were not indexed"):
        await starting


async def test_a_start_whose_first_question_about_tags_is_not_answered_is_given_up(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a member by then, for whose word the others wait."""
    log = postgres.url(postgres.new_schema(), "lease=5", "patience=2")
    ask = vars(spread)["fetch_numbered"]

    async def asked_in_vain(line: Any, query: str, *values: Any) -> Any:
        if "begin_session_2('nobody'" in query:
            await line.fetch("SELECT pg_sleep(3600)")
        return await ask(line, query, *values)

    monkeypatch.setattr("engine.stores.postgres.address._ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(spread, "fetch_numbered", asked_in_vain)
    with pytest.raises(StoreFailed, match="its tags were not indexed"):
        await Engine([box("who")], store=log, join="spread").__aenter__()


@pytest.mark.parametrize("join", [False, "spread"])
async def test_a_start_that_is_not_answered_in_the_middle_of_the_index_is_given_up(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, join: Any
) -> None:
    log = postgres.url(postgres.new_schema(), "patience=2")
    fetch = vars(Line)["fetch"]

    async def asked_in_vain(line: Line, query: str, *values: Any) -> Any:
        if "position <= $2" in query:
            await line.connection.fetch("SELECT pg_sleep(3600)")
        return await fetch(line, query, *values)

    async with Engine([box()], store=log) as engine:
        await engine.execute(Tick("b", "ann"))
    monkeypatch.setattr("engine.stores.postgres.address._ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(Line, "fetch", asked_in_vain)
    with pytest.raises(StoreFailed, match="its tags were not indexed"):
        await Engine([box("who")], store=log, join=join).__aenter__()


async def test_the_index_is_made_of_all_positions_where_few_events_have_tags(
    log: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "_PAGE_EVENTS", 2)
    monkeypatch.setattr(tags, "_PAGE_POSITIONS", 3)
    schema = read_address(log).schema
    async with Engine([box(), Shop], store=log) as engine:
        for n in (1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1):
            await engine.execute(Tick("b", "ann") if n else Price("s"))
    async with Engine([box("who"), Shop], store=log):
        rows = await asked(postgres, f"SELECT position FROM {schema}.tags ORDER BY position")
    assert [position for (position,) in rows] == [1, 9, 10, 11, 12, 13, 17]
