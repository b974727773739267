"""What a query that waits in vain says of a projection, in the process that runs it and beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import ProjectionLag
from tests.members.duties_shop import GetLine, begun, sharing
from tests.members.joining import joined, part
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.tallies import GetTally


async def test_who_runs_a_projection_that_lags_says_what_it_does(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with sharing(log) as one, sharing(log) as other:
        await begun([one, other])
        mine = one if "ledger1" in part(one).duties else other
        await mine.projections.pause("ledger1")
        end = (await one.execute(Add("a", 1))).position
        for engine in (one, other):
            said = "paused" if engine is mine else "written by another process"
            with pytest.raises(ProjectionLag) as late:
                await engine.query(GetLine("a"), at=end, timeout=0)
            assert late.value.states["ledger1"] == said


async def test_an_owner_that_reads_as_its_members_says_what_its_projections_do(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with joined(tmp_path, store=log) as owner, joined(tmp_path, store=log) as member:
        await owner.projections.pause("tallies")
        end = (await owner.execute(Add("c", 1))).position
        for engine, said in ((owner, "paused"), (member, "written by another process")):
            with pytest.raises(ProjectionLag) as late:
                await engine.query(GetTally("c"), at=end, timeout=0)
            assert late.value.states == {"tallies": said}
