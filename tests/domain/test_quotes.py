"""Quotations: an async handler asks for a rate, and what that said is in the event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from domain.model.orders import Order, OrderQuoted, OrderShipped, QuoteOrder, ShipOrder
from domain.model.rates import Rates, converted
from domain.shop import open_shop
from domain.views.queries import GetOrderById
from engine.testing.scenario import given
from tests.domain.goods import create, created, heart, lantern

QUOTE = QuoteOrder("o-1", "EUR")


async def test_a_quotation_says_the_total_at_the_rate_of_now() -> None:
    resources: Mapping[type, object] = {Rates: Rates({"EUR": 11_800})}
    decision = await given(Order, created(lantern(6), heart(2))).when_async(
        QUOTE, resources=resources
    )

    decision.then(OrderQuoted("EUR", 11_800, 3_002))
    assert decision.state.total == 2_544


@pytest.mark.parametrize(("amount", "rate", "found"), [(0, 1, 0), (1, 14_999, 1), (1, 15_000, 2)])
def test_half_of_a_hundredth_is_rounded_up(amount: int, rate: int, found: int) -> None:
    assert converted(amount, rate) == found


async def test_an_unknown_currency_and_an_order_that_has_gone_are_refused() -> None:
    resources: Mapping[type, object] = {Rates: Rates()}
    unknown = await given(Order, created(heart())).when_async(
        QuoteOrder("o-1", "XXX"), resources=resources
    )
    unknown.then_rejected("currency-unknown")
    gone = given(Order, created(heart()), OrderShipped())
    (await gone.when_async(QUOTE, resources=resources)).then_rejected("order-shipped")


class SlowRates(Rates):
    """A bank that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answering = asyncio.Event(), asyncio.Event()

    async def of(self, currency: str) -> int | None:
        self.asked.set()
        await self.answering.wait()
        return await super().of(currency)


async def test_while_the_bank_is_asked_the_order_waits_and_the_others_go_on() -> None:
    rates = SlowRates()
    async with open_shop(rates=rates) as shop:
        await shop.execute(create("o-1", heart()))
        quoting = asyncio.ensure_future(shop.execute(QUOTE))
        await rates.asked.wait()
        shipping = asyncio.ensure_future(shop.execute(ShipOrder("o-1")))
        await shop.execute(create("o-2", heart()))
        assert not quoting.done()
        assert not shipping.done()
        rates.answering.set()

        assert (await quoting).version == 2
        assert (await shipping).version == 3


async def test_the_view_shows_the_version_that_a_quotation_made() -> None:
    async with open_shop() as shop:
        await shop.execute(create("o-1", heart()))
        quoted = await shop.execute(QUOTE)
        row = await shop.query(GetOrderById("o-1"), at=quoted)

        assert row is not None
        assert (row.version, row.status) == (2, "created")
        assert (await shop.execute(ShipOrder("o-1"), expected=row.version)).version == 3
