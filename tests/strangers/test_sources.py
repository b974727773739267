"""Sources of many commands that fail, and callers who leave in the middle of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from engine import Command, Engine, EngineError, Receipt
from tests.support.counters import Add, Counter, counters, total
from tests.support.held_store import HeldStore
from tests.support.waiting import until


class Gone(Exception):
    """The source is gone."""


def lines(count: int) -> Iterator[Command]:
    yield from (Add("a", n + 1) for n in range(count))
    raise Gone


async def rows(count: int) -> AsyncIterator[Command]:
    for n in range(count):
        yield Add("a", n + 1)
        await asyncio.sleep(0)
    raise Gone


async def given_up(count: int) -> AsyncIterator[Command]:
    for n in range(count):
        yield Add("a", n + 1)
    other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    other.cancel()
    await other


SOURCES: list[tuple[Callable[[int], Any], type[BaseException]]] = [
    (lines, Gone),
    (rows, Gone),
    (given_up, asyncio.CancelledError),
]


@pytest.mark.parametrize(("source", "raised"), SOURCES)
@pytest.mark.parametrize("count", [0, 1, 7, 40])
async def test_where_the_source_fails_what_it_gave_is_answered_first(
    source: Callable[[int], Any], raised: type[BaseException], count: int
) -> None:
    answers: list[Receipt | EngineError] = []
    async with counters() as engine:
        with pytest.raises(raised):
            async for answer in engine.execute_many(source(count), window=8):
                answers.append(answer)  # noqa: PERF401 - what came before the failure counts

        assert [a.version for a in answers if isinstance(a, Receipt)] == list(range(1, count + 1))
        assert (await engine.state(Counter, "a")).version == count


@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_a_portal_gives_the_answers_before_the_failure_too(window: int) -> None:
    answers: list[Receipt | EngineError] = []
    with Engine([Counter]).portal() as portal:
        stream = portal.execute_many(lines(7), window=window)
        with pytest.raises(Gone):
            while True:
                answers.append(next(stream))

    assert [a.version for a in answers if isinstance(a, Receipt)] == list(range(1, 8))


@pytest.mark.parametrize("given", [0, 1, 4])
async def test_who_leaves_a_stream_takes_none_of_what_was_sent_along(given: int) -> None:
    store = HeldStore()
    answers: list[Receipt | EngineError] = []
    async with counters(store) as engine:
        await engine.execute(Add("other", 1))

        async def consume() -> None:
            async for answer in engine.execute_many([Add("a", 1) for _ in range(9)]):
                answers.append(answer)
                if len(answers) == given:
                    store.hold()
                    await asyncio.Event().wait()

        if not given:
            store.hold()
        task = asyncio.create_task(consume())
        await until(lambda: len(answers) == given and engine.statistics().commands.accepted == 10)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        store.release()

        assert await total(engine, "a") == "9 at 9"
        assert engine.statistics().commands.answers["cancelled"] == 0


async def test_who_leaves_before_any_turn_takes_none_along_either() -> None:
    async with counters() as engine:
        stream = engine.execute_many([Add("a", n) for n in range(1, 6)])
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: engine.statistics().commands.open == 5)
        first.cancel()
        await asyncio.wait([first])

        assert await total(engine, "a") == "15 at 5"
