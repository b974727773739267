"""The views' side of the modelled server: whose checkpoint moves when, and that its judge sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from engine.errors import StoreFailed, StoreLocked
from engine.limits import Limits
from engine.model.rows import Flat, Scalar
from engine.stores.contract.views import Changes, Checkpoint, Part
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.views.store import PostgresViews
from engine.testing.conformance import append, request
from tests.simulation.postgres.place import Place
from tests.simulation.postgres.views_world import Listed, run_views_seed, wrong_views

PART = Part(Listed.__definition__, 1)


def at(place: Place, position: int) -> Checkpoint:
    """Give the checkpoint at a position of the log."""
    return Checkpoint(
        position, place.server.tables.events[position - 1].checksum if position else 0
    )


def moved(place: Place, before: int, after: int) -> Changes:
    """Give a batch that moves the checkpoint from one position to another."""
    row: Flat = ("c0", str([*range(1, after + 1)]))
    rows: dict[str, dict[Scalar, Flat | None]] = {"rows": {"c0": row}}
    return Changes(PART, at(place, before), at(place, after), rows)


async def opened(place: Place) -> tuple[PostgresStore, PostgresViews]:
    """Open the log and the views in a process of their own, as soon as they are to be had."""
    while True:
        store, ports = place.store()
        views = PostgresViews(store.address)
        try:
            await store.open(ports)
            if not place.server.tables.events:
                await append(store, request("counter:c0", 0, 1, 2, 3))
            await views.open(ports, Limits(), store, [Listed])
        except (StoreFailed, StoreLocked):
            await asyncio.sleep(0.5)
        else:
            return store, views


def position(place: Place) -> Any:
    """Give where the view is, as somebody sees it who looks into the server."""
    return place.server.tables.views.tables["checkpoints"]["listed", 1, 0][0]


def take_away(place: Place) -> None:
    """End the session that has the log, as the next engine does when its lease is over."""
    tables = place.server.tables
    tables.sessions[tables.numbered].live = False


def test_an_engine_whose_log_another_one_has_moves_no_checkpoint() -> None:
    place = Place()

    async def main() -> None:
        _, former = await opened(place)
        await former.write(moved(place, 0, 1))
        take_away(place)
        _, views = await opened(place)
        with pytest.raises(StoreFailed, match="another one has the log"):
            await former.write(moved(place, 1, 2))
        assert await views.checkpoint(PART) == at(place, 1)
        await views.write(moved(place, 1, 3))

    place.run(main())
    assert position(place) == 3


@pytest.mark.parametrize("whose", ["the same", "the next"])
def test_an_engine_waits_for_a_commit_of_views_that_comes_late(whose: str) -> None:
    """It would fold the same events again, be refused, and stand still until somebody came."""
    place = Place()

    async def main() -> Checkpoint:
        _, views = await opened(place)
        place.network.faults.late_seconds = 0.2
        place.faults(("COMMIT", "late"))
        with pytest.raises(StoreFailed) as failed:
            await views.write(moved(place, 0, 1))
        assert failed.value.written is None
        assert position(place) == 0, "it is still on its way"
        if whose == "the next":
            take_away(place)
            _, views = await opened(place)
        found = await views.checkpoint(PART)
        await views.write(moved(place, found.position, 2))
        return found

    assert place.run(main()) == at(place, 1)
    assert position(place) == 2


@pytest.mark.parametrize("what", ["checkpoint", "decision"])
def test_a_machine_that_is_lost_in_a_transaction_of_views_keeps_the_next_one_from_nothing(
    what: str,
) -> None:
    place = Place()

    async def main() -> float:
        _, views = await opened(place)
        place.faults(("COMMIT", "unheard"))
        call = (
            views.checkpoint(PART) if what == "checkpoint" else views.begin_build(PART.definition)
        )
        task = place.processes[0].run(_alone(call))
        while not any(key[1:2] == ("checkpoints",) for key in place.server.locks):
            await asyncio.sleep(0.0001)
        await asyncio.sleep(0.1)
        place.processes[0].kill(lost=True)
        assert not task.done()
        assert any(key[1:2] == ("checkpoints",) for key in place.server.locks), "not in its middle"
        take_away(place)
        began = asyncio.get_running_loop().time()
        _, views = await opened(place)
        await views.checkpoint(PART)
        return asyncio.get_running_loop().time() - began

    assert place.run(main()) < 20, "the server would hear of it after two hours"


async def _alone(call: Awaitable[Any]) -> None:
    await call


def test_the_judge_sees_a_row_that_counts_twice_and_one_that_is_missing() -> None:
    world = run_views_seed(1)
    assert world.problems == []
    tables = world.server.tables
    assert not [*wrong_views(tables)]

    for name, rows in tables.views.tables.items():
        if name.startswith("listed_rows"):
            rows["c0"] = ("c0", "[1, 1]")
    assert ["of listed" in problem for problem in wrong_views(tables)] == [True]
