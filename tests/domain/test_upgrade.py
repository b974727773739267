"""A shop's file of a former release, whose views had other tables: they are built anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.__main__ import main
from domain.model.former_events import UPCASTERS
from domain.model.orders import Order, OrderCreated
from domain.model.rates import Rates
from domain.model.returns import Return
from domain.views.sales import CountrySales
from engine import Engine, Projection, Table, projects, run
from tests.domain.goods import create, lantern

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


class FormerSales(Projection, name="sales", version=1):
    """Sales as they were, by country only."""

    countries: Table[CountrySales]

    @projects
    def created(self, event: OrderCreated) -> None:
        """Count an order."""
        self.countries.put(CountrySales(event.buyer.country, 1, event.total))


async def written_formerly(store: str) -> None:
    """Leave a file as the former release did."""
    async with Engine(
        [Order, Return],
        projections=[FormerSales],
        upcasters=UPCASTERS,
        resources={Rates: Rates()},
        store=store,
    ) as shop:
        receipt = await shop.execute(create("1", lantern(4)), key="1/create")
        assert receipt.position == 1


def test_the_report_waits_for_the_views_that_are_built_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:{tmp_path}/shop.db"
    run(written_formerly, store)
    path = tmp_path / "none.csv"
    path.write_text(HEADER)

    assert main([str(path), "--store", store]) == 0
    assert "        1 orders              13.56\n" in capsys.readouterr().out
