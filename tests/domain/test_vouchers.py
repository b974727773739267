"""Vouchers: how often a code is used is told by all events about it, in whichever orders."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from domain.gate import staff_gate
from domain.model.orders import CancelOrder, Order
from domain.model.payment import (
    Bill,
    CheckOut,
    OrderCheckedOut,
    OrderPaid,
    OrderReserved,
    PayOrder,
    VoucherRedeemed,
)
from domain.model.vouchers import (
    IssueVoucher,
    RedeemVoucher,
    Voucher,
    VoucherIssued,
    issue_voucher,
    redeem_voucher,
)
from domain.shop import open_shop
from domain.web.app import create_app
from engine import Forbidden, Receipt, Rejected
from engine.testing.joint import given_all
from engine.testing.scenario import given
from tests.domain.goods import ORDER, create, created, heart, lantern

USE = RedeemVoucher("o-1", "TEN")
REDEEMED = VoucherRedeemed("TEN", 10)
OUT = OrderCheckedOut({"85123A": 1})
TEN = given(Voucher, VoucherIssued("TEN", 10, 2), aggregate_id="TEN")


@pytest.mark.parametrize(
    ("percent", "uses", "code"),
    [
        (0, 1, "percent-unsound"),
        (91, 1, "percent-unsound"),
        (10, 0, "uses-unsound"),
        (10, 1_000_001, "uses-unsound"),
    ],
)
def test_a_voucher_of_impossible_numbers_is_not_issued(percent: int, uses: int, code: str) -> None:
    fresh = given_all(given(Voucher, aggregate_id="TEN"))
    fresh.when(issue_voucher, IssueVoucher("TEN", percent, uses)).then_rejected(code)
    fresh.when(issue_voucher, IssueVoucher("TEN", 90, 1_000_000)).then(
        {"voucher:TEN": [VoucherIssued("TEN", 90, 1_000_000)]}
    )


def test_a_voucher_is_issued_once() -> None:
    again = given_all(TEN).when(issue_voucher, IssueVoucher("TEN", 20, 5))
    again.then_rejected("voucher-exists")


def test_an_order_takes_one_voucher_and_the_bill_is_less_rounded_in_favour_of_the_shop() -> None:
    order = given(Order, created(heart(1, 255)), aggregate_id="o-1")
    given_all(order, TEN).when(redeem_voucher, USE).then({"order:o-1": [REDEEMED]})

    cheaper = given(Order, created(heart(1, 255)), REDEEMED, aggregate_id="o-1")
    given_all(cheaper, TEN).when(redeem_voucher, USE).then_rejected("voucher-taken")
    cheaper.when(CheckOut("o-1")).then_reply(Bill(230, 15))
    reserved = given(Order, created(heart(1, 255)), REDEEMED, OUT, OrderReserved())
    reserved.when(PayOrder("test", "p-1", 230)).then(OrderPaid("p-1", 230))
    reserved.when(PayOrder("test", "p-1", 255)).then_rejected("amount-differs")


def test_a_voucher_is_for_an_order_that_is_there_and_not_checked_out() -> None:
    nobody = given(Order, aggregate_id="o-1")
    given_all(nobody, TEN).when(redeem_voucher, USE).then_rejected("order-unknown")
    out = given(Order, created(lantern()), OUT, aggregate_id="o-1")
    given_all(out, TEN).when(redeem_voucher, USE).then_rejected("order-checked-out")
    order = given(Order, created(lantern()), aggregate_id="o-1")
    none = given(Voucher, aggregate_id="TEN")
    given_all(order, none).when(redeem_voucher, USE).then_rejected("voucher-unknown")


@pytest.mark.parametrize("where", ["memory:", "file"])
async def test_no_more_orders_than_it_says_use_a_voucher_whoever_comes_first(
    where: str, tmp_path: Path
) -> None:
    store = where if where == "memory:" else f"sqlite:{tmp_path}/shop.db"
    async with open_shop(store) as shop:
        await shop.execute(IssueVoucher("TEN", 10, 3))
        for number in range(8):
            await shop.execute(create(f"o-{number}", heart()))
        uses = [shop.execute(RedeemVoucher(f"o-{n}", "TEN"), key=f"use-{n}") for n in range(8)]
        answers = await asyncio.gather(*uses, return_exceptions=True)
        used = [n for n, answer in enumerate(answers) if isinstance(answer, Receipt)]
        codes = Counter(a.code for a in answers if isinstance(a, Rejected))
        assert (len(used), codes) == (3, {"voucher-used-up": 5})

        late = next(n for n in range(8) if n not in used)
        # A use stays used; and who sends his again is told what he was told first.
        await shop.execute(CancelOrder(f"o-{used[0]}"))
        with pytest.raises(Rejected, match="voucher-used-up"):
            await shop.execute(RedeemVoucher(f"o-{late}", "TEN"))
        again = await shop.execute(RedeemVoucher(f"o-{used[0]}", "TEN"), key=f"use-{used[0]}")
        assert again == answers[used[0]]
        assert (await shop.state(Voucher, "TEN")).left == 0


async def test_vouchers_are_issued_by_the_staff() -> None:
    async with open_shop(authorize=staff_gate({"sam"})) as shop:
        with pytest.raises(Forbidden):
            await shop.execute(IssueVoucher("TEN", 10, 3), principal="ann")
        await shop.execute(IssueVoucher("TEN", 10, 3), principal="sam")
        await shop.execute(create("o-1", heart()), principal="ann")
        await shop.execute(USE, principal="ann")


async def test_a_client_uses_a_voucher_over_http() -> None:
    app = create_app()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        offer, key = {"percent": 50, "uses": 1}, {"Idempotency-Key": "v-1"}
        made = await client.post("/vouchers/HALF", json=offer, headers=key)
        assert made.json()["voucher"] == "HALF"
        orders = [
            (await client.post("/orders", json=ORDER, headers={"Idempotency-Key": name})).json()
            for name in ("k-1", "k-2")
        ]
        first, second = (f"/orders/{order['order_id']}" for order in orders)
        body = {"voucher": "HALF"}
        used = await client.post(f"{first}/voucher", json=body, headers={"Idempotency-Key": "u-1"})
        assert used.json()["version"] == 2
        late = await client.post(f"{second}/voucher", json=body, headers={"Idempotency-Key": "u-2"})
        bill = (await client.post(f"{first}/checkout")).json()

    assert (late.status_code, late.json()["type"].rpartition(":")[2]) == (409, "voucher-used-up")
    assert bill["total"] == 1_272
