"""The published examples of dynamic consistency boundaries hold, also where many ask at once.

Course subscriptions are the program of the page, and invoice numbers a case of `test_boundaries`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from engine import Engine, Ports, Receipt, Rejected
from engine.testing.scenario import ManualClock
from tests.write.dcb import (
    DECISIONS,
    KINDS,
    MINUTE,
    Buy,
    ChangePrice,
    Close,
    Confirm,
    Place,
    Register,
    Rename,
    SignUp,
)


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock(1_800_000_000_000_000)


@pytest_asyncio.fixture
async def engine(clock: ManualClock, tmp_path: Path) -> AsyncIterator[Engine]:
    ports = Ports(clock=clock)
    store = f"sqlite:{tmp_path}/log.db"
    async with Engine(KINDS, decisions=DECISIONS, store=store, ports=ports) as engine:
        yield engine


async def said(engine: Engine, *commands: Any) -> Counter[str]:
    """Give how often each answer came to commands that are sent at once."""
    answers = await asyncio.gather(*map(engine.execute, commands), return_exceptions=True)
    return Counter(
        "ok" if isinstance(a, Receipt) else a.code if isinstance(a, Rejected) else repr(a)
        for a in answers
    )


async def test_a_username_is_unique_and_is_kept_for_a_while(
    engine: Engine, clock: ManualClock
) -> None:
    assert await said(engine, *[Register("ann")] * 5) == {"ok": 1, "name-taken": 4}
    assert await said(engine, Rename("ann", "anna"), Register("anna")) == {
        "ok": 1,
        "name-taken": 1,
    }
    assert await said(engine, Register("ann")) == {"name-taken": 1}, "it was given up just now"
    await engine.execute(Close("anna"))
    clock.advance(3 * 24 * 3600 - 1)
    assert await said(engine, Register("ann"), Register("anna")) == {"name-taken": 2}
    clock.advance(1)
    assert await said(engine, Register("ann"), Register("anna")) == {"ok": 2}


async def test_a_token_confirms_one_address_once_and_for_an_hour(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.execute(SignUp("ann@example.com", "111"))
    await engine.execute(SignUp("bob@example.com", "222"))
    assert await said(engine, Confirm("ann@example.com", "222")) == {"no-token": 1}
    confirming = [Confirm("ann@example.com", "111")] * 4
    assert await said(engine, *confirming) == {"ok": 1, "used": 3}
    clock.advance(60 * MINUTE / 1_000_000 + 1)
    assert await said(engine, Confirm("bob@example.com", "222")) == {"expired": 1}


async def test_a_price_that_was_shown_stands_for_ten_minutes(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.execute(ChangePrice("pen", 100))
    await engine.execute(ChangePrice("ink", 500))
    clock.advance(3600)
    await engine.execute(ChangePrice("pen", 120))
    clock.advance(600)
    old = await engine.execute(Buy("cart-1", ["pen", "ink"], [100, 500]))
    assert old.reply == 600
    clock.advance(1)
    assert await said(engine, Buy("cart-2", ["pen", "ink"], [100, 500])) == {"other-price": 1}
    assert await said(engine, Buy("cart-2", ["pen", "ink"], [120, 500])) == {"ok": 1}
    raced = await said(engine, ChangePrice("ink", 700), *[Buy("cart-3", ["ink"], [500])] * 3)
    assert raced == {"ok": 4}, "whatever came first, it stands"


async def test_a_form_makes_one_record_however_often_it_is_sent(engine: Engine) -> None:
    """With a key the same answer is given again, instead of a refusal."""
    assert await said(engine, *[Place("order-1", "form-1")] * 6) == {"ok": 1, "again": 5}
    receipts = [await engine.execute(Place("order-2", "form-2"), key="form-2") for _ in range(3)]
    assert len({*receipts}) == 1
