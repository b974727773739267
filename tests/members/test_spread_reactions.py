"""What follows from events where several processes own a log: the one that leads makes it, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from engine import Closed, Engine, Limits, Meta, Reactor, Voided, reacts
from engine.model.messages import Envelope
from engine.write.mailbox import Origin
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server
from tests.support.waiting import until


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


class Mirror(Reactor, name="mirror", begins="start"):
    """Adds once more, to a counter of its own, whatever was added to another one."""

    @reacts
    def added(self, event: Added, meta: Meta) -> Add | None:
        name = meta.stream.removeprefix("counter:")
        return Add(f"m-{name}", event.amount) if name.startswith("c") else None


class Circle(Reactor, name="circle", begins="start"):
    """Adds to the next one, without an end."""

    @reacts
    def added(self, event: Added, meta: Meta) -> Add:
        return Add(f"n{int(meta.stream.removeprefix('counter:n')) + 1}", event.amount)


def spread(log: str, *reactors: type[Reactor], **options: Any) -> Any:
    return Engine([Counter], projections=reactors, store=log, join="spread", **options)


@asynccontextmanager
async def owners(log: str, *reactors: type[Reactor], **options: Any) -> AsyncGenerator[list[Any]]:
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(spread(log, *reactors, **options)) for _ in range(3)
        ]
        await until(lambda: all(sum(e._joined._router._ready) > 30 for e in engines))
        yield engines


async def log_of(engine: Engine, length: int) -> list[Meta]:
    """Give what is known of all events, when there are so many."""
    async with asyncio.timeout(60):
        while len(found := [logged.meta async for logged in engine.feed()]) < length:
            await asyncio.sleep(0)
    return found


async def mirrors(engine: Engine, count: int) -> None:
    """Wait until the events of so many counters were answered, each by one more."""
    assert len(await log_of(engine, 2 * count)) == 2 * count
    for n in range(count):
        assert (await engine.state(Counter, f"m-c{n}")).total == n + 1


async def test_the_one_that_leads_reacts_and_the_owners_decide(log: str) -> None:
    async with owners(log, Mirror) as engines:
        await asyncio.gather(
            *(engines[n % 3].execute(Add(f"c{n}", n + 1), key=f"k{n}") for n in range(60))
        )
        await mirrors(engines[1], 60)

        decided = [e._joined.spread.wiring.journal.statistics().events for e in engines]
        assert sum(decided) == 120
        assert min(decided) > 10, "each decides what is its own"
        found = await log_of(engines[2], 120)
        principals = {meta.principal for meta in found if meta.stream.startswith("counter:m-")}
        assert principals == {"reactor:mirror"}


async def test_whoever_leads_next_goes_on_and_makes_nothing_again(log: str) -> None:
    async with owners(log, Mirror) as engines:
        first, second, third = engines
        assert first._joined._role() == "owner"
        sending = [
            asyncio.create_task(engines[1 + n % 2].execute(Add(f"c{n}", n + 1))) for n in range(80)
        ]
        await log_of(third, 5)
        await first.__aexit__(None, None, None)
        await asyncio.gather(*sending)
        await mirrors(second, 80)


async def test_a_circle_of_reactions_ends_though_each_is_decided_elsewhere(log: str) -> None:
    async with owners(log, Circle, limits=Limits(reaction_depth=9)) as engines:
        await engines[1].execute(Add("n0", 1))
        await until(lambda: engines[0]._joined.wiring.projecting["circle"].statistics().parked)

        assert len(await log_of(engines[2], 10)) == 10


async def test_who_may_lead_no_more_makes_nothing(log: str) -> None:
    """Another one may have made it already, and whoever decides may have forgotten its key."""
    async with owners(log, Mirror) as [first, second, _]:
        leading = first._joined.wiring
        # Once by each owner, so that one of them is asked by another process.
        for n in range(12):
            former = Origin(1, leading.store.session + 1)
            sent = first._joined._router.send_from(Envelope(command=Add(f"m-d{n}", 1)), former)
            with pytest.raises(Voided, match="another process leads|was not run"):
                await sent
        await second.execute(Add("c0", 1))
        await mirrors(second, 1)


async def test_who_has_left_takes_nothing_any_more(log: str) -> None:
    async with spread(log) as engine:
        await engine._joined._router.end("it goes")
        with pytest.raises(Closed):
            await engine.execute(Add("c", 1))
