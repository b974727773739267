"""Hosts whose tasks begin inside `create_task`: Python 3.12's eager factory, and one for 3.11."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Limits,
    applies,
    handles,
)


def is_of_a_handler(coro: Any) -> bool:
    return str(coro.__qualname__).startswith("Deliberation.")


def eager(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Begin a handler's coroutine here and now, as an eager task does; all else as usual."""
    if not is_of_a_handler(coro):
        return asyncio.Task(coro, loop=loop, **options)
    context = contextvars.copy_context()
    try:
        first = context.run(coro.send, None)
    except StopIteration as ended:
        rest: Coroutine[Any, Any, Any] = _value(ended.value)
    else:
        rest = _rest(coro, first)
    return context.run(asyncio.Task, rest, loop=loop, **options)  # type: ignore[arg-type]


async def _value(value: Any) -> Any:
    return value


@types.coroutine
def _rest(coro: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    while True:
        try:
            try:
                sent = yield waits_for
            except BaseException as error:
                waits_for = coro.throw(error)
            else:
                waits_for = coro.send(sent)
        except StopIteration as ended:
            return ended.value


if sys.version_info >= (3, 12):
    FACTORIES: dict[str, Any] = {"eager": asyncio.eager_task_factory}
else:
    FACTORIES = {"emulated": eager}


class Pay(Command):
    till_id: Id
    how: str


class Paid(Event, name="paid"):
    how: str


class Till(Aggregate, kind="till"):
    paid: int = 0

    @handles
    async def pay(self, command: Pay) -> Paid:
        if command.how == "block":
            time.sleep(0.02)
        elif command.how == "fail":
            raise LookupError
        elif command.how == "wait":
            await asyncio.sleep(0.001)
        elif command.how == "stay":
            await asyncio.sleep(60)
        return Paid(command.how)

    @applies
    def on_paid(self, event: Paid) -> None:
        self.paid += 1


@pytest.mark.parametrize("factory", FACTORIES)
async def test_eager_tasks_answer_as_others_do(factory: str) -> None:
    asyncio.get_running_loop().set_task_factory(FACTORIES[factory])
    async with Engine([Till], limits=Limits(handler_seconds=5)) as engine:
        assert (await engine.execute(Pay("t", "now"))).version == 1
        assert (await engine.execute(Pay("t", "wait"))).version == 2
        with pytest.raises(HandlerFailed):
            await engine.execute(Pay("t", "fail"))
        with pytest.raises(DeadlinePassed):
            await engine.execute(Pay("t", "stay"), deadline=0.01)
        with pytest.raises(DeadlinePassed):
            await engine.execute(Pay("t", "block"), deadline=0.01)
        assert (await engine.execute(Pay("t", "now"))).version == 3
        assert (await engine.state(Till, "t")).paid == 3


async def test_a_task_factory_that_raises_fails_the_command() -> None:
    def refuse(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if is_of_a_handler(coro):
            raise RuntimeError("no more tasks")
        return asyncio.Task(coro, loop=loop, **options)

    async with Engine([Till]) as engine:
        asyncio.get_running_loop().set_task_factory(refuse)
        with pytest.raises(HandlerFailed):
            await engine.execute(Pay("t", "now"))
        asyncio.get_running_loop().set_task_factory(None)
        assert (await engine.execute(Pay("t", "now"))).version == 1
