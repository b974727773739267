"""The health of a member: its own part, and what the owner of the log tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Health
from engine.health import watch
from engine.health.facts import Facts
from engine.members import serving
from tests.health.looking import check, engine_on, failing
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.tallies import AILING
from tests.support.waiting import until

STOPPED = ["projection tallies"]


@pytest.fixture(autouse=True)
def all_well() -> Iterator[None]:
    yield
    AILING.clear()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[Engine]]:
    """Give an owner and a member."""
    async with AsyncExitStack() as stack:
        engines = [engine_on(f"sqlite:{tmp_path}/log.db", join=True) for _ in range(2)]
        for engine in engines:
            await stack.enter_async_context(engine)
        yield engines


async def test_a_member_tells_of_the_projections_that_its_owner_folds(two: list[Engine]) -> None:
    owner, member = two
    AILING.add("a")
    await member.execute(Add("a", 1))
    await until(lambda: owner.statistics().projectors["tallies"].failure is not None)

    reports = [await engine.health() for engine in two]

    assert [report.role for report in reports] == ["owner", "member"]
    assert [failing(report) for report in reports] == [STOPPED, STOPPED]
    assert [report.position for report in reports] == [1, 1]
    assert all(report.ready for report in reports)
    assert check(reports[1], "lag.events", "tallies").value == 1
    assert check(reports[1], "disk.bytes").ok


async def test_a_members_bounds_are_its_own(two: list[Engine]) -> None:
    AILING.add("a")
    await two[1].execute(Add("a", 1))
    await until(lambda: two[0].statistics().projectors["tallies"].failure is not None)

    report = await two[1].health(Health(lag_events_max=0, unready=["lag.events"]))

    assert not report.ready


async def test_a_member_whose_owner_does_not_answer_is_live_and_not_ready(
    two: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_OWNER_SECONDS", 0.05)
    held = asyncio.Event()
    found = _serving(two[0])

    async def silent() -> Facts:
        await held.wait()
        raise AssertionError("nobody lets it go on")

    monkeypatch.setattr(found, "_facts", silent)
    report = await two[1].health()

    assert (report.live, report.ready, failing(report)) == (True, False, ["owner"])
    assert "has not answered within 0.05 s" in check(report, "owner").says
    assert two[1].is_live


async def test_an_owner_of_an_earlier_release_cannot_tell_and_that_is_no_trouble(
    two: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEALTH", "not yet known")
    report = await two[1].health()

    assert (report.ready, report.ok, report.position) == (True, True, None)
    assert not [one for one in report.checks if one.name == "projection"]


async def test_a_member_without_an_owner_waits_and_is_not_ready(
    two: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, member = two
    # It may not take the log over, so that it is seen while it waits.
    held: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def nobody(*_: Any) -> bool:
        return await held

    monkeypatch.setattr(_membership(member)._meeting, "is_vacant", nobody)
    await owner.__aexit__(None, None, None)
    monkeypatch.setattr(owner, "__aexit__", nobody)
    await until(lambda: _role(member) == "waiting")
    report = await member.health()
    held.set_result(True)
    await until(lambda: _role(member) == "owner")
    after = await member.health()

    assert (report.live, report.ready) == (True, False)
    assert check(report, "owner").value == "waiting"
    assert (after.ready, after.role) == (True, "owner")


def _membership(engine: Engine) -> Any:
    joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    return joined._membership


def _serving(engine: Engine) -> Any:
    return _membership(engine)._serving


def _role(engine: Engine) -> str:
    found = engine.statistics().membership
    assert found is not None
    return found.role


async def test_the_lease_of_a_log_in_postgresql_is_told(postgres: Server) -> None:
    async with engine_on(postgres.url(postgres.new_schema())) as engine:
        report = await engine.health()
        none_left = await engine.health(Health(lease_seconds_min=1e6))

    assert report.ready
    left = check(report, "lease").value
    assert isinstance(left, float)
    assert left > 0
    assert not [one for one in report.checks if one.name.startswith(("disk", "wal"))]
    assert (none_left.ready, failing(none_left)) == (False, ["lease"])
