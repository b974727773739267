"""The gate: anybody orders, changes and asks; the staff ship, take back, look and control."""

from __future__ import annotations

from functools import partial

import httpx
import pytest

from domain.gate import staff_gate
from domain.model.orders import CancelOrder, Order, ShipOrder
from domain.model.returns import RecordReturn
from domain.shop import open_shop
from domain.views.queries import GetTotals
from domain.web.app import create_app
from engine import Forbidden
from tests.domain.goods import ANN, MORNING, ORDER, create, heart, lantern

open_gated = partial(open_shop, authorize=staff_gate({"sam"}))


@pytest.mark.parametrize("principal", [None, "ann"])
async def test_whoever_is_not_on_the_staff_orders_calls_off_and_asks(principal: str | None) -> None:
    async with open_gated() as shop:
        await shop.execute(create("o-1", heart()), principal=principal)
        done = await shop.execute(CancelOrder("o-1"), principal=principal)
        await shop.query(GetTotals(), at=done, principal=principal)
        for command in (ShipOrder("o-1"), RecordReturn("r-1", ANN, MORNING, (lantern(),))):
            with pytest.raises(Forbidden):
                await shop.execute(command, principal=principal)
        with pytest.raises(Forbidden):
            await shop.history(Order, "o-1", principal=principal)
        with pytest.raises(Forbidden):
            await shop.projections.pause("orders", principal=principal)


async def test_the_staff_may_do_everything() -> None:
    async with open_gated() as shop:
        await shop.execute(create("o-1", heart()), principal="sam")
        await shop.execute(ShipOrder("o-1"), principal="sam")
        assert len((await shop.history(Order, "o-1", principal="sam")).events) == 2
        await shop.projections.pause("orders", principal="sam")


async def test_a_gated_shop_answers_403_over_http() -> None:
    app = create_app(
        principal_of=lambda request: request.headers.get("x-user"), open_engine=open_gated
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client,
    ):
        headers = {"Idempotency-Key": "k-1", "x-user": "ann"}
        made = await client.post("/orders", json=ORDER, headers=headers)
        assert made.status_code == 201
        place = f"/orders/{made.json()['order_id']}/shipment"
        shipped = [
            await client.post(place, headers={**headers, "x-user": user, "If-Match": '"1"'})
            for user in ("ann", "sam")
        ]

    assert [answer.status_code for answer in shipped] == [403, 200]
