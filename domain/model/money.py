"""Money: whole pence, as an integer, so that a sum is exact in Python, in JSON and in SQL.

Rules: an amount is never a float; pounds exist only as text, at the edges. This file knows no
prices, orders or files.
"""

from __future__ import annotations

import re

__all__ = ["Money", "parse_pounds", "pounds"]

Money = int
"""An amount in pence."""

# Nine digits keep a line of a million pieces, and the sums of many lines, within 64 bits.
_POUNDS = re.compile(r"(-?)([0-9]{1,9})(?:\.([0-9]{1,2}))?")


def parse_pounds(text: str) -> Money:
    """Give the pence of "2.55", "2.5" or "2"; raise ValueError for anything else."""
    match = _POUNDS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount in pounds with at most 2 decimals")
    sign, whole, decimals = match.groups(default="")
    pence = int(whole) * 100 + int(decimals.ljust(2, "0"))
    return -pence if sign else pence


def pounds(amount: Money) -> str:
    """Give "1,234.50" for 123450."""
    whole, pence = divmod(abs(amount), 100)
    return f"{'-' if amount < 0 else ''}{whole:,}.{pence:02}"
