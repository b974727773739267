"""What projections, sinks, answers, hooks and telemetries raise costs what they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from engine import (
    Delivery,
    Engine,
    Forbidden,
    Meta,
    Projection,
    Query,
    Row,
    Sink,
    Table,
    Views,
    answers,
    projects,
)
from engine.telemetry import Began, Observation
from tests.strangers.unruly import (
    RAISED,
    Jar,
    Put,
    PutIn,
    answer,
    assert_others_go_on,
    at,
    raising,
    where,
)
from tests.support.waiting import until


class Content(Row, key="jar"):
    jar: str
    coins: int


class Contents(Projection, name="contents", version=1):
    rows: Table[Content]

    @projects
    def put_in(self, event: PutIn, meta: Meta) -> None:
        at("projection", event.jar)
        row = self.rows.get(meta.id)
        self.rows.put(Content(meta.id, event.coins + (row.coins if row else 0)))


class Copies(Projection, name="copies", version=1):
    rows: Table[Content]

    @projects
    def put_in(self, event: PutIn, meta: Meta) -> None:
        self.rows.put(Content(meta.id, event.coins))


class Outside(Sink, name="outside", version=1):
    async def deliver(self, deliveries: Sequence[Delivery[PutIn]]) -> None:
        for delivery in deliveries:
            at("sink", delivery.event.jar)


class GetContent(Query[Content | None]):
    jar: str


@answers
async def get_content(query: GetContent, views: Views) -> Content | None:
    at("answer", query.jar)
    return await views.get(Contents.rows, query.jar)


@pytest.mark.parametrize("name", RAISED)
async def test_a_projection_stops_alone(name: str) -> None:
    async with Engine([Jar], projections=[Contents, Copies], answers=[get_content]) as engine:
        where["projection", "bad"] = raising(name)
        receipt = await engine.execute(Put("bad"))
        await until(lambda: engine.statistics().projectors["contents"].state == "stopped")
        await until(lambda: engine.statistics().projectors["copies"].position == receipt.position)
        assert engine.failed is None

        where.clear()
        await engine.projections.resume("contents")
        assert await engine.query(GetContent("bad"), at=receipt) == Content("bad", 1)


@pytest.mark.parametrize("name", RAISED)
async def test_a_sink_costs_its_own_deliveries(name: str) -> None:
    async with Engine([Jar], projections=[Outside]) as engine:
        where["sink", "bad"] = raising(name)
        await engine.execute(Put("bad"))

        def has_failed() -> bool:
            return engine.statistics().projectors["outside"].state in ("stopped", "retrying")

        await until(has_failed)
        await assert_others_go_on(engine, version=1)


@pytest.mark.parametrize("name", RAISED)
async def test_an_answer_that_is_watched_fails_its_own_watch(name: str) -> None:
    async with Engine([Jar], projections=[Contents], answers=[get_content]) as engine:
        where["answer", "bad"] = raising(name)
        async with aclosing(engine.watch(GetContent("bad"))) as watched:
            waiting = asyncio.ensure_future(anext(watched))
            await asyncio.wait([waiting], timeout=5)
            assert waiting.done()
            error = waiting.exception()
            assert isinstance(error, Exception)
            assert not isinstance(error, StopAsyncIteration), "this is no end"
        async with aclosing(engine.watch(GetContent("fine"))) as watched:
            assert await asyncio.wait_for(anext(watched), 5) is None
        await assert_others_go_on(engine)


@pytest.mark.parametrize("name", ["exit", "interrupt", "cancelled"])
async def test_an_answer_that_is_asked_ends_neither_its_caller_nor_the_loop(name: str) -> None:
    async with Engine([Jar], projections=[Contents], answers=[get_content]) as engine:
        where["answer", "bad"] = raising(name)
        for timeout in (None, 5.0):
            with pytest.raises(Exception, match=r"no Exception|was cancelled from inside"):
                await engine.query(GetContent("bad"), timeout=timeout)
        async with engine.past() as past:
            with pytest.raises(Exception, match=r"no Exception|was cancelled from inside"):
                await past.query(GetContent("bad"))
        assert await engine.query(GetContent("fine")) is None
        await assert_others_go_on(engine)


@pytest.mark.parametrize("name", sorted(set(RAISED) - {"rejected"}))
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_raises_says_no(name: str, is_async: bool) -> None:
    def allow(principal: str | None, *_: Any) -> bool:
        if principal == "bad":
            raising(name)()
        return True

    async def allow_later(principal: str | None, *_: Any) -> bool:
        return allow(principal)

    if is_async and name in ("generator-exit", "stop-iteration"):
        pytest.skip("a coroutine turns it into another error, or is closed by it")
    async with Engine([Jar], authorize=allow_later if is_async else allow) as engine:
        assert isinstance(await answer(engine, Put("j"), principal="bad"), Forbidden)
        assert (await answer(engine, Put("j"), principal="good")).version == 1


class Unruly:
    """A telemetry that raises wherever it is told of something."""

    def __init__(self, name: str) -> None:
        self._raise = raising(name)

    @property
    def wants_commands(self) -> bool:
        return True

    def attach(self, statistics: Any) -> None:
        self._raise()

    def begin(self, began: Began) -> Observation | None:
        if type(began).__name__ == "LoadBegan":
            self._raise()
        return self

    @property
    def headers(self) -> Mapping[str, str] | None:
        self._raise()
        return None

    def end(self, error: BaseException | None, facts: Mapping[str, Any]) -> None:
        self._raise()

    def detach(self) -> None:
        self._raise()


@pytest.mark.parametrize("name", RAISED)
async def test_a_telemetry_costs_what_it_would_have_told(name: str) -> None:
    async with Engine([Jar], telemetry=Unruly(name)) as engine:
        assert (await answer(engine, Put("j"))).version == 1
        assert engine.statistics().telemetry_failures > 2
        assert engine.failed is None
