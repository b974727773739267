"""An order of hundreds of events is loaded from a snapshot, and is what its events make of it."""

from __future__ import annotations

from pathlib import Path

from domain.model.orders import Order
from domain.shop import open_shop
from engine import Envelope, Receipt
from tests.domain.goods import adjust, create, heart, lantern

EVENTS = 505


async def test_a_large_order_is_loaded_from_its_snapshot(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    commands = [
        Envelope(command=adjust("o-1", lantern(), n + 1), key=f"k-{n}") for n in range(EVENTS - 1)
    ]
    async with open_shop(store) as shop:
        await shop.execute(create("o-1", lantern(), heart()))
        answers = [answer async for answer in shop.execute_many(commands)]
        assert all(isinstance(answer, Receipt) for answer in answers)
    async with open_shop(store) as shop:
        again = await shop.execute(commands[3].command, key="k-3")
        last = await shop.execute(adjust("o-1", lantern(), 7))
        order = await shop.state(Order, "o-1")

        assert shop.statistics().aggregates.restored == 1
        assert (again.version, last.version) == (5, EVENTS + 1), "a key is known that was before it"
        assert order.lines == {line.id: line for line in (lantern(7), heart())}
        assert order.total == lantern(7).total + heart().total
