"""Importing a file: what is sent, what is refused, what is said, and what a second time does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from domain.importer.importer import Imported, import_invoices
from domain.importer.invoices import SAMPLE, Invoices
from domain.importer.text_file import TextFile, Unreadable
from domain.shop import open_shop
from domain.terminal.listing import Listing
from domain.terminal.report import ask_report, lay_out
from domain.views.queries import (
    BestSellers,
    GetOrderById,
    GetTotals,
    SalesByCountry,
    SalesByDay,
    Totals,
)
from engine import Closed, Engine, Receipt
from tests.support.terminals import as_text


class Nothing:
    """Nothing was left out."""

    malformed = waiting = Listing()


HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def row(number: str, product: str = "A", quantity: int | str = 1, price: str = "2.50") -> str:
    return f"{number},{product},LAMP,{quantity},12/1/10 8:26,{price},17850,France\n"


@pytest.fixture
async def shop() -> AsyncIterator[Engine]:
    async with open_shop() as engine:
        yield engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "invoices.csv"


def write(path: Path, *rows: str) -> None:
    path.write_text(HEADER + "".join(rows))


async def imported(shop: Engine, path: Path, *rows: str) -> Imported:
    if rows:
        write(path, *rows)
    with TextFile(path) as file:
        return await import_invoices(shop, Invoices(file))


def refusals(result: Imported) -> dict[str, list[str]]:
    return {code: listing.listed for code, listing in result.refused.items()}


async def test_orders_and_returns_are_sent(shop: Engine, path: Path) -> None:
    result = await imported(
        shop, path, row("1"), row("1", "B"), row("1", quantity=4), row("C2", quantity=-3)
    )

    assert (result.invoices, result.commands, result.executed) == (2, 4, 4)
    order = await shop.query(GetOrderById("1"), at=result.last)
    assert order is not None
    assert (order.status, order.total) == ("shipped", 6 * 250)
    assert await shop.query(GetTotals(), at=result.last) == Totals(1, 1_500, 1, 750)


async def test_an_invoice_is_refused_once_whatever_follows(shop: Engine, path: Path) -> None:
    result = await imported(
        shop,
        path,
        row("1", quantity=-1),
        row("1", quantity=5),
        row("1", quantity=2),
        row("2"),
        row("3", price="-1"),
        row("C4", quantity=3),
    )

    assert refusals(result) == {"quantity-not-positive": ["1", "C4"], "price-negative": ["3"]}
    assert result.refused_count == 3
    assert (result.commands, result.executed, result.refused_commands) == (9, 2, 7)
    assert not result.differs, "an invoice that is refused whole is as the rules have it"
    assert await shop.query(GetTotals(), at=result.last) == Totals(1, 250, 0, 0)


async def test_a_refused_adjustment_is_told_and_the_order_stands(shop: Engine, path: Path) -> None:
    rows = (row("1", quantity=2), row("1", quantity=-5), row("1", quantity=9))
    result = await imported(shop, path, *rows)

    assert refusals(result) == {"quantity-not-positive": ["1"]}
    assert (result.partly.listed, result.differs) == (["1"], True)
    assert await shop.query(GetTotals(), at=result.last) == Totals(1, 1_500, 0, 0)

    again = await imported(shop, path)
    assert refusals(again) == refusals(result), "sent again, it meets a shipped order"
    assert again.executed == 0


async def test_a_row_of_nothing_does_not_differ_the_second_time(shop: Engine, path: Path) -> None:
    first = await imported(shop, path, row("1"), row("1", quantity=0))
    again = await imported(shop, path)

    assert first.refused == again.refused == {}
    assert (first.executed, again.executed, again.repeated) == (3, 0, 3)


async def test_of_a_file_whose_rows_of_one_invoice_stand_apart_nothing_is_sent(
    shop: Engine, path: Path
) -> None:
    with pytest.raises(Unreadable, match="rows of one invoice stand apart"):
        await imported(shop, path, row("1"), row("2"), row("1", "B"))

    assert shop.statistics().position == 0


async def test_an_invoice_with_a_row_that_cannot_be_read_comes_whole_with_the_mended_file(
    shop: Engine, path: Path
) -> None:
    whole = [row("1"), row("2"), row("2", "B"), row("2", "A", 4), row("C3", quantity=-1)]
    for bad in (1, 2, 3, 4):
        # What is left out differs from one bad row to the next; what comes in the end does not.
        broken = [*whole]
        broken[bad] = broken[bad].replace("2.50", "2,50")
        await imported(shop, path, *broken)
    mended = [await imported(shop, path, *whole) for _ in range(2)]

    assert await shop.query(GetTotals(), at=mended[1].last) == Totals(2, 250 * 7, 1, 250)
    assert [m.refused for m in mended] == [{}, {}]
    assert (mended[1].executed, mended[1].repeated) == (0, 6)


async def test_a_changed_file_is_refused_where_it_changed(shop: Engine, path: Path) -> None:
    await imported(shop, path, row("1"), row("2"))
    result = await imported(shop, path, row("1"), row("2", quantity=7), row("3"))

    assert refusals(result) == {"key-reused": ["2"]}
    assert result.differs
    assert (result.executed, result.repeated, result.refused_commands) == (2, 3, 1)


async def test_of_a_file_that_breaks_off_nothing_is_sent(shop: Engine, path: Path) -> None:
    write(path, row("1"), row("2"), row("3"), "x" * 70_000)

    with TextFile(path) as file, pytest.raises(Unreadable):
        await import_invoices(shop, Invoices(file))

    assert shop.statistics().position == 0


async def test_each_receipt_is_told_under_its_key(shop: Engine, path: Path) -> None:
    write(path, row("1"), row("2", quantity=-1), row("C3", quantity=-1))
    told: list[tuple[str, int]] = []

    def acknowledged(key: str, receipt: Receipt) -> None:
        told.append((key, receipt.position))

    with TextFile(path) as file:
        await import_invoices(shop, Invoices(file), acknowledged)

    assert told == [("1/create", 1), ("1/ship", 2), ("C3/return", 3)]


async def test_an_engine_that_stops_ends_the_import(path: Path) -> None:
    write(path, row("1"))
    async with open_shop() as shop:
        pass
    with TextFile(path) as file, pytest.raises(Closed):
        await import_invoices(shop, Invoices(file))


async def check_the_sample(shop: Engine) -> None:
    """Compare what the views say with what is in the sample."""
    end = shop.statistics().position
    totals = await shop.query(GetTotals(), at=end, timeout=60)
    countries = await shop.query(SalesByCountry(), at=end)
    days = await shop.query(SalesByDay(), at=end)
    best = await shop.query(BestSellers(), at=end, timeout=60)

    assert totals == Totals(1_051, 54_016_130, 156, 6_337_656)
    for rows in (countries, days):
        sums = [sum(values) for values in zip(*(figures(row) for row in rows), strict=True)]
        assert Totals(*sums) == totals
    assert len(countries) == 18
    assert countries[0].country == "United Kingdom"
    assert [day.day for day in days] == sorted(day.day for day in days)
    assert (days[0].day, days[-1].day) == ("2010-12-01", "2010-12-13")
    assert [row.revenue for row in best] == sorted((r.revenue for r in best), reverse=True)


async def test_the_figures_of_the_sample(shop: Engine) -> None:
    result = await imported(shop, SAMPLE)

    assert (result.invoices, result.executed, result.repeated) == (1_274, 2_970, 0)
    assert list(result.refused) == ["quantity-not-positive"]
    assert result.refused_count == 67
    await check_the_sample(shop)


def figures(row: object) -> Sequence[int]:
    return [getattr(row, name) for name in ("orders", "sales", "returns", "refunds")]


async def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/shop.db"
    texts: list[str] = []
    positions: list[int] = []
    for run in range(2):
        async with open_shop(store) as shop:
            result = await imported(shop, SAMPLE)
            report = await ask_report(shop, shop.statistics().position, timeout=60)
            await check_the_sample(shop)
            positions.append(shop.statistics().position)
        texts.append(as_text(lay_out(report, result, Nothing())))
        assert (result.executed, result.repeated) == ((2_970, 0), (0, 2_970))[run]
        assert (result.commands, result.refused_commands) == (3_104, 134)

    assert positions == [2_970, 2_970]
    assert texts[0] == texts[1]
