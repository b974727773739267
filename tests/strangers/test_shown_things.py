"""Hooks and answers that change what they are shown: nothing else is run, asked or counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineStatistics,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.telemetry import CommandBegan, CommitBegan, Observation, ProjectionBegan, QueryBegan


class Pack(Command):
    box_id: Id
    things: list[str] = []


class Packed(Event, name="packed"):
    things: list[str]


class Box(Aggregate, kind="box"):
    @handles
    def pack(self, command: Pack) -> Packed:
        return Packed(command.things)

    @applies
    def packed(self, event: Packed) -> None:
        pass


class Content(Row, key="box"):
    box: str
    things: list[str]
    version: int


class Boxes(Projection, name="boxes", version=1):
    rows: Table[Content]

    @projects
    def packed(self, event: Packed, meta: Meta) -> None:
        self.rows.put(Content(meta.id, event.things, meta.version))


class Versions(Query[list[int]]):
    boxes: list[str]


@answers
async def versions(query: Versions, views: Views) -> list[int]:
    """Work through its query, and leave nothing of it."""
    found: list[int] = []
    while query.boxes:
        row = await views.get(Boxes.rows, query.boxes.pop(0))
        found.append(0 if row is None else row.version)
    return found


def packing(store: str, **options: Any) -> Engine:
    return Engine([Box], projections=[Boxes], answers=[versions], store=store, **options)


class Meddler:
    """A telemetry that changes whatever it is shown."""

    wants_commands = True

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def attach(self, statistics: Callable[[], EngineStatistics]) -> None:
        pass

    def detach(self) -> None:
        pass

    def begin(self, began: Any) -> Observation | None:
        self.shown.add(type(began).__name__)
        if isinstance(began, CommandBegan):
            command: Any = began.command
            command.things.append("a bomb")
            _fill(began.headers)
        elif isinstance(began, CommitBegan):
            for headers in began.headers:
                _fill(headers)
        elif isinstance(began, QueryBegan):
            query: Any = began.query
            query.boxes.clear()
        elif isinstance(began, ProjectionBegan):
            _turn(began.events)
        return None


def _fill(headers: Any) -> None:
    headers["answer"] = 42


def _turn(events: Sequence[Any]) -> None:
    if isinstance(events, list):
        events.reverse()


@pytest.fixture(params=["memory:", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'log.db'}"


async def test_a_telemetry_changes_nothing_that_it_is_shown(store: str) -> None:
    meddler = Meddler()
    async with packing(store, telemetry=meddler) as engine:
        first = await engine.execute(Pack("a", ["a cup"]), key="k", headers={"lang": "en"})
        again = await engine.execute(Pack("a", ["a cup"]), key="k", headers={"lang": "en"})
        several = [Pack("b", ["x"]) for _ in range(50)]
        last = [answer async for answer in engine.execute_many(several)][-1]
        assert not isinstance(last, Exception)
        assert await engine.query(Versions(["a", "b"]), at=last) == [1, 50]
        logged = (await engine.history(Box, "a")).events[0]

    assert again == first
    assert logged.event == Packed(["a cup"])
    assert logged.meta.headers == {"lang": "en"}
    assert {"CommandBegan", "CommitBegan", "QueryBegan", "ProjectionBegan"} <= meddler.shown


async def test_authorize_changes_nothing_that_it_is_asked_about(store: str) -> None:
    def authorize(_principal: str | None, action: str, message: Any) -> bool:
        if action == "execute":
            message.things.clear()
        if action == "query":
            message.boxes.clear()
        return True

    async with packing(store, authorize=authorize) as engine:
        receipt = await engine.execute(Pack("a", ["a cup"]))
        assert await engine.query(Versions(["a"]), at=receipt) == [1]
        async with engine.past() as past:
            assert await past.query(Versions(["a"])) == [1]
        async with aclosing(engine.watch(Versions(["a"]))) as watched:
            assert await anext(watched) == [1]
        [logged] = (await engine.history(Box, "a")).events

    assert logged.event == Packed(["a cup"])


async def test_an_answer_that_takes_from_its_query_is_asked_the_same_again(store: str) -> None:
    async with packing(store) as engine:
        receipt = await engine.execute(Pack("a"))
        async with (
            aclosing(engine.watch(Versions(["a", "b"]), at=receipt)) as watched,
            asyncio.timeout(10),
        ):
            assert await anext(watched) == [1, 0]
            await engine.execute(Pack("b"))
            assert await anext(watched) == [1, 1]
            await engine.execute(Pack("a"))
            assert await anext(watched) == [2, 1]
