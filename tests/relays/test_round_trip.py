"""Engine A, a broker, engine B: both engines are killed at random, and effects are there once."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from tests.support.brokers import Broker
from tests.support.counters import Counter

COUNT = 300
COUNT_OF_AN_EMULATOR = 100
"""Fewer: one in Python takes a hundred times the processor time of a server."""


async def live(role: str, arguments: list[str], seconds: float | None) -> bool:
    """Run a process, and kill it after so many seconds; tell whether it came to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.relays.trip", role, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), seconds or 100)
    except TimeoutError:
        process.kill()
        await process.communicate()
        return False
    assert process.returncode == 0
    return b"done" in printed


async def lives(role: str, arguments: list[str], drawn: random.Random) -> None:
    for _ in range(3):
        if await live(role, arguments, drawn.uniform(0.6, 1.5)):
            return
    assert await live(role, arguments, None)


@pytest.mark.slow
async def test_each_effect_is_there_once_though_both_engines_are_killed(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    await broker.create(topic)
    await broker.create(f"{topic}-dead")
    names = [broker.named(topic), broker.named(f"{topic}-dead")]
    logs = {role: f"sqlite:{tmp_path / role}.db" for role in "ab"}
    count = COUNT_OF_AN_EMULATOR if broker.emulated else COUNT
    await asyncio.gather(
        *(
            lives(role, [broker.url, *names, store, str(count)], random.Random(role))
            for role, store in logs.items()
        )
    )

    found: dict[str, list[tuple[str, int]]] = {}
    for role, store in logs.items():
        found[role] = []
        async with Engine([Counter], store=store) as engine:
            async for logged in engine.feed():
                event: Any = logged.event
                found[role].append((logged.meta.stream, event.amount))
    assert len(found["b"]) == count
    for counter in range(7):
        stream = f"counter:c{counter}"
        amounts = {role: [n for s, n in found[role] if s == stream] for role in "ab"}
        assert amounts["a"] == amounts["b"]
    assert await broker.messages(f"{topic}-dead") == []
