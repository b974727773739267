"""Sources of many commands that fail, and callers who leave in the middle of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineError,
    Envelope,
    Event,
    HistoryPage,
    Id,
    InvalidInput,
    Limits,
    Receipt,
    applies,
    handles,
)
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


def ended(count: int) -> Iterator[Command]:
    yield from (Add("a", n + 1) for n in range(count))
    raise SystemExit("a line cannot be read")


async def ended_later(count: int) -> AsyncIterator[Command]:
    for command in ended(count):
        yield command
        await asyncio.sleep(0)


SOURCES: list[tuple[Callable[[int], Any], type[BaseException]]] = [
    (lines, Gone),
    (rows, Gone),
    (given_up, asyncio.CancelledError),
    (ended, SystemExit),
    (ended_later, SystemExit),
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
@pytest.mark.parametrize(("source", "raised"), [(lines, Gone), (ended, SystemExit)])
def test_a_portal_gives_the_answers_before_the_failure_too(
    source: Callable[[int], Any], raised: type[BaseException], window: int
) -> None:
    answers: list[Receipt | EngineError] = []
    with Engine([Counter]).portal() as portal:
        stream = portal.execute_many(source(7), window=window)
        with pytest.raises(raised):
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


# -- sources that fill one list, one dict of headers, for each command --------------------------


class Write(Command):
    page_id: Id
    lines: list[int]


class Written(Event, name="written"):
    lines: list[int]


class Page(Aggregate, kind="page"):
    seen: list[list[int]] = []

    @handles
    def write(self, command: Write) -> Written:
        return Written(command.lines)

    @applies
    def written(self, event: Written) -> None:
        self.seen.append(event.lines)


class OneBuffer:
    """Commands that share a list, and envelopes that share headers too."""

    def __init__(self, count: int) -> None:
        self.lines: list[int] = []
        self.headers: dict[str, str] = {}
        self.count = count

    def fill(self, number: int) -> None:
        self.lines[:] = [number]
        self.headers["row"] = str(number)

    def __iter__(self) -> Iterator[Envelope | Command]:
        for number in range(self.count):
            self.fill(number)
            command = Write("p", self.lines)
            yield Envelope(command=command, headers=self.headers) if number % 2 else command


async def one_page(engine: Engine) -> HistoryPage:
    return await engine.history(Page, "p")


def rows_of(history: HistoryPage) -> list[str]:
    return [e.meta.headers["row"] for e in history.events if e.meta.headers]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_portal_takes_each_command_as_it_is_given(window: int) -> None:
    engine = Engine([Page])
    with engine.portal() as portal:
        answers = list(portal.execute_many(OneBuffer(6), window=window))
        page = portal.call(lambda: engine.state(Page, "p"))
        history = portal.call(lambda: one_page(engine))

    assert [a.version for a in answers if isinstance(a, Receipt)] == [1, 2, 3, 4, 5, 6]
    assert page.seen == [[number] for number in range(6)]
    assert rows_of(history) == ["1", "3", "5"]


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("accepted", [2, 1_000])
async def test_who_fills_the_list_anew_at_each_answer_changes_no_command_by_it(
    window: int, accepted: int
) -> None:
    """What the source has given waits for room while an answer is taken."""
    source = OneBuffer(6)
    limits = Limits(commands_accepted=accepted, mailbox_commands=accepted)
    async with Engine([Page], limits=limits) as engine:
        async for _ in engine.execute_many(source, window=window):
            source.fill(-1)
        page = await engine.state(Page, "p")
        history = await engine.history(Page, "p")

    assert page.seen == [[number] for number in range(6)]
    assert rows_of(history) == ["1", "3", "5"]


class NoHeaders(Mapping[str, str]):
    def __getitem__(self, key: str) -> str:
        raise ConnectionError

    def __iter__(self) -> Iterator[str]:
        raise ConnectionError

    def __len__(self) -> int:
        return 1


def test_what_cannot_be_taken_is_answered_in_its_place() -> None:
    circle: list[Any] = []
    circle.append(circle)
    commands: list[Envelope | Command] = [
        Write("p", [1]),
        Write("p", circle),
        Envelope(command=Write("p", [2]), headers=NoHeaders()),
        Envelope(command=Write("p", [2]), headers=[("a", "b")]),  # type: ignore[arg-type]
        Write("p", [3]),
    ]
    with Engine([Page]).portal() as portal:
        answers = list(portal.execute_many(commands))

    kinds = [type(answer) for answer in answers]
    assert kinds == [Receipt, InvalidInput, InvalidInput, InvalidInput, Receipt]
