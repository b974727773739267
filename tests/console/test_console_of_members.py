"""The console of a member: what the owner folds is shown, and not that the member folds nothing."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from engine.operations.answers import Overview
from engine.operations.inside import with_facts
from tests.console.consoling import AILING, Write, caught_up, console_of, make_engine


@pytest.fixture(autouse=True)
def _well_again() -> Generator[None]:
    yield
    AILING.clear()


async def test_a_members_overview_has_what_its_owner_has_set_aside(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'notes.db'}"
    async with make_engine(store, join=True) as owner, make_engine(store, join=True) as member:
        AILING.add("bad")
        await member.execute(Write("bad", "one"))
        await caught_up(owner)
        await owner.projections.pause("notes")
        async with console_of(member) as client:
            told = (await client.get("/api/v1/overview")).json()
    assert (told["role"], told["parked"], told["troubled"]) == ("member", 1, ["notes"])
    assert (told["timers_parked"], told["timers_waiting"]) == (0, None)


def test_what_no_owner_tells_is_not_said_to_be_well() -> None:
    told = Overview(state="running", position=1, recorded=1, now=1, role="member")
    told = with_facts(told, None)
    assert (told.parked, told.lag_events, told.timers_parked) == (None, None, None)
