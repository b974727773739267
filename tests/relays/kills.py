"""A broker that is killed and started again under load, and what its readers find in the end.

Rules: the log is compared with what the broker has. Every event is there. Two messages of one event
have one id. In each stream the first message of each event comes in the stream's order.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tempfile
from pathlib import Path

import msgspec

from engine import Engine
from tests.relays.relaying import check_order, published, relay_to, relaying
from tests.support.brokers import Broker, RabbitServer
from tests.support.counters import Add

AHEAD_MAX = 20_000
"""Events that are written before the relay has published them, at most."""


class Outcome(msgspec.Struct, frozen=True):
    """What a run has found."""

    events: int
    repeated: int
    retries: int
    felt: int
    """Kills of a broker to which something was published, and for which something waited then."""

    def __str__(self) -> str:
        return (
            f"{self.events} events: 0 lost, {self.repeated} repeated with their ids, "
            f"order kept, {self.retries} retries of the relay"
        )


async def run(broker: Broker, topic: str, kills: int, seed: int) -> Outcome:
    """Kill a broker so many times under load; raise AssertionError where a promise is broken."""
    drawn = random.Random(seed)
    await broker.create(topic)
    if isinstance(broker, RabbitServer):
        await asyncio.to_thread(_sync_queues, broker)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:{Path(folder) / 'log.db'}"
        async with relaying(relay_to(broker, topic), store) as engine:
            done = asyncio.Event()
            writing = asyncio.create_task(_write(engine, drawn, done))
            felt = 0
            for _ in range(kills):
                await _published_more(engine)
                await asyncio.sleep(drawn.uniform(0.05, 0.4))
                broker.kill()
                await asyncio.sleep(drawn.uniform(0, 0.2))
                starting = asyncio.create_task(asyncio.to_thread(broker.start))
                felt += await _has_waited(engine, starting)
                await starting
            done.set()
            position = await writing
            await published(engine, position, 300)
            retries = engine.statistics().projectors["outbound"].retries
            log_id = engine._store.log_id
        found = await broker.messages(topic)
    return Outcome(position, check_order(found, log_id, position), retries, felt)


def _sync_queues(server: RabbitServer) -> None:
    """Have RabbitMQ write its new queues: it keeps them for seconds in its memory alone.

    Of a quorum queue it keeps the name for three minutes, in another table.
    """
    synced = "mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()]."
    subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "eval", synced],
        cwd=server.folder,
        env={**server.environment(), "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        timeout=60,
    )


async def _published_more(engine: Engine) -> None:
    """Wait until the relay has published something more: one that backs off feels no kill."""
    before = engine.statistics().projectors["outbound"].position
    async with asyncio.timeout(120):
        while engine.statistics().projectors["outbound"].position <= before:
            await asyncio.sleep(0.01)


async def _has_waited(engine: Engine, starting: asyncio.Task[None]) -> bool:
    """Tell whether events have waited for a broker before it was there again."""
    while not starting.done():
        if engine.statistics().projectors["outbound"].lag_events:
            return True
        await asyncio.sleep(0.01)
    return False


async def _write(engine: Engine, drawn: random.Random, done: asyncio.Event) -> int:
    """Count, at some rate, until all kills are done; give the last position."""
    position = 0
    while not done.is_set():
        commands = [Add(f"c{drawn.randrange(20)}", 1) for _ in range(drawn.randrange(1, 20))]
        receipts = await asyncio.gather(*(engine.execute(command) for command in commands))
        position = max(receipt.position for receipt in receipts)
        await asyncio.sleep(0.005)
        # A broker that takes long to start is not to be behind for the rest of the day.
        while position - engine.statistics().projectors["outbound"].position > AHEAD_MAX:
            if done.is_set():
                break
            await asyncio.sleep(0.05)
    return position
