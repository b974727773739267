"""The carrier is told of what was shipped: again while it is away; what it refuses is parked."""

from __future__ import annotations

from pathlib import Path

from domain.model.orders import ShipOrder
from domain.partners.carrier import Carrier, CarrierAway
from domain.shop import open_shop
from engine import Engine
from tests.domain.goods import create, heart
from tests.support.waiting import until


class Notebook(Carrier):
    """Notes what it has to fetch, and by which key."""

    def __init__(self) -> None:
        self.fetched: dict[str, str] = {}
        self.away = 0
        """How many calls it does not answer."""
        self.refuses = ""

    async def fetch(self, order_id: str, key: str) -> None:
        if self.away:
            self.away -= 1
            raise CarrierAway
        if order_id == self.refuses:
            raise ValueError("too heavy")
        self.fetched.setdefault(key, order_id)


async def ship(shop: Engine, *order_ids: str) -> None:
    for order_id in order_ids:
        await shop.execute(create(order_id, heart()))
        await shop.execute(ShipOrder(order_id))


async def told(shop: Engine) -> None:
    """Wait until the carrier was told of all that there is."""
    end = shop.statistics().position
    await until(lambda: shop.statistics().projectors["pickups"].position == end)


async def test_each_shipped_order_is_told_once_also_over_a_restart(tmp_path: Path) -> None:
    carrier, store = Notebook(), f"sqlite:{tmp_path / 'shop.db'}"
    async with open_shop(store, carrier=carrier) as shop:
        await shop.execute(create("o-0", heart()))
        await ship(shop, "o-1")
        await told(shop)
    async with open_shop(store) as shop:
        await ship(shop, "o-2")
    async with open_shop(store, carrier=carrier) as shop:
        await ship(shop, "o-3")
        await told(shop)

    assert list(carrier.fetched.values()) == ["o-1", "o-2", "o-3"]


async def test_a_carrier_that_is_away_is_asked_again() -> None:
    carrier = Notebook()
    carrier.away = 2
    async with open_shop(carrier=carrier) as shop:
        await ship(shop, "o-1", "o-2")
        await told(shop)

    assert list(carrier.fetched.values()) == ["o-1", "o-2"]


async def test_a_parcel_that_is_refused_is_parked_and_the_others_go_on() -> None:
    carrier = Notebook()
    carrier.refuses = "o-1"
    async with open_shop(carrier=carrier) as shop:
        await ship(shop, "o-1", "o-2")
        await told(shop)
        (parked,) = await shop.projections.parked("pickups")
        assert (parked.key, list(carrier.fetched.values())) == ("order:o-1", ["o-2"])

        carrier.refuses = ""
        assert (await shop.projections.retry("pickups")).released == 1
        assert list(carrier.fetched.values()) == ["o-2", "o-1"]
