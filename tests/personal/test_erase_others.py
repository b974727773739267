"""A person is not called erased while tables of an undeclared projection may have them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from engine import Engine, Meta, Projection, Table, UsageError, projects
from tests.personal.badges import BadgeRow, Badges, badged, folded, having
from tests.personal.hotel import NAME, Register, Registered
from tests.support.waiting import until


class Labels(Projection, name="labels", version=1):
    rows: Table[BadgeRow]

    @projects
    def registered(self, event: Registered, meta: Meta) -> None:
        self.rows.put(BadgeRow(meta.id, event.name))


async def registered(store: str) -> None:
    async with badged(store, Badges, Labels) as engine:
        await engine.execute(Register("a", NAME))
        await engine.execute(Register("b", "Bob Roy"))
        await folded(engine)


async def is_waited_for(engine: Engine, caplog: pytest.LogCaptureFixture, *names: str) -> None:
    """Erase a person, and see that it is not finished, and whose tables are named."""
    begun = await engine.personal.erase("guest:a", timeout=0)
    assert begun.finished is None
    while "does not declare" not in caplog.text:
        assert [e.finished for e in await engine.personal.erasures()] == [None]
        await asyncio.sleep(0.01)
    assert f"tables of {', '.join(names)}, which" in caplog.text
    assert [e.finished for e in await engine.personal.erasures()] == [None]


@pytest.mark.parametrize("declared", [[], [Labels]], ids=["none", "another"])
async def test_a_program_that_does_not_declare_all_leaves_it_to_one_that_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, declared: list[type[Projection]]
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    await registered(store)
    named = [p.__definition__.name for p in (Badges, Labels) if p not in declared]
    with caplog.at_level(logging.WARNING, "foldline"):
        async with badged(store, *declared) as engine:
            await is_waited_for(engine, caplog, *named)

    async with badged(store, Badges, Labels) as engine, asyncio.timeout(60):
        while (await engine.personal.erasures())[0].finished is None:
            await asyncio.sleep(0.01)

    assert having(tmp_path, NAME) == []


async def test_tables_that_no_program_declares_any_more_can_be_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    await registered(store)
    async with badged(store, Labels) as engine, asyncio.timeout(60):
        await is_waited_for(engine, caplog, "badges")
        with pytest.raises(UsageError, match="no projection"):
            await engine.projections.drop("nobodys")

        dropped = await engine.projections.drop("badges", reason="it is no more", principal="ann")

        assert [build.state for build in dropped] == ["serving"]
        await engine.personal.erase("guest:a")
        assert None not in [erasure.finished for erasure in await engine.personal.erasures()]
        assert await engine.projections.drop("labels") == []
    assert having(tmp_path, NAME) == []


async def test_who_is_erased_meanwhile_is_erased_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    await registered(store)
    async with badged(store, Labels) as engine, asyncio.timeout(60):
        await is_waited_for(engine, caplog, "badges")
        second = asyncio.create_task(engine.personal.erase("guest:b"))
        await until(lambda: engine.statistics().projectors["labels"].position == 2)

        await engine.projections.drop("badges")

        await second
    assert having(tmp_path, NAME) == having(tmp_path, "Bob Roy") == []


async def test_a_projection_that_serves_is_never_dropped(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    await registered(store)
    async with badged(store, Badges, Labels) as engine:
        assert await engine.projections.drop("badges") == []
        assert [p.name for p in await engine.projections.list()] == ["badges", "labels"]
