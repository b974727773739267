"""The past of one order, for whoever answers the customer: what it is, what happened, what changed.

Rules: everything is read from the log, read-only, beside a shop that may be at work; nothing is
asked of the views. An order is shown as it is, or as it was at a version or a time, with all that
happened to it and what changed since. This file lays out lines and tables, and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from engine import ABSENT, Archive, Change, LoggedEvent, difference
from engine.cli.tables import Column, Table, numbers

from ..model.former_events import UPCASTERS
from ..model.lines import Line
from ..model.money import pounds
from ..model.orders import Order

__all__ = ["NoSuchOrder", "OrderPast", "ask_past", "lay_out_past"]

NAME_WIDTH = 36


class NoSuchOrder(Exception):
    """The log has no order under this number."""


class OrderPast(msgspec.Struct, frozen=True):
    """One order, as it was at a version, and its history."""

    order: Order
    """As it was then."""
    now: Order
    """As it is."""
    history: Sequence[LoggedEvent]
    """All that happened to it, up to now."""
    changes: Sequence[Change]
    """Since then; where the order is shown as it is, by the last thing that happened."""


async def ask_past(
    store: str, order_id: str, version: int | None = None, at: datetime | None = None
) -> OrderPast:
    """Read the past of an order; without a version or a time, up to now.

    Raises NoSuchOrder, and EngineError where the log cannot be read or has no such version.
    """
    async with Archive([Order], store=store, upcasters=UPCASTERS) as archive:
        history = [event async for event in archive.history(Order, order_id)]
        if not history:
            raise NoSuchOrder(_unknown(order_id))
        # A shop at work may write on meanwhile: all that is shown ends with the same event.
        last = len(history)
        now = await archive.state(Order, order_id, version=last)
        order = now
        before = await archive.state(Order, order_id, version=last - 1)
        if version is not None or at is not None:
            order = before = await archive.state(Order, order_id, version=version, at=at)
    changes = [c for c in difference(before, now) if c.path != ("version",)]
    return OrderPast(order, now, history, changes)


def _unknown(order_id: str) -> str:
    if order_id.startswith(("C", "c")):
        return f"{order_id} is the number of a return, and returns are not shown here"
    return (
        f"the shop has no order {order_id}: none was created under this number. An invoice that "
        f"the rules refused leaves nothing in the log; the report of its import names it."
    )


def lay_out_past(past: OrderPast) -> Iterator[str | Table]:
    """Give the lines and tables."""
    yield from _summary(past)
    yield from _goods(list(past.order.lines.values()))
    yield ""
    yield _history(past)
    yield from _changes(past)


def _summary(past: OrderPast) -> Iterator[str]:
    order, now = past.order, past.now
    yield f"ORDER {now.id}" + ("" if order is now else f", as it was at version {order.version}")
    yield ""
    if not order.version:
        yield "  it did not exist yet"
        return
    yield f"  status    {order.status}"
    yield f"  customer  {order.buyer.customer_id or 'not known'}, {order.buyer.country}"
    yield f"  invoiced  {order.invoiced_at.replace('T', ' ')}"
    yield f"  total     {pounds(order.total)}"
    yield f"  version   {order.version} of {now.version}"


def _goods(lines: Sequence[Line]) -> Iterator[str | Table]:
    if not lines:
        return
    table = Table(Column("Lines", NAME_WIDTH + 11), *numbers(quantity=0, price=8, total=10))
    for line in lines:
        name = f"  {line.product:<9} {line.description[:NAME_WIDTH]}"
        table.add(name, f"{line.quantity:,}", pounds(line.unit_price), pounds(line.total))
    yield ""
    yield table


def _history(past: OrderPast) -> Table:
    widths = {"History": 9, "recorded (UTC)": 19, "event": 0, "by": 12, "key": 0}
    table = Table(*[Column(heading, width) for heading, width in widths.items()])
    for event in past.history:
        meta = event.meta
        mark = ">" if meta.version == past.order.version and past.order is not past.now else " "
        version = f"{mark} {meta.version:>7}"
        table.add(version, _time(meta.time), event.name, meta.principal or "-", meta.key or "-")
    return table


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _changes(past: OrderPast) -> Iterator[str]:
    as_it_is = past.order is past.now
    yield ""
    yield (
        f"Changed by version {past.now.version}"
        if as_it_is
        else (f"Changed since version {past.order.version}")
    )
    if as_it_is and past.now.version == 1:
        yield "  it was created"
    elif not past.changes:
        yield "  nothing"
    else:
        yield from ("  " + _told(change) for change in past.changes)


def _told(change: Change) -> str:
    """Say a change in the shop's words."""
    before, after = change.before, change.after
    match change.path:
        case ("total",):
            return f"total: {pounds(before)} -> {pounds(after)}"
        case ("status" | "invoiced_at",):
            return f"{change.where}: {before or '-'} -> {after}"
        case ("buyer", str(field)):
            return f"{field.replace('_', ' ')}: {before or '-'} -> {after or '-'}"
        case ("lines", str(line), "quantity"):
            return f"quantity of {line}: {before:,} -> {after:,}"
        case ("lines", str(line)) if isinstance(after, Line) and before is ABSENT:
            return f"line {line} added: {after.quantity:,} at {pounds(after.unit_price)}"
        case _:
            return str(change)
