"""What a reactor and the writer of views believe behind a failover that has lost events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import Engine, Limits, OutcomeUnknown, Ports, StoreFailed
from engine.members.spread.leading import Leading
from engine.model.messages import Envelope, Receipt
from engine.projections.targets.made import Made
from engine.stores.contract.log import Head
from engine.stores.contract.views import Changes, Part
from engine.stores.memory import MemoryStore
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import Tallies


async def test_what_a_reactor_has_made_is_believed_only_if_the_log_has_it() -> None:
    log = MemoryStore()
    await log.open(Ports())
    made = Made("mirror", log, Limits())
    await made.begin(3)
    made.finish(5)
    made.stopped(6, 1)
    assert made.is_finished(5)

    await made.begin(3)  # as it does behind each failure

    assert not made.is_finished(5)
    assert made.next_place(6, 0) == 0
    await log.close()


async def test_views_are_written_only_by_the_connection_that_read_where_they_stand(
    postgres: Server,
) -> None:
    """Behind another one may be a server that lacks what was folded."""
    url = postgres.url(postgres.new_schema())
    async with Engine([Counter], projections=[Tallies], store=url) as engine:
        views: Any = engine._wiring.views  # pyright: ignore[reportPrivateUsage]
        await engine.projections.pause("tallies")
        part = Part(Tallies.__definition__, 1)
        stands = await views.checkpoint(part)
        nothing = Changes(part, stands, stands, {})
        await views.write(nothing)
        views._lane._link.end()

        with pytest.raises(StoreFailed, match="made anew") as failed:
            await views.write(nothing)
        assert failed.value.passes
        assert failed.value.written is False
        assert await views.checkpoint(part) == stands
        await views.write(nothing)


class _Wiring:
    """What the way of a leader knows of its engine."""

    def __init__(self) -> None:
        self.store = self
        self.ends = 3
        self.react: Any = None

    def give_by(self, react: Any, fire: Any) -> None:
        self.react = react

    async def head(self) -> Head:
        return Head(self.ends, 0, 0)


async def test_a_reaction_counts_when_its_leader_finds_its_events_in_the_log() -> None:
    def send(envelope: Envelope, origin: Any) -> asyncio.Future[Receipt]:
        told: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        told.set_result(Receipt("counter:a", 1, 5))
        return told

    wiring: Any = _Wiring()
    Leading(wiring, send)
    envelope = Envelope(command=Add("a", 1))

    with pytest.raises(OutcomeUnknown, match="failover"):
        await wiring.react(envelope, depth=1)
    wiring.ends = 5
    assert (await wiring.react(envelope, depth=1)).position == 5
