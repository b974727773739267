"""Every limit changes what the engine does; the larger stories are told in other tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, HandlerFailed, Limits
from tests.support.counters import Add, Counter, counters, total
from tests.support.held_store import HeldStore
from tests.support.tallies import GetTally, Tallies, Tally, get_tallies, get_tally
from tests.support.waiting import until

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_every_limit_is_set_by_a_test(name: str) -> None:
    tests = [*HERE.rglob("test_*.py"), HERE / "support" / "shelf.py"]

    assert any(f"{name}=" in path.read_text() for path in tests)


async def test_loads_at_once_bounds_one_read_of_the_store() -> None:
    store = HeldStore()
    async with counters(store, limits=Limits(loads_at_once=16)) as engine:
        await asyncio.gather(*(engine.execute(Add(f"c{n}", 1)) for n in range(100)))

    assert max(store.stream_reads) == 16
    assert sum(store.stream_reads) == 100


async def test_page_bytes_bounds_one_page_of_a_load() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        for _ in range(8):
            await engine.execute(Add("a", 1, 1, {"x" * 1_000: []}))
    store.stream_reads.clear()
    async with counters(store, limits=Limits(event_bytes=2_000, page_bytes=2_500)) as engine:
        assert await total(engine, "a") == "8 at 8"

    assert len(store.stream_reads) == 4


async def test_command_events_bounds_the_events_of_one_command() -> None:
    async with counters(limits=Limits(command_events=3)) as engine:
        await engine.execute(Add("a", 1, 3))
        with pytest.raises(HandlerFailed, match="4 events, above Limits.command_events at 3"):
            await engine.execute(Add("a", 1, 4))

        assert await total(engine, "a") == "3 at 3"


async def test_event_bytes_bounds_the_payload_and_the_metadata() -> None:
    async with counters(limits=Limits(event_bytes=500)) as engine:
        with pytest.raises(HandlerFailed, match=r"added of counter:a has \d+ bytes, above"):
            await engine.execute(Add("a", 1, 1, {"x" * 500: []}))
        with pytest.raises(HandlerFailed, match=r"added of counter:a has \d+ bytes, above"):
            await engine.execute(Add("a", 1), headers={"x": "y" * 500})

        assert await total(engine, "a") == "0 at 0"


async def order_of_turns(limits: Limits) -> list[str]:
    """Give the order in which a hot and a cool aggregate decide, when both have commands."""
    store = HeldStore()
    async with counters(store, limits=limits) as engine:
        await asyncio.gather(engine.execute(Add("hot", 1)), engine.execute(Add("cool", 1)))
        before = len(store.batches)
        commands = [Add("hot", 1) for _ in range(20)] + [Add("cool", 1)]
        await asyncio.gather(*(engine.execute(command) for command in commands))

    return [
        request.writes[0].stream.removeprefix("counter:")
        for batch in store.batches[before:]
        for request in batch.requests
    ]


async def test_actor_commands_keeps_a_hot_aggregate_from_starving_the_others() -> None:
    assert (await order_of_turns(Limits())).index("cool") == 20
    assert (await order_of_turns(Limits(actor_commands=5))).index("cool") == 5


async def test_turn_commands_gives_the_event_loop_its_turn() -> None:
    async def turns(limits: Limits) -> int:
        count = 0
        done = False

        async def host() -> None:
            nonlocal count
            while not done:
                count += 1
                await asyncio.sleep(0)

        store = HeldStore()
        async with counters(store, limits=limits) as engine:
            await engine.execute(Add("a", 1))
            store.hold()
            tasks = [asyncio.create_task(engine.execute(Add("a", 1))) for _ in range(64)]
            await asyncio.sleep(0)
            hosting = asyncio.create_task(host())
            # The last command is decided: it is in the journal and no longer in the mailbox.
            await until(lambda: not engine._directory.actors[0].wants_turn)
            done = True
            await hosting
            store.release()
            await asyncio.gather(*tasks)
        return count

    assert await turns(Limits(turn_commands=4, actor_commands=4)) >= 15
    assert await turns(Limits()) <= 5


async def test_projector_events_bounds_one_transaction_of_a_view() -> None:
    async def transactions(limits: Limits) -> Any:
        engine = Engine(
            [Counter],
            projections=[Tallies],
            answers=[get_tally, get_tallies],
            store=HeldStore(),
            limits=limits,
        )
        async with engine:
            await engine.execute(Add("a", 1, 100))
            assert await engine.query(GetTally("a"), at=100) == Tally("a", 100, 100)
            return engine.statistics().projectors["tallies"].transactions

    assert await transactions(Limits(projector_events=10)) == 10
    assert await transactions(Limits()) == 1
