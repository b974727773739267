"""What earlier releases of the shop stored is read as today: a golden log, and golden samples."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from domain.model.former_events import OrderCancelledV1, order_cancelled_2
from domain.model.orders import CancelReason, Order, OrderCancelled, Status
from domain.shop import open_shop
from domain.views.queries import GetOrderById, GetPendingOrders
from engine import Engine, StoreRefused
from tests.domain.goods import ANN, MORNING, STRANGER, heart

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
LOG = "shop-1.sqlite"
"""Written by the release that had version 1 of `order-cancelled`."""
CHECK = [sys.executable, "-m", "engine", "schema", "check", "domain.shop:open_shop"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give a copy of the golden log: an engine writes to what it opens."""
    return Path(shutil.copy(GOLDEN / LOG, tmp_path / LOG))


def test_the_words_of_an_old_cancellation_become_a_note() -> None:
    old = OrderCancelledV1(ANN, MORNING, (heart(),), 510, "the customer called")

    assert order_cancelled_2(old) == OrderCancelled(
        ANN, MORNING, (heart(),), 510, CancelReason.OTHER, "the customer called"
    )


async def test_a_shop_goes_on_with_the_log_of_an_earlier_release(log: Path) -> None:
    async with open_shop(f"sqlite:{log}") as shop:
        position = shop.statistics().position
        assert position == 9
        cancelled = await shop.query(GetOrderById("900002"), at=position)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        pending = await shop.query(GetPendingOrders(), at=position)
        assert [order.order_id for order in pending] == ["900004"]

        state = await shop.state(Order, "900002")
        assert (state.status, state.buyer, state.version) == (Status.CANCELLED, STRANGER, 2)
        history = await shop.history(Order, "900002")
        last = history.events[-1]
        assert (last.name, last.event_version) == ("order-cancelled", 1)
        assert isinstance(last.event, OrderCancelled)
        assert (last.event.reason, last.event.note) == (CancelReason.OTHER, "the customer called")


async def test_without_its_upcaster_the_shop_does_not_start_and_names_it(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domain.shop.UPCASTERS", ())
    with pytest.raises(StoreRefused, match="'order-cancelled' version 1 .* no upcaster leads"):
        async with open_shop(f"sqlite:{log}"):
            pass


def test_the_gate_passes_on_the_golden_log_and_on_every_sample(log: Path) -> None:
    command = [*CHECK, "--log", str(log), "--samples", str(GOLDEN)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "everything fits" in done.stderr


def test_every_type_of_the_shop_has_a_sample() -> None:
    declared = {f"{t.name}.{t.version}.json" for t in open_shop().registry.types}

    assert {path.name for path in GOLDEN.glob("*.json")} == declared
    assert isinstance(open_shop(), Engine)
