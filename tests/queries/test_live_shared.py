"""Live queries that are the same, that see two states, and that are asked at a position."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from engine import ProjectionLag, Row
from engine.queries.question import own
from tests.queries.watching import CALLER, Held, IsRich, Pair, Watcher, add, now, watched, within
from tests.support.counters import Add, Empty
from tests.support.tallies import AILING, GetTallies, GetTally, Tally
from tests.support.waiting import settle, until


class Page(msgspec.Struct, frozen=True):
    numbers: list[int]
    after: str


# -- those who watch the same ----------------------------------------------------------------


async def test_equal_queries_are_asked_once_for_all() -> None:
    async with watched() as engine:
        watchers = [Watcher(engine, GetTally("a")) for _ in range(100)]
        await until(lambda: all(w.seen == [None] for w in watchers))
        await add(engine, "a")
        await until(lambda: all(len(w.seen) == 2 for w in watchers))
        numbers = engine.statistics().live

        assert (numbers.asks, numbers.queries, numbers.watchers) == (2, 1, 100)
        assert {id(w.seen[1]) for w in watchers} == {id(watchers[0].seen[1])}
        assert {id(w.live.json) for w in watchers} == {id(watchers[0].live.json)}
        assert watchers[0].live.json == b'{"counter":"a","total":1,"events":1}'
    for watcher in watchers:
        await watcher.end()


async def test_queries_are_the_same_only_where_an_answer_could_not_tell_them_apart() -> None:
    async with watched() as engine:
        await add(engine, "a", 1)
        queries = [IsRich("a", 1), IsRich("a", True), IsRich("a", 1.0), IsRich("b", 1)]
        watchers = [Watcher(engine, query) for query in [*queries, IsRich("a", 1)]]
        await until(lambda: all(w.seen for w in watchers))
        assert engine.statistics().live.queries == 4
        # What JSON cannot tell, Python can; and what is no JSON at all may be asked too.
        more = [Watcher(engine, IsRich("a", cents)) for cents in (Odd(), Odd())]
        await until(lambda: all(w.seen for w in more))

        assert engine.statistics().live.queries == 6


class Tagged(Row, key="id"):
    """A row with a list."""

    id: str
    tags: list[str]


class Odd:
    """No JSON."""

    def __le__(self, other: object) -> bool:
        return True


async def test_who_takes_from_the_list_that_he_is_given_takes_from_no_other() -> None:
    """He is also told of the row that goes next, though his own list has it no more."""
    async with watched() as engine, aclosing(engine.watch(GetTallies())) as tallies:
        await add(engine, "a")
        await add(engine, "b")
        mine: list[Tally] = await within(anext(tallies))
        assert [tally.counter for tally in mine] == ["a", "b"]
        del mine[0]
        async with aclosing(engine.watch(GetTallies())) as others:
            assert [tally.counter for tally in await within(anext(others))] == ["a", "b"]
        assert b'"a"' in tallies.json
        await engine.execute(Empty("a"))
        assert [tally.counter for tally in await within(anext(tallies))] == ["b"]


def test_an_answers_own_lists_are_nobody_elses() -> None:
    page = Page([1, 2], "more")
    mine = own(page)
    mine.numbers.append(3)
    assert (page, own({"a": 1}), own((1, [2]))) == (Page([1, 2], "more"), {"a": 1}, (1, [2]))
    row = Tally("a", 1, 1)
    assert own(row) is row
    assert own([row])[0] is row


def test_nor_are_lists_in_its_rows() -> None:
    row = Tagged("a", ["x"])
    answer = {"rows": [row], "more": (row,)}
    mine = own(answer)
    mine["rows"][0].tags.append("y")
    mine["more"][0].tags.append("z")
    own([row])[0].tags.append("z")
    assert answer == {"rows": [Tagged("a", ["x"])], "more": (Tagged("a", ["x"]),)}


@pytest.mark.parametrize("names_it", [True, False])
async def test_who_joins_is_given_nothing_older_than_that(names_it: bool) -> None:
    """An ask is under way when the second one comes; what it will bring is out of date."""
    async with watched() as engine:
        now().go.clear()
        first = Watcher(engine, Held())
        await within(now().read.wait())
        receipt = await engine.execute(Add("a", 5))
        await engine.query(GetTallies(), at=receipt)
        second = Watcher(engine, Held(), at=receipt if names_it else None)
        await settle()
        now().go.set()
        await second.sees(5)

        assert (first.seen[-1], second.seen, second.positions) == (5, [5], [receipt.position])


async def test_who_joins_a_settled_query_is_given_its_answer_without_an_ask() -> None:
    async with watched() as engine:
        await Watcher(engine, GetTally("a")).sees(None)
        await add(engine, "b")
        late = Watcher(engine, GetTally("a"))
        await late.sees(None)
        assert (late.positions, engine.statistics().live.asks) == ([1], 1)
        await add(engine, "b")

        assert (late.live.position, late.positions) == (2, [1])


async def test_an_ask_belongs_to_nobodys_context() -> None:
    async with watched() as engine:
        CALLER.set("ann")
        watcher = Watcher(engine, Held())
        await watcher.sees(0)
        await add(engine, "a")
        await watcher.sees(0, 1)

        assert now().seen == ["nobody", "nobody"]


# -- answers of two states -------------------------------------------------------------------


async def test_an_answer_that_has_seen_two_states_is_asked_again() -> None:
    """Both rows are changed by one commit; between two reads another one comes."""
    async with watched() as engine:
        changes = iter([1])

        async def between() -> None:
            for amount in changes:
                receipts = await asyncio.gather(
                    engine.execute(Add("a", amount)), engine.execute(Add("b", amount))
                )
                await engine.query(GetTallies(), at=max(r.position for r in receipts))

        now().between = between
        watcher = Watcher(engine, Pair())
        await watcher.sees((1, 1))

        assert engine.statistics().live.torn == 1


# -- at a position ---------------------------------------------------------------------------


async def test_at_a_receipt_the_first_answer_has_its_effect() -> None:
    async with watched() as engine:
        for amount in range(1, 6):
            receipt = await engine.execute(Add("a", 1))
            async with aclosing(engine.watch(GetTally("a"), at=receipt.token)) as live:
                assert await within(anext(live)) == Tally("a", amount, amount)
                assert live.position == receipt.position


async def test_at_a_position_that_does_not_come_it_says_who_lags() -> None:
    async with watched() as engine:
        AILING.add("a")
        receipt = await engine.execute(Add("a", 1))
        live = engine.watch(GetTally("a"), at=receipt, timeout=0.01)
        with pytest.raises(ProjectionLag, match="position 1"):
            await anext(live)
        with pytest.raises(StopAsyncIteration):
            await anext(live)

        assert engine.statistics().live.watchers == 0
