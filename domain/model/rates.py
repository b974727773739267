"""What a pound is worth in other currencies: what an order's quotation waits for.

Rules: an aggregate is given it (`Engine(resources={Rates: ...})`), and asks it in an async handler
only. What it said is in the event, so that nothing is asked again when the order is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from .money import Money

__all__ = ["Rates", "converted"]

ONE = 10_000
"""A rate counts ten-thousandths: 11_800 is 1.18."""
DECEMBER_2010 = {"EUR": 11_800, "USD": 15_600}


class Rates:
    """Rates out of a table; a shop of today would ask its bank in `of`."""

    def __init__(self, table: Mapping[str, int] = DECEMBER_2010) -> None:
        self._table = dict(table)

    async def of(self, currency: str) -> int | None:
        """Give how many ten-thousandths of the currency a pound is; None if nobody knows."""
        return self._table.get(currency)


def converted(amount: Money, rate: int) -> int:
    """Give an amount in hundredths of the other currency; half of one is rounded up."""
    return (amount * rate + ONE // 2) // ONE
