"""The account of an import: what became of each command, how fast that was, and what to try next.

Rules: every command is in one column, and every column adds up, so that nothing is left to be
explained; the commands that were refused are told by their codes. It says what the import just did,
and differs from one run to the next: the sales report does not. This file prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from engine.cli.printing import plain
from engine.cli.tables import Column, Table, numbers

from ..importer.importer import Imported, Outcomes
from ..importer.invoices import SAMPLE, Invoices

__all__ = ["begin", "lay_out_account", "lay_out_next"]

NAME_WIDTH = 30

MEANT: Final[Mapping[str, str]] = {
    "quantity-not-positive": "a rule: stock corrections, which no customer ordered",
    "price-negative": "a rule: nobody is paid for ordering",
    "order-unknown": "followed a refused CreateOrder, so there is no order to change or ship",
    "item-not-in-order": "followed a refused change, so there is no such line",
    "key-reused": "the shop has this invoice with other rows",
    "order-exists": "the shop has this order with other rows",
    "return-exists": "the shop has this return with other rows",
}
"""What a refusal's code means in an import."""


_PASSWORD: Final = re.compile(r"(?<=[^/]):[^/]*@")


def begin(file: str, store: str) -> str:
    """Say what is about to happen."""
    return plain(
        f"importing {file} into {_shown(store)}: each invoice becomes commands, each command is "
        f"decided by its order, and its event is committed before the command is answered"
    )


def lay_out_account(imported: Imported, invoices: Invoices, store: str) -> Iterator[str | Table]:
    """Give lines and a table: what was read, what became of each command, how fast."""
    sent = imported.invoices + invoices.waiting.count
    yield ""
    yield (
        f"{_counted(invoices.rows, 'row')}, {_counted(sent, 'invoice')}, "
        f"{_counted(imported.commands, 'command')}: {_in_short(imported)}"
    )
    if imported.outcomes:
        yield _table(imported)
    yield from _refusals(imported.codes)
    yield from _speed(imported, "in memory" if store == "memory:" else "durable")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _in_short(imported: Imported) -> str:
    counts: list[str] = []
    if imported.executed:
        counts.append(f"{imported.executed:,} executed")
    if imported.repeated:
        counts.append(f"{imported.repeated:,} had been executed before and were not again")
    if imported.refused_commands:
        counts.append(f"{imported.refused_commands:,} refused")
    short = " + ".join(counts) or "nothing to do"
    return short if imported.executed or not imported.repeated else f"nothing new: {short}"


def _table(imported: Imported) -> Table:
    figures = numbers(sent=8, executed=8, repeated=8, refused=8)
    table = Table(Column("  command", NAME_WIDTH), *figures)
    total = Outcomes(
        imported.commands, imported.executed, imported.repeated, imported.refused_commands
    )
    for name, found in (*sorted(imported.outcomes.items()), ("all", total)):
        counts = (found.sent, found.executed, found.repeated, found.refused)
        table.add(f"  {name}", *[f"{count:,}" for count in counts])
    return table


def _refusals(codes: Mapping[str, int]) -> Iterator[str]:
    if not codes:
        return
    total = sum(codes.values())
    yield f"{_counted(total, 'command')} refused, which changed nothing:"
    for code, count in sorted(codes.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count:>6,}  {code}" + (f" ({MEANT[code]})" if code in MEANT else "")


def _speed(imported: Imported, how: str) -> Iterator[str]:
    if not imported.executed or imported.seconds <= 0:
        return
    yield (
        f"{_counted(imported.executed, 'command')} executed, {how}, in {imported.seconds:.2f} s: "
        f"{imported.executed / imported.seconds:,.0f} a second, from the file to the answer"
    )


def _shown(store: str) -> str:
    """Give the URL of a store without its password."""
    return _PASSWORD.sub(":...@", store)


def lay_out_next(store: str, order_id: str = "536365") -> Iterator[str]:
    """Give the commands to try after the sample was imported."""
    said = "" if store == "sqlite:shop.db" else f" --store {_shown(store)}"
    commands: Sequence[tuple[str, str]] = (
        (f"python -m domain{said}", "again: nothing is done twice"),
        (f"python -m domain order {order_id} --version 1{said}", "an order, as it was"),
        (f'python -m domain search "white lantern"{said}', "products by their words"),
        ("python -m domain crash", "kill -9 five times, and the same report"),
        ("python -m domain.web --replay 60", "the two weeks in a minute, in a browser"),
    )
    width = max(len(command) for command, _ in commands)
    yield from ("", "try next:")
    yield from (f"  {command:<{width}}  {what}" for command, what in commands)


def is_sample(invoices: Invoices) -> bool:
    """Tell whether it is the file that comes with the shop."""
    return invoices.file.path == SAMPLE
