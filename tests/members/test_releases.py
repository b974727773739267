"""Two releases that share a log for a while: the older one meets events that it does not know."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import Aggregate, Command, Damaged, Engine, Event, Id, applies, handles
from tests.members.joining import part
from tests.support.waiting import until


def release(*, is_newer: bool) -> tuple[Any, ...]:
    """Give the counter of a release, its command, and the one that only the newer release has."""

    class Count(Command):
        counter_id: Id

    class Counted(Event, name="counted"):
        pass

    class Reset(Command):
        counter_id: Id

    class WasReset(Event, name="was-reset"):
        pass

    class Older(Aggregate, kind="counter"):
        count: int = 0

        @handles
        def add(self, command: Count) -> Counted:
            return Counted()

        @applies
        def counted(self, event: Counted) -> None:
            self.count += 1

    class Newer(Aggregate, kind="counter"):
        count: int = 0

        @handles
        def add(self, command: Count) -> Counted:
            return Counted()

        @applies
        def counted(self, event: Counted) -> None:
            self.count += 1

        @handles
        def reset(self, command: Reset) -> WasReset:
            return WasReset()

        @applies
        def was_reset(self, event: WasReset) -> None:
            self.count = 0

    return (Newer, Count, Reset) if is_newer else (Older, Count)


async def test_an_older_release_names_the_event_that_it_does_not_know_and_does_not_take_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer, count, reset = release(is_newer=True)
    older, older_count = release(is_newer=False)
    store = f"sqlite:{tmp_path}/log.db"
    async with AsyncExitStack() as stack:
        owner = Engine([newer], store=store, join=True)
        await owner.__aenter__()
        member = await stack.enter_async_context(Engine([older], store=store, join=True))
        await member.execute(older_count("c"))
        await owner.execute(reset("c"))

        # What it knows goes on: the owner decides it.
        assert (await member.execute(older_count("c"))).version == 3
        with pytest.raises(Damaged, match="was-reset version 1 .* is not declared") as unknown:
            await member.state(older, "c")
        assert "run the release that wrote it" in str(unknown.value)
        await owner.__aexit__(None, None, None)
        await until(lambda: "'was-reset' version 1 is stored" in caplog.text)
        assert part(member).role == "waiting"

        waiting = asyncio.create_task(member.execute(older_count("c"), deadline=60))
        newest = await stack.enter_async_context(Engine([newer], store=store, join=True))
        assert (await waiting).version == 4
        assert (part(newest).role, part(member).role) == ("owner", "member")
        assert (await newest.execute(count("c"))).version == 5
