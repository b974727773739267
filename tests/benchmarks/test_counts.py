"""What a system left behind is compared with what it acknowledged."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from benchmarks import closed_loop, floor_rows
from benchmarks.closed_loop import MANY_ORDERS, ONE_ORDER, Work
from benchmarks.scenario import Wrong
from benchmarks.systems import (
    System,
    Target,
    check_count,
    count_rows,
    engine_system,
    floor_system,
)
from benchmarks.workload import AdjustOrder, OpenOrder

BRIEFLY = 0.01


@dataclasses.dataclass
class Case:
    """A system to be run for a moment."""

    system: System
    work: Work


CASES = {
    "floor in memory": Case(floor_system(durable=False), MANY_ORDERS),
    "floor": Case(floor_system(durable=True), MANY_ORDERS),
    "engine in memory": Case(engine_system(durable=False, keyed=True), MANY_ORDERS),
    "engine bare": Case(engine_system(durable=True, keyed=False), MANY_ORDERS),
    "engine keyed": Case(engine_system(durable=True, keyed=True), MANY_ORDERS),
    "engine on one order": Case(engine_system(durable=True, keyed=True), ONE_ORDER),
}


@pytest.mark.parametrize("name", CASES)
def test_a_system_that_keeps_its_word_gives_figures(tmp_path: Path, name: str) -> None:
    case = CASES[name]

    figures = closed_loop.measure(case.system, case.work, 8, BRIEFLY, tmp_path)

    assert set(figures) == {column.name for column in closed_loop.COLUMNS}


def test_the_rows_of_the_floor_are_counted(tmp_path: Path) -> None:
    figures = floor_rows.measure(8, BRIEFLY, tmp_path)

    assert set(figures) == {column.name for column in closed_loop.COLUMNS}
    assert figures["events"] == 8
    assert count_rows(tmp_path / "rows.db") % 8 == 0


def test_an_acknowledgement_without_its_event_is_wrong(tmp_path: Path) -> None:
    honest = engine_system(durable=True, keyed=False)

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        async with honest.open(folder) as target:

            async def send(command: OpenOrder | AdjustOrder, number: int) -> object:
                # Says yes to the last command of every order, and does nothing.
                return None if command.quantity == 10 else await target.send(command, number)

            yield Target(send, target.commits)

    lying = System("liar", opened, honest.count)

    with pytest.raises(Wrong, match="liar acknowledged"):
        closed_loop.measure(lying, MANY_ORDERS, 8, BRIEFLY * 10, tmp_path)


def losing(statement: str) -> Callable[[Path], int]:
    """Give a count that loses events first, as a disk would."""
    honest = floor_system(durable=True).count
    assert honest is not None

    def count(folder: Path) -> int:
        connection: Any = apsw.Connection(str(folder / "floor.db"))
        connection.execute(statement)
        connection.close()
        return honest(folder)

    return count


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("delete from events where position = (select max(position) from events)", "opened again"),
        ("delete from events where position = 1", "the last one at position"),
        ("delete from events", "it has 0"),
    ],
)
def test_an_event_that_is_not_in_the_file_any_more_is_wrong(
    tmp_path: Path, statement: str, told: str
) -> None:
    broken = msgspec.structs.replace(floor_system(durable=True), count=losing(statement))

    with pytest.raises(Wrong, match=told):
        closed_loop.measure(broken, MANY_ORDERS, 8, BRIEFLY, tmp_path)


@pytest.mark.parametrize(("acknowledged", "stored", "found"), [(9, 8, 8), (8, 9, 8), (8, 8, 9)])
def test_any_one_count_that_differs_is_wrong(
    tmp_path: Path, acknowledged: int, stored: int, found: int
) -> None:
    system = msgspec.structs.replace(floor_system(durable=True), count=lambda _: found)

    with pytest.raises(Wrong, match=rf"{acknowledged} .* {stored} .* {found}"):
        check_count(system, tmp_path, acknowledged, stored)
    check_count(system, tmp_path, found, found)


def test_a_system_that_keeps_nothing_is_held_to_its_own_count(tmp_path: Path) -> None:
    system = floor_system(durable=False)

    check_count(system, tmp_path, 5, 5)
    with pytest.raises(Wrong):
        check_count(system, tmp_path, 6, 5)
