"""Where a restored log ends: never inside of a decision, and with nothing that is never done."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine import Aggregate, Command, Engine, Event, Id, UsageError, applies, handles
from engine.outside.copying import CopyProgress
from tests.backups.made import backed_up, manifest, restored
from tests.outside.copied import GetCounts, Letters, NewStore, Pin, boards, filled
from tests.projections.reacting import Paid, events, pay, reached, shipments, shop
from tests.write.accounts import Deposit, Share, Transfer, bank, cents


class Ended(Exception):
    """A backup is killed."""


# -- reactions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", range(1, 9))
async def test_what_was_made_behind_the_end_of_a_restored_log_is_made_again(
    new: NewStore, tmp_path: Path, end: int
) -> None:
    source, target, folder = new("sqlite"), new("sqlite"), tmp_path / "backup"
    async with shop(source) as engine:
        await pay(engine, "o-1", "o-2", parcels=2)
        await reached(engine, await pay(engine, "o-3", parcels=2))
        made = await shipments(engine)
    assert len(made) == 6
    await asyncio.to_thread(backed_up, source, folder, segment_events=4)

    restored(folder, target, at=end)

    async with shop(target) as engine:
        await reached(engine, end)
        paid = [meta.id for event, meta in await events(engine) if isinstance(event, Paid)]
        expected = [f"{order}/{place}" for order in paid for place in range(2)]
        assert sorted(await shipments(engine)) == sorted(expected), "each once, and all of them"


# -- decisions ------------------------------------------------------------------------------------


async def test_no_restored_log_ends_inside_of_a_joint_decision(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    async with bank(store=source) as engine:
        await engine.execute(Deposit("a", 100))
        await engine.execute(Share("a", ["b", "c", "d"], 10))  # 2 to 5
        await engine.execute(Transfer("d", "a", 1), key="k")  # 6 and 7
    await asyncio.to_thread(backed_up, source, folder, segment_events=3)

    for inside, before, end in ((2, 1, 5), (3, 1, 5), (4, 1, 5), (6, 5, 7)):
        with pytest.raises(UsageError, match=f"Give {before}, or {end}"):
            restored(folder, new("sqlite"), at=inside)
    for whole in (1, 5, 7):
        target = new("sqlite")
        restored(folder, target, at=whole)
        async with bank(store=target) as engine:
            assert sum(await cents(engine, "a", "b", "c", "d")) == 100


class Added(Event, name="added-of-many"):
    pass


class AddMany(Command):
    pile: Id
    count: int


class Pile(Aggregate, kind="pile"):
    count: int = 0

    @handles
    def add(self, command: AddMany) -> list[Added]:
        return [Added()] * command.count

    @applies
    def added(self, event: Added) -> None:
        self.count += 1


async def test_no_restored_log_ends_inside_of_a_command_with_a_key(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    async with Engine([Pile], store=source) as engine:
        await engine.execute(AddMany("p", 2), key="two")
        await engine.execute(AddMany("p", 3), key="three")
        await engine.execute(AddMany("p", 1), key="one")
    await asyncio.to_thread(backed_up, source, folder)

    refused: list[int] = []
    for at in range(1, 7):
        try:
            restored(folder, new("sqlite"), at=at)
        except UsageError:
            refused.append(at)
    assert refused == [1, 3, 4]


# -- backups that were killed ---------------------------------------------------------------------


async def test_a_backup_that_was_killed_inside_of_a_decision_ends_before_it(
    new: NewStore, tmp_path: Path
) -> None:
    source, target, folder = new("sqlite"), new("sqlite"), tmp_path / "backup"
    async with bank(store=source) as engine:
        await engine.execute(Deposit("a", 100))
        for each in "bcdefgh":
            await engine.execute(Transfer("a", each, 10))  # 2 and 3, 4 and 5, ...

    def end(progress: CopyProgress) -> None:
        if progress.position >= 8:
            raise Ended

    with pytest.raises(Ended):
        backed_up(source, folder, end, page_events=4, segment_events=4)
    assert (manifest(folder).position, manifest(folder).whole) == (8, False)

    assert restored(folder, target).position == 7
    async with bank(store=target) as engine:
        assert await cents(engine, "a", "b", "c", "d", "e") == [70, 10, 10, 10, 0]


async def test_a_later_backup_that_was_killed_keeps_how_far_sinks_were(
    new: NewStore, tmp_path: Path
) -> None:
    source, target, folder = new("sqlite"), new("sqlite"), tmp_path / "backup"
    async with boards(source) as engine:
        await filled(engine)
        await asyncio.to_thread(backed_up, source, folder)
        for n in range(14):
            await engine.execute(Pin("b0", f"later {n}"))
        await engine.query(GetCounts(), at=38)

    def end(progress: CopyProgress) -> None:
        raise Ended

    with pytest.raises(Ended):
        backed_up(source, folder, end, segment_events=7)
    assert not manifest(folder).whole
    Letters.delivered.clear()

    position = restored(folder, target).position

    async with boards(target) as engine:
        await engine.query(GetCounts(), at=position)
    assert position > 24
    assert min(Letters.delivered) > 24, "what was delivered is not delivered again"
