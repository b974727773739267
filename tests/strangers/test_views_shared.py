"""Two engines with one file of views: a server that keeps the logs knows nothing of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from engine import Engine, Limits, Ports, StoreLocked
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tallies, Tally, get_tally

ROOT = Path(__file__).parents[2]
OTHER = """
import asyncio, sys
from engine import Limits, Ports, StoreLocked
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.tallies import Tallies

async def main():
    log = MemoryStore()
    await log.open(Ports())
    views = SqliteViews(sys.argv[1])
    try:
        await views.open(Ports(), Limits(), log, [Tallies])
    except StoreLocked as error:
        print(error)
    else:
        print("opened")
        await views.close()

asyncio.run(main())
"""


def opened_elsewhere(path: Path) -> str:
    """Let another process open views, and give what it says."""
    command = [sys.executable, "-c", OTHER, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
async def log() -> MemoryStore:
    made = MemoryStore()
    await made.open(Ports())
    return made


async def test_views_that_an_engine_has_are_refused_to_others_and_free_at_its_end(
    tmp_path: Path, log: MemoryStore
) -> None:
    path = tmp_path / "views.db"
    views, others = SqliteViews(str(path)), SqliteViews(str(path))
    await views.open(Ports(), Limits(), log, [Tallies])
    with pytest.raises(StoreLocked, match=r"views\.db are another engine's.*this very process"):
        await others.open(Ports(), Limits(), log, [Tallies])
    told = await asyncio.to_thread(opened_elsewhere, path)
    assert "views.db are another engine's, and each log has its own" in told
    await views.close()

    assert await asyncio.to_thread(opened_elsewhere, path) == "opened\n"
    await others.open(Ports(), Limits(), log, [Tallies])
    await others.close()


async def test_the_views_of_one_log_in_a_server_are_not_made_anew_by_another(
    tmp_path: Path, postgres: Server
) -> None:
    """A query of the first would be answered from the second one's log."""

    def engine_on(schema: str) -> Engine:
        return Engine(
            [Counter],
            projections=[Tallies],
            answers=[get_tally],
            store=postgres.url(schema),
            views=f"sqlite:{tmp_path / 'views.db'}",
        )

    async with engine_on(postgres.new_schema()) as engine:
        receipt = await engine.execute(Add("a", 3))
        with pytest.raises(StoreLocked, match="each log has its own"):
            await engine_on(postgres.new_schema()).__aenter__()

        assert await engine.query(GetTally("a"), at=receipt) == Tally("a", 3, 1)
