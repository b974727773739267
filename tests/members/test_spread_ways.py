"""What several owners of one log keep, and how they meet: recordings of each, and a NATS server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from engine.stores.contract.membership import slot_of
from engine.testing import replay
from tests.members.joining import nowhere
from tests.members.transports import TOKEN
from tests.support.brokers import NatsServer
from tests.support.counters import Add, Counter, Empty
from tests.support.postgres import Server
from tests.support.waiting import until


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


def spread(log: str, **options: Any) -> Any:
    return Engine([Counter], store=log, join="spread", **options)


@asynccontextmanager
async def owners(log: str, *options: dict[str, Any]) -> AsyncGenerator[list[Any]]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(spread(log, **each)) for each in options]
        await until(lambda: all(sum(e._joined._router._ready) > 30 for e in engines))
        yield engines


# -- recordings -----------------------------------------------------------------------------------


async def test_each_owner_records_what_it_decides_and_all_of_it_is_decided_again(
    log: str, tmp_path: Path
) -> None:
    folder = tmp_path / "recorded"
    async with owners(log, *[{"record": folder}] * 3) as engines:
        for turn in range(3):
            await asyncio.gather(
                *(engines[(n + turn) % 3].execute(Add(f"c{n}", n + 1)) for n in range(60))
            )
            await asyncio.gather(*(engines[n % 3].execute(Empty(f"c{n}")) for n in range(20)))
            if turn == 1:
                await engines[0].__aexit__(None, None, None)
                engines[0] = engines[1]

    found = [each async for each in replay(Engine([Counter]), log, folder)]
    assert len([each for each in found if each.decided.command == "add"]) >= 180
    assert {(each.verdict, each.why) for each in found} == {("same", "")}
    assert len({each.place.file for each in found}) >= 3


async def test_what_is_decided_after_others_decided_is_in_another_file(
    log: str, tmp_path: Path
) -> None:
    """What stands before it may be void, and is not what it was decided on."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with spread(log, record=first) as engine:
        await engine.execute(Add("c", 1))
        async with spread(log, record=second) as other:
            await until(lambda: sum(other._joined._router._ready) > 30)
            mine = next(
                f"c{n}"
                for n in range(99)
                if slot_of(f"counter:c{n}") in engine._joined._router._gained
            )
            await engine.execute(Add(mine, 1))
        await engine.execute(Add("c", 1))
    assert len([*first.iterdir()]) in (2, 3)
    files = {each.place.file async for each in replay(Engine([Counter]), log, first)}
    assert len(files) >= 2


# -- a NATS server --------------------------------------------------------------------------------


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    yield server
    server.close()


async def test_owners_meet_on_a_nats_server_also_after_it_died(
    log: str, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.meeting._folders", nowhere)
    nats.start()
    listen = {"listen": f"{nats.url}?token={TOKEN}"}
    async with owners(log, listen, listen) as engines:
        for turn in range(3):
            receipts = await asyncio.gather(
                *(engines[n % 2].execute(Add(f"c{n}", 1), key=f"{turn}-{n}") for n in range(80))
            )
            assert {receipt.version for receipt in receipts} == {turn + 1}
            if turn == 0:
                sending = [
                    asyncio.create_task(engines[n % 2].execute(Add(f"d{n}", 1), key=f"d{n}"))
                    for n in range(40)
                ]
                nats.kill()
                nats.start()
                assert {r.version for r in await asyncio.gather(*sending)} == {1}
        for n in range(80):
            assert (await engines[n % 2].state(Counter, f"c{n}")).total == 3
