"""What operators ask of projections that other members run, and what is refused by name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine import (
    DefinitionError,
    Engine,
    Forbidden,
    Meta,
    OutcomeUnknown,
    Projection,
    ProjectorStatistics,
    Table,
    UsageError,
    projects,
)
from engine.stores.postgres.address import read_address
from tests.members.duties_shop import (
    AILING,
    ALL,
    PROJECTIONS,
    SLICES,
    GetLine,
    Ledger3,
    Line3,
    begun,
    differences,
    projections,
    sharing,
    until_reached,
)
from tests.members.joining import joined, part
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server, asked
from tests.support.tallies import Tallies, Tally
from tests.support.waiting import until


def away(engines: list[Engine], name: str) -> tuple[Engine, Engine]:
    """Give one that runs a projection, and one that does not."""
    here = next(one for one in engines if name in part(one).duties)
    return here, next(one for one in engines if one is not here)


async def test_every_call_reaches_the_member_whose_duty_it_is(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(sharing(log)) for _ in range(2)]
        await begun(engines)
        here, other = away(engines, "ledger1")
        asked_at = other.projections

        await asked_at.pause("ledger1", reason="looks", principal="ann")
        assert here.statistics().projectors["ledger1"].state == "paused"
        assert other.statistics().projectors["ledger1"].state == "elsewhere"
        assert (await asked_at.status("ledger1")).state == "paused"
        assert {one.name for one in await asked_at.list()} == set(ALL)
        await asked_at.resume("ledger1")
        await asked_at.rebuild("ledger1", reason="again")
        await until(lambda: here.statistics().projectors["ledger1"].building is None)
        status = await asked_at.status("ledger1")
        assert [(b.number, b.state) for b in status.builds] == [(1, "former"), (2, "serving")]
        assert [b.number for b in await asked_at.drop("ledger1")] == [1]
        await asked_at.reset("ledger1")
        with pytest.raises(UsageError, match="not being rebuilt"):
            await asked_at.cancel("ledger1")
        with pytest.raises(UsageError, match="told"):
            await asked_at.rebuild("told")
        kinds = [one.kind for one in await asked_at.decisions("ledger1")]
        assert kinds == ["pause", "resume", "rebuild", "swap", "drop", "reset"]
        assert (await asked_at.decisions("ledger1"))[0].principal == "ann"

        receipt = await other.execute(Add("a", 1))
        assert await other.query(GetLine("a"), at=receipt, timeout=20) == [1]


async def test_what_is_parked_elsewhere_is_seen_tried_again_and_skipped(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(sharing(log)) for _ in range(2)]
        await begun(engines)
        other = away(engines, "ledger0")[1]
        AILING.update({"ill", "worse"})
        try:
            for name in ("ill", "ill", "worse", "worse"):
                receipt = await other.execute(Add(name, 1))
            await until_reached(other, "ledger0", receipt.position)
            parked = await other.projections.parked("ledger0")
            assert [one.position for one in parked] == [1, 2, 3, 4]
            AILING.discard("ill")
            retried = await other.projections.retry("ledger0")
            assert retried.released == 2
            assert [one.position for one in retried.failed] == [3]
            await other.projections.skip("ledger0", 3, reason="it is ill")
            AILING.clear()
            assert (await other.projections.retry("ledger0")).released == 1
        finally:
            AILING.clear()
        found = await differences(postgres, log)
        assert found == ["ledger0 worse: [4] in place of [3, 4]"]


async def test_slices_of_one_projection_are_run_by_several_and_gathered_for_what_needs_all(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with sharing(log):
        pass  # members 2 and 3, by whose numbers each of them has a slice
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(sharing(log)) for _ in range(2)]
        await until(lambda: all(slices_at(one) for one in engines))
        assert sorted(name for one in engines for name in slices_at(one)) == SLICES
        follower = next(one for one in engines if "ledger3/0" not in part(one).duties)
        for n in range(12):
            await follower.execute(Add(f"c{n}", 1))

        for call in ("pause", "resume", "rebuild"):
            await getattr(follower.projections, call)("ledger3")
        leader = next(one for one in engines if one is not follower)
        assert "ledger3" in part(leader).duties
        assert not slices_at(follower)
        await until_served(follower, "ledger3", 2)
        receipt = await follower.execute(Add("c1", 1))
        await until_reached(follower, "ledger3", receipt.position)

        # They part again, and go on in the build that serves now.
        await until(lambda: all(slices_at(one) for one in engines))
        for n in range(12):
            receipt = await leader.execute(Add(f"c{n}", 1))
        await until_reached(follower, "ledger3", receipt.position)
        assert await differences(postgres, log) == []
        status = await leader.projections.status("ledger3")
        assert [(b.number, b.state) for b in status.builds] == [(1, "former"), (2, "serving")]


def slices_at(engine: Engine) -> list[str]:
    """Give the slices that an engine runs of a projection of which another runs some."""
    return sorted({*part(engine).duties} & {*SLICES})


async def until_served(engine: Engine, name: str, build: int) -> None:
    """Wait until queries see a build."""
    async with asyncio.timeout(30):
        while True:
            found = (await engine.projections.status(name)).builds
            if any(b.number == build and b.state == "serving" for b in found):
                return
            await asyncio.sleep(0.05)


async def test_a_sliced_projection_of_a_new_version_is_built_by_who_leads_it(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with AsyncExitStack() as stack:
        old = await sharing(log).__aenter__()
        for n in range(12):
            await old.execute(Add(f"c{n}", 1))
        newer = [Ledger3Anew if one is Ledger3 else one for one in PROJECTIONS]
        engines = [
            await stack.enter_async_context(sharing(log, projections=newer, rebuild="auto"))
            for _ in range(2)
        ]
        await until(lambda: "ledger3" in part(old).duties)
        assert not any("ledger3" in projections(part(one).duties) for one in engines)
        await old.__aexit__(None, None, None)
        await until_served(engines[0], "ledger3", 2)
        receipt = await engines[0].execute(Add("c1", 1))
        await until_reached(engines[1], "ledger3", receipt.position)
        await until(lambda: all(slices_at(one) for one in engines))
        assert await differences(postgres, log) == []


class Ledger3Anew(Projection, name="ledger3", version=2, slices=3):
    lines: Table[Line3]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.lines.get(meta.id) or Line3(meta.id, [])
        self.lines.put(Line3(meta.id, [*row.positions, meta.position]))


def _only_ann(who: str | None, what: str, _: object) -> bool:
    return who == "ann" or what != "control"


async def test_the_gate_is_asked_where_a_call_is_made(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with sharing(log, authorize=_only_ann) as e:
        await e.projections.pause("ledger1", principal="ann")
        with pytest.raises(Forbidden):
            await e.projections.resume("ledger1", principal="bob")


async def test_an_answer_that_is_lost_is_told_so(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    schema = read_address(log).schema
    async with sharing(log) as first:
        second = await sharing(log).__aenter__()
        await begun([first, second])
        name = next(name for name in part(second).duties if name in ALL)
        # As if the member had taken it up and died before it answered.
        monkeypatch.setattr("engine.projections.control.Control._do_all", _stands)
        call = asyncio.create_task(first.projections.pause(name))
        await until_asked(postgres, schema)
        await asked(postgres, f"UPDATE \"{schema}_views\".requests SET state = 'begun'")
        monkeypatch.undo()
        await second.__aexit__(None, None, None)
        with pytest.raises(OutcomeUnknown, match="Look at the projection"):
            await call


async def _stands(_: object) -> bool:
    await asyncio.sleep(0.05)
    return False


async def until_asked(postgres: Server, schema: str) -> None:
    async with asyncio.timeout(30):
        while not await asked(postgres, f'SELECT 1 FROM "{schema}_views".requests'):
            await asyncio.sleep(0.02)


async def test_one_that_would_run_all_by_itself_writes_no_views_while_members_run_them(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with AsyncExitStack() as stack:
        first = await sharing(log).__aenter__()
        second = await stack.enter_async_context(joined(tmp_path, store=log))
        assert part(second).role == "member"
        await first.__aexit__(None, None, None)
        await until(lambda: part(second).role == "owner")
        receipt = await second.execute(Add("a", 1))
        await until(lambda: second.statistics().projectors["tallies"].position == receipt.position)
        third = await stack.enter_async_context(sharing(log))
        assert set(part(third).duties) == set(ALL)
        receipt = await third.execute(Add("a", 1))
        for name in ALL:
            await until_reached(third, name, receipt.position)

        def tallies() -> ProjectorStatistics:
            return second.statistics().projectors["tallies"]

        # Refused, it looks again where the views are: that position is then the third's work.
        await until(lambda: tallies().retries or tallies().position == receipt.position)
        assert tallies().retries > 0
        assert await differences(postgres, log) == []


async def test_other_projections_wait_for_the_last_process_of_the_former_release(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with AsyncExitStack() as stack:
        old = await sharing(log).__aenter__()
        newer = [Tallies2 if one is Tallies else one for one in PROJECTIONS]
        new = await stack.enter_async_context(sharing(log, projections=newer, rebuild="auto"))
        await until(lambda: bool(part(new).duties) and bool(part(old).duties))
        assert "tallies" in part(old).duties
        await old.__aexit__(None, None, None)
        await until(lambda: list(part(new).duties) == ALL)
        receipt = await new.execute(Add("a", 1))
        await until_reached(new, "tallies", receipt.position)
        assert (await new.projections.status("tallies")).serving == 2


class Tallies2(Projection, name="tallies", version=2):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Tally(meta.id, 2, 2))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"join": "spread"}, 'with join="spread"'),
        ({"join": False}, "go with join=True"),
        ({"store": "sqlite:{path}/log.db", "join": True}, "one process that has its lock"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(
    options: dict[str, object], why: str, tmp_path: Path
) -> None:
    given: dict[str, object] = {"store": "postgresql://127.0.0.1:1/none", **options}
    given["store"] = str(given["store"]).format(path=tmp_path)
    with pytest.raises(DefinitionError, match=why):
        Engine([Counter], projections=[Tallies], share_projections=True, **given)  # type: ignore[arg-type]
