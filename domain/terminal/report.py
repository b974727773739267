"""The sales report: asks the shop and lays out its answers as lines and tables.

Rules: every figure comes from a query; what is not in any view, refused invoices and what was left
out, comes from the import that met it. The same store and file give the same text, however often
and with whatever interruptions the file was imported. Nothing is computed twice, and nothing is
printed here: whoever shows a line or a table escapes what others wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from engine import Engine
from engine.cli.tables import Column, Table, numbers

from ..importer.importer import OTHERWISE, Imported
from ..model.money import pounds
from ..views.catalogue import Product
from ..views.queries import BestSellers, GetTotals, SalesByCountry, SalesByDay, Totals
from ..views.sales import CountrySales, DaySales
from .listing import Listing

__all__ = ["Report", "ask_report", "lay_out"]

NAME_WIDTH = 36


class Report(msgspec.Struct, frozen=True):
    """What the shop says of its sales."""

    totals: Totals
    countries: Sequence[CountrySales]
    days: Sequence[DaySales]
    best_sellers: Sequence[Product]


class LeftOut(Protocol):
    """What was left out of a file."""

    @property
    def malformed(self) -> Listing:
        """Rows that cannot be read."""
        ...

    @property
    def waiting(self) -> Listing:
        """Invoices that have such rows."""
        ...


async def ask_report(engine: Engine, at: int, timeout: float) -> Report:  # noqa: ASYNC109
    """Ask for the report at a position of the log; raise ProjectionLag where a view is behind."""
    return Report(
        totals=await engine.query(GetTotals(), at=at, timeout=timeout),
        countries=await engine.query(SalesByCountry(), at=at, timeout=timeout),
        days=await engine.query(SalesByDay(), at=at, timeout=timeout),
        best_sellers=await engine.query(BestSellers(), at=at, timeout=timeout),
    )


def lay_out(report: Report, imported: Imported, invoices: LeftOut) -> Iterator[str | Table]:
    """Give the lines and tables of the report."""
    totals = report.totals
    yield "SALES REPORT"
    yield ""
    yield f"{totals.orders:>9,} orders   {pounds(totals.sales):>16}"
    yield f"{totals.returns:>9,} returns  {pounds(totals.refunds):>16}"
    yield ""
    yield _sales_table("By country", [(row.country, row) for row in report.countries])
    yield ""
    yield _sales_table("By day", [(row.day, row) for row in report.days])
    yield ""
    yield _best_sellers(report.best_sellers)
    yield from _refused(imported)
    yield from _listed(
        "Invoices of which the shop has the rows only that were not refused", imported.partly
    )
    yield from _listed("Rows left out, since they cannot be read", invoices.malformed)
    yield from _listed(
        "Invoices left out whole: mend the file and import it again", invoices.waiting
    )


def _sales_table(title: str, rows: Sequence[tuple[str, CountrySales | DaySales]]) -> Table:
    columns = numbers(orders=0, sales=14, returns=0, refunds=12)
    table = Table(Column(title, 24), *columns)
    for name, row in rows:
        orders, returns = f"{row.orders:,}", f"{row.returns:,}"
        table.add(f"  {name}", orders, pounds(row.sales), returns, pounds(row.refunds))
    return table


def _best_sellers(products: Sequence[Product]) -> Table:
    table = Table(Column("Best sellers", NAME_WIDTH + 12), *numbers(sold=7, revenue=12))
    for row in products:
        name = f"  {row.product:<9} {row.description[:NAME_WIDTH]}"
        table.add(name, f"{row.units_sold:,}", pounds(row.revenue))
    return table


def _refused(imported: Imported) -> Iterator[str]:
    by_rules = {c: f for c, f in imported.refused.items() if c not in OTHERWISE}
    yield ""
    yield f"Invoices refused by the rules: {sum(found.count for found in by_rules.values()):,}"
    yield from _by_code(by_rules)
    others = {c: f for c, f in imported.refused.items() if c in OTHERWISE}
    if others:
        count = sum(found.count for found in others.values())
        yield ""
        yield f"Invoices that the shop has with other rows, and that stay as they are: {count:,}"
        yield from _by_code(others)


def _by_code(refused: Mapping[str, Listing]) -> Iterator[str]:
    for code in sorted(refused):
        listing = refused[code]
        yield f"  {code}: {listing.count:,}"
        for start in range(0, len(listing.listed), 10):
            yield "    " + " ".join(listing.listed[start : start + 10])
        if listing.unlisted:
            yield f"    and {listing.unlisted:,} more"


def _listed(title: str, listing: Listing) -> Iterator[str]:
    if not listing.count:
        return
    yield ""
    yield f"{title}: {listing.count:,}"
    for text in listing.listed:
        yield f"  {text}"
    if listing.unlisted:
        yield f"  and {listing.unlisted:,} more"
