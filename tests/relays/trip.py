"""The round trip of one process each: engine A publishes to a broker, engine B executes what comes.

`python -m tests.relays.trip a|b URL TOPIC DEAD STORE COUNT` is killed and started again by a test;
what it had done is in its log.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from engine import Command, Engine
from engine.relays import Consumer, Message, Relay
from tests.relays.relaying import relaying
from tests.support.counters import Add, Added, Counter


def to_command(message: Message) -> Command:
    counter = message.attributes["subject"].partition(":")[2]
    return Add(counter, json.loads(message.body)["amount"])


async def send(url: str, topic: str, _: str, store: str, count: int) -> None:
    """Execute the commands that no former life has executed, and publish."""
    relay = Relay("outbound", to=url, events=[Added], topic=topic)
    async with relaying(relay, store) as engine:
        for number in range(engine.statistics().position, count):
            await engine.execute(Add(f"c{number % 7}", number), key=f"sent-{number}")
        while engine.statistics().projectors["outbound"].position < count:
            await asyncio.sleep(0.01)
    print("done", flush=True)


async def receive(url: str, topic: str, dead: str, store: str, count: int) -> None:
    """Execute what comes, until all has come."""
    options: Any = {"topic": topic, "name": "of-b", "to_command": to_command, "window": 20}
    consumer = Consumer(url, dead=dead, **options)
    async with Engine([Counter], store=store) as engine, consumer.running(engine):
        while engine.statistics().position < count:
            await asyncio.sleep(0.01)
    print("done", flush=True)


if __name__ == "__main__":
    role = send if sys.argv[1] == "a" else receive
    _, _, url_, topic_, dead_, store_, count_ = sys.argv
    asyncio.run(role(url_, topic_, dead_, store_, int(count_)))
