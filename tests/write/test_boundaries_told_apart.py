"""Events with several tags of one name: each of them is found, and counted once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engine import (
    Aggregate,
    Boundary,
    Command,
    Engine,
    Event,
    Id,
    Rejected,
    applies,
    decides,
    handles,
)


class Opened(Event, name="shop-opened", tags=("region", "region:all")):
    region: str


class Open(Command):
    region: Id


class OpenByPost(Command):
    office: Id
    region: str


class Look(Command):
    region: Id


class Region(Boundary, tags=("region",)):
    shops: int = 0

    @applies
    def opened(self, event: Opened) -> None:
        self.shops += 1


class Everywhere(Boundary, tags=("region:all",)):
    shops: int = 0

    @applies
    def opened(self, event: Opened) -> None:
        self.shops += 1


class Office(Aggregate, kind="office"):
    letters: int = 0

    @handles
    def open(self, command: OpenByPost) -> Opened:
        return Opened(command.region)

    @applies
    def opened(self, event: Opened) -> None:
        self.letters += 1


@decides
def open_shop(command: Open, region: Region) -> Opened:
    if region.shops == 3:
        raise Rejected("full", "a region has three shops")
    return Opened(command.region)


@decides
def look(command: Look, region: Region) -> Opened | None:
    return None if region.shops else Opened(command.region)


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    urls = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path}/log.db"}
    store = urls[request.param]
    kinds = [Region, Everywhere, Office]
    async with Engine(kinds, decisions=[open_shop, look], store=store) as engine:
        yield engine


async def test_a_boundary_in_memory_is_told_of_events_with_a_second_tag_of_its_name(
    engine: Engine,
) -> None:
    await engine.execute(Open("north"))
    for _ in range(2):
        await engine.execute(OpenByPost("o", "north"))

    with pytest.raises(Rejected, match="full"):
        await engine.execute(Open("north"))
    assert (await engine.state(Region, "north")).shops == 3


async def test_a_value_that_makes_a_whole_tag_is_stored_and_counted_once(engine: Engine) -> None:
    await engine.execute(Open("all"))
    await engine.execute(OpenByPost("o", "all"))

    assert (await engine.state(Region, "all")).shops == 2
    assert (await engine.state(Everywhere, "all")).shops == 2


async def test_a_receipt_without_events_contains_all_that_it_was_decided_on(
    engine: Engine,
) -> None:
    written = await engine.execute(OpenByPost("o", "south"))
    seen = await engine.execute(Look("south"))

    assert seen.version == 1, "also where its own stream has nothing"
    assert seen.position == written.position
