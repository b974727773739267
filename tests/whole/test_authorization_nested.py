"""A hook that sends commands of its own: for others it may, into its own line it is refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from engine import Engine, Forbidden, UsageError
from tests.support.counters import Add, Counter

ATTEMPT = 1
"""What a command adds that a hook sends; the hook lets it pass."""


class Noting:
    """A hook that sends a command for each that it is asked about."""

    def __init__(self, counter: str, principal: str | None, *, is_waited_for: bool = True) -> None:
        self.engine: Engine | None = None
        self._counter = counter
        self._principal = principal
        self._is_waited_for = is_waited_for
        self.sent: asyncio.Task[Any] | None = None

    async def __call__(self, principal: str | None, action: str, message: Any) -> bool:
        if message.amount == ATTEMPT:
            return True
        assert self.engine is not None
        note = self.engine.execute(Add(self._counter, ATTEMPT), principal=self._principal)
        self.sent = asyncio.ensure_future(note)
        if self._is_waited_for:
            async with asyncio.timeout(5):
                await self.sent
        return True


async def test_a_hook_that_waits_for_its_own_line_is_refused_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook = Noting("a", "ann")
    with caplog.at_level(logging.ERROR, "foldline"):
        async with Engine([Counter], authorize=hook) as engine:
            hook.engine = engine
            with pytest.raises(Forbidden) as denied:
                await engine.execute(Add("a", 5), principal="ann")

            assert isinstance(denied.value.__cause__, UsageError)
            assert engine.statistics().position == 0
    assert "authorize sends Add to the aggregate that it is asked about" in caplog.text


@pytest.mark.parametrize(
    ("counter", "principal"), [("b", "ann"), ("a", None)], ids=["another", "for-nobody"]
)
async def test_a_hook_sends_into_other_lines(counter: str, principal: str | None) -> None:
    hook = Noting(counter, principal)
    async with Engine([Counter], authorize=hook) as engine:
        hook.engine = engine
        await engine.execute(Add("a", 5), principal="ann")

        assert engine.statistics().position == 2


async def test_what_a_hook_sends_and_leaves_is_sent_behind_its_answer() -> None:
    hook = Noting("a", "ann", is_waited_for=False)
    async with Engine([Counter], authorize=hook) as engine:
        hook.engine = engine
        receipt = await engine.execute(Add("a", 5), principal="ann")
        assert hook.sent is not None

        assert (receipt.version, (await hook.sent).version) == (1, 2)


async def test_two_engines_have_lines_of_their_own() -> None:
    hook = Noting("a", "ann")
    others = Engine([Counter], authorize=lambda *_: True)
    async with others as other, Engine([Counter], authorize=hook) as engine:
        hook.engine = other
        await engine.execute(Add("a", 5), principal="ann")

        assert (other.statistics().position, engine.statistics().position) == (1, 1)
