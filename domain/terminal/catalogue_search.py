"""Looking for products from the command line: the catalogue as it is or was, folded from the log.

Rules: the log is opened read-only, beside a shop that may be at work, and its views are not
touched. The catalogue is folded for the question, in one pass over the log, which is shown as it
goes. What it finds it lays out as a table and does not print.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from engine import Archive, PastViews
from engine.cli.tables import Column, Table, numbers

from ..model.former_events import UPCASTERS
from ..model.money import pounds
from ..views.catalogue import Catalogue, Product
from ..views.queries import SearchCatalogue, search_catalogue
from .progress import Progress

__all__ = ["lay_out_products", "search_products"]

NAME_WIDTH = 36
SHOWN_EVERY_SECONDS = 0.5


async def search_products(
    store: str, text: str, limit: int, at: datetime | None, progress: TextIO
) -> Sequence[Product]:
    """Find products by the words of a text, as of now or of a time.

    Raises EngineError where the log cannot be read, or the text cannot be searched for.
    """
    async with Archive(
        [],
        store=store,
        projections=[Catalogue],
        answers=[search_catalogue],
        upcasters=UPCASTERS,
    ) as archive:
        past = archive.past(at=at)
        showing = asyncio.create_task(_show(past, Progress("read", progress)))
        try:
            async with past:
                return await past.query(SearchCatalogue(text, limit))
        finally:
            showing.cancel()


async def _show(past: PastViews, progress: Progress) -> None:
    """Show how far the log is read, where that takes a while."""
    try:
        while True:
            await asyncio.sleep(SHOWN_EVERY_SECONDS)
            if past.end:
                progress.show(past.position, past.end)
    finally:
        progress.end()


def lay_out_products(products: Sequence[Product]) -> Sequence[str | Table]:
    """Give a table, or the line that there is none."""
    if not products:
        return ["no product has these words"]
    table = Table(Column("Products", NAME_WIDTH + 12), *numbers(price=8, sold=7, revenue=12))
    for row in products:
        name = f"  {row.product:<9} {row.description[:NAME_WIDTH]}"
        price = "-" if row.last_price is None else pounds(row.last_price)
        table.add(name, price, f"{row.units_sold:,}", pounds(row.revenue))
    return [table]
