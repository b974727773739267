"""A query that an answer asks its own engine: it reads what the answer reads, and takes no turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Limits, MemoryStore, Query, UsageError, Views, answers
from tests.queries.ledger import Ledger, Mirror, beside, count, get
from tests.support.counters import Add, Counter
from tests.support.waiting import settle

ENGINES: list[Engine] = []
"""The engine that answers ask; an application has it in a variable."""
MEANWHILE: list[Callable[[], Awaitable[None]]] = []
"""What happens before an answer asks."""
LATER: list[asyncio.Task[Any]] = []
GIVEN: list[asyncio.Event] = []


class Mirrored(Query[int]):
    """How many events there were, by the other projection."""


class Both(Query[tuple[int, int]]):
    """Asks two queries."""


class Asking(Query[int]):
    """Asks with `at`."""

    position: int


class Leaving(Query[int]):
    """Leaves a task behind that asks later."""


@answers
async def mirrored(query: Mirrored, views: Views) -> int:
    return int(await count(views))


@answers
async def both(query: Both, views: Views) -> tuple[int, int]:
    first = int(await get(views))
    for call in MEANWHILE:
        await call()
    return first, await ENGINES[-1].query(Mirrored())


@answers
async def asking(query: Asking, views: Views) -> int:
    return await ENGINES[-1].query(Mirrored(), at=query.position)


@answers
async def leaving(query: Leaving, views: Views) -> int:
    async def ask_later() -> int:
        await GIVEN[0].wait()
        return await ENGINES[-1].query(Mirrored())

    LATER.append(asyncio.ensure_future(ask_later()))
    return int(await get(views))


@pytest.fixture(autouse=True)
def _nothing_of_former_tests() -> None:
    for kept in (ENGINES, MEANWHILE, LATER, GIVEN):
        kept.clear()


def asked_inside(folder: Path | None = None, **options: Any) -> Engine:
    engine = Engine(
        [Counter],
        projections=[Ledger, Mirror],
        answers=[mirrored, both, asking, leaving],
        store=MemoryStore() if folder is None else f"sqlite:{folder}/log.db",
        **options,
    )
    ENGINES.append(engine)
    return engine


async def add(engine: Engine) -> None:
    receipt = await engine.execute(Add("a", 1))
    await engine.query(Mirrored(), at=receipt)


async def test_what_is_asked_inside_is_of_the_same_state(tmp_path: Path) -> None:
    async with asked_inside(tmp_path) as engine:
        await add(engine)
        MEANWHILE.append(lambda: beside(lambda: add(engine)))
        assert [await engine.query(Both()), await engine.query(Both())] == [(1, 1), (2, 2)]


async def test_many_that_ask_inside_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Else each has a turn, and waits for another one that none of them gives back."""
    limits = Limits(answers_at_once=2)
    async with asyncio.timeout(20), asked_inside(tmp_path, limits=limits) as engine:
        await add(engine)
        MEANWHILE.append(settle)
        assert await asyncio.gather(*(engine.query(Both()) for _ in range(6))) == [(1, 1)] * 6


@pytest.mark.parametrize("in_file", [True, False])
async def test_who_watches_is_told_of_what_is_asked_inside(tmp_path: Path, in_file: bool) -> None:
    async with asked_inside(tmp_path if in_file else None) as engine:
        await add(engine)
        async with aclosing(engine.watch(Both())) as watched, asyncio.timeout(20):
            assert await anext(watched) == (1, 1)
            # No row of the first projection changes by this event, which is large.
            await engine.execute(Add("a", 1_000))
            assert await anext(watched) == (1, 2)


async def test_with_at_it_is_refused_inside(tmp_path: Path) -> None:
    async with asked_inside(tmp_path) as engine:
        await add(engine)
        with pytest.raises(UsageError, match="asks Mirrored with `at`.*one state of the views"):
            await engine.query(Asking(1))


async def test_a_task_that_an_answer_has_left_behind_asks_as_anybody_does(tmp_path: Path) -> None:
    async with asked_inside(tmp_path) as engine:
        GIVEN.append(asyncio.Event())
        assert await engine.query(Leaving()) == 0
        await add(engine)
        GIVEN[0].set()
        assert await LATER[0] == 1


async def test_another_engine_is_asked_for_its_own_views(tmp_path: Path) -> None:
    """Also if both are given the same answers, as those of two tenants are."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with asked_inside(tmp_path / "a") as one, asked_inside(tmp_path / "b") as other:
        await add(other)
        await add(other)
        assert await one.query(Both()) == (0, 2)


async def test_in_a_past_it_is_asked_of_that_past(tmp_path: Path) -> None:
    async with asked_inside(tmp_path) as engine:
        await add(engine)
        await add(engine)
        async with engine.past(position=1) as past:
            assert await past.query(Both()) == (1, 1)


async def test_in_a_past_of_a_process_that_shares_its_log_too(tmp_path: Path) -> None:
    async with asked_inside(tmp_path, join=True) as owner, asked_inside(tmp_path, join=True) as one:
        await add(owner)
        await add(one)
        for engine in (owner, one):
            ENGINES.append(engine)
            async with engine.past(position=1) as past:
                assert await past.query(Both()) == (1, 1)
