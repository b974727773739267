"""Commands of one cell that another one decides too, so that its owner is most often not the first.

Rules: a joint decision asks `via`, which gets nothing, and whose owner decides. To its caller it is
what the plain command is: the same receipts, rejections and versions of the one cell. So the judge
knows nothing of it, and finds whoever answers for that cell out of memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from engine.errors import Rejected
from engine.model.joint import To, decides
from engine.model.messages import Command, Id, Receipt
from tests.simulation.domain import Cell, Put, Take, Taken, Was
from tests.simulation.story import Operation

__all__ = ["decisions_of", "of_one", "told_together"]

_WAYS: Final = 3
_OTHERS: Final = 4


class PutVia(Command):
    """Add, in several events."""

    via: Id
    cell: Id
    operation: int
    amount: int
    parts: int


class TakeVia(Command):
    """Take away, if there is enough."""

    via: Id
    cell: Id
    operation: int
    amount: int


@functools.cache
def decisions_of(kind: type[Cell]) -> Sequence[Callable[..., Any]]:
    """Give what decides them for a class of cells."""

    def put_via(command: PutVia, via: Cell, cell: Cell) -> list[To[Was]]:
        Cell.watch(command.operation)
        assert via.id != cell.id
        parts = command.parts
        events = [Was(command.operation, command.amount, n, parts) for n in range(parts)]
        return [To(cell, *events)]

    def take_via(command: TakeVia, via: Cell, cell: Cell) -> list[To[Taken]]:
        Cell.watch(command.operation)
        assert via.id != cell.id
        if command.amount == 0:
            return []
        if command.amount > cell.total:
            raise Rejected("too-little", "", total=cell.total, version=cell.version)
        return [To(cell, Taken(command.operation, command.amount))]

    for function in (put_via, take_via):
        function.__annotations__ |= {"via": kind, "cell": kind}  # as it is tuned in this world
    return decides(put_via), decides(take_via)


def told_together(
    operation: Operation, cells: Sequence[str]
) -> tuple[Command, Mapping[str, int] | None] | None:
    """Give the joint command of an operation, with what it expects; None for most."""
    command, number = operation.command, operation.number
    if not isinstance(command, Put | Take) or number % _WAYS == 0:
        return None
    via = f"via-{number % _OTHERS}" if number % _WAYS == 1 else cells[number % len(cells)]
    cell = command.cell_id
    if via == cell:
        return None
    expected = None if operation.expected is None else {f"cell:{cell}": operation.expected}
    if isinstance(command, Put):
        return PutVia(via, cell, number, command.amount, command.parts), expected
    return TakeVia(via, cell, number, command.amount), expected


def of_one(receipt: Receipt, cell: str) -> Receipt:
    """Give what a caller of the plain command would be told."""
    stream = f"cell:{cell}"
    return Receipt(stream, receipt.versions[stream], receipt.position, receipt.reply)
