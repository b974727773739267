"""The sales report: asks the shop and lays out its answers as text.

Rules: every figure comes from a query; what is not in any view, refused invoices and what was left
out, comes from the import that met it. What others wrote moves no cursor and makes no line. The
same store and file give the same text, however often and with whatever interruptions the file was
imported. Nothing is computed twice and nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from engine import Engine

from ..importer.importer import OTHERWISE, Imported
from ..model.money import pounds
from ..views.catalogue import Product
from ..views.queries import BestSellers, GetTotals, SalesByCountry, SalesByDay, Totals
from ..views.sales import CountrySales, DaySales
from .listing import Listing
from .screen import plain

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


def lay_out(report: Report, imported: Imported, invoices: LeftOut) -> str:
    """Give the text of the report."""
    return "".join(f"{plain(line)}\n" for line in _lines(report, imported, invoices))


def _lines(report: Report, imported: Imported, invoices: LeftOut) -> Iterator[str]:
    totals = report.totals
    yield "SALES REPORT"
    yield ""
    yield f"{totals.orders:>9,} orders   {pounds(totals.sales):>16}"
    yield f"{totals.returns:>9,} returns  {pounds(totals.refunds):>16}"
    yield from _sales_table("By country", [(row.country, row) for row in report.countries])
    yield from _sales_table("By day", [(row.day, row) for row in report.days])
    yield from _best_sellers(report.best_sellers)
    yield from _refused(imported)
    yield from _listed(
        "Invoices of which the shop has the rows only that were not refused", imported.partly
    )
    yield from _listed("Rows left out, since they cannot be read", invoices.malformed)
    yield from _listed(
        "Invoices left out whole: mend the file and import it again", invoices.waiting
    )


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
