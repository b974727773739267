"""What newcomers write at first: each is refused by name, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    applies,
    between,
    handles,
    one_of,
    projects,
    run,
)
from engine.errors import DefinitionError, UsageError


class Admit(Command):
    patient: Id
    ward: str


class Admitted(Event, name="admitted", version=1):
    ward: str


class Patient(Aggregate, kind="patient"):
    @handles
    def admit(self, command: Admit) -> Admitted:
        return Admitted(command.ward)

    @applies
    def admitted(self, event: Admitted) -> None: ...


class Bed(Row, key="patient", index=["ward"]):
    patient: str
    ward: str


class Beds(Projection, name="beds", version=1):
    rows: Table[Bed]

    @projects
    def admitted(self, event: Admitted, meta: Meta) -> None:
        self.rows.put(Bed(meta.id, event.ward))


class InWards(Query[int]):
    wards: Any


@answers(projections=[Beds])
async def in_wards(query: InWards, views: Views) -> int:
    return len(await views.find(Beds.rows, where={"ward": query.wards}))


async def test_several_values_are_asked_for_as_one_of_them() -> None:
    async with Engine([Patient], projections=[Beds], answers=[in_wards]) as engine:
        receipt = await engine.execute(Admit("p-1", "east"))
        for wards in (["east"], ("east", "west"), {"east"}):
            with pytest.raises(UsageError, match=r"ward is asked for several values: write one_of"):
                await engine.query(InWards(wards), at=receipt)
        for right in (one_of(["east"]), between("a", "f"), "east"):
            assert await engine.query(InWards(right), at=receipt) == 1


@pytest.mark.parametrize("marker", [handles, applies])
def test_a_marker_takes_no_argument(marker: Any) -> None:
    with pytest.raises(DefinitionError, match=rf"write `@{marker.__name__}` alone"):
        marker(Admit)


def test_run_takes_an_async_function_and_not_its_call() -> None:
    async def main() -> None: ...

    call: Any = main()
    with pytest.raises(TypeError, match=r"write run\(main\)"):
        run(call)
    plain: Any = lambda: 3  # noqa: E731
    with pytest.raises(TypeError, match="takes an async function"):
        run(plain)


AGAIN = """
from __future__ import annotations
from engine import *
from engine import Aggregate, Command, Event, Id, handles, applies

class Pour(Command):
    cup: Id

class Poured(Event, name="poured", version=1):
    pass

class Cup(Aggregate, kind="cup"):
    @handles
    def pour(self, command: Pour) -> Poured:
        return Poured()

    @applies
    def poured(self, event: Poured) -> None: ...
"""


async def test_a_cell_that_was_run_again_is_told_of() -> None:
    first: dict[str, Any] = {"__name__": "cell"}
    again: dict[str, Any] = {"__name__": "cell"}
    exec(AGAIN, first)
    exec(AGAIN, again)
    async with Engine([first["Cup"]]) as engine:
        await engine.execute(first["Pour"]("c"))
        with pytest.raises(UsageError, match=r"another class Pour here.*cell was run again"):
            await engine.execute(again["Pour"]("c"))
        with pytest.raises(UsageError, match="another class Cup here"):
            await engine.state(again["Cup"], "c")
