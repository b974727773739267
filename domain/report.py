"""The sales report: asks the shop and lays out its answers as text.

Rules: every figure comes from a query; what is not in any view, refused invoices and malformed
rows, comes from the import that met them. The same store and file give the same text, however
often and with whatever interruptions the file was imported. Nothing is computed twice and nothing
is printed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from engine import Engine, Receipt

from .catalogue import Product
from .listing import Listing
from .money import pounds
from .queries import BestSellers, GetTotals, SalesByCountry, SalesByDay, Totals
from .sales import CountrySales, DaySales

__all__ = ["Report", "ask_report", "lay_out"]

NAME_WIDTH = 36


class Report(msgspec.Struct, frozen=True):
    """What the shop says of its sales."""

    totals: Totals
    countries: Sequence[CountrySales]
    days: Sequence[DaySales]
    best_sellers: Sequence[Product]


async def ask_report(engine: Engine, at: Receipt | None, timeout: float) -> Report:  # noqa: ASYNC109
    """Ask for the report as of a receipt; raise ProjectionLag where the views are not so far."""
    return Report(
        totals=await engine.query(GetTotals(), at=at, timeout=timeout),
        countries=await engine.query(SalesByCountry(), at=at, timeout=timeout),
        days=await engine.query(SalesByDay(), at=at, timeout=timeout),
        best_sellers=await engine.query(BestSellers(), at=at, timeout=timeout),
    )


def lay_out(report: Report, refused: Mapping[str, Listing], malformed: Listing) -> str:
    """Give the text of the report."""
    return "\n".join(_lines(report, refused, malformed)) + "\n"


def _lines(report: Report, refused: Mapping[str, Listing], malformed: Listing) -> Iterator[str]:
    totals = report.totals
    yield "SALES REPORT"
    yield ""
    yield f"{totals.orders:>9,} orders   {pounds(totals.sales):>16}"
    yield f"{totals.returns:>9,} returns  {pounds(totals.refunds):>16}"
    yield from _sales_table("By country", [(row.country, row) for row in report.countries])
    yield from _sales_table("By day", [(row.day, row) for row in report.days])
    yield from _best_sellers(report.best_sellers)
    yield from _refused(refused)
    yield from _malformed(malformed)


def _sales_table(title: str, rows: Sequence[tuple[str, CountrySales | DaySales]]) -> Iterator[str]:
    yield ""
    yield f"{title:<24}{'orders':>8}{'sales':>16}{'returns':>9}{'refunds':>14}"
    for name, row in rows:
        yield (
            f"  {name:<22}{row.orders:>8,}{pounds(row.sales):>16}"
            f"{row.returns:>9,}{pounds(row.refunds):>14}"
        )


def _best_sellers(products: Sequence[Product]) -> Iterator[str]:
    yield ""
    yield f"{'Best sellers':<{NAME_WIDTH + 12}}{'sold':>9}{'revenue':>14}"
    for row in products:
        name = f"{row.product:<9} {row.description[:NAME_WIDTH]}"
        yield f"  {name:<{NAME_WIDTH + 10}}{row.units_sold:>9,}{pounds(row.revenue):>14}"


def _refused(refused: Mapping[str, Listing]) -> Iterator[str]:
    yield ""
    count = sum(listing.count for listing in refused.values())
    yield f"Invoices refused by the rules: {count:,}"
    for code in sorted(refused):
        listing = refused[code]
        yield f"  {code}: {listing.count:,}"
        for start in range(0, len(listing.listed), 10):
            yield "    " + " ".join(listing.listed[start : start + 10])
        if listing.unlisted:
            yield f"    and {listing.unlisted:,} more"


def _malformed(malformed: Listing) -> Iterator[str]:
    if not malformed.count:
        return
    yield ""
    yield f"Rows left out, since they cannot be read: {malformed.count:,}"
    for text in malformed.listed:
        yield f"  {text}"
    if malformed.unlisted:
        yield f"  and {malformed.unlisted:,} more"
