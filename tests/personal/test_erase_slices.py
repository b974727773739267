"""No event of a sink in slices is lost behind an erasure: its slice is none that this changes.

With 7 slices the two names and the mask have three, and with 4 the two ids have two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from engine import Delivery, Engine, Meta, Sink
from engine.projections.scope import Scope
from tests.personal.badges import badged, folded
from tests.personal.hotel import NAME, OTHER, Register, Registered
from tests.support.waiting import until


def name_of(event: Registered, meta: Meta) -> str:
    return event.name


def guest_of(event: Registered, meta: Meta) -> str:
    return meta.id


def known_name_of(event: Registered, meta: Meta) -> str:
    return NAME if event.name == NAME else {OTHER: "o"}[event.name]


def without_that_rule(*_: object) -> None:
    """Do as former releases did."""


class Desk(Sink, name="desks", version=1):
    """Does not take what has a name that it waits for."""

    waits_for: ClassVar[str] = ""
    sent: ClassVar[list[int]] = []

    async def deliver(self, batch: Sequence[Delivery[Registered]]) -> None:
        if any(each.event.name == self.waits_for for each in batch):
            raise OSError("it is away")
        self.sent.extend(each.position for each in batch)


class ByName(Desk, name="desk", version=1, slices=7, on_poison="park", sequence=name_of):
    pass


class ByKnownName(Desk, name="desk", version=1, slices=4, sequence=known_name_of):
    pass


class InOneSlice(Desk, name="desk", version=1, slices=1, sequence=name_of):
    pass


class ByGuest(Desk, name="desk", version=1, slices=4, sequence=guest_of):
    pass


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Desk, "waits_for", "")
    monkeypatch.setattr(Desk, "sent", [])


async def registered(engine: Engine) -> None:
    for guest, name in (("a", NAME), ("b", OTHER)):
        await engine.execute(Register(guest, name))


async def ended(engine: Engine) -> None:
    """Wait until the sink is at the end of the log, or has stopped before."""

    def is_over() -> bool:
        found = engine.statistics().projectors["desk"]
        return found.state == "stopped" or not found.lag_events

    await until(is_over)


@pytest.mark.parametrize("kept", [ByName, ByKnownName])
async def test_a_sink_in_slices_stops_where_an_erasure_would_change_an_events_slice(
    kept: type[Desk], tmp_path: Path
) -> None:
    async with badged(f"sqlite:{tmp_path / 'log.db'}", kept) as engine:
        await registered(engine)
        await ended(engine)
        status = await engine.projections.status("desk")
        parked = await engine.projections.parked("desk")

    assert status.failure is not None
    assert status.failure.position == 1
    assert "makes its key of personal data of registered" in status.failure.cause
    assert (Desk.sent, parked) == ([], [])


async def test_another_number_of_slices_goes_on_with_all_that_a_former_release_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That release had no such rule: one slice was behind, and the person was erased."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    monkeypatch.setattr(Desk, "waits_for", NAME)
    with monkeypatch.context() as former:
        former.setattr(Scope, "_check_lasting", without_that_rule)
        async with badged(store, ByName) as engine:
            await registered(engine)
            await until(lambda: Desk.sent == [2])

    async with badged(store, InOneSlice) as engine:
        await asyncio.wait_for(engine.personal.erase("guest:a"), 30)
        await folded(engine)

    assert sorted(set(Desk.sent)) == [1, 2]


async def test_a_sink_in_slices_by_ids_delivers_what_was_behind_when_its_person_was_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Desk, "waits_for", NAME)
    async with badged(f"sqlite:{tmp_path / 'log.db'}", ByGuest) as engine:
        await registered(engine)
        await until(lambda: Desk.sent == [2])
        await asyncio.wait_for(engine.personal.erase("guest:a"), 30)
        await folded(engine)

    assert sorted(Desk.sent) == [1, 2]
