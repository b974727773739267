"""What a query that waits in vain says of a projection, in the process that runs it and beside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, ProjectionLag
from tests.members.duties_shop import GetLine, begun, sharing
from tests.members.joining import joined, part
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.tallies import GetTally


def _state_here(engine: Engine, name: str) -> str | None:
    joined_: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    state: str | None = joined_._state_here(name)
    return state


async def test_a_query_that_waits_in_vain_says_that_a_projection_rests_whoever_runs_it(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with sharing(log) as one, sharing(log) as other:
        await begun([one, other])
        mine = one if "ledger1" in part(one).duties else other
        await mine.projections.pause("ledger1")
        end = (await one.execute(Add("a", 1))).position
        for engine in (one, other):
            with pytest.raises(ProjectionLag) as late:
                await engine.query(GetLine("a"), at=end, timeout=0)
            assert late.value.states["ledger1"] == "paused"
            assert _state_here(engine, "ledger1") == ("paused" if engine is mine else None)


async def test_a_member_says_that_a_projection_of_the_owner_rests(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with joined(tmp_path, store=log) as owner, joined(tmp_path, store=log) as member:
        assert _state_here(owner, "tallies") in ("live", "catching-up")
        assert _state_here(member, "tallies") is None
        await owner.projections.pause("tallies")
        end = (await owner.execute(Add("c", 1))).position
        for engine in (owner, member):
            with pytest.raises(ProjectionLag) as late:
                await engine.query(GetTally("c"), at=end, timeout=0)
            assert late.value.states == {"tallies": "paused"}


async def test_many_that_wait_in_vain_at_once_ask_the_owner_once(tmp_path: Path) -> None:
    """It is asked while something is wrong, and has the commands of all to run."""
    async with joined(tmp_path) as owner, joined(tmp_path) as member:
        await owner.projections.pause("tallies")
        end = (await owner.execute(Add("c", 1))).position
        joined_: Any = member._joined  # pyright: ignore[reportPrivateUsage]
        answers, asked = joined_.reads.answers, 0
        ask = answers._states

        async def counted() -> Mapping[str, str]:
            nonlocal asked
            asked += 1
            found: Mapping[str, str] = await ask()
            return found

        answers._states = counted
        found = await asyncio.gather(
            *(member.query(GetTally("c"), at=end, timeout=0) for _ in range(50)),
            return_exceptions=True,
        )
        assert {str(late) for late in found} == {
            "position 1 is not yet in the views: tallies is 1 behind, at 0 (paused)"
        }
        assert asked == 1
