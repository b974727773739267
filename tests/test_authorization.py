"""Who may do what: one hook before commands and reads, and no is the default."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from engine import Command, Engine, Envelope, Forbidden, Query, Receipt, Views, answers
from tests.support import Add, Counter, counters, total


class CountRooms(Query[int]):
    hotel: str = ""


@answers
async def count_rooms(query: CountRooms, views: Views) -> int:
    return 7


async def _raises(*_: Any) -> bool:
    raise RuntimeError("the directory of rights is down")


async def _true(*_: Any) -> bool:
    return True


async def _false(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "hook",
    [
        lambda *_: False,
        lambda *_: None,
        lambda *_: 1,
        lambda *_: "yes",
        lambda *_: 1 / 0,
        _false,
        _raises,
    ],
    ids=["false", "forgotten-return", "one", "text", "raises", "async-false", "async-raises"],
)
async def test_whatever_is_not_true_is_no(hook: Callable[..., Any]) -> None:
    async with Engine([Counter], answers=[count_rooms], authorize=hook) as engine:
        with pytest.raises(Forbidden, match="execute Add"):
            await engine.execute(Add("a", 1))
        with pytest.raises(Forbidden, match="query CountRooms"):
            await engine.query(CountRooms())

        assert engine.statistics().position == 0


@pytest.mark.parametrize("hook", [lambda *_: True, _true], ids=["sync", "async"])
async def test_true_is_yes(hook: Callable[..., Any]) -> None:
    async with Engine([Counter], answers=[count_rooms], authorize=hook) as engine:
        assert (await engine.execute(Add("a", 1))).version == 1
        assert await engine.query(CountRooms()) == 7


async def test_the_hook_is_told_who_does_what_to_which_message() -> None:
    asked: list[tuple[str | None, str, Command | Query[Any] | str]] = []

    def authorize(principal: str | None, action: str, message: Command | Query[Any] | str) -> bool:
        asked.append((principal, action, message))
        return True

    async with Engine([Counter], answers=[count_rooms], authorize=authorize) as engine:
        await engine.execute(Add("a", 1), principal="ann")
        await engine.query(CountRooms("h"), principal="bob")
        await engine.query(CountRooms("h"))

    assert asked == [
        ("ann", "execute", Add("a", 1)),
        ("bob", "query", CountRooms("h")),
        (None, "query", CountRooms("h")),
    ]


async def test_in_a_stream_of_commands_each_is_asked_for_and_no_is_an_answer() -> None:
    def authorize(principal: str | None, *_: Any) -> bool:
        return principal == "ann"

    async with counters(authorize=authorize) as engine:
        commands = [Envelope(command=Add("a", 1), principal=who) for who in ("ann", "eve", "ann")]
        found = [answer async for answer in engine.execute_many(commands)]

        assert [type(answer) for answer in found] == [Receipt, Forbidden, Receipt]
        with pytest.raises(Forbidden):
            await total(engine, "a")


async def test_a_refusal_shows_no_payload_and_keeps_the_principal_as_a_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def authorize(_: str | None, __: str, message: Any) -> bool:
        raise ZeroDivisionError(repr(message))

    async with counters(authorize=authorize) as engine:
        with caplog.at_level(logging.DEBUG), pytest.raises(Forbidden) as caught:
            await engine.execute(Add("secret-id", 123_456_789), principal="eve@example.org")

    shown = str(caught.value) + caplog.text
    assert "123456789" not in shown
    assert "secret-id" not in shown
    assert "eve@example.org" not in shown
    assert (caught.value.principal, caught.value.action) == ("eve@example.org", "execute")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_hook_may_say_why() -> None:
    def authorize(*_: Any) -> bool:
        raise Forbidden("tills may not sell at night")

    async with counters(authorize=authorize) as engine:
        with pytest.raises(Forbidden, match="at night"):
            await engine.execute(Add("a", 1))
